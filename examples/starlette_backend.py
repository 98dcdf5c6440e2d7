"""A premium backend in Starlette: `uvicorn examples.starlette_backend:app`. Each ticket once, by key set and Redis."""

import os

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from pluct_verifier import SeenRedis, Verifier
from pluct_verifier.starlette import ticket_required

once = Verifier.once(audience="premium", jwks_url=os.environ["JWKS_URL"], seen=SeenRedis(os.environ["REDIS_URL"]))


@ticket_required(once)
async def transcribe(request: Request) -> JSONResponse:
    """Only with a ticket, which says who paid."""
    ticket = request.state.ticket
    return JSONResponse({"user": ticket.user_id, "action": ticket.action, "text": "…"})


app = Starlette(routes=[Route("/transcribe", transcribe, methods=["POST"])])
