"""Credits in `/v1`: balances, top-ups, wallets and their lots, adjustments and history."""

import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from conftest import WEBHOOK_SECRET, Keys, Pluct, new_id, refused, served, until

SECRET = {"x-webhook-secret": WEBHOOK_SECRET}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
BALANCE = {"ok", "userId", "balance", "available", "held", "debt", "main", "bonus", "updatedAt", "requestId"}
ENTRY = {"id", "number", "at", "kind", "amount", "debit", "credit", "availableAfter", "heldAfter"}
BALANCE_MAX = 2**53 - 1

TOML = """
[actions.transcribe]
cost = 2
audience = "tttranscribe"
settle = "report"
cost_max = 20
"""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pluct]:
    with served(tmp_path_factory.mktemp("v1"), TOML) as pluct:
        yield pluct


@pytest.fixture(scope="module")
def keys(engine: Pluct) -> Keys:
    return {role: engine.key(role) for role in ("mint", "service", "operator")}


def add(engine: Pluct, user_id: str, amount: int, headers: dict[str, str] = SECRET, **more: Any) -> httpx.Response:
    """Top up by `/v1/credits/add`."""
    return engine.post("/v1/credits/add", {"userId": user_id, "amount": amount} | more, headers)


def balance(engine: Pluct, user_id: str) -> dict[str, Any]:
    answer = engine.client.get("/v1/credits/balance", params={"userId": user_id})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def lots(engine: Pluct, keys: Keys, user_id: str) -> list[dict[str, Any]]:
    answer = engine.client.get(f"/v1/wallets/{user_id}", headers=keys["service"])
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["lots"]
    return found


