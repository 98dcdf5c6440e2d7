"""`pluct check`: each invariant's query finds the damage it is for and nothing else; a sound ledger passes.

The damage is done with raw SQL to a copy of a busy ledger, with triggers dropped and constraints ignored, as a
careless hand or a bug of ours might. Each way breaks one invariant and keeps the others, so that one name comes out.
The same scripts run on every engine: PostgreSQL is taught SQLite's functions for JSON first.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import asyncpg
import httpx
import pytest

from busy import GRACE_SECONDS, Ledgers, Place, address, busy, run
from conftest import ENGINES, WEBHOOK_SECRET, Clock, Pluct, fund, opened, vend
from pluct.commands import Capture, Redeem
from pluct.errors import Unavailable
from pluct.model import BALANCE_MAX
from pluct.stores import Violation, postgresql_check, postgresql_connections, sqlite_check
from postgres import fresh_database

LOTS = "lots sum to available"
LOT = "every lot has something left and the earliest expiry is the wallet's"
BOUNDS = "balances are within their bounds"
HELD = "held is the sum of open holds"
BALANCE = "a balance is the sum of its entries, counted without a gap"
CHAIN = "an entry follows the one before it"
LAST = "a wallet points to its last entry"
KIND = "an entry moves credits between the accounts of its kind"
TICKET = "a ticket's entries say what the ticket says"
SETTLED = "captured and returned make the cost once a ticket is settled"
REFERENCE = "a payment reference is claimed by the one grant it has"
CLAIM = "a claim's ticket exists"
JSON = "what is kept as JSON can be read"
SPENT = "credits are spent on a ticket"
CLAIMED = "a claimed grant was made"
GRANT = "a lot is left of a grant"
THUMBPRINT = "a signing key's id is its thumbprint"
FILE = "the file itself is intact"


@pytest.fixture(scope="module", params=ENGINES)
def ledgers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ledgers:
    """Each engine's."""
    server = None if request.param == "sqlite" else request.getfixturevalue("server_url")(request.param)
    return Ledgers(request.param, tmp_path_factory.mktemp("ledgers"), server)


def found(place: Place) -> list[Violation]:
    """What a check of this ledger says."""

    async def check() -> list[Violation]:
        async with opened(place, Clock(), serving=False) as store:
            return await store.check(lambda *_: None)

    return asyncio.run(check())


def found_after(ledgers: Ledgers, script: str) -> list[Violation]:
    """What a check says of the busy ledger after this damage, which the next check does not see."""
    if isinstance(ledgers.busy, Path):
        return found(ledgers.damaged(script))

    async def check(url: str) -> list[Violation]:
        connection = await asyncpg.connect(url)
        try:
            await connection.transaction().start()
            await connection.execute(script)
            return await postgresql_check.check_within(connection, lambda *_: None)
        finally:
            connection.terminate()  # which undoes it

    return asyncio.run(check(str(ledgers.unguarded)))


def named(violations: list[Violation]) -> set[str]:
    return {violation.invariant for violation in violations}


def whale(available: int, debt: int, entries: str) -> str:
    """Another user, whose balances and entries agree with each other."""
    return f"""
        INSERT INTO wallets VALUES ('whale', {available}, 0, {debt}, 2, 'e2', NULL, 1,
          '[[1,"g",{available},"paid",50,null]]', NULL);
        INSERT INTO entries (id, user_id, number, previous_id, at, kind, amount, debit, credit, available_after,
          held_after, grant_id) VALUES {entries};"""


TOO_RICH = whale(
    BALANCE_MAX + 1, 0,
    f"""('e1', 'whale', 1, NULL, 1, 'grant', {BALANCE_MAX}, 'issued:x', 'user:whale', {BALANCE_MAX}, 0, 'g'),
        ('e2', 'whale', 2, 'e1', 1, 'grant', 1, 'issued:x', 'user:whale', {BALANCE_MAX + 1}, 0, 'h')""",
)  # fmt: skip
OVERPAID = whale(
    5, -5,
    """('e1', 'whale', 1, NULL, 1, 'grant', 10, 'issued:x', 'user:whale', 10, 0, 'g'),
       ('e2', 'whale', 2, 'e1', 1, 'repay', 5, 'user:whale', 'debt:whale', 5, 0, NULL)""",
)  # fmt: skip
ENTRY = "UPDATE entries SET {} WHERE user_id = 'amina' AND number = {};".format
A_TICKET = "UPDATE tickets SET {} WHERE user_id = '{}' AND state = '{}' AND cost = {};".format

