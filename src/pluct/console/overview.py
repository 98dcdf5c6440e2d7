"""The first page: what needs attention now, and how things have gone."""

from starlette.responses import Response

from pluct.console.page import Page
from pluct.engine import Engine

#: Counted up to here; more is shown as "100+".
COUNT_MAX = 100


async def show(engine: Engine, page: Page) -> Response:
    """The overview."""
    unmatched = len(await engine.store.payments("unmatched", None, COUNT_MAX, None))
    review = len(await engine.store.payments("review", None, COUNT_MAX, None))
    disputed = len(await engine.store.payments("disputed", None, COUNT_MAX, None))
    return page.show("overview.html", unmatched=unmatched, review=review, disputed=disputed, count_max=COUNT_MAX)
