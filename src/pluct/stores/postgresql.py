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

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from asyncpg import Connection

from pluct import ledger
from pluct.commands import NOTHING, Command, Expire, Needs, needs, reference_key
from pluct.errors import OutcomeUnknown, Refusal, SetupError, Unavailable
from pluct.model import ApiKey, Booked, CheckedOut, Checkout, Entry, Outcome, Payment, Ticket, Vended, Wallet
from pluct.stores import Violation, postgresql_check, rows, schema
from pluct.stores.batching import Batcher
from pluct.stores.payment_reads import PaymentReads

#: Batches in flight per process: while one waits for its commit, another is decided.
LANES = 2
READERS = 4
CONNECT_SECONDS_MAX = 5.0
STATEMENT_SECONDS_MAX = 10.0
#: How often a batch that lost a race for a new row is decided again.
ATTEMPTS_MAX = 5

_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL lock_timeout = '5s'"
_LOCK_WALLETS = f"SELECT {rows.WALLET} FROM wallets WHERE user_id = ANY($1::text[]) ORDER BY user_id FOR UPDATE"
_CLAIMS = f"SELECT {rows.CLAIM} FROM claims WHERE key = ANY($1::bytea[])"
_TICKETS = f"SELECT {rows.TICKET} FROM tickets WHERE id = ANY($1::text[])"
#: By id, by reference or link, and those of checkouts that may be the same money as another that is told of.
_LOCK_PAYMENTS = f"""
SELECT {rows.PAYMENT} FROM payments WHERE id IN (
  SELECT unnest($1::text[])
  UNION ALL SELECT id FROM unnest($2::text[], $3::text[]) AS named (a, b)
    JOIN payments ON namespace = a AND reference = b
  UNION ALL SELECT id FROM unnest($2::text[], $3::text[]) AS named (a, b) JOIN payments ON namespace = a AND link = b
  UNION ALL SELECT id FROM payments
    WHERE checkout_id = ANY($4::text[]) AND (reference IS NULL OR state IN ('unmatched', 'review'))
) ORDER BY id FOR UPDATE
"""
_LOCK_CHECKOUTS = f"SELECT {rows.CHECKOUT} FROM checkouts WHERE id = ANY($1::text[]) ORDER BY id FOR UPDATE"


def _add(table: str, row: str, columns: str) -> str:
    return f"INSERT INTO {table} ({columns}) SELECT {columns} FROM unnest(${{}}::{row}[])"


def _change(table: str, row: str, columns: str, key: str) -> str:
    changes = ", ".join(f"{column} = n.{column}" for column in columns.split(", ") if column != key)
    return f"UPDATE {table} t SET {changes} FROM unnest(${{}}::{row}[]) n WHERE t.{key} = n.{key}"


#: How a batch is written, in one statement: a part for each kind of change there is. Rows that another process may add
#: at the same moment are in the same order in every statement, parts as well as rows: that is the order of locks.
_PARTS = {
    "new_wallets": _add("wallets", "wallet_row_2", rows.WALLET),
    "new_claims": _add("claims", "claim_row", rows.CLAIM),
    "new_payments": _add("payments", "payment_row", rows.PAYMENT),
    "new_checkouts": _add("checkouts", "checkout_row", rows.CHECKOUT),
    "claims": _change("claims", "claim_row", rows.CLAIM, "key"),
    "wallets": _change("wallets", "wallet_row_2", rows.WALLET, "user_id"),
    "payments": _change("payments", "payment_row", rows.PAYMENT, "id"),
    "checkouts": _change("checkouts", "checkout_row", rows.CHECKOUT, "id"),
    "new_tickets": _add("tickets", "ticket_row", rows.TICKET),
    "tickets": _change("tickets", "ticket_row", "id, state, redeemed_at, captured, returned, due_at", "id"),
    "entries": _add("entries", "entry_row", rows.ENTRY),
    "events": _add("payment_events", "event_row", rows.EVENT),
    "probe": "INSERT INTO probe VALUES (1, ${}) ON CONFLICT (id) DO UPDATE SET at = excluded.at",
}
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

