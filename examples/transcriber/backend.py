"""A premium backend that transcribes nothing, but behaves as one that does: it takes seconds, and it may fail.

A recording is handed in with a ticket. The ticket is redeemed before any work is done, captured for the minutes that
were used once it is, and voided if it failed. `uvicorn examples.transcriber.backend:app`, with ENGINE and SERVICE_KEY.
"""

import asyncio
import os
import uuid
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, status
from pydantic import BaseModel, Field

from pluct_verifier.fastapi import Ticket, TicketRequired, Verifier

WORK_SECONDS = float(os.environ.get("WORK_SECONDS", "2"))

app = FastAPI(title="Transcriber")
engine = Verifier.strict(engine=os.environ["ENGINE"], key=os.environ["SERVICE_KEY"], audience="transcriber")
paid = TicketRequired(engine, app)
jobs: dict[str, dict[str, Any]] = {}
working: set[asyncio.Task[None]] = set()


class Recording(BaseModel):
    """What is to be transcribed. One that is called noise cannot be."""

    name: str = Field(max_length=200)
    minutes: int = Field(ge=1, le=30)


@app.post("/transcriptions", status_code=status.HTTP_202_ACCEPTED)
async def submit(recording: Recording, ticket: Annotated[Ticket, Depends(paid)]) -> dict[str, Any]:
    """Begin, for whoever holds the ticket; ask for the job later."""
    job = {"id": str(uuid.uuid4()), "user": ticket.user_id, "state": "working"}
    jobs[job["id"]] = job
    task = asyncio.create_task(transcribe(job, recording, ticket))
    working.add(task)
    task.add_done_callback(working.discard)
    return job


@app.get("/transcriptions/{job_id}")
async def show(job_id: str) -> dict[str, Any]:
    """How far a job is."""
    if job_id not in jobs:
        raise HTTPException(status.HTTP_404_NOT_FOUND, "There is no such job.")
    return jobs[job_id]


async def transcribe(job: dict[str, Any], recording: Recording, ticket: Ticket) -> None:
    """The work, and the report on it: without one the engine gives the credits back by itself."""
    await asyncio.sleep(WORK_SECONDS)
    if "noise" in recording.name:
        settled = await engine.void_async(ticket, "Nothing could be understood.")
        job |= {"state": "failed", "why": "Nothing could be understood."}
    else:
        used = min(recording.minutes, ticket.cost)
        settled = await engine.capture_async(ticket, used)
        job |= {"state": "done", "text": f"What is said in {recording.name}.", "minutes": used}
    job |= {"captured": settled.captured, "returned": settled.returned}
