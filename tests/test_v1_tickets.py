"""Tickets in `/v1`: vending, what the token says, redeeming, and each way a ticket's credits are settled."""

import base64
import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import httpx
import pytest
from joserfc.jws import extract_compact

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
    until,
)

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
VENDED = {
    "ok", "token", "ticketId", "action", "cost", "expiresIn", "expiresAt", "balanceAfter", "requestId",
}  # fmt: skip
TICKET = {
    "ticketId", "userId", "action", "cost", "state", "issuedAt", "expiresAt", "capturedAmount", "returnedAmount",
    "requestId",
}  # fmt: skip
SETTLED_SECONDS_MAX = 5
SECRET = {"x-webhook-secret": WEBHOOK_SECRET}

TOML = """
[actions.listen]
cost = 3
audience = "listener"
ttl_seconds = 120
settle = "redeem"

[actions.glance]
audience = "listener"
ttl_seconds = 1
settle = "redeem"

[actions.transcribe]
cost = 2
audience = "tttranscribe"
settle = "report"
cost_max = 20

[actions.hurry]
cost = 2
audience = "tttranscribe"
settle = "report"
report_seconds = 1

[actions.blink]
ttl_seconds = 1
settle = "report"

[actions.wink]
ttl_seconds = 1
"""
ACTIONS = {  # name: cost, audience, seconds
    "default": (1, "premium", 60), "listen": (3, "listener", 120), "glance": (1, "listener", 1),
    "transcribe": (2, "tttranscribe", 60), "hurry": (2, "tttranscribe", 60), "blink": (1, "premium", 1),
    "wink": (1, "premium", 1),
}  # fmt: skip


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pluct]:
    with served(tmp_path_factory.mktemp("tickets"), TOML) as pluct:
        yield pluct


@pytest.fixture(scope="module")
def keys(engine: Pluct) -> Keys:
    return {role: engine.key(role) for role in ("service", "operator")}


class Backend:
    """A premium backend with its key, and the apps that vend for it."""

    def __init__(self, engine: Pluct, keys: Keys) -> None:
        self.engine, self.keys = engine, keys

    def vend(self, user_id: str, action: str = "default", **more: Any) -> dict[str, Any]:
        answer = self.engine.post("/v1/vend-token", {"userId": user_id, "action": action} | more)
        assert answer.status_code == 200, answer.text
        vended: dict[str, Any] = answer.json()
        return vended

    def redeem(self, token: str, **more: Any) -> httpx.Response:
        return self.engine.post("/v1/tickets/redeem", {"token": token} | more, self.keys["service"])

    def redeemed(self, user_id: str, action: str = "transcribe", **more: Any) -> str:
        """The id of a ticket that was vended and redeemed just now."""
        vended = self.vend(user_id, action, **more)
        assert self.redeem(vended["token"]).status_code == 200
        return str(vended["ticketId"])

    def capture(self, ticket_id: str, **body: Any) -> httpx.Response:
        return self.engine.post(f"/v1/tickets/{ticket_id}/capture", body, self.keys["service"])

    def void(self, ticket_id: str, role: str = "service", **more: Any) -> httpx.Response:
        body = {"reason": "it failed"} | more
        return self.engine.post(f"/v1/tickets/{ticket_id}/void", body, self.keys[role])

    def ticket(self, ticket_id: str, role: str = "service") -> dict[str, Any]:
        answer = self.engine.client.get(f"/v1/tickets/{ticket_id}", headers=self.keys[role])
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def balance(self, user_id: str) -> tuple[int, int]:
        """What is available and what is held."""
        found = self.engine.client.get("/v1/credits/balance", params={"userId": user_id}).json()
        return found["available"], found["held"]


@pytest.fixture(scope="module")
def backend(engine: Pluct, keys: Keys) -> Backend:
    return Backend(engine, keys)


def told(ticket: dict[str, Any]) -> tuple[str, int, int]:
    """What became of a ticket: state, captured, returned."""
    return ticket["state"], ticket["capturedAmount"], ticket["returnedAmount"]


# Vending


