"""What a stranger may send: never a 500, always a sentence, nothing secret said, and the engine still well after it."""

import gzip
import hmac
import json
import re
import socket
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import suppress
from itertools import product
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from conftest import (
    JWT_SECRET,
    USER_TOKEN_SECRET,
    WEBHOOK_SECRET,
    Keys,
    Pluct,
    claims,
    new_id,
    refused,
    served,
    until,
    user_token,
)
from paying import PACKS, PATH_TOKEN, SECRETS
from pluct.app import now_ms
from pluct.web.access import Access
from pluct.web.protocol import ENVELOPE_BYTES_MAX
from pluct.web.routes import table

SECRET = {"x-webhook-secret": WEBHOOK_SECRET}
BODY_BYTES_MAX = 64 * 1024
TOML = (
    '[actions.transcribe]\ncost = 2\naudience = "tttranscribe"\nsettle = "report"\ncost_max = 20\n'
    "[identity]\nregistration = true\n"
    '[payments]\ncallback_base_url = "http://127.0.0.1"\n[gateways.daraja]\nbase_url = "http://127.0.0.1:9"\n'
    '[[webhooks]]\nurl = "http://127.0.0.1:9/events"\nallow_private = true\n'
) + PACKS  # where nobody answers


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pluct]:
    """A server that, when all is over, must still be ready, sound, and have told no secret."""
    secrets = SECRETS | {"PLUCT_WEBHOOK_OUT_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}
    with served(tmp_path_factory.mktemp("hostile"), TOML, **secrets) as pluct:
        yield pluct
        assert pluct.client.get("/health/ready").status_code == 200
        assert pluct.json("check")["ok"] is True
        assert pluct.stop() == 0
        assert "Traceback" not in pluct.log


@pytest.fixture(scope="module")
def keys(engine: Pluct) -> Keys:
    found = {role: engine.key(role) for role in ("mint", "service", "operator")}
    return found | {"nobody": {}, "webhook": SECRET}


def answered(answer: httpx.Response) -> httpx.Response:
    """Any answer but an accident; a refusal is JSON with a sentence."""
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        assert answer.headers["content-type"] in ("application/json", "application/problem+json"), answer.headers
        sentence = answer.json()["error"]
        assert sentence == "Unauthorized" or re.fullmatch(r"\S+( .+)+", sentence, re.S), sentence
    assert answer.headers["x-request-id"]
    return answer


# Whatever the description of the interface allows, and what it does not


#: By route: who asks, and a request that is as it should be.
RIGHT: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "/vend-token": (("nobody",), {"userId": "amina"}),
    "/add-credits": (("webhook", "mint"), {"userId": "amina", "amount": 5}),
    "/v1/vend-token": (("nobody",), {"userId": "amina", "action": "transcribe"}),
    "/v1/credits/balance": (("nobody",), {"userId": "amina"}),
    "/v1/credits/add": (("mint", "operator"), {"userId": "amina", "amount": 5}),
    "/v1/wallets/{userId}": (("service",), {}),
    "/v1/wallets/{userId}/entries": (("operator",), {}),
    "/v1/wallets/{userId}/adjustments": (("operator",), {"amount": 1, "reason": "a reason"}),
    "/v1/checkouts": (("nobody",), {"userId": "amina", "pack": "starter", "gateway": "daraja", "phone": "0712345678"}),
    "/v1/checkouts/{id}": (("nobody", "operator"), {}),
    "/v1/credits/request": (
        ("nobody",),
        {"userId": "amina", "amount": 0, "reason": "top-up", "reference": "SLK4H7R2T0"},
    ),
    "/v1/credits/requests": (("operator",), {}),
    "/v1/statements/{userId}": (("operator",), {}),
    "/v1/payments": (("operator",), {}),
    "/v1/payments/{id}": (("operator",), {}),
    "/v1/payments/{id}/assign": (("operator",), {"userId": "amina", "reason": "a reason"}),
    "/v1/payments/{id}/write-off": (("operator",), {"reason": "a reason"}),
    "/v1/analytics": (("operator",), {}),
    "/v1/events": (("operator",), {}),
    "/v1/events/{id}/replay": (("operator",), {}),
    "/v1/users/token": (("nobody",), {}),
    "/v1/users/{userId}/token": (("service",), {}),
    "/v1/users/{userId}/revoke": (("operator",), {}),
    "/v1/tickets/redeem": (("service",), {}),
    "/v1/tickets/batch": (("service",), {"operations": [{"op": "redeem", "token": "a.b.c"}]}),
    "/v1/tickets/{id}": (("service",), {}),
    "/v1/tickets/{id}/capture": (("service",), {}),
    "/v1/tickets/{id}/void": (("operator",), {"reason": "a reason"}),
}
TAKING = [
    route
    for route in table(Access("open", ("secret",), None), None, None, None, 0, now_ms)
    if (route.body or route.query or "{" in route.path) and route.path != "/v1/log"  # which has no end
]
CHECKS: Any = [not_a_server_error, response_schema_conformance, content_type_conformance, status_code_conformance]


