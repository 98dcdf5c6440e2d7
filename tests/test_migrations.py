"""The schema of a PostgreSQL database: who makes it, who may not, and what is refused. (SQLite's: test_sqlite.py.)

And of any database: what it holds is there after it was brought up to date.
"""

import asyncio
import re
import secrets
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from busy import Ledgers, Place
from busy import run as run_anywhere
from busy_payments import receive, take_back
from conftest import ENGINES, Clock, Pluct, fund, opened, vend
from pluct.commands import Probe, Redeem, once_by_reference
from pluct.errors import SetupError
from pluct.model import ApiKey, Booked, Changed, Granted, Probed, Vended
from pluct.stores import rows, schema
from postgres import SERVERS, fresh_database

Make = Callable[..., Pluct]
NEWEST = len(schema.migrations("postgresql"))
OPERATIONS = (Path(__file__).parent.parent / "docs" / "operations.md").read_text("utf-8")


def run(url: str, *statements: str) -> Any:
    """Run statements one by one; the last one's rows."""

    async def main() -> Any:
        connection = await asyncpg.connect(url)
        try:
            for statement in statements[:-1]:
                await connection.execute(statement)
            return await connection.fetch(statements[-1])
        finally:
            await connection.close()

    return asyncio.run(main())


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest, server_url: Callable[[str], str]) -> str:
    """Each PostgreSQL server."""
    return server_url(request.param)


@pytest.fixture
def url(postgresql_url: str) -> str:
    """An empty database."""
    return fresh_database(postgresql_url)


#: The tables of the first schema, in its columns.
FIRST = {
    table: columns
    for table, columns in rows.TABLES.items()
    if not re.match("payment|checkout|signing|famil|letter", table)
} | {"wallets": rows.WALLET.replace(", standing", "")}


async def available(url: Place) -> int:
    async with opened(url, Clock()) as store:
        wallet = await store.wallet("amina")
        return 0 if wallet is None else wallet.available


def refused(url: str) -> str:
    """The sentence with which this database is refused."""
    with pytest.raises(SetupError) as raised:
        asyncio.run(available(url))
    return raised.value.sentence


def test_many_at_once_make_one_ledger(postgresql_url: str) -> None:
    """Sixteen that come to an empty database at once all come up, and all their grants count, over and over."""

    async def grant(url: str) -> None:
        async with opened(url, Clock()) as store:
            assert isinstance(await store.submit(fund("amina", 1)), Granted)

    async def main(url: str) -> None:
        await asyncio.gather(*(grant(url) for _ in range(16)))
        assert await available(url) == 16

    for _ in range(3):
        asyncio.run(main(fresh_database(postgresql_url)))


def test_a_newer_schema_is_refused(url: str) -> None:
    """And left alone; the sentence names both schemas."""
    asyncio.run(available(url))
    run(url, "INSERT INTO pluct_schema VALUES (999, now())")
    assert f"has schema 999, and this program knows {NEWEST}: a newer version" in refused(url)
    assert len(run(url, "SELECT version FROM pluct_schema")) == NEWEST + 1


