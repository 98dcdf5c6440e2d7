"""Random histories: the ledger and a slow second one (`oracle.py`) must agree on every answer and every balance."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from conftest import Clock
from oracle import Oracle
from pluct import ledger
from pluct.commands import Adjust, Capture, Command, Expire, Fund, Once, Redeem, Vend, Void, once, once_by_reference
from pluct.errors import Refusal
from pluct.model import Adjusted, Changed, Entry, Granted, Ticket, Vended, Wallet
from pluct.stores import open_store
from pluct.tickets import uuid7_source
from postgres import SERVERS, fresh_database

GRACE_SECONDS = 30
USERS = ("amina", "brian", "chipo")
users, keys = st.sampled_from(USERS), st.one_of(st.none(), st.sampled_from("abc"))
tickets = st.integers(0, 5)  # the last ones vended, latest first


class Histories(RuleBasedStateMachine):
    """Commands at random, as time goes by. What keeps the ledger is a subclass's business."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.oracle = Oracle(GRACE_SECONDS)
        self.vended: list[tuple[str, str]] = []
        self.number = 0

    @initialize()
    def begin(self) -> None:
        self.oracle.now = self.clock()

    def submit(self, command: Command) -> Any:
        raise NotImplementedError

    def wallet(self, user: str) -> Wallet | None:
        raise NotImplementedError

    def ticket(self, name: str) -> Ticket:
        raise NotImplementedError

    def due(self) -> list[Expire]:
        raise NotImplementedError

    def name(self, prefix: str) -> str:
        self.number += 1
        return f"{prefix}{self.number:06}"

    def agree(self, command: Command, expected: object) -> None:
        outcome = self.submit(command)
        match outcome:
            case Refusal():
                said: object = outcome.code
            case Granted():
                said = "granted", outcome.grant_id, outcome.amount, outcome.available_after
            case Vended():
                said = "vended", outcome.ticket_id, outcome.available_after
            case Changed(ticket=t):
                said = t.state, t.redeemed_at, t.captured, t.returned
            case Adjusted(entry=e):
                said = "adjusted", e.amount if e.credit.startswith("user:") else -e.amount, e.available_after
        assert said == expected, (command, said, expected)

    # What people do

    @rule(user=users, amount=st.integers(1, 9), category=st.sampled_from(["paid", "promotional"]),
          priority=st.sampled_from([10, 50]), life=st.one_of(st.none(), st.integers(-5, 100)),
          reference=st.one_of(st.none(), st.sampled_from("xyz")))  # fmt: skip
    def fund(
        self, user: str, amount: int, category: Any, priority: int, life: int | None, reference: str | None
    ) -> None:
        grant, expires_at = self.name("g"), None if life is None else self.clock() + life * 1000
        claims: tuple[Once, ...] = () if reference is None else (once_by_reference(reference, user, amount),)
        key = None if reference is None else ("reference", reference)
        self.agree(
            Fund(user, grant, amount, "shop", category, priority, expires_at, reference, claims=claims),
            self.oracle.fund(user, grant, amount, category, priority, expires_at, key),
        )

    @rule(user=users, cost=st.integers(1, 6), settle=st.sampled_from(["vend", "redeem", "report"]), key=keys)
    def vend(self, user: str, cost: int, settle: Any, key: str | None) -> None:
        name = self.name("t")
        claims = () if key is None else (once("vend", user, key, user, cost, settle),)
        scoped = None if key is None else ("vend", user, key)
        self.agree(
            Vend(user, name, "read", "premium", cost, 20, settle, 40, claims),
            self.oracle.vend(user, name, cost, settle, 20, 40, scoped),
        )
        if name in self.oracle.tickets:
            self.vended.insert(0, (user, name))

    def pick(self, which: int, stranger: bool) -> tuple[str, str]:
        user, name = self.vended[which] if which < len(self.vended) else ("amina", "none")
        return ("stranger" if stranger else user), name

    @rule(which=tickets, stranger=st.sampled_from([False] * 9 + [True]))
    def redeem(self, which: int, stranger: bool) -> None:
        user, name = self.pick(which, stranger)
        self.agree(Redeem(user, name, "premium"), self.oracle.redeem(user, name))

    @rule(which=tickets, amount=st.one_of(st.none(), st.integers(0, 7)))
    def capture(self, which: int, amount: int | None) -> None:
        user, name = self.pick(which, False)
        self.agree(Capture(user, name, amount, GRACE_SECONDS), self.oracle.capture(user, name, amount))

    @rule(which=tickets, stranger=st.sampled_from([False] * 9 + [True]))
    def void(self, which: int, stranger: bool) -> None:
        user, name = self.pick(which, stranger)
        self.agree(Void(user, name, GRACE_SECONDS, "x"), self.oracle.void(user, name))

    @rule(user=users, amount=st.integers(-6, 6).filter(bool))
    def adjust(self, user: str, amount: int) -> None:
        grant = self.name("a")
        self.agree(Adjust(user, grant, amount, "x", "ops"), self.oracle.adjust(user, grant, amount))

    @rule(ms=st.one_of(st.integers(1, 3_000), st.integers(3_000, 60_000)))
    def wait(self, ms: int) -> None:
        """Time moves, and the sweep comes by."""
        self.clock.now += ms
        self.oracle.now = self.clock()
        for command in self.due():
            self.submit(command)
        assert self.due() == []
        self.oracle.sweep()

    @rule(ms=st.integers(1, 20_000))
    def wait_unswept(self, ms: int) -> None:
        """Time moves before the sweep does."""
        self.clock.now += ms
        self.oracle.now = self.clock()

    @invariant()
    def balances_agree(self) -> None:
        for user in USERS:
            wallet = self.wallet(user)
            lots = [] if wallet is None else [
                (lot.grant_id, lot.remaining, lot.category, lot.priority, lot.expires_at or float("inf"))
                for lot in wallet.lots
            ]  # fmt: skip
            assert lots == self.oracle.lots(user)
            assert (0 if wallet is None else wallet.held) == self.oracle.held(user)
            assert (0 if wallet is None else wallet.available) == len(self.oracle.wallets.get(user, []))
        for _, name in self.vended[:6]:
            t = self.ticket(name)
            assert (t.state, t.redeemed_at, t.captured, t.returned) == self.oracle.told(self.oracle.tickets[name])


