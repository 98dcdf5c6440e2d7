"""Asking another server over HTTP/1.1, byte for byte: one exchange at a time on each connection, idle ones are kept.

Nothing is buffered beyond a window in each direction, names and values of headers stay the bytes they are, and an
answer that ends too early is never taken for one that is complete.
"""

import asyncio
import ssl
from collections import deque
from contextlib import suppress
from typing import cast
from urllib.parse import SplitResult, urlsplit

import httptools
import msgspec

from pluct.errors import SetupError

#: How much of an answer may wait for its reader before the sender is held up.
WINDOW_BYTES = 64 * 1024
ANSWER_HEAD_BYTES_MAX = 256 * 1024


class Broken(Exception):
    """it broke off"""


class Unreachable(Broken):
    """it could not be reached"""


class TimedOut(Broken):
    """it did not answer in time"""


class Head(msgspec.Struct, gc=False):
    """Status line and headers of an answer, and how its body ends."""

    status: int
    reason: bytes
    headers: list[tuple[bytes, bytes]]
    length: int | None = None  # of the body, if it was said
    empty: bool = False  # there is no body, whatever the headers say


class Connection(asyncio.Protocol):
    """One connection to a server."""

    def __init__(self, origin: "Origin") -> None:
        self._origin = origin
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._writable: asyncio.Future[None] | None = None  # while the other side does not keep up
        self.fresh = True  #: nothing was asked on it before
        self.since = 0.0  #: when it became idle
        self.busy = False
        self._read_paused = False
        self._forget_answer(False)

    def _forget_answer(self, is_head: bool) -> None:
        self._is_head = is_head
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._seconds: float | None = None
        self._head: Head | None = None
        self._status = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._chunks: list[bytes] = []
        self._waiting = self._head_bytes = 0
        self._at_close = self._complete = self._reusable = False

    # What the asker does

    def begin(self, data: bytes, *, is_head: bool = False) -> None:
        """Send the head of a request, and of its body as much as there is."""
        self._forget_answer(is_head)
        self._parser = httptools.HttpResponseParser(self)
        self.busy = True
        self._transport.write(data)

    async def send(self, data: bytes, seconds: float) -> None:
        """Send more, as fast as it is taken."""
        if self._error is not None:
            raise self._error
        self._transport.write(data)
        if self._writable is not None:
            timer = self._loop.call_later(seconds, self._give_up)
            try:
                await self._writable
            finally:
                timer.cancel()

    async def head(self, seconds: float | None) -> Head:
        """Wait for the answer's head; without a time until there is a `limit`."""
        while self._head is None:
            await self._wait(seconds)
        return self._head

    def limit(self, seconds: float) -> None:
        """From now on, the answer must come within this time."""
        self._seconds = seconds
        if self._waiter is not None and self._timer is None:
            self._timer = self._loop.call_later(seconds, self._give_up)

    def available(self) -> bytes:
        """What has come of the body and was not taken yet."""
        if not self._chunks:
            return b""
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks, self._waiting = [], 0
        if self._read_paused:
            self._read_paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()
        return data

    @property
    def complete(self) -> bool:
        """Whether the answer is complete, up to what is `available`."""
        return self._complete

    async def more(self, seconds: float) -> bytes:
        """The next part of the body; nothing once it is complete. Raises what broke it off."""
        while not self._chunks and not self._complete:
            await self._wait(seconds)
        return self.available()

    def fail(self, error: Exception) -> None:
        """End the exchange with this, here and there."""
        if self._error is None and not self._complete:
            self._error = error
        self._transport.abort()
        self._wake()

    def release(self) -> None:
        """Let go of it, once: it is kept for the next exchange if this one has ended well."""
        self.busy = False
        if self._reusable and self._error is None and not self._transport.is_closing():
            self.fresh = False
            self._origin.take_back(self)
        else:
            self._transport.abort()
            self._origin.take_back(None)

    async def _wait(self, seconds: float | None) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = self._loop.create_future()
        seconds = self._seconds if seconds is None else seconds
        if seconds is not None:
            self._timer = self._loop.call_later(seconds, self._give_up)
        try:
            await self._waiter
        finally:
            self._waiter = None
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        if self._error is not None and not self._chunks:
            raise self._error

    def _give_up(self) -> None:
        self.fail(TimedOut())

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        if self._writable is not None and self._error is not None and not self._writable.done():
            self._writable.set_exception(self._error)

    # What the loop tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is there."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own kind

    def data_received(self, data: bytes) -> None:
        """Take in a part of the answer."""
        if not self.busy or self._complete or self._error is not None:
            self._reusable = False  # nobody asked for that
            self._transport.abort()
            return
        if self._head is None:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._reusable = False
            self._end(None if self._complete else Broken())
        if self._head is None and self._head_bytes > ANSWER_HEAD_BYTES_MAX:
            self._end(Broken())
        if self._waiting > WINDOW_BYTES and not self._read_paused and not self._transport.is_closing():
            self._read_paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        """It is gone; only where nothing else says how long the answer is, that ends it."""
        self._reusable = False
        if self.busy and not self._complete:
            if self._at_close and error is None and self._error is None:
                self._complete = True
            elif self._error is None:
                self._error = Broken()
        if self._writable is not None and not self._writable.done():
            self._writable.set_exception(self._error or Broken())
        self._wake()
        self._origin.forget(self)

    def pause_writing(self) -> None:
        """The other side does not keep up."""
        self._writable = self._loop.create_future()
        self._writable.add_done_callback(lambda done: done.cancelled() or done.exception())

    def resume_writing(self) -> None:
        """It does again."""
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    def _end(self, error: Exception | None) -> None:
        if error is not None and self._error is None:
            self._error = error
        self._transport.abort()

    # What the parser tells

    def on_message_begin(self) -> None:
        """An answer begins; a second one is nobody's."""
        if self._complete:
            self._reusable = False
            self._transport.abort()
        self._status, self._headers = b"", []

    def on_status(self, status: bytes) -> None:
        """The words after the number."""
        self._status += status

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header; those after the body are nobody's."""
        if self._head is None:
            self._headers.append((name.lower(), value))
        else:
            self._head_bytes += len(name) + len(value)
            if self._head_bytes > ANSWER_HEAD_BYTES_MAX:
                self._end(Broken())

    def on_headers_complete(self) -> None:
        """The answer's head is there, unless it is only a word in between."""
        status = self._parser.get_status_code()
        if self._complete or (100 <= status < 200 and status != 101):
            return
        if status < 200:  # it speaks something else from here on, or nothing at all
            return self._end(Broken())
        said = {name: value for name, value in self._headers if name in (b"content-length", b"transfer-encoding")}
        empty = self._is_head or status in (204, 304)
        length = said.get(b"content-length")
        self._at_close = not empty and not said
        self._head = Head(status, self._status, self._headers, None if length is None else int(length), empty)
        if self._is_head:
            self._complete = True  # the parser waits for a body, so the connection is of no more use

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        if not self._complete:
            self._chunks.append(body)
            self._waiting += len(body)

    def on_message_complete(self) -> None:
        """The answer is complete."""
        if self._head is not None and not self._complete:
            self._complete = True
            self._reusable = self._parser.should_keep_alive()


