"""Payments reported at a steady 200 a second while vending goes on at full rate.

The gateway shares the machine's cores with the engine, which no real one does. What it takes from vending by being
there is measured too: the same reports go to a server that only answers.

`python -m bench.hooks URL CODES SECONDS` is the gateway: each report is of money that somebody typed for a checkout of
theirs, and becomes credits. It sends at its times whether or not earlier ones are answered, and prints one JSON line.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import uvloop

from bench import servers
from bench.harness import USERS, Bench
from bench.ledgers import at, funded
from doubles.sandbox import SECRETS
from pluct import payment_codes
from pluct.app import now_ms
from pluct.commands import OpenCheckout
from pluct.model import Checkout
from pluct.stores import open_store
from pluct.tickets import uuid7_source

PER_SECOND = 200
CONNECTIONS = 16
CHECKOUTS = 5_000
TOML = """
[[packs]]
id = "starter"
name = "10 credits"
currency = "KES"
price = "100.00"
credits = 10
[payments]
callback_base_url = "http://127.0.0.1:1"
[gateways.daraja]
base_url = "http://127.0.0.1:1"
"""


def webhooks(bench: Bench) -> None:
    """How fast a payment is stored and answered under load, and what vending loses to it."""
    requests = max(bench.size(40_000), 8_000)  # some hundred milliseconds of payments at least
    folder = funded(bench.place("hooks"), USERS)
    (folder / "pluct.toml").write_text(TOML)
    codes = _checkouts(folder, CHECKOUTS)
    os.environ |= SECRETS
    with servers.pluct(folder) as server, servers.null("asgi") as null:
        server.load(bench.size(10_000), USERS)  # warm

        def beside(url: str) -> dict[str, float]:
            command = [sys.executable, "-m", "bench.hooks", url, ",".join(codes), "3600"]
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reporting:
                assert reporting.stdout is not None and reporting.stdout.readline() == "ready\n"
                vended = server.load(requests, USERS)
                said = reporting.communicate("stop\n", timeout=30)[0]
            return vended | {f"hook_{name}": value for name, value in json.loads(said).items()}

        found = bench.each_round(
            "payments while vending",
            {
                "vending alone": lambda: server.load(requests, USERS),
                "the same payments, sent to a server that only answers": lambda: beside(null.url),
                "vending and payments": lambda: beside(server.url),
            },
        )
    alone, elsewhere, both = found.values()
    rows = [f"| vending alone | {alone['rate']:,.0f} | {alone['p99_ms']:.2f} | | | |"]
    rows += [
        f"| {name} | {r['rate']:,.0f} | {r['p99_ms']:.2f} | {r['hook_rate']:.0f} | {r['hook_p50_ms']:.2f} "
        f"| {r['hook_p99_ms']:.2f} |"
        for name, r in list(found.items())[1:]
    ]
    head = "| | vends/s | p99 ms | payments/s | p50 ms | p99 ms |\n|---|---|---|---|---|---|"
    bench.tables.append("### Payments while vending\n\n" + "\n".join([head, *rows]))
    p99, kept = both["hook_p99_ms"], both["rate"] / alone["rate"]
    bench.target("a payment stored and answered, p99 at 200/s", "< 50 ms", p99, "ms", p99 < 50)
    bench.target("vending beside 200 payments/s ÷ alone", "≥ 0.9", kept, "", kept >= 0.9)
    taken = both["rate"] / elsewhere["rate"]
    bench.target("the same ÷ vending beside payments sent elsewhere", "≥ 0.9", taken, "", taken >= 0.9)


def _checkouts(folder: Path, count: int) -> list[str]:
    """Codes of checkouts that wait for their money."""
    codes = [payment_codes.make(number * 7_919 + 1_000_000_007) for number in range(count)]

    async def begin() -> None:
        next_id, now = uuid7_source(), now_ms()
        store = open_store(at(folder), now_ms, next_id, serving=False)
        await store.open()

        async def begun(number: int, code: str) -> None:
            user = f"user-{number % USERS}"
            of = Checkout(
                next_id(), user, "daraja", "starter", "KES", 10_000, 10, code, code.encode(), "pending", now, now
            )
            await store.submit(OpenCheckout(user, of))

        await asyncio.gather(*(begun(number, code) for number, code in enumerate(codes)))
        await store.close()

    asyncio.run(begin())
    return codes


class Reporting(asyncio.Protocol):
    """One connection of the gateway's: a report at a time. It spends as little as it can: the cores are shared."""

    def __init__(self, free: deque["Reporting"], waiting: deque[tuple[float, bytes]], latencies: list[float]) -> None:
        self._free, self._waiting, self._latencies = free, waiting, latencies
        self._due, self._answer = 0.0, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._free.append(self)

    def send(self, due: float, request: bytes) -> None:
        """Report what was due then."""
        self._due = due
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        answer = self._answer = self._answer + data
        head, end, body = answer.partition(b"\r\n\r\n")
        if not end or len(body) < int(head.partition(b"content-length: ")[2].partition(b"\r")[0]):
            return
        if not answer.startswith(b"HTTP/1.1 200"):
            sys.exit(f"a report was not taken: {answer!r}")
        self._latencies.append(time.perf_counter() - self._due)
        self._answer = b""
        if self._waiting:
            self.send(*self._waiting.popleft())
        else:
            self._free.append(self)

    def connection_lost(self, error: Exception | None) -> None:
        sys.exit("the engine hung up")


async def report(url: str, codes: list[str], seconds: float) -> None:
    """Send until the time is over or a line comes in; then print the rate and the latencies in ms."""
    address, loop = urlsplit(url), asyncio.get_running_loop()
    free, waiting, latencies = deque[Reporting](), deque[tuple[float, bytes]](), list[float]()
    for _ in range(CONNECTIONS):
        await loop.create_connection(lambda: Reporting(free, waiting, latencies), address.hostname, address.port)
    path = f"/hooks/daraja/c2b/{SECRETS['DARAJA_PATH_TOKEN']}/confirmation"
    prefix = f"{time.time_ns() // 1000 % 36**5:07}"[:5]
    stopped = loop.run_in_executor(None, sys.stdin.readline)
    print("ready", flush=True)
    due = started = time.perf_counter()
    number = 0
    while not stopped.done() and due < started + seconds:
        due += 1 / PER_SECOND
        await asyncio.sleep(due - time.perf_counter())
        body = (
            f'{{"TransID":"S{prefix}{number:06}","TransAmount":"100.00","BillRefNumber":"{codes[number % len(codes)]}",'
            '"TransTime":"20261125110000","MSISDN":"254712345678","BusinessShortCode":"174379"}'
        )
        request = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()
        number += 1
        if free:
            free.popleft().send(due, request)
        else:
            waiting.append((due, request))
    took = time.perf_counter() - started
    ordered = sorted(latencies)
    p50, p99 = (ordered[int(len(ordered) * share)] * 1000 for share in (0.5, 0.99))
    print(json.dumps({"rate": len(ordered) / took, "p50_ms": p50, "p99_ms": p99}), flush=True)
    os._exit(0)


if __name__ == "__main__":
    uvloop.run(report(sys.argv[1], sys.argv[2].split(","), float(sys.argv[3])))
