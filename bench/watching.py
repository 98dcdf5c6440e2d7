"""What vending loses to those who look on: to the sums that analytics show, and to watchers of the live log.

`python -m bench.watching URL KEY` is fifty watchers in one process, which read all they are sent and look at none of
it. It says when all of them are there, and once its input ends, how much came.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import httpx
import uvloop

from bench import servers
from bench.harness import USERS, Bench, Figures
from bench.ledgers import funded
from postgres import Postgres, fresh_database, postgres

STORES = ("SQLite", "PostgreSQL")
WITHOUT_SUMS = ("-P", str(Path(__file__).with_name("no_sums.py")))
FLUSH_SECONDS_MAX = 20
#: Thirty watch everything, ten a user each, five a route, five an outcome: thirteen filters.
QUERIES = [""] * 30 + [f"?user=user-{n}" for n in range(10)] + ["?route=/vend-token"] * 5 + ["?outcome=refused"] * 5
BUFFER_BYTES = 256 * 1024
#: Whose figures they are.
ALONE, BESIDE = "alone, ", "beside, "

Load = Callable[[int], Figures]  #: of this fraction (half: 2) of all requests


def analytics(bench: Bench) -> None:
    """The same vend with sums kept and without; a load lasts as long as it takes until sums are written."""
    requests = bench.size(60_000)
    with postgres() as database, ExitStack() as stack:
        pairs, running = {}, {}
        for store in STORES:
            loads = []
            for what, program in (("without sums", WITHOUT_SUMS), ("with sums", ("-m", "pluct"))):
                server, key = running[what, store] = _running(bench, stack, f"{store}, {what}", database, program)
                server.load(bench.size(10_000), USERS)  # warm
                loads.append(partial(_load, server, requests))
            pairs[store] = _paired(*loads)
        found = bench.each_round("sums", pairs)
        for (what, store), (server, key) in running.items():
            assert _has_sums(server.url, key) == (what == "with sums"), f"{store}, {what}"
    rows = [
        f"| {store}, {what} | {r[which + 'rate']:,.0f} | {r[which + 'cpu_us']:.1f} "
        f"| {r.get(which + 'database_cpu_us', 0):.1f} | {r[which + 'p99_ms']:.2f} |"
        for store, r in found.items()
        for which, what in ((ALONE, "without sums"), (BESIDE, "with sums"))
    ]
    head = (
        "| 64 connections, 5,000 users | vends/s | CPU µs a vend: pluct | PostgreSQL | p99 ms |\n|---|---|---|---|---|"
    )
    bench.tables.append("### Sums for analytics\n\n" + "\n".join([head, *rows]))
    for store, figures in found.items():
        lost = figures["lost"]
        bench.target(f"what vending loses to analytics, {store}", "< 2 %", lost, "%", lost < 2)


def live_log(bench: Bench) -> None:
    """The same vend with fifty watchers, who read everything, and with none."""
    requests = max(bench.size(40_000), 10_000)  # a second, in which there are four ticks of the log
    pairs = {}
    with postgres() as database, ExitStack() as stack:
        watching = []
        for store in STORES:
            alone, _ = _running(bench, stack, f"{store}, nobody watches", database)
            watched, key = _running(bench, stack, f"{store}, {len(QUERIES)} watch", database)
            watching.append(watchers := stack.enter_context(_watchers(watched.url, key)))
            for server in (alone, watched):
                server.load(bench.size(10_000), USERS)  # warm
            pairs[store] = _paired(partial(_load, alone, requests), partial(_watched, watched, watchers.pid, requests))
        found = bench.each_round("live log", pairs)
        for each in watching:
            said = json.loads(each.communicate(timeout=30)[0])
            assert said["least"] > 0, "somebody who watches everything was shown nothing"
    rows = []
    for store, r in found.items():
        for which, what in ((ALONE, "nobody watches"), (BESIDE, f"{len(QUERIES)} watch")):
            parties = [
                r.get(which + name, 0) for name in ("cpu_us", "database_cpu_us", "load_cpu_us", "watchers_cpu_us")
            ]
            spent = " | ".join(f"{each:.1f}" for each in parties)
            rate, share = r[which + "rate"], parties[-1] / sum(parties)
            rows.append(f"| {store}, {what} | {rate:,.0f} | {spent} | {share:.1%} | {r[which + 'p99_ms']:.2f} |")
    head = (
        "| 64 connections, 5,000 users | vends/s | CPU µs a vend: pluct | PostgreSQL | load | watchers "
        "| which is of all | p99 ms |\n|---|---|---|---|---|---|---|---|"
    )
    bench.tables.append("### Watchers of the live log\n\n" + "\n".join([head, *rows]))
    for store, figures in found.items():
        lost = figures["lost"]
        bench.target(f"what vending loses to {len(QUERIES)} watchers, {store}", "< 5 %", lost, "%", lost < 5)


def _paired(alone: Load, beside: Load) -> Callable[[], Figures]:
    """A load between two halves of the one it is compared with: what else the machine does touches both alike."""

    def measure() -> Figures:
        before, figures, after = alone(2), beside(1), alone(2)
        compared = {name: (value + after[name]) / 2 for name, value in before.items()}
        return {
            **{ALONE + name: value for name, value in compared.items()},
            **{BESIDE + name: value for name, value in figures.items()},
            "lost": (1 - figures["rate"] / compared["rate"]) * 100,
        }

    return measure


def _running(
    bench: Bench, stack: ExitStack, name: str, database: Postgres, program: tuple[str, ...] = ("-m", "pluct")
) -> tuple[servers.Server, str]:
    """A server over a ledger of its own, and an operator's key."""
    folder, url = bench.place(name), ""
    if name.startswith("PostgreSQL"):
        url = funded(fresh_database(database.url), USERS)
        server = stack.enter_context(servers.pluct(folder, database, url, program=program))
    else:
        server = stack.enter_context(servers.pluct(funded(folder, USERS), program=program))
    return server, servers.api_key("operator", folder, url)


