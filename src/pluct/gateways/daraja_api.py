"""Daraja, Safaricom's interface to M-Pesa, as it is spoken: requests over HTTP, and how its values are read.

Nothing here knows a checkout. A request is sent once. Only when Daraja answers that the access token is invalid (each
new one ends the one before it, whoever fetched it) is a new token fetched and that request sent once more: an invalid
token means that nothing was done.
"""

import asyncio
import base64
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import httpx
import msgspec

from pluct.errors import InvalidRequest
from pluct.gateways.privacy import phone_number
from pluct.money import MONEY_MAX, minor_units

CURRENCY = "KES"
ANSWER_BYTES_MAX = 4 * 1024 * 1024
CONNECT_SECONDS_MAX = 10
#: A token is no longer used so many seconds before it ends.
TOKEN_MARGIN_SECONDS = 60
_TOKEN_SECONDS_MAX = 86_400
#: Invalid access token: on STK, on C2B and the rest, on pull transactions.
TOKEN_INVALID = frozenset({"404.001.03", "400.003.01", "401.001"})

_STAMPS = (
    (re.compile(r"\d{8}T\d{6}", re.A), ""),
    (re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:Z|[+-]\d\d:?\d\d)?", re.A), ""),
    (re.compile(r"\d\d\.\d\d\.\d{4} \d\d:\d\d:\d\d", re.A), "%d.%m.%Y %H:%M:%S"),
)
_SECRET_LOOKING = re.compile(r"[A-Za-z0-9+/=_-]{20,}")
_PHONE_LOOKING = re.compile(r"(?<!\d)(?:\+?254|0)?[17]\d{8}(?!\d)")
_RECEIPT = re.compile(r"[A-Z0-9._-]{1,40}")
_decoder = msgspec.json.Decoder(float_hook=Decimal)


class NotSent(Exception):
    """The request did not reach Daraja: nothing was done."""


class NotAnswered(Exception):
    """The request went out and was not answered intelligibly: whether anything was done is unknown."""


class Answer(msgspec.Struct, frozen=True):
    """What Daraja answered."""

    status: int
    body: dict[str, Any]

    @property
    def error_code(self) -> str:
        """Its `errorCode`, or nothing."""
        return text(self.body.get("errorCode"))

    @property
    def words(self) -> str:
        """What it said, for operators: no secrets and no phone numbers, whatever it repeated of the request."""
        said = next((text(self.body[key]) for key in _WORDS if text(self.body.get(key))), f"HTTP status {self.status}")
        return harmless(f"{self.error_code} {said}".strip())


_WORDS = ("errorMessage", "ResultDesc", "ResponseDescription", "ResponseMessage")


