"""The console as an ASGI application: its routes, and the one way in that all its pages share."""

import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from pluct.cashier import Cashier
from pluct.console import (
    events,
    health,
    keys,
    log,
    overview,
    payments,
    reconcile,
    signing_keys,
    statements,
    tickets,
    users,
)  # fmt: skip
from pluct.console.page import (
    HEADERS,
    Handler,
    Page,
    chart_library,
    iso,
    read_form,
    render,
    require_same_site,
    static,
)  # fmt: skip
from pluct.console.sessions import SECONDS_MAX, Sessions
from pluct.engine import Engine
from pluct.errors import Fault, Forbidden, MethodNotAllowed, PluctError, RouteNotFound
from pluct.live_log import LiveLog
from pluct.observe import Event
from pluct.web.address import client_address

logger = logging.getLogger("pluct.console")

COOKIE = "pluct_console"
#: Every page of somebody who is signed in: address, handler, and whether it may change something.
PAGES: Sequence[tuple[str, str, Handler]] = [
    ("GET", "/console", overview.show),
    ("GET", "/console/users", users.find),
    ("GET", "/console/user", users.show),
    ("POST", "/console/user/grant", users.grant),
    ("POST", "/console/user/adjust", users.adjust),
    ("GET", "/console/statement", statements.show),
    ("GET", "/console/tickets", tickets.find),
    ("GET", "/console/ticket", tickets.show),
    ("POST", "/console/ticket/void", tickets.void),
    ("GET", "/console/payments", payments.find),
    ("GET", "/console/payment", payments.show),
    ("POST", "/console/payment/assign", payments.assign),
    ("POST", "/console/payment/write-off", payments.write_off),
    ("GET", "/console/requests", payments.requests),
    ("GET", "/console/keys", keys.show),
    ("POST", "/console/keys/create", keys.create),
    ("POST", "/console/keys/revoke", keys.revoke),
    ("GET", "/console/signing-keys", signing_keys.show),
    ("POST", "/console/signing-keys/rotate", signing_keys.rotate),
    ("POST", "/console/signing-keys/retire", signing_keys.retire),
    ("GET", "/console/reconcile", reconcile.ask),
    ("POST", "/console/reconcile", reconcile.compare),
    ("GET", "/console/log", log.show),
    ("GET", "/console/events", events.find),
    ("POST", "/console/events/replay", events.replay),
    ("POST", "/console/events/replay-dead", events.replay_dead),
    ("POST", "/console/events/discard-dead", events.discard_dead),
    ("GET", "/console/health", health.show),
]
_STATIC = {
    "console.css": "text/css; charset=utf-8",
    "console.js": "text/javascript; charset=utf-8",
    "charts.js": "text/javascript; charset=utf-8",
    "log.js": "text/javascript; charset=utf-8",
}