def history(engine: Pluct, keys: Keys, user_id: str, **query: Any) -> dict[str, Any]:
    answer = engine.client.get(f"/v1/wallets/{user_id}/entries", params=query, headers=keys["operator"])
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def ahead(seconds: float) -> str:
    """A time from now, as requests write it."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


# Balances


def test_an_unknown_user_has_zeros(engine: Pluct) -> None:
    """And is not remembered for having been asked about."""
    user_id = new_id()
    found = balance(engine, user_id)
    assert set(found) == BALANCE
    assert found | {"requestId": "", "updatedAt": ""} == {
        "ok": True, "userId": user_id, "balance": 0, "available": 0, "held": 0, "debt": 0, "main": 0, "bonus": 0,
        "updatedAt": "", "requestId": "",
    }  # fmt: skip
    assert TIME.fullmatch(found["updatedAt"])
    assert engine.run("credits", "show", user_id, exit_code=1).stdout == ""


def test_a_balance_is_what_was_paid_and_what_was_given(engine: Pluct) -> None:
    """`balance` = `available` = `main` + `bonus`; what a ticket holds is in none of them."""
    user_id = engine.funded(5)
    add(engine, user_id, 3, category="promotional")
    engine.post("/v1/vend-token", {"userId": user_id, "action": "transcribe", "cost": 4})
    found = balance(engine, user_id)
    assert set(found) == BALANCE
    assert (found["balance"], found["available"], found["held"], found["debt"]) == (4, 4, 4, 0)
    assert (found["main"], found["bonus"]) == (4, 0)  # what was given is spent first
    assert all(type(found[name]) is int for name in ("balance", "available", "held", "debt", "main", "bonus"))
    age = datetime.now(UTC) - datetime.fromisoformat(found["updatedAt"])
    assert TIME.fullmatch(found["updatedAt"]) and timedelta(seconds=-1) < age < timedelta(minutes=1)


@pytest.mark.parametrize(
    "query",
    ["", "userId=", "userid=u", "userId=a%00", "userId=%FF", "userId=%ED%A0%80", "userId=" + "x" * 201,
     "&".join(f"a{n}=1" for n in range(60)) + "&userId=u"],
)  # fmt: skip
def test_a_balance_needs_a_user(engine: Pluct, query: str) -> None:
    """An id that is missing or is none is a 400."""
    refused(engine.client.get(f"/v1/credits/balance?{query}"), 400, "invalid_request")


# Topping up


def test_a_top_up_answers_its_grant(engine: Pluct, keys: Keys) -> None:
    """Exactly these fields; by default the credits are paid, of priority 50, and never expire."""
    user_id = new_id()
    for headers, total in ((SECRET, 4), (keys["mint"], 8), (keys["operator"], 12)):
        answer = add(engine, user_id, 4, headers)
        body = answer.json()
        assert set(body) == {"ok", "userId", "amount", "grantId", "newBalance", "requestId"}
        assert (answer.status_code, body["ok"], body["userId"], body["amount"]) == (200, True, user_id, 4)
        assert body["newBalance"] == total
        lot = lots(engine, keys, user_id)[-1]
        assert lot == {"grantId": body["grantId"], "remaining": 4, "category": "paid", "priority": 50}


def test_a_top_up_keeps_what_it_was_told(engine: Pluct, keys: Keys) -> None:
    """Category, priority and expiry in the lot; reference, reason and actor in the entry."""
    user_id, reference = new_id(), new_id()
    more = {"category": "promotional", "priority": 7, "expiresAt": "2099-06-01T03:00:00.123+03:00"}
    answer = add(engine, user_id, 4, keys["operator"], reference=reference, reason="welcome, 日本", **more)
    grant = answer.json()["grantId"]
    assert lots(engine, keys, user_id) == [
        {"grantId": grant, "remaining": 4, "category": "promotional", "priority": 7,
         "expiresAt": "2099-06-01T00:00:00.123Z"}
    ]  # fmt: skip
    (entry,) = history(engine, keys, user_id)["entries"]
    assert (entry["grantId"], entry["reference"], entry["reason"]) == (grant, reference, "welcome, 日本")
    assert entry["actor"].startswith("key") and entry["debit"].startswith("issued:")


@pytest.mark.parametrize("amount", [1_000_000_001, 2**53, 2**64, 10**30])
def test_an_amount_has_a_limit(engine: Pluct, amount: int) -> None:
    """Above a thousand million it is `amount_too_large`."""
    refused(add(engine, new_id(), amount), 400, "amount_too_large")


def test_a_balance_never_exceeds_what_every_client_can_count(engine: Pluct, keys: Keys) -> None:
    """2^53 - 1 is reached, not passed, by any way in; a hold that may come back counts."""
    user_id = engine.funded(10)
    with closing(sqlite3.connect(engine.database)) as database:
        database.execute(
            "UPDATE wallets SET available = ?1, lots = json_set(lots, '$[0][2]', ?1) WHERE user_id = ?2",
            (BALANCE_MAX - 5, user_id),
        )
        database.commit()
    assert engine.post("/v1/vend-token", {"userId": user_id, "action": "transcribe"}).status_code == 200
    refused(add(engine, user_id, 6), 400, "amount_too_large")
    adjust = {"amount": 6, "reason": "a reason"}
    refused(engine.post(f"/v1/wallets/{user_id}/adjustments", adjust, keys["operator"]), 400, "amount_too_large")
    assert engine.fund(user_id, 6).status_code == 400
    assert add(engine, user_id, 5).json()["newBalance"] == BALANCE_MAX - 2
    assert balance(engine, user_id)["available"] == BALANCE_MAX - 2


@pytest.mark.parametrize("way", ["header", "body"])
def test_a_repeated_top_up_is_the_first_one(engine: Pluct, way: str) -> None:
    """All but `requestId` again, and the header says so; the request is compared as decoded, not as spelled."""
    user_id, key = new_id(), new_id()
    headers = SECRET | ({"Idempotency-Key": key} if way == "header" else {})
    more = {"clientRequestId": key} if way == "body" else {}
    first = add(engine, user_id, 4, headers, expiresAt="2099-06-01T03:00:00+03:00", **more)
    again = add(engine, user_id, 4, headers, expiresAt="2099-06-01t00:00:00.000z", priority=50, extra=1, **more)
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json() | {"requestId": ""} == first.json() | {"requestId": ""}
    assert again.json()["requestId"] == again.headers["x-request-id"] != first.json()["requestId"]
    changes: list[dict[str, Any]] = [
        {"amount": 5}, {"category": "promotional"}, {"priority": 51}, {"reason": "other"}, {"reference": new_id()},
        {"expiresAt": "2099-06-01T00:00:00.001Z"}, {"userId": new_id()},
    ]  # fmt: skip
    for change in changes:
        body = {"userId": user_id, "amount": 4, "expiresAt": "2099-06-01T00:00:00Z"} | more | change
        refused(engine.post("/v1/credits/add", body, headers), 409, "idempotency_key_reused")
    assert engine.available(user_id) == 4


def test_a_top_up_that_would_be_refused_now_is_still_replayed(engine: Pluct) -> None:
    """Its expiry has passed since, and its answer stands."""
    user_id, more = new_id(), {"expiresAt": ahead(1), "clientRequestId": new_id()}
    assert add(engine, user_id, 4, **more).json()["newBalance"] == 4
    until(lambda: engine.available(user_id) == 0)
    again = add(engine, user_id, 4, **more)
    assert (again.status_code, again.json()["newBalance"], again.headers["idempotency-replayed"]) == (200, 4, "true")
    refused(add(engine, user_id, 4, **more | {"clientRequestId": new_id()}), 400, "invalid_request")


def test_keys_are_scoped_by_who_calls(engine: Pluct, keys: Keys) -> None:
    """Another API key's idempotency key is another key; the same caller's for another user is a conflict."""
    user_id, key = new_id(), new_id()
    totals = [
        add(engine, user_id, 1, headers, clientRequestId=key).json()["newBalance"]
        for headers in (SECRET, keys["mint"], keys["operator"], SECRET, keys["mint"])
    ]
    assert totals == [1, 2, 3, 1, 2]
    refused(add(engine, new_id(), 1, keys["mint"], clientRequestId=key), 409, "idempotency_key_reused")


def test_keys_are_scoped_by_operation(engine: Pluct, keys: Keys) -> None:
    """One key for a vend, a top-up and an adjustment is three keys."""
    user_id, key = engine.funded(5), {"Idempotency-Key": new_id()}
    assert engine.post("/v1/vend-token", {"userId": user_id}, key).json()["balanceAfter"] == 4
    assert add(engine, user_id, 2, keys["operator"] | key).json()["newBalance"] == 6
    body = {"amount": 3, "reason": "a reason"}
    assert engine.post(f"/v1/wallets/{user_id}/adjustments", body, keys["operator"] | key).json()["availableAfter"] == 9


def test_references_replay_and_conflict(engine: Pluct, keys: Keys) -> None:
    """The replay header is there too; another user or amount is `reference_conflict`, whoever asks."""
    user_id, reference = new_id(), new_id()
    first = add(engine, user_id, 4, reference=reference)
    again = add(engine, user_id, 4, keys["operator"], reference=reference, category="promotional")
    assert again.json()["grantId"] == first.json()["grantId"]
    assert again.headers["idempotency-replayed"] == "true"
    refused(add(engine, user_id, 5, reference=reference), 409, "reference_conflict")
    refused(add(engine, new_id(), 4, keys["mint"], reference=reference), 409, "reference_conflict")
    assert engine.available(user_id) == 4


@pytest.mark.parametrize(
    "expires",
    [
        "9999-12-31T23:59:59Z",
        "9999-12-31T23:59:59-01:00",
        "9999-12-31T23:59:59.9999Z",
    ],
)
def test_a_far_expiry_is_refused_or_shown(engine: Pluct, keys: Keys, expires: str) -> None:
    """A grant that is taken can be looked at afterwards."""
    user_id = new_id()
    answer = add(engine, user_id, 1, expiresAt=expires)
    if answer.status_code == 200:
        assert [lot["remaining"] for lot in lots(engine, keys, user_id)] == [1]
    else:
        refused(answer, 400, "invalid_request")


# Wallets


def test_a_wallet_is_its_balance_and_its_lots(engine: Pluct, keys: Keys) -> None:
    """Lots are listed next expiry first, never-expiring last; a spent lot is gone."""
    user_id = new_id()
    add(engine, user_id, 1, reason="never")
    add(engine, user_id, 2, expiresAt=ahead(9000), priority=1)
    add(engine, user_id, 3, expiresAt=ahead(5000), priority=99)
    add(engine, user_id, 4, expiresAt=ahead(7000), category="promotional")
    answer = engine.client.get(f"/v1/wallets/{user_id}", headers=keys["operator"]).json()
    assert set(answer) == BALANCE | {"lots"}
    assert [lot["remaining"] for lot in answer["lots"]] == [3, 4, 2, 1]
    assert all(TIME.fullmatch(lot["expiresAt"]) for lot in answer["lots"][:-1])
    assert set(answer["lots"][-1]) == {"grantId", "remaining", "category", "priority"}
    assert (answer["available"], answer["main"], answer["bonus"]) == (10, 6, 4)
    for _ in range(2):
        engine.post("/v1/vend-token", {"userId": user_id})
    assert [lot["remaining"] for lot in lots(engine, keys, user_id)] == [3, 4, 1]
    refused(engine.client.get(f"/v1/wallets/{new_id()}", headers=keys["operator"]), 404, "wallet_not_found")


def test_credits_burn_by_priority_then_expiry_then_gifts_then_age(engine: Pluct, keys: Keys) -> None:
    """Nine lots of one credit, granted in a jumbled order, are spent in burn-down order."""
    user_id, soon, late = new_id(), ahead(5000), ahead(9000)
    jumbled: list[tuple[int, dict[str, Any]]] = [
        (9, {"priority": 51, "expiresAt": soon}), (8, {}), (3, {"expiresAt": soon}), (7, {"category": "promotional"}),
        (2, {"expiresAt": soon, "category": "promotional"}), (1, {"priority": 49}), (4, {"expiresAt": soon}),
        (6, {"expiresAt": late}), (5, {"expiresAt": late, "category": "promotional"}),
    ]  # fmt: skip
    place = {add(engine, user_id, 1, **terms).json()["grantId"]: number for number, terms in jumbled}
    left, burnt = set(place), []
    while left:
        assert engine.post("/v1/vend-token", {"userId": user_id}).status_code == 200
        now = {lot["grantId"] for lot in lots(engine, keys, user_id)}
        burnt += [place[grant] for grant in left - now]
        left = now
    assert burnt == list(range(1, 10))


def test_a_lot_expires_by_itself(engine: Pluct, keys: Keys) -> None:
    """Within 5 s of its time, with no request touching the wallet; what does not expire stays."""
    user_id = engine.funded(2)
    due = time.time() + 0.4
    grant = add(engine, user_id, 3, expiresAt=ahead(0.4)).json()["grantId"]
    with closing(sqlite3.connect(engine.database)) as database:
        until(lambda: database.execute("SELECT 1 FROM entries WHERE user_id = ? AND number = 3", (user_id,)).fetchall())
    assert time.time() - due < 5
    newest = history(engine, keys, user_id)["entries"][0]
    assert (newest["kind"], newest["amount"], newest["debit"], newest["credit"]) == (
        "expire", 3, f"user:{user_id}", "expired",
    )  # fmt: skip
    assert (newest["grantId"], newest["availableAfter"]) == (grant, 2)
    assert [lot["remaining"] for lot in lots(engine, keys, user_id)] == [2]


def test_an_expired_lot_is_never_spent(engine: Pluct) -> None:
    """Right after its time, swept or not, the credits are gone for a vend."""
    user_id = new_id()
    add(engine, user_id, 10_000, expiresAt=ahead(0.3))
    assert until(lambda: engine.post("/v1/vend-token", {"userId": user_id}).status_code == 402)


# Adjustments


def test_an_adjustment_is_an_entry(engine: Pluct, keys: Keys) -> None:
    """Up and down, from and to `adjusted`, with who and why."""
    user_id = new_id()
    path = f"/v1/wallets/{user_id}/adjustments"
    up = engine.post(path, {"amount": 5, "reason": "sorry"}, keys["operator"])
    down = engine.post(path, {"amount": -2, "reason": "sold twice"}, keys["operator"])
    assert set(up.json()) == ENTRY | {"grantId", "reason", "actor"}
    assert set(down.json()) == ENTRY | {"reason", "actor"}
    told = [
        [
            entry[name]
            for name in ("number", "kind", "amount", "debit", "credit", "availableAfter", "heldAfter", "reason")
        ]
        for entry in (up.json(), down.json())
    ]
    assert told == [
        [1, "adjust", 5, "adjusted", f"user:{user_id}", 5, 0, "sorry"],
        [2, "adjust", 2, f"user:{user_id}", "adjusted", 3, 0, "sold twice"],
    ]
    assert history(engine, keys, user_id)["entries"] == [down.json(), up.json()]
    assert TIME.fullmatch(up.json()["at"])


def test_an_adjustment_never_goes_below_zero(engine: Pluct, keys: Keys) -> None:
    """402 and nothing is taken, also of what a ticket holds and of a user who has nothing."""
    user_id = engine.funded(5)
    path = f"/v1/wallets/{user_id}/adjustments"
    engine.post("/v1/vend-token", {"userId": user_id, "action": "transcribe"})
    refused(engine.post(path, {"amount": -4, "reason": "r"}, keys["operator"]), 402, "insufficient_credits")
    assert engine.post(path, {"amount": -3, "reason": "r"}, keys["operator"]).json()["availableAfter"] == 0
    nobody = f"/v1/wallets/{new_id()}/adjustments"
    refused(engine.post(nobody, {"amount": -1, "reason": "r"}, keys["operator"]), 402, "insufficient_credits")
    for amount in (1_000_000_001, -1_000_000_001, 10**30, -(10**30)):
        refused(engine.post(path, {"amount": amount, "reason": "r"}, keys["operator"]), 400, "amount_too_large")


def test_a_repeated_adjustment_is_the_first_one(engine: Pluct, keys: Keys) -> None:
    """The key is the operator's: for another wallet, amount or reason it is a conflict."""
    user_id, key = new_id(), {"clientRequestId": new_id()}
    path, body = f"/v1/wallets/{user_id}/adjustments", {"amount": 5, "reason": "sorry"} | key
    first, again = (engine.post(path, body, keys["operator"]) for _ in range(2))
    assert again.json() == first.json()
    assert (first.headers.get("idempotency-replayed"), again.headers["idempotency-replayed"]) == (None, "true")
    other = f"/v1/wallets/{new_id()}/adjustments"
    for where, change in ((path, {"amount": 6}), (path, {"reason": "other"}), (other, {})):
        refused(engine.post(where, body | change, keys["operator"]), 409, "idempotency_key_reused")
    assert engine.available(user_id) == 5


