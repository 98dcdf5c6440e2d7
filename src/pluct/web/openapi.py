"""The routes as OpenAPI 3.1, generated from their table and the types of what they take and answer."""

from typing import Any

import msgspec

from pluct import __version__
from pluct.errors import Fault, PluctError, Refusal
from pluct.web.endpoint import Handler, Route
from pluct.web.problems import Problem, problem

_REF = "#/components/schemas/{name}"
_TEXT = {"type": "string", "minLength": 1, "maxLength": 200}
_PURPOSE = (
    "Sell premium actions for prepaid credits. A payment grants credits to a user's wallet, the app spends them on a "
    "ticket (a short-lived, single-use token), and your premium backend redeems the ticket without ever seeing "
    "payments or balances."
)
_SECURITY_SCHEMES = {
    "webhookSecret": {"type": "apiKey", "in": "header", "name": "x-webhook-secret", "description": "Webhook secret"},
    "apiKey": {"type": "http", "scheme": "bearer", "description": "API key"},
    "apiKeyHeader": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "API key, the other way"},
    "userToken": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "User token"},
}
_GROUPS = {  # in the order they are shown
    "The front door": "The two routes an app and a payment webhook need: spend a credit, and grant credits.",
    "Credits and tickets": "The same with more to say, and what backends and support need.",
    "Payments": "Buying packs of credits, and what support does about money that did not fit.",
    "Users": "Tokens that say who a user is, and statements of what they had.",
    "Operators": "What the engine has done, and is doing.",
    "Gateways": "Where payment gateways report. Only they can: what they send is signed, or its address is secret.",
    "Machines": "What monitoring asks, and whoever checks tickets by themselves.",
}
_GROUP_OF = {  # the handlers' modules
    "seed": "The front door", "v1": "Credits and tickets", "batch": "Credits and tickets", "payments": "Payments",
    "users": "Users", "statements": "Users", "analytics": "Operators", "log": "Operators", "events": "Operators",
    "hooks": "Gateways", "backend": "Machines",
}  # fmt: skip
_EXAMPLES = {
    "SeedVendBody": {"userId": "test-user-1"},
    "SeedAddBody": {"userId": "test-user-1", "amount": 5},
    "VendBody": {"userId": "test-user-1", "action": "default"},
    "AddBody": {"userId": "test-user-1", "amount": 5, "category": "promotional", "reason": "Welcome"},
    "AdjustBody": {"amount": -1, "reason": "Granted twice by mistake"},
    "RedeemBody": {"token": "eyJ…"},
    "BatchBody": {
        "operations": [
            {"op": "redeem", "token": "eyJ…", "clientRequestId": "job-1"},
            {"op": "capture", "ticketId": "01a2…", "amount": 1, "clientRequestId": "job-2"},
        ]
    },
    "CaptureBody": {"amount": 1},
    "CheckoutBody": {"userId": "test-user-1", "pack": "starter", "gateway": "daraja", "phone": "0712345678"},
    "RequestBody": {"userId": "test-user-1", "amount": 0, "reason": "top-up", "reference": "SLK4H7R2T0 Confirmed. …"},
    "AssignBody": {"userId": "test-user-1", "reason": "Showed the message"},
    "WriteOffBody": {"reason": "Sent back by hand"},
    "RefreshBody": {"refreshToken": "pluct_refresh_…"},
    "VoidBody": {"reason": "The result came out empty"},
}


def openapi(routes: list[Route]) -> dict[str, Any]:
    """The document."""
    types = [kind for route in routes for kind in (route.body, route.answer) if kind not in (None, bytes)]
    types.append(Problem)
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    schema = dict(zip(types, schemas, strict=True))
    paths: dict[str, Any] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schema)
    used = {_GROUP_OF[_module(route.handle)] for route in routes}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Pluct Business Engine",
            "version": __version__,
            "description": _PURPOSE,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "tags": [{"name": name, "description": _GROUPS[name]} for name in _GROUPS if name in used],
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": _SECURITY_SCHEMES},
        "x-errors": [
            {"code": error.code, "status": error.status, "title": error.title, "description": error().sentence}
            for error in sorted((_errors(Refusal) | _errors(Fault)).values(), key=lambda error: error.status)
        ],
    }


