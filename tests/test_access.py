"""Who may do what, and whose wallet it is: roles, keys, user ids and user tokens, on every route there is."""

import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest

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
    signed,
    user_token,
)
from pluct.app import now_ms
from pluct.web import docs
from pluct.web.access import Access
from pluct.web.routes import table

SECRET = {"x-webhook-secret": WEBHOOK_SECRET}
ROUTES = {
    (route.method, route.path)
    for route in [*table(Access("token", ("secret",), None), None, None, None, 0, now_ms), *docs.routes({})]
}
CALLERS = ("nobody", "webhook", "mint", "service", "operator", "user")
ALL = set(CALLERS)
#: Who is let in: in `open` mode, and in `token` mode where that differs.
ROLES: dict[tuple[str, str], tuple[set[str], set[str]]] = {
    ("POST", "/vend-token"): (ALL, {"user"}),
    ("POST", "/add-credits"): ({"webhook", "mint"}, {"webhook", "mint"}),
    ("POST", "/v1/vend-token"): (ALL, {"user"}),
    ("GET", "/v1/credits/balance"): (ALL, {"user", "service", "operator"}),
    ("POST", "/v1/credits/add"): ({"webhook", "mint", "operator"}, {"webhook", "mint", "operator"}),
    ("GET", "/v1/wallets/{userId}"): ({"service", "operator"}, {"service", "operator"}),
    ("GET", "/v1/wallets/{userId}/entries"): ({"operator"}, {"user", "operator"}),
    ("POST", "/v1/wallets/{userId}/adjustments"): ({"operator"}, {"operator"}),
    ("POST", "/v1/tickets/redeem"): ({"service"}, {"service"}),
    ("POST", "/v1/tickets/batch"): ({"service"}, {"service"}),
    ("GET", "/v1/tickets/{id}"): ({"service", "operator"}, {"service", "operator"}),
    ("POST", "/v1/tickets/{id}/capture"): ({"service"}, {"service"}),
    ("POST", "/v1/tickets/{id}/void"): ({"service", "operator"}, {"service", "operator"}),
    ("GET", "/v1/packs"): (ALL, ALL),
    ("POST", "/v1/checkouts"): (ALL, {"user"}),
    ("GET", "/v1/checkouts/{id}"): (ALL, {"user", "operator"}),
    ("POST", "/v1/credits/request"): (ALL, {"user"}),
    ("GET", "/v1/credits/requests"): ({"operator"}, {"operator"}),
    ("GET", "/v1/statements/{userId}"): ({"operator"}, {"user", "operator"}),
    ("GET", "/v1/payments"): ({"operator"}, {"operator"}),
    ("GET", "/v1/payments/{id}"): ({"operator"}, {"operator"}),
    ("POST", "/v1/payments/{id}/assign"): ({"operator"}, {"operator"}),
    ("POST", "/v1/payments/{id}/write-off"): ({"operator"}, {"operator"}),
    ("GET", "/v1/analytics"): ({"operator"}, {"operator"}),
    ("GET", "/v1/log"): ({"operator"}, {"operator"}),
    ("GET", "/v1/events"): ({"operator"}, {"operator"}),
    ("POST", "/v1/events/{id}/replay"): ({"operator"}, {"operator"}),
    ("POST", "/v1/users"): (ALL, ALL),
    ("POST", "/v1/users/token"): (ALL, ALL),
    ("POST", "/v1/users/{userId}/token"): ({"service"}, {"service"}),
    ("POST", "/v1/users/{userId}/revoke"): ({"service", "operator"}, {"service", "operator"}),
    ("GET", "/.well-known/jwks.json"): (ALL, ALL),
    ("GET", "/health"): (ALL, ALL),
    ("GET", "/health/live"): (ALL, ALL),
    ("GET", "/health/ready"): (ALL, ALL),
    ("GET", "/metrics"): (ALL, ALL),
    ("GET", "/openapi.json"): (ALL, ALL),
    ("GET", "/docs"): (ALL, ALL),
    ("GET", "/docs/docs.css"): (ALL, ALL),
    ("GET", "/docs/docs.js"): (ALL, ALL),
}