#: Classes of SQLSTATE that are the environment's and not the commands': connection, resources, operator, system.
_ENVIRONMENT = ("08", "28", "3D", "53", "57", "58", "XX")
#: And single states: permission, read-only (a standby), a lock not had in time.
_ENVIRONMENT_STATES = frozenset({"42501", "25006", "55P03", "42P01"})
_RACES = frozenset({"40001", "40P01"})
#: Where a row that is there already is another process's, and can be seen now.
_RACED_FOR = frozenset({"wallets", "claims", "payments", "checkouts"})


class PostgresqlStore(PaymentReads):
    """The `Store` over one database. Made and used inside a running event loop."""

    def __init__(
        self,
        url: str,
        clock: Callable[[], int],
        next_id: Callable[[], str],
        *,
        lanes: int = LANES,
        batch_max: int = 256,
    ) -> None:
        self._url = url
        self._clock = clock
        self._next_id = next_id
        self._batch_max = batch_max
        self._lane_count = lanes
        self._lanes = _Connections(url, lanes)
        self._readers = _Connections(url, READERS)

    async def open(self) -> None:
        """Migrate and connect. Raises `SetupError` with what to do about it."""
        try:
            async with self._lanes.one() as connection:
                await _migrate(connection)
        except Unavailable as error:
            raise SetupError(f"The database cannot be used: {error.sentence}") from None
        self._batcher = Batcher(self._transact, lanes=self._lane_count, batch_max=self._batch_max)

    async def close(self) -> None:
        """Finish what is queued, then let go of the database."""
        await self._batcher.close()
        await self._lanes.close()
        await self._readers.close()

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
            except _LostRace:
                continue
        raise Unavailable("The ledger is busy with the same keys in other processes; try again shortly.")

    async def _attempt(self, connection: "Connection[Any]", commands: Sequence[Command]) -> list[Outcome | Refusal]:
        """Fetch, decide, record and commit."""
        try:
            await connection.execute(_BEGIN)
            view = await self._fetch(connection, commands)
            known = _Known(view)
            now = self._clock()
            outcomes = [ledger.decide(view, command, now) for command in commands]
            if not view.changed:
                await connection.execute("ROLLBACK")
                return outcomes
            await _record(connection, view, known)
        except asyncpg.PostgresError as error:
            if error.sqlstate in _RACES or (
                isinstance(error, asyncpg.UniqueViolationError) and error.table_name in _RACED_FOR
            ):
                await connection.execute("ROLLBACK")
                raise _LostRace from error
            raise
        try:
            await connection.execute("COMMIT")
        except Exception as error:
            raise OutcomeUnknown from error
        return outcomes

    async def _fetch(self, connection: "Connection[Any]", commands: Sequence[Command]) -> ledger.View:
        """Lock the wallets the commands name, then load claims, then what else they need and what claims remember.

        Each statement sees what was committed before it began, so what it reads of a locked wallet is final.
        """
        view = ledger.View(self._next_id)
        users = {command.user_id for command in commands} - {""}
        if users:
            for row in await connection.fetch(_LOCK_WALLETS, list(users)):
                view.wallets[row[0]] = rows.wallet(row)
        needed = [need for command in commands if (need := needs(command)) is not NOTHING]
        wanted = _Wanted(needed)
        keys = {once.key for command in commands for once in command.claims}
        if keys:
            await _fetch_claims(connection, view, keys, wanted)
        if wanted.tickets:
            for row in await connection.fetch(_TICKETS, list(wanted.tickets)):
                view.tickets[row[0]] = rows.ticket(row)
        if wanted.of_payments:
            await _fetch_payments(connection, view, wanted)
        return view

    # Reading

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
            f"INSERT INTO api_keys ({rows.API_KEY}) VALUES ($1, $2, $3, $4, $5, $6)",
            key.id, key.role, key.name, key.secret_hash, key.created_at, key.revoked_at,
        )  # fmt: skip

    async def revoke_api_key(self, key_id: str, now: int) -> ApiKey | None:
        """See `Store.revoke_api_key`."""
        row = await self._one(
            f"UPDATE api_keys SET revoked_at = coalesce(revoked_at, $1) WHERE id = $2 RETURNING {rows.API_KEY}",
            now, key_id,
        )  # fmt: skip
        return None if row is None else ApiKey(*row)

    async def check(self, progress: Callable[[str, int, int], None]) -> list[Violation]:
        """See `Store.check`."""
        connection = await _connect(self._url)
        try:
            return await postgresql_check.check(connection, progress)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            raise _translated(error) from error
        finally:
            await connection.close()

    async def _rows(self, sql: str, *values: object) -> list[Any]:
        return await self._all(sql, *values)

    async def _one(self, sql: str, *values: object) -> Any:
        found = await self._all(sql, *values)
        return found[0] if found else None

    async def _all(self, sql: str, *values: object) -> list[Any]:
        async with self._readers.one() as connection:
            return await connection.fetch(sql, *values)


