"""PostgreSQL under the whole program: several processes over one database, and its accidents."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from conftest import WEBHOOK_SECRET, Clock, Pluct, fund, new_id, opened, until, vend
from pluct.commands import Command, Redeem
from pluct.errors import Refusal
from pluct.model import Outcome
from pluct.stores.batching import Batcher
from pluct.stores.postgresql import PostgresqlStore
from postgres import Postgres, fresh_database, postgres

Make = Callable[..., Pluct]


@pytest.fixture(scope="module")
def own_server() -> Iterator[Postgres]:
    """A server that a test may stop."""
    with postgres() as server:
        yield server


@pytest.fixture
def database(postgresql_url: str) -> str:
    """An empty database."""
    return fresh_database(postgresql_url)


@pytest.fixture
def pair(make_pluct: Make, database: str) -> list[Pluct]:
    """Two servers that started at once over one empty database."""
    both = [make_pluct(f"engine-{number}", DATABASE_URL=database) for number in (1, 2)]
    with ThreadPoolExecutor() as pool:
        list(pool.map(Pluct.start, both))
    return both


def over_both(pair: list[Pluct], path: str, bodies: list[dict[str, Any]], **headers: str) -> list[httpx.Response]:
    """All requests at once, in turn to either server."""

    async def send() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(timeout=30, limits=limits, headers=headers) as client:
            calls = (client.post(pair[at % 2].url + path, json=body) for at, body in enumerate(bodies))
            return await asyncio.gather(*calls)

    return asyncio.run(send())


def test_three_hundred_vends_of_a_hundred_credits(pair: list[Pluct]) -> None:
    """A hundred tokens, two hundred refusals, whichever process is asked."""
    user = pair[0].funded(100)
    answers = over_both(pair, "/vend-token", [{"userId": user}] * 300)
    assert Counter(answer.status_code for answer in answers) == {200: 100, 403: 200}
    assert len({answer.json()["token"] for answer in answers if answer.status_code == 200}) == 100
    assert pair[1].available(user) == 0
    assert "sound" in pair[0].run("check").stdout


def test_twins_in_two_processes_are_one_debit(pair: list[Pluct]) -> None:
    """The same key: one ticket, the same token, for a new user's first key too."""
    user = pair[0].funded(5)
    answers = over_both(pair, "/vend-token", [{"userId": user, "clientRequestId": "k"}] * 32)
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["token"] for answer in answers}) == 1
    assert [answer.headers.get("idempotency-replayed") for answer in answers].count(None) == 1
    assert pair[1].available(user) == 4


def test_one_payment_for_two_new_users_at_once_is_one_grant(pair: list[Pluct]) -> None:
    """Neither has a wallet that could be locked: the reference itself keeps them apart."""
    for number in range(10):
        users = [new_id(), new_id()]
        bodies = [{"userId": user, "amount": 7, "reference": f"receipt-{number}"} for user in users * 4]
        secret = {"x-webhook-secret": WEBHOOK_SECRET}
        answers = over_both(pair, "/add-credits", bodies, **secret)
        found = Counter(answer.status_code for answer in answers)
        assert found == {200: 4, 409: 4}, found
        assert sorted(pair[0].available(user) for user in users) == [0, 7]


def test_a_restart_of_the_database_is_survived(own_server: Postgres, make_pluct: Make) -> None:
    """503 while it is away, nothing else is needed to go on, and what was answered is there."""
    engine = make_pluct(DATABASE_URL=fresh_database(own_server.url))
    engine.start()
    user = engine.funded(50)
    assert engine.post("/vend-token", {"userId": user}).status_code == 200
    for mode in ("fast", "immediate"):
        own_server.stop(mode)
        refused = engine.post("/v1/vend-token", {"userId": user})
        assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
        assert refused.headers["retry-after"]
        assert engine.client.get("/health/ready").status_code == 503
        own_server.start()
        until(lambda: engine.client.get("/health/ready").status_code == 200, 15)
    assert engine.post("/vend-token", {"userId": user}).status_code == 200
    assert engine.available(user) == 48
    assert "sound" in engine.run("check").stdout


def test_a_database_that_cannot_be_reached_is_named_without_its_password(make_pluct: Make) -> None:
    """A sentence, exit code 2, no traceback."""
    engine = make_pluct(DATABASE_URL="postgresql://pluct:hunter2@127.0.0.1:1/pluct")
    done = engine.run("check", exit_code=2)
    assert "cannot be used" in done.stderr and "hunter2" not in done.stderr and "Traceback" not in done.stderr


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("commands", "most"),
    [
        (lambda: [vend(f"user-{number}") for number in range(50)], 4),
        (lambda: [vend(f"user-{number}", key="once") for number in range(50)] * 2, 5),
        (lambda: [fund("user-1", 1), fund("a new one", 1), vend("user-2", settle="report", report_seconds=9)], 4),
        (lambda: [Redeem("user-1", new_id(), "premium"), vend("user-1", key="once")], 6),
        (lambda: [vend("nobody")], 3),
    ],
    ids=["vends", "vends with keys and their twins", "all kinds of rows", "tickets and keys", "a refusal"],
)
async def test_a_batch_makes_few_round_trips(database: str, commands: Callable[[], list[Command]], most: int) -> None:
    """Its size does not matter: BEGIN, wallets, writing, COMMIT; one for keys, one for tickets."""
    async with opened(database, Clock()) as store:
        await asyncio.gather(*(store.submit(fund(f"user-{number}", 9)) for number in range(50)))
        await store.submit(vend("user-0", key="the driver asks about each type of row once"))
        queries: list[str] = []
        assert isinstance(store, PostgresqlStore)
        for connection in store._lanes._free:
            connection.add_query_logger(lambda query: queries.append(query.query))
        await asyncio.gather(*(store.submit(command) for command in commands()))
        assert 1 < len(queries) <= most, queries


@pytest.mark.anyio
@pytest.mark.parametrize("dropped", [False, True], ids=["one more is served", "whoever waited has left"])
async def test_a_busy_lane_begins_while_it_commits(database: str, dropped: bool) -> None:
    """What waits already saves the next batch its BEGIN; and no connection is left in a transaction, come what may."""
    async with opened(database, Clock()) as store:
        assert isinstance(store, PostgresqlStore)
        await store.submit(fund("user-1", 9))
        queries: list[str] = []
        store._lanes._free[0].add_query_logger(lambda query: queries.append(query.query.partition(" ISOLATION")[0]))

        async def transact(commands: Sequence[Command]) -> list[Outcome | Refusal]:
            outcomes = await PostgresqlStore._transact(store, commands)
            if dropped:
                second.cancel()
            return outcomes

        store._batcher = Batcher(transact, rest=store._rest, batch_max=1)
        first, second = (asyncio.ensure_future(store.submit(vend("user-1"))) for _ in range(2))
        await asyncio.gather(first, second, return_exceptions=True)
        await asyncio.gather(*store._batcher._running)
        assert second.cancelled() is dropped
        assert [query for query in queries if query.isupper() or "BEGIN" in query] == [
            "BEGIN", "COMMIT; BEGIN", "ROLLBACK" if dropped else "COMMIT",
        ]  # fmt: skip
        states = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state ~ 'transaction'"
        assert await store._one(states) == (0,)
