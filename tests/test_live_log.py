"""The live log: what is answered, as it is, of all processes, to whoever watches, and no secret in it."""

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from conftest import Pluct, refused, until
from pluct.live_log import OUTCOMES, SHOWN_MAX, UNREAD_BYTES_MAX, WATCHERS_MAX, Filter, _Watcher
from pluct.observe import Event
from postgres import fresh_database

Make = Callable[..., Pluct]


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, make_pluct: Make) -> Pluct:
    """A server over either database; two processes of it over PostgreSQL."""
    place = {}
    if request.param == "postgresql":
        place = {"DATABASE_URL": fresh_database(request.getfixturevalue("postgresql_url"))}
    pluct = make_pluct(**place)
    pluct.start(*(["--workers", "2"] if place else []))
    return pluct


class Watching:
    """Somebody who watches, in a thread."""

    def __init__(self, engine: Pluct, key: dict[str, str], **query: str) -> None:
        self.got: list[dict[str, Any]] = []
        self.raw = ""
        self.open, self.ended = threading.Event(), threading.Event()
        self._client = httpx.Client(base_url=engine.url, timeout=30)
        self._thread = threading.Thread(target=self._run, args=(key, query))
        self._thread.start()
        assert self.open.wait(10)

    def _run(self, key: dict[str, str], query: dict[str, str]) -> None:
        try:
            with self._client.stream("GET", "/v1/log", params=query, headers=key) as answer:
                assert answer.headers["content-type"] == "text/event-stream", answer.headers
                for line in answer.iter_lines():
                    self.raw += line + "\n"
                    self.open.set()
                    if line.startswith("data: "):
                        self.got.append(json.loads(line.removeprefix("data: ")))
        except httpx.HTTPError:
            pass  # the server was stopped, or the test has ended
        finally:
            self.ended.set()

    def of(self, user: str) -> list[dict[str, Any]]:
        return [event for event in self.got if event.get("userId") == user]

    def close(self) -> None:
        self._client.close()
        self._thread.join(10)


@contextmanager
def watching(engine: Pluct, key: dict[str, str] | None = None, **query: str) -> Iterator[Watching]:
    found = Watching(engine, key or engine.key("operator"), **query)
    try:
        yield found
    finally:
        found.close()


def test_what_is_answered_is_shown(engine: Pluct) -> None:
    """By whichever process, within a moment, with nothing secret in it."""
    key, user = engine.key("operator"), engine.funded(100)
    with watching(engine, key) as log:
        headers = {"Connection": "close"}

        def seen() -> bool:
            engine.post("/vend-token", {"userId": user}, headers)  # on a new connection: to either process
            processes = {event["requestId"].partition("-")[0] for event in log.of(user)}
            return len(processes) == (2 if "DATABASE_URL" in engine.environment else 1)

        assert until(seen, 30)
        token = engine.post("/vend-token", {"userId": user}).json()["token"]
        assert engine.post("/v1/vend-token", {"userId": "nobody"}).status_code == 402
        assert until(lambda: log.of("nobody"), 10)
        event = log.of(user)[0]
        assert (event["route"], event["status"], event["method"]) == ("/vend-token", 200, "POST") and event["ms"] > 0
        assert log.of("nobody")[0]["code"] == "insufficient_credits"
        secret = key["Authorization"].removeprefix("Bearer ")
        assert token not in log.raw and secret not in log.raw and "eyJ" not in log.raw


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ({"user": "amina"}, {("amina", 200), ("amina", 402)}),
        ({"outcome": "refused"}, {("amina", 402), ("juma", 402)}),
        ({"outcome": "insufficient_credits", "user": "juma"}, {("juma", 402)}),
        ({"route": "/v1/credits/balance"}, {("amina", 200)}), ({"outcome": "failed"}, set()),
    ],
)  # fmt: skip
def test_a_watcher_says_what_to_show(make_pluct: Make, query: dict[str, str], shown: set[tuple[str, int]]) -> None:
    """By user, by route, by outcome."""
    engine = make_pluct()
    engine.start()
    key = engine.key("operator")
    with watching(engine, key) as everything, watching(engine, key, **query) as log:
        for user in ("amina", "juma"):
            engine.post("/v1/vend-token", {"userId": user})
        engine.client.get("/v1/credits/balance", params={"userId": "amina"})
        assert until(lambda: len(everything.got) >= 4, 10)  # both vends, the balance, and the other watcher's request
        engine.post("/v1/vend-token", {"userId": "amina", "action": "nothing"})
        assert until(lambda: [e for e in everything.got if e.get("code") == "invalid_request"], 10)
        found = {(event.get("userId", ""), event["status"]) for event in log.got}
        assert found - {("amina", 400)} == shown


