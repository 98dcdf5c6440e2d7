"""Comparing what M-Pesa says was paid with what the ledger knows, line by line, and bringing in what it does not.

What is found is kept in a temporary file until it is asked for, so that a statement of a million lines takes no more
memory than one of a thousand. Nothing is changed unless `apply` is said.
"""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO, Literal, get_args

import msgspec

from pluct.cashier import Cashier
from pluct.errors import InvalidRequest
from pluct.gateways import MPESA, Notice, Paid, Refunded
from pluct.gateways.privacy import Privacy, phone_number
from pluct.model import Booked, Payment
from pluct.money import decimal_text
from pluct.mpesa_statement import CURRENCY, Line, Unreadable, read
from pluct.web.v1 import rfc3339

#: Lines looked up at once.
CHUNK = 500
Kind = Literal["matched", "amountDiffers", "providerOnly", "oursOnly", "reversed", "ignored"]
KINDS: tuple[Kind, ...] = get_args(Kind)
GATEWAY = "daraja"


class Row(msgspec.Struct, rename="camel", omit_defaults=True):
    """One finding. `amount` is M-Pesa's, `ours` the ledger's; decimal strings. `note` says what to think of it."""

    receipt: str | None  # always said: None if the ledger does not know it yet
    line: int | None = None  # of the file
    at: str | None = None
    amount: str | None = None
    ours: str | None = None
    account: str | None = None
    payment_id: str | None = None
    state: str | None = None
    user_id: str | None = None
    note: str | None = None
    applied: bool | None = None


class Total(msgspec.Struct):
    """How many rows of a kind there are, and their money in cents."""

    rows: int = 0
    cents: int = 0


class Reconciliation:
    """A comparison at work, and then what it found."""

    def __init__(self, cashier: Cashier, *, apply: bool = False) -> None:
        self._cashier, self._apply = cashier, apply
        self.totals: dict[Kind, Total] = {kind: Total() for kind in KINDS}
        self.lines = 0
        self.begin: int | None = None  # the period that the statement covers, milliseconds
        self.end: int | None = None
        # An empty name is a temporary file of SQLite's own, gone when it is closed.
        self._found = sqlite3.connect("", isolation_level=None)
        self._found.execute("CREATE TABLE seen (receipt TEXT PRIMARY KEY) WITHOUT ROWID")
        self._found.execute("CREATE TABLE found (id INTEGER PRIMARY KEY, kind TEXT, row BLOB)")
        self._found.execute("CREATE INDEX found_by_kind ON found (kind, id)")

    def close(self) -> None:
        """Forget everything."""
        self._found.close()

    def rows(self, kind: Kind, limit: int = -1) -> Iterator[Row]:
        """What was found of a kind, in the statement's order."""
        query = "SELECT row FROM found WHERE kind = ? ORDER BY id LIMIT ?"
        for (row,) in self._found.execute(query, (kind, limit)):
            yield msgspec.json.decode(row, type=Row)

    async def run(self, file: BinaryIO, progress: Callable[[], None] = lambda: None) -> None:
        """Go through a statement. Raises `InvalidRequest` if it is none."""
        chunk: list[Line] = []
        for line in read(file):
            self.lines += 1
            if isinstance(line, Unreadable):
                self._keep("ignored", Row(line.receipt, line.number, note=line.why))
                continue
            self.begin = line.at if self.begin is None else min(self.begin, line.at)
            self.end = line.at if self.end is None else max(self.end, line.at)
            chunk.append(line)
            if len(chunk) == CHUNK:
                await self._compare(chunk)
                chunk = []
                progress()
        await self._compare(chunk)
        await self._ours()
        progress()

    async def _compare(self, chunk: Sequence[Line]) -> None:
        """Find the kind of each of these lines."""
        named = {line.linked if _undoes(line) else line.receipt for line in chunk}
        known = {payment.reference: payment for payment in await self._cashier.find_payments(MPESA, sorted(named))}
        self._found.execute("BEGIN")
        for line in chunk:
            row = Row(line.receipt, line.number, rfc3339(line.at), _money(line.paid_in or line.withdrawn))
            if line.account:
                row.account = self._cashier.shown_code(line.account)
            if line.status.lower() != "completed":
                row.note = f"Its status is {line.status or 'not said'}."
                self._keep("ignored", row)
            elif _undoes(line):
                await self._reversed(line, row, known.get(line.linked))
            elif not line.paid_in:
                row.note = f"Money that went out: {line.reason or line.details or 'not said what for'}."
                self._keep("ignored", row, line.withdrawn)
            elif not self._is_new(line.receipt):
                row.note = "This receipt is in the statement more than once."
                self._keep("ignored", row, line.paid_in)
            else:
                await self._paid(line, row, known.get(line.receipt))
        self._found.execute("COMMIT")

    async def _paid(self, line: Line, row: Row, payment: Payment | None) -> None:
        if payment is not None and payment.amount:
            _show(row, payment)
            self._keep("matched" if payment.amount == line.paid_in else "amountDiffers", row, line.paid_in)
            return
        row.note = "No callback told of it."
        if self._apply:
            booked = await self._cashier.hear(GATEWAY, _paid_notice(line, self._cashier.privacy))
            row.applied = True
            if isinstance(booked, Booked) and booked.payment is not None:
                _show(row, booked.payment)
                row.note = "Brought in." if booked.payment.settled else f"Brought in: {booked.payment.note}"
        self._keep("providerOnly", row, line.paid_in)

    async def _reversed(self, line: Line, row: Row, payment: Payment | None) -> None:
        """Money that was sent back: known already, or to be taken back."""
        undone = Row(line.linked or line.receipt, row.line, row.at, row.amount)
        if payment is None or not payment.amount:
            undone.note = f"{line.receipt} undoes a payment that the ledger does not know."
        else:
            _show(undone, payment)
            if payment.refunded >= min(line.withdrawn, payment.amount):
                undone.note = "The ledger knows."
            else:
                undone.note = "Its credits are still there."
                if self._apply:
                    await self._cashier.hear(GATEWAY, _refund_notice(line, self._cashier.privacy))
                    undone.applied, undone.note = True, "Its credits were taken back."
        self._keep("reversed", undone, line.withdrawn)

    async def _ours(self) -> None:
        """Payments that the ledger has in the statement's period, and that no line names.

        One that M-Pesa told of only when it was asked has no receipt that a line could name: it is credited, so it is
        among them until a line, or a callback, brings its receipt.
        """
        if self.begin is None or self.end is None:
            return
        after = ""
        while page := await self._cashier.payments_at(MPESA, self.begin, self.end + 999, after, CHUNK):
            self._found.execute("BEGIN")
            for payment in page:
                if not payment.amount or payment.state in ("failed", "written_off"):
                    continue
                if payment.reference is None:
                    note = "Paid by query; no receipt yet." if payment.settled else None
                else:
                    note = "M-Pesa's statement does not have it." if self._is_new(payment.reference) else None
                if note is not None:
                    row = Row(payment.reference, at=rfc3339(payment.at), note=note)
                    _show(row, payment)
                    self._keep("oursOnly", row, payment.amount)
            self._found.execute("COMMIT")
            after = page[-1].id

    def _is_new(self, receipt: str) -> bool:
        return self._found.execute("INSERT OR IGNORE INTO seen VALUES (?)", (receipt,)).rowcount == 1

    def _keep(self, kind: Kind, row: Row, cents: int = 0) -> None:
        self.totals[kind].rows += 1
        self.totals[kind].cents += cents
        self._found.execute("INSERT INTO found (kind, row) VALUES (?, ?)", (kind, msgspec.json.encode(row)))


