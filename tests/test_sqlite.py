"""What is particular to SQLite: its lock, its file, its disk, and what becomes of the ledger when these fail."""

import asyncio
import itertools
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from conftest import WEBHOOK_SECRET, Clock, Pluct, fund, new_id, opened, until, vend
from pluct.commands import Redeem
from pluct.errors import OutcomeUnknown, SetupError, Unavailable
from pluct.model import Granted, Vended
from pluct.stores import Store, open_store, schema, sqlite

pytestmark = pytest.mark.anyio


async def available(store: Store, user_id: str) -> int:
    wallet = await store.wallet(user_id)
    return 0 if wallet is None else wallet.available


async def sound(store: Store) -> bool:
    return await store.check(lambda *_: None) == []


async def refused(path: Path, **options: Any) -> str:
    """The sentence with which a store refuses to open this file."""
    with pytest.raises(SetupError) as caught:
        async with opened(path, Clock(), **options):
            pass
    assert caught.value.sentence.endswith(".") and "\n" not in caught.value.sentence
    return caught.value.sentence


def raw(path: Path) -> closing[sqlite3.Connection]:
    """A connection that knows nothing of the ledger."""
    return closing(sqlite3.connect(path, isolation_level=None))


# One server


async def test_a_second_server_is_refused(tmp_path: Path) -> None:
    """A file that is served is refused to a second server with the owner's process id, until the first lets go."""
    path = tmp_path / "pluct.db"
    async with opened(path, Clock()) as store:
        sentence = await refused(path)
        assert str(path) in sentence and f"process {os.getpid()}" in sentence and "DATABASE_URL" in sentence
        assert isinstance(await store.submit(fund("amina", 1)), Granted)
    async with opened(path, Clock()) as store:
        assert await available(store, "amina") == 1


def test_a_second_server_process_is_refused(server: Pluct) -> None:
    """A second `pluct serve` on one file ends with exit code 2 and a sentence, and the first goes on serving."""
    assert server.process is not None
    done = server.run("serve", "--port", "0", exit_code=2)
    assert "already serves" in done.stderr and str(server.process.pid) in done.stderr
    assert done.stdout == ""
    assert server.fund("amina", 3).json() == {"success": True, "newBalance": 3}


@pytest.mark.parametrize("link", [os.symlink, os.link])
async def test_a_second_server_by_another_name_is_refused(tmp_path: Path, link: Callable[[Path, Path], None]) -> None:
    """A file is one file by whatever name it is served: a link to it is refused to a second server."""
    path, alias = tmp_path / "pluct.db", tmp_path / "alias.db"
    async with opened(path, Clock()):
        link(path, alias)
        sentence = await refused(alias)
        assert ("already serves" if link is os.symlink else "several names") in sentence


async def test_a_store_that_could_not_open_lets_go_of_the_file(tmp_path: Path) -> None:
    """After a failed opening the file can be mended and served, though the failed store is still around."""
    path = tmp_path / "pluct.db"
    path.write_bytes(b"This is a letter, not a ledger. " * 100)
    failed = open_store(path, Clock(), new_id, serving=True)
    with pytest.raises(SetupError):
        await failed.open()
    path.unlink()
    async with opened(path, Clock()) as store:
        assert isinstance(await store.submit(fund("amina", 1)), Granted)


# Guests


async def test_a_guest_writes_beside_a_server(tmp_path: Path) -> None:
    """While a server's batches run without pause, a guest's commands all succeed, and the server's go on."""
    path = tmp_path / "pluct.db"
    async with opened(path, Clock()) as store, opened(path, Clock(), serving=False) as guest:
        stop = asyncio.Event()
        served = written = 0

        async def customer(user_id: str) -> None:
            nonlocal served
            while not stop.is_set():
                assert isinstance(await store.submit(fund(user_id, 1)), Granted)
                assert isinstance(await store.submit(fund("both", 1)), Granted)
                served += 1

        customers = [asyncio.ensure_future(customer(f"user {number}")) for number in range(16)]
        while written < 60 or served < 60:
            assert isinstance(await guest.submit(fund("both", 1)), Granted)
            written += 1
            assert written < 6_000, "the server does not come by its turn"
        stop.set()
        await asyncio.gather(*customers)
        assert await available(store, "both") == await available(guest, "both") == served + written
        balances = [await available(guest, f"user {number}") for number in range(16)]
        assert sum(balances) == served
        assert await sound(store)


