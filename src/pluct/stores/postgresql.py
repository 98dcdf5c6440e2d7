"""The ledger in PostgreSQL: any number of identical processes, on any number of machines, over one database.

A few connections ("lanes") each run one batch at a time: lock the wallets in user order, fetch, decide, record, commit.
No rule is in SQL. What keeps processes apart:

- A command changes the wallet and the tickets of one user only, and holds the lock of that wallet while it does.
- What has no row to lock yet (a new wallet, a key or reference used for the first time) is unique: of two processes
  one inserts it, and the other's batch is undone and decided again over what the winner wrote.
- Payments and checkouts, which may be told of before their user is known, are locked too.
- Locks are taken in one order everywhere (wallets by user, payments and checkouts by id, then new wallets by user, then
  claims by key, then new payments by name): no deadlock.

Only a connection lost during COMMIT leaves an outcome unknown; lost before, nothing was recorded.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import asyncpg
from asyncpg import Connection

from pluct import ledger
from pluct.commands import Command, Expire
from pluct.errors import OutcomeUnknown, Refusal, SetupError, Unavailable
from pluct.limits import Turns
from pluct.model import ApiKey, Entry, Outcome, SigningKey, Ticket, Wallet
from pluct.outbox import Outbox
from pluct.stores import (
    Reads,
    SharedLog,
    Violation,
    Watch,
    postgresql_batch,
    postgresql_check,
    postgresql_contents,
    rows,
    schema,
)
from pluct.stores.batching import Batcher
from pluct.stores.console_rows import ConsoleRows
from pluct.stores.identity_rows import IdentityRows
from pluct.stores.outbox_rows import OutboxRows
from pluct.stores.payment_reads import PaymentReads
from pluct.stores.postgresql_connections import (
    GUEST,
    STATEMENT_SECONDS_MAX,
    Connections,
    LostRace,
    alone,
    connect,
    hosts_of,
)
from pluct.stores.postgresql_contents import SERVER, PostgresqlContents
from pluct.stores.postgresql_log import PostgresqlLog
from pluct.stores.postgresql_turns import SharedTurns
from pluct.stores.replica import ReplicaReads
from pluct.stores.sums_rows import SumsRows

#: Batches in flight per process: while one waits for its commit, another is decided.
LANES = 2
READERS = 4
#: How often a batch that lost a race for a new row is decided again.
ATTEMPTS_MAX = 5

#: What a server's role must be allowed to do, by table.
_NEEDED = {
    **dict.fromkeys(("entries", "payment_events"), "SELECT, INSERT"),
    **dict.fromkeys(
        (
            "wallets",
            "tickets",
            "claims",
            "api_keys",
            "probe",
            "checkouts",
            "payments",
            "signing_keys",
            "sessions",
            "turns",
            "families",
            "letters",
            "turns_taken",
            "sums",
            "log_lines",
        ),
        "SELECT, INSERT, UPDATE",
    ),
}

_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL lock_timeout = '3s'"
_ENTRY_COLUMNS = rows.ENTRY.replace(",", "").split()
_HISTORY = f"""
WITH RECURSIVE walk AS (
  SELECT 1 AS step, {rows.ENTRY} FROM entries WHERE user_id = $1 AND id = $2
  UNION ALL
  SELECT walk.step + 1, {", ".join("e." + column for column in _ENTRY_COLUMNS)}
    FROM walk JOIN entries e ON e.id = walk.previous_id WHERE walk.step < $3
)
SELECT {rows.ENTRY} FROM walk ORDER BY step
"""

_RACES = frozenset({"40001", "40P01"})
#: Where a row that is there already is another process's, and can be seen now.
_RACED_FOR = frozenset({"wallets", "claims", "payments", "checkouts"})


class PostgresqlReads:
    """What can be read of one database, be it the primary or a replica."""

    def __init__(self, url: str, name: str) -> None:
        self._readers = Connections(partial(connect, hosts_of(url), name), READERS)

    async def wallet(self, user_id: str) -> Wallet | None:
        """See `Store.wallet`."""
        row = await self._one(f"SELECT {rows.WALLET} FROM wallets WHERE user_id = $1", user_id)
        return None if row is None else rows.wallet(row)

    async def entries(self, user_id: str, limit: int, cursor: str | None) -> list[Entry]:
        """See `Store.entries`: a walk back from the last entry; its cost is the length of the page."""
        if cursor is None:
            row = await self._one("SELECT last_entry_id FROM wallets WHERE user_id = $1", user_id)
            if row is None:
                return []
            cursor = row[0]
        return [Entry(*row) for row in await self._all(_HISTORY, user_id, cursor, limit)]

    async def ticket(self, ticket_id: str) -> Ticket | None:
        """See `Store.ticket`."""
        row = await self._one(f"SELECT {rows.TICKET} FROM tickets WHERE id = $1", ticket_id)
        return None if row is None else rows.ticket(row)

    def close_readers(self) -> None:
        """Let go of the database."""
        self._readers.close()

    async def _one(self, sql: str, *values: object) -> Any:
        found = await self._all(sql, *values)
        return found[0] if found else None

    async def _all(self, sql: str, *values: object) -> list[Any]:
        async with self._readers.one() as connection:
            return await connection.fetch(sql, *values)


class PostgresqlStore(PostgresqlReads, PaymentReads, IdentityRows, OutboxRows, SumsRows, ConsoleRows):
    """The `Store` over one database. Made and used inside a running event loop."""

    def __init__(
        self,
        url: str,
        clock: Callable[[], int],
        next_id: Callable[[], str],
        *,
        read_url: str | None = None,
        serving: bool = False,
        lanes: int = LANES,
        batch_max: int = 256,
        outbox: Outbox | None = None,
        watch: Watch | None = None,
    ) -> None:
        self._url = url
        self._clock = clock
        self._next_id = next_id
        self._serving = serving
        self._outbox, self._watch = outbox, watch
        self._batch_max = batch_max
        self._lane_count = lanes
        name = SERVER if serving else GUEST
        super().__init__(url, name)
        self._lanes = Connections(partial(connect, hosts_of(url), name), lanes)
        self._shared_turns = SharedTurns(self._readers.one)
        self.turns: Turns = self._shared_turns
        self.shared_log: SharedLog | None = PostgresqlLog(self._readers.one)
        self._replica = None if read_url is None else PostgresqlReads(read_url, name)
        self.reads: Reads = self if self._replica is None else ReplicaReads(self._replica, self)

    async def open(self) -> tuple[int, int]:
        """Migrate and connect. Raises `SetupError` with what to do about it."""
        try:
            async with alone(self._url) as connection:
                migrated = await _migrate(connection)
                if self._serving:
                    await _insist(connection, _NEEDED)
        except Unavailable as error:
            raise SetupError(f"The database cannot be used: {error.sentence}") from None
        self._batcher = Batcher(
            self._transact, rest=self._rest, lanes=self._lane_count, batch_max=self._batch_max
        )  # fmt: skip
        return migrated

    async def close(self) -> None:
        """Finish what is queued, then let go of the database."""
        await self._batcher.close()
        await self._shared_turns.close()
        self._lanes.close()
        self.close_readers()
        if self._replica is not None:
            self._replica.close_readers()

    # Writing

    async def submit(self, command: Command) -> Outcome | Refusal:
        """See `Store.submit`."""
        return await self._batcher.submit(command)

    async def _transact(self, commands: Sequence[Command]) -> list[Outcome | Refusal]:
        """Decide and record one batch; again if another process was faster with a new row."""
        for _ in range(ATTEMPTS_MAX):
            try:
                async with self._lanes.one() as connection:
                    return await self._attempt(connection, commands)
            except LostRace:
                continue
        raise Unavailable("The ledger is busy with the same keys in other processes; try again shortly.")

    async def _rest(self) -> None:
        """Leave no connection idle in a transaction, which operators rightly watch for: what waited is gone."""
        if not self._lanes.begun:
            return
        with suppress(Unavailable):  # a lost connection has no transaction either
            async with self._lanes.one() as connection:
                if connection in self._lanes.begun:
                    self._lanes.begun.discard(connection)
                    await connection.execute("ROLLBACK")

    async def _attempt(self, connection: "Connection[Any]", commands: Sequence[Command]) -> list[Outcome | Refusal]:
        """Fetch, decide, record and commit."""
        try:
            if connection not in self._lanes.begun:
                await connection.execute(_BEGIN)
            self._lanes.begun.discard(connection)
            view = await postgresql_batch.fetch(connection, self._next_id, commands)
            known = postgresql_batch.Known(view)
            now, before = self._clock(), view.payments.copy()
            outcomes = [ledger.decide(view, command, now) for command in commands]
            if not view.changed:
                await connection.execute("ROLLBACK")
                return outcomes
            if self._outbox is not None:
                view.letters = self._outbox.letters(view, before, now)
            await postgresql_batch.record(connection, view, known)
        except asyncpg.PostgresError as error:
            if error.sqlstate in _RACES or (
                isinstance(error, asyncpg.UniqueViolationError) and error.table_name in _RACED_FOR
            ):
                await connection.execute("ROLLBACK")
                raise LostRace from error
            raise
        try:
            if self._batcher.waiting and not self._lanes.begun:
                await connection.execute(f"COMMIT; {_BEGIN}")  # one round trip, as the next batch is waiting already
                self._lanes.begun.add(connection)
            else:
                await connection.execute("COMMIT")
        except Exception as error:
            raise OutcomeUnknown from error
        if self._watch is not None:
            self._watch(view, before)
        return outcomes

    # Reading

    async def due(self, now: int, grace_seconds: int, limit: int) -> list[Expire]:
        """See `Store.due`: two index reads."""
        tickets: dict[str, list[str]] = {}
        for user_id, ticket_id in await self._all(
            "SELECT user_id, id FROM tickets WHERE due_at <= $1 ORDER BY due_at LIMIT $2", now, limit
        ):
            tickets.setdefault(user_id, []).append(ticket_id)
        for (user_id,) in await self._all(
            "SELECT user_id FROM wallets WHERE next_expiry_at <= $1 ORDER BY next_expiry_at LIMIT $2",
            now, limit - len(tickets),
        ):  # fmt: skip
            tickets.setdefault(user_id, [])
        return [Expire(user_id, grace_seconds, tuple(ids)) for user_id, ids in tickets.items()]

    async def api_key(self, secret_hash: bytes) -> ApiKey | None:
        """See `Store.api_key`."""
        row = await self._one(
            f"SELECT {rows.API_KEY} FROM api_keys WHERE secret_hash = $1 AND revoked_at IS NULL", secret_hash
        )
        return None if row is None else ApiKey(*row)

    async def api_keys(self) -> list[ApiKey]:
        """See `Store.api_keys`."""
        return [ApiKey(*row) for row in await self._all(f"SELECT {rows.API_KEY} FROM api_keys ORDER BY created_at, id")]

    async def add_api_key(self, key: ApiKey) -> None:
        """See `Store.add_api_key`."""
        await self._all(
            f"INSERT INTO api_keys ({rows.API_KEY}) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (id) DO NOTHING",
            key.id, key.role, key.name, key.secret_hash, key.created_at, key.revoked_at,
        )  # fmt: skip

    async def revoke_api_key(self, key_id: str, now: int) -> ApiKey | None:
        """See `Store.revoke_api_key`."""
        row = await self._one(
            f"UPDATE api_keys SET revoked_at = coalesce(revoked_at, $1) WHERE id = $2 RETURNING {rows.API_KEY}",
            now, key_id,
        )  # fmt: skip
        return None if row is None else ApiKey(*row)

    async def signing_keys(self) -> list[SigningKey]:
        """See `Store.signing_keys`."""
        return rows.signing_keys(await self._all(rows.READ_SIGNING_KEYS))

    async def change_signing_keys(self, decide: Callable[[list[SigningKey]], list[SigningKey]]) -> list[SigningKey]:
        """See `Store.change_signing_keys`: the lock keeps other writers out, and stops no reader."""
        async with self._lanes.one() as connection:
            await connection.execute(_BEGIN)
            await connection.execute("LOCK TABLE signing_keys IN SHARE ROW EXCLUSIVE MODE")
            changed = decide(rows.signing_keys(await connection.fetch(rows.READ_SIGNING_KEYS)))
            for key in changed:
                await connection.execute(rows.WRITE_SIGNING_KEY, *rows.signing_key_row(key))
            await connection.execute("COMMIT")
            return rows.signing_keys(await connection.fetch(rows.READ_SIGNING_KEYS))

    async def check(self, progress: Callable[[str, int, int], None]) -> list[Violation]:
        """See `Store.check`."""
        async with alone(self._url) as connection:
            return await postgresql_check.check(connection, progress)

    @asynccontextmanager
    async def held(self) -> AsyncIterator[PostgresqlContents]:
        """See `Store.held`."""
        async with alone(self._url) as connection:
            yield await postgresql_contents.held(connection)

    _sweep_sums = "SELECT sweep_sums($1, $2)"
    _sweep_letters = "SELECT sweep_letters($1, $2, $3)"

    async def _rows(self, sql: str, *values: object) -> list[Any]:
        return await self._all(sql, *values)

    async def _change(self, sql: str, *values: object) -> list[Any]:
        return await self._all(sql, *values)

    @asynccontextmanager
    async def filled(self) -> AsyncIterator[PostgresqlContents]:
        """See `Store.filled`."""
        async with alone(self._url) as connection:
            yield await postgresql_contents.filled(connection)


async def _migrate(connection: "Connection[Any]") -> tuple[int, int]:
    """Bring the database to the newest schema; of processes that start at once, one does it and the others wait.

    Returns the version it had and the one it has. A newer or a foreign schema is refused with `SetupError`, and so is
    a role that may not create tables.
    """
    scripts = schema.migrations("postgresql")
    newest = len(scripts)
    if await _applied(connection, newest) == newest:
        return newest, newest
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", schema.APPLICATION_ID)
        before = await _applied(connection, newest)
        try:
            for number in range(before + 1, newest + 1):
                await connection.execute(scripts[number - 1])
                await connection.execute("INSERT INTO pluct_schema (version, applied_at) VALUES ($1, now())", number)
        except (asyncpg.InsufficientPrivilegeError, asyncpg.InvalidSchemaNameError) as error:
            raise SetupError(
                f"The database's schema must be brought up to date, and this role may not do that ({error}): "
                "run pluct migrate once with a DATABASE_URL whose role may create tables."
            ) from None
    return before, newest


async def _applied(connection: "Connection[Any]", newest: int) -> int:
    """How many migrations the database has had."""
    # Read from the catalog itself: to_regclass() may not see what was committed while this session waited for a lock.
    query = "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()"
    found = await connection.fetch(query, timeout=STATEMENT_SECONDS_MAX)
    tables = {row[0] for row in found}
    if "pluct_schema" not in tables:
        if tables & {*rows.TABLES, "probe"}:
            raise SetupError("This database has another program's tables; name an empty one in DATABASE_URL.")
        return 0
    await _insist(connection, {"pluct_schema": "SELECT"})
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE pluct_schema IN ACCESS SHARE MODE NOWAIT")
    except asyncpg.LockNotAvailableError:
        raise SetupError("This ledger is being copied (pluct copy); wait until that is done.") from None
    version: int = await connection.fetchval("SELECT coalesce(max(version), 0) FROM pluct_schema")
    if version > newest:
        raise SetupError(
            f"The database has schema {version}, and this program knows {newest}: a newer version made it. "
            "Run that version, or restore a backup made before the upgrade."
        )
    return version


async def _insist(connection: "Connection[Any]", needed: dict[str, str]) -> None:
    """Refuse a role that may not do what is needed: these privileges, by table."""
    wanted = [(table, privilege) for table, privileges in needed.items() for privilege in privileges.split(", ")]
    lacking = await connection.fetch(
        "SELECT privilege || ' on ' || name FROM unnest($1::text[], $2::text[]) AS wanted (name, privilege)"
        " WHERE NOT has_table_privilege(name, privilege)",
        *map(list, zip(*wanted, strict=True)),
    )
    if lacking:
        raise SetupError(
            f"This role may not use the ledger's tables: it lacks {', '.join(row[0] for row in lacking)}. "
            'Grant it what docs/operations.md lists under "Roles", as the role that owns the tables.'
        )