def test_what_cannot_be_asked_is_refused(engine: Pluct) -> None:
    """Only operators may; a filter is a text, and an outcome one that there is."""
    refused(engine.client.get("/v1/log", headers=engine.key("service")), 403, "forbidden")
    refused(engine.client.get("/v1/log"), 401, "unauthorized")
    for query in ({"user": ""}, {"route": "x" * 201}, {"outcome": ""}):
        refused(engine.client.get("/v1/log", params=query, headers=engine.key("operator")), 400, "invalid_request")
    with engine.client.stream("GET", "/v1/log?outcome=zz", headers=engine.key("operator")) as answer:
        assert answer.status_code == 400
        answer.read()
    refused(answer, 400, "invalid_request")
    for one in ("ok", "refused", "failed", "insufficient_credits"):
        assert one in answer.json()["detail"]
    said = engine.run("log", "--follow", "--outcome", "zz", "--url", engine.url, exit_code=1).stderr
    assert "outcome must be one of ok, refused, failed" in said
    head = engine.client.head("/v1/log", headers=engine.key("operator"))
    assert (head.status_code, head.headers["content-type"], head.content) == (200, "text/event-stream", b"")


def test_too_many_watchers_are_told_so(make_pluct: Make) -> None:
    """Fifty and more are no trouble; whoever leaves makes room; and a server that stops lets go of all."""
    engine = make_pluct()
    engine.start()
    key, user = engine.key("operator"), engine.funded(200)
    watchers = [Watching(engine, key) for _ in range(WATCHERS_MAX)]
    refused(engine.client.get("/v1/log", headers=key), 503, "unavailable")
    for _ in range(20):
        engine.post("/vend-token", {"userId": user})
    assert until(lambda: all(len(watcher.of(user)) == 20 for watcher in watchers), 20)
    watchers.pop().close()

    def room() -> bool:
        with engine.client.stream("GET", "/v1/log", headers=key) as answer:
            return answer.status_code == 200

    assert until(room, 20)
    assert engine.stop() == 0
    for watcher in watchers:
        assert watcher.ended.wait(10)
        watcher.close()


def test_more_than_anybody_reads_is_counted(make_pluct: Make) -> None:
    """Of a tick so many are shown, and it is said how many more there were: nothing is lost without a word."""
    engine = make_pluct()
    engine.start()
    user = engine.funded(2_000)
    with watching(engine, user=user) as log:
        address = httpx.URL(engine.url)
        head = b"GET /v1/credits/balance?userId=%b HTTP/1.1\r\nhost: x\r\n\r\n" % user.encode()
        with socket.create_connection((address.host, address.port or 80)) as pipeline:
            pipeline.sendall(head * 500)
            got = b""
            while got.count(b"HTTP/1.1 200") < 500:
                got += pipeline.recv(65536)

        def told() -> int:
            return sum(event.get("lost", 1) for event in log.got)

        assert until(lambda: told() == 500, 10)
        assert SHOWN_MAX <= len(log.of(user)) < 500


def test_whoever_does_not_read_holds_up_nobody() -> None:
    """What is unread is bounded, and what was lost is said."""
    watcher = _Watcher()
    line = b"data: " + b"x" * 1000 + b"\n\n"
    for _ in range(1000):
        watcher.put(line, 1)
    assert watcher.unread <= UNREAD_BYTES_MAX
    sent = watcher.taken()
    shown = sent.count(line)
    assert sent.endswith(b'event: lost\ndata: {"lost":%d}\n\n' % (1000 + 1000 - shown)) and watcher.unread == 0


def test_which_outcome_an_event_is() -> None:
    """As filters name it."""
    event = Event("", "", "GET", "/x", 503, 1.0, "unavailable")
    assert Filter(outcome="failed").matches(event) and Filter(outcome="unavailable").matches(event)
    assert not Filter(outcome="refused").matches(event) and not Filter(user="amina").matches(event)
    assert {"ok", "rate_limited", "internal", "stale"} < set(OUTCOMES) and len(set(OUTCOMES)) == len(OUTCOMES)


