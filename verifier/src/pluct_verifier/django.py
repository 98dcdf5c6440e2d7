"""Django: `@ticket_required(verifier)` for a view, `ticket_middleware(verifier, "/premium/")` for all under a path.

Both leave the ticket in `request.ticket`, and take views of either colour.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest, HttpResponse
from django.utils.decorators import sync_and_async_middleware

from pluct_verifier.answers import answer, bearer
from pluct_verifier.calls import done
from pluct_verifier.tickets import TicketRefused
from pluct_verifier.verifier import Verifier

View = Callable[..., Any]


def ticket_required(verifier: Verifier, under: str = "") -> Callable[[View], View]:
    """Let a request through only with a good ticket, if its path begins with `under`."""

    async def refusal(request: HttpRequest, waiting: bool) -> Any:
        try:
            if request.path_info.startswith(under):
                token = bearer(request.headers.get("Authorization"))
                request.ticket = await verifier.accept_async(token) if waiting else verifier.accept(token)
        except TicketRefused as refused:
            body, status, headers = answer(refused)
            return HttpResponse(body, status=status, headers=headers)

    def guard(view: View) -> View:
        @wraps(view)
        def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            return done(refusal(request, False)) or view(request, *args, **kwargs)

        @wraps(view)
        async def guarded_async(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            return await refusal(request, True) or await view(request, *args, **kwargs)

        return guarded_async if iscoroutinefunction(view) else guarded

    return guard


def ticket_middleware(verifier: Verifier, under: str) -> Callable[[View], View]:
    """The same for all views under a path: name it in MIDDLEWARE, after whatever answers CORS preflights."""
    made: Callable[[View], View] = sync_and_async_middleware(ticket_required(verifier, under))
    return made
