"""Reads that decide nothing, from a replica that may be a moment behind; the primary answers what the replica cannot.

What the replica does not have may not have reached it yet, so the primary is asked before anybody is told that there
is no such thing. A replica that fails or dawdles is left alone for a while.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import asyncpg

from pluct.errors import Unavailable
from pluct.model import Entry, Ticket, Wallet
from pluct.stores import Reads

T = TypeVar("T")
log = logging.getLogger("pluct.stores")

ANSWER_SECONDS_MAX = 1.0
AWAY_SECONDS = 2.0


class ReplicaReads:
    """The `Reads` of a replica, backed by those of its primary."""

    def __init__(self, replica: Reads, primary: Reads) -> None:
        self._replica, self._primary = replica, primary
        self._away = False
        self._not_before = 0.0  # when the replica is asked again

    async def wallet(self, user_id: str) -> Wallet | None:
        """See `Reads.wallet`."""
        return await self._ask(lambda reads: reads.wallet(user_id))

    async def entries(self, user_id: str, limit: int, cursor: str | None) -> list[Entry]:
        """See `Reads.entries`."""
        return await self._ask(lambda reads: reads.entries(user_id, limit, cursor))

    async def ticket(self, ticket_id: str) -> Ticket | None:
        """See `Reads.ticket`."""
        return await self._ask(lambda reads: reads.ticket(ticket_id))

    async def _ask(self, question: Callable[[Reads], Awaitable[T]]) -> T:
        return await self._replica_says(question) or await question(self._primary)

    async def _replica_says(self, question: Callable[[Reads], Awaitable[T]]) -> T | None:
        clock = asyncio.get_running_loop().time
        if clock() < self._not_before:
            return None
        if self._away:  # this one read finds out whether it is back; the others do not wait for that
            self._not_before = clock() + AWAY_SECONDS
        try:
            async with asyncio.timeout(ANSWER_SECONDS_MAX):
                answer = await question(self._replica)
        except (Unavailable, asyncpg.PostgresError, TimeoutError) as error:
            if not self._away:
                log.warning("the replica is away, the primary answers: %s", str(error) or "no answer in time")
            self._away, self._not_before = True, clock() + AWAY_SECONDS
            return None
        if self._away:
            log.warning("the replica is back")
            self._away, self._not_before = False, 0.0
        return answer