class Origin:
    """A server that is asked: where it is, and the connections to it."""

    def __init__(
        self, url: str, name: str, *, connect_seconds: float, idle_seconds: float, connections_max: int
    ) -> None:
        parts = _address(url, name)
        self._host = str(parts.hostname)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        self.authority = parts.netloc.encode()
        self.path = parts.path.rstrip("/").encode()  #: what every address there begins with
        self._connect_seconds, self._idle_seconds, self._connections_max = (
            connect_seconds, idle_seconds, connections_max,
        )  # fmt: skip
        self._idle: deque[Connection] = deque()
        self._free = asyncio.Semaphore(connections_max)

    async def connection(self, *, fresh: bool = False) -> Connection:
        """A connection to ask on, to be released; an idle one unless it must be `fresh`. Raises `Unreachable`."""
        loop = asyncio.get_running_loop()
        await self._free.acquire()
        try:
            if self._idle and not fresh:
                kept = self._idle.pop()
                if loop.time() - kept.since < self._idle_seconds:
                    return kept
                self._idle.append(kept)
                self.close()  # the others are idle for longer still
            async with asyncio.timeout(self._connect_seconds):
                _, made = await loop.create_connection(
                    lambda: Connection(self), self._host, self._port, ssl=self._tls
                )  # fmt: skip
            return made
        except (OSError, TimeoutError):  # a certificate that is not good is an OSError, too
            self._free.release()
            raise Unreachable from None
        except BaseException:
            self._free.release()
            raise

    def take_back(self, connection: Connection | None) -> None:
        """A connection has been released; None if it is of no more use."""
        self._free.release()
        if connection is not None:
            connection.since = asyncio.get_running_loop().time()
            self._idle.append(connection)
            if len(self._idle) > self._connections_max:
                self._idle.popleft().fail(Broken())

    def forget(self, connection: Connection) -> None:
        """This connection is closed."""
        with suppress(ValueError):
            self._idle.remove(connection)

    def close(self) -> None:
        """Close what is idle."""
        while self._idle:
            self._idle.pop().fail(Broken())


def _address(url: str, name: str) -> SplitResult:
    """A server's address in its parts. Raises `SetupError`."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or not url.isascii() or not url.isprintable() or {*url} & {" ", "?", "#", "@"}:
        raise SetupError(f"{name} must be http://host:port or https://host, with a path if need be, and nothing else.")
    return parts
