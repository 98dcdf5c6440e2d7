"""What happened when: sums by the minute and by the hour, of all processes, through restarts.

Each process keeps its own rows and writes them anew every few seconds, so nobody adds to anybody else's; whoever asks
adds them up. Requests and CPU are differences of what is counted anyway; credits and money are counted as batches are
committed. A row is a few kilobytes at most: routes, statuses, gateways and packs are few.
"""

import asyncio
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from operator import add
from typing import Literal

import msgspec

from pluct.errors import InvalidRequest
from pluct.model import Payment, Sums
from pluct.observe import BUCKETS_SECONDS, Observer
from pluct.stores import Store
from pluct.wallet import View

Step = Literal["minute", "hour", "day"]
STEP_MS: dict[Step, int] = {"minute": 60_000, "hour": 3_600_000, "day": 86_400_000}
#: How long sums are kept, and how many steps are answered at once.
MINUTES_KEPT_MS, HOURS_KEPT_MS = 2 * 86_400_000, 730 * 86_400_000
STEPS_MAX = 1_500
#: Steps that are read at once, and those that are worked on before requests get their turn (half a millisecond).
STEPS_READ, STEPS_AT_ONCE = 48, 8
SWEEP_EVERY_MS = 600_000
#: More names than there can be by rights: the rest is summed under one.
NAMES_MAX = 500
_CREDITS = {
    "vend": "captured", "hold": "held", "capture": "captured", "return": "returned", "refund": "returned",
    "expire": "expired", "clawback": "clawedBack",
}  # fmt: skip


class Tally(msgspec.Struct):
    """Sums of one stretch of time."""

    requests: dict[str, int] = {}  # by "status route"
    seconds: dict[str, list[float]] = {}  # by route: a count per bucket, then the sum
    cpu_seconds: float = 0.0
    credits: dict[str, int] = {}
    money: dict[str, list[int]] = {}  # by "gateway pack currency": how often, and how much in the smallest units

    def add(self, other: "Tally") -> None:
        """Add the other's sums."""
        for name, count in other.requests.items():
            self.count(self.requests, name, count)
        for name, count in other.credits.items():
            self.count(self.credits, name, count)
        for route, counts in other.seconds.items():
            known = self.seconds.get(route)
            self.seconds[route] = counts if known is None else [*map(add, known, counts)]
        for name, (count, amount) in other.money.items():
            before = self.money.get(name, [0, 0])
            self.money[name] = [before[0] + count, before[1] + amount]
        self.cpu_seconds += other.cpu_seconds

    @staticmethod
    def count(counts: dict[str, int], name: str, count: int) -> None:
        """Add to one sum."""
        if name not in counts and len(counts) >= NAMES_MAX:
            name = "other"
        counts[name] = counts.get(name, 0) + count

    @property
    def empty(self) -> bool:
        """Whether nothing worth a row has happened."""
        return not (self.requests or self.credits or self.money)


_decode = msgspec.json.Decoder(Tally).decode


class Ledgerwatch:
    """Counts what batches commit. Handed to the store, which tells it."""

    def __init__(self) -> None:
        self.tally = Tally()

    def committed(self, view: View, before: Mapping[str, Payment]) -> None:
        """A batch was committed."""
        tally = self.tally
        for entry in view.entries:
            name = _CREDITS.get(entry.kind)
            if name is None:
                if entry.kind == "grant":
                    name = "granted" + _category(view, entry.user_id, entry.grant_id)
                elif entry.kind == "adjust":
                    name = "adjustedUp" if entry.debit == "adjusted" else "adjustedDown"
                else:
                    continue
            tally.count(tally.credits, name, entry.amount)
        for payment in view.changed_payments.values():
            was = before.get(payment.id)
            if payment.minted and (was is None or not was.minted):
                checkout = view.checkouts.get(payment.checkout_id or "")
                name = f"{payment.gateway} {'-' if checkout is None else checkout.pack_id} {payment.currency}"
                tally.add(Tally(money={name if len(tally.money) < NAMES_MAX else "other": [1, payment.amount]}))

    def taken(self) -> Tally:
        """What was counted since this was asked last."""
        tally, self.tally = self.tally, Tally()
        return tally


def _category(view: View, user_id: str, grant_id: str | None) -> str:
    wallet = view.wallets.get(user_id)
    lots = () if wallet is None else wallet.lots
    return next(("Promotional" for lot in lots if lot.grant_id == grant_id and lot.category == "promotional"), "Paid")


