"""Payments: what came in, what it became, and what waits for somebody to decide."""

from typing import cast, get_args

from starlette.responses import Response

from pluct.commands import text
from pluct.console.page import Page
from pluct.engine import Engine
from pluct.errors import InvalidRequest, PaymentNotFound
from pluct.model import PaymentState

PAGE = 25
STATES: tuple[str, ...] = get_args(PaymentState)


async def find(engine: Engine, page: Page) -> Response:
    """Payments, newest first, of one state if that is asked for."""
    state, cursor = page.query.get("state") or None, page.query.get("cursor")
    if state is not None and state not in STATES:
        raise InvalidRequest(f"There are no such payments; look for {', '.join(STATES)}.")
    found = await engine.store.payments(cast(PaymentState | None, state), None, PAGE + 1, cursor)
    following = found[PAGE].id if len(found) > PAGE else None
    return page.show("payments.html", state=state, states=STATES, found=found[:PAGE], following=following)


async def show(engine: Engine, page: Page) -> Response:
    """One payment with everything that was said of it."""
    payment = await engine.store.payment(text(page.query.get("id", ""), "The payment's id"))
    if payment is None:
        raise PaymentNotFound
    events = await engine.store.payment_events([payment.id])
    return page.show("payment.html", payment=payment, events=events)
