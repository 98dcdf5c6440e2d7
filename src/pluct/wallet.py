"""What a batch sees of the ledger, and one wallet while a command changes it.

A balance changes in one place, `Draft.post`, which writes the entry that says so. Nothing of a draft reaches the view
before `Draft.save`, so a command that is refused half way leaves no trace. Which command may do what is not known here:
that is for the rules to say (`ledger.py`, `payments.py`).
"""

from bisect import insort
from collections.abc import Callable

from msgspec.structs import replace

from pluct.errors import AmountTooLarge, InvalidRequest, Stale
from pluct.model import (
    BALANCE_MAX,
    DEBT,
    EXPIRED_ACCOUNT,
    LOTS_MAX,
    PRIORITY_DEFAULT,
    Checkout,
    Claim,
    Entry,
    EntryKind,
    Letter,
    Lot,
    Payment,
    PaymentEvent,
    Ticket,
    Wallet,
    debt_account,
    held_account,
    user_account,
)


class View:
    """What a batch of commands sees of the ledger, and what they have changed in it so far."""

    def __init__(self, next_id: Callable[[], str]) -> None:
        self.next_id = next_id  #: names the next entry
        self.wallets: dict[str, Wallet] = {}
        self.tickets: dict[str, Ticket] = {}
        self.claims: dict[bytes, Claim] = {}
        self.payments: dict[str, Payment] = {}
        self.checkouts: dict[str, Checkout] = {}
        self.entries: list[Entry] = []  #: new ones, in order
        self.new_tickets: dict[str, Ticket] = {}
        self.changed_wallets: dict[str, Wallet] = {}
        self.changed_tickets: dict[str, Ticket] = {}
        self.changed_claims: dict[bytes, Claim] = {}
        self.changed_payments: dict[str, Payment] = {}  #: new ones too
        self.changed_checkouts: dict[str, Checkout] = {}  #: new ones too
        self.events: list[PaymentEvent] = []  #: new ones, in order
        self.probed_at: int | None = None
        self.letters: list[Letter] = []  #: what others are to be told of all this

    @property
    def changed(self) -> bool:
        """Whether there is anything to record."""
        return bool(
            self.entries or self.changed_tickets or self.changed_claims or self.changed_payments
            or self.changed_checkouts or self.events or self.probed_at is not None
        )  # fmt: skip

    def put_claim(self, claim: Claim) -> None:
        """Keep a claim, new or made anew."""
        self.claims[claim.key] = self.changed_claims[claim.key] = claim

    def put_payment(self, payment: Payment) -> None:
        """Keep a payment's new state."""
        self.payments[payment.id] = self.changed_payments[payment.id] = payment

    def put_checkout(self, checkout: Checkout) -> None:
        """Keep a checkout's new state."""
        self.checkouts[checkout.id] = self.changed_checkouts[checkout.id] = checkout

    def put_ticket(self, ticket: Ticket) -> None:
        """Keep a ticket's new state, whether the ticket is new in this batch or older."""
        changes = self.new_tickets if ticket.id in self.new_tickets else self.changed_tickets
        changes[ticket.id] = self.tickets[ticket.id] = ticket


