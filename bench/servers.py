"""Starting the servers under test, loading them, and reading what they cost."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from postgres import Postgres

_TICKS = os.sysconf("SC_CLK_TCK")
START_SECONDS_MAX = 30


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


class Server:
    """A server process, or several that share the load."""

    def __init__(self, pids: list[int], url: str, database: "Postgres | None" = None) -> None:
        self.pids, self.url, self._database = pids, url, database

    def resident_mib(self) -> float:
        """Resident memory of the first process."""
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{self.pids[0]}/status").read_text())
        assert found
        return int(found[1]) / 1024

    def load(self, requests: int, users: int, connections: int = 64, tokens: Path | None = None) -> dict[str, float]:
        """Send vends from a process of its own: rate, latencies, and what each party's CPU spent on a request.

        With a file of tokens, one a line, each request carries one of them.
        """
        before = self._cpu_seconds()
        command = [sys.executable, "-m", "bench.load", self.url, str(requests), str(users), str(connections)]
        command += [] if tokens is None else [str(tokens)]
        result: dict[str, Any] = json.loads(
            subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=300).stdout
        )
        assert result.pop("statuses") == {"200": requests}, "every vend must succeed"
        for party, seconds in self._cpu_seconds().items():
            result[party] = (seconds - before[party]) / requests * 1e6
        return result

    def _cpu_seconds(self) -> dict[str, float]:
        spent = {"cpu_us": sum(cpu_seconds(pid) for pid in self.pids)}
        if self._database is not None:
            spent["database_cpu_us"] = self._database.cpu_seconds()
        return spent


@contextmanager
def pluct(
    folder: Path, database: "Postgres | None" = None, url: str = "", processes: int = 1,
    program: Sequence[str] = ("-m", "pluct"),
) -> Iterator[Server]:  # fmt: skip
    """Our server over the file in this folder, or so many of them over a database; the log is thrown away."""
    command = [sys.executable, *program, "serve", "--port", "0"]
    environment = os.environ | ({"DATABASE_URL": url} if url else {})
    with ExitStack() as stack:
        running = [
            stack.enter_context(_running(command, folder, subprocess.PIPE, environment)) for _ in range(processes)
        ]
        urls = [process.stdout.readline().split()[-1] for process in running if process.stdout is not None]
        yield Server([process.pid for process in running], ",".join(urls), database)


def api_key(role: str, folder: Path, url: str = "") -> str:
    """The secret of a new key for the ledger that `pluct` would serve there."""
    command = [sys.executable, "-m", "pluct", "keys", "create", "--role", role, "--name", "bench", "--json"]
    environment = os.environ | ({"DATABASE_URL": url} if url else {})
    made = subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE)
    return str(json.loads(made.stdout)["secret"])


@contextmanager
def started(arguments: list[str], folder: Path, environment: Mapping[str, str]) -> Iterator[Server]:
    """`pluct` with these arguments, which says where it listens."""
    with _running([sys.executable, "-m", "pluct", *arguments], folder, subprocess.PIPE, environment) as process:
        assert process.stdout is not None
        yield Server([process.pid], process.stdout.readline().split()[-1])


@contextmanager
def null(kind: str) -> Iterator[Server]:
    """One of the yardsticks."""
    with listening("bench.null_servers", kind, port_last=True) as server:
        yield server


@contextmanager
def listening(module: str, argument: str, *, port_last: bool = False) -> Iterator[Server]:
    """A module of ours that serves on the port it is handed."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    arguments = [argument, str(port)] if port_last else [str(port), argument]
    with _running([sys.executable, "-m", module, *arguments], Path.cwd(), None, os.environ) as process:
        until = time.monotonic() + START_SECONDS_MAX
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < until, f"{module} did not start"
        yield Server([process.pid], f"http://127.0.0.1:{port}")


@contextmanager
def _running(
    command: list[str], folder: Path, stdout: int | None, environment: Mapping[str, str]
) -> "Iterator[subprocess.Popen[str]]":
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=stdout, stderr=subprocess.DEVNULL, text=True
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        finally:
            process.kill()
            if process.stdout is not None:
                process.stdout.close()
