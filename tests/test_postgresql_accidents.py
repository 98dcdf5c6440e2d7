"""PostgreSQL stops, dies, is cut off, falls silent and is replaced, under load: the ledger loses nothing and goes on.

Customers and a backend trade through two servers, as patient as good clients are: on 503 they ask again with the same
key. Meanwhile they get answers in bounded time; afterwards everything that was answered is in the ledger, and nothing
that was not asked for.
"""

import asyncio
import random
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from urllib.parse import urlsplit, urlunsplit

import httpx
import pytest

from books import TOML, Trade, hold, rows
from conftest import Pluct, refused, until
from network import Network
from postgres import Postgres, fresh_database, postgres

Make = Callable[..., Pluct]
RECOVERY_SECONDS_MAX = 15
SILENCE_SECONDS = 10


@pytest.fixture(scope="module")
def own_server() -> Iterator[Postgres]:
    """A server that a test may stop."""
    with postgres() as server:
        yield server


@pytest.fixture
def network(own_server: Postgres) -> Iterator[Network]:
    """The network between engines and the database."""
    with Network(own_server.port) as network:
        yield network


class Shop:
    """Two servers over an empty database, with a network between, or with several where it may be found."""

    def __init__(self, make_pluct: Make, server: Postgres, *networks: Network) -> None:
        self.place = fresh_database(server.url)  #: without the network, for who looks into the ledger
        hosts = ",".join(f"127.0.0.1:{network.port}" for network in networks)
        address = f"postgresql://postgres@{hosts}{urlsplit(self.place).path}?target_session_attrs=read-write"
        self.servers = [make_pluct(f"engine-{number}", TOML, DATABASE_URL=address) for number in (1, 2)]
        with ThreadPoolExecutor() as pool:
            list(pool.map(Pluct.start, self.servers))
        self.service = self.servers[0].key("service")

    def trade(self) -> Trade:
        return Trade(self.servers, self.service)

    def ready(self) -> list[int]:
        return [server.client.get("/health/ready").status_code for server in self.servers]

    def until_ready(self) -> None:
        """All servers recover by themselves."""
        until(lambda: self.ready() == [200, 200], RECOVERY_SECONDS_MAX)


@pytest.fixture
def shop(make_pluct: Make, own_server: Postgres, network: Network) -> Shop:
    return Shop(make_pluct, own_server, network)


def test_the_database_is_restarted_and_killed(shop: Shop, own_server: Postgres) -> None:
    """Fast, immediate, and with -9 to every process of it: 503 while it is away, then business as before."""
    with shop.trade() as trade:
        for stop in (own_server.stop, partial(own_server.stop, "immediate"), own_server.kill):
            trade.until_more()
            stop()
            trade.until_refused()
            assert shop.ready() == [503, 503]
            own_server.start()
            shop.until_ready()
            trade.until_more()
    hold(trade, shop.place, shop.servers[0])


def test_connections_are_cut_one_by_one(shop: Shop, own_server: Postgres) -> None:
    """Whatever a connection was in the middle of: its requests are refused or unknown, and settled by asking again."""
    dice = random.Random(1)
    with shop.trade() as trade:
        trade.until_more()
        for _ in range(60):
            so_far = trade.answers
            (found,) = own_server.execute("SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'pluct%'")
            own_server.execute(f"SELECT pg_terminate_backend({dice.choice(found)[0]})")
            until(lambda so_far=so_far: trade.answers > so_far + dice.randrange(30))  # type: ignore[misc]
    assert trade.refusals > 0
    hold(trade, shop.place, shop.servers[0])


def test_the_network_falls_silent_and_breaks(shop: Shop, network: Network) -> None:
    """For ten seconds nothing comes through, then everything that was held back; the next time, connections break."""
    with shop.trade() as trade:
        trade.until_more()
        network.stop()
        stopped = time.monotonic()
        trade.until_refused()
        assert time.monotonic() < stopped + SILENCE_SECONDS
        until(lambda: time.monotonic() > stopped + SILENCE_SECONDS, 30)
        network.go_on()
        shop.until_ready()
        trade.until_more()
        network.stop()
        trade.until_refused()
        network.cut()
        network.go_on()
        shop.until_ready()
        trade.until_more()
    hold(trade, shop.place, shop.servers[0])


def test_who_asks_while_the_database_is_silent_is_answered_in_time(shop: Shop, network: Network) -> None:
    """However many there are, those who read like those who write: 503, and none waits for all before it."""
    user = shop.servers[0].funded(500)
    network.stop()

    async def ask() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=400)
        async with httpx.AsyncClient(base_url=shop.servers[0].url, timeout=25, limits=limits) as client:
            reads = [client.get("/v1/credits/balance", params={"userId": user}) for _ in range(200)]
            vends = [client.post("/v1/vend-token", json={"userId": user}) for _ in range(200)]
            return await asyncio.gather(*reads, *vends)

    for answer in asyncio.run(ask()):
        refused(answer, 503, "unavailable")
    network.go_on()
    shop.until_ready()
    assert shop.servers[0].available(user) == 500


