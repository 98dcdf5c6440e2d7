"""Ledgers to measure on."""

import asyncio
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import msgspec

from pluct.app import now_ms
from pluct.commands import Fund
from pluct.stores import open_store, rows
from pluct.stores.schema import migrate_sqlite
from pluct.tickets import uuid7_source

CREDITS = 100_000_000

Row = tuple[object, ...]
Write = Callable[[list[Row], list[Row]], None]


def at(place: Path | str) -> Path | str:
    """Where the store is: a PostgreSQL address as it is, or the file in this folder."""
    return place if str(place).startswith("postgresql:") else Path(place) / "data" / "pluct.db"


def funded(place: Path | str, users: int) -> Any:
    """The same place, whose ledger now has users `user-0` … with plenty of credits, granted through the store."""

    async def fund() -> None:
        next_id = uuid7_source()
        store = open_store(at(place), now_ms, next_id, serving=False)
        await store.open()
        for start in range(0, users, 500):
            commands = [Fund(f"user-{n}", next_id(), CREDITS, "bench") for n in range(start, min(start + 500, users))]
            await asyncio.gather(*(store.submit(command) for command in commands))
        await store.close()

    asyncio.run(fund())
    return place


def grown(place: Path | str, wallets: int, entries_each: int, progress: Callable[[int], None]) -> Any:
    """A ledger with a past: a grant and single-credit adjustments for each user, written straight into the tables."""
    write = _into_database(str(place)) if isinstance(place, str) else _into_file(place)
    next_id, now = uuid7_source(), now_ms()
    names = sorted(f"user-{n}" for n in range(wallets))
    for start in range(0, wallets, 10_000):
        part = names[start : start + 10_000]
        balances: list[Row] = []
        entries = list(_entries(part, entries_each, next_id, now, balances))
        write(entries, balances)
        progress(len(part))
    write([], [])
    os.sync()  # a gigabyte still on its way to the disk is not what is to be measured
    return place


def _into_file(folder: Path) -> Write:
    path = folder / "data" / "pluct.db"
    path.parent.mkdir(parents=True)
    migrate_sqlite(path)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")

    def write(entries: list[Row], wallets: list[Row]) -> None:
        connection.execute("BEGIN")
        for table, columns, records in (("entries", rows.ENTRY, entries), ("wallets", rows.WALLET, wallets)):
            marks = ", ".join("?" for _ in columns.split(", "))
            connection.executemany(f"INSERT INTO {table} ({columns}) VALUES ({marks})", records)
        connection.execute("COMMIT")
        if not entries:
            connection.close()

    return write


def _into_database(url: str) -> Write:
    funded(url, 0)  # makes the tables
    runner = asyncio.Runner()
    connection = runner.run(asyncpg.connect(url))

    def write(entries: list[Row], wallets: list[Row]) -> None:
        for table, columns, records in (("entries", rows.ENTRY, entries), ("wallets", rows.WALLET, wallets)):
            runner.run(connection.copy_records_to_table(table, records=records, columns=columns.split(", ")))
        if not entries:
            runner.run(connection.execute("VACUUM ANALYZE", timeout=600))
            runner.run(connection.execute("CHECKPOINT", timeout=600))
            runner.run(connection.close())
            runner.close()

    return write


def _entries(users: list[str], each: int, next_id: Callable[[], str], now: int, wallets: list[Row]) -> Iterator[Row]:
    for user in users:
        grant_id, last, available = next_id(), None, CREDITS
        account = "user:" + user
        for number in range(1, each + 1):
            entry_id = next_id()
            if number == 1:
                what: Row = ("grant", CREDITS, "issued:bench", account)
            else:
                available -= 1
                what = ("adjust", 1, account, "adjusted")
            yield (
                entry_id, user, number, last, now, *what, available, 0, None, grant_id if number == 1 else None, None,
                "bench", "bench",
            )  # fmt: skip
            last = entry_id
        lots = msgspec.json.encode([(1, grant_id, available, "paid", 50, None)]).decode()
        wallets.append((user, available, 0, 0, each, last, None, now, lots, None))
