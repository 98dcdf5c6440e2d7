"""Where a user's credits came from and went, in sentences: English and Swahili, and short enough for SMS.

Pure: a wallet and a page of its entries go in, words come out. Swahili verbs agree with the number of credits
(`krediti` is of the i-/zi- class): one `imetumika`, two `zimetumika`.
Times are East Africa Time, which has no summer time.
"""

import unicodedata
from datetime import UTC, datetime, timedelta
from typing import Literal

import msgspec

from pluct.model import Entry, Wallet, user_account

Language = Literal["en", "sw"]

#: East Africa Time.
EAT = timedelta(hours=3)
#: What one SMS holds in the GSM 7-bit alphabet, alone and as a part of several.
SMS_CHARACTERS_MAX, SMS_PART_CHARACTERS_MAX = 160, 153
#: A statement as text is never longer than so many messages; older lines are left out.
SMS_MESSAGES_MAX = 6
#: Names and references in a line of text are cut to this.
_DETAIL_CHARACTERS_MAX = 24
#: ASCII that the GSM 7-bit alphabet lacks, or counts twice.
_NOT_GSM = str.maketrans({"[": "(", "]": ")", "{": "(", "}": ")", "\\": "/", "|": "/", "~": "-", "^": "'", "`": "'"})
#: Credits from these may be bought or given, an entry does not say which; every other source is a payment gateway.
_UNSAID = ("api", "import", "operator", "standard", "webhook")

#: Sentences for one credit and for any other number, by language. `{n}` credits, `{what}` an action.
_WORDS: dict[Language, dict[str, tuple[str, str]]] = {
    "en": {
        "balance": ("You have {n} credit.", "You have {n} credits."),
        "held": ("{n} more is held by tickets.", "{n} more are held by tickets."),
        "debt": ("You owe {n} credit.", "You owe {n} credits."),
        "older": ("{n} older line is left out.", "{n} older lines are left out."),
        "paid": ("{n} credit came in with a payment", "{n} credits came in with a payment"),
        "grant": ("{n} credit was added", "{n} credits were added"),
        "vend": ("{n} credit was spent on {what}", "{n} credits were spent on {what}"),
        "hold": ("{n} credit was held for a ticket", "{n} credits were held for a ticket"),
        "capture": ("{n} held credit was spent on {what}", "{n} held credits were spent on {what}"),
        "return": ("{n} held credit came back to you", "{n} held credits came back to you"),
        "refund": ("{n} credit spent on {what} was refunded", "{n} credits spent on {what} were refunded"),
        "expire": ("{n} credit expired", "{n} credits expired"),
        "adjust+": ("{n} credit was added by support", "{n} credits were added by support"),
        "adjust-": ("{n} credit was taken off by support", "{n} credits were taken off by support"),
        "repay": ("{n} credit repaid what you owed", "{n} credits repaid what you owed"),
        "clawback": ("{n} credit went back with its payment", "{n} credits went back with their payment"),
        "owed": ("{n} credit is owed for a returned payment", "{n} credits are owed for a returned payment"),
        "restore": ("{n} credit came back with its payment", "{n} credits came back with their payment"),
    },
    "sw": {
        "balance": ("Una krediti {n}.", "Una krediti {n}."),
        "held": ("Nyingine {n} imeshikiliwa na tiketi.", "Nyingine {n} zimeshikiliwa na tiketi."),
        "debt": ("Unadaiwa krediti {n}.", "Unadaiwa krediti {n}."),
        "older": ("Mstari {n} wa zamani haujaonyeshwa.", "Mistari {n} ya zamani haijaonyeshwa."),
        "paid": ("Krediti {n} imeingia kwa malipo", "Krediti {n} zimeingia kwa malipo"),
        "grant": ("Krediti {n} imeongezwa", "Krediti {n} zimeongezwa"),
        "vend": ("Krediti {n} imetumika kwa {what}", "Krediti {n} zimetumika kwa {what}"),
        "hold": ("Krediti {n} imeshikiliwa kwa tiketi", "Krediti {n} zimeshikiliwa kwa tiketi"),
        "capture": (
            "Krediti {n} iliyoshikiliwa imetumika kwa {what}", "Krediti {n} zilizoshikiliwa zimetumika kwa {what}",
        ),
        "return": ("Krediti {n} iliyoshikiliwa imerudishwa", "Krediti {n} zilizoshikiliwa zimerudishwa"),
        "refund": (
            "Krediti {n} iliyotumika kwa {what} imerejeshwa", "Krediti {n} zilizotumika kwa {what} zimerejeshwa",
        ),
        "expire": ("Muda wa krediti {n} umeisha", "Muda wa krediti {n} umeisha"),
        "adjust+": ("Krediti {n} imeongezwa na mhudumu", "Krediti {n} zimeongezwa na mhudumu"),
        "adjust-": ("Krediti {n} imeondolewa na mhudumu", "Krediti {n} zimeondolewa na mhudumu"),
        "repay": ("Krediti {n} imelipa deni lako", "Krediti {n} zimelipa deni lako"),
        "clawback": ("Krediti {n} imeondolewa pamoja na malipo yake", "Krediti {n} zimeondolewa pamoja na malipo yake"),
        "owed": ("Unadaiwa krediti {n} kwa malipo yaliyorudishwa", "Unadaiwa krediti {n} kwa malipo yaliyorudishwa"),
        "restore": ("Krediti {n} imerudi pamoja na malipo yake", "Krediti {n} zimerudi pamoja na malipo yake"),
    },
}  # fmt: skip
_EMPTY: dict[Language, str] = {
    "en": "No credits have come in or gone out yet.",
    "sw": "Hakuna krediti zilizoingia wala kutoka bado.",
}