@pytest.mark.parametrize("action", list(ACTIONS))
def test_a_vend_answers_a_ticket(backend: Backend, action: str) -> None:
    """Exactly these fields, and the token says the same and no more."""
    cost, audience, seconds = ACTIONS[action]
    user_id = backend.engine.funded(10)
    before = int(time.time())
    vended = backend.vend(user_id, action)
    assert set(vended) == VENDED
    assert (vended["ok"], vended["action"], vended["cost"], vended["balanceAfter"]) == (True, action, cost, 10 - cost)
    assert vended["expiresIn"] == seconds and type(vended["expiresIn"]) is int
    assert UUID.fullmatch(vended["ticketId"]) and TIME.fullmatch(vended["expiresAt"])
    said = claims(vended["token"])
    issued = said.pop("iat")
    assert before <= issued <= time.time()
    assert said == {
        "iss": "pluct-business-engine", "aud": audience, "sub": user_id, "jti": vended["ticketId"], "nbf": issued,
        "exp": issued + seconds, "act": action, "cost": cost,
    }  # fmt: skip
    assert datetime.fromisoformat(vended["expiresAt"]).timestamp() == issued + seconds
    header = extract_compact(vended["token"].encode()).headers()
    assert header == {"alg": "HS256", "typ": "JWT"}


def test_the_default_action_needs_no_name(backend: Backend) -> None:
    """A body with nothing but the user buys it."""
    user_id = backend.engine.funded(1)
    vended = backend.engine.post("/v1/vend-token", {"userId": user_id}).json()
    assert (vended["action"], vended["cost"], vended["balanceAfter"]) == ("default", 1, 0)


def test_a_hold_may_be_raised_up_to_its_limit(backend: Backend) -> None:
    """`cost` from the action's own up to its `cost_max`, and only for an action that reports."""
    user_id = backend.engine.funded(50)
    for cost in (2, 3, 20):
        vended = backend.vend(user_id, "transcribe", cost=cost)
        assert (vended["cost"], claims(vended["token"])["cost"]) == (cost, cost)
    assert backend.balance(user_id) == (25, 25)
    for action, cost in [
        ("transcribe", 1), ("transcribe", 0), ("transcribe", -2), ("transcribe", 21), ("transcribe", 10**30),
        ("hurry", 3), ("default", 1), ("default", 2), ("listen", 3), ("no such action", None),
    ]:  # fmt: skip
        answer = backend.engine.post("/v1/vend-token", {"userId": user_id, "action": action, "cost": cost})
        refused(answer, 400, "invalid_request")
    assert backend.vend(user_id, "transcribe", cost=None)["cost"] == 2


def test_a_vend_that_costs_more_than_there_is_takes_nothing(backend: Backend) -> None:
    """402, and a cheaper action can still be bought."""
    user_id = backend.engine.funded(2)
    answer = backend.engine.post("/v1/vend-token", {"userId": user_id, "action": "listen"})
    refused(answer, 402, "insufficient_credits")
    refused(backend.engine.post("/v1/vend-token", {"userId": new_id()}), 402, "insufficient_credits")
    assert backend.vend(user_id, "transcribe")["balanceAfter"] == 0


def test_a_repeated_vend_carries_the_same_token(backend: Backend) -> None:
    """Byte for byte, with all that was said beside it; only `requestId` is this request's own."""
    user_id, engine = backend.engine.funded(9), backend.engine
    for body in ({"action": "default"}, {"action": "transcribe", "cost": 5}):
        body = {"userId": user_id, "clientRequestId": str(body)} | body
        first, again = engine.post("/v1/vend-token", body), engine.post("/v1/vend-token", body | {"extra": 1})
        assert first.json() | {"requestId": ""} == again.json() | {"requestId": ""}
        assert first.json()["requestId"] != again.json()["requestId"]
        assert (first.headers.get("idempotency-replayed"), again.headers["idempotency-replayed"]) == (None, "true")
        for change in ({"action": "listen", "cost": None}, {"cost": 6, "action": "transcribe"}):
            refused(engine.post("/v1/vend-token", body | change), 409, "idempotency_key_reused")
    assert backend.balance(user_id) == (3, 5)


