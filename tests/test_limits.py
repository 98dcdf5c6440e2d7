"""Rate limits: never more in any stretch of the period, exact over processes, bounded, and cheap to refuse."""

import asyncio
import time
from array import array
from bisect import bisect_left
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import Pluct, opened, refused
from paying import paying
from pluct.app import now_ms
from pluct.errors import InvalidRequest
from pluct.limits import KEYS_MAX, SLOTS, LocalTurns, Rate, rate, take
from postgres import fresh_database

Make = Callable[..., Pluct]
MINUTE = Rate(3, 60)


@pytest.fixture
def database(postgresql_url: str) -> str:
    """An empty one."""
    return fresh_database(postgresql_url)


@pytest.mark.parametrize("written", ["1/second", "60/minute", "1000/hour", "1000000/day"])
def test_a_rate_is_written_as_it_is_read(written: str) -> None:
    """Both ways."""
    assert str(rate(written)) == written


@pytest.mark.parametrize(
    "written",
    ["", "60", "60/min", "0/minute", "-1/minute", "1.5/minute", "60 / minute", "1000001/day", "١/day", "6e1/day"],
)
def test_what_is_no_rate_is_refused(written: str) -> None:
    """With an example of one."""
    with pytest.raises(InvalidRequest, match="such as 60/minute"):
        rate(written)


@given(
    st.builds(Rate, st.integers(1, 8), st.sampled_from([1, 60])),
    st.lists(st.one_of(st.integers(0, 50), st.integers(0, 70_000)), max_size=200),
)
def test_no_stretch_of_the_period_has_more(limit: Rate, pauses: list[int]) -> None:
    """Whenever it is asked; what is refused is told when to come again, is taken then, and not a slot too late."""
    marks, taken, now = array("q"), list[int](), 1_700_000_000_000
    for pause in pauses:
        now += pause
        within = len(taken) - bisect_left(taken, now - limit.seconds * 1000 + 1)
        before = marks[:]
        wait = take(marks, limit, now)
        if wait:
            assert before == marks
            nearly = len(taken) - bisect_left(taken, now - limit.seconds * 1000 - 2 * limit.slot_ms)
            assert nearly >= limit.count, "refused too early"
            assert take(marks[:], limit, now + wait - 1) and not take(marks[:], limit, now + wait)
        else:
            assert within < limit.count
            taken.append(now)
    assert len(marks) <= 2 * (SLOTS + 1)


def test_a_clock_that_is_set_back_gives_nothing_away() -> None:
    """What was taken later still counts."""
    marks = array("q")
    assert [take(marks, MINUTE, 10_000_000 - at * 1000) for at in range(3)] == [0, 0, 0]
    assert take(marks, MINUTE, 9_000_000) > 60_000


