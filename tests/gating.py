"""What tests of the gate share: a backend and a client that do byte by byte what a test says, and the gate itself.

The backend accepts in the test's own thread: until a test takes a connection, the kernel keeps it, with all that was
sent. So every order of events can be had, and none depends on time.
"""

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

from conftest import Pluct, served, until

TOML = """
[actions.transcribe]
cost = 5
cost_max = 20
settle = "report"
report_seconds = 600

[actions.glance]
settle = "redeem"

[actions.other]
settle = "vend"
cost = 2
"""
SECONDS_MAX = 20


class Wire:
    """One end of a connection, byte by byte."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.socket.settimeout(SECONDS_MAX)
        self._data = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def until(self, end: bytes) -> bytes:
        """What comes, up to and including this."""
        while end not in self._data:
            self._more()
        found, _, self._data = self._data.partition(end)
        return found + end

    def exactly(self, count: int) -> bytes:
        """So many bytes."""
        while len(self._data) < count:
            self._more()
        found, self._data = self._data[:count], self._data[count:]
        return found

    def head(self) -> tuple[str, dict[str, list[str]]]:
        """The first line, and all values of each header."""
        first, *lines = self.until(b"\r\n\r\n").decode("latin-1").rstrip().split("\r\n")
        headers: dict[str, list[str]] = {}
        for line in lines:
            name, _, value = line.partition(": ")
            headers.setdefault(name.lower(), []).append(value)
        return first, headers

    def chunk(self) -> bytes:
        """The next chunk of a body."""
        size = int(self.until(b"\r\n"), 16)
        return self.exactly(size + 2)[:-2]

    def answer(self) -> tuple[int, dict[str, list[str]], bytes]:
        """A whole answer: status, headers, body."""
        first, headers = self.head()
        if "content-length" in headers:
            return int(first.split()[1]), headers, self.exactly(int(headers["content-length"][0]))
        body = b""
        if "transfer-encoding" in headers:
            while part := self.chunk():
                body += part
        return int(first.split()[1]), headers, body

    def rest(self) -> bytes:
        """All that still comes, until the other side ends it. Raises `ConnectionResetError` if it breaks off."""
        try:
            while True:
                self._more()
        except EOFError:
            return self._data

    def broken_off(self) -> bool:
        """The other side hangs up, well or not, after whatever it had to say."""
        try:
            self.rest()
        except ConnectionResetError:
            return True
        return True

    def reset(self) -> None:
        """Hang up as if the cable had been cut."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.socket.close()

    def close(self) -> None:
        self.socket.close()

    def _more(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise EOFError(self._data)
        self._data += data


class Backend:
    """A server that a test plays."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.socket.settimeout(SECONDS_MAX)
        self.port = self.socket.getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def take(self) -> Wire:
        """The next connection."""
        return Wire(self.socket.accept()[0])

    def nobody_came(self) -> bool:
        """Whether there is no connection to take."""
        self.socket.settimeout(0)
        try:
            self.socket.accept()[0].close()
        except BlockingIOError:
            return True
        finally:
            self.socket.settimeout(SECONDS_MAX)
        return False

    def close(self) -> None:
        self.socket.close()


class Gate:
    """`pluct gate` as people run it. Its log is in the engine's folder."""

    def __init__(self, engine: Pluct, upstream: str, *options: str, action: str = "transcribe", **more: str) -> None:
        self.engine = engine
        self.file = engine.folder / f"gate-{len([*engine.folder.glob('gate-*')])}.log"
        key = more.pop("key", None) or engine.key("service", "gate")["Authorization"].removeprefix("Bearer ")
        command = ["gate", "--upstream", upstream, "--engine", more.pop("at", None) or engine.url, "--action", action]
        with self.file.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pluct", *command, "--listen", "127.0.0.1:0", *options], cwd=engine.folder,
                env=engine.environment | {"PLUCT_SERVICE_KEY": key}, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.fullmatch(r"listening on (http://127\.0\.0\.1:(\d+))\n", line)
        assert found, (line, self.log)
        self.url, self.port = found[1], int(found[2])

    @property
    def log(self) -> str:
        return self.file.read_text()

    def line(self, word: str) -> dict[str, Any]:
        """The line of the log with this word in it, once it is written."""
        found: list[str] = until(lambda: [each for each in self.log.splitlines() if word in each])
        answer: dict[str, Any] = json.loads(found[0])
        return answer

    def connect(self) -> Wire:
        """A client's connection."""
        return Wire(socket.create_connection(("127.0.0.1", self.port), SECONDS_MAX))

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, wait for the end, and return the exit status."""
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> int:
        """Wait for the end, and return the exit status."""
        status = self.process.wait(80)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status

    def close(self) -> None:
        if self.process.returncode is None:
            self.stop(signal.SIGKILL)


@contextmanager
def gate_before(engine: Pluct, upstream: str, *options: str, **more: str) -> Iterator[Gate]:
    """A running gate."""
    gate = Gate(engine, upstream, *options, **more)
    try:
        yield gate
    finally:
        gate.close()


class Till:
    """The engine, to tests of the gate: it vends, and says what became of a ticket."""

    def __init__(self, engine: Pluct) -> None:
        self.engine = engine
        self.operator = engine.key("operator")

    def vend(self, action: str = "transcribe", user_id: str | None = None, **more: Any) -> dict[str, Any]:
        """A new ticket, of a new user with 100 credits if nobody is named."""
        user_id = user_id or self.engine.funded(100)
        answer = self.engine.post("/v1/vend-token", {"userId": user_id, "action": action, **more})
        assert answer.status_code == 200, answer.text
        vended: dict[str, Any] = answer.json()
        return vended | {"userId": user_id}

    def ticket(self, ticket_id: str) -> dict[str, Any]:
        """A ticket as it stands."""
        answer: dict[str, Any] = self.engine.client.get(f"/v1/tickets/{ticket_id}", headers=self.operator).json()
        return answer

    def settled(self, vended: dict[str, Any]) -> tuple[str, int, int]:
        """How a ticket was settled, once it is: its state, what was captured, what went back."""

        def look() -> dict[str, Any] | None:
            found = self.ticket(vended["ticketId"])
            return None if found["state"] in ("issued", "redeemed") else found

        found: dict[str, Any] = until(look, 15)  # type: ignore[assignment]
        return found["state"], found["capturedAmount"], found["returnedAmount"]

    def state(self, vended: dict[str, Any]) -> str:
        """The ticket's state now."""
        state: str = self.ticket(vended["ticketId"])["state"]
        return state

    def reasons(self, vended: dict[str, Any]) -> list[str]:
        """Why credits of the ticket's user went back, latest first."""
        path = f"/v1/wallets/{vended['userId']}/entries"
        entries = self.engine.client.get(path, headers=self.operator).json()["entries"]
        return [entry["reason"] for entry in entries if entry.get("reason")]


class World(NamedTuple):
    """An engine, a backend, and a gate between them."""

    engine: Pluct
    till: Till
    backend: Backend
    gate: Gate

    def ask(self, data: bytes) -> tuple[int, dict[str, list[str]], bytes]:
        """What the gate itself answers."""
        with self.gate.connect() as client:
            client.send(data)
            return client.answer()

    def pass_through(self, data: bytes, answer: bytes) -> tuple[str, dict[str, list[str]]]:
        """One request, answered by the backend: the head that it got."""
        with self.gate.connect() as client:
            client.send(data)
            with self.backend.take() as wire:
                got = wire.head()
                wire.send(answer)
            client.head()
        return got


@contextmanager
def a_world(folder: Path, *options: str) -> Iterator[World]:
    """All of it, with little patience."""
    patience = ("--upstream-seconds", "1", "--client-seconds", "1", "--body-bytes-max", "1000000")
    backend = Backend()
    try:
        with served(folder, TOML) as engine, gate_before(engine, backend.url, *patience, *options) as gate:
            yield World(engine, Till(engine), backend, gate)
    finally:
        backend.close()


OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi"


def answered(status: str, *headers: str, body: bytes = b"") -> bytes:
    """An answer of the backend, which hangs up after it."""
    lines = [f"HTTP/1.1 {status}", "connection: close", *headers]
    if not any(line.lower().startswith(("content-length", "transfer-encoding")) for line in headers):
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def request(vended: dict[str, Any], first: str = "GET / HTTP/1.1", *headers: str, body: bytes = b"") -> bytes:
    """A request with this ticket."""
    lines = [first, "host: shop.example", f"authorization: Bearer {vended['token']}", *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body
