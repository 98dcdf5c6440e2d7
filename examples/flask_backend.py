"""A premium backend in Flask. Each ticket once on this machine, checked with the engine's own JWT_SECRET:

JWT_SECRET=… flask --app examples.flask_backend run
"""

import os

from flask import Flask, g

from pluct_verifier import SeenFile, Verifier
from pluct_verifier.flask import ticket_required

app = Flask(__name__)
once = Verifier.once(audience="premium", secret=os.environ["JWT_SECRET"], seen=SeenFile("seen.db"))


@app.post("/transcribe")
@ticket_required(once)
def transcribe() -> dict[str, str]:
    """Only with a ticket, which says who paid."""
    return {"user": g.ticket.user_id, "action": g.ticket.action, "text": "…"}
