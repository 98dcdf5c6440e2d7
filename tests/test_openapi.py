"""The interface for machines and the page for people say what the routes do."""

import re
from typing import Any

import pytest

from conftest import Pluct
from pluct import errors
from pluct.app import now_ms
from pluct.web.access import Access
from pluct.web.openapi import openapi
from pluct.web.routes import table

ROUTES = table(Access("token", ("secret",), None), None, None, None, 0, now_ms)
DOCUMENT = openapi(ROUTES)


def refs(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*(refs(inner) for inner in value.values()))
    return set().union(*(refs(inner) for inner in value)) if isinstance(value, list) else set()


def test_every_route_is_described() -> None:
    """Each with a summary, an answer, and an id of its own."""
    described = {(method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert described == {(route.method, route.path) for route in ROUTES}
    operations = [operation for methods in DOCUMENT["paths"].values() for operation in methods.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    assert all(operation["summary"] and operation["responses"]["default"]["content"] for operation in operations)


def test_every_reference_leads_somewhere() -> None:
    """To a schema of the same document."""
    found = refs(DOCUMENT)
    assert found and {name.rpartition("/")[2] for name in found} == set(DOCUMENT["components"]["schemas"])
    assert not [name for name in DOCUMENT["components"]["schemas"] if "." in name]


def test_parameters_are_described() -> None:
    """In the path, in the query, and the idempotency key of whatever changes something."""
    history = DOCUMENT["paths"]["/v1/wallets/{userId}/entries"]["get"]["parameters"]
    assert [(p["name"], p["in"], p["required"]) for p in history] == [
        ("userId", "path", True), ("limit", "query", False), ("cursor", "query", False),
    ]  # fmt: skip
    assert history[1]["schema"]["maximum"] == 200
    posts = {path: methods["post"] for path, methods in DOCUMENT["paths"].items() if "post" in methods}
    keyed = {path for path, post in posts.items() if "Idempotency-Key" in [p["name"] for p in post["parameters"]]}
    assert posts.keys() - keyed == {"/v1/tickets/batch"}  # whose operations have one each
    named = {
        path for path, methods in DOCUMENT["paths"].items() for operation in methods.values()
        if "X-User-Id" in [p["name"] for p in operation["parameters"]]
    }  # fmt: skip
    assert named == {
        "/vend-token", "/v1/vend-token", "/v1/credits/balance", "/v1/checkouts", "/v1/credits/request",
    }  # fmt: skip


def test_a_required_field_is_marked() -> None:
    """A client made from the document does not compile a request that is always refused."""
    required = {name: set(schema.get("required", [])) for name, schema in DOCUMENT["components"]["schemas"].items()}
    assert required["AddBody"] == {"userId", "amount"}
    assert required["AdjustBody"] == {"amount", "reason"}
    assert (required["RedeemBody"], required["VoidBody"]) == ({"token"}, {"reason"})


def test_every_way_to_bring_a_key_is_described() -> None:
    """`Authorization` or `X-API-Key`, wherever a key opens."""
    schemes = DOCUMENT["components"]["securitySchemes"]
    assert schemes["apiKeyHeader"]["name"] == "X-API-Key"
    ways = [operation.get("security", []) for methods in DOCUMENT["paths"].values() for operation in methods.values()]
    assert all(({"apiKey": []} in security) == ({"apiKeyHeader": []} in security) for security in ways)
    assert {name for security in ways for way in security for name in way} == set(schemes)


def test_every_error_is_listed() -> None:
    """With its code, its status and its sentence, once."""
    listed = {error["code"]: error for error in DOCUMENT["x-errors"]}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.PluctError)]
    codes = {kind.code for kind in kinds} - {errors.SetupError.code}
    assert set(listed) == codes
    assert listed["insufficient_credits"]["status"] == 402
    assert all(error["description"].endswith(".") for error in listed.values())


@pytest.mark.parametrize("page", ["/docs", "/docs/docs.css", "/docs/docs.js"])
def test_pages_bring_all_they_need(server: Pluct, page: str) -> None:
    """They name no foreign address, and the policy would stop one."""
    answer = server.client.get(page)
    assert answer.status_code == 200 and answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert not re.search(r"""(src|href)=["']?(https?:)?//|@import|\burl\(|style=|onclick=["']|innerHTML""", answer.text)
    assert server.client.get("/openapi.json").json()["openapi"] == "3.1.0"
