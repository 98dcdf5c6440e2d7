"""One route as a bare ASGI application: identify, authorise, read, decode, handle, answer, observe.

Every route runs through this one path; it is bare because it is the path of every vend.
"""

import asyncio
import itertools
import logging
import os
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl, unquote

import msgspec
from starlette.types import Receive, Scope, Send

from pluct.engine import Engine
from pluct.errors import BodyTooLarge, Fault, InvalidRequest, PluctError
from pluct.model import ApiKey
from pluct.observe import Event

log = logging.getLogger("pluct.web")

BODY_BYTES_MAX = 64 * 1024
QUERY_FIELDS_MAX = 50
REQUEST_ID_LENGTH_MAX = 200
#: The ASGI extension of `web/protocol.py` that writes status, headers and body at once, if it can.
ANSWER = "pluct.answer"
_prefix, _counter = "", itertools.count(1)
_encode = msgspec.json.Encoder().encode


class Caller(msgspec.Struct, frozen=True):
    """Who asks, as far as a key or token shows it."""

    id: str  # scope of idempotency keys and name in the journal
    role: str  # mint, service, operator, user or anyone
    user_id: str | None = None  # whom a user token names
    key: ApiKey | None = None


ANYONE = Caller("", "anyone")


class Call:
    """One request as a handler sees it."""

    __slots__ = ("body", "caller", "headers", "path", "query", "request_id", "scope", "ticket_id", "user_id")

    def __init__(self, scope: Scope, headers: dict[bytes, bytes], request_id: str) -> None:
        self.scope = scope
        self.headers = headers
        self.request_id = request_id
        self.caller = ANYONE
        self.path: dict[str, str] = {}
        self.query: Any = None
        self.body: Any = None
        self.user_id: str | None = None  # for the log, as is the next
        self.ticket_id: str | None = None


class Answer(msgspec.Struct):
    """A handler's answer; `content` is JSON-encoded unless it is bytes. A `stream` is sent as it comes instead."""

    content: Any
    status: int = 200
    replayed: bool = False
    content_type: bytes = b"application/json"
    headers: tuple[tuple[bytes, bytes], ...] = ()
    stream: AsyncGenerator[bytes, None] | None = None


class Door(msgspec.Struct, frozen=True):
    """Who may come in: the roles as the documentation names them, and the check."""

    roles: tuple[str, ...]
    authorise: Callable[[Engine, Call], Awaitable[Caller]]


Handler = Callable[[Engine, Call], Awaitable[Answer]]
Shape = Callable[[PluctError, Call], Answer]


class Route(msgspec.Struct, frozen=True):
    """A row of the table of routes: what it takes, who may use it, what it answers and how it refuses.

    `body` is the type of its JSON; `bytes`: the body as it came, because it is signed.
    """

    method: str
    path: str
    handle: Handler
    door: Door | None
    shape: Shape
    answer: Any = None
    body: Any = None
    query: Any = None
    status: int = 200  # of its answer, for the documentation
    text: str = ""  # the media type of an answer that is text, for the same


