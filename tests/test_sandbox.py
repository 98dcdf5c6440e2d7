"""`make sandbox` as a newcomer meets it: what it prints is typed in, and money becomes credits."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from conftest import until
from paying import free_port

TESTS = Path(__file__).parent


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_what_the_sandbox_prints_works(tmp_path: Path) -> None:
    """From the phone's prompt to a ticket that is accepted once; and nothing is left when it is stopped.

    What is set for a real engine on the same machine does not reach it.
    """
    port = free_port(2)
    real = {
        "PLUCT_ENV": "production", "PLUCT_USER_AUTH": "token", "PLUCT_CONFIG": str(tmp_path / "none" / "pluct.toml"),
        "DATABASE_READ_URL": "postgresql://real", "PRIVACY_SECRET": "", "TMPDIR": str(tmp_path),
    }  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "doubles.sandbox", "--port", str(port)], cwd=TESTS, stdout=subprocess.PIPE, text=True,
        stderr=subprocess.STDOUT, env=os.environ | real,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        said = ""
        while "Ctrl-C" not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        buy, vend, redeem, payments = re.findall(r"^(?:curl|TOKEN=).*$", said, flags=re.M)
        url = f"http://127.0.0.1:{port}/v1/credits/balance?userId=amina"

        def typed(*commands: str) -> str:
            return subprocess.run(
                ["bash", "-c", "\n".join(commands)], check=True, capture_output=True, text=True
            ).stdout

        assert json.loads(typed(buy))["state"] == "pending"
        until(lambda: httpx.get(url).json()["available"] == 10, 15)
        accepted = typed(vend, redeem, "echo", redeem).splitlines()
        assert json.loads(accepted[0])["ok"] is True and json.loads(accepted[1])["code"] == "ticket_already_redeemed"
        assert json.loads(typed(payments))["payments"][0]["state"] == "paid"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
        last = process.stdout.read()
        process.stdout.close()
    assert (process.returncode, last.split()) == (0, ["Stopped."]) and list(tmp_path.iterdir()) == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)


@pytest.mark.parametrize("which", [0, 1])
def test_a_port_that_is_taken_is_named(tmp_path: Path, which: int) -> None:
    """The engine's or the simulator's: a sentence, and nothing is left."""
    port = free_port(2) + which
    with socket.create_server(("127.0.0.1", port)):
        done = subprocess.run(
            [sys.executable, "-m", "doubles.sandbox", "--port", str(port - which)], cwd=TESTS, capture_output=True,
            text=True, timeout=60, env=os.environ | {"TMPDIR": str(tmp_path)}, check=False,
        )  # fmt: skip
    assert done.returncode == 1 and f"is port {port} free?" in done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
