"""What machines around the engine ask: health, metrics, public keys, and the interface itself."""

import msgspec

from pluct import __version__
from pluct.engine import Engine
from pluct.errors import RouteNotFound
from pluct.web.endpoint import Answer, Call


class HealthAnswer(msgspec.Struct):
    """All is well."""

    status: str
    version: str


class JwksAnswer(msgspec.Struct):
    """A JWK set (RFC 7517)."""

    keys: list[dict[str, str]]


async def health(engine: Engine, call: Call) -> Answer:
    """The process answers."""
    return Answer(HealthAnswer("ok", __version__))


async def ready(engine: Engine, call: Call) -> Answer:
    """The store commits: it was asked to, just now."""
    await engine.probe()
    return Answer(HealthAnswer("ok", __version__))


async def metrics(engine: Engine, call: Call) -> Answer:
    """Counters and latencies in the Prometheus text format."""
    return Answer(engine.observer.metrics(), content_type=b"text/plain; version=0.0.4; charset=utf-8")


async def jwks(engine: Engine, call: Call) -> Answer:
    """The public keys of tickets; none where they have always been signed with a shared secret."""
    return Answer(engine.signer.jwks(), headers=((b"cache-control", b"public, max-age=300"),))


async def not_found(engine: Engine, call: Call) -> Answer:
    """No such address."""
    raise RouteNotFound
