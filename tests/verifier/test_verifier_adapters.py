"""The adapters, each in a real app of its framework, and the examples, run as their first lines say."""

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import django
import fastapi
import flask
import httpx
import pytest
from django.conf import settings
from django.http import HttpRequest, JsonResponse
from django.test import AsyncClient, Client
from django.test.utils import override_settings
from django.urls import path
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from conftest import JWT_SECRET, Pluct, served
from pluct_verifier import SeenMemory, TicketRefused, Verifier
from pluct_verifier.django import ticket_middleware
from pluct_verifier.django import ticket_required as django_ticket_required
from pluct_verifier.fastapi import Ticket, TicketRequired
from pluct_verifier.flask import ticket_required as flask_ticket_required
from pluct_verifier.starlette import ticket_required as starlette_ticket_required
from verifier_world import CLAIMS, SECRET, Key, Publisher, running_redis, signed

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parent.parent.parent
Answer = tuple[int, dict[str, str], Any]
Ask = Callable[[str | None], Answer]


class Away:
    """A list that cannot be asked."""

    async def mark(self, *_: Any) -> None:
        raise TicketRefused("unavailable")


def verifier(seen: Any = None) -> Verifier:
    """What every app here is guarded by."""
    return Verifier.once(audience="premium", secret=SECRET, seen=seen or SeenMemory())


def token(**more: Any) -> str:
    """A ticket of now."""
    now = int(time.time())
    return signed(CLAIMS | {"iat": now, "nbf": now, "exp": now + 60} | more)


def asgi(app: Any, where: str = "/paid") -> Ask:
    """How to ask an ASGI app."""

    def ask(authorization: str | None) -> Answer:
        async def send() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client:
                headers = {b"authorization": authorization.encode("latin-1")} if authorization else {}
                return await client.get(where, headers=headers)

        found = asyncio.run(send())
        return found.status_code, dict(found.headers), found.json()

    return ask


def in_fastapi(guard: Verifier) -> Ask:
    app = FastAPI()
    paid = TicketRequired(guard, app)

    @app.get("/paid")
    def endpoint(ticket: Annotated[Ticket, Depends(paid)]) -> dict[str, str]:
        return {"user": ticket.user_id}

    return asgi(app)


def in_starlette(guard: Verifier) -> Ask:
    @starlette_ticket_required(guard)
    async def endpoint(request: Request) -> JSONResponse:
        return JSONResponse({"user": request.state.ticket.user_id})

    return asgi(Starlette(routes=[Route("/paid", endpoint)]))


def in_starlette_sync(guard: Verifier) -> Ask:
    @starlette_ticket_required(guard)
    def endpoint(request: Request) -> JSONResponse:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()  # a thread of its own
        return JSONResponse({"user": request.state.ticket.user_id})

    return asgi(Starlette(routes=[Route("/paid", endpoint)]))


def in_flask(guard: Verifier) -> Ask:
    app = flask.Flask("app")

    @app.get("/paid")
    @flask_ticket_required(guard)
    def view() -> dict[str, str]:
        return {"user": flask.g.ticket.user_id}

    def ask(authorization: str | None) -> Answer:
        found = app.test_client().get("/paid", headers={"authorization": authorization} if authorization else {})
        return found.status_code, {name.lower(): value for name, value in found.headers}, json.loads(found.data)

    return ask


if not settings.configured:
    settings.configure(ROOT_URLCONF=__name__, SECRET_KEY="s" * 50, ALLOWED_HOSTS=["*"])
    django.setup()
urlpatterns: list[Any] = []


class Guards:
    """Middleware goes by name."""

    now: Any = None


def guarding(get_response: Any) -> Any:
    """The middleware of the test that runs."""
    return Guards.now(get_response)


guarding.sync_capable = guarding.async_capable = True  # type: ignore[attr-defined]


