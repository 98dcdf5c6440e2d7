"""Payments in every store: what is kept comes back as it was, and whoever tells of a receipt, it mints once."""

import asyncio
import multiprocessing
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from busy_payments import assign, begun, checkout, dispute, done, event, receive, take_back
from conftest import ENGINES, Clock, fund, opened, vend
from pluct.commands import (
    Command,
    Note,
    OpenCheckout,
    Progress,
    WriteOff,
    once,
    once_by_event,
    once_by_reference,
)
from pluct.errors import Moved, PaymentAlreadySettled, PaymentNotFound, ReferenceConflict, WalletFrozen
from pluct.model import Booked, CheckedOut, Checkout, Granted, Noted, Payment, Wallet
from pluct.stores import Store
from postgres import fresh_database
from test_stores import Ground, ground, sound

__all__ = ["ground"]

pytestmark = pytest.mark.anyio


async def has(store: Store, user: str = "amina") -> tuple[int, int]:
    wallet = await store.wallet(user) or Wallet(user)
    return wallet.available, wallet.debt


# What is kept


async def test_a_checkout_comes_back_as_it_was(ground: Ground) -> None:
    """Every detail of it, by its id, its code, its token, the gateway's id of it and its phone."""
    full = checkout(
        message="look at your phone", gateway_reference="ws_1", redirect_url="https://pay", phone_hash=b"\x00h",
        phone_mask="2547*****678", due_at=5, asked=3,
    )  # fmt: skip
    async with ground.open() as store:
        await begun(store, full)
        bare = await begun(store, checkout("brian", phone_hash=b"other"))
        newer = await begun(store, checkout(phone_hash=b"\x00h"))
    async with ground.open() as store:
        for found in (
            await store.checkout(full.id),
            await store.checkout_by_code(full.payment_code),
            await store.checkout_by_token(full.token_hash),
            await store.checkout_by_reference("daraja", "ws_1"),
        ):
            assert found == full
        assert await store.checkout(bare.id) == bare
        assert await store.checkouts_of_phone(b"\x00h", 5) == [newer, full]
        assert await store.checkouts_of_phone(b"\x00h", 1) == [newer]
        assert await store.checkout("none") is await store.checkout_by_code("none") is None
        assert await store.checkout_by_token(b"none") is await store.checkout_by_reference("stripe", "ws_1") is None
        assert await sound(store)


async def test_a_checkout_goes_on(ground: Ground) -> None:
    """Asked about when it is due, the longest due first, until it is paid."""
    async with ground.open() as store:
        first, second = await begun(store, checkout()), await begun(store, checkout("brian"))
        for of, due_at in ((first, 200), (second, 100)):
            going = await done(store, Progress(of.user_id, of.id, "pending", "look", "ws", due_at=due_at, asked=1))
            assert going.checkout == await store.checkout(of.id)
        assert await store.checkouts_due(99, 10) == []
        assert [due.id for due in await store.checkouts_due(200, 10)] == [second.id, first.id]
        assert [due.id for due in await store.checkouts_due(200, 1)] == [second.id]
        await done(store, receive("R1", of=second))
        assert [due.id for due in await store.checkouts_due(200, 10)] == [first.id]
        paid = await store.checkout(second.id)
        assert paid is not None and (paid.state, paid.due_at) == ("paid", None)
        assert await sound(store)


async def test_a_payment_comes_back_as_it_was(ground: Ground) -> None:
    """Every detail of it, by its id, its reference and its link; and its events, those of its checkout too."""
    async with ground.open() as store:
        of = await begun(store, checkout())
        failed = Progress("amina", of.id, "failed", "wrong PIN", event=event("stk"))
        await done(store, failed)
        told = receive("R1", of=of, link="L1", code="typed", typed=True, phone_hash=b"\x01", phone_mask="2547*", at=7)
        booked = await done(store, told)
        back = take_back("amina", 4_000)
        await done(store, back)
        await done(store, dispute("amina", "opened"))
    async with ground.open() as store:
        payment = await store.payment(booked.payment_id)
        assert payment is not None
        assert payment == await store.find_payment("mpesa", "R1") == await store.find_payment("mpesa", "L1")
        assert (payment.minted, payment.clawed, payment.refunded, payment.state) == (10, 4, 4_000, "disputed")
        assert (payment.code, payment.phone_hash, payment.phone_mask, payment.at) == ("typed", b"\x01", "2547*", 7)
        assert [case.stage for case in payment.disputes] == ["open"] and payment.confirmed is True
        assert [(line.pack_id, line.count) for line in payment.priced] == [("starter", 1)]
        kept = await store.payment_events([payment.id])
        assert [(each.kind, each.payment_id) for each in kept] == [
            ("stk", None), ("told", payment.id), ("reversal", payment.id), ("dispute", payment.id),
        ]  # fmt: skip
        assert kept[1] == replace(told.event, payment_id=payment.id, checkout_id=of.id)
        assert await store.payment("none") is await store.find_payment("stripe", "R1") is None
        assert await store.payment_events(["none"]) == []
        assert await sound(store)