@pytest.mark.parametrize("happens", [False, True])
def test_a_commit_that_nobody_confirms_is_said_to_be_unknown(shop: Shop, network: Network, happens: bool) -> None:
    """Whether it happened or not, nobody is told yes or no; asked again with the same key, it is one debit."""
    user = shop.servers[0].funded(5)
    vend = {"userId": user, "clientRequestId": "k"}
    (network.stop_after if happens else network.stop_before)(b"COMMIT\0")
    answer = shop.servers[0].post("/v1/vend-token", vend)
    assert "may or may not have happened" in refused(answer, 503, "unavailable")["detail"]
    assert network.stopped
    assert rows(shop.place, "SELECT available FROM wallets") == [(4 if happens else 5,)]
    network.cut()
    network.go_on()
    shop.until_ready()
    again = shop.servers[1].post("/v1/vend-token", vend)
    assert (again.status_code, "idempotency-replayed" in again.headers) == (200, happens)
    assert shop.servers[0].available(user) == 4


def test_a_server_stops_well_while_the_database_is_silent(shop: Shop, network: Network) -> None:
    """There is nobody to take leave of."""
    user = shop.servers[0].funded(1)
    assert shop.servers[0].available(user) == 1
    network.stop()
    assert [server.stop() for server in shop.servers] == [0, 0]
    assert "Traceback" not in shop.servers[0].log + shop.servers[1].log


def test_one_of_two_servers_is_killed(shop: Shop) -> None:
    """With -9, again and again, in the middle of everything: the other goes on, and settles what that left open."""
    stays, dies = shop.servers
    with shop.trade() as trade:
        for _ in range(2):
            trade.until_more()
            trade.urls.remove(dies.url)
            assert dies.stop(signal.SIGKILL) == -signal.SIGKILL
            trade.until_more()
            dies.start()
            trade.urls.append(dies.url)
    assert trade.refusals > 0, "some requests were in flight"
    hold(trade, shop.place, stays)


# A standby takes over


class Pair:
    """A primary with its standby, and a shop that trades on the primary, over a network that can lead to either."""

    def __init__(self, make_pluct: Make, primary: Postgres, *networks: Network) -> None:
        self.primary, self.standby, self.network = primary, primary.standby(), networks[0]
        self.shop = Shop(make_pluct, primary, *networks)
        self.place_after = urlunsplit(urlsplit(self.standby.url)._replace(path=urlsplit(self.shop.place).path))

    def fail_over(self) -> None:
        """Make the standby the primary, for everyone."""
        self.standby.promote()
        self.network.lead_to(self.standby.port)
        self.shop.until_ready()


@pytest.fixture
def pair(make_pluct: Make) -> Iterator[Pair]:
    with postgres() as primary, Network(primary.port) as network:
        yield Pair(make_pluct, primary, network)


def test_a_standby_takes_over(pair: Pair) -> None:
    """All that was acknowledged is there, once the network leads to it."""
    with pair.shop.trade() as trade:
        trade.until_more()
        pair.primary.kill()
        trade.until_refused()
        pair.fail_over()
        trade.until_more()
    hold(trade, pair.place_after, pair.shop.servers[0])


def test_a_list_of_hosts_leads_to_whoever_is_the_primary(make_pluct: Make) -> None:
    """With `target_session_attrs=read-write` nobody tells the servers; the old primary goes on, and nobody hears it."""
    with postgres() as server, Network(server.port) as one, Network(server.port) as other:
        pair = Pair(make_pluct, server, one, other)
        other.lead_to(pair.standby.port)
        with pair.shop.trade() as trade:
            trade.until_more()
            one.stop()
            trade.until_refused()
            pair.standby.promote()
            pair.shop.until_ready()
            trade.until_more()
        hold(trade, pair.place_after, pair.shop.servers[0])


def test_nothing_is_acknowledged_that_the_standby_does_not_have(pair: Pair) -> None:
    """Nor when it is asked for again: an answer remembered by the primary alone would be lost with it."""
    first, second = pair.shop.servers
    user = first.funded(5)
    pair.standby.kill()
    vend = {"userId": user, "clientRequestId": "k"}
    assert "may or may not" in refused(first.post("/v1/vend-token", vend), 503, "unavailable")["detail"]
    for server in (second, first):
        refused(server.post("/v1/vend-token", vend), 503, "unavailable")
    pair.primary.kill()
    pair.standby.start()
    pair.fail_over()
    answer = second.post("/v1/vend-token", vend)
    assert (answer.status_code, "idempotency-replayed" in answer.headers) == (200, False)
    assert first.available(user) == 4
