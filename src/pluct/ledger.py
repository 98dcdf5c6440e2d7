"""The rules. Every change of money happens here and nowhere else.

`decide(view, command, now)` is a function of its arguments alone: no I/O, no clock, no randomness, no SQL. A store
loads what a batch of commands names into a `View`, decides each command in turn over it, and records what the view
says has changed, all in one durable transaction.

What always holds (asserted on every change below, constrained in SQL where SQL can, verified by `pluct check`):

1. The lots of a wallet sum to `available`; `available`, `held` and `debt` are never negative, and a wallet with
   something available owes nothing.
2. `held` is the sum of what the user's open tickets hold.
3. A balance is the sum of its entries: an entry and the balance it changes are written by one function
   (`Draft.post` in `wallet.py`). Each entry debits one account and credits another, so all accounts together sum to
   zero.
4. A claim has one outcome for ever, except that a ticket whose credits have all gone back frees its key.
5. A ticket is redeemed at most once and settled at most once; captured + returned never exceeds its cost.
6. Entries are only ever added; entry n of a wallet points to entry n - 1.
7. A payment mints at most once, under its reference, and what is taken back of it never exceeds what it minted
   (`payments.py`, where more about money is said).
"""

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from pluct import payments
from pluct.commands import (
    Adjust,
    Capture,
    Command,
    Expire,
    Fund,
    Once,
    Probe,
    Redeem,
    Vend,
    Void,
)
from pluct.errors import (
    IdempotencyKeyReused,
    InsufficientCredits,
    InvalidRequest,
    ReferenceConflict,
    Refusal,
    TicketAlreadyRedeemed,
    TicketAlreadySettled,
    TicketExpired,
    TicketNotFound,
    TicketNotRedeemed,
    Unauthorized,
    WalletFrozen,
)
from pluct.model import (
    ADJUSTED_ACCOUNT,
    Adjusted,
    Booked,
    Changed,
    CheckedOut,
    Claim,
    Expired,
    Granted,
    Lot,
    Outcome,
    Probed,
    Remembered,
    Ticket,
    Vended,
    earned_account,
    issued_account,
)
from pluct.wallet import Draft, View, with_remaining

__all__ = ["View", "decide"]

#: How much clocks of servers that sell and redeem may differ, before a token counts as not valid yet.
TOKEN_LEEWAY_MS = 60_000


def decide(view: View, command: Command, now: int) -> Outcome | Refusal:
    """Apply one command to the view at the time `now`.

    Returns an outcome, with the view changed accordingly, or a refusal, with the view untouched.
    """
    try:
        remembered = _remembered(view, command)
        if remembered is not None:
            return remembered
        outcome: Outcome = _RULES[type(command)](view, command, now)
    except Refusal as refusal:
        return refusal
    if command.claims:
        _remember(view, command, outcome, now)
    return outcome


# Claims


def _remembered(view: View, command: Command) -> Outcome | None:
    """The outcome of an earlier command with the same claim, if there is one; a changed request is refused."""
    found: Claim | None = None
    for once in command.claims:
        claim = _standing(view, once)
        if claim is None:
            continue
        if claim.fingerprint != once.fingerprint:
            raise IdempotencyKeyReused if once.kind == "idempotency_key" else ReferenceConflict
        found = found or claim
    if found is None:
        return None
    for once in command.claims:
        if _standing(view, once) is None:  # a known reference under a new key: the key is used from now on
            view.put_claim(replace(found, key=once.key, fingerprint=once.fingerprint))
    match found.outcome:
        case Vended() as vended:
            return replace(vended, ticket=view.tickets[vended.ticket_id], replayed=True)
        case CheckedOut() as opened:
            return replace(opened, checkout=view.checkouts[opened.checkout_id], replayed=True)
        case Booked() as booked if booked.payment_id is not None:
            return replace(booked, payment=view.payments[booked.payment_id], replayed=True)
        case outcome:
            return replace(outcome, replayed=True)


def _standing(view: View, once: Once) -> Claim | None:
    """The claim on this key, unless it is of a vend whose credits have all gone back: then the key is free again."""
    claim = view.claims.get(once.key)
    if claim is None or not isinstance(claim.outcome, Vended):
        return claim
    ticket = view.tickets[claim.outcome.ticket_id]
    return None if ticket.returned == ticket.cost else claim


