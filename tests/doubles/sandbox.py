"""An engine and a Daraja simulator side by side, to see money become credits with no account anywhere.

`make sandbox` runs it, prints what to type, and forgets everything when it is stopped with Ctrl-C.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from doubles.daraja import CONSUMER_KEY, CONSUMER_SECRET, PASSKEY

TESTS = Path(__file__).parent.parent
#: What is taken over from the environment: settings of a real engine are none of the sandbox's.
KEPT = ("PATH", "HOME", "LANG", "TMPDIR")
SECRETS = {
    "DARAJA_CONSUMER_KEY": CONSUMER_KEY, "DARAJA_CONSUMER_SECRET": CONSUMER_SECRET, "DARAJA_PASSKEY": PASSKEY,
    "DARAJA_PATH_TOKEN": "5a4db0c5a4db0c5a4db0c5a4db0c5a4d",
}  # fmt: skip
TOML = """
[[packs]]
id = "starter"
name = "10 credits"
currency = "KES"
price = "100.00"
credits = 10

[[packs]]
id = "cancelled"
name = "a pack whose prompt is cancelled"
currency = "KES"
price = "101.00"
credits = 10
"""
GATEWAY = """
[payments]
callback_base_url = "http://127.0.0.1:{port}"

[gateways.daraja]
base_url = "{daraja}"
query_after_seconds = 5
"""
SAY = r"""
Listening on {engine}. M-Pesa is played by {daraja}; there is no real money.

1. Buy a pack. The phone is "prompted", and its owner types the PIN two seconds later:

curl -s {engine}/v1/checkouts -d '{{"userId":"amina","pack":"starter","gateway":"daraja","phone":"0712345678"}}'

2. Spend a credit on a ticket, which is what the app would send to your premium backend:

TOKEN=$(curl -s {engine}/vend-token -d '{{"userId":"amina"}}' | sed 's/.*"token":"\([^"]*\)".*/\1/')

3. Accept the ticket, as the backend does. A second time it is refused:

curl -s {engine}/v1/tickets/redeem -H 'Authorization: Bearer {service}' -d "{{\"token\":\"$TOKEN\"}}"

Also to try: the balance, {engine}/v1/credits/balance?userId=amina · the pack "cancelled" · what came in:
curl -s {engine}/v1/payments -H 'Authorization: Bearer {operator}'

Ctrl-C ends it, and everything is forgotten.
"""


def main() -> None:
    """Run both until Ctrl-C or SIGTERM, whenever that comes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8787, help="the engine's port (the simulator has the next one)")
    port: int = parser.parse_args().port
    ended_by_signals()
    with suppress(KeyboardInterrupt):
        _sandbox(port)
    print("\nStopped.")


def _sandbox(port: int) -> None:
    engine, daraja = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port + 1}"
    with ExitStack() as stack:
        world = begin(stack, port, TOML)
        print(SAY.format(engine=engine, daraja=daraja, service=world.key("service"), operator=world.key("operator")))
        sys.stdout.flush()
        world.serving.wait()


class World(NamedTuple):
    """An engine that runs beside the simulator, in a folder of its own."""

    folder: Path
    environment: dict[str, str]
    serving: "subprocess.Popen[str]"

    def pluct(self, *arguments: str) -> str:
        """What a command prints."""
        command = [sys.executable, "-m", "pluct", *arguments]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, check=True, capture_output=True, text=True
        )  # fmt: skip
        return done.stdout

    def key(self, role: str) -> str:
        """The secret of a new API key."""
        secret: str = json.loads(self.pluct("keys", "create", "--role", role, "--name", "sandbox", "--json"))["secret"]
        return secret


def begin(stack: ExitStack, port: int, toml: str, command: str = "make sandbox") -> World:
    """Start the simulator at the next port and an engine at this one; both end with the stack, and are forgotten."""
    daraja = f"http://127.0.0.1:{port + 1}"
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pluct-sandbox-")))
    (folder / "pluct.toml").write_text(toml + GATEWAY.format(port=port, daraja=daraja))
    environment = {name: os.environ[name] for name in KEPT if name in os.environ}
    environment |= SECRETS | {"DATABASE_URL": "sqlite:///pluct.db"}
    simulator = [sys.executable, "-m", "doubles.daraja", "--port", str(port + 1), "--delay", "2"]
    answers(run(stack, simulator, TESTS, environment), "The simulator", port + 1, command)
    serving = run(stack, [sys.executable, "-m", "pluct", "serve", "--port", str(port)], folder, environment)
    answers(serving, "The engine", port, command)
    return World(folder, environment, serving)


def answers(process: "subprocess.Popen[str]", who: str, port: int, command: str) -> None:
    """Wait until it says that it listens; where it does not, say what to type instead of the command."""
    assert process.stdout is not None
    if not process.stdout.readline().startswith("listening on"):
        sys.exit(f"{who} did not start: is port {port} free? {command} PORT=9000 takes another.")


def run(stack: ExitStack, command: list[str], folder: Path, environment: dict[str, str]) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    stack.callback(process.wait)
    stack.callback(process.terminate)
    return process


def ended_by_signals() -> None:
    """Let SIGTERM and SIGINT be a `KeyboardInterrupt`, whatever they are now."""
    for number in (signal.SIGTERM, signal.SIGINT):  # a shell lets what it runs in the background ignore the latter
        signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
