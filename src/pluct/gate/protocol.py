"""The client's side of the gate: the engine's own HTTP protocol, which writes an answer here as it comes.

ASGI has no word for "the answer is broken": whoever returns early has it closed as if it were whole, where nothing says
how long it is. And what it sends, it takes apart first. So the gate is handed the client's `Line` beside ASGI's
`receive`.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from pluct.gate.headers import Headers
from pluct.web.protocol import OneWriteProtocol

LINE = "pluct.line"
_TARGET = "pluct.target"
#: How long a client may go on sending a body that was answered early, so that it reads the answer at all.
LINGER_SECONDS = 2.0


class Line:
    """One request's client: what it sends is taken here, and what it is answered goes here."""

    def __init__(self, protocol: "GateProtocol", cycle: RequestResponseCycle) -> None:
        self._protocol, self._cycle = protocol, cycle
        self.on_gone: Callable[[], None] | None = None  #: called when the client goes away
        self._held = b""
        self._chunked = False
        self.started = False  #: whether the answer has begun

    @property
    def target(self) -> bytes:
        """The address as it was sent."""
        target: bytes = self._cycle.scope[_TARGET]  # type: ignore[literal-required]
        return target

    @property
    def gone(self) -> bool:
        """Whether the client has gone away."""
        return self._cycle.disconnected

    @property
    def answering(self) -> bool:
        """Whether the answer has begun and not ended."""
        return self.started and not self._cycle.response_complete

    def whole_body(self) -> bytes | None:
        """The body, if all of it is there; None if the rest is to be received."""
        if self._cycle.more_body or self._cycle.waiting_for_100_continue:
            return None
        body, self._cycle.body = bytes(self._cycle.body), bytearray()
        return body

    def start(self, status: int, reason: bytes, headers: Headers, length: int | None, *, empty: bool) -> None:
        """Begin the answer; its head goes out with what is written next. Without a length its body ends by itself."""
        cycle = self._cycle
        self.started = cycle.response_started = True
        cycle.waiting_for_100_continue = False
        if cycle.more_body or not (self._protocol.timeout_keep_alive or self._protocol.pipeline):
            cycle.keep_alive = False
        parts = [b"HTTP/1.1 %d %b\r\n" % (status, reason)]
        for name, value in headers:
            parts += (name, b": ", value, b"\r\n")
        if length is not None:
            parts.append(b"content-length: %d\r\n" % length)
        elif not empty and cycle.scope["http_version"] == "1.1":
            self._chunked = True
            parts.append(b"transfer-encoding: chunked\r\n")
        elif not empty:
            cycle.keep_alive = False
        parts.append(b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n")
        self._held = b"".join(parts)

    async def write(self, data: bytes, seconds: float) -> bool:
        """Send a part of the body (or only what is held), as fast as the client takes it; False if it does not."""
        if not self.gone:
            self._cycle.transport.write(self._framed(data))
            if self._cycle.flow.write_paused:
                with suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await self._cycle.flow.drain()
        return not (self.gone or self._cycle.flow.write_paused)

    def end(self, data: bytes = b"") -> None:
        """Send the last part of the body, and be done."""
        cycle, framed = self._cycle, self._framed(data)
        cycle.transport.write(framed + b"0\r\n\r\n" if self._chunked else framed)
        self._done()
        if cycle.more_body:
            self._protocol.linger()
        elif not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()

    def abort(self) -> None:
        """Break the answer off, so that nobody takes it for a whole one."""
        self._done()
        self._cycle.transport.abort()

    def _done(self) -> None:
        self.on_gone = None
        self._cycle.response_complete = True
        self._cycle.message_event.set()
        del self._cycle.scope["extensions"]  # it leads back here, and would be garbage only the collector can find

    def _framed(self, data: bytes) -> bytes:
        held, self._held = self._held, b""
        if not self._chunked or not data:
            return held + data
        return b"%b%x\r\n%b\r\n" % (held, len(data), data)


class GateProtocol(OneWriteProtocol):
    """See the module."""

    connections_max = 10_000
    _line: Line | None = None
    _deaf = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin a connection, unless there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self.connections_max:
            transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """Tell whoever serves it, which may be another request than the one that came last."""
        super().connection_lost(error)
        if self._line is not None and not self._line._cycle.response_complete:
            self._line._cycle.disconnected = True
            self._line._cycle.message_event.set()
            if self._line.on_gone is not None:
                self._line.on_gone()

    def on_headers_complete(self) -> None:
        """Hand over the headers there are: what comes after the body is no header."""
        super().on_headers_complete()
        self.scope["headers"] = self.headers.copy()
        self.scope[_TARGET] = self.url  # type: ignore[literal-required]

    def data_received(self, data: bytes) -> None:
        """Read on, unless nothing more is wanted."""
        if not self._deaf:
            super().data_received(data)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, unless it came after an answer had begun: that is broken off."""
        if self._line is not None and self._line.answering:
            self.transport.abort()
        else:
            super().send_400_response(msg)

    def linger(self) -> None:
        """Close in a moment; nothing that comes until then is looked at."""
        self._deaf = True
        self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGIApp) -> None:  # type: ignore[override]
        super()._start_asgi_task(cycle, app)
        self._line = Line(self, cycle)
        cast(dict[str, Any], cycle.scope)["extensions"] = {LINE: self._line}
