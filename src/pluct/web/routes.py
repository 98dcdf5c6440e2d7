"""The table of all routes, and the ASGI application that serves it."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec
from starlette.routing import Route as StarletteRoute
from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send

from pluct import __version__
from pluct.engine import Engine
from pluct.errors import MethodNotAllowed, RouteNotFound
from pluct.web import seed, v1
from pluct.web.access import Access
from pluct.web.endpoint import Answer, Call, Endpoint, Route, problem

Lifespan = Callable[[Any], AbstractAsyncContextManager[None]]


async def _health(engine: Engine, call: Call) -> Answer:
    return Answer({"status": "ok", "version": __version__})


async def _ready(engine: Engine, call: Call) -> Answer:
    await engine.probe()
    return Answer({"status": "ok", "version": __version__})


async def _metrics(engine: Engine, call: Call) -> Answer:
    return Answer(engine.observer.metrics(), content_type=b"text/plain; version=0.0.4; charset=utf-8")


async def _jwks(engine: Engine, call: Call) -> Answer:
    return Answer(engine.signer.jwks(), headers=((b"cache-control", b"public, max-age=300"),))


def table(access: Access) -> list[Route]:
    """Every route with who may use it."""
    user, own, key = access.user, access.own, access.key
    ticket = "/v1/tickets/{id}"
    return [
        Route("POST", "/vend-token", "Spend a credit", seed.vend_token, user(), seed.VendBody, seed.VendAnswer, True, "user"),
        Route("POST", "/add-credits", "Grant bought credits", seed.add_credits, key("mint", "operator"), seed.AddBody, seed.AddAnswer, True, "mint"),
        Route("POST", "/v1/vend-token", "Spend credits on a ticket", v1.vend_token, user(), v1.VendBody, v1.VendAnswer, False, "user"),
        Route("GET", "/v1/credits/balance", "Look at a balance", v1.balance, user("service", "operator"), None, v1.BalanceAnswer, False, "user, service, operator"),
        Route("POST", "/v1/credits/add", "Grant credits", v1.add, key("mint", "operator"), v1.AddBody, v1.AddAnswer, False, "mint, operator"),
        Route("GET", "/v1/wallets/{userId}", "A wallet with its lots", v1.wallet, key("service", "operator"), None, v1.WalletAnswer, False, "service, operator"),
        Route("GET", "/v1/wallets/{userId}/entries", "A wallet's history", v1.entries, own("operator"), None, v1.HistoryAnswer, False, "user (own), operator"),
        Route("POST", "/v1/wallets/{userId}/adjustments", "Adjust a balance", v1.adjust, key("operator"), v1.AdjustBody, v1.EntryAnswer, False, "operator"),
        Route("POST", "/v1/tickets/redeem", "Redeem a ticket", v1.redeem, key("service"), v1.RedeemBody, v1.TicketAnswer, False, "service"),
        Route("GET", ticket, "One ticket", v1.ticket, key("service", "operator"), None, v1.TicketAnswer, False, "service, operator"),
        Route("POST", ticket + "/capture", "Capture a hold", v1.capture, key("service"), v1.CaptureBody, v1.TicketAnswer, False, "service"),
        Route("POST", ticket + "/void", "Give credits back", v1.void, key("service", "operator"), v1.VoidBody, v1.TicketAnswer, False, "service, operator"),
        Route("GET", "/.well-known/jwks.json", "Public keys", _jwks),
        Route("GET", "/health", "Alive", _health),
        Route("GET", "/health/live", "Alive", _health),
        Route("GET", "/health/ready", "Can commit", _ready),
        Route("GET", "/metrics", "Prometheus metrics", _metrics),
    ]  # fmt: skip


def openapi(routes: list[Route]) -> dict[str, Any]:
    """OpenAPI 3.1 of the table."""
    types = [t for route in routes for t in (route.body, route.answer) if t is not None]
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    schema = dict(zip(types, schemas, strict=True))
    paths: dict[str, Any] = {}
    for route in routes:
        names = [part[1:-1] for part in route.path.split("/") if part.startswith("{")]
        operation: dict[str, Any] = {
            "summary": route.summary,
            "description": f"For: {route.roles}.",
            "parameters": [{"name": n, "in": "path", "required": True, "schema": {"type": "string"}} for n in names],
            "responses": {
                "200": {"description": "Done."}
                | ({"content": {"application/json": {"schema": schema[route.answer]}}} if route.answer else {}),
                "default": {"description": "An error, with a sentence that says what to do."},
            },
        }
        if route.body is not None:
            operation["requestBody"] = {"content": {"application/json": {"schema": schema[route.body]}}}
        paths.setdefault(route.path, {})[route.method.lower()] = operation
    info = {"title": "Pluct Business Engine", "version": __version__}
    return {"openapi": "3.1.0", "info": info, "paths": paths, "components": {"schemas": components}}


def application(engine: Engine, access: Access, lifespan: Lifespan) -> ASGIApp:
    """The whole site. Fixed addresses are looked up; those with an id in them go through the router."""
    routes = table(access)
    described = openapi(routes)

    async def describe(engine: Engine, call: Call) -> Answer:
        return Answer(described)

    async def not_found(engine: Engine, call: Call) -> Answer:
        raise RouteNotFound

    routes.append(Route("GET", "/openapi.json", "This interface, for machines", describe))
    missing = Endpoint(Route("ANY", "(none)", "", not_found), engine, problem)
    methods: dict[str, dict[str, ASGIApp]] = {}
    for route in routes:
        endpoint = Endpoint(route, engine, seed.shape if route.seed else problem)
        methods.setdefault(route.path, {})[route.method] = endpoint
    fixed = {path: _by_method(found, path, engine) for path, found in methods.items() if "{" not in path}
    router = Router(
        [StarletteRoute(path, _by_method(found, path, engine)) for path, found in methods.items() if "{" in path],
        redirect_slashes=False, default=missing, lifespan=lifespan,
    )  # fmt: skip

    async def site(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            app = fixed.get(scope["path"])
            if app is not None:
                await app(scope, receive, send)
                return
            scope["path"] = scope["raw_path"].decode("latin-1")  # an id may have an escaped slash in it
        await router(scope, receive, send)

    return site


def _by_method(endpoints: dict[str, ASGIApp], path: str, engine: Engine) -> ASGIApp:
    async def refuse(engine: Engine, call: Call) -> Answer:
        answer = problem(MethodNotAllowed(f"{path} takes {' and '.join(endpoints)} only."), call)
        answer.headers = ((b"allow", ", ".join(endpoints).encode()),)
        return answer

    other = Endpoint(Route("ANY", path, "", refuse), engine, problem)

    class ByMethod:
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await endpoints.get(scope["method"], other)(scope, receive, send)

    return ByMethod()
