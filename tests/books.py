"""Customers and a backend that keep books of what they asked over HTTP and what they were told, whatever happens.

The ledger is held against these books: everything answered is there, and everything there was asked for. A request
that has a key or a reference and was not answered can be asked again, which must settle it for good.
"""

import asyncio
import json
import random
import sqlite3
import threading
from base64 import urlsafe_b64decode
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import asyncpg
import httpx

from conftest import WEBHOOK_SECRET, Pluct, until

TOML = """
[actions.default]
ttl_seconds = 3600
[actions.quick]
settle = "redeem"
ttl_seconds = 3600
[actions.transcribe]
cost = 2
cost_max = 10
settle = "report"
ttl_seconds = 3600
"""
BASE_STATE = {"default": "captured", "quick": "issued", "transcribe": "issued"}
USERS = [f"user {number}" for number in range(5)]
CLIENTS = 12
#: Of those who are patient: how long they wait for an answer, until they ask again, and how often they do.
ANSWER_SECONDS_MAX, RETRY_SECONDS, ATTEMPTS_MAX = 30, 0.2, 500


@dataclass
class Request:
    """Something asked of the server, and what it said: None while nobody knows what came of it."""

    method: Callable[..., Any]  # of `Client`; asking again is calling it again with the request
    body: dict[str, Any]
    key: str | None
    answer: dict[str, Any] | None = None
    refused: bool = False

    @property
    def unknown(self) -> bool:
        return self.answer is None and not self.refused


