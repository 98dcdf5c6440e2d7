"""The live log: requests as the servers answer them."""

import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable

from starlette.responses import Response, StreamingResponse

from pluct.commands import text
from pluct.console.page import HEADERS, Page
from pluct.engine import Engine
from pluct.errors import PluctError
from pluct.live_log import Filter

log = logging.getLogger("pluct.console")

#: How often (s) it is looked whether whoever watches is still signed in.
LOOK_SECONDS = 15.0
OUTCOMES = {"ok": "answered", "refused": "refused", "failed": "failed"}


async def show(engine: Engine, page: Page) -> Response:
    """The page; its script asks for `stream`."""
    asked = _filter(page)
    return page.show("log.html", asked=asked, outcomes=OUTCOMES)


async def stream(engine: Engine, page: Page) -> Response:
    """Server-Sent Events, for as long as somebody watches who is signed in."""
    asked = _filter(page)
    page.live.require_room()
    events = _while_signed_in(page.live.watch(asked), page.still_signed_in)
    return StreamingResponse(events, 200, HEADERS, "text/event-stream")


async def _while_signed_in(
    events: AsyncGenerator[bytes, None], signed_in: Callable[[], Awaitable[bool]]
) -> AsyncGenerator[bytes, None]:
    look_at = time.monotonic() + LOOK_SECONDS
    try:
        async for chunk in events:
            if time.monotonic() >= look_at:
                look_at = time.monotonic() + LOOK_SECONDS
                if not await _known(signed_in):
                    return
            yield chunk
    finally:
        await events.aclose()


async def _known(signed_in: Callable[[], Awaitable[bool]]) -> bool:
    """Whether whoever watches is signed in for sure: while the database cannot say, nobody is."""
    try:
        return await signed_in()
    except PluctError as error:
        log.warning("a watcher was hung up on: %s", error.sentence)
        return False


def _filter(page: Page) -> Filter:
    asked = {name: page.query.get(name, "").strip() for name in ("user", "route", "outcome")}
    return Filter(**{name: text(value, name.capitalize()) for name, value in asked.items() if value})