@pytest.fixture(scope="module")
def believing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pluct]:
    """An engine that believes every user id."""
    with served(tmp_path_factory.mktemp("open")) as pluct:
        yield pluct


TOML = '[actions.self]\naudience = "pluct-business-engine"\n'


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pluct]:
    """An engine that wants a user token."""
    secrets = {"USER_TOKEN_SECRET": USER_TOKEN_SECRET, "JWT_SECRET": JWT_SECRET}
    with served(tmp_path_factory.mktemp("token"), TOML, PLUCT_USER_AUTH="token", **secrets) as pluct:
        yield pluct


def callers(engine: Pluct) -> Keys:
    """Everybody who may come along, by the headers they send; the user is amina."""
    found = {role: engine.key(role) for role in ("mint", "service", "operator")}
    return found | {"nobody": {}, "webhook": SECRET, "user": user_token("amina")}


@pytest.fixture(scope="module")
def believed(believing: Pluct) -> Keys:
    return callers(believing)


@pytest.fixture(scope="module")
def known(strict: Pluct) -> Keys:
    return callers(strict)


# Roles


def ask(engine: Pluct, method: str, path: str, headers: dict[str, str]) -> httpx.Response:
    """A request to this route that is refused for nothing but who asks."""
    ticket = {"sub": "amina", "iss": "pluct-business-engine", "aud": "premium", "jti": "none", "exp": 1}
    body = {"userId": "amina", "amount": 1, "reason": "a reason", "token": signed(ticket, JWT_SECRET)}
    address = path.replace("{userId}", "amina").replace("{id}", "none")
    if method == "GET":
        query = {"userId": "amina"} if path == "/v1/credits/balance" else {}
        with engine.client.stream("GET", address, params=query, headers=headers) as answer:
            if answer.headers["content-type"] != "text/event-stream":  # which has no end
                answer.read()
            return answer
    return engine.post(address, body, headers)


def test_every_route_has_its_row() -> None:
    """A route that is not in the table of this file has nobody watching its door."""
    assert set(ROLES) == ROUTES


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize(("method", "path"), list(ROLES), ids=[" ".join(row) for row in ROLES])
@pytest.mark.parametrize("mode", ["open", "token"])
def test_a_route_lets_in_its_roles_only(
    request: pytest.FixtureRequest, mode: str, method: str, path: str, caller: str
) -> None:
    """Nobody is 401, a key of another role 403, a user too where they are known; who is let in gets past the door."""
    engine: Pluct = request.getfixturevalue("believing" if mode == "open" else "strict")
    headers: Keys = request.getfixturevalue("believed" if mode == "open" else "known")
    assert engine.fund("amina", 1).status_code == 200
    answer = ask(engine, method, path, headers[caller])
    assert answer.status_code < 500
    let_in = ROLES[method, path][mode == "token"]
    if caller in let_in:
        assert answer.status_code not in (401, 403), answer.text
    elif caller == "nobody" or (caller == "user" and mode == "open") or let_in == {"user"}:
        assert answer.status_code == 401 and "error" in answer.json(), answer.text
    else:
        assert answer.status_code == 403 and "error" in answer.json(), answer.text
    if path.startswith("/v1") and answer.status_code in (401, 403):
        refused(answer, answer.status_code, {401: "unauthorized", 403: "forbidden"}[answer.status_code])


