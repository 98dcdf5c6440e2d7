"""The rules. Every change of money happens here and nowhere else.

`decide(view, command, now)` is a function of its arguments alone: no I/O, no clock, no randomness, no SQL. A store
loads what a batch of commands names into a `View`, decides each command in turn over it, and records what the view
says has changed, all in one durable transaction.

What always holds (asserted on every change below, constrained in SQL where SQL can, verified by `pluct check`):

1. The lots of a wallet sum to `available`; `available`, `held` and `debt` are never negative, and a wallet with
   something available owes nothing.
2. `held` is the sum of what the user's open tickets hold.
3. A balance is the sum of its entries: an entry and the balance it changes are written by one function (`post`).
   Each entry debits one account and credits another, so all accounts together sum to zero.
4. A claim has one outcome for ever, except that a ticket whose credits have all gone back frees its key.
5. A ticket is redeemed at most once and settled at most once; captured + returned never exceeds its cost.
6. Entries are only ever added; entry n of a wallet points to entry n - 1.
"""

from bisect import insort
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

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
    AmountTooLarge,
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
)
from pluct.model import (
    ADJUSTED_ACCOUNT,
    BALANCE_MAX,
    EXPIRED_ACCOUNT,
    LOTS_MAX,
    Adjusted,
    Changed,
    Claim,
    Entry,
    EntryKind,
    Expired,
    Granted,
    Lot,
    Outcome,
    Probed,
    Ticket,
    Vended,
    Wallet,
    debt_account,
    earned_account,
    held_account,
    issued_account,
    user_account,
)


class View:
    """What a batch of commands sees of the ledger, and what they have changed in it so far."""

    def __init__(self, next_id: Callable[[], str]) -> None:
        self.next_id = next_id  #: names the next entry
        self.wallets: dict[str, Wallet] = {}
        self.tickets: dict[str, Ticket] = {}
        self.claims: dict[bytes, Claim] = {}
        self.entries: list[Entry] = []  #: new ones, in order
        self.new_tickets: dict[str, Ticket] = {}
        self.changed_wallets: dict[str, Wallet] = {}
        self.changed_tickets: dict[str, Ticket] = {}
        self.changed_claims: dict[bytes, Claim] = {}
        self.probed_at: int | None = None

    @property
    def changed(self) -> bool:
        """Whether there is anything to record."""
        return bool(self.entries or self.changed_tickets or self.changed_claims or self.probed_at is not None)

    def put_ticket(self, ticket: Ticket) -> None:
        """Keep a ticket's new state, whether the ticket is new in this batch or older."""
        changes = self.new_tickets if ticket.id in self.new_tickets else self.changed_tickets
        changes[ticket.id] = self.tickets[ticket.id] = ticket


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
            _put_claim(view, replace(found, key=once.key, fingerprint=once.fingerprint))
    if isinstance(found.outcome, Vended):
        ticket = view.tickets[found.outcome.ticket_id]
        return replace(found.outcome, ticket=ticket, replayed=True)
    return replace(found.outcome, replayed=True)


def _standing(view: View, once: Once) -> Claim | None:
    """The claim on this key, unless it is of a vend whose credits have all gone back: then the key is free again."""
    claim = view.claims.get(once.key)
    if claim is None or not isinstance(claim.outcome, Vended):
        return claim
    ticket = view.tickets[claim.outcome.ticket_id]
    return None if ticket.returned == ticket.cost else claim


def _remember(view: View, command: Command, outcome: Outcome, now: int) -> None:
    if isinstance(outcome, Vended):
        outcome = replace(outcome, ticket=None)
    assert not isinstance(outcome, Expired | Probed), "a sweep and a probe claim nothing"
    for once in command.claims:
        _put_claim(view, Claim(once.key, command.user_id, once.fingerprint, outcome, now))


def _put_claim(view: View, claim: Claim) -> None:
    view.claims[claim.key] = view.changed_claims[claim.key] = claim


# One wallet, while a command changes it


