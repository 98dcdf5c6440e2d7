"""What can be asked of the ledger. A command is a frozen value that carries all a rule needs but the clock.

Every command names its user, so a store knows which wallet to load and, one day, which shard to ask.
"""

import re
from hashlib import blake2b
from typing import Literal

import msgspec

from pluct.errors import InvalidRequest
from pluct.model import (
    Category,
    Checkout,
    CheckoutState,
    Clawback,
    DisputeChange,
    OddAmounts,
    Pack,
    PaymentEvent,
    Settlement,
)

TEXT_LENGTH_MAX = 200
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def text(value: str, name: str) -> str:
    """A short text as ids, keys and references are: 1 to 200 characters, none of them a control character."""
    if not 1 <= len(value) <= TEXT_LENGTH_MAX or _CONTROL.search(value):
        raise InvalidRequest(f"{name} must be 1 to {TEXT_LENGTH_MAX} characters, without control characters.")
    return value


class Once(msgspec.Struct, frozen=True, gc=False):
    """A key this command may use once, and the fingerprint of the request that comes with it."""

    key: bytes
    fingerprint: bytes
    kind: Literal["idempotency_key", "reference"] = "idempotency_key"


def once(operation: str, scope: str, key: str, *request: object) -> Once:
    """The claim of `key` for `operation` within `scope` (a user, an API key), by a request of these known fields."""
    return Once(_digest(20, operation, scope, key), _digest(16, *request))


def once_by_reference(reference: str, user_id: str, amount: int) -> Once:
    """The claim of a payment's id: shared by every way in, so that one payment mints once, whoever it names."""
    return Once(_digest(20, "reference", "", reference), _digest(16, user_id, amount), "reference")


def reference_key(reference: str) -> bytes:
    """The key under which a payment's id is claimed."""
    return once_by_reference(reference, "", 0).key


def once_by_event(gateway: str, key: str) -> Once:
    """The claim of a gateway's event: sent again, in whatever form, it answers what came of it."""
    return once("event", gateway, key)


def _digest(size: int, *parts: object) -> bytes:
    return blake2b(msgspec.json.encode(parts), digest_size=size).digest()


class Fund(msgspec.Struct, frozen=True, gc=False):
    """Grant credits. A debt is repaid first."""

    user_id: str
    grant_id: str
    amount: int
    source: str
    category: Category = "paid"
    priority: int = 50
    expires_at: int | None = None
    reference: str | None = None
    reason: str | None = None
    actor: str | None = None
    claims: tuple[Once, ...] = ()
    seen: int | None = None  # how many entries the wallet had when a person decided this


class Vend(msgspec.Struct, frozen=True, gc=False):
    """Issue a ticket: take its cost at once (`vend`) or hold it (`redeem`, `report`)."""

    user_id: str
    ticket_id: str
    action: str
    audience: str
    cost: int
    ttl_seconds: int
    settle: Settlement = "vend"
    report_seconds: int = 0
    claims: tuple[Once, ...] = ()


class Redeem(msgspec.Struct, frozen=True, gc=False):
    """A backend accepts a ticket: once, before it expires. The times are those that its token says."""

    user_id: str
    ticket_id: str
    audience: str
    claims: tuple[Once, ...] = ()
    starts_at: int | None = None
    expires_at: int | None = None


class Capture(msgspec.Struct, frozen=True, gc=False):
    """The work was done: keep `amount` (None: all) of the hold, return the rest."""

    user_id: str
    ticket_id: str
    amount: int | None
    grace_seconds: int
    claims: tuple[Once, ...] = ()


class Void(msgspec.Struct, frozen=True, gc=False):
    """Cancel an issued ticket, release a redeemed one, or refund a captured one: all credits go back."""

    user_id: str
    ticket_id: str
    grace_seconds: int
    reason: str
    actor: str | None = None
    claims: tuple[Once, ...] = ()


class Expire(msgspec.Struct, frozen=True, gc=False):
    """The sweep: expire the user's lots and give back the named holds, as far as they are due."""

    user_id: str
    grace_seconds: int
    ticket_ids: tuple[str, ...] = ()
    claims: tuple[Once, ...] = ()


class Adjust(msgspec.Struct, frozen=True, gc=False):
    """A person gives (`amount` > 0) or takes (`amount` < 0) credits, and says why."""

    user_id: str
    grant_id: str
    amount: int
    reason: str
    actor: str
    claims: tuple[Once, ...] = ()
    seen: int | None = None  # how many entries the wallet had when a person decided this


class Probe(msgspec.Struct, frozen=True, gc=False):
    """Change nothing, but have the store commit a row: the honest health check."""

    user_id: str = ""
    claims: tuple[Once, ...] = ()


