"""What the gate asks of the engine: to redeem a ticket before anything passes, and to settle it afterwards.

Each is asked with an idempotency key of its own, and again with the same key until there is an answer, so that a lost
answer neither uses a ticket twice nor settles it twice. Which way a ticket is settled is decided once.
"""

import asyncio
import logging
import random
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
ANSWER_BYTES_MAX = 64 * 1024
#: Between two tries: a share of this at first, twice as much each time, and never more than the second.
PAUSE_SECONDS, PAUSE_SECONDS_MAX = 0.1, 5.0
KNOWN_SECONDS = 5.0
_REFUSALS: dict[str, type[PluctError]] = {
    each.code: each
    for each in (TicketNotFound, TicketAlreadyRedeemed, TicketAlreadySettled, TicketExpired)
}  # fmt: skip


class Ticket(msgspec.Struct, rename="camel"):
    """A redeemed ticket, as the engine tells it."""

    ticket_id: str
    user_id: str
    action: str
    cost: int
    state: str

    @property
    def is_held(self) -> bool:
        """Whether its credits are still to be captured; else they were when it was vended or redeemed."""
        return self.state == "redeemed"


class Problem(msgspec.Struct):
    """Why the engine said no."""

    code: str = ""
    detail: str = ""


_encode = msgspec.json.Encoder().encode
_decode_ticket = msgspec.json.Decoder(Ticket).decode
_decode_problem = msgspec.json.Decoder(Problem).decode


class NoAnswer(Exception):
    """The engine gave no answer that settles anything; `sent` if it may have done what it was asked for."""

    def __init__(self, why: str, sent: bool) -> None:
        super().__init__(why)
        self.sent = sent


class Lost(Exception):
    """There is no answer to a redemption; if it was `sent`, the ticket may have been redeemed all the same."""

    def __init__(self, sent: bool) -> None:
        super().__init__()
        self.sent = sent


class Desk:
    """The engine, as one service key may ask it."""

    def __init__(self, origin: Origin, secret: str, seconds: float, new_key: Callable[[], str]) -> None:
        self._origin, self._seconds, self.new_key = origin, seconds, new_key
        self._start = b"POST " + origin.path
        self._head = b" HTTP/1.1\r\nhost: %b\r\nauthorization: Bearer %b\r\nidempotency-key: " % (
            origin.authority, secret.encode(),
        )  # fmt: skip
        self._known_until = 0.0

    async def ask(self, path: str, body: object, key: str) -> tuple[int, bytes]:
        """Ask once: a status and what was said. Raises `NoAnswer`."""
        content = _encode(body)
        length = b"\r\ncontent-length: %d\r\n\r\n" % len(content)
        data = b"".join((self._start, path.encode(), self._head, key.encode(), length, content))
        sent = False
        try:
            async with asyncio.timeout(self._seconds):
                connection = await self._origin.connection()
                sent = True
                try:
                    connection.begin(data)
                    head = await connection.head(None)
                    answer = b""
                    while part := await connection.more(self._seconds):
                        answer += part
                        if len(answer) > ANSWER_BYTES_MAX:
                            raise Broken
                finally:
                    connection.release()
        except (Broken, TimeoutError) as error:
            why = type(error).__doc__ if isinstance(error, Broken) else TimedOut.__doc__
            raise NoAnswer(str(why), sent) from None
        if head.status >= 500 or head.status == 429:
            raise NoAnswer(f"it answered {head.status}", sent=head.status != 429)
        return head.status, answer

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
        log.warning("the engine could not be asked to redeem a ticket: %s", why)
        raise Lost(sent)

    async def redeem_once(self, token: str, key: str) -> Ticket:
        """Use a ticket. Raises the refusal, or `NoAnswer`."""
        status, said = await self.ask("/v1/tickets/redeem", {"token": token}, key)
        if status == 200:
            return _ticket(said)
        problem = problem_of(said)
        if problem.code in _REFUSALS:
            raise _REFUSALS[problem.code](problem.detail)
        if status in (400, 401) and await self._is_known():
            raise Unauthorized(problem.detail if status == 401 else "The token is not a ticket.")
        log.error("the engine redeems no tickets for this gate: it answered %d %s", status, problem.code)
        raise Unavailable("The gate is not set up well; its log says more. The ticket was not used.")

    async def _is_known(self) -> bool:
        """Whether the engine takes the gate's own key, looked up at most every few seconds; if it is away, it does."""
        now = asyncio.get_running_loop().time()
        if now >= self._known_until:
            try:
                await self.introduce()
            except NoAnswer:
                return True
            except SetupError as error:
                log.error("%s", error.sentence)
                return False
            self._known_until = now + KNOWN_SECONDS
        return True

    async def introduce(self) -> None:
        """Ask for what only a `service` key may, and what changes nothing. Raises `SetupError`, or `NoAnswer`."""
        status, said = await self.ask("/v1/tickets/none/capture", {}, self.new_key())
        problem = problem_of(said)
        if status in (401, 403):
            raise SetupError(f"The engine does not take PLUCT_SERVICE_KEY: {problem.detail}")
        if problem.code != TicketNotFound.code:
            raise SetupError(f"There is no Pluct engine where --engine leads to: it answered {status}.")


def pause_seconds(attempt: int) -> float:
    """How long to wait before this attempt: longer each time, and not all at once."""
    longest: float = min(PAUSE_SECONDS * 2 ** min(attempt, 16), PAUSE_SECONDS_MAX)
    return random.uniform(longest / 2, longest)


def problem_of(said: bytes) -> Problem:
    """Problem details, as far as they are some."""
    try:
        return _decode_problem(said)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return Problem()


def _ticket(said: bytes) -> Ticket:
    try:
        return _decode_ticket(said)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise NoAnswer("it answered 200 without a ticket", sent=True) from None