async def test_payments_are_listed_page_by_page(ground: Ground) -> None:
    """Newest first, of a state, of a gateway, or all."""
    async with ground.open() as store:
        made: list[Payment] = []
        for number in range(6):
            command = receive(f"R{number}", user="amina" if number % 2 else "")
            told = replace(command.event, gateway="stripe" if number > 3 else "daraja")
            made.insert(0, (await done(store, replace(command, event=told))).payment)
        assert await store.payments(None, None, 10, None) == made
        assert await store.payments(None, None, 2, made[3].id) == made[3:5]
        assert await store.payments("unmatched", None, 10, None) == made[1::2]
        assert await store.payments("paid", "daraja", 10, None) == [made[2], made[4]]
        assert await store.payments(None, "stripe", 1, made[1].id) == [made[1]]
        assert await store.payments("refunded", None, 10, None) == []


async def test_a_wallet_keeps_its_standing(ground: Ground) -> None:
    """Frozen, with money left over, and with no entry yet: it comes back so, and vends nothing."""
    async with ground.open() as store:
        await done(store, receive("R1", 9_000, "amina", typed=True))
        await done(store, dispute("amina", "opened"))
    async with ground.open() as store:
        wallet = await store.wallet("amina")
        assert wallet == Wallet(
            "amina", updated_at=ground.clock(), frozen=("d1",), remainders=(("KES", 9_000),)
        )  # fmt: skip
        assert await store.entries("amina", 10, None) == []
        assert await sound(store)
        await done(store, fund("amina", 5))
        assert isinstance(await store.submit(vend("amina")), WalletFrozen)
        await done(store, dispute("amina", "closed"))
        await done(store, vend("amina"))
        assert (await done(store, receive("R2", 1_000, "amina", typed=True))).minted == 10
        wallet = await store.wallet("amina")
        assert wallet is not None and (wallet.frozen, wallet.remainders) == ((), ())
        assert await has(store) == (14, 0) and await sound(store)


async def test_every_command_is_remembered(ground: Ground) -> None:
    """Sent again with its key to a store opened anew it answers the same, with the rows as they stand."""
    async with ground.open() as store:
        of = checkout()
        unmatched = (await done(store, receive("R8"))).payment
        worthless = (await done(store, receive("R9"))).payment
        key = once("pay", "u", "k", 1)
        commands: list[Any] = [
            OpenCheckout("amina", of, (once("checkout", "amina", "k", "starter"),)),
            Progress("amina", of.id, "failed", "x", claims=(once_by_event("daraja", "failed"),)),
            receive("R1", of=of),
            receive(None, None, of=of),
            replace(take_back("amina", 1_000), claims=(once_by_event("daraja", "back"),)),
            replace(dispute("amina", "opened"), claims=(once_by_event("daraja", "dispute"),)),
            assign("amina", unmatched.id, claims=(key,)),
            WriteOff("", worthless.id, "ops", "x", (once("write-off", "u", "k", 1),)),
            Note("", event(), (once_by_event("daraja", "note"),)),
        ]
        first = [await done(store, command) for command in commands]
        wallet = await store.wallet("amina")
    async with ground.open() as store:
        for command, outcome in zip(commands, first, strict=True):
            again = await done(store, command)
            match outcome:
                case CheckedOut():
                    assert again == CheckedOut(of.id, await store.checkout(of.id), True)
                case Booked(payment_id=str(payment_id)):
                    now = await store.payment(payment_id)
                    assert now is not None and again == replace(outcome, payment=now, replayed=True)
                case Booked() | Noted():
                    assert again == replace(outcome, replayed=True)
        assert await store.wallet("amina") == wallet and await sound(store)


