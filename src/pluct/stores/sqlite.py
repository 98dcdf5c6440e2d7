"""The ledger in one SQLite file.

One connection writes, one batch at a time: fetch, decide and record run on the event loop, where nothing contends
for the interpreter, and only COMMIT, which waits for the disk, runs in a thread while the loop gathers the next batch
(docs/decisions/0002). `synchronous=FULL`: what is answered survives a power cut.

A serving process holds a lock beside the file, so that a second server is refused. Other processes (the CLI) may
write short transactions beside it: SQLite's own lock keeps them apart, and whoever finds it taken waits in a thread.
"""

import asyncio
import fcntl
import logging
import os
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any, TypeVar

from pluct import ledger
from pluct.commands import Command, Expire
from pluct.errors import OutcomeUnknown, Refusal, SetupError, Unavailable
from pluct.limits import LocalTurns, Turns
from pluct.model import ApiKey, Entry, Outcome, SigningKey, Ticket, Wallet
from pluct.outbox import Outbox
from pluct.stores import Reads, SharedLog, Violation, Watch, rows, schema, sqlite_batch, sqlite_check
from pluct.stores.batching import Batcher
from pluct.stores.console_rows import ConsoleRows
from pluct.stores.identity_rows import IdentityRows
from pluct.stores.outbox_rows import OutboxRows
from pluct.stores.payment_reads import PaymentReads
from pluct.stores.sqlite_contents import SqliteContents
from pluct.stores.sums_rows import SumsRows

T = TypeVar("T")
log = logging.getLogger("pluct.stores")

#: How long a writer waits for another process's transaction to end.
BUSY_SECONDS_MAX = 5.0
#: After so many commands the write-ahead log is copied into the file (a checkpoint).
CHECKPOINT_COMMANDS = 4_000
#: Should that not succeed, SQLite itself does it inside a COMMIT once the log has so many pages.
LOG_PAGES_MAX = 20_000

#: The environment's errors: nothing was recorded, and it is nobody's fault who asked.
_ENVIRONMENT = frozenset(
    {
        sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_INTERNAL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOLFS,
        sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_PERM, sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
    }
)  # fmt: skip

_WALLET = f"SELECT {rows.WALLET} FROM wallets WHERE user_id = ?"
_TICKET = f"SELECT {rows.TICKET} FROM tickets WHERE id = ?"
_API_KEY = f"SELECT {rows.API_KEY} FROM api_keys "
_HISTORY = f"""
WITH RECURSIVE walk(step, {rows.ENTRY}) AS (
  SELECT 1, {rows.ENTRY} FROM entries WHERE user_id = ?1 AND id = ?2
  UNION ALL
  SELECT walk.step + 1, {", ".join("e." + column for column in rows.ENTRY.replace(",", "").split())}
    FROM walk JOIN entries e ON e.id = walk.previous_id WHERE walk.step < ?3
)
SELECT {rows.ENTRY} FROM walk
"""

_CHECKPOINT = "PRAGMA wal_checkpoint(PASSIVE)"  # waits for nobody