class Draft:
    """A wallet in the making. Nothing reaches the view until `save`, so a refusal leaves no trace."""

    __slots__ = (
        "account", "available", "debt", "entries", "frozen", "held", "held_account",
        "last_id", "lots", "now", "number", "remainders", "user_id", "view",
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
            self.frozen: tuple[str, ...] = ()
            self.remainders: tuple[tuple[str, int], ...] = ()
            return
        self.available = wallet.available
        self.held = wallet.held
        self.debt = wallet.debt
        self.lots = list(wallet.lots)
        self.number = wallet.entries
        self.last_id = wallet.last_entry_id
        self.frozen = wallet.frozen
        self.remainders = wallet.remainders
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
        elif debit == debt_account(self.user_id):
            self.debt += amount
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
        if self.frozen and not self.debt:
            self.unfreeze(DEBT)
        wallet = Wallet(
            self.user_id, self.available, self.held, self.debt, tuple(self.lots), self.number, self.last_id, self.now,
            self.frozen, self.remainders,
        )  # fmt: skip
        assert wallet.available >= 0 <= wallet.held, "no balance is negative"
        assert wallet.debt >= 0 and not (wallet.debt and wallet.available), "a debt is repaid before anything is spent"
        assert sum([lot.remaining for lot in wallet.lots]) == wallet.available, "lots sum to what is available"
        view = self.view
        view.wallets[self.user_id] = view.changed_wallets[self.user_id] = wallet
        view.entries.extend(self.entries)
        return wallet

    def has_room(self, amount: int) -> bool:
        """Whether so much can come in without lifting the balance over its bound, now or when its holds come back."""
        return self.available + self.held + amount <= BALANCE_MAX

    def require_room(self, amount: int) -> None:
        """Refuse an amount for which there is no room."""
        if not self.has_room(amount):
            raise AmountTooLarge

    def require_seen(self, entries: int | None) -> None:
        """Refuse what a person decided when the wallet had another number of entries; None: no person did."""
        wallet = self.view.wallets.get(self.user_id)
        if entries is not None and entries != (0 if wallet is None else wallet.entries):
            raise Stale

    def add_lot(self, lot: Lot, *, at_any_rate: bool = False) -> None:
        """File a lot in burn-down order; at the limit, join it to one with the same terms, or refuse it."""
        if len(self.lots) >= LOTS_MAX:
            for at in reversed(range(len(self.lots))):
                other = self.lots[at]
                if _terms(other) == _terms(lot):
                    self.lots[at] = replace(other, remaining=other.remaining + lot.remaining)
                    return
            if not at_any_rate:
                raise InvalidRequest(
                    f"This wallet holds {LOTS_MAX} grants with different terms; "
                    "use an expiry or priority it already has."
                )
        insort(self.lots, lot, key=_burn_order)

    def take(self, amount: int) -> tuple[Lot, ...]:
        """Take `amount` from the lots in burn-down order and say what was taken from which."""
        lots = self.lots
        first = lots[0]
        if first.remaining > amount:  # nearly always one lot pays
            lots[0] = with_remaining(first, first.remaining - amount)
            return (with_remaining(first, amount),)
        taken = []
        while amount:
            lot = lots[0]
            part = min(lot.remaining, amount)
            taken.append(with_remaining(lot, part))
            amount -= part
            if part == lot.remaining:
                del lots[0]
            else:
                lots[0] = with_remaining(lot, lot.remaining - part)
        return tuple(taken)

    def give_back(self, parts: tuple[Lot, ...], grace_seconds: int) -> None:
        """Return parts to the lots they came from. What has expired meanwhile lives for the grace time more."""
        for part in parts:
            if part.expires_at is not None and part.expires_at <= self.now:
                part = replace(part, expires_at=self.now + grace_seconds * 1000)
            for at, lot in enumerate(self.lots):
                if lot.number == part.number and lot.expires_at == part.expires_at:
                    self.lots[at] = with_remaining(lot, lot.remaining + part.remaining)
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

    def bring_in(
        self, kind: EntryKind, credits: int, source: str, grant_id: str,
        reference: str | None = None, reason: str | None = None, actor: str | None = None,
    ) -> None:  # fmt: skip
        """Give credits that were paid for: they are not refused for want of a lot, and pay a debt first."""
        entry = self.post(kind, credits, source, self.account, None, grant_id, reference, reason, actor)
        self.add_lot(Lot(entry.number, grant_id, credits, "paid", PRIORITY_DEFAULT, None), at_any_rate=True)
        self.repay()

    def claw(self, amount: int, grant_id: str | None, source: str, *, owing: bool) -> int:
        """Take credits back to the account they came from: what is left of their grant first, then in burn-down order.

        What is not there becomes a debt if the user shall owe it. Returns what was lost instead.
        """
        taken = min(amount, self.available)
        missing = amount - taken
        if taken:
            self.lots.sort(key=lambda lot: (lot.grant_id != grant_id, _burn_order(lot)))
            self.take(taken)
            self.lots.sort(key=_burn_order)
            self.post("clawback", taken, self.account, source, grant_id=grant_id)
        if missing and owing:
            self.post("clawback", missing, debt_account(self.user_id), source, grant_id=grant_id)
        return 0 if owing else missing

    def freeze(self, reason: str) -> None:
        """Let nothing be vended, until the reason is gone."""
        if reason not in self.frozen:
            self.frozen = (*self.frozen, reason)

    def unfreeze(self, reason: str) -> None:
        """This reason is gone."""
        self.frozen = tuple(each for each in self.frozen if each != reason)

    def remainder(self, currency: str) -> int:
        """Money of this currency that bought nothing yet."""
        return dict(self.remainders).get(currency, 0)

    def keep_remainder(self, currency: str, amount: int) -> None:
        """What is left of it now."""
        kept = dict(self.remainders) | {currency: amount}
        self.remainders = tuple((each, left) for each, left in sorted(kept.items()) if left)

    def _expire_lots(self) -> None:
        """Move what is past its time to the expired account."""
        now = self.now
        for lot in [lot for lot in self.lots if lot.expires_at is not None and lot.expires_at <= now]:
            self.lots.remove(lot)
            self.post("expire", lot.remaining, self.account, EXPIRED_ACCOUNT, grant_id=lot.grant_id)


def with_remaining(lot: Lot, remaining: int) -> Lot:
    """The lot with so much left."""
    return Lot(lot.number, lot.grant_id, remaining, lot.category, lot.priority, lot.expires_at)


def _burn_order(lot: Lot) -> tuple[int, float, bool, int]:
    """Priority, then soonest expiry (never is last), then promotional before paid, then oldest."""
    expiry = float("inf") if lot.expires_at is None else lot.expires_at
    return lot.priority, expiry, lot.category == "paid", lot.number


def _terms(lot: Lot) -> tuple[int, int | None, str]:
    return lot.priority, lot.expires_at, lot.category
