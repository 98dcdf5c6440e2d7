"""The words of the business as frozen values.

Nothing here knows where values are kept, how they are sent or what may be done to them: the rules are in
`ledger.py`. Amounts are whole credits. Times are integer milliseconds since 1970-01-01T00:00:00Z; a name
ending in `_seconds` is a duration. Ids are UUIDv7 in their text form.
"""

import hashlib
from base64 import urlsafe_b64encode
from typing import Literal

import msgspec

Category = Literal["paid", "promotional"]
Settlement = Literal["vend", "redeem", "report"]
TicketState = Literal["issued", "redeemed", "captured", "voided", "expired"]
Role = Literal["mint", "service", "operator"]
EntryKind = Literal[
    "grant", "vend", "hold", "capture", "return", "refund", "expire", "adjust", "repay", "clawback", "restore"
]

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
    frozen: tuple[str, ...] = ()  # why nothing is vended: ids of open disputes, `DEBT`
    remainders: tuple[tuple[str, int], ...] = ()  # money that bought nothing yet: currency, minor units

    @property
    def promotional(self) -> int:
        """The part of `available` that was given, not bought."""
        return sum(lot.remaining for lot in self.lots if lot.category == "promotional")

    @property
    def next_expiry_at(self) -> int | None:
        """When the first lot expires, if one does."""
        return min((lot.expires_at for lot in self.lots if lot.expires_at is not None), default=None)


class Family(msgspec.Struct, frozen=True):
    """What came of one registration: who it is, and which refresh token is good now. Secrets are kept as hashes."""

    id: str
    user_id: str
    seed: bytes  # goes into each next secret, so that the one before it does not tell it
    current: bytes
    spent: bytes | None  # the secret before, and the idempotency key it was traded under
    spent_key: bytes | None
    created_at: int
    refreshed_at: int
    expires_at: int
    revoked_at: int | None


LetterState = Literal["pending", "delivered", "dead"]


class Letter(msgspec.Struct, frozen=True, gc=False):
    """An event on its way to one address. A user's are delivered there in the order of `number`, then `id`."""

    id: str
    url: str
    user_id: str  # "" if it is about nobody
    number: int  # of the wallet's entry that it is about, or of the last one then
    kind: str
    content: str  # JSON
    at: int
    due_at: int
    state: LetterState = "pending"
    tries: int = 0
    answer: str = ""  # what came of the last try


class Sums(msgspec.Struct, frozen=True, gc=False):
    """What one process counted in one minute or hour that begins `at`."""

    step: str
    at: int
    process: str
    tally: str  # JSON


class Session(msgspec.Struct, frozen=True):
    """Somebody signed in to the console. Only the hash of what their browser keeps is known."""

    hash: bytes
    key_id: str
    created_at: int
    seen_at: int


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


OddAmounts = Literal["packs", "pro_rata", "hold"]
Clawback = Literal["debt", "floor", "freeze"]
DisputeChange = Literal["opened", "funds_withdrawn", "funds_reinstated", "closed"]

#: Why a wallet is frozen, besides disputes: it owes credits, and the claw-back policy is `freeze`.
DEBT = "debt"
#: A refund of everything, where the amount is not known yet.
ALL_OF_IT = BALANCE_MAX


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


