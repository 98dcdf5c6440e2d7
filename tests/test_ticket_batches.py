"""`POST /v1/tickets/batch`: each operation in it is what it would be by itself. Over both databases."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import Clock, Pluct, new_id, opened, refused, served, until
from pluct import engine
from pluct.catalog import Action, Catalog
from pluct.observe import Observer
from pluct.tickets import HS256Signer, uuid7_source
from postgres import fresh_database

TOML = """
[actions.transcribe]
cost = 5
settle = "report"

[actions.glance]
settle = "redeem"
"""
BATCH = "/v1/tickets/batch"


class Shop:
    """An engine, a backend's key, and a user with credits."""

    def __init__(self, pluct: Pluct) -> None:
        self.engine, self.service = pluct, pluct.key("service")
        self.user = pluct.funded(1_000)

    def vend(self, action: str = "transcribe") -> dict[str, Any]:
        """A ticket."""
        vended: dict[str, Any] = self.engine.post("/v1/vend-token", {"userId": self.user, "action": action}).json()
        return vended

    def send(self, *operations: dict[str, Any], **headers: str) -> list[dict[str, Any]]:
        """The results of a batch."""
        answer = self.engine.post(BATCH, {"operations": operations}, self.service | headers)
        assert answer.status_code == 200, answer.text
        results: list[dict[str, Any]] = answer.json()["results"]
        assert len(results) == len(operations)
        return results

    def post(self, path: str, body: dict[str, Any], key: str) -> Any:
        """The same by itself, under an idempotency key."""
        return self.engine.post(path, body, self.service | {"Idempotency-Key": key})


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shop(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, postgresql_url: str
) -> Iterator[Shop]:
    """One for each database."""
    where = {"DATABASE_URL": fresh_database(postgresql_url)} if request.param == "postgresql" else {}
    with served(tmp_path_factory.mktemp("batches"), TOML, **where) as pluct:
        yield Shop(pluct)
        assert pluct.json("check")["ok"] is True


def redeem(vended: dict[str, Any], key: str | None = None) -> dict[str, Any]:
    return {"op": "redeem", "token": vended["token"]} | ({} if key is None else {"clientRequestId": key})


def capture(vended: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"op": "capture", "ticketId": vended["ticketId"]} | more


def void(vended: dict[str, Any], reason: str = "the recording was empty", **more: Any) -> dict[str, Any]:
    return {"op": "void", "ticketId": vended["ticketId"], "reason": reason} | more


def test_each_is_decided_by_itself(shop: Shop) -> None:
    """Good ones and bad ones side by side: each has its own status, in the order they were asked for."""
    first, second, third, glance = shop.vend(), shop.vend(), shop.vend(), shop.vend("glance")
    shop.send(redeem(first), redeem(second))
    results = shop.send(
        capture(first, amount=2), redeem(third), {"op": "redeem", "token": "a.b.c"}, void(second), redeem(first),
        {"op": "capture", "ticketId": "none"}, capture(second, amount=0), void(glance, "x" * 201), redeem(glance),
    )  # fmt: skip
    assert [result["status"] for result in results] == [200, 200, 401, 200, 409, 404, 400, 400, 200]
    assert [result["problem"]["code"] for result in results if "problem" in result] == [
        "unauthorized", "ticket_already_redeemed", "ticket_not_found", "invalid_request", "invalid_request",
    ]  # fmt: skip
    states = [
        (result["ticket"]["state"], result["ticket"]["capturedAmount"]) for result in results if "ticket" in result
    ]
    assert states == [("captured", 2), ("redeemed", 0), ("voided", 0), ("captured", 1)]


def test_it_answers_what_a_request_of_its_own_would(shop: Shop) -> None:
    """The same fields, and under the same key the same answer, whichever way it came first."""
    vended = shop.vend()
    keys = [new_id() for _ in range(3)]
    (together,) = shop.send(redeem(vended, keys[0]))
    alone = shop.post("/v1/tickets/redeem", {"token": vended["token"]}, keys[0])
    assert alone.headers["idempotency-replayed"] == "true" and "replayed" not in together
    assert {**together["ticket"], "requestId": ""} == {**alone.json(), "requestId": ""}
    captured = shop.post(f"/v1/tickets/{vended['ticketId']}/capture", {"amount": 3}, keys[1])
    (again,) = shop.send(capture(vended, amount=3, clientRequestId=keys[1]))
    assert again["replayed"] is True
    assert {**again["ticket"], "requestId": ""} == {**captured.json(), "requestId": ""}
    (other,) = shop.send(capture(vended, amount=4, clientRequestId=keys[1]))
    assert (other["status"], other["problem"]["code"]) == (409, "idempotency_key_reused")
    (voided,) = shop.send(void(vended, clientRequestId=keys[2]))
    problem = shop.engine.post(f"/v1/tickets/{vended['ticketId']}/void", {"reason": "again"}, shop.service).json()
    (refusal,) = shop.send(void(vended))
    assert voided["status"] == 200 and {**refusal["problem"], "requestId": ""} == {**problem, "requestId": ""}