class InMemory(Histories):
    """Over `decide` alone: one endless batch."""

    def __init__(self) -> None:
        super().__init__()
        self.view = ledger.View(lambda: self.name("e"))

    def submit(self, command: Command) -> Any:
        return ledger.decide(self.view, command, self.clock())

    def wallet(self, user: str) -> Wallet | None:
        return self.view.wallets.get(user)

    def ticket(self, name: str) -> Ticket:
        return self.view.tickets[name]

    def due(self) -> list[Expire]:
        now, found = self.clock(), []
        for user, wallet in self.view.wallets.items():
            open_ones = [t.id for t in self.view.tickets.values() if t.user_id == user and (t.due_at or now + 1) <= now]
            if open_ones or (wallet.next_expiry_at or now + 1) <= now:
                found.append(Expire(user, GRACE_SECONDS, tuple(open_ones)))
        return found

    @invariant()
    def the_journal_adds_up(self) -> None:
        accounts: Counter[str] = Counter()
        last: dict[str, Entry] = {}
        for entry in self.view.entries:
            before = last.get(entry.user_id)
            assert (entry.number, entry.previous_id) == ((before.number + 1, before.id) if before else (1, None))
            last[entry.user_id] = entry
            accounts[entry.debit] -= entry.amount
            accounts[entry.credit] += entry.amount
        assert sum(accounts.values()) == 0
        for user, wallet in self.view.wallets.items():
            assert (wallet.available, wallet.held) == (accounts[f"user:{user}"], accounts[f"held:{user}"])


class InStore(Histories):
    """Over a real store, one transaction per command; at the end `check` finds nothing."""

    def __init__(self, place: Path | str) -> None:
        super().__init__()
        self.runner = asyncio.Runner()

        async def make() -> Any:
            store = open_store(place, self.clock, uuid7_source(), serving=True)
            await store.open()
            return store

        self.store = self.runner.run(make())

    def submit(self, command: Command) -> Any:
        return self.runner.run(self.store.submit(command))

    def wallet(self, user: str) -> Wallet | None:
        found: Wallet | None = self.runner.run(self.store.wallet(user))
        return found

    def ticket(self, name: str) -> Ticket:
        found: Ticket = self.runner.run(self.store.ticket(name))
        return found

    def due(self) -> list[Expire]:
        found: list[Expire] = self.runner.run(self.store.due(self.clock(), GRACE_SECONDS, 100))
        return found

    def teardown(self) -> None:
        assert self.runner.run(self.store.check(lambda *_: None)) == []
        self.runner.run(self.store.close())
        self.runner.close()


ANY_PACE = [HealthCheck.too_slow, HealthCheck.data_too_large]
TestInMemory = InMemory.TestCase
TestInMemory.settings = settings(
    max_examples=150, stateful_step_count=50, deadline=None, derandomize=True, suppress_health_check=ANY_PACE
)
FEWER = settings(
    max_examples=20, stateful_step_count=40, deadline=None, derandomize=True, suppress_health_check=ANY_PACE
)


def test_in_sqlite(tmp_path: Path) -> None:
    """A new file for each history."""
    files = (tmp_path / f"{number}.db" for number in itertools.count())
    run_state_machine_as_test(lambda: InStore(next(files)), settings=FEWER)


@pytest.mark.parametrize("server", SERVERS)
def test_in_postgresql(server_url: Callable[[str], str], server: str) -> None:
    """A new database for each history."""
    some = FEWER if server == "postgresql" else settings(FEWER, max_examples=5)
    run_state_machine_as_test(lambda: InStore(fresh_database(server_url(server))), settings=some)
