"""What passes through the gate, byte for byte: headers both ways, bodies as they come, connections that are kept."""

from collections.abc import Iterator

import pytest

from conftest import until
from gating import OK, World, a_world, answered, gate_before, request


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """What the tests here share."""
    with a_world(tmp_path_factory.mktemp("gate")) as made:
        yield made


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


# Bodies


def test_a_body_is_there_before_its_end_is_sent(world: World) -> None:
    """The backend has the first part while the client has not sent the last."""
    vended = world.till.vend()
    with world.gate.connect() as client:
        client.send(request(vended, "POST /up HTTP/1.1", "transfer-encoding: chunked", body=b"5\r\nfirst\r\n"))
        with world.backend.take() as wire:
            assert wire.head()[1]["transfer-encoding"] == ["chunked"]
            assert wire.chunk() == b"first"
            client.send(b"4\r\nlast\r\n0\r\n\r\n")
            assert (wire.chunk(), wire.chunk()) == (b"last", b"")
            wire.send(OK)
            assert client.answer()[::2] == (200, b"hi")
    assert world.till.settled(vended) == ("captured", 5, 0)


def test_a_body_of_a_known_length_is_streamed_too(world: World) -> None:
    """And it keeps its length."""
    vended = world.till.vend()
    with world.gate.connect() as client:
        client.send(request(vended, "PUT /up HTTP/1.1", "content-length: 9", body=b"first"))
        with world.backend.take() as wire:
            assert wire.head()[1]["content-length"] == ["9"]
            assert wire.exactly(5) == b"first"
            client.send(b"last")
            assert wire.exactly(4) == b"last"
            wire.send(OK)
            assert client.answer()[0] == 200


def test_an_answer_is_there_before_its_end_is_sent(world: World) -> None:
    """First the head, then each part; the ticket is open until the end."""
    vended = world.till.vend()
    with world.gate.connect() as client:
        client.send(request(vended))
        with world.backend.take() as wire:
            wire.head()
            wire.send(CHUNKED)
            assert client.head()[0] == "HTTP/1.1 200 OK"
            wire.send(b"5\r\nfirst\r\n")
            assert client.chunk() == b"first"
            assert world.till.state(vended) == "redeemed"
            wire.send(b"4\r\nlast\r\n0\r\n\r\n")
            assert (client.chunk(), client.chunk()) == (b"last", b"")
    assert world.till.settled(vended) == ("captured", 5, 0)


def test_both_ways_at_once(world: World) -> None:
    """The backend answers each part before the client sends the next."""
    vended = world.till.vend()
    with world.gate.connect() as client:
        client.send(request(vended, "POST /echo HTTP/1.1", "transfer-encoding: chunked"))
        with world.backend.take() as wire:
            wire.head()
            wire.send(CHUNKED)
            client.head()
            for number in range(5):
                part = b"%d" % number
                client.send(b"1\r\n%b\r\n" % part)
                assert wire.chunk() == part
                wire.send(b"1\r\n%b\r\n" % part)
                assert client.chunk() == part
            client.send(b"0\r\n\r\n")
            assert wire.chunk() == b""
            wire.send(b"0\r\n\r\n")
            assert client.chunk() == b""
    assert world.till.settled(vended) == ("captured", 5, 0)


def test_an_answer_nobody_reads_is_not_gathered(world: World) -> None:
    """The backend can send no more than a few megabytes, however much it has: the kernel's buffers, and a window."""
    vended = world.till.vend()
    with world.gate.connect() as client:
        client.send(request(vended))
        with world.backend.take() as wire:
            wire.head()
            wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n")
            wire.socket.settimeout(0.3)
            sent = 0
            with pytest.raises(TimeoutError):
                while sent < 100_000_000:
                    sent += wire.socket.send(bytes(65536))
            assert sent < 30_000_000


def test_a_client_that_stops_reading_is_let_go(world: World) -> None:
    """After its time; the backend had answered well, so it is captured."""
    vended = world.till.vend()
    with world.gate.connect() as client:
        client.send(request(vended))
        with world.backend.take() as wire:
            wire.head()
            wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n")
            with pytest.raises(ConnectionError):
                while True:
                    wire.send(bytes(65536))
    assert world.till.settled(vended) == ("captured", 5, 0)