DAMAGE = [
    (LOTS, "a lot that grew", "UPDATE wallets SET lots = json_set(lots, '$[0][2]', 99) WHERE user_id = 'brian';"),
    (LOTS, "a lot that is gone", "UPDATE wallets SET lots = json_remove(lots, '$[0]') WHERE user_id = 'brian';"),
    (LOT, "an expiry that no lot has", "UPDATE wallets SET next_expiry_at = next_expiry_at + 1;"),
    (LOT, "an expiry that is not swept", "UPDATE wallets SET next_expiry_at = NULL WHERE user_id = 'amina';"),
    (
        LOT, "an empty lot",
        """UPDATE wallets SET lots = json_insert(lots, '$[#]', json_set(json_extract(lots, '$[0]'), '$[2]', 0));""",
    ),
    (BOUNDS, "a balance that JavaScript cannot count", TOO_RICH),
    (BOUNDS, "a debt below zero", OVERPAID),
    (HELD, "a hold that ended without an entry", A_TICKET("state='voided', returned=12, due_at=NULL", "amina",
                                                          "issued", 12)),
    (BALANCE, "a wallet that is gone", "DELETE FROM wallets WHERE user_id = 'brian';"),
    (
        BALANCE, "credits from nowhere",
        """UPDATE wallets SET available = available + 5, lots = json_set(lots, '$[0][2]', available + 5)
           WHERE user_id = 'brian';""",
    ),
    (
        BALANCE, "a debt from nowhere",
        "UPDATE wallets SET available = 0, debt = 7, lots = '[]' WHERE user_id = 'brian';",
    ),
    (
        BALANCE, "credits that vanished",
        """UPDATE wallets SET available = available - 1, lots = json_set(lots, '$[0][2]', available - 1)
           WHERE user_id = 'chipo';""",
    ),
    (CHAIN, "an entry that skips one", ENTRY("previous_id=(SELECT id FROM entries WHERE user_id='amina' AND number=2)",
                                             4)),
    (CHAIN, "an entry that follows another user's", """UPDATE entries SET previous_id =
        (SELECT id FROM entries WHERE user_id = 'chipo' AND number = 1) WHERE user_id = 'brian' AND number = 2;"""),
    (CHAIN, "a balance misremembered", ENTRY("available_after = available_after + 1", 3)),
    (CHAIN, "a hold misremembered", ENTRY("held_after = held_after + 1", 3)),
    (LAST, "a wallet that points to its first entry", """UPDATE wallets SET last_entry_id =
        (SELECT id FROM entries e WHERE e.user_id = 'brian' AND number = 1) WHERE user_id = 'brian';"""),
    (LAST, "a wallet that points nowhere", "UPDATE wallets SET last_entry_id = 'nowhere' WHERE user_id = 'brian';"),
    (LAST, "a wallet that points to another's entry", """UPDATE wallets SET last_entry_id =
        (SELECT id FROM entries e WHERE e.user_id = 'chipo' AND number = 2) WHERE user_id = 'brian';"""),
    (KIND, "a grant out of nothing", ENTRY("debit = 'nothing'", 1)),
    (TICKET, "a capture misremembered", A_TICKET("captured = 4, returned = 4", "amina", "captured", 8)),
    (TICKET, "a refund misremembered", A_TICKET("state='captured', captured=7, returned=0", "amina", "voided", 7)),
    (TICKET, "a ticket that is gone", "DELETE FROM tickets WHERE user_id = 'amina' AND cost = 1;"),
    (TICKET, "a ticket that nobody paid", """INSERT INTO tickets SELECT 't', user_id, action, audience, cost, settle,
        report_seconds, issued_at, expires_at, state, redeemed_at, captured, returned, due_at, taken
        FROM tickets WHERE user_id = 'amina' AND cost = 1;"""),
    (SETTLED, "a return of less than the rest", A_TICKET("returned = 2", "amina", "captured", 8)),
    (SETTLED, "an open ticket that nothing ends", A_TICKET("state = 'issued'", "amina", "captured", 1)),
    (SETTLED, "a ticket that lots paid more for", "UPDATE tickets SET taken = json_set(taken, '$[0][2]', 44);"),
    (REFERENCE, "a payment granted twice", "UPDATE entries SET reference = 'R1' WHERE reference = 'R2';"),
    (CLAIM, "a key of no ticket", """UPDATE claims SET outcome = json_set(outcome, '$.ticket_id', 'none')
        WHERE outcome LIKE '%"vended"%' AND user_id = 'chipo';"""),
    (CLAIM, "a key of another's ticket", """UPDATE claims SET user_id = 'brian'
        WHERE outcome LIKE '%"vended"%' AND user_id = 'amina';"""),
    (SETTLED, "a hold that no lot paid", A_TICKET("taken = '[]'", "amina", "issued", 12)),
    (
        SPENT, "a vend without a ticket",
        """DELETE FROM tickets WHERE user_id = 'amina' AND cost = 1;
           UPDATE entries SET ticket_id = NULL WHERE user_id = 'amina' AND kind = 'vend' AND amount = 1;""",
    ),
    (
        CLAIMED, "a payment claimed, and no grant of it",
        """DELETE FROM entries WHERE user_id = 'brian'; DELETE FROM wallets WHERE user_id = 'brian';
           DELETE FROM tickets WHERE user_id = 'brian';""",
    ),
    (REFERENCE, "a payment that nothing keeps from another grant", "DELETE FROM claims WHERE user_id = 'brian';"),
    (JSON, "lots that cannot be read", "UPDATE wallets SET lots = 'none' WHERE user_id = 'brian';"),
    (JSON, "a claim that cannot be read", "UPDATE claims SET outcome = 'none' WHERE user_id = 'brian';"),
    (TICKET, "a ticket whose refund goes to somebody else", "UPDATE tickets SET user_id = 'brian' WHERE cost = 1;"),
    (LOT, "lots that nobody can spend", """UPDATE wallets SET lots = replace(lots, ',18,', ',"18",');"""),
    (LOT, "lots with a part missing", "UPDATE wallets SET lots = json_remove(lots, '$[0][5]') WHERE held = 0;"),
    (GRANT, "a lot of no grant", "UPDATE wallets SET lots = json_set(lots, '$[0][1]', 'g') WHERE user_id = 'brian';"),
    (
        GRANT, "a lot of another's grant",
        """UPDATE wallets SET lots = json_set(lots, '$[0][1]', (SELECT json_extract(lots, '$[0][1]')
           FROM wallets w WHERE w.user_id = 'chipo')) WHERE user_id = 'brian';""",
    ),
    (THUMBPRINT, "a signing key of nobody", """INSERT INTO signing_keys
        SELECT 'nobody', key, key, 1, 1, 60, NULL FROM claims ORDER BY key LIMIT 1;"""),
    (JSON, "a ticket that cannot be read", "UPDATE tickets SET taken = '[[' WHERE user_id = 'brian';"),
]  # fmt: skip
INDEX_DAMAGE = """
    PRAGMA writable_schema = 1;
    UPDATE sqlite_master SET sql = replace(sql, '(next_expiry_at)', '(updated_at)') WHERE name = 'wallets_due';"""


