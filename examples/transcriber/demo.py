"""`make demo`: the engine, a played M-Pesa, the transcriber and a user, and at the end the user's statement.

Everything runs on this machine, no account is needed, and all is forgotten afterwards.
"""

import argparse
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

from examples.transcriber.play import USER, play

from doubles.sandbox import answers, begin, ended_by_signals, run

HERE = Path(__file__).parent


def main() -> None:
    """Run all of it, tell the story, and stop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8787, help="the engine's port; the two next are taken as well")
    port: int = parser.parse_args().port
    ended_by_signals()
    with suppress(KeyboardInterrupt):
        _demo(port)
        return
    print("\nStopped.")


def _demo(port: int) -> None:
    engine, backend = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port + 2}"
    with ExitStack() as stack:
        world = begin(stack, port, (HERE / "pluct.toml").read_text(), "make demo")
        environment = world.environment | {"ENGINE": engine, "SERVICE_KEY": world.key("service")}
        command = ["-m", "examples.transcriber.serve", str(port + 2)]
        transcriber = run(stack, [sys.executable, *command], HERE.parent.parent, environment)
        answers(transcriber, "The transcriber", port + 2, "make demo")
        print(f"The engine is at {engine}, the transcriber at {backend}, and M-Pesa is played: no real money.\n")
        play(engine, backend, lambda line: print(line, flush=True))
        print(f"\npluct statement {USER}:\n")
        print(world.pluct("statement", USER))
        print(f"pluct statement {USER} --lang sw:\n")
        print(world.pluct("statement", USER, "--lang", "sw"))
        print("pluct check:", world.pluct("check").strip())


if __name__ == "__main__":
    main()
