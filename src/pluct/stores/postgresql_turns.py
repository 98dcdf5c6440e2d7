"""Turns of rate limits that all processes on one database count together: exact, and by the database's clock.

What is asked at the same time is taken in one transaction, which does not wait for the disk: after a crash of the
database everybody begins anew. A key that has no turn left is refused from memory until it has one.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

import msgspec

from pluct.errors import PluctError, Unavailable
from pluct.limits import KEYS_MAX, Rate, free_at, take

if TYPE_CHECKING:
    from asyncpg import Connection

log = logging.getLogger("pluct.stores")

BATCH_MAX = 256
QUEUE_MAX = 10_000
#: Rows of keys that have been quiet for their period, deleted at once, and how often.
SWEEP_MAX, SWEEP_SECONDS = 10_000, 1.0

_LOCK = """
INSERT INTO turns (key, marks, until) SELECT key, '[]', 0 FROM unnest($1::bytea[]) AS key
ON CONFLICT (key) DO UPDATE SET until = turns.until
RETURNING key, marks, (extract(epoch FROM clock_timestamp()) * 1000)::bigint
"""
_KEEP = """
UPDATE turns SET marks = taken.marks, until = taken.until
FROM unnest($1::bytea[], $2::text[], $3::bigint[]) AS taken (key, marks, until) WHERE turns.key = taken.key
"""

_Asked = tuple[bytes, Rate, "asyncio.Future[int]"]
_decode_marks = msgspec.json.Decoder(list[int]).decode
_encode = msgspec.json.Encoder().encode


class SharedTurns:
    """The `Turns` of a database."""

    def __init__(self, connection: Callable[[], AbstractAsyncContextManager["Connection[Any]"]]) -> None:
        self._connection = connection
        self._asked: list[_Asked] = []
        self._working: asyncio.Task[None] | None = None
        self._refused: OrderedDict[bytes, float] = OrderedDict()  # until when (loop time)
        self._swept = 0.0

    async def take(self, key: bytes, rate: Rate) -> int:
        """See `limits.take`. Raises `Unavailable`."""
        loop = asyncio.get_running_loop()
        wait = self._refused.get(key, 0.0) - loop.time()
        if wait > 0:
            return max(1, int(wait * 1000))
        if len(self._asked) >= QUEUE_MAX:
            raise Unavailable("Too much waits for the database; try again shortly.")
        future: asyncio.Future[int] = loop.create_future()
        self._asked.append((key, rate, future))
        if self._working is None or self._working.done():
            self._working = loop.create_task(self._work())
        return await future

    async def close(self) -> None:
        """Finish what was asked."""
        if self._working is not None:
            await self._working

    async def _work(self) -> None:
        """Take what is asked, together, until nothing is."""
        while self._asked:
            asked, self._asked = self._asked[:BATCH_MAX], self._asked[BATCH_MAX:]
            try:
                waits = await self._take(asked)
            except PluctError as error:
                for _, _, future in asked:
                    if not future.done():
                        future.set_exception(Unavailable(error.sentence))
            except Exception:
                log.exception("turns could not be counted")
                for _, _, future in asked:
                    if not future.done():
                        future.set_exception(Unavailable())
            else:
                for (key, _, future), wait in zip(asked, waits, strict=True):
                    if wait:
                        self._remember(key, wait)
                    if not future.done():
                        future.set_result(wait)

    async def _take(self, asked: Sequence[_Asked]) -> list[int]:
        async with self._connection() as connection:
            await connection.execute("BEGIN; SET LOCAL synchronous_commit = off")
            found = {}
            for key, marks, now in await connection.fetch(_LOCK, sorted({key for key, _, _ in asked})):
                found[key] = (_decode_marks(marks), now)
            waits = [take(found[key][0], rate, found[key][1]) for key, rate, _ in asked]
            taken = {key: rate for (key, rate, _), wait in zip(asked, waits, strict=True) if not wait}
            if taken:
                marks = [found[key][0] for key in taken]
                until = [free_at(each[-2], rate) for each, rate in zip(marks, taken.values(), strict=True)]
                await connection.execute(_KEEP, [*taken], [_encode(each).decode() for each in marks], until)
            await connection.execute("COMMIT")
            now = asyncio.get_running_loop().time()
            if now - self._swept > SWEEP_SECONDS:
                self._swept = now
                await connection.execute("SELECT sweep_turns($1)", SWEEP_MAX)
        return waits

    def _remember(self, key: bytes, wait: int) -> None:
        self._refused[key] = asyncio.get_running_loop().time() + wait / 1000
        self._refused.move_to_end(key)
        if len(self._refused) > KEYS_MAX:
            self._refused.popitem(last=False)
