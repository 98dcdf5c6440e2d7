"""What the engine tells about itself: one log line per request, counters and latencies for Prometheus.

Counting is a dictionary and an addition, cheap enough for every vend; the Prometheus library reads the counts when it
is asked. Log lines are JSON, gathered for a moment and written by a thread: a terminal or pipe that does not take them
can slow down nobody, and what would not fit is dropped and counted. Nothing secret is ever handed to this module: a
log line has the fields of `Event`, and no others.

Workers of one server take turns at writing, so that lines stay whole, and share what they counted, so that each can
answer for all.
"""

import fcntl
import logging
import os
import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

#: Upper bounds of the latency buckets, in seconds.
BUCKETS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
LOG_LINES_MAX = 50_000
_FLUSH_SECONDS = 0.05

_Key = TypeVar("_Key")


class Event(msgspec.Struct, rename="camel", omit_defaults=True, gc=False):
    """One request, as the log tells it."""

    at: str
    request_id: str
    method: str
    route: str  # the pattern, not the path: a path may carry an id
    status: int
    ms: float
    code: str | None = None
    user_id: str | None = None
    ticket_id: str | None = None
    caller: str | None = None  # the API key's id, never the key
    replayed: bool = False


def write_lines(descriptor: int, lines: bytes, turn: int | None = None) -> int:
    """Write all of it, and return how many lines nobody took.

    `turn` is an open file that processes sharing the descriptor lock while they write: lines of two never mix.
    """
    try:
        if turn is not None:
            fcntl.lockf(turn, fcntl.LOCK_EX)  # let go when its holder dies, too
        while lines:
            lines = lines[os.write(descriptor, lines) :]
    except OSError:  # nobody reads any more
        return lines.count(b"\n")
    finally:
        if turn is not None:
            fcntl.lockf(turn, fcntl.LOCK_UN)
    return 0


class LogWriter:
    """Writes lines to a file descriptor from a thread of its own. Bounded: a full buffer drops and counts."""

    def __init__(self, descriptor: int, turn: int | None = None) -> None:
        self._descriptor, self._turn = descriptor, turn
        self._lines: deque[bytes] = deque()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pluct-log", daemon=True)
        self.dropped = 0
        self._thread.start()

    def write(self, line: bytes) -> None:
        """Take a line (with its newline) and return at once."""
        if len(self._lines) < LOG_LINES_MAX:
            self._lines.append(line)
        else:
            self.dropped += 1

    def close(self, seconds_max: float = 1.0) -> None:
        """Write what is left, as long as someone takes it."""
        self._stop.set()
        self._thread.join(seconds_max)

    def _run(self) -> None:
        stopping = False
        while not stopping:
            stopping = self._stop.wait(_FLUSH_SECONDS)
            lines = self._lines
            chunk = b"".join([lines.popleft() for _ in range(len(lines))])
            if chunk:
                self.dropped += write_lines(self._descriptor, chunk, self._turn)


class LogHandler(logging.Handler):
    """Sends the standard library's log records (faults, start and stop) the same way, as JSON lines."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        super().__init__()
        self._write = write
        self.setFormatter(logging.Formatter("%(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record as a line."""
        fields = {"level": record.levelname.lower(), "logger": record.name, "message": self.format(record)}
        self._write(msgspec.json.encode(fields) + b"\n")


class Counts(msgspec.Struct):
    """What was counted."""

    requests: dict[tuple[str, int], int] = {}  # by route and status
    seconds: dict[str, list[float]] = {}  # by route: a count per bucket, then the sum
    verbs: dict[tuple[str, str], int] = {}  # by verb and outcome
    credits: dict[str, int] = {}  # by verb
    dropped: int = 0

    def add(self, other: "Counts") -> None:
        """Count what the other has counted, too."""
        _add(self.requests, other.requests)
        _add(self.verbs, other.verbs)
        _add(self.credits, other.credits)
        for route, counts in other.seconds.items():
            known = self.seconds.get(route, [0.0] * len(counts))
            self.seconds[route] = [a + b for a, b in zip(known, counts, strict=True)]
        self.dropped += other.dropped


def _add(mine: dict[_Key, int], theirs: dict[_Key, int]) -> None:
    for key, count in theirs.items():
        mine[key] = mine.get(key, 0) + count


class SharedCounts:
    """The counts of several workers, in a file each. Who takes a dead worker's place goes on with its counts."""

    def __init__(self, folder: Path, own: int, workers: int) -> None:
        self._files = [folder / f"worker-{number}" for number in range(workers)]
        self._own = self._files.pop(own)

    def earlier(self) -> Counts:
        """What this worker's predecessors had counted."""
        return self._read(self._own)

    def put(self, counts: Counts) -> None:
        """Let the others see this worker's counts."""
        new = self._own.with_suffix(".new")
        try:
            new.write_bytes(msgspec.msgpack.encode(counts))
            new.replace(self._own)
        except OSError as error:
            logging.getLogger("pluct").warning("this worker's counts could not be shared: %s", error)

    def others(self) -> list[Counts]:
        """The other workers' counts, as they put them last."""
        return [self._read(file) for file in self._files]

    def _read(self, file: Path) -> Counts:
        try:
            return msgspec.msgpack.decode(file.read_bytes(), type=Counts)
        except FileNotFoundError:  # it has only just started
            return Counts()


