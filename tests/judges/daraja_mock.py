"""Our Daraja client against the `daraja-mock` package, a Daraja that somebody else wrote.

`make judge` runs it. The package is installed into a folder that is thrown away: it is neither a dependency nor part of
any lock. It answers tokens, pushes, queries and status requests, checks nothing and calls nobody back, so what it can
judge is whether what we send is taken and what it answers is understood.
"""

import asyncio
import hashlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from msgspec.structs import replace

from pluct.errors import InvalidRequest
from pluct.gateways.daraja import Daraja, make
from pluct.gateways.daraja_settings import DarajaSettings
from pluct.gateways.privacy import Privacy
from pluct.model import Checkout
from pluct.payment_codes import make as payment_code

PACKAGE = "daraja-mock==1.0.5"
SECRETS = {
    "DARAJA_CONSUMER_KEY": "test_key",
    "DARAJA_CONSUMER_SECRET": "test_secret",
    "DARAJA_PASSKEY": "passkey",
    "DARAJA_PATH_TOKEN": "0123456789abcdef0123456789abcdef",
    "DARAJA_INITIATOR": "initiator",
    "DARAJA_SECURITY_CREDENTIAL": "credential",
}
#: What runs in the judge's own Python: a port is chosen, and each line of input is the next result of a query.
SERVE = """
import socket, sys
from daraja_mock import DarajaMock
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
mock = DarajaMock()
print(mock.run_thread(port=port), file=sys.stderr, flush=True)
for line in sys.stdin:
    mock.set_stk_result(int(line))
    print(len(mock.request_log()), file=sys.stderr, flush=True)
"""


@contextmanager
def judge() -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The package's server, in a Python of its own."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        python = Path(folder) / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", PACKAGE], check=True, stderr=subprocess.DEVNULL)
        process = subprocess.Popen(
            [python, "-c", SERVE], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        try:
            yield _line(process, "http"), process
        finally:
            process.kill()
            process.wait()


def _line(process: subprocess.Popen[str], start: str = "") -> str:
    """The next line that starts so; the server's own log stands between."""
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(start) and (start or line.strip().isdigit()):
            return line.strip()
    raise SystemExit("daraja-mock ended.")


async def examine(gateway: Daraja, process: subprocess.Popen[str]) -> None:
    """Push, ask for each result, ask for a confirmation, register; print what came of it."""
    checkout = Checkout(
        "c1", "amina", "daraja", "starter", "KES", 10_000, 10, payment_code(7), hashlib.sha256(b"t").digest(),
        "created", 0, 0,
    )  # fmt: skip
    started = await gateway.start(checkout, "t", "0712345678")
    print(f"push: {started.state}, reference {started.reference}: {started.message}")
    assert started.state == "pending" and started.reference
    asked = replace(checkout, gateway_reference=started.reference)
    assert process.stdin is not None
    for code in (0, 1, 1001, 1032, 1037, 2001):
        process.stdin.write(f"{code}\n")
        process.stdin.flush()
        _line(process)
        notice = await gateway.ask(asked)
        assert notice is not None
        print(f"query {code}: {type(notice.said).__name__} {notice.note}")
    print(f"status: {(await gateway.confirm('TKM1ABC234')).note}")
    try:
        print(f"register: {await gateway.register_urls()}")
    except InvalidRequest as refused:
        print(f"register: refused: {refused}")


def now_ms() -> int:
    """The time."""
    return time.time_ns() // 1_000_000


async def main() -> None:
    """The whole examination."""
    with judge() as (url, process):
        async with httpx.AsyncClient(trust_env=False) as client:
            told = DarajaSettings(base_url=url)
            gateway = make(told, SECRETS, "https://pay.example", client, Privacy(b"judge"), now_ms)
            await examine(gateway, process)


if __name__ == "__main__":
    asyncio.run(main())
