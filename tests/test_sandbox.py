"""`make sandbox` as a newcomer meets it: what it prints is typed in, and money becomes credits."""

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from conftest import until
from paying import free_port

TESTS = Path(__file__).parent


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_what_the_sandbox_prints_works() -> None:
    """From the phone's prompt to a ticket that is accepted once; and nothing is left when it is stopped."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "doubles.sandbox", "--port", str(port)], cwd=TESTS, stdout=subprocess.PIPE, text=True
    )
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
        process.wait(20)
        process.stdout.close()
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)