def test_every_route_that_takes_something_has_its_row() -> None:
    """A new route is sent wild requests too, and some that its handler is reached by."""
    assert set(RIGHT) == {route.path for route in TAKING}


@pytest.fixture(scope="module")
def described(engine: Pluct) -> Any:
    config = SchemathesisConfig.from_dict({"generation": {"with-security-parameters": False}})
    return schemathesis.openapi.from_url(f"{engine.url}/openapi.json", config=config)


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: str(mode.value))
@pytest.mark.parametrize(
    ("method", "path", "caller"),
    [(route.method, route.path, caller) for route in TAKING for caller in RIGHT[route.path][0]],
)
def test_every_answer_is_as_described(
    engine: Pluct, keys: Keys, described: Any, method: str, path: str, caller: str, mode: GenerationMode
) -> None:
    """Generated requests, valid and not, of those who may come in: no 5xx, and answers of the documented shapes."""
    engine.fund("amina", 500)
    vended = engine.post("/v1/vend-token", {"userId": "amina", "action": "transcribe"}).json()
    if path.endswith("capture"):
        engine.post("/v1/tickets/redeem", {"token": vended["token"]}, keys["service"])
    right = RIGHT[path][1] | ({"token": vended["token"]} if path.endswith("redeem") else {})
    if path == "/v1/users/token":
        right["refreshToken"] = engine.post("/v1/users", {}).json()["refreshToken"]
    known = {"userId": "amina", "id": vended["ticketId"]}
    if path.startswith("/v1/checkouts/"):
        known["id"] = engine.post("/v1/checkouts", RIGHT["/v1/checkouts"][1]).json()["checkoutId"]
    elif path.startswith("/v1/events/"):
        known["id"] = engine.json("events", "list", "--json")["events"][0]["id"]
    elif path.startswith("/v1/payments/"):
        known["id"] = unmatched(engine, keys)
    statuses = set()

    @settings(derandomize=True, max_examples=20, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(
        case=described[path][method].as_strategy(generation_mode=mode), mended=st.booleans(),
        wild=st.sets(st.sampled_from(["userId", "amount", "reason", "action", "clientRequestId", "priority"])),
    )  # fmt: skip
    def hold(case: Any, mended: bool, wild: set[str]) -> None:
        if mended:  # otherwise sent as generated
            case.path_parameters = {name: known[name] for name in case.path_parameters or {}}
            if isinstance(case.body, dict):
                case.body = right | {name: value for name, value in case.body.items() if name in wild}
            elif path == "/v1/credits/balance":
                case.query = dict(right)
        answer = case.call(headers=keys[caller])
        statuses.add(answer.status_code)
        case.validate_response(answer, checks=CHECKS, headers=keys[caller])

    hold()
    assert statuses & {200, 201} or mode is GenerationMode.NEGATIVE, statuses


def unmatched(engine: Pluct, keys: Keys) -> str:
    """A new payment of nobody known."""
    receipt = "S" + new_id().replace("-", "").upper()[-9:]
    body = {"TransID": receipt, "TransAmount": "100", "BillRefNumber": "?", "TransTime": "20261125110000"}
    assert engine.post(f"/hooks/daraja/c2b/{PATH_TOKEN}/confirmation", body).status_code == 200
    found = engine.client.get("/v1/payments", params={"limit": "1"}, headers=keys["operator"]).json()["payments"]
    id: str = found[0]["id"]
    return id


# Bodies


POSTS = {route.path.replace("{userId}", "amina").replace("{id}", "none"): RIGHT[route.path][0][-1]
         for route in TAKING if route.method == "POST" and route.body}  # fmt: skip
DEEP = 30_000
BROKEN = [
    b"{", b"}", b" ", b"\x00", b"{}{}", b"{} x", b'{"a":}', b"{'a':1}", b'{"a":1,}', b'{"a" 1}', b"{a:1}", b"/**/{}",
    b"null", b"[]", b"[{}]", b'"x"', b"1", b"true", b"NaN", b'{"x":NaN}', b'{"x":Infinity}', b'{"x":-Infinity}',
    b'{"x":01}', b'{"x":+1}', b'{"x":.5}', b'{"x":1.}', b'{"x":1e}', b'{"x":0x10}', b'{"x":tru}', b'{"x":"\n"}',
    b'{"x":"\\x00"}', b'{"x":"\\u12"}', b'{"x":"\\ud800', b'{"x":"', b"\xef\xbb\xbf{}", b"\xff\xfe{\x00}\x00",
    '{"userId":"u","amount":1,"reason":"r","token":"t"}'.encode("utf-16"), '{"userId":"u"}'.encode("utf-16-be"),
    '{"userId":"u"}'.encode("utf-32"), gzip.compress(b'{"userId":"u"}'), b"userId=u&amount=1", b"<userId>u</userId>",
    b"[" * DEEP, b'{"x":' * 10_000, b"[" * DEEP + b"]" * DEEP, b"\x80" * 100, b"{" + b" " * 60_000,
]  # fmt: skip


@pytest.mark.parametrize("path", list(POSTS))
def test_a_body_that_is_not_a_json_object_is_refused(engine: Pluct, keys: Keys, path: str) -> None:
    """400 with a sentence for each, on every route; the connection goes on."""
    for body in BROKEN:
        answer = answered(engine.post(path, body, keys[POSTS[path]]))
        assert answer.status_code == 400, body[:40]


ODD = [
    b"{}", b" \n\t\r{ } ", b'{"":""}', b'{"x":1e999}', b'{"x":-0.0}', b'{"x":%s}' % (b"9" * 60_000), b'{"x":"\xff"}',
    b'{"\xff":1}', b'{"x":"\\ud83d\\ude00"}', b'{"__proto__":{"amount":1}}', b'{"userId":{"$ne":null},"amount":1}',
    b'{"x":%s1%s}' % (b"[" * DEEP, b"]" * DEEP), b'{"x":%s1%s}' % (b'{"x":' * 8_000, b"}" * 8_000),
    b"{%s}" % b",".join(b'"%d":%d' % (n, n) for n in range(4_000)), b'{"%s":1}' % (b"k" * 60_000),
    b'{"userId":"amina","amount":1,"userId":"amina","amount":2,"reason":"r","reason":"s"}',
    b'{"userId":["amina"],"userId":"amina","amount":"1","amount":1,"cost":"x","cost":2}',
    b'{"userId":"amina","amount":1e400}', b'{"amount":-1e400}', b'{"amount":%s}' % (b"9" * 4300),
    b'{"amount":-%s,"reason":"r"}' % (b"9" * 4300), b'{"userId":"amina","cost":%s}' % (b"9" * 4000),
    b'{"token":"%s"}' % (b"." * 60_000), b'{"token":"%s"}' % ("\U0001f600" * 9_000).encode(), b'{"token":"a.b.c"}',
    b'{"action":"../../etc/passwd","userId":"amina"}', b'{"userId":"amina\'; DROP TABLE wallets; --","amount":1}',
]  # fmt: skip


@pytest.mark.parametrize("path", list(POSTS))
@pytest.mark.parametrize("key", [{}, {"Idempotency-Key": "odd"}], ids=["no key", "a key"])
def test_an_odd_body_is_answered(engine: Pluct, keys: Keys, path: str, key: dict[str, str]) -> None:
    """Done or refused, with an idempotency key or without, and never an accident."""
    for body in ODD:
        answered(engine.post(path, body, keys[POSTS[path]] | key))


def test_of_duplicate_fields_the_last_counts(engine: Pluct) -> None:
    """Or the request is refused; never does the first one win."""
    first, last = engine.funded(5), engine.funded(5)
    answer = answered(engine.post("/vend-token", b'{"userId":"%s","userId":"%s"}' % (first.encode(), last.encode())))
    assert answer.status_code == 400 or claims(answer.json()["token"])["sub"] == last
    answer = answered(engine.post("/add-credits", b'{"userId":"%s","amount":50,"amount":1}' % last.encode(), SECRET))
    assert answer.status_code == 400 or engine.available(last) <= 6
    assert engine.available(first) == 5


CONTROLS = [chr(code) for code in [*range(0x20), *range(0x7F, 0xA0)]]
HALVES = ["\ud800", "\udbff", "\udc00", "\udfff", "\ude00\ud83d", "a\ud800b"]
FINE = [
    "\u00a0",
    "\u00ad",
    "\u200b",
    "\u2028",
    "\u202e",
    "\ufeff",
    "\ufffe",
    "\uffff",
    "\U0010ffff",
    "\U0001f600",
    " ",
    "~",
]
TEXTS = ["userId", "clientRequestId", "reference", "reason"]


@pytest.mark.parametrize("field", TEXTS)
def test_every_control_character_and_half_a_pair_is_refused(engine: Pluct, field: str) -> None:
    """All 65 control characters and lone surrogates, in each text of a top-up; whatever else there is passes."""
    assert len(CONTROLS) == 65
    right = {"userId": new_id(), "amount": 1}
    for character in [*CONTROLS, *HALVES]:
        refused(engine.post("/v1/credits/add", right | {field: f"a{character}"}, SECRET), 400, "invalid_request")
    for character in FINE:
        body = right | {field: character + new_id()}
        assert answered(engine.post("/v1/credits/add", body, SECRET)).status_code == 200


@pytest.mark.parametrize("field", TEXTS)
def test_characters_are_counted_as_code_points(engine: Pluct, field: str) -> None:
    """200 of any kind pass, 201 do not: astral ones, combining ones, a family as one glyph."""
    right = {"userId": new_id(), "amount": 1}
    for character in ("x", "é", "日", "\U0001f600", "e\u0301", "\U0001f468\u200d\U0001f469\u200d"):
        text = (character * 200)[:200]
        assert answered(engine.post("/v1/credits/add", right | {field: text}, SECRET)).status_code == 200
        refused(engine.post("/v1/credits/add", right | {field: text + "x"}, SECRET), 400, "invalid_request")


@pytest.mark.parametrize("path", ["/vend-token", "/v1/credits/add"])
def test_a_body_in_chunks_has_the_same_limit(engine: Pluct, path: str) -> None:
    """64 KiB pass however they are cut; one byte more is 413, also when nobody said how much would come."""
    body = json.dumps({"userId": engine.funded(3), "amount": 1, "padding": ""}).encode()
    full = body.replace(b'"padding": ""', b'"padding": "%s"' % (b"x" * (BODY_BYTES_MAX - len(body))))
    for size in (BODY_BYTES_MAX, 1000, 37):
        for whole, status in ((full, 200), (full + b" ", 413), (full * 4, 413)):
            chunks = (whole[at : at + size] for at in range(0, len(whole), size))
            answer = answered(engine.client.post(path, content=chunks, headers=SECRET))
            assert answer.status_code == status


def segment(content: bytes) -> str:
    return urlsafe_b64encode(content).rstrip(b"=").decode()


HEADS = [
    b"[]", b"null", b'"x"', b"1", b"{}", b'{"alg":[]}', b'{"alg":{}}', b'{"alg":null}', b'{"alg":1e999}', b"\xff", b"{",
    b'{"alg":"none"}', b'{"alg":"HS256","crit":1}', b'{"alg":"HS256","crit":[]}', b'{"alg":"HS256","crit":["x"],"x":1}',
    b'{"alg":"HS256","crit":["b64"],"b64":false}', b'{"alg":"HS256","b64":false}', b'{"alg":"HS512"}',
    b'{"alg":"RS256"}',
    b'{"alg":"HS256","kid":[]}', b'{"alg":"HS256","jwk":{"kty":"oct","k":"AA"}}', b'{"alg":"HS256","typ":5}',
    b'{"alg":"\\ud800"}', b'{"alg":"HS256","zip":"DEF"}', b'{"alg":"dir","enc":"A256GCM"}', b"[" * 3000,
    b'{"alg":"HS256"}',
]  # fmt: skip
SAID = [b"", b"{}", b"[]", b"null", b"1", b"\xff", b"[" * 3000, b'{"iss":[],"aud":{},"sub":1,"jti":null}']


def test_a_token_of_any_make_is_unauthorized(engine: Pluct, keys: Keys) -> None:
    """Odd headers over odd claims, signed with the right secret or not at all: 401, on the way in of every backend."""
    for head, said in product(HEADS, SAID):
        start = f"{segment(head)}.{segment(said)}"
        for key in (b"", JWT_SECRET.encode()):
            signature = segment(hmac.digest(key, start.encode(), "sha256")) if key else ""
            answer = engine.post("/v1/tickets/redeem", {"token": f"{start}.{signature}"}, keys["service"])
            refused(answer, 401, "unauthorized")
    for token in ("a.b.c.d.e", "....", "é.é.é", "\U0001f600.x.y", " . . ", "=.=.=", "\x00", "-" * 9_000):
        refused(engine.post("/v1/tickets/redeem", {"token": token}, keys["service"]), 401, "unauthorized")


# Headers and queries


@pytest.mark.parametrize(
    "name",
    ["Idempotency-Key", "X-User-Id", "Authorization", "X-API-Key", "x-webhook-secret", "X-Request-Id", "Content-Type",
     "Accept", "Cookie", "Host", "User-Agent"],
)  # fmt: skip
def test_any_header_may_hold_anything(engine: Pluct, name: str) -> None:
    """Empty, long, binary, not UTF-8, sent twice: an answer all the same."""
    values = [
        b"",
        b"x" * 60_000,
        b"\xff\xfe",
        "\U0001f600".encode(),
        b"\x85",
        b"a\tb",
        b"Bearer",
        b"Bearer \xff.\xff.\xff",
        b",",
    ]
    body = {"userId": "amina", "amount": 1}
    for value in values:
        for headers in ([(name.encode(), value)], [(name.encode(), value), (name.encode(), b"x")]):
            if name == "Host" and len(headers) > 1:
                continue
            for path in ("/vend-token", "/v1/vend-token", "/add-credits"):
                answered(engine.client.post(path, json=body, headers=headers))
            answered(engine.client.get("/v1/credits/balance?userId=amina", headers=headers))
            answered(engine.client.get("/v1/wallets/amina", headers=headers))


def test_a_key_that_is_not_utf8_is_refused(engine: Pluct) -> None:
    """Two keys that differ are never taken for one: such a key has no characters, and is a 400 as any other bad one."""
    user_id = engine.funded(2)
    answers = [engine.post("/vend-token", {"userId": user_id}, {"Idempotency-Key": key}) for key in (b"\xe9", b"\xe8")]
    assert [answer.status_code for answer in answers] == [400, 400]


@pytest.mark.parametrize(
    "query",
    ["?", "&&&", "=", "userId", "userId=a&userId=b", "userId=amina&x=%FF", "%75serId=amina", "userId=%", "userId=%zz",
     "userId=amina;x=1", "userId[]=a", "userId=" + "%F0%9F%98%80" * 200, "a=" + "x" * 60_000, "&".join(["a=1"] * 5_000),
     "userId=amina&limit=x", "userId=%c0%80", "limit=1&limit=2"],
)  # fmt: skip
def test_any_query_is_answered(engine: Pluct, keys: Keys, query: str) -> None:
    """With what it asked for, or a 400."""
    engine.fund("amina", 1)
    for path in ("/v1/credits/balance", "/v1/wallets/amina/entries", "/health", "/vend-token"):
        answer = answered(engine.client.get(f"{path}?{query}", headers=keys["operator"]))
        assert answer.status_code in (200, 400, 405)


# Below HTTP


def port(engine: Pluct) -> int:
    return int(engine.url.rpartition(":")[2])


def connect(engine: Pluct) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port(engine)), timeout=10)


