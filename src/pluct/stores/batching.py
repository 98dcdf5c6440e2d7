"""Group commit: commands gather while a batch is in flight, and the next batch takes them all.

Under load one durable commit serves many commands; an idle ledger commits a lone command at once. Everything is
bounded: the queue (a full one answers 503 at once), the batch, and how long a command may wait its turn.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from pluct.commands import Command
from pluct.errors import Fault, Refusal, Unavailable
from pluct.model import Outcome

log = logging.getLogger("pluct.stores")

#: Decides and durably records a batch. Raises `Unavailable` when none of it happened and none of it can happen now,
#: `OutcomeUnknown` when the commit broke off, and anything else when one of the commands cannot be recorded.
Transact = Callable[[Sequence[Command]], Awaitable[list[Outcome | Refusal]]]

QUEUE_MAX = 10_000
WAIT_SECONDS_MAX = 10.0
#: How much must wait before a lane opens beside a busy one: two small batches cost more than one of twice the size.
WORTH_A_LANE = 32


class Batcher:
    """Runs `transact` over batches of what was submitted, at most `lanes` at a time."""

    def __init__(
        self, transact: Transact, *, rest: Callable[[], Awaitable[None]] | None = None, lanes: int = 1,
        batch_max: int = 256, queue_max: int = QUEUE_MAX,
    ) -> None:  # fmt: skip
        """`rest` is awaited whenever the last lane has ended."""
        self._transact = transact
        self._rest = rest
        self._batch_max = batch_max
        self._queue_max = queue_max
        self._lanes = lanes
        self._busy = 0
        self._queue: deque[tuple[Command, asyncio.Future[Outcome | Refusal], float]] = deque()
        self._loop = asyncio.get_running_loop()
        self._running: set[asyncio.Task[None]] = set()
        self._closed = False

    def submit(self, command: Command) -> asyncio.Future[Outcome | Refusal]:
        """Queue a command. The future has its outcome once that is durable."""
        if self._closed:
            raise Unavailable("The engine is shutting down; try again shortly.")
        if len(self._queue) >= self._queue_max:
            raise Unavailable("The ledger is busy: its queue is full; try again shortly.")
        future: asyncio.Future[Outcome | Refusal] = self._loop.create_future()
        self._queue.append((command, future, self._loop.time()))
        if self._worth_a_lane(beside=self._busy):
            self._busy += 1
            task = self._loop.create_task(self._lane())
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        return future

    @property
    def waiting(self) -> int:
        """How many commands no batch has taken yet."""
        return len(self._queue)

    async def close(self) -> None:
        """Finish everything queued, then refuse."""
        self._closed = True
        while self._running:
            await asyncio.gather(*self._running)

    async def _lane(self) -> None:
        """Run batches until nothing waits. What is submitted meanwhile joins the next batch."""
        try:
            while self._worth_a_lane(beside=self._busy - 1):
                commands, futures = self._next_batch()
                if commands:
                    await self._run(commands, futures)
        finally:
            self._busy -= 1
        if self._rest is not None and not self._busy:
            await self._rest()

    def _worth_a_lane(self, beside: int) -> bool:
        """Whether a lane should run what waits: anything if no other is busy, and only much beside others."""
        return beside < self._lanes and len(self._queue) >= (min(WORTH_A_LANE, self._batch_max) if beside else 1)

    def _next_batch(self) -> tuple[list[Command], list[asyncio.Future[Outcome | Refusal]]]:
        queue, oldest = self._queue, self._loop.time() - WAIT_SECONDS_MAX
        commands: list[Command] = []
        futures: list[asyncio.Future[Outcome | Refusal]] = []
        while queue and len(commands) < self._batch_max:
            command, future, since = queue.popleft()
            if since < oldest:
                _answer(future, Unavailable("The ledger is busy; this request waited too long. Try again shortly."))
            elif not future.cancelled():
                commands.append(command)
                futures.append(future)
        return commands, futures

    async def _run(self, commands: list[Command], futures: list[asyncio.Future[Outcome | Refusal]]) -> None:
        try:
            outcomes = await self._transact(commands)
        except Unavailable as fault:
            for future in futures:
                _answer(future, fault)
        except Exception:
            if len(commands) > 1:  # one of them is poisonous: none was recorded, so let each stand alone
                for command, future in zip(commands, futures, strict=True):
                    await self._run([command], [future])
                return
            log.exception("the store could not record %s", type(commands[0]).__name__)
            _answer(futures[0], Fault())
        else:
            for future, outcome in zip(futures, outcomes, strict=True):
                if not future.done():
                    future.set_result(outcome)


def _answer(future: asyncio.Future[Outcome | Refusal], fault: Fault) -> None:
    """Fail one waiter with a fault of its own: an exception shared by many grows a traceback with each."""
    if not future.done():
        future.set_exception(type(fault)(fault.sentence))
