"""The gate: what passes with a ticket and what does not, both ways, and how each ticket is settled."""

import json
from collections.abc import Iterator

import pytest

from gating import OK, World, a_world, answered, gate_before, request


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """What the tests here share."""
    with a_world(tmp_path_factory.mktemp("gate")) as made:
        yield made


def test_a_request_passes_and_is_captured(world: World) -> None:
    """The backend gets it without the ticket and with whose it is; the client gets the answer; all is captured."""
    vended = world.till.vend()
    with world.gate.connect() as client:
        client.send(request(vended, "GET /a%2Fb?c=d&e HTTP/1.1", "x-color: gr\xfcn"))
        with world.backend.take() as wire:
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
    assert world.till.settled(vended) == ("captured", 5, 0)
    line = world.gate.line(vended["ticketId"])
    assert (line["status"], line["ending"], line["userId"]) == (200, "capture", vended["userId"])
    assert vended["token"] not in world.gate.log and "pluct_service_" not in world.gate.log


# How tickets are settled


@pytest.mark.parametrize("status", ["200 OK", "201 Created", "299 Well", "301 Moved", "303 See Other"])
def test_success_is_captured(world: World, status: str) -> None:
    """2xx and 3xx."""
    vended = world.till.vend()
    world.pass_through(request(vended), answered(status))
    assert world.till.settled(vended) == ("captured", 5, 0)


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_success_without_a_body_is_captured(world: World, status: str) -> None:
    """And the next request on the same connection is another one."""
    with world.gate.connect() as client:
        for _ in range(2):
            vended = world.till.vend()
            client.send(request(vended))
            with world.backend.take() as wire:
                wire.head()
                wire.send(f"HTTP/1.1 {status}\r\netag: x\r\nconnection: close\r\n\r\n".encode())
                first, headers = client.head()
            assert first == f"HTTP/1.1 {status}" and headers["etag"] == ["x"] and "transfer-encoding" not in headers
            assert world.till.settled(vended) == ("captured", 5, 0)


@pytest.mark.parametrize("status", ["400 Bad Request", "404 Not Found", "429 Slow Down", "500 Oops", "503 Busy"])
def test_failure_is_given_back(world: World, status: str) -> None:
    """4xx and 5xx, with the reason in the history; the client gets the backend's own answer."""
    vended = world.till.vend()
    with world.gate.connect() as client:
        client.send(request(vended))
        with world.backend.take() as wire:
            wire.head()
            wire.send(answered(status, body=b"so sorry"))
            assert client.answer()[::2] == (int(status[:3]), b"so sorry")
    assert world.till.settled(vended) == ("voided", 0, 5)
    assert world.till.reasons(vended) == [f"The backend answered {status[:3]}."]
    assert world.gate.line(vended["ticketId"])["ending"] == "void"


@pytest.mark.parametrize(("action", "cost"), [("glance", 1), ("other", 2)])
@pytest.mark.parametrize("status", ["200 OK", "500 Oops"])
def test_what_was_captured_before_is_left_or_refunded(world: World, action: str, cost: int, status: str) -> None:
    """With settle = "redeem" or "vend" a success needs nothing, and a failure is a refund."""
    with gate_before(world.engine, world.backend.url, action=action) as gate:
        vended = world.till.vend(action)
        world._replace(gate=gate).pass_through(request(vended), answered(status))
        assert gate.stop() == 0  # whatever it had to settle is settled
    if status == "200 OK":
        assert world.till.settled(vended) == ("captured", cost, 0)
    else:
        assert world.till.settled(vended) == ("voided", 0, cost)
        assert world.till.engine.available(vended["userId"]) == 100


@pytest.mark.parametrize(
    ("used", "settled"),
    [
        ("3", ("captured", 3, 2)),
        ("5", ("captured", 5, 0)),
        ("0", ("voided", 0, 5)),
        ("6", ("captured", 5, 0)),
        ("-1", ("captured", 5, 0)),
        ("three", ("captured", 5, 0)),
        ("99999999999999999999999", ("captured", 5, 0)),
    ],
)
def test_a_backend_says_what_it_used(world: World, used: str, settled: tuple[str, int, int]) -> None:
    """X-Pluct-Used captures so much and returns the rest; what cannot be meant captures all. No client sees it."""
    vended = world.till.vend()
    with world.gate.connect() as client:
        client.send(request(vended))
        with world.backend.take() as wire:
            wire.head()
            wire.send(answered("200 OK", f"X-Pluct-Used: {used}"))
            assert "x-pluct-used" not in client.answer()[1]
    assert world.till.settled(vended) == settled


def test_a_ticket_passes_once(world: World) -> None:
    """Then it is refused, with the engine's own code, and the backend hears nothing."""
    vended = world.till.vend()
    world.pass_through(request(vended), OK)
    status, headers, body = world.ask(request(vended))
    assert (status, headers["content-type"]) == (409, ["application/problem+json"])
    assert json.loads(body)["code"] in ("ticket_already_redeemed", "ticket_already_settled")
    assert world.till.settled(vended) == ("captured", 5, 0)