@dataclass
class Selling:
    """A vend, and all that was done with its ticket since, in order."""

    vend: Request
    done: list[tuple[str, Request]] = field(default_factory=list)

    @property
    def action(self) -> str:
        return str(self.vend.body.get("action", "default"))

    @property
    def cost(self) -> int:
        return int(self.vend.body.get("cost", 1))

    @property
    def ticket_id(self) -> str:
        assert self.vend.answer is not None
        claims = self.vend.answer["token"].split(".")[1]
        return str(json.loads(urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["jti"])

    def states(self) -> list[tuple[str, int, int, bool]]:
        """What the ticket may be now: (state, captured, returned, redeemed), with and without an unknown last step."""
        state = BASE_STATE[self.action]
        now = state, self.cost if state == "captured" else 0, 0, False
        before = now
        for verb, request in self.done:
            before = now
            match verb:
                case "redeem" if self.action == "transcribe":
                    now = "redeemed", 0, 0, True
                case "redeem":
                    now = "captured", self.cost, 0, True
                case "capture":
                    now = "captured", request.body["amount"], self.cost - request.body["amount"], True
                case "void":
                    now = "voided", 0, self.cost, now[3]
        return [before, now] if self.done and self.done[-1][1].unknown else [now]


@dataclass
class Books:
    """All that was ever asked."""

    grants: dict[str, Request] = field(default_factory=dict)
    sales: list[Selling] = field(default_factory=list)

    def unknown(self) -> list[Request]:
        """Every request whose end nobody knows, but that can be asked again."""
        steps = [request for sale in self.sales for _, request in sale.done]
        asked = [*self.grants.values(), *(sale.vend for sale in self.sales), *steps]
        return [request for request in asked if request.unknown and request.key is not None]


class Down(Exception):
    """The server is gone, or cannot say now."""


class Client:
    """One of those who ask: the user, the payment office and the backend in one."""

    patient = going = False

    def __init__(self, http: httpx.AsyncClient, service: dict[str, str], answered: Callable[[], None]) -> None:
        self.http, self.service, self.answered = http, service, answered

    async def ask(self, request: Request) -> None:
        """Send the request and write down what comes of it."""
        await request.method(self, request)

    async def _send(self, request: Request, path: str, body: dict[str, Any], headers: dict[str, str]) -> None:
        if request.key is not None:
            headers = headers | {"Idempotency-Key": request.key}
        try:
            answer = await self._post(path, body, headers)
        except httpx.TransportError:
            raise Down from None
        if answer.status_code == 503 and (self.patient or "shutting down" in answer.text):
            assert int(answer.headers["retry-after"]) > 0
            raise Down
        said = answer.json()
        said.pop("requestId", None)
        if answer.status_code == 200:
            assert request.answer in (None, said), (request.answer, said)
            request.answer = said
        else:
            assert answer.status_code in (402, 403) and request.answer is None, (answer.status_code, answer.text)
            assert request.method is Client.vend, answer.text
            request.refused = True
        self.answered()

    async def _post(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> httpx.Response:
        return await self.http.post(path, json=body, headers=headers)

    async def grant(self, request: Request) -> None:
        await self._send(request, "/add-credits", request.body, {"x-webhook-secret": WEBHOOK_SECRET})

    async def vend(self, request: Request) -> None:
        path = "/v1/vend-token" if "action" in request.body else "/vend-token"
        await self._send(request, path, request.body, {})

    async def redeem(self, request: Request) -> None:
        await self._send(request, "/v1/tickets/redeem", request.body, self.service)

    async def capture(self, request: Request) -> None:
        body = {"amount": request.body["amount"]}
        await self._send(request, f"/v1/tickets/{request.body['ticket']}/capture", body, self.service)

    async def void(self, request: Request) -> None:
        body = {"reason": "no work done"}
        await self._send(request, f"/v1/tickets/{request.body['ticket']}/void", body, self.service)


class Customer:
    """A client that does business at random, but the same business for the same name."""

    def __init__(self, name: str, client: Client, books: Books) -> None:
        self.name, self.client, self.books = name, client, books
        self.random = random.Random(name)
        self.mine: list[Selling] = []
        self.count = 0

    async def live(self) -> None:
        """Go on until the server is gone; with patience, until it is time to go home."""
        verbs = [self.grant] * 3 + [self.vend] * 2 + [self.vend_once] * 4 + [self.use] * 5 + [self.again] * 2
        while True:
            try:
                await self.random.choice(verbs)()
            except Down:
                if not self.client.patient:
                    return
            if self.client.patient and not self.client.going:
                return

    def _key(self) -> str:
        self.count += 1
        return f"{self.name}-{self.count}"

    async def grant(self) -> None:
        reference = self._key()
        body = {"userId": self.random.choice(USERS), "amount": self.random.randint(1, 9), "reference": reference}
        self.books.grants[reference] = Request(Client.grant, body, reference)
        await self.client.ask(self.books.grants[reference])

    async def vend(self) -> None:
        """The seed's way, without a key: what is not answered is not known."""
        await self._sell(Request(Client.vend, {"userId": self.random.choice(USERS)}, None))

    async def vend_once(self) -> None:
        """With a key, and sometimes with a twin that runs beside it."""
        body: dict[str, Any] = {"userId": self.random.choice(USERS), "action": self.random.choice(list(BASE_STATE))}
        if body["action"] == "transcribe":
            body["cost"] = self.random.randint(2, 10)
        await self._sell(Request(Client.vend, body, self._key()), self.random.choice([1, 1, 2]))

    async def _sell(self, request: Request, times: int = 1) -> None:
        sale = Selling(request)
        self.books.sales.append(sale)
        ends = await asyncio.gather(*(self.client.ask(request) for _ in range(times)), return_exceptions=True)
        if request.answer is not None:
            request.refused = False  # a twin may be refused before credits came in for the other
            self.mine.append(sale)
        for end in ends:
            if end is not None:
                raise end

    async def use(self) -> None:
        """Take one of the tickets a step further."""
        if not self.mine:
            return
        sale = self.random.choice(self.mine)
        verbs = [verb for verb, _ in sale.done]
        steps = ["void"]
        if "redeem" not in verbs:
            steps += ["redeem"] * 3
        elif sale.action == "transcribe" and "capture" not in verbs:
            steps += ["capture"] * 3
        verb = self.random.choice(steps)
        assert sale.vend.answer is not None
        body: dict[str, Any] = {"ticket": sale.ticket_id}
        if verb == "redeem":
            body = {"token": sale.vend.answer["token"]}
        elif verb == "capture":
            body["amount"] = self.random.randint(1, sale.cost)
        request = Request(getattr(Client, verb), body, self._key())
        sale.done.append((verb, request))
        if verb == "void":
            self.mine.remove(sale)
        await self.client.ask(request)

    async def again(self) -> None:
        """Repeat something that was answered: `ask` holds the answers against each other."""
        sales = [sale.vend for sale in self.mine if sale.vend.key is not None]
        grants = [request for request in self.books.grants.values() if request.answer is not None]
        asked = sales + grants + [request for sale in self.mine for _, request in sale.done]
        known = [request for request in asked if request.answer is not None]
        if known:
            await self.client.ask(self.random.choice(known))


# Holding the ledger against the books


def rows(place: Path | str, query: str) -> list[Any]:
    """What the ledger itself says, in a SQLite file or at the address of a PostgreSQL database."""
    if isinstance(place, Path):
        with closing(sqlite3.connect(place)) as connection:
            return connection.execute(query).fetchall()

    async def fetch() -> list[Any]:
        connection = await asyncpg.connect(place)
        try:
            return [tuple(row) for row in await connection.fetch(query)]
        finally:
            await connection.close()

    return asyncio.run(fetch())


def audit(books: Books, path: Path | str) -> None:
    """Everything answered is there, and everything there was asked for."""
    granted = rows(path, "SELECT reference, user_id, amount FROM entries WHERE kind = 'grant'")
    assert len({reference for reference, _, _ in granted}) == len(granted), "each payment is granted once"
    asked = {(key, r.body["userId"], r.body["amount"]) for key, r in books.grants.items()}
    answered = {(key, r.body["userId"], r.body["amount"]) for key, r in books.grants.items() if not r.unknown}
    assert answered <= set(granted) <= asked

    columns = "id, user_id, action, cost, state, captured, returned, redeemed_at"
    tickets = {id: row for id, *row in rows(path, f"SELECT {columns} FROM tickets")}
    spare = Counter((s.vend.body["userId"], s.action, s.cost) for s in books.sales if s.vend.unknown)
    known = [sale for sale in books.sales if sale.vend.answer is not None]
    for sale in known:
        user_id, action, cost, state, captured, returned, redeemed_at = tickets.pop(sale.ticket_id)
        assert (user_id, action, cost) == (sale.vend.body["userId"], sale.action, sale.cost)
        assert (state, captured, returned, redeemed_at is not None) in sale.states(), sale
    assert {row[3] for row in tickets.values()} <= {"captured", "issued"}
    assert all(row[3] == BASE_STATE[row[1]] and row[6] is None for row in tickets.values())
    unasked = Counter((row[0], row[1], row[2]) for row in tickets.values()) - spare
    assert not unasked, "no ticket that nobody asked for"


def credits_add_up(books: Books, pluct: Pluct) -> None:
    """With every request settled but vends without a key, each balance is what the books say, less those vends."""
    for user_id in USERS:
        given = sum(r.body["amount"] for r in books.grants.values() if r.answer and r.body["userId"] == user_id)
        sales = [sale for sale in books.sales if sale.vend.body["userId"] == user_id]
        spent = sum(sale.cost - sale.states()[-1][2] for sale in sales if sale.vend.answer is not None)
        unknown = sum(sale.vend.unknown for sale in sales)
        wallet = pluct.client.get("/v1/credits/balance", params={"userId": user_id}).json()
        assert 0 <= given - spent - wallet["available"] - wallet["held"] + held(sales) <= unknown


def held(sales: list[Selling]) -> int:
    """What open tickets hold: not spent, though it is counted as spent above."""
    return sum(
        sale.cost for sale in sales if sale.vend.answer is not None and sale.states()[-1][0] in ("issued", "redeemed")
    )


async def settle(pluct: Pluct, books: Books, service: dict[str, str]) -> None:
    """Repeat what was never answered, twice; and vends that were, whose answer must be the same to the byte."""
    async with httpx.AsyncClient(base_url=pluct.url, timeout=30) as http:
        client = Client(http, service, lambda: None)
        for request in books.unknown():
            await client.ask(request)
            if not request.refused:
                await client.ask(request)
    assert not books.unknown()


# Trade that goes on through accidents


class Patient(Client):
    """Asks one server or another, and again until it knows what came of a request, as a good client does."""

    patient = going = True

    def __init__(
        self, http: httpx.AsyncClient, service: dict[str, str], answered: Callable[[], None], trade: "Trade"
    ) -> None:
        super().__init__(http, service, answered)
        self.trade = trade

    async def ask(self, request: Request) -> None:
        """Send the request, again and again if it has a key, and write down what comes of it."""
        for _ in range(ATTEMPTS_MAX):
            if self.trade.broken_off:
                break
            try:
                return await super().ask(request)
            except Down:
                self.trade.refusals += 1
                await asyncio.sleep(RETRY_SECONDS)
                if request.key is None:
                    raise
        raise AssertionError(f"nobody knows what came of {request}")

    async def _post(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> httpx.Response:
        url = random.choice(self.trade.urls)
        try:
            return await self.http.post(url + path, json=body, headers=headers)
        except httpx.TransportError as error:
            assert url not in self.trade.urls, f"every request is answered in time, but not this one: {error!r}"
            raise


class Trade:
    """Customers of one or more servers, at work in the background until the end of the `with`."""

    def __init__(self, servers: Sequence[Pluct], service: dict[str, str]) -> None:
        self.urls = [server.url for server in servers]  #: of servers that must answer
        self.books = Books()
        self.answers = self.refusals = 0
        self.broken_off = False
        self._service, self._clients = service, list[Patient]()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.broken_off = error is not None
        for client in self._clients:
            client.going = False
        self._thread.join()
        if self._failure is not None and error is None:
            raise self._failure

    def _run(self) -> None:
        try:
            asyncio.run(self._trade())
        except BaseException as error:
            self._failure = error

    async def _trade(self) -> None:
        limits = httpx.Limits(max_connections=4 * CLIENTS)
        async with httpx.AsyncClient(timeout=ANSWER_SECONDS_MAX, limits=limits) as http:
            self._clients = [Patient(http, self._service, self._answered, self) for _ in range(CLIENTS)]
            customers = [Customer(f"c{at}", client, self.books) for at, client in enumerate(self._clients)]
            await asyncio.gather(*(customer.live() for customer in customers))

    def _answered(self) -> None:
        self.answers += 1

    def until_more(self) -> None:
        """Wait until business has gone on for a while."""
        so_far = self.answers
        until(lambda: self._failure or self.answers > so_far + 10 * CLIENTS, 60)

    def until_refused(self) -> None:
        """Wait until several have been told that it does not go on."""
        so_far = self.refusals
        until(lambda: self._failure or self.refusals > so_far + 2, 60)


def hold(trade: Trade, place: Path | str, server: Pluct) -> None:
    """Hold the ledger against the books after a trade, and against its own invariants."""
    assert not trade.books.unknown()
    audit(trade.books, place)
    credits_add_up(trade.books, server)
    assert server.json("check") == {"ok": True, "violations": []}
