"""Events out, for operators: what was told to whom, and telling it again."""

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from pluct import deliveries
from pluct.commands import text
from pluct.engine import PAGE_MAX, Engine
from pluct.model import Letter, LetterState
from pluct.web.endpoint import Answer, Call, Handler
from pluct.web.v1 import rfc3339


class EventsQuery(msgspec.Struct):
    """Which events: in a state; at most `limit`, from `cursor` on."""

    state: LetterState | None = None
    limit: Annotated[int, Meta(ge=1, le=PAGE_MAX)] = 50
    cursor: str | None = None


class SentEventAnswer(msgspec.Struct, rename="camel", omit_defaults=True):
    """An event on its way to one address; `nextTryAt` while it waits, `answer` is what came of the last try."""

    id: str
    type: str
    url: str
    at: str
    state: LetterState
    tries: int
    content: msgspec.Raw
    user_id: str | None = None
    next_try_at: str | None = None
    answer: str | None = None
    request_id: str | None = None


class SentEventsAnswer(msgspec.Struct, rename="camel", omit_defaults=True):
    """A page of events, newest first."""

    events: list[SentEventAnswer]
    request_id: str
    next_cursor: str | None = None


async def events(engine: Engine, call: Call) -> Answer:
    """Events and what became of them, newest first."""
    query: EventsQuery = call.query
    cursor = None if query.cursor is None else text(query.cursor, "cursor")
    found, following = await deliveries.page(engine.store, query.state, query.limit, cursor)
    return Answer(SentEventsAnswer([shown(letter) for letter in found], call.request_id, following))


def replaying(clock: Callable[[], int]) -> Handler:
    """The route that has an event delivered again."""

    async def replay(engine: Engine, call: Call) -> Answer:
        """Deliver an event again that was delivered, or that is dead."""
        letter = await deliveries.replay(engine.store, text(call.path["id"], "id"), clock())
        return Answer(msgspec.structs.replace(shown(letter), request_id=call.request_id))

    return replay


def shown(letter: Letter) -> SentEventAnswer:
    """An event as it is answered."""
    content: Any = msgspec.Raw(letter.content.encode())
    return SentEventAnswer(
        letter.id, letter.kind, letter.url, rfc3339(letter.at), letter.state, letter.tries, content,
        letter.user_id or None, rfc3339(letter.due_at) if letter.state == "pending" else None, letter.answer or None,
    )  # fmt: skip
