"""Buying packs, and what people do about payments: decode, ask the cashier, answer."""

from typing import Annotated, Any, get_args

import msgspec
from msgspec import Meta

from pluct.cashier import PAGE_MAX, Cashier, Request
from pluct.commands import text
from pluct.engine import Engine
from pluct.errors import CheckoutNotFound, InvalidRequest
from pluct.model import Booked, Checkout, Payment, PaymentEvent, PaymentState
from pluct.money import decimal_text, minor_units
from pluct.web import access
from pluct.web.endpoint import Answer, Call
from pluct.web.v1 import rfc3339

STATES: tuple[str, ...] = get_args(PaymentState)
PHONE_LENGTH_MAX = 40


class CheckoutBody(msgspec.Struct, rename="camel", kw_only=True):
    """Which pack to buy, and where; `phone` where a gateway prompts one."""

    pack: str
    gateway: str
    user_id: str | None = None
    phone: str | None = None
    client_request_id: str | None = None


class RequestBody(msgspec.Struct, rename="camel", kw_only=True):
    """A user says that they have paid: `reference` is a receipt or the message that came with it, `amount` money."""

    reference: str
    reason: str
    amount: int | str | None = None
    user_id: str | None = None
    client_request_id: str | None = None


class AssignBody(msgspec.Struct, rename="camel", kw_only=True):
    """Whose a payment is, and how one knows."""

    user_id: str
    reason: str
    client_request_id: str | None = None  # a decision can be repeated without one, too


class WriteOffBody(msgspec.Struct, rename="camel", kw_only=True):
    """Why a payment will be nobody's."""

    reason: str
    client_request_id: str | None = None


class PaymentsQuery(msgspec.Struct):
    """Which payments: of a state, of a gateway; at most `limit`, from `cursor` on."""

    state: str | None = None
    gateway: str | None = None
    limit: Annotated[int, Meta(ge=1, le=PAGE_MAX)] = 50
    cursor: str | None = None


class PackAnswer(msgspec.Struct, rename="camel"):
    """Credits at a price, and the gateways where they are sold."""

    id: str
    name: str
    currency: str
    price: str
    credits: int
    gateways: list[str]


class PacksAnswer(msgspec.Struct, rename="camel"):
    """What is sold."""

    packs: list[PackAnswer]
    request_id: str


class CheckoutAnswer(msgspec.Struct, rename="camel", omit_defaults=True, kw_only=True):
    """A checkout as it stands. `message` is for the user; `redirectUrl` is where they pay, if not on their phone."""

    checkout_id: str
    state: str
    gateway: str
    pack: str
    currency: str
    price: str
    credits: int
    payment_code: str
    message: str
    request_id: str
    redirect_url: str | None = None


class RequestAnswer(msgspec.Struct, rename="camel", kw_only=True):
    """Whether it was credited, or waits for an operator."""

    ok: bool = True
    request_id: str
    state: str


class RequestsQuery(msgspec.Struct):
    """Which page: at most `limit`, from `cursor` on."""

    limit: Annotated[int, Meta(ge=1, le=PAGE_MAX)] = 50
    cursor: str | None = None


class RequestedAnswer(msgspec.Struct, rename="camel", omit_defaults=True, kw_only=True):
    """What a user said they had paid. `state` is `open`, or `settled` once the payment it names is."""

    id: str
    at: str
    user_id: str
    amount: str
    reason: str
    reference: str
    state: str
    payment_id: str | None = None


class RequestsAnswer(msgspec.Struct, rename="camel", omit_defaults=True, kw_only=True):
    """A page of them, newest first; `nextCursor` asks for the next."""

    requests: list[RequestedAnswer]
    request_id: str
    next_cursor: str | None = None


class EventAnswer(msgspec.Struct, rename="camel", omit_defaults=True, kw_only=True):
    """Something that was said of a payment; `body` is the gateway's own, without people in it."""

    id: str
    at: str
    gateway: str
    kind: str
    note: str
    body: Any