async def _migrate(connection: "Connection[Any]") -> None:
    """Bring the database to the newest schema; of processes that start at once, one does it and the others wait.

    A newer or a foreign schema is refused with `SetupError`, and so is a role that may not create tables.
    """
    scripts = schema.migrations("postgresql")
    if await _applied(connection, len(scripts)) == len(scripts):
        return
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", schema.APPLICATION_ID)
        try:
            for number in range(await _applied(connection, len(scripts)) + 1, len(scripts) + 1):
                await connection.execute(scripts[number - 1])
                await connection.execute("INSERT INTO pluct_schema (version, applied_at) VALUES ($1, now())", number)
        except asyncpg.InsufficientPrivilegeError as error:
            raise SetupError(
                f"The database's schema must be brought up to date, and this role may not do that ({error}): "
                "run pluct migrate once with a DATABASE_URL whose role may create tables."
            ) from None


async def _applied(connection: "Connection[Any]", newest: int) -> int:
    """How many migrations the database has had."""
    # Read from the catalog itself: to_regclass() may not see what was committed while this session waited for a lock.
    found = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")
    tables = {row[0] for row in found}
    if "pluct_schema" not in tables:
        if tables & {"wallets", "entries", "tickets", "claims", "api_keys", "probe", "checkouts", "payments"}:
            raise SetupError("This database has another program's tables; name an empty one in DATABASE_URL.")
        return 0
    version: int = await connection.fetchval("SELECT coalesce(max(version), 0) FROM pluct_schema")
    if version > newest:
        raise SetupError(
            f"The database has schema {version}, and this program knows {newest}: a newer version made it. "
            "Run that version, or restore a backup made before the upgrade."
        )
    return version


class _LostRace(Exception):
    """Another process inserted a row first; it can be seen now."""


class _Connections:
    """At most so many connections at once, made when they are needed and kept. asyncpg's own pool costs more."""

    def __init__(self, url: str, most: int) -> None:
        self._url = url
        self._free: list[Connection[Any]] = []
        self._turn = asyncio.Semaphore(most)

    @asynccontextmanager
    async def one(self) -> AsyncIterator["Connection[Any]"]:
        """A connection of one's own; after an error it is cut, which undoes what it had not committed."""
        async with self._turn:
            connection = await self._connected()
            sound = False
            try:
                yield connection
                sound = True
            except _LostRace:
                sound = True
                raise
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
                raise _translated(error) from error
            finally:
                if sound and not connection.is_closed():
                    self._free.append(connection)
                else:
                    connection.terminate()

    async def _connected(self) -> "Connection[Any]":
        while self._free:
            connection = self._free.pop()
            if not connection.is_closed():
                return connection
        return await _connect(self._url)

    async def close(self) -> None:
        """Take leave of the server."""
        while self._free:
            await self._free.pop().close()


async def _connect(url: str) -> "Connection[Any]":
    try:
        return await asyncpg.connect(
            url, timeout=CONNECT_SECONDS_MAX, command_timeout=STATEMENT_SECONDS_MAX,
            server_settings={"application_name": "pluct"},
        )  # fmt: skip
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        raise _translated(error) from error


class _Wanted:
    """What a batch needs to see besides wallets and claims; claims may remember more of it."""

    def __init__(self, needed: Sequence[Needs]) -> None:
        self.tickets = {id for need in needed for id in need.tickets}
        self.payments = {id for need in needed for id in need.payments}
        self.names = {name for need in needed for name in need.payment_names}
        self.checkouts = {id for need in needed for id in need.checkouts}
        self.references = {reference for need in needed for reference in need.references}

    @property
    def of_payments(self) -> bool:
        """Whether payments or checkouts are among it."""
        return bool(self.payments or self.names or self.checkouts)