@pytest.mark.anyio
async def test_memory_is_bounded_under_a_flood_of_keys() -> None:
    """A million of them: the ones heard of last are remembered, and the ones that go on being heard of among them."""
    turns = LocalTurns(now_ms)
    steady = b"steady"
    assert [await turns.take(steady, MINUTE) for _ in range(3)] == [0, 0, 0]
    for number in range(1_000_000):
        assert await turns.take(number.to_bytes(4), MINUTE) == 0
        if number % (KEYS_MAX // 2) == 0:
            assert await turns.take(steady, MINUTE) > 0
    assert len(turns) == KEYS_MAX
    assert await turns.take(steady, MINUTE) > 0 and await turns.take((0).to_bytes(4), MINUTE) == 0


@pytest.mark.anyio
async def test_two_processes_count_together(database: str) -> None:
    """Each alone would take all of it; together they take it once, and the turns come back."""
    limit = Rate(20, 1)
    async with opened(database, now_ms) as one, opened(database, now_ms) as other:
        waits = await asyncio.gather(*(store.turns.take(b"k", limit) for _ in range(30) for store in (one, other)))
        assert waits.count(0) == 20
        begun = time.monotonic()
        assert await other.turns.take(b"other", limit) == 0  # another key
        while await one.turns.take(b"k", limit):
            await asyncio.sleep(0.01)
        assert time.monotonic() - begun < 2
        rows = await one.find_users("", 1)  # the database still serves
        assert rows == []


@pytest.mark.anyio
async def test_rows_of_quiet_keys_are_swept(database: str) -> None:
    """So that the table is as large as what was asked within a period."""
    async with opened(database, now_ms) as store:
        await asyncio.gather(*(store.turns.take(b"%d" % number, Rate(1, 1)) for number in range(1000)))
        rows = await store._rows("SELECT count(*) FROM turns WHERE until > 0")
        assert rows[0][0] == 1000
        end = time.monotonic() + 10
        while rows[0][0] > 1 and time.monotonic() < end:
            await store.turns.take(b"again", Rate(1000, 1))
            rows = await store._rows("SELECT count(*) FROM turns")
        assert rows[0][0] == 1


# Over HTTP

TOML = """
[limits]
vend_per_user = "3/hour"
requests_per_key = "5/hour"
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, make_pluct: Make) -> Pluct:
    """A server over either database."""
    place = {}
    if request.param == "postgresql":
        place = {"DATABASE_URL": fresh_database(request.getfixturevalue("postgresql_url"))}
    pluct = make_pluct(toml=TOML, **place)
    pluct.start(*(["--workers", "2"] if place else []))
    return pluct


def test_a_user_vends_so_often(engine: Pluct) -> None:
    """Exactly, by both routes together, however many ask at once; others are not in the way."""
    user, other = engine.funded(100), engine.funded(100)
    with ThreadPoolExecutor(8) as pool:
        paths = ["/vend-token", "/v1/vend-token"] * 10
        answers = list(pool.map(lambda path: engine.post(path, {"userId": user}), paths))
    assert sorted(answer.status_code for answer in answers) == [200] * 3 + [429] * 17
    assert engine.available(user) == 97
    late = refused(engine.post("/v1/vend-token", {"userId": user}), 429, "rate_limited")
    assert late["detail"].startswith("A user vends at most 3/hour; try again in ")
    assert 3500 < late["retryAfterSeconds"] < 3800
    seed = engine.post("/vend-token", {"userId": user})
    assert seed.status_code == 429 and int(seed.headers["retry-after"]) > 3500 and seed.json()["error"]
    assert engine.post("/vend-token", {"userId": other}).status_code == 200


def test_a_key_is_used_so_often(engine: Pluct) -> None:
    """By whatever route; another key, the webhook secret and a wrong key are not counted with it."""
    key, other = engine.key("operator"), engine.key("operator")
    user = engine.funded(1)
    wallet, ticket = f"/v1/wallets/{user}", "/v1/tickets/none"
    found = [engine.client.get(path, headers=key).status_code for path in (wallet, ticket, wallet, ticket, wallet)]
    assert found == [200, 404, 200, 404, 200]
    refused(engine.client.get(wallet, headers=key), 429, "rate_limited")
    assert engine.client.get(wallet, headers=other).status_code == 200
    for _ in range(7):
        assert engine.client.get(wallet, headers={"Authorization": "Bearer pluct_operator_x"}).status_code == 401
        engine.funded(1)


def test_a_phone_is_prompted_so_often(make_pluct: Make) -> None:
    """Whoever asks for it, and in whichever spelling of its number; other phones are."""
    toml = '[limits]\nprompts_per_phone = "2/hour"\nclaims_per_user = "1/hour"\n'
    with paying(make_pluct, "ok", toml) as world:
        for user, phone in (("amina", "0712345678"), ("juma", "+254712345678")):
            assert world.buy(user, phone=phone)["state"]
        body = {"userId": "brian", "pack": "starter", "gateway": "daraja", "phone": "254712345678"}
        late = refused(world.engine.post("/v1/checkouts", body), 429, "rate_limited")
        assert late["detail"].startswith("A phone is prompted at most 2/hour")
        assert world.buy("brian", phone="0712345679")["state"]
        asked = {"userId": "amina", "reason": "paid", "reference": "SLK4H7R2T0"}
        assert world.engine.post("/v1/credits/request", asked).status_code == 200
        refused(world.engine.post("/v1/credits/request", asked), 429, "rate_limited")
        assert world.engine.post("/v1/credits/request", asked | {"userId": "juma"}).status_code == 200


def test_wrong_limits_are_named(make_pluct: Make) -> None:
    """Each, with the file and the key."""
    engine = make_pluct(toml='[limits]\nvend_per_user = 60\nrequests_per_key = "60/fortnight"\nvends = "1/day"\n')
    said = engine.run("check", exit_code=2).stderr
    for key in ("vend_per_user", "requests_per_key"):
        assert f"pluct.toml: [limits] {key} must be 1 to 1000000 per second, minute, hour or day" in said
    assert "[limits] vends is not known; known are vend_per_user" in said
    assert "limits must be a table" in make_pluct(toml="limits = 3\n").run("check", exit_code=2).stderr
