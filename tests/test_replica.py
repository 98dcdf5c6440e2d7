"""`DATABASE_READ_URL`: a real streaming replica answers what decides nothing, and nobody misses it when it is away.

Its replay is paused to see who answers: what it shows then is how things were.
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from busy import run
from conftest import Pluct, claims, new_id, until
from postgres import Postgres, fresh_database, postgres

Make = Callable[..., Pluct]


class Pair:
    """A primary with a replica, and an engine over both."""

    def __init__(self, primary: Postgres, replica: Postgres, make_pluct: Make) -> None:
        self.primary, self.replica = primary, replica
        url = fresh_database(primary.url)
        self.url, self.read_url = url, urlunsplit(urlsplit(replica.url)._replace(path=urlsplit(url).path))
        self.engine = make_pluct(DATABASE_URL=self.url, DATABASE_READ_URL=self.read_url)

    def ask_replica(self, query: str) -> Any:
        return run(self.read_url, query)

    def pause(self) -> None:
        """Have the replica stand still where the primary is now."""
        self.catch_up()
        self.ask_replica("SELECT pg_wal_replay_pause()")
        until(lambda: self.ask_replica("SELECT pg_get_wal_replay_pause_state()")[0][0] == "paused")

    def resume(self) -> None:
        """Let it follow again."""
        self.ask_replica("SELECT pg_wal_replay_resume()")
        self.catch_up()

    def catch_up(self) -> None:
        """Wait until the replica has what the primary has now."""
        ((position,),) = run(self.url, "SELECT pg_current_wal_lsn()::text")
        reached = f"SELECT pg_last_wal_replay_lsn() >= '{position}'"
        until(lambda: self.ask_replica(reached)[0][0], 15)


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[Postgres, Postgres]]:
    """A primary and its replica, which a test may stop."""
    with postgres() as primary:
        primary.execute("ALTER SYSTEM SET wal_retrieve_retry_interval = '100ms'")
        replica = primary.standby()
        primary.execute("ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()")
        yield primary, replica


@pytest.fixture
def pair(servers: tuple[Postgres, Postgres], make_pluct: Make) -> Iterator[Pair]:
    """With an engine that serves."""
    pair = Pair(*servers, make_pluct)
    pair.engine.start()
    yield pair
    pair.engine.close()
    pair.resume()


def test_what_decides_nothing_is_read_from_the_replica(pair: Pair) -> None:
    """Balances, histories and tickets show how things were while it stands still, and how they are once it follows."""
    engine = pair.engine
    user, operator, key = engine.funded(9), engine.key("operator"), engine.key("service")
    sold = engine.post("/vend-token", {"userId": user}).json()["token"]
    ticket = f"/v1/tickets/{claims(sold)['jti']}"
    pair.pause()
    assert engine.post("/v1/tickets/redeem", {"token": sold}, key).status_code == 200
    assert engine.post("/vend-token", {"userId": user}).status_code == 200
    history = f"/v1/wallets/{user}/entries"
    assert engine.available(user) == 8
    assert len(engine.client.get(history, headers=operator).json()["entries"]) == 2
    assert "redeemedAt" not in engine.client.get(ticket, headers=operator).json()
    shown = engine.json("credits", "show", user)
    assert shown["available"] == 7, "the command line asks the primary"
    pair.resume()
    assert engine.available(user) == 7
    assert len(engine.client.get(history, headers=operator).json()["entries"]) == 3
    assert engine.client.get(ticket, headers=operator).json()["redeemedAt"]


def test_what_decides_is_read_from_the_primary(pair: Pair) -> None:
    """Replays, redeems, captures, voids and API keys never wait for a replica, nor are they misled by it."""
    engine = pair.engine
    user, old = engine.funded(9), engine.key("service")
    pair.pause()
    listed = engine.json("keys", "list")["keys"]
    engine.json("keys", "revoke", listed[-1]["id"])
    key = engine.key("service")
    body = {"userId": user, "clientRequestId": "k"}
    first = engine.post("/vend-token", body).json()["token"]
    again = engine.post("/vend-token", body)
    assert (again.json()["token"], again.headers["idempotency-replayed"]) == (first, "true")
    assert engine.post("/v1/tickets/redeem", {"token": first}, old).status_code == 401
    assert engine.post("/v1/tickets/redeem", {"token": first}, key).status_code == 200
    assert engine.post("/v1/tickets/redeem", {"token": first}, key).status_code == 409
    ticket = claims(first)["jti"]
    assert engine.post(f"/v1/tickets/{ticket}/void", {"reason": "x"}, key).status_code == 200
    assert engine.post(f"/v1/tickets/{ticket}/void", {"reason": "x"}, key).status_code == 409
    assert [engine.post("/vend-token", {"userId": user}).status_code for _ in range(10)] == [200] * 9 + [403]
    assert engine.available(user) == 9


def test_what_the_replica_does_not_have_is_read_from_the_primary(pair: Pair) -> None:
    """A new user and a new ticket are there at once, whoever looks."""
    engine, key = pair.engine, pair.engine.key("operator")
    pair.pause()
    user = engine.funded(3)
    token = engine.post("/vend-token", {"userId": user}).json()["token"]
    assert engine.available(user) == 2
    assert len(engine.client.get(f"/v1/wallets/{user}/entries", headers=key).json()["entries"]) == 2
    assert engine.client.get(f"/v1/tickets/{claims(token)['jti']}", headers=key).json()["state"] == "captured"
    assert engine.client.get(f"/v1/wallets/{new_id()}", headers=key).status_code == 404
    page = engine.client.get(f"/v1/wallets/{user}/entries?limit=1", headers=key).json()
    pair.resume()
    pair.pause()
    engine.fund(user, 1)
    following = engine.client.get(f"/v1/wallets/{user}/entries?cursor={page['nextCursor']}", headers=key).json()
    assert [entry["number"] for entry in following["entries"]] == [1]


def test_the_primary_stands_in_for_a_replica_that_is_away(pair: Pair) -> None:
    """Every read is answered, the log says so once, and the replica is used again once it is back."""
    engine = pair.engine
    user = engine.funded(5)
    pair.catch_up()
    pair.replica.stop("immediate")
    try:
        assert engine.post("/vend-token", {"userId": user}).status_code == 200
        assert [engine.available(user) for _ in range(20)] == [4] * 20
        assert engine.client.get("/health/ready").status_code == 200
    finally:
        pair.replica.start()
    until(lambda: engine.available(user) and "the replica is back" in engine.log, 15)
    assert engine.log.count("the replica is away") == 1
    pair.pause()
    assert engine.post("/vend-token", {"userId": user}).status_code == 200
    assert engine.available(user) == 4


def test_the_primary_stands_in_for_a_replica_that_dawdles(pair: Pair) -> None:
    """A read that gets no answer from it is answered all the same, and what decides does not even ask it."""
    engine, user, key = pair.engine, pair.engine.funded(5), pair.engine.key("service")
    token = engine.post("/vend-token", {"userId": user}).json()["token"]

    async def freeze() -> None:
        """Leave the replica with a lock on its tables that was let go of meanwhile."""
        connection = await asyncpg.connect(pair.url)
        async with connection.transaction():
            await connection.execute("LOCK TABLE wallets, tickets IN ACCESS EXCLUSIVE MODE")
            await connection.execute("SELECT pg_switch_wal()")  # so that the replica hears of it at once
            await asyncio.to_thread(until, locked, 15)
            await asyncio.to_thread(pair.ask_replica, "SELECT pg_wal_replay_pause()")
            await asyncio.to_thread(until, paused)
        await connection.close()

    def locked() -> bool:
        return bool(pair.ask_replica("SELECT 1 FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted"))

    def paused() -> bool:
        return bool(pair.ask_replica("SELECT pg_get_wal_replay_pause_state()")[0][0] == "paused")

    asyncio.run(freeze())
    void = f"/v1/tickets/{claims(token)['jti']}/void"
    assert engine.post(void, {"reason": "x"}, key).status_code == 200
    assert [engine.available(user) for _ in range(20)] == [5] * 20
    until(lambda: "the replica is away, the primary answers: no answer in time" in engine.log)
    assert engine.log.index("/void") < engine.log.index("the replica is away")


def test_a_replica_that_never_was_is_no_hindrance(servers: tuple[Postgres, Postgres], make_pluct: Make) -> None:
    """The engine starts and answers; the log names no password."""
    engine = make_pluct(
        DATABASE_URL=fresh_database(servers[0].url), DATABASE_READ_URL="postgresql://pluct:hunter2@127.0.0.1:1/pluct"
    )
    engine.start()
    assert engine.available(engine.funded(5)) == 5
    until(lambda: "the replica is away" in engine.log)
    assert "hunter2" not in engine.log


def test_the_primary_is_not_spared_what_only_it_can_do(pair: Pair) -> None:
    """While the primary is away, the replica answers reads; writes are 503, and so is an unknown user."""
    engine, user = pair.engine, pair.engine.funded(5)
    pair.catch_up()
    pair.primary.stop("fast")
    try:
        assert engine.available(user) == 5
        assert engine.post("/v1/vend-token", {"userId": user}).status_code == 503
        assert engine.client.get("/v1/credits/balance", params={"userId": new_id()}).status_code == 503
    finally:
        pair.primary.start()
    until(lambda: engine.client.get("/health/ready").status_code == 200, 15)
