"""`pluct copy`: a whole ledger moves, or nothing does, whatever happens on the way.

A *brake* is a trigger in the target that waits for a lock of the test's: the copy stands still exactly there.
"""

import asyncio
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from busy import Ledgers, Place, address, run
from busy_payments import busy_with_payments
from conftest import ENGINES, Clock, Pluct, fund, new_id, opened, until, vend
from pluct import app, ledger_copy
from pluct.errors import Fault, SetupError
from pluct.model import ApiKey, Role
from pluct.stores import rows
from pluct.stores.schema import migrations
from postgres import fresh_database
from test_cli import on_a_terminal

Make = Callable[..., Pluct]


@pytest.fixture(scope="module")
def ledgers(server_url: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Ledgers]:
    """A busy ledger with API keys, by the engine's name."""
    made: dict[str, Ledgers] = {}

    async def add_keys(place: Place) -> None:
        async with opened(place, Clock()) as store:
            roles: tuple[Role, ...] = ("mint", "service", "operator")
            for number, role in enumerate(roles):
                await store.add_api_key(ApiKey(f"key_{number}", role, "'[b]Ämina\"", bytes([number]) * 32, 7))
            await store.revoke_api_key("key_1", 9)

    def ledger(engine: str) -> Ledgers:
        if engine not in made:
            server = None if engine == "sqlite" else server_url(engine)
            made[engine] = Ledgers(engine, tmp_path_factory.mktemp(engine), server)
            asyncio.run(add_keys(made[engine].busy))
        return made[engine]

    return ledger


@pytest.fixture
def empty(server_url: Callable[[str], str], tmp_path: Path) -> Callable[[str], Place]:
    """An empty database, by the engine's name; SQLite's file is still to be made."""
    return lambda engine: tmp_path / f"{new_id()}.db" if engine == "sqlite" else fresh_database(server_url(engine))


def content(place: Place) -> dict[str, list[Any]]:
    """Every row of every table."""
    return {
        table: sorted(tuple(row) for row in run(place, f"SELECT {columns} FROM {table}"))
        for table, columns in rows.TABLES.items()
    }


def copy(old: Place, new: Place, *more: str) -> tuple[str, ...]:
    return ("copy", "--from", address(old), "--to", address(new), *more)


def migrate(place: Place) -> None:
    """Make the tables."""

    async def main() -> None:
        async with opened(place, Clock()):
            pass

    asyncio.run(main())


def copied(old: Place, new: Place) -> ledger_copy.Report:
    """What comes of a copy, without a program of its own."""
    return asyncio.run(app.copy(old, new, lambda *_: None))


PAIRS = [(old, new) for old in ENGINES for new in ENGINES if old != new or old == "sqlite"]


@pytest.mark.parametrize(("old", "new"), PAIRS, ids=[f"{old} to {new}" for old, new in PAIRS])
def test_a_whole_ledger_is_copied(
    ledgers: Callable[[str], Ledgers], empty: Callable[[str], Place], old: str, new: str
) -> None:
    """Every row of every table, byte for byte, between any two databases."""
    source, target = ledgers(old).copy(), empty(new)
    before = content(source)
    report = copied(source, target)
    assert report.rows == {table: len(found) for table, found in before.items()}
    assert report.available == sum(row[1] for row in before["wallets"]) > 0
    assert report.held == sum(row[2] for row in before["wallets"]) > 0
    assert (report.already, report.debt, report.violations) == (False, 0, [])
    assert content(source) == content(target) == before


