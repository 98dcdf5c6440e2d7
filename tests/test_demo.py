"""`make demo` tells the whole story."""

import os
import subprocess
import sys
from pathlib import Path

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
