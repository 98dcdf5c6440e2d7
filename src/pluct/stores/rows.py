"""Values as rows and back: the same columns in every database."""

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec.structs import astuple

from pluct.model import Claim, Entry, Lot, Ticket, Wallet

WALLET = "user_id, available, held, debt, entries, last_entry_id, next_expiry_at, updated_at, lots"
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

#: The ledger's tables with their columns. The first column is the key.
TABLES = {"wallets": WALLET, "entries": ENTRY, "tickets": TICKET, "claims": CLAIM, "api_keys": API_KEY}

_encode = msgspec.json.Encoder().encode
_lots = msgspec.json.Decoder(tuple[Lot, ...]).decode
_outcome: Callable[[str], Any] = msgspec.json.Decoder(Claim.__annotations__["outcome"]).decode


def key(table: str) -> str:
    """The column that tells a table's rows apart."""
    return TABLES[table].partition(",")[0]


def wallet(row: Any) -> Wallet:
    """A wallet from its row."""
    user_id, available, held, debt, entries, last_entry_id, _, updated_at, lots = row
    return Wallet(user_id, available, held, debt, _lots(lots), entries, last_entry_id, updated_at)


def wallet_row(w: Wallet) -> tuple[Any, ...]:
    """A wallet's row."""
    lots = _encode(w.lots).decode()
    return w.user_id, w.available, w.held, w.debt, w.entries, w.last_entry_id, w.next_expiry_at, w.updated_at, lots


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
