"""Checks the tickets of a Pluct Business Engine: alone, each once, or at the engine itself.

Start with `Verifier`. Beside it are adapters for FastAPI, Starlette, Django and Flask, each imported by its own name.
"""

from pluct_verifier.seen import SeenFile, SeenMemory, SeenRedis
from pluct_verifier.tickets import Ticket, TicketRefused
from pluct_verifier.verifier import Settlement, StrictVerifier, Verifier

__all__ = [
    "SeenFile", "SeenMemory", "SeenRedis", "Settlement", "StrictVerifier", "Ticket", "TicketRefused", "Verifier",
]  # fmt: skip
