"""The store alone: `python -m bench.store BATCH_MAX USERS VENDS` prints vends per second with 64 waiting."""

import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path

import uvloop

from bench.ledgers import funded
from pluct.app import now_ms
from pluct.commands import Vend
from pluct.stores import open_store
from pluct.tickets import uuid7_source

WAITING = 64


async def main(folder: Path, batch_max: int, users: int, vends: int) -> None:
    """Vend for random users and print the rate."""
    next_id = uuid7_source()
    store = open_store(folder / "data" / "pluct.db", now_ms, next_id, serving=True, batch_max=batch_max)
    await store.open()

    async def wait() -> None:
        for _ in range(vends // WAITING):
            user = f"user-{random.randrange(users)}"
            await store.submit(Vend(user, next_id(), "default", "premium", 1, 60))

    started = time.perf_counter()
    await asyncio.gather(*(wait() for _ in range(WAITING)))
    print(vends // WAITING * WAITING / (time.perf_counter() - started))
    await store.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        batch_max, users, vends = map(int, sys.argv[1:4])
        funded(folder, users)
        uvloop.run(main(folder, batch_max, users, vends))
