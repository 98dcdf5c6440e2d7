"""How a server leaves: no request that reached it is lost, whenever it came."""

import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from conftest import Pluct, refused, until

HEALTH = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"


class Line:
    """One connection, byte by byte."""

    def __init__(self, pluct: Pluct) -> None:
        self.socket = socket.create_connection(("127.0.0.1", int(pluct.url.rpartition(":")[2])), 10)

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the next answer."""
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._more()
        head, _, body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        while len(body) < int(headers["content-length"]):
            body += self._more()
        return int(first.split()[1]), headers, body

    def _more(self) -> bytes:
        data = self.socket.recv(65536)
        assert data, "the server hung up"
        return data

    def ended(self) -> bool:
        """The server hangs up, properly."""
        return self.socket.recv(65536) == b""

    def ask(self, data: bytes = HEALTH) -> tuple[int, dict[str, str], bytes]:
        self.send(data)
        return self.answer()

    def close(self) -> None:
        self.socket.close()


@pytest.fixture
def line(server: Pluct) -> Iterator[Callable[[], Line]]:
    """Connections to the server, closed at the end."""
    lines: list[Line] = []

    def connect() -> Line:
        lines.append(Line(server))
        return lines[-1]

    yield connect
    for each in lines:
        each.close()


def vend(user_id: str) -> bytes:
    body = json.dumps({"userId": user_id}).encode()
    return b"POST /vend-token HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body


def told_to_stop(server: Pluct) -> None:
    """Send SIGTERM, and wait until that has come to the server's mind."""
    server.signal(signal.SIGTERM)
    until(lambda: not accepts(server))


def accepts(server: Pluct) -> bool:
    try:
        Line(server).close()
    except ConnectionError:
        return False
    return True


def test_a_request_on_an_idle_connection_is_answered(server: Pluct, line: Callable[[], Line]) -> None:
    """It was sent before its sender could know: it is answered, the answer says that it is the last, and it is."""
    user = server.funded(1)
    idle = line()
    assert "connection" not in idle.ask()[1]
    told_to_stop(server)
    status, headers, _ = idle.ask(vend(user))
    assert (status, headers["connection"]) == (200, "close")
    assert idle.ended()
    assert server.ended() == 0


def test_a_request_on_a_new_connection_is_answered(server: Pluct, line: Callable[[], Line]) -> None:
    """Whoever has just connected is about to ask; also when half of the question has come."""
    user = server.funded(1)
    fresh, slow = line(), line()
    slow.send(vend(user)[:40])
    told_to_stop(server)
    assert fresh.ask()[1]["connection"] == "close"
    slow.send(vend(user)[40:])
    status, headers, _ = slow.answer()
    assert (status, headers["connection"]) == (200, "close")
    assert fresh.ended() and slow.ended()
    assert server.ended() == 0


def test_connections_nobody_had_taken_yet_are_answered(server: Pluct) -> None:
    """To their senders they were connected, and their requests sent, before the server knew of them."""
    users = [server.funded(1) for _ in range(50)]
    server.signal(signal.SIGSTOP)
    stopped = time.monotonic()
    lines, unused = [Line(server) for _ in users], Line(server)
    for each, user in zip(lines, users, strict=True):
        each.send(vend(user))
    until(lambda: time.monotonic() > stopped + 0.2)  # so that it sees the signal before it looks at anything else
    server.signal(signal.SIGTERM)
    server.signal(signal.SIGCONT)
    assert [each.answer()[0] for each in lines] == [200] * 50
    assert unused.ended()
    for each in (*lines, unused):
        each.close()
    assert server.ended() == 0


def test_a_connection_nobody_uses_does_not_keep_the_server(server: Pluct, line: Callable[[], Line]) -> None:
    """It is closed by the server, once nothing has come for a moment."""
    idle, unused = line(), line()
    idle.ask()
    told_to_stop(server)
    assert idle.ended() and unused.ended()
    assert server.ended() == 0


def test_a_balancer_is_told_before_connections_are_refused(make_pluct: Callable[..., Pluct]) -> None:
    """With `--drain`, the readiness check fails at once, while everything else goes on, each answer being the last."""
    server = make_pluct()
    server.start("--drain", "2")
    user = server.funded(1)
    with closing(Line(server)) as idle:
        assert "connection" not in idle.ask()[1]
        assert server.client.get("/health/ready").status_code == 200
        server.signal(signal.SIGTERM)
        until(lambda: server.client.get("/health/ready").status_code == 503)
        answer = server.client.get("/health/ready")
        assert "shutting down" in refused(answer, 503, "unavailable")["detail"]
        assert answer.headers["retry-after"] and answer.headers["connection"] == "close"
        assert server.client.get("/health/live").status_code == 200
        assert server.post("/vend-token", {"userId": user}).status_code == 200
        assert idle.ask()[1]["connection"] == "close" and idle.ended()
        assert server.ended() == 0


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGINT], [signal.SIGTERM, signal.SIGTERM]])
def test_it_ends_well(server: Pluct, signals: list[int]) -> None:
    """Exit status 0, whichever signal, and however often; what was answered is there the next time."""
    user = server.funded(3)
    for number in signals:
        server.signal(number)
    assert server.ended() == 0
    server.start()
    assert server.available(user) == 3
