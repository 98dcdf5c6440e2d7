"""The gate when something fails: the backend, the client, the engine, itself. Each ticket is still settled once."""

import json
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from conftest import Pluct, until
from gating import OK, TOML, Backend, Gate, Till, Wire, World, a_world, answered, gate_before, request

Make = Callable[..., Pluct]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """What the tests here share."""
    with a_world(tmp_path_factory.mktemp("gate")) as made:
        yield made


@pytest.fixture
def backend() -> Iterator[Backend]:
    """A backend of the test's own."""
    made = Backend()
    yield made
    made.close()


def code(body: bytes) -> str:
    found: str = json.loads(body)["code"]
    return found


# The backend


def test_a_backend_that_is_away(world: World) -> None:
    """502, and the credits go back."""
    gone = Backend()
    gone.close()
    vended = world.till.vend()
    with gate_before(world.engine, gone.url) as gate, gate.connect() as client:
        client.send(request(vended))
        status, _, body = client.answer()
        assert (status, code(body)) == (502, "unavailable") and b"go back" in body
        assert world.till.settled(vended) == ("voided", 0, 5)
    assert world.till.reasons(vended) == ["The backend failed: it could not be reached."]


def test_a_backend_that_is_silent(world: World) -> None:
    """504 after its time, and the credits go back; the backend is hung up on."""
    vended = world.till.vend()
    with world.gate.connect() as client:
        client.send(request(vended))
        with world.backend.take() as wire:
            wire.head()
            status, _, body = client.answer()
            assert (status, code(body)) == (504, "unavailable")
            assert wire.broken_off()
    assert world.till.settled(vended) == ("voided", 0, 5)
    assert world.till.reasons(vended) == ["The backend failed: it did not answer in time."]


