"""What the gate asks of the engine together: what waits goes into one request, and nobody waits for ever.

The other side is a server that a test plays, byte by byte, so that answers come in the order a test wants.
"""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import pytest

from conftest import Pluct, until
from gating import OK, TOML, Backend, Till, gate_before, request
from pluct.errors import Unavailable
from pluct.gate.client import Connection, Origin
from pluct.gate.redeeming import (
    OPERATIONS_MAX,
    REQUESTS_MAX,
    WORTH_A_REQUEST,
    Capture,
    Desk,
    Lost,
    NoAnswer,
    NotServed,
    Redeem,
    Result,
)

Make = Callable[..., Pluct]
pytestmark = pytest.mark.anyio


class Counter:
    """The engine's side: takes requests, and answers when it is told to."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[tuple[list[dict[str, Any]], asyncio.StreamWriter]] = asyncio.Queue()
        self.open: dict[asyncio.Task[Any], asyncio.StreamWriter] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take one request after the other."""
        task = asyncio.current_task()
        assert task is not None
        self.open[task] = writer
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.partition(b"content-length: ")[2].split(b"\r\n")[0])
                self.asked.put_nowait((json.loads(await reader.readexactly(length))["operations"], writer))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def close(self) -> None:
        """Hang up on everybody."""
        for writer in self.open.values():
            writer.close()
        await asyncio.gather(*self.open)

    @staticmethod
    def answer(operations: list[dict[str, Any]], writer: asyncio.StreamWriter, status: int = 200) -> None:
        """A result for each: `status`, and the id that was asked about as its code."""
        results = [{"status": status, "problem": {"code": each["ticketId"]}} for each in operations]
        body = json.dumps({"results": results}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))