def _interruptible() -> None:
    """Shells let what runs in their background ignore Ctrl-C, and everything that is started from there, too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_the_command_follows(make_pluct: Make) -> None:
    """With a key of its own that is gone afterwards; where no server is, it says so in the end."""
    engine = make_pluct()
    engine.start()
    user = engine.funded(100)
    port = engine.url.rpartition(":")[2]
    for options in (["--json"], []):
        with subprocess.Popen(
            [sys.executable, "-u", "-m", "pluct", "log", "--follow", "--user", user, *options], cwd=engine.folder,
            env=engine.environment | {"PLUCT_PORT": port}, stdout=subprocess.PIPE, text=True,
            preexec_fn=_interruptible,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            stop = threading.Event()

            def vend(stop: threading.Event = stop) -> None:
                while not stop.wait(0.2):
                    engine.post("/vend-token", {"userId": user})

            thread = threading.Thread(target=vend)
            thread.start()
            line = process.stdout.readline()
            stop.set()
            thread.join()
            process.send_signal(signal.SIGINT)
            process.wait(20)
        assert user in line and "/vend-token" in line
        if options:
            assert json.loads(line)["userId"] == user
    named = [key for key in engine.json("keys", "list")["keys"] if key["name"].startswith("pluct log")]
    assert len(named) == 2 and all(key.get("revokedAt") for key in named)
    ended = engine.run("log", "--follow", "--url", engine.url, exit_code=1, PLUCT_OPERATOR_KEY="pluct_operator_x")
    assert "unknown or revoked" in ended.stderr
    assert "--follow" in engine.run("log", exit_code=2).stderr


@contextmanager
def followed(engine: Pluct) -> Iterator["subprocess.Popen[str]"]:
    """The command, as soon as it shows something."""
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "pluct", "log", "--follow"], cwd=engine.folder, stdout=subprocess.PIPE, text=True,
        env=engine.environment | {"PLUCT_PORT": engine.url.rpartition(":")[2]}, preexec_fn=_interruptible,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        stop = threading.Event()

        def ask() -> None:
            while not stop.wait(0.1):
                engine.client.get("/v1/credits/balance", params={"userId": "amina"})

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            assert "  GET  /v1/" in process.stdout.readline()
            yield process
        finally:
            stop.set()
            thread.join()
            process.kill()


def alive(engine: Pluct) -> list[str]:
    """The names of the command's keys that are good."""
    found = engine.json("keys", "list")["keys"]
    return [key["name"] for key in found if key["name"].startswith("pluct log") and "revokedAt" not in key]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_command_in_order(make_pluct: Make, number: int) -> None:
    """Its key is gone, as after Ctrl-C."""
    engine = make_pluct()
    engine.start()
    with followed(engine) as process:
        assert len(alive(engine)) == 1
        process.send_signal(number)
        assert process.wait(20) == 128 + number
    assert alive(engine) == []


def test_a_key_that_was_left_behind_is_revoked(make_pluct: Make) -> None:
    """By the next, once its process is no more: who watches elsewhere, or here and now, keeps theirs."""
    engine = make_pluct()
    engine.start()
    elsewhere = "pluct log, for as long as process 1 on elsewhere/000000000000 runs"
    engine.run("keys", "create", "--role", "operator", "--name", elsewhere)
    with followed(engine) as killed:
        killed.kill()
        killed.wait()
    with followed(engine) as running:
        names = alive(engine)
        assert len(names) == 2 and elsewhere in names and f"process {running.pid} on " in "".join(names)
        with followed(engine) as other:
            assert [f"process {each.pid} on " in "".join(alive(engine)) for each in (running, other)] == [True, True]


def test_what_cannot_be_followed_is_said_at_once(make_pluct: Make) -> None:
    """A key or an address that is none, and a server that is on another ledger."""
    engine, other = make_pluct(), make_pluct("other")
    assert "There is no ledger" in engine.run("log", "--follow", exit_code=2).stderr
    engine.run("migrate")
    for url in ("127.0.0.1:8787", "localhost", "ftp://127.0.0.1", "http://", "http://[", "http://x:99999", ""):
        assert "--url must be the address" in engine.run("log", "--follow", "--url", url, exit_code=2).stderr
    assert alive(engine) == []
    for key in ("pluct_operator_\u2026", "pluct operator", "x\n"):
        refused = engine.run("log", "--follow", exit_code=2, PLUCT_OPERATOR_KEY=key)
        assert "PLUCT_OPERATOR_KEY is no key" in refused.stderr
    other.start()
    refused = engine.run("log", "--follow", "--url", other.url, exit_code=2)
    assert "is on another ledger than" in refused.stderr and str(engine.database) in refused.stderr
    assert alive(engine) == []
    assert (
        "--user"
        in engine.run("log", "--follow", "--user", b"\xff".decode(errors="surrogateescape"), exit_code=1).stderr
    )