class Console:
    """The pages over an engine and its cashier. `secure` keeps the cookie to https, as production does."""

    def __init__(
        self, engine: Engine, cashier: Cashier, live: LiveLog, clock: Callable[[], int], proxy_hops: int,
        facts: Mapping[str, str], *, secure: bool,
    ) -> None:  # fmt: skip
        self._engine, self._cashier, self._live, self._facts = engine, cashier, live, facts
        self._proxy_hops, self._secure = proxy_hops, secure
        self._sessions = Sessions(engine, clock)

    def application(self) -> ASGIApp:
        """The pages, and an error page at every other address."""
        routes = [
            self._route("/console/sign-in", self._sign_in, "GET", "POST"),
            self._route("/console/sign-out", self._sign_out, "POST"),
            *(Route(f"/console/static/{name}", _file(name, kind)) for name, kind in _STATIC.items()),
            Route("/console/static/chart.js", _compressed(chart_library())),
            self._route("/console/log/stream", self._inside(log.stream), "GET"),
            *(self._route(path, self._inside(handle), method) for method, path, handle in PAGES),
        ]
        pages, methods = Router(routes, redirect_slashes=False), dict[str, set[str]]()
        for route in routes:
            methods.setdefault(route.path, set()).update(route.methods or ())

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            allowed = methods.get(scope["path"], set())
            if scope["method"] in allowed:
                return await pages(scope, receive, send)
            answer = await self._observed("(none)", self._nothing_there(allowed))(Request(scope, receive))
            await answer(scope, receive, send)

        return application

    def _route(self, path: str, endpoint: Callable[[Request], Awaitable[Response]], *methods: str) -> Route:
        return Route(path, self._observed(path, endpoint), methods=list(methods))

    def _observed(
        self, path: str, endpoint: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """A page, logged and counted like every other request, with the key of whoever asked."""

        async def observed(request: Request) -> Response:
            started, id = time.perf_counter(), secrets.token_hex(8)
            request.state.code = request.state.key = None
            answer = await endpoint(request)
            answer.headers["x-request-id"] = id
            self._engine.observer.request(
                Event(
                    iso(self._engine.now()), id, request.method, path, answer.status_code,
                    round((time.perf_counter() - started) * 1000, 3), request.state.code, caller=request.state.key,
                )
            )  # fmt: skip
            return answer

        return observed

    def _nothing_there(self, allowed: set[str]) -> Callable[[Request], Awaitable[Response]]:
        """What an address shows that is no page, or not with this method."""

        async def endpoint(request: Request) -> Response:
            if request.url.path == "/console/" and request.method in ("GET", "HEAD"):
                return RedirectResponse("/console", 307, headers=HEADERS)
            try:
                signed_in = await self._sessions.of(request.cookies.get(COOKIE))
            except PluctError:  # the page needs nobody
                signed_in = None
            if not allowed:
                missing = RouteNotFound("The console has no page at this address.")
                return _refused(request, signed_in, missing, "Page not found")
            names = ", ".join(sorted(allowed))
            sentence = "This address takes only what a form of the console sends; open the page that has the form."
            error = MethodNotAllowed(sentence if allowed == {"POST"} else f"This address takes {names} only.")
            answer = _refused(request, signed_in, error)
            answer.headers["allow"] = names
            return answer

        return endpoint

    async def _sign_in(self, request: Request) -> Response:
        """Show an operator's key, once."""
        if request.method == "GET":
            return render("sign-in.html", problem=None)
        try:
            require_same_site(request)
            form, _ = await read_form(request)
            address = client_address(request.scope, self._proxy_hops)
            signed_in = await self._sessions.sign_in(form.get("key", ""), address)
        except PluctError as error:
            request.state.code = error.code
            return render("sign-in.html", error.status, problem=error.sentence)
        request.state.key = signed_in.key.id
        answer = RedirectResponse("/console", 303, headers=HEADERS)
        answer.set_cookie(
            COOKIE, signed_in.cookie, SECONDS_MAX, path="/console", secure=self._secure, httponly=True,
            samesite="strict",
        )  # fmt: skip
        return answer

    async def _sign_out(self, request: Request) -> Response:
        signed_in = await self._sessions.of(request.cookies.get(COOKIE))
        if signed_in is not None:
            require_same_site(request)
            await self._sessions.sign_out(signed_in)
        answer = RedirectResponse("/console/sign-in", 303, headers=HEADERS)
        answer.delete_cookie(COOKIE, path="/console", secure=self._secure, httponly=True, samesite="strict")
        return answer

    def _inside(self, handle: Handler) -> Callable[[Request], Awaitable[Response]]:
        """A page for whoever is signed in; everybody else is asked to."""

        async def endpoint(request: Request) -> Response:
            async def still_signed_in() -> bool:
                return await self._sessions.of(request.cookies.get(COOKIE)) is not None

            signed_in, file = None, None
            form: dict[str, str] = {}
            try:
                signed_in = await self._sessions.of(request.cookies.get(COOKIE))
                if signed_in is None:
                    return RedirectResponse("/console/sign-in", 303, headers=HEADERS)
                request.state.key = signed_in.key.id
                if request.method == "POST":
                    require_same_site(request)
                    form, file = await read_form(request)
                    if not signed_in.sent(form.get("form_token", "")):
                        raise Forbidden("This form is of an earlier session; go back, reload the page and try again.")
                page = Page(request, signed_in, form, file, self._cashier, self._live, self._facts, still_signed_in)
                return await handle(self._engine, page)
            except PluctError as error:
                return _refused(request, signed_in, error)
            except Exception:
                logger.exception("the console's %s failed", request.url.path)
                return _refused(request, signed_in, Fault())
            finally:
                if file is not None:
                    file.close()

        return endpoint


def _refused(request: Request, signed_in: object, error: PluctError, title: str | None = None) -> Response:
    request.state.code = error.code
    return render(
        "refused.html", error.status, signed_in=signed_in, path=request.url.path, title=title or error.title,
        problem=error.sentence,
    )  # fmt: skip


def _file(name: str, kind: str) -> Callable[[Request], "object"]:
    content = static(name)

    async def endpoint(request: Request) -> Response:
        return Response(content, 200, HEADERS | {"cache-control": "no-cache"}, kind)

    return endpoint


def _compressed(content: bytes) -> Callable[[Request], "object"]:
    """A library, which changes with releases only. There is no browser that takes no gzip."""
    headers = HEADERS | {"cache-control": "private, max-age=86400", "content-encoding": "gzip"}

    async def endpoint(request: Request) -> Response:
        return Response(content, 200, headers, "text/javascript; charset=utf-8")

    return endpoint
