"""`pluct serve --workers`: several processes that serve one port, and the parent that looks after them."""

import asyncio
import json
import os
import re
import signal
import socket
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from conftest import Pluct, new_id, until
from pluct.errors import SetupError
from pluct.observe import Counts, SharedCounts, write_lines
from pluct.stores.schema import APPLICATION_ID
from pluct.workers import Work, Workers
from postgres import alive, children, fresh_database

WORKERS = 3
FORKED = get_context("fork")


@pytest.fixture
def crew(make_pluct: Callable[..., Pluct], postgresql_url: str) -> Pluct:
    """Three workers over an empty database."""
    pluct = make_pluct(DATABASE_URL=fresh_database(postgresql_url))
    pluct.start("--workers", str(WORKERS))
    return pluct


def workers(pluct: Pluct) -> set[int]:
    assert pluct.process is not None
    return children(pluct.process.pid)


def ask(pluct: Pluct, times: int, path: str = "/health", most: int = 50) -> list[httpx.Response]:
    """So many requests, each on a connection of its own: any worker may take each."""

    async def send() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=most, max_keepalive_connections=0)
        async with httpx.AsyncClient(timeout=30, limits=limits) as client:
            return await asyncio.gather(*(client.get(pluct.url + path) for _ in range(times)))

    return asyncio.run(send())


def answering(pluct: Pluct) -> set[str]:
    """Who answers: each worker has its own beginning of request ids."""
    return {answer.headers["x-request-id"].partition("-")[0] for answer in ask(pluct, 100)}


def test_all_workers_answer_on_one_port_with_ids_of_their_own(crew: Pluct) -> None:
    """One line says that they listen; each takes requests, and no request id is made twice."""
    assert len(workers(crew)) == WORKERS
    until(lambda: len(answering(crew)) == WORKERS)
    ids = [answer.headers["x-request-id"] for answer in ask(crew, 200)]
    assert len(set(ids)) == 200
    assert crew.stop() == 0


def test_a_credit_is_sold_once(crew: Pluct) -> None:
    """The workers are as far apart as servers on different machines."""
    user = crew.funded(40)

    async def vend() -> list[int]:
        async with httpx.AsyncClient(timeout=30, limits=httpx.Limits(max_connections=60)) as client:
            calls = (client.post(crew.url + "/vend-token", json={"userId": user}) for _ in range(120))
            return [answer.status_code for answer in await asyncio.gather(*calls)]

    statuses = asyncio.run(vend())
    assert (statuses.count(200), statuses.count(403)) == (40, 80)
    assert "sound" in crew.run("check").stdout


def test_a_request_in_flight_is_answered_before_the_workers_end(crew: Pluct) -> None:
    """SIGTERM to the parent: nobody new is taken, the last answer is given, and all end with 0."""
    user = crew.funded(1)

    async def main() -> httpx.Response:
        lock = await asyncpg.connect(crew.environment["DATABASE_URL"])
        async with httpx.AsyncClient(timeout=30) as client:
            async with lock.transaction():
                await lock.execute("SELECT FROM wallets WHERE user_id = $1 FOR UPDATE", user)
                vend = asyncio.ensure_future(client.post(crew.url + "/vend-token", json={"userId": user}))
                while not await lock.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                    await asyncio.sleep(0.01)
                crew.signal(signal.SIGTERM)
                await asyncio.to_thread(until, lambda: refuses(crew))
                assert not vend.done()
            await lock.close()
            return await vend

    answer = asyncio.run(main())
    assert (answer.status_code, answer.headers["connection"]) == (200, "close")
    assert crew.ended() == 0


def refuses(pluct: Pluct) -> bool:
    """Nobody listens any more."""
    try:
        socket.create_connection(("127.0.0.1", int(pluct.url.rpartition(":")[2])), 5).close()
    except ConnectionError:
        return True
    return False