def test_a_spent_ticket_is_replayed_after_it_has_expired(backend: Backend) -> None:
    """Its credits are gone for good, so its key is taken for good."""
    user_id = backend.engine.funded(2)
    first = backend.vend(user_id, "wink", clientRequestId="once")
    until(lambda: time.time() > claims(first["token"])["exp"])
    assert backend.vend(user_id, "wink", clientRequestId="once")["token"] == first["token"]
    refused(backend.redeem(first["token"]), 410, "ticket_expired")
    assert told(backend.ticket(first["ticketId"])) == ("captured", 1, 0)
    assert backend.balance(user_id) == (1, 0)


def test_simultaneous_vends_never_overspend(backend: Backend) -> None:
    """Twelve at once on a balance of five: five tokens, all different, and seven refusals."""
    user_id = backend.engine.funded(5)
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: backend.engine.post("/v1/vend-token", {"userId": user_id}), range(12)))
    assert sorted(answer.status_code for answer in answers) == [200] * 5 + [402] * 7
    assert len({answer.json()["token"] for answer in answers if answer.status_code == 200}) == 5
    assert sorted(a.json()["balanceAfter"] for a in answers if a.status_code == 200) == [0, 1, 2, 3, 4]


# Redeeming


@pytest.mark.parametrize(("action", "state"), [("default", "captured"), ("listen", "captured"), ("hurry", "redeemed")])
def test_a_ticket_is_redeemed_once(backend: Backend, action: str, state: str) -> None:
    """Exactly these fields the first time, 409 the second."""
    user_id = backend.engine.funded(3)
    vended = backend.vend(user_id, action)
    answer = backend.redeem(vended["token"])
    body = answer.json()
    reports = {"reportBefore"} if state == "redeemed" else set()
    assert set(body) == TICKET | {"ok", "redeemedAt"} | reports
    assert (answer.status_code, body["ok"], body["ticketId"]) == (200, True, vended["ticketId"])
    assert (body["userId"], body["action"], body["cost"]) == (user_id, action, vended["cost"])
    assert (body["state"], body["expiresAt"]) == (state, vended["expiresAt"])
    assert all(TIME.fullmatch(body[name]) for name in {"redeemedAt", "issuedAt"} | reports)
    if reports:
        time_left = datetime.fromisoformat(body["reportBefore"]) - datetime.fromisoformat(body["redeemedAt"])
        assert time_left.total_seconds() == 1
    refused(backend.redeem(vended["token"]), 409, "ticket_already_redeemed")


def test_a_redeem_races_to_one(backend: Backend) -> None:
    """Ten backends with one token: one may work."""
    token = backend.vend(backend.engine.funded(1))["token"]
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: backend.redeem(token), range(10)))
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 9


def test_a_repeated_redeem_with_its_key_is_the_first_one(backend: Backend) -> None:
    """Also after the ticket was settled: the answer is what it was then."""
    user_id = backend.engine.funded(4)
    vended, other = backend.vend(user_id, "transcribe"), backend.vend(user_id, "transcribe")
    key = new_id()
    first = backend.redeem(vended["token"], clientRequestId=key)
    assert backend.capture(vended["ticketId"]).status_code == 200
    again = backend.redeem(vended["token"], clientRequestId=key)
    assert again.json() | {"requestId": ""} == first.json() | {"requestId": ""}
    assert again.json()["requestId"] == again.headers["x-request-id"]
    assert (first.headers.get("idempotency-replayed"), again.headers["idempotency-replayed"]) == (None, "true")
    refused(backend.redeem(other["token"], clientRequestId=key), 409, "idempotency_key_reused")
    refused(backend.redeem(vended["token"], clientRequestId=new_id()), 409, "ticket_already_redeemed")
    headers = backend.engine.key("service", "another backend") | {"Idempotency-Key": key}
    answer = backend.engine.post("/v1/tickets/redeem", {"token": vended["token"]}, headers)
    refused(answer, 409, "ticket_already_redeemed")


