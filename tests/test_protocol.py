"""The server's protocol: what cannot be seen from outside."""

import asyncio
import gc
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.server import ServerState

from pluct.web.endpoint import ANSWER
from pluct.web.protocol import OneWriteProtocol


class Client(asyncio.Protocol):
    """Whoever asks: everything received, and the end of the connection."""

    def __init__(self) -> None:
        self.received = b""
        self.heard = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.heard.set()


async def asked(app: Any, request: bytes, answers: int) -> bytes:
    """What this application answers to so many bytes, over a real connection."""
    config = uvicorn.Config(app, interface="asgi3", log_config=None)
    config.load()
    loop, state = asyncio.get_running_loop(), ServerState()
    server = await loop.create_server(lambda: OneWriteProtocol(config, state, {}, loop), "127.0.0.1", 0)
    transport, client = await loop.create_connection(Client, *server.sockets[0].getsockname())
    transport.write(request)
    while client.received.count(b"HTTP/1.1 ") < answers:
        client.heard.clear()
        await asyncio.wait_for(client.heard.wait(), 5)
    transport.close()
    server.close()
    return client.received


async def answering(scope: Scope, receive: Receive, send: Send) -> None:
    assert scope["extensions"][ANSWER](200, [(b"content-length", b"2")], b"ok")


async def messaging(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.mark.anyio
@pytest.mark.parametrize("request_line", [b"GET / HTTP/1.1", b"HEAD / HTTP/1.1", b"GET / HTTP/1.0", b"POST / HTTP/1.1"])
@pytest.mark.parametrize("header", [b"", b"connection: close\r\n", b"connection: keep-alive\r\n"])
async def test_an_answer_at_once_is_the_same_answer(request_line: bytes, header: bytes) -> None:
    """Byte for byte what uvicorn makes of ASGI's two messages."""
    request = request_line + b"\r\nhost: x\r\n" + header + b"\r\n"
    assert await asked(answering, request, 1) == await asked(messaging, request, 1)


@pytest.mark.anyio
async def test_an_answer_at_once_leaves_no_work_for_the_collector() -> None:
    """A cycle of references per request would stop everyone for tens of milliseconds every second."""
    gc.collect()
    gc.disable()
    try:
        await asked(answering, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" * 50, 50)
        left = [found for found in gc.get_objects() if type(found) is RequestResponseCycle]
        assert len(left) <= 1  # the connection remembers its last
    finally:
        gc.enable()
