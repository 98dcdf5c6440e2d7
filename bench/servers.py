"""Starting the servers under test, loading them, and reading what they cost."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_TICKS = os.sysconf("SC_CLK_TCK")
START_SECONDS_MAX = 30


class Server:
    """A server process."""

    def __init__(self, process: "subprocess.Popen[str]", url: str) -> None:
        self.process, self.url = process, url

    def cpu_seconds(self) -> float:
        """User and system time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def resident_mib(self) -> float:
        """Resident memory."""
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{self.process.pid}/status").read_text())
        assert found
        return int(found[1]) / 1024

    def load(self, requests: int, users: int, connections: int = 64) -> dict[str, float]:
        """Send vends from a process of its own; rate, latencies, and the server's CPU per request."""
        before = self.cpu_seconds()
        command = [sys.executable, "-m", "bench.load", self.url, str(requests), str(users), str(connections)]
        result: dict[str, Any] = json.loads(
            subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=300).stdout
        )
        assert result.pop("statuses") == {"200": requests}, "every vend must succeed"
        result["cpu_us"] = (self.cpu_seconds() - before) / requests * 1e6
        return result


@contextmanager
def pluct(folder: Path) -> Iterator[Server]:
    """Our server over the ledger in this folder, its log thrown away."""
    command = [sys.executable, "-m", "pluct", "serve", "--port", "0"]
    with _running(command, folder, subprocess.PIPE) as process:
        assert process.stdout is not None
        yield Server(process, process.stdout.readline().split()[-1])


@contextmanager
def null(kind: str) -> Iterator[Server]:
    """One of the yardsticks."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with _running([sys.executable, "-m", "bench.null_servers", kind, str(port)], Path.cwd(), None) as process:
        until = time.monotonic() + START_SECONDS_MAX
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < until, f"{kind} did not start"
        yield Server(process, f"http://127.0.0.1:{port}")


@contextmanager
def _running(command: list[str], folder: Path, stdout: int | None) -> "Iterator[subprocess.Popen[str]]":
    process = subprocess.Popen(command, cwd=folder, stdout=stdout, stderr=subprocess.DEVNULL, text=True)
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