class Observer:
    """Counts every request and every verb, and logs every request."""

    def __init__(self, log: LogWriter | None, shared: SharedCounts | None = None) -> None:
        self._log, self._shared = log, shared
        self._encode = msgspec.json.Encoder().encode
        counts = self._counts = Counts() if shared is None else shared.earlier()
        self._requests, self._seconds, self._verbs, self._credits = (
            counts.requests, counts.seconds, counts.verbs, counts.credits,
        )  # fmt: skip
        self._dropped_earlier = counts.dropped
        self.feed: Callable[[Event], None] | None = None  #: told of every request, while somebody watches
        self._letters: tuple[int, int, int | None] | None = None
        self._waiting: dict[str, int] = {}
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def request(self, event: Event) -> None:
        """One request was answered."""
        key = event.route, event.status
        self._requests[key] = self._requests.get(key, 0) + 1
        seconds = self._seconds.get(event.route)
        if seconds is None:
            seconds = self._seconds[event.route] = [0.0] * (len(BUCKETS_SECONDS) + 2)
        taken = event.ms / 1000
        seconds[bisect_left(BUCKETS_SECONDS, taken)] += 1
        seconds[-1] += taken
        self.tell(event)

    def tell(self, event: Event) -> None:
        """Something like a request was answered, as a part of one that is counted."""
        if self._log is not None:
            self._log.write(self._encode(event) + b"\n")
        if self.feed is not None:
            self.feed(event)

    def verb(self, verb: str, outcome: str, credits: int = 0) -> None:
        """The engine did, or refused, something with credits."""
        key = verb, outcome
        self._verbs[key] = self._verbs.get(key, 0) + 1
        if credits:
            self._credits[verb] = self._credits.get(verb, 0) + credits

    def letters(self, counts: tuple[int, int, int | None]) -> None:
        """How many events wait to be delivered, how many are dead, and since when (ms) the oldest waits."""
        self._letters = counts

    def waiting(self, counts: dict[str, int]) -> None:
        """How many payments wait for an operator, by state."""
        self._waiting = counts

    def counted(self) -> tuple[dict[tuple[str, int], int], dict[str, list[float]]]:
        """What this process has counted: requests by route and status, latencies by route. Copies."""
        return self._requests.copy(), {route: counts.copy() for route, counts in self._seconds.items()}

    def share(self) -> None:
        """Let the other workers see the counts, if there are any."""
        if self._log is not None:
            self._counts.dropped = self._dropped_earlier + self._log.dropped
        if self._shared is not None:
            self._shared.put(self._counts)

    def metrics(self) -> bytes:
        """All counts, the other workers' too, in the Prometheus text format."""
        self.share()  # first, so that nobody who is asked next shows less than is shown now
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """What the Prometheus library asks of a collector."""
        counts = self._counts
        if self._shared is not None:
            counts = Counts()
            for each in (self._counts, *self._shared.others()):
                counts.add(each)
        requests = CounterMetricFamily("pluct_requests", "Requests answered.", labels=["route", "status"])
        for (route, status), count in counts.requests.items():
            requests.add_metric([route, str(status)], count)
        yield requests
        latency = HistogramMetricFamily("pluct_request_seconds", "Time to answer a request.", labels=["route"])
        bounds = [*(str(bound) for bound in BUCKETS_SECONDS), "+Inf"]
        for route, (*buckets, total) in counts.seconds.items():
            cumulated = [sum(buckets[: at + 1]) for at in range(len(buckets))]
            latency.add_metric([route], list(zip(bounds, cumulated, strict=True)), total)
        yield latency
        verbs = CounterMetricFamily("pluct_verbs", "What was asked of the ledger.", labels=["verb", "outcome"])
        for (verb, outcome), count in counts.verbs.items():
            verbs.add_metric([verb, outcome], count)
        yield verbs
        credits = CounterMetricFamily("pluct_credits", "Credits moved, by verb; replays do not count.", labels=["verb"])
        for verb, amount in counts.credits.items():
            credits.add_metric([verb], amount)
        yield credits
        if self._letters is not None:
            waiting, dead, since = self._letters
            events = GaugeMetricFamily("pluct_events", "Events out that are not delivered.", labels=["state"])
            events.add_metric(["pending"], waiting)
            events.add_metric(["dead"], dead)
            yield events
            oldest = GaugeMetricFamily("pluct_events_oldest_timestamp_seconds", "When the oldest waiting event came.")
            oldest.add_metric([], 0 if since is None else since / 1000)
            yield oldest
        if self._waiting:
            waits = GaugeMetricFamily("pluct_payments_waiting", "Payments that wait for an operator.", labels=["state"])
            for state, count in self._waiting.items():
                waits.add_metric([state], count)
            yield waits
        dropped = GaugeMetricFamily("pluct_log_lines_dropped", "Log lines nobody took.")
        dropped.add_metric([], counts.dropped)
        yield dropped