def _remember(view: View, command: Command, outcome: Outcome, now: int) -> None:
    assert not isinstance(outcome, Expired | Probed), "a sweep and a probe claim nothing"
    kept: Remembered = outcome
    match outcome:  # the row as it stands is looked up again
        case Vended():
            kept = replace(outcome, ticket=None)
        case CheckedOut():
            kept = replace(outcome, checkout=None)
        case Booked():
            kept = replace(outcome, payment=None)
    for once in command.claims:
        view.put_claim(Claim(once.key, command.user_id, once.fingerprint, kept, now))


# Rules: one per command. Each validates first and saves last.


def _fund(view: View, command: Fund, now: int) -> Granted:
    if command.expires_at is not None and command.expires_at <= now:
        raise InvalidRequest("expiresAt is in the past; credits must expire in the future, or never.")
    draft = Draft(view, command.user_id, now)
    draft.require_seen(command.seen)
    draft.require_room(command.amount)
    entry = draft.post(
        "grant", command.amount, issued_account(command.source), draft.account,
        None, command.grant_id, command.reference, command.reason, command.actor,
    )  # fmt: skip
    draft.add_lot(
        Lot(
            entry.number, command.grant_id, command.amount, command.category, command.priority, command.expires_at,
        )
    )  # fmt: skip
    draft.repay()
    wallet = draft.save()
    return Granted(command.user_id, command.grant_id, command.amount, wallet.available)


