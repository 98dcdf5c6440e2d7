"""Analytics, for operators: what happened when, step by step."""

import asyncio
from typing import Annotated

import msgspec
from msgspec import Meta

from pluct import analytics
from pluct.analytics import STEP_MS, STEPS_AT_ONCE, Step, Tally, quantiles, summed
from pluct.engine import Engine
from pluct.errors import InvalidRequest
from pluct.money import decimal_text
from pluct.web.endpoint import Answer, Call
from pluct.web.v1 import rfc3339, time_of

DEFAULT_STEPS = 60


class AnalyticsQuery(msgspec.Struct, rename={"since": "from", "until": "to"}):
    """Which time, in which steps; without a time the last sixty steps."""

    since: Annotated[str, Meta(max_length=40)] | None = None
    until: Annotated[str, Meta(max_length=40)] | None = None
    step: Step = "hour"


class RouteSums(msgspec.Struct, rename="camel"):
    """One route with one status."""

    route: str
    status: int
    count: int


class LatencySums(msgspec.Struct, rename="camel"):
    """How long a route's requests took, in milliseconds, as far as buckets tell."""

    route: str
    p50_ms: float
    p99_ms: float


class MoneySums(msgspec.Struct, rename="camel"):
    """What came in at a gateway for a pack (`-`: for none)."""

    gateway: str
    pack: str
    currency: str
    payments: int
    amount: str


class StepSums(msgspec.Struct, rename="camel"):
    """The sums of one step; `at` is its beginning."""

    at: str
    requests: list[RouteSums]
    latency: list[LatencySums]
    p50_ms: float
    p99_ms: float
    cpu_seconds: float
    credits: dict[str, int]
    money: list[MoneySums]


class AnalyticsAnswer(msgspec.Struct, rename="camel"):
    """The steps in which anything happened, oldest first."""

    step: Step
    steps: list[StepSums]
    request_id: str


async def show(engine: Engine, call: Call) -> Answer:
    """Requests, latency, CPU, credits and money, step by step, of all processes."""
    query: AnalyticsQuery = call.query
    until = engine.now() if query.until is None else _time(query.until, "to")
    since = until - DEFAULT_STEPS * STEP_MS[query.step] if query.since is None else _time(query.since, "from")
    found = await analytics.between(engine.store, since, until, query.step)
    steps = []
    for number, (at, tally) in enumerate(found, 1):
        steps.append(_step(at, tally))
        if number % STEPS_AT_ONCE == 0:
            await asyncio.sleep(0)
    return Answer(AnalyticsAnswer(query.step, steps, call.request_id))


def _time(written: str, name: str) -> int:
    try:
        return time_of(written)
    except InvalidRequest:
        raise InvalidRequest(f"{name} must be a time such as 2026-01-31T00:00:00Z.") from None


def _step(at: int, tally: Tally) -> StepSums:
    requests = [
        RouteSums(route, int(status), count)
        for status, _, route in (name.partition(" ") for name in sorted(tally.requests) if " " in name)
        if (count := tally.requests[f"{status} {route}"])
    ]
    latency = [
        LatencySums(route, *(round(ms, 3) for ms in quantiles(counts, (0.5, 0.99))))
        for route, counts in sorted(tally.seconds.items())
    ]
    money = []
    for name, (count, amount) in sorted(tally.money.items()):
        gateway, pack, currency = [*name.split(" "), "-", "KES"][:3] if name == "other" else name.split(" ")
        money.append(MoneySums(gateway, pack, currency, count, decimal_text(amount, currency)))
    p50, p99 = quantiles(summed(tally), (0.5, 0.99))
    names = ("grantedPaid", "grantedPromotional", "held", "captured", "returned", "expired")
    credits = dict.fromkeys(names, 0) | tally.credits
    return StepSums(
        rfc3339(at), requests, latency, round(p50, 3), round(p99, 3),
        round(tally.cpu_seconds, 3), credits, money,
    )  # fmt: skip