# History


def test_history_reads_like_a_ledger_page(engine: Pluct, keys: Keys) -> None:
    """Each way credits can move, with its accounts and what was left after it."""
    user_id = new_id()
    u, h, staff = f"user:{user_id}", f"held:{user_id}", keys["service"]
    add(engine, user_id, 9, reference=new_id(), reason="paid")
    engine.post("/v1/vend-token", {"userId": user_id})
    held = engine.post("/v1/vend-token", {"userId": user_id, "action": "transcribe", "cost": 5}).json()
    engine.post("/v1/tickets/redeem", {"token": held["token"]}, staff)
    engine.post(f"/v1/tickets/{held['ticketId']}/capture", {"amount": 3}, staff)
    engine.post(f"/v1/tickets/{held['ticketId']}/void", {"reason": "failed"}, staff)
    canceled = engine.post("/v1/vend-token", {"userId": user_id, "action": "transcribe"}).json()
    engine.post(f"/v1/tickets/{canceled['ticketId']}/void", {"reason": "cancel"}, staff)
    engine.post(f"/v1/wallets/{user_id}/adjustments", {"amount": -8, "reason": "r"}, keys["operator"])
    page = history(engine, keys, user_id)
    assert set(page) - {"requestId"} == {"entries"}
    columns = ("number", "kind", "amount", "debit", "credit", "availableAfter", "heldAfter")
    assert [tuple(entry[column] for column in columns) for entry in page["entries"]] == [
        (9, "adjust", 8, u, "adjusted", 0, 0),
        (8, "return", 2, h, u, 8, 0),
        (7, "hold", 2, u, h, 6, 2),
        (6, "refund", 3, "earned:transcribe", u, 8, 0),
        (5, "return", 2, h, u, 5, 0),
        (4, "capture", 3, h, "earned:transcribe", 3, 2),
        (3, "hold", 5, u, h, 3, 5),
        (2, "vend", 1, u, "earned:default", 8, 0),
        (1, "grant", 9, "issued:webhook", u, 9, 0),
    ]
    optional = {"ticketId", "grantId", "reference", "reason", "actor"}
    assert all(ENTRY <= set(entry) <= ENTRY | optional and None not in entry.values() for entry in page["entries"])
    assert [entry.get("ticketId") for entry in page["entries"][1:7]] == [canceled["ticketId"]] * 2 + [
        held["ticketId"]
    ] * 4
    assert set(page["entries"][-1]) == ENTRY | {"grantId", "reference", "reason", "actor"}
    assert all(TIME.fullmatch(entry["at"]) for entry in page["entries"])