def _has_sums(url: str, key: str) -> bool:
    """Whether the server has written sums, or does soon."""
    until = time.monotonic() + FLUSH_SECONDS_MAX
    while time.monotonic() < until:
        answer = httpx.get(f"{url}/v1/analytics", headers={"authorization": f"Bearer {key}"})
        if answer.raise_for_status().json()["steps"]:
            return True
        time.sleep(0.5)
    return False


def _load(server: servers.Server, requests: int, part: int) -> Figures:
    return server.load(requests // part, USERS)


def _watched(server: servers.Server, watchers: int, requests: int, part: int) -> Figures:
    """A load, and what its watchers' process spent on it."""
    clock = ~watchers << 3 | 2  # Linux's clock of what a process has run: exact, where its ticks miss short turns
    before = time.clock_gettime(clock)
    found = _load(server, requests, part)
    return found | {"watchers_cpu_us": (time.clock_gettime(clock) - before) / (requests // part) * 1e6}


@contextmanager
def _watchers(url: str, key: str) -> "Iterator[subprocess.Popen[str]]":
    command = [sys.executable, "-m", "bench.watching", url, key]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "ready\n", "they could not watch"
            yield process
        finally:
            process.kill()


class Watcher(asyncio.BufferedProtocol):
    """One who watches: what came is counted, and overwritten by what comes next."""

    def __init__(self, request: bytes, buffer: bytearray) -> None:
        self._request, self._buffer = request, buffer
        self.received = 0
        self.let_in: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask."""
        cast(asyncio.Transport, transport).write(self._request)  # uvloop's own kind

    def get_buffer(self, sizehint: int) -> bytearray:
        """The same for all."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Something came."""
        if not self.received:
            assert self._buffer.startswith(b"HTTP/1.1 200"), bytes(self._buffer[:nbytes])
            self.let_in.set_result(None)
        self.received += nbytes

    def connection_lost(self, error: Exception | None) -> None:
        """The server stops only after its watchers."""
        sys.exit("a watcher was sent away")


async def watch(url: str, key: str) -> None:
    """Watch until the input ends; then print how many bytes came, and the fewest that one who sees everything had."""
    address, loop, buffer = urlsplit(url), asyncio.get_running_loop(), bytearray(BUFFER_BYTES)
    watchers = []
    for query in QUERIES:
        request = f"GET /v1/log{query} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n\r\n".encode()
        _, watcher = await loop.create_connection(
            lambda request=request: Watcher(request, buffer), address.hostname, address.port
        )
        watchers.append(watcher)
    await asyncio.gather(*(watcher.let_in for watcher in watchers))
    at_first = [watcher.received for watcher in watchers]
    print("ready", flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    since = [watcher.received - first for watcher, first in zip(watchers, at_first, strict=True)]
    print(json.dumps({"bytes": sum(since), "least": min(since[: QUERIES.count("")])}), flush=True)


if __name__ == "__main__":
    uvloop.run(watch(*sys.argv[1:3]))
