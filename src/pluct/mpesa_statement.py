"""Reading an M-Pesa organisation statement (CSV) line by line: a million of them take no more memory than one.

Safaricom publishes no specification. What is known, from statements that organisations have published: some lines of
preamble, then a header that is recognised by `Receipt No.`, with columns in no fixed order; dates as
`22-11-2026 10:30:15` or as ISO writes them, in East Africa Time; thousands with commas; `Withdrawn` sometimes negative;
failed transactions and charges among the rest; sometimes several statements in one file.
"""

import codecs
import csv
import io
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import BinaryIO

import msgspec

from pluct.errors import InvalidRequest
from pluct.money import minor_units

CURRENCY = "KES"
NAIROBI = timezone(timedelta(hours=3))
#: Lines before the first header.
PREAMBLE_LINES_MAX = 200
LINE_CHARACTERS_MAX = 20_000
_EPOCH = datetime.fromtimestamp(0, UTC)
_HEADER = "receiptno"
#: What a column may be called, without spaces and points, in lower case.
_COLUMNS = {
    "receipt": ("receiptno", "receiptnumber"), "completed": ("completiontime", "completedtime"),
    "initiated": ("initiationtime",), "details": ("details",), "status": ("transactionstatus", "status"),
    "paid_in": ("paidin", "paidinkes", "credit"), "withdrawn": ("withdrawn", "withdrawal", "debit"),
    "reason": ("reasontype", "transactiontype"), "party": ("otherpartyinfo",),
    "linked": ("linkedtransactionid", "linkedtransaction"),
    "account": ("acno", "accountno", "accountnumber", "billreferencenumber"),
}  # fmt: skip
_DATES = (
    "%d-%m-%Y %H:%M:%S", "%d-%m-%Y %H:%M", "%d/%m/%Y %H:%M:%S", "%d/%m/%Y %H:%M", "%d.%m.%Y %H:%M:%S", "%Y%m%d%H%M%S",
    "%Y/%m/%d %H:%M:%S",
)  # fmt: skip
_RECEIPT = re.compile(r"[A-Z0-9]{8,20}")


class Line(msgspec.Struct, frozen=True):
    """One transaction. Money in cents."""

    number: int  # of the line in the file, from 1
    receipt: str
    at: int  # milliseconds
    status: str
    paid_in: int
    withdrawn: int
    details: str = ""
    reason: str = ""
    linked: str = ""  # the receipt of the transaction that this one undoes, if it names one
    account: str = ""  # what the payer typed
    party: str = ""


class Unreadable(msgspec.Struct, frozen=True):
    """A line that is no transaction, and why."""

    number: int
    why: str
    receipt: str = ""


def read(file: BinaryIO) -> Iterator[Line | Unreadable]:
    """Every line of a statement below its header. Raises `InvalidRequest` if there is no header."""
    columns: dict[str, int] | None = None
    delimiter = ","
    for number, text in _lines(file):
        if columns is None and number > PREAMBLE_LINES_MAX:
            break
        found = _header(text)
        if found is not None:
            columns, delimiter = found
            continue
        if columns is None or not text.strip():
            continue
        if len(text) > LINE_CHARACTERS_MAX:
            yield Unreadable(number, "The line is too long to be a transaction.")
            continue
        yield from _line(number, text, delimiter, columns)
    if columns is None:
        raise InvalidRequest(
            "This is no M-Pesa organisation statement: no line has a column called Receipt No. "
            "Export it from the M-Pesa portal as CSV."
        )


def _lines(file: BinaryIO) -> Iterator[tuple[int, str]]:
    """Lines with their numbers; of one that is too long, the beginning."""
    begin = file.read(2)
    file.seek(0)
    encoding = "utf-16" if begin in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
    text = io.TextIOWrapper(file, encoding, errors="replace")
    number, begins = 0, True
    try:
        while piece := text.readline(LINE_CHARACTERS_MAX + 1):
            if begins:
                number += 1
                yield number, piece.removesuffix("\n")
            begins = piece.endswith("\n")
    finally:
        text.detach()


def _header(text: str) -> tuple[dict[str, int], str] | None:
    """The columns of a header, and what separates them."""
    if len(text) > LINE_CHARACTERS_MAX or _HEADER not in _plain(text):
        return None
    for delimiter in (",", ";", "\t"):
        names = [_plain(name) for name in next(csv.reader([text], delimiter=delimiter))]
        columns = {key: names.index(name) for key, known in _COLUMNS.items() for name in known if name in names}
        if {"receipt", "status", "paid_in"} <= columns.keys() and columns.keys() & {"completed", "initiated"}:
            return columns, delimiter
    return None


def _line(number: int, text: str, delimiter: str, columns: dict[str, int]) -> Iterator[Line | Unreadable]:
    try:
        cells = next(csv.reader([text.replace("\0", "")], delimiter=delimiter))
    except (csv.Error, StopIteration):
        yield Unreadable(number, "The line is not CSV.")
        return

    def cell(name: str) -> str:
        at = columns.get(name)
        return cells[at].strip().strip("'").strip() if at is not None and at < len(cells) else ""

    receipt = cell("receipt").upper()
    if not receipt and not any(cell(name) for name in ("status", "paid_in", "withdrawn")):
        return  # totals, page footers
    if not _RECEIPT.fullmatch(receipt):
        yield Unreadable(number, "It has no receipt number.", receipt[:20])
        return
    if not cell("status"):
        yield Unreadable(number, "It says no transaction status: the line is cut off.", receipt)
        return
    try:
        at = _time(cell("completed") or cell("initiated"))
        paid_in, withdrawn = _amount(cell("paid_in")), _amount(cell("withdrawn"))
    except InvalidRequest as error:
        yield Unreadable(number, error.sentence, receipt)
        return
    yield Line(
        number, receipt, at, cell("status")[:40], paid_in, withdrawn, cell("details")[:200], cell("reason")[:100],
        cell("linked").upper()[:20], cell("account")[:100], cell("party")[:100],
    )  # fmt: skip


def _plain(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower())


def _amount(text: str) -> int:
    """An amount in cents, without its sign. Raises `InvalidRequest`."""
    plain = re.sub(r"(?i)^(?:kes|ksh\.?)\s*", "", text.replace(",", "").replace(" ", "").lstrip("-+"))
    return minor_units(plain, CURRENCY) if plain else 0


def _time(text: str) -> int:
    """A time of the statement in milliseconds. Raises `InvalidRequest`."""
    found: datetime | None = None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        for form in _DATES:
            try:
                found = datetime.strptime(text, form)
                break
            except ValueError:
                continue
    if found is None:
        raise InvalidRequest(f"{text[:40]!r} is not a date such as 22-11-2026 10:30:15.")
    try:
        aware = found if found.tzinfo is not None else found.replace(tzinfo=NAIROBI)
        return (aware.astimezone(UTC) - _EPOCH) // timedelta(milliseconds=1)
    except OverflowError:
        raise InvalidRequest(f"{text[:40]!r} is not a date such as 22-11-2026 10:30:15.") from None
