"""uvicorn's HTTP protocol, with one write per answer and our own words for what is no HTTP.

ASGI sends an answer's head and body apart, and uvicorn writes them apart: two system calls, two packets, and a client
that wakes up twice. Here the head waits for the body that follows it. (An interim answer, such as 100 Continue, does
not. An answer that streams must send something at once.)
"""

import asyncio
from typing import Any, cast

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from pluct.errors import InvalidRequest
from pluct.web.endpoint import Call, request_id
from pluct.web.problems import problem


class Corked:
    """A transport that holds a head back until more is written, or `flush` is called."""

    __slots__ = ("_head", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""

    def write(self, data: bytes) -> None:
        """Write what was held back with what follows it."""
        if self._head:
            self._transport.write(self._head + data)
            self._head = b""
        elif data.endswith(b"\r\n\r\n") and data.startswith(b"HTTP/1.1 ") and data[9:10] != b"1":
            self._head = data
        else:
            self._transport.write(data)

    def flush(self) -> None:
        """Write a head that no body follows."""
        if self._head:
            self._transport.write(self._head)
            self._head = b""

    def close(self) -> None:
        """Write everything, then close."""
        self.flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class OneWriteProtocol(HttpToolsProtocol):
    """See the module."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin a connection."""
        super().connection_made(cast(asyncio.Transport, Corked(transport)))

    def on_response_complete(self) -> None:
        """End an answer: a HEAD's has no body."""
        cast(Corked, self.transport).flush()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP the way every other request is refused."""
        answer = problem(InvalidRequest(msg), Call({}, request_id({})))
        content = msgspec.json.encode(answer.content)
        head = b"HTTP/1.1 400 Bad Request\r\ncontent-type: %s\r\ncontent-length: %d\r\nconnection: close\r\n"
        named = b"x-request-id: %s\r\n\r\n" % answer.content.request_id.encode()
        self.transport.write(head % (answer.content_type, len(content)) + named + content)
        self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: asking for another protocol is allowed, and is answered in this one (RFC 9110, section 7.8)."""
