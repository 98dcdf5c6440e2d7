"""What it costs a premium backend to check a ticket, at each level of the verifier."""

import json
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench import servers
from bench.harness import Bench, Figures
from bench.ledgers import funded
from conftest import JWT_SECRET
from pluct_verifier import SeenFile, SeenMemory, SeenRedis, Verifier
from pluct_verifier.seen import Seen
from verifier_world import Key, Publisher, running_redis, signed

TOKENS = 4_000
SLOW_TOKENS = 400


def _claims() -> dict[str, Any]:
    now = int(time.time())
    return {
        "iss": "pluct-business-engine", "aud": "premium", "sub": "user-17", "jti": str(uuid.uuid4()), "iat": now,
        "nbf": now, "exp": now + 3_600, "act": "default", "cost": 1,
    }  # fmt: skip


def _measured(work: Callable[[Any], object], items: list[Any]) -> Figures:
    """What one item costs: CPU of this process, and time."""
    started, spent = time.perf_counter(), time.process_time()
    for item in items:
        work(item)
    cpu, wall = time.process_time() - spent, time.perf_counter() - started
    return {"cpu_us": cpu / len(items) * 1e6, "wall_us": wall / len(items) * 1e6}


def verify(bench: Bench) -> None:
    """A ticket checked offline, once each, and at the engine; one core, one ticket after the other."""
    place, publisher, key = bench.place("verify"), Publisher(), Key("k1")
    publisher.publish(key)
    with ExitStack() as stack:
        stack.callback(publisher.close)
        url = stack.enter_context(running_redis(place))
        engine = stack.enter_context(servers.pluct(funded(bench.place("redeem"), 100)))
        secret: dict[str, Any] = {"audience": "premium", "secret": JWT_SECRET}
        hs256, eddsa = Verifier.offline(**secret), Verifier.offline(audience="premium", jwks_url=publisher.url)
        stores: dict[str, Seen] = {
            "memory": SeenMemory(10**7),
            "a file": SeenFile(place / "seen.db"),
            "Redis": SeenRedis(url),
        }
        once = {name: Verifier.once(seen=seen, **secret) for name, seen in stores.items()}
        strict = Verifier.strict(engine=engine.url, key=_service_key(bench.folder / "redeem"), audience="premium")
        private, message = Ed25519PrivateKey.generate(), b"x" * 300
        public, signature = private.public_key(), private.sign(message)

        def hs(count: int) -> list[str]:
            return [signed(_claims(), secret=JWT_SECRET) for _ in range(bench.size(count))]

        vend = _vends(engine.url)
        candidates: dict[str, Callable[[], Figures]] = {
            "Ed25519 in the library, nothing else": lambda: _measured(
                lambda _: public.verify(signature, message), [None] * bench.size(TOKENS)
            ),
            "offline, HS256": lambda: _measured(hs256.accept, hs(TOKENS)),
            "offline, EdDSA": lambda: _measured(eddsa.accept, [key.sign(_claims()) for _ in range(bench.size(TOKENS))]),
            "once, memory": lambda: _measured(once["memory"].accept, hs(TOKENS)),
            "once, a file": lambda: _measured(once["a file"].accept, hs(SLOW_TOKENS)),
            "once, Redis": lambda: _measured(once["Redis"].accept, hs(SLOW_TOKENS)),
            "strict": lambda: _measured(strict.accept, [next(vend) for _ in range(bench.size(SLOW_TOKENS))]),
        }
        found = bench.each_round("verifier", candidates)
        asked = _redeemed(engine.url) / (bench.rounds * bench.size(SLOW_TOKENS))
    rows = [f"| {name} | {r['cpu_us']:.1f} | {r['wall_us']:,.1f} |" for name, r in found.items()]
    head = "| one ticket | CPU µs of the backend | µs until the answer |\n|---|---|---|"
    bench.tables.append("### Checking a ticket\n\n" + "\n".join([head, *rows]))
    cpu = {name: figures["cpu_us"] for name, figures in found.items()}
    adds = cpu["once, memory"] - cpu["offline, HS256"]
    bench.target("verifier: offline, HS256", "< 25 µs", cpu["offline, HS256"], "µs", cpu["offline, HS256"] < 25)
    bench.target("verifier: offline, EdDSA", "< 120 µs", cpu["offline, EdDSA"], "µs", cpu["offline, EdDSA"] < 120)
    bench.target("verifier: once in memory adds", "< 10 µs", adds, "µs", adds < 10)
    bench.target("verifier: requests to the engine per ticket, strict", "1", asked, "", asked == 1)


def _service_key(folder: Path) -> str:
    command = [sys.executable, "-m", "pluct", "keys", "create", "--role", "service", "--name", "bench", "--json"]
    said = json.loads(subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE).stdout)
    return str(said["secret"])


def _vends(url: str) -> Iterator[str]:
    with httpx.Client(base_url=url) as client:
        while True:
            yield client.post("/vend-token", json={"userId": "user-17"}).raise_for_status().json()["token"]


def _redeemed(url: str) -> float:
    said = httpx.get(f"{url}/metrics").text
    return sum(float(n) for n in re.findall(r'^pluct_requests_total\{.*/redeem".*\} (\S+)$', said, flags=re.M))
