"""Lines of the live log that processes on one database hand each other."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncpg import Connection

LINES_MAX = 1_000


class PostgresqlLog:
    """The `SharedLog` of a database."""

    def __init__(self, connection: Callable[[], AbstractAsyncContextManager["Connection[Any]"]]) -> None:
        self._connection = connection

    async def watched_until(self) -> int:
        """See `SharedLog.watched_until`."""
        async with self._connection() as connection:
            return await connection.fetchval("SELECT until FROM turns_taken WHERE name = 'log'") or 0

    async def add(self, process: str, lines: str, lost: int) -> None:
        """See `SharedLog.add`."""
        async with self._connection() as connection:
            await connection.execute(
                "INSERT INTO log_lines (process, lines, lost) VALUES ($1, $2, $3)", process, lines, lost
            )

    async def newest(self) -> int:
        """See `SharedLog.newest`."""
        async with self._connection() as connection:
            return await connection.fetchval("SELECT max(id) FROM log_lines") or 0

    async def lines(self, after: int, but_of: str, seen: Sequence[int]) -> list[tuple[int, str, int]]:
        """See `SharedLog.lines`. What is not asked for is not read: a row may be fifty kilobytes."""
        async with self._connection() as connection:
            found = await connection.fetch(
                "SELECT id, lines, lost FROM log_lines WHERE id > $1 AND process <> $2 AND id <> ALL($3::bigint[])"
                " ORDER BY id LIMIT $4",
                after, but_of, seen, LINES_MAX,
            )  # fmt: skip
            return [tuple(row) for row in found]

    async def sweep(self) -> None:
        """See `SharedLog.sweep`."""
        async with self._connection() as connection:
            await connection.execute("SELECT sweep_log_lines()")