def test_a_user_where_a_key_is_asked_for(strict: Pluct, believing: Pluct) -> None:
    """Is known, and has the wrong role; with a bad token they are nobody, and in `open` mode it is no key."""
    path, good = "/v1/wallets/amina", user_token("amina")
    answer = strict.client.get(path, headers=good)
    refused(answer, 403, "forbidden")
    assert answer.json()["detail"] == "This needs a key with the role service or operator; this one is user."
    token = good["Authorization"].removeprefix("Bearer ")
    bad = [token[:-4] + "AAAA", "x.y.z", "..", signed({"sub": "amina", "exp": 1}, USER_TOKEN_SECRET)]
    for headers in [*({"Authorization": f"Bearer {one}"} for one in bad), {"X-API-Key": token}]:
        refused(strict.client.get(path, headers=headers), 401, "unauthorized")
    assert strict.client.get(path, headers=good | strict.key("service")).status_code in (200, 404)
    key = strict.key("service")["Authorization"].removeprefix("Bearer ")
    assert strict.client.get(path, headers=good | {"X-API-Key": key}).status_code in (200, 404)
    refused(believing.client.get(path, headers=good), 401, "unauthorized")


def test_a_key_may_come_in_either_header(believing: Pluct) -> None:
    """`Authorization: Bearer` in any case, or `X-API-Key`, which goes first."""
    key = believing.key("service")["Authorization"].removeprefix("Bearer ")
    path = f"/v1/wallets/{believing.funded(1)}"
    good: list[dict[str, str]] = [
        {"Authorization": f"Bearer {key}"}, {"Authorization": f"bearer {key}"}, {"Authorization": f"BEARER   {key}"},
        {"X-API-Key": key}, {"X-API-Key": key, "Authorization": "Bearer nonsense"},
        {"X-API-Key": key, "Authorization": "Basic YTpi"},
    ]  # fmt: skip
    assert [believing.client.get(path, headers=headers).status_code for headers in good] == [200] * len(good)
    bad: list[dict[str, str]] = [
        {"Authorization": key}, {"Authorization": f"Basic {key}"}, {"Authorization": "Bearer"},
        {"Authorization": f"Bearer {key}x"}, {"Authorization": f"Bearer {key[:-1]}"},
        {"Authorization": f"Bearer {key.upper()}"}, {"Authorization": f"Bearer {key} {key}"},
        {"X-API-Key": f"Bearer {key}"},
        {"X-API-Key": "nonsense", "Authorization": f"Bearer {key}"}, {"Cookie": f"key={key}"},
        {"x-webhook-secret": key}, {"Authorization": f"Bearer {WEBHOOK_SECRET}"},
    ]  # fmt: skip
    for headers in bad:
        refused(believing.client.get(path, headers=headers), 401, "unauthorized")
    refused(believing.client.get(path, params={"key": key, "access_token": key}), 401, "unauthorized")


def test_a_revoked_key_opens_nothing(believing: Pluct) -> None:
    """From the next request on, while the server runs."""
    made = believing.json("keys", "create", "--role", "service", "--name", "lost")
    headers, path = {"Authorization": f"Bearer {made['secret']}"}, f"/v1/wallets/{believing.funded(1)}"
    assert believing.client.get(path, headers=headers).status_code == 200
    believing.run("keys", "revoke", made["id"])
    refused(believing.client.get(path, headers=headers), 401, "unauthorized")


def test_whoever_is_refused_has_changed_nothing(believing: Pluct, believed: Keys) -> None:
    """A refused top-up, adjustment, capture or void leaves the ledger as it was."""
    user_id = believing.funded(5)
    vended = believing.post("/v1/vend-token", {"userId": user_id}).json()
    body = {"userId": user_id, "amount": 1, "reason": "a reason"}
    strangers = {
        "/v1/credits/add": ("nobody", "service", "user"),
        f"/v1/wallets/{user_id}/adjustments": ("nobody", "service", "user", "mint", "webhook"),
        f"/v1/tickets/{vended['ticketId']}/void": ("nobody", "user", "mint", "webhook"),
        f"/v1/tickets/{vended['ticketId']}/capture": ("nobody", "user", "mint", "webhook", "operator"),
    }
    for path, refused_ones in strangers.items():
        for caller in refused_ones:
            assert believing.post(path, body, believed[caller]).status_code in (401, 403)
    assert believing.available(user_id) == 4


