"""Analytics: what happened when, of all processes, through restarts, and what is too old is forgotten."""

import sqlite3
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import Pluct, new_id, refused, until
from paying import paying
from pluct.analytics import NAMES_MAX, Tally, quantiles
from pluct.observe import BUCKETS_SECONDS
from postgres import fresh_database

Make = Callable[..., Pluct]
ACTIONS = '[actions.slow]\nsettle = "report"\ncost = 3\n'


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, make_pluct: Make) -> Pluct:
    """A server over either database; two processes of it over PostgreSQL."""
    place = {}
    if request.param == "postgresql":
        place = {"DATABASE_URL": fresh_database(request.getfixturevalue("postgresql_url"))}
    pluct = make_pluct(toml=ACTIONS, **place)
    pluct.start(*(["--workers", "2"] if place else []))
    return pluct


def asked(engine: Pluct, **query: str) -> list[dict[str, Any]]:
    """The steps that are answered."""
    answer = engine.client.get("/v1/analytics", params=query, headers=engine.key("operator"))
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["steps"]
    return found


def credits(steps: list[dict[str, Any]]) -> dict[str, int]:
    """All steps' credits together."""
    found: dict[str, int] = {}
    for step in steps:
        for name, count in step["credits"].items():
            found[name] = found.get(name, 0) + count
    return {name: count for name, count in found.items() if count}


def test_what_happened_is_summed(engine: Pluct) -> None:
    """Credits by what became of them, requests by route and status, latency and CPU; also what a command did."""
    user, service = new_id(), engine.key("service")
    engine.fund(user, 20)
    engine.run("credits", "grant", user, "5", "--reason", "gift", "--promotional")
    for _ in range(4):
        engine.post("/vend-token", {"userId": user})
    vended = engine.post("/v1/vend-token", {"userId": user, "action": "slow"}).json()
    engine.post("/v1/tickets/redeem", {"token": vended["token"]}, service)
    engine.post(f"/v1/tickets/{vended['ticketId']}/capture", {"amount": 1}, service)
    assert engine.post("/v1/vend-token", {"userId": new_id()}).status_code == 402
    wanted = {"grantedPaid": 20, "grantedPromotional": 5, "captured": 5, "held": 3, "returned": 2}
    for step in ("minute", "hour", "day"):
        assert until(lambda step=step: credits(asked(engine, step=step)) == wanted, 15), step  # type: ignore[misc]
    steps = asked(engine, step="hour")
    requests = {(r["route"], r["status"]): r["count"] for step in steps for r in step["requests"]}
    assert requests[("/vend-token", 200)] == 4 and requests[("/v1/vend-token", 402)] == 1
    assert requests[("/v1/tickets/{id}/capture", 200)] == 1
    assert steps[-1]["p99Ms"] >= steps[-1]["p50Ms"] > 0 and steps[-1]["cpuSeconds"] > 0
    assert {row["route"] for row in steps[-1]["latency"]} >= {"/vend-token", "/v1/vend-token"}
    assert steps[-1]["at"].endswith(":00:00.000Z")


def test_sums_survive_a_restart(engine: Pluct) -> None:
    """And go on."""
    user = engine.funded(10)
    engine.stop()
    engine.start()
    assert credits(asked(engine)) == {"grantedPaid": 10}
    engine.fund(user, 1)
    assert until(lambda: credits(asked(engine)) == {"grantedPaid": 11}, 15)


def test_money_is_summed_by_gateway_and_pack(make_pluct: Make) -> None:
    """Once it has become credits."""
    with paying(make_pluct, "ok") as world:
        world.becomes(world.buy("amina")["checkoutId"], "paid")
        world.type_in("WRONG", "100", "SLK4H7R2T0")

        def money() -> list[dict[str, Any]]:
            return [row for step in asked(world.engine) for row in step["money"]]

        (row,) = until(money, 15)
        assert row == {"gateway": "daraja", "pack": "starter", "currency": "KES", "payments": 1, "amount": "100.00"}


