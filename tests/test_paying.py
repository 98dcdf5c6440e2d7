"""From a phone's prompt to credits, over HTTP: an engine, a Daraja that behaves well or badly, and both databases."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from conftest import Pluct, refused, until
from paying import PATH_TOKEN, Paying, paying
from pluct.gateways.configured import NAMES
from postgres import fresh_database

Make = Callable[..., Pluct]


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest) -> dict[str, str]:
    """Where the ledger is."""
    if request.param == "sqlite":
        return {}
    return {"DATABASE_URL": fresh_database(request.getfixturevalue("postgresql_url"))}


@pytest.fixture
def world(make_pluct: Make) -> Iterator[Paying]:
    """An engine that takes M-Pesa, over SQLite."""
    with paying(make_pluct) as made:
        yield made


def test_a_prompt_becomes_credits_and_a_ticket(make_pluct: Make, place: dict[str, str]) -> None:
    """The whole way: prices, prompt, callback, balance, ticket, redeemed; and who paid is not kept."""
    with paying(make_pluct, "ok", **place) as world:
        (starter, _) = world.engine.client.get("/v1/packs").json()["packs"]
        assert starter == {
            "id": "starter", "name": "10 credits", "currency": "KES", "price": "100.00", "credits": 10,
            "gateways": ["daraja"],
        }  # fmt: skip
        world.simulator.delay_seconds = 0.3
        checkout = world.buy(clientRequestId="first")
        assert checkout["state"] == "pending" and checkout["price"] == "100.00" and checkout["credits"] == 10
        assert checkout["paymentCode"] in checkout["message"] and "0712345678" not in json.dumps(checkout)
        world.becomes(checkout["checkoutId"], "paid")
        assert world.engine.available("amina") == 10
        (payment,) = world.payments()
        assert payment["state"] == "paid" and payment["credits"] == 10 and payment["amount"] == "100.00"
        assert payment["userId"] == "amina" and payment["checkoutId"] == checkout["checkoutId"]
        assert [event["kind"] for event in payment["events"]] == ["stk"]
        kept = json.dumps(payment) + world.engine.log
        assert "712345678" not in kept and "JANE" not in kept and PATH_TOKEN not in kept
        token = world.engine.post("/vend-token", {"userId": "amina"}).json()["token"]
        redeemed = world.engine.post("/v1/tickets/redeem", {"token": token}, world.engine.key("service"))
        assert redeemed.status_code == 200 and world.engine.available("amina") == 9
        world.engine.run("check")


#: By mode: the checkout's state in the end, the credits, and the states of the payments.
ENDS: dict[str, tuple[str, int, list[str]]] = {
    "cancelled": ("failed", 0, []),
    "wrong_pin": ("failed", 0, []),
    "strange_code": ("failed", 0, []),
    "duplicate": ("paid", 10, ["paid"]),
    "before_answer": ("paid", 10, ["paid"]),
    "none": ("paid", 10, ["paid"]),
    "late": ("paid", 10, ["paid"]),
    "twin": ("paid", 10, ["paid"]),
    "wrong_amount": ("review", 0, ["review"]),
    "wrong_reference": ("paid", 10, ["paid"]),  # the stranger's callback mints nothing; the query finds it paid
    "hang": ("paid", 10, ["paid"]),
    "html": ("paid", 10, ["paid"]),
    "half_body": ("paid", 10, ["paid"]),
    "error_500": ("paid", 10, ["paid"]),
    "token_dropped": ("paid", 10, ["paid"]),
    "refused": ("failed", 0, []),
    "busy": ("failed", 0, []),
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Paying]:
    """One engine for all that Daraja may do; each test has a user of its own."""

    def make(toml: str, **environment: str) -> Pluct:
        folder = tmp_path_factory.mktemp("shared")
        (folder / "pluct.toml").write_text(toml)
        return Pluct(folder, **environment)

    with paying(make) as made:
        made.engine.run("daraja", "register-urls")
        yield made
        made.engine.run("check")
        made.engine.close()


@pytest.mark.parametrize("mode", ENDS)
def test_whatever_daraja_does(shared: Paying, mode: str) -> None:
    """One push, an answer in time, and the end that the money says; never a mint too many or too few."""
    state, credits, payments = ENDS[mode]
    simulator, pushes = shared.simulator, len(shared.simulator.pushes)
    simulator.mode, told = mode, len(simulator.callbacks)
    checkout = shared.buy(mode)
    if mode == "hang":
        assert checkout["state"] == "pending"  # nobody knows, and the user was not kept waiting
        simulator.released.set()
    shared.becomes(checkout["checkoutId"], state)
    if mode in ("duplicate", "twin"):
        until(lambda: len(simulator.callbacks) == told + (3 if mode == "duplicate" else 2))
    assert shared.engine.available(mode) == credits
    assert [payment["state"] for payment in shared.payments() if payment.get("userId") == mode] == payments
    assert len(simulator.pushes) == pushes + (mode not in ("refused", "busy"))


def test_the_same_key_prompts_once(world: Paying) -> None:
    """Eight at once and one afterwards: one prompt, one checkout, one answer."""
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: world.buy(clientRequestId="again"), range(8)))
    found.append(world.buy(clientRequestId="again"))
    assert len({checkout["checkoutId"] for checkout in found}) == 1
    assert {checkout["state"] for checkout in found} <= {"pending", "paid"}
    assert len(world.simulator.asked("processrequest")) == 1
    other = world.engine.post(
        "/v1/checkouts",
        {"userId": "amina", "pack": "one", "gateway": "daraja", "phone": "0712345678", "clientRequestId": "again"},
    )
    assert other.status_code == 409 and other.json()["code"] == "idempotency_key_reused"


def test_what_cannot_be_bought_is_said(world: Paying) -> None:
    """A sentence each, and no prompt."""
    for body, part in [
        ({"pack": "dear"}, "no such pack"),
        ({"gateway": "stripe"}, "sold by daraja"),
        ({"phone": None}, "phone is required"),
        ({"phone": "12"}, "Kenyan mobile number"),
        ({"phone": 7}, "not as expected"),
        ({"pack": ""}, "pack"),
    ]:
        asked = {"userId": "amina", "pack": "starter", "gateway": "daraja", "phone": "0712345678"} | body
        answer = world.engine.post("/v1/checkouts", asked)
        assert answer.status_code == 400 and part in answer.json()["detail"], answer.text
    assert world.engine.client.get("/v1/checkouts/nothing").status_code == 404
    assert not world.simulator.asked("processrequest")


# What people type


def test_a_typed_code_finds_its_checkout(world: Paying) -> None:
    """In any spelling, any number of times, long after the prompt was cancelled; and each receipt counts once."""
    world.simulator.mode = "cancelled"
    checkout = world.buy()
    world.becomes(checkout["checkoutId"], "failed")
    code = checkout["paymentCode"]
    spelled = f" {code[:4].lower()}-{code[4:].lower()} "
    for _ in range(3):
        assert world.type_in(spelled, "100.00", "SLK4H7R2T0").json() == {"ResultCode": 0, "ResultDesc": "Success"}
    assert world.checkout(checkout["checkoutId"])["state"] == "paid" and world.engine.available("amina") == 10
    world.type_in(code, "250.00", "SLK4H7R2T1")  # another payment of the same user, by the price list
    assert world.engine.available("amina") == 10 + 20 + 2  # and KES 10 left over
    world.type_in(code, "10", "SLK4H7R2T2")
    assert world.engine.available("amina") == 33
    world.engine.run("check")


@pytest.mark.parametrize(
    ("policy", "credits", "states"), [("packs", 12, ["paid"]), ("pro_rata", 14, ["paid"]), ("hold", 0, ["review"])]
)
def test_odd_amounts(make_pluct: Make, policy: str, credits: int, states: list[str]) -> None:
    """KES 147 buys a ten and two ones, or floor(147 × 10 ÷ 100), or nothing until somebody decides."""
    with paying(make_pluct, "cancelled", f'[payments]\nodd_amounts = "{policy}"') as world:
        checkout = world.buy()
        world.type_in(checkout["paymentCode"], "147", "SLK4H7R2T0")
        assert world.engine.available("amina") == credits
        assert [payment["state"] for payment in world.payments()] == states
        world.engine.run("check")


@pytest.mark.parametrize("how", ["assign", "write-off"])
def test_an_operators_key_is_for_one_decision(world: Paying, how: str) -> None:
    """The same request again: the first answer. Another under the same key: 409, and nothing of it is done."""
    for number in range(2):
        world.type_in("WRONG", "100", f"SLK4H7R2T{number}")
    second, first = world.payments(state="unmatched")
    body = {"reason": "seen", "clientRequestId": "job-1"} | ({"userId": "juma"} if how == "assign" else {})
    done, again = world.settle(first, how, **body), world.settle(first, how, **body)
    assert (done.status_code, again.status_code) == (200, 200) and again.headers["idempotency-replayed"] == "true"
    assert {**again.json(), "requestId": ""} == {**done.json(), "requestId": ""}
    for payment, more in ((second, {}), (first, {"reason": "another"})):
        other = world.settle(payment, how, **body | more)
        assert (other.status_code, other.json()["code"]) == (409, "idempotency_key_reused")
    assert world.settle(second, how, **body | {"clientRequestId": "x" * 201}).status_code == 400
    assert [payment["id"] for payment in world.payments(state="unmatched")] == [second["id"]]
    assert world.engine.available("juma") == (10 if how == "assign" else 0)
    world.engine.run("check")


def test_suspense_is_settled_once(world: Paying) -> None:
    """An unknown code is kept, answered and shown; one user gets it, and nobody else."""
    world.type_in("WRONG", "100", "SLK4H7R2T0")
    world.type_in("", "20", "SLK4H7R2T1")
    second, first = world.payments(state="unmatched")
    assert first["reference"] == "SLK4H7R2T0" and first["code"] == "WRONG" and first["credits"] == 0
    again = [world.settle(first, "assign", userId="juma", reason="showed the message") for _ in range(2)]
    assert [answer.status_code for answer in again] == [200, 200] and world.engine.available("juma") == 10
    assert "Idempotency-Replayed" in again[1].headers
    other = world.settle(first, "assign", userId="amina", reason="me too")
    assert other.status_code == 409 and other.json()["code"] == "payment_already_settled"
    assert world.settle(first, "write-off", reason="no").status_code == 409
    written = world.settle(second, "write-off", reason="sent back by hand")
    assert written.json()["state"] == "written_off" and "sent back by hand" in written.json()["note"]
    assert world.settle(second, "assign", userId="juma", reason="late").status_code == 409
    world.type_in("WRONG", "100", "SLK4H7R2T0")
    assert world.engine.available("juma") == 10 and world.engine.available("amina") == 0
    one = world.engine.client.get(f"/v1/payments/{first['id']}", headers=world.operator).json()
    assert [event["kind"] for event in one["events"]] == ["c2b", "assigned"]
    assert one["events"][1]["body"]["reason"] == "showed the message"
    world.engine.run("check")


def test_payments_come_in_pages(world: Paying) -> None:
    """Newest first, each once."""
    for number in range(5):
        world.type_in("WRONG", "100", f"SLK4H7R2T{number}")
    found, cursor = [], None
    while True:
        query = {"limit": "2"} | ({} if cursor is None else {"cursor": cursor})
        page = world.engine.client.get("/v1/payments", params=query, headers=world.operator).json()
        found += [payment["reference"] for payment in page["payments"]]
        cursor = page.get("nextCursor")
        if cursor is None:
            break
    assert found == [f"SLK4H7R2T{number}" for number in (4, 3, 2, 1, 0)]
    assert world.payments(gateway="stripe") == [] and world.payments(state="paid") == []
    for name in NAMES:  # also those that are not set up here
        assert len(world.payments(gateway=name)) == (5 if name == "daraja" else 0)
    for query in ({"state": "lost"}, {"limit": "0"}, {"gateway": "\x00"}, {"gateway": "claim"}, {"gateway": "zzz"}):
        answer = world.engine.client.get("/v1/payments", params=query, headers=world.operator)
        refused(answer, 400, "invalid_request")
    assert "must be one of daraja, stripe" in answer.json()["detail"]
    assert world.engine.client.get("/v1/payments").status_code == 401
    assert world.engine.client.get("/v1/payments", headers=world.engine.key("service")).status_code == 403


def test_a_cursor_that_no_page_gave_is_refused(world: Paying) -> None:
    """On every list alike; one that a page gave is good whatever has become of its payment since."""
    get, operator = world.engine.client.get, world.operator
    for number in range(3):
        world.type_in("WRONG", "100", f"SLK4H7R2T{number}")
        world.engine.post("/v1/credits/request", {"userId": "amina", "reason": "x", "reference": f"{number}"})
    for path in ("/v1/payments", "/v1/credits/requests", "/v1/events"):
        for cursor in ("zzz", "0", "01a211c7-dbbf-7598-b70f-48c76822ebc9"):
            answer = get(path, params={"cursor": cursor}, headers=operator)
            refused(answer, 400, "invalid_request")
            assert "cursor is not one that a page" in answer.json()["detail"]
    for path, name in (("/v1/payments", "payments"), ("/v1/credits/requests", "requests")):
        first = get(path, params={"limit": "1"}, headers=operator).json()
        rest = get(path, params={"cursor": first["nextCursor"]}, headers=operator).json()
        assert len(first[name]) == 1 and len(rest[name]) == 2
    newest, next_one, oldest = (payment["id"] for payment in world.payments())
    world.settle({"id": next_one}, "write-off", reason="sent back")
    page = world.payments(state="unmatched", cursor=next_one)
    assert [payment["id"] for payment in page] == [oldest] and newest != oldest


# Above confirm_above, and claims


def test_much_money_waits_for_darajas_own_word(make_pluct: Make) -> None:
    """A typed payment above the line is asked about, and counts when Daraja itself knows it."""
    able = {"DARAJA_INITIATOR": "pluct", "DARAJA_SECURITY_CREDENTIAL": "c2VjcmV0"}
    with paying(make_pluct, "cancelled", confirm_above="50", timeout_seconds=10, **able) as world:
        checkout = world.buy()
        assert world.engine.run("daraja", "register-urls").returncode == 0
        typed = {
            "ShortCode": "174379",
            "Amount": 100,
            "Msisdn": "254712345678",
            "BillRefNumber": checkout["paymentCode"],
        }
        token = world.simulator.token
        sent = world.engine.client.post(
            f"{world.daraja_url}/mpesa/c2b/v2/simulate", json=typed, headers={"Authorization": f"Bearer {token}"}
        )
        assert sent.status_code == 200, sent.text
        world.becomes(checkout["checkoutId"], "paid")
        assert world.engine.available("amina") == 10
        world.type_in(checkout["paymentCode"], "100", "SLK4H7R2T9")  # which Daraja does not know
        until(lambda: len(world.simulator.asked("transactionstatus")) >= 2, 15)
        assert world.engine.available("amina") == 10
        assert [payment["reference"] for payment in world.payments(state="review")] == ["SLK4H7R2T9"]


def test_without_the_means_to_confirm_it_stays_in_review(make_pluct: Make) -> None:
    """An operator decides."""
    with paying(make_pluct, "cancelled", confirm_above="50") as world:
        checkout = world.buy()
        world.type_in(checkout["paymentCode"], "100", "SLK4H7R2T0")
        (payment,) = world.payments(state="review")
        assert world.engine.available("amina") == 0
        assert world.settle(payment, "assign", userId="amina", reason="seen in the portal").status_code == 200
        assert world.engine.available("amina") == 10


def test_a_claim_is_credited_only_where_it_fits(world: Paying) -> None:
    """A receipt of one's own phone is credited; anybody else's, an unknown one and another amount wait."""
    world.simulator.mode = "cancelled"
    world.becomes(world.buy()["checkoutId"], "failed")
    world.type_in("AMINA", "100", "SLK4H7R2T0")
    message = "SLK4H7R2T0 Confirmed. Ksh100.00 sent to PLUCT on 25/11/26"

    def claimed(user: str, amount: Any, reference: str, **more: str) -> str:
        body = {"userId": user, "amount": amount, "reason": "top-up", "reference": reference, **more}
        answer = world.engine.post("/v1/credits/request", body)
        assert answer.status_code == 200 and answer.json()["ok"] is True, answer.text
        state: str = answer.json()["state"]
        return state

    assert claimed("juma", 0, message) == "review"
    assert claimed("amina", 99, message) == "review"
    assert claimed("amina", 0, "SLK4H7R2T9") == "review"
    assert world.engine.available("amina") == 0
    assert claimed("amina", 100, message.lower(), clientRequestId="one") == "credited"
    assert claimed("amina", 100, message.lower(), clientRequestId="one") == "credited"
    assert claimed("juma", 0, message) == "review"
    assert world.engine.available("amina") == 10 and world.engine.available("juma") == 0
    (payment,) = world.payments()
    assert [event["kind"] for event in payment["events"]] == ["c2b", "request", "assigned", "request"]
    asked = world.engine.client.get("/v1/credits/requests", headers=world.operator).json()["requests"]
    assert [(each["userId"], each["state"]) for each in asked] == [
        ("juma", "settled"), ("amina", "open"), ("amina", "settled"), ("juma", "settled"),
    ]  # fmt: skip
    world.type_in("NOBODY", "20", "SLK4H7R2T9")
    page = world.engine.client.get("/v1/credits/requests", params={"limit": "2"}, headers=world.operator).json()
    assert page["requests"][1]["paymentId"] == world.payments(state="unmatched")[0]["id"] and page["nextCursor"]
    world.engine.run("check")


# The hostile


JUNK = [b"", b"{}", b"[]", b"null", b"\xff\xfe", b"{" * 5000, b'{"Body":{"stkCallback":7}}', b"a" * 65_536]


def test_strangers_store_nothing(world: Paying) -> None:
    """Wrong tokens, other people's tokens, junk of every kind: 4xx, nothing kept, nothing minted."""
    checkout = world.buy()
    world.becomes(checkout["checkoutId"], "paid")
    before = world.payments()
    for path in (
        "/hooks/daraja/stk/" + "0" * 40, f"/hooks/daraja/stk/{PATH_TOKEN}", "/hooks/daraja/c2b/x/confirmation",
        "/hooks/daraja/c2b/%00/validation", "/hooks/daraja/result/%ff", "/hooks/daraja/result/", "/hooks/stripe",
        "/hooks/daraja", "/hooks/nobody",
    ):  # fmt: skip
        for body in JUNK:
            assert world.engine.post(path, body).status_code in (400, 404), path
    stranger = world.simulator.pushes[next(iter(world.simulator.pushes))]["body"]["CallBackURL"].rpartition("/")[2]
    assert world.engine.post(f"/hooks/daraja/c2b/{stranger}/confirmation", {}).status_code == 404
    assert world.engine.post(f"/hooks/daraja/c2b/{PATH_TOKEN}/confirmation", b"a" * 65_537).status_code == 413
    for body in JUNK[:-1]:
        assert world.engine.post(f"/hooks/daraja/c2b/{PATH_TOKEN}/confirmation", body).status_code == 200
        assert world.engine.post(f"/hooks/daraja/result/{PATH_TOKEN}", body).status_code == 200
        answer = world.engine.post(f"/hooks/daraja/c2b/{PATH_TOKEN}/validation", body)
        assert answer.status_code == 200 and answer.json()["ResultCode"] != "0"
    assert world.payments() == before and world.engine.available("amina") == 10
    assert "500" not in [line.partition('"status":')[2][:3] for line in world.engine.log.splitlines()]


