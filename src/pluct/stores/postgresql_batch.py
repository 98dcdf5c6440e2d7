"""What one batch reads of a PostgreSQL ledger, under locks, and how it writes what has changed.

Locks are taken in one order everywhere: wallets by user, payments by id, checkouts by id; then, as rows are added,
wallets by user, claims by key, payments by name. So there is no deadlock.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from asyncpg import Connection

from pluct.commands import NOTHING, Command, Needs, needs, reference_key
from pluct.ledger import View
from pluct.model import Booked, CheckedOut, Checkout, Payment, Vended
from pluct.stores import rows

_LOCK_WALLETS = f"SELECT {rows.WALLET} FROM wallets WHERE user_id = ANY($1::text[]) ORDER BY user_id FOR UPDATE"
_CLAIMS = f"SELECT {rows.CLAIM} FROM claims WHERE key = ANY($1::bytea[])"
_TICKETS = f"SELECT {rows.TICKET} FROM tickets WHERE id = ANY($1::text[])"
#: By id, by reference or link, and those of checkouts that may be the same money as another that is told of.
_LOCK_PAYMENTS = f"""
SELECT {rows.PAYMENT} FROM payments WHERE id IN (
  SELECT unnest($1::text[])
  UNION ALL SELECT id FROM unnest($2::text[], $3::text[]) AS named (a, b)
    JOIN payments ON namespace = a AND reference = b
  UNION ALL SELECT id FROM unnest($2::text[], $3::text[]) AS named (a, b) JOIN payments ON namespace = a AND link = b
  UNION ALL SELECT id FROM payments
    WHERE checkout_id = ANY($4::text[]) AND (reference IS NULL OR state IN ('unmatched', 'review'))
) ORDER BY id FOR UPDATE
"""
_LOCK_CHECKOUTS = f"SELECT {rows.CHECKOUT} FROM checkouts WHERE id = ANY($1::text[]) ORDER BY id FOR UPDATE"


def _add(table: str, row: str, columns: str) -> str:
    return f"INSERT INTO {table} ({columns}) SELECT {columns} FROM unnest(${{}}::{row}[])"


def _change(table: str, row: str, columns: str, key: str) -> str:
    changes = ", ".join(f"{column} = n.{column}" for column in columns.split(", ") if column != key)
    return f"UPDATE {table} t SET {changes} FROM unnest(${{}}::{row}[]) n WHERE t.{key} = n.{key}"


#: How a batch is written, in one statement: a part for each kind of change there is. Rows that another process may add
#: at the same moment are in the same order in every statement, parts as well as rows: that is the order of locks.
_PARTS = {
    "new_wallets": _add("wallets", "wallet_row_2", rows.WALLET),
    "new_claims": _add("claims", "claim_row", rows.CLAIM),
    "new_payments": _add("payments", "payment_row", rows.PAYMENT),
    "new_checkouts": _add("checkouts", "checkout_row", rows.CHECKOUT),
    "claims": _change("claims", "claim_row", rows.CLAIM, "key"),
    "wallets": _change("wallets", "wallet_row_2", rows.WALLET, "user_id"),
    "payments": _change("payments", "payment_row", rows.PAYMENT, "id"),
    "checkouts": _change("checkouts", "checkout_row", rows.CHECKOUT, "id"),
    "new_tickets": _add("tickets", "ticket_row", rows.TICKET),
    "tickets": _change("tickets", "ticket_row", "id, state, redeemed_at, captured, returned, due_at", "id"),
    "entries": _add("entries", "entry_row", rows.ENTRY),
    "events": _add("payment_events", "event_row", rows.EVENT),
    "letters": _add("letters", "letter_row", rows.LETTER),
    "probe": "INSERT INTO probe VALUES (1, ${}) ON CONFLICT (id) DO UPDATE SET at = excluded.at",
}


async def fetch(connection: "Connection[Any]", next_id: Callable[[], str], commands: Sequence[Command]) -> View:
    """Lock the wallets the commands name, then load claims, then what else they need and what claims remember.

    Each statement sees what was committed before it began, so what it reads of a locked wallet is final.
    """
    view = View(next_id)
    users = {command.user_id for command in commands} - {""}
    if users:
        for row in await connection.fetch(_LOCK_WALLETS, list(users)):
            view.wallets[row[0]] = rows.wallet(row)
    needed = [need for command in commands if (need := needs(command)) is not NOTHING]
    wanted = _Wanted(needed)
    keys = {once.key for command in commands for once in command.claims}
    if keys:
        await _fetch_claims(connection, view, keys, wanted)
    if wanted.tickets:
        for row in await connection.fetch(_TICKETS, list(wanted.tickets)):
            view.tickets[row[0]] = rows.ticket(row)
    if wanted.of_payments:
        await _fetch_payments(connection, view, wanted)
    return view


class _Wanted:
    """What a batch needs to see besides wallets and claims; claims may remember more of it."""

    def __init__(self, needed: Sequence[Needs]) -> None:
        self.tickets = {id for need in needed for id in need.tickets}
        self.payments = {id for need in needed for id in need.payments}
        self.names = {name for need in needed for name in need.payment_names}
        self.checkouts = {id for need in needed for id in need.checkouts}
        self.references = {reference for need in needed for reference in need.references}

    @property
    def of_payments(self) -> bool:
        """Whether payments or checkouts are among it."""
        return bool(self.payments or self.names or self.checkouts)


async def _fetch_claims(connection: "Connection[Any]", view: View, keys: Iterable[bytes], wanted: _Wanted) -> None:
    for row in await connection.fetch(_CLAIMS, list(keys)):
        claim = view.claims[row[0]] = rows.claim(row)
        match claim.outcome:
            case Vended(ticket_id=ticket_id):
                wanted.tickets.add(ticket_id)
            case CheckedOut(checkout_id=checkout_id):
                wanted.checkouts.add(checkout_id)
            case Booked(payment_id=str(payment_id)):
                wanted.payments.add(payment_id)


async def _fetch_payments(connection: "Connection[Any]", view: View, wanted: _Wanted) -> None:
    """Lock the payments, then their checkouts, and load what is claimed under their references. See `Needs`."""
    namespaces, names = [name[0] for name in wanted.names], [name[1] for name in wanted.names]
    found = await connection.fetch(
        _LOCK_PAYMENTS, list(wanted.payments), namespaces, names, list(wanted.checkouts)
    )  # fmt: skip
    view.payments = {payment.id: payment for payment in map(rows.payment, found)}
    payments = view.payments.values()
    checkouts = {*wanted.checkouts, *(payment.checkout_id for payment in payments if payment.checkout_id)}
    if checkouts:
        for row in await connection.fetch(_LOCK_CHECKOUTS, list(checkouts)):
            view.checkouts[row[0]] = Checkout(*row)
    references = {*wanted.references, *(payment.reference for payment in payments if payment.reference)}
    if references:
        await _fetch_claims(connection, view, map(reference_key, references), wanted)


class Known:
    """Which rows were there before a batch was decided; the others are new."""

    def __init__(self, view: View) -> None:
        self.wallets, self.claims = frozenset(view.wallets), frozenset(view.claims)
        self.payments, self.checkouts = frozenset(view.payments), frozenset(view.checkouts)


async def record(connection: "Connection[Any]", view: View, known: Known) -> None:
    """Write what the view says has changed, in one statement and so in one round trip."""
    changes: dict[str, Any] = {}
    for name, before, changed in (
        ("wallets", known.wallets, [rows.wallet_row(wallet) for _, wallet in sorted(view.changed_wallets.items())]),
        ("claims", known.claims, [rows.claim_row(claim) for _, claim in sorted(view.changed_claims.items())]),
        ("payments", known.payments, [rows.payment_row(p) for p in sorted(view.changed_payments.values(), key=_name)]),
        ("checkouts", known.checkouts, [rows.checkout_row(c) for _, c in sorted(view.changed_checkouts.items())]),
    ):  # fmt: skip
        if changed:
            changes["new_" + name] = [row for row in changed if row[0] not in before]
            changes[name] = [row for row in changed if row[0] in before]
    changes |= {
        "new_tickets": [rows.ticket_row(ticket) for ticket in view.new_tickets.values()],
        "tickets": [rows.ticket_row(ticket) for ticket in view.changed_tickets.values()],
        "entries": [rows.entry_row(entry) for entry in view.entries],
        "events": [rows.event_row(event) for event in view.events],
        "letters": [rows.letter_row(letter) for letter in view.letters],
        "probe": view.probed_at,
    }
    written = [name for name in _PARTS if changes.get(name)]
    parts = [f"part_{at} AS ({_PARTS[name].format(at)})" for at, name in enumerate(written, 1)]
    await connection.execute(f"WITH {', '.join(parts)} SELECT", *(changes[name] for name in written))


def _name(payment: Payment) -> tuple[str, str, str]:
    """By what other processes may add the same payment."""
    return payment.namespace, payment.reference or "", payment.id