def test_the_copy_serves_on(ledgers: Callable[[str], Ledgers], empty: Callable[[str], Place], make_pluct: Make) -> None:
    """Where the old ledger stopped: with its API keys, its balances and its tickets; the program says what it did."""
    source, target = ledgers("sqlite").copy(), empty("postgresql")
    pluct = make_pluct(DATABASE_URL=address(target))
    report = pluct.json(*copy(source, target))
    assert {table: count for table, count in report["rows"].items() if count} == {
        "wallets": 3, "entries": 22, "tickets": 9, "claims": 8, "api_keys": 3,
    }  # fmt: skip
    assert set(report) == {"rows", "already", "available", "held", "debt", "violations"}
    again = pluct.run(*copy(source, target)).stdout
    assert "Copied before, and still the same: 3 wallets" in again and "The copy is sound." in again
    assert [key["id"] for key in pluct.json("keys", "list")["keys"] if "revokedAt" in key] == ["key_1"]
    pluct.start()
    assert pluct.available("brian") == 18
    assert pluct.post("/vend-token", {"userId": "brian"}).status_code == 200
    assert pluct.json("check") == {"ok": True, "violations": []}


@pytest.mark.parametrize(("old", "new"), [("sqlite", "postgresql"), ("postgresql", "sqlite")])
def test_payments_are_copied(
    old: str, new: str, tmp_path: Path, empty: Callable[[str], Place], server_url: Any
) -> None:
    """With their checkouts, their events and the wallets they froze."""
    server = None if old == "sqlite" else server_url(old)
    source, target = Ledgers(old, tmp_path, server, busy_with_payments).busy, empty(new)
    report = copied(source, target)
    assert report.violations == [] and content(target) == content(source)
    assert all(report.rows[table] > 3 for table in ("payments", "payment_events", "wallets"))


def test_every_table_is_copied() -> None:
    """Whatever a migration adds; left behind are the schema's version, the last probe, and who is signed in,
    what was counted, and the lines that processes hand each other."""
    for engine in ("sqlite", "postgresql"):
        script = "\n".join(migrations(engine))
        made = {words.split()[2] for words in script.splitlines() if words.startswith("CREATE TABLE ")}
        renamed = {words.split()[2] for words in script.splitlines() if " RENAME TO " in words}
        assert made - renamed - {"pluct_schema", "probe", "sessions", "sums", "turns_taken", "log_lines"} == set(
            rows.TABLES
        )


@pytest.mark.parametrize("count", [999, 1_000, 1_001, 2_001])
def test_pages_of_rows_are_copied_and_compared(tmp_path: Path, postgresql_url: str, count: int) -> None:
    """There and back, however the rows fall into pages: one that is not full, one that is, and one more."""

    async def build(place: Place) -> None:
        async with opened(place, Clock()) as store:
            await asyncio.gather(*(store.submit(fund(f"user {number}", 1)) for number in range(count)))

    there, between, back = tmp_path / "there.db", fresh_database(postgresql_url), tmp_path / "back.db"
    asyncio.run(build(there))
    assert copied(there, between).available == copied(between, back).available == count
    assert content(there) == content(back)


# Refusals


@pytest.mark.parametrize("engine", ENGINES)
def test_a_target_that_is_not_empty_is_refused(
    ledgers: Callable[[str], Ledgers], empty: Callable[[str], Place], engine: str
) -> None:
    """And left as it is: one API key, or the same ledger a credit later."""
    source, used, later = ledgers("sqlite").copy(), empty(engine), ledgers(engine).copy()

    async def use() -> None:
        async with opened(used, Clock()) as store:
            await store.add_api_key(ApiKey("key_0", "mint", "x", b"x" * 32, 7))
        async with opened(later, Clock()) as store:
            await store.submit(fund("brian", 1))

    asyncio.run(use())
    said = ["not empty: it has 0 wallets, 0 entries, 0 tickets, 0 claims, 1 api keys", "not empty: it has 3 wallets"]
    for target, sentence in zip((used, later), said, strict=True):
        before = content(target)
        assert sentence in refused(source, target)
        assert content(target) == before


def refused(old: Place, new: Place) -> str:
    """The sentence with which a copy is refused."""
    with pytest.raises(SetupError) as raised:
        copied(old, new)
    return raised.value.sentence


