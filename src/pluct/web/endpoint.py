"""One route as a bare ASGI application: identify, authorise, read, decode, handle, answer, observe.

Every route runs through this one path; it is bare because it is the path of every vend.
"""

import itertools
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, unquote

import msgspec
from starlette.types import Receive, Scope, Send

from pluct.engine import Engine
from pluct.errors import BodyTooLarge, Fault, InvalidRequest, PluctError, Unavailable
from pluct.model import ApiKey
from pluct.observe import Event

log = logging.getLogger("pluct.web")

BODY_BYTES_MAX = 64 * 1024
_prefix, _counter = secrets.token_hex(6), itertools.count(1)
_encode = msgspec.json.Encoder().encode


class Caller(msgspec.Struct, frozen=True):
    """Who asks, as far as a key or token shows it."""

    id: str  # scope of idempotency keys and name in the journal
    role: str  # mint, service, operator, user or anyone
    user_id: str | None = None  # whom a user token names
    key: ApiKey | None = None


class Call:
    """One request as a handler sees it."""

    __slots__ = ("body", "caller", "headers", "path", "query", "request_id", "user_id")

    def __init__(self, headers: dict[bytes, bytes], request_id: str) -> None:
        self.headers = headers
        self.request_id = request_id
        self.caller = Caller("", "anyone")
        self.path: dict[str, str] = {}
        self.query: dict[str, str] = {}
        self.body: Any = None
        self.user_id: str | None = None  # for the log


class Answer(msgspec.Struct):
    """A handler's answer; `content` is JSON-encoded unless it is bytes."""

    content: Any
    status: int = 200
    replayed: bool = False
    content_type: bytes = b"application/json"
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Route(msgspec.Struct, frozen=True):
    """A row of the table of routes."""

    method: str
    path: str
    summary: str
    handle: Callable[[Engine, Call], Awaitable[Answer]]
    authorise: Callable[[Engine, Call], Awaitable[Caller]] | None = None
    body: type | None = None
    answer: type | None = None
    seed: bool = False  # errors in the seed's shape
    roles: str = "anyone"


Shape = Callable[[PluctError, Call], Answer]


class Endpoint:
    """A route at work."""

    def __init__(self, route: Route, engine: Engine, shape: Shape) -> None:
        self._route = route
        self._engine = engine
        self._shape = shape
        self._decode = msgspec.json.Decoder(route.body).decode if route.body is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        started = time.perf_counter()
        headers = dict(scope["headers"])
        call = Call(headers, _request_id(headers))
        code = None
        try:
            answer = await self._run(scope, receive, call)
        except PluctError as error:
            code, answer = error.code, self._shape(error, call)
        except Exception:
            log.exception("request %s failed", call.request_id)
            fault = Fault()
            code, answer = fault.code, self._shape(fault, call)
        content = answer.content if isinstance(answer.content, bytes) else _encode(answer.content)
        head = [
            (b"content-type", answer.content_type),
            (b"content-length", b"%d" % len(content)),
            (b"x-request-id", call.request_id.encode("ascii")),
            *answer.headers,
        ]
        if answer.replayed:
            head.append((b"idempotency-replayed", b"true"))
        await send({"type": "http.response.start", "status": answer.status, "headers": head})
        await send({"type": "http.response.body", "body": content})
        ms = round((time.perf_counter() - started) * 1000, 3)
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        key_id = call.caller.key.id if call.caller.key is not None else None
        route = self._route
        event = Event(
            at, call.request_id, route.method, route.path, answer.status, ms, code, call.user_id,
            caller=key_id, replayed=answer.replayed,
        )  # fmt: skip
        self._engine.observer.request(event)

    async def _run(self, scope: Scope, receive: Receive, call: Call) -> Answer:
        route = self._route
        if scope.get("path_params"):
            call.path = {name: _unquoted(value) for name, value in scope["path_params"].items()}
        if scope["query_string"]:
            call.query = _query(scope["query_string"])
        if route.authorise is not None:
            call.caller = await route.authorise(self._engine, call)
        if self._decode is not None:
            raw = await _body(receive, call.headers)
            try:
                call.body = self._decode(raw or b"{}")
            except msgspec.ValidationError as error:
                raise InvalidRequest(f"The body is not as expected: {error}.") from None
            except (msgspec.DecodeError, UnicodeError, RecursionError, ValueError):
                raise InvalidRequest("The body is not valid JSON.") from None
        return await route.handle(self._engine, call)


async def _body(receive: Receive, headers: dict[bytes, bytes]) -> bytes:
    length = headers.get(b"content-length", b"0")
    if not length.isdigit() or len(length) > 9 or int(length) > BODY_BYTES_MAX:
        raise BodyTooLarge
    message = await receive()
    body: bytes = message.get("body", b"")
    while message.get("more_body", False):
        message = await receive()
        body += message.get("body", b"")
        if len(body) > BODY_BYTES_MAX:
            raise BodyTooLarge
    if message["type"] == "http.disconnect":
        raise InvalidRequest("The request broke off.")
    if len(body) > BODY_BYTES_MAX:
        raise BodyTooLarge
    return body


def _request_id(headers: dict[bytes, bytes]) -> str:
    given = headers.get(b"x-request-id")
    if given is not None and 0 < len(given) <= 200:
        text = given.decode("latin-1")
        if text.isascii() and text.isprintable():
            return text
    return f"{_prefix}-{next(_counter)}"


def _unquoted(value: str) -> str:
    try:
        return unquote(value, errors="strict")
    except UnicodeDecodeError:
        raise InvalidRequest("The address is not valid UTF-8.") from None


def _query(raw: bytes) -> dict[str, str]:
    try:
        return dict(parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=50))
    except ValueError:
        raise InvalidRequest("The query is not valid.") from None


def problem(error: PluctError, call: Call) -> Answer:
    """An error as problem details (RFC 9457), with the fields the app reads beside them."""
    content: dict[str, Any] = {
        "type": f"/docs#{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": error.sentence,
        "code": error.code,
        "message": error.sentence,
        "error": error.sentence,
        "requestId": call.request_id,
    }
    return Answer(content, error.status, content_type=b"application/problem+json", headers=error_headers(error))


def error_headers(error: PluctError) -> tuple[tuple[bytes, bytes], ...]:
    """What some statuses say in headers too."""
    if isinstance(error, Unavailable):
        return ((b"retry-after", b"1"),)
    if error.status == 401:
        return ((b"www-authenticate", b"Bearer"),)
    return ()