def _vend(view: View, command: Vend, now: int) -> Vended:
    draft = Draft(view, command.user_id, now)
    cost = command.cost
    assert cost > 0, "an action costs something"
    if draft.frozen:
        raise WalletFrozen
    if draft.available < cost:
        raise InsufficientCredits
    taken = draft.take(cost)
    at_once = command.settle == "vend"
    if at_once:
        draft.post("vend", cost, draft.account, earned_account(command.action), command.ticket_id)
    else:
        draft.post("hold", cost, draft.account, draft.held_account, command.ticket_id)
    expires_at = (now // 1000 + command.ttl_seconds) * 1000  # a JWT counts in whole seconds
    ticket = Ticket(
        command.ticket_id, command.user_id, command.action, command.audience, cost, command.settle,
        command.report_seconds, now, expires_at, "captured" if at_once else "issued",
        None, cost if at_once else 0, 0, taken,
    )  # fmt: skip
    wallet = draft.save()
    view.tickets[ticket.id] = view.new_tickets[ticket.id] = ticket
    return Vended(ticket.id, wallet.available, ticket)


def _redeem(view: View, command: Redeem, now: int) -> Changed:
    ticket = _ticket(view, command)
    if ticket.audience != command.audience:
        raise Unauthorized("The token and its ticket do not name the same audience.")
    if ticket.state == "voided" or (ticket.state == "expired" and ticket.redeemed_at is not None):
        raise TicketAlreadySettled
    if ticket.redeemed_at is not None:
        raise TicketAlreadyRedeemed
    if now >= ticket.expires_at or ticket.state == "expired":
        raise TicketExpired
    if command.expires_at is not None and now >= command.expires_at:  # it says less than we had written
        raise TicketExpired
    if command.starts_at is not None and now + TOKEN_LEEWAY_MS < command.starts_at:
        raise Unauthorized("The token is not valid yet; compare the clocks of the servers.")
    redeemed = replace(ticket, redeemed_at=now)
    if ticket.settle == "redeem":
        draft = Draft(view, ticket.user_id, now)
        draft.post("capture", ticket.held, draft.held_account, earned_account(ticket.action), ticket.id)
        redeemed = replace(redeemed, state="captured", captured=ticket.cost)
        draft.save()
    elif ticket.settle == "report":
        redeemed = replace(redeemed, state="redeemed")
    view.put_ticket(redeemed)
    return Changed(redeemed)


def _capture(view: View, command: Capture, now: int) -> Changed:
    ticket = _open_ticket(view, command, now)
    if ticket.state == "captured":
        raise TicketAlreadySettled
    if ticket.state == "issued":
        raise TicketNotRedeemed
    amount = ticket.held if command.amount is None else command.amount
    if not 1 <= amount <= ticket.held:
        raise InvalidRequest(f"This ticket holds {ticket.held} credits; capture between 1 and that many.")
    draft = Draft(view, ticket.user_id, now)
    draft.post("capture", amount, draft.held_account, earned_account(ticket.action), ticket.id)
    returned = ticket.held - amount
    if returned:
        draft.post("return", returned, draft.held_account, draft.account, ticket.id)
        draft.give_back(_split(ticket.taken, amount)[1], command.grace_seconds)
    captured = replace(ticket, state="captured", captured=amount, returned=returned)
    draft.save()
    view.put_ticket(captured)
    return Changed(captured)


def _void(view: View, command: Void, now: int) -> Changed:
    ticket = _open_ticket(view, command, now)
    draft = Draft(view, ticket.user_id, now)
    if ticket.state == "captured":
        draft.require_room(ticket.captured)
        draft.post(
            "refund", ticket.captured, earned_account(ticket.action), draft.account,
            ticket.id, reason=command.reason, actor=command.actor,
        )  # fmt: skip
        back = _split(ticket.taken, ticket.captured)[0]
    else:
        draft.post(
            "return", ticket.held, draft.held_account, draft.account,
            ticket.id, reason=command.reason, actor=command.actor,
        )  # fmt: skip
        back = ticket.taken
    draft.give_back(back, command.grace_seconds)
    voided = replace(ticket, state="voided", captured=0, returned=ticket.cost)
    draft.save()
    view.put_ticket(voided)
    return Changed(voided)


def _expire(view: View, command: Expire, now: int) -> Expired:
    draft = Draft(view, command.user_id, now)
    credits = sum(entry.amount for entry in draft.entries)
    expired = []
    for ticket_id in command.ticket_ids:
        ticket = view.tickets.get(ticket_id)
        if ticket is None or ticket.user_id != command.user_id or not _is_due(ticket, now):
            continue  # settled since the sweep looked
        draft.post("return", ticket.held, draft.held_account, draft.account, ticket.id)
        draft.give_back(ticket.taken, command.grace_seconds)
        expired.append(replace(ticket, state="expired", returned=ticket.cost))
    if draft.entries:
        draft.save()
    for ticket in expired:
        view.put_ticket(ticket)
    return Expired(credits, len(expired))


def _adjust(view: View, command: Adjust, now: int) -> Adjusted:
    draft = Draft(view, command.user_id, now)
    draft.require_seen(command.seen)
    if command.amount > 0:
        draft.require_room(command.amount)
        debit, credit = ADJUSTED_ACCOUNT, draft.account
    else:
        if draft.available < -command.amount:
            raise InsufficientCredits
        debit, credit = draft.account, ADJUSTED_ACCOUNT
        draft.take(-command.amount)
    given = command.grant_id if command.amount > 0 else None
    entry = draft.post(
        "adjust", abs(command.amount), debit, credit,
        grant_id=given, reason=command.reason, actor=command.actor,
    )  # fmt: skip
    if given is not None:
        draft.add_lot(Lot(entry.number, given, command.amount, "paid", 50, None))
        draft.repay()
    draft.save()
    return Adjusted(entry)


def _probe(view: View, command: Probe, now: int) -> Probed:
    view.probed_at = now
    return Probed(now)


def _ticket(view: View, command: Redeem | Capture | Void) -> Ticket:
    ticket = view.tickets.get(command.ticket_id)
    if ticket is None:
        raise TicketNotFound
    if ticket.user_id != command.user_id:
        raise Unauthorized("The token and its ticket do not name the same user.")
    return ticket


def _open_ticket(view: View, command: Capture | Void, now: int) -> Ticket:
    """The ticket, unless its credits went back already, or are about to because it is due."""
    ticket = _ticket(view, command)
    if ticket.state in ("voided", "expired") or _is_due(ticket, now):
        raise TicketAlreadySettled
    return ticket


def _is_due(ticket: Ticket, now: int) -> bool:
    return ticket.due_at is not None and ticket.due_at <= now


def _split(parts: tuple[Lot, ...], amount: int) -> tuple[tuple[Lot, ...], tuple[Lot, ...]]:
    """The first `amount` credits of the parts, and the rest."""
    first: list[Lot] = []
    rest: list[Lot] = []
    for part in parts:
        here = min(amount, part.remaining)
        amount -= here
        if here:
            first.append(with_remaining(part, here))
        if here < part.remaining:
            rest.append(with_remaining(part, part.remaining - here))
    return tuple(first), tuple(rest)


_RULES: dict[type, Callable[[View, Any, int], Outcome]] = payments.RULES | {
    Fund: _fund,
    Vend: _vend,
    Redeem: _redeem,
    Capture: _capture,
    Void: _void,
    Expire: _expire,
    Adjust: _adjust,
    Probe: _probe,
}
