"""Where a Daraja adapter is tried: a simulator, a desk that takes its callbacks, and the gateway between the two."""

import asyncio
import hashlib
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import httpx
import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from conftest import Clock
from doubles.daraja import CONSUMER_KEY, CONSUMER_SECRET, PASSKEY, Simulator
from pluct.errors import RouteNotFound
from pluct.gateways import Notice, Received, Started
from pluct.gateways.daraja import CONFIRMATION, RESULT, STK, VALIDATION, Daraja, make
from pluct.gateways.daraja_settings import DarajaSettings
from pluct.gateways.privacy import Privacy
from pluct.model import Checkout
from pluct.payment_codes import make as payment_code

#: A client that is never used; making one takes long.
NOBODY = httpx.AsyncClient(trust_env=False, verify=False)
HOOKS = (STK, VALIDATION, CONFIRMATION, RESULT)
PHONE = "254712345678"
PATH_TOKEN = "5f3a9c0b7d1e4862a0c4e6f8b2d4a6c8"
INITIATOR, CREDENTIAL = "pluct-initiator", "c2VjdXJpdHktY3JlZGVudGlhbC1vZi1ub2JvZHk="
SECRETS = {
    "DARAJA_CONSUMER_KEY": CONSUMER_KEY,
    "DARAJA_CONSUMER_SECRET": CONSUMER_SECRET,
    "DARAJA_PASSKEY": PASSKEY,
    "DARAJA_PATH_TOKEN": PATH_TOKEN,
}
CONFIRMING = SECRETS | {"DARAJA_INITIATOR": INITIATOR, "DARAJA_SECURITY_CREDENTIAL": CREDENTIAL}


def checkout(token: str = "token", price: int = 10_000, **more: Any) -> Checkout:
    """A checkout of ten credits for KES 100, pushed for with this token."""
    fields: dict[str, Any] = {
        "id": "c" + token, "user_id": "amina", "gateway": "daraja", "pack_id": "starter", "currency": "KES",
        "price": price, "credits": 10, "payment_code": payment_code(7_000_000_007),
        "token_hash": hashlib.sha256(token.encode()).digest(), "state": "created", "created_at": 0, "updated_at": 0,
    }  # fmt: skip
    return Checkout(**(fields | more))


class Desk:
    """Where the engine will be: it takes callbacks, hands them to the gateway and keeps what it says."""

    def __init__(self) -> None:
        self.gateway: Daraja
        self.checkouts: dict[bytes, Checkout] = {}
        self.notices: list[Notice] = []
        self.answers: list[Any] = []

    @property
    def app(self) -> Starlette:
        return Starlette(routes=[Route("/hooks/daraja" + hook, self._take(hook), methods=["POST"]) for hook in HOOKS])

    def _take(self, hook: str) -> Callable[[Request], Awaitable[Response]]:
        async def take(request: Request) -> Response:
            token = request.path_params["token"]
            known = self.checkouts.get(hashlib.sha256(token.encode()).digest())
            address = request.client.host if request.client else ""
            try:
                received = await self.gateway.receive(hook, token, {}, await request.body(), address, known)
            except RouteNotFound:
                return JSONResponse({}, 404)
            self.notices += received.notices
            self.answers.append(received.answer)
            if received.then is not None:
                self.notices.append(await received.then())
            return JSONResponse(received.answer)

        return take

    async def told(self, count: int) -> list[Notice]:
        """What was said, once so much was."""
        await seen(lambda: len(self.notices) >= count)
        assert len(self.notices) == count, self.notices
        return self.notices


