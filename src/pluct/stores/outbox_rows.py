"""What delivering events asks of a store: letters, and whose turn it is. The same queries over either database."""

from collections.abc import Sequence
from typing import Any

from pluct.model import Letter, LetterState
from pluct.stores import rows

_LETTER = f"SELECT {rows.LETTER} FROM letters "
#: Spelled out, so that the index of those is made use of.
_UNDELIVERED = "state <> 'delivered' AND "
#: Dead ones that somebody has discarded are due since ever: the next sweep deletes them.
_NOT_DISCARDED = "due_at > 0 AND "
_FIRST = (
    " AND NOT EXISTS (SELECT 1 FROM letters AS earlier WHERE earlier.state = 'pending' AND earlier.url = letters.url"
    " AND earlier.user_id = letters.user_id AND letters.user_id <> ''"
    " AND (earlier.number, earlier.id) < (letters.number, letters.id))"
)


class OutboxRows:
    """See `Store`. Values stand in queries as `$1`, `$2`, …"""

    _sweep_letters: str

    async def _rows(self, sql: str, *values: object) -> list[Any]:
        raise NotImplementedError

    async def _change(self, sql: str, *values: object) -> list[Any]:
        raise NotImplementedError

    async def letters_due(self, now: int, limit: int) -> list[Letter]:
        """See `Store.letters_due`."""
        found = await self._rows(
            _LETTER + "WHERE state = 'pending' AND due_at <= $1" + _FIRST + " ORDER BY due_at, id LIMIT $2", now, limit
        )
        return [Letter(*row) for row in found]

    async def letters(self, state: LetterState | None, limit: int, cursor: str | None) -> list[Letter]:
        """See `Store.letters`."""
        given = [("state = ", state), ("id <= ", cursor)]
        wanted = [(condition, value) for condition, value in given if value is not None]
        where = " AND ".join(f"{condition}${at}" for at, (condition, _) in enumerate(wanted, 1)) or "true"
        if state in ("pending", "dead"):
            where = _UNDELIVERED + _NOT_DISCARDED + where
        found = await self._rows(
            _LETTER + f"WHERE {where} ORDER BY id DESC LIMIT ${len(wanted) + 1}", *(value for _, value in wanted), limit
        )
        return [Letter(*row) for row in found]

    async def add_letters(self, letters: Sequence[Letter]) -> None:
        """See `Store.add_letters`."""
        for letter in letters:
            marks = ", ".join(f"${at}" for at in range(1, 12))
            await self._change(
                f"INSERT INTO letters ({rows.LETTER}) VALUES ({marks}) ON CONFLICT (id) DO NOTHING",
                *rows.letter_row(letter),
            )

    async def tried(self, letter: Letter) -> None:
        """See `Store.tried`."""
        await self._change(
            "UPDATE letters SET state = $1, tries = $2, due_at = $3, answer = $4 WHERE id = $5 AND state = 'pending'",
            letter.state, letter.tries, letter.due_at, letter.answer, letter.id,
        )  # fmt: skip

    async def replay_letter(self, letter_id: str, now: int) -> Letter | None:
        """See `Store.replay_letter`."""
        await self._change(
            "UPDATE letters SET state = 'pending', tries = 0, due_at = $1 WHERE id = $2 AND state <> 'pending'",
            now, letter_id,
        )  # fmt: skip
        found = await self._rows(_LETTER + "WHERE id = $1", letter_id)
        return Letter(*found[0]) if found else None

    async def discard_letters(self, url: str | None) -> int:
        """See `Store.discard_letters`."""
        condition, values = ("", []) if url is None else (" AND url = $1", [url])
        done = await self._change(
            f"UPDATE letters SET due_at = 0 WHERE {_UNDELIVERED} {_NOT_DISCARDED} state = 'dead'{condition}"
            " RETURNING id",
            *values,
        )
        return len(done)

    async def letter_counts(self) -> tuple[int, int, int | None]:
        """See `Store.letter_counts`."""
        (row,) = await self._rows(
            f"SELECT (SELECT count(*) FROM letters WHERE {_UNDELIVERED} state = 'pending'),"
            f" (SELECT count(*) FROM letters WHERE {_UNDELIVERED} {_NOT_DISCARDED} state = 'dead'),"
            " (SELECT min(at) FROM letters WHERE state = 'pending')"
        )
        return row[0], row[1], row[2]

    async def sweep_letters(self, delivered_before: int, dead_before: int, limit: int) -> None:
        """See `Store.sweep_letters`."""
        await self._change(self._sweep_letters, delivered_before, dead_before, limit)

    async def take_turn(self, name: str, holder: str, now: int, until: int) -> bool:
        """See `Store.take_turn`."""
        done = await self._change(
            "INSERT INTO turns_taken (name, holder, until) VALUES ($1, $2, $3) ON CONFLICT (name) DO UPDATE"
            " SET holder = excluded.holder, until = excluded.until"
            " WHERE turns_taken.holder = excluded.holder OR turns_taken.until < $4 RETURNING holder",
            name, holder, until, now,
        )  # fmt: skip
        return bool(done)

    async def expiring(self, now: int, until: int, after: tuple[int, str], limit: int) -> list[Any]:
        """See `Store.expiring`."""
        found = await self._rows(
            f"SELECT {rows.WALLET} FROM wallets WHERE next_expiry_at > $1 AND next_expiry_at <= $2"
            " AND (next_expiry_at, user_id) > ($3, $4) ORDER BY next_expiry_at, user_id LIMIT $5",
            now, until, *after, limit,
        )  # fmt: skip
        return [rows.wallet(row) for row in found]
