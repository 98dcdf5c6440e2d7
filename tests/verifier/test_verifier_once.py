"""Each ticket once: in memory, in a file, in Redis; many at once, through crashes, and with a clock set back."""

import asyncio
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis

from pluct_verifier import SeenFile, SeenMemory, SeenRedis, TicketRefused, Verifier
from pluct_verifier.calls import done
from pluct_verifier.seen import Seen
from verifier_world import CLAIMS, NOW, SECRET, code, presented, running_redis, signed

pytestmark = pytest.mark.anyio

Make = Callable[..., Seen]


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis for all tests here."""
    with running_redis(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(params=["memory", "file", "redis"])
def seen(request: pytest.FixtureRequest, tmp_path: Path) -> Seen:
    """An empty list of each kind."""
    if request.param == "redis":
        url = request.getfixturevalue("redis_url")
        with redis.Redis.from_url(url) as client:
            client.flushall()
        return SeenRedis(url)
    return SeenMemory() if request.param == "memory" else SeenFile(tmp_path / "seen.db")


@pytest.fixture(params=["memory", "file"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """A maker of lists with a bound: those whose memory is ours to bound."""
    return SeenMemory if request.param == "memory" else lambda **more: SeenFile(tmp_path / "seen.db", **more)


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        return self.now


def once(seen: Seen, clock: Callable[[], float] = lambda: NOW, **more: Any) -> Verifier:
    """A verifier over this list."""
    return Verifier.once(audience="premium", secret=SECRET, seen=seen, clock=clock, **more)


def token(jti: str, **more: Any) -> str:
    """A ticket of this id."""
    return signed(CLAIMS | {"jti": jti} | more)


async def hang_up(seen: Seen) -> None:
    """Close what the running loop has open; a program that ends need not."""
    if isinstance(seen, SeenRedis):
        await seen._waiting.get().aclose()
        await seen._waiting.get().connection_pool.disconnect()


# What every list promises


def test_a_ticket_is_accepted_once(seen: Seen) -> None:
    """And others beside it."""
    verifier = once(seen)
    assert verifier.accept(token("a")).id == "a"
    assert code(verifier, token("a")) == "ticket_already_redeemed"
    assert verifier.accept(token("b")).id == "b"
    assert code(verifier, token("b")) == code(verifier, token("a")) == "ticket_already_redeemed"


async def test_the_async_twin_shares_the_list(seen: Seen) -> None:
    """What one colour accepts the other refuses."""
    verifier = once(seen)
    assert (await verifier.accept_async(token("a"))).id == "a"
    with pytest.raises(TicketRefused, match="redeemed before"):
        await verifier.accept_async(token("a"))
    assert code(verifier, token("a")) == "ticket_already_redeemed"
    verifier.accept(token("b"))
    with pytest.raises(TicketRefused, match="redeemed before"):
        await verifier.accept_async(token("b"))
    await hang_up(seen)


def test_a_ticket_that_is_refused_is_not_noted(seen: Seen) -> None:
    """One who presents a forged copy first does not use the ticket up."""
    verifier = once(seen)
    assert code(verifier, signed(CLAIMS, secret="o" * 40)) == "ticket_invalid"
    assert code(verifier, signed(CLAIMS | {"aud": "other"})) == "ticket_invalid"
    assert verifier.accept(signed(CLAIMS)).id == "t-1"


def test_a_ticket_is_remembered_to_its_last_moment(seen: Seen) -> None:
    """That is its end and the leeway; from then on it is refused for that."""
    clock = Clock()
    verifier = once(seen, clock)
    verifier.accept(token("a"))
    clock.now = NOW + 89.99
    assert code(verifier, token("a")) == "ticket_already_redeemed"
    clock.now = NOW + 90
    assert code(verifier, token("a")) == "ticket_expired"


def test_threads_agree_on_who_was_first(seen: Seen) -> None:
    """Of 200 presentations on 16 threads one is accepted."""
    verifier = once(seen)

    def present(_: int) -> bool:
        try:
            return bool(verifier.accept(token("a")))
        except TicketRefused as refused:
            assert refused.code == "ticket_already_redeemed"
            return False

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(present, range(200))) == 1


class Hesitant(str):
    """An id that lets another thread go first whenever it is looked up."""

    def __hash__(self) -> int:
        time.sleep(0.001)
        return super().__hash__()


def test_threads_that_take_turns_at_every_step_agree_too() -> None:
    """In memory nothing but the list's own lock keeps them apart."""
    seen = SeenMemory()

    def mark(number: int) -> bool:
        try:
            done(seen.mark(Hesitant(number // 8), NOW, 0.0, False))
            return True
        except TicketRefused:
            return False

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(mark, range(160))) == 20


def test_tasks_agree_on_who_was_first(seen: Seen) -> None:
    """In each of several loops, one after the other."""
    verifier = once(seen)

    async def present(jti: str) -> int:
        found = await asyncio.gather(*(verifier.accept_async(token(jti)) for _ in range(50)), return_exceptions=True)
        assert {each.code for each in found if isinstance(each, TicketRefused)} == {"ticket_already_redeemed"}
        await hang_up(seen)
        return sum(not isinstance(each, BaseException) for each in found)

    assert [asyncio.run(present(jti)) for jti in ("a", "b", "a")] == [1, 1, 0]


@pytest.mark.parametrize("colour", ["threads", "async"])
@pytest.mark.parametrize("kind", ["file", "redis"])
def test_a_thousand_presentations_over_four_processes(kind: str, colour: str, tmp_path: Path, redis_url: str) -> None:
    """One ticket, one acceptance, 999 refusals, and none of them for want of time."""
    place = str(tmp_path / "seen.db") if kind == "file" else redis_url
    now = int(time.time())
    ticket = signed(CLAIMS | {"jti": f"{kind} {colour}", "iat": now, "nbf": now, "exp": now + 60})
    how = {"kind": kind, "seen": place, "audience": "premium", "secret": SECRET}
    assert presented(how, colour, ticket) == {f"{kind} {colour}": 1, "ticket_already_redeemed": 999}


# What is forgotten, and when


def test_a_list_is_as_long_as_its_open_tickets(make: Make) -> None:
    """Ticket after ticket, it stays within a bound that a list that forgot nothing would break at once."""
    clock = Clock()
    verifier = once(make(size_max=10), clock)
    for number in range(200):
        verifier.accept(token(str(number), nbf=int(clock.now), iat=int(clock.now), exp=int(clock.now) + 60))
        clock.now += 10
    assert code(verifier, token("199", exp=NOW + 1990 + 60)) == "ticket_already_redeemed"


def test_a_full_list_refuses_and_forgets_nothing(make: Make) -> None:
    """With a code of its own: the ticket was not used, and is accepted once there is room."""
    clock = Clock()
    verifier = once(make(size_max=3), clock)
    for number in range(3):
        verifier.accept(token(str(number), exp=NOW + 60 + number))
    assert code(verifier, token("new", exp=NOW + 80)) == "seen_full"
    assert {code(verifier, token(str(number), exp=NOW + 60 + number)) for number in range(3)} == {
        "ticket_already_redeemed"
    }
    clock.now = NOW + 89.9
    assert code(verifier, token("new", exp=NOW + 80)) == "seen_full"
    clock.now = NOW + 90
    assert verifier.accept(token("new", exp=NOW + 80)).id == "new"
    assert code(verifier, token("newer", exp=NOW + 80)) == "seen_full"


def test_what_was_forgotten_stays_refused_when_the_clock_is_set_back(make: Make) -> None:
    """A list knows up to which end it has forgotten, and takes no ticket that ends sooner, known or not."""
    clock = Clock()
    seen = make()
    verifier = once(seen, clock)
    verifier.accept(token("a"))
    clock.now = NOW + 90
    verifier.accept(token("later", exp=NOW + 150))  # and with it, "a" is forgotten
    clock.now = float(NOW)
    assert code(verifier, token("a")) == code(verifier, token("sooner", exp=NOW + 59)) == "ticket_expired"
    assert code(verifier, token("later", exp=NOW + 150)) == "ticket_already_redeemed"
    assert verifier.accept(token("new", exp=NOW + 61)).id == "new"
    if isinstance(seen, SeenFile):
        assert code(once(make(), clock), token("a")) == "ticket_expired"


def test_verifiers_with_other_leeways_may_share_a_list(make: Make) -> None:
    """What one of them has forgotten as too old is not new to a more patient one."""
    clock, seen = Clock(), make()
    patient, strict = once(seen, clock), once(seen, clock, leeway_seconds=0)
    strict.accept(token("a"))
    clock.now = NOW + 60
    strict.accept(token("b", exp=NOW + 120))  # and with it, "a" is forgotten
    assert code(strict, token("a")) == code(patient, token("a")) == "ticket_expired"


def test_a_ticket_that_ends_while_the_list_is_asked_is_refused() -> None:
    """The list may have forgotten it by then."""
    times = iter([NOW + 89.9, NOW + 90])
    assert code(once(SeenMemory(), lambda: next(times)), token("a")) == "ticket_expired"


# The file


def test_processes_and_restarts_share_the_file(tmp_path: Path) -> None:
    """The list outlives who wrote it."""
    once(SeenFile(tmp_path / "seen.db")).accept(token("a"))
    assert code(once(SeenFile(tmp_path / "seen.db")), token("a")) == "ticket_already_redeemed"


def test_a_process_that_is_forked_opens_the_file_anew(tmp_path: Path) -> None:
    """As prefork servers do; a connection of SQLite must not be carried along."""
    script = """
import os, sys
from pluct_verifier import SeenFile, TicketRefused
from pluct_verifier.calls import done
seen = SeenFile(sys.argv[1])
done(seen.mark("parent", 100, 0.0, False))
children = []
for number in range(4):
    if (child := os.fork()) == 0:
        refused = 0
        for ticket in ["parent", "child"]:
            try:
                done(seen.mark(ticket, 100, 0.0, False))
            except TicketRefused as why:
                assert why.code == "ticket_already_redeemed"
                refused += 1
        os._exit(refused)
    children.append(child)
print(sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
done(seen.mark("after", 100, 0.0, False))
"""
    said = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "seen.db")],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert said.stdout == "[1, 2, 2, 2]\n"