def _errors(kind: type[PluctError]) -> dict[str, type[PluctError]]:
    """Every error an answer may carry, by its code."""
    found = {kind.code: kind}
    for below in kind.__subclasses__():
        found = _errors(below) | found
    return found


def _operation(route: Route, schema: dict[Any, Any]) -> dict[str, Any]:
    summary, _, more = (route.handle.__doc__ or "").strip().partition("\n\n")
    roles = "anyone" if route.door is None else ", ".join(route.door.roles)
    done: dict[str, Any] = {"description": "Done."}
    if route.answer is not None:
        done["content"] = {"application/json": {"schema": schema[route.answer]}}
    if route.text:
        done.setdefault("content", {})[route.text] = {"schema": {"type": "string"}}
    operation: dict[str, Any] = {
        "operationId": _operation_id(route.handle, route.path),
        "tags": [_GROUP_OF[_module(route.handle)]],
        "summary": summary.rstrip("."),
        "description": f"{' '.join(more.split())}\n\nFor: {roles}.".strip(),
        "parameters": _parameters(route),
        "responses": {str(route.status): done, "default": _error(route, schema)},
    }
    if route.body is bytes:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": {}}}}
    elif route.body is not None:
        taken = {"schema": schema[route.body], "example": _EXAMPLES[route.body.__name__]}
        operation["requestBody"] = {"required": True, "content": {"application/json": taken}}
    if route.door is not None:
        operation["security"] = _security(route.door.roles)
    return operation


def _operation_id(handle: Handler, path: str) -> str:
    module = _module(handle)
    return f"{module}.{getattr(handle, '__name__', path)}{'.' + path.strip('/') if module == 'backend' else ''}"


def _module(handle: Handler) -> str:
    """The name of the handler's module."""
    return str(getattr(getattr(handle, "__func__", handle), "__module__", "")).rpartition(".")[2]


def _parameters(route: Route) -> list[dict[str, Any]]:
    names = [part[1:-1] for part in route.path.split("/") if part.startswith("{")]
    found: list[dict[str, Any]] = [{"name": n, "in": "path", "required": True, "schema": _TEXT} for n in names]
    if route.query is not None:
        (schema,), components = msgspec.json.schema_components([route.query], ref_template=_REF)
        properties = components[schema["$ref"].rpartition("/")[2]]["properties"]
        found += [{"name": n, "in": "query", "required": False, "schema": kind} for n, kind in properties.items()]
    if route.door is not None and not names and {"anyone", "user"} & set(route.door.roles):
        found.append(
            {
                "name": "X-User-Id", "in": "header", "required": False, "schema": _TEXT,
                "description": "The user's id, where neither a user token nor `userId` names it.",
            }
        )  # fmt: skip
    if route.method == "POST" and _module(route.handle) not in ("batch", "hooks"):
        found.append(
            {
                "name": "Idempotency-Key", "in": "header", "required": False, "schema": _TEXT,
                "description": "The same key with the same request answers the first answer again.",
            }
        )  # fmt: skip
    return found


def _error(route: Route, schema: dict[Any, Any]) -> dict[str, Any]:
    description = "An error, with a sentence that says what to do."
    if route.shape is problem:
        return {"description": description, "content": {"application/problem+json": {"schema": schema[Problem]}}}
    shape = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
    return {"description": description, "content": {"application/json": {"schema": shape}}}


def _security(roles: tuple[str, ...]) -> list[dict[str, list[str]]]:
    found: list[dict[str, list[str]]] = []
    if "anyone" in roles:
        found.append({})
    if "user" in roles:
        found.append({"userToken": []})
    if {"mint", "service", "operator"} & set(roles):
        found += [{"apiKey": []}, {"apiKeyHeader": []}]
    if "mint" in roles:
        found.append({"webhookSecret": []})
    return found
