"""Where the card gateways are tried: a server that plays their interfaces, and gateways that ask it."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import httpx
import msgspec
import uvicorn
from hypothesis import strategies as st

from conftest import Clock
from doubles.cards import PERSON, Cards
from pluct.gateways import Gateway, Notice, Received, Started
from pluct.gateways.privacy import Privacy
from pluct.model import Checkout

BACK = "https://pay.example"
CHECKOUT = "01931f2e-7c1a-7bbb-8000-0123456789ab"
#: A client that is never used; making one takes long.
NOBODY = httpx.AsyncClient(trust_env=False, verify=False)
T = TypeVar("T")
PRIVACY = Privacy(b"key")


def checkout(**more: Any) -> Checkout:
    """A checkout of ten credits for KES 100."""
    fields: dict[str, Any] = {
        "id": CHECKOUT, "user_id": "amina", "gateway": "card", "pack_id": "starter", "currency": "KES",
        "price": 10_000, "credits": 10, "payment_code": "PHK7Q2M4", "token_hash": hashlib.sha256(b"token").digest(),
        "state": "created", "created_at": 0, "updated_at": 0,
    }  # fmt: skip
    return Checkout(**(fields | more))


class World:
    """The gateways' interfaces on a port of their own, and a client that asks them."""

    def __init__(self, base_url: str, client: httpx.AsyncClient) -> None:
        self.base_url, self.client = base_url, client
        self.anew()

    def anew(self) -> "World":
        """Everything as it is at first, for the next test on the same server."""
        self.clock, self.cards = Clock(), Cards()
        return self

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Play the gateways; another `Cards` for every test, on one server."""
        await self.cards.app(scope, receive, send)

    def make(self, module: Any, secrets: dict[str, str], **options: Any) -> Any:
        """A gateway of this module that asks the server."""
        kind = next(kind for name, kind in vars(module).items() if name.endswith("Settings"))
        settings = kind(**({"base_url": self.base_url, "timeout_seconds": 5} | options))
        assert settings.problems(BACK) == []
        return module.make(settings, secrets, BACK, self.client, PRIVACY, self.clock)


def alone(module: Any, secrets: dict[str, str], clock: Clock, **options: Any) -> Any:
    """A gateway of this module that asks nobody."""
    kind = next(kind for name, kind in vars(module).items() if name.endswith("Settings"))
    return module.make(kind(**options), secrets, BACK, NOBODY, PRIVACY, clock)


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    """A real server, and a client, for all tests of a module."""
    async with httpx.AsyncClient(trust_env=False, verify=False, follow_redirects=True) as client:
        found = World("", client)
        server = uvicorn.Server(uvicorn.Config(found, port=0, log_level="error", lifespan="off", ws="none"))
        socket = server.config.bind_socket()
        running = asyncio.create_task(server.serve([socket]))
        found.base_url = f"http://127.0.0.1:{socket.getsockname()[1]}"
        try:
            yield found
        finally:
            found.cards.released.set()
            server.should_exit = True
            await running


async def begun(gateway: Gateway, **more: Any) -> tuple[Checkout, Started]:
    """A checkout that was begun, as the engine keeps it."""
    asked = checkout(**more)
    started = await gateway.start(asked, "token", None)
    return msgspec.structs.replace(asked, gateway_reference=started.reference, state=started.state), started


async def received(gateway: Gateway, headers: dict[bytes, bytes], body: bytes) -> Received:
    """What the gateway makes of a request to its hook."""
    return await gateway.receive("", "", headers, body, "203.0.113.7", None)


def at_once(waiting: Coroutine[Any, Any, T]) -> T:
    """What comes of something that turns out not to wait for anything."""
    try:
        waiting.send(None)
    except StopIteration as done:
        found: T = done.value
        return found
    raise AssertionError("it waits for something")


def anything(fields: list[str]) -> st.SearchStrategy[Any]:
    """Any JSON, with these names in it."""
    plain = (
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=20)
    )  # fmt: skip
    names = st.sampled_from(fields) | st.text(max_size=5)
    return st.recursive(
        plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner), max_leaves=8
    )  # fmt: skip


def content(value: Any) -> bytes:
    """A body: as it is if it is bytes, else JSON."""
    return value if isinstance(value, bytes) else json.dumps(value).encode()


def names_nobody(notice: Notice) -> None:
    """What is kept is JSON, and none of it is the payer's."""
    assert isinstance(msgspec.json.decode(notice.raw), dict)
    kept = (notice.raw + f"{notice.key}{notice.kind}{notice.note}".encode()).decode()
    for what, told in PERSON.items():
        assert told not in kept and told.removeprefix("+254") not in kept, (what, kept)
        assert told.partition(" ")[0] not in kept or what in ("line",), (what, kept)
