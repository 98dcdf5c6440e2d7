"""What can be asked of the ledger. A command is a frozen value that carries all a rule needs but the clock.

Every command names its user, so a store knows which wallet to load and, one day, which shard to ask.
"""

import re
from hashlib import blake2b
from typing import Literal

import msgspec

from pluct.errors import InvalidRequest
from pluct.model import Category, Settlement

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
    """A backend accepts a ticket: once, before it expires."""

    user_id: str
    ticket_id: str
    audience: str
    claims: tuple[Once, ...] = ()


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


class Probe(msgspec.Struct, frozen=True, gc=False):
    """Change nothing, but have the store commit a row: the honest health check."""

    user_id: str = ""
    claims: tuple[Once, ...] = ()


Command = Fund | Vend | Redeem | Capture | Void | Expire | Adjust | Probe


def ticket_ids(command: Command) -> tuple[str, ...]:
    """The existing tickets a command needs to see."""
    match command:
        case Redeem() | Capture() | Void():
            return (command.ticket_id,)
        case Expire():
            return command.ticket_ids
        case _:
            return ()
