"""What the gate does not let through: no ticket, no good one, and requests that two servers might read differently."""

import json
from base64 import urlsafe_b64encode
from collections.abc import Iterator

import pytest

from gating import World, a_world, request


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """What the tests here share."""
    with a_world(tmp_path_factory.mktemp("gate")) as made:
        yield made


def test_who_has_no_ticket_is_asked_for_one(world: World) -> None:
    """401 with the scheme, in problem details."""
    status, headers, body = world.ask(b"GET / HTTP/1.1\r\nhost: x\r\nx-request-id: mine\r\n\r\n")
    assert (status, headers["www-authenticate"], headers["x-request-id"]) == (401, ["Bearer"], ["mine"])
    said = json.loads(body)
    assert said["code"] == "unauthorized" and said["requestId"] == "mine" and said["status"] == 401
    assert said["detail"] == "A ticket is required: Authorization: Bearer <token>."
    assert world.gate.line('"mine"')["code"] == "unauthorized"


@pytest.mark.parametrize(
    "header",
    ["Basic eDp5", "Bearer", "Bearer x", "Bearer a.b", "Bearer a.b.c.d", "Bearer a. b.c", "Bearer é.b.c",
     "Bearer " + "a" * 9000 + ".b.c"],
)  # fmt: skip
def test_what_is_no_ticket_is_refused(world: World, header: str) -> None:
    """Without asking the engine."""
    data = f"GET / HTTP/1.1\r\nhost: x\r\nauthorization: {header}\r\n\r\n".encode("latin-1")
    assert world.ask(data)[0] == 401


GLANCE = b'{"act":"glance"}'


def segment(content: bytes) -> str:
    """As tokens are written."""
    return urlsafe_b64encode(content).decode().rstrip("=")


@pytest.mark.parametrize(
    "claims",
    [b"x", b"{}", b"[]", b"null", b'"act"', b'{"act":null}', b'{"act":7}', b'{"act":["x"]}', b'{"act":"\xff"}', b"{",
     b"[" * 4000],
)  # fmt: skip
def test_what_only_looks_like_a_ticket_is_none(world: World, claims: bytes) -> None:
    """Its claims cannot be read, or name no action: 401 as without one, and the engine is not asked."""
    for token in (f"e30.{segment(claims)}.e30", "x.y.z"):
        before = world.engine.log.count("/v1/tickets")
        status, headers, body = world.ask(request({"token": token}))
        assert (status, headers["www-authenticate"], json.loads(body)["code"]) == (401, ["Bearer"], "unauthorized")
        assert json.loads(body)["detail"] == "The token is not a ticket."
        assert world.engine.log.count("/v1/tickets") == before


def test_a_readable_token_of_another_action_is_for_another_gate(world: World) -> None:
    """403, whoever signed it, and the engine is not asked."""
    before = world.engine.log.count("/v1/tickets")
    status, _, body = world.ask(request({"token": f"e30.{segment(GLANCE)}.e30"}))
    assert (status, json.loads(body)["code"]) == (403, "forbidden")
    assert world.engine.log.count("/v1/tickets") == before


def test_a_forged_ticket_is_refused(world: World) -> None:
    """One whose signature is not the engine's."""
    vended = world.till.vend()
    forged = vended | {"token": vended["token"][:-4] + "AAAA"}
    status, headers, body = world.ask(request(forged))
    assert (status, headers["www-authenticate"], json.loads(body)["code"]) == (401, ["Bearer"], "unauthorized")
    assert world.till.state(vended) == "issued"


def test_a_ticket_for_another_action_is_refused_and_stays_good(world: World) -> None:
    """It was brought to the wrong gate."""
    vended = world.till.vend("glance")
    status, _, body = world.ask(request(vended))
    assert (status, json.loads(body)["code"]) == (403, "forbidden")
    assert world.till.state(vended) == "issued"