def test_kill_9_in_the_middle_of_writing(tmp_path: Path) -> None:
    """Four writers at a time are killed, again and again: what one said it had noted is known, and the rest goes on."""
    path, noted = tmp_path / "seen.db", list[str]()
    chance = random.Random(7)
    for _ in range(6):
        last: list[str] = []
        command = [sys.executable, str(Path(__file__).parent / "present.py"), str(path)]
        writers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
        for writer in writers:
            assert writer.stdout is not None
            for _ in range(chance.randrange(5, 60)):
                noted.append(f"{writer.pid}-{int(writer.stdout.readline())}")
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
            rest, _ = writer.communicate()
            noted += [f"{writer.pid}-{line}" for line in rest.split("\n")[:-1]]
            last += noted[-20:]
        seen, now = SeenFile(path), time.time()
        for ticket_id in [*chance.sample(noted, 50), *last]:
            with pytest.raises(TicketRefused, match="redeemed before"):
                done(seen.mark(ticket_id, int(now) + 600, now, False))
        done(seen.mark(f"new {len(noted)}", int(now) + 600, now, False))
        with closing(sqlite3.connect(path)) as looking:
            assert looking.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            (size,) = looking.execute("SELECT size FROM book").fetchone()
            assert looking.execute("SELECT count(*) FROM seen").fetchone() == (size,)