def test_a_worker_that_dies_is_replaced(crew: Pluct) -> None:
    """The others go on meanwhile, the log says what happened, and what was counted is not forgotten."""
    user = crew.funded(5)
    before = workers(crew)
    until(lambda: len(answering(crew)) == WORKERS)
    victim = min(before)
    os.kill(victim, signal.SIGKILL)
    until(lambda: len(workers(crew)) == WORKERS and victim not in workers(crew))
    until(lambda: len(answering(crew)) == WORKERS)
    assert crew.available(user) == 5
    (said,) = [line for line in map(json.loads, crew.log.splitlines()) if line.get("logger") == "pluct"]
    assert f"process {victim}) was killed by SIGKILL" in said["message"]
    assert crew.stop() == 0


def test_workers_that_die_again_and_again_are_given_up(crew: Pluct) -> None:
    """With a sentence and an exit status, and nobody is left behind."""
    assert crew.process is not None

    def killed() -> bool:
        assert crew.process is not None
        for pid in workers(crew):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return crew.process.poll() is not None

    until(killed, 30)
    assert crew.ended() == 2
    assert re.search(r"Cannot run: \d+ workers died within 60 seconds", crew.log)
    assert refuses(crew)


def test_workers_do_not_outlive_their_parent(crew: Pluct) -> None:
    """Killed, it leaves no one behind who would go on serving with nobody to stop them."""
    left = workers(crew)
    assert crew.stop(signal.SIGKILL) == -signal.SIGKILL
    until(lambda: not any(map(alive, left)), 15)
    assert refuses(crew)


def test_workers_that_cannot_start_say_so_once(make_pluct: Callable[..., Pluct]) -> None:
    """The first alone is tried; its sentence is the program's."""
    pluct = make_pluct(DATABASE_URL="postgresql://pluct:hunter2@127.0.0.1:1/pluct")
    done = pluct.run("serve", "--port", "0", "--workers", "3", exit_code=2)
    assert done.stderr.count("Cannot run: ") == 1 and "hunter2" not in done.stderr and done.stdout == ""


@pytest.mark.parametrize("arguments", [[], ["--workers", "2"]], ids=["one process", "workers"])
def test_a_signal_before_it_serves_is_not_forgotten(
    make_pluct: Callable[..., Pluct], postgresql_url: str, arguments: list[str]
) -> None:
    """A server that is told to stop while it waits for its turn to make the schema stops, with 0."""
    url = fresh_database(postgresql_url)
    pluct = make_pluct(DATABASE_URL=url)

    async def main(start: Callable[[], Any]) -> None:
        lock = await asyncpg.connect(url)
        try:
            await lock.execute("SELECT pg_advisory_lock($1)", APPLICATION_ID)
            start()
            waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'advisory'"
            while not await lock.fetchval(waiting):
                await asyncio.sleep(0.01)
            pluct.signal(signal.SIGTERM)
        finally:
            await lock.close()

    with ThreadPoolExecutor() as pool:
        asyncio.run(main(lambda: pool.submit(pluct.start, *arguments)))
    assert pluct.ended() == 0


def supervised(work: Work, *, announce: Callable[[], None] = lambda: None) -> str:
    """How a parent of two such workers ends, in a process of its own: what it could not do, or nothing."""
    mine, theirs = FORKED.Pipe(duplex=False)

    def run() -> None:
        try:
            Workers(2, work, lambda: None, 0.5).run(announce)
            theirs.send("")
        except SetupError as error:
            theirs.send(error.sentence)

    parent = FORKED.Process(target=run)
    parent.start()
    assert mine.poll(20)
    said: str = mine.recv()
    assert not children(parent.pid or 0)
    parent.join()
    for end in (mine, theirs):
        end.close()
    return said


