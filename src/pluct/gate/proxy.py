"""One request's way through the gate: looked at, redeemed, passed on, streamed both ways, settled, logged.

Nothing passes before the engine has redeemed the ticket; whatever can be refused is refused before that, so that the
ticket stays good. From then on the ticket is settled exactly one way, decided here: captured if the backend's status is
2xx or 3xx and its answer came whole, or was not waited for by the client; voided in every other case.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from http import HTTPStatus

import msgspec
from starlette.types import Receive, Scope, Send

from pluct.errors import BodyTooLarge, Fault, Forbidden, InvalidRequest, PluctError, Unavailable
from pluct.gate.client import Broken, Connection, Head, Origin, TimedOut
from pluct.gate.headers import (
    Asked,
    answer_headers,
    asked,
    forwarding,
    header_text,
    peeked_action,
    request_head,
    used,
)
from pluct.gate.protocol import LINE, Line
from pluct.gate.redeeming import Desk, Lost, Ticket
from pluct.gate.settling import Ending, Settler
from pluct.web.endpoint import Call, request_id, second
from pluct.web.problems import problem

log = logging.getLogger("pluct.gate")

CLIENT_GONE = 499  # in the log: nobody was there to be answered
_SAFE_METHODS = (b"GET", b"HEAD", b"OPTIONS")
_PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}
_encode = msgspec.json.Encoder().encode


class Limits(msgspec.Struct, frozen=True):
    """What may be how much, and take how long."""

    requests_max: int = 1000
    body_bytes_max: int = 1024 * 1024 * 1024
    connect_seconds: float = 5.0
    upstream_seconds: float = 60.0
    client_seconds: float = 60.0
    engine_seconds: float = 3.0
    settle_seconds: float = 3600.0
    settling_max: int = 10_000


class GateSettings(msgspec.Struct, frozen=True):
    """What a gate was told. Its `repr` shows no secret."""

    action: str
    upstream: str
    engine: str
    host: str
    port: int
    key: str
    limits: Limits
    behind_proxy: bool = False
    drain_seconds: float = 0.0

    def __repr__(self) -> str:
        return f"GateSettings(action={self.action!r}, upstream={self.upstream!r}, engine={self.engine!r})"


class Passed(msgspec.Struct, rename="camel", omit_defaults=True, gc=False):
    """One request, as the log tells it."""

    at: str
    request_id: str
    method: str
    status: int
    ms: float
    code: str | None = None
    ticket_id: str | None = None
    user_id: str | None = None
    ending: str | None = None  # how the ticket is to be settled
    why: str | None = None


class BadGateway(Fault):
    """The backend broke off."""

    code, status, title = "unavailable", 502, "Bad gateway"


class GatewayTimeout(Fault):
    """The backend did not answer in time."""

    code, status, title = "unavailable", 504, "Gateway timeout"


class ClientGone(Exception):
    """The client went away."""


class Gate:
    """The gate as an ASGI application, for one action."""

    def __init__(
        self, action: str, upstream: Origin, desk: Desk, settler: Settler, limits: Limits,
        write_log: Callable[[bytes], object], *, behind_proxy: bool = False,
    ) -> None:  # fmt: skip
        self.action, self.upstream, self.desk, self.settler = action, upstream, desk, settler
        self.limits, self.write_log, self.behind_proxy = limits, write_log, behind_proxy
        self.passing = 0  #: requests for which a ticket is, or is being, redeemed
        self.leaving = False  #: set once it is about to stop

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await Passage(self, scope, receive).run()


class Passage:
    """One request on its way."""

    def __init__(self, gate: Gate, scope: Scope, receive: Receive) -> None:
        self._gate, self._scope, self._receive = gate, scope, receive
        self._line: Line = scope["extensions"][LINE]
        self._request_id = request_id(dict(scope["headers"]))
        self._ticket: Ticket | None = None
        self._ending: Ending | None = None
        self._pump: asyncio.Task[None] | None = None
        self._status, self._code = 0, None

    _code: str | None

    async def run(self) -> None:
        """Answer, and tell the log."""
        started = time.perf_counter()
        try:
            await self._admit()
        except PluctError as error:
            self._refuse(error)
        except ClientGone:
            self._status, self._code = self._status or CLIENT_GONE, "client_gone"
        except Exception:
            log.exception("request %s failed", self._request_id)
            self._refuse(Fault())
        finally:
            self._tell(started)

    async def _admit(self) -> None:
        """Let the request through, if it is one, there is room, and its ticket is good. Raises why not."""
        gate, limits = self._gate, self._gate.limits
        request = asked(
            self._scope["method"], self._scope["http_version"], self._line.target, self._scope["headers"],
            limits.body_bytes_max,
        )  # fmt: skip
        self._see_action(peeked_action(request.token))
        if gate.passing >= limits.requests_max or len(gate.settler) >= limits.settling_max:
            raise Unavailable("The gate is busy; try again in a moment, with the same ticket.")
        gate.passing += 1
        try:
            ticket = self._ticket = await self._redeem(request.token)
            self._ending = Ending(void="The gate was stopped.")  # until more is known
            try:
                self._see_action(ticket.action)
                await self._pass_on(request, ticket)
            finally:
                gate.settler.settle(ticket, self._ending)
        finally:
            gate.passing -= 1

    def _see_action(self, action: str) -> None:
        if action != self._gate.action:
            raise Forbidden(f"This ticket is not for the action {self._gate.action}.")

    async def _redeem(self, token: str) -> Ticket:
        """Use the ticket; if nobody can say whether that was done, see to it that its credits go back."""
        gate, key = self._gate, self._gate.desk.new_key()
        try:
            return await gate.desk.redeem(token, key)
        except Lost as lost:
            if lost.sent:
                gate.settler.give_back(token, key)
            raise Unavailable("The engine cannot be asked now; try again in a moment.") from None
        except asyncio.CancelledError:
            gate.settler.give_back(token, key)
            raise

    async def _pass_on(self, request: Asked, ticket: Ticket) -> None:
        """Have the backend answer, and stream that to the client."""
        try:
            connection, head = await self._ask(request, self._head(request, ticket))
            try:
                self._ending = self._by_status(head, ticket)
                await self._answer(connection, head)
            except asyncio.CancelledError:
                self._ending = Ending(void="The gate was stopped.")
                raise
            finally:
                if self._pump is not None and not self._pump.done():
                    self._pump.cancel()
                    connection.fail(Broken())
                connection.release()
        except Broken as error:
            what = str(type(error).__doc__)
            self._ending = Ending(void=f"The backend failed: {what}.")
            kind = GatewayTimeout if isinstance(error, TimedOut) else BadGateway
            raise kind(f"The backend failed: {what}. The ticket's credits go back; ask again with a new one.") from None
        except ClientGone:
            if not self._status:
                self._ending = Ending(void="The client went away before the backend had answered.")
            raise
        except PluctError as error:  # found out about the body while it was sent
            if not self._status:
                self._ending = Ending(void=error.sentence[:200])
            raise

    def _head(self, request: Asked, ticket: Ticket) -> bytes:
        gate, client = self._gate, self._scope["client"]
        more = forwarding(request, client[0] if client else "", believed=gate.behind_proxy)
        more += [
            (b"x-request-id", self._request_id.encode()),
            (b"x-pluct-user", header_text(ticket.user_id)),
            (b"x-pluct-ticket", header_text(ticket.ticket_id)),
            (b"x-pluct-action", header_text(ticket.action)),
        ]
        return request_head(request, gate.upstream.path, gate.upstream.authority, more, believed=gate.behind_proxy)

    async def _ask(self, request: Asked, head: bytes) -> tuple[Connection, Head]:
        """Send the request to the backend: the connection it went out on, and the head of the answer.

        A kept connection may be closed by the backend in the moment it is used. What changes nothing is then asked once
        more, on a new one.
        """
        limits, body = self._gate.limits, self._line.whole_body()
        fresh = False
        while True:
            if self._line.gone:
                raise ClientGone
            connection = await self._gate.upstream.connection(fresh=fresh)
            try:
                self._line.on_gone = partial(connection.fail, ClientGone())
                if self._line.gone:
                    raise ClientGone
                if body is None:
                    connection.begin(head)
                    self._pump = asyncio.create_task(self._send_body(connection, request))
                    return connection, await connection.head(None)
                connection.begin(head + _framed(body, request.length, last=True), is_head=request.method == b"HEAD")
                return connection, await connection.head(limits.upstream_seconds)
            except BaseException as error:
                if self._pump is not None:
                    self._pump.cancel()
                connection.release()
                again = type(error) is Broken and not (connection.fresh or body or fresh)
                if not again or request.method not in _SAFE_METHODS:
                    raise
                fresh = True

    async def _send_body(self, connection: Connection, request: Asked) -> None:
        """Send the request's body as it comes. What goes wrong with it ends the exchange."""
        limits, sent, last = self._gate.limits, 0, False
        try:
            while not last:
                async with asyncio.timeout(limits.client_seconds):
                    message = await self._receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                data, last = message["body"], not message["more_body"]
                sent += len(data)
                if sent > limits.body_bytes_max:
                    raise BodyTooLarge(f"The body is larger than {limits.body_bytes_max} bytes.")
                if framed := _framed(data, request.length, last=last):
                    await connection.send(framed, limits.upstream_seconds)
            connection.limit(limits.upstream_seconds)
        except TimeoutError:
            connection.fail(InvalidRequest("The body did not come in time."))
        except Exception as error:
            connection.fail(error)

    def _by_status(self, head: Head, ticket: Ticket) -> Ending:
        """How the ticket is to be settled, going by the head of the backend's answer."""
        self._status = head.status
        if head.status >= 400:
            return Ending(void=f"The backend answered {head.status}.")
        said = used(head.headers)
        if said is None:
            return Ending()
        if said == b"0":
            return Ending(void="The backend used nothing.")
        if said.isdigit() and len(said) < 10 and int(said) <= ticket.cost:
            return Ending(amount=int(said))
        log.warning("ticket %s: X-Pluct-Used is not 0 to %d; all is captured", ticket.ticket_id, ticket.cost)
        return Ending()

    async def _answer(self, connection: Connection, head: Head) -> None:
        """Stream the backend's answer to the client."""
        line, limits = self._line, self._gate.limits
        headers = answer_headers(head.headers)
        if not any(name == b"x-request-id" for name, _ in headers):
            headers.append((b"x-request-id", self._request_id.encode()))
        line.start(head.status, head.reason, headers, None if head.status == 204 else head.length, empty=head.empty)
        try:
            data = connection.available()
            while not connection.complete:
                if not await line.write(data, limits.client_seconds):
                    raise ClientGone
                data = await connection.more(limits.upstream_seconds)
            line.end(data)
        except BaseException:
            line.abort()
            raise

    def _refuse(self, error: PluctError) -> None:
        """Answer with problem details, unless the answer has begun or nobody waits for it."""
        self._code = error.code
        if self._line.started or self._line.gone:
            return
        self._status = error.status
        answer = problem(error, Call(self._scope, {}, self._request_id))
        content = _encode(answer.content)
        headers = [
            *answer.headers, (b"content-type", answer.content_type), (b"x-request-id", self._request_id.encode())
        ]  # fmt: skip
        is_head = self._scope["method"] == "HEAD"
        self._line.start(error.status, _PHRASES[error.status], headers, len(content), empty=is_head)
        self._line.end(b"" if is_head else content)

    def _tell(self, started: float) -> None:
        ticket, ending = self._ticket, self._ending
        now = time.time_ns() // 1_000_000
        passed = Passed(
            f"{second(now // 1000)}.{now % 1000:03d}Z", self._request_id, self._scope["method"], self._status,
            round((time.perf_counter() - started) * 1000, 3), self._code,
        )  # fmt: skip
        if ticket is not None and ending is not None:
            passed.ticket_id, passed.user_id, passed.why = ticket.ticket_id, ticket.user_id, ending.void
            passed.ending = "void" if ending.void is not None else "capture" if ticket.is_held else None
        self._gate.write_log(_encode(passed) + b"\n")


def _framed(data: bytes, length: int | None, *, last: bool) -> bytes:
    """A part of a body as it goes to the backend: as it is if its length was said, else as a chunk."""
    if length is not None:
        return data
    chunk = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
    return chunk + b"0\r\n\r\n" if last else chunk
