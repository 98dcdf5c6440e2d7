"""Settling tickets, in the background and each once: asked of the engine again and again, until it has answered.

What is not settled when the gate ends is named in the log. A ticket of an action with `settle = "report"` is then given
back by the engine, by itself.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

import msgspec

from pluct.errors import Refusal, Unavailable
from pluct.gate.redeeming import Capture, Desk, NoAnswer, NotServed, Ticket, Void, pause_seconds

log = logging.getLogger("pluct.gate")


class Ending(msgspec.Struct, frozen=True):
    """How a request ended for its ticket: captured, all or so much of it, or voided for a reason."""

    void: str | None = None
    amount: int | None = None


class Settler:
    """Settles what it is handed, for as long as that takes and no longer than `seconds_max`."""

    def __init__(self, desk: Desk, seconds_max: float) -> None:
        self._desk, self._seconds_max = desk, seconds_max
        self._open: dict[asyncio.Task[None], str] = {}

    def __len__(self) -> int:
        """How much is under way."""
        return len(self._open)

    def settle(self, ticket: Ticket, ending: Ending) -> None:
        """Begin to settle a redeemed ticket."""
        id, key = ticket.ticket_id, self._desk.new_key()
        if ending.void is not None:
            self._begin(f"ticket {id}: void", self._ask(Void(id, ending.void, key)))
        elif ticket.is_held:
            self._begin(f"ticket {id}: capture", self._ask(Capture(id, ending.amount, key)))

    def give_back(self, token: str, key: str) -> None:
        """Void a ticket that may have been redeemed under this key; nothing was let through for it."""
        self._begin("a ticket whose redemption was not answered: void", self._undo(token, key))

    async def finish(self, seconds: float) -> None:
        """Settle what is under way, within this time; what is left is named."""
        if self._open:
            await asyncio.wait(self._open, timeout=seconds)
        for task, what in list(self._open.items()):
            task.cancel()
            log.error("not settled when the gate stopped: %s", what)

    def _begin(self, what: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(self._bounded(what, work))
        self._open[task] = what
        task.add_done_callback(self._open.pop)

    async def _bounded(self, what: str, work: Coroutine[Any, Any, None]) -> None:
        try:
            async with asyncio.timeout(self._seconds_max):
                await work
        except TimeoutError:
            log.error("not settled within %.0f s: %s", self._seconds_max, what)
        except Exception:
            log.exception("not settled: %s", what)

    async def _ask(self, operation: Capture | Void) -> None:
        """Ask until there is an answer, whichever."""
        attempt, what = 0, f"settling ticket {operation.ticket_id}"
        while True:  # bounded in time
            try:
                result = await self._desk.ask(operation)
                break
            except NoAnswer as error:
                attempt += 1
                if attempt == 1:
                    log.warning("%s is asked again: %s", what, error)
            except NotServed as error:
                attempt += 1  # an operator may give the gate's key back its right
                log.error("%s: %s", what, error)
            await asyncio.sleep(pause_seconds(attempt))
        if result.ticket is None:
            log.warning("%s was refused: %d %s: %s", what, result.status, result.problem.code, result.problem.detail)

    async def _undo(self, token: str, key: str) -> None:
        attempt = 0
        while True:  # bounded in time
            attempt += 1
            await asyncio.sleep(pause_seconds(attempt))
            try:
                ticket = await self._desk.redeem_once(token, key)
                break
            except (NoAnswer, Unavailable):
                continue
            except Refusal:
                return  # it was not redeemed under this key, and will not be
        self.settle(ticket, Ending(void="The gate had no answer in time, and let nothing through."))
