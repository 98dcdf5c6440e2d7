"""The store alone: `python -m bench.store PLACE BATCH_MAX LANES USERS VENDS` prints vends per second with 64 waiting.

PLACE is a file or a PostgreSQL address, with funded users in it. LANES is only for PostgreSQL.
"""

import asyncio
import random
import sys
import time

import uvloop

from bench.ledgers import at
from pluct.app import now_ms
from pluct.commands import Vend
from pluct.stores import Store, open_store
from pluct.stores.postgresql import PostgresqlStore
from pluct.tickets import uuid7_source

WAITING = 64


async def main(place: str, batch_max: int, lanes: int, users: int, vends: int) -> None:
    """Vend for random users and print the rate."""
    next_id = uuid7_source()
    store: Store = (
        PostgresqlStore(place, now_ms, next_id, lanes=lanes, batch_max=batch_max)
        if place.startswith("postgresql:")
        else open_store(at(place), now_ms, next_id, serving=True, batch_max=batch_max)
    )
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
    uvloop.run(main(sys.argv[1], *map(int, sys.argv[2:6])))
