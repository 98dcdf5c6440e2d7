"""All rows of a PostgreSQL ledger, for a copy: one transaction whose locks keep everybody else out.

The locks make READ COMMITTED a snapshot: what is read under them cannot change. If the copy ends before its COMMIT,
however it ends, the server undoes the transaction.
"""

from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
from asyncpg import Connection
from asyncpg.transaction import Transaction

from pluct.errors import SetupError
from pluct.stores import PAGE, Row, Violation, postgresql_check, rows

#: How a server's sessions call themselves.
SERVER = "pluct serve"
LOCK_SECONDS_MAX = 10


class PostgresqlContents:
    """See `Contents`."""

    def __init__(self, connection: "Connection[Any]", transaction: Transaction) -> None:
        self._connection, self._transaction = connection, transaction

    async def count(self, table: str) -> int:
        """See `Contents.count`."""
        found: int = await self._connection.fetchval(f"SELECT count(*) FROM {table}")
        return found

    async def pages(self, table: str) -> AsyncIterator[list[Row]]:
        """See `Contents.pages`."""
        found = await self._connection.cursor(f"SELECT {rows.TABLES[table]} FROM {table} ORDER BY {rows.key(table)}")
        while page := await found.fetch(PAGE):
            yield [tuple(row) for row in page]

    async def add(self, table: str, page: list[Row]) -> None:
        """See `Contents.add`."""
        columns = rows.TABLES[table].split(", ")
        await self._connection.copy_records_to_table(table, records=page, columns=columns)

    async def check(self, progress: Callable[[str, int, int], None]) -> list[Violation]:
        """See `Contents.check`."""
        for table in rows.TABLES:  # or a table just filled would be read as if it were empty still
            await self._connection.execute(f"ANALYZE {table}")
        return await postgresql_check.check_within(self._connection, progress)

    async def commit(self) -> None:
        """See `Contents.commit`."""
        await self._transaction.commit()


async def held(connection: "Connection[Any]") -> PostgresqlContents:
    """All rows, which nobody can change. Refused while servers are connected: what they write is to stay."""
    contents = await _locked(connection, "SHARE")
    servers = await connection.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1", SERVER
    )
    if servers:
        raise SetupError(f"Servers are at work on this database ({servers} connections); stop them first.")
    return contents


async def filled(connection: "Connection[Any]") -> PostgresqlContents:
    """All rows, which nobody else can even look at."""
    return await _locked(connection, "ACCESS EXCLUSIVE")


async def _locked(connection: "Connection[Any]", mode: str) -> PostgresqlContents:
    """All rows under a lock of this mode. Whoever starts meanwhile finds the schema locked, and is told so."""
    transaction = connection.transaction(isolation="read_committed")
    await transaction.start()
    await connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")  # the other side may take its time
    await connection.execute(f"SET LOCAL lock_timeout = '{LOCK_SECONDS_MAX}s'")
    try:
        await connection.execute("LOCK TABLE pluct_schema IN ACCESS EXCLUSIVE MODE")
        await connection.execute(f"LOCK TABLE {', '.join(rows.TABLES)} IN {mode} MODE")
    except asyncpg.LockNotAvailableError:
        raise SetupError(
            "The database is in use (another copy, a backup, a migration?); try again after that."
        ) from None
    except asyncpg.InsufficientPrivilegeError as error:
        raise SetupError(
            f"This role may not lock the ledger ({error}); copy as the role that owns the tables."
        ) from None
    return PostgresqlContents(connection, transaction)