class SqliteStore(PaymentReads, IdentityRows, OutboxRows, SumsRows, ConsoleRows):
    """The `Store` over one file. Made and used inside a running event loop."""

    def __init__(
        self, path: Path, clock: Callable[[], int], next_id: Callable[[], str], *, serving: bool, batch_max: int = 256,
        outbox: Outbox | None = None, watch: Watch | None = None,
    ) -> None:  # fmt: skip
        self.path = Path(os.path.realpath(path))  # a link to the file is the file
        self._clock = clock
        self._next_id = next_id
        self._serving = serving
        self._outbox, self._watch = outbox, watch
        self._batch_max = batch_max
        self._lock: IO[str] | None = None
        self._thread = _Worker("pluct-commit")
        self._checkpoints = _Worker("pluct-checkpoint")
        self._checkpoint: asyncio.Task[None] | None = None
        self._since_checkpoint = 0  # commands committed
        self._finish_checkpoint = False
        self._write: sqlite3.Connection | None = None
        self._read: sqlite3.Connection | None = None
        self.turns: Turns = LocalTurns(clock)
        self.shared_log: SharedLog | None = None

    # Opening and closing

    async def open(self) -> tuple[int, int]:
        """Lock, migrate, connect. Raises `SetupError` with what to do about it."""
        try:
            if self.path.is_dir():
                raise SetupError(f"{self.path} is a folder; name a file in it, such as {self.path / 'pluct.db'}.")
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self._serving:
                self._lock = _lock_file(self.path)
            if self.path.exists() and self.path.stat().st_nlink > 1:
                raise SetupError(f"{self.path} has several names (hard links), which breaks SQLite; keep one of them.")
            migrated = schema.migrate_sqlite(self.path)
            self._connect()
        except (OSError, sqlite3.DatabaseError) as error:
            self._let_go()
            reason = error.strerror if isinstance(error, OSError) else error
            raise SetupError(f"The ledger {self.path} cannot be opened: {reason}.") from None
        except SetupError:
            self._let_go()
            raise
        self._batcher = Batcher(self._transact, batch_max=self._batch_max)
        return migrated

    async def close(self) -> None:
        """Finish what is queued, then let go of the file."""
        await self._batcher.close()
        if self._checkpoint is not None:
            await self._checkpoint
        self._let_go()

    def _let_go(self) -> None:
        self._disconnect()
        self._thread.stop()
        self._checkpoints.stop()
        if self._lock is not None:
            self._lock.close()

    def _connect(self) -> None:
        """Make the connections that are missing."""
        if self._write is None:
            self._write = connect(self.path, BUSY_SECONDS_MAX)
            self._write.execute("PRAGMA busy_timeout = 0")  # the event loop does not wait; see `_begin`
        if self._read is None:
            self._read = connect(self.path, BUSY_SECONDS_MAX)
            self._read.execute("PRAGMA query_only = 1")

    def _disconnect(self) -> None:
        for connection in (self._read, self._write):
            if connection is not None:
                connection.close()
        self._write = self._read = None

    # Writing

    async def submit(self, command: Command) -> Outcome | Refusal:
        """See `Store.submit`."""
        return await self._batcher.submit(command)

    async def _transact(self, commands: Sequence[Command]) -> list[Outcome | Refusal]:
        """Fetch, decide, record and commit one batch."""
        connection = await self._begin()
        try:
            view = sqlite_batch.fetch(connection, self._next_id, commands)
            now, before = self._clock(), view.payments.copy()
            outcomes = [ledger.decide(view, command, now) for command in commands]
            if not view.changed:
                connection.execute("ROLLBACK")
                return outcomes
            if self._outbox is not None:
                view.letters = self._outbox.letters(view, before, now)
            sqlite_batch.record(connection, view)
        except sqlite3.Error as error:
            self._roll_back()
            raise _translated(error) from error
        except BaseException:
            self._roll_back()
            raise
        try:
            if self._finish_checkpoint:
                self._finish_checkpoint = False
                await self._thread.run(_commit_and_checkpoint, connection)
            else:
                await self._thread.run(connection.execute, "COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            raise OutcomeUnknown from error
        if self._watch is not None:
            self._watch(view, before)
        self._since_checkpoint += len(commands)
        if self._since_checkpoint >= CHECKPOINT_COMMANDS and self._checkpoint is None:
            self._since_checkpoint = 0
            self._checkpoint = asyncio.get_running_loop().create_task(self._copy_log())
        return outcomes

    async def _copy_log(self) -> None:
        """Copy the log into the file beside the batches: inside a COMMIT, as SQLite does it, all would wait for it.

        Batches add to the log meanwhile, so a second round does what the first has left, and the next COMMIT the little
        that is left then: a log that is copied to its end begins anew.
        """
        try:
            await self._checkpoints.run(_checkpoint_twice, self.path)
            self._finish_checkpoint = True
        except sqlite3.Error as error:
            log.warning("the write-ahead log could not be copied into %s: %s", self.path, error)
        finally:
            self._checkpoint = None

    async def _begin(self) -> sqlite3.Connection:
        """Start a write transaction, reconnecting after an accident and waiting for a guest's lock in the thread."""
        try:
            if self._write is None:
                self._connect()
            assert self._write is not None
            try:
                self._write.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if _primary_code(error) == sqlite3.SQLITE_READONLY:  # it was, when the connection was made
                    self._disconnect()
                    self._connect()
                    self._write.execute("BEGIN IMMEDIATE")
                elif _primary_code(error) == sqlite3.SQLITE_BUSY:
                    await self._thread.run(_begin_patiently, self._write)
                else:
                    raise
            return self._write
        except sqlite3.Error as error:
            self._roll_back()
            raise _translated(error) from error

    def _roll_back(self) -> None:
        """Leave the transaction: closing the connection does that under any circumstances. Reading goes on."""
        if self._write is not None:
            self._write.close()
            self._write = None

    # Reading

    @property
    def reads(self) -> Reads:
        """See `Store.reads`: a file has no replica."""
        return self

    async def wallet(self, user_id: str) -> Wallet | None:
        """See `Store.wallet`."""
        row = self._one(_WALLET, user_id)
        return None if row is None else rows.wallet(row)

    async def entries(self, user_id: str, limit: int, cursor: str | None) -> list[Entry]:
        """See `Store.entries`: a walk back from the last entry; its cost is the length of the page."""
        if cursor is None:
            row = self._one("SELECT last_entry_id FROM wallets WHERE user_id = ?", user_id)
            if row is None:
                return []
            cursor = row[0]
        return [Entry(*row) for row in self._all(_HISTORY, user_id, cursor, limit)]

    async def ticket(self, ticket_id: str) -> Ticket | None:
        """See `Store.ticket`."""
        row = self._one(_TICKET, ticket_id)
        return None if row is None else rows.ticket(row)

    async def due(self, now: int, grace_seconds: int, limit: int) -> list[Expire]:
        """See `Store.due`: two index reads."""
        tickets: dict[str, list[str]] = {}
        for user_id, ticket_id in self._all(
            "SELECT user_id, id FROM tickets WHERE due_at <= ? ORDER BY due_at LIMIT ?", now, limit
        ):
            tickets.setdefault(user_id, []).append(ticket_id)
        for (user_id,) in self._all(
            "SELECT user_id FROM wallets WHERE next_expiry_at <= ? ORDER BY next_expiry_at LIMIT ?",
            now, limit - len(tickets),
        ):  # fmt: skip
            tickets.setdefault(user_id, [])
        return [Expire(user_id, grace_seconds, tuple(ids)) for user_id, ids in tickets.items()]

    async def api_key(self, secret_hash: bytes) -> ApiKey | None:
        """See `Store.api_key`."""
        row = self._one(
            f"SELECT {rows.API_KEY} FROM api_keys WHERE secret_hash = ? AND revoked_at IS NULL", secret_hash
        )
        return None if row is None else ApiKey(*row)

    async def api_keys(self) -> list[ApiKey]:
        """See `Store.api_keys`."""
        return [ApiKey(*row) for row in self._all(_API_KEY + "ORDER BY created_at, id")]

    async def add_api_key(self, key: ApiKey) -> None:
        """See `Store.add_api_key`."""
        await self._administer(
            "INSERT INTO api_keys VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
            (key.id, key.role, key.name, key.secret_hash, key.created_at, key.revoked_at),
        )

    async def revoke_api_key(self, key_id: str, now: int) -> ApiKey | None:
        """See `Store.revoke_api_key`."""
        await self._administer("UPDATE api_keys SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL", (now, key_id))
        row = self._one(_API_KEY + "WHERE id = ?", key_id)
        return None if row is None else ApiKey(*row)

    async def signing_keys(self) -> list[SigningKey]:
        """See `Store.signing_keys`."""
        return rows.signing_keys(self._all(rows.READ_SIGNING_KEYS))

    async def change_signing_keys(self, decide: Callable[[list[SigningKey]], list[SigningKey]]) -> list[SigningKey]:
        """See `Store.change_signing_keys`."""

        def change(connection: sqlite3.Connection) -> list[SigningKey]:
            connection.execute("BEGIN IMMEDIATE")
            changed = decide(rows.signing_keys(connection.execute(rows.READ_SIGNING_KEYS)))
            write = rows.WRITE_SIGNING_KEY.replace("$", "?")
            connection.executemany(write, map(rows.signing_key_row, changed))
            connection.execute("COMMIT")
            return rows.signing_keys(connection.execute(rows.READ_SIGNING_KEYS))

        return await self._as_guest(change)

    async def check(self, progress: Callable[[str, int, int], None]) -> list[Violation]:
        """See `Store.check`: on a connection of its own, in a thread of its own."""
        try:
            return await asyncio.to_thread(sqlite_check.check, self.path, progress)
        except sqlite3.Error as error:
            raise _translated(error) from error

    @asynccontextmanager
    async def held(self) -> AsyncIterator[SqliteContents]:
        """See `Store.held`: a store that is open as a server keeps other servers out, and this transaction, guests."""
        assert self._serving
        connection = connect(self.path, BUSY_SECONDS_MAX)
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield SqliteContents(connection)
        except sqlite3.Error as error:
            raise _translated(error) from error
        finally:
            connection.close()

    filled = held

    _sweep_sums = "DELETE FROM sums WHERE (step = 'minute' AND at < $1) OR (step = 'hour' AND at < $2)"
    _sweep_letters = (
        "DELETE FROM letters WHERE id IN (SELECT id FROM letters WHERE"
        " (state <> 'pending' AND state = 'delivered' AND due_at < $1)"
        " OR (state <> 'pending' AND state = 'dead' AND due_at < $2) LIMIT $3)"
    )

    async def _rows(self, sql: str, *values: object) -> list[Any]:
        return self._all(sql.replace("$", "?"), *values)

    async def _change(self, sql: str, *values: object) -> list[Any]:
        return await self._administer(sql.replace("$", "?"), values)

    def _one(self, sql: str, *values: object) -> Any:
        found = self._all(sql, *values)
        return found[0] if found else None

    def _all(self, sql: str, *values: object) -> list[Any]:
        """Read on the event loop: every query here is a few index look-ups, bounded by its limit."""
        try:
            if self._read is None:
                self._connect()
            assert self._read is not None
            return self._read.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise _translated(error) from error

    async def _administer(self, sql: str, values: tuple[object, ...]) -> list[Any]:
        """One rare statement, and what it returns."""
        return await self._as_guest(lambda connection: connection.execute(sql, values).fetchall())

    async def _as_guest(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What is rare is done as a guest of our own batches, on a connection of its own, in a thread."""

        def run() -> T:
            connection = connect(self.path, BUSY_SECONDS_MAX)
            try:
                return work(connection)
            finally:
                connection.close()

        try:
            return await asyncio.to_thread(run)
        except sqlite3.Error as error:
            raise _translated(error) from error


class _Worker:
    """A thread for what waits for the disk. An executor does the same with thrice the locking per call."""

    def __init__(self, name: str) -> None:
        self._work: SimpleQueue[tuple[Callable[..., object], Any, asyncio.Future[None]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def run(self, function: Callable[..., object], argument: object) -> "asyncio.Future[None]":
        """Call the function in the thread; the future is done when it is."""
        future = asyncio.get_running_loop().create_future()
        self._work.put((function, argument, future))
        return future

    def stop(self) -> None:
        """Finish what was asked for, and end the thread."""
        self._work.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            function, argument, future = work
            error: BaseException | None = None
            try:
                function(argument)
            except BaseException as raised:
                error = raised
            future.get_loop().call_soon_threadsafe(_settle, future, error)
            del work, future, error


def _settle(future: "asyncio.Future[None]", error: BaseException | None) -> None:
    if future.cancelled():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


def connect(path: Path, busy_seconds: float) -> sqlite3.Connection:
    """A connection as the ledger needs it: autocommit, write-ahead log, durable at COMMIT."""
    connection = sqlite3.connect(
        path, timeout=busy_seconds, isolation_level=None, check_same_thread=False, cached_statements=64
    )
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA cache_size = -32768")  # KiB: what keeps memory flat
    connection.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES_MAX}")
    return connection


def _checkpoint_twice(path: Path) -> None:
    connection = connect(path, BUSY_SECONDS_MAX)
    try:
        for _ in range(2):
            connection.execute(_CHECKPOINT)
    finally:
        connection.close()


def _commit_and_checkpoint(connection: sqlite3.Connection) -> None:
    connection.execute("COMMIT")
    try:
        connection.execute(_CHECKPOINT)
    except sqlite3.Error as error:  # what is committed is committed; the log is copied another time
        log.warning("the write-ahead log could not be copied to its end: %s", error)


def _begin_patiently(connection: sqlite3.Connection) -> None:
    """Ask for the write lock every millisecond: SQLite itself would sleep ever longer, and a busy guest would win."""
    until = time.monotonic() + BUSY_SECONDS_MAX
    while True:
        try:
            connection.execute("BEGIN IMMEDIATE")
            return
        except sqlite3.OperationalError as error:
            if _primary_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
        time.sleep(0.001)


def _primary_code(error: sqlite3.Error) -> int:
    """SQLite's primary result code: the low byte of the extended one."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def _translated(error: sqlite3.Error) -> Exception:
    """The environment's errors as `Unavailable`; an error of ours stays what it is."""
    if _primary_code(error) in _ENVIRONMENT:
        return Unavailable(f"The ledger cannot be written now ({error}); try again shortly.")
    return error


def _lock_file(path: Path) -> IO[str]:
    """Claim the file for this server, until the process ends, however it ends."""
    lock = open(path.with_name(path.name + ".lock"), "a+", encoding="ascii")  # noqa: SIM115
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        owner = lock.read(20).strip() or "unknown"
        lock.close()
        raise SetupError(
            f"Another server or copy (process {owner}) already serves {path}, and one SQLite file has one server. "
            "Stop the server first, or give this one another DATABASE_URL."
        ) from None
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock
