"""`pluct check` of payments: damage to a busy ledger is found under its own name, in both databases.

Each way breaks one invariant and keeps the others. The statements are the same for both; what they do is undone.
"""

import asyncio
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from conftest import Clock, fund, opened, vend
from pluct.commands import Dispute, Progress, Receive, once_by_reference
from pluct.errors import Refusal
from pluct.model import PaymentEvent
from pluct.stores import Store, Violation, payment_checks, postgresql_check, sqlite_check
from postgres import fresh_database
from test_payments_stored import assign, begun, checkout, done, event, receive, take_back

PRICE = "money in is credits by the price list"
GRANT = "a payment's credits are those of its grant"
BACK = "what is taken back of a payment is what went back with its money"
ENTRIES = "what is taken back of a payment is in its user's entries"
STATE = "a payment's state is what is known of it"
FROZEN = "a wallet is frozen by its open disputes or its debt, and by nothing else"
LEFT = "money left over is what payments left"
PAID = "a paid checkout has its payment"
NAMES = "what names a payment or a checkout names one that is there"
REFERENCE = "a payment reference is claimed by the one grant it has"
JSON = "what is kept as JSON can be read"


def told(reference: str, amount: int, odd: Any = "packs", policy: Any = "debt", **more: Any) -> Receive:
    from msgspec.structs import replace

    return replace(receive(reference, amount, "amina", typed=True), odd_amounts=odd, clawback=policy, **more)


async def _busy(store: Store) -> None:
    """Every state of a payment, each way to price one, all three policies, and users with and without entries."""
    of = await begun(store, checkout())
    await done(store, Progress("amina", of.id, "failed", "wrong PIN", event=event()))
    await done(store, receive("R1", of=of))
    await done(store, told("R2", 123_456))
    await done(store, told("R3", 25_000, "pro_rata"))
    await done(store, fund("amina", 12, claims=(once_by_reference("R4", "amina", 12),), reference="R4"))
    await done(store, told("R4", 10_000))
    await done(store, take_back("amina", 4_000, "R2"))
    await done(store, take_back("amina", None, "R3"))
    for change in ("opened", "funds_withdrawn", "funds_reinstated"):
        await done(store, Dispute("amina", "mpesa", "R1", "d1", change, None, event(), "debt"))
    await done(store, receive("R5"))
    await done(store, take_back("", 1_000, "R6"))
    wrong = await begun(store, checkout("brian"))
    await done(store, receive("R7", 20_000, of=wrong))
    await done(store, receive("R8", user="chipo"))
    await done(store, vend("chipo", 7))
    back = take_back("chipo", None, "R8")
    await done(store, type(back)(*(getattr(back, name) for name in back.__struct_fields__[:-2]), "freeze"))
    double = await begun(store, checkout("dalia"))
    given = (await done(store, receive("R9"))).payment_id
    await done(store, assign("dalia", given))
    await done(store, receive(None, None, of=double))
    await done(store, receive("R9", of=double))
    await done(store, receive("R10", 500, "esther", typed=True))
    for reference in ("R11", "R12"):
        await done(store, receive(reference, user="fatma"))
        await done(store, vend("fatma", 6))
        lost = take_back("fatma", None, reference)
        await done(store, type(lost)(*(getattr(lost, name) for name in lost.__struct_fields__[:-2]), "floor"))


PAYMENT = "UPDATE payments SET {} WHERE reference = '{}';".format
STANDING = "UPDATE wallets SET standing = '{}' WHERE user_id = '{}';".format

