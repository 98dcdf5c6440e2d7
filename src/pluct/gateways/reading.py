"""How gateways' requests and answers are read: every value may be missing, of another type, or hostile.

Numbers are never floats. What is not understood becomes None or an empty table, and the adapter says so in a notice;
nothing here raises.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec

from pluct.errors import InvalidRequest, Unauthorized
from pluct.gateways import Notice, Said
from pluct.gateways.privacy import Privacy
from pluct.money import MONEY_MAX, currency_code, minor_units

#: How far from our clock a signature's time may be, where there is one.
TOLERANCE_SECONDS = 300
#: Longer signature headers are not looked at.
SIGNATURE_BYTES_MAX = 4096
DEPTH_MAX = 20
ITEMS_MAX = 50
_NOT_KEPT = "(not kept)"
_WORD = re.compile(r"[\x21-\x7e]{1,200}")
_SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.=-]{0,99}")
#: Ids, codes and times; no sentences, no addresses, no JSON within JSON.
_PLAIN = re.compile(r"[A-Za-z0-9_.:+/=-]{0,200}")
_decoder = msgspec.json.Decoder(float_hook=Decimal)


def decoded(body: bytes) -> Any:
    """JSON with its numbers as `int` and `Decimal`; None for what is no JSON."""
    try:
        return _decoder.decode(body)
    except (msgspec.MsgspecError, ArithmeticError, RecursionError, ValueError):
        return None


def table(value: Any) -> dict[str, Any]:
    """An object, or an empty one in its place."""
    return value if isinstance(value, dict) else {}


def rows(value: Any) -> list[dict[str, Any]]:
    """The objects of a list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def word(value: Any) -> str | None:
    """An id, a status or a name of something: printable ASCII without spaces, also where it is written as a number."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**18:
        value = str(value)
    return value if isinstance(value, str) and _WORD.fullmatch(value) else None


def segment(value: Any) -> str | None:
    """An id that may stand in a path as it is."""
    written = word(value)
    return written if written is not None and _SEGMENT.fullmatch(written) else None


def currency_of(value: Any) -> str | None:
    """A currency as ISO 4217 writes it."""
    try:
        return currency_code(value) if isinstance(value, str) else None
    except InvalidRequest:
        return None


def whole(value: Any) -> int | None:
    """A number of the smallest units, above zero, also where it is written as a string."""
    written = word(value)
    if written is None or not re.fullmatch(r"[0-9]{1,18}", written):
        return None
    return int(written) if 0 < int(written) <= MONEY_MAX else None


def major(value: Any, currency: str) -> int | None:
    """An amount that a gateway writes in whole units and parts of them (100, 100.5, "100.50"), in minor units."""
    if isinstance(value, Decimal) and 0 < value < MONEY_MAX and int(value.as_tuple().exponent) >= -20:
        value = f"{value:f}"
    try:
        return minor_units(word(value) or "", currency) or None
    except InvalidRequest:
        return None


def time_ms(value: Any) -> int | None:
    """A time as a number of seconds or in the spelling of RFC 3339."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value * 1000 if 0 < value < 10**11 else None
    try:
        at = datetime.fromisoformat(value) if isinstance(value, str) and len(value) < 40 else None
        ms = 0 if at is None else int(at.replace(tzinfo=at.tzinfo or UTC).timestamp() * 1000)
    except (ValueError, OverflowError, OSError):
        return None
    return ms if ms > 0 else None


# Authenticity


def secrets_in(text: str) -> tuple[bytes, ...]:
    """One secret, or several between commas while they are being changed."""
    return tuple(part.strip().encode() for part in text.split(",") if part.strip())


def header(headers: Mapping[bytes, bytes], name: bytes) -> bytes:
    """A header that must be there and of a sensible length. Raises `Unauthorized`."""
    value = headers.get(name, b"")
    if not 0 < len(value) <= SIGNATURE_BYTES_MAX:
        raise Unauthorized(f"The header {name.decode()} is missing, or too long.")
    return value


def must_equal(given: list[bytes], wanted: list[bytes]) -> None:
    """One of the signatures that came is one of those we would make; compared in constant time.

    Raises `Unauthorized`.
    """
    found = [hmac.compare_digest(one, other) for one in given for other in wanted]
    if not any(found):
        raise Unauthorized("The signature is not that of this body, or of another secret.")


def must_be_now(seconds: bytes, now_ms: int) -> int:
    """The signature's time, if it is one near ours. Raises `Unauthorized`."""
    at = int(seconds) if re.fullmatch(rb"[0-9]{1,12}", seconds) else None
    if at is None or abs(now_ms - at * 1000) > TOLERANCE_SECONDS * 1000:
        raise Unauthorized("The signature's time is not within five minutes of now.")
    return at


# What is kept


def notice(
    privacy: Privacy, fields: frozenset[str], key: str, kind: str, body: Any, said: Said | None, note: str = ""
) -> Notice:
    """A notice of whose body only the named fields are kept: whatever else a gateway sends may be about a person."""
    return Notice(key, kind, privacy.redacted(_kept(body, fields, 0)), said, note)


def unreadable(body: bytes, note: str) -> Notice:
    """A notice of an authentic body that is not what the gateway sends. What is not understood is not kept."""
    digest = hashlib.sha256(body).hexdigest()
    raw = msgspec.json.encode({"sha256": digest, "bytes": len(body)})
    return Notice(f"unreadable:{digest}", "unreadable", raw, None, note)


def _kept(value: Any, fields: frozenset[str], depth: int) -> Any:
    if isinstance(value, dict) and depth < DEPTH_MAX:
        return {key: _kept(item, fields, depth + 1) for key, item in value.items() if key in fields}
    if isinstance(value, list) and depth < DEPTH_MAX:
        return [_kept(item, fields, depth + 1) for item in value[:ITEMS_MAX]]
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) else _NOT_KEPT
    return value if value is None or isinstance(value, int | Decimal) else _NOT_KEPT
