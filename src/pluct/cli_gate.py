"""`pluct gate`: the reverse proxy that lets a request through only with a ticket."""

import os
import re

import click
import msgspec

from pluct import app
from pluct.commands import text
from pluct.errors import InvalidRequest, SetupError
from pluct.gate.proxy import GateSettings, Limits
from pluct.terminal import example

KEY = "PLUCT_SERVICE_KEY"
_usual = Limits()
_SECONDS = click.FloatRange(0.1, 86_400)


@click.command(
    short_help="Guard a backend: a request passes only with a ticket.",
    epilog=example(
        "pluct keys create --role service --name gate    # once, where the ledger is",
        "PLUCT_SERVICE_KEY=pluct_service_… pluct gate --upstream http://127.0.0.1:9000 \\\n"
        "      --engine http://127.0.0.1:8787 --action transcribe",
    ),
)
@click.option("--upstream", required=True, metavar="URL", help="The backend that is guarded.")
@click.option("--engine", required=True, metavar="URL", help="The engine that vends the tickets.")
@click.option("--action", required=True, metavar="NAME", help="The action whose tickets are good here.")
@click.option("--listen", default="127.0.0.1:8788", show_default=True, metavar="H:P", help="Port 0 picks one.")
@click.option("--behind-proxy", is_flag=True, help="Believe the X-Forwarded headers that come in, and add to them.")
@click.option("--requests-max", type=click.IntRange(1, 100_000), default=_usual.requests_max, show_default=True,
              help="Requests at once; more are answered 503, with their tickets unused.")  # fmt: skip
@click.option("--body-bytes-max", type=click.IntRange(0, 10**15), default=_usual.body_bytes_max, show_default=True,
              help="Of a request's body.")  # fmt: skip
@click.option("--upstream-seconds", type=_SECONDS, default=_usual.upstream_seconds, show_default=True,
              help="The longest silence of the backend.")  # fmt: skip
@click.option("--client-seconds", type=_SECONDS, default=_usual.client_seconds, show_default=True,
              help="The longest silence of a client that is sending, or deafness of one that is answered.")  # fmt: skip
@click.option("--connect-seconds", type=_SECONDS, default=_usual.connect_seconds, show_default=True,
              help="To reach the backend or the engine.")  # fmt: skip
@click.option("--engine-seconds", type=_SECONDS, default=_usual.engine_seconds, show_default=True,
              help="For one answer of the engine, or a turn to ask; it is asked three times to redeem a ticket.",
)  # fmt: skip
@click.option("--settle-seconds", type=_SECONDS, default=_usual.settle_seconds, show_default=True,
              help="How long the engine is asked to settle a ticket while it cannot.")  # fmt: skip
@click.option("--drain", type=click.FloatRange(0, 300), default=0.0, metavar="SECONDS",
              help="When told to stop, go on so long.  [default: 0]")  # fmt: skip
def gate(
    upstream: str, engine: str, action: str, listen: str, behind_proxy: bool, drain: float, **limits: float
) -> None:
    """Let requests through to a backend only with a ticket: Authorization: Bearer TOKEN.

    Each ticket is redeemed at the engine first, once. The backend is told whose it is (X-Pluct-User, X-Pluct-Ticket,
    X-Pluct-Action) and never sees it. By its answer the ticket is settled: 2xx and 3xx capture its credits, everything
    else gives them back. docs/gate.md says what is guaranteed. The engine's key comes from PLUCT_SERVICE_KEY.
    """
    key = os.environ.get(KEY, "")
    if not re.fullmatch(r"[\x21-\x7e]+", key):
        raise SetupError(
            f"{KEY} must be set to a key of the role service: pluct keys create --role service --name gate"
        )
    host, colon, port = listen.rpartition(":")
    if not colon or not host or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise SetupError("--listen must be HOST:PORT, such as 127.0.0.1:8788; port 0 picks a free one.")
    try:
        text(action, "--action")
    except InvalidRequest as error:
        raise SetupError(error.sentence) from None
    found = msgspec.convert(limits, Limits)
    app.serve_gate(GateSettings(action, upstream, engine, host.strip("[]"), int(port), key, found, behind_proxy, drain))
