"""`GET /v1/statements/{userId}`: where a user's credits came from and went, in sentences."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from pluct.commands import text
from pluct.engine import PAGE_MAX, Engine
from pluct.statements import Language, Statement, sms, statement
from pluct.web import access
from pluct.web.endpoint import Answer, Call
from pluct.web.v1 import rfc3339


class StatementQuery(msgspec.Struct):
    """In which language and form, and which page."""

    lang: Language = "en"
    format: Literal["json", "text"] = "json"
    limit: Annotated[int, Meta(ge=1, le=PAGE_MAX)] = 50
    cursor: str | None = None


class LineAnswer(msgspec.Struct, rename="camel", omit_defaults=True):
    """One change of the wallet, in a sentence."""

    at: str
    number: int
    sentence: str
    reference: str | None = None
    ticket_id: str | None = None


class StatementAnswer(msgspec.Struct, rename="camel", omit_defaults=True):
    """What a user has, and how that came about, newest first; `text` is the same for SMS, in `messages` messages."""

    user_id: str
    lang: str
    summary: str
    lines: list[LineAnswer]
    text: str
    messages: int
    request_id: str
    next_cursor: str | None = None


async def show(engine: Engine, call: Call) -> Answer:
    """A page of a user's statement; an unknown user's says that nothing happened yet."""
    user = access.user_id(call, call.path["userId"])
    query: StatementQuery = call.query
    cursor = None if query.cursor is None else text(query.cursor, "cursor")
    wallet, page, following = await engine.statement(user, query.limit, cursor)
    answer = statement_answer(user, statement(wallet, page, query.lang), following, call.request_id)
    if query.format == "json":
        return Answer(answer)
    count = (b"x-sms-messages", str(answer.messages).encode())
    return Answer(answer.text.encode(), content_type=b"text/plain; charset=utf-8", headers=(count,))


def statement_answer(user: str, found: Statement, next_cursor: str | None, request_id: str) -> StatementAnswer:
    """A statement as it is shown."""
    lines = [LineAnswer(rfc3339(e.at), e.number, e.sentence, e.reference, e.ticket_id) for e in found.lines]
    short, messages = sms(found)
    return StatementAnswer(user, found.language, found.summary, lines, short, messages, request_id, next_cursor)
