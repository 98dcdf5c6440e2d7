"""What once went wrong with credits, turned into promises; and what the apps in people's pockets need.

Each of the first fifteen tests is named for the fact that keeps one old accident from happening again.
"""

import ast
import json
import re
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from conftest import (
    JWT_SECRET,
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

SECRET = {"x-webhook-secret": WEBHOOK_SECRET}
TOML = """
[actions.transcribe]
cost = 2
audience = "tttranscribe"
settle = "report"
report_seconds = 2592000
cost_max = 20

[actions.look]
settle = "redeem"
ttl_seconds = 1
"""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pluct]:
    with served(tmp_path_factory.mktemp("regressions"), TOML) as pluct:
        yield pluct


@pytest.fixture(scope="module")
def keys(engine: Pluct) -> Keys:
    return {role: engine.key(role) for role in ("service", "operator")}


def vend(engine: Pluct, user_id: str, **more: Any) -> httpx.Response:
    return engine.post("/v1/vend-token", {"userId": user_id} | more)


def at_once(count: int, send: Callable[[int], httpx.Response]) -> list[httpx.Response]:
    """So many requests in flight together."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(send, range(count)))


@contextmanager
def locked(engine: Pluct) -> Iterator[None]:
    """The ledger cannot be written, as long as another process holds its lock."""
    with closing(sqlite3.connect(engine.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


# Fifteen facts


def test_there_is_one_ledger_and_when_it_cannot_be_written_nothing_is_sold(engine: Pluct) -> None:
    """3 credits buy 3 tickets, whatever breaks in between: a broken ledger is 503, and no other one steps in."""
    user_id = engine.funded(3)
    assert vend(engine, user_id).status_code == 200
    with locked(engine):
        answer = vend(engine, user_id, clientRequestId="try 0")
    assert refused(answer, 503, "unavailable")["retryAfterSeconds"] >= 1
    assert int(answer.headers["retry-after"]) >= 1
    sold = [vend(engine, user_id, clientRequestId=f"try {n}") for n in (0, 1, 0, 2)]
    assert [answer.status_code for answer in sold] == [200, 200, 200, 402]
    assert ["idempotency-replayed" in answer.headers for answer in sold] == [False, False, True, False]


def test_a_balance_is_looked_at_before_it_is_spent(engine: Pluct) -> None:
    """Exactly as many vends succeed as there are credits; one at zero does not, and takes nothing."""
    user_id = engine.funded(3)
    answers = at_once(10, lambda _: vend(engine, user_id))
    assert sorted(answer.status_code for answer in answers) == [200] * 3 + [402] * 7
    assert vend(engine, user_id).status_code == 402
    assert engine.available(user_id) == 0


def test_a_server_killed_at_any_moment_has_answered_only_what_it_wrote(make_pluct: Callable[..., Pluct]) -> None:
    """After a kill in full flight, what was answered stands, a retry gets the same answer, and the sums are right."""
    pluct = make_pluct()
    pluct.start()
    pluct.fund("amina", 1000)

    def keep_vending(lane: int) -> dict[str, str]:
        tokens: dict[str, str] = {}
        try:
            for number in range(400):
                key = f"{lane}/{number}"
                tokens[key] = ""
                tokens[key] = vend(pluct, "amina", clientRequestId=key).json()["token"]
        except httpx.TransportError:
            return tokens
        return tokens

    with ThreadPoolExecutor(4) as pool:
        lanes = [pool.submit(keep_vending, lane) for lane in range(4)]
        until(lambda: pluct.available("amina") < 900)
        pluct.stop(9)
        tokens = {key: token for lane in lanes for key, token in lane.result().items()}
    assert "" in tokens.values()
    pluct.start()
    for key, token in tokens.items():
        again = vend(pluct, "amina", clientRequestId=key).json()["token"]
        assert token in ("", again)
    assert pluct.available("amina") == 1000 - len(tokens)
    assert pluct.json("check")["ok"] is True


def test_a_ticket_can_be_made_again_from_what_was_written(make_pluct: Callable[..., Pluct]) -> None:
    """After a restart the repeated vend signs to the same bytes: no ticket is lost between debit and signature."""
    pluct = make_pluct()
    pluct.start()
    pluct.fund("amina", 2)
    first = vend(pluct, "amina", clientRequestId="once").json()
    assert pluct.stop() == 0
    pluct.start()
    again = vend(pluct, "amina", clientRequestId="once").json()
    assert again | {"requestId": ""} == first | {"requestId": ""}
    assert pluct.available("amina") == 1


def test_an_idempotency_key_belongs_to_its_user_and_its_request(make_pluct: Callable[..., Pluct]) -> None:
    """Another user with the same key gets a ticket of their own, and nobody gets a replay without being its user."""
    pluct = make_pluct(PLUCT_USER_AUTH="token")
    pluct.start()
    for user_id in ("victim", "mallory"):
        pluct.fund(user_id, 2)
    key = {"Idempotency-Key": "guessable"}
    stolen = pluct.post("/v1/vend-token", {}, user_token("victim") | key).json()["token"]
    own = pluct.post("/v1/vend-token", {}, user_token("mallory") | key)
    assert claims(own.json()["token"])["sub"] == "mallory" and own.json()["token"] != stolen
    refused(pluct.post("/v1/vend-token", {"userId": "victim"}, key), 401, "unauthorized")
    refused(pluct.post("/v1/vend-token", {"userId": "victim"}, user_token("mallory") | key), 403, "forbidden")
    refused(pluct.post("/v1/vend-token", {"action": "other"}, user_token("victim") | key), 400, "invalid_request")


def test_only_outcomes_are_remembered_under_a_key(engine: Pluct, keys: Keys) -> None:
    """A refused first attempt leaves its key free; the retry is decided anew and has a full answer."""
    user_id = new_id()
    refused(vend(engine, user_id, clientRequestId="try"), 402, "insufficient_credits")
    engine.fund(user_id, 1)
    answer = vend(engine, user_id, clientRequestId="try")
    assert (answer.status_code, "idempotency-replayed" in answer.headers) == (200, False)
    assert claims(answer.json()["token"])["sub"] == user_id
    body = {"amount": -5, "reason": "too much", "clientRequestId": new_id()}
    path = f"/v1/wallets/{user_id}/adjustments"
    refused(engine.post(path, body, keys["operator"]), 402, "insufficient_credits")
    engine.fund(user_id, 5)
    assert engine.post(path, body, keys["operator"]).json()["availableAfter"] == 0


def test_balances_of_the_old_store_move_over_whatever_prefix_they_had(make_pluct: Callable[..., Pluct]) -> None:
    """Each generation of keys is imported, once, beside a running server."""
    pluct = make_pluct()
    pluct.start()
    pairs = {"amina": "12", "user:bob": "3", "credits:carol": "7"}
    export = [{"key": key, "value": value} for key, value in pairs.items()]
    (pluct.folder / "export.json").write_text(json.dumps(export))
    for _ in range(2):
        pluct.run("import-kv", "export.json")
        assert [pluct.available(user_id) for user_id in ("amina", "bob", "carol")] == [12, 3, 7]


def test_a_server_migrates_before_it_listens_or_does_not_start(make_pluct: Callable[..., Pluct]) -> None:
    """A ledger survives a restart; one that is broken, or newer than the code, is named, and nothing listens."""
    pluct = make_pluct()
    pluct.start()
    pluct.fund("amina", 5)
    pluct.stop()
    pluct.start()
    assert pluct.available("amina") == 5
    pluct.stop()
    copy = make_pluct("copy")
    shutil.copytree(pluct.folder / "data", copy.folder / "data")
    with closing(sqlite3.connect(copy.database)) as database:
        assert database.execute("PRAGMA user_version").fetchone()[0] >= 1
        database.execute("PRAGMA user_version = 9999")
    broken = make_pluct("broken")
    broken.database.parent.mkdir()
    broken.database.write_bytes(b"this is no database" * 1000)
    for unfit in (copy, broken):
        done = unfit.run("serve", "--port", "0", exit_code=2)
        assert "listening" not in done.stdout and str(unfit.database) in done.stderr.replace("\n", "")


def test_each_secret_has_one_name_and_one_use(make_pluct: Callable[..., Pluct]) -> None:
    """Production refuses to start with missing, short, borrowed or development secrets, and names every one."""
    pluct = make_pluct()
    bare = pluct.run("serve", "--port", "0", exit_code=2, PLUCT_ENV="production", PLUCT_USER_AUTH="token")
    for name in ("WEBHOOK_SECRET", "JWT_SECRET", "USER_TOKEN_SECRET"):
        assert name in bare.stderr
    strong = {name: name * 4 for name in ("WEBHOOK_SECRET", "JWT_SECRET", "USER_TOKEN_SECRET")}
    bad = [
        ("JWT_SECRET", strong["USER_TOKEN_SECRET"]), ("WEBHOOK_SECRET", strong["JWT_SECRET"]),
        ("JWT_SECRET", "too little"), ("JWT_SECRET", JWT_SECRET), ("WEBHOOK_SECRET", WEBHOOK_SECRET),
        ("WEBHOOK_SECRET", ""),
        ("WEBHOOK_SECRET", strong["WEBHOOK_SECRET"] + ",too little"),
    ]  # fmt: skip
    for name, value in bad:
        environment = strong | {name: value, "PLUCT_ENV": "production", "PLUCT_USER_AUTH": "token"}
        done = pluct.run("serve", "--port", "0", exit_code=2, **environment)
        assert "listening" not in done.stdout and name in done.stderr
        assert not value or value not in done.stderr


def test_no_log_line_has_a_key_or_a_part_of_a_token(engine: Pluct, keys: Keys) -> None:
    """Not even the first letters, of good ones or of bad ones."""
    user_id, marker = engine.funded(2), new_id()
    token = vend(engine, user_id).json()["token"]
    key = keys["service"]["Authorization"].split()[1]
    engine.post("/v1/tickets/redeem", {"token": token}, keys["service"])
    engine.post("/v1/tickets/redeem", {"token": token[:-4]}, {"Authorization": f"Bearer {key}x"})
    engine.client.get(f"/v1/wallets/{user_id}", headers={"X-API-Key": key} | {"X-Request-Id": marker})
    log = until(lambda: marker in engine.log and engine.log)
    for secret in (WEBHOOK_SECRET, key, token.split(".")[1], token.split(".")[2]):
        assert secret[:16] not in log and secret[-16:] not in log
    assert "eyJ" not in log


def test_health_says_ready_only_after_a_commit(engine: Pluct) -> None:
    """While the store cannot commit, `ready` is 503 with a sentence, and `live` is still 200."""
    with locked(engine), ThreadPoolExecutor(1) as pool:
        ready = pool.submit(engine.client.get, "/health/ready")
        assert engine.client.get("/health/live").json()["status"] == "ok"
        assert engine.client.get("/health").status_code == 200
        refused(ready.result(), 503, "unavailable")
    assert engine.client.get("/health/ready").status_code == 200


def test_every_test_can_fail() -> None:
    """No test asserts a constant, none lets any status pass, and none is without an assertion."""
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        for node in ast.walk(tree):
            assert not (isinstance(node, ast.Assert) and isinstance(node.test, ast.Constant)), (path.name, node.lineno)
        text = path.read_text("utf-8")
        assert not re.search(r"status_code (?:in|not in) \([^)]*50[0-9]", text), path.name


SHAPES: list[tuple[str, str, Any, Any, int, set[str]]] = [
    ("POST", "/vend-token", {}, {"userId": "poor"}, 403, {"error"}),
    ("POST", "/vend-token", {}, {}, 400, {"error"}),
    ("POST", "/add-credits", {}, {"userId": "u", "amount": 1}, 401, {"error"}),
    ("POST", "/add-credits", SECRET, {"userId": "u", "amount": 0}, 400, {"error"}),
    ("POST", "/v1/vend-token", {}, {"userId": "poor"}, 402, {"code", "message", "error", "detail"}),
    ("POST", "/v1/vend-token", {}, {}, 400, {"code", "message", "error", "detail"}),
    ("POST", "/v1/credits/add", {}, {}, 401, {"code", "message", "error", "detail"}),
    ("GET", "/v1/nowhere", {}, None, 404, {"code", "message", "error", "detail"}),
]


@pytest.mark.parametrize(("method", "path", "headers", "body", "status", "fields"), SHAPES)
def test_each_route_refuses_in_its_own_frozen_shape(
    engine: Pluct, method: str, path: str, headers: Any, body: Any, status: int, fields: set[str]
) -> None:
    """No credits is 403 on the old route and 402 on the new one, for ever; the old errors have one field."""
    answer = engine.client.request(method, path, headers=headers, json=body)
    assert answer.status_code == status
    assert set(answer.json()) == fields if fields == {"error"} else fields < set(answer.json())


def test_long_work_is_reserved_first_and_settled_after(engine: Pluct, keys: Keys) -> None:
    """The reservation is on record before the work starts, a report may come twice, and no request waits for work."""
    user_id = engine.funded(5)
    vended = vend(engine, user_id, action="transcribe", cost=4).json()
    assert engine.available(user_id) == 1
    accepted = engine.post("/v1/tickets/redeem", {"token": vended["token"]}, keys["service"]).json()
    assert accepted["state"] == "redeemed" and accepted["reportBefore"] > accepted["redeemedAt"]
    report = {"amount": 3, "clientRequestId": "job 7"}
    path = f"/v1/tickets/{vended['ticketId']}/capture"
    first, again = (engine.post(path, report, keys["service"]) for _ in range(2))
    assert first.json()["capturedAmount"] == again.json()["capturedAmount"] == 3
    assert again.headers["idempotency-replayed"] == "true"
    assert engine.available(user_id) == 2


def test_no_route_mints_or_administers_without_a_role(engine: Pluct) -> None:
    """No admin page, no password in a page's script, and not one credit for a stranger, by any documented address."""
    user_id = new_id()
    for path in ("/admin", "/admin/credits", "/admin/users", "/v1/admin", "/seed-credits", "/debug"):
        refused(engine.client.get(path), 404, "route_not_found")
        refused(engine.post(path, {"userId": user_id, "amount": 5}), 404, "route_not_found")
    for answer in (engine.client.get("/console"), engine.post("/console/user/grant", {})):
        assert answer.headers["location"] == "/console/sign-in"
    document = engine.client.get("/openapi.json").json()
    body = {"userId": user_id, "amount": 5, "reason": "r", "token": "t"}
    for path, methods in document["paths"].items():
        for method in methods:
            address = path.replace("{userId}", user_id).replace("{id}", "x")
            engine.client.request(method, address, json=body if method == "post" else None)
    assert engine.available(user_id) == 0
    for page in ("/docs", "/docs/docs.js", "/openapi.json"):
        text = engine.client.get(page).text
        assert "never-use-in-prod" not in text and not re.search(r"password\s*[:=]", text, re.I)


