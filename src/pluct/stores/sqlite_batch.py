"""What one batch reads of a SQLite ledger, and how it writes what has changed: a few statements, each many times."""

import sqlite3
from collections.abc import Callable, Sequence

from pluct.commands import NOTHING, Command, Needs, needs, reference_key
from pluct.ledger import View
from pluct.model import Booked, CheckedOut, Checkout, Vended
from pluct.stores import rows

_WALLET = f"SELECT {rows.WALLET} FROM wallets WHERE user_id = ?"
_TICKET = f"SELECT {rows.TICKET} FROM tickets WHERE id = ?"
_CLAIM = f"SELECT {rows.CLAIM} FROM claims WHERE key = ?"

_PUT_WALLET = f"""
INSERT INTO wallets ({rows.WALLET})
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (user_id) DO UPDATE SET available = excluded.available, held = excluded.held, debt = excluded.debt,
  entries = excluded.entries, last_entry_id = excluded.last_entry_id, next_expiry_at = excluded.next_expiry_at,
  updated_at = excluded.updated_at, lots = excluded.lots, standing = excluded.standing
"""
_ADD_ENTRY = "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_ADD_TICKET = "INSERT INTO tickets VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_SETTLE_TICKET = "UPDATE tickets SET state = ?, redeemed_at = ?, captured = ?, returned = ?, due_at = ? WHERE id = ?"
_PUT_CLAIM = f"INSERT OR REPLACE INTO claims ({rows.CLAIM}) VALUES (?, ?, ?, ?, ?)"

_PAYMENT = f"SELECT {rows.PAYMENT} FROM payments WHERE "
_CHECKOUT = f"SELECT {rows.CHECKOUT} FROM checkouts WHERE id = ?"
#: Payments of a checkout that may be the same money as another that is told of.
_OPEN_PAYMENTS = _PAYMENT + "checkout_id = ? AND (reference IS NULL OR state IN ('unmatched', 'review'))"


def _put(table: str, columns: str) -> str:
    """A statement for a row that is new or takes the place of the one with its id."""
    names = columns.split(", ")
    changes = ", ".join(f"{name} = excluded.{name}" for name in names if name != "id")
    marks = ", ".join("?" * len(names))
    return f"INSERT INTO {table} ({columns}) VALUES ({marks}) ON CONFLICT (id) DO UPDATE SET {changes}"


_PUT_PAYMENT = _put("payments", rows.PAYMENT)
_PUT_CHECKOUT = _put("checkouts", rows.CHECKOUT)
_ADD_LETTER = f"INSERT INTO letters ({rows.LETTER}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_ADD_EVENT = f"INSERT INTO payment_events ({rows.EVENT}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"


def fetch(connection: sqlite3.Connection, next_id: Callable[[], str], commands: Sequence[Command]) -> View:
    """Load what the commands name: their claims with what these remember, what else they need, their wallets."""
    view = View(next_id)
    execute = connection.execute
    for command in commands:
        for once in command.claims:
            _fetch_claim(execute, view, once.key)
        needed = needs(command)
        if needed is not NOTHING:
            _fetch_needed(execute, view, needed)
        user_id = command.user_id
        if user_id not in view.wallets:
            row = execute(_WALLET, (user_id,)).fetchone()
            if row is not None:
                view.wallets[user_id] = rows.wallet(row)
    return view


def _fetch_claim(execute: Callable[..., sqlite3.Cursor], view: View, key: bytes) -> None:
    row = execute(_CLAIM, (key,)).fetchone()
    if row is None:
        return
    claim = view.claims[key] = rows.claim(row)
    match claim.outcome:
        case Vended(ticket_id=ticket_id):
            _fetch_ticket(execute, view, ticket_id)
        case CheckedOut(checkout_id=checkout_id):
            _fetch_needed(execute, view, Needs(checkouts=(checkout_id,)))
        case Booked(payment_id=str(payment_id)):
            _fetch_needed(execute, view, Needs(payments=(payment_id,)))


def _fetch_ticket(execute: Callable[..., sqlite3.Cursor], view: View, ticket_id: str) -> None:
    row = execute(_TICKET, (ticket_id,)).fetchone()
    if row is not None:
        view.tickets[ticket_id] = rows.ticket(row)


def _fetch_needed(execute: Callable[..., sqlite3.Cursor], view: View, needed: Needs) -> None:
    """See `Needs`."""
    for ticket_id in needed.tickets:
        _fetch_ticket(execute, view, ticket_id)
    if not (needed.payments or needed.payment_names or needed.checkouts or needed.references):
        return  # as for every redemption and report
    payments = [row for id in needed.payments for row in execute(_PAYMENT + "id = ?", (id,))]
    for name in needed.payment_names:
        payments += execute(_PAYMENT + "namespace = ? AND reference = ?", name)
        payments += execute(_PAYMENT + "namespace = ? AND link = ?", name)
    for checkout_id in needed.checkouts:
        payments += execute(_OPEN_PAYMENTS, (checkout_id,))
    found = [rows.payment(row) for row in payments]
    view.payments |= {payment.id: payment for payment in found}
    checkouts = {*needed.checkouts, *(payment.checkout_id for payment in found if payment.checkout_id)}
    references = {*needed.references, *(payment.reference for payment in found if payment.reference)}
    for checkout_id in checkouts:
        for row in execute(_CHECKOUT, (checkout_id,)):
            view.checkouts[checkout_id] = Checkout(*row)
    for reference in references:
        _fetch_claim(execute, view, reference_key(reference))


def record(connection: sqlite3.Connection, view: View) -> None:
    """Write what the view says has changed."""
    executemany = connection.executemany
    if view.changed_claims:
        executemany(_PUT_CLAIM, [rows.claim_row(claim) for claim in view.changed_claims.values()])
    if view.changed_wallets:
        executemany(_PUT_WALLET, [rows.wallet_row(wallet) for wallet in view.changed_wallets.values()])
    if view.new_tickets:
        executemany(_ADD_TICKET, [rows.ticket_row(ticket) for ticket in view.new_tickets.values()])
    if view.changed_tickets:
        executemany(
            _SETTLE_TICKET,
            [(t.state, t.redeemed_at, t.captured, t.returned, t.due_at, t.id) for t in view.changed_tickets.values()],
        )
    if view.entries:
        executemany(_ADD_ENTRY, [rows.entry_row(entry) for entry in view.entries])
    if view.changed_payments:  # first those that give up their names: others take them over
        payments = sorted(view.changed_payments.values(), key=lambda payment: payment.state != "failed")
        executemany(_PUT_PAYMENT, [rows.payment_row(payment) for payment in payments])
    if view.changed_checkouts:
        executemany(_PUT_CHECKOUT, [rows.checkout_row(checkout) for checkout in view.changed_checkouts.values()])
    if view.events:
        executemany(_ADD_EVENT, [rows.event_row(event) for event in view.events])
    if view.letters:
        executemany(_ADD_LETTER, [rows.letter_row(letter) for letter in view.letters])
    if view.probed_at is not None:
        connection.execute("INSERT OR REPLACE INTO probe VALUES (1, ?)", (view.probed_at,))
