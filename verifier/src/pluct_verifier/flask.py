"""Flask: `@ticket_required(verifier)` under the route's decorator; the view finds the ticket in `flask.g.ticket`."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from flask import Response, current_app, g, request

from pluct_verifier.answers import answer, bearer
from pluct_verifier.tickets import TicketRefused
from pluct_verifier.verifier import Verifier

P = ParamSpec("P")
T = TypeVar("T")


def ticket_required(verifier: Verifier) -> Callable[[Callable[P, T]], Callable[P, T | Response]]:
    """Let a request through only with a good ticket."""

    def guard(view: Callable[P, T]) -> Callable[P, T | Response]:
        @wraps(view)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> T | Response:
            try:
                g.ticket = verifier.accept(bearer(request.headers.get("Authorization")))
            except TicketRefused as refused:
                return Response(*answer(refused))
            found: T = current_app.ensure_sync(view)(*args, **kwargs)
            return found

        return guarded

    return guard