def test_the_terminal_grants_beside_a_server_at_work(server: Pluct) -> None:
    """`pluct credits grant` beside a server under load succeeds each time, and both sides' grants are there."""

    async def main() -> int:
        stop, granted = asyncio.Event(), 0

        async def load() -> None:
            nonlocal granted
            async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
                while not stop.is_set():
                    answer = await client.post(
                        "/add-credits", json={"userId": "amina", "amount": 1},
                        headers={"x-webhook-secret": WEBHOOK_SECRET},
                    )  # fmt: skip
                    assert answer.status_code == 200, answer.text
                    granted += 1

        loads = [asyncio.ensure_future(load()) for _ in range(8)]
        for _ in range(3):
            await asyncio.to_thread(server.json, "credits", "grant", "amina", "1000", "--reason", "test")
        stop.set()
        await asyncio.gather(*loads)
        return granted

    granted = asyncio.run(main())
    assert granted > 8
    assert server.available("amina") == 3_000 + granted
    assert server.json("check")["ok"]


async def test_a_lock_that_is_held_is_waited_for(tmp_path: Path) -> None:
    """Another program's transaction delays a batch, not the loop: reads go on, and the batch succeeds after it."""
    path = tmp_path / "pluct.db"
    async with opened(path, Clock()) as store:
        await store.submit(fund("amina", 5))
        with raw(path) as other:
            other.execute("BEGIN IMMEDIATE")
            waiting = asyncio.ensure_future(store.submit(vend("amina", 2)))
            for _ in range(20):
                await asyncio.to_thread(os.getpid)
                assert await available(store, "amina") == 5
            assert not waiting.done()
            other.execute("ROLLBACK")
        assert isinstance(await waiting, Vended)
        assert await available(store, "amina") == 3


