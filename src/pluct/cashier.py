"""What the business can do about money: sell packs at gateways, hear what became of it, and mend what did not fit.

A gateway's word becomes credits in one place, `_heard`: find whom it is about, build the command, submit it. Whatever
cannot be placed is kept for an operator. Nothing here decides about credits: the rules are in `payments.py`.
"""

import asyncio
import hashlib
import logging
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import cast

import msgspec

from pluct import payment_codes
from pluct.catalog import PaymentPolicy
from pluct.commands import (
    Assign,
    Command,
    Dispute,
    Note,
    Once,
    OpenCheckout,
    Progress,
    Receive,
    TakeBack,
    WriteOff,
    once,
    once_by_event,
)
from pluct.engine import Engine
from pluct.errors import (
    CheckoutNotFound,
    InvalidRequest,
    Moved,
    PaymentAlreadySettled,
    PaymentNotFound,
    PluctError,
    ReferenceConflict,
    Refusal,
    RouteNotFound,
    Unavailable,
)
from pluct.gateways import MPESA, Credited, Disputed, Failed, Gateway, Notice, Paid, Pending, Refunded
from pluct.gateways.configured import NAMES
from pluct.gateways.privacy import Privacy, phone_number
from pluct.model import Booked, CheckedOut, Checkout, CheckoutState, Noted, Outcome, Pack, Payment, PaymentEvent
from pluct.model import PaymentState as State
from pluct.money import minor_units

log = logging.getLogger("pluct.cashier")

PAGE_MAX = 200
#: Checkouts asked about in one sweep.
SWEEP_MAX = 20
#: How often a command is built anew because its payment was assigned to somebody else meanwhile.
ATTEMPTS_MAX = 3
#: How far back a gateway's list is gone through at first, and how much of it again the next time.
CATCH_UP_FIRST_MS, CATCH_UP_OVERLAP_MS = 48 * 3_600_000, 3_600_000
#: Questions to gateways that go on after an answer was sent.
AFTERWARDS_MAX = 500
#: What a pasted message is searched for, and how many of them are looked up.
_RECEIPT = re.compile(r"\b(?=[A-Z0-9]*[0-9])[A-Z][A-Z0-9]{9}\b")
RECEIPTS_MAX = 5
PHONE_CHECKOUTS_MAX = 50
#: Payments that wait for an operator are counted up to here; more are shown as "100+".
WAITING_MAX = 100
#: Users suggested for a payment, and how many of the newest requests are looked through for its receipt.
SUGGESTIONS_MAX, SUGGESTED_FROM_MAX = 5, 50
#: The gateway of events that a user's own word made.
CLAIM = "claim"


_OUTCOMES: dict[type[Command], type[Outcome]] = {Progress: CheckedOut, Note: Noted}


class Offer(msgspec.Struct, frozen=True):
    """A pack, and where it can be bought."""

    pack: Pack
    gateways: tuple[str, ...]


class Request(msgspec.Struct, frozen=True):
    """A user says that they have paid; `payment` is what their words name, as it stands now."""

    id: str
    at: int
    user_id: str
    amount: str
    reason: str
    reference: str
    payment: Payment | None

    @property
    def is_open(self) -> bool:
        """Whether somebody still has to look at it."""
        return self.payment is None or not (self.payment.settled or self.payment.state == "written_off")


def receipt(typed: str) -> str:
    """A receipt as its gateway writes it, however it was typed: M-Pesa's are in capitals, others are left alone."""
    return typed.upper() if _RECEIPT.fullmatch(typed.upper()) else typed


