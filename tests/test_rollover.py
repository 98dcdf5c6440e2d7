"""A rolling restart of two servers behind a real load balancer, under load: no request is lost, and none is done twice.

The balancers are set up as docs/operations.md says, but for shorter times.
"""

import asyncio
import json
import random
import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest

from conftest import Pluct, until
from postgres import free_ports, fresh_database

Make = Callable[..., Pluct]
CLIENTS = 24
OPERATIONS = (Path(__file__).parent.parent / "docs" / "operations.md").read_text("utf-8")

#: What goes around the docs' part, the times in it that are too long for a test, and how to run it.
BALANCERS = {
    "haproxy": (
        "defaults\n mode http\n timeout connect 1s\n timeout client 30s\n timeout server 30s\n"
        "frontend public\n bind 127.0.0.1:{port}\n default_backend pluct\n{part}",
        ("inter 1s", "inter 300ms"),
        ["-db", "-f"],
    ),
    "nginx": (
        "daemon off; pid {folder}/pid; error_log {folder}/errors; events {{}}\n"
        "http {{ access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;\n"
        "fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;\n{part} }}",
        ("keepalive_timeout 5s", "keepalive_timeout 1s"),
        ["-e", "stderr", "-c"],
    ),
}


def configuration(name: str, folder: Path, port: int, a: int, b: int) -> str:
    """The balancer's configuration: as docs/operations.md has it, between these ports."""
    frame, (long, short), _ = BALANCERS[name]
    (part,) = re.findall(rf"^```{name}\n(.*?)^```$", OPERATIONS, flags=re.M | re.S)
    changes = [("10.0.0.1:8787", f"127.0.0.1:{a}"), ("10.0.0.2:8787", f"127.0.0.1:{b}"), (long, short)]
    for old, new in changes + ([("listen 80", f"listen 127.0.0.1:{port}")] if name == "nginx" else []):
        assert part.count(old) == 1
        part = part.replace(old, new)
    return frame.format(folder=folder, port=port, part=part)


@contextmanager
def balancer(name: str, folder: Path, a: int, b: int) -> Iterator[str]:
    """A running balancer over servers on these ports; its address."""
    program = shutil.which(name, path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if program is None:
        pytest.skip(f"{name} is not installed")
    (port,) = free_ports(1)
    folder.mkdir()
    (folder / "conf").write_text(configuration(name, folder, port, a, b))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, *BALANCERS[name][2], str(folder / "conf")], stdout=log, stderr=log)
        try:
            until(lambda: served(port), 15)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGQUIT if name == "nginx" else signal.SIGTERM)
            process.wait(30)


def served(port: int) -> bool:
    """Whether a request to this port comes through to a server that is ready."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health/ready", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


class Load:
    """Clients that vend through the balancer, one after the other, until they are told to stop."""

    def __init__(self, address: str, user: str) -> None:
        self.port = int(address.rpartition(":")[2])
        body = json.dumps({"userId": user}).encode()
        self.request = b"POST /vend-token HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        self.ends: Counter[str] = Counter()  #: by status, or by the error that came instead
        self.going = True

    async def run(self) -> None:
        await asyncio.gather(*(self._client(random.Random(number)) for number in range(CLIENTS)))

    async def _client(self, dice: random.Random) -> None:
        """A plain client, since the more requests there are, the more of them meet a server that is just leaving."""
        writer = None
        while self.going:
            try:
                if writer is None:
                    reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.write(self.request)
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                await reader.readexactly(int(re.findall(r"content-length: (\d+)", head)[0]))
                self.ends[head.split()[1]] += 1
                if "connection: close" in head:
                    writer.close()
                    writer = None
            except (OSError, EOFError) as error:
                self.ends[type(error).__name__] += 1
                writer = None
            await asyncio.sleep(dice.choice([0, 0, 0, 0.001, 0.01, 0.1]))  # connections are idle for any time
        if writer is not None:
            writer.close()

    def until_more(self) -> None:
        """Wait until it has gone on for a while."""
        so_far = self.ends.total()
        until(lambda: self.ends.total() > so_far + 40 * CLIENTS, 30)


def taken(pluct: Pluct) -> bool:
    """Whether vends come to this server."""
    return 'route="/vend-token"' in pluct.client.get("/metrics").text


@pytest.mark.parametrize(("name", "options"), [("haproxy", "--drain 1.5"), ("nginx", "--workers 2")])
def test_a_rolling_restart_loses_no_request(
    make_pluct: Make, postgresql_url: str, tmp_path: Path, name: str, options: str
) -> None:
    """Every vend is answered with a ticket while both servers are replaced in turn, and no ticket is made twice."""
    url, ports = fresh_database(postgresql_url), free_ports(2)
    pair = [make_pluct(f"engine-{port}", DATABASE_URL=url) for port in ports]

    def start(at: int) -> None:
        pair[at].start("--port", str(ports[at]), *options.split())

    start(0)
    start(1)
    user = pair[0].funded(1_000_000)
    with balancer(name, tmp_path / name, *ports) as address, ThreadPoolExecutor() as pool:
        load = Load(address, user)
        running = pool.submit(asyncio.run, load.run())
        try:
            for at in (0, 1, 0):
                load.until_more()
                assert pair[at].stop() == 0
                load.until_more()
                start(at)
                until(partial(taken, pair[at]), 15)
        finally:
            load.going = False
            running.result(60)
    assert set(load.ends) == {"200"}, load.ends
    assert pair[0].available(user) == 1_000_000 - load.ends["200"]
