"""Requests to a gateway's own interface. Each is sent once, and it ends within its time.

A gateway that hangs, breaks off or answers with a web page is told apart from one that says no. Nothing that is raised
or returned here repeats a secret.
"""

import asyncio
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

import msgspec

from pluct.errors import Unavailable
from pluct.gateways import Started
from pluct.gateways.reading import decoded

if TYPE_CHECKING:
    import httpx  # importing it takes as long as all of ours: only an engine that asks a gateway does

CONNECT_SECONDS_MAX = 10
SECONDS_DEFAULT = 30
SECONDS_MAX = 120
ANSWER_BYTES_MAX = 1024 * 1024
_REDIRECT = re.compile(r"https?://[\x21-\x7e]{1,2000}")
_SECRET_LOOKING = re.compile(r"[A-Za-z0-9+/=_*-]{20,}|\S+@\S+|\+?[0-9]{9,}")
#: Statuses by which a gateway says that it cannot or will not say: a wrong key, too many requests, a conflict.
_SAYS_NOTHING = frozenset({401, 403, 405, 407, 408, 409, 421, 425, 429})


#: Minutes between questions about a page on which a user pays: it can be used for a day.
_ASK_MINUTES = (10, 60, 360, 1200)


def ask_after(asked: int) -> int | None:
    """Seconds until a page is asked about that was asked about so often before: after ten minutes, then ever later."""
    return _ASK_MINUTES[asked] * 60 if asked < len(_ASK_MINUTES) else None


class NotAnswered(Exception):
    """There is no intelligible answer; whether anything was done is unknown. Its text is for operators."""


class Answer(msgspec.Struct, frozen=True):
    """What a gateway answered: a status and a JSON object (an empty one if it was something else)."""

    status: int
    body: dict[str, Any]

    @property
    def words(self) -> str:
        """What it said, for operators, without what looks like a secret or a person."""
        error = self.body.get("error")
        said = error.get("message") if isinstance(error, dict) else self.body.get("message")
        return harmless(f"status {self.status}: {said}" if isinstance(said, str) else f"status {self.status}")


class Api:
    """One gateway's interface, asked with one secret key."""

    def __init__(self, name: str, base_url: str, key: str, client: "httpx.AsyncClient", seconds_max: float) -> None:
        self._name, self._base_url, self._client, self._seconds_max = name, base_url.rstrip("/"), client, seconds_max
        self._headers = {
            "Authorization": f"Bearer {key}", "Accept": "application/json", "Accept-Encoding": "identity"
        }  # fmt: skip

    async def begin(self, path: str, headers: Mapping[str, str] | None = None, **body: Any) -> dict[str, Any] | Started:
        """Ask for a payment, with `json` or `data`; the answer, or what to tell the user if there is none."""
        try:
            answer = await self._call("POST", path, headers, **body)
        except NotAnswered as error:
            message = f"{self._name} cannot be reached now; start again in a moment."
            return Started("failed", message, query=False, note=str(error))
        return answer.body if 200 <= answer.status < 300 else self.refused(answer.words)

    def refused(self, note: str) -> Started:
        """What to tell the user when the gateway did not begin the payment. Nothing was paid: nobody has a link."""
        return Started("failed", f"{self._name} did not accept the request; choose another way to pay.", None, None,
                       False, harmless(note))  # fmt: skip

    async def known(self, path: str, **query: str) -> dict[str, Any] | None:
        """What the gateway knows; None if it says that it knows no such thing. Raises `Unavailable` otherwise."""
        try:
            answer = await self._call("GET", path, params=query)
        except NotAnswered as error:
            raise Unavailable(f"{error} The event cannot be verified now; send it again.") from None
        if 200 <= answer.status < 300:
            return answer.body
        if 400 <= answer.status < 500 and answer.status not in _SAYS_NOTHING:
            return None
        raise Unavailable(
            f"{self._name} answered with {answer.words}. The event cannot be verified now; send it again."
        )

    async def _call(self, method: str, path: str, headers: Mapping[str, str] | None = None, **request: Any) -> Answer:
        """Send this once and read the answer. Raises `NotAnswered`."""
        import httpx

        waits = httpx.Timeout(self._seconds_max, connect=min(CONNECT_SECONDS_MAX, self._seconds_max))
        content = bytearray()
        try:
            async with (
                asyncio.timeout(self._seconds_max),
                self._client.stream(
                    method, self._base_url + path, headers={**self._headers, **(headers or {})}, timeout=waits,
                    follow_redirects=False, **request,
                ) as response,
            ):  # fmt: skip
                async for chunk in response.aiter_bytes():
                    content += chunk
                    if len(content) > ANSWER_BYTES_MAX:
                        raise NotAnswered(f"{self._name}'s answer was too long.")
        except TimeoutError:
            raise NotAnswered(f"{self._name} did not answer in time.") from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise NotAnswered(f"{self._name} did not answer ({type(error).__name__}).") from None
        body = decoded(bytes(content))
        if isinstance(body, dict):
            return Answer(response.status_code, body)
        if 400 <= response.status_code < 500:
            return Answer(response.status_code, {})
        raise NotAnswered(f"{self._name} answered something else than JSON, with status {response.status_code}.")


def harmless(said: str) -> str:
    """Somebody else's words without what looks like a secret, an address or a number of a person; not too many."""
    return _SECRET_LOOKING.sub("(hidden)", said)[:200]


def redirect(value: Any) -> str | None:
    """An address that a user can be sent to."""
    return value if isinstance(value, str) and _REDIRECT.fullmatch(value) else None


def with_query(url: str, **query: str) -> str:
    """The address with these added."""
    return f"{url}{'&' if '?' in url else '?'}{urlencode(query)}"


def address_problems(base_url: str, return_url: str, callback_base_url: str, timeout_seconds: int) -> list[str]:
    """What is wrong with the settings that every gateway of ours has, a sentence each."""
    found = []
    if not is_address(base_url):
        found.append("base_url must be https://host, or http:// on this machine")
    if return_url and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[\x21-\x7e]{1,500}", return_url):
        found.append("return_url must be an address such as https://shop.example/paid")
    if not is_address(callback_base_url):
        found.append("payments.callback_base_url must be set to https://host, where this engine can be reached")
    if not 1 <= timeout_seconds <= SECONDS_MAX:
        found.append(f"timeout_seconds must be 1 to {SECONDS_MAX}")
    return found


def email_for(code: str, domain: str, callback_base_url: str) -> str:
    """An address for a gateway that insists on one: we know nobody's, so it is the payment code at a domain of ours."""
    return f"{code.lower()}@{domain or urlsplit(callback_base_url).hostname or 'localhost'}"


def is_address(url: str) -> bool:
    """https with a host, or http on this machine; no query and no user."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    local = host in ("localhost", "127.0.0.1", "::1")
    plain = not parts.query and not parts.fragment and "@" not in parts.netloc and url.isascii()
    return bool(host) and plain and (parts.scheme == "https" or (parts.scheme == "http" and local))