class PaymentAnswer(msgspec.Struct, rename="camel", omit_defaults=True, kw_only=True):
    """A payment with what was said of it. `note` says why it is where it is; `reference` is null until it is known."""

    id: str
    gateway: str
    state: str
    amount: str
    currency: str
    credits: int
    at: str
    events: list[EventAnswer]
    note: str
    reference: str | None
    user_id: str | None = None
    checkout_id: str | None = None
    code: str | None = None
    phone: str | None = None
    refunded: str | None = None
    taken_back: int | None = None
    lost: int | None = None
    request_id: str | None = None


class PaymentsAnswer(msgspec.Struct, rename="camel", omit_defaults=True, kw_only=True):
    """A page of payments, newest first; `nextCursor` asks for the next."""

    payments: list[PaymentAnswer]
    request_id: str
    next_cursor: str | None = None


class Payments:
    """The handlers, over a cashier."""

    def __init__(self, cashier: Cashier) -> None:
        self._cashier = cashier

    async def packs(self, engine: Engine, call: Call) -> Answer:
        """What is sold, and where."""
        packs = [
            PackAnswer(
                offer.pack.id, offer.pack.name, offer.pack.currency,
                decimal_text(offer.pack.price, offer.pack.currency), offer.pack.credits, list(offer.gateways),
            )
            for offer in self._cashier.offers()
        ]  # fmt: skip
        return Answer(PacksAnswer(packs, call.request_id))

    async def buy(self, engine: Engine, call: Call) -> Answer:
        """Begin to buy a pack: the phone is prompted, or there is an address to pay at."""
        body: CheckoutBody = call.body
        user = access.user_id(call, body.user_id)
        pack, gateway = text(body.pack, "pack"), text(body.gateway, "gateway")
        phone = None if body.phone is None else text(body.phone, "phone")
        if phone is not None and len(phone) > PHONE_LENGTH_MAX:
            raise InvalidRequest("phone must be a phone number.")
        key = access.idempotency_key(call, body.client_request_id)
        opened = await self._cashier.buy(user, pack, gateway, phone, key)
        assert opened.checkout is not None
        return Answer(checkout_answer(opened.checkout, call.request_id), 201, replayed=opened.replayed)

    async def checkout(self, engine: Engine, call: Call) -> Answer:
        """A checkout as it stands."""
        found = await self._cashier.checkout(text(call.path["id"], "the checkout's id"))
        if call.caller.user_id not in (None, found.user_id):
            raise CheckoutNotFound  # not theirs, and no business of theirs
        call.user_id = found.user_id
        return Answer(checkout_answer(found, call.request_id))

    async def request(self, engine: Engine, call: Call) -> Answer:
        """Have a payment credited that was made, and did not arrive: by its receipt, or the message with it."""
        body: RequestBody = call.body
        user = access.user_id(call, body.user_id)
        amount = "0" if body.amount is None else str(body.amount)
        minor_units(amount, "KES")  # whether it is money at all; the payment says in which currency
        reference, reason = text(body.reference, "reference"), text(body.reason, "reason")
        key = access.idempotency_key(call, body.client_request_id)
        credited, before = await self._cashier.claim(user, amount, reason, reference, key)
        answer = RequestAnswer(request_id=call.request_id, state="credited" if credited else "review")
        return Answer(answer, replayed=before and key is not None)

    async def requests(self, engine: Engine, call: Call) -> Answer:
        """A page of what users said they had paid and what was not credited at once, newest first."""
        query: RequestsQuery = call.query
        cursor = None if query.cursor is None else text(query.cursor, "cursor")
        found, following = await self._cashier.requests(query.limit, cursor)
        page = [requested_answer(request) for request in found]
        return Answer(RequestsAnswer(requests=page, request_id=call.request_id, next_cursor=following))

    async def payments(self, engine: Engine, call: Call) -> Answer:
        """A page of payments, newest first."""
        query: PaymentsQuery = call.query
        if query.state is not None and query.state not in STATES:
            raise InvalidRequest(f"state must be one of {', '.join(STATES)}.")
        gateway = None if query.gateway is None else text(query.gateway, "gateway")
        cursor = None if query.cursor is None else text(query.cursor, "cursor")
        state: Any = query.state
        found, following = await self._cashier.payments(state, gateway, query.limit, cursor)
        page = [payment_answer(payment, events) for payment, events in found]
        return Answer(PaymentsAnswer(payments=page, request_id=call.request_id, next_cursor=following))

    async def payment(self, engine: Engine, call: Call) -> Answer:
        """One payment with what was said of it."""
        return await self._shown(call, text(call.path["id"], "the payment's id"))

    async def assign(self, engine: Engine, call: Call) -> Answer:
        """Credit an unmatched or held payment to a user."""
        body: AssignBody = call.body
        id, user = text(call.path["id"], "the payment's id"), access.user_id(call, body.user_id)
        reason = text(body.reason, "reason")
        claim = access.claim(call, "assign", body.client_request_id, id, user, reason)
        claims = () if claim is None else (claim,)
        booked = await self._cashier.assign(id, user, reason, call.caller.id, claims)
        return await self._shown(call, id, booked)

    async def write_off(self, engine: Engine, call: Call) -> Answer:
        """Say that an unmatched or held payment will be nobody's."""
        body: WriteOffBody = call.body
        id, reason = text(call.path["id"], "the payment's id"), text(body.reason, "reason")
        claim = access.claim(call, "write-off", body.client_request_id, id, reason)
        claims = () if claim is None else (claim,)
        booked = await self._cashier.write_off(id, reason, call.caller.id, claims)
        return await self._shown(call, id, booked)

    async def _shown(self, call: Call, id: str, booked: Booked | None = None) -> Answer:
        payment, events = await self._cashier.payment(id)
        shown = payment_answer(payment, events, call.request_id)
        return Answer(shown, replayed=booked is not None and booked.replayed)


