"""The gate: what passes with a ticket and what does not, both ways, and how each ticket is settled."""

from collections.abc import Iterator

import pytest

from conftest import Pluct, served
from gating import TOML, Backend, Gate, Till, gate_before, request


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pluct]:
    """An engine that sells the actions of these tests."""
    with served(tmp_path_factory.mktemp("engine"), TOML) as pluct:
        yield pluct


@pytest.fixture(scope="module")
def till(engine: Pluct) -> Till:
    """Its tickets."""
    return Till(engine)


@pytest.fixture(scope="module")
def shared_backend() -> Iterator[Backend]:
    """The backend behind the shared gate."""
    made = Backend()
    yield made
    made.close()


@pytest.fixture(scope="module")
def gate(engine: Pluct, shared_backend: Backend) -> Iterator[Gate]:
    """A gate with short patience."""
    options = ("--upstream-seconds", "1", "--client-seconds", "1", "--body-bytes-max", "1000000")
    with gate_before(engine, shared_backend.url, *options) as made:
        yield made


@pytest.fixture
def backend(shared_backend: Backend) -> Iterator[Backend]:
    """The backend; after each test nobody may be waiting there."""
    yield shared_backend
    assert shared_backend.nobody_came()


OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi"


def test_a_request_passes_and_is_captured(gate: Gate, backend: Backend, till: Till) -> None:
    """The backend gets it without the ticket and with whose it is; the client gets the answer; all is captured."""
    vended = till.vend()
    with gate.connect() as client:
        client.send(request(vended, "GET /a%2Fb?c=d&e HTTP/1.1", "x-color: gr\xfcn"))
        with backend.take() as wire:
            first, headers = wire.head()
            wire.send(OK)
            assert client.answer()[::2] == (200, b"hi")
    assert first == "GET /a%2Fb?c=d&e HTTP/1.1"
    assert headers["x-pluct-user"] == [vended["userId"]]
    assert headers["x-pluct-ticket"] == [vended["ticketId"]]
    assert headers["x-pluct-action"] == ["transcribe"]
    assert headers["host"] == headers["x-forwarded-host"] == ["shop.example"] and headers["x-color"] == ["gr\xfcn"]
    assert headers["x-forwarded-for"] == ["127.0.0.1"] and headers["x-forwarded-proto"] == ["http"]
    assert "authorization" not in headers and vended["token"] not in str(headers)
    assert till.settled(vended) == ("captured", 5, 0)
    line = gate.line(vended["ticketId"])
    assert (line["status"], line["ending"], line["userId"]) == (200, "capture", vended["userId"])
    assert vended["token"] not in gate.log and "pluct_service_" not in gate.log