async def test_refusals_change_nothing(ground: Ground) -> None:
    """A payment of somebody else's, one that is settled, one that is not there."""
    async with ground.open() as store:
        payment = (await done(store, receive("R1", user="amina"))).payment
        assert isinstance(await store.submit(take_back("")), Moved)
        assert isinstance(await store.submit(assign("brian", payment.id)), PaymentAlreadySettled)
        assert isinstance(await store.submit(assign("brian", "none")), PaymentNotFound)
        assert isinstance(
            await store.submit(fund("brian", 10, claims=(once_by_reference("R1", "brian", 10),))), ReferenceConflict
        )
        assert await store.payment(payment.id) == payment and await store.wallet("brian") is None
        assert len(await store.payment_events([payment.id])) == 1 and await sound(store)


async def test_two_rows_become_one(ground: Ground) -> None:
    """The receipt goes from the one to the other in one batch, in which the first may be new."""
    async with ground.open() as store:
        of, late = await begun(store, checkout()), await begun(store, checkout())
        await done(store, receive("R1"))
        await done(store, take_back("", reference="R2"))
        await done(store, receive(None, None, of=of))
        joined = await done(store, receive("R1", of=of))
        batch = [receive(None, None, of=late), receive("R3"), receive("R2", of=late), receive("R4", of=late)]
        outcomes: list[Any] = await asyncio.gather(*(store.submit(command) for command in batch))
        assert [outcome.minted for outcome in (joined, *outcomes)] == [0, 10, 0, 0, 10]
        assert outcomes[2].clawed == 10
        states = Counter(payment.state for payment in await store.payments(None, None, 20, None))
        assert states == {"paid": 2, "refunded": 1, "failed": 2, "unmatched": 1}
        assert await has(store) == (20, 0) and await sound(store)


# Many at once


def routes(of: Checkout, reference: str) -> list[Command]:
    """One payment as the prompt's callback, as a person's, as a query's, as nobody's; the first two twice."""
    return [
        receive(reference, of=of), receive(reference, of=of, code=of.payment_code, typed=True),
        receive(None, None, of=of), receive(reference), receive(reference, of=of),
        receive(reference, of=of, code=of.payment_code, typed=True),
    ]  # fmt: skip


async def settled(store: Store, command: Command) -> Any:
    """The outcome, once it is not that somebody else was faster with the payment's user."""
    for _ in range(20):
        outcome = await store.submit(command)
        if not isinstance(outcome, Moved):
            return outcome
        payment = await store.find_payment("mpesa", getattr(command, "reference", None) or "")
        command = replace(command, user_id="" if payment is None else payment.user_id or "")
    raise AssertionError("the payment has a user by now")


async def test_a_receipt_by_all_routes_at_once_mints_once(ground: Ground) -> None:
    """Over two stores, for users without a wallet yet: one mint, one payment under the receipt, all checkouts paid."""
    async with ground.open() as store, ground.open(serving=False) as other:
        for turn in range(8):
            of = await begun(store, checkout(f"user {turn}"))
            told = routes(of, f"R{turn}")
            shifted = told[turn % 6 :] + told[: turn % 6]
            outcomes: list[Any] = await asyncio.gather(
                *(settled((store, other)[number % 2], command) for number, command in enumerate(shifted))
            )
            assert sum(outcome.minted - outcome.clawed for outcome in outcomes) == 10, outcomes
            assert await has(store, of.user_id) == (10, 0)
            payment = await other.find_payment("mpesa", f"R{turn}")
            assert payment is not None and (payment.state, payment.user_id) == ("paid", of.user_id)
            now = await store.checkout(of.id)
            assert now is not None and now.state == "paid"
        assert await sound(store)


async def test_one_event_twice_at_once_is_acted_on_once(ground: Ground) -> None:
    """Money for nobody, so that no wallet keeps the two apart: the payment and its event are there once."""
    async with ground.open() as store, ground.open(serving=False) as other:
        for turn in range(8):
            twins = [receive(f"R{turn}", claims=(once_by_event("daraja", f"e{turn}"),)) for _ in range(8)]
            outcomes: list[Any] = await asyncio.gather(
                *((store, other)[number % 2].submit(command) for number, command in enumerate(twins))
            )
            assert sorted(outcome.replayed for outcome in outcomes) == [False] + [True] * 7
            assert len({outcome.payment_id for outcome in outcomes}) == 1
            assert len(await store.payment_events([outcomes[0].payment_id])) == 1
        assert len(await store.payments(None, None, 20, None)) == 8