def test_addresses_behind_a_stated_proxy(make_pluct: Make) -> None:
    """One trusted proxy: what it saw counts, what the caller wrote before it does not."""
    with paying(make_pluct, "cancelled", "[http]\nproxy_hops = 1", allowed_ips=["196.201.214.0/24"]) as world:
        path = f"/hooks/daraja/c2b/{PATH_TOKEN}/validation"
        body = {"TransID": "SLK4H7R2T0", "TransAmount": "10"}
        for forwarded, status in [
            ("196.201.214.7", 200), ("10.0.0.1, 196.201.214.7", 200), ("196.201.214.7, 10.0.0.1", 404), ("", 404),
            ("junk", 404),
        ]:  # fmt: skip
            answer = world.engine.post(path, body, {"X-Forwarded-For": forwarded})
            assert answer.status_code == status, forwarded
        assert world.engine.post(path, body).status_code == 404


def test_a_frozen_wallet_says_so(make_pluct: Make) -> None:
    """A payment whose money went back after its credits were spent: under `freeze` the wallet says what holds it."""
    with paying(make_pluct, "ok", '[payments]\nclawback = "freeze"\n') as world:
        world.becomes(world.buy("amina")["checkoutId"], "paid")
        headers, engine = world.operator, world.engine
        wallet = engine.client.get("/v1/wallets/amina", headers=headers).json()
        assert wallet["ok"] is True and "frozen" not in wallet
        engine.post("/v1/vend-token", {"userId": "amina"})
        reversal = [{"Key": "OriginalTransactionID", "Value": world.payments()[0]["reference"]}]
        result = {"Result": {"ResultCode": 0, "ResultParameters": {"ResultParameter": reversal}}}
        assert engine.post(f"/hooks/daraja/result/{PATH_TOKEN}", result).status_code == 200
        wallet = engine.client.get("/v1/wallets/amina", headers=headers).json()
        assert (wallet["frozen"], wallet["debt"]) == (["debt"], 1)
        assert "frozen by" in engine.run("credits", "show", "amina").stdout
        refused(engine.post("/v1/vend-token", {"userId": "amina"}), 402, "wallet_frozen")
