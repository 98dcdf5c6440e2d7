"""A premium backend in FastAPI: `uvicorn examples.fastapi_backend:app`. Each ticket is redeemed at the engine."""

import os
from typing import Annotated

from fastapi import Depends, FastAPI

from pluct_verifier.fastapi import Ticket, TicketRequired, Verifier

app = FastAPI()
engine = Verifier.strict(engine=os.environ["ENGINE"], key=os.environ["SERVICE_KEY"], audience="premium")
paid = TicketRequired(engine, app)


@app.post("/transcribe")
def transcribe(ticket: Annotated[Ticket, Depends(paid)]) -> dict[str, str]:
    """Only with a ticket, which says who paid."""
    return {"user": ticket.user_id, "action": ticket.action, "text": "…"}