def speak(engine: Pluct, sent: bytes) -> list[tuple[int, bytes]]:
    """Send these bytes, and read statuses and bodies until the server closes."""
    with connect(engine) as line:
        line.sendall(sent)
        received = b"".join(iter(lambda: line.recv(65536), b""))
    answers = []
    while received:
        head, _, rest = received.partition(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        length = re.search(rb"content-length: (\d+)", head)
        size = int(length[1]) if length else 0
        answers.append((status, rest[:size]))
        received = rest[size:]
    return answers


def request(method: str, path: str, body: bytes = b"", *headers: str, close: bool = True) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, *(["Connection: close"] if close else []), "", ""]).encode() + body


NOT_HTTP = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01", b"\x00" * 100, b"hello\r\n\r\n", b"GET\r\n\r\n",
    b"BREW /health HTTP/1.1\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n", b"GET /\xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n", b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
    b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", b"GET / HTTP/1.1\r\nX: a\x00b\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
] + [
    b"POST /add-credits HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n%s" % (lines, body)
    for lines, body in [
        (b"Content-Length: abc", b"{}"), (b"Content-Length: -1", b"{}"), (b"Content-Length: +2", b"{}"),
        (b"Content-Length: 2, 3", b"{}"), (b"Content-Length: 99999999999999999999999", b"{}"),
        (b"Content-Length: 2\r\nContent-Length: 3", b"{}x"), (b"Content-Length: 0x2", b"{}"),
        (b"Content-Length: 2\r\nTransfer-Encoding: chunked", b"0\r\n\r\nGET /health HTTP/1.1\r\n\r\n"),
        (b"Transfer-Encoding: gzip", b"{}"), (b"Transfer-Encoding: chunked, identity", b"2\r\n{}\r\n0\r\n\r\n"),
    ]
]  # fmt: skip