def forged(vended: dict[str, Any]) -> dict[str, str]:
    """Tokens made from a good one, and made up ones, none of which may pass."""
    token: str = vended["token"]
    head, payload, signature = token.split(".")
    said = claims(token)
    none = base64.urlsafe_b64encode(b'{"alg":"none"}').decode().rstrip("=")
    flipped = signature[:-2] + ("A" if signature[-2] != "A" else "B") + signature[-1]
    richer = base64.urlsafe_b64encode(json.dumps(said | {"cost": 0}).encode()).decode().rstrip("=")
    return {
        "empty": "", "one part": "x", "three empty parts": "..", "no signature": f"{head}.{payload}.",
        "algorithm none": f"{none}.{payload}.", "none, signed": f"{none}.{payload}.{signature}",
        "another signature": f"{head}.{payload}.{flipped}", "another payload": f"{head}.{richer}.{signature}",
        "cut short": token[:-1], "doubled": token + "." + token, "in front of it": "x" + token, "very long": token * 50,
        "not ASCII": "é" + token, "control": "\x00" + token, "another secret": signed(said, "another " + JWT_SECRET),
        "user token secret": signed(said, USER_TOKEN_SECRET), "another issuer": signed(said | {"iss": "x"}, JWT_SECRET),
        "no issuer": signed({k: v for k, v in said.items() if k != "iss"}, JWT_SECRET),
        "unsold audience": signed(said | {"aud": "nobody"}, JWT_SECRET),
        "another sold audience": signed(said | {"aud": "listener"}, JWT_SECRET),
        "no audience": signed({k: v for k, v in said.items() if k != "aud"}, JWT_SECRET),
        "audiences": signed(said | {"aud": ["premium"]}, JWT_SECRET),
        "no user": signed({k: v for k, v in said.items() if k != "sub"}, JWT_SECRET),
        "another user": signed(said | {"sub": "mallory"}, JWT_SECRET),
        "no ticket": signed({k: v for k, v in said.items() if k != "jti"}, JWT_SECRET),
        "a number for a ticket": signed(said | {"jti": 7}, JWT_SECRET),
    }  # fmt: skip


def test_a_token_that_is_not_the_engines_is_unauthorized(backend: Backend) -> None:
    """Bad signature, algorithm, issuer, audience, user or shape: 401, and the true token still works afterwards."""
    vended = backend.vend(backend.engine.funded(1))
    for name, token in forged(vended).items():
        answer = backend.redeem(token)
        assert answer.status_code == 401, (name, answer.text)
        refused(answer, 401, "unauthorized")
    assert backend.redeem(vended["token"]).status_code == 200


def test_a_signed_token_without_a_ticket_is_not_found(backend: Backend) -> None:
    """404 for a ticket that never was, whatever its id looks like."""
    said = claims(backend.vend(backend.engine.funded(1))["token"])
    for ticket_id in (new_id(), "", "x", "'; --", "x" * 5000):
        refused(backend.redeem(signed(said | {"jti": ticket_id}, JWT_SECRET)), 404, "ticket_not_found")


@pytest.mark.parametrize("claim", ["jti", "sub"])
def test_a_signed_token_with_half_a_surrogate_pair_is_refused(backend: Backend, claim: str) -> None:
    """What cannot be an id is refused before anyone looks for it."""
    said = claims(backend.vend(backend.engine.funded(1))["token"])
    assert backend.redeem(signed(said | {claim: "\ud800"}, JWT_SECRET)).status_code in (401, 404)


# Settling


def test_a_vend_ticket_is_captured_from_the_start(backend: Backend) -> None:
    """Its credits are spent; redeeming only notes when; nothing is left to capture."""
    user_id = backend.engine.funded(1)
    vended = backend.vend(user_id)
    ticket = backend.ticket(vended["ticketId"])
    assert set(ticket) == TICKET
    assert told(ticket) == ("captured", 1, 0)
    assert backend.balance(user_id) == (0, 0)
    redeemed = backend.redeem(vended["token"]).json()
    assert set(backend.ticket(vended["ticketId"])) == TICKET | {"redeemedAt"}
    assert backend.ticket(vended["ticketId"])["redeemedAt"] == redeemed["redeemedAt"]
    refused(backend.capture(vended["ticketId"]), 409, "ticket_already_settled")