class OpenCheckout(msgspec.Struct, frozen=True, gc=False):
    """A user wishes to buy a pack."""

    user_id: str
    checkout: Checkout
    claims: tuple[Once, ...] = ()


class Progress(msgspec.Struct, frozen=True, gc=False):
    """What a gateway said of a checkout, money aside. It moves forward only, and never away from paid."""

    user_id: str
    checkout_id: str
    state: CheckoutState
    message: str
    gateway_reference: str | None = None  # kept if there is none yet, and so is the address
    redirect_url: str | None = None
    due_at: int | None = None
    asked: int = 0
    event: PaymentEvent | None = None
    claims: tuple[Once, ...] = ()


class Receive(msgspec.Struct, frozen=True, gc=False):
    """Money came in: for this user's checkout, for this user, or (no user) for nobody knows whom."""

    user_id: str
    payment_id: str
    grant_id: str
    event: PaymentEvent
    namespace: str
    reference: str | None  # None: only that the checkout is paid is known
    amount: int | None  # None: the gateway did not say
    currency: str
    packs: tuple[Pack, ...]
    odd_amounts: OddAmounts
    clawback: Clawback
    link: str | None = None
    checkout_id: str | None = None
    code: str | None = None
    typed: bool = False
    confirmed: bool = True
    phone_hash: bytes | None = None
    phone_mask: str | None = None
    at: int | None = None
    gateway_reference: str | None = None  # the checkout's, kept if there is none yet
    claims: tuple[Once, ...] = ()


class TakeBack(msgspec.Struct, frozen=True, gc=False):
    """Money of a payment went back; `refunded` is all of it so far (None: everything)."""

    user_id: str
    namespace: str
    reference: str  # or the link
    refunded: int | None
    event: PaymentEvent
    clawback: Clawback
    currency: str | None = None  # None: the payment's
    claims: tuple[Once, ...] = ()


class Dispute(msgspec.Struct, frozen=True, gc=False):
    """The payer's bank contests a payment, moves the money, or is done."""

    user_id: str
    namespace: str
    reference: str  # or the link
    dispute_id: str
    change: DisputeChange
    amount: int | None  # of the money withdrawn; None: all
    event: PaymentEvent
    clawback: Clawback
    claims: tuple[Once, ...] = ()


class Assign(msgspec.Struct, frozen=True, gc=False):
    """A person says whose an unmatched or held payment is."""

    user_id: str
    payment_id: str
    grant_id: str
    actor: str
    reason: str
    packs: tuple[Pack, ...]
    odd_amounts: OddAmounts
    clawback: Clawback
    claims: tuple[Once, ...] = ()


class WriteOff(msgspec.Struct, frozen=True, gc=False):
    """A person says that an unmatched or held payment will be nobody's."""

    user_id: str
    payment_id: str
    actor: str
    reason: str
    claims: tuple[Once, ...] = ()


class Note(msgspec.Struct, frozen=True, gc=False):
    """Keep an event that means nothing."""

    user_id: str
    event: PaymentEvent
    claims: tuple[Once, ...] = ()


Command = (
    Fund | Vend | Redeem | Capture | Void | Expire | Adjust | Probe
    | OpenCheckout | Progress | Receive | TakeBack | Dispute | Assign | WriteOff | Note
)  # fmt: skip


class Needs(msgspec.Struct, frozen=True, gc=False):
    """The rows a command must see, besides its user's wallet and its claims with the rows they remember.

    Payments come with their checkouts; checkouts with those of their payments that may turn out to be the same money
    as another: without a receipt, or not settled yet.
    """

    tickets: tuple[str, ...] = ()
    payments: tuple[str, ...] = ()
    payment_names: tuple[tuple[str, str], ...] = ()  # namespace, and reference or link
    checkouts: tuple[str, ...] = ()
    references: tuple[str, ...] = ()  # whose claims are needed, besides those of the payments found


NOTHING = Needs()


def needs(command: Command) -> Needs:
    """The existing rows a command must see."""
    match command:
        case Vend() | Fund():  # first, since they are most
            return NOTHING
        case Redeem() | Capture() | Void():
            return Needs((command.ticket_id,))
        case Expire() if command.ticket_ids:
            return Needs(command.ticket_ids)
        case Progress():
            return Needs(checkouts=(command.checkout_id,))
        case Receive():
            names = tuple((command.namespace, name) for name in (command.reference, command.link) if name is not None)
            checkouts = () if command.checkout_id is None else (command.checkout_id,)
            references = () if command.reference is None else (command.reference,)
            return Needs(payment_names=names, checkouts=checkouts, references=references)
        case TakeBack() | Dispute():
            return Needs(payment_names=((command.namespace, command.reference),))
        case Assign() | WriteOff():
            return Needs(payments=(command.payment_id,))
        case _:
            return NOTHING