# The app


def test_a_retry_after_a_top_up_succeeds_under_the_same_id(engine: Pluct) -> None:
    """402, top up, the same `clientRequestId` again: a token; and once more: the same token."""
    user_id, body = new_id(), {"clientRequestId": "one tap"}
    for _ in range(3):
        assert refused(vend(engine, user_id, **body), 402, "insufficient_credits")["message"]
    engine.fund(user_id, 1)
    first, again = vend(engine, user_id, **body), vend(engine, user_id, **body)
    assert (first.status_code, again.json()["token"]) == (200, first.json()["token"])
    assert engine.available(user_id) == 0


def test_a_duplicate_waits_for_the_first_and_gets_its_answer(engine: Pluct) -> None:
    """Never a 409 for what is still in flight: one ticket, and every twin has its token."""
    user_id = engine.funded(5)
    for action in ("default", "transcribe"):
        asked = {"action": action, "clientRequestId": action}
        answers = at_once(8, lambda _, asked=asked: vend(engine, user_id, **asked))  # type: ignore[misc]
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.json()["token"] for answer in answers}) == 1
        assert sum("idempotency-replayed" not in answer.headers for answer in answers) == 1
    assert engine.available(user_id) == 2


def test_request_ids_are_not_keys(engine: Pluct) -> None:
    """The app makes new ones for each attempt, and may reuse one: they do not count."""
    user_id = engine.funded(5)
    same = {"X-Request-ID": "r", "X-Client-Request-Id": "r"}
    tokens = {engine.post("/v1/vend-token", {"userId": user_id}, same).json()["token"] for _ in range(2)}
    assert len(tokens) == 2
    body = {"userId": user_id, "clientRequestId": "one tap"}
    retried = [engine.post("/v1/vend-token", body, {"X-Request-ID": f"r{n}", "X-Client-Request-Id": f"r{n}"})
               for n in range(3)]  # fmt: skip
    assert len({answer.json()["token"] for answer in retried}) == 1
    assert [answer.json()["requestId"] for answer in retried] == ["r0", "r1", "r2"]