class Line(msgspec.Struct, frozen=True):
    """One entry of the journal as a sentence."""

    at: int
    number: int
    sentence: str
    reference: str | None
    ticket_id: str | None


class Statement(msgspec.Struct, frozen=True):
    """What a user has, and a page of how that came about, newest first."""

    language: Language
    summary: str
    lines: tuple[Line, ...]


def statement(wallet: Wallet, entries: list[Entry], language: Language) -> Statement:
    """A wallet and a page of its entries in words."""
    summary = [_said(language, "balance", wallet.available)]
    summary += [_said(language, "held", wallet.held)] if wallet.held else []
    summary += [_said(language, "debt", wallet.debt)] if wallet.debt else []
    summary += [] if wallet.entries else [_EMPTY[language]]
    lines = tuple(Line(e.at, e.number, _sentence(e, language), e.reference, e.ticket_id) for e in entries)
    return Statement(language, " ".join(summary), lines)


def sms(found: Statement) -> tuple[str, int]:
    """A statement as text for SMS, and how many messages it takes: at most `SMS_MESSAGES_MAX`."""
    lines = [_gsm(f"{_day(line.at)} {_short(line)}") for line in found.lines]
    for count in range(len(lines), -1, -1):
        left_out = len(lines) - count
        rest = [_said(found.language, "older", left_out)] if left_out else []
        text = "\n".join([_gsm(found.summary), *lines[:count], *rest])
        if _messages(text) <= SMS_MESSAGES_MAX:
            break
    return text, _messages(text)


def _sentence(e: Entry, language: Language) -> str:
    kind: str = e.kind
    if kind == "adjust":
        kind += "+" if e.credit == user_account(e.user_id) else "-"
    elif kind == "grant" and e.debit.partition(":")[2] not in _UNSAID:
        kind = "paid"
    elif kind == "clawback" and e.debit != user_account(e.user_id):
        kind = "owed"
    earned = e.debit if e.kind == "refund" else e.credit
    return _said(language, kind, e.amount, earned.partition(":")[2])


def _said(language: Language, kind: str, number: int, what: str = "") -> str:
    return _WORDS[language][kind][number != 1].format(n=number, what=what[:_DETAIL_CHARACTERS_MAX])


def _short(line: Line) -> str:
    return line.sentence if line.reference is None else f"{line.sentence} ({line.reference[:_DETAIL_CHARACTERS_MAX]})"


def _day(at: int) -> str:
    return (datetime.fromtimestamp(at / 1000, UTC) + EAT).strftime("%d/%m %H:%M")


def _gsm(text: str) -> str:
    """Only characters that are one septet each in the GSM 7-bit alphabet."""
    plain = unicodedata.normalize("NFKD", text).translate(_NOT_GSM)
    return "".join(c if " " <= c <= "~" else "?" for c in plain if not unicodedata.combining(c))


def _messages(text: str) -> int:
    return 1 if len(text) <= SMS_CHARACTERS_MAX else -(-len(text) // SMS_PART_CHARACTERS_MAX)