async def test_a_lock_that_is_never_let_go_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock held over the limit answers every waiter as unavailable, with nothing done; then all goes on."""
    monkeypatch.setattr(sqlite, "BUSY_SECONDS_MAX", 0.05)
    path = tmp_path / "pluct.db"
    async with opened(path, Clock()) as store:
        await store.submit(fund("amina", 5))
        with raw(path) as other:
            other.execute("BEGIN IMMEDIATE")
            faults = await asyncio.gather(*(store.submit(vend("amina")) for _ in range(3)), return_exceptions=True)
            assert [type(fault) for fault in faults] == [Unavailable] * 3
            assert await available(store, "amina") == 5
        assert isinstance(await store.submit(vend("amina")), Vended)
        assert await available(store, "amina") == 4
        assert await sound(store)


async def test_a_guest_killed_in_its_transaction_leaves_nothing(tmp_path: Path) -> None:
    """A process killed with a transaction open blocks nobody, and nothing of its transaction stays."""
    path = tmp_path / "pluct.db"
    script = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
connection.execute("UPDATE wallets SET available = 1000000")
print("holding", flush=True)
sys.stdin.read()
"""
    async with opened(path, Clock()) as store:
        await store.submit(fund("amina", 5))
        with subprocess.Popen(
            [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as guest:
            assert guest.stdout is not None
            assert guest.stdout.readline() == b"holding\n"
            waiting = asyncio.ensure_future(store.submit(vend("amina", 2)))
            await asyncio.sleep(0)
            guest.kill()
        assert isinstance(await waiting, Vended)
        assert await available(store, "amina") == 3
        assert await sound(store)


# Files that cannot be a ledger


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    """A file written by a newer version is refused and left alone; the sentence names both schemas."""
    path = tmp_path / "pluct.db"
    async with opened(path, Clock()) as store:
        await store.submit(fund("amina", 5))
    with raw(path) as connection:
        connection.execute("PRAGMA user_version = 999")
    sentence = await refused(path)
    assert "schema 999" in sentence and "newer version" in sentence and str(path) in sentence
    with raw(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (999,)
        assert connection.execute("SELECT available FROM wallets").fetchone() == (5,)


async def test_a_foreign_database_is_refused(tmp_path: Path) -> None:
    """Another program's database is refused and left as it is."""
    path = tmp_path / "cookies.db"
    with raw(path) as connection:
        connection.execute("CREATE TABLE wallets (leather TEXT)")
    before = path.read_bytes()
    assert "another program's" in await refused(path)
    assert path.read_bytes() == before


async def _ledger(path: Path) -> None:
    async with opened(path, Clock()) as store:
        await store.submit(fund("amina", 5))


async def _text(path: Path) -> None:
    path.write_bytes(b"This is a letter, not a ledger. " * 200)


async def _header_only(path: Path) -> None:
    await _ledger(path)
    os.truncate(path, 100)


async def _shredded(path: Path) -> None:
    await _ledger(path)
    with path.open("r+b") as file:
        file.seek(100)
        file.write(os.urandom(3_000))


async def _folder(path: Path) -> None:
    path.mkdir()


async def _below_a_file(path: Path) -> None:
    path.parent.rmdir()
    path.parent.write_text("not a folder")


async def _link_to_itself(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize("serving", [True, False])
@pytest.mark.parametrize("make", [_text, _header_only, _shredded, _folder, _below_a_file, _link_to_itself])
async def test_what_is_no_ledger_is_refused(
    tmp_path: Path, make: Callable[[Path], Awaitable[None]], serving: bool
) -> None:
    """Text, a stump, a shredded file, a folder, a path through a file, a link in a circle: each is refused by name."""
    path = tmp_path / "data" / "pluct.db"
    path.parent.mkdir()
    await make(path)
    assert str(path) in await refused(path, serving=serving)


@pytest.mark.parametrize("command", [("serve", "--port", "0"), ("credits", "show", "amina"), ("check",)])
def test_the_program_says_what_is_no_ledger(make_pluct: Callable[..., Pluct], command: tuple[str, ...]) -> None:
    """Every command over a file that is no ledger ends with exit code 2 and a sentence that names the file."""
    pluct = make_pluct()
    pluct.database.parent.mkdir()
    pluct.database.write_bytes(b"This is a letter, not a ledger. " * 200)
    done = pluct.run(*command, exit_code=2)
    assert "pluct.db" in "".join(done.stderr.split()) and "not a database" in " ".join(done.stderr.split())


@contextmanager
def unprivileged() -> Iterator[Path]:
    """A folder that belongs to somebody who is not root, and us as that somebody."""
    folder = Path(tempfile.mkdtemp())
    try:
        if os.geteuid() != 0:
            yield folder
            return
        os.chown(folder, 65_534, 65_534)
        os.seteuid(65_534)
        try:
            yield folder
        finally:
            os.seteuid(0)
    finally:
        folder.chmod(0o700)
        shutil.rmtree(folder)


@pytest.mark.parametrize("serving", [True, False])
async def test_a_folder_that_cannot_be_written_is_refused(serving: bool) -> None:
    """Where no file can be made, the ledger is refused with the file's name and the reason."""
    with unprivileged() as folder:
        folder.chmod(0o500)
        sentence = await refused(folder / "pluct.db", serving=serving)
        assert str(folder / "pluct.db") in sentence
        assert "ermission denied" in sentence or "unable to open" in sentence


# Schema


OPENERS = """
import asyncio, sys
from pathlib import Path
from pluct.app import now_ms
from pluct.commands import Fund
from pluct.stores import open_store
from pluct.tickets import uuid7_source
new_id = uuid7_source()

async def grant(path):
    store = open_store(Path(path), now_ms, new_id, serving=False)
    await store.open()
    await store.submit(Fund("amina", new_id(), 1, "test"))
    await store.close()

print("ready", flush=True)
for line in sys.stdin:
    try:
        asyncio.run(grant(line.strip()))
    except BaseException as error:
        print(repr(error), flush=True)
    else:
        print("done", flush=True)
"""


def test_two_processes_make_one_ledger(tmp_path: Path) -> None:
    """Two processes that come to a missing file at once both come up, over and over, and both their grants count."""
    openers = [
        subprocess.Popen([sys.executable, "-c", OPENERS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]

    def answers() -> list[str]:
        return [opener.stdout.readline().strip() for opener in openers if opener.stdout is not None]

    ends = []
    try:
        assert answers() == ["ready", "ready"]
        for turn in range(100):
            for opener in openers:
                assert opener.stdin is not None
                opener.stdin.write(f"{tmp_path / str(turn)}.db\n")
                opener.stdin.flush()
            ends += answers()
    finally:
        for opener in openers:
            opener.communicate()
    assert {end.replace(str(tmp_path), "") for end in ends} == {"done"}
    for turn in range(100):
        with raw(tmp_path / f"{turn}.db") as connection:
            assert connection.execute("SELECT available FROM wallets").fetchall() == [(2,)]


async def test_a_migration_that_breaks_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a later migration fails half way the opening is refused, and the version before still runs on the file."""
    path = tmp_path / "pluct.db"
    await _ledger(path)
    known = schema.migrations("sqlite")
    broken = "CREATE TABLE extra (a INTEGER);\nDELETE FROM wallets;\nCREATE TABLE extra (a INTEGER);\n"
    with monkeypatch.context() as patch:
        patch.setattr(schema, "migrations", lambda engine: [*known, broken])
        assert "extra already exists" in await refused(path)
    async with opened(path, Clock()) as store:
        assert await available(store, "amina") == 5


async def test_a_migration_is_applied_once_and_keeps_the_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older file is brought up to date with its money; the older program then refuses it."""
    path = tmp_path / "pluct.db"
    await _ledger(path)
    known = schema.migrations("sqlite")
    with monkeypatch.context() as patch:
        patch.setattr(schema, "migrations", lambda engine: [*known, "CREATE TABLE extra (a INTEGER);\n"])
        for _ in range(2):
            async with opened(path, Clock()) as store:
                assert await available(store, "amina") == 5
    assert f"schema {len(known) + 1}, and this program knows {len(known)}" in await refused(path)


async def test_what_is_answered_is_on_the_disk(tmp_path: Path) -> None:
    """The writer's journal is a write-ahead log synced at each commit (synchronous = FULL), also after an accident."""
    path = tmp_path / "pluct.db"
    async with opened(path, Clock()) as store:
        for _ in range(2):
            assert isinstance(await store.submit(fund("amina", 1)), Granted)
            writer: sqlite3.Connection = store._write  # type: ignore[attr-defined]
            assert writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            assert writer.execute("PRAGMA synchronous").fetchone() == (2,)
            with no_writing(), pytest.raises(Unavailable):
                await store.submit(fund("amina", 1))
    with raw(path) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


DAMAGE = [
    "UPDATE entries SET amount = 6",
    "DELETE FROM entries",
    "UPDATE wallets SET available = -1",
    "UPDATE wallets SET held = -1",
    "UPDATE wallets SET debt = 1",
    "UPDATE wallets SET available = 9007199254740992",
    "UPDATE wallets SET available = 'many'",
    "INSERT INTO wallets SELECT * FROM wallets",
    "UPDATE tickets SET captured = captured + 1",
    "UPDATE tickets SET returned = -1, captured = cost + 1",
    "UPDATE tickets SET due_at = 1",
    "UPDATE tickets SET state = 'issued'",
    "UPDATE tickets SET state = 'lost'",
    "UPDATE tickets SET cost = 0, captured = 0",
    "INSERT INTO claims SELECT * FROM claims",
    "INSERT INTO entries SELECT id || 'x', user_id, 2, NULL, at, kind, amount, debit, credit, 1, 1, '', '', '', '', ''"
    " FROM entries WHERE number = 1",
    "INSERT INTO entries SELECT id || 'x', user_id, 9, id, at, kind, amount, debit, debit, 1, 1, '', '', '', '', ''"
    " FROM entries",
    "INSERT INTO entries SELECT id || 'x', user_id, 9, id, at, kind, 0, debit, credit, 1, 1, '', '', '', '', ''"
    " FROM entries",
    "INSERT INTO entries SELECT id || 'x', user_id, 9, id, at, 'gift', 1, debit, credit, 1, 1, '', '', '', '', ''"
    " FROM entries",
]


@pytest.mark.parametrize("statement", DAMAGE)
async def test_the_file_itself_refuses_damage(tmp_path: Path, statement: str) -> None:
    """SQL from any hand that breaks an invariant which SQL can hold is refused by the file, and changes nothing."""
    path = tmp_path / "pluct.db"
    async with opened(path, Clock()) as store:
        await store.submit(fund("amina", 5))
        assert isinstance(await store.submit(vend("amina", 2, "k")), Vended)
        with raw(path) as connection:
            before = list(connection.iterdump())
            with pytest.raises(sqlite3.IntegrityError):
                connection.execute(statement)
            assert list(connection.iterdump()) == before
        assert await sound(store)


# Disks that fail


@contextmanager
def no_writing(pid: int = 0, most: int = 0) -> Iterator[None]:
    """No file of the process can grow beyond `most` bytes: its writes fail as on a disk that takes no more."""
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


async def test_a_commit_that_fails_is_unknown_to_every_waiter(tmp_path: Path) -> None:
    """When COMMIT breaks off each waiter of the batch gets an exception of its own; repeating the keys settles it."""
    path = tmp_path / "pluct.db"
    async with opened(path, Clock()) as store:
        await store.submit(fund("amina", 100))
        keyed = [("amina", 1, f"k{number}") for number in range(20)]
        with no_writing():
            faults = await asyncio.gather(*(store.submit(vend(*v)) for v in keyed), return_exceptions=True)
            assert [type(fault) for fault in faults] == [OutcomeUnknown] * 20
            assert len({id(fault) for fault in faults}) == 20
            again = await asyncio.gather(*(store.submit(vend(*v)) for v in keyed), return_exceptions=True)
            assert {type(fault) for fault in again} <= {OutcomeUnknown, Unavailable}
        outcomes = await asyncio.gather(*(store.submit(vend(*v)) for v in keyed))
        assert [type(outcome) for outcome in outcomes] == [Vended] * 20
        assert await available(store, "amina") == 80
        wallet = await store.wallet("amina")
        assert wallet is not None and wallet.entries == 21
        assert await sound(store)


async def test_a_commit_that_fails_half_way_is_not_half_done(tmp_path: Path) -> None:
    """Wherever in its pages a commit breaks off, all of the batch happened or none, and the store goes on."""
    path = tmp_path / "pluct.db"
    log = path.with_name("pluct.db-wal")
    async with opened(path, Clock()) as store:
        await store.submit(fund("amina", 1_000_000))
        for extra in range(0, 40_000, 1_900):
            before = await available(store, "amina")
            with no_writing(most=log.stat().st_size + extra):
                outcomes: list[Any] = await asyncio.gather(
                    *(store.submit(vend("amina", 1, f"{extra} {number}")) for number in range(30)),
                    return_exceptions=True,
                )
            kinds = {type(outcome) for outcome in outcomes}
            after = await available(store, "amina")
            assert kinds in ({Vended}, {OutcomeUnknown})
            assert after == before - 30 if kinds == {Vended} else after in (before, before - 30)
            for number in range(30):
                assert isinstance(await store.submit(vend("amina", 1, f"{extra} {number}")), Vended)
            assert await available(store, "amina") == before - 30
        assert await sound(store)


async def test_accidents_leak_no_files(tmp_path: Path) -> None:
    """However often the disk fails, the store holds as many open files afterwards as before."""

    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("open files cannot be counted here")
    async with opened(tmp_path / "pluct.db", Clock()) as store:
        await store.submit(fund("amina", 1))
        before = open_files()
        for _ in range(30):
            with no_writing():
                for _ in range(2):
                    with pytest.raises(Unavailable):
                        await store.submit(fund("amina", 1))
            assert isinstance(await store.submit(fund("amina", 1)), Granted)
        assert open_files() == before


@contextmanager
def full_disk(folder: Path) -> Iterator[Path]:
    """A file system of one mebibyte, mounted on a folder."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "pluct-test", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"mounting is not permitted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """A file that takes up all there is."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(b"\0" * 4_096):
                pass
        except OSError:
            return ballast
    raise AssertionError("the disk was never full")


def grant(server: Pluct, number: int) -> httpx.Response:
    return server.fund("amina", 1, reference=f"R{number}")


def until_down(server: Pluct, numbers: Iterator[int]) -> list[int]:
    """Grant until the server says 503; the references it has acknowledged, and last the one it has not."""
    asked = []
    for number in itertools.islice(numbers, 2_000):
        asked.append(number)
        answer = grant(server, number)
        if answer.status_code == 200:
            continue
        assert answer.status_code == 503, answer.text
        assert set(answer.json()) == {"error"} and int(answer.headers["retry-after"]) > 0
        return asked
    raise AssertionError("the server never ran out of disk")


def goes_down_and_comes_back(server: Pluct, scarcity: Callable[[], Any]) -> None:
    """Three times: no disk, then disk again. Every acknowledged grant stays, and every repeated one counts once."""
    numbers = itertools.count()
    asked = []
    for _ in range(3):
        with scarcity():
            asked += until_down(server, numbers)
            assert len(asked) - 1 <= server.available("amina") <= len(asked), "reads go on"
            assert grant(server, asked[-1]).status_code == 503
            ready = server.client.get("/health/ready")
            assert ready.status_code == 503, ready.text
        assert grant(server, asked[-1]).status_code == 200
        assert server.available("amina") == len(asked)
        assert server.client.get("/health/ready").status_code == 200
    assert [grant(server, number).status_code for number in asked] == [200] * len(asked)
    assert server.available("amina") == len(asked)
    assert server.json("check")["ok"]
    assert "Traceback" not in server.log
    assert server.stop() == 0


def test_a_full_disk_is_503_until_there_is_room(make_pluct: Callable[..., Pluct], tmp_path: Path) -> None:
    """On a full file system writes answer 503 and reads go on; with room again the same server writes, nothing lost."""
    with full_disk(tmp_path / "disk") as folder:
        pluct = make_pluct(DATABASE_URL=f"sqlite:///{folder / 'pluct.db'}")
        pluct.start()

        @contextmanager
        def full() -> Iterator[None]:
            ballast = fill(folder)
            try:
                yield
            finally:
                ballast.unlink()

        goes_down_and_comes_back(pluct, full)


def test_a_program_on_a_full_disk_says_so(make_pluct: Callable[..., Pluct], tmp_path: Path) -> None:
    """A command or a server that finds the disk full ends with exit code 2 and a sentence, and harms nothing."""
    with full_disk(tmp_path / "disk") as folder:
        pluct = make_pluct(DATABASE_URL=f"sqlite:///{folder / 'pluct.db'}")
        pluct.run("credits", "grant", "amina", "5", "--reason", "test")
        ballast = fill(folder)
        for command in (("credits", "grant", "amina", "1", "--reason", "test"), ("serve", "--port", "0")):
            assert "cannot be" in " ".join(pluct.run(*command, exit_code=2).stderr.split())
        ballast.unlink()
        assert pluct.json("credits", "show", "amina")["available"] == 5
        assert pluct.json("check")["ok"]


@pytest.mark.parametrize("most", [0, 100_000])
def test_a_file_that_cannot_grow_is_503_until_it_can(server: Pluct, most: int) -> None:
    """When the server's files may not grow, writes answer 503 and reads go on; then the same server writes again."""
    assert server.process is not None
    pid = server.process.pid
    goes_down_and_comes_back(server, lambda: no_writing(pid, most))


# Files that may not be written


async def test_a_file_made_read_only_is_unavailable_until_it_is_writable(tmp_path: Path) -> None:
    """Over a file it may only read, a store reads, answers writes as unavailable, and writes as soon as it may."""
    with unprivileged() as folder:
        path = folder / "pluct.db"
        await _ledger(path)
        path.chmod(0o400)
        async with opened(path, Clock()) as store:
            for _ in range(3):
                with pytest.raises(Unavailable, match="readonly"):
                    await store.submit(vend("amina"))
                assert await available(store, "amina") == 5
            for file in folder.iterdir():
                file.chmod(0o600)
            assert isinstance(await store.submit(vend("amina")), Vended)
            assert await available(store, "amina") == 4
            assert await sound(store)


async def test_a_connection_that_may_not_write_is_replaced(tmp_path: Path) -> None:
    """When a write is refused as read-only, the store connects anew and writes all the same."""
    async with opened(tmp_path / "pluct.db", Clock()) as store:
        await store.submit(fund("amina", 5))
        store._write.execute("PRAGMA query_only = 1")  # type: ignore[attr-defined]
        outcomes = await asyncio.gather(*(store.submit(vend("amina")) for _ in range(3)))
        assert [type(outcome) for outcome in outcomes] == [Vended] * 3
        assert await available(store, "amina") == 2
        assert await sound(store)


@contextmanager
def immutable(folder: Path) -> Iterator[None]:
    """The ledger's files cannot be written, not even by root, and not even by who has them open.

    The shared index of the log is left out: it is written through memory, where a process that may not is killed.
    """
    files = [str(file) for file in sorted(folder.iterdir()) if not file.name.endswith("-shm")]
    try:
        done = subprocess.run(["chattr", "+i", *files], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"files cannot be made immutable here: {done.stderr.strip()}")
        yield
    finally:
        subprocess.run(["chattr", "-i", *files], capture_output=True, check=False)


def test_immutable_files_are_503_until_they_are_not(server: Pluct) -> None:
    """While its files are immutable a server answers writes with 503; afterwards it writes again, nothing lost."""
    probe = server.database.parent / "probe"
    with probe.open("wb", buffering=0) as file, immutable(probe.parent):
        try:
            file.write(b"x")
        except PermissionError:
            pass
        else:
            pytest.skip("this file system lets open files be written though they are immutable")
    probe.unlink()
    goes_down_and_comes_back(server, lambda: immutable(server.database.parent))


# Sweeps


def held(user_id: str) -> Any:
    """A vend of one credit that is held until the backend reports."""
    return vend(user_id, settle="report", report_seconds=60)


async def overdue(path: Path, users: list[str]) -> None:
    """A ledger in which each of the users had two credits and a hold of one, long ago."""
    async with opened(path, Clock(1_700_000_000_000)) as store:
        outcomes = await asyncio.gather(
            *(store.submit(command) for user_id in users for command in (fund(user_id, 2), held(user_id)))
        )
        assert {type(outcome) for outcome in outcomes} == {Granted, Vended}


def swept(pluct: Pluct) -> int:
    """How many of the holds were given back."""
    with raw(pluct.database) as connection:
        (count,) = connection.execute("SELECT count(*) FROM tickets WHERE state = 'expired'").fetchone()
    return int(count)


def test_what_comes_due_at_once_is_given_back_in_time(make_pluct: Callable[..., Pluct]) -> None:
    """4,000 users' holds that are due at the same moment are all given back within 5 s."""
    pluct = make_pluct()
    asyncio.run(overdue(pluct.database, [f"user {number}" for number in range(4_000)]))
    pluct.start()
    until(lambda: swept(pluct) == 4_000, 5)
    assert pluct.available("user 0") == pluct.available("user 3999") == 2
    assert pluct.json("check")["ok"]


def test_a_wallet_that_cannot_be_read_keeps_nobody_from_being_swept(make_pluct: Callable[..., Pluct]) -> None:
    """One damaged wallet does not keep the credits of all others from coming back."""
    pluct = make_pluct()
    asyncio.run(overdue(pluct.database, ["damaged", "amina", "brian"]))
    with raw(pluct.database) as connection:
        connection.execute("UPDATE wallets SET lots = '[[]]' WHERE user_id = 'damaged'")
    pluct.start()
    until(lambda: swept(pluct) == 2, 5)
    assert pluct.available("amina") == pluct.available("brian") == 2


# Reading beside writing


async def test_a_read_sees_only_what_is_committed(tmp_path: Path) -> None:
    """A balance read at any moment during batches of matched moves is one the ledger really had."""
    async with opened(tmp_path / "pluct.db", Clock()) as store:
        await store.submit(fund("amina", 1_000))
        stop = asyncio.Event()

        async def customer() -> None:
            while not stop.is_set():
                ticket = vend("amina", 10, settle="redeem")
                await asyncio.gather(
                    store.submit(ticket), store.submit(Redeem("amina", ticket.ticket_id, "premium")),
                    store.submit(fund("amina", 10)),
                )  # fmt: skip

        customers = [asyncio.ensure_future(customer()) for _ in range(4)]
        seen = set()
        for _ in range(2_000):
            wallet = await store.wallet("amina")
            assert wallet is not None
            seen.add((wallet.available, wallet.held))
            await asyncio.sleep(0)
        stop.set()
        await asyncio.gather(*customers)
        assert seen == {(1_000, 0)}
        assert await sound(store)


async def test_a_server_that_was_killed_does_not_keep_the_file(make_pluct: Callable[..., Pluct]) -> None:
    """The lock ends with its process, however that ends: after `kill -9` the next server starts at once."""
    pluct = make_pluct()
    for amount in range(1, 4):
        pluct.start()
        assert pluct.fund("amina", 1).json()["newBalance"] == amount
        assert pluct.stop(signal.SIGKILL) == -signal.SIGKILL


@pytest.mark.anyio
async def test_the_log_begins_anew_beside_the_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is copied into the file after so many commands, and does not grow with what was ever written."""
    monkeypatch.setattr(sqlite, "CHECKPOINT_COMMANDS", 200)
    async with opened(tmp_path / "ledger.db", Clock()) as store:
        await store.submit(fund("u", 10_000))
        for _ in range(100):
            await asyncio.gather(*(store.submit(vend("u")) for _ in range(40)))
        head = (tmp_path / "ledger.db-wal").read_bytes()[:32]
        assert (
            int.from_bytes(head[12:16], "big") >= 2
        )  # how often it began anew (sqlite.org/fileformat2.html#walformat)


@pytest.mark.anyio
async def test_a_log_that_cannot_be_copied_is_copied_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody who vends notices; whoever reads the log does."""
    monkeypatch.setattr(sqlite, "CHECKPOINT_COMMANDS", 1)
    work = sqlite._checkpoint_twice
    failures = iter([sqlite3.OperationalError("disk I/O error")] * 2)

    def fail(path: Path) -> None:
        for failure in failures:
            raise failure
        work(path)

    monkeypatch.setattr(sqlite, "_checkpoint_twice", fail)
    async with opened(tmp_path / "ledger.db", Clock()) as store:
        for _ in range(20):
            assert isinstance(await store.submit(fund("u", 1)), Granted)
    assert "could not be copied" in caplog.text and "disk I/O error" in caplog.text