@pytest.mark.parametrize(("invariant", "script"), [(i, s) for i, _, s in DAMAGE], ids=[name for _, name, _ in DAMAGE])
def test_damage_is_found_under_its_own_name(ledgers: Ledgers, invariant: str, script: str) -> None:
    """Each way to break one invariant is found as that invariant, and as no other."""
    assert named(found_after(ledgers, script)) == {invariant}


def test_every_invariant_has_its_damage() -> None:
    """No query of either engine goes without a kind of damage that it finds."""
    damaged = {invariant for invariant, _, _ in DAMAGE}
    assert damaged | {FILE} == set(sqlite_check.CHECKS)
    assert damaged == {*postgresql_check.CHECKS, JSON, REFERENCE}


@pytest.mark.parametrize("kind", ["grant", "vend", "hold", "capture", "return", "refund", "expire", "adjust"])
def test_an_entry_of_the_wrong_kind_is_found(ledgers: Ledgers, kind: str) -> None:
    """An entry that says it is of another kind is found, whatever kind it was."""
    script = "UPDATE entries SET kind = 'repay' WHERE id = (SELECT min(id) FROM entries WHERE kind = '{}');"
    assert named(found_after(ledgers, script.format(kind))) == {KIND}


# A sound ledger


def test_a_busy_ledger_is_sound(ledgers: Ledgers) -> None:
    """A ledger with every kind of entry and every state of a ticket has no violations."""
    kinds = {row[0] for row in run(ledgers.busy, "SELECT DISTINCT kind FROM entries")}
    states = {row[0] for row in run(ledgers.busy, "SELECT DISTINCT state FROM tickets")}
    assert kinds == {"grant", "vend", "hold", "capture", "return", "refund", "expire", "adjust"}
    assert states == {"issued", "redeemed", "captured", "voided", "expired"}
    assert found(ledgers.busy) == []