async def seen(look: Callable[[], object]) -> None:
    """Wait until there is something to see."""
    async with asyncio.timeout(10):
        while not look():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[str]:
    """A real server on a port of its own."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off", ws="none"))
    socket = server.config.bind_socket()
    running = asyncio.create_task(server.serve([socket]))
    try:
        yield f"http://127.0.0.1:{socket.getsockname()[1]}"
    finally:
        server.should_exit = True
        await running


class World:
    """The simulator, the desk and the gateway between them."""

    def __init__(
        self, simulator: Simulator, desk: Desk, base_url: str, desk_url: str, client: httpx.AsyncClient
    ) -> None:
        self.simulator, self.desk, self.base_url, self.desk_url = simulator, desk, base_url, desk_url
        self.client = client
        self.clock = Clock()
        simulator.clock = lambda: self.clock() / 1000
        self.set()

    def set(self, words: dict[str, str] = SECRETS, **options: Any) -> Daraja:
        """The gateway with other settings."""
        told = DarajaSettings(**({"base_url": self.base_url, "timeout_seconds": 5} | options))
        self.gateway = self.desk.gateway = make(
            told, words, self.desk_url, self.client, Privacy(b"key"), self.clock
        )  # fmt: skip
        return self.gateway

    async def push(self, mode: str | None, price: int = 10_000, token: str | None = None) -> tuple[Checkout, Started]:
        """Begin a checkout as the engine does: it is there before the phone is prompted, its reference after."""
        self.simulator.mode = mode
        token = token or secrets.token_hex(16)
        begun = checkout(token, price)
        self.desk.checkouts[begun.token_hash] = begun
        self.simulator.calls_back.clear()
        started = await self.gateway.start(begun, token, "0712 345 678")
        begun = msgspec.structs.replace(begun, gateway_reference=started.reference)
        self.desk.checkouts[begun.token_hash] = begun
        self.simulator.calls_back.set()
        return begun, started

    async def ask(self, about: Checkout) -> Notice:
        """The answer to a question about a push."""
        notice = await self.gateway.ask(about)
        assert notice is not None
        return notice


class Switch:
    """An application that is another for every test, so that a server need not be."""

    app: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)


class Servers(NamedTuple):
    """Where simulator and desk are served, and a client."""

    simulator: Switch
    simulator_url: str
    desk: Switch
    desk_url: str
    client: httpx.AsyncClient


@asynccontextmanager
async def serving() -> AsyncIterator[Servers]:
    """Two servers for all tests of a module."""
    simulator, desk = Switch(), Switch()
    async with (
        httpx.AsyncClient(trust_env=False, verify=False) as client,
        served(desk) as desk_url,
        served(simulator) as simulator_url,
    ):
        yield Servers(simulator, simulator_url, desk, desk_url, client)


@asynccontextmanager
async def a_world(servers: Servers) -> AsyncIterator[World]:
    """A new simulator and a new desk."""
    simulator, desk = Simulator(), Desk()
    servers.simulator.app, servers.desk.app = simulator.app, desk.app
    yield World(simulator, desk, servers.simulator_url, servers.desk_url, servers.client)
    await simulator.close()


async def receive(gateway: Daraja, hook: str, body: Any, token: str = PATH_TOKEN, **more: Any) -> Received:
    """What the gateway makes of a callback."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    known = more.get("by_token", checkout(gateway_reference="ws_CO_1") if hook == STK else None)
    return await gateway.receive(hook, token, {}, content, more.get("address", ""), known)


def alone(settings: DarajaSettings | None = None, words: dict[str, str] = SECRETS) -> Daraja:
    """A gateway that asks nobody."""
    return make(settings or DarajaSettings(), words, "https://pay.example", NOBODY, Privacy(b"key"), Clock())


TYPED = {
    "TransactionType": "Pay Bill", "TransID": "TKM1ABC234", "TransTime": "20261122103015", "TransAmount": "100.00",
    "BusinessShortCode": "600966", "BillRefNumber": "plk7q2m4 ", "InvoiceNumber": "", "OrgAccountBalance": "25100.00",
    "ThirdPartyTransID": "", "MSISDN": "2547 ***** 126", "FirstName": "JANE", "MiddleName": "", "LastName": "",
}  # fmt: skip
PUSHED = {
    "MerchantRequestID": "29115-1-1", "CheckoutRequestID": "ws_CO_1", "ResultCode": 0, "ResultDesc": "Processed.",
    "CallbackMetadata": {
        "Item": [
            {"Name": "Amount", "Value": 100.0}, {"Name": "MpesaReceiptNumber", "Value": "TKM1ABC234"},
            {"Name": "Balance"}, {"Name": "TransactionDate", "Value": 20261122103015},
            {"Name": "PhoneNumber", "Value": 254700000001},
        ]
    },
}  # fmt: skip


def result(values: list[dict[str, Any]], code: Any = 0) -> dict[str, Any]:
    """An asynchronous result."""
    said = {"ResultType": 0, "ResultCode": code, "ResultDesc": "Said.", "ConversationID": "AG_1"}
    return {"Result": said | {"ResultParameters": {"ResultParameter": values}}}


def pushed(**more: Any) -> dict[str, Any]:
    """The callback of a push, with something else in it."""
    return {"Body": {"stkCallback": PUSHED | more}}


async def said(hook: str, body: Any, **more: Any) -> Any:
    """What a callback says."""
    return (await receive(alone(), hook, body, **more)).notices[0].said
