"""Tickets: one by its id, what became of it, and giving its credits back."""

from starlette.responses import Response

from pluct.commands import once, text
from pluct.console.page import Page
from pluct.engine import Engine


async def find(engine: Engine, page: Page) -> Response:
    """Ask for a ticket's id."""
    return page.show("tickets.html")


async def show(engine: Engine, page: Page) -> Response:
    """One ticket."""
    ticket = await engine.ticket(text(page.query.get("id", "").strip(), "The ticket's id"))
    return page.show("ticket.html", ticket=ticket, done="done" in page.query)


async def void(engine: Engine, page: Page) -> Response:
    """Give a ticket's credits back: a refund, if they were captured. Looked at first, then done."""
    ticket = await engine.ticket(text(page.field("ticket"), "The ticket's id"))
    reason = text(page.field("reason"), "Reason")
    if "confirmed" not in page.form:
        wallet = await engine.balance(ticket.user_id)
        return page.show("void.html", ticket=ticket, wallet=wallet, reason=reason, back=ticket.cost - ticket.returned)
    actor = page.signed_in.actor
    claim = once("console void", actor, page.field("once"), ticket.id, reason)
    await engine.void(ticket.id, reason, actor, claim)
    return page.to("/console/ticket", id=ticket.id, done=1)