def test_the_door_is_tried_before_the_request_is_looked_at(believing: Pluct) -> None:
    """A stranger learns nothing from what is wrong with a body, a query or an id."""
    for path in ("/v1/credits/add", "/v1/wallets/x/adjustments", "/v1/tickets/redeem", "/v1/tickets/x/capture"):
        for body in (b"", b"{", b"\xff", b"x" * 70_000):
            refused(believing.post(path, body), 401, "unauthorized")
    for path in ("/v1/wallets/nobody", "/v1/wallets/nobody/entries?limit=x", "/v1/tickets/nothing"):
        refused(believing.client.get(path), 401, "unauthorized")


# User ids


ODD_IDS = [
    "a/b", "/", "a+b", "a b", " ", "a%2Fb", "%00", "é", "e\u0301", "日本", "\U0001f600" * 200, ".", "..", "a?b#c&d=e",
    "a;b,c", "'\"<>`{}|\\^", "user:x", "null", "0", "-1", "\u200b", "\ufeff", "\u202e", "\U0010ffff", "x" * 200,
    "A", "a",
]  # fmt: skip


def address(user_id: str) -> str:
    """A user's wallet, with everything in the id escaped that can be."""
    return "/v1/wallets/" + quote(user_id, safe="").replace(".", "%2E")


@pytest.mark.parametrize("user_id", ODD_IDS)
def test_any_text_is_a_user_id(believing: Pluct, believed: Keys, user_id: str) -> None:
    """In a body, a query, a path, a header and a token it is the same user, and nobody else."""
    staff = believed["operator"]
    assert believing.fund(user_id, 3).json() == {"success": True, "newBalance": 3}
    query = "userId=" + quote(user_id, safe="")
    assert believing.client.get(f"/v1/credits/balance?{query}").json()["userId"] == user_id
    for path in (address(user_id), address(user_id) + "/entries"):
        assert believing.client.get(path, headers=staff).status_code == 200
    assert believing.client.get(address(user_id), headers=staff).json()["userId"] == user_id
    adjusted = believing.post(address(user_id) + "/adjustments", {"amount": -1, "reason": "a reason"}, staff).json()
    assert (adjusted["debit"], adjusted["availableAfter"]) == (f"user:{user_id}", 2)
    vended = believing.post("/v1/vend-token", {"userId": user_id}).json()
    assert claims(vended["token"])["sub"] == user_id
    if user_id.strip() == user_id:  # a header loses the space around it
        header = {"X-User-Id": user_id.encode()}
        answer = believing.client.get("/v1/credits/balance", headers=header)  # type: ignore[arg-type]
        assert answer.json()["available"] == 1


def test_a_plus_is_a_space_in_a_query_only(believing: Pluct, believed: Keys) -> None:
    """As forms write it; in a path it is a plus, and an escape is undone once."""
    for user_id, amount in (("q p", 1), ("q+p", 2), ("q%20p", 3), ("q%2Bp", 4)):
        believing.fund(user_id, amount)

    def by_path(text: str) -> int:
        available: int = believing.client.get(f"/v1/wallets/{text}", headers=believed["service"]).json()["available"]
        return available

    def by_query(text: str) -> int:
        available: int = believing.client.get(f"/v1/credits/balance?userId={text}").json()["available"]
        return available

    spelled = ("q%20p", "q%2Bp", "q%2520p", "q%252Bp")
    assert [by_path(text) for text in spelled] == [by_query(text) for text in spelled] == [1, 2, 3, 4]
    assert (by_path("q+p"), by_query("q+p")) == (2, 1)


@pytest.mark.parametrize(
    "text", ["%00", "a%00", "%0A", "%7F", "%C2%85", "%FF", "%C3", "%ED%A0%80", "x" * 201, "%F0%9F%98%80" * 201]
)
def test_an_address_that_holds_no_user_id_is_refused(believing: Pluct, believed: Keys, text: str) -> None:
    """Control characters, broken UTF-8, too much of it: 400 on each route with an id in its path."""
    staff = believed["operator"]
    refused(believing.client.get(f"/v1/wallets/{text}", headers=staff), 400, "invalid_request")
    refused(believing.client.get(f"/v1/wallets/{text}/entries", headers=staff), 400, "invalid_request")
    body = {"amount": 1, "reason": "a reason"}
    refused(believing.post(f"/v1/wallets/{text}/adjustments", body, staff), 400, "invalid_request")