@asynccontextmanager
async def a_desk(seconds: float = 5.0) -> AsyncIterator[tuple[Desk, Counter]]:
    """A desk, and who is asked at it."""
    counter = Counter()
    server = await asyncio.start_server(counter.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    origin = Origin(f"http://127.0.0.1:{port}", "--engine", connect_seconds=1, idle_seconds=5, connections_max=10)
    try:
        async with asyncio.timeout(20):
            yield Desk(origin, "secret", seconds, lambda: "key"), counter
    finally:
        origin.close()
        server.close()
        await counter.close()


def asking(desk: Desk, ids: range) -> list[asyncio.Task[Result]]:
    return [asyncio.create_task(desk.ask(Capture(str(id), None, f"key-{id}"))) for id in ids]


async def codes(tasks: list[asyncio.Task[Result]]) -> list[str]:
    return [result.problem.code for result in await asyncio.gather(*tasks)]


async def test_what_waits_goes_into_one_request() -> None:
    """The first is sent at once; what comes while it is under way goes together, and everyone has their own result."""
    async with a_desk() as (desk, counter):
        first = asking(desk, range(1))
        taken = await counter.asked.get()
        others = asking(desk, range(1, WORTH_A_REQUEST))
        await asyncio.sleep(0)
        counter.answer(*taken)
        operations, writer = await counter.asked.get()
        assert [each["ticketId"] for each in operations] == [str(id) for id in range(1, WORTH_A_REQUEST)]
        counter.answer(operations, writer)
        assert await codes([*first, *others]) == [str(id) for id in range(WORTH_A_REQUEST)]


async def test_much_that_waits_goes_out_beside_a_slow_request() -> None:
    """A request that hangs holds up few; there are never more than so many, of so much each."""
    async with a_desk() as (desk, counter):
        tasks = asking(desk, range(1))
        slow = await counter.asked.get()
        tasks += asking(desk, range(1, 1 + 3 * OPERATIONS_MAX))
        sizes = []
        for _ in range(3):
            operations, writer = await counter.asked.get()
            assert counter.asked.empty(), f"more than {REQUESTS_MAX} requests at once"
            sizes.append(len(operations))
            counter.answer(operations, writer)
        counter.answer(*slow)
        assert sizes == [OPERATIONS_MAX] * 3
        assert await codes(tasks) == [str(id) for id in range(1 + 3 * OPERATIONS_MAX)]


async def test_nothing_is_left_behind_when_two_requests_end_at_once() -> None:
    """What waits, too little for a request beside another, is asked for when both end in the same moment."""
    async with a_desk() as (desk, counter):
        tasks = asking(desk, range(1))
        one = await counter.asked.get()
        tasks += asking(desk, range(1, 1 + WORTH_A_REQUEST))
        other = await counter.asked.get()
        tasks += asking(desk, range(1 + WORTH_A_REQUEST, 4 + WORTH_A_REQUEST))
        await asyncio.sleep(0)
        counter.answer(*one)
        counter.answer(*other)
        counter.answer(*await counter.asked.get())
        assert await codes(tasks) == [str(id) for id in range(4 + WORTH_A_REQUEST)]


async def test_long_tokens_make_several_requests() -> None:
    """The engine takes 64 KiB at most."""
    async with a_desk() as (desk, counter):
        first = asking(desk, range(1))
        taken = await counter.asked.get()
        tasks = [asyncio.create_task(desk.ask(Redeem("x" * 8_000, "key"))) for _ in range(WORTH_A_REQUEST - 1)]
        await asyncio.sleep(0)
        counter.answer(*taken)
        left = len(tasks)
        while left:
            operations, writer = await counter.asked.get()
            assert len(json.dumps(operations)) < 64 * 1024
            left -= len(operations)
            counter.answer([{"ticketId": "x"} for _ in operations], writer)
        await asyncio.gather(*first, *tasks)


async def test_who_waits_for_a_turn_waits_no_longer_than_for_an_answer() -> None:
    """What was sent may have been done; what had no turn in time was not."""
    async with a_desk(seconds=0.1) as (desk, counter):
        sent = asking(desk, range(1))[0]
        await counter.asked.get()
        waiting = asking(desk, range(1, 2))[0]
        ends = await asyncio.gather(sent, waiting, return_exceptions=True)
        assert [(type(end), end.sent) for end in ends if isinstance(end, NoAnswer)] == [
            (NoAnswer, True), (NoAnswer, False)
        ]  # fmt: skip
        assert counter.asked.empty()


async def test_a_request_that_breaks_down_leaves_nobody_behind(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever goes wrong with one, its batch hears of it, the log has its trace, and the next request goes out."""
    async with a_desk() as (desk, counter):
        connect, broken = desk._origin.connection, asyncio.Event()

        async def once() -> Connection:
            monkeypatch.setattr(desk._origin, "connection", connect)
            await broken.wait()
            raise RuntimeError("nobody thought of that")

        monkeypatch.setattr(desk._origin, "connection", once)
        first = asking(desk, range(1))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        others = asking(desk, range(1, 4))
        await asyncio.sleep(0)
        broken.set()
        counter.answer(*await counter.asked.get())
        assert await codes(others) == ["1", "2", "3"]
        (end,) = await asyncio.gather(*first, return_exceptions=True)
        assert isinstance(end, NoAnswer) and "nobody thought of that" in caplog.text


WRONG: dict[str, tuple[bytes, type[Exception], bool | None]] = {
    "no JSON": (b"200 OK\r\ncontent-length: 2\r\n\r\nhi", NoAnswer, True),
    "too few results": (b'200 OK\r\ncontent-length: 14\r\n\r\n{"results":[]}', NoAnswer, True),
    "a result that is none": (b'200 OK\r\ncontent-length: 16\r\n\r\n{"results":["x"]', NoAnswer, True),
    "broken down": (b"500 Oops\r\ncontent-length: 0\r\n\r\n", NoAnswer, True),
    "busy": (b"429 Slowly\r\ncontent-length: 0\r\n\r\n", NoAnswer, False),
    "broken off": (b"200 OK\r\ncontent-length: 100\r\n\r\n{}", NoAnswer, True),
    "no key": (b"401 No\r\ncontent-length: 0\r\n\r\n", NotServed, None),
    "another server": (b"404 No\r\ncontent-length: 2\r\n\r\nno", NotServed, None),
    "endless": (b"200 OK\r\ncontent-length: 3000000\r\n\r\n" + b"x" * 2_000_000, NoAnswer, True),
}


@pytest.mark.parametrize("what", WRONG)
async def test_an_answer_that_is_none(what: str) -> None:
    """Everyone in the request hears of it, and whether it may have been done."""
    said, kind, sent = WRONG[what]
    async with a_desk() as (desk, counter):
        tasks = asking(desk, range(1))
        taken = await counter.asked.get()
        tasks += asking(desk, range(1, 4))
        await asyncio.sleep(0)
        counter.answer(*taken)
        _, writer = await counter.asked.get()
        writer.write(b"HTTP/1.1 " + said)
        writer.close()
        first, *ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(first, Result)
    assert [type(end) for end in ends] == [kind] * 3 and len({id(end) for end in ends}) == 3
    assert {getattr(end, "sent", None) for end in ends} == {sent}


@pytest.mark.parametrize("status", ["401 No", "404 No"])
async def test_a_redemption_that_may_have_been_done_is_not_forgotten(status: str) -> None:
    """Its answer is lost, and the next try is turned away, as by a load balancer that restarts: it may have been used.

    Where nothing was sent before, it was not, and the gate says so.
    """
    async with a_desk() as (desk, counter):
        for lost in (True, False):
            task = asyncio.create_task(desk.redeem("a.b.c", "key"))
            if lost:
                (await counter.asked.get())[1].close()
            operations, writer = await counter.asked.get()
            assert operations[0]["clientRequestId"] == "key"
            writer.write(f"HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n".encode())
            (end,) = await asyncio.gather(task, return_exceptions=True)
            assert isinstance(end, Lost) and end.sent if lost else isinstance(end, Unavailable)


@pytest.mark.parametrize(("status", "sent"), [(503, True), (500, True), (429, False)])
async def test_a_single_operation_that_broke_down(status: int, sent: bool) -> None:
    """It has no answer, and the others have theirs."""
    async with a_desk() as (desk, counter):
        tasks = asking(desk, range(2))
        operations, writer = await counter.asked.get()
        counter.answer(operations, writer, status)
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert [end.sent for end in ends if isinstance(end, NoAnswer)] == [sent, sent]


def test_requests_that_come_while_the_engine_is_busy_are_redeemed_together(make_pluct: Make) -> None:
    """Thirty clients while it answers nobody: all pass in the end, by few requests; each ticket is captured once."""
    engine = make_pluct(toml=TOML)
    engine.start()
    till, backend = Till(engine), Backend()
    tickets = [till.vend() for _ in range(30)]
    with gate_before(engine, backend.url, "--engine-seconds", "20") as gate:
        before = engine.log.count('"/v1/tickets/batch"')
        engine.signal(signal.SIGSTOP)
        clients = [gate.connect() for _ in tickets]
        for client, vended in zip(clients, tickets, strict=True):
            client.send(request(vended))
        with gate.connect() as refused:  # answered by the gate alone, after all that came before it
            refused.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            assert refused.answer()[0] == 401
        engine.signal(signal.SIGCONT)

        def serve(_: object) -> None:
            with backend.take() as wire:
                wire.head()
                wire.send(OK)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(serve, tickets))
        assert {client.answer()[0] for client in clients} == {200}
        assert {till.settled(vended) for vended in tickets} == {("captured", 5, 0)}
        until(lambda: engine.log.count('"/v1/tickets/{id}/capture"') >= 30)
        asked = engine.log.count('"/v1/tickets/batch"') - before
        for client in clients:
            client.close()
    backend.close()
    redeemed = engine.log.count('"/v1/tickets/redeem"')
    assert redeemed == 30 and asked <= 35, (redeemed, asked)