def test_a_redeem_ticket_is_held_until_it_is_redeemed(backend: Backend) -> None:
    """Held, then captured whole."""
    user_id = backend.engine.funded(5)
    vended = backend.vend(user_id, "listen")
    assert told(backend.ticket(vended["ticketId"])) == ("issued", 0, 0)
    assert backend.balance(user_id) == (2, 3)
    assert told(backend.redeem(vended["token"]).json()) == ("captured", 3, 0)
    assert backend.balance(user_id) == (2, 0)
    refused(backend.capture(vended["ticketId"]), 409, "ticket_already_settled")


def test_a_report_ticket_is_captured_by_its_report(backend: Backend) -> None:
    """Not before it is redeemed, all of it unless told otherwise, and once."""
    user_id = backend.engine.funded(9)
    vended = backend.vend(user_id, "transcribe", cost=5)
    refused(backend.capture(vended["ticketId"]), 409, "ticket_not_redeemed")
    backend.redeem(vended["token"])
    assert set(backend.ticket(vended["ticketId"])) == TICKET | {"redeemedAt", "reportBefore"}
    captured = backend.capture(vended["ticketId"])
    assert (captured.status_code, set(captured.json())) == (200, TICKET | {"redeemedAt"})
    assert told(captured.json()) == ("captured", 5, 0)
    assert backend.ticket(vended["ticketId"]) | {"requestId": ""} == captured.json() | {"requestId": ""}
    assert backend.balance(user_id) == (4, 0)
    refused(backend.capture(vended["ticketId"]), 409, "ticket_already_settled")
    refused(backend.capture(new_id()), 404, "ticket_not_found")


def test_part_of_a_hold_may_be_captured(backend: Backend) -> None:
    """The rest returns at once; more than is held, or nothing, is a 400."""
    user_id = backend.engine.funded(9)
    ticket_id = backend.redeemed(user_id, cost=5)
    for amount in (0, -1, 6, 10**9, 10**30):
        refused(backend.capture(ticket_id, amount=amount), 400, "invalid_request")
    assert told(backend.ticket(ticket_id)) == ("redeemed", 0, 0)
    assert told(backend.capture(ticket_id, amount=3).json()) == ("captured", 3, 2)
    assert backend.balance(user_id) == (6, 0)
    refused(backend.capture(ticket_id, amount=1), 409, "ticket_already_settled")


def test_an_issued_ticket_may_be_canceled(backend: Backend) -> None:
    """All returns, and the token is worth nothing any more."""
    user_id = backend.engine.funded(5)
    for action in ("listen", "transcribe"):
        vended = backend.vend(user_id, action)
        answer = backend.void(vended["ticketId"])
        assert (answer.status_code, set(answer.json())) == (200, TICKET)
        assert told(answer.json()) == ("voided", 0, vended["cost"])
        refused(backend.redeem(vended["token"]), 409, "ticket_already_settled")
        refused(backend.void(vended["ticketId"]), 409, "ticket_already_settled")
        refused(backend.capture(vended["ticketId"]), 409, "ticket_already_settled")
    assert backend.balance(user_id) == (5, 0)


def test_a_redeemed_ticket_may_be_voided(backend: Backend) -> None:
    """The work failed: all returns."""
    user_id = backend.engine.funded(5)
    ticket_id = backend.redeemed(user_id, cost=4)
    assert told(backend.void(ticket_id).json()) == ("voided", 0, 4)
    assert backend.balance(user_id) == (5, 0)
    refused(backend.capture(ticket_id), 409, "ticket_already_settled")


