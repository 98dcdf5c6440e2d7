"""What the engine tells about itself: one log line per request, counters and latencies for Prometheus.

Counting is a dictionary and an addition, cheap enough for every vend; the Prometheus library reads the counts when it
is asked. Log lines are JSON, gathered for a moment and written by a thread: a terminal or pipe that does not take them
can slow down nobody, and what would not fit is dropped and counted. Nothing secret is ever handed to this module: a
log line has the fields of `Event`, and no others.
"""

import logging
import os
import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

#: Upper bounds of the latency buckets, in seconds.
BUCKETS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
LOG_LINES_MAX = 50_000
_FLUSH_SECONDS = 0.05


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


class LogWriter:
    """Writes lines to a file descriptor from a thread of its own. Bounded: a full buffer drops and counts."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
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
            while chunk:
                try:
                    chunk = chunk[os.write(self._descriptor, chunk) :]
                except OSError:
                    self.dropped += chunk.count(b"\n")  # nobody reads any more
                    chunk = b""


class LogHandler(logging.Handler):
    """Sends the standard library's log records (faults, start and stop) the same way, as JSON lines."""

    def __init__(self, writer: LogWriter) -> None:
        super().__init__()
        self._writer = writer
        self.setFormatter(logging.Formatter("%(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record as a line."""
        fields = {"level": record.levelname.lower(), "logger": record.name, "message": self.format(record)}
        self._writer.write(msgspec.json.encode(fields) + b"\n")


class Observer:
    """Counts every request and every verb, and logs every request."""

    def __init__(self, log: LogWriter | None) -> None:
        self._log = log
        self._encode = msgspec.json.Encoder().encode
        self._requests: dict[tuple[str, int], int] = {}
        self._seconds: dict[str, list[float]] = {}  # per route: a count per bucket, then the sum
        self._verbs: dict[tuple[str, str], int] = {}
        self._credits: dict[str, int] = {}
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
        if self._log is not None:
            self._log.write(self._encode(event) + b"\n")

    def verb(self, verb: str, outcome: str, credits: int = 0) -> None:
        """The engine did, or refused, something with credits."""
        key = verb, outcome
        self._verbs[key] = self._verbs.get(key, 0) + 1
        if credits:
            self._credits[verb] = self._credits.get(verb, 0) + credits

    def metrics(self) -> bytes:
        """All counts in the Prometheus text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """What the Prometheus library asks of a collector."""
        requests = CounterMetricFamily("pluct_requests", "Requests answered.", labels=["route", "status"])
        for (route, status), count in self._requests.items():
            requests.add_metric([route, str(status)], count)
        yield requests
        latency = HistogramMetricFamily("pluct_request_seconds", "Time to answer a request.", labels=["route"])
        bounds = [*(str(bound) for bound in BUCKETS_SECONDS), "+Inf"]
        for route, (*counts, total) in self._seconds.items():
            cumulated = [sum(counts[: at + 1]) for at in range(len(counts))]
            latency.add_metric([route], list(zip(bounds, cumulated, strict=True)), total)
        yield latency
        verbs = CounterMetricFamily("pluct_verbs", "What was asked of the ledger.", labels=["verb", "outcome"])
        for (verb, outcome), count in self._verbs.items():
            verbs.add_metric([verb, outcome], count)
        yield verbs
        credits = CounterMetricFamily("pluct_credits", "Credits moved, by verb; replays do not count.", labels=["verb"])
        for verb, amount in self._credits.items():
            credits.add_metric([verb], amount)
        yield credits
        dropped = GaugeMetricFamily("pluct_log_lines_dropped", "Log lines nobody took.")
        dropped.add_metric([], self._log.dropped if self._log is not None else 0)
        yield dropped