def test_a_named_user_goes_before_the_header(believing: Pluct) -> None:
    """Body or query first, then `X-User-Id`; the header is UTF-8 and follows the rule of ids."""
    first, second = believing.funded(1), believing.funded(2)
    header = {"X-User-Id": second}
    assert claims(believing.post("/v1/vend-token", {"userId": first}, header).json()["token"])["sub"] == first
    assert claims(believing.post("/v1/vend-token", {}, header).json()["token"])["sub"] == second
    balance = "/v1/credits/balance"
    assert believing.client.get(balance, params={"userId": first}, headers=header).json()["userId"] == first
    assert believing.client.get(balance, headers=header).json()["userId"] == second
    refused(believing.post("/v1/vend-token", {"userId": ""}, header), 400, "invalid_request")
    for wrong in (b"", b"\xff", b"x" * 201, b"a\tb", "\x85".encode()):
        refused(believing.post("/v1/vend-token", {}, {"X-User-Id": wrong}), 400, "invalid_request")


def test_history_needs_a_key_where_every_id_is_believed(believing: Pluct, believed: Keys) -> None:
    """Only the balance may be looked at by id; a user token is not looked at."""
    user_id = believing.funded(1)
    path = f"/v1/wallets/{user_id}/entries"
    for headers in ({}, user_token(user_id), {"X-User-Id": user_id}):
        refused(believing.client.get(path, headers=headers), 401, "unauthorized")
    assert believing.client.get(path, headers=believed["operator"]).status_code == 200


def test_user_tokens_are_not_looked_at_where_every_id_is_believed(believing: Pluct) -> None:
    """Neither whom they name nor whether they are any good."""
    user_id, other = believing.funded(6), believing.funded(5)
    for headers in (user_token(other), {"Authorization": "Bearer a.b.c"}, {"Authorization": "Bearer x"}):
        for path in ("/vend-token", "/v1/vend-token"):
            assert claims(believing.post(path, {"userId": user_id}, headers).json()["token"])["sub"] == user_id
    assert believing.available(other) == 5


# User tokens


UNAUTHORIZED = (401, b'{"error":"Unauthorized"}')


def seen(answer: httpx.Response) -> tuple[int, bytes]:
    return answer.status_code, answer.content


def test_a_user_token_names_the_user(strict: Pluct) -> None:
    """It need not be repeated; where it is, it agrees; the header does not count beside it."""
    user_id, other = strict.funded(9), strict.funded(9)
    token = user_token(user_id)
    for path in ("/vend-token", "/v1/vend-token"):
        for body in ({}, {"userId": user_id}, {"userId": None}):
            assert claims(strict.post(path, body, token).json()["token"])["sub"] == user_id
    answer = strict.post("/v1/vend-token", {}, token | {"X-User-Id": other})
    assert answer.status_code == 403 or claims(answer.json()["token"])["sub"] == user_id
    found = strict.client.get("/v1/credits/balance", headers=token).json()
    assert (found["userId"], found["available"]) == (user_id, 9 - 6 - (answer.status_code == 200))
    assert strict.client.get("/v1/credits/balance", params={"userId": user_id}, headers=token).status_code == 200
    history = strict.client.get(f"/v1/wallets/{user_id}/entries", headers=token).json()
    assert history["entries"][-1]["credit"] == f"user:{user_id}"


