"""Starlette: `@ticket_required(verifier)` above an endpoint, which finds the ticket in `request.state.ticket`."""

from collections.abc import Awaitable, Callable
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from pluct_verifier.answers import answer, bearer
from pluct_verifier.tickets import TicketRefused
from pluct_verifier.verifier import Verifier

Endpoint = Callable[[Request], Awaitable[Response]]


def ticket_required(verifier: Verifier) -> Callable[[Callable[[Request], Any]], Endpoint]:
    """Let a request through only with a good ticket."""

    def guard(endpoint: Callable[[Request], Any]) -> Endpoint:
        @wraps(endpoint)
        async def guarded(request: Request) -> Response:
            try:
                request.state.ticket = await verifier.accept_async(bearer(request.headers.get("authorization")))
            except TicketRefused as refused:
                return Response(*answer(refused))
            found: Response = await (
                endpoint(request) if iscoroutinefunction(endpoint) else run_in_threadpool(endpoint, request)
            )
            return found

        return guarded

    return guard
