"""`python -m bench [--quick]` measures everything and writes the tables of docs/benchmarks.md.

Rounds are interleaved: each round measures every candidate once, and figures are medians over the rounds, so that
whatever else the machine does touches all of them alike. Run it while nothing else does.
"""

import argparse
import os
import platform
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import httpx
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import Progress

from bench import console, gate, hooks, limits, postgresql, servers, verifier, watching
from bench.harness import USERS, Bench
from bench.ledgers import funded, grown

PAGE = Path("docs/benchmarks.md")
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"


def vend(bench: Bench) -> None:
    """`POST /vend-token` against servers that do nothing."""
    requests = bench.size(40_000)
    with ExitStack() as stack:
        ours = stack.enter_context(servers.pluct(funded(bench.place("vend"), USERS)))
        nulls = {kind: stack.enter_context(servers.null(kind)) for kind in ("fastapi", "starlette", "asgi")}
        for server in (ours, *nulls.values()):
            server.load(bench.size(10_000), USERS)  # warm
        candidates: dict[str, Callable[[], dict[str, float]]] = {
            "pluct, 5,000 users": lambda: ours.load(requests, USERS),
            "pluct, one hot user": lambda: ours.load(requests, 1),
        }
        for kind, server in nulls.items():
            candidates[f"null {kind}"] = lambda server=server: server.load(requests, USERS)  # type: ignore[misc]
        found = bench.each_round("POST /vend-token", candidates)
    rate = {candidate: result["rate"] for candidate, result in found.items()}
    ours_rate = rate["pluct, 5,000 users"]
    rows = [
        f"| {name} | {r['rate']:,.0f} | {r['cpu_us']:.0f} | {r['p50_ms']:.2f} | {r['p99_ms']:.2f} "
        f"| {ours_rate / r['rate']:.2f} |"
        for name, r in found.items()
    ]
    head = (
        "| server, 64 connections | requests/s | CPU µs each | p50 ms | p99 ms | pluct, 5,000 users ÷ this |\n"
        "|---|---|---|---|---|---|"
    )
    bench.tables.append("### POST /vend-token\n\n" + "\n".join([head, *rows]))
    p99 = found["pluct, 5,000 users"]["p99_ms"]
    bench.target(
        "vend ÷ null FastAPI", "≥ 1.4", ours_rate / rate["null fastapi"], "", ours_rate / rate["null fastapi"] >= 1.4
    )
    bench.target(
        "vend ÷ null Starlette + msgspec",
        "≥ 0.45",
        ours_rate / rate["null starlette"],
        "",
        ours_rate / rate["null starlette"] >= 0.45,
    )
    bench.target("p99 at 64 connections", "< 20 ms", p99, "ms", p99 < 20)


def store(bench: Bench) -> None:
    """Group commit against one transaction per request."""

    folder = str(funded(bench.place("store"), USERS))
    found = bench.each_round(
        "store alone",
        {
            "group commit, 5,000 users": lambda: bench.store(folder, 256, USERS, 60_000),
            "group commit, one hot user": lambda: bench.store(folder, 256, 1, 60_000),
            "one transaction per vend": lambda: bench.store(folder, 1, USERS, 8_000),
        },
    )
    spread, hot, single = (result["rate"] for result in found.values())
    rows = [f"| {name} | {result['rate']:,.0f} |" for name, result in found.items()]
    bench.tables.append("### The store alone\n\n" + "\n".join(["| 64 waiting | vends/s |\n|---|---|", *rows]))
    bench.target("group commit ÷ one transaction per vend", "≥ 5", spread / single, "", spread / single >= 5)
    bench.target("one hot user ÷ spread users", "≥ 1", hot / spread, "", hot >= spread)


def growth(bench: Bench) -> None:
    """The same vend over a small and a large ledger."""
    large = bench.size(1_000_000)
    task = bench.progress.add_task("building a large ledger", total=large)
    folder = grown(bench.place("large"), large, 5, lambda done: bench.progress.advance(task, done))
    requests = bench.size(30_000)
    with servers.pluct(funded(bench.place("small"), 1_000)) as small, servers.pluct(folder) as big:
        for server, users in ((small, 1_000), (big, large)):
            server.load(requests, users)  # warm
        found = bench.each_round(
            "growth",
            {
                "1,000 wallets": lambda: small.load(requests, 1_000),
                f"{large:,} wallets, {5 * large:,} entries": lambda: big.load(requests, large),
            },
        )
    rows = [f"| {name} | {r['rate']:,.0f} | {r['cpu_us']:.0f} | {r['p99_ms']:.2f} |" for name, r in found.items()]
    head = "| ledger | vends/s | CPU µs each | p99 ms |\n|---|---|---|---|"
    bench.tables.append("### A large ledger\n\n" + "\n".join([head, *rows]))
    few, many = (result["rate"] for result in found.values())
    bench.target("1,000,000 wallets ÷ 1,000 wallets", "≥ 0.8", many / few, "", many / few >= 0.8)