class DarajaApi:
    """Requests to Daraja with an access token that everybody here shares."""

    def __init__(
        self,
        base_url: str,
        consumer_key: str,
        consumer_secret: str,
        client: httpx.AsyncClient,
        clock: Callable[[], int],
        seconds_max: float,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._login = httpx.BasicAuth(consumer_key, consumer_secret)
        self._client = client
        self._clock = clock
        self._seconds_max = seconds_max
        self._token = ""
        self._token_until = 0
        self._lock = asyncio.Lock()

    async def call(self, path: str, body: dict[str, Any], method: str = "POST") -> Answer:
        """Send this once and return the answer. Raises `NotSent` or `NotAnswered`, at the latest in `seconds_max`."""
        sent = False
        try:
            async with asyncio.timeout(self._seconds_max):
                token = await self._current_token()
                sent = True
                answer = await self._exchange(method, path, json=body, headers=_bearer(token))
                if answer.error_code in TOKEN_INVALID:
                    sent = False
                    token = await self._current_token(stale=token)
                    sent = True
                    answer = await self._exchange(method, path, json=body, headers=_bearer(token))
                if answer.status == 401 or answer.error_code in TOKEN_INVALID:
                    self._forget(token)
                return answer
        except TimeoutError:
            if sent:
                raise NotAnswered("Daraja did not answer in time.") from None
            raise NotSent("Daraja gave no access token in time.") from None

    async def _current_token(self, stale: str = "") -> str:
        """The shared token, or a new one if it is about to end or is the one that was found invalid."""
        async with self._lock:
            if self._token in ("", stale) or self._clock() >= self._token_until:
                self._token = ""
                query = {"grant_type": "client_credentials"}
                try:
                    answer = await self._exchange("GET", "/oauth/v1/generate", params=query, auth=self._login)
                except NotAnswered as error:
                    raise NotSent(f"Daraja gave no access token: {error}") from None
                token = text(answer.body.get("access_token"))
                if not re.fullmatch(r"[\x21-\x7e]{1,4096}", token):
                    raise NotSent(f"Daraja gave no access token: {answer.words}")
                seconds = min(whole(answer.body.get("expires_in")) or 0, _TOKEN_SECONDS_MAX)
                lasts = max(seconds - TOKEN_MARGIN_SECONDS, seconds // 2)
                self._token, self._token_until = token, self._clock() + lasts * 1000
            return self._token

    def _forget(self, token: str) -> None:
        """The next request shall fetch a new token."""
        if self._token == token:
            self._token = ""

    async def _exchange(self, method: str, path: str, **request: Any) -> Answer:
        """One request and its answer, which is JSON, or at least says by its status that nothing was done."""
        waits = httpx.Timeout(self._seconds_max, connect=min(CONNECT_SECONDS_MAX, self._seconds_max))
        try:
            async with self._client.stream(
                method, self._base_url + path, timeout=waits, follow_redirects=False, **request
            ) as response:
                content = bytearray()
                async for chunk in response.aiter_bytes():
                    content += chunk
                    if len(content) > ANSWER_BYTES_MAX:
                        raise NotAnswered("Daraja's answer was too long.")
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise NotSent(f"Daraja cannot be reached ({type(error).__name__}).") from None
        except httpx.HTTPError as error:
            raise NotAnswered(f"Daraja's answer did not arrive ({type(error).__name__}).") from None
        body = decoded(bytes(content))
        if isinstance(body, dict):
            return Answer(response.status_code, body)
        if 400 <= response.status_code < 500:
            return Answer(response.status_code, {})
        raise NotAnswered(f"Daraja answered something else than JSON, with status {response.status_code}.")


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}", "Accept": "application/json", "Accept-Encoding": "identity"}


def decoded(body: bytes) -> Any:
    """JSON with its numbers as `int` and `Decimal`, never float; None for what is no JSON."""
    try:
        return _decoder.decode(body)
    except (msgspec.MsgspecError, ArithmeticError, RecursionError, ValueError):
        return None


def text(value: Any) -> str:
    """A word of Daraja's, which it writes as a string or as a number; nothing for anything else."""
    if isinstance(value, str):
        return value.strip()
    return str(value) if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**18 else ""


def whole(value: Any) -> int | None:
    """A number that may be written as a string, from 0."""
    digits = text(value)
    return int(digits) if re.fullmatch(r"[0-9]{1,18}", digits) else None


def table(value: Any) -> dict[str, Any]:
    """An object, or an empty one in its place."""
    return value if isinstance(value, dict) else {}


def named(items: Any, name: str) -> dict[str, Any]:
    """A list of names and values by name. A value may be missing, a name repeated (the first that has one counts)."""
    found: dict[str, Any] = {}
    for item in items if isinstance(items, list) else [items]:
        row = table(item)
        if isinstance(row.get(name), str) and row.get("Value") is not None:
            found.setdefault(row[name], row["Value"])
    return found


def minor(value: Any) -> int | None:
    """Shillings in minor units; None for what is no amount above zero."""
    if isinstance(value, Decimal) and 0 < value < MONEY_MAX and int(value.as_tuple().exponent) >= -20:
        value = f"{value:f}"
    try:
        return minor_units(text(value), CURRENCY) or None
    except InvalidRequest:
        return None


def stamp(ms: int, utc_offset_hours: int) -> str:
    """A time as Daraja writes it: `20261122103015`."""
    return datetime.fromtimestamp(ms // 1000, timezone(timedelta(hours=utc_offset_hours))).strftime("%Y%m%d%H%M%S")


def time_ms(value: Any, utc_offset_hours: int) -> int | None:
    """A time in any of Daraja's spellings; one without a zone is local."""
    written = text(value)
    if len(written) == 14 and written.isascii() and written.isdigit():
        # With a T it is ISO's, which is read ten times as fast as a layout.
        written = f"{written[:8]}T{written[8:]}"
    for pattern, layout in _STAMPS:
        if pattern.fullmatch(written):
            try:
                at = datetime.strptime(written, layout) if layout else datetime.fromisoformat(written)
                zone = at.tzinfo or timezone(timedelta(hours=utc_offset_hours))
                return int((at.replace(tzinfo=zone) - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()) * 1000
            except (ValueError, OverflowError):
                return None
    return None


def receipt_of(value: Any) -> str | None:
    """An M-Pesa transaction id, which is the payment's receipt, in its one spelling."""
    receipt = text(value).upper()
    return receipt if _RECEIPT.fullmatch(receipt) else None


def phone_of(value: Any) -> str | None:
    """A payer's number in full, or as Daraja masks it; None for a hash and for everything else."""
    number = "".join(text(value).split())
    if "*" in number and re.fullmatch(r"[0-9]{1,6}\*{1,9}[0-9]{1,6}", number):
        return number
    try:
        return phone_number(number)
    except InvalidRequest:
        return None


def rows_of(value: Any) -> list[dict[str, Any]]:
    """Transactions, which Daraja nests in one list more than it needs."""
    lists = [part if isinstance(part, list) else [part] for part in value] if isinstance(value, list) else []
    return [row for part in lists for row in part if isinstance(row, dict)]


def written(stamped: str) -> str:
    """`20261122103015` as `2026-11-22 10:30:15`."""
    return re.sub(r"(....)(..)(..)(..)(..)(..)", r"\1-\2-\3 \4:\5:\6", stamped)


def password(shortcode: str, passkey: str, timestamp: str) -> str:
    """What shows Daraja that the shortcode's owner asks."""
    return base64.b64encode(f"{shortcode}{passkey}{timestamp}".encode()).decode()


def harmless(said: str) -> str:
    """Somebody else's words without what looks like a secret or a phone number, and not too many of them."""
    return _PHONE_LOOKING.sub("(phone)", _SECRET_LOOKING.sub("(hidden)", said))[:200]
