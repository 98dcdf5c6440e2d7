"""`make demo` tells the whole story."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from paying import free_port

ROOT = Path(__file__).parent.parent


def test_the_demo_tells_the_whole_story(tmp_path: Path) -> None:
    """Bought, held, captured in part, refused the second time, given back on failure; and nothing is left behind."""
    command = [sys.executable, "-m", "examples.transcriber.demo", "--port", str(free_port(3))]
    environment = os.environ | {"PYTHONPATH": "tests", "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, (done.stdout, done.stderr)
    said = [line.strip() for line in done.stdout.splitlines()]
    for line in (
        "402 The wallet does not hold enough credits.", "PIN typed, paid: 10 credits.",
        "5 credits left to spend, 5 held.", "401 This ticket was redeemed before; each ticket is good for one action.",
        "failed: Nothing could be understood. 4 returned.", "7 credits.", "You have 7 credits.", "Una krediti 7.",
        "pluct check: The ledger is sound.",
    ):  # fmt: skip
        assert line in said, (line, done.stdout)
    assert "3 minutes used, 2 returned." in done.stdout and not [*tmp_path.iterdir()]


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    """With the command that was typed."""
    port = free_port(3)
    command = [sys.executable, "-m", "examples.transcriber.demo", "--port", str(port)]
    environment = os.environ | {"PYTHONPATH": "tests", "TMPDIR": str(tmp_path)}
    with socket.create_server(("127.0.0.1", port + 2)):
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=90, check=False
        )
    assert done.returncode == 1 and f"is port {port + 2} free? make demo PORT=9000" in done.stderr
    assert "Traceback" not in done.stderr and not [*tmp_path.iterdir()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_whoever_has_seen_enough_stops_it(tmp_path: Path, number: int) -> None:
    """In the middle of the story, with one word, and nothing is left behind."""
    command = [sys.executable, "-m", "examples.transcriber.demo", "--port", str(free_port(3))]
    environment = os.environ | {"PYTHONPATH": "tests", "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert "The engine is at" in process.stdout.readline()
        process.send_signal(number)
        said = process.stdout.read()
        assert process.stderr.read() == "" and process.wait(30) == 0
    assert said.splitlines()[-1] == "Stopped." and not [*tmp_path.iterdir()]
