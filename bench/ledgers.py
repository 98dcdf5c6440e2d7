"""Ledgers to measure on."""

import asyncio
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
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
#: A user with a long history.
VETERAN = "veteran"
COLUMNS = rows.TABLES | {"sums": "step, at, process, tally"}

Row = tuple[object, ...]
Write = Callable[[str, list[Row]], None]  #: a table, and rows for it


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
    with tables(place) as write:
        crowd(write, wallets, entries_each, progress)
    return place


def crowd(
    write: Write, wallets: int, entries_each: int, progress: Callable[[int], None], veteran_entries: int = 0
) -> list[str]:
    """The past of so many users, and among it that of one with so many entries: their ids are returned."""
    next_id, now = uuid7_source(), now_ms()
    veterans: list[Row] = []
    long = _entries([VETERAN] if veteran_entries else [], veteran_entries, next_id, now, veterans)
    every = entries_each * wallets // max(veteran_entries, 1)
    names, ids = sorted(f"user-{n}" for n in range(wallets)), []
    for start in range(0, wallets, 10_000):
        part = names[start : start + 10_000]
        balances: list[Row] = []
        entries: list[Row] = []
        for at, entry in enumerate(_entries(part, entries_each, next_id, now, balances)):
            entries.append(entry)
            if at % every == 0:
                some = list(islice(long, 1))
                entries += some
                ids += [str(each[0]) for each in some]
        write("entries", entries)
        write("wallets", balances)
        progress(len(part))
    rest = list(long)
    write("entries", rest)
    write("wallets", veterans)
    return ids + [str(each[0]) for each in rest]


@contextmanager
def tables(place: Path | str) -> Iterator[Write]:
    """A way straight into the tables, which are made; what was written is on the disk afterwards."""
    with _database(place) if isinstance(place, str) else _file(place) as write:
        yield write
    os.sync()  # a gigabyte still on its way to the disk is not what is to be measured


@contextmanager
def _file(folder: Path) -> Iterator[Write]:
    path = folder / "data" / "pluct.db"
    path.parent.mkdir(parents=True)
    migrate_sqlite(path)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")

    def write(table: str, records: list[Row]) -> None:
        marks = ", ".join("?" for _ in COLUMNS[table].split(", "))
        connection.execute("BEGIN")
        connection.executemany(f"INSERT INTO {table} ({COLUMNS[table]}) VALUES ({marks})", records)
        connection.execute("COMMIT")

    yield write
    connection.close()


@contextmanager
def _database(url: str) -> Iterator[Write]:
    funded(url, 0)  # makes the tables
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(url))

        def write(table: str, records: list[Row]) -> None:
            columns = COLUMNS[table].split(", ")
            runner.run(connection.copy_records_to_table(table, records=records, columns=columns))

        yield write
        runner.run(connection.execute("VACUUM ANALYZE", timeout=600))
        runner.run(connection.execute("CHECKPOINT", timeout=600))
        runner.run(connection.close())


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
