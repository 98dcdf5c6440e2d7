"""What holds on every route of `/v1`, and the routes that machines and readers ask."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from conftest import Keys, Pluct, new_id, refused, served
from paying import PACKS, SECRETS
from pluct.app import now_ms
from pluct.web import docs
from pluct.web.access import Access
from pluct.web.endpoint import Route
from pluct.web.routes import table

ROUTES = [*table(Access("open", ("secret",), None), None, None, None, 0, now_ms), *docs.routes({})]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pluct]:
    toml = "[identity]\nregistration = true\n"
    toml += '[payments]\ncallback_base_url = "http://127.0.0.1"\n[gateways.daraja]\nbase_url = "http://127.0.0.1:9"\n'
    with served(tmp_path_factory.mktemp("rules"), toml + PACKS, **SECRETS) as pluct:
        yield pluct


@pytest.fixture(scope="module")
def keys(engine: Pluct) -> Keys:
    return {role: engine.key(role) for role in ("mint", "service", "operator")}


# Every route


def test_a_refusal_is_problem_details(engine: Pluct) -> None:
    """Content type and fields exactly as promised, with the same sentence under three names."""
    body = refused(engine.post("/v1/vend-token", {"userId": new_id()}), 402, "insufficient_credits")
    assert body["title"] == "Insufficient credits"


@pytest.mark.parametrize("given", ["abc", "a b", "0", "x" * 200, "7f1c-~!@#$%^&*()", '{"a":1}'])
def test_a_request_id_is_echoed(engine: Pluct, given: str) -> None:
    """In the header and in the body, of answers and of refusals."""
    headers = {"X-Request-Id": given}
    for answer in (
        engine.client.get("/v1/credits/balance", params={"userId": "u"}, headers=headers),
        engine.client.get("/v1/nowhere", headers=headers),
        engine.client.delete("/v1/vend-token", headers=headers),
        engine.client.get("/v1/wallets/u", headers=headers),
    ):
        assert answer.headers["x-request-id"] == answer.json()["requestId"] == given


@pytest.mark.parametrize("given", [b"", b"x" * 201, b"a\tb", "é".encode(), b"\xff", b"x" * 10_000])
def test_a_request_id_that_is_none_is_replaced(engine: Pluct, given: bytes) -> None:
    """What is empty, long or not printable ASCII is answered under a made one."""
    headers: Any = {"X-Request-Id": given}
    answer = engine.client.get("/v1/credits/balance", params={"userId": "u"}, headers=headers)
    assert re.fullmatch(r"[!-~]{8,200}", answer.json()["requestId"])
    assert answer.headers["x-request-id"] == answer.json()["requestId"] != given.decode("latin-1")


def test_every_answer_has_a_request_id_of_its_own(engine: Pluct) -> None:
    """Whatever is asked, of whichever route, and whatever comes of it."""
    asked = [("GET", "/nowhere"), ("POST", "/docs"), ("HEAD", "/health"), ("POST", "/v1/vend-token")]
    asked += [(route.method, route.path.replace("{", "").replace("}", "")) for route in ROUTES]
    ids = [engine.client.request(method, path).headers["x-request-id"] for method, path in asked]
    assert len(set(ids)) == len(asked) > 20


@pytest.mark.parametrize(
    "path",
    ["/", "/v1", "/v1/", "/nowhere", "/v1/credits", "/v1/vend-token/", "/V1/vend-token", "/v1//vend-token", "/health/",
     "/v1/wallets/", "/v1/wallets/u/", "/v1/wallets/u/entries/", "/v1/wallets/a/b/entries", "/v1/tickets/x/y", "//",
     "/v1/credits/requested", "/admin", "/%00", "/%ff", "/v1/vend-token%2F", "/docs/../health/x", "/.env"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_an_unknown_address_is_a_json_404(engine: Pluct, method: str, path: str) -> None:
    """`route_not_found`, whatever the method: it is what makes the app fall back to the plain flow."""
    refused(engine.client.request(method, path), 404, "route_not_found")


@pytest.mark.parametrize("path", ["/", "/docs/"])
def test_a_browser_is_led_to_the_docs(engine: Pluct, path: str) -> None:
    """Who asks for a page is; programs, other methods and other addresses are answered as ever."""
    page = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    answer = engine.client.get(path, headers=page)
    assert (answer.status_code, answer.headers["location"], answer.headers["vary"]) == (307, "/docs", "accept")
    for method, address, headers in (
        ("GET", path, {"accept": "*/*"}), ("GET", path, {"accept": "application/json"}), ("POST", path, page),
        ("DELETE", path, page), ("GET", "/nowhere", page),
    ):  # fmt: skip
        refused(engine.client.request(method, address, headers=headers), 404, "route_not_found")
    assert engine.client.head(path, headers=page).status_code == 404


@pytest.mark.parametrize("route", [r for r in ROUTES if r.path.startswith("/v1")], ids=lambda r: f"{r.method} {r.path}")
def test_another_method_is_a_405_that_names_the_right_ones(engine: Pluct, route: Route) -> None:
    """With `Allow`; a route that can be read can be asked for its headers alone."""
    path = route.path.replace("{", "").replace("}", "")
    for method in {"GET", "PUT", "PATCH", "DELETE", "OPTIONS", "POST"} - {route.method}:
        answer = engine.client.request(method, path)
        refused(answer, 405, "method_not_allowed")
        assert answer.headers["allow"] == ("GET, HEAD" if route.method == "GET" else route.method)


@pytest.mark.parametrize("path", ["/health", "/metrics", "/openapi.json", "/docs", "/v1/credits/balance?userId=u"])
def test_head_is_get_without_the_body(engine: Pluct, path: str) -> None:
    """The same status and type, and no bytes."""
    head, get = engine.client.head(path), engine.client.get(path)
    assert (head.status_code, head.headers["content-type"]) == (200, get.headers["content-type"])
    assert head.content == b"" != get.content
    assert engine.client.head("/v1/wallets/u").status_code == 401


WRONG = {
    "/v1/vend-token": {
        "userId": [7, 1.5, True, ["u"], {}, "", "x" * 201, "a\nb", "\ud800"], "action": [7, [], "", "nothing"],
        "cost": ["1", 1.0, 1.5, True, [1], 10**30, 0, -1, 2], "clientRequestId": [7, "", "x" * 201, "\x00"],
    },
    "/v1/credits/add": {
        "userId": [7, None, True, "", "x" * 201, "a\tb", "\udfff"],
        "amount": ["10", 1.0, 0.5, True, None, [1], 0, -1, -(10**30)],
        "category": ["free", "", 7, "PAID", ["paid"]], "priority": [-1, 101, "50", 50.0, True, 10**30],
        "expiresAt": ["", "tomorrow", "2030-01-31", "2030-01-31T00:00:00", "2020-01-01T00:00:00Z", 1900000000, True,
                      "2030-02-30T00:00:00Z", "2030-01-31T25:00:00Z", "10000-01-01T00:00:00Z", "30d", "\x00"],
        "reference": [7, "", "x" * 201, "a\nb"], "reason": [7, "", "x" * 201, "a\nb"], "clientRequestId": [7, "", []],
    },
    "/v1/wallets/u/adjustments": {
        "amount": ["1", 1.0, True, None, 0, [1]], "reason": [None, 7, "", "x" * 201, "a\x7f"],
        "clientRequestId": [7, ""],
    },
    "/v1/checkouts": {
        "userId": [7, True, "", "x" * 201, "a\tb"], "pack": [None, 7, "", "nothing", "x" * 201, "a\nb"],
        "gateway": [None, 7, "", "nothing", ["daraja"]], "phone": [7, "", "12", "x" * 41, "+1 555 0100"],
        "clientRequestId": [7, "", "x" * 201],
    },
    "/v1/credits/request": {
        "userId": [7, "", "x" * 201], "amount": [1.5, True, -1, "-1", "1e3", "a lot", "", [1], 10**30],
        "reason": [None, 7, "", "x" * 201, "a\nb"], "reference": [None, 7, "", "x" * 201, "a\nb"],
        "clientRequestId": [7, ""],
    },
    "/v1/payments/x/assign": {
        "userId": [None, 7, "", "x" * 201], "reason": [None, 7, "", "x" * 201, "a\nb"], "clientRequestId": [7],
    },
    "/v1/payments/x/write-off": {"reason": [None, 7, "", "x" * 201, "a\nb"], "clientRequestId": [7]},
    "/v1/users/token": {"refreshToken": [None, 7, [], {}], "clientRequestId": [7, ""]},
    "/v1/tickets/redeem": {"token": [None, 7, [], {}], "clientRequestId": [7, ""]},
    "/v1/tickets/batch": {
        "operations": [None, 7, [], {}, [7], [[]], [{}], [{"op": "x"}], [{"op": "redeem"}], [{"op": ["redeem"]}],
                       [{"op": "redeem", "token": 7}], [{"op": "redeem", "token": "x"}] * 101],
        "clientRequestId": [7, "", "x"],
    },
    "/v1/tickets/x/capture": {"amount": ["1", 1.0, True, 0, -1, [1]], "clientRequestId": [7]},
    "/v1/tickets/x/void": {"reason": [None, 7, "", "x" * 201, "a\nb"], "clientRequestId": [7]},
}  # fmt: skip
RIGHT: dict[str, tuple[str, dict[str, Any]]] = {
    "/v1/vend-token": ("none", {"userId": "u"}),
    "/v1/credits/add": ("mint", {"userId": "u", "amount": 1}),
    "/v1/wallets/u/adjustments": ("operator", {"amount": 1, "reason": "a reason"}),
    "/v1/checkouts": ("none", {"userId": "u", "pack": "starter", "gateway": "daraja", "phone": "0712345678"}),
    "/v1/credits/request": ("none", {"userId": "u", "reason": "top-up", "reference": "SLK4H7R2T0"}),
    "/v1/payments/x/assign": ("operator", {"userId": "u", "reason": "a reason"}),
    "/v1/payments/x/write-off": ("operator", {"reason": "a reason"}),
    "/v1/users/token": ("none", {"refreshToken": "x"}),
    "/v1/tickets/redeem": ("service", {"token": "a.b.c"}),
    "/v1/tickets/batch": ("service", {"operations": [{"op": "redeem", "token": "a.b.c"}]}),
    "/v1/tickets/x/capture": ("service", {}),
    "/v1/tickets/x/void": ("service", {"reason": "a reason"}),
}


def test_the_table_of_wrong_fields_is_complete() -> None:
    """Every known field of every body of `/v1` is in it."""
    bodies = {route.path: set(route.body.__struct_encode_fields__) for route in ROUTES if route.body is not None}
    known = {path.replace("{userId}", "u").replace("{id}", "x"): fields for path, fields in bodies.items()}
    assert {path: fields for path, fields in known.items() if path.startswith("/v1")} == {
        path: set(fields) | {"clientRequestId"} for path, fields in WRONG.items()
    }


@pytest.mark.parametrize("path", list(WRONG))
def test_a_wrong_field_is_an_invalid_request(engine: Pluct, keys: Keys, path: str) -> None:
    """Types, bounds, characters: each wrong value alone makes the request a 400 with a sentence."""
    role, right = RIGHT[path]
    for field, values in WRONG[path].items():
        for value in values:
            answer = engine.post(path, right | {field: value}, keys.get(role, {}))
            refused(answer, 400, "invalid_request")


@pytest.mark.parametrize("path", list(RIGHT))
def test_an_optional_field_that_is_null_is_left_out(engine: Pluct, keys: Keys, path: str) -> None:
    """Many clients write null for what they do not have: the same answer, and under a key the same request."""
    role, right = RIGHT[path]
    user_id = engine.funded(1)
    right = right | {"userId": user_id} if "userId" in right else right
    nulls = dict.fromkeys(set(WRONG[path]) - set(right) - {"clientRequestId"})
    headers = keys.get(role, {}) | {"Idempotency-Key": new_id()}
    first, again = engine.post(path, right, headers), engine.post(path, right | nulls, headers)
    assert again.status_code == first.status_code
    assert first.status_code != 200 or again.headers["idempotency-replayed"] == "true"
    assert engine.post(path, right | {"clientRequestId": None}, keys.get(role, {})).status_code != 400


@pytest.mark.parametrize(
    ("path", "field"),
    [(path, field) for path, (_, right) in RIGHT.items() for field in right],
)
def test_a_missing_field_is_an_invalid_request(engine: Pluct, keys: Keys, path: str, field: str) -> None:
    """Without any one of what it needs a request is a 400."""
    role, right = RIGHT[path]
    refused(
        engine.post(path, {k: v for k, v in right.items() if k != field}, keys.get(role, {})), 400, "invalid_request"
    )


@pytest.mark.parametrize("path", list(RIGHT))
def test_a_body_may_have_64_kib(engine: Pluct, keys: Keys, path: str) -> None:
    """One byte more is 413 on every route; unknown fields up to there are ignored."""
    role, right = RIGHT[path]
    body = json.dumps(right | {"padding": ""}).encode()
    full = body.replace(b'"padding": ""', b'"padding": "%s"' % (b"x" * (64 * 1024 - len(body))))
    assert len(full) == 64 * 1024
    assert engine.post(path, full, keys.get(role, {})).status_code != 413
    refused(engine.post(path, full + b" ", keys.get(role, {})), 413, "body_too_large")


# Machines


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready"])
def test_health_is_ok(engine: Pluct, path: str) -> None:
    """200 with a status, for anyone."""
    answer = engine.client.get(path)
    assert (answer.status_code, answer.json()["status"]) == (200, "ok")


def test_a_shared_secret_has_no_public_keys(engine: Pluct) -> None:
    """The JWK set is there, empty, and may be cached for five minutes."""
    answer = engine.client.get("/.well-known/jwks.json")
    assert (answer.status_code, answer.content) == (200, b'{"keys":[]}')
    assert answer.headers["cache-control"] == "public, max-age=300"


def test_openapi_describes_every_route(engine: Pluct) -> None:
    """OpenAPI 3.1 with each route of the table, and nothing that is not there."""
    document = engine.client.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    described = {(method.upper(), path) for path, found in document["paths"].items() for method in found}
    hooks = {(method, path) for method, path in described if path.startswith("/hooks/daraja/")}
    assert len(hooks) == 4
    assert described - hooks == {
        (route.method, route.path) for route in table(Access("open", ("secret",), None), None, None, None, 0, now_ms)
    }


def test_the_page_to_try_it_works_offline(engine: Pluct) -> None:
    """HTML whose every script and style comes from the engine itself."""
    page = engine.client.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    linked = re.findall(r"(?:src|href)=\"([^\"#]+)\"", page.text)
    assert {engine.client.get(link).status_code for link in linked} == {200}
    for link in ["/docs", *linked]:
        assert not re.search(r"""\w://|["'`(=]//""", engine.client.get(link).text), link
    assert "default-src 'none'" in page.headers["content-security-policy"]