class Priced(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How often a pack was bought by one payment. `count` 0: money became credits at this pack's rate."""

    pack_id: str
    price: int
    credits: int
    count: int


class Case(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One dispute of a payment, as far as its events have told. Each field only moves on, whatever their order."""

    id: str
    stage: Literal["unheard", "open", "closed"] = "unheard"
    funds: Literal["here", "withdrawn", "reinstated"] = "here"
    amount: int | None = None  # of the money withdrawn; None: all
    lost: int = 0  # credits that were not there to be taken back for it


class Payment(msgspec.Struct, frozen=True, gc=False):
    """Money that came in, or that is said to have gone back before it came (`amount` 0). Money in minor units."""

    id: str
    gateway: str
    namespace: str
    currency: str
    at: int
    updated_at: int
    state: PaymentState = "unmatched"
    reference: str | None = None  # once-only within the namespace; None while only its checkout is known to be paid
    link: str | None = None  # another id by which refunds and disputes name it
    user_id: str | None = None
    checkout_id: str | None = None
    amount: int = 0
    confirmed: bool = True
    minted: int = 0  # credits
    grant_id: str | None = None
    refunded: int = 0  # money, in all
    clawed: int = 0  # credits that went back with the money, in all
    lost: int = 0  # those of them that were not there to be taken
    disputes: tuple[Case, ...] = ()
    code: str | None = None  # as a person typed it; not None: a person typed the amount too
    phone_hash: bytes | None = None
    phone_mask: str | None = None
    note: str = ""  # for operators: why it is where it is
    priced: tuple[Priced, ...] = ()  # empty: it bought no pack, or was granted by hand before it was heard of
    remainder_before: int = 0
    remainder_after: int = 0

    @property
    def settled(self) -> bool:
        """Whether its credits are a user's (they may have been taken back since)."""
        return self.state in ("paid", "part_refunded", "refunded", "disputed")


class PaymentEvent(msgspec.Struct, frozen=True, gc=False):
    """What a gateway, or an operator, said: kept with the change it made, redacted."""

    id: str
    gateway: str
    key: str  # once-only within the gateway
    kind: str  # the gateway's own word for it
    at: int
    raw: bytes
    note: str = ""
    payment_id: str | None = None
    checkout_id: str | None = None


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


class CheckedOut(msgspec.Struct, frozen=True, tag="checked_out", omit_defaults=True, gc=False):
    """A checkout was opened or went on. A claim remembers only its id; `checkout` is the row as it stands."""

    checkout_id: str
    checkout: Checkout | None = None
    replayed: bool = False


class Booked(msgspec.Struct, frozen=True, tag="booked", omit_defaults=True, gc=False):
    """Something became of a payment. A claim remembers its id and the figures; `payment` is the row as it stands."""

    payment_id: str | None  # None: a checkout that is paid was said to be paid, and no receipt was named
    minted: int = 0  # credits, by this command
    clawed: int = 0  # credits taken back by this command, a debt included; below 0: restored
    lost: int = 0  # credits that should have been taken back and were not there
    available_after: int | None = None  # None: no wallet was touched
    payment: Payment | None = None
    replayed: bool = False


class Noted(msgspec.Struct, frozen=True, tag="noted", omit_defaults=True, gc=False):
    """An event was kept."""

    event_id: str
    replayed: bool = False


class Probed(msgspec.Struct, frozen=True, tag="probed", gc=False):
    """The store committed a row."""

    at: int


#: What a claim can remember.
Remembered = Granted | Vended | Changed | Adjusted | CheckedOut | Booked | Noted
Outcome = Remembered | Expired | Probed


class Claim(msgspec.Struct, frozen=True, gc=False):
    """A key that was used, the fingerprint of the request that used it, and what came of it."""

    key: bytes
    user_id: str
    fingerprint: bytes
    outcome: Remembered
    at: int


class ApiKey(msgspec.Struct, frozen=True, gc=False):
    """A caller's key. Only the SHA-256 of its secret is kept."""

    id: str
    role: Role
    name: str
    secret_hash: bytes
    created_at: int
    revoked_at: int | None = None


class SigningKey(msgspec.Struct, frozen=True, gc=False):
    """A key that signs tickets (Ed25519). Its id is its public key's thumbprint; the private key is kept encrypted."""

    kid: str
    public: bytes
    sealed: bytes  # the private key, under PLUCT_KEY_SECRET
    created_at: int  # published from then on
    signs_from: int  # the tickets issued from then on, until another key takes over
    ticket_seconds: int  # no ticket that it signs lives longer
    retired_at: int | None = None  # from then on it is not believed any more


def thumbprint(public: bytes) -> str:
    """The id of an Ed25519 public key: the SHA-256 of its JWK in canonical form (RFC 7638)."""
    jwk = f'{{"crv":"Ed25519","kty":"OKP","x":"{base64url(public)}"}}'
    return base64url(hashlib.sha256(jwk.encode()).digest())


def base64url(data: bytes) -> str:
    """Base64 for URLs, without padding (RFC 7515, section 2)."""
    return urlsafe_b64encode(data).rstrip(b"=").decode()


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
