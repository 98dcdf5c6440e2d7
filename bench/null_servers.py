"""Servers that do nothing but HTTP and JSON, as yardsticks: `python -m bench.null_servers KIND PORT`.

Each takes `{"userId": …}` and answers a token of the usual length, on uvicorn with uvloop and httptools, like ours.
"""

import sys
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

TOKEN = "x" * 330


def fastapi() -> Any:
    """FastAPI with a pydantic body and answer."""
    from fastapi import FastAPI
    from pydantic import BaseModel

    class Body(BaseModel):
        userId: str

    class Answer(BaseModel):
        token: str

    app = FastAPI()

    async def vend(body: Body) -> Answer:
        return Answer(token=TOKEN)

    app.post("/vend-token")(vend)
    return app


def starlette() -> Any:
    """Starlette with msgspec."""

    class Body(msgspec.Struct):
        userId: str

    decode, encode = msgspec.json.Decoder(Body).decode, msgspec.json.Encoder().encode

    async def vend(request: Request) -> Response:
        decode(await request.body())
        return Response(encode({"token": TOKEN}), media_type="application/json")

    return Starlette(routes=[Route("/vend-token", vend, methods=["POST"])])


def asgi() -> Any:
    """A bare ASGI function that looks at nothing."""
    content = b'{"token":"%s"}' % TOKEN.encode()
    head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await receive()
            await send({"type": "http.response.start", "status": 200, "headers": head})
            await send({"type": "http.response.body", "body": content})

    return app


KINDS = {"fastapi": fastapi, "starlette": starlette, "asgi": asgi}

if __name__ == "__main__":
    uvicorn.run(
        KINDS[sys.argv[1]](), port=int(sys.argv[2]), loop="uvloop", http="httptools", access_log=False,
        log_level="error", lifespan="off",
    )  # fmt: skip
