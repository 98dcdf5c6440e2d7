"""What the gate asks of the engine: to redeem a ticket before anything passes, and to settle it afterwards.

What is asked while requests to the engine are under way goes into the next one together: one alone is sent at once, and
under load one request serves many. Each operation has an idempotency key of its own, and is asked again with the same
key until there is an answer, so that a lost answer neither uses a ticket twice nor settles it twice.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable

import msgspec

from pluct.errors import (
    PluctError,
    SetupError,
    TicketAlreadyRedeemed,
    TicketAlreadySettled,
    TicketExpired,
    TicketNotFound,
    Unauthorized,
    Unavailable,
)
from pluct.gate.client import Broken, Origin, TimedOut

log = logging.getLogger("pluct.gate")

REDEEM_TRIES = 3
#: Operations in one request and bytes of them: the engine takes 100 and 64 KiB.
OPERATIONS_MAX, BYTES_MAX = 100, 48 * 1024
#: Requests at once, and how much must wait before a second one goes out beside the first.
REQUESTS_MAX, WORTH_A_REQUEST = 2, 32
ANSWER_BYTES_MAX = 1024 * 1024
#: Between two tries: a share of this at first, twice as much each time, and never more than the second.
PAUSE_SECONDS, PAUSE_SECONDS_MAX = 0.1, 5.0
_REFUSALS: dict[str, type[PluctError]] = {
    each.code: each
    for each in (TicketNotFound, TicketAlreadyRedeemed, TicketAlreadySettled, TicketExpired)
}  # fmt: skip


class Redeem(msgspec.Struct, rename="camel", tag_field="op", tag="redeem"):
    """Use a ticket."""

    token: str
    client_request_id: str


class Capture(msgspec.Struct, rename="camel", tag_field="op", tag="capture"):
    """Keep its credits: so many, or all."""

    ticket_id: str
    amount: int | None
    client_request_id: str


class Void(msgspec.Struct, rename="camel", tag_field="op", tag="void"):
    """Give its credits back."""

    ticket_id: str
    reason: str
    client_request_id: str


class Ticket(msgspec.Struct, rename="camel"):
    """A ticket, as the engine tells it."""

    ticket_id: str
    user_id: str
    action: str
    cost: int
    state: str

    @property
    def is_held(self) -> bool:
        """Whether its credits are still to be captured; else they were when it was vended or redeemed."""
        return self.state == "redeemed"


class Problem(msgspec.Struct, frozen=True):
    """Why the engine said no."""

    code: str = ""
    detail: str = ""


class Result(msgspec.Struct):
    """What came of an operation."""

    status: int
    ticket: Ticket | None = None
    problem: Problem = Problem()


class _Answer(msgspec.Struct):
    results: list[Result]


_encode = msgspec.json.Encoder().encode
_decode_answer = msgspec.json.Decoder(_Answer).decode
_decode_problem = msgspec.json.Decoder(Problem).decode


class NoAnswer(Exception):
    """The engine gave no answer that settles anything; `sent` if it may have done what it was asked for."""

    def __init__(self, why: str, sent: bool) -> None:
        super().__init__(why)
        self.sent = sent


class NotServed(Exception):
    """The engine, or whatever is there, takes nothing from this gate."""


class Lost(Exception):
    """There is no answer to a redemption; if it was `sent`, the ticket may have been redeemed all the same."""

    def __init__(self, sent: bool) -> None:
        super().__init__()
        self.sent = sent


class _Waiting:
    """An operation on its way."""

    __slots__ = ("data", "future", "until")

    def __init__(self, data: bytes, future: asyncio.Future[Result], until: float) -> None:
        self.data, self.future, self.until = data, future, until

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class Desk:
    """The engine, as one service key may ask it."""

    def __init__(self, origin: Origin, secret: str, seconds: float, new_key: Callable[[], str]) -> None:
        self._origin, self._seconds, self.new_key = origin, seconds, new_key
        first = b"POST %b/v1/tickets/batch HTTP/1.1\r\nhost: %b\r\n" % (origin.path, origin.authority)
        self._head = first + b"authorization: Bearer %b\r\ncontent-length: " % secret.encode()
        self._queue: deque[_Waiting] = deque()
        self._under_way = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, operation: Redeem | Capture | Void) -> Result:
        """Ask once. Raises `NoAnswer`, at the latest after twice the time for one answer, or `NotServed`."""
        loop = asyncio.get_running_loop()
        waiting = _Waiting(_encode(operation), loop.create_future(), loop.time() + self._seconds)
        self._queue.append(waiting)
        if self._worth_a_request(beside=self._under_way):
            self._under_way += 1
            task = loop.create_task(self._requesting())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await waiting.future

    async def _requesting(self) -> None:
        """Ask for what waits, until nothing does. What is added meanwhile goes into the next request."""
        try:
            while self._worth_a_request(beside=self._under_way - 1):
                if batch := self._next():
                    try:
                        await self._request(batch)
                    except Exception:  # a bug; the batch has heard of it, and the rest must not wait for ever
                        log.exception("a request to the engine broke down")
        finally:
            self._under_way -= 1

    def _worth_a_request(self, beside: int) -> bool:
        """Whether to ask for what waits: at once if no other request is under way, and only for much beside others."""
        return beside < REQUESTS_MAX and len(self._queue) >= (WORTH_A_REQUEST if beside else 1)

    def _next(self) -> list[_Waiting]:
        """What the next request asks for: no more than the engine takes at once, and nothing nobody waits for."""
        queue, batch, size, now = self._queue, list[_Waiting](), 0, asyncio.get_running_loop().time()
        while queue and len(batch) < OPERATIONS_MAX and size < BYTES_MAX:
            waiting = queue.popleft()
            if waiting.until < now:
                waiting.fail(NoAnswer(str(TimedOut.__doc__), sent=False))
            elif not waiting.future.done():
                batch.append(waiting)
                size += len(waiting.data)
        return batch

    async def _request(self, batch: list[_Waiting]) -> None:
        """One request: each of the batch has its result, or hears why there is none."""
        content = b'{"operations":[%b]}' % b",".join([waiting.data for waiting in batch])
        data = b"%b%d\r\n\r\n%b" % (self._head, len(content), content)
        sent = False
        try:
            async with asyncio.timeout(self._seconds):
                connection = await self._origin.connection()
                sent = True
                try:
                    connection.begin(data)
                    head = await connection.head(None)
                    parts, size = [], 0
                    while part := await connection.more(self._seconds):
                        parts.append(part)
                        size += len(part)
                        if size > ANSWER_BYTES_MAX:
                            raise Broken
                finally:
                    connection.release()
        except (Broken, TimeoutError) as error:
            why = str(type(error).__doc__ if isinstance(error, Broken) else TimedOut.__doc__)
            _fail(batch, lambda: NoAnswer(why, sent))
        except BaseException:  # a bug, or the gate's end: whoever waits must hear of it
            _fail(batch, lambda: NoAnswer("the gate broke down over it", sent))
            raise
        else:
            _tell(batch, head.status, b"".join(parts))

    async def redeem(self, token: str, key: str) -> Ticket:
        """Use a ticket. Raises the refusal, or `Lost` if there is no answer at all."""
        sent, why = False, ""
        for attempt in range(REDEEM_TRIES):
            if attempt:
                await asyncio.sleep(pause_seconds(attempt))
            try:
                return await self.redeem_once(token, key)
            except NoAnswer as error:
                sent, why = sent or error.sent, str(error)
            except Unavailable:
                if not sent:
                    raise
                break  # an earlier try may have used it
        log.warning("the engine could not be asked to redeem a ticket: %s", why)
        raise Lost(sent)

    async def redeem_once(self, token: str, key: str) -> Ticket:
        """Use a ticket. Raises the refusal, or `NoAnswer`."""
        try:
            result = await self.ask(Redeem(token, key))
        except NotServed as error:
            log.error("the engine redeems no tickets for this gate: %s", error)
            raise Unavailable("The gate is not set up well; its log says more. The ticket was not used.") from None
        if result.ticket is not None:
            return result.ticket
        problem = result.problem
        if problem.code in _REFUSALS:
            raise _REFUSALS[problem.code](problem.detail)
        if result.status in (400, 401):
            raise Unauthorized(problem.detail if result.status == 401 else "The token is not a ticket.")
        raise NoAnswer(f"it answered {result.status} {problem.code}", sent=True)

    async def introduce(self) -> None:
        """Ask for what only a `service` key may, and what changes nothing. Raises `SetupError`, or `NoAnswer`."""
        try:
            result = await self.ask(Capture("none", None, self.new_key()))
        except NotServed as error:
            raise SetupError(str(error)) from None
        if result.problem.code != TicketNotFound.code:
            raise SetupError(f"There is no Pluct engine where --engine leads to: it answered {result.status}.")


def _tell(batch: list[_Waiting], status: int, said: bytes) -> None:
    """Give everyone in the batch their part of an answer."""
    if status != 200:
        return _fail(batch, lambda: _refusal(status, said))
    try:
        results = _decode_answer(said).results
    except (msgspec.MsgspecError, ValueError, RecursionError):
        results = []
    if len(results) != len(batch):
        return _fail(batch, lambda: NoAnswer("it answered 200 without a result for each ticket", sent=True))
    for waiting, result in zip(batch, results, strict=True):
        if result.status == 429 or result.status >= 500:
            waiting.fail(NoAnswer(f"it answered {result.status} {result.problem.code}", sent=result.status != 429))
        elif not waiting.future.done():
            waiting.future.set_result(result)


def _fail(batch: list[_Waiting], error: Callable[[], Exception]) -> None:
    """Each of the batch hears why there is no answer, in an exception of its own: one shared grows with each trace."""
    for waiting in batch:
        waiting.fail(error())


def _refusal(status: int, said: bytes) -> Exception:
    """What it means that a whole request was refused: nothing in it was done, unless the engine broke down over it."""
    if status == 429 or status >= 500:
        return NoAnswer(f"it answered {status}", sent=status != 429)
    if status in (401, 403):
        return NotServed(f"The engine does not take PLUCT_SERVICE_KEY: {_problem(said).detail}")
    return NotServed(
        f"There is no Pluct engine where --engine leads to, or one older than this gate: it answered {status}."
    )


def pause_seconds(attempt: int) -> float:
    """How long to wait before this attempt: longer each time, and not all at once."""
    longest: float = min(PAUSE_SECONDS * 2 ** min(attempt, 16), PAUSE_SECONDS_MAX)
    return random.uniform(longest / 2, longest)


def _problem(said: bytes) -> Problem:
    """Problem details, as far as they are some."""
    try:
        return _decode_problem(said)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return Problem()