def test_a_mark_is_on_the_disk_before_a_ticket_is_accepted(tmp_path: Path) -> None:
    """A power cut forgets nothing: every mark is synced."""
    seen = SeenFile(tmp_path / "seen.db")
    assert seen._connection().execute("PRAGMA synchronous").fetchone() == (2,)
    assert seen._connection().execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_place_that_cannot_be_written_is_found_at_the_start(tmp_path: Path) -> None:
    """Not at the first ticket."""
    with pytest.raises(sqlite3.Error):
        SeenFile(tmp_path / "none" / "seen.db")
    (tmp_path / "text").write_text("this is no database, whatever else it may be " * 50)
    with pytest.raises(sqlite3.Error):
        SeenFile(tmp_path / "text")


def test_a_file_that_is_locked_or_broken_accepts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And says that asking again may help; when it does, it does."""
    monkeypatch.setattr("pluct_verifier.seen._BUSY_SECONDS", 0.05)
    verifier = once(SeenFile(tmp_path / "seen.db"))
    with closing(sqlite3.connect(tmp_path / "seen.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert code(verifier, token("a")) == "unavailable"
    assert verifier.accept(token("a")).id == "a"
    with closing(sqlite3.connect(tmp_path / "seen.db", isolation_level=None)) as other:
        other.execute("ALTER TABLE seen RENAME TO gone")
    assert code(verifier, token("b")) == "unavailable"


def test_a_full_disk_accepts_nothing_and_recovers(tmp_path: Path) -> None:
    """The limit stands in for the disk: SQLite is told that there is no room for another page."""
    seen = SeenFile(tmp_path / "seen.db")
    verifier, connection = once(seen), seen._connection()
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    accepted = []
    for number in range(2_000):
        try:
            accepted.append(verifier.accept(token(f"{number} {'x' * 150}")).id)
        except TicketRefused as refused:
            assert refused.code == "unavailable"
            break
    assert 0 < len(accepted) < 1_999
    connection.execute("PRAGMA max_page_count = 1000000")
    assert {code(verifier, token(jti)) for jti in accepted} == {"ticket_already_redeemed"}
    verifier.accept(token(f"{number} {'x' * 150}"))


# Redis


def test_a_mark_in_redis_outlives_every_clock_that_may_look(redis_url: str) -> None:
    """Its life is what is left of the ticket's, and a minute for machines whose clocks differ."""
    once(SeenRedis(redis_url)).accept(token("kept"))
    once(SeenRedis(redis_url, skew_seconds=5)).accept(token("kept shorter"))
    with redis.Redis.from_url(redis_url) as client:
        assert 149_000 < client.pttl("pluct:seen:kept") <= 150_000
        assert 94_000 < client.pttl("pluct:seen:kept shorter") <= 95_000
        assert client.pttl("pluct:seen:never") == -2