def test_what_cannot_be_copied_is_refused(
    ledgers: Callable[[str], Ledgers], empty: Callable[[str], Place], make_pluct: Make, tmp_path: Path
) -> None:
    """With a sentence and exit code 2; nothing is made of a source that is not there."""
    source, nothing = ledgers("sqlite").copy(), empty("postgresql")
    for old, new, sentence in [
        (source, source, "name the same ledger"),
        (tmp_path / "none.db", nothing, "There is no ledger at"),
        (nothing, empty("sqlite"), "There is nothing to copy"),
        ("postgresql://pluct:hunter2@127.0.0.1:1/pluct", empty("sqlite"), "cannot be used"),
        (source, "postgresql://pluct:hunter2@127.0.0.1:1/pluct", "cannot be used"),
    ]:
        said = refused(old, new)
        assert sentence in said and "hunter2" not in said
    assert not (tmp_path / "none.db").exists()
    assert "There is no ledger at" in make_pluct().run(*copy(tmp_path / "none.db", nothing), exit_code=2).stderr
    done = make_pluct().run("copy", "--from", "mysql://x", "--to", "sqlite:///x.db", exit_code=2)
    assert "--from must be sqlite:///relative/path.db" in done.stderr


@pytest.mark.parametrize("engine", ENGINES)
def test_a_ledger_that_is_served_is_not_copied(
    ledgers: Callable[[str], Ledgers], empty: Callable[[str], Place], make_pluct: Make, engine: str
) -> None:
    """What the server would write after the copy would be lost; once it has stopped, all is copied."""
    source, target = ledgers(engine).copy(), empty("sqlite" if engine != "sqlite" else "postgresql")
    server = make_pluct(DATABASE_URL=address(source))
    server.start()
    assert server.fund("dalili", 1).status_code == 200
    said = refused(source, target)
    assert "already serves" in said or "Servers are at work on this database" in said
    assert server.post("/vend-token", {"userId": "dalili"}).status_code == 200
    server.stop()
    copied(source, target)
    assert content(source) == content(target)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_broken_ledger_is_not_copied(
    ledgers: Callable[[str], Ledgers], empty: Callable[[str], Place], make_pluct: Make, engine: str
) -> None:
    """What is broken is named, as `pluct check` does, with exit code 1; the target stays empty."""
    source = ledgers(engine).damaged("UPDATE wallets SET next_expiry_at = NULL WHERE user_id = 'amina';")
    target = empty("postgresql" if engine == "sqlite" else "sqlite")
    assert [violation.subject for violation in copied(source, target).violations] == ["amina"]
    if engine == "sqlite":
        assert "nothing was copied" in make_pluct().run(*copy(source, target), exit_code=1).stderr
    assert not any(content(target).values())


def test_a_copy_that_is_not_the_same_is_not_kept(
    ledgers: Callable[[str], Ledgers], empty: Callable[[str], Place]
) -> None:
    """Every column of every row is compared, also where no invariant looks."""
    source, target = ledgers("sqlite").copy(), empty("postgresql")
    migrate(target)
    run(
        target,
        """CREATE FUNCTION garble() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN IF NEW.name > '' THEN NEW.name = 'x'; END IF; RETURN NEW; END $$;
           CREATE TRIGGER garble BEFORE INSERT ON api_keys FOR EACH ROW EXECUTE FUNCTION garble();""",
    )
    with pytest.raises(Fault, match="nothing was kept"):
        copied(source, target)
    assert not any(content(target).values())


# On the way


