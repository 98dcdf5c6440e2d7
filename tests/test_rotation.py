"""Rotation at work: no ticket refused that should pass, and none accepted that should not.

First by a clock that is moved through a quarter of an hour, with two servers, and backends that keep the public keys as
long as they may, each with a clock of its own. Then with real processes under load.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature

from busy import Place
from conftest import Clock, Pluct, fund, new_id, opened
from pluct import signing
from pluct.catalog import Action, Catalog
from pluct.engine import Engine
from pluct.errors import TicketAlreadyRedeemed, TicketExpired, TicketNotFound, Unauthorized
from pluct.model import SigningKey
from pluct.observe import Observer
from pluct.signing import CACHE_SECONDS, LEEWAY_SECONDS, KeyRing, Seal
from pluct.tickets import HS256Signer, UserTokens, uuid7_source
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
            store, self.ring, UserTokens("u" * 40), Catalog({"default": Action(ttl_seconds=TTL)}), Observer(None),
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
        assert set(signed) == set(order) and min(signed.values()) > 10
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