def test_one_id_for_different_operations_is_several_keys(engine: Pluct, keys: Keys) -> None:
    """The app sends the id of a tap with everything the tap causes."""
    user_id, body = new_id(), {"clientRequestId": new_id()}
    assert engine.fund(user_id, 9, **body).json()["newBalance"] == 9
    vended = vend(engine, user_id, action="transcribe", **body).json()
    assert vended["balanceAfter"] == 7
    assert engine.post("/v1/tickets/redeem", {"token": vended["token"]} | body, keys["service"]).status_code == 200
    path = f"/v1/tickets/{vended['ticketId']}"
    assert engine.post(f"{path}/capture", {"amount": 1} | body, keys["service"]).status_code == 200
    assert engine.post(f"{path}/void", {"reason": "r"} | body, keys["service"]).status_code == 200
    assert engine.available(user_id) == 9


def test_the_wallet_screen_has_its_fields(engine: Pluct) -> None:
    """Whole numbers in camelCase; the screen adds `main` and `bonus`, and shows what is reserved."""
    user_id = engine.funded(6)
    engine.post("/v1/credits/add", {"userId": user_id, "amount": 3, "category": "promotional"}, SECRET)
    vend(engine, user_id, action="transcribe")
    answer = engine.client.get("/v1/credits/balance", headers={"X-User-Id": user_id}).json()
    assert answer["main"] + answer["bonus"] == answer["balance"] == 7
    assert (answer["userId"], answer["held"]) == (user_id, 2)
    assert all(type(answer[name]) is int for name in ("balance", "main", "bonus", "held"))
    assert abs(time.time() - parse(answer["updatedAt"])) < 60


