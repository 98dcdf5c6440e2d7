"""The table of all routes with who may use each, and the ASGI application that serves it."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from starlette.routing import Route as StarletteRoute
from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send

from pluct.cashier import Cashier
from pluct.engine import Engine
from pluct.errors import MethodNotAllowed
from pluct.identity import Identity
from pluct.live_log import LiveLog
from pluct.web import analytics, backend, batch, docs, events, hooks, log, payments, seed, statements, users, v1
from pluct.web.access import Access
from pluct.web.endpoint import Answer, Call, Door, Endpoint, Route
from pluct.web.openapi import openapi
from pluct.web.problems import problem

Lifespan = Callable[[Any], AbstractAsyncContextManager[None]]


def table(
    access: Access, cashier: Cashier, identity: Identity, live: LiveLog, proxy_hops: int, clock: Callable[[], int]
) -> list[Route]:
    """Every route: method, path, handler, who may, how it refuses, then what it answers, takes as body and as query."""
    user, own, key = access.user, access.own, access.key
    balance, ticket = "/v1/credits/balance", "/v1/tickets/{id}"
    wallet, history = "/v1/wallets/{userId}", "/v1/wallets/{userId}/entries"
    staff = key("service", "operator")
    money, payment, operator = payments.Payments(cashier), "/v1/payments/{id}", key("operator")
    who, user_path = users.Users(identity, proxy_hops), "/v1/users/{userId}"
    return [
        Route("POST", "/vend-token", seed.vend_token, user(), seed.shape, seed.SeedVendAnswer, seed.SeedVendBody),
        Route("POST", "/add-credits", seed.add_credits, key("mint"), seed.shape, seed.SeedAddAnswer, seed.SeedAddBody),
        Route("POST", "/v1/vend-token", v1.vend_token, user(), problem, v1.VendAnswer, v1.VendBody),
        Route("GET", balance, v1.balance, user(*staff.roles), problem, v1.BalanceAnswer, None, v1.BalanceQuery),
        Route("POST", "/v1/credits/add", v1.add, key("mint", "operator"), problem, v1.AddAnswer, v1.AddBody),
        Route("GET", wallet, v1.wallet, staff, problem, v1.WalletAnswer),
        Route("GET", history, v1.entries, own("operator"), problem, v1.HistoryAnswer, None, v1.HistoryQuery),
        Route("POST", wallet + "/adjustments", v1.adjust, key("operator"), problem, v1.EntryAnswer, v1.AdjustBody),
        Route("POST", "/v1/tickets/redeem", v1.redeem, key("service"), problem, v1.TicketAnswer, v1.RedeemBody),
        Route("POST", "/v1/tickets/batch", batch.batch, key("service"), problem, batch.BatchAnswer, batch.BatchBody),
        Route("GET", ticket, v1.ticket, staff, problem, v1.TicketAnswer),
        Route("POST", ticket + "/capture", v1.capture, key("service"), problem, v1.TicketAnswer, v1.CaptureBody),
        Route("POST", ticket + "/void", v1.void, staff, problem, v1.TicketAnswer, v1.VoidBody),
        Route(
            "GET", "/v1/statements/{userId}", statements.show, own("operator"), problem, statements.StatementAnswer,
            None, statements.StatementQuery, text="text/plain",
        ),
        Route("GET", "/v1/packs", money.packs, None, problem, payments.PacksAnswer),
        Route(
            "POST", "/v1/checkouts", money.buy, user(), problem, payments.CheckoutAnswer, payments.CheckoutBody,
            status=201,
        ),
        Route("GET", "/v1/checkouts/{id}", money.checkout, user("operator"), problem, payments.CheckoutAnswer),
        Route(
            "POST", "/v1/credits/request", money.request, user(), problem, payments.RequestAnswer, payments.RequestBody
        ),
        Route(
            "GET", "/v1/credits/requests", money.requests, operator, problem, payments.RequestsAnswer, None,
            payments.RequestsQuery,
        ),
        Route(
            "GET", "/v1/payments", money.payments, operator, problem, payments.PaymentsAnswer, None,
            payments.PaymentsQuery,
        ),
        Route("GET", payment, money.payment, operator, problem, payments.PaymentAnswer),
        Route(
            "POST", payment + "/assign", money.assign, operator, problem, payments.PaymentAnswer, payments.AssignBody
        ),
        Route(
            "POST", payment + "/write-off", money.write_off, operator, problem, payments.PaymentAnswer,
            payments.WriteOffBody,
        ),
        *_watching(operator, live, clock),
        Route("POST", "/v1/users", who.register, None, problem, users.PairAnswer, status=201),
        Route("POST", "/v1/users/token", who.refresh, None, problem, users.PairAnswer, users.RefreshBody),
        Route("POST", user_path + "/token", who.token, key("service"), problem, users.TokenAnswer),
        Route("POST", user_path + "/revoke", who.revoke, staff, problem, users.RevokedAnswer),
        Route("GET", "/.well-known/jwks.json", backend.jwks, None, problem, backend.JwksAnswer),
        Route("GET", "/health", backend.health, None, problem, backend.HealthAnswer),
        Route("GET", "/health/live", backend.health, None, problem, backend.HealthAnswer),
        Route("GET", "/health/ready", backend.ready, None, problem, backend.HealthAnswer),
        Route("GET", "/metrics", backend.metrics, None, problem, text="text/plain"),
    ]  # fmt: skip


def _watching(operator: Door, live: LiveLog, clock: Callable[[], int]) -> list[Route]:
    """What operators see of the engine at work."""
    return [
        Route(
            "GET", "/v1/analytics", analytics.show, operator, problem, analytics.AnalyticsAnswer, None,
            analytics.AnalyticsQuery,
        ),
        Route(
            "GET", "/v1/log", log.following(live), operator, problem, None, None, log.LogQuery,
            text="text/event-stream",
        ),
        Route(
            "GET", "/v1/events", events.events, operator, problem, events.SentEventsAnswer, None, events.EventsQuery,
        ),
        Route("POST", "/v1/events/{id}/replay", events.replaying(clock), operator, problem, events.SentEventAnswer),
    ]  # fmt: skip


def application(
    engine: Engine, access: Access, lifespan: Lifespan, cashier: Cashier, identity: Identity, live: LiveLog,
    proxy_hops: int, console: ASGIApp, clock: Callable[[], int],
) -> ASGIApp:  # fmt: skip
    """The whole site, the console beside the routes.

    Fixed addresses are looked up; those with an id in them go through Starlette's router.
    """
    routes = table(access, cashier, identity, live, proxy_hops, clock) + hooks.routes(cashier, proxy_hops)
    routes += docs.routes(openapi(routes))
    by_path: dict[str, list[Route]] = {}
    for route in routes:
        by_path.setdefault(route.path, []).append(route)
    fixed = {path: _at_one_path(found, engine) for path, found in by_path.items() if "{" not in path}
    missing = Endpoint(Route("ANY", "(none)", backend.not_found, None, problem), engine)
    below: dict[str, list[StarletteRoute]] = {}  # the others by how they begin: nobody is matched with all of them
    for path, found in by_path.items():
        if "{" in path:
            below.setdefault(_beginning(path), []).append(StarletteRoute(path, _at_one_path(found, engine)))
    routers = {beginning: Router(some, redirect_slashes=False, default=missing) for beginning, some in below.items()}
    rest = Router([], redirect_slashes=False, default=missing, lifespan=lifespan)
    to_docs = Endpoint(Route("GET", "(none)", docs.lead, None, problem), engine)

    def site(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "http":
            app = fixed.get(scope["path"])
            if app is not None:
                return app(scope, receive, send)
            if scope["path"] == "/console" or scope["path"].startswith("/console/"):
                return console(scope, receive, send)
            if scope["path"] in ("/", "/docs/") and scope["method"] == "GET" and docs.is_browser(scope):
                return to_docs(scope, receive, send)
            path = scope["path"] = scope["raw_path"].decode("latin-1")  # an id may have an escaped slash in it
            return routers.get(_beginning(path), rest)(scope, receive, send)
        return rest(scope, receive, send)

    return site


def _beginning(path: str) -> str:
    """Two parts of a path, before any id."""
    return "/".join(path.split("/", 3)[:3])


class _AtOnePath:
    """The endpoints of one path, by method. A class, because the router takes a function for something else."""

    def __init__(self, endpoints: dict[str, Endpoint], other: Endpoint) -> None:
        self._endpoints, self._other = endpoints, other

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        return self._endpoints.get(scope["method"], self._other)(scope, receive, send)


def _at_one_path(routes: list[Route], engine: Engine) -> _AtOnePath:
    endpoints = {route.method: Endpoint(route, engine) for route in routes}
    methods = " and ".join(endpoints)
    if "GET" in endpoints:
        endpoints["HEAD"] = endpoints["GET"]  # the server leaves the body out
    first = routes[0]

    async def refuse(engine: Engine, call: Call) -> Answer:
        answer = first.shape(MethodNotAllowed(f"{first.path} takes {methods} only."), call)
        answer.headers = ((b"allow", ", ".join(endpoints).encode()),)
        return answer

    return _AtOnePath(endpoints, Endpoint(Route("ANY", first.path, refuse, None, first.shape), engine))
