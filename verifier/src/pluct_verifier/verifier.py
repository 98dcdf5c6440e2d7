"""The ladder: `offline` believes the signature, `once` also remembers, `strict` asks the engine.

What each guarantees, and what it does not, is in the README.
"""

import hashlib
import time
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import quote

from joserfc.jws import JWSRegistry

from pluct_verifier.calls import Http, done, pause
from pluct_verifier.keys import KeySet, Secret
from pluct_verifier.seen import Seen
from pluct_verifier.tickets import Ticket, TicketRefused, key_id, split, ticket_of

LEEWAY_SECONDS = 30.0
HEADERS_MAX = 64
PAUSES_SECONDS = (0.0, 0.1, 0.4)  # before each try


class Verifier:
    """Accepts tickets for one audience, and of one action if it is told which. Threads and tasks may share it."""

    def __init__(self, audience: str, action: str | None) -> None:
        self._audience, self._action = audience, action

    @staticmethod
    def offline(
        *, audience: str, action: str | None = None, secret: str | None = None, jwks_url: str | None = None,
        leeway_seconds: float = LEEWAY_SECONDS, clock: Callable[[], float] = time.time,
    ) -> "Verifier":  # fmt: skip
        """Signature, issuer, audience and times. A ticket can be used again until it expires."""
        return _LocalVerifier(audience, action, _keys(secret, jwks_url), None, leeway_seconds, clock)

    @staticmethod
    def once(
        *, audience: str, seen: Seen, action: str | None = None, secret: str | None = None, jwks_url: str | None = None,
        leeway_seconds: float = LEEWAY_SECONDS, clock: Callable[[], float] = time.time,
    ) -> "Verifier":  # fmt: skip
        """The same, and each ticket once for all who share `seen`."""
        return _LocalVerifier(audience, action, _keys(secret, jwks_url), seen, leeway_seconds, clock)

    @staticmethod
    def strict(*, engine: str, key: str, audience: str, action: str | None = None) -> "StrictVerifier":
        """The engine redeems each ticket, with a `service` key: once, whoever else accepts tickets."""
        return StrictVerifier(engine, key, audience, action)

    def accept(self, token: str) -> Ticket:
        """The ticket this token is. Raises `TicketRefused`."""
        return done(self._accept(token, False))

    async def accept_async(self, token: str) -> Ticket:
        """The same, without blocking the event loop where keys are fetched, a list or the engine is asked."""
        return await self._accept(token, True)

    async def _accept(self, token: str, waiting: bool) -> Ticket:
        raise NotImplementedError


class _LocalVerifier(Verifier):
    def __init__(
        self, audience: str, action: str | None, keys: Secret | KeySet, seen: Seen | None, leeway_seconds: float,
        clock: Callable[[], float],
    ) -> None:  # fmt: skip
        super().__init__(audience, action)
        self._keys, self._seen, self._leeway, self._clock = keys, seen, leeway_seconds, clock
        self._algorithm = JWSRegistry.algorithms[keys.algorithm]
        self._headers: dict[bytes, str | None] = {}  # the kids of headers that came with a good signature

    async def _accept(self, token: str, waiting: bool) -> Ticket:
        header, signed, signature, payload = split(token)
        kid = self._headers[header] if header in self._headers else key_id(header, self._keys.algorithm)
        if not self._algorithm.verify(signed, signature, await self._keys.find(kid, waiting)):
            raise TicketRefused("ticket_invalid", "The token's signature is not good.")
        if len(self._headers) < HEADERS_MAX:
            self._headers[header] = kid
        ticket = ticket_of(payload, self._audience, self._action)
        over = self._over(ticket)
        if self._seen is not None:
            await self._seen.mark(ticket.id, ticket.expires_at, over, waiting)
            self._over(ticket)  # once more: the list took its time, and may have forgotten the ticket meanwhile
        return ticket

    def _over(self, ticket: Ticket) -> float:
        """What ended by then is over, leeway and all; `ticket` must not be, and have begun."""
        now = self._clock()
        if ticket.expires_at <= now - self._leeway:
            raise TicketRefused("ticket_expired")
        if max(ticket.issued_at, ticket.starts_at) > now + self._leeway:
            raise TicketRefused("ticket_not_yet_valid")
        return now - self._leeway


