"""The same ledger over PostgreSQL: beside SQLite, alone, grown large, and after minutes of load on a few wallets."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import asyncpg

from bench import servers
from bench.harness import USERS, Bench
from bench.ledgers import funded, grown
from postgres import Postgres, fresh_database, postgres

VACUUM_SECONDS = 600


@contextmanager
def _database(users: int) -> Iterator[tuple[Postgres, str]]:
    with postgres() as server:
        yield server, funded(fresh_database(server.url), users)


def vend(bench: Bench) -> None:
    """`POST /vend-token` over either store, by one process and by two."""
    requests = bench.size(40_000)
    with ExitStack() as stack:
        database, url = stack.enter_context(_database(USERS))
        file = stack.enter_context(servers.pluct(funded(bench.place("beside"), USERS)))
        one, two = (stack.enter_context(servers.pluct(bench.place(f"processes-{n}"), database, url, n)) for n in (1, 2))
        for server in (file, one, two):
            server.load(bench.size(10_000), USERS)  # warm
        found = bench.each_round(
            "POST /vend-token, PostgreSQL",
            {
                "SQLite, one process": lambda: file.load(requests, USERS),
                "PostgreSQL, one process": lambda: one.load(requests, USERS),
                "PostgreSQL, one process, one hot user": lambda: one.load(requests, 1),
                "PostgreSQL, two processes": lambda: two.load(requests, USERS),
            },
        )
    rows = [
        f"| {name} | {r['rate']:,.0f} | {r['cpu_us']:.0f} | {r.get('database_cpu_us', 0):.0f} | {r['load_cpu_us']:.0f} "
        f"| {r['p50_ms']:.2f} | {r['p99_ms']:.2f} |"
        for name, r in found.items()
    ]
    head = (
        "| 64 connections, 5,000 users | vends/s | CPU µs a vend: pluct | PostgreSQL | load | p50 ms | p99 ms |\n"
        "|---|---|---|---|---|---|---|"
    )
    bench.tables.append("### PostgreSQL: POST /vend-token\n\n" + "\n".join([head, *rows]))
    file_rate, one_rate, _, two_rate = (result["rate"] for result in found.values())
    bench.target("PostgreSQL ÷ SQLite, one process", "≥ 0.9", one_rate / file_rate, "", one_rate / file_rate >= 0.9)
    bench.target("two processes ÷ one", "≥ 1.3", two_rate / one_rate, "", two_rate / one_rate >= 1.3)
    p99 = found["PostgreSQL, one process"]["p99_ms"]
    bench.target("PostgreSQL: p99 at 64 connections", "< 25 ms", p99, "ms", p99 < 25)


def store(bench: Bench) -> None:
    """Batches against one transaction per request on sixteen connections; one hot user, also fought over by two."""
    with _database(USERS) as (_, url):
        found = bench.each_round(
            "store alone, PostgreSQL",
            {
                "batches, 5,000 users": lambda: bench.store(url, 256, USERS, 40_000),
                "batches, one hot user": lambda: bench.store(url, 256, 1, 40_000),
                "batches, 5,000 users, two processes": lambda: bench.store(url, 256, USERS, 40_000, processes=2),
                "batches, one hot user, two processes": lambda: bench.store(url, 256, 1, 40_000, processes=2),
                "one transaction per vend, 16 connections": lambda: bench.store(url, 1, USERS, 8_000, lanes=16),
            },
        )
    spread, hot, spread_two, hot_two, single = (result["rate"] for result in found.values())
    rows = [f"| {name} | {result['rate']:,.0f} |" for name, result in found.items()]
    bench.tables.append(
        "### PostgreSQL: the store alone\n\n" + "\n".join(["| 64 waiting | vends/s |\n|---|---|", *rows])
    )
    bench.target("PostgreSQL: batches ÷ one transaction per vend", "≥ 5", spread / single, "", spread / single >= 5)
    bench.target("PostgreSQL: one hot user ÷ spread users", "≥ 0.8", hot / spread, "", hot / spread >= 0.8)
    fought = hot_two / spread_two
    bench.target("the same, two processes fighting over the user", "≥ 0.8", fought, "", fought >= 0.8)


def growth(bench: Bench) -> None:
    """The same vend over a small and a large database."""
    large = bench.size(1_000_000)
    task = bench.progress.add_task("building a large database", total=large)
    with _database(1_000) as (database, small_url):
        large_url = grown(fresh_database(database.url), large, 5, lambda done: bench.progress.advance(task, done))
        requests = bench.size(30_000)
        with (
            servers.pluct(bench.place("few"), database, small_url) as small,
            servers.pluct(bench.place("many"), database, large_url) as big,
        ):
            for server, users in ((small, 1_000), (big, large)):
                server.load(requests, users)  # warm
            found = bench.each_round(
                "growth, PostgreSQL",
                {
                    "1,000 wallets": lambda: small.load(requests, 1_000),
                    f"{large:,} wallets, {5 * large:,} entries": lambda: big.load(requests, large),
                },
            )
    rows = [
        f"| {name} | {r['rate']:,.0f} | {r['cpu_us']:.0f} | {r['database_cpu_us']:.0f} | {r['p99_ms']:.2f} |"
        for name, r in found.items()
    ]
    head = "| ledger | vends/s | CPU µs: pluct | PostgreSQL | p99 ms |\n|---|---|---|---|---|"
    bench.tables.append("### PostgreSQL: a large ledger\n\n" + "\n".join([head, *rows]))
    few, many = (result["rate"] for result in found.values())
    bench.target("PostgreSQL: 1,000,000 wallets ÷ 1,000 wallets", "≥ 0.8", many / few, "", many / few >= 0.8)


def vacuum(bench: Bench) -> None:
    """Dead rows after minute upon minute of load on ten hot wallets, with the server's own autovacuum."""
    minutes = 1 if bench.quick else VACUUM_SECONDS // 60
    task = bench.progress.add_task("autovacuum, PostgreSQL", total=minutes)
    each, rows = bench.size(750_000), []  # a minute each, at the rates above
    query = """
        SELECT n_dead_tup, n_tup_upd, n_tup_hot_upd, autovacuum_count, pg_relation_size(relid)
        FROM pg_stat_user_tables WHERE relname = 'wallets'"""

    async def seen(url: str) -> asyncpg.Record:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetchrow(query)
        finally:
            await connection.close()

    with _database(10) as (database, url), servers.pluct(bench.place("vacuum"), database, url) as server:
        for _ in range(minutes):
            load = server.load(each, 10)
            dead, updates, hot, vacuums, size = asyncio.run(seen(url))
            rows.append((load["rate"], load["p99_ms"], updates, hot / updates, dead, vacuums, size / 1024))
            bench.progress.advance(task)
    lines = [
        f"| {at} | {rate:,.0f} | {p99:.2f} | {updates:,} | {hot:.1%} | {dead:,} | {vacuums} | {size:,.0f} |"
        for at, (rate, p99, updates, hot, dead, vacuums, size) in enumerate(rows, 1)
    ]
    head = (
        f"| load of {each:,} vends on 10 wallets | vends/s | p99 ms | updates so far | of them HOT | dead rows now "
        "| autovacuums | table KiB |\n|---|---|---|---|---|---|---|---|"
    )
    bench.tables.append("### PostgreSQL: ten hot wallets\n\n" + "\n".join([head, *lines]))
    kept = rows[-1][0] / rows[0][0]
    bench.target("rate after all these loads ÷ at first", "≥ 0.9", kept, "", kept >= 0.9)