@pytest.mark.parametrize("sent", NOT_HTTP, ids=range(len(NOT_HTTP)))
def test_what_is_not_http_is_a_400_and_the_end(engine: Pluct, sent: bytes) -> None:
    """One refusal, then the line is closed; nothing behind it is taken for another request."""
    assert [status for status, _ in speak(engine, sent)] == [400]
    assert engine.client.get("/health").status_code == 200


VEND = b"POST /vend-token HTTP/1.1\r\nHost: x\r\n"
TRAILERS = VEND + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"


def endless(start: bytes, more: bytes, body: bytes = b"") -> bytes:
    """A request that is one byte over the limit, its body not counted, and not over."""
    return (start + more * ENVELOPE_BYTES_MAX)[: ENVELOPE_BYTES_MAX + len(body) + 1]


@pytest.mark.parametrize(("start", "more"), [(b"GET /", b"a"), (VEND + b"X: ", b"a"), (VEND, b"X: a\r\n")])
def test_an_address_and_headers_have_an_end(engine: Pluct, start: bytes, more: bytes) -> None:
    """Nobody fills the memory with what is no body: 400, and the line is closed."""
    (status, body), *others = speak(engine, endless(start, more))
    assert (status, others) == (400, []) and b"larger than 512 KiB" in body


@pytest.mark.parametrize("start", [TRAILERS, TRAILERS + b"X: "])
def test_what_follows_a_body_has_an_end(engine: Pluct, start: bytes) -> None:
    """Trailers without end are cut off, and the request was none."""
    with suppress(ConnectionResetError):
        assert speak(engine, endless(start, b"X: a\r\n" if start == TRAILERS else b"a", b"{}")) == []
    assert engine.client.get("/health").status_code == 200