class Cashier:
    """The verbs of payments over an engine's store."""

    def __init__(
        self, engine: Engine, gateways: Mapping[str, Gateway], packs: tuple[Pack, ...], policy: PaymentPolicy,
        privacy: Privacy, clock: Callable[[], int], next_id: Callable[[], str],
    ) -> None:  # fmt: skip
        self._engine, self._store, self.gateways = engine, engine.store, gateways
        self._packs, self._policy, self.privacy = packs, policy, privacy
        self._clock, self._next_id = clock, next_id
        self._starting: dict[str, asyncio.Task[None]] = {}
        self._afterwards: set[asyncio.Task[None]] = set()
        self._caught_up: dict[str, int] = {}  # until when each gateway's list was gone through

    async def close(self) -> None:
        """Finish what goes on beside the requests."""
        while tasks := [*self._starting.values(), *self._afterwards]:
            await asyncio.gather(*tasks, return_exceptions=True)

    # Buying

    def offers(self) -> list[Offer]:
        """What is sold, and where."""
        return [
            Offer(
                pack,
                tuple(
                    name for name, gateway in self.gateways.items()
                    if gateway.sells and gateway.takes(pack.currency, pack.price)
                ),
            )
            for pack in self._packs
        ]  # fmt: skip

    async def buy(
        self, user_id: str, pack_id: str, gateway_name: str, phone: str | None, key: str | None
    ) -> CheckedOut:
        """Ask a gateway for the price of a pack. The same key asks once, and answers with what is known now."""
        offer = next((offer for offer in self.offers() if offer.pack.id == pack_id), None)
        if offer is None:
            raise InvalidRequest("There is no such pack; see /v1/packs.")
        if gateway_name not in offer.gateways:
            places = ", ".join(offer.gateways) or "no gateway"
            raise InvalidRequest(f"This pack cannot be bought there; it is sold by {places}.")
        gateway, pack = self.gateways[gateway_name], offer.pack
        if gateway.needs_phone and not phone:
            raise InvalidRequest(f"phone is required: {gateway_name} prompts it for the payment.")
        number = phone_number(phone) if phone and gateway.needs_phone else None
        phone_hash = None if number is None else self.privacy.phone_hash(number)
        if phone_hash is not None:
            await self._engine.limits.prompt(phone_hash.hex())
        asked = (user_id, pack_id, gateway_name, phone_hash and phone_hash.hex())  # a number could be guessed back
        claims = () if key is None else (once("checkout", user_id, key, *asked),)
        now, token, ask_after = self._clock(), secrets.token_hex(20), gateway.ask_after(0)
        checkout = Checkout(
            self._next_id(), user_id, gateway_name, pack.id, pack.currency, pack.price, pack.credits,
            payment_codes.make(secrets.randbelow(payment_codes.CODES)), _hash(token), "created", now, now,
            phone_hash=phone_hash,
            phone_mask=None if number is None else self.privacy.phone_mask(number),
            due_at=None if ask_after is None else now + 1000 * ask_after,
        )  # fmt: skip
        opened = await self._engine.submit(OpenCheckout(user_id, checkout, claims), CheckedOut, "checkout")
        id = opened.checkout_id
        if not opened.replayed:
            task = asyncio.create_task(self._start(gateway, checkout, token, number))
            self._starting[id] = task
            task.add_done_callback(lambda _: self._starting.pop(id))
        if id in self._starting:  # a twin waits for the one answer
            await asyncio.shield(self._starting[id])
        return msgspec.structs.replace(opened, checkout=await self.checkout(id))

    async def _start(self, gateway: Gateway, checkout: Checkout, token: str, number: str | None) -> None:
        """Ask the gateway, once. Whatever it does, the checkout says what is known."""
        started = await gateway.start(checkout, token, number)
        event = None
        if started.note:
            event = self._event(gateway.name, f"start:{checkout.id}", "start", b"{}", started.note)
        await self._engine.submit(
            Progress(
                checkout.user_id, checkout.id, started.state, started.message, started.reference, started.redirect_url,
                checkout.due_at if started.state == "pending" else None, 0, event,
            ),
            CheckedOut, "checkout",
        )  # fmt: skip

    async def checkout(self, checkout_id: str) -> Checkout:
        """One checkout."""
        checkout = await self._store.checkout(checkout_id)
        if checkout is None:
            raise CheckoutNotFound
        return checkout

    # Hearing

    async def receive(
        self, name: str, hook: str, token: str, headers: Mapping[bytes, bytes], body: bytes, address: str
    ) -> object:
        """Take in what a gateway sent, and answer what it expects, once all of it is stored."""
        gateway = self.gateways.get(name)
        if gateway is None or hook not in gateway.hooks:
            raise RouteNotFound
        found = await self._store.checkout_by_token(_hash(token)) if token and hook in gateway.checkout_hooks else None
        received = await gateway.receive(hook, token, headers, body, address, found)
        for notice in received.notices:
            await self.hear(gateway.name, notice)
        if received.then is not None and len(self._afterwards) < AFTERWARDS_MAX:
            then = received.then

            async def ask_then() -> None:
                try:
                    await self.hear(gateway.name, await then())
                except PluctError as error:
                    log.warning("what %s was asked afterwards was not kept: %s", name, error.sentence)

            task = asyncio.create_task(ask_then())
            self._afterwards.add(task)
            task.add_done_callback(self._afterwards.discard)
        return {"ok": True} if received.answer is None else received.answer

    async def hear(self, gateway: str, notice: Notice) -> Outcome:
        """Act on what a gateway said, once, and keep it. What the rules refuse is kept with their sentence."""
        if isinstance(notice.said, Credited):
            notice = await self._credit(gateway, notice, notice.said)
        for _ in range(ATTEMPTS_MAX):
            command = await self._command(gateway, notice)
            try:
                return await self._engine.submit(command, _OUTCOMES.get(type(command), Booked), "payment")
            except Moved:
                continue
            except Refusal as refusal:
                if isinstance(command, Note):
                    raise
                notice = msgspec.structs.replace(notice, said=None, note=f"Not acted on: {refusal.sentence}")
        raise Unavailable("The payment is being changed by others; try again shortly.")

    async def _credit(self, gateway: str, notice: Notice, said: Credited) -> Notice:
        """Grant what a back office wishes, once by its reference; then only keep the notice."""
        note = notice.note
        try:
            await self._engine.grant(
                said.user_id, said.credits, source=gateway, actor=gateway, reference=said.reference
            )
        except ReferenceConflict as refusal:
            note = f"Not acted on: {refusal.sentence}"
        except Unavailable:
            raise
        except Refusal as refusal:
            note = f"Not acted on: {refusal.sentence}"
        return msgspec.structs.replace(notice, said=None, note=note)

    async def _command(self, gateway: str, notice: Notice) -> Command:
        """What a notice asks of the ledger, for the user whom it is about as things stand."""
        said, claims = notice.said, (once_by_event(gateway, notice.key),)
        event = self._event(gateway, notice.key, notice.kind, notice.raw, notice.note)
        if isinstance(said, Paid):
            return await self._paid(notice, said, event)
        if isinstance(said, Failed | Pending):
            checkout = await self._store.checkout(said.checkout_id)
            if checkout is None or _of_another(checkout, notice):
                return Note("", event, claims)
            reference = notice.checkout_reference
            if isinstance(said, Pending):
                state, message, due_at = "pending", checkout.message, checkout.due_at
            else:
                state, message, due_at = "expired" if said.expired else "failed", said.message, None
            return Progress(
                checkout.user_id, checkout.id, cast(CheckoutState, state), message, reference, None, due_at,
                checkout.asked, event, claims,
            )  # fmt: skip
        if isinstance(said, Refunded | Disputed):
            payment = await self._store.find_payment(said.namespace, said.reference)
            user_id = "" if payment is None or payment.user_id is None else payment.user_id
            if isinstance(said, Refunded):
                return TakeBack(
                    user_id, said.namespace, said.reference, said.amount, event, self._policy.clawback, said.currency,
                    claims,
                )  # fmt: skip
            return Dispute(
                user_id, said.namespace, said.reference, said.dispute_id, said.change, said.amount, event,
                self._policy.clawback, claims,
            )  # fmt: skip
        return Note("", event, claims)

    async def _paid(self, notice: Notice, said: Paid, event: PaymentEvent) -> Command:
        """Money for a checkout, for a payment's user, or for nobody knows whom."""
        claims = (once_by_event(event.gateway, event.key),)
        checkout = await self._paid_for(said, event.gateway, notice.checkout_reference)
        if checkout is not None and _of_another(checkout, notice):
            return Note("", event, claims)
        user_id = "" if checkout is None else checkout.user_id
        if checkout is None:
            for name in (said.reference, said.link):
                known = None if name is None else await self._store.find_payment(said.namespace, name)
                if known is not None and known.user_id is not None:
                    user_id = known.user_id
        whole = said.phone is not None and "*" not in said.phone
        return Receive(
            user_id, self._next_id(), self._next_id(), event, said.namespace, said.reference, said.amount,
            said.currency, self._packs, self._policy.odd_amounts, self._policy.clawback, said.link,
            None if checkout is None else checkout.id, said.code, said.typed, said.confirmed,
            self.privacy.phone_hash(said.phone) if said.phone is not None and whole else None,
            None if said.phone is None else self.privacy.phone_mask(said.phone), said.at,
            notice.checkout_reference, claims,
        )  # fmt: skip

    async def _paid_for(self, said: Paid, gateway: str, reference: str | None) -> Checkout | None:
        if said.checkout_id is not None:
            return await self._store.checkout(said.checkout_id)
        if said.code is None and reference is not None:
            return await self._store.checkout_by_reference(gateway, reference)
        code = None if said.code is None else payment_codes.normalise(said.code)
        return None if code is None else await self._store.checkout_by_code(code)

    def _event(self, gateway: str, key: str, kind: str, raw: bytes, note: str = "") -> PaymentEvent:
        return PaymentEvent(self._next_id(), gateway, key, kind, self._clock(), raw, note)

    # Asking

    async def sweep(self) -> int:
        """Ask about checkouts of which nothing was heard. Returns how many were due."""
        due = await self._store.checkouts_due(self._clock(), SWEEP_MAX)
        for end in await asyncio.gather(*map(self._ask, due), return_exceptions=True):
            if isinstance(end, BaseException) and not isinstance(end, Refusal):
                raise end
        return len(due)

    async def _ask(self, checkout: Checkout) -> None:
        """Ask once, whichever process does it; the last time nothing is asked, and the checkout is given up."""
        gateway, now = self.gateways.get(checkout.gateway), self._clock()
        seconds = None if gateway is None else gateway.ask_after(checkout.asked)
        if gateway is None or seconds is None:
            message = "Nothing was heard of a payment. If you have paid, it will still count."
            given_up = Progress(checkout.user_id, checkout.id, "expired", message, asked=checkout.asked)
            await self._engine.submit(given_up, CheckedOut, "checkout")
            return
        asked = checkout.asked + 1
        due_at = now + 1000 * (gateway.ask_after(asked) or seconds)
        mine = once("ask", "", f"{checkout.id} {checkout.asked}")
        turn = Progress(
            checkout.user_id, checkout.id, checkout.state, checkout.message, due_at=due_at, asked=asked, claims=(mine,)
        )
        if (await self._engine.submit(turn, CheckedOut, "checkout")).replayed:
            return  # another process asks
        notice = await gateway.ask(msgspec.structs.replace(checkout, asked=asked, due_at=due_at))
        if notice is not None:
            await self.hear(gateway.name, notice)

    async def catch_up(self) -> int:
        """Go through the lists that gateways have of what was paid, for what no callback has told."""
        count, now = 0, self._clock()
        for name, gateway in self.gateways.items():
            since = self._caught_up.get(name, now - CATCH_UP_FIRST_MS)
            notices = gateway.listed(since - CATCH_UP_OVERLAP_MS)
            if notices is None:
                continue
            async for notice in notices:
                await self.hear(name, notice)
                count += 1
            self._caught_up[name] = now
        return count

    # People

    async def claim(self, user_id: str, amount: str, reason: str, reference: str, key: str | None) -> tuple[bool, bool]:
        """A user says that they have paid. Whether it is credited (otherwise it waits for an operator), and was before.

        It is credited if a receipt in their words names an unmatched payment, of that amount if one is given (as money
        is written; "" and "0": any), and its code or its phone fits a checkout of theirs.
        """
        await self._engine.limits.claim(user_id)
        found = await self._claimed(amount, f"{reference} {reason}")
        if found is not None and found.settled and found.user_id == user_id:
            return True, True
        if found is not None and found.state == "unmatched" and found.confirmed and await self._is_of(found, user_id):
            with suppress(
                PaymentAlreadySettled, InvalidRequest
            ):  # somebody was faster, or it buys nothing: people look
                await self.assign(found.id, user_id, reason, f"user:{user_id}")
                return True, False
        said = {"userId": user_id, "amount": amount, "reason": reason, "reference": reference}
        raw = self.privacy.redacted(said)
        event = self._event(CLAIM, key or self._next_id(), "request", raw, f"{user_id} asks for credits.")
        event = msgspec.structs.replace(event, payment_id=None if found is None else found.id)
        claims = () if key is None else (once("request", user_id, key, user_id, amount, reason, reference),)
        noted = await self._engine.submit(Note("", event, claims), Noted, "request")
        return False, noted.replayed

    async def requests(self, limit: int, cursor: str | None) -> tuple[list[Request], str | None]:
        """A page of what users said they had paid and what was not credited at once, newest first."""
        found = await self._store.claims(limit + 1, cursor)
        if cursor is not None and (not found or found[0].id != cursor):
            raise InvalidRequest("cursor is not one that a page of requests gave.")
        following = found[limit].id if len(found) > limit else None
        page = []
        for event in found[:limit]:
            said = msgspec.json.decode(event.raw, type=dict[str, str])
            payment = None if event.payment_id is None else await self._store.payment(event.payment_id)
            payment = payment or await self._claimed("", f"{said['reference']} {said['reason']}")
            page.append(
                Request(
                    event.id, event.at, said["userId"], said["amount"], said["reason"], said["reference"], payment
                )
            )  # fmt: skip
        return page, following

    async def _claimed(self, amount: str, words: str) -> Payment | None:
        """The payment that these words name."""
        for receipt in list(dict.fromkeys(_RECEIPT.findall(words.upper())))[:RECEIPTS_MAX]:
            payment = await self._store.find_payment(MPESA, receipt)
            if payment is None:
                continue
            if amount in ("", "0") or minor_units(amount, payment.currency) in (0, payment.amount):
                return payment
        return None

    async def _is_of(self, payment: Payment, user_id: str) -> bool:
        """Whether the payment's code or phone fits a checkout of this user's."""
        code = None if payment.code is None else payment_codes.normalise(payment.code)
        by_code = None if code is None else await self._store.checkout_by_code(code)
        if by_code is not None and by_code.user_id == user_id:
            return True
        if payment.phone_hash is None:
            return False
        of_phone = await self._store.checkouts_of_phone(payment.phone_hash, PHONE_CHECKOUTS_MAX)
        return bool(of_phone) and {checkout.user_id for checkout in of_phone} == {user_id}

    async def assign(
        self, payment_id: str, user_id: str, reason: str, actor: str, claims: tuple[Once, ...] = ()
    ) -> Booked:
        """Credit an unmatched or held payment to a user. Again for the same user: the first answer again."""
        return await self._settle(
            Assign(
                user_id, payment_id, self._next_id(), actor, reason, self._packs, self._policy.odd_amounts,
                self._policy.clawback, claims,
            )
        )  # fmt: skip

    async def write_off(self, payment_id: str, reason: str, actor: str, claims: tuple[Once, ...] = ()) -> Booked:
        """Say that an unmatched or held payment will be nobody's."""
        return await self._settle(WriteOff("", payment_id, actor, reason, claims))

    async def _settle(self, command: Assign | WriteOff) -> Booked:
        return await self._engine.submit(command, Booked, "settle")

    async def payments(
        self, state: State | None, gateway: str | None, limit: int, cursor: str | None
    ) -> tuple[list[tuple[Payment, list[PaymentEvent]]], str | None]:
        """A page of payments with what was said of each, newest first, and the cursor of the next page."""
        found, following = await self.payments_page(state, gateway, limit, cursor)
        return [(payment, await self._store.payment_events([payment.id])) for payment in found], following

    async def payments_page(
        self, state: State | None, gateway: str | None, limit: int, cursor: str | None
    ) -> tuple[list[Payment], str | None]:
        """A page of payments, newest first, and the cursor of the next page.

        A gateway that is not set up any more still has its payments, so every one that there can be is taken.
        """
        known = dict.fromkeys((*NAMES, *self.gateways))
        if gateway is not None and gateway not in known:
            raise InvalidRequest(f"gateway must be one of {', '.join(known)}.")
        # Whatever has become of the payment since: it may not be in that state any more.
        if cursor is not None and await self._store.payment(cursor) is None:
            raise InvalidRequest("cursor is not one that a page of payments gave.")
        found = await self._store.payments(state, gateway, limit + 1, cursor)
        return found[:limit], found[limit].id if len(found) > limit else None

    async def waiting(self) -> dict[str, int]:
        """How many payments wait for an operator, by state; each is counted up to `WAITING_MAX`."""
        return {
            state: len(await self._store.payments(state, None, WAITING_MAX, None))
            for state in ("unmatched", "review", "disputed")
        }

    async def count_waiting(self) -> int:
        """Tell the metrics how many wait."""
        self._engine.observer.waiting(await self.waiting())
        return 0

    async def search(self, typed: str) -> tuple[list[Checkout], list[Payment]]:
        """What somebody may mean who types a payment code, a phone number or a receipt: checkouts, and payments."""
        code, checkouts = payment_codes.normalise(typed), []
        if code is not None and (found := await self._store.checkout_by_code(code)) is not None:
            checkouts.append(found)
        payments = await self._called(typed)
        with suppress(InvalidRequest):
            phone = self.privacy.phone_hash(phone_number(typed))
            checkouts += await self._store.checkouts_of_phone(phone, PHONE_CHECKOUTS_MAX)
            payments += await self._store.payments_of_phone(phone, PHONE_CHECKOUTS_MAX)
        for mask in self.privacy.masks(typed):
            checkouts += await self._store.checkouts_of_mask(mask, PHONE_CHECKOUTS_MAX)
            payments += await self._store.payments_of_mask(mask, PHONE_CHECKOUTS_MAX)
        return checkouts, payments

    async def _called(self, name: str) -> list[Payment]:
        """The payments that have this receipt, or this other name, at any gateway."""
        found: list[Payment] = []
        for namespace in dict.fromkeys((MPESA, *self.gateways)):
            for reference in dict.fromkeys((name, name.upper())):
                payment = await self._store.find_payment(namespace, reference)
                if payment is not None and payment not in found:
                    found.append(payment)
        return found

    async def named(self, name: str) -> Payment:
        """The payment with this id, or the one that has this receipt. Raises `PaymentNotFound`."""
        payment = await self._store.payment(name)
        found = [payment] if payment is not None else await self._called(name)
        if not found:
            raise PaymentNotFound
        if len(found) > 1:
            ids = ", ".join(f"{each.id} ({each.gateway})" for each in found)
            raise InvalidRequest(f"Several payments are called so; name one by its id: {ids}.")
        return found[0]

    async def of_user(self, user_id: str, limit: int) -> tuple[list[Checkout], list[Payment]]:
        """What a user wanted to buy, and what came in for them, newest first."""
        return await self._store.checkouts_of(user_id, limit), await self._store.payments_of(user_id, limit)

    async def suggestions(self, payment: Payment) -> dict[str, str]:
        """Whose a payment of nobody known may be, and why it looks so; the likeliest first."""
        found: dict[str, str] = {}
        asked, _ = await self.requests(SUGGESTED_FROM_MAX, None)
        for request in asked:
            if request.payment is not None and request.payment.id == payment.id:
                found.setdefault(request.user_id, "sent this receipt")
        if payment.phone_hash is not None:
            for checkout in await self._store.checkouts_of_phone(payment.phone_hash, PHONE_CHECKOUTS_MAX):
                found.setdefault(checkout.user_id, "has bought with this phone")
            for other in await self._store.payments_of_phone(payment.phone_hash, PHONE_CHECKOUTS_MAX):
                if other.user_id is not None:
                    found.setdefault(other.user_id, "was paid for from this phone")
        return dict(list(found.items())[:SUGGESTIONS_MAX])

    async def find_payments(self, namespace: str, references: Sequence[str]) -> list[Payment]:
        """The payments with these references."""
        return await self._store.find_payments(namespace, references)

    async def payments_at(self, namespace: str, since: int, until: int, after: str, limit: int) -> list[Payment]:
        """Payments whose money came in that time, by id, from the one after `after` on."""
        return await self._store.payments_at(namespace, since, until, after, limit)

    def shown_code(self, typed: str) -> str:
        """What somebody typed as an account, without a phone number in it."""
        shown: str = msgspec.json.decode(self.privacy.redacted(typed))
        return shown

    async def payment(self, payment_id: str) -> tuple[Payment, list[PaymentEvent]]:
        """One payment with what was said of it."""
        payment = await self._store.payment(payment_id)
        if payment is None:
            raise PaymentNotFound
        return payment, await self._store.payment_events([payment_id])


def _of_another(checkout: Checkout, notice: Notice) -> bool:
    """Whether the notice is about another request to the gateway than the checkout's."""
    said = notice.checkout_reference
    return said is not None and checkout.gateway_reference not in (None, said)


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
