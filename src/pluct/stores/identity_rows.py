"""What identity asks of a store: families of refresh tokens. The same queries over either database."""

from typing import Any

from pluct.model import Family
from pluct.stores import rows


class IdentityRows:
    """See `Store`. Values stand in queries as `$1`, `$2`, …"""

    async def _rows(self, sql: str, *values: object) -> list[Any]:
        raise NotImplementedError

    async def _change(self, sql: str, *values: object) -> list[Any]:
        raise NotImplementedError

    async def family(self, family_id: str) -> Family | None:
        """See `Store.family`."""
        found = await self._rows(f"SELECT {rows.FAMILY} FROM families WHERE id = $1", family_id)
        return Family(*found[0]) if found else None

    async def add_family(self, family: Family) -> None:
        """See `Store.add_family`."""
        await self._change(
            f"INSERT INTO families ({rows.FAMILY}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            family.id, family.user_id, family.seed, family.current, family.spent, family.spent_key, family.created_at,
            family.refreshed_at, family.expires_at, family.revoked_at,
        )  # fmt: skip

    async def rotate_family(self, current: bytes, changed: Family) -> bool:
        """See `Store.rotate_family`: one statement, so of several with the same secret one succeeds."""
        done = await self._change(
            "UPDATE families SET current = $1, spent = $2, spent_key = $3, refreshed_at = $4, expires_at = $5"
            " WHERE id = $6 AND current = $7 AND revoked_at IS NULL RETURNING id",
            changed.current, changed.spent, changed.spent_key, changed.refreshed_at, changed.expires_at, changed.id,
            current,
        )  # fmt: skip
        return bool(done)

    async def revoke_families(self, now: int, *, family_id: str | None = None, user_id: str | None = None) -> int:
        """See `Store.revoke_families`."""
        column, value = ("id", family_id) if user_id is None else ("user_id", user_id)
        done = await self._change(
            f"UPDATE families SET revoked_at = $1 WHERE {column} = $2 AND revoked_at IS NULL RETURNING id", now, value
        )
        return len(done)