def test_a_worker_that_does_not_stop_is_killed() -> None:
    """Whatever it is stuck in, the parent ends, and says so."""

    def stuck(number: int, answers: Callable[[], None]) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        answers()
        signal.pause()

    said = supervised(stuck, announce=lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert "did not stop in time" in said


def test_a_worker_that_fails_says_why() -> None:
    """At the start, all are stopped; when told to stop, too: the reason is the parent's."""

    def broken(number: int, answers: Callable[[], None]) -> None:
        if number == 1:
            raise ValueError("this one")
        answers()
        signal.pause()

    assert supervised(broken) == "This is a bug in pluct: ValueError: this one"

    def bad_at_leaving(number: int, answers: Callable[[], None]) -> None:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
        answers()
        signal.pause()

    said = supervised(bad_at_leaving, announce=lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert said.endswith("ended with status 3.")


# The log


def test_lines_of_several_processes_do_not_mix() -> None:
    """Each is whole, though all write more at once than the pipe takes."""
    reading, writing = os.pipe()
    turn = os.memfd_create("turn")

    def write(mark: int) -> None:
        for _ in range(5):
            write_lines(writing, (b"%d" % mark * 200 + b"\n") * 2000, turn)

    processes = [FORKED.Process(target=write, args=(mark,)) for mark in range(4)]
    for process in processes:
        process.start()
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        lines = pipe.read().splitlines()
    for process in processes:
        process.join()
    os.close(turn)
    assert len(lines) == 4 * 5 * 2000
    assert {bytes(set(line)) for line in lines} == {b"0", b"1", b"2", b"3"} and {len(line) for line in lines} == {200}


# Metrics


def counted(text: str, name: str) -> float:
    """The sum of all samples of this name."""
    return sum(s.value for family in text_string_to_metric_families(text) for s in family.samples if s.name == name)


def test_any_worker_answers_for_all(crew: Pluct) -> None:
    """The counts are the sum over all workers, are never less than they were, and outlive whom they were made by."""
    user = crew.funded(9)
    with httpx.Client(limits=httpx.Limits(max_keepalive_connections=0)) as client:
        for _ in range(9):
            assert client.post(crew.url + "/vend-token", json={"userId": user}).status_code == 200
    ask(crew, 90, "/health/live")

    def seen() -> list[float]:
        return [counted(answer.text, "pluct_requests_total") for answer in ask(crew, 30, "/metrics", most=1)]

    until(lambda: min(seen()) >= 100)
    series = seen()
    assert series == sorted(series)
    os.kill(min(workers(crew)), signal.SIGKILL)
    until(lambda: len(workers(crew)) == WORKERS)
    later = seen()
    assert later == sorted(later) and later[0] >= series[-1]
    for answer in ask(crew, 10, "/metrics"):
        assert counted(answer.text, "pluct_credits_total") == 18
        assert counted(answer.text, "pluct_request_seconds_count") > 100


def test_counts_are_added_up_kind_by_kind(tmp_path: Path) -> None:
    """What a worker has put is what the others see and what its successor begins with."""
    one, two = (SharedCounts(tmp_path, own, 2) for own in (0, 1))
    assert (one.earlier(), one.others()) == (Counts(), [Counts()])
    mine = Counts({("/a", 200): 2}, {"/a": [1.0, 0.5]}, {("vend", "ok"): 1}, {"vend": 4}, 1)
    one.put(mine)
    assert (one.earlier(), one.others(), two.others()) == (mine, [Counts()], [mine])
    total = Counts(
        {("/a", 200): 1, ("/b", 404): 1}, {"/a": [2.0, 0.25], "/b": [1.0, 1.0]}, {}, {"vend": 1, "add": 2}, 2
    )
    total.add(mine)
    assert total == Counts(
        {("/a", 200): 3, ("/b", 404): 1}, {"/a": [3.0, 0.75], "/b": [1.0, 1.0]}, {("vend", "ok"): 1},
        {"vend": 5, "add": 2}, 3,
    )  # fmt: skip


def test_counts_that_cannot_be_shared_stop_nobody(tmp_path: Path) -> None:
    """A full or lost folder is said in the log; requests go on."""
    lost = SharedCounts(tmp_path / new_id(), 0, 2)
    lost.put(Counts())
    assert lost.others() == [Counts()]
