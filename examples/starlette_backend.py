"""A premium backend in Starlette. Each ticket once, by Redis and the keys of an engine with PLUCT_SIGNING=EdDSA:

JWKS_URL=http://127.0.0.1:8787/.well-known/jwks.json REDIS_URL=… uvicorn examples.starlette_backend:app
"""

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