def test_a_ticket_is_accepted_once_however_often_it_is_in_a_batch(shop: Shop) -> None:
    """A hundred times without a key: once. A hundred times under one key: one acceptance, told a hundred times."""
    vended = shop.vend()
    statuses = sorted(result["status"] for result in shop.send(*[redeem(vended)] * 100))
    assert statuses == [200] + [409] * 99
    another, key = shop.vend(), new_id()
    results = shop.send(*[redeem(another, key)] * 100)
    assert {result["status"] for result in results} == {200}
    assert sum(not result.get("replayed", False) for result in results) == 1


@pytest.mark.parametrize("where", ["header", "body"])
def test_one_key_for_all_is_refused(shop: Shop, where: str) -> None:
    """It would be taken for a promise; nothing is done."""
    vended = shop.vend()
    body: dict[str, Any] = {"operations": [redeem(vended)]}
    headers = shop.service | ({"Idempotency-Key": "x"} if where == "header" else {})
    answer = shop.engine.post(BATCH, body | ({"clientRequestId": "x"} if where == "body" else {}), headers)
    assert "a clientRequestId of its own" in refused(answer, 400, "invalid_request")["detail"]
    assert shop.send(redeem(vended))[0]["status"] == 200


@pytest.mark.parametrize(
    "operations",
    [
        [], [{"op": "redeem", "token": "a.b.c"}] * 101, [{"op": "refund", "ticketId": "x"}], [{"token": "a.b.c"}],
        [{"op": "redeem"}], [{"op": "capture"}], [{"op": "void", "ticketId": "x"}], [7], [None], {}, "redeem",
    ],
)  # fmt: skip
def test_what_is_no_batch_is_refused_whole(shop: Shop, operations: Any) -> None:
    """A sentence, and nothing of it is done."""
    vended = shop.vend()
    sent = [redeem(vended), *operations] if isinstance(operations, list) and operations else operations
    refused(shop.engine.post(BATCH, {"operations": sent}, shop.service), 400, "invalid_request")
    assert shop.send(redeem(vended))[0]["status"] == 200


def test_the_log_tells_of_each(shop: Shop) -> None:
    """A line for each operation with its ticket and its user, under the request's id; the request is counted as one.

    What was taken for a ticket and is none may be anything, and is not told.
    """
    good, marker = shop.vend(), new_id()
    shop.send(redeem(good), {"op": "capture", "ticketId": "none"}, **{"X-Request-Id": marker})
    lines = until(lambda: [json.loads(line) for line in shop.engine.log.splitlines() if marker in line][2:] and [
        json.loads(line) for line in shop.engine.log.splitlines() if marker in line
    ])  # fmt: skip
    told = {
        line["route"]: (line["status"], line.get("ticketId"), line.get("userId"), line.get("code")) for line in lines
    }
    assert told == {
        "/v1/tickets/redeem": (200, good["ticketId"], shop.user, None),
        "/v1/tickets/{id}/capture": (404, None, None, "ticket_not_found"),
        BATCH: (200, None, None, None),
    }
    metrics = shop.engine.client.get("/metrics").text
    assert f'pluct_requests_total{{route="{BATCH}",status="200"}}' in metrics
    assert 'route="/v1/tickets/{id}/capture",status="404"' not in metrics and good["token"] not in shop.engine.log


def test_each_counts_for_the_limit_of_the_key(make_pluct: Callable[..., Pluct]) -> None:
    """A batch is no way round it: what is over the limit is told to come again, and the rest is done."""
    pluct = make_pluct(toml='[limits]\nrequests_per_key = "5/hour"\n')
    pluct.start()
    shop = Shop(pluct)
    vended = [shop.vend("default") for _ in range(7)]
    results = shop.send(*map(redeem, vended))
    assert [result["status"] for result in results] == [200] * 5 + [429] * 2
    assert results[-1]["problem"]["retryAfterSeconds"] > 0


@pytest.mark.anyio
async def test_whose_tickets_they_are_is_remembered_of_so_many_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is forgotten is looked up; both are settled alike."""
    monkeypatch.setattr(engine, "OWNERS_MAX", 3)
    clock, catalog = Clock(), Catalog({"read": Action(settle="report")})
    async with opened(tmp_path / "pluct.db", clock) as store:
        made = engine.Engine(store, HS256Signer("s" * 40), catalog, Observer(None), clock, uuid7_source(), 60)
        await made.grant("amina", 10, source="api", actor="test")
        tickets = []
        for _ in range(6):
            vending = await made.vend("amina", "read")
            tickets.append((await made.redeem(vending.token)).ticket.id)
        assert list(made._owners) == tickets[-3:]
        ends = [await made.capture(tickets[0], None), await made.capture(tickets[5], None)]
        ends += [await made.void(ticket_id, "a test", "test") for ticket_id in (tickets[1], tickets[4])]
        assert [end.ticket.state for end in ends] == ["captured"] * 2 + ["voided"] * 2
