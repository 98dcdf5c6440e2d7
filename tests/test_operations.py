"""What docs/operations.md gives operators to type does what it says. (Its roles: test_migrations.py.)"""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from busy import busy, run
from conftest import Clock, fund, opened, vend
from pluct import app
from pluct.errors import Unavailable
from pluct.stores import open_store, rows
from pluct.stores.postgresql import PostgresqlStore
from pluct.tickets import uuid7_source
from postgres import SERVERS, fresh_database

OPERATIONS = (Path(__file__).parent.parent / "docs" / "operations.md").read_text("utf-8")


def script(heading: str) -> str:
    """The SQL under a heading."""
    (section,) = re.findall(rf"^### {heading}\n(.*?)^##", OPERATIONS, flags=re.M | re.S)
    (text,) = re.findall(r"^```sql\n(.*?)^```", section, flags=re.M | re.S)
    return str(text)


@pytest.mark.parametrize("server", SERVERS)
def test_the_journal_is_cut_into_months(server_url: Callable[[str], str], server: str, tmp_path: Path) -> None:
    """What was there stays, what comes lies in its month, history and check go across, and the ledger can move."""
    url = fresh_database(server_url(server))
    asyncio.run(busy(url))
    before = run(url, "SELECT id FROM entries ORDER BY id")
    run(url, script("Partitions by month"))
    assert run(url, "SELECT id FROM entries ORDER BY id") == before
    (months,) = run(url, "SELECT count(*) FROM pg_inherits WHERE inhparent = 'entries'::regclass")[0]
    assert months == 1 + 24 + 1

    async def sell(days: int) -> None:
        clock = Clock(app.now_ms() + days * 86_400_000)
        store = open_store(url, clock, uuid7_source(lambda: clock() / 1000), serving=True)
        await store.open()
        await store.submit(fund("dalili", 1))
        await store.submit(vend("dalili"))
        await store.close()

    async def look() -> None:
        async with opened(url, Clock()) as store:
            entries = await store.entries("dalili", 100, None)
            assert [entry.number for entry in entries] == [6, 5, 4, 3, 2, 1]
            assert await store.check(lambda *_: None) == []

    for days in (0, 45, 400):
        asyncio.run(sell(days))
    asyncio.run(look())
    lying = run(url, "SELECT DISTINCT tableoid::regclass::text FROM entries WHERE user_id = 'dalili' ORDER BY 1")
    assert re.fullmatch(r"entries_\d{4}_\d\d entries_\d{4}_\d\d entries_before", " ".join(row[0] for row in lying))
    assert run(url, "SELECT count(*) FROM entries_later")[0][0] == 0
    report = asyncio.run(app.copy(url, tmp_path / "moved.db", lambda *_: None))
    assert report.rows["entries"] == len(before) + 6 and not report.violations
    assert [report.rows[table] for table in rows.TABLES] == [
        run(tmp_path / "moved.db", f"SELECT count(*) FROM {table}")[0][0] for table in rows.TABLES
    ]
    with pytest.raises(asyncpg.RaiseError, match="never changed or deleted"):
        run(url, "UPDATE entries SET amount = 7")


def test_a_pooler_that_loses_statements_is_named(postgresql_url: str) -> None:
    """Whoever reads or writes through it is told what is wrong, and goes on once it is put right."""

    async def main(url: str) -> None:
        async with opened(url, Clock()) as store:
            assert isinstance(store, PostgresqlStore)
            for ask, connections in ((lambda: store.wallet("amina"), store._readers),
                                     (lambda: store.submit(vend("amina")), store._lanes)):  # fmt: skip
                await ask()
                for connection in connections._free:
                    await connection.execute("DEALLOCATE ALL")  # as if the next session were another's
                with pytest.raises(Unavailable, match="loses prepared statements"):
                    await ask()
                await ask()

    asyncio.run(main(fresh_database(postgresql_url)))


def test_a_server_holds_six_connections_at_most(postgresql_url: str) -> None:
    """However much is asked of it at once: two that write, four that read."""

    async def main(url: str) -> None:
        async with opened(url, Clock()) as store:
            await store.submit(fund("amina", 1_000))
            await asyncio.gather(*(store.submit(vend("amina")) for _ in range(900)),
                                 *(store.wallet("amina") for _ in range(300)))  # fmt: skip
            connection = await asyncpg.connect(url)
            servers = "datname = current_database() AND application_name = 'pluct serve'"
            assert 2 <= await connection.fetchval(f"SELECT count(*) FROM pg_stat_activity WHERE {servers}") <= 6
            await connection.close()

    asyncio.run(main(fresh_database(postgresql_url)))
