"""A network between two programs that a test can stop, cut and lead elsewhere."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self


class Network:
    """A port that leads to another one. What is sent while it is stopped arrives once it goes on."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self._stop_at: tuple[bytes, bool] | None = None
        self._lines: set[asyncio.Future[None]] = set()
        self._ends: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._open)
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def stop(self) -> None:
        """Hold everything back that is sent from now on, and make no new connection; close none."""
        self._do(self._moves.clear)

    def go_on(self) -> None:
        """Let everything through again."""
        self._do(self._moves.set)

    def stop_before(self, word: bytes) -> None:
        """Stop when somebody sends this word, just before it arrives."""
        self._stop_at = word, True

    def stop_after(self, word: bytes) -> None:
        """Stop when somebody sends this word, just after it has arrived."""
        self._stop_at = word, False

    @property
    def stopped(self) -> bool:
        """Whether nothing goes through."""
        return not self._moves.is_set()

    def cut(self) -> None:
        """Break every connection."""
        self._do(self._break)

    def lead_to(self, target: int) -> None:
        """Break every connection; new ones go there."""
        self.target = target
        self.cut()

    def _do(self, work: Callable[[], Any]) -> None:
        async def run() -> None:
            done = work()
            if done is not None:
                await done

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)

    async def _open(self) -> None:
        self._moves = asyncio.Event()
        self._moves.set()
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        self._server.close()
        self._moves.set()
        while self._lines:
            self._break()
            await asyncio.wait(self._lines)

    def _break(self) -> None:
        for end in self._ends:
            end.transport.abort()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = asyncio.ensure_future(self._line(reader, writer))
        self._lines.add(line)
        line.add_done_callback(self._lines.discard)

    async def _line(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        self._ends.add(writer)
        try:
            await self._moves.wait()
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
            ends.append(back)
            self._ends.add(back)
            await asyncio.gather(self._carry(reader, back), self._carry(there, writer))
        except OSError:
            pass  # there is nobody at the other end: hang up
        for end in ends:
            end.close()
            with suppress(OSError):
                await end.wait_closed()
            self._ends.discard(end)

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """Take what comes to the other end, until either end is closed."""
        try:
            while data := await source.read(65536):
                word, before = self._stop_at or (data + b"?", False)
                if word in data:
                    self._stop_at = None
                    if before:
                        self._moves.clear()
                await self._moves.wait()
                sink.write(data)
                if word in data and not before:
                    self._moves.clear()  # what has been written goes on its way, and nothing after it
                await sink.drain()
        except OSError:
            pass
        finally:
            await self._moves.wait()
            sink.close()