def _undoes(line: Line) -> bool:
    """Whether the line is a reversal of money that had come in."""
    return line.withdrawn > 0 and not line.paid_in and "reversal" in f"{line.reason} {line.details}".lower()


def _show(row: Row, payment: Payment) -> None:
    row.ours, row.payment_id = _money(payment.amount), payment.id
    row.state, row.user_id = payment.state, payment.user_id


def _money(cents: int) -> str:
    return decimal_text(cents, CURRENCY)


def _paid_notice(line: Line, privacy: Privacy) -> Notice:
    """A line as a gateway's word: told again, it is the same."""
    try:
        phone: str | None = phone_number(line.party.partition(" ")[0])
    except InvalidRequest:
        phone = None
    paid = Paid(MPESA, line.receipt, line.paid_in, CURRENCY, code=line.account, typed=True, phone=phone, at=line.at)
    return Notice(f"statement:{line.receipt}:{line.paid_in}", "statement", _raw(line, privacy), paid)


def _refund_notice(line: Line, privacy: Privacy) -> Notice:
    back = Refunded(MPESA, line.linked, line.withdrawn, CURRENCY)
    return Notice(f"statement:{line.receipt}:{line.withdrawn}", "statement", _raw(line, privacy), back)


def _raw(line: Line, privacy: Privacy) -> bytes:
    """What is kept of a line: not who it was."""
    kept = {
        "Receipt No.": line.receipt, "Completion Time": rfc3339(line.at), "Transaction Status": line.status,
        "Paid In": _money(line.paid_in), "Withdrawn": _money(line.withdrawn), "Reason Type": line.reason,
        "Linked Transaction ID": line.linked, "A/C No.": line.account, "line": line.number,
    }  # fmt: skip
    return privacy.redacted(kept)