def test_a_balance_is_the_sum_of_its_entries(engine: Pluct, keys: Keys) -> None:
    """Over all pages: numbers without a gap, and credits minus debits give what is available and held."""
    user_id = engine.funded(30)
    for number in range(11):
        vended = engine.post("/v1/vend-token", {"userId": user_id, "action": ["default", "transcribe"][number % 2]})
        assert vended.status_code == 200
    entries, query = [], {"limit": "5"}
    while True:
        page = history(engine, keys, user_id, **query)
        entries += page["entries"]
        if "nextCursor" not in page:
            break
        assert len(page["entries"]) == 5
        query["cursor"] = page["nextCursor"]
    assert [entry["number"] for entry in entries] == list(range(12, 0, -1))
    assert len({entry["id"] for entry in entries}) == 12

    def sum_of(account: str) -> int:
        return sum(e["amount"] * ((e["credit"] == account) - (e["debit"] == account)) for e in entries)

    found = balance(engine, user_id)
    assert (sum_of(f"user:{user_id}"), sum_of(f"held:{user_id}")) == (found["available"], found["held"]) == (14, 10)
    assert (entries[0]["availableAfter"], entries[0]["heldAfter"]) == (14, 10)


def test_a_page_of_history_has_a_limit(engine: Pluct, keys: Keys) -> None:
    """50 unless told, at most 200; a full last page has no next one."""
    user_id = new_id()
    for _ in range(51):
        add(engine, user_id, 1)
    page = history(engine, keys, user_id)
    assert [page["entries"][0]["number"], len(page["entries"])] == [51, 50]
    last = history(engine, keys, user_id, cursor=page["nextCursor"])
    assert ([entry["number"] for entry in last["entries"]], "nextCursor" in last) == ([1], False)
    assert "nextCursor" not in history(engine, keys, user_id, limit=51)
    assert len(history(engine, keys, user_id, limit=200)["entries"]) == 51
    assert len(history(engine, keys, user_id, limit=1)["entries"]) == 1


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=201", "limit=-1", "limit=1.0", "limit=1e1", "limit=", "limit=%2B5", "limit=%20 5",
              "limit=true", "limit=9999999999999999999999", "limit=\u0665", "cursor=", "cursor=nonsense", "cursor=%00",
              "cursor=%FF", "cursor=" + "x" * 201]
)  # fmt: skip
def test_a_wrong_page_is_an_invalid_request(engine: Pluct, keys: Keys, query: str) -> None:
    """Numbers are plain digits in bounds, and a cursor is one that was given."""
    user_id = engine.funded(1)
    refused(
        engine.client.get(f"/v1/wallets/{user_id}/entries?{query}", headers=keys["operator"]), 400, "invalid_request"
    )


def test_a_cursor_is_good_for_its_wallet_only(engine: Pluct, keys: Keys) -> None:
    """With another wallet's cursor nothing of that wallet is seen."""
    victim, user_id = engine.funded(1), engine.funded(1)
    engine.fund(victim, 1)
    cursor = history(engine, keys, victim, limit=1)["nextCursor"]
    answer = engine.client.get(f"/v1/wallets/{user_id}/entries", params={"cursor": cursor}, headers=keys["operator"])
    refused(answer, 400, "invalid_request")
    refused(engine.client.get(f"/v1/wallets/{new_id()}/entries", headers=keys["operator"]), 404, "wallet_not_found")
