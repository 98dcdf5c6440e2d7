"""A ledger busy with payments, and the commands that make one: for tests of stores, checks and copies."""

from itertools import count
from typing import Any

from msgspec.structs import replace

from busy import Place
from conftest import Clock, fund, new_id, opened, vend
from pluct.commands import (
    Assign,
    Command,
    Dispute,
    OpenCheckout,
    Progress,
    Receive,
    TakeBack,
    WriteOff,
    once_by_event,
    once_by_reference,
)
from pluct.errors import Refusal
from pluct.model import CheckedOut, Checkout, Pack, PaymentEvent
from pluct.stores import Store

PACKS = (Pack("starter", "10 credits", "KES", 10_000, 10), Pack("big", "60 credits", "KES", 50_000, 60))
numbers = count(1)


def event(kind: str = "told", key: str | None = None) -> PaymentEvent:
    return PaymentEvent(new_id(), "daraja", key or f"k{next(numbers)}", kind, 1_800_000_000_000, b'{"a":1}')


def checkout(user: str = "amina", code: str | None = None, at: int = 1_800_000_000_000, **more: Any) -> Checkout:
    code = code or f"CODE{next(numbers)}"
    return Checkout(
        new_id(), user, "daraja", "starter", "KES", 10_000, 10, code, code.encode(), "created", at, at, **more
    )


def receive(
    reference: str | None = "R1", amount: int | None = 10_000, user: str = "", of: Checkout | None = None, **more: Any
) -> Receive:
    """Money told of: of a checkout, of a user, or of nobody known."""
    told = event()
    return Receive(
        user if of is None else of.user_id, new_id(), new_id(), told, "mpesa", reference, amount, "KES", PACKS,
        "packs", "debt", checkout_id=None if of is None else of.id,
        **{"claims": (once_by_event("daraja", told.key),)} | more,
    )  # fmt: skip


def take_back(user: str, refunded: int | None = None, reference: str = "R1") -> TakeBack:
    return TakeBack(user, "mpesa", reference, refunded, event("reversal"), "debt")


def dispute(user: str, change: Any, reference: str = "R1") -> Dispute:
    return Dispute(user, "mpesa", reference, "d1", change, None, event("dispute"), "debt")


def assign(user: str, payment: str, **more: Any) -> Assign:
    return Assign(user, payment, new_id(), "ops", "looked at it", PACKS, "packs", "debt", **more)


async def done(store: Store, command: Command) -> Any:
    outcome = await store.submit(command)
    assert not isinstance(outcome, Refusal), outcome
    return outcome


async def begun(store: Store, of: Checkout) -> Checkout:
    assert await done(store, OpenCheckout(of.user_id, of)) == CheckedOut(of.id, of)
    return of


def told(reference: str, amount: int, odd: Any = "packs", policy: Any = "debt", **more: Any) -> Receive:
    return replace(receive(reference, amount, "amina", typed=True), odd_amounts=odd, clawback=policy, **more)


async def busy_with_payments(place: Place) -> None:
    """Every state of a payment, each way to price one, all three policies, and users with and without entries."""
    async with opened(place, Clock()) as store:
        of = await begun(store, checkout())
        await done(store, Progress("amina", of.id, "failed", "wrong PIN", event=event()))
        await done(store, receive("R1", of=of))
        await done(store, told("R2", 123_456))
        await done(store, told("R3", 25_000, "pro_rata"))
        await done(store, fund("amina", 12, claims=(once_by_reference("R4", "amina", 12),), reference="R4"))
        await done(store, told("R4", 10_000))
        await done(store, take_back("amina", 4_000, "R2"))
        await done(store, take_back("amina", None, "R3"))
        for change in ("opened", "funds_withdrawn", "funds_reinstated"):
            await done(store, Dispute("amina", "mpesa", "R1", "d1", change, None, event(), "debt"))
        await done(store, receive("R5"))
        await done(store, take_back("", 1_000, "R6"))
        wrong = await begun(store, checkout("brian"))
        await done(store, receive("R7", 20_000, of=wrong))
        await done(store, receive("R8", user="chipo"))
        await done(store, vend("chipo", 7))
        await done(store, replace(take_back("chipo", None, "R8"), clawback="freeze"))
        await done(store, fund("chipo", 2))
        double = await begun(store, checkout("dalia"))
        given = (await done(store, receive("R9"))).payment_id
        await done(store, assign("dalia", given))
        await done(store, receive(None, None, of=double))
        await done(store, receive("R9", of=double))
        await done(store, WriteOff("", (await done(store, receive("R13"))).payment_id, "ops", "nobody's"))
        await done(store, receive("R10", 500, "esther", typed=True))
        for reference in ("R11", "R12"):
            await done(store, receive(reference, user="fatma"))
            await done(store, vend("fatma", 6))
            await done(store, replace(take_back("fatma", None, reference), clawback="floor"))