def memory(bench: Bench) -> None:
    """Resident memory over a million vends."""
    steps, each = 10, bench.size(100_000)
    task = bench.progress.add_task("memory", total=steps)
    seen = []
    with servers.pluct(funded(bench.place("memory"), USERS)) as server:
        for _ in range(steps):
            server.load(each, USERS)
            seen.append(server.resident_mib())
            bench.progress.advance(task)
    rows = [f"| {(at + 1) * each:,} | {mib:.0f} |" for at, mib in enumerate(seen)]
    bench.tables.append("### Memory\n\n" + "\n".join(["| after vends | resident MiB |\n|---|---|", *rows]))
    bench.target(
        "resident memory after a million vends", "< 150 MB", seen[-1] * 1.048576, "MB", seen[-1] * 1.048576 < 150
    )
    bench.target(
        "its growth over the second half", "flat: < 5 %", (seen[-1] / seen[4] - 1) * 100, "%", seen[-1] / seen[4] < 1.05
    )


def cold_start(bench: Bench) -> None:
    """From starting the process to its first answer."""
    folder = funded(bench.place("cold"), 1)

    def measure() -> dict[str, float]:
        started = time.perf_counter()
        with servers.pluct(folder) as server:
            httpx.post(f"{server.url}/vend-token", json={"userId": "user-0"}).raise_for_status()
            return {"seconds": time.perf_counter() - started}

    found = bench.each_round("cold start", {"cold start": measure})["cold start"]["seconds"]
    bench.target("cold start to first answer", "< 1 s", found, "s", found < 1)


def report(bench: Bench, command: str) -> str:
    """The tables as Markdown."""
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        "",
    )
    kind = subprocess.run(
        ["stat", "-f", "-c", "%T", bench.folder], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    lines = [
        BEGIN, "",
        f"Machine: {cpu}, {os.cpu_count()} cores shared by server and load generator, "
        f"{platform.system()} {platform.release()}, file system {kind.strip()}; "
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}.",
        f"Command: `{command}`, {datetime.now(UTC):%Y-%m-%d}; medians of {bench.rounds} interleaved rounds.",
        "", "| what | goal | found | met |", "|---|---|---|---|",
    ]  # fmt: skip
    lines += [
        f"| {what} | {goal} | {found} | {'yes' if met else '**no**'} |" for what, goal, found, met in bench.targets
    ]
    return "\n".join([*lines, "", "\n\n".join(bench.tables), "", END])


def main() -> None:
    """Measure, show, write."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure, and write docs/benchmarks.md.")
    parser.add_argument(
        "--quick", action="store_true", help="a twentieth of the work, to see that it runs; writes nothing"
    )
    everything = {"vend": vend, "store": store, "growth": growth, "memory": memory, "cold_start": cold_start}
    everything["webhooks"] = hooks.webhooks
    everything["gate"] = gate.gate
    everything["limits"] = limits.limits
    everything |= {"postgresql": postgresql.vend, "postgresql_store": postgresql.store}
    everything |= {"postgresql_growth": postgresql.growth, "postgresql_vacuum": postgresql.vacuum}
    everything |= {"verifier": verifier.verify}
    everything |= {"console": console.console, "analytics": watching.analytics, "live_log": watching.live_log}
    parser.add_argument("names", nargs="*", help=f"only these: {' '.join(everything)}; writes nothing")
    chosen = parser.parse_args()
    screen = Console()
    with tempfile.TemporaryDirectory(prefix="bench") as folder, Progress(console=screen) as progress:
        bench = Bench(Path(folder), chosen.quick, progress)
        for name in chosen.names or everything:
            everything[name](bench)
        text = report(bench, "make bench")
    screen.print(Markdown(text))
    if not chosen.quick and not chosen.names:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(before + text + rest.partition(END)[2])


if __name__ == "__main__":
    main()
