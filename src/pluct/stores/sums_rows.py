"""What analytics ask of a store: sums by the minute and by the hour. The same queries over either database."""

from collections.abc import Sequence
from typing import Any

from pluct.model import Sums


class SumsRows:
    """See `Store`. Values stand in queries as `$1`, `$2`, …"""

    _sweep_sums: str

    async def _rows(self, sql: str, *values: object) -> list[Any]:
        raise NotImplementedError

    async def _change(self, sql: str, *values: object) -> list[Any]:
        raise NotImplementedError

    async def put_sums(self, sums: Sequence[Sums]) -> None:
        """See `Store.put_sums`: one statement."""
        marks = ", ".join(f"(${at}, ${at + 1}, ${at + 2}, ${at + 3})" for at in range(1, 4 * len(sums), 4))
        await self._change(
            f"INSERT INTO sums (step, at, process, tally) VALUES {marks}"
            " ON CONFLICT (step, at, process) DO UPDATE SET tally = excluded.tally",
            *(value for each in sums for value in (each.step, each.at, each.process, each.tally)),
        )

    async def sums(self, step: str, since: int, until: int) -> list[Sums]:
        """See `Store.sums`."""
        found = await self._rows(
            "SELECT step, at, process, tally FROM sums WHERE step = $1 AND at >= $2 AND at < $3 ORDER BY at",
            step, since, until,
        )  # fmt: skip
        return [Sums(*row) for row in found]

    async def sweep_sums(self, minutes_before: int, hours_before: int) -> None:
        """See `Store.sweep_sums`."""
        await self._change(self._sweep_sums, minutes_before, hours_before)
