"""The first page: what needs attention now, and how things have gone in the last hour, day or month."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from starlette.responses import Response

from pluct import analytics
from pluct.analytics import STEP_MS, Step, Tally, quantiles, summed
from pluct.cashier import WAITING_MAX
from pluct.console.page import Page
from pluct.engine import Engine
from pluct.errors import InvalidRequest

#: What is shown: in which steps, and how many.
SPANS: dict[str, tuple[Step, int]] = {"hour": ("minute", 60), "day": ("hour", 24), "month": ("day", 30)}
_WAITING = {
    "unmatched": "payment{} of nobody known", "review": "payment{} to be reviewed", "disputed": "payment{} disputed",
}  # fmt: skip
_VENDS = ("/v1/vend-token", "/vend-token")
_CREDITS = {
    "grantedPaid": "paid for", "grantedPromotional": "given", "held": "held", "captured": "captured",
    "returned": "returned", "expired": "expired", "clawedBack": "clawed back", "adjustedUp": "adjusted up",
    "adjustedDown": "adjusted down",
}  # fmt: skip


class Point(NamedTuple):
    """One step as it is drawn. Latencies in ms, CPU in percent of one core."""

    at: int
    vended: int
    refused: int
    failed: int
    p50: float | None
    p99: float | None
    cpu: float
    granted: int
    captured: int
    returned: int
    expired: int


async def show(engine: Engine, page: Page) -> Response:
    """The overview."""
    span = page.query.get("span", "hour")
    if span not in SPANS:
        raise InvalidRequest(f"The overview shows the last {', '.join(SPANS)}.")
    step, count = SPANS[span]
    length, now = STEP_MS[step], engine.now()
    first = now // length * length - (count - 1) * length
    found = dict(await analytics.between(engine.store, first, now + 1, step))
    points = [_point(at, found.get(at, Tally()), length) for at in range(first, now + 1, length)]
    total = Tally()
    for tally in found.values():
        total.add(tally)
    return page.show(
        "overview.html", attention=await _attention(engine, page), count_max=WAITING_MAX, span=span, spans=SPANS,
        step=step, points=points, whole=_point(first, total, count * length), charts=_charts(points) if found else [],
        credits=[(text, total.credits.get(name, 0)) for name, text in _CREDITS.items() if total.credits.get(name)],
        money=[(*_named(name), *sums) for name, sums in sorted(total.money.items())],
    )  # fmt: skip


async def _attention(engine: Engine, page: Page) -> list[tuple[int, str, str]]:
    """What somebody should look at: how many, what, and where it is shown."""
    _, dead, _ = await engine.store.letter_counts()
    found = [
        (count, _WAITING[state], f"/console/payments?state={state}")
        for state, count in (await page.cashier.waiting()).items()
    ]
    found.append((dead, "event{} that could not be delivered", "/console/events?state=dead"))
    return [(count, text.format("" if count == 1 else "s"), address) for count, text, address in found if count]


def _point(at: int, tally: Tally, length: int) -> Point:
    vended = refused = failed = 0
    for name, count in tally.requests.items():
        status, _, route = name.partition(" ")
        if status >= "5":
            failed += count
        elif route in _VENDS and status.startswith("2"):
            vended += count
        elif route in _VENDS:
            refused += count
    latency, credits = summed(tally), tally.credits.get
    p50, p99 = quantiles(latency, (0.5, 0.99))
    asked = any(latency)  # otherwise nobody waited, which is not the same as 0 ms
    return Point(
        at, vended, refused, failed, round(p50, 2) if asked else None, round(p99, 2) if asked else None,
        round(tally.cpu_seconds * 100_000 / length, 1), credits("grantedPaid", 0) + credits("grantedPromotional", 0),
        credits("captured", 0), credits("returned", 0), credits("expired", 0),
    )  # fmt: skip


def _charts(points: Sequence[Point]) -> list[dict[str, Any]]:
    """What `charts.js` draws: each a title, a unit, bars or lines, and named series with the name of their colour."""
    drawn = [
        ("Vends", "bar", "", [("sold", "vended", "go"), ("refused", "refused", "warn-ink"),
            ("failed", "failed", "bad")]),
        ("Time to answer", "line", "ms", [("half are faster", "p50", "go"), ("99 of 100 are faster", "p99", "link")]),
        ("Credits", "bar", "", [("granted", "granted", "go"), ("captured", "captured", "link"),
            ("returned", "returned", "warn-ink"), ("expired", "expired", "bad")]),
        ("CPU of one core", "line", "%", [("servers", "cpu", "link")]),
    ]  # fmt: skip
    return [
        {
            "title": title, "kind": kind, "unit": unit, "at": [point.at for point in points],
            "series": [
                {"name": name, "colour": colour, "values": [getattr(point, field) for point in points]}
                for name, field, colour in series
            ],
        }
        for title, kind, unit, series in drawn
    ]  # fmt: skip


def _named(name: str) -> tuple[str, str, str]:
    """Gateway, pack and currency."""
    parts = name.split(" ")
    return (parts[0], parts[1], parts[2]) if len(parts) == 3 else (name, "-", "KES")
