"""How the engine itself is: its database, its processes, its gateways, and what waits."""

import time
from typing import NamedTuple

from starlette.responses import Response

from pluct.console.page import Page
from pluct.engine import Engine
from pluct.errors import PluctError

#: A commit that takes longer (ms) is slow; expiry that lags longer is late; so is an event that waits longer.
SLOW_MS, LATE_MS, EVENT_LATE_MS = 100.0, 60_000, 15 * 60_000
#: How far back processes are counted that have told of themselves.
SEEN_MS = 180_000


class Finding(NamedTuple):
    """One thing that was looked at."""

    name: str
    sound: bool
    said: str
    at: int | None = None


async def show(engine: Engine, page: Page) -> Response:
    """Everything that was looked at, just now."""
    store, now = engine.store, engine.now()
    findings = [await _commits(engine)]
    late = await engine.overdue(LATE_MS)
    findings.append(Finding("Expiry", not late, "on time" if not late else "more than a minute late"))
    waiting, dead, since = await store.letter_counts()
    said = f"{waiting:,} waiting, {dead:,} dead" + ("" if since is None else "; the oldest waits since")
    findings.append(Finding("Events out", not dead and (since is None or since > now - EVENT_LATE_MS), said, since))
    rows = await store.sums("minute", now - SEEN_MS, now + 1)
    processes = len({row.process for row in rows})
    said = f"{max(processes, 1)} at work in the last {SEEN_MS // 60_000} minutes"
    findings.append(Finding("Server processes", True, said))
    gateways = []
    for name in page.cashier.gateways:
        newest = await store.payments(None, name, 1, None)
        gateways.append((name, newest[0] if newest else None))
    return page.show(
        "health.html", findings=findings, gateways=gateways, facts=page.facts,
        sound=all(finding.sound for finding in findings),
    )  # fmt: skip


async def _commits(engine: Engine) -> Finding:
    """Have the database commit something, and say how long that took."""
    began = time.perf_counter()
    try:
        await engine.probe()
    except PluctError as error:
        return Finding("Database", False, error.sentence)
    ms = (time.perf_counter() - began) * 1000
    return Finding("Database", ms < SLOW_MS, f"committed in {ms:.1f} ms")
