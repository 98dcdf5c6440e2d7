"""A load generator for `POST /vend-token`: connections with one request in flight each. Prints one JSON line.

`python -m bench.load URL REQUESTS USERS CONNECTIONS`
"""

import asyncio
import json
import random
import sys
import time
from array import array
from typing import cast
from urllib.parse import urlsplit

import uvloop


class Run:
    """What all connections share."""

    def __init__(self, host: str, requests: int, users: int, connections: int) -> None:
        self.host = host.encode()
        self.left = requests
        self.users = users
        self.open = connections
        self.latencies = array("d")
        self.statuses: dict[str, int] = {}
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def request(self) -> bytes:
        """The next request: a vend for a random user."""
        body = b'{"userId":"user-%d"}' % random.randrange(self.users)
        head = b"POST /vend-token HTTP/1.1\r\nhost: %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        return head % (self.host, len(body)) + body


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
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        lower = head.lower()
        _, found, rest = lower.partition(b"\r\ncontent-length: ")
        assert found, "every answer has a length"
        if len(body) < int(rest.partition(b"\r\n")[0]):
            return
        run = self._run
        run.latencies.append(time.perf_counter() - self._sent_at)
        status = head[9:12].decode()
        run.statuses[status] = run.statuses.get(status, 0) + 1
        self._received = b""
        self._send()

    def connection_lost(self, error: Exception | None) -> None:
        """The last one out ends the run."""
        self._run.open -= 1
        if not self._run.open:
            self._run.done.set_result(None)

    def _send(self) -> None:
        run = self._run
        if not run.left:
            self._transport.close()
            return
        run.left -= 1
        self._sent_at = time.perf_counter()
        self._transport.write(run.request())


async def main(url: str, requests: int, users: int, connections: int) -> None:
    """Run, and print rate, latencies in ms and statuses."""
    address = urlsplit(url)
    assert address.hostname and address.port
    run = Run(address.hostname, requests, users, connections)
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    for _ in range(connections):
        await loop.create_connection(lambda: Connection(run), address.hostname, address.port)
    await run.done
    seconds = time.perf_counter() - started
    latencies = sorted(run.latencies)
    at = [latencies[int(len(latencies) * share)] * 1000 for share in (0.5, 0.99)]
    result = {"rate": len(latencies) / seconds, "p50_ms": at[0], "p99_ms": at[1], "statuses": run.statuses}
    print(json.dumps(result))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], *map(int, sys.argv[2:5])))
