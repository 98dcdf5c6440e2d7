"""Our Stripe receiver against `localstripe`, a Stripe that somebody else wrote and that signs and sends its own events.

By hand, never in CI: `cd tests && ../.venv/bin/python -m judges.localstripe` (it needs a package index). The package is
installed into a folder that is thrown away, and runs on 127.0.0.1 in a Python of its own. It knows no Checkout Sessions
and tells of no refunds, so what it can judge is whether events it signs are let in and kept without a person in them,
and whether our request for a session is refused with a sentence.
"""

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cards_world import BACK, PRIVACY, checkout
from pluct.errors import Unauthorized
from pluct.gateways import Notice
from pluct.gateways.stripe import Stripe, StripeSettings, make

PACKAGE = "localstripe==1.15.10"
SECRET = "whsec_of_the_judge"
SECRETS = {"STRIPE_SECRET_KEY": "sk_test_of_the_judge", "STRIPE_WEBHOOK_SECRET": SECRET}
EMAIL, PHONE = "jane.doe@example.com", "0712345678"
#: What runs in the judge's own Python.
SERVE = """
import socket, sys
from aiohttp import web
from localstripe.server import app
free = socket.socket()
free.bind(("127.0.0.1", 0))
print(free.getsockname()[1], flush=True)
web.run_app(app, sock=free, print=None)
"""


@contextmanager
def judge() -> Iterator[str]:
    """The package's server."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        python = Path(folder) / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", PACKAGE], check=True, stderr=subprocess.DEVNULL)
        process = subprocess.Popen(
            [python, "-c", SERVE], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=folder
        )
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.kill()
            process.wait()


class Desk:
    """Where the engine will be."""

    def __init__(self) -> None:
        self.gateway: Stripe
        self.notices: list[Notice] = []
        self.refused = 0

    async def take(self, request: Request) -> Response:
        """An event that localstripe posts."""
        headers = dict(request.scope["headers"])
        try:
            received = await self.gateway.receive("", "", headers, await request.body(), "127.0.0.1", None)
        except Unauthorized:
            self.refused += 1
            return JSONResponse({}, 401)
        self.notices += received.notices
        return JSONResponse({})


async def examine(url: str, desk: Desk, desk_url: str, client: httpx.AsyncClient) -> None:
    """Have it sign events with our secret, and with another; print what came of them."""
    for name, secret in (("ours", SECRET), ("others", "whsec_another")):
        told = {"url": desk_url, "secret": secret}
        (await client.post(f"{url}/_config/webhooks/{name}", json=told)).raise_for_status()
    login = httpx.BasicAuth(SECRETS["STRIPE_SECRET_KEY"], "")

    async def post(path: str, **form: str) -> str:
        answer = await client.post(url + path, data=form, auth=login)
        return str(answer.raise_for_status().json()["id"])

    customer = await post("/v1/customers", email=EMAIL, phone=PHONE, name="Jane Doe")
    card = {"card[number]": "4242424242424242", "card[exp_month]": "12", "card[exp_year]": "2030", "card[cvc]": "123"}
    method = await post("/v1/payment_methods", type="card", **card)
    await post(f"/v1/payment_methods/{method}/attach", customer=customer)
    intent = {"amount": "10000", "currency": "kes", "customer": customer, "payment_method": method, "confirm": "true"}
    await post("/v1/payment_intents", **intent)
    async with asyncio.timeout(20):
        while not any(notice.kind == "payment_intent.succeeded" for notice in desk.notices) or not desk.refused:
            await asyncio.sleep(0.05)
    await asyncio.sleep(1.5)  # what else it sends
    for notice in desk.notices:
        print(f"let in: {notice.kind} {notice.key}, says {notice.said}, kept {notice.raw.decode()[:300]}")
        assert EMAIL.encode() not in notice.raw and PHONE.encode() not in notice.raw and b"Jane" not in notice.raw
        assert b"4242" not in notice.raw
    print(f"refused, since signed with another secret: {desk.refused}")
    started = await desk.gateway.start(checkout(), "token", None)
    print(f"a session: {started.state}: {started.message} ({started.note})")


async def main() -> None:
    """The whole examination."""
    desk = Desk()
    app = Starlette(routes=[Route("/hooks/stripe", desk.take, methods=["POST"])])
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off", ws="none"))
    socket = server.config.bind_socket()
    running = asyncio.create_task(server.serve([socket]))
    with judge() as url:
        async with httpx.AsyncClient(trust_env=False) as client:
            told = StripeSettings(base_url=url)
            desk.gateway = make(told, SECRETS, BACK, client, PRIVACY, lambda: time.time_ns() // 1_000_000)
            await examine(url, desk, f"http://127.0.0.1:{socket.getsockname()[1]}/hooks/stripe", client)
    server.should_exit = True
    await running


if __name__ == "__main__":
    asyncio.run(main())
