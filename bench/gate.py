"""The gate against a plain reverse proxy made of the same parts, in front of the same backend.

`python -m bench.gate PORT UPSTREAM` is that proxy: it passes every request on, both ways, and knows no tickets.
"""

import asyncio
import itertools
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from starlette.types import Receive, Scope, Send

from bench import servers
from bench.harness import Bench
from bench.ledgers import funded
from pluct import app
from pluct.gate.client import Origin
from pluct.gate.headers import Asked, answer_headers, forwarding, request_head
from pluct.gate.protocol import LINE, GateProtocol, Line
from pluct.observe import Observer
from pluct.settings import load

USERS = 200
TOML = """
[actions.report]
settle = "report"
ttl_seconds = 86400
[actions.redeem]
settle = "redeem"
ttl_seconds = 86400
"""


def gate(bench: Bench) -> None:
    """What a request through the gate costs, and what of that is tickets."""
    requests = bench.size(20_000)
    folder = funded(bench.place("gate"), USERS)
    (folder / "pluct.toml").write_text(TOML)
    fresh = {action: itertools.count() for action in ("report", "redeem")}
    files = {action: _vended(folder, action, requests, bench.rounds + 1) for action in fresh}
    key = servers.api_key("service", folder)
    with servers.null("starlette") as upstream, servers.pluct(folder) as engine, proxy(upstream.url) as plain:
        command = ["gate", "--upstream", upstream.url, "--engine", engine.url, "--listen", "127.0.0.1:0", "--action"]

        def through(action: str) -> dict[str, float]:
            environment = os.environ | {"PLUCT_SERVICE_KEY": key}
            with servers.started([*command, action], folder, environment) as server:
                tokens = files[action][next(fresh[action])]
                before = servers.cpu_seconds(engine.pids[0])
                found = server.load(requests, USERS, tokens=tokens)
                return found | {"engine_us": (servers.cpu_seconds(engine.pids[0]) - before) / requests * 1e6}

        plain.load(bench.size(10_000), USERS)  # warm
        for action in fresh:
            through(action)
        found = bench.each_round("pluct gate", {
            "the backend itself": lambda: upstream.load(requests, USERS),
            "a plain reverse proxy of the same parts": lambda: plain.load(requests, USERS),
            "pluct gate, settle = redeem": lambda: through("redeem"),
            "pluct gate, settle = report": lambda: through("report"),
        })  # fmt: skip
    proxied = found["a plain reverse proxy of the same parts"]["rate"]
    rows = [
        f"| {name} | {r['rate']:,.0f} | {r['cpu_us']:.0f} | {r.get('engine_us', 0):.0f} | {r['p50_ms']:.2f} "
        f"| {r['p99_ms']:.2f} | {r['rate'] / proxied:.2f} |"
        for name, r in found.items()
    ]
    head = (
        "| 64 connections | requests/s | its CPU µs each | the engine's | p50 ms | p99 ms | ÷ the plain proxy |\n"
        "|---|---|---|---|---|---|---|"
    )
    bench.tables.append("### The gate\n\n" + "\n".join([head, *rows]))
    for action in fresh:
        share = found[f"pluct gate, settle = {action}"]["rate"] / proxied
        bench.target(f"gate (settle = {action}) ÷ plain reverse proxy", "≥ 0.5", share, "", share >= 0.5)


def _vended(folder: Path, action: str, count: int, files: int) -> list[Path]:
    """So many files of fresh tickets' tokens, a line each."""

    async def vend() -> list[Path]:
        engine = app.build_engine(load({}, folder), Observer(None), serving=False)
        await engine.store.open()
        made = []
        for number in range(files):
            tokens: list[str] = []
            for start in range(0, count, 500):
                some = range(start, min(start + 500, count))
                vendings = await asyncio.gather(*(engine.vend(f"user-{n % USERS}", action) for n in some))
                tokens += [vending.token for vending in vendings]
            made.append(folder / f"{action}-{number}.tokens")
            made[-1].write_text("\n".join(tokens))
        await engine.store.close()
        return made

    return asyncio.run(vend())


@contextmanager
def proxy(upstream: str) -> Iterator[servers.Server]:
    """The plain proxy, running."""
    with servers.listening("bench.gate", upstream) as server:
        yield server


class Plain:
    """A reverse proxy and no more."""

    def __init__(self, url: str) -> None:
        self._upstream = Origin(url, "UPSTREAM", connect_seconds=5, idle_seconds=1.5, connections_max=1000)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, whose body has come with its head."""
        line: Line = scope["extensions"][LINE]
        body = line.whole_body() or b""
        request = Asked(scope["method"].encode(), line.target, b"bench", scope["headers"], len(body), "")
        more = forwarding(request, scope["client"][0], believed=False)
        connection = await self._upstream.connection()
        try:
            connection.begin(
                request_head(request, b"", self._upstream.authority, more, believed=False) + body, is_head=False
            )
            head = await connection.head(60)
            line.start(
                head.status, head.reason, answer_headers(head.headers), head.length, empty=head.empty
            )  # fmt: skip
            data = connection.available()
            while not connection.complete:
                await line.write(data, 60)
                data = await connection.more(60)
            line.end(data)
        finally:
            connection.release()


if __name__ == "__main__":
    uvicorn.run(
        Plain(sys.argv[2]), port=int(sys.argv[1]), loop="uvloop", http=GateProtocol, ws="none", interface="asgi3",
        access_log=False, log_level="error", lifespan="off",
    )  # fmt: skip
