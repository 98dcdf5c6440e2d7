"""The operator's pages, events and analytics over a large ledger with a past of every kind."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode

import httpx

from bench import pasts, servers
from bench.harness import Bench, Figures
from bench.ledgers import VETERAN, crowd, tables
from pluct.analytics import Step
from postgres import Postgres, fresh_database, postgres

STORES = ("SQLite", "PostgreSQL")
ENTRIES_EACH, VETERAN_ENTRIES = 5, 5_000
#: What this is of is measured, and there is no goal for it: megabytes of JSON, for programs.
ANALYTICS = "/v1/analytics"
#: How often each page is asked for in a round: no longer than so many seconds, once there are enough.
TIMES, TIMES_MIN, SECONDS_MAX = 100, 10, 2.0


class Page(NamedTuple):
    """Where to look, and something that is found there."""

    path: str
    holds: str


def console(bench: Bench) -> None:
    """Every kind of page, over either store, asked for one after the other."""
    candidates: dict[str, Callable[[], Figures]] = {}
    with postgres() as database, ExitStack() as stack:
        for store in STORES:
            client, pages = _served(bench, stack, store, database)
            for name, page in pages.items():
                _asked(client, page)  # warm
                candidates[f"{store}: {name}"] = partial(_asked, client, page)
        found = bench.each_round("console", candidates)
    lines = []
    for name in [name.partition(": ")[2] for name in found if name.startswith(STORES[0])]:
        figures = [found[f"{store}: {name}"] for store in STORES]
        took = " | ".join(f"{each['p50_ms']:.1f} | {each['p99_ms']:.1f}" for each in figures)
        lines.append(f"| {name} | {figures[0]['kib']:,.0f} | {took} |")
    wallets = bench.size(1_000_000)
    head = (
        f"| {wallets:,} wallets, {ENTRIES_EACH * wallets:,} entries | KiB "
        f"| {' | p99 ms | '.join(f'{store}: p50 ms' for store in STORES)} | p99 ms |\n"
        f"|---|---|{'---|---|' * len(STORES)}"
    )
    bench.tables.append("### The console over a large ledger\n\n" + "\n".join([head, *lines]))
    for store in STORES:
        of_it = {
            name: each["p99_ms"] for name, each in found.items() if name.startswith(store) and ANALYTICS not in name
        }
        slowest = max(of_it, key=lambda name: of_it[name])
        bench.target(f"the slowest page, p99: {slowest}", "< 100 ms", of_it[slowest], "ms", of_it[slowest] < 100)


def _served(bench: Bench, stack: ExitStack, store: str, database: Postgres) -> tuple[httpx.Client, dict[str, Page]]:
    """A server over such a ledger, an operator who is signed in to it, and where to look."""
    folder, url = bench.place(f"console, {store}"), ""
    if store == "PostgreSQL":
        url = fresh_database(database.url)
    pages = _past(bench, url or folder, store)
    key = servers.api_key("operator", folder, url)
    server = stack.enter_context(servers.pluct(folder, database, url))
    client = stack.enter_context(httpx.Client(base_url=server.url, timeout=60))
    assert client.post("/console/sign-in", data={"key": key}).status_code == 303
    client.headers["authorization"] = f"Bearer {key}"
    return client, pages


def _asked(client: httpx.Client, page: Page) -> Figures:
    """Ask a hundred times, or as often as there is time for."""
    took, size, until = [], 0, time.perf_counter() + SECONDS_MAX
    while len(took) < TIMES_MIN or (len(took) < TIMES and time.perf_counter() < until):
        started = time.perf_counter()
        answer = client.get(page.path)
        took.append(time.perf_counter() - started)
        size = len(answer.content)
        assert answer.status_code == 200 and page.holds in answer.text, f"{page}: {answer.status_code}"
    took.sort()
    p50, p99 = (took[int(len(took) * share)] * 1000 for share in (0.5, 0.99))
    return {"p50_ms": p50, "p99_ms": p99, "kib": size / 1024}


def _past(bench: Bench, place: Path | str, store: str) -> dict[str, Page]:
    """Write it, and say where to look for it."""
    wallets = bench.size(1_000_000)
    task = bench.progress.add_task(f"building a large ledger, {store}", total=wallets)
    with tables(place) as write:
        history = crowd(write, wallets, ENTRIES_EACH, lambda done: bench.progress.advance(task, done), VETERAN_ENTRIES)
        payments, checkouts = pasts.money(write)
        pasts.letters(write, bench.size(200_000))
        pasts.sums(write)
    few, code = f"user-{wallets // 10 - 1}", checkouts[-2].payment_code
    paid, lost = payments[99], payments[100]
    user = f"/console/user?id={VETERAN}"
    return {
        "overview, an hour": Page("/console", "Captured"),
        "overview, a month": Page("/console?span=month", "Captured"),
        "health": Page("/console/health", "dead"),
        "users, all": Page("/console/users", "There are more"),
        "users, a prefix of very many": Page("/console/users?q=user-1", "There are more"),
        "users, a prefix of few": Page(f"/console/users?q={few}", f"{few}9"),
        "users, a prefix of none": Page("/console/users?q=nobody", "begins with"),
        "users, a receipt": Page(f"/console/users?q={paid.reference}", paid.id),
        "users, a payment code": Page(f"/console/users?q={code}", code),
        "users, a phone": Page(f"/console/users?q={pasts.PHONE}", "2547*****678"),
        f"a user with {VETERAN_ENTRIES:,} entries": Page(user, "Older"),
        "the same, in the middle of them": Page(f"{user}&cursor={history[len(history) // 2]}", "Older"),
        "the same, the oldest": Page(f"{user}&cursor={history[20]}", "Newest"),
        "the same, one kind of entries": Page(f"{user}&only=credits+in", "Older"),
        "a statement": Page(f"/console/statement?user={VETERAN}", VETERAN),
        "payments": Page("/console/payments", "Older"),
        "payments, far back": Page(f"/console/payments?cursor={payments[40].id}", str(payments[40].reference)),
        "payments, of one state": Page("/console/payments?state=review", "Older"),
        "a payment": Page(f"/console/payment?id={paid.id}", "confirmation"),
        "a payment of nobody known": Page(f"/console/payment?id={lost.id}", "confirmation"),
        "requests": Page("/console/requests", "I have paid"),
        "events": Page("/console/events", "credits.low"),
        "events, dead": Page("/console/events?state=dead", "credits.low"),
        "/v1/events, dead": Page("/v1/events?state=dead", "credits.low"),
        f"{ANALYTICS}, 30 days by the hour": _analytics("hour", 30),
        f"{ANALYTICS}, a day by the minute": _analytics("minute", 1),
    }


def _analytics(step: Step, days: int) -> Page:
    until = datetime.now(UTC)
    times = {"from": until - timedelta(days=days), "to": until}
    query = {name: at.isoformat(timespec="seconds").replace("+00:00", "Z") for name, at in times.items()}
    return Page("/v1/analytics?" + urlencode({"step": step, **query}), "/vend-token")