@pytest.mark.parametrize("role", ["service", "operator"])
def test_a_captured_ticket_may_be_refunded_once(backend: Backend, role: str) -> None:
    """By a backend or by support; whatever was captured, in the end all of the cost has returned."""
    user_id = backend.engine.funded(9)
    spent = backend.vend(user_id)
    whole, part = backend.redeemed(user_id, cost=3), backend.redeemed(user_id, cost=5)
    assert backend.capture(whole).status_code == backend.capture(part, amount=2).status_code == 200
    assert backend.balance(user_id) == (3, 0)
    for ticket_id, cost in ((spent["ticketId"], 1), (whole, 3), (part, 5)):
        assert told(backend.void(ticket_id, role).json()) == ("voided", 0, cost)
        refused(backend.void(ticket_id, role), 409, "ticket_already_settled")
    assert backend.balance(user_id) == (9, 0)
    refused(backend.redeem(spent["token"]), 409, "ticket_already_settled")
    refused(backend.void(new_id()), 404, "ticket_not_found")


@pytest.mark.parametrize("action", ["default", "listen", "transcribe"])
def test_a_key_is_free_again_once_all_credits_are_back(backend: Backend, action: str) -> None:
    """After a cancel or a refund the same request vends anew; while a part is kept it is replayed."""
    user_id, key = backend.engine.funded(9), {"clientRequestId": "a tap"}
    first = backend.vend(user_id, action, **key)
    assert backend.redeem(first["token"]).status_code == 200
    if action == "transcribe":
        assert told(backend.capture(first["ticketId"], amount=1).json()) == ("captured", 1, 1)
    assert backend.vend(user_id, action, **key)["token"] == first["token"]
    assert backend.void(first["ticketId"]).status_code == 200
    anew = backend.vend(user_id, action, **key)
    assert anew["ticketId"] != first["ticketId"] and anew["token"] != first["token"]
    assert backend.vend(user_id, action, **key)["token"] == anew["token"]
    assert sum(backend.balance(user_id)) == 9 - (anew["cost"] if action == "default" else 0)


def test_repeated_reports_are_the_first_one(backend: Backend) -> None:
    """With their key; another ticket, amount or reason under it is a conflict."""
    user_id, key = backend.engine.funded(20), {"clientRequestId": new_id()}
    first_id, other_id = backend.redeemed(user_id, cost=5), backend.redeemed(user_id, cost=5)
    for verb, change in ((backend.capture, {"amount": 3}), (backend.void, {"reason": "no good"})):
        first, again = verb(first_id, **key | change), verb(first_id, **key | change)
        assert again.json() | {"requestId": ""} == first.json() | {"requestId": ""}
        assert (first.headers.get("idempotency-replayed"), again.headers["idempotency-replayed"]) == (None, "true")
        refused(verb(first_id, **key), 409, "idempotency_key_reused")
        refused(verb(other_id, **key | change), 409, "idempotency_key_reused")
    assert backend.balance(user_id) == (15, 5)


def test_a_refund_goes_back_to_the_lots_it_came_from(backend: Backend) -> None:
    """A hold over two lots: what was used is used from the first, the rest returns to the second."""
    engine, user_id = backend.engine, new_id()
    engine.fund(user_id, 3)
    engine.post("/v1/credits/add", {"userId": user_id, "amount": 2, "category": "promotional"}, SECRET)
    ticket_id = backend.redeemed(user_id, cost=4)

    def main_and_bonus() -> tuple[int, int]:
        found = engine.client.get("/v1/credits/balance", params={"userId": user_id}).json()
        return found["main"], found["bonus"]

    assert main_and_bonus() == (1, 0)
    backend.capture(ticket_id, amount=3)
    assert main_and_bonus() == (2, 0)
    backend.void(ticket_id)
    assert main_and_bonus() == (3, 2)


# Untouched