BROKEN = {
    "nothing at all": b"",
    "half a head": b"HTTP/1.1 200 OK\r\ncontent-le",
    "another language": b"SSH-2.0-OpenSSH_9.2\r\n",
    "a switch of protocols": b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nhi!",
    "both lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "a head without an end": b"HTTP/1.1 200 OK\r\n" + b"x-a: b\r\n" * 40_000,
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_backend_whose_answer_is_none(world: World, what: str) -> None:
    """502, and the credits go back."""
    vended = world.till.vend()
    with world.gate.connect() as client:
        client.send(request(vended, "POST / HTTP/1.1", "content-length: 1", body=b"x"))
        with world.backend.take() as wire:
            wire.head()
            wire.exactly(1)
            try:
                wire.send(BROKEN[what])
            except ConnectionError:
                assert what == "a head without an end"
            wire.close()
            status, _, body = client.answer()
    assert (status, code(body)) == (502, "unavailable")
    assert world.till.settled(vended) == ("voided", 0, 5)


@pytest.mark.parametrize("length", ["content-length: 100", "transfer-encoding: chunked"])
@pytest.mark.parametrize("how", [Wire.close, Wire.reset])
def test_a_backend_that_dies_in_its_answer(world: World, length: str, how: Callable[[Wire], None]) -> None:
    """The client's answer breaks off, so that nobody takes it for a whole one, and the credits go back."""
    vended = world.till.vend()
    with world.gate.connect() as client:
        client.send(request(vended))
        with world.backend.take() as wire:
            wire.head()
            wire.send(f"HTTP/1.1 200 OK\r\n{length}\r\n\r\n5\r\nhello\r\n".encode())
            client.head()
            how(wire)
            assert client.broken_off()
    assert world.till.settled(vended) == ("voided", 0, 5)
    assert world.till.reasons(vended) == ["The backend failed: it broke off."]


def test_a_backend_that_stops_reading(world: World) -> None:
    """It takes no more of the body: 504 after its time, and the credits go back."""
    vended = world.till.vend()
    with world.gate.connect() as client:
        client.send(request(vended, "POST / HTTP/1.1", "content-length: 1000000"))
        with world.backend.take() as wire, ThreadPoolExecutor(1) as pool:
            wire.head()
            wire.socket.shutdown(0)  # it reads no more, and says nothing
            sending = pool.submit(client.send, bytes(1_000_000))
            status = client.answer()[0]
            sending.exception()
    assert status in (502, 504)
    assert world.till.settled(vended) == ("voided", 0, 5)


# The client


@pytest.mark.parametrize("how", [Wire.close, Wire.reset])
def test_a_client_that_leaves_before_the_answer(world: World, how: Callable[[Wire], None]) -> None:
    """The backend is hung up on, and the credits go back: nobody has had anything."""
    vended = world.till.vend()
    with world.gate.connect() as client:
        client.send(request(vended))
        with world.backend.take() as wire:
            wire.head()
            how(client)
            assert wire.broken_off()
    assert world.till.settled(vended) == ("voided", 0, 5)


def test_a_client_that_leaves_in_its_answer(world: World) -> None:
    """The work was done: it is captured."""
    vended = world.till.vend()
    with world.gate.connect() as client:
        client.send(request(vended))
        with world.backend.take() as wire:
            wire.head()
            wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhello")
            client.head()
            client.reset()
            assert wire.broken_off()
    assert world.till.settled(vended) == ("captured", 5, 0)


def test_a_client_that_never_ends_its_body(world: World) -> None:
    """It is told so after its time, and the credits go back."""
    vended = world.till.vend()
    with world.gate.connect() as client:
        client.send(request(vended, "POST / HTTP/1.1", "content-length: 10", body=b"hello"))
        with world.backend.take() as wire:
            wire.head()
            status, _, body = client.answer()
    assert (status, json.loads(body)["detail"]) == (400, "The body did not come in time.")
    assert world.till.settled(vended) == ("voided", 0, 5)


# The engine


def test_an_engine_that_is_away(make_pluct: Make, backend: Backend) -> None:
    """503, nothing is forwarded, and the ticket is as good as before once the engine is back."""
    engine = make_pluct(toml=TOML)
    engine.start()
    till, port = Till(engine), engine.url.rpartition(":")[2]
    vended = till.vend()
    with gate_before(engine, backend.url, "--engine-seconds", "1") as gate:
        engine.stop(signal.SIGKILL)
        with gate.connect() as client:
            client.send(request(vended))
            status, headers, body = client.answer()
        assert (status, code(body)) == (503, "unavailable") and headers["retry-after"] == ["1"]
        assert backend.nobody_came()
        engine.start("--port", port)
        World(engine, till, backend, gate).pass_through(request(vended), OK)
        assert till.settled(vended) == ("captured", 5, 0)


@pytest.mark.parametrize(
    ("status", "settled"), [("200 OK", ("captured", 5, 0)), ("500 Oops", ("voided", 0, 5))], ids=["well", "badly"]
)
def test_an_engine_that_dies_while_the_backend_works(
    make_pluct: Make, backend: Backend, status: str, settled: tuple[str, int, int]
) -> None:
    """The client has its answer; the ticket is settled once the engine is back."""
    engine = make_pluct(toml=TOML)
    engine.start()
    till, port = Till(engine), engine.url.rpartition(":")[2]
    vended = till.vend()
    with gate_before(engine, backend.url, "--engine-seconds", "1") as gate, gate.connect() as client:
        client.send(request(vended))
        with backend.take() as wire:
            wire.head()
            engine.stop(signal.SIGKILL)
            wire.send(answered(status))
            assert client.answer()[0] == int(status[:3])
        until(lambda: "is asked again" in gate.log)
        engine.start("--port", port)
        assert till.settled(vended) == settled


def test_an_engine_that_hangs(make_pluct: Make, backend: Backend) -> None:
    """Nobody knows whether the ticket was used: 503, nothing is forwarded, and its credits go back."""
    engine = make_pluct(toml=TOML)
    engine.start()
    till = Till(engine)
    vended = till.vend()
    with gate_before(engine, backend.url, "--engine-seconds", "0.3") as gate:
        engine.signal(signal.SIGSTOP)
        with gate.connect() as client:
            client.send(request(vended))
            assert client.answer()[0] == 503
        engine.signal(signal.SIGCONT)
        assert till.settled(vended)[0] == "voided" and backend.nobody_came()
        assert till.engine.available(vended["userId"]) == 100


@pytest.mark.parametrize("role", ["mint", "none"])
def test_a_key_the_engine_does_not_take(make_pluct: Make, backend: Backend, role: str) -> None:
    """The gate does not start, and says why."""
    engine = make_pluct(toml=TOML)
    engine.start()
    key = engine.key(role)["Authorization"].removeprefix("Bearer ") if role != "none" else "pluct_service_" + "x" * 43
    ended = engine.run(
        "gate", "--upstream", backend.url, "--engine", engine.url, "--action", "transcribe", "--listen",
        "127.0.0.1:0", PLUCT_SERVICE_KEY=key, exit_code=2,
    )  # fmt: skip
    assert "The engine does not take PLUCT_SERVICE_KEY" in ended.stderr and key not in ended.stderr


def test_what_is_no_engine(world: World, backend: Backend) -> None:
    """It is said at once, as are arguments that cannot be."""
    key = world.engine.key("service")["Authorization"].removeprefix("Bearer ")
    asked = {"--upstream": backend.url, "--engine": world.engine.url, "--action": "transcribe", "--listen": "[::1]:0"}
    for option, value, part in (
        ("--upstream", "ftp://x", "must be http://host:port"), ("--engine", "http://u:p@x", "must be http://host:port"),
        ("--listen", "here", "--listen must be HOST:PORT"),
        ("--engine", world.engine.url + "/x", "There is no Pluct engine"), ("--action", "x\ny", "--action must be"),
    ):  # fmt: skip
        arguments = [word for pair in (asked | {option: value}).items() for word in pair]
        ended = world.engine.run("gate", *arguments, PLUCT_SERVICE_KEY=key, exit_code=2)
        assert part in ended.stderr and "Traceback" not in ended.stderr
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        arguments = [word for pair in (asked | {"--listen": place}).items() for word in pair]
        ended = world.engine.run("gate", *arguments, PLUCT_SERVICE_KEY=key, exit_code=2)
    assert "choose another with --listen" in ended.stderr and "--port" not in ended.stderr
    assert ended.stderr.count("127.0.0.1") == 1
    ended = world.engine.run("gate", *[word for pair in asked.items() for word in pair], exit_code=2)
    assert "PLUCT_SERVICE_KEY must be set" in ended.stderr


# The gate


def test_a_gate_that_is_killed(make_pluct: Make, backend: Backend) -> None:
    """What it had let through is settled by the engine: its credits go back when the report is overdue, once."""
    engine = make_pluct(toml=TOML.replace("report_seconds = 600", "report_seconds = 1"))
    engine.start()
    till = Till(engine)
    vended = till.vend()
    gate = Gate(engine, backend.url)
    with gate.connect() as client:
        client.send(request(vended))
        with backend.take() as wire:
            wire.head()
            gate.stop(signal.SIGKILL)
            assert wire.broken_off()
    assert till.settled(vended) == ("expired", 0, 5) and engine.available(vended["userId"]) == 100
    with gate_before(engine, backend.url) as another, another.connect() as client:
        client.send(request(vended))
        assert client.answer()[0] == 409  # used is used
    assert backend.nobody_came()


def test_a_gate_that_is_told_to_stop(world: World, backend: Backend) -> None:
    """What is under way is answered and settled first; nothing new is let in."""
    vended = world.till.vend()
    gate = Gate(world.engine, backend.url)
    with gate.connect() as client:
        client.send(request(vended))
        with backend.take() as wire:
            wire.head()
            gate.process.send_signal(signal.SIGTERM)
            until(lambda: _refuses(gate))
            wire.send(OK)
            assert client.answer()[::2] == (200, b"hi")
    assert gate.ended() == 0
    assert world.till.ticket(vended["ticketId"])["state"] == "captured"  # before it ended


def _refuses(gate: Gate) -> bool:
    try:
        gate.connect().close()
    except ConnectionError:
        return True
    return False
