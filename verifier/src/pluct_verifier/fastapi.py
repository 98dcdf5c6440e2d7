"""FastAPI: `TicketRequired(verifier, app)` is a dependency whose value is the ticket."""

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.openapi.models import HTTPBearer
from fastapi.security.base import SecurityBase

from pluct_verifier.answers import answer, bearer
from pluct_verifier.tickets import Ticket, TicketRefused
from pluct_verifier.verifier import Verifier

__all__ = ["Depends", "Ticket", "TicketRequired", "Verifier"]


class _Refused(HTTPException):
    """Answered in full by an app that `TicketRequired` was given; by any other with `detail` alone."""

    def __init__(self, refused: TicketRefused) -> None:
        self.body, status, headers = answer(refused)
        super().__init__(status, str(refused), headers)


def _in_full(request: Request, refused: _Refused) -> Response:
    return Response(refused.body, refused.status_code, refused.headers)


class TicketRequired(SecurityBase):
    """Lets a request through only with a good ticket, and says so in the app's OpenAPI document."""

    def __init__(self, verifier: Verifier, app: FastAPI | None = None) -> None:
        self._verifier, self.model, self.scheme_name = verifier, HTTPBearer(bearerFormat="JWT"), "ticket"
        if app is not None:
            app.exception_handler(_Refused)(_in_full)

    async def __call__(self, request: Request) -> Ticket:
        """The request's ticket."""
        try:
            return await self._verifier.accept_async(bearer(request.headers.get("authorization")))
        except TicketRefused as refused:
            raise _Refused(refused) from refused