async def _fetch_claims(
    connection: "Connection[Any]", view: ledger.View, keys: Iterable[bytes], wanted: _Wanted
) -> None:
    for row in await connection.fetch(_CLAIMS, list(keys)):
        claim = view.claims[row[0]] = rows.claim(row)
        match claim.outcome:
            case Vended(ticket_id=ticket_id):
                wanted.tickets.add(ticket_id)
            case CheckedOut(checkout_id=checkout_id):
                wanted.checkouts.add(checkout_id)
            case Booked(payment_id=str(payment_id)):
                wanted.payments.add(payment_id)


async def _fetch_payments(connection: "Connection[Any]", view: ledger.View, wanted: _Wanted) -> None:
    """Lock the payments, then their checkouts, and load what is claimed under their references. See `Needs`."""
    namespaces, names = [name[0] for name in wanted.names], [name[1] for name in wanted.names]
    found = await connection.fetch(
        _LOCK_PAYMENTS, list(wanted.payments), namespaces, names, list(wanted.checkouts)
    )  # fmt: skip
    view.payments = {payment.id: payment for payment in map(rows.payment, found)}
    payments = view.payments.values()
    checkouts = {*wanted.checkouts, *(payment.checkout_id for payment in payments if payment.checkout_id)}
    if checkouts:
        for row in await connection.fetch(_LOCK_CHECKOUTS, list(checkouts)):
            view.checkouts[row[0]] = Checkout(*row)
    references = {*wanted.references, *(payment.reference for payment in payments if payment.reference)}
    if references:
        await _fetch_claims(connection, view, map(reference_key, references), wanted)


class _Known:
    """Which rows were there before a batch was decided; the others are new."""

    def __init__(self, view: ledger.View) -> None:
        self.wallets, self.claims = frozenset(view.wallets), frozenset(view.claims)
        self.payments, self.checkouts = frozenset(view.payments), frozenset(view.checkouts)


async def _record(connection: "Connection[Any]", view: ledger.View, known: _Known) -> None:
    """Write what the view says has changed, in one statement and so in one round trip."""
    changes: dict[str, Any] = {}
    for name, before, changed in (
        ("wallets", known.wallets, [rows.wallet_row(wallet) for _, wallet in sorted(view.changed_wallets.items())]),
        ("claims", known.claims, [rows.claim_row(claim) for _, claim in sorted(view.changed_claims.items())]),
        ("payments", known.payments, [rows.payment_row(p) for p in sorted(view.changed_payments.values(), key=_name)]),
        ("checkouts", known.checkouts, [rows.checkout_row(c) for _, c in sorted(view.changed_checkouts.items())]),
    ):  # fmt: skip
        if changed:
            changes["new_" + name] = [row for row in changed if row[0] not in before]
            changes[name] = [row for row in changed if row[0] in before]
    changes |= {
        "new_tickets": [rows.ticket_row(ticket) for ticket in view.new_tickets.values()],
        "tickets": [rows.ticket_row(ticket) for ticket in view.changed_tickets.values()],
        "entries": [rows.entry_row(entry) for entry in view.entries],
        "events": [rows.event_row(event) for event in view.events],
        "probe": view.probed_at,
    }
    written = [name for name in _PARTS if changes.get(name)]
    parts = [f"part_{at} AS ({_PARTS[name].format(at)})" for at, name in enumerate(written, 1)]
    await connection.execute(f"WITH {', '.join(parts)} SELECT", *(changes[name] for name in written))


def _name(payment: Payment) -> tuple[str, str, str]:
    """By what other processes may add the same payment."""
    return payment.namespace, payment.reference or "", payment.id


def _translated(error: Exception) -> Exception:
    """The environment's errors as `Unavailable`; an error of ours stays what it is."""
    state = getattr(error, "sqlstate", None)
    if state is None or state[:2] in _ENVIRONMENT or state in _ENVIRONMENT_STATES:
        return Unavailable(f"The database cannot be used now ({error}); try again shortly.")
    return error