GET, POST = (b"%s / HTTP/1.1\r\nhost: x\r\n%%b\r\n" % method for method in (b"GET", b"POST"))
SMUGGLED = {
    "both lengths": POST + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "the other way": POST + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhelloo",
    "twice the same length": POST + b"content-length: 5\r\ncontent-length: 5\r\n\r\nhello",
    "a list of lengths": POST + b"content-length: 5, 5\r\n\r\nhello",
    "a signed length": POST + b"content-length: +5\r\n\r\nhello",
    "a negative length": POST + b"content-length: -5\r\n\r\nhello",
    "a huge length": POST + b"content-length: 99999999999999999999999\r\n\r\nhello",
    "a hexadecimal length": POST + b"content-length: 0x5\r\n\r\nhello",
    "an unknown coding": POST + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "an odd coding": POST + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "two codings": POST + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "a coding in 1.0": b"POST / HTTP/1.0\r\nhost: x\r\n%b\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "a space before the colon": POST + b"content-length : 5\r\n\r\nhello",
    "a tab in a coding's name": POST + b"transfer\t-encoding: chunked\r\n\r\n0\r\n\r\n",
    "a folded header": GET + b"x-a: b\r\n c: d\r\n\r\n",
    "a bare CR in a value": GET + b"x-a: b\rx-pluct-user: admin\r\n\r\n",
    "a null in a value": GET + b"x-a: b\0c\r\n\r\n",
    "a bare LF": b"GET / HTTP/1.1\nhost: x\n%b\n\n",
    "an absolute address": b"GET http://x/ HTTP/1.1\r\nhost: x\r\n%b\r\n\r\n",
    "another host's address": b"GET http://evil.example/ HTTP/1.1\r\nhost: x\r\n%b\r\n\r\n",
    "no address": b"OPTIONS * HTTP/1.1\r\nhost: x\r\n%b\r\n\r\n",
    "a fragment": b"GET /a#b HTTP/1.1\r\nhost: x\r\n%b\r\n\r\n",
    "a space in the address": b"GET /a b HTTP/1.1\r\nhost: x\r\n%b\r\n\r\n",
    "a tunnel": b"CONNECT x:80 HTTP/1.1\r\nhost: x\r\n%b\r\n\r\n",
    "an echo": b"TRACE / HTTP/1.1\r\nhost: x\r\n%b\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n%b\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nhost: x\r\nhost: y\r\n%b\r\n\r\n",
    "an odd host": b"GET / HTTP/1.1\r\nhost: x/y\r\n%b\r\n\r\n",
    "a WebSocket": GET + b"connection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    "an upgrade to HTTP/2": GET + b"connection: upgrade\r\nupgrade: h2c\r\n\r\n",
    "HTTP/2 at once": b"PRI * HTTP/2.0\r\n%b\r\n\r\nSM\r\n\r\n",
    "a body that is too large": POST + b"content-length: 1000001\r\n\r\n",
    "two tickets": GET + b"authorization: Bearer a.b.c\r\n\r\n",
    "no HTTP at all": b"%b\r\n\r\n",
}


@pytest.mark.parametrize("what", SMUGGLED)
def test_what_two_servers_might_read_differently_does_not_pass(world: World, what: str) -> None:
    """It is refused in a sentence before the ticket is used, and nothing of it reaches the backend."""
    vended = world.till.vend()
    with world.gate.connect() as client:
        client.send(SMUGGLED[what] % f"authorization: Bearer {vended['token']}".encode())
        status, headers, body = client.answer()
    assert status in (400, 401, 405, 413), body
    assert headers["content-type"] == ["application/problem+json"] and " " in json.loads(body)["detail"]
    assert world.till.state(vended) == "issued" and world.backend.nobody_came()


def test_a_websocket_is_refused_in_a_sentence(world: World) -> None:
    """Which says what to do."""
    status, _, body = world.ask(
        SMUGGLED["a WebSocket"] % f"authorization: Bearer {world.till.vend()['token']}".encode()
    )
    assert (status, json.loads(body)["code"]) == (400, "invalid_request")
    assert json.loads(body)["detail"].startswith("The gate passes no WebSocket")