def test_a_body_may_come_byte_by_byte(engine: Pluct) -> None:
    """64 KiB in chunks of one byte are five times as much on the line, and are read."""
    body = b'{"userId":"%s","amount":1}' % new_id().encode()
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body.ljust(64 * 1024)) + b"0\r\n\r\n"
    start = request("POST", "/add-credits", b"", f"x-webhook-secret: {WEBHOOK_SECRET}", "Transfer-Encoding: chunked")
    answers = speak(engine, start.replace(b"Content-Length: 0\r\n", b"") + chunks)
    assert answers == [(200, b'{"success":true,"newBalance":1}')]


@pytest.mark.parametrize("chunk", [b"zz\r\n{}\r\n", b"-2\r\n{}\r\n", b"ffffffffffffffffff\r\n{}", b"2\r\n{}xx\r\n"])
def test_broken_chunks_are_not_a_body(engine: Pluct, chunk: bytes) -> None:
    """400, and nothing was granted."""
    start = request("POST", "/v1/vend-token", b"", "Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"")
    assert {status for status, _ in speak(engine, start + chunk)} == {400}


def test_a_broken_off_request_changes_nothing(engine: Pluct) -> None:
    """Cut at any byte, even where what came is a whole JSON object: no grant, no answer needed, no harm done."""
    user_id = new_id()
    body = b'{"userId":"%s","amount":5}' % user_id.encode()
    whole = request("POST", "/add-credits", body + b" " * 9, f"x-webhook-secret: {WEBHOOK_SECRET}")
    for cut in [*range(0, len(whole) - 10, 7), *range(len(whole) - 10, len(whole))]:
        with connect(engine) as line:
            line.sendall(whole[:cut])
    assert engine.client.get("/health/ready").status_code == 200
    assert engine.available(user_id) == 0
    assert speak(engine, whole) == [(200, b'{"success":true,"newBalance":5}')]


def test_who_does_not_wait_for_the_answer_has_still_asked(engine: Pluct) -> None:
    """A whole request on a line that is cut at once is done, once, and its key tells the answer later."""
    user_id = engine.funded(3)
    body = b'{"userId":"%s","clientRequestId":"gone"}' % user_id.encode()
    with connect(engine) as line:
        line.sendall(request("POST", "/vend-token", body))
    until(lambda: engine.available(user_id) == 2)
    again = engine.post("/vend-token", body)
    assert (again.status_code, again.headers["idempotency-replayed"]) == (200, "true")
    assert engine.available(user_id) == 2


def test_requests_in_one_breath_are_answered_in_order(engine: Pluct) -> None:
    """Thirty vends and looks in one packet: thirty answers, each to its own question."""
    user_id = engine.funded(10)
    vend = request("POST", "/v1/vend-token", b'{"userId":"%s"}' % user_id.encode(), close=False)
    look = request("GET", f"/v1/credits/balance?userId={user_id}", close=False)
    answers = speak(engine, (vend + look) * 15 + request("GET", "/health"))
    assert [status for status, _ in answers] == [200, 200] * 10 + [402, 200] * 5 + [200]
    balances = [json.loads(body)["available"] for status, body in answers[1:-1:2]]
    assert balances == [*range(9, -1, -1), 0, 0, 0, 0, 0]


def test_a_request_may_come_a_byte_at_a_time(engine: Pluct) -> None:
    """As over a very slow line."""
    user_id = engine.funded(1)
    with connect(engine) as line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in request("POST", "/vend-token", b'{"userId":"%s"}' % user_id.encode()):
            line.sendall(bytes([byte]))
        assert line.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_an_announced_giant_is_refused_before_it_comes(engine: Pluct) -> None:
    """413 on the headers alone, with and without `Expect`, and no invitation to send it."""
    for more in ((), ("Expect: 100-continue",)):
        start = request("POST", "/vend-token", b"", *more).replace(b"Content-Length: 0", b"Content-Length: 99999999")
        ((status, body),) = speak(engine, start)
        assert (status, list(json.loads(body))) == (413, ["error"])
    assert [s for s, _ in speak(engine, request("POST", "/vend-token", b"{}", "Expect: 100-continue"))] == [100, 400]


def test_who_waits_to_be_told_to_continue_is_told(engine: Pluct) -> None:
    """A client that sends its body only after `100 Continue` gets that first, and then its answer."""
    user_id = engine.funded(1)
    body = b'{"userId":"%s"}' % user_id.encode()
    whole = request("POST", "/vend-token", body, "Expect: 100-continue")
    with connect(engine) as line:
        line.settimeout(3)
        line.sendall(whole.removesuffix(body))
        assert line.recv(65536).startswith(b"HTTP/1.1 100 ")
        line.sendall(body)
        assert line.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_idle_lines_keep_nobody_waiting(engine: Pluct) -> None:
    """Two hundred connections that say nothing, or half a line, and the next vend is answered."""
    lines = [connect(engine) for _ in range(200)]
    for line in lines[::2]:
        line.sendall(b"POST /vend-token HTTP/1.1\r\nContent-Le")
    assert engine.post("/vend-token", {"userId": engine.funded(1)}).status_code == 200
    for line in lines:
        line.close()


def test_an_upgrade_is_not_taken_up(engine: Pluct) -> None:
    """Neither WebSocket nor HTTP/2: the request is answered as it stands."""
    for upgrade in ("websocket", "h2c"):
        lines = f"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close, Upgrade\r\nUpgrade: {upgrade}\r\n\r\n"
        assert [status for status, _ in speak(engine, lines.encode())] == [200]
    assert "WebSocket" not in engine.log and "upgrade" not in engine.log


def test_what_is_no_http_is_a_problem_with_a_request_id(engine: Pluct) -> None:
    """The connection is closed behind the same kind of answer as any other refusal."""
    with connect(engine) as line:
        line.sendall(b"no http\r\n\r\n")
        received = b"".join(iter(lambda: line.recv(4096), b""))
    head, _, body = received.decode().partition("\r\n\r\n")
    said = json.loads(body)
    assert head.startswith("HTTP/1.1 400 ") and "content-type: application/problem+json" in head
    assert said["code"] == "invalid_request" and f"x-request-id: {said['requestId']}" in head


# Afterwards


def test_neither_log_nor_metrics_nor_answers_carry_a_secret(engine: Pluct, keys: Keys) -> None:
    """No webhook secret, API key, user token, ticket or signing secret, wherever in a request it was sent."""
    token = engine.post("/vend-token", {"userId": engine.funded(1)}).json()["token"]
    api_keys = [headers["Authorization"].split()[1] for name, headers in keys.items() if "Authorization" in headers]
    user = user_token("amina")["Authorization"].split()[1]
    secrets = [WEBHOOK_SECRET, JWT_SECRET, USER_TOKEN_SECRET, token, user, *api_keys]
    answers = [engine.client.get("/metrics")]
    for secret in secrets:
        for headers in ({"Authorization": f"Bearer {secret}"}, {"X-API-Key": secret}, {"x-webhook-secret": secret},
                        {"Cookie": secret}, {"Referer": f"https://x/?key={secret}"}):  # fmt: skip
            answers.append(engine.client.get(f"/v1/wallets/amina?key={secret}", headers=headers))
            answers.append(engine.post("/add-credits", {"userId": "amina", "amount": "x", "secret": secret}, headers))
            answers.append(engine.post("/v1/tickets/redeem", {"token": secret + "x"}, keys["service"] | headers))
        answers.append(engine.client.get(f"/{secret}"))
        answers.append(engine.client.get(f"/v1/tickets/{secret}", headers=keys["service"]))
        answers.append(engine.post("/v1/tickets/redeem", {"token": secret}, keys["service"]))
    last = new_id()
    engine.client.get("/health", headers={"X-Request-Id": last})
    log = until(lambda: last in engine.log and engine.log)
    texts = [answered(answer).text + str(answer.headers) for answer in answers] + [log]
    assert not [secret[:12] for secret in secrets for text in texts if secret in text or secret[-20:] in text]
    assert "eyJ" not in log