def test_a_user_token_opens_no_other_wallet(strict: Pluct) -> None:
    """403 for another id in the body, the query or the path; nothing moves, nothing is told."""
    user_id, other = strict.funded(2), strict.funded(2)
    token = user_token(user_id)
    refused(strict.post("/v1/vend-token", {"userId": other}, token), 403, "forbidden")
    refused(strict.post("/v1/vend-token", {"userId": ""}, token), 403, "forbidden")
    refused(strict.client.get("/v1/credits/balance", params={"userId": other}, headers=token), 403, "forbidden")
    for path in (other, new_id(), quote("a/b", safe="")):
        refused(strict.client.get(f"/v1/wallets/{path}/entries", headers=token), 403, "forbidden")
    staff = strict.key("operator")
    for name in (user_id, other):
        balance = strict.client.get("/v1/credits/balance", params={"userId": name}, headers=staff).json()
        assert balance["available"] == 2


def test_the_seeds_vend_without_a_matching_user_token_is_unauthorized(strict: Pluct) -> None:
    """A token of another user is no matching one; 403 would mean that there are no credits."""
    other = strict.funded(2)
    for named in (other, "", 0, False, ["amina"]):
        assert seen(strict.post("/vend-token", {"userId": named}, user_token("amina"))) == UNAUTHORIZED


def bad_tokens() -> dict[str, str]:
    """User tokens that must not pass, by what is wrong with them."""
    now = int(time.time())
    good = {"sub": "amina", "aud": "pluct-business-engine", "exp": now + 60}
    wrong: dict[str, dict[str, Any]] = {
        "expired": {"exp": now - 1}, "just expired": {"exp": now}, "expired long ago": {"exp": 0},
        "end in text": {"exp": str(now + 60)}, "end is true": {"exp": True}, "no end": {"exp": None},
        "not yet": {"nbf": now + 60}, "start in text": {"nbf": "0"}, "another audience": {"aud": "premium"},
        "no audience": {"aud": None}, "audiences without ours": {"aud": ["premium"]}, "odd audience": {"aud": {}},
        "nobody": {"sub": None}, "a number": {"sub": 7}, "a list": {"sub": ["amina"]},
    }  # fmt: skip
    tokens = {name: signed(good | change, USER_TOKEN_SECRET) for name, change in wrong.items()}
    for missing in good:
        without = {name: value for name, value in good.items() if name != missing}
        tokens[f"without {missing}"] = signed(without, USER_TOKEN_SECRET)
    head, payload, signature = signed(good, USER_TOKEN_SECRET).split(".")
    tokens |= {"the tickets' secret": signed(good, JWT_SECRET), "the webhook's secret": signed(good, WEBHOOK_SECRET)}
    tokens |= {"no signature": f"{head}.{payload}.", "none": f"eyJhbGciOiJub25lIn0.{payload}.", "dots": "..",
               "three words": "a.b.c", "cut": f"{head}.{payload}.{signature[:-2]}", "no token": "x",
               "long": f"{head}.{payload}.{signature}" + "A" * 9000}  # fmt: skip
    return tokens


@pytest.mark.parametrize("name", list(bad_tokens()))
def test_a_bad_user_token_is_unauthorized(strict: Pluct, name: str) -> None:
    """401 wherever a user may come in, exactly the seed's on the seed's route."""
    strict.fund("amina", 1)
    headers = {"Authorization": f"Bearer {bad_tokens()[name]}"}
    assert seen(strict.post("/vend-token", {"userId": "amina"}, headers)) == UNAUTHORIZED
    refused(strict.post("/v1/vend-token", {"userId": "amina"}, headers), 401, "unauthorized")
    refused(strict.client.get("/v1/credits/balance?userId=amina", headers=headers), 401, "unauthorized")
    refused(strict.client.get("/v1/wallets/amina/entries", headers=headers), 401, "unauthorized")


@pytest.mark.parametrize("end", [float("nan"), float("inf"), 1e300, 10**400])
def test_a_user_token_ends(strict: Pluct, end: float) -> None:
    """An end that is no number is none; one that is far away is the issuer's business, and no accident of ours."""
    answer = strict.post("/v1/vend-token", {}, user_token(strict.funded(1), exp=end))
    assert answer.status_code in ((401,) if end != end else (200, 401)), answer.text


