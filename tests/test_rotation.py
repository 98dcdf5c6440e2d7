"""Rotation at work: no ticket refused that should pass, and none accepted that should not.

First by a clock that is moved through a quarter of an hour, with two servers, and backends that keep the public keys as
long as they may, each with a clock of its own. Then with real processes under load.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest
from cryptography.exceptions import InvalidSignature

from busy import Place
from conftest import Clock, Pluct, fund, new_id, opened, until
from pluct import signing
from pluct.catalog import Action, Catalog
from pluct.engine import Engine
from pluct.errors import TicketAlreadyRedeemed, TicketExpired, TicketNotFound, Unauthorized
from pluct.model import SigningKey
from pluct.observe import Observer
from pluct.signing import CACHE_SECONDS, LEEWAY_SECONDS, KeyRing, Seal
from pluct.tickets import HS256Signer, uuid7_source
from postgres import fresh_database
from verifying import NotAccepted, Verifier, header

Make = Callable[..., Pluct]

SEAL, SHARED = Seal(["k" * 40]), HS256Signer("s" * 40)
TTL = 60
TICK_SECONDS = 4
SKEWS_SECONDS = (-30, 0, 30)
ALMOST_SECONDS = 16  # before the end of a ticket by one server's clock, and a little before it by the other's
VERY_LATE_SECONDS = 30 + 60 - 2 * TICK_SECONDS  # after it: what the slowest clock and the leeway still allow


def skewed(clock: Clock, seconds: float) -> Callable[[], int]:
    """A clock that is so much ahead."""
    return lambda: clock() + int(seconds * 1000)


class Server:
    """One server of the engine: its own clock, its own view of the keys, the ledger of all."""

    def __init__(self, store: Any, clock: Callable[[], int]) -> None:
        self.store = store
        self.ring = KeyRing(SHARED, SEAL, TTL, clock)
        self.engine = Engine(
            store, self.ring, Catalog({"default": Action(ttl_seconds=TTL)}), Observer(None),
            clock, uuid7_source(lambda: clock() / 1000), 86_400,
        )  # fmt: skip


class World:
    """Two servers over one ledger, and backends that verify offline."""

    def __init__(self, clock: Clock, servers: list[Server]) -> None:
        self.clock, self.servers = clock, servers
        self.verifiers: list[Verifier] = []
        self.slow: list[Verifier] = []  # those of them that live half a minute ago
        self.alive: list[tuple[int, str]] = []  # until when, which token
        self.late: list[tuple[int, str]] = []
        self.sold: dict[str, str] = {}  # by idempotency key
        self.refused: list[str] = []
        self.ticks = 0

    async def tick(self) -> None:
        """Four seconds: servers look at the keys and sell; tickets are presented: new, almost expired, very late."""
        self.clock.move(TICK_SECONDS)
        self.ticks += 1
        if self.ticks <= 12:  # each backend has its own moment to ask for the keys
            skew = SKEWS_SECONDS[self.ticks % 3]
            server = self.servers[self.ticks % 2]
            self.verifiers.append(Verifier(skewed(self.clock, skew), server.ring.jwks))
            self.slow += self.verifiers[-1:] if skew < 0 else []
        for number, server in enumerate(self.servers):
            if number == self.ticks % 2:  # the other has not come to it yet
                await server.ring.follow(server.store)
        keys = [f"{self.ticks}-{number}" for number in range(2)]
        vended = await asyncio.gather(
            *(server.engine.vend("amina", key=key) for server, key in zip(self.servers, keys, strict=True))
        )
        for key, vending in zip(keys, vended, strict=True):
            self.sold[key] = vending.token
            self.present(vending.token, self.verifiers)
            self.alive.append((vending.ticket.expires_at, vending.token))
        last = [each for each in self.alive if each[0] - ALMOST_SECONDS * 1000 <= self.clock()]
        self.alive = [each for each in self.alive if each not in last]
        for at, (_, token) in enumerate(last):
            self.present(token, self.verifiers)
            changed = await self.servers[at % 2].engine.redeem(token)
            assert changed.ticket.redeemed_at is not None
        self.late += last
        for end, token in self.late:
            if end + VERY_LATE_SECONDS * 1000 <= self.clock():
                self.present(token, self.slow)
        self.late = [each for each in self.late if each[0] + VERY_LATE_SECONDS * 1000 > self.clock()]

    def present(self, token: str, verifiers: list[Verifier]) -> None:
        """To each of these backends."""
        for verifier in verifiers:
            try:
                verifier.accept(token)
            except (NotAccepted, InvalidSignature) as error:
                self.refused.append(f"tick {self.ticks}: {error!r}")

    async def rotate(self) -> str:
        """On a third machine, whose clock is right."""
        now = self.clock()
        before = {key.kid for key in await self.servers[0].store.signing_keys()}
        after = await self.servers[0].store.change_signing_keys(lambda keys: signing.rotated(keys, now, SEAL, TTL))
        (made,) = [key.kid for key in after if key.kid not in before]
        return made

    async def go_on(self, seconds: float) -> None:
        for _ in range(round(seconds / TICK_SECONDS)):
            await self.tick()


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty ledger in each engine."""
    if request.param == "sqlite":
        return tmp_path / "pluct.db"
    return fresh_database(request.getfixturevalue("server_url")(request.param))


