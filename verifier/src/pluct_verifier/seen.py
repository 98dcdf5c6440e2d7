"""Which tickets were accepted before: a list that forgets a ticket when it can no longer be valid, and never sooner.

`mark` notes a ticket, or raises `TicketRefused` if it was noted before. Where a list is full it refuses new tickets and
forgets none. What has been forgotten stays refused, even if the clock is set back or another verifier has a longer
leeway: a list remembers up to which end it has forgotten, and takes no ticket that ends sooner.
"""

import asyncio
import heapq
import math
import os
import random
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from pluct_verifier.calls import PerLoop
from pluct_verifier.tickets import TicketRefused

SKEW_SECONDS = 60.0
_BUSY_SECONDS = 5.0
_POLL_SECONDS = 0.002
_REDIS_LIMITS: dict[str, Any] = {
    "max_connections": 32, "timeout": 5, "socket_timeout": 2, "socket_connect_timeout": 2,
}  # fmt: skip


class Seen(Protocol):
    """A list of the tickets that were accepted."""

    async def mark(self, ticket_id: str, ends: int, over: float, waiting: bool) -> None:
        """Note a ticket that ends (`exp`) then; what ended by `over` is not valid even with the leeway.

        Raises `TicketRefused` if it was noted before, or cannot be.
        """
        ...


class SeenMemory:
    """The list of one process; gone when it ends."""

    def __init__(self, size_max: int = 200_000) -> None:
        self._size_max, self._lock, self._forgotten = size_max, threading.Lock(), 0
        self._ids: set[str] = set()
        self._ends: list[tuple[int, str]] = []  # a heap: the first to end is the first

    async def mark(self, ticket_id: str, ends: int, over: float, waiting: bool) -> None:
        """Note a ticket."""
        with self._lock:
            while self._ends and self._ends[0][0] <= over:
                self._forgotten, gone = heapq.heappop(self._ends)
                self._ids.discard(gone)
            _judge(ticket_id in self._ids, ends <= self._forgotten, len(self._ids) >= self._size_max)
            self._ids.add(ticket_id)
            heapq.heappush(self._ends, (ends, ticket_id))


class SeenFile:
    """The list of all processes of one machine: a SQLite file on a local disk. It survives crashes and power cuts."""

    def __init__(self, path: str | Path, size_max: int = 1_000_000) -> None:
        self._path, self._size_max, self._lock = path, size_max, threading.Lock()
        self._opened: dict[int, sqlite3.Connection] = {}  # by process: none may use what was opened before a fork
        self._connection()

    def _connection(self) -> sqlite3.Connection:
        if os.getpid() not in self._opened:
            opened = sqlite3.connect(self._path, 0.0, isolation_level=None, check_same_thread=False)
            _patiently(lambda: opened.executescript(_SCHEMA))
            self._opened[os.getpid()] = opened
        return self._opened[os.getpid()]

    async def mark(self, ticket_id: str, ends: int, over: float, waiting: bool) -> None:
        """Note a ticket, on the disk."""
        if waiting:
            await asyncio.to_thread(self._mark, ticket_id, ends, over)
        else:
            self._mark(ticket_id, ends, over)

    def _mark(self, ticket_id: str, ends: int, over: float) -> None:
        try:
            with self._lock, self._connection() as connection:  # commits, or rolls back what was refused
                ask = connection.execute
                _patiently(lambda: ask("BEGIN IMMEDIATE"))
                gone, last = ask("SELECT count(*), max(ends) FROM seen WHERE ends <= ?", (over,)).fetchone()
                if gone:
                    ask("DELETE FROM seen WHERE ends <= ?", (over,))
                    ask("UPDATE book SET size = size - ?, forgotten = max(forgotten, ?)", (gone, last))
                size, forgotten = ask("SELECT size, forgotten FROM book").fetchone()
                known = ask("SELECT 1 FROM seen WHERE id = ?", (ticket_id,)).fetchone() is not None
                _judge(known, ends <= forgotten, size >= self._size_max)
                ask("INSERT INTO seen VALUES (?, ?)", (ticket_id, ends))
                ask("UPDATE book SET size = size + 1")
        except sqlite3.Error as error:
            raise TicketRefused("unavailable") from error


def _patiently(lock: Callable[[], object]) -> None:
    """Wait for the file's one write lock. SQLite's own way of waiting lets busy neighbours starve each other."""
    end = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            lock()
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
        time.sleep(random.uniform(0, _POLL_SECONDS))


_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS seen (id TEXT PRIMARY KEY, ends INTEGER NOT NULL) WITHOUT ROWID, STRICT;
CREATE INDEX IF NOT EXISTS seen_ends ON seen (ends);
CREATE TABLE IF NOT EXISTS book (id INTEGER PRIMARY KEY, size INTEGER NOT NULL, forgotten INTEGER NOT NULL) STRICT;
INSERT OR IGNORE INTO book VALUES (1, 0, 0);
COMMIT;
"""


class SeenRedis:
    """The list of many machines, in Redis 7 (or Valkey): as lasting as that is set up to be.

    A mark is kept `skew_seconds` longer, because machines that share it need not agree on the time.
    """

    def __init__(self, url: str, skew_seconds: float = SKEW_SECONDS) -> None:
        import redis
        import redis.asyncio

        self._skew_seconds, self._errors = skew_seconds, (redis.RedisError, OSError)
        self._blocking = redis.Redis(connection_pool=redis.BlockingConnectionPool.from_url(url, **_REDIS_LIMITS))
        pool = redis.asyncio.BlockingConnectionPool
        self._waiting = PerLoop(lambda: redis.asyncio.Redis(connection_pool=pool.from_url(url, **_REDIS_LIMITS)))

    async def mark(self, ticket_id: str, ends: int, over: float, waiting: bool) -> None:
        """Note a ticket. The mark says whose it is: the client may send it again after a broken connection."""
        key, ours = f"pluct:seen:{ticket_id}", uuid.uuid4().hex
        life = math.ceil((ends - over + self._skew_seconds) * 1000)
        try:
            if waiting:
                found = await self._waiting.get().set(key, ours, nx=True, px=life, get=True)
            else:
                found = self._blocking.set(key, ours, nx=True, px=life, get=True)
        except self._errors as error:
            raise TicketRefused("unavailable") from error
        _judge(found not in (None, ours, ours.encode()), False, False)


def _judge(known: bool, forgotten: bool, full: bool) -> None:
    if known:
        raise TicketRefused("ticket_already_redeemed")
    if forgotten:
        raise TicketRefused("ticket_expired")
    if full:
        raise TicketRefused("seen_full")
