"""How a backend is shown a ticket, and how it says no: what the adapters of all frameworks share."""

import json
from http import HTTPStatus

from pluct_verifier.tickets import TicketRefused


def bearer(authorization: str | None) -> str:
    """The token of an Authorization header (RFC 6750, section 2.1)."""
    scheme, _, token = (authorization or "").strip().partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise TicketRefused("ticket_missing")
    return token.strip()


def answer(refused: TicketRefused) -> tuple[bytes, int, dict[str, str]]:
    """A refusal as problem details (RFC 9457): body, status and headers."""
    sentence = str(refused)
    body = {
        "type": "about:blank", "title": HTTPStatus(refused.status).phrase, "status": refused.status,
        "detail": sentence, "code": refused.code, "message": sentence,
    }  # fmt: skip
    say = {"WWW-Authenticate": "Bearer"} if refused.status == 401 else {"Retry-After": "1"}
    return json.dumps(body).encode(), refused.status, {"Content-Type": "application/problem+json", **say}
