"""One process that presents a ticket many times at once: `present.py VERIFIER COLOUR TIMES`, where VERIFIER is JSON.

It says `ready`, reads a token from its input, and answers with JSON: how often it was accepted, or refused for what.
Without TIMES it reads nothing, and marks ticket after ticket, each with a line once that is done, until it is killed.
"""

import asyncio
import json
import os
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

from pluct_verifier import SeenFile, SeenRedis, TicketRefused, Verifier
from pluct_verifier.calls import done


def verifier(kind: str, **how: Any) -> Verifier:
    """What the arguments describe."""
    if kind == "strict":
        return Verifier.strict(**how)
    place = how.pop("seen")
    return Verifier.once(seen=SeenFile(place) if kind == "file" else SeenRedis(place), **how)


def main(how: dict[str, Any], colour: str, times: int) -> Counter[str]:
    """Present it so many times, and count what comes of it."""
    checked = verifier(**how)
    print("ready", flush=True)
    token = sys.stdin.readline().strip()
    found: Counter[str] = Counter()

    def present(_: int) -> None:
        try:
            found[checked.accept(token).id] += 1
        except TicketRefused as refused:
            found[refused.code] += 1

    async def present_async() -> None:
        try:
            found[(await checked.accept_async(token)).id] += 1
        except TicketRefused as refused:
            found[refused.code] += 1

    async def all_at_once() -> None:
        await asyncio.gather(*(present_async() for _ in range(times)))

    if colour == "async":
        asyncio.run(all_at_once())
    else:
        with ThreadPoolExecutor(32) as pool:
            list(pool.map(present, range(times)))
    return found


def endlessly(path: str) -> None:
    """Mark tickets in a file for as long as this process lives."""
    seen = SeenFile(path)
    for number in count():
        done(seen.mark(f"{os.getpid()}-{number}", int(time.time()) + 600, time.time(), False))
        print(number, flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        endlessly(sys.argv[1])
    else:
        print(json.dumps(main(json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3]))))