class Brake:
    """Makes a copy into this PostgreSQL database stand still when it writes to a table, or commits (`deferred`)."""

    def __init__(self, url: str) -> None:
        self._url, self._runner = url, asyncio.Runner()
        self._connection: Any = self._runner.run(asyncpg.connect(url))
        self._execute("SELECT pg_advisory_lock(42)")

    def _execute(self, sql: str) -> Any:
        return self._runner.run(self._connection.fetch(sql))

    def on(self, table: str, *, deferred: bool = False) -> None:
        """Where to stand still."""
        run(
            self._url,
            f"""CREATE FUNCTION brake() RETURNS trigger LANGUAGE plpgsql AS
                  $$ BEGIN PERFORM pg_advisory_xact_lock_shared(42); RETURN NEW; END $$;
                CREATE {"CONSTRAINT TRIGGER brake AFTER" if deferred else "TRIGGER brake BEFORE"} INSERT ON {table}
                {"DEFERRABLE INITIALLY DEFERRED FOR EACH ROW" if deferred else "FOR EACH STATEMENT"}
                EXECUTE FUNCTION brake();""",
        )

    def works(self) -> bool:
        """Whether the copy stands still."""
        return bool(self._execute("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))

    def let_go(self) -> None:
        """Let the copy go on, or its server end what a killed copy had begun."""
        self._execute("SELECT pg_advisory_unlock(42)")
        until(lambda: not self._execute("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'"))

    def close(self) -> None:
        self._runner.run(self._connection.close())
        self._runner.close()


@contextmanager
def braked(pluct: Pluct, old: Place, new: str, table: str, *, deferred: bool = False) -> Iterator[Any]:
    """A copy that stands still in its midst, and the brake."""
    migrate(new)
    brake = Brake(new)
    try:
        brake.on(table, deferred=deferred)
        with started(pluct, old, new) as process:
            until(brake.works, 20)
            yield process, brake
    finally:
        brake.close()


@contextmanager
def started(pluct: Pluct, old: Place, new: Place) -> Iterator["subprocess.Popen[str]"]:
    """A copy at work."""
    with subprocess.Popen(
        [sys.executable, "-m", "pluct", *copy(old, new)], cwd=pluct.folder, env=pluct.environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("old", ["sqlite", "postgresql"])
def test_nobody_comes_between(
    ledgers: Callable[[str], Ledgers], empty: Callable[[str], Place], make_pluct: Make, old: str
) -> None:
    """While a copy is at work, no server starts over its source or its target, and nothing can be written to either."""
    source, target = ledgers(old).copy(), empty("postgresql")
    assert isinstance(target, str)
    pluct = make_pluct()
    before = content(source)
    with braked(pluct, source, target, "tickets") as (process, brake):
        for place in (source, target):
            done = pluct.run("serve", "--port", "0", exit_code=2, DATABASE_URL=address(place))
            assert "Another server or copy" in done.stderr or "is being copied (pluct copy)" in done.stderr
            if isinstance(place, Path):
                locked = pytest.raises(sqlite3.OperationalError, match="locked")
                with closing(sqlite3.connect(place, timeout=0)) as guest, locked:
                    guest.execute("BEGIN IMMEDIATE")
            else:
                for table in rows.TABLES:
                    with pytest.raises(asyncpg.LockNotAvailableError):
                        run(place, f"BEGIN; LOCK TABLE {table} IN ROW EXCLUSIVE MODE NOWAIT")
        brake.let_go()
        said = process.stdout.read()
        assert process.wait(20) == 0 and "The copy is sound." in said
    assert content(source) == content(target) == before


STAGES = [("wallets", False), ("entries", False), ("api_keys", False), ("claims", True)]


@pytest.mark.parametrize(("table", "deferred"), STAGES, ids=["first table", "second", "last", "commit"])
def test_a_copy_that_was_killed_is_run_again(
    ledgers: Callable[[str], Ledgers], empty: Callable[[str], Place], make_pluct: Make, table: str, deferred: bool
) -> None:
    """Wherever it was killed, even in its COMMIT: the target has nothing or all, and the same command ends well."""
    source, target = ledgers("sqlite").copy(), empty("postgresql")
    assert isinstance(target, str)
    pluct = make_pluct()
    before = content(source)
    with braked(pluct, source, target, table, deferred=deferred) as (process, brake):
        process.send_signal(signal.SIGKILL)
        process.wait(20)
        brake.let_go()
    assert content(target) == before if deferred else not any(content(target).values())
    assert copied(source, target).already is deferred
    assert content(source) == content(target) == before


def test_a_copy_that_lost_its_connection_is_run_again(
    ledgers: Callable[[str], Ledgers], empty: Callable[[str], Place], make_pluct: Make
) -> None:
    """It ends with a sentence, has left nothing, and the same command ends well."""
    source, target = ledgers("sqlite").copy(), empty("postgresql")
    assert isinstance(target, str)
    with braked(make_pluct(), source, target, "tickets") as (process, brake):
        run(target, "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
        said = process.stdout.read()
        assert process.wait(20) == 2 and "The database cannot be used now" in said and "Traceback" not in said
        brake.let_go()
    assert not any(content(target).values())
    assert not copied(source, target).already


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger of many rows."""
    path = tmp_path_factory.mktemp("large") / "pluct.db"

    async def build() -> None:
        async with opened(path, Clock()) as store:
            await store.submit(fund("amina", 100_000))
            for _ in range(4):
                await asyncio.gather(*(store.submit(vend("amina", 1, new_id())) for _ in range(5_000)))

    asyncio.run(build())
    return path


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from pluct import app

old, new, step, count = sys.argv[1:]

def progress(name, done, total):
    if name.startswith(step) and done >= int(count):
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(app.copy(Path(old), Path(new), progress))
"""


@pytest.mark.parametrize(("step", "count"), [("copying claims", 9_000), ("comparing tickets", 9_000),
                                             ("checking the copy", 15)])  # fmt: skip
def test_a_copy_into_a_file_that_was_killed_is_run_again(large: Path, tmp_path: Path, step: str, count: int) -> None:
    """Wherever it was killed: the file holds nothing, and the same copy ends well."""
    target = tmp_path / "target.db"
    killed = subprocess.run([sys.executable, "-c", KILLED, large, target, step, str(count)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not any(content(target).values())
    assert not copied(large, target).already
    assert content(large) == content(target)


def memory(pluct: Pluct, old: Place, new: Place) -> int:
    """The most memory that a copy took, in KiB."""
    program = "import sys; from pluct.cli import cli; cli.main(standalone_mode=False); print(open(sys.argv[0]).read())"
    setup = "import sys; sys.argv = ['/proc/self/status', *sys.argv[1:]]; "
    done = subprocess.run(
        [sys.executable, "-c", setup + program, *copy(old, new)], cwd=pluct.folder, env=pluct.environment,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = re.search(r"VmHWM:\s+(\d+) kB", done.stdout)
    assert found is not None and "sound" in done.stdout
    return int(found[1])


def test_a_large_ledger_needs_no_more_memory(
    large: Path, ledgers: Callable[[str], Ledgers], empty: Callable[[str], Place], make_pluct: Make
) -> None:
    """Than a small one, in either direction: 60,000 rows pass by page by page."""
    pluct, between = make_pluct(), empty("postgresql")
    most = memory(pluct, ledgers("sqlite").copy(), empty("postgresql")) + 32 * 1024  # SQLite's cache
    assert memory(pluct, large, between) < most
    assert memory(pluct, between, empty("sqlite")) < most


def test_a_person_sees_how_far_it_is(large: Path, make_pluct: Make, tmp_path: Path) -> None:
    """Each step by its name, and what came of it."""
    pluct = make_pluct()
    seen = on_a_terminal(pluct, *copy(large, tmp_path / "new.db"))
    assert re.search(r"(?:copying|comparing) (?:entries|tickets|claims)", seen) and re.search(r"\d+/20001", seen)
    assert "checking the" in seen and "The copy is sound." in seen