def in_django(guard: Verifier, colour: str = "sync", how: str = "decorator", where: str = "paid") -> Ask:
    def view(request: HttpRequest) -> JsonResponse:
        ticket = getattr(request, "ticket", None)
        return JsonResponse({"user": ticket and ticket.user_id})

    async def view_async(request: HttpRequest) -> JsonResponse:
        return view(request)

    found: Any = view if colour == "sync" else view_async
    if how == "decorator":
        found = django_ticket_required(guard)(found)
    else:
        Guards.now = ticket_middleware(guard, "/paid")
    middleware = [] if how == "decorator" else [f"{__name__}.guarding"]

    def ask(authorization: str | None) -> Answer:
        urlpatterns[:] = [path(where, found)]
        headers = {"authorization": authorization} if authorization else {}
        with override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=middleware):
            if colour == "sync":
                answer: Any = Client(headers=headers).get("/" + where)
            else:
                answer = asyncio.run(AsyncClient().get("/" + where, headers=headers))
        return answer.status_code, {name.lower(): value for name, value in answer.headers.items()}, answer.json()

    return ask


APPS: dict[str, Callable[[Verifier], Ask]] = {
    "fastapi": in_fastapi, "starlette": in_starlette, "starlette, plain function": in_starlette_sync,
    "flask": in_flask, "django": in_django, "django, async": lambda guard: in_django(guard, "async"),
    "django middleware": lambda guard: in_django(guard, how="middleware"),
    "django middleware, async": lambda guard: in_django(guard, "async", "middleware"),
}  # fmt: skip


@pytest.fixture(params=[*APPS.values()], ids=[*APPS])
def app(request: pytest.FixtureRequest) -> Callable[[Verifier], Ask]:
    """A maker of an app in each framework."""
    found: Callable[[Verifier], Ask] = request.param
    return found


def test_a_ticket_opens_the_door_once(app: Callable[[Verifier], Ask]) -> None:
    """The endpoint knows whose it is; shown again it is refused, in problem details."""
    ask, shown = app(verifier()), token()
    status, _, body = ask(f"Bearer {shown}")
    assert (status, body) == (200, {"user": "amina"})
    status, headers, body = ask(f"Bearer {shown}")
    assert status == 401
    assert headers["www-authenticate"] == "Bearer" and headers["content-type"] == "application/problem+json"
    sentence = "This ticket was redeemed before; each ticket is good for one action."
    assert body == {
        "type": "about:blank", "title": "Unauthorized", "status": 401, "code": "ticket_already_redeemed",
        "detail": sentence, "message": sentence,
    }  # fmt: skip


@pytest.mark.parametrize(("authorization", "expected"), [
    (None, "ticket_missing"), ("Bearer", "ticket_missing"), ("Bearer ", "ticket_missing"),
    ("Basic YTpi", "ticket_missing"), ("Token x", "ticket_missing"), ("Bearer x", "ticket_invalid"),
    ("Bearer a.b.c", "ticket_invalid"), ("Bearer " + "x" * 9_000, "ticket_invalid"),
    ("Bearer " + signed(CLAIMS | {"iat": 1, "nbf": 1, "exp": 2}), "ticket_expired"),
    ("Bearer \xff.\xff.\xff", "ticket_invalid"),
])  # fmt: skip
def test_without_a_good_ticket_it_stays_shut(
    app: Callable[[Verifier], Ask], authorization: str | None, expected: str
) -> None:
    """401, and why."""
    status, headers, body = app(verifier())(authorization)
    assert (status, body["code"], headers["www-authenticate"]) == (401, expected, "Bearer")


def test_the_scheme_is_read_in_any_case(app: Callable[[Verifier], Ask]) -> None:
    """As HTTP has it (RFC 9110, section 11.1)."""
    assert app(verifier())(f"bEARER  {token()}")[0] == 200


def test_a_ticket_that_cannot_be_checked_is_neither_good_nor_bad(app: Callable[[Verifier], Ask]) -> None:
    """503: ask again."""
    status, headers, body = app(verifier(Away()))(f"Bearer {token()}")
    assert (status, headers["retry-after"], body["code"], body["status"]) == (503, "1", "unavailable", 503)
    assert "www-authenticate" not in headers


# What one framework has and the others do not


def test_fastapi_shows_what_is_needed_in_its_interface() -> None:
    """A bearer token, at the routes that take a ticket and at no other."""
    app = FastAPI()

    @app.get("/paid", dependencies=[Depends(TicketRequired(verifier(), app))])
    def paid() -> None: ...

    @app.get("/free")
    def free() -> None: ...

    said = app.openapi()
    assert said["components"]["securitySchemes"] == {
        "ticket": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
    }
    assert said["paths"]["/paid"]["get"]["security"] == [{"ticket": []}]
    assert "security" not in said["paths"]["/free"]["get"]


