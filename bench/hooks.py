"""Payments reported at a steady 200 a second, alone and while vending goes on at full rate.

`python -m bench.hooks URL CODES SECONDS` is the gateway: each report is of money that somebody typed for a checkout of
theirs, and becomes credits. It sends at its times whether or not earlier ones are answered, and prints one JSON line.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
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
    codes = _checkouts(folder, 500)
    os.environ |= SECRETS
    with servers.pluct(folder) as server:
        server.load(bench.size(10_000), USERS)  # warm

        def together() -> dict[str, float]:
            command = [sys.executable, "-m", "bench.hooks", server.url, ",".join(codes), "3600"]
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reporting:
                assert reporting.stdout is not None and reporting.stdout.readline() == "ready\n"
                vended = server.load(requests, USERS)
                said = reporting.communicate("stop\n", timeout=30)[0]
            return vended | {f"hook_{name}": value for name, value in json.loads(said).items()}

        found = bench.each_round(
            "payments while vending", {"alone": lambda: server.load(requests, USERS), "together": together}
        )
    alone, both = found["alone"], found["together"]
    rows = [
        f"| vending alone | {alone['rate']:,.0f} | {alone['p99_ms']:.2f} | | | |",
        f"| vending and payments | {both['rate']:,.0f} | {both['p99_ms']:.2f} | {both['hook_rate']:.0f} "
        f"| {both['hook_p50_ms']:.2f} | {both['hook_p99_ms']:.2f} |",
    ]
    head = "| | vends/s | p99 ms | payments/s | p50 ms | p99 ms |\n|---|---|---|---|---|---|"
    bench.tables.append("### Payments while vending\n\n" + "\n".join([head, *rows]))
    p99, kept = both["hook_p99_ms"], both["rate"] / alone["rate"]
    bench.target("a payment stored and answered, p99 at 200/s", "< 50 ms", p99, "ms", p99 < 50)
    bench.target("vending beside 200 payments/s ÷ alone", "≥ 0.9", kept, "", kept >= 0.9)


def _checkouts(folder: Path, count: int) -> list[str]:
    """Codes of checkouts that wait for their money."""
    codes = [payment_codes.make(number * 7_919 + 1_000_000_007) for number in range(count)]

    async def begin() -> None:
        next_id, now = uuid7_source(), now_ms()
        store = open_store(at(folder), now_ms, next_id, serving=False)
        await store.open()
        for number, code in enumerate(codes):
            user = f"user-{number}"
            of = Checkout(
                next_id(), user, "daraja", "starter", "KES", 10_000, 10, code, code.encode(), "pending", now, now
            )
            await store.submit(OpenCheckout(user, of))
        await store.close()

    asyncio.run(begin())
    return codes


async def report(url: str, codes: list[str], seconds: float) -> None:
    """Send until the time is over or a line comes in; then print the rate and the latencies in ms."""
    address, latencies, waiting = urlsplit(url), [], asyncio.Queue[float]()
    path = f"/hooks/daraja/c2b/{SECRETS['DARAJA_PATH_TOKEN']}/confirmation"
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: "
    numbers = iter(range(10**9))
    prefix = f"{time.time_ns() // 1000 % 36**5:07}"[:5]

    async def connection() -> None:
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        while True:
            due = await waiting.get()
            number = next(numbers)
            body = json.dumps(
                {
                    "TransID": f"S{prefix}{number:06}",
                    "TransAmount": "100.00",
                    "BillRefNumber": codes[number % len(codes)],
                    "TransTime": "20261125110000",
                    "MSISDN": "254712345678",
                    "BusinessShortCode": "174379",
                }
            )
            writer.write(f"{head}{len(body)}\r\n\r\n{body}".encode())
            answer = await reader.readuntil(b"\r\n\r\n")
            length = int(answer.partition(b"content-length: ")[2].partition(b"\r")[0])
            await reader.readexactly(length)
            assert answer.startswith(b"HTTP/1.1 200"), answer
            latencies.append(time.perf_counter() - due)

    working = [asyncio.create_task(connection()) for _ in range(CONNECTIONS)]
    stopped = asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    print("ready", flush=True)
    started = time.perf_counter()
    due = started
    while not stopped.done() and due < started + seconds:
        due += 1 / PER_SECOND
        await asyncio.sleep(due - time.perf_counter())
        waiting.put_nowait(due)
        for task in working:
            if task.done():
                task.result()
    took = time.perf_counter() - started
    ordered = sorted(latencies)
    p50, p99 = (ordered[int(len(ordered) * share)] * 1000 for share in (0.5, 0.99))
    print(json.dumps({"rate": len(ordered) / took, "p50_ms": p50, "p99_ms": p99}), flush=True)
    os._exit(0)


if __name__ == "__main__":
    uvloop.run(report(sys.argv[1], sys.argv[2].split(","), float(sys.argv[3])))