async def test_an_assignment_and_a_callback_at_once_mint_once(ground: Ground) -> None:
    """Whoever is first; to two users at once it is one of them."""
    async with ground.open() as store, ground.open(serving=False) as other:
        for turn in range(8):
            of = await begun(store, checkout(f"user {turn}"))
            payment = (await done(store, receive(f"R{turn}"))).payment
            commands = [
                receive(f"R{turn}", of=of), assign(of.user_id, payment.id), assign(f"other {turn}", payment.id)
            ]  # fmt: skip
            outcomes: list[Any] = await asyncio.gather(
                *((store, other)[(number + turn) % 2].submit(command) for number, command in enumerate(commands))
            )
            minted = [outcome.minted for outcome in outcomes if isinstance(outcome, Booked) and not outcome.replayed]
            assert sum(minted) == 10, outcomes
            balances = [(await has(store, user))[0] for user in (of.user_id, f"other {turn}")]
            assert sorted(balances) == [0, 10]
        assert await sound(store)


async def test_refunds_at_once_take_back_what_was_minted(ground: Ground) -> None:
    """In parts, all of it, by receipt and by link, beside vends: never more than once."""
    async with ground.open() as store, ground.open(serving=False) as other:
        await done(store, receive("R1", user="amina", link="L1"))
        await done(store, fund("amina", 30))
        commands: list[Any] = [take_back("amina", part * 1_000, "RL"[part % 2] + "1") for part in range(1, 11)]
        commands += [take_back("amina") for _ in range(5)] + [
            dispute("amina", change) for change in ("opened", "funds_withdrawn")
        ]
        commands += [vend("amina") for _ in range(10)]
        outcomes: list[Any] = await asyncio.gather(
            *((store, other)[number % 2].submit(command) for number, command in enumerate(commands))
        )
        assert sum(outcome.clawed for outcome in outcomes if isinstance(outcome, Booked)) == 10
        vended = sum(not isinstance(outcome, Booked | WalletFrozen) for outcome in outcomes)
        assert await has(store) == (30 - vended, 0) and await sound(store)


async def test_a_poisonous_event_harms_no_neighbour(ground: Ground) -> None:
    """What cannot be recorded fails alone, and its key is free."""
    bad = receive("R1", user="amina", code="\ud800", typed=True)
    async with ground.open() as store:
        outcomes: list[Any] = await asyncio.gather(
            store.submit(bad), store.submit(receive("R2", user="amina")), return_exceptions=True
        )
        assert [type(outcome).__name__ for outcome in outcomes] == ["Fault", "Booked"]
        assert (await done(store, replace(bad, code="ok"))).minted == 10
        assert await has(store) == (20, 0) and await sound(store)


def submit_all(place: Path | str, clock: Clock, commands: list[Command]) -> list[Any]:
    """In a process of its own: all at once."""

    async def run() -> list[Any]:
        async with opened(place, clock, serving=False) as store:
            return await asyncio.gather(*(settled(store, command) for command in commands))

    return asyncio.run(run())


@pytest.mark.parametrize("engine", ENGINES)
async def test_two_processes_mint_a_receipt_once(
    engine: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:  # fmt: skip
    """The prompts' callbacks come to one of them, what was typed and what nobody knows to the other."""
    clock = Clock()
    place: Path | str = tmp_path / "pluct.db"
    if engine != "sqlite":
        place = await asyncio.to_thread(fresh_database, request.getfixturevalue("server_url")(engine))
    async with opened(place, clock) as store:
        checkouts = [await begun(store, checkout(f"user {number % 10}")) for number in range(40)]
        told = [routes(of, f"R{number}") for number, of in enumerate(checkouts)]
        with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
            halves = [[command for each in told for command in each[half::2]] for half in (0, 1)]
            loop = asyncio.get_running_loop()
            both = [loop.run_in_executor(pool, submit_all, place, clock, half) for half in halves]
            outcomes = [outcome for half in await asyncio.gather(*both) for outcome in half]
        assert sum(outcome.minted - outcome.clawed for outcome in outcomes) == 400
        assert [await has(store, f"user {number}") for number in range(10)] == [(40, 0)] * 10
        paid = await store.payments("paid", None, 100, None)
        assert sorted(payment.reference or "" for payment in paid) == sorted(f"R{number}" for number in range(40))
        granted = await store.submit(fund("user 1", 10, claims=(once_by_reference("R1", "user 1", 10),)))
        assert isinstance(granted, Granted) and granted.replayed
        assert await sound(store)