def test_fastapi_refuses_even_where_the_app_was_not_told() -> None:
    """A router in another file: 401 all the same, with less in the body."""
    router = fastapi.APIRouter(dependencies=[Depends(TicketRequired(verifier()))])
    router.get("/paid")(lambda: {"user": "?"})
    app = FastAPI()
    app.include_router(router)
    status, headers, body = asgi(app)("Bearer x")
    assert (status, headers["www-authenticate"]) == (401, "Bearer")
    assert headers["content-type"] == "application/problem+json"
    assert body == {"detail": "The token is not a signed JWT."}
    assert asgi(app)(f"Bearer {token()}")[0] == 200


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_django_s_middleware_guards_what_is_under_its_path(colour: str) -> None:
    """And leaves the rest alone."""
    assert in_django(verifier(), colour, "middleware", "paid/more")(None)[0] == 401
    assert in_django(verifier(), colour, "middleware", "free")(None)[::2] == (200, {"user": None})


# The examples


@contextmanager
def example(folder: Path, *command: str, **environment: str) -> Iterator[str]:
    """The address of an example that runs as its first line says."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **environment}
    process = subprocess.Popen(
        [sys.executable, *command], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r"(?:running on|Running on|server at) (http://127.0.0.1:[1-9]\d*)", line):
                yield found[1]
                return
        pytest.fail("the example ended before it served")
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pluct]:
    """A running engine."""
    with served(tmp_path_factory.mktemp("engine")) as pluct:
        yield pluct


def tried(url: str, shown: str, action: str = "default") -> None:
    """An example lets a ticket in, once."""
    headers = {"authorization": f"Bearer {shown}"}
    with httpx.Client(base_url=url) as client:
        assert client.post("/transcribe").status_code == 401
        answer = client.post("/transcribe", headers=headers)
        assert (answer.status_code, answer.json()) == (200, {"user": "amina", "action": action, "text": "…"})
        again = client.post("/transcribe", headers=headers)
        assert (again.status_code, again.json()["code"]) == (401, "ticket_already_redeemed")
        assert again.headers["content-type"] == "application/problem+json"


def vended(engine: Pluct) -> str:
    """A ticket that amina bought."""
    engine.fund("amina", 1)
    found: str = engine.post("/vend-token", {"userId": "amina"}).json()["token"]
    return found


def test_the_example_in_fastapi(engine: Pluct, tmp_path: Path) -> None:
    """At the engine."""
    key = engine.key("service")["Authorization"].removeprefix("Bearer ")
    serve = ("-m", "uvicorn", "examples.fastapi_backend:app", "--port", "0")
    with example(tmp_path, *serve, ENGINE=engine.url, SERVICE_KEY=key) as url:
        tried(url, vended(engine))


def test_the_example_in_starlette(tmp_path: Path) -> None:
    """By a key set and Redis."""
    key, publisher = Key("k1"), Publisher()
    publisher.publish(key)
    now = int(time.time())
    serve = ("-m", "uvicorn", "examples.starlette_backend:app", "--port", "0")
    try:
        with (
            running_redis(tmp_path) as redis_url,
            example(tmp_path, *serve, JWKS_URL=publisher.url, REDIS_URL=redis_url) as url,
        ):
            tried(url, key.sign(CLAIMS | {"iat": now, "nbf": now, "exp": now + 60}), "read")
    finally:
        publisher.close()


def test_the_example_in_flask(engine: Pluct, tmp_path: Path) -> None:
    """By the shared secret and a file."""
    serve = ("-m", "flask", "--app", "examples.flask_backend", "run", "--port", "0")
    with example(tmp_path, *serve, JWT_SECRET=JWT_SECRET) as url:
        tried(url, vended(engine))


def test_the_example_in_django(engine: Pluct, tmp_path: Path) -> None:
    """By the shared secret and its own memory."""
    serve = (str(ROOT / "examples" / "django_backend.py"), "runserver", "--noreload", "127.0.0.1:0")
    with example(tmp_path, *serve, JWT_SECRET=JWT_SECRET) as url:
        tried(url, vended(engine))


def test_examples_are_short() -> None:
    """Under thirty lines, or nobody reads them."""
    found = sorted((ROOT / "examples").glob("*_backend.py"))
    assert [path.name for path in found if path.read_text().count("\n") >= 30] == []
    assert len(found) == 4
