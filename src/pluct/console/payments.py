"""Payments: what came in, what it became, and what waits for somebody to decide."""

from typing import cast, get_args

from starlette.responses import Response

from pluct.commands import text
from pluct.console.page import Page
from pluct.engine import Engine
from pluct.errors import InvalidRequest
from pluct.model import PaymentState

PAGE = 25
STATES: tuple[str, ...] = get_args(PaymentState)


async def find(engine: Engine, page: Page) -> Response:
    """Payments, newest first, of one state if that is asked for."""
    state = page.query.get("state") or None
    if state is not None and state not in STATES:
        raise InvalidRequest(f"There are no such payments; look for {', '.join(STATES)}.")
    found, following = await page.cashier.payments_page(cast(PaymentState | None, state), None, PAGE, page.cursor)
    return page.show("payments.html", state=state, states=STATES, found=found, following=following)


async def show(engine: Engine, page: Page) -> Response:
    """One payment with everything that was said of it."""
    payment, events = await page.cashier.payment(text(page.query.get("id", ""), "The payment's id"))
    suggestions = await page.cashier.suggestions(payment) if payment.state in ("unmatched", "review") else {}
    chosen = page.query.get("user") or (next(iter(suggestions)) if len(suggestions) == 1 else "")
    return page.show(
        "payment.html", payment=payment, events=events, done="done" in page.query, suggestions=suggestions,
        chosen=chosen,
    )  # fmt: skip


async def assign(engine: Engine, page: Page) -> Response:
    """Credit a payment to a user, by the price list. Looked at first, then done."""
    payment, _ = await page.cashier.payment(text(page.field("payment"), "The payment's id"))
    user_id, reason = text(page.field("user"), "The user id"), text(page.field("reason"), "Reason")
    if "confirmed" not in page.form:
        wallet = await engine.balance(user_id)
        return page.show("settle.html", payment=payment, verb="assign", wallet=wallet, reason=reason)
    await page.cashier.assign(payment.id, user_id, reason, page.signed_in.actor)
    return page.to("/console/payment", id=payment.id, done=1)


async def write_off(engine: Engine, page: Page) -> Response:
    """Say that a payment will be nobody's. Looked at first, then done."""
    payment, _ = await page.cashier.payment(text(page.field("payment"), "The payment's id"))
    reason = text(page.field("reason"), "Reason")
    if "confirmed" not in page.form:
        return page.show("settle.html", payment=payment, verb="write-off", wallet=None, reason=reason)
    await page.cashier.write_off(payment.id, reason, page.signed_in.actor)
    return page.to("/console/payment", id=payment.id, done=1)


async def requests(engine: Engine, page: Page) -> Response:
    """What users said they had paid and what was not credited at once."""
    found, following = await page.cashier.requests(PAGE, page.cursor)
    return page.show("requests.html", found=found, following=following)
