"""What a stranger may send: never a 500, always a sentence, nothing secret said, and the engine still well after it."""

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from conftest import WEBHOOK_SECRET, Keys, Pluct, served
from pluct.web.access import Access
from pluct.web.routes import table

SECRET = {"x-webhook-secret": WEBHOOK_SECRET}
BODY_BYTES_MAX = 64 * 1024
TOML = '[actions.transcribe]\ncost = 2\naudience = "tttranscribe"\nsettle = "report"\ncost_max = 20\n'


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pluct]:
    """A server that, when all is over, must still be ready, sound, and have told no secret."""
    with served(tmp_path_factory.mktemp("hostile"), TOML) as pluct:
        yield pluct
        assert pluct.client.get("/health/ready").status_code == 200
        assert pluct.json("check")["ok"] is True
        assert pluct.stop() == 0
        assert "Traceback" not in pluct.log


@pytest.fixture(scope="module")
def keys(engine: Pluct) -> Keys:
    found = {role: engine.key(role) for role in ("mint", "service", "operator")}
    return found | {"nobody": {}, "webhook": SECRET}


def answered(answer: httpx.Response) -> httpx.Response:
    """Any answer but an accident; a refusal is JSON with a sentence."""
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        assert answer.headers["content-type"] in ("application/json", "application/problem+json"), answer.headers
        sentence = answer.json()["error"]
        assert re.fullmatch(r"[A-Z].{3,}", sentence, re.S), sentence
    assert answer.headers["x-request-id"]
    return answer


# Whatever the description of the interface allows, and what it does not


#: By route: who asks, and a request that is as it should be.
RIGHT: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "/vend-token": (("nobody",), {"userId": "amina"}),
    "/add-credits": (("webhook", "mint"), {"userId": "amina", "amount": 5}),
    "/v1/vend-token": (("nobody",), {"userId": "amina", "action": "transcribe"}),
    "/v1/credits/balance": (("nobody",), {"userId": "amina"}),
    "/v1/credits/add": (("mint", "operator"), {"userId": "amina", "amount": 5}),
    "/v1/wallets/{userId}": (("service",), {}),
    "/v1/wallets/{userId}/entries": (("operator",), {}),
    "/v1/wallets/{userId}/adjustments": (("operator",), {"amount": 1, "reason": "a reason"}),
    "/v1/tickets/redeem": (("service",), {}),
    "/v1/tickets/{id}": (("service",), {}),
    "/v1/tickets/{id}/capture": (("service",), {}),
    "/v1/tickets/{id}/void": (("operator",), {"reason": "a reason"}),
}
TAKING = [route for route in table(Access("open", ("secret",))) if route.body or route.query or "{" in route.path]
CHECKS: Any = [not_a_server_error, response_schema_conformance, content_type_conformance, status_code_conformance]


def test_every_route_that_takes_something_has_its_row() -> None:
    """A new route is sent wild requests too, and some that its handler is reached by."""
    assert set(RIGHT) == {route.path for route in TAKING}


@pytest.fixture(scope="module")
def described(engine: Pluct) -> Any:
    config = SchemathesisConfig.from_dict({"generation": {"with-security-parameters": False}})
    return schemathesis.openapi.from_url(f"{engine.url}/openapi.json", config=config)


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: str(mode.value))
@pytest.mark.parametrize(
    ("method", "path", "caller"),
    [(route.method, route.path, caller) for route in TAKING for caller in RIGHT[route.path][0]],
)
def test_every_answer_is_as_described(
    engine: Pluct, keys: Keys, described: Any, method: str, path: str, caller: str, mode: GenerationMode
) -> None:
    """Generated requests, valid and not, of those who may come in: no 5xx, and answers of the documented shapes."""
    engine.fund("amina", 500)
    vended = engine.post("/v1/vend-token", {"userId": "amina", "action": "transcribe"}).json()
    if path.endswith("capture"):
        engine.post("/v1/tickets/redeem", {"token": vended["token"]}, keys["service"])
    right = RIGHT[path][1] | ({"token": vended["token"]} if path.endswith("redeem") else {})
    known = {"userId": "amina", "id": vended["ticketId"]}
    statuses = set()

    @settings(derandomize=True, max_examples=20, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(
        case=described[path][method].as_strategy(generation_mode=mode), mended=st.booleans(),
        wild=st.sets(st.sampled_from(["userId", "amount", "reason", "action", "clientRequestId", "priority"])),
    )  # fmt: skip
    def hold(case: Any, mended: bool, wild: set[str]) -> None:
        if mended:  # otherwise sent as generated
            case.path_parameters = {name: known[name] for name in case.path_parameters or {}}
            if isinstance(case.body, dict):
                case.body = right | {name: value for name, value in case.body.items() if name in wild}
            elif path == "/v1/credits/balance":
                case.query = dict(right)
        answer = case.call(headers=keys[caller])
        statuses.add(answer.status_code)
        case.validate_response(answer, checks=CHECKS, headers=keys[caller])

    hold()
    assert 200 in statuses or mode is GenerationMode.NEGATIVE, statuses