DAMAGE = [
    (PRICE, "money that vanished", PAYMENT("amount = amount + 1", "R2")),
    (PRICE, "a pack too many", PAYMENT("priced = replace(priced, '60,2]', '60,3]')", "R2")),
    (PRICE, "a remainder that nobody left", PAYMENT("remainder_before = 1, remainder_after = 1 + remainder_after",
                                                    "R10") + PAYMENT("amount = 501", "R10")),
    (PRICE, "a rate that is none", PAYMENT("amount = amount - 1000, refunded = refunded - 1000", "R3")),
    (PRICE, "a double of other credits", "UPDATE payments SET amount = 10001 WHERE state = 'failed';"),
    (GRANT, "a grant that nobody made", PAYMENT("grant_id = 'none'", "R4")),
    (GRANT, "another's grant", PAYMENT("user_id = 'brian'", "R4")),
    (GRANT, "more credits than were granted", PAYMENT("minted = 13", "R4")),
    (BACK, "a refund that took nothing", PAYMENT("refunded = 9000, amount = 123456", "R2")),
    (BACK, "a dispute that took nothing", PAYMENT("disputes = replace(disputes, 'reinstated', 'withdrawn')", "R1")),
    (ENTRIES, "a loss that was none", PAYMENT("lost = lost + 1", "R11")),
    (STATE, "a refund that nobody sees", PAYMENT("state = 'paid'", "R2")),
    (STATE, "a dispute that nobody sees", PAYMENT("state = 'paid'", "R1")),
    (STATE, "money of nobody", PAYMENT("state = 'paid', amount = 0, priced = '[]'", "R6")),
    (FROZEN, "a dispute that froze nobody", STANDING('[[],[["KES",3456]]]', "amina")),
    (FROZEN, "a dispute of nothing", STANDING('[["d9"],[["KES",500]]]', "esther")),
    (FROZEN, "a debt that is none", STANDING('[["debt"],[["KES",500]]]', "esther")),
    (LEFT, "money that nobody left", STANDING('[[],[["KES",500],["USD",1]]]', "esther")),
    (LEFT, "money that is gone", "UPDATE wallets SET standing = NULL WHERE user_id = 'esther';"),
    (PAID, "a checkout that nobody paid", "UPDATE checkouts SET state = 'paid' WHERE user_id = 'brian';"),
    (PAID, "a checkout that another paid", "UPDATE checkouts SET user_id = 'brian' WHERE user_id = 'dalia';"),
    (NAMES, "an event of no payment", "UPDATE payment_events SET payment_id = 'none' WHERE payment_id IS NULL;"),
    (NAMES, "an event of no checkout", "UPDATE payment_events SET checkout_id = 'none' WHERE payment_id IS NULL;"),
    (NAMES, "a payment of no checkout", PAYMENT("checkout_id = 'none'", "R7")),
    (REFERENCE, "a receipt that may be granted again", PAYMENT("reference = 'R99'", "R8")),
    (JSON, "a standing that cannot be read", STANDING("[", "esther")),
    (JSON, "disputes that cannot be read", PAYMENT("disputes = 'none'", "R5")),
    (JSON, "prices that cannot be read", PAYMENT("priced = '{'", "R5")),
]  # fmt: skip
WAYS = pytest.mark.parametrize(
    ("invariant", "script"), [(i, s) for i, _, s in DAMAGE], ids=[name for _, name, _ in DAMAGE]
)


@pytest.fixture(scope="module")
def in_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound and busy ledger, at rest in one file."""
    path = tmp_path_factory.mktemp("busy") / "pluct.db"

    async def make() -> None:
        async with opened(path, Clock()) as store:
            await _busy(store)

    asyncio.run(make())
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


@pytest.fixture(scope="module")
def in_postgresql(postgresql_url: str) -> str:
    """The same in a database without the constraints of payments."""
    url = fresh_database(postgresql_url)

    async def make() -> None:
        async with opened(url, Clock()) as store:
            await _busy(store)
        connection = await asyncpg.connect(url)
        for name in await connection.fetch(
            "SELECT conrelid::regclass || ' DROP CONSTRAINT ' || quote_ident(conname) FROM pg_constraint"
            " WHERE contype = 'c' AND connamespace = 'public'::regnamespace"
        ):
            await connection.execute(f"ALTER TABLE {name[0]}")
        await connection.close()

    asyncio.run(make())
    return url


@WAYS
def test_damage_in_sqlite_is_found_under_its_own_name(
    in_sqlite: Path, tmp_path: Path, invariant: str, script: str
) -> None:
    """Each way to break one invariant is found as that invariant, and as no other."""
    path = Path(shutil.copy(in_sqlite, tmp_path / "damaged.db"))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = 1")
        before = connection.total_changes
        connection.executescript(script)
        assert connection.total_changes > before, "the script changes something"
    found = sqlite_check.check(path, lambda *_: None)
    assert {violation.invariant for violation in found} == {invariant}, found


async def _damaged(url: str, script: str) -> tuple[list[Violation], bool]:
    """What is found after a script, and whether it changed anything; both undone."""
    async with opened(url, Clock()) as store:
        connection = await asyncpg.connect(url)
        try:
            tables = ("payments", "payment_events", "checkouts", "wallets")
            kept = {table: await connection.fetch(f"SELECT * FROM {table}") for table in tables}
            await connection.execute(script)
            changed = any(await connection.fetch(f"SELECT * FROM {table}") != kept[table] for table in tables)
            found = await store.check(lambda *_: None)
            for table in tables:
                await connection.execute(f"TRUNCATE {table}")
                await connection.copy_records_to_table(table, records=[tuple(row) for row in kept[table]])
            return found, changed
        finally:
            await connection.close()


@WAYS
def test_damage_in_postgresql_is_found_under_its_own_name(in_postgresql: str, invariant: str, script: str) -> None:
    """The same damage, the same name."""
    if invariant == JSON:
        pytest.skip("the queries over JSON that is none come to their end elsewhere")
    found, changed = asyncio.run(_damaged(in_postgresql, script))
    assert changed and {violation.invariant for violation in found} == {invariant}, found