def test_a_long_body_arrives_whole_both_ways(world: World) -> None:
    """A megabyte up, as chunks of odd sizes, and down again."""
    vended = world.till.vend()
    body = bytes(range(256)) * 3900
    parts = [body[at : at + 7919] for at in range(0, len(body), 7919)]
    with world.gate.connect() as client:
        client.send(request(vended, "POST / HTTP/1.1", "transfer-encoding: chunked"))
        with world.backend.take() as wire:
            wire.head()
            got = b""
            for part in parts:
                client.send(b"%x;name=value\r\n%b\r\n" % (len(part), part))
            client.send(b"0\r\nx-pluct-user: admin\r\netag: 3\r\n\r\n")
            while part := wire.chunk():
                got += part
            assert got == body and wire.exactly(0) == b""
            wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body))
            wire.send(body)
            assert client.answer()[2] == body


def test_an_answer_that_ends_with_its_connection(world: World) -> None:
    """It has no length: to an old backend, the end of the connection is the end of the answer."""
    vended = world.till.vend()
    with world.gate.connect() as client:
        client.send(request(vended))
        with world.backend.take() as wire:
            wire.head()
            wire.send(b"HTTP/1.0 200 OK\r\n\r\nsome words")
        status, headers, body = client.answer()
    assert (status, headers["transfer-encoding"], body) == (200, ["chunked"], b"some words")
    assert world.till.settled(vended) == ("captured", 5, 0)


def test_an_old_client_is_understood(world: World) -> None:
    """Without chunks: the end of the connection is the end of the answer."""
    vended = world.till.vend()
    with world.gate.connect() as client:
        client.send(request(vended, "GET / HTTP/1.0"))
        with world.backend.take() as wire:
            assert wire.head()[0] == "GET / HTTP/1.1"
            wire.send(CHUNKED + b"5\r\nhello\r\n0\r\n\r\n")
            _, headers = client.head()
            assert "transfer-encoding" not in headers and headers["connection"] == ["close"]
            assert client.rest() == b"hello"
    assert world.till.settled(vended) == ("captured", 5, 0)


def test_a_client_is_told_to_go_on_once_its_ticket_is_good(world: World) -> None:
    """Expect: 100-continue is answered by the gate, after the ticket has been redeemed, and goes no further."""
    vended = world.till.vend()
    more = ("content-length: 4", "expect: 100-continue")
    with world.gate.connect() as client:
        client.send(request(vended, "POST / HTTP/1.1", *more))
        assert client.head()[0] == "HTTP/1.1 100 Continue"
        assert world.till.state(vended) == "redeemed"
        with world.backend.take() as wire:
            assert "expect" not in wire.head()[1]
            client.send(b"body")
            assert wire.exactly(4) == b"body"
            wire.send(OK)
            assert client.answer()[0] == 200
    with world.gate.connect() as client:
        client.send(request(vended, "POST / HTTP/1.1", *more))
        assert client.answer()[0] == 409
        assert client.rest() == b""  # the body was never asked for