@pytest.mark.parametrize("action", ["glance", "blink"])
def test_an_unredeemed_ticket_gives_its_credits_back_by_itself(backend: Backend, action: str) -> None:
    """Within 5 s of its end, and the same request then vends anew under the same key."""
    user_id = backend.engine.funded(1)
    vended = backend.vend(user_id, action, clientRequestId="look")
    assert vended["balanceAfter"] == 0
    until(lambda: backend.balance(user_id) == (1, 0))
    assert time.time() - claims(vended["token"])["exp"] < SETTLED_SECONDS_MAX
    assert told(backend.ticket(vended["ticketId"])) == ("expired", 0, 1)
    refused(backend.redeem(vended["token"]), 410, "ticket_expired")
    for late in (backend.capture, backend.void):
        refused(late(vended["ticketId"]), 409, "ticket_already_settled")
    anew = backend.engine.post("/v1/vend-token", {"userId": user_id, "action": action, "clientRequestId": "look"})
    assert (anew.status_code, "idempotency-replayed" in anew.headers) == (200, False)
    assert anew.json()["ticketId"] != vended["ticketId"]


def test_a_ticket_that_is_not_reported_on_gives_its_credits_back_by_itself(backend: Backend) -> None:
    """After `report_seconds`, within 5 s; then the report comes too late."""
    user_id = backend.engine.funded(2)
    vended = backend.vend(user_id, "hurry", clientRequestId="work")
    report_before = backend.redeem(vended["token"]).json()["reportBefore"]
    until(lambda: backend.balance(user_id) == (2, 0))
    assert time.time() - datetime.fromisoformat(report_before).timestamp() < SETTLED_SECONDS_MAX
    ticket = backend.ticket(vended["ticketId"])
    assert (told(ticket), "redeemedAt" in ticket) == (("expired", 0, 2), True)
    for late in (backend.capture, backend.void):
        refused(late(vended["ticketId"]), 409, "ticket_already_settled")
    refused(backend.redeem(vended["token"]), 409, "ticket_already_settled")
    assert backend.vend(user_id, "hurry", clientRequestId="work")["ticketId"] != vended["ticketId"]


def test_a_late_report_is_late_before_the_credits_are_back(backend: Backend) -> None:
    """The time decides, not the sweep: there is no moment between "in time" and "settled"."""
    user_id = backend.engine.funded(2)
    ticket_id = backend.redeemed(user_id, "hurry")
    end = datetime.fromisoformat(backend.ticket(ticket_id)["reportBefore"]).timestamp()
    until(lambda: time.time() > end)
    refused(backend.capture(ticket_id), 409, "ticket_already_settled")


def test_credits_that_return_to_an_expired_lot_live_on_for_a_while(backend: Backend) -> None:
    """The hold outlived its lot: what returns can be spent for `returned_grace_seconds` more."""
    engine, user_id = backend.engine, new_id()
    expires = datetime.fromtimestamp(time.time() + 0.5).astimezone()
    engine.post("/v1/credits/add", {"userId": user_id, "amount": 2, "expiresAt": expires.isoformat()}, SECRET)
    ticket_id = backend.redeemed(user_id, cost=2)
    until(lambda: time.time() > expires.timestamp())
    assert told(backend.void(ticket_id).json()) == ("voided", 0, 2)
    wallet = engine.client.get(f"/v1/wallets/{user_id}", headers=backend.keys["service"]).json()
    (lot,) = wallet["lots"]
    left = datetime.fromisoformat(lot["expiresAt"]).timestamp() - time.time()
    assert (wallet["available"], lot["remaining"]) == (2, 2)
    assert 86_400 - 10 < left <= 86_400


# Looking


def test_a_ticket_can_be_looked_at(backend: Backend) -> None:
    """By backends and support; an unknown id is 404, an impossible one 400 or 404."""
    vended = backend.vend(backend.engine.funded(2), "transcribe")
    for role in ("service", "operator"):
        ticket = backend.ticket(vended["ticketId"], role)
        assert set(ticket) == TICKET and ticket["expiresAt"] == vended["expiresAt"]
    client, headers = backend.engine.client, backend.keys["operator"]
    for ticket_id in (new_id(), "x", "%F0%9F%98%80", vended["ticketId"].upper(), vended["ticketId"] + "%20"):
        refused(client.get(f"/v1/tickets/{ticket_id}", headers=headers), 404, "ticket_not_found")
    for ticket_id in ("%00", "%0A", "%FF", "x" * 201):
        refused(client.get(f"/v1/tickets/{ticket_id}", headers=headers), 400, "invalid_request")