def test_a_time_is_chosen(make_pluct: Make) -> None:
    """From the step that `from` is in, up to `to`; what is too old is forgotten by the minute first."""
    engine = make_pluct()
    engine.start()
    engine.funded(7)
    engine.stop()
    with sqlite3.connect(engine.database) as connection:
        (row,) = connection.execute("SELECT tally FROM sums WHERE step = 'hour'").fetchall()
        for days in (1, 10, 700, 800):
            for step, length in (("minute", 60_000), ("hour", 3_600_000)):
                at = (int(time.time() * 1000) - days * 86_400_000) // length * length
                connection.execute("INSERT INTO sums VALUES (?, ?, 'x', ?)", (step, at, row[0]))
    connection.close()
    engine.start()
    now = datetime.now(UTC)

    def there(days: float, **query: str) -> int:
        since = (now - timedelta(days=days)).isoformat()
        return credits(asked(engine, **{"from": since, **query})).get("grantedPaid", 0)

    assert there(12, step="day") == 21 and there(0.5) == 7 and there(3, step="day") == 14
    assert there(2, step="hour", to=(now - timedelta(hours=20)).isoformat()) == 7
    assert there(1440, step="day") == 35
    assert asked(engine, to="2001-01-01T00:00:00Z") == []


def test_what_cannot_be_asked_is_refused(engine: Pluct) -> None:
    """With a sentence; and only operators may ask."""
    operator = engine.key("operator")
    for query in (
        {"step": "week"}, {"from": "yesterday"}, {"to": "2026-01-01"},
        {"from": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z"},
        {"from": "2020-01-01T00:00:00Z"}, {"from": "2026-01-01T00:00:00Z", "step": "minute"}, {"from": "x" * 41},
        {"from": "0001-01-01T00:00:00Z", "to": "9999-12-31T23:59:59Z"},
    ):  # fmt: skip
        refused(engine.client.get("/v1/analytics", params=query, headers=operator), 400, "invalid_request")
    refused(engine.client.get("/v1/analytics", headers=engine.key("service")), 403, "forbidden")


TALLIES = st.builds(
    Tally,
    requests=st.dictionaries(st.sampled_from(["200 /a", "402 /a", "200 /b"]), st.integers(0, 9)),
    seconds=st.dictionaries(st.sampled_from("ab"), st.lists(st.integers(0, 5), min_size=3, max_size=3)),
    credits=st.dictionaries(st.sampled_from(["held", "captured"]), st.integers(0, 9)),
    money=st.dictionaries(st.sampled_from(["g p KES", "g q KES"]), st.lists(st.integers(0, 9), min_size=2, max_size=2)),
)


@given(st.lists(TALLIES, max_size=6), st.randoms())
def test_adding_up_does_not_depend_on_the_order(tallies: list[Tally], random: Any) -> None:
    """Nor on which were added first: an hour is the sum of its minutes."""
    whole, parts, shuffled = Tally(), [Tally(), Tally()], tallies[:]
    random.shuffle(shuffled)
    for tally in tallies:
        whole.add(tally)
    for number, tally in enumerate(shuffled):
        parts[number % 2].add(tally)
    parts[0].add(parts[1])
    assert parts[0] == whole


def test_names_are_bounded() -> None:
    """Beyond so many, the rest goes under one."""
    tally = Tally()
    for number in range(NAMES_MAX + 100):
        tally.count(tally.credits, f"name {number}", 1)
    assert len(tally.credits) == NAMES_MAX + 1 and tally.credits["other"] == 100


@pytest.mark.parametrize(("share", "low", "high"), [(0.5, 2.5, 5), (0.99, 25, 50), (1.0, 25, 50), (0.01, 1, 2.5)])
def test_a_quantile_lies_in_its_bucket(share: float, low: float, high: float) -> None:
    """Of a hundred requests: 20 under 2.5 ms, 70 under 5 ms, 10 under 50 ms."""
    counts = [0.0] * (len(BUCKETS_SECONDS) + 2)
    counts[1], counts[2], counts[5] = 20, 70, 10
    assert low <= quantiles(counts, [share])[0] <= high
    assert quantiles([0.0] * len(counts), [share]) == [0]


def test_the_slowest_are_no_faster_than_the_last_bucket() -> None:
    """Where buckets do not tell."""
    counts = [0.0] * (len(BUCKETS_SECONDS) + 2)
    counts[len(BUCKETS_SECONDS)] = 5
    assert quantiles(counts, [0.5]) == [10_000]