def test_words_in_between_are_for_the_gate(world: World) -> None:
    """An answer may be preceded by 1xx ones; a backend that switches to another protocol has broken off."""
    vended = world.till.vend()
    with world.gate.connect() as client:
        client.send(request(vended))
        with world.backend.take() as wire:
            wire.head()
            wire.send(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + OK)
            assert client.answer()[::2] == (200, b"hi")
    vended = world.till.vend()
    with world.gate.connect() as client:
        client.send(request(vended))
        with world.backend.take() as wire:
            wire.head()
            wire.send(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nhi")
            assert client.answer()[0] == 502
    assert world.till.settled(vended) == ("voided", 0, 5)


def test_head(world: World) -> None:
    """The length of what is not sent, and nothing of it."""
    with world.gate.connect() as client:
        for _ in range(2):
            client.send(request(world.till.vend(), "HEAD / HTTP/1.1"))
            with world.backend.take() as wire:
                wire.head()
                wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
                assert client.head()[1]["content-length"] == ["1000"]
        client.send(b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert client.head()[0] == "HTTP/1.1 401 Unauthorized"
        client.send(request(world.till.vend(), "GET / HTTP/1.1"))
        with world.backend.take() as wire:
            wire.head()
            wire.send(OK)
            assert client.answer()[::2] == (200, b"hi")


# Headers


def test_what_is_for_the_next_server_only_stays_behind(world: World) -> None:
    """Hop-by-hop headers, and those that Connection names, in both directions."""
    hops = ("connection: keep-alive, x-hop", "x-hop: 1", "keep-alive: 5", "te: trailers", "proxy-connection: y",
            "proxy-authorization: Basic x", "trailer: z")  # fmt: skip
    with world.gate.connect() as client:
        client.send(request(world.till.vend(), "GET / HTTP/1.1", *hops, "x-kept: 1"))
        with world.backend.take() as wire:
            got = wire.head()[1]
            wire.send(answered("200 OK", "connection: close, x-back", "x-back: 1", "keep-alive: 5", "upgrade: h2c",
                               "proxy-authenticate: x", "x-kept: 2"))  # fmt: skip
            back = client.answer()[1]
    names = {"x-hop", "keep-alive", "te", "proxy-authorization", "proxy-connection", "trailer", "connection"}
    assert not names & set(got) and got["x-kept"] == ["1"]
    assert not {"connection", "x-back", "keep-alive", "upgrade", "proxy-authenticate"} & set(back)
    assert back["x-kept"] == ["2"]


def test_nobody_speaks_for_the_gate(world: World) -> None:
    """What the client calls X-Pluct-…, in whatever spelling, does not pass; nor what it says of its own address."""
    vended = world.till.vend()
    lies = ("X-Pluct-User: admin", "x_pluct_user: admin", "X-PLUCT_Ticket: t", "x-pluct-action: a", "x-pluct-more: b",
            "x-forwarded-for: 6.6.6.6", "x_forwarded_for: 6.6.6.6", "x-forwarded-proto: https", "x-real-ip: 6.6.6.6",
            "x-forwarded-host: evil.example", "forwarded: for=6.6.6.6", "content_length: 5",
            "transfer_encoding: chunked")  # fmt: skip
    _, got = world.pass_through(request(vended, "GET / HTTP/1.1", *lies), OK)
    assert {name: value for name, value in got.items() if "pluct" in name and name != "via"} == {
        "x-pluct-user": [vended["userId"]], "x-pluct-ticket": [vended["ticketId"]], "x-pluct-action": ["transcribe"],
    }  # fmt: skip
    assert {name: value for name, value in got.items() if "forwarded" in name or "ip" in name or "_" in name} == {
        "x-forwarded-for": ["127.0.0.1"], "x-forwarded-proto": ["http"], "x-forwarded-host": ["shop.example"],
    }  # fmt: skip
    assert got["via"] == ["1.1 pluct-gate"] and "content-length" not in got and "transfer-encoding" not in got


def test_a_proxy_in_front_is_believed_if_it_is_said_to_be_there(world: World) -> None:
    """It says who asked and how, and the gate adds the proxy."""
    with gate_before(world.engine, world.backend.url, "--behind-proxy") as gate:
        given = ("x-forwarded-for: 41.90.0.1", "x-forwarded-proto: https", "x-forwarded-host: a.example")
        _, got = world._replace(gate=gate).pass_through(request(world.till.vend(), "GET / HTTP/1.1", *given), OK)
    assert got["x-forwarded-for"] == ["41.90.0.1, 127.0.0.1"]
    assert (got["x-forwarded-proto"], got["x-forwarded-host"]) == (["https"], ["a.example"])


@pytest.mark.parametrize(
    ("user_id", "header"),
    [
        ("amina", "amina"),
        ("+254 712", "+254%20712"),
        ("a/b@c.example?d=e&f", "a/b@c.example?d=e&f"),
        ("100%", "100%25"),
        ("Zoë", "Zo%C3%AB"),
        ("李雷", "%E6%9D%8E%E9%9B%B7"),
        ("☕" * 200, "%E2%98%95" * 200),
    ],
)
def test_a_user_id_fits_its_header(world: World, user_id: str, header: str) -> None:
    """Visible ASCII as it is; anything else, and %, as percent-encoded UTF-8."""
    assert world.engine.fund(user_id, 100).status_code == 200
    _, got = world.pass_through(request(world.till.vend(user_id=user_id)), OK)
    assert got["x-pluct-user"] == [header]


def test_headers_are_bytes(world: World) -> None:
    """What is no UTF-8 passes as it is, in both directions; a header that comes twice comes twice."""
    with world.gate.connect() as client:
        client.send(request(world.till.vend(), "GET /\xff HTTP/1.1".replace("\xff", "%FF"), "x-name: Zo\xeb"))
        with world.backend.take() as wire:
            assert wire.head()[1]["x-name"] == ["Zo\xeb"]
            wire.send(answered("200 OK", "x-name: Zo\xeb", "set-cookie: a=1", "set-cookie: b=2", "server: old/1"))
            back = client.answer()[1]
    assert (back["x-name"], back["set-cookie"], back["server"]) == (["Zo\xeb"], ["a=1", "b=2"], ["old/1"])


def test_a_request_has_one_id_everywhere(world: World) -> None:
    """The client's own, or a new one; the backend and the log have it too."""
    with world.gate.connect() as client:
        client.send(request(world.till.vend(), "GET / HTTP/1.1", "x-request-id: abc-1"))
        with world.backend.take() as wire:
            assert wire.head()[1]["x-request-id"] == ["abc-1"]
            wire.send(OK)
            assert client.answer()[1]["x-request-id"] == ["abc-1"]
    assert world.gate.line('"abc-1"')["status"] == 200


def test_the_upstream_may_have_a_path(world: World) -> None:
    """Every address begins with it."""
    with gate_before(world.engine, world.backend.url + "/base/") as gate:
        first, _ = world._replace(gate=gate).pass_through(request(world.till.vend(), "GET /a/../b HTTP/1.1"), OK)
    assert first == "GET /base/a/../b HTTP/1.1"


# Connections


KEPT = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"


def test_connections_are_kept_on_both_sides(world: World) -> None:
    """Several requests on one, each with a ticket of its own; also when they come all at once."""
    vended = [world.till.vend() for _ in range(5)]
    with world.gate.connect() as client:
        client.send(request(vended[0]))
        with world.backend.take() as wire:
            wire.head()
            wire.send(KEPT)
            assert client.answer()[::2] == (200, b"hi")
            client.send(b"".join(request(each, f"GET /{n} HTTP/1.1") for n, each in enumerate(vended[1:])))
            for number in range(4):
                assert wire.head()[0] == f"GET /{number} HTTP/1.1"
                wire.send(KEPT)
                assert client.answer()[::2] == (200, b"hi")
    assert [world.till.settled(each)[0] for each in vended] == ["captured"] * 5
    assert world.backend.nobody_came()


@pytest.mark.parametrize(("method", "again"), [("GET", True), ("POST", False)])
def test_a_kept_connection_that_the_backend_closes(world: World, method: str, again: bool) -> None:
    """Closed in the moment it is used again: what changes nothing is sent once more, what may is not."""
    with world.gate.connect() as client:
        client.send(request(world.till.vend()))
        with world.backend.take() as wire:
            wire.head()
            wire.send(KEPT)
            assert client.answer()[0] == 200
            vended = world.till.vend()
            client.send(request(vended, f"{method} / HTTP/1.1"))
            wire.head()
        if again:
            with world.backend.take() as wire:
                wire.head()
                wire.send(OK)
                assert client.answer()[0] == 200
        else:
            assert client.answer()[0] == 502
    assert world.till.settled(vended)[0] == ("captured" if again else "voided")
    assert world.backend.nobody_came()


def test_what_a_backend_says_unasked_is_nobody_s_answer(world: World) -> None:
    """A second answer after the first: the connection is not used again."""
    with world.gate.connect() as client:
        client.send(request(world.till.vend()))
        with world.backend.take() as wire:
            wire.head()
            wire.send(KEPT + b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil")
            assert client.answer()[::2] == (200, b"hi")
            assert wire.broken_off()
        client.send(request(world.till.vend()))
        with world.backend.take() as wire:
            wire.head()
            wire.send(OK)
            assert client.answer()[::2] == (200, b"hi")


def test_a_backend_that_answers_early(world: World) -> None:
    """It has seen enough of the body: the client reads why, and its connection ends."""
    vended = world.till.vend()
    with world.gate.connect() as client:
        client.send(request(vended, "POST / HTTP/1.1", "content-length: 900000", body=b"x" * 1000))
        with world.backend.take() as wire:
            wire.head()
            wire.exactly(1000)
            wire.send(answered("413 Too Large", body=b"no more"))
            status, headers, body = client.answer()
            assert (status, body, headers["connection"]) == (413, b"no more", ["close"])
            client.send(b"x" * 10_000)
            assert client.rest() == b""
    assert world.till.settled(vended) == ("voided", 0, 5)


def test_every_connection_to_the_backend_ends_with_the_gate(world: World) -> None:
    """None is left behind."""
    with gate_before(world.engine, world.backend.url) as gate, gate.connect() as client:
        client.send(request(world.till.vend()))
        with world.backend.take() as wire:
            wire.head()
            wire.send(KEPT)
            assert client.answer()[0] == 200
            assert gate.stop() == 0
            assert until(wire.broken_off)
