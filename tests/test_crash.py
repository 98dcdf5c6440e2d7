"""`kill -9` under load, again and again: what was answered is in the ledger, and nothing that was not asked for.

Customers and a backend talk HTTP to a real server until it is killed in the middle of their requests. After each
restart the ledger is held against their books, then every unanswered request that has a key or a reference is repeated,
which must settle it for good.
"""

import asyncio
import signal
from collections.abc import Callable

import httpx

from books import CLIENTS, TOML, Books, Client, Customer, audit, credits_add_up, rows, settle
from conftest import Pluct


async def trade(pluct: Pluct, customers: list[Customer], service: dict[str, str], most: int, number: int) -> None:
    """All customers at once, until so many requests were answered; then the server is sent the signal."""
    answers = 0

    def answered() -> None:
        nonlocal answers
        answers += 1
        if answers == most:
            assert pluct.process is not None
            pluct.process.send_signal(number)

    limits = httpx.Limits(max_connections=2 * CLIENTS)
    async with httpx.AsyncClient(base_url=pluct.url, timeout=30, limits=limits) as http:
        for customer in customers:
            customer.client = Client(http, service, answered)
        await asyncio.gather(*(customer.live() for customer in customers))
    assert answers >= most


async def replay(pluct: Pluct, books: Books, service: dict[str, str], most: int) -> int:
    """Repeat the latest answered requests; a vend whose credits all went back is a new one, so it is left out."""
    standing = [sale for sale in books.sales if sale.vend.answer and sale.states()[-1][0] != "voided"]
    asked = [sale.vend for sale in standing if sale.vend.key is not None][-most:]
    asked += [request for request in books.grants.values() if request.answer][-most:]
    asked += [request for sale in books.sales for _, request in sale.done if request.answer][-most:]
    async with httpx.AsyncClient(base_url=pluct.url, timeout=30) as http:
        client = Client(http, service, lambda: None)
        await asyncio.gather(*(client.ask(request) for request in asked))
    return len(asked)


def test_nothing_answered_is_lost_and_nothing_unasked_is_made(make_pluct: Callable[..., Pluct]) -> None:
    """Killed under load round after round, the ledger agrees with what was answered, and repeats settle the rest.

    One round ends with SIGTERM instead: then the server also ends well.
    """
    pluct = make_pluct(toml=TOML)
    service = pluct.key("service")
    books = Books()
    unknown_seen = 0
    idle = Client(None, {}, lambda: None)  # type: ignore[arg-type]
    customers = [Customer(f"c{number}", idle, books) for number in range(CLIENTS)]
    for turn, most in enumerate((1, 60, 200, 300, 200, 250)):
        pluct.start()
        number = signal.SIGTERM if turn == 4 else signal.SIGKILL
        asyncio.run(trade(pluct, customers, service, most, number))
        assert pluct.stop(number) == (0 if number == signal.SIGTERM else -signal.SIGKILL)
        unknown_seen += len(books.unknown())
        if turn % 2:
            audit(books, pluct.database)  # now and then the first to open the file is somebody else
        pluct.start()
        audit(books, pluct.database)
        asyncio.run(settle(pluct, books, service))
        audit(books, pluct.database)
        credits_add_up(books, pluct)
        assert turn == 0 or asyncio.run(replay(pluct, books, service, 40)) > 0
        audit(books, pluct.database)
        assert pluct.stop(signal.SIGKILL) == -signal.SIGKILL
        assert pluct.json("check") == {"ok": True, "violations": []}
    assert unknown_seen > 0, "some requests were in flight when the server was killed"
    kinds = {kind for (kind,) in rows(pluct.database, "SELECT DISTINCT kind FROM entries")}
    assert kinds == {"grant", "vend", "hold", "capture", "return", "refund"}
    assert "Traceback" not in pluct.log
