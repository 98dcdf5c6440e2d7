"""The live log: requests of all processes as they are answered, for whoever watches.

Where nobody watches, nothing is done. While somebody does, a request costs an append; a few times a second the events
are matched with the filters that are watched by, once for each filter and not for each watcher. Nobody reads thousands
of lines a second: each filter shows so many of a tick, and says how many more there were.

Processes on one database hand each other their lines through it, as long as somebody watches anywhere.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable

import msgspec

from pluct.errors import InvalidRequest, PluctError, SetupError, Unavailable
from pluct.observe import Event, Observer
from pluct.stores import SharedLog, Store

TICK_SECONDS = 0.25
#: Events kept for one tick, shown of one tick by one filter, and handed to other processes.
EVENTS_MAX, SHOWN_MAX, SHARED_MAX = 5_000, 50, 400
WATCHERS_MAX = 100
#: What a watcher may leave unread before lines are lost to it.
UNREAD_BYTES_MAX = 256 * 1024
HEARTBEAT_SECONDS = 5.0
#: How long other processes hand over their lines after somebody was seen to watch.
WATCHED_MS = 6_000
ASK_EVERY_TICKS = 4
SWEEP_EVERY_TICKS = 240
_SEEN_MAX = 1_000

log = logging.getLogger("pluct.log")
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(list[Event]).decode


def _codes(error: type[PluctError]) -> set[str]:
    return {error.code}.union(*map(_codes, error.__subclasses__()))


#: What there can be of an outcome: how it went on the whole, or the code of an error.
OUTCOMES = ("ok", "refused", "failed", *sorted(_codes(PluctError) - {SetupError.code}))


class Filter(msgspec.Struct, frozen=True):
    """Which events: of a user, of a route, of an outcome (`ok`, `refused`, `failed`, or a code)."""

    user: str | None = None
    route: str | None = None
    outcome: str | None = None

    def __post_init__(self) -> None:
        """Refuse what no event can be: nothing would ever be shown, and nobody would know why."""
        if self.outcome is not None and self.outcome not in OUTCOMES:
            raise InvalidRequest(f"outcome must be one of {', '.join(OUTCOMES)}.")

    def matches(self, event: Event) -> bool:
        """Whether this event is one."""
        return (
            (self.user is None or event.user_id == self.user)
            and (self.route is None or event.route == self.route)
            and (self.outcome is None or self.outcome in (_outcome(event), event.code))
        )


class _Watcher:
    """Somebody who watches."""

    def __init__(self) -> None:
        self.chunks: deque[bytes] = deque()
        self.unread = self.lost = 0
        self.more = asyncio.Event()

    def put(self, chunk: bytes, lost: int) -> None:
        """Show some lines, and say how many there were besides."""
        if self.unread + len(chunk) > UNREAD_BYTES_MAX:
            self.lost += lost + chunk.count(b"data: ")
        else:
            self.lost += lost
            self.unread += len(chunk)
            self.chunks.append(chunk)
        self.more.set()

    def taken(self) -> bytes:
        """What there is to send."""
        chunk = b"".join(self.chunks)
        self.chunks.clear()
        if self.lost:
            chunk += b'event: lost\ndata: {"lost":%d}\n\n' % self.lost
        self.unread = self.lost = 0
        self.more.clear()
        return chunk


class LiveLog:
    """The watchers of this process, and what they are shown."""

    def __init__(self, store: Store, observer: Observer, clock: Callable[[], int], process: str) -> None:
        self._store, self._observer, self._clock, self._process = store, observer, clock, process
        self._watchers: dict[Filter, set[_Watcher]] = {}
        self._events: list[Event] = []
        self._missed = self._ticks = 0
        self._watched_until = 0
        self._first: int | None = None
        self._newest = 0
        self._seen: deque[int] = deque(maxlen=_SEEN_MAX)
        self.leaving: Callable[[], bool] = lambda: False

    async def watch(self, filter: Filter) -> AsyncGenerator[bytes, None]:
        """Server-Sent Events (the HTML standard, section 9.2), until the server stops."""
        watcher = _Watcher()
        self._watchers.setdefault(filter, set()).add(watcher)
        self._observer.feed = self._told
        try:
            yield b"retry: 2000\n\n"
            quiet = 0.0
            while not self.leaving():
                try:
                    async with asyncio.timeout(1.0):
                        await watcher.more.wait()
                except TimeoutError:
                    quiet += 1.0
                    if quiet >= HEARTBEAT_SECONDS:
                        quiet = 0.0
                        yield b": still here\n\n"
                else:
                    quiet = 0.0
                    yield watcher.taken()
        finally:
            self._watchers[filter].discard(watcher)
            if not self._watchers[filter]:
                del self._watchers[filter]

    def require_room(self) -> None:
        """Refuse one watcher too many."""
        if sum(map(len, self._watchers.values())) >= WATCHERS_MAX:
            raise Unavailable(f"{WATCHERS_MAX} watch already; try again when one of them has left.")

    async def run(self) -> None:
        """Show what has happened, tick by tick, for ever."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            try:
                await self._tick()
            except PluctError as error:
                log.warning("the live log of other processes was not had: %s", error.sentence)
            except Exception:
                log.exception("the live log failed")

    def _told(self, event: Event) -> None:
        if len(self._events) < EVENTS_MAX:
            self._events.append(event)
        else:
            self._missed += 1

    async def _tick(self) -> None:
        events, missed = self._events, self._missed
        self._events, self._missed = [], 0
        if self._watchers:
            self._show(events, missed)
        if self._store.shared_log is not None:
            await self._share(self._store.shared_log, events, missed)
        if not self._watchers and self._clock() >= self._watched_until:
            self._observer.feed = None

    def _show(self, events: list[Event], missed: int) -> None:
        for filter, watchers in self._watchers.items():
            found = [event for event in events if filter.matches(event)]
            lost = len(found[SHOWN_MAX:]) + missed
            if found or lost:
                chunk = b"".join([b"data: %b\n\n" % _encode(event) for event in found[:SHOWN_MAX]])
                for watcher in watchers:
                    watcher.put(chunk, lost)

    async def _share(self, shared: SharedLog, events: list[Event], missed: int) -> None:
        """Hand over lines if somebody watches elsewhere, and take those of others if somebody watches here."""
        now = self._clock()
        if self._ticks % ASK_EVERY_TICKS == 0:
            if self._watchers:
                await self._store.take_turn("log", "anyone", now, now + WATCHED_MS)
            self._watched_until = await shared.watched_until()
            if self._watched_until > now:
                self._observer.feed = self._told
        self._ticks += 1
        if events and self._watched_until > now:
            lines = _encode(events[:SHARED_MAX]).decode()
            await shared.add(self._process, lines, len(events[SHARED_MAX:]) + missed)
        if self._watchers:
            await self._take(shared)
        else:
            self._first = None
        if self._ticks % SWEEP_EVERY_TICKS == 0:
            await shared.sweep()

    async def _take(self, shared: SharedLog) -> None:
        """Show what other processes have handed over since somebody watches here."""
        if self._first is None:
            self._first = self._newest = await shared.newest()
            return
        after = max(self._first, self._newest - _SEEN_MAX // 2)  # numbers become visible in any order
        for number, lines, lost in await shared.lines(after, self._process, list(self._seen)):
            self._newest = max(self._newest, number)
            self._seen.append(number)
            self._show(_decode(lines), lost)


def _outcome(event: Event) -> str:
    return "ok" if event.status < 400 else "refused" if event.status < 500 else "failed"