class Endpoint:
    """A route at work."""

    def __init__(self, route: Route, engine: Engine) -> None:
        self._route = route
        self._engine = engine
        self._decode: Callable[[bytes], Any] | None = (
            None if route.body in (None, bytes) else msgspec.json.Decoder(route.body).decode
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        started = time.perf_counter()
        headers = dict(scope["headers"])
        call = Call(scope, headers, request_id(headers))
        code = None
        try:  # as `answered` does, without one more coroutine on the path of every vend
            answer = await self._run(scope, receive, call)
        except Exception as error:
            answer, code = failed(error, self._route.shape, call)
        if answer.stream is not None:
            self._observe(call, answer, code, started)  # it is answered; who knows when it ends
            return await _stream(answer, answer.stream, receive, send, scope["method"])
        content = answer.content if isinstance(answer.content, bytes) else _encode(answer.content)
        head = [
            (b"content-type", answer.content_type),
            (b"content-length", b"%d" % len(content)),
            (b"x-request-id", call.request_id.encode("ascii")),
            *answer.headers,
        ]
        if answer.replayed:
            head.append((b"idempotency-replayed", b"true"))
        at_once = scope.get("extensions", {}).get(ANSWER)
        if at_once is None or not at_once(answer.status, head, content):
            await send({"type": "http.response.start", "status": answer.status, "headers": head})
            await send({"type": "http.response.body", "body": content})
        self._observe(call, answer, code, started)

    def _observe(self, call: Call, answer: Answer, code: str | None, started: float) -> None:
        self._engine.observer.request(event(call, self._route.path, answer, code, started))

    async def _run(self, scope: Scope, receive: Receive, call: Call) -> Answer:
        route = self._route
        if scope.get("path_params"):
            call.path = {name: _unquoted(value) for name, value in scope["path_params"].items()}
        if route.door is not None:
            call.caller = await route.door.authorise(self._engine, call)
        if route.query is not None:
            call.query = _query(scope["query_string"], route.query)
        if self._decode is not None:
            raw = await _body(receive, call.headers)
            try:
                call.body = self._decode(raw or b"{}")
            except msgspec.ValidationError as error:
                raise InvalidRequest(f"The body is not as expected: {error}.") from None
            except (msgspec.DecodeError, UnicodeError, RecursionError, ValueError):
                raise InvalidRequest("The body is not valid JSON.") from None
        elif route.body is bytes:
            call.body = await _body(receive, call.headers)
        return await route.handle(self._engine, call)


async def answered(work: Awaitable[Answer], shape: Shape, call: Call) -> tuple[Answer, str | None]:
    """What comes of it: its answer, or that of an error and the error's code."""
    try:
        return await work, None
    except Exception as error:
        return failed(error, shape, call)


def failed(error: Exception, shape: Shape, call: Call) -> tuple[Answer, str]:
    """The answer to an error, and its code. What is no refusal of ours is a fault, and the log has its trace."""
    if not isinstance(error, PluctError):
        log.error("request %s failed", call.request_id, exc_info=error)
        error = Fault()
    return shape(error, call), error.code


def event(call: Call, route: str, answer: Answer, code: str | None, started: float) -> Event:
    """An answered request, or what is like one, for the log; `started` is what `time.perf_counter` said then."""
    key, now = call.caller.key, time.time_ns() // 1_000_000
    return Event(
        f"{second(now // 1000)}.{now % 1000:03d}Z", call.request_id, call.scope["method"], route, answer.status,
        round((time.perf_counter() - started) * 1000, 3), code, call.user_id, call.ticket_id,
        None if key is None else key.id, answer.replayed,
    )  # fmt: skip


async def _stream(
    answer: Answer, stream: AsyncGenerator[bytes, None], receive: Receive, send: Send, method: str
) -> None:
    """Send what comes until it ends, or nobody is there any more."""
    head = [(b"content-type", answer.content_type), (b"cache-control", b"no-store"), *answer.headers]
    await send({"type": "http.response.start", "status": answer.status, "headers": head})

    async def left() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    gone = asyncio.create_task(left())
    try:
        if method != "HEAD":
            async for chunk in stream:
                if gone.done():
                    return
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    finally:
        gone.cancel()
        await stream.aclose()


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


@lru_cache(64)
def second(seconds: int) -> str:
    """A whole second as RFC 3339 begins it: formatting it anew for each log line costs as much as encoding the line."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19]


def _begin_request_ids() -> None:
    global _prefix, _counter
    _prefix, _counter = secrets.token_hex(6), itertools.count(1)


_begin_request_ids()
os.register_at_fork(after_in_child=_begin_request_ids)  # else two workers would make the same ids


def request_id(headers: dict[bytes, bytes]) -> str:
    """The caller's id of the request, if it can be repeated; else a new one."""
    given = headers.get(b"x-request-id")
    if given is not None and 0 < len(given) <= REQUEST_ID_LENGTH_MAX:
        text = given.decode("latin-1")
        if text.isascii() and text.isprintable():
            return text
    return f"{_prefix}-{next(_counter)}"


def _unquoted(value: str) -> str:
    try:
        return unquote(value, errors="strict")
    except UnicodeDecodeError:
        raise InvalidRequest("The address is not valid UTF-8.") from None


def _query(raw: bytes, kind: type[Any]) -> Any:
    """The query's known fields; a number must be written as plain digits."""
    try:
        pairs = parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=QUERY_FIELDS_MAX)
    except ValueError:
        raise InvalidRequest("The query is not valid.") from None
    given: dict[str, object] = dict(pairs)
    for field in msgspec.inspect.type_info(kind).fields:  # type: ignore[attr-defined]
        text = given.get(field.encode_name)
        if isinstance(field.type, msgspec.inspect.IntType) and isinstance(text, str) and len(text) < 10:
            given[field.encode_name] = int(text) if text.isascii() and text.isdigit() else text
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"The query is not as expected: {error}.") from None