def test_findings_are_bounded(ledgers: Ledgers) -> None:
    """A ledger broken all over is reported with a bounded number of findings per invariant, naming whom and what."""
    many = sqlite_check.FINDINGS_MAX + 10
    violations = found_after(
        ledgers,
        f"""
            WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {many})
            INSERT INTO wallets SELECT 'user ' || i, 3, 0, 0, 1, 'none', NULL, 1, '[]', NULL FROM n;""",
    )
    assert {violation.invariant for violation in violations} == {LOTS, BALANCE, LAST}
    lots = [violation for violation in violations if violation.invariant == LOTS]
    assert len(lots) == sqlite_check.FINDINGS_MAX
    assert lots[0].subject.startswith("user ") and lots[0].found == "lots 0, available 3"


def test_json_that_cannot_be_read_is_named(ledgers: Ledgers) -> None:
    """Row by row, from each table, and never more than are shown."""
    for column, table in (("lots", "wallets"), ("taken", "tickets"), ("outcome", "claims")):
        violations = found_after(ledgers, f"UPDATE {table} SET {column} = '[1' WHERE user_id = 'chipo';")
        assert {violation.subject.partition(" ")[0] for violation in violations} == {table.removesuffix("s")}
        assert {violation.found for violation in violations} == {"[1"}
    many = sqlite_check.FINDINGS_MAX + 10
    violations = found_after(
        ledgers,
        f"""
            WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {many})
            INSERT INTO wallets SELECT 'user ' || i, 3, 0, 0, 1, 'none', NULL, 1, '}}', NULL FROM n;""",
    )
    assert [violation.invariant for violation in violations].count(JSON) == sqlite_check.FINDINGS_MAX


@pytest.mark.parametrize("lots", ['"none"', "{}", "7", "[7]", '[["a"]]', '[[1,"g","many","paid",50,null]]', "null"])
def test_json_of_another_shape_is_found(ledgers: Ledgers, lots: str) -> None:
    """Whatever is kept in place of lots, a check reports a broken ledger and does not break itself."""
    assert found_after(ledgers, f"UPDATE wallets SET lots = '{lots}' WHERE user_id = 'brian';") != []


def test_a_check_may_take_its_time(postgresql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit on a request's statements is none on a check's."""

    async def main(url: str) -> None:
        async with opened(url, Clock()) as store:
            monkeypatch.setattr(postgresql_connections, "STATEMENT_SECONDS_MAX", 1e-6)
            assert await store.check(lambda *_: None) == []
            with pytest.raises(Unavailable, match="no answer in time"):
                await store.wallet("amina")

    asyncio.run(main(fresh_database(postgresql_url)))


# SQLite's file


@pytest.fixture(scope="module")
def sqlite_ledgers(tmp_path_factory: pytest.TempPathFactory) -> Ledgers:
    """SQLite's alone."""
    return Ledgers("sqlite", tmp_path_factory.mktemp("files"), None)


def test_an_index_that_does_not_fit_its_table_is_found(sqlite_ledgers: Ledgers) -> None:
    """The file itself is looked at too."""
    assert named(found_after(sqlite_ledgers, INDEX_DAMAGE)) == {FILE}


def test_a_check_changes_nothing(sqlite_ledgers: Ledgers) -> None:
    """The file holds the same bytes after a check as before it."""
    path = sqlite_ledgers.copy()
    assert isinstance(path, Path)
    before = path.read_bytes()
    assert sqlite_check.check(path, lambda *_: None) == []
    assert path.read_bytes() == before


PARTS = ["wallets", "entries", "tickets", "claims", "tickets_due", "wallets_due"]


@pytest.mark.anyio
@pytest.mark.parametrize("part", PARTS)
async def test_a_page_that_is_lost_is_not_called_sound(tmp_path: Path, part: str) -> None:
    """A file with a page of a table or an index overwritten is either reported broken or cannot be checked."""
    path = tmp_path / "pluct.db"
    await busy(path)
    with closing(sqlite3.connect(path)) as connection:
        (size,) = connection.execute("PRAGMA page_size").fetchone()
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (part,)).fetchone()
    with path.open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\xa5" * size)
    async with opened(path, Clock()) as store:
        try:
            violations = await store.check(lambda *_: None)
        except Unavailable as fault:
            assert "malformed" in fault.sentence
        else:
            assert violations != []


