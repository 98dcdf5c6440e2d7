"""Values as rows and back: the same columns in every database."""

from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from msgspec.structs import astuple

from pluct.model import (
    Case,
    Checkout,
    Claim,
    Entry,
    Family,
    Letter,
    Lot,
    Payment,
    PaymentEvent,
    Priced,
    SigningKey,
    Ticket,
    Wallet,
)

WALLET = "user_id, available, held, debt, entries, last_entry_id, next_expiry_at, updated_at, lots, standing"
ENTRY = (
    "id, user_id, number, previous_id, at, kind, amount, debit, credit, available_after, held_after,"
    " ticket_id, grant_id, reference, reason, actor"
)
TICKET = (
    "id, user_id, action, audience, cost, settle, report_seconds, issued_at, expires_at, state, redeemed_at,"
    " captured, returned, due_at, taken"
)
CLAIM = "key, user_id, fingerprint, at, outcome"
API_KEY = "id, role, name, secret_hash, created_at, revoked_at"
PAYMENT = ", ".join(Payment.__struct_fields__)
CHECKOUT = ", ".join(Checkout.__struct_fields__)
EVENT = ", ".join(PaymentEvent.__struct_fields__)
SIGNING_KEY = ", ".join(SigningKey.__struct_fields__)
LETTER = ", ".join(Letter.__struct_fields__)
FAMILY = ", ".join(Family.__struct_fields__)

#: The ledger's tables with their columns. The first column is the key.
TABLES = {
    "wallets": WALLET, "entries": ENTRY, "tickets": TICKET, "claims": CLAIM, "api_keys": API_KEY, "checkouts": CHECKOUT,
    "payments": PAYMENT, "payment_events": EVENT, "signing_keys": SIGNING_KEY,
    "families": FAMILY,
    "letters": LETTER,
}  # fmt: skip

_encode = msgspec.json.Encoder().encode
_lots = msgspec.json.Decoder(tuple[Lot, ...]).decode
_standing = msgspec.json.Decoder(tuple[tuple[str, ...], tuple[tuple[str, int], ...]]).decode
_disputes = msgspec.json.Decoder(tuple[Case, ...]).decode
_priced = msgspec.json.Decoder(tuple[Priced, ...]).decode
_DISPUTES, _PRICED, _CONFIRMED = map(Payment.__struct_fields__.index, ("disputes", "priced", "confirmed"))
_outcome: Callable[[str], Any] = msgspec.json.Decoder(Claim.__annotations__["outcome"]).decode


def key(table: str) -> str:
    """The column that tells a table's rows apart."""
    return TABLES[table].partition(",")[0]


def letter_row(letter: Letter) -> tuple[Any, ...]:
    """A letter's row."""
    return astuple(letter)


def wallet(row: Any) -> Wallet:
    """A wallet from its row."""
    user_id, available, held, debt, entries, last_entry_id, _, updated_at, lots, standing = row
    frozen, remainders = ((), ()) if standing is None else _standing(standing)
    return Wallet(
        user_id, available, held, debt, _lots(lots), entries, last_entry_id, updated_at, frozen, remainders
    )  # fmt: skip


def wallet_row(w: Wallet) -> tuple[Any, ...]:
    """A wallet's row."""
    return (
        w.user_id, w.available, w.held, w.debt, w.entries, w.last_entry_id, w.next_expiry_at, w.updated_at,
        _encode(w.lots).decode(), _encode((w.frozen, w.remainders)).decode() if w.frozen or w.remainders else None,
    )  # fmt: skip


def ticket(row: Any) -> Ticket:
    """A ticket from its row."""
    *columns, _, taken = row
    return Ticket(*(*columns, _lots(taken)))


def ticket_row(t: Ticket) -> tuple[Any, ...]:
    """A ticket's row."""
    return (
        t.id, t.user_id, t.action, t.audience, t.cost, t.settle, t.report_seconds, t.issued_at, t.expires_at, t.state,
        t.redeemed_at, t.captured, t.returned, t.due_at, _encode(t.taken).decode(),
    )  # fmt: skip


#: An entry's row: its fields, in their order.
entry_row: Callable[[Entry], tuple[Any, ...]] = astuple


def claim(row: Any) -> Claim:
    """A claim from its row."""
    key, user_id, fingerprint, at, outcome = row
    return Claim(key, user_id, fingerprint, _outcome(outcome), at)


def claim_row(c: Claim) -> tuple[Any, ...]:
    """A claim's row."""
    return c.key, c.user_id, c.fingerprint, c.at, _encode(c.outcome).decode()


def payment(row: Any) -> Payment:
    """A payment from its row: its fields, in their order, those that are lists as JSON."""
    values = list(row)
    values[_DISPUTES], values[_PRICED] = _disputes(values[_DISPUTES]), _priced(values[_PRICED])
    values[_CONFIRMED] = bool(values[_CONFIRMED])
    return Payment(*values)


def payment_row(p: Payment) -> tuple[Any, ...]:
    """A payment's row."""
    values = list(astuple(p))
    values[_DISPUTES], values[_PRICED] = _encode(p.disputes).decode(), _encode(p.priced).decode()
    values[_CONFIRMED] = int(p.confirmed)  # one database has no truth values
    return tuple(values)


#: Rows of checkouts and events: their fields, in their order.
checkout_row: Callable[[Checkout], tuple[Any, ...]] = astuple
event_row: Callable[[PaymentEvent], tuple[Any, ...]] = astuple

#: So many signing keys are looked at, the newest: one a day for years.
SIGNING_KEYS_MAX = 1_000
#: Reading and writing signing keys is the same in every database.
READ_SIGNING_KEYS = f"""
SELECT {SIGNING_KEY} FROM signing_keys ORDER BY signs_from DESC, created_at DESC, kid DESC LIMIT {SIGNING_KEYS_MAX}
"""
WRITE_SIGNING_KEY = f"""
INSERT INTO signing_keys ({SIGNING_KEY}) VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (kid) DO UPDATE SET signs_from = excluded.signs_from, ticket_seconds = excluded.ticket_seconds,
  retired_at = excluded.retired_at
"""


def signing_keys(found: Iterable[Any]) -> list[SigningKey]:
    """Signing keys from their rows, in the order in which they sign."""
    return [SigningKey(*row) for row in found][::-1]


signing_key_row: Callable[[SigningKey], tuple[Any, ...]] = astuple
