"""What the console asks of a store: its sessions, and finding users. The same queries over either database."""

from typing import Any

from pluct.model import Session, Wallet
from pluct.stores import rows

_SESSION = ", ".join(Session.__struct_fields__)


class ConsoleRows:
    """See `Store`. Values stand in queries as `$1`, `$2`, …"""

    async def _rows(self, sql: str, *values: object) -> list[Any]:
        raise NotImplementedError

    async def _change(self, sql: str, *values: object) -> list[Any]:
        raise NotImplementedError

    async def session(self, hash: bytes) -> Session | None:
        """See `Store.session`."""
        found = await self._rows(f"SELECT {_SESSION} FROM sessions WHERE hash = $1", hash)
        return Session(*found[0]) if found else None

    async def add_session(self, session: Session) -> None:
        """See `Store.add_session`."""
        await self._change(
            f"INSERT INTO sessions ({_SESSION}) VALUES ($1, $2, $3, $4)",
            session.hash, session.key_id, session.created_at, session.seen_at,
        )  # fmt: skip

    async def see_session(self, hash: bytes, now: int) -> None:
        """See `Store.see_session`."""
        await self._change("UPDATE sessions SET seen_at = $1 WHERE hash = $2", now, hash)

    async def end_session(self, hash: bytes) -> None:
        """See `Store.end_session`. The row stays, since servers need not be allowed to delete anything."""
        await self._change("UPDATE sessions SET seen_at = 0 WHERE hash = $1", hash)

    async def find_users(self, prefix: str, limit: int) -> list[Wallet]:
        """See `Store.find_users`: a walk along the key, in the order of code points."""
        beyond = _next_text(prefix)
        condition, values = (
            ("user_id >= $1", [prefix]) if beyond is None else ("user_id >= $1 AND user_id < $2", [prefix, beyond])
        )
        found = await self._rows(
            f"SELECT {rows.WALLET} FROM wallets WHERE {condition} ORDER BY user_id LIMIT ${len(values) + 1}",
            *values, limit,
        )  # fmt: skip
        return [rows.wallet(row) for row in found]


def _next_text(prefix: str) -> str | None:
    """The first text after all that begin so, in the order of code points; None if there is no such text."""
    for end in range(len(prefix) - 1, -1, -1):
        point = ord(prefix[end]) + 1
        if point <= 0x10FFFF:
            return prefix[:end] + chr(0xE000 if 0xD800 <= point <= 0xDFFF else point)
    return None