async def world(place: Place, stack: AsyncExitStack) -> World:
    """At its beginning: the first key signs, and amina can buy."""
    clock = Clock()
    servers = []
    for ahead in (0, 10):
        own = skewed(clock, ahead)
        servers.append(Server(await stack.enter_async_context(opened(place, own, serving=not ahead)), own))
        await servers[-1].ring.open(servers[-1].store)
    clock.move(10)  # the first key signs by either clock
    await servers[0].store.submit(fund("amina", 100_000))
    return World(clock, servers)


@pytest.mark.anyio
async def test_three_rotations_in_a_minute_refuse_no_ticket(place: Place) -> None:
    """Backends half a minute fast or slow, with keys up to five minutes old, accept every ticket until it expires."""
    async with AsyncExitStack() as stack:
        here = await world(place, stack)
        await here.go_on(60)
        (first,) = [jwk["kid"] for jwk in here.servers[0].ring.jwks()["keys"]]
        order = [first]
        for _ in range(3):
            order.append(await here.rotate())
            await here.go_on(20)
        assert [jwk["kid"] for jwk in here.servers[0].ring.jwks()["keys"]] == order
        await here.go_on(CACHE_SECONDS + 2 * TTL + LEEWAY_SECONDS + 60)
        assert here.refused == []
        signed = Counter(header(token)["kid"] for token in here.sold.values())
        assert set(signed) == set(order) and min(signed.values()) >= 10
        assert [jwk["kid"] for jwk in here.servers[0].ring.jwks()["keys"]] == order[-1:]
        for at, (key, token) in enumerate(here.sold.items()):
            again = await here.servers[at // 2 % 2].engine.vend("amina", key=key)
            assert (again.token, again.replayed) == (token, True)
        assert await here.servers[0].store.check(lambda *_: None) == []


@pytest.mark.anyio
async def test_without_the_wait_tickets_would_be_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backends of these tests are strict enough to notice: a key that signs too early, or leaves too early."""
    monkeypatch.setattr(signing, "CACHE_SECONDS", 200)
    async with AsyncExitStack() as stack:
        here = await world(place, stack)
        await here.go_on(60)
        await here.rotate()
        await here.go_on(CACHE_SECONDS)
        assert any("unknown key" in refused for refused in here.refused)


@pytest.mark.anyio
async def test_nothing_is_accepted_that_should_not_be(place: Place) -> None:
    """Old tickets, redeemed ones, and what is signed with a key that has left or was retired."""
    async with AsyncExitStack() as stack:
        here = await world(place, stack)
        await here.go_on(60)
        one, other = (server.engine for server in here.servers)
        (first,) = await here.servers[0].store.signing_keys()
        vended = await one.vend("amina")
        await other.redeem(vended.token)
        with pytest.raises(TicketAlreadyRedeemed):
            await one.redeem(vended.token)
        late = await one.vend("amina")
        await here.rotate()
        await here.go_on(CACHE_SECONDS + 2 * TTL + 30)  # its last tickets have expired, and it is still published
        leaked = await stolen(here, first)
        with pytest.raises(TicketExpired):
            await one.redeem(late.token)
        with pytest.raises(TicketNotFound):
            await other.redeem(leaked())
        for verifier in here.verifiers:
            with pytest.raises(NotAccepted, match="not now"):
                verifier.accept(late.token)
        now = here.clock()
        await here.servers[0].store.change_signing_keys(lambda keys: signing.retired(keys, now, first.kid))
        await here.go_on(2 * TICK_SECONDS)
        for server in here.servers:
            with pytest.raises(Unauthorized):
                await server.engine.redeem(leaked())
        await here.go_on(CACHE_SECONDS)
        for verifier in here.verifiers:
            with pytest.raises(NotAccepted, match="unknown key"):
                verifier.accept(leaked())
        assert here.refused == []


async def stolen(here: World, key: SigningKey) -> Callable[[], str]:
    """What a thief of this key can make: tickets of any content, at any time."""
    thief = KeyRing(None, SEAL, TTL, here.clock)

    class Loot:
        async def signing_keys(self) -> list[SigningKey]:
            return [key]

        change_signing_keys: Any = None

    await thief.open(Loot())
    ticket = (await here.servers[0].engine.vend("amina")).ticket

    def make() -> str:
        now = here.clock()
        fields = {name: getattr(ticket, name) for name in ticket.__struct_fields__}
        return thief.sign(type(ticket)(**fields | {"id": new_id(), "issued_at": now, "expires_at": now + TTL * 1000}))

    return make


# Real processes


EDDSA = {"PLUCT_SIGNING": "EdDSA"}
FOLLOW_SECONDS_MAX = 5


@pytest.fixture
def pair(make_pluct: Make, postgresql_url: str) -> list[Pluct]:
    """Two servers, one of them of two workers, that started at once over one empty database."""
    database = fresh_database(postgresql_url)
    both = [make_pluct(f"engine-{number}", DATABASE_URL=database, **EDDSA) for number in (1, 2)]
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda pluct, workers: pluct.start("--workers", workers), both, "12"))
    return both


def kids(pluct: Pluct) -> list[str]:
    """The keys a server publishes."""
    answer = httpx.get(pluct.url + "/.well-known/jwks.json")  # on a connection of its own: any worker may answer
    assert answer.headers["cache-control"] == f"public, max-age={CACHE_SECONDS}"
    return [jwk["kid"] for jwk in answer.json()["keys"]]


def signing_keys(pluct: Pluct) -> dict[str, str]:
    """Each key's state, in their order."""
    return {key["kid"]: key["state"] for key in pluct.json("signing-keys", "list")["keys"]}


@contextmanager
def load(pair: list[Pluct], threads: int = 6) -> Iterator[list[tuple[str, int, str]]]:
    """Vends on one server, redeemed on the other, without pause: the key, the status and the body of each redeem."""
    user, backend = pair[0].funded(1_000_000), pair[0].key("service")
    seen: list[tuple[str, int, str]] = []
    stop = Event()

    def run(number: int) -> None:
        here, there = pair[number % 2], pair[(number + 1) % 2]
        while not stop.is_set():
            sold = here.client.post("/vend-token", json={"userId": user})
            assert sold.status_code == 200, sold.text
            token = sold.json()["token"]
            answer = there.client.post("/v1/tickets/redeem", json={"token": token}, headers=backend)
            seen.append((header(token)["kid"], answer.status_code, answer.text))

    with ThreadPoolExecutor(threads) as pool:
        running = [pool.submit(run, number) for number in range(threads)]
        try:
            yield seen
        finally:
            stop.set()
            for each in running:
                each.result()


def test_servers_that_start_at_once_have_one_key(pair: list[Pluct]) -> None:
    """All processes publish it and sign with it."""
    (kid,) = signing_keys(pair[0])
    user = pair[0].funded(40)
    for pluct in pair:
        assert kids(pluct) == [kid]
        for _ in range(20):
            assert header(pluct.post("/vend-token", {"userId": user}).json()["token"])["kid"] == kid


def test_rotation_under_load_refuses_nothing(pair: list[Pluct]) -> None:
    """Three new keys in a row, known to all processes within five seconds, and every ticket is redeemed meanwhile."""
    (first,) = signing_keys(pair[0])
    order = [first]
    with load(pair) as seen:
        for number in range(3):
            made = pair[number % 2].json("signing-keys", "rotate")
            order.append(made["kid"])
            for pluct in pair:
                until(lambda pluct=pluct: all(kids(pluct) == order for _ in range(10)), FOLLOW_SECONDS_MAX)
        so_far = len(seen)
        until(lambda: len(seen) > so_far + 100, 30)
    assert {(kid, status) for kid, status, _ in seen} == {(first, 200)} and len(seen) > 100
    assert list(signing_keys(pair[1]).values()) == ["signing", "pending", "pending", "pending"]


def test_a_key_that_leaked_is_retired_under_load(pair: list[Pluct]) -> None:
    """Within five seconds it signs nothing more and nothing of it is believed; what the next signs passes."""
    (first,) = signing_keys(pair[0])
    second = pair[0].json("signing-keys", "rotate")["kid"]
    until(lambda: all(kids(pluct) == [first, second] for pluct in pair for _ in range(10)), FOLLOW_SECONDS_MAX)
    user, backend = pair[0].funded(1), pair[0].key("service")
    alive = pair[0].post("/vend-token", {"userId": user, "clientRequestId": "k"}).json()["token"]
    with load(pair) as seen:
        until(lambda: len(seen) > 50, 30)
        assert pair[1].json("signing-keys", "retire", first)["state"] == "retired"
        until(lambda: all(kids(pluct) == [second] for pluct in pair for _ in range(10)), FOLLOW_SECONDS_MAX)
        settled = len(seen) + 20  # those that were on their way
        until(lambda: len(seen) > settled + 100, 30)
    assert {(kid, status) for kid, status, _ in seen[settled:]} == {(second, 200)}
    assert {(kid, status) for kid, status, _ in seen} <= {(first, 200), (first, 401), (second, 200)}
    assert pair[1].post("/v1/tickets/redeem", {"token": alive}, backend).status_code == 401
    again = pair[1].post("/vend-token", {"userId": user, "clientRequestId": "k"})
    assert again.headers["idempotency-replayed"] == "true" and header(again.json()["token"])["kid"] == second
    assert pair[0].post("/v1/tickets/redeem", {"token": again.json()["token"]}, backend).status_code == 200
    problem = pair[0].json("signing-keys", "retire", second, exit_code=1)
    assert problem["code"] == "invalid_request" and "rotate" in problem["detail"]


# From HS256 to EdDSA, and back


@pytest.fixture(params=["sqlite", "postgresql"])
def restarted(request: pytest.FixtureRequest, make_pluct: Make) -> Callable[[str], Pluct]:
    """The same ledger, served again under this signing."""
    database = {}
    if request.param == "postgresql":
        database["DATABASE_URL"] = fresh_database(request.getfixturevalue("postgresql_url"))
    pluct = make_pluct(toml="[actions.default]\nttl_seconds = 3600", **database)

    def start(name: str) -> Pluct:
        if pluct.process is not None:
            assert pluct.stop() == 0
        pluct.environment["PLUCT_SIGNING"] = name
        pluct.start()
        return pluct

    return start


def test_tickets_of_both_kinds_outlive_a_switch_and_the_way_back(restarted: Callable[[str], Pluct]) -> None:
    """Redeemed whatever signs now; asked for again, those of before the first key are the same, byte for byte."""
    pluct = restarted("HS256")
    user, backend = pluct.funded(10), pluct.key("service")

    def sell(key: str) -> str:
        token: str = pluct.post("/vend-token", {"userId": user, "clientRequestId": key}).json()["token"]
        return token

    def redeem(token: str) -> int:
        return pluct.post("/v1/tickets/redeem", {"token": token}, backend).status_code

    shared = {key: sell(key) for key in ("a", "b", "c")}
    assert kids(pluct) == [] and redeem(shared["a"]) == 200
    restarted("EdDSA")
    (kid,) = kids(pluct)
    assert {key: sell(key) for key in shared} == shared and redeem(shared["b"]) == 200
    own = {key: sell(key) for key in ("d", "e")}
    assert {header(token).get("kid") for token in own.values()} == {kid}
    restarted("EdDSA")
    assert {key: sell(key) for key in {**shared, **own}} == {**shared, **own} and redeem(own["d"]) == 200
    restarted("HS256")
    assert kids(pluct) == [kid]
    assert [redeem(shared["c"]), redeem(own["e"]), redeem(own["e"])] == [200, 200, 409]
    assert {key: sell(key) for key in shared} == shared
    assert header(sell("f"))["alg"] == header(sell("d"))["alg"] == "HS256"
    assert pluct.json("check") == {"ok": True, "violations": []}
