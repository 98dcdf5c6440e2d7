"""The live log, for operators: Server-Sent Events of what is answered, as it is."""

from typing import Annotated

import msgspec
from msgspec import Meta

from pluct.engine import Engine
from pluct.live_log import Filter, LiveLog
from pluct.web.endpoint import Answer, Call, Handler

_Text = Annotated[str, Meta(min_length=1, max_length=200)] | None


class LogQuery(msgspec.Struct):
    """Which events: of a user, of a route, of an outcome (`ok`, `refused`, `failed`, or an error's code)."""

    user: _Text = None
    route: _Text = None
    outcome: _Text = None


def following(live: LiveLog) -> Handler:
    """The route that shows it."""

    async def follow(engine: Engine, call: Call) -> Answer:
        """Requests of all processes as they are answered, as Server-Sent Events."""
        query: LogQuery = call.query
        filter = Filter(query.user, query.route, query.outcome)
        live.require_room()
        stream = live.watch(filter)
        return Answer(None, content_type=b"text/event-stream", stream=stream)

    return follow