def test_a_second_presentation_does_not_change_the_mark(redis_url: str) -> None:
    """Whoever presents a ticket again and again does not keep it in Redis for ever."""
    verifier = once(SeenRedis(redis_url))
    verifier.accept(token("first"))

    async def again() -> None:
        with pytest.raises(TicketRefused, match="redeemed before"):
            await verifier.accept_async(token("first"))
        seen: Any = verifier
        await hang_up(seen._seen)

    with redis.Redis.from_url(redis_url) as client:
        mark = client.get("pluct:seen:first")
        client.pexpire("pluct:seen:first", 50_000)
        assert code(verifier, token("first")) == "ticket_already_redeemed"
        asyncio.run(again())
        assert client.get("pluct:seen:first") == mark and client.pttl("pluct:seen:first") <= 50_000


def test_a_redis_that_is_away_accepts_nothing(tmp_path: Path) -> None:
    """Neither colour; and both do again once it is back."""
    with running_redis(tmp_path) as url:
        seen = SeenRedis(url)
        verifier = once(seen)
        verifier.accept(token("a"))
    assert code(verifier, token("b")) == "unavailable"
    with pytest.raises(TicketRefused, match="cannot be checked now"):
        asyncio.run(verifier.accept_async(token("b")))
    with running_redis(tmp_path):
        assert verifier.accept(token("b")).id == "b"


def test_a_redis_without_room_accepts_nothing(tmp_path: Path) -> None:
    """It says so instead of forgetting what it has (`noeviction`, its default)."""
    with running_redis(tmp_path) as url, redis.Redis.from_url(url) as client:
        verifier = once(SeenRedis(url))
        client.config_set("maxmemory", 1)
        assert code(verifier, token("a")) == "unavailable"
        client.config_set("maxmemory", 0)
        assert verifier.accept(token("a")).id == "a"


@pytest.mark.parametrize("more", ["", "?decode_responses=True"])
def test_a_mark_that_is_sent_again_is_still_ours(redis_url: str, more: str) -> None:
    """The connection broke before the answer: the client sends the same again, and it is not taken for a second use."""
    seen: Any = SeenRedis(redis_url + more)
    original, sent = seen._blocking.set, list[Any]()

    def twice(*args: Any, **kwargs: Any) -> Any:
        original(*args, **kwargs)
        sent.append(args)
        return original(*args, **kwargs)

    seen._blocking.set = twice
    verifier = once(seen)
    assert verifier.accept(token("again" + more)).id == "again" + more
    assert code(verifier, token("again" + more)) == "ticket_already_redeemed"
    assert len(sent) == 2
