"""A premium backend in FastAPI. Each ticket is redeemed at the engine, with a key that `pluct keys create` made:

ENGINE=http://127.0.0.1:8787 SERVICE_KEY=pluct_service_… uvicorn examples.fastapi_backend:app
"""

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