def checkout_answer(c: Checkout, request_id: str) -> CheckoutAnswer:
    """A checkout as it is shown."""
    return CheckoutAnswer(
        checkout_id=c.id, state=c.state, gateway=c.gateway, pack=c.pack_id, currency=c.currency,
        price=decimal_text(c.price, c.currency), credits=c.credits, payment_code=c.payment_code, message=c.message,
        request_id=request_id, redirect_url=c.redirect_url,
    )  # fmt: skip


def requested_answer(r: Request) -> RequestedAnswer:
    """What a user said they had paid, as it is shown."""
    return RequestedAnswer(
        id=r.id, at=rfc3339(r.at), user_id=r.user_id, amount=r.amount or "0", reason=r.reason, reference=r.reference,
        state="open" if r.is_open else "settled", payment_id=None if r.payment is None else r.payment.id,
    )  # fmt: skip


def payment_answer(p: Payment, events: list[PaymentEvent], request_id: str | None = None) -> PaymentAnswer:
    """A payment as it is shown."""
    return PaymentAnswer(
        id=p.id, gateway=p.gateway, state=p.state, amount=decimal_text(p.amount, p.currency or "KES"),
        currency=p.currency, credits=p.minted, at=rfc3339(p.at), note=p.note,
        events=[
            EventAnswer(
                id=e.id, at=rfc3339(e.at), gateway=e.gateway, kind=e.kind, note=e.note, body=msgspec.Raw(e.raw)
            )
            for e in events
        ],
        reference=p.reference, user_id=p.user_id, checkout_id=p.checkout_id, code=p.code, phone=p.phone_mask,
        refunded=decimal_text(min(p.refunded, p.amount), p.currency) if p.refunded and p.currency else None,
        taken_back=p.clawed or None, lost=p.lost or None, request_id=request_id,
    )  # fmt: skip