class Analytics:
    """The sums of this process on their way into the store, and everybody's out of it."""

    def __init__(
        self, store: Store, observer: Observer, watch: Ledgerwatch, clock: Callable[[], int], process: str
    ) -> None:  # fmt: skip
        self._store, self._observer, self._watch, self._clock, self._process = store, observer, watch, clock, process
        self._requests, self._seconds = observer.counted()
        self._cpu = time.process_time()
        self._rows: dict[tuple[Step, int], Tally] = {}
        self._sweep_at = clock() + SWEEP_EVERY_MS

    async def flush(self) -> int:
        """Write what has happened since the last time."""
        now = self._clock()
        fresh = self._fresh()
        steps: list[Step] = ["minute", "hour"]
        current = {(step, now // STEP_MS[step] * STEP_MS[step]) for step in steps}
        self._rows = {key: tally for key, tally in self._rows.items() if key in current}
        if not fresh.empty:
            for key in current:
                self._rows.setdefault(key, Tally()).add(fresh)
            await self._store.put_sums(
                [Sums(step, at, self._process, msgspec.json.encode(tally).decode())
                 for (step, at), tally in self._rows.items()]
            )  # fmt: skip
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP_EVERY_MS
            await self._store.sweep_sums(now - MINUTES_KEPT_MS, now - HOURS_KEPT_MS)
        return 0

    def _fresh(self) -> Tally:
        """What has been counted since the last time."""
        fresh = self._watch.taken()
        requests, seconds = self._observer.counted()
        for (route, status), count in requests.items():
            if more := count - self._requests.get((route, status), 0):
                fresh.count(fresh.requests, f"{status} {route}", more)
        for route, counts in seconds.items():
            before = self._seconds.get(route, [0.0] * len(counts))
            if counts != before:
                fresh.seconds[route] = [a - b for a, b in zip(counts, before, strict=True)]
        self._requests, self._seconds = requests, seconds
        cpu = time.process_time()
        fresh.cpu_seconds, self._cpu = cpu - self._cpu, cpu
        return fresh


async def between(store: Store, since: int, until: int, step: Step) -> list[tuple[int, Tally]]:
    """The sums of each step that has any, from the one `since` is in up to `until` (ms). Raises `InvalidRequest`."""
    length = STEP_MS[step]
    first, last = since // length * length, until
    if last <= first:
        raise InvalidRequest("from must be before to.")
    if (last - first) / length > STEPS_MAX:
        raise InvalidRequest(f"That is more than {STEPS_MAX} steps: ask for a shorter time, or longer steps.")
    found: dict[int, Tally] = {}
    kept: Step = "minute" if step == "minute" else "hour"
    part = STEPS_READ * STEP_MS[kept]
    for start in range(first, last, part):
        for number, sums in enumerate(await store.sums(kept, start, min(start + part, last))):
            if number % STEPS_AT_ONCE == 0:
                await asyncio.sleep(0)
            tally = _decode(sums.tally)
            if (known := found.setdefault(sums.at // length * length, tally)) is not tally:
                known.add(tally)
    return sorted(found.items())


def quantiles(counts: Sequence[float], shares: Sequence[float]) -> list[float]:
    """The latencies (ms) that these shares of requests (above 0) stayed under, as far as buckets tell.

    `counts` end with the sum of all latencies.
    """
    upto = list(accumulate(counts[:-1]))
    if not upto[-1]:
        return [0.0] * len(shares)
    found = []
    for share in shares:
        at = bisect_left(upto, wanted := share * upto[-1])
        low, before = (BUCKETS_SECONDS[at - 1], upto[at - 1]) if at else (0.0, 0.0)
        high = BUCKETS_SECONDS[at] if at < len(BUCKETS_SECONDS) else BUCKETS_SECONDS[-1]
        found.append(1000 * (low + (high - low) * (wanted - before) / (upto[at] - before)))
    return found


def summed(tally: Tally) -> list[float]:
    """The latencies of all routes together, without the console's pages: people wait for those, and not for much."""
    found = [0.0] * (len(BUCKETS_SECONDS) + 2)
    for route, counts in tally.seconds.items():
        if route.startswith("/console"):
            continue
        found = [*map(add, found, counts)]
    return found
