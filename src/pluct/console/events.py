"""Events out: what was delivered to whom, what was not and why, and delivering it again."""

from typing import cast, get_args

from starlette.responses import Response

from pluct import deliveries
from pluct.commands import text
from pluct.console.page import Page
from pluct.engine import Engine
from pluct.errors import InvalidRequest
from pluct.model import LetterState

PAGE = 25
#: Dead events that are replayed at once.
REPLAY_MAX = 500
STATES: tuple[str, ...] = get_args(LetterState)


async def find(engine: Engine, page: Page) -> Response:
    """Events, newest first, of one state if that is asked for."""
    state = page.query.get("state") or None
    if state is not None and state not in STATES:
        raise InvalidRequest(f"There are no such events; look for {', '.join(STATES)}.")
    found, following = await deliveries.page(engine.store, cast(LetterState | None, state), PAGE, page.cursor)
    waiting, dead, since = await engine.store.letter_counts()
    return page.show(
        "events.html", state=state, states=STATES, found=found, following=following, waiting=waiting, dead=dead,
        since=since, done=page.query.get("done"), replay_max=REPLAY_MAX,
    )  # fmt: skip


async def replay(engine: Engine, page: Page) -> Response:
    """Deliver one again; asked once more first, for whoever receives it may act on it again."""
    letter_id = text(page.field("event"), "The event's id")
    if "confirmed" not in page.form:
        return page.show("replay.html", event=letter_id, count=1)
    await deliveries.replay(engine.store, letter_id, engine.now())
    return page.to("/console/events", done=1)


async def replay_dead(engine: Engine, page: Page) -> Response:
    """Deliver all that are dead again, up to `REPLAY_MAX`; asked once more first."""
    found, _ = await deliveries.page(engine.store, "dead", REPLAY_MAX, None)
    if "confirmed" not in page.form:
        return page.show("replay.html", event=None, count=len(found))
    for letter in found:
        await deliveries.replay(engine.store, letter.id, engine.now())
    return page.to("/console/events", done=len(found))


async def discard_dead(engine: Engine, page: Page) -> Response:
    """Give up all that are dead, for good; asked once more first."""
    if "confirmed" not in page.form:
        _, dead, _ = await engine.store.letter_counts()
        return page.show("discard.html", count=dead)
    await engine.store.discard_letters(None)
    return page.to("/console/events")
