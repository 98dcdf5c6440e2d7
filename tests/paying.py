"""An engine that takes M-Pesa, and the simulator it takes it from: two real servers that know of each other."""

import asyncio
import os
import secrets
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import httpx
import uvicorn

from conftest import Pluct, until
from doubles.daraja import CONSUMER_KEY, CONSUMER_SECRET, PASSKEY, Simulator

PATH_TOKEN = "5f3a9c0b7d1e4862a0c4e6f8b2d4a6c8"
PHONE = "0712345678"
SECRETS = {
    "DARAJA_CONSUMER_KEY": CONSUMER_KEY, "DARAJA_CONSUMER_SECRET": CONSUMER_SECRET, "DARAJA_PASSKEY": PASSKEY,
    "DARAJA_PATH_TOKEN": PATH_TOKEN,
}  # fmt: skip
PACKS = """
[[packs]]
id = "starter"
name = "10 credits"
currency = "KES"
price = "100.00"
credits = 10

[[packs]]
id = "one"
name = "1 credit"
currency = "KES"
price = "20"
credits = 1
"""


def free_port(row: int = 1) -> int:
    """A port that is free, the first of so many in a row: none that the system gives away, nor to two tests at once."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
    while True:
        port = 12_000 + 2_000 * (worker % 8) + secrets.randbelow(2_000 - row)
        with ExitStack() as taken, suppress(OSError):
            for number in range(row):
                taken.enter_context(socket.create_server(("127.0.0.1", port + number)))
            return port


@contextmanager
def in_a_thread(app: Any, close: Callable[[], Awaitable[None]]) -> Iterator[str]:
    """A real server beside the test, on a port of its own; `close` is awaited at its end."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off", ws="none"))
    listener = server.config.bind_socket()

    async def run() -> None:
        await server.serve([listener])
        await close()

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    try:
        until(lambda: server.started)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


class Paying:
    """The two of them, and what a user and an operator do."""

    def __init__(self, engine: Pluct, simulator: Simulator, daraja_url: str) -> None:
        self.engine, self.simulator, self.daraja_url = engine, simulator, daraja_url
        self.operator = engine.key("operator")

    def buy(self, user_id: str = "amina", **more: Any) -> dict[str, Any]:
        """Begin to buy a pack; the checkout as it stands then."""
        body = {"userId": user_id, "pack": "starter", "gateway": "daraja", "phone": PHONE, **more}
        answer = self.engine.post("/v1/checkouts", body)
        assert answer.status_code == 201, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def checkout(self, id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.engine.client.get(f"/v1/checkouts/{id}").json()
        return found

    def becomes(self, id: str, state: str) -> dict[str, Any]:
        """Wait until the checkout is in this state."""
        until(lambda: self.checkout(id)["state"] == state, 20)
        return self.checkout(id)

    def payments(self, **query: str) -> list[dict[str, Any]]:
        answer = self.engine.client.get("/v1/payments", params=query, headers=self.operator)
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()["payments"]
        return found

    def type_in(self, code: str, amount: str, receipt: str, phone: str = "254712345678") -> httpx.Response:
        """A C2B confirmation, as Daraja sends it."""
        body = {
            "TransactionType": "Pay Bill", "TransID": receipt, "TransTime": "20261125110000", "TransAmount": amount,
            "BusinessShortCode": "174379", "BillRefNumber": code, "MSISDN": phone, "FirstName": "JANE",
        }  # fmt: skip
        return self.engine.post(f"/hooks/daraja/c2b/{PATH_TOKEN}/confirmation", body)

    def settle(self, payment: dict[str, Any], how: str, **body: str) -> httpx.Response:
        """What an operator decides."""
        return self.engine.post(f"/v1/payments/{payment['id']}/{how}", body, self.operator)


@contextmanager
def paying(make: Callable[..., Pluct], mode: str | None = None, toml: str = "", **more: Any) -> Iterator[Paying]:
    """An engine and a simulator at work. `more` are keys of `[gateways.daraja]`, and settings in capitals."""
    simulator, port = Simulator(mode), free_port()
    with in_a_thread(simulator.app, simulator.close) as daraja_url:
        keys = {"query_after_seconds": 1, "timeout_seconds": 1} | {k: v for k, v in more.items() if k.islower()}
        written = "\n".join(f"{key} = {_toml(value)}" for key, value in keys.items())
        payments = "" if "[payments]" in toml else "[payments]\n"
        engine = make(
            toml=f'{toml}\n{payments}callback_base_url = "http://127.0.0.1:{port}"\n'
            f'[gateways.daraja]\nbase_url = "{daraja_url}"\n{written}\n{PACKS}',
            **SECRETS, **{key: value for key, value in more.items() if key.isupper()},
        )  # fmt: skip
        engine.start("--port", str(port))
        yield Paying(engine, simulator, daraja_url)
        simulator.released.set()


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool | int) else repr(value).replace("'", '"')
