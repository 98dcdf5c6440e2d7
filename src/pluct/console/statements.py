"""A user's statement, as it is sent: in English or Swahili, on the page and as text for SMS."""

from typing import cast, get_args

from starlette.responses import Response

from pluct.commands import text
from pluct.console.page import Page
from pluct.engine import Engine
from pluct.errors import InvalidRequest
from pluct.statements import Language, sms, statement

PAGE = 50
LANGUAGES: dict[str, str] = {"en": "English", "sw": "Kiswahili"}


async def show(engine: Engine, page: Page) -> Response:
    """A page of it."""
    user_id, language = text(page.query.get("user", ""), "The user id"), page.query.get("lang", "en")
    if language not in get_args(Language):
        raise InvalidRequest(f"There are statements in {', '.join(LANGUAGES.values())}.")
    wallet, entries, following = await engine.statement(user_id, PAGE, page.cursor)
    found = statement(wallet, entries, cast(Language, language))
    short, messages = sms(found)
    return page.show(
        "statement.html", user_id=user_id, language=language, languages=LANGUAGES, found=found, short=short,
        messages=messages, following=following,
    )  # fmt: skip
