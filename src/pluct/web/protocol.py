"""uvicorn's HTTP protocol, with one write per answer, our own words for what is no HTTP, and a way to leave.

ASGI sends an answer's head and body apart, and uvicorn writes them apart, after looking at each header twice: two
system calls, two packets, and a client that wakes up twice. Our endpoints know the whole answer when they begin to
send it, so the protocol offers them an ASGI extension (`ANSWER`) that writes it at once. Whoever streams, or runs
under another server, sends ASGI's ordinary messages.

A server that stops closes its connections, and whoever sends a request on one in that moment never learns what came of
it. So a connection is told first (`leave`): it closes with its next answer, which says so; where none is asked for, it
closes when nothing has come for a while.
"""

import asyncio
from functools import partial

import msgspec
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from pluct.errors import InvalidRequest
from pluct.web.endpoint import ANSWER, Call, request_id
from pluct.web.problems import problem

#: How long nothing must have come on a connection before a server that stops closes it.
LINGER_SECONDS = 1.0
#: What a request may bring beside its body: its address and headers, the sizes of chunks (five bytes for each of the
#: body's at worst), trailers. The parser keeps headers and trailers until they end, so somebody must count.
ENVELOPE_BYTES_MAX = 512 * 1024


class OneWriteProtocol(HttpToolsProtocol):
    """See the module. With a `timeout_keep_alive` of 0, no answer leaves its connection open."""

    _envelope = 0  # bytes of the request that is coming in, without its body's

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin a connection; one that comes when the server is about to stop had better be used soon."""
        super().connection_made(transport)
        if not self.timeout_keep_alive:
            self._close_after(LINGER_SECONDS)

    def leave(self, seconds: float) -> None:
        """Close with the next answer, or if none is asked for: after so many seconds, unless something just came."""
        since = self.timeout_keep_alive_task  # armed by the last answer; not while a request comes in
        quiet = 0.0 if since is None else self.loop.time() - since.when() + self.timeout_keep_alive
        self.timeout_keep_alive = 0
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False
        else:
            self._close_after(max(seconds, LINGER_SECONDS - quiet))

    def shutdown(self) -> None:
        """Nothing, where uvicorn would close what is idle at once: see `leave`."""

    def _close_after(self, seconds: float) -> None:
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def data_received(self, data: bytes) -> None:
        """Read on, unless the request has gone on for too long without getting anywhere."""
        super().data_received(data)
        in_head = self.scope is not None and "method" not in self.scope
        if not in_head and (self.cycle is None or not self.cycle.more_body):
            return
        self._envelope += len(data)
        if self._envelope > ENVELOPE_BYTES_MAX and not self.transport.is_closing():
            if in_head:
                self.send_400_response(f"The address and headers are larger than {ENVELOPE_BYTES_MAX >> 10} KiB.")
            else:  # it may have been answered already
                self.transport.abort()

    def on_message_begin(self) -> None:
        """Count anew."""
        super().on_message_begin()
        self._envelope = 0

    def on_body(self, body: bytes) -> None:
        """Leave the body to its reader, who counts it."""
        self._envelope -= len(body)
        super().on_body(body)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGIApp) -> None:  # type: ignore[override]
        cycle.scope["extensions"] = {ANSWER: partial(self._answer, cycle)}  # type: ignore[dict-item]
        if not self.timeout_keep_alive and not self.pipeline:
            cycle.keep_alive = False
        super()._start_asgi_task(cycle, app)  # type: ignore[arg-type]

    def _answer(
        self, cycle: RequestResponseCycle, status: int, headers: list[tuple[bytes, bytes]], body: bytes
    ) -> bool:
        """Write a whole answer; False if that must wait, because the client does not read. Headers are as they go."""
        if cycle.flow.write_paused:
            return False
        if cycle.disconnected:
            return True
        parts = [STATUS_LINE[status]]
        for name, value in (*cycle.default_headers, *headers):
            parts += (name, b": ", value, b"\r\n")
        parts.append(b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n")
        if cycle.scope["method"] != "HEAD":
            parts.append(body)
        self.transport.write(b"".join(parts))
        cycle.response_started = cycle.response_complete = True
        cycle.message_event.set()
        del cycle.scope["extensions"]  # it leads back to the cycle, and would be garbage only the collector can find
        if not cycle.keep_alive:
            self.transport.close()
        cycle.on_response()
        return True

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP the way every other request is refused."""
        answer = problem(InvalidRequest(msg), Call({}, {}, request_id({})))
        content = msgspec.json.encode(answer.content)
        head = b"HTTP/1.1 400 Bad Request\r\ncontent-type: %s\r\ncontent-length: %d\r\nconnection: close\r\n"
        named = b"x-request-id: %s\r\n\r\n" % answer.content.request_id.encode()
        self.transport.write(head % (answer.content_type, len(content)) + named + content)
        self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: asking for another protocol is allowed, and is answered in this one (RFC 9110, section 7.8)."""
