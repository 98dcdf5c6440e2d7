"""The words of the business as frozen values.

Nothing here knows where values are kept, how they are sent or what may be done to them: the rules are in
`ledger.py`. Amounts are whole credits. Times are integer milliseconds since 1970-01-01T00:00:00Z; a name
ending in `_seconds` is a duration. Ids are UUIDv7 in their text form.
"""

from typing import Literal

import msgspec

Category = Literal["paid", "promotional"]
Settlement = Literal["vend", "redeem", "report"]
TicketState = Literal["issued", "redeemed", "captured", "voided", "expired"]
Role = Literal["mint", "service", "operator"]
EntryKind = Literal["grant", "vend", "hold", "capture", "return", "refund", "expire", "adjust", "repay"]

#: The largest single amount a caller may name, in credits.
AMOUNT_MAX = 1_000_000_000
#: The largest balance: every integer up to it survives a JavaScript client (2^53 - 1).
BALANCE_MAX = 2**53 - 1
#: Open lots one wallet keeps apart; beyond it, lots of equal terms are joined.
LOTS_MAX = 1_000
#: Lots burn by priority, low first.
PRIORITY_DEFAULT = 50
PRIORITY_MAX = 100


class Lot(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is left of one grant inside a wallet, or the part of it that one ticket took."""

    number: int  # the wallet's entry number of the grant: its age
    grant_id: str
    remaining: int
    category: Category
    priority: int
    expires_at: int | None


class Wallet(msgspec.Struct, frozen=True, gc=False):
    """One user's credits. `lots` are in burn-down order and sum to `available`."""

    user_id: str
    available: int = 0
    held: int = 0
    debt: int = 0
    lots: tuple[Lot, ...] = ()
    entries: int = 0  # how many there are, and so the number of the last one
    last_entry_id: str | None = None
    updated_at: int = 0

    @property
    def promotional(self) -> int:
        """The part of `available` that was given, not bought."""
        return sum(lot.remaining for lot in self.lots if lot.category == "promotional")

    @property
    def next_expiry_at(self) -> int | None:
        """When the first lot expires, if one does."""
        return min((lot.expires_at for lot in self.lots if lot.expires_at is not None), default=None)


class Ticket(msgspec.Struct, frozen=True, gc=False):
    """The right to one action. Its id is the `jti` of its JWT."""

    id: str
    user_id: str
    action: str
    audience: str
    cost: int
    settle: Settlement
    report_seconds: int
    issued_at: int
    expires_at: int
    state: TicketState
    redeemed_at: int | None = None
    captured: int = 0
    returned: int = 0
    taken: tuple[Lot, ...] = ()  # which lots paid, in burn-down order

    @property
    def held(self) -> int:
        """Credits this ticket still reserves."""
        return self.cost - self.captured - self.returned

    @property
    def report_before(self) -> int | None:
        """When the backend's report is due, once the ticket is redeemed and owes one."""
        if self.settle != "report" or self.redeemed_at is None:
            return None
        return self.redeemed_at + self.report_seconds * 1000

    @property
    def due_at(self) -> int | None:
        """When the hold gives its credits back by itself; None when nothing is held."""
        if self.state == "issued":
            return self.expires_at
        return self.report_before if self.state == "redeemed" else None


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One immutable journal row: `amount` moved from the `debit` account to the `credit` account."""

    id: str
    user_id: str
    number: int  # within the wallet, from 1, with no gap
    previous_id: str | None
    at: int
    kind: EntryKind
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


CheckoutState = Literal["created", "pending", "paid", "failed", "expired", "review"]
PaymentState = Literal[
    "unmatched", "review", "paid", "failed", "part_refunded", "refunded", "disputed", "written_off"
]  # fmt: skip


class Pack(msgspec.Struct, frozen=True, gc=False):
    """Credits at a price, as users buy them. `price` in minor units of `currency`."""

    id: str
    name: str
    currency: str
    price: int
    credits: int


class Checkout(msgspec.Struct, frozen=True, gc=False):
    """A user's wish to buy a pack at one gateway. Its `payment_code` is what people type; it stays payable for ever."""

    id: str
    user_id: str
    gateway: str
    pack_id: str
    currency: str
    price: int  # minor units
    credits: int
    payment_code: str
    token_hash: bytes  # SHA-256 of the token in its callback's address
    state: CheckoutState
    created_at: int
    updated_at: int
    message: str = ""  # for the user
    gateway_reference: str | None = None
    redirect_url: str | None = None
    phone_hash: bytes | None = None
    phone_mask: str | None = None
    due_at: int | None = None  # when the gateway is asked next
    asked: int = 0  # how often it was


class Granted(msgspec.Struct, frozen=True, tag="granted", omit_defaults=True, gc=False):
    """Credits were given."""

    user_id: str
    grant_id: str
    amount: int
    available_after: int
    replayed: bool = False


class Vended(msgspec.Struct, frozen=True, tag="vended", omit_defaults=True, gc=False):
    """A ticket was issued. A claim remembers only its id; `ticket` is the row as it stands."""

    ticket_id: str
    available_after: int
    ticket: Ticket | None = None
    replayed: bool = False


class Changed(msgspec.Struct, frozen=True, tag="changed", omit_defaults=True, gc=False):
    """A ticket was redeemed, captured or voided; `ticket` is the row right after that."""

    ticket: Ticket
    replayed: bool = False


class Adjusted(msgspec.Struct, frozen=True, tag="adjusted", omit_defaults=True, gc=False):
    """A person changed a balance; `entry` says by how much and why."""

    entry: Entry
    replayed: bool = False


class Expired(msgspec.Struct, frozen=True, tag="expired", omit_defaults=True, gc=False):
    """What a sweep found due for one user."""

    credits: int = 0  # of lots past their time
    tickets: int = 0  # holds given back
    replayed: bool = False


class Probed(msgspec.Struct, frozen=True, tag="probed", gc=False):
    """The store committed a row."""

    at: int


Outcome = Granted | Vended | Changed | Adjusted | Expired | Probed


class Claim(msgspec.Struct, frozen=True, gc=False):
    """A key that was used, the fingerprint of the request that used it, and what came of it."""

    key: bytes
    user_id: str
    fingerprint: bytes
    outcome: Granted | Vended | Changed | Adjusted
    at: int


class ApiKey(msgspec.Struct, frozen=True, gc=False):
    """A caller's key. Only the SHA-256 of its secret is kept."""

    id: str
    role: Role
    name: str
    secret_hash: bytes
    created_at: int
    revoked_at: int | None = None


def user_account(user_id: str) -> str:
    """The account of what a user can spend."""
    return "user:" + user_id


def held_account(user_id: str) -> str:
    """The account of what a user's open tickets reserve."""
    return "held:" + user_id


def debt_account(user_id: str) -> str:
    """The account of what a user owes (its balance is minus the debt)."""
    return "debt:" + user_id


def issued_account(source: str) -> str:
    """Where granted credits come from."""
    return "issued:" + source


def earned_account(action: str) -> str:
    """Where captured credits go."""
    return "earned:" + action


#: Where credits past their time go.
EXPIRED_ACCOUNT = "expired"
#: The other side of every manual change.
ADJUSTED_ACCOUNT = "adjusted"