@pytest.mark.parametrize("user_id", ["", "x" * 201, "a\nb", "\x00", "\ud800"])
def test_a_user_token_that_names_no_possible_user_is_refused(strict: Pluct, user_id: str) -> None:
    """What cannot be a user id is refused with a sentence."""
    for path in ("/vend-token", "/v1/vend-token"):
        answer = strict.post(path, {}, user_token(user_id))
        assert answer.status_code in (400, 401) and len(answer.json()["error"]) > 3, answer.text


def test_an_audience_may_be_a_list(strict: Pluct) -> None:
    """As RFC 7519 has it: ours among others."""
    token = user_token(strict.funded(1), aud=["another", "pluct-business-engine"])
    assert strict.post("/v1/vend-token", {}, token).status_code == 200


def test_tickets_and_user_tokens_never_pass_for_one_another(strict: Pluct, known: Keys) -> None:
    """Not even for an action whose audience is the engine itself: the secrets differ."""
    user_id = strict.funded(5)
    token = user_token(user_id)
    for action in ("default", "self"):
        ticket = strict.post("/v1/vend-token", {"action": action}, token).json()["token"]
        as_user = {"Authorization": f"Bearer {ticket}"}
        assert seen(strict.post("/vend-token", {"userId": user_id}, as_user)) == UNAUTHORIZED
        refused(strict.post("/v1/vend-token", {}, as_user), 401, "unauthorized")
        refused(strict.client.get("/v1/credits/balance", headers=as_user), 401, "unauthorized")
        refused(strict.client.get(f"/v1/wallets/{user_id}/entries", headers=as_user), 401, "unauthorized")
        assert strict.post("/v1/tickets/redeem", {"token": ticket}, known["service"]).status_code == 200
    bearer = token["Authorization"].removeprefix("Bearer ")
    full = signed(claims(ticket) | {"aud": "premium"}, USER_TOKEN_SECRET)
    for mistaken in (bearer, full):
        refused(strict.post("/v1/tickets/redeem", {"token": mistaken}, known["service"]), 401, "unauthorized")


def test_a_key_without_a_token_vends_nothing(strict: Pluct, known: Keys) -> None:
    """No role may spend in a user's name, and no header names a user by itself."""
    user_id = strict.funded(1)
    for headers in ({}, SECRET, known["operator"], known["service"], known["mint"], {"X-User-Id": user_id}):
        assert seen(strict.post("/vend-token", {"userId": user_id}, headers)) == UNAUTHORIZED
        refused(strict.post("/v1/vend-token", {"userId": user_id}, headers), 401, "unauthorized")


def test_staff_read_any_balance_by_its_id(strict: Pluct, known: Keys) -> None:
    """With a key the user must be named: a key is nobody's."""
    user_id = strict.funded(3)
    for role in ("service", "operator"):
        answer = strict.client.get("/v1/credits/balance", params={"userId": user_id}, headers=known[role])
        assert answer.json()["available"] == 3
        refused(strict.client.get("/v1/credits/balance", headers=known[role]), 400, "invalid_request")


def test_idempotency_keys_are_the_users_own(strict: Pluct) -> None:
    """The same key of two users is two keys; a replay is for who is authenticated as its user only."""
    first, second, key = strict.funded(2), strict.funded(2), {"Idempotency-Key": "the same"}
    tokens = [strict.post("/v1/vend-token", {}, user_token(user) | key).json()["token"] for user in (first, second)]
    assert [claims(token)["sub"] for token in tokens] == [first, second]
    again = strict.post("/v1/vend-token", {}, user_token(first) | key)
    assert (again.json()["token"], again.headers["idempotency-replayed"]) == (tokens[0], "true")
    refused(strict.post("/v1/vend-token", {"userId": first}, key), 401, "unauthorized")
    refused(strict.post("/v1/vend-token", {"userId": first}, user_token(second) | key), 403, "forbidden")