def parse(text: str) -> float:
    """A time of an answer, in seconds."""
    assert re.fullmatch(r"[\d-]+T[\d:]+\.\d{3}Z", text)
    return time.mktime(time.strptime(text[:19], "%Y-%m-%dT%H:%M:%S")) - time.timezone


def test_the_vend_answer_has_what_the_app_reads(engine: Pluct) -> None:
    """Token, whole numbers, and a life so short that the app does not keep the ticket for reuse."""
    answer = vend(engine, engine.funded(2), clientRequestId="one tap").json()
    assert isinstance(answer["token"], str) and answer["requestId"]
    assert (type(answer["expiresIn"]), type(answer["balanceAfter"])) == (int, int)
    assert answer["expiresIn"] <= 60 and answer["balanceAfter"] == 1


def test_looking_costs_nothing_in_the_end(engine: Pluct) -> None:
    """The app vends tokens it never spends; where credits are held until redeemed they come back by themselves."""
    user_id = engine.funded(2)
    for look in range(2):
        assert vend(engine, user_id, action="look", clientRequestId=f"poll {look}").status_code == 200
    until(lambda: engine.available(user_id) == 2)
    assert vend(engine, user_id, action="look", clientRequestId="poll 0").status_code == 200


def test_errors_keep_to_the_fields_the_app_may_show(engine: Pluct) -> None:
    """Top-level `code` and `message`, and no `details` that it would print."""
    for answer in (vend(engine, new_id()), vend(engine, ""), engine.client.get("/v1/user/profile")):
        body = answer.json()
        assert body["code"] and body["message"] and "details" not in body


def test_the_app_can_set_its_clock_by_us(engine: Pluct) -> None:
    """Every answer has a `Date`, refusals too."""
    for answer in (engine.client.get("/health"), vend(engine, new_id()), engine.client.get("/nowhere")):
        assert abs(parsedate_to_datetime(answer.headers["date"]).timestamp() - time.time()) < 5
