"""One code for both colours of function: work that may wait is written once, as coroutines with a `waiting` flag.

With it they wait, as coroutines do. Without it they block where they would wait, so they never suspend, and `done` runs
them to their end like a plain call. Only what does I/O looks at the flag.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from weakref import WeakKeyDictionary, finalize

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")
TIMEOUT_SECONDS = 5.0
_POLL_SECONDS = 0.01


def done(work: Coroutine[Any, Any, T]) -> T:
    """The result of work that never suspends."""
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    work.close()
    raise AssertionError("work that was told to block tried to wait")


async def pause(seconds: float, waiting: bool) -> None:
    """Let time pass."""
    if waiting:
        await asyncio.sleep(seconds)
    else:
        time.sleep(seconds)


async def hold(lock: threading.Lock, waiting: bool) -> None:
    """Take a lock that threads and tasks of any loop may share."""
    if waiting:
        while not lock.acquire(blocking=False):
            await asyncio.sleep(_POLL_SECONDS)  # no future would do: the holder may be a thread, or of another loop
    else:
        lock.acquire()


class PerLoop(Generic[T]):
    """A client for each event loop: connections made in one loop are of no use in another."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: WeakKeyDictionary[asyncio.AbstractEventLoop, T] = WeakKeyDictionary()

    def get(self) -> T:
        """The client of the running loop."""
        loop = asyncio.get_running_loop()
        if loop not in self._made:
            self._made[loop] = self._make()
        return self._made[loop]


class Http:
    """Requests over connections that are kept open."""

    def __init__(self, headers: dict[str, str]) -> None:
        import httpx

        self._blocking = httpx.Client(headers=headers, timeout=TIMEOUT_SECONDS)
        finalize(self, self._blocking.close)
        self._waiting = PerLoop(lambda: httpx.AsyncClient(headers=headers, timeout=TIMEOUT_SECONDS))
        self.errors = (httpx.HTTPError, httpx.InvalidURL)

    async def send(self, waiting: bool, method: str, url: str, **more: Any) -> "httpx.Response":
        """One round trip. Redirects are not followed."""
        if waiting:
            return await self._waiting.get().request(method, url, **more)
        return self._blocking.request(method, url, **more)