class Settlement(NamedTuple):
    """What became of a ticket's credits."""

    state: str
    captured: int
    returned: int


class StrictVerifier(Verifier):
    """Accepts tickets by redeeming them at the engine, and tells it how the work they pay for went."""

    def __init__(self, engine: str, key: str, audience: str, action: str | None) -> None:
        super().__init__(audience, action)
        if not engine.startswith(("http://", "https://")):
            raise ValueError("engine must be the engine's address: https://…")
        self._engine, self._http = engine.rstrip("/"), Http({"authorization": f"Bearer {key}"})

    def capture(self, ticket: Ticket | str, amount: int | None = None) -> Settlement:
        """The work was done: keep all credits, or this many. A ticket may be named by its id; repeating it is safe."""
        return done(self._settle("capture", ticket, {"amount": amount}, False))

    async def capture_async(self, ticket: Ticket | str, amount: int | None = None) -> Settlement:
        """The same, without blocking the event loop."""
        return await self._settle("capture", ticket, {"amount": amount}, True)

    def void(self, ticket: Ticket | str, reason: str) -> Settlement:
        """The work was not done: all credits go back to the user. Repeating it is safe."""
        return done(self._settle("void", ticket, {"reason": reason}, False))

    async def void_async(self, ticket: Ticket | str, reason: str) -> Settlement:
        """The same, without blocking the event loop."""
        return await self._settle("void", ticket, {"reason": reason}, True)

    async def _accept(self, token: str, waiting: bool) -> Ticket:
        # Looked at before the engine is asked: another service's ticket is not used up here.
        ticket, key = ticket_of(split(token).payload, self._audience, self._action), uuid.uuid4().hex
        said = await self._ask("redeem", {"token": token}, key, ("ticketId", "userId", "action"), waiting)
        if said != ticket[:3]:
            raise TicketRefused("ticket_invalid")
        return ticket

    async def _settle(self, verb: str, ticket: Ticket | str, body: dict[str, Any], waiting: bool) -> Settlement:
        ticket_id = ticket if isinstance(ticket, str) else ticket.id
        key = hashlib.sha256(f"{verb} {ticket_id} {body}".encode()).hexdigest()  # the same call is the same request
        path = f"{quote(ticket_id, safe='')}/{verb}"
        return Settlement(*await self._ask(path, body, key, ("state", "capturedAmount", "returnedAmount"), waiting))

    async def _ask(
        self, path: str, body: dict[str, Any], key: str, names: tuple[str, ...], waiting: bool
    ) -> tuple[Any, ...]:
        """Ask until the engine answers, three times at most; what it has done already it does not do again."""
        headers, problem = {"idempotency-key": key}, "The engine cannot be reached now; try again shortly."
        for seconds in PAUSES_SECONDS:
            await pause(seconds, waiting)
            try:
                answer = await self._http.send(
                    waiting, "POST", f"{self._engine}/v1/tickets/{path}", json=body, headers=headers
                )
                said = answer.json()
                if answer.status_code == 200:
                    return tuple(said[name] for name in names)
                code, problem = str(said["code"]), str(said["detail"])
            except (*self._http.errors, ValueError, KeyError, TypeError):
                continue
            if answer.status_code in (400, 401, 409) or code.startswith("ticket_"):
                raise TicketRefused("ticket_invalid" if code == "unauthorized" else code, problem)
        raise TicketRefused("unavailable", problem)


def _keys(secret: str | None, jwks_url: str | None) -> Secret | KeySet:
    if secret is not None and jwks_url is None:
        return Secret(secret)
    if jwks_url is not None and secret is None:
        return KeySet(jwks_url)
    raise ValueError("Give either secret= (tickets signed with HS256) or jwks_url= (EdDSA), not both.")
