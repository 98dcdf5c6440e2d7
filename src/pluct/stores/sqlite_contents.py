"""All rows of a SQLite ledger, for a copy: one transaction that keeps every other writer out.

Everything here runs on the event loop: whoever copies a ledger does nothing else. Each page lets the loop go on.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable

from pluct.stores import PAGE, Row, Violation, rows, sqlite_check


class SqliteContents:
    """See `Contents`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    async def count(self, table: str) -> int:
        """See `Contents.count`."""
        found: int = self._connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        return found

    async def pages(self, table: str) -> AsyncIterator[list[Row]]:
        """See `Contents.pages`."""
        columns = rows.TABLES[table]
        found = self._connection.execute(f"SELECT {columns} FROM {table} ORDER BY {rows.key(table)}")
        while page := found.fetchmany(PAGE):
            yield page
            await asyncio.sleep(0)

    async def add(self, table: str, page: list[Row]) -> None:
        """See `Contents.add`."""
        places = ", ".join("?" * len(page[0]))
        self._connection.executemany(f"INSERT INTO {table} ({rows.TABLES[table]}) VALUES ({places})", page)

    async def check(self, progress: Callable[[str, int, int], None]) -> list[Violation]:
        """See `Contents.check`."""
        return sqlite_check.check_within(self._connection, progress)

    async def commit(self) -> None:
        """See `Contents.commit`."""
        self._connection.execute("COMMIT")