class _Draft:
    """A wallet in the making. Nothing reaches the view until `save`, so a refusal leaves no trace."""

    __slots__ = (
        "account", "available", "debt", "entries", "held", "held_account",
        "last_id", "lots", "now", "number", "user_id", "view",
    )  # fmt: skip

    def __init__(self, view: View, user_id: str, now: int) -> None:
        self.view = view
        self.user_id = user_id
        self.now = now
        self.account = user_account(user_id)
        self.held_account = held_account(user_id)
        self.entries: list[Entry] = []
        wallet = view.wallets.get(user_id)
        if wallet is None:
            self.available = self.held = self.debt = self.number = 0
            self.lots: list[Lot] = []
            self.last_id: str | None = None
            return
        self.available = wallet.available
        self.held = wallet.held
        self.debt = wallet.debt
        self.lots = list(wallet.lots)
        self.number = wallet.entries
        self.last_id = wallet.last_entry_id
        if wallet.lots:
            self._expire_lots()

    def post(
        self,
        kind: EntryKind,
        amount: int,
        debit: str,
        credit: str,
        ticket_id: str | None = None,
        grant_id: str | None = None,
        reference: str | None = None,
        reason: str | None = None,
        actor: str | None = None,
    ) -> Entry:
        """Move `amount` from `debit` to `credit`: the one place where a balance changes."""
        assert amount > 0, "an entry moves something"
        if debit == self.account:
            self.available -= amount
        elif debit == self.held_account:
            self.held -= amount
        if credit == self.account:
            self.available += amount
        elif credit == self.held_account:
            self.held += amount
        elif credit == debt_account(self.user_id):
            self.debt -= amount
        self.number += 1
        entry = Entry(
            self.view.next_id(), self.user_id, self.number, self.last_id, self.now, kind, amount, debit, credit,
            self.available, self.held, ticket_id, grant_id, reference, reason, actor,
        )  # fmt: skip
        self.last_id = entry.id
        self.entries.append(entry)
        return entry

    def save(self) -> Wallet:
        """Put the wallet and its new entries into the view, once they are sound."""
        wallet = Wallet(
            self.user_id, self.available, self.held, self.debt, tuple(self.lots), self.number, self.last_id, self.now
        )
        assert wallet.available >= 0 <= wallet.held, "no balance is negative"
        assert wallet.debt >= 0 and not (wallet.debt and wallet.available), "a debt is repaid before anything is spent"
        assert sum([lot.remaining for lot in wallet.lots]) == wallet.available, "lots sum to what is available"
        view = self.view
        view.wallets[self.user_id] = view.changed_wallets[self.user_id] = wallet
        view.entries.extend(self.entries)
        return wallet

    def require_room(self, amount: int) -> None:
        """Refuse an amount that would lift the balance over its bound, now or when its holds come back."""
        if self.available + self.held + amount > BALANCE_MAX:
            raise AmountTooLarge

    def add_lot(self, lot: Lot) -> None:
        """File a lot in burn-down order; at the limit, join it to one with the same terms."""
        if len(self.lots) >= LOTS_MAX:
            for at in reversed(range(len(self.lots))):
                other = self.lots[at]
                if _terms(other) == _terms(lot):
                    self.lots[at] = replace(other, remaining=other.remaining + lot.remaining)
                    return
            raise InvalidRequest(
                f"This wallet holds {LOTS_MAX} grants with different terms; use an expiry or priority it already has."
            )
        insort(self.lots, lot, key=_burn_order)

    def take(self, amount: int) -> tuple[Lot, ...]:
        """Take `amount` from the lots in burn-down order and say what was taken from which."""
        lots = self.lots
        first = lots[0]
        if first.remaining > amount:  # nearly always one lot pays
            lots[0] = _with_remaining(first, first.remaining - amount)
            return (_with_remaining(first, amount),)
        taken = []
        while amount:
            lot = lots[0]
            part = min(lot.remaining, amount)
            taken.append(_with_remaining(lot, part))
            amount -= part
            if part == lot.remaining:
                del lots[0]
            else:
                lots[0] = _with_remaining(lot, lot.remaining - part)
        return tuple(taken)

    def give_back(self, parts: tuple[Lot, ...], grace_seconds: int) -> None:
        """Return parts to the lots they came from. What has expired meanwhile lives for the grace time more."""
        for part in parts:
            if part.expires_at is not None and part.expires_at <= self.now:
                part = replace(part, expires_at=self.now + grace_seconds * 1000)
            for at, lot in enumerate(self.lots):
                if lot.number == part.number and lot.expires_at == part.expires_at:
                    self.lots[at] = _with_remaining(lot, lot.remaining + part.remaining)
                    break
            else:
                insort(self.lots, part, key=_burn_order)  # over LOTS_MAX if need be: what is returned is never refused
        self.repay()

    def repay(self) -> None:
        """Let what has come in pay a debt first."""
        amount = min(self.debt, self.available)
        if amount:
            self.take(amount)
            self.post("repay", amount, self.account, debt_account(self.user_id))

    def _expire_lots(self) -> None:
        """Move what is past its time to the expired account."""
        now = self.now
        for lot in [lot for lot in self.lots if lot.expires_at is not None and lot.expires_at <= now]:
            self.lots.remove(lot)
            self.post("expire", lot.remaining, self.account, EXPIRED_ACCOUNT, grant_id=lot.grant_id)


def _with_remaining(lot: Lot, remaining: int) -> Lot:
    return Lot(lot.number, lot.grant_id, remaining, lot.category, lot.priority, lot.expires_at)


def _burn_order(lot: Lot) -> tuple[int, float, bool, int]:
    """Priority, then soonest expiry (never is last), then promotional before paid, then oldest."""
    expiry = float("inf") if lot.expires_at is None else lot.expires_at
    return lot.priority, expiry, lot.category == "paid", lot.number


def _terms(lot: Lot) -> tuple[int, int | None, str]:
    return lot.priority, lot.expires_at, lot.category


# Rules: one per command. Each validates first and saves last.


def _fund(view: View, command: Fund, now: int) -> Granted:
    if command.expires_at is not None and command.expires_at <= now:
        raise InvalidRequest("expiresAt is in the past; credits must expire in the future, or never.")
    draft = _Draft(view, command.user_id, now)
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
    draft = _Draft(view, command.user_id, now)
    cost = command.cost
    assert cost > 0, "an action costs something"
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
    redeemed = replace(ticket, redeemed_at=now)
    if ticket.settle == "redeem":
        draft = _Draft(view, ticket.user_id, now)
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
    draft = _Draft(view, ticket.user_id, now)
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
    draft = _Draft(view, ticket.user_id, now)
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
    draft = _Draft(view, command.user_id, now)
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
    draft = _Draft(view, command.user_id, now)
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
            first.append(_with_remaining(part, here))
        if here < part.remaining:
            rest.append(_with_remaining(part, part.remaining - here))
    return tuple(first), tuple(rest)


_RULES: dict[type, Callable[[View, Any, int], Outcome]] = {
    Fund: _fund,
    Vend: _vend,
    Redeem: _redeem,
    Capture: _capture,
    Void: _void,
    Expire: _expire,
    Adjust: _adjust,
    Probe: _probe,
}