def test_another_programs_tables_are_refused(url: str) -> None:
    """And left as they are."""
    run(url, "CREATE TABLE wallets (leather text)")
    assert "another program's tables" in refused(url)
    assert [row[0] for row in run(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")] == ["wallets"]


def test_a_migration_that_breaks_leaves_the_database_as_it_was(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a migration is none; a whole one is applied once, keeps the ledger, and the older program refuses it."""

    async def grant() -> None:
        async with opened(url, Clock()) as store:
            await store.submit(fund("amina", 5))

    asyncio.run(grant())
    known = schema.migrations("postgresql")
    with monkeypatch.context() as patch:
        broken = "CREATE TABLE extra (a integer); DELETE FROM wallets; CREATE TABLE extra (a integer);"
        patch.setattr(schema, "migrations", lambda engine: [*known, broken])
        with pytest.raises(asyncpg.DuplicateTableError):
            asyncio.run(available(url))
        patch.setattr(schema, "migrations", lambda engine: [*known, "CREATE TABLE extra (a integer)"])
        assert [asyncio.run(available(url)) for _ in range(2)] == [5, 5]
    assert f"has schema {NEWEST + 1}, and this program knows {NEWEST}" in refused(url)


def rows_of(place: Place) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of the tables of the first schema, in its columns."""
    return {
        table: sorted(tuple(row) for row in run_anywhere(place, f"SELECT {columns} FROM {table}"))
        for table, columns in FIRST.items()
    }


def first_ledger(place: Place, rows: dict[str, list[tuple[Any, ...]]]) -> None:
    """A database as the first version made it, with these rows."""
    (first, *_) = schema.migrations("sqlite" if isinstance(place, Path) else "postgresql")
    if isinstance(place, Path):
        with closing(sqlite3.connect(place, isolation_level=None)) as connection:
            connection.executescript(first)
            connection.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
            connection.execute("PRAGMA user_version = 1")
            for table, found in rows.items():
                marks = ", ".join("?" * len(FIRST[table].split(", ")))
                connection.executemany(f"INSERT INTO {table} ({FIRST[table]}) VALUES ({marks})", found)
        return

    async def main(url: str) -> None:
        connection = await asyncpg.connect(url)
        await connection.execute(first)
        await connection.execute("INSERT INTO pluct_schema VALUES (1, now())")
        for table, found in rows.items():
            await connection.copy_records_to_table(table, records=found, columns=FIRST[table].split(", "))
        await connection.close()

    asyncio.run(main(place))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_ledger_of_the_first_version_goes_on(engine: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Not a row is lost, all is sound, its journal stays for ever, and it takes what the first version could not."""
    server = None if engine == "sqlite" else request.getfixturevalue("server_url")(engine)
    old = Ledgers(engine, tmp_path, server)
    before = rows_of(old.busy)
    place: Place = tmp_path / "first.db" if server is None else fresh_database(server)
    first_ledger(place, before)

    async def main() -> None:
        async with opened(place, Clock()) as store:
            assert await store.check(lambda *_: None) == []
            booked = await store.submit(receive("R99", user="amina"))
            assert isinstance(booked, Booked) and booked.minted == 10
            taken = await store.submit(take_back("amina", None, "R99"))
            assert isinstance(taken, Booked) and taken.clawed == 10
            assert isinstance(await store.submit(receive("R98", 50, "newcomer", typed=True)), Booked)
            assert await store.check(lambda *_: None) == []

    assert sum(len(found) for found in before.values()) > 40
    migrated = tmp_path / "again.db" if server is None else fresh_database(server)
    first_ledger(migrated, before)
    asyncio.run(available(migrated))
    assert rows_of(migrated) == before
    for statement in ("UPDATE entries SET amount = 1", "DELETE FROM entries"):
        with pytest.raises((sqlite3.Error, asyncpg.PostgresError), match="an entry is never"):
            run_anywhere(migrated, statement)
    asyncio.run(main())


def test_a_journal_cut_into_months_is_brought_up_to_date(tmp_path: Path, postgresql_url: str) -> None:
    """By the version before: every month takes the new kinds of entries then."""
    (partitions,) = re.findall(r"^### Partitions by month\n.*?^```sql\n(.*?)^```", OPERATIONS, flags=re.M | re.S)
    before = rows_of(Ledgers("postgresql", tmp_path, postgresql_url).busy)
    url = fresh_database(postgresql_url)
    first_ledger(url, before)
    run_anywhere(url, partitions)

    async def main() -> None:
        async with opened(url, Clock()) as store:
            await store.submit(receive("R99", user="amina"))
            taken = await store.submit(take_back("amina", None, "R99"))
            assert isinstance(taken, Booked) and taken.clawed == 10
            assert await store.check(lambda *_: None) == []

    asyncio.run(main())


# Roles


class Roles:
    """A database made as docs/operations.md says, under names of its own, and the addresses of its two roles."""

    def __init__(self, server: str) -> None:
        self._server, self._name = server, f"pluct_{secrets.token_hex(4)}"
        self._password = secrets.token_hex(16)
        (section,) = re.findall(r"^### Roles\n(.*?)^##", OPERATIONS, flags=re.M | re.S)
        self._scripts = [self._own(text) for text in re.findall(r"^```sql\n(.*?)^```", section, flags=re.M | re.S)]
        made, _, _ = self._scripts
        run(server, *made.rstrip(";\n").split(";\n"))
        self.owner, self.server = self._address("pluct_owner"), self._address("pluct")

    def _own(self, text: str) -> str:
        """Roles belong to the whole server, so each test has its own: names and passwords are replaced."""
        return re.sub(r"\bpluct(?=_owner\b|\b)", self._name, text).replace("…", self._password)

    def _address(self, role: str) -> str:
        parts = urlsplit(self._server)
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit(parts._replace(netloc=f"{self._own(role)}:{self._password}@{host}", path=f"/{self._name}"))

    def grant(self, which: int) -> None:
        """Grant the server's role what it needs: for tables to come (1), or for those that are there (2)."""
        run(self.owner, self._scripts[which])


@pytest.fixture
def roles(server: str) -> Roles:
    return Roles(server)


def test_a_role_that_may_not_create_tables_is_told_what_to_run(roles: Roles, make_pluct: Make) -> None:
    """With exit code 2."""
    done = make_pluct(DATABASE_URL=roles.server).run("serve", "--port", "0", exit_code=2)
    assert "run pluct migrate once with a DATABASE_URL whose role may create tables" in done.stderr


async def serve(url: str) -> None:
    """All that a server does with its database."""
    async with opened(url, Clock()) as store:
        await store.submit(fund("amina", 5, claims=(once_by_reference("R1", "amina", 5),)))
        ticket = vend("amina", 2, "k", settle="report", report_seconds=9)
        assert isinstance(await store.submit(ticket), Vended)
        assert isinstance(await store.submit(Redeem("amina", ticket.ticket_id, "premium")), Changed)
        assert isinstance(await store.submit(Probe()), Probed)
        await store.add_api_key(ApiKey("key_1", "mint", "x", b"x" * 32, 7))
        assert await store.revoke_api_key("key_1", 8) is not None
        assert await store.due(Clock()(), 1, 10) == []
        assert await store.check(lambda *_: None) == []


def test_a_role_that_may_only_read_and_write_serves(roles: Roles, make_pluct: Make) -> None:
    """Granted what docs/operations.md says for tables to come, all that a server does works."""
    roles.grant(1)
    make_pluct(DATABASE_URL=roles.owner).run("migrate")
    asyncio.run(serve(roles.server))
    for damage in ("UPDATE entries SET amount = 1", "DELETE FROM entries", "TRUNCATE entries", "DROP TABLE entries"):
        with pytest.raises(asyncpg.PostgresError):
            run(roles.server, damage)


def test_a_role_is_told_what_it_lacks(roles: Roles) -> None:
    """Until it is granted what docs/operations.md says for tables that are there."""
    asyncio.run(available(roles.owner))
    assert "it lacks SELECT on pluct_schema" in refused(roles.server)
    run(roles.owner, f"GRANT SELECT ON pluct_schema TO {urlsplit(roles.server).username}")
    assert "it lacks SELECT on entries, INSERT on entries, SELECT on payment_events, INSERT on" in refused(roles.server)
    roles.grant(2)
    asyncio.run(serve(roles.server))


# The command


@pytest.mark.parametrize("name", ["sqlite", "postgresql"])
def test_migrate_makes_the_tables_once_and_says_so(
    name: str, make_pluct: Make, server_url: Callable[[str], str]
) -> None:
    """For people and for programs; a second time there is nothing to do; the address is shown without a password."""
    engine = make_pluct()
    place, shown = "sqlite:///there.db", str(engine.folder / "there.db")
    if name != "sqlite":
        place = fresh_database(server_url(name))
        shown = f"postgresql:///{urlsplit(place).path[1:]}"
    engine = make_pluct(DATABASE_URL=place)
    assert f"{shown} has schema {NEWEST} now; it had none." in engine.run("migrate").stdout
    assert f"{shown} is up to date: it has schema {NEWEST}." in engine.run("migrate").stdout
    assert engine.json("migrate") == {"database": shown, "from": NEWEST, "to": NEWEST}


def test_migrate_says_why_it_cannot(make_pluct: Make) -> None:
    """A sentence, exit code 2, and no password."""
    engine = make_pluct(DATABASE_URL="postgresql://pluct:hunter2@127.0.0.1:1/pluct")
    done = engine.run("migrate", exit_code=2)
    assert "cannot be used" in done.stderr and "hunter2" not in done.stderr