@pytest.mark.anyio
async def test_a_check_sees_one_moment_of_a_ledger_at_work(tmp_path: Path) -> None:
    """Checks beside a store that writes without pause find nothing, and the store writes on meanwhile."""
    clock = Clock()
    async with opened(tmp_path / "pluct.db", clock) as store, opened(store.path, clock, serving=False) as guest:
        stop = asyncio.Event()
        vended = 0

        async def customer(user_id: str) -> None:
            nonlocal vended
            await store.submit(fund(user_id, 100_000))
            while not stop.is_set():
                ticket = vend(user_id, 3, settle="report")
                await asyncio.gather(
                    store.submit(ticket),
                    store.submit(Redeem(user_id, ticket.ticket_id, "premium")),
                    store.submit(Capture(user_id, ticket.ticket_id, 1, GRACE_SECONDS)),
                )
                vended += 1

        customers = [asyncio.ensure_future(customer(f"user {number}")) for number in range(8)]
        between: list[int] = []
        while len(between) < 12 or (between[-1] == between[0] and len(between) < 1_000):
            assert await guest.check(lambda *_: None) == []
            between.append(vended)
        stop.set()
        await asyncio.gather(*customers)
        assert between[-1] > between[0], "the store was at work all the while"
        assert await guest.check(lambda *_: None) == []


# The program


def test_the_program_says_what_is_broken(ledgers: Ledgers, make_pluct: Callable[..., Pluct]) -> None:
    """`pluct check` exits with 1 and names each broken invariant and where, for people and for programs."""
    place = ledgers.damaged("UPDATE wallets SET next_expiry_at = NULL WHERE user_id = 'amina';")
    pluct = make_pluct(DATABASE_URL=address(place))
    answer = pluct.json("check", exit_code=1)
    assert answer["ok"] is False
    assert [(v["invariant"], v["subject"]) for v in answer["violations"]] == [(LOT, "amina")]
    shown = " ".join(pluct.run("check", exit_code=1, COLUMNS="300").stdout.split())
    assert LOT in shown and "amina" in shown


def test_the_program_cannot_check_what_is_no_ledger(make_pluct: Callable[..., Pluct]) -> None:
    """`pluct check` over a file that is no database exits with 2 and says so."""
    pluct = make_pluct()
    pluct.database.parent.mkdir()
    pluct.database.write_bytes(b"This is a letter, not a ledger. " * 200)
    done = pluct.run("check", exit_code=2)
    assert "not a database" in done.stderr and done.stdout == ""


def test_the_program_checks_beside_a_server_at_work(server: Pluct) -> None:
    """`pluct check` beside a server under load exits with 0 each time, and the server misses nothing."""
    assert server.fund("amina", 1_000_000).status_code == 200

    async def load(stop: asyncio.Event, statuses: list[int]) -> None:
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
            headers = {"x-webhook-secret": WEBHOOK_SECRET}
            while not stop.is_set():
                vending = client.post("/vend-token", json={"userId": "amina"})
                granting = client.post("/add-credits", json={"userId": "brian", "amount": 1}, headers=headers)
                statuses += [answer.status_code for answer in await asyncio.gather(vending, granting)]

    async def main() -> list[int]:
        stop, statuses = asyncio.Event(), []
        loads = [asyncio.ensure_future(load(stop, statuses)) for _ in range(4)]
        for _ in range(3):
            assert (await asyncio.to_thread(server.json, "check")) == {"ok": True, "violations": []}
        stop.set()
        await asyncio.gather(*loads)
        return statuses

    statuses = asyncio.run(main())
    assert set(statuses) == {200}
    assert server.available("brian") == len(statuses) // 2
    assert server.available("amina") == 1_000_000 - len(statuses) // 2
