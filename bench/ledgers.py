"""Ledgers to measure on."""

import asyncio
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from pluct.app import now_ms
from pluct.commands import Fund
from pluct.stores import open_store
from pluct.stores.schema import migrate_sqlite
from pluct.tickets import uuid7_source

CREDITS = 100_000_000


def funded(folder: Path, users: int) -> Path:
    """A folder whose ledger has users `user-0` … with plenty of credits, granted through the store."""

    async def fund() -> None:
        next_id = uuid7_source()
        store = open_store(folder / "data" / "pluct.db", now_ms, next_id, serving=False)
        await store.open()
        for start in range(0, users, 500):
            commands = [Fund(f"user-{n}", next_id(), CREDITS, "bench") for n in range(start, min(start + 500, users))]
            await asyncio.gather(*(store.submit(command) for command in commands))
        await store.close()

    asyncio.run(fund())
    return folder


def grown(folder: Path, wallets: int, entries_each: int, progress: Callable[[int], None]) -> Path:
    """A ledger with a past: a grant and single-credit adjustments for each user, written straight into the tables."""
    path = folder / "data" / "pluct.db"
    path.parent.mkdir(parents=True)
    migrate_sqlite(path)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    next_id, at = uuid7_source(), now_ms()
    names = sorted(f"user-{n}" for n in range(wallets))
    for start in range(0, wallets, 10_000):
        part = names[start : start + 10_000]
        rows: list[tuple[object, ...]] = []
        connection.execute("BEGIN")
        connection.executemany(
            "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            _entries(part, entries_each, next_id, at, rows),
        )
        connection.executemany("INSERT INTO wallets VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
        connection.execute("COMMIT")
        progress(len(part))
    connection.close()
    os.sync()  # a gigabyte still on its way to the disk is not what is to be measured
    return folder


def _entries(
    users: list[str], each: int, next_id: Callable[[], str], at: int, wallets: list[tuple[object, ...]]
) -> Iterator[tuple[object, ...]]:
    for user in users:
        grant_id, last, available = next_id(), None, CREDITS
        account = "user:" + user
        for number in range(1, each + 1):
            entry_id = next_id()
            if number == 1:
                what: tuple[object, ...] = ("grant", CREDITS, "issued:bench", account)
            else:
                available -= 1
                what = ("adjust", 1, account, "adjusted")
            yield (
                entry_id, user, number, last, at, *what, available, 0, None, grant_id if number == 1 else None, None,
                "bench", "bench",
            )  # fmt: skip
            last = entry_id
        lots = msgspec.json.encode([(1, grant_id, available, "paid", 50, None)]).decode()
        wallets.append((user, available, 0, 0, each, last, None, at, lots))
