"""The `/v1` routes: decode, ask the engine, answer."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import msgspec
from msgspec import Meta

from pluct.commands import text
from pluct.engine import PAGE_MAX, Engine
from pluct.errors import AmountTooLarge, InvalidRequest
from pluct.model import AMOUNT_MAX, PRIORITY_DEFAULT, Category, Entry, Granted, Lot, Ticket, Wallet
from pluct.web import access
from pluct.web.endpoint import Answer, Call, second

_EPOCH = datetime.fromtimestamp(0, UTC)


def rfc3339(at: int) -> str:
    """Milliseconds as RFC 3339 in UTC."""
    return f"{second(at // 1000)}.{at % 1000:03d}Z"


class _Body(msgspec.Struct, rename="camel", kw_only=True):
    client_request_id: str | None = None


class BalanceQuery(msgspec.Struct, rename="camel"):
    """Whose balance."""

    user_id: str | None = None


class HistoryQuery(msgspec.Struct):
    """Which page: at most `limit` entries, from `cursor` (an earlier page's `nextCursor`) on."""

    limit: Annotated[int, Meta(ge=1, le=PAGE_MAX)] = 50
    cursor: str | None = None


class VendBody(_Body, rename="camel", kw_only=True):
    """What a user wants to do, and for how much where the action lets them say."""

    user_id: str | None = None
    action: str | None = None
    cost: int | None = None


class AddBody(_Body, rename="camel", kw_only=True):
    """Credits to grant: whose, how many, of what kind, for which payment."""

    user_id: str
    amount: int
    category: Category | None = None
    expires_at: str | None = None
    priority: Annotated[int, Meta(ge=0, le=100)] | None = None
    reference: str | None = None
    reason: str | None = None


class AdjustBody(_Body, rename="camel", kw_only=True):
    """Credits to give or take by hand, and why."""

    amount: int
    reason: str


class RedeemBody(_Body, rename="camel", kw_only=True):
    """The ticket, as the app brought it."""

    token: str


class CaptureBody(_Body, rename="camel", kw_only=True):
    """How much of the hold to keep; all of it if nothing is said."""

    amount: int | None = None


class VoidBody(_Body, rename="camel", kw_only=True):
    """Why the credits go back."""

    reason: str


class _Answer(msgspec.Struct, rename="camel", omit_defaults=False, kw_only=True):
    ok: bool = True
    request_id: str


class VendAnswer(_Answer, rename="camel", kw_only=True):
    """A ticket and its token."""

    token: str
    ticket_id: str
    action: str
    cost: int
    expires_in: int
    expires_at: str
    balance_after: int


class AddAnswer(_Answer, rename="camel", kw_only=True):
    """What was granted, and what can be spent now."""

    user_id: str
    amount: int
    grant_id: str
    new_balance: int


class LotAnswer(msgspec.Struct, rename="camel", omit_defaults=True):
    """What is left of one grant."""

    grant_id: str
    remaining: int
    category: str
    priority: int
    expires_at: str | None = None


class BalanceAnswer(_Answer, rename="camel", kw_only=True):
    """What a user has: `balance` = `available` = `main` (paid) + `bonus` (promotional)."""

    user_id: str
    balance: int
    available: int
    held: int
    debt: int
    main: int
    bonus: int
    updated_at: str


class WalletAnswer(BalanceAnswer, rename="camel", kw_only=True):
    """A balance with its lots, next expiry first, and why nothing is vended, if nothing is."""

    lots: list[LotAnswer]
    frozen: list[str] | msgspec.UnsetType = msgspec.UNSET


class EntryAnswer(msgspec.Struct, rename="camel", omit_defaults=True):
    """One entry of the journal."""

    id: str
    number: int
    at: str
    kind: str
    amount: int
    debit: str
    credit: str
    available_after: int
    held_after: int
    ticket_id: str | None = None
    grant_id: str | None = None
    reference: str | None = None
    reason: str | None = None
    actor: str | None = None


class HistoryAnswer(msgspec.Struct, rename="camel", omit_defaults=True):
    """A page of entries, newest first; `nextCursor` asks for the next."""

    entries: list[EntryAnswer]
    request_id: str
    next_cursor: str | None = None


class TicketAnswer(msgspec.Struct, rename="camel", omit_defaults=True, kw_only=True):
    """A ticket and what became of its credits."""

    ticket_id: str
    user_id: str
    action: str
    cost: int
    state: str
    issued_at: str
    expires_at: str
    captured_amount: int
    returned_amount: int
    request_id: str
    ok: bool | None = None
    redeemed_at: str | None = None
    report_before: str | None = None


async def vend_token(engine: Engine, call: Call) -> Answer:
    """Spend credits on a ticket for an action."""
    body: VendBody = call.body
    user = access.user_id(call, body.user_id)
    key = access.idempotency_key(call, body.client_request_id)
    action = "default" if body.action is None else body.action
    vending = await engine.vend(user, action, body.cost, key)
    ticket = vending.ticket
    call.ticket_id = ticket.id
    answer = VendAnswer(
        request_id=call.request_id, token=vending.token, ticket_id=ticket.id, action=ticket.action, cost=ticket.cost,
        expires_in=(ticket.expires_at - ticket.issued_at // 1000 * 1000) // 1000,
        expires_at=rfc3339(ticket.expires_at), balance_after=vending.available_after,
    )  # fmt: skip
    return Answer(answer, replayed=vending.replayed)


async def balance(engine: Engine, call: Call) -> Answer:
    """What a user can spend; zeros for an unknown user."""
    query: BalanceQuery = call.query
    return Answer(balance_answer(await engine.balance(access.user_id(call, query.user_id)), call.request_id))


async def add(engine: Engine, call: Call) -> Answer:
    """Grant credits."""
    body: AddBody = call.body
    user = access.user_id(call, body.user_id)
    if body.amount > AMOUNT_MAX:
        raise AmountTooLarge
    reference = None if body.reference is None else text(body.reference, "reference")
    reason = None if body.reason is None else _sentence(body.reason)
    expires_at = None if body.expires_at is None else time_of(body.expires_at)
    category: Category = "paid" if body.category is None else body.category
    priority = PRIORITY_DEFAULT if body.priority is None else body.priority
    fingerprint = (user, body.amount, category, expires_at, priority, reference, reason)
    source = "webhook" if call.caller.key is None else "api"
    granted = await engine.grant(
        user, body.amount, source=source, actor=call.caller.id, category=category, priority=priority,
        expires_at=expires_at, reference=reference, reason=reason,
        claim=access.claim(call, "add", body.client_request_id, *fingerprint),
    )  # fmt: skip
    return Answer(add_answer(granted, call.request_id), replayed=granted.replayed)


async def wallet(engine: Engine, call: Call) -> Answer:
    """A wallet with its lots, next expiry first."""
    found = await engine.wallet(access.user_id(call, call.path["userId"]))
    return Answer(wallet_answer(found, call.request_id))


async def entries(engine: Engine, call: Call) -> Answer:
    """A page of a wallet's history, newest first."""
    user = access.user_id(call, call.path["userId"])
    query: HistoryQuery = call.query
    cursor = None if query.cursor is None else text(query.cursor, "cursor")
    page, following = await engine.history(user, query.limit, cursor)
    return Answer(history_answer(page, following, call.request_id))


async def adjust(engine: Engine, call: Call) -> Answer:
    """Give or take credits by hand."""
    body: AdjustBody = call.body
    user, reason = access.user_id(call, call.path["userId"]), _sentence(body.reason)
    claim = access.claim(call, "adjust", body.client_request_id, user, body.amount, reason)
    adjusted = await engine.adjust(user, body.amount, reason, call.caller.id, claim)
    return Answer(entry_answer(adjusted.entry), replayed=adjusted.replayed)


async def redeem(engine: Engine, call: Call) -> Answer:
    """Accept a ticket, once."""
    body: RedeemBody = call.body
    changed = await engine.redeem(body.token, access.claim(call, "redeem", body.client_request_id, body.token))
    call.user_id, call.ticket_id = changed.ticket.user_id, changed.ticket.id
    return Answer(ticket_answer(changed.ticket, call.request_id, ok=True), replayed=changed.replayed)


async def capture(engine: Engine, call: Call) -> Answer:
    """Keep all or part of a redeemed ticket's hold."""
    body: CaptureBody = call.body
    ticket_id = text(call.path["id"], "the ticket's id")
    if body.amount is not None and body.amount < 1:
        raise InvalidRequest("amount must be at least 1; to keep nothing, void the ticket.")
    claim = access.claim(call, "capture", body.client_request_id, ticket_id, body.amount)
    changed = await engine.capture(ticket_id, body.amount, claim)
    call.user_id, call.ticket_id = changed.ticket.user_id, changed.ticket.id
    return Answer(ticket_answer(changed.ticket, call.request_id), replayed=changed.replayed)


async def void(engine: Engine, call: Call) -> Answer:
    """Give a ticket's credits back."""
    body: VoidBody = call.body
    ticket_id, reason = text(call.path["id"], "the ticket's id"), _sentence(body.reason)
    claim = access.claim(call, "void", body.client_request_id, ticket_id, reason)
    changed = await engine.void(ticket_id, reason, call.caller.id, claim)
    call.user_id, call.ticket_id = changed.ticket.user_id, changed.ticket.id
    return Answer(ticket_answer(changed.ticket, call.request_id), replayed=changed.replayed)


async def ticket(engine: Engine, call: Call) -> Answer:
    """One ticket."""
    return Answer(ticket_answer(await engine.ticket(text(call.path["id"], "the ticket's id")), call.request_id))


def balance_answer(w: Wallet, request_id: str) -> BalanceAnswer:
    """A balance as it is shown."""
    return BalanceAnswer(
        request_id=request_id, user_id=w.user_id, balance=w.available, available=w.available, held=w.held,
        debt=w.debt, main=w.available - w.promotional, bonus=w.promotional, updated_at=rfc3339(w.updated_at),
    )  # fmt: skip


def wallet_answer(w: Wallet, request_id: str) -> WalletAnswer:
    """A balance with its lots, next expiry first."""

    def expiry(lot: Lot) -> float:
        return float("inf") if lot.expires_at is None else lot.expires_at

    lots = [
        LotAnswer(
            lot.grant_id, lot.remaining, lot.category, lot.priority,
            None if lot.expires_at is None else rfc3339(lot.expires_at),
        )
        for lot in sorted(w.lots, key=expiry)
    ]  # fmt: skip
    return WalletAnswer(
        **msgspec.structs.asdict(balance_answer(w, request_id)), lots=lots, frozen=list(w.frozen) or msgspec.UNSET
    )


def add_answer(g: Granted, request_id: str) -> AddAnswer:
    """A grant as it is shown."""
    return AddAnswer(
        request_id=request_id, user_id=g.user_id, amount=g.amount, grant_id=g.grant_id, new_balance=g.available_after
    )


def history_answer(page: list[Entry], next_cursor: str | None, request_id: str) -> HistoryAnswer:
    """A page of entries as it is shown."""
    return HistoryAnswer([entry_answer(entry) for entry in page], request_id, next_cursor)


def entry_answer(e: Entry) -> EntryAnswer:
    """An entry as it is shown."""
    return EntryAnswer(
        e.id, e.number, rfc3339(e.at), e.kind, e.amount, e.debit, e.credit, e.available_after, e.held_after,
        e.ticket_id, e.grant_id, e.reference, e.reason, e.actor,
    )  # fmt: skip


def ticket_answer(t: Ticket, request_id: str, ok: bool | None = None) -> TicketAnswer:
    """A ticket as it is shown."""
    return TicketAnswer(
        ticket_id=t.id, user_id=t.user_id, action=t.action, cost=t.cost, state=t.state, issued_at=rfc3339(t.issued_at),
        expires_at=rfc3339(t.expires_at), captured_amount=t.captured, returned_amount=t.returned,
        request_id=request_id, ok=ok, redeemed_at=None if t.redeemed_at is None else rfc3339(t.redeemed_at),
        report_before=None if t.state != "redeemed" or t.report_before is None else rfc3339(t.report_before),
    )  # fmt: skip


def _sentence(value: str) -> str:
    return text(value, "reason")


def time_of(value: str) -> int:
    """A time as in RFC 3339, with any offset, in milliseconds."""
    try:
        at = datetime.fromisoformat(value.upper())  # RFC 3339 allows t and z; this function does not
        if at.tzinfo is None:
            raise ValueError
        return (at.astimezone(UTC) - _EPOCH) // timedelta(milliseconds=1)
    except (ValueError, OverflowError):
        raise InvalidRequest("expiresAt must be a time as in RFC 3339, such as 2030-01-31T00:00:00Z.") from None
