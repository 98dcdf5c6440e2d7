"""A load generator for `POST /vend-token`: connections with one request in flight each. Prints one JSON line.

It shares the machine's cores with what it measures, so it does as little as it can: requests are made beforehand,
and of an answer only the status and the length are read.

`python -m bench.load URL[,URL…] REQUESTS USERS CONNECTIONS [TOKENS]`: connections go to the servers in turn; with a
file of tickets' tokens, one a line, each request carries one of them
"""

import asyncio
import json
import random
import sys
import time
from array import array
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import uvloop


class Run:
    """What all connections share."""

    def __init__(self, host: str, requests: int, users: int, connections: int, tokens: list[str]) -> None:
        head = (
            "POST /vend-token HTTP/1.1\r\nhost: {}\r\n{}content-type: application/json\r\ncontent-length: {}\r\n\r\n{}"
        )
        bodies = [f'{{"userId":"user-{user}"}}' for user in range(users)]
        if tokens:
            carried = (f"authorization: Bearer {token}\r\n" for token in tokens)
            each = [head.format(host, line, len(bodies[0]), bodies[0]).encode() for line in carried]
            self.requests = iter(each[:requests])
        else:
            each = [head.format(host, "", len(body), body).encode() for body in bodies]
            self.requests = iter(random.choices(each, k=requests))
        self.open = connections
        self.latencies = array("d")
        self.statuses: dict[bytes, int] = {}
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Connection(asyncio.Protocol):
    """One keep-alive connection."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._received = b""
        self._sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own kind
        self._send()

    def data_received(self, data: bytes) -> None:
        """Count an answer once it is whole, and ask again."""
        if self._received:
            data = self._received + data
        end = data.find(b"\r\n\r\n")
        if end > 0:
            at = data.index(b"\r\ncontent-length: ", 0, end) + 18
            end += 4 + int(data[at : data.index(b"\r", at)])
        if end < 0 or len(data) < end:
            self._received = data
            return
        self._received = b""
        run, status = self._run, data[9:12]
        run.latencies.append(time.perf_counter() - self._sent_at)
        run.statuses[status] = run.statuses.get(status, 0) + 1
        self._send()

    def connection_lost(self, error: Exception | None) -> None:
        """The last one out ends the run."""
        self._run.open -= 1
        if not self._run.open:
            self._run.done.set_result(None)

    def _send(self) -> None:
        request = next(self._run.requests, None)
        if request is None:
            self._transport.close()
            return
        self._sent_at = time.perf_counter()
        self._transport.write(request)


async def main(urls: str, requests: int, users: int, connections: int, tokens: list[str]) -> None:
    """Run, and print rate, latencies in ms, statuses, and what the load itself cost."""
    addresses = [urlsplit(url) for url in urls.split(",")]
    run = Run(str(addresses[0].hostname), requests, users, connections, tokens)
    loop = asyncio.get_running_loop()
    started, cpu = time.perf_counter(), time.process_time()
    for at in range(connections):
        address = addresses[at % len(addresses)]
        await loop.create_connection(lambda: Connection(run), address.hostname, address.port)
    await run.done
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    latencies = sorted(run.latencies)
    at = [latencies[int(len(latencies) * share)] * 1000 for share in (0.5, 0.99)]
    statuses = {status.decode(): count for status, count in run.statuses.items()}
    result = {"rate": len(latencies) / seconds, "p50_ms": at[0], "p99_ms": at[1], "statuses": statuses}
    print(json.dumps(result | {"load_cpu_us": cpu / len(latencies) * 1e6}))


if __name__ == "__main__":
    lines = Path(sys.argv[5]).read_text().splitlines() if len(sys.argv) > 5 else []
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), lines))
