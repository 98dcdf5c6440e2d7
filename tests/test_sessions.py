"""Sessions of the console, by a clock of the test's own: how long each lives, and what ends it."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from conftest import Clock, opened
from pluct.catalog import Catalog
from pluct.console.sessions import (
    ADDRESSES_MAX,
    IDLE_SECONDS_MAX,
    SECONDS_MAX,
    SEEN_EVERY_SECONDS,
    WRONG_MAX,
    WRONG_SECONDS,
    Sessions,
)
from pluct.engine import Engine
from pluct.errors import RateLimited, Unauthorized
from pluct.observe import Observer
from pluct.tickets import HS256Signer, uuid7_source

Test = Callable[[Sessions, Engine, Clock], Awaitable[None]]


def run(tmp_path: Path, test: Test) -> None:
    """A test with sessions over a new ledger."""

    async def main() -> None:
        clock = Clock()
        async with opened(tmp_path / "pluct.db", clock) as store:
            signer = HS256Signer("j" * 40)
            engine = Engine(store, signer, Catalog({}), Observer(None), clock, uuid7_source(), 86_400)
            await test(Sessions(engine, clock), engine, clock)

    asyncio.run(main())


def test_a_session_ends_when_it_is_not_used(tmp_path: Path) -> None:
    """After half an hour; whoever looks at a page before that has another half hour."""

    async def test(sessions: Sessions, engine: Engine, clock: Clock) -> None:
        _, secret = await engine.create_key("operator", "amina")
        cookie = (await sessions.sign_in(secret, "a")).cookie
        for _ in range(3):
            clock.now += (IDLE_SECONDS_MAX - 1) * 1000
            assert await sessions.of(cookie) is not None
        clock.now += (IDLE_SECONDS_MAX + SEEN_EVERY_SECONDS + 1) * 1000
        assert await sessions.of(cookie) is None
        clock.now -= IDLE_SECONDS_MAX * 1000
        assert await sessions.of(cookie) is None  # and it stays ended

    run(tmp_path, test)


def test_a_session_ends_after_half_a_day(tmp_path: Path) -> None:
    """However much it is used."""

    async def test(sessions: Sessions, engine: Engine, clock: Clock) -> None:
        _, secret = await engine.create_key("operator", "amina")
        cookie, began = (await sessions.sign_in(secret, "a")).cookie, clock.now
        while clock.now + IDLE_SECONDS_MAX * 500 <= began + SECONDS_MAX * 1000:
            clock.now += IDLE_SECONDS_MAX * 500
            assert await sessions.of(cookie) is not None
        clock.now = began + SECONDS_MAX * 1000 + 1
        assert await sessions.of(cookie) is None

    run(tmp_path, test)


@pytest.mark.parametrize("cookie", ["", "x", "é\udc80", "A" * 5_000, None])
def test_a_cookie_that_was_not_given_is_nobodys(tmp_path: Path, cookie: str | None) -> None:
    """Whatever it looks like; those that are given are long and never the same."""

    async def test(sessions: Sessions, engine: Engine, clock: Clock) -> None:
        _, secret = await engine.create_key("operator", "amina")
        given = {(await sessions.sign_in(secret, "a")).cookie for _ in range(20)}
        assert len(given) == 20 and all(len(each) >= 43 for each in given)
        assert await sessions.of(cookie) is None

    run(tmp_path, test)


def test_wrong_keys_are_slowed_down_and_forgotten(tmp_path: Path) -> None:
    """Per address, for a while; and a flood of addresses takes no more room than is set aside for it."""

    async def test(sessions: Sessions, engine: Engine, clock: Clock) -> None:
        _, secret = await engine.create_key("operator", "amina")
        for _ in range(WRONG_MAX):
            with pytest.raises(Unauthorized):
                await sessions.sign_in("wrong", "a")
        with pytest.raises(RateLimited):
            await sessions.sign_in(secret, "a")
        assert await sessions.sign_in(secret, "b")
        clock.now += WRONG_SECONDS * 1000 + 1
        assert await sessions.sign_in(secret, "a")
        for number in range(ADDRESSES_MAX + 10):
            with pytest.raises(Unauthorized):
                await sessions.sign_in("wrong", str(number))
        assert len(sessions._wrong) == ADDRESSES_MAX

    run(tmp_path, test)
