"""What every store promises, whatever the database: one suite, once per engine and version."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from conftest import ENGINES, Clock, fund, new_id, opened, vend
from pluct.commands import Adjust, Capture, Command, Expire, Fund, Probe, Redeem, Void, once, once_by_reference
from pluct.errors import (
    AmountTooLarge,
    Fault,
    IdempotencyKeyReused,
    InsufficientCredits,
    InvalidRequest,
    ReferenceConflict,
    Refusal,
    TicketAlreadyRedeemed,
    TicketAlreadySettled,
    TicketNotFound,
    Unavailable,
)
from pluct.model import (
    BALANCE_MAX,
    Adjusted,
    ApiKey,
    Changed,
    Expired,
    Granted,
    Lot,
    Outcome,
    Probed,
    Ticket,
    Vended,
    Wallet,
)
from pluct.stores import Store
from pluct.stores.batching import QUEUE_MAX
from postgres import fresh_database

pytestmark = pytest.mark.anyio

GRACE_SECONDS = 86_400


@dataclass
class Ground:
    """One empty database of one engine, and the clock its stores go by."""

    open: Callable[..., AbstractAsyncContextManager[Store]]
    clock: Clock


@pytest.fixture(params=ENGINES)
def ground(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ground]:
    clock = Clock()
    place: Path | str = tmp_path / "pluct.db"
    if request.param != "sqlite":
        place = fresh_database(request.getfixturevalue("server_url")(request.param))
    yield Ground(lambda **options: opened(place, clock, **options), clock)


def held(user_id: str, cost: int, **more: Any) -> Any:
    """A vend that holds its cost until the backend reports, within 10 minutes."""
    return vend(user_id, cost, settle="report", report_seconds=600, **more)


async def funded(store: Store, user_id: str, amount: int) -> None:
    assert isinstance(await store.submit(fund(user_id, amount)), Granted)


async def vended(store: Store, command: Any) -> Ticket:
    outcome = await store.submit(command)
    assert isinstance(outcome, Vended) and outcome.ticket is not None, outcome
    return outcome.ticket


async def numbers(store: Store, user_id: str) -> tuple[int, int, int]:
    """Available, held, and how many entries."""
    wallet = await store.wallet(user_id) or Wallet(user_id)
    return wallet.available, wallet.held, wallet.entries


async def all_at_once(store: Store, commands: list[Any]) -> list[Any]:
    """What comes of each, faults too."""
    return await asyncio.gather(*(store.submit(command) for command in commands), return_exceptions=True)


async def sound(store: Store) -> bool:
    violations = await store.check(lambda *_: None)
    assert violations == []
    return True


# One command at a time


async def test_a_grant_is_a_lot_an_entry_and_a_balance(ground: Ground) -> None:
    """A grant comes back as its outcome, and is found again in the wallet and the history with every detail."""
    expires_at = ground.clock() + 5_000
    command = Fund(
        "amina",
        new_id(),
        7,
        "api",
        "promotional",
        10,
        expires_at,
        "QKJ41",
        "welcome",
        "key:1",
        (once_by_reference("QKJ41", "amina", 7),),
    )
    async with ground.open() as store:
        assert await store.submit(command) == Granted("amina", command.grant_id, 7, 7)
        wallet = await store.wallet("amina")
        (entry,) = await store.entries("amina", 10, None)
        assert wallet == Wallet(
            "amina", 7, 0, 0, (Lot(1, command.grant_id, 7, "promotional", 10, expires_at),), 1, entry.id, ground.clock()
        )
        assert (entry.number, entry.previous_id, entry.at, entry.kind) == (1, None, ground.clock(), "grant")
        assert (entry.amount, entry.debit, entry.credit) == (7, "issued:api", "user:amina")
        assert (entry.available_after, entry.held_after, entry.ticket_id) == (7, 0, None)
        assert (entry.grant_id, entry.reference, entry.reason) == (command.grant_id, "QKJ41", "welcome")
        assert entry.actor == "key:1"
        assert await sound(store)


async def test_a_vend_is_captured_at_once(ground: Ground) -> None:
    """A `vend` ticket is captured from the start; the outcome carries the row that is found again."""
    async with ground.open() as store:
        await funded(store, "amina", 5)
        command = vend("amina", 2)
        outcome = await store.submit(command)
        ticket = await store.ticket(command.ticket_id)
        assert ticket is not None
        assert outcome == Vended(command.ticket_id, 3, ticket)
        assert (ticket.user_id, ticket.action, ticket.audience, ticket.cost) == ("amina", "default", "premium", 2)
        assert (ticket.state, ticket.captured, ticket.returned, ticket.held) == ("captured", 2, 0, 0)
        assert (ticket.issued_at, ticket.expires_at) == (ground.clock(), ground.clock() + 60_000)
        assert await numbers(store, "amina") == (3, 0, 2)
        assert await sound(store)


async def test_a_hold_is_redeemed_and_captured_in_part(ground: Ground) -> None:
    """Redeem and capture come back with the row as it then stands, and the rest of the hold is spendable again."""
    async with ground.open() as store:
        await funded(store, "amina", 10)
        ticket = await vended(store, held("amina", 8))
        assert ticket.state == "issued" and await numbers(store, "amina") == (2, 8, 2)
        ground.clock.move(3)
        redeemed = await store.submit(Redeem("amina", ticket.id, "premium"))
        assert redeemed == Changed(replace(ticket, state="redeemed", redeemed_at=ground.clock()))
        captured = await store.submit(Capture("amina", ticket.id, 3, GRACE_SECONDS))
        assert captured == Changed(
            replace(ticket, state="captured", redeemed_at=ground.clock(), captured=3, returned=5)
        )
        assert await store.ticket(ticket.id) == captured.ticket
        assert await numbers(store, "amina") == (7, 0, 4)
        assert await sound(store)


async def test_a_void_gives_all_back(ground: Ground) -> None:
    """Voiding a hold returns it, voiding a captured ticket refunds it, each once and to the lots that paid."""
    async with ground.open() as store:
        await funded(store, "amina", 10)
        before = await store.wallet("amina")
        for command in (held("amina", 4), vend("amina", 3)):
            ticket = await vended(store, command)
            voided = await store.submit(Void("amina", ticket.id, GRACE_SECONDS, "no work done", "key:1"))
            assert voided == Changed(replace(ticket, state="voided", captured=0, returned=ticket.cost))
            assert await store.ticket(ticket.id) == voided.ticket
            again = await store.submit(Void("amina", ticket.id, GRACE_SECONDS, "no work done", "key:1"))
            assert isinstance(again, TicketAlreadySettled)
        after = await store.wallet("amina")
        assert before is not None and after is not None
        assert (after.available, after.held, after.lots) == (10, 0, before.lots)
        assert await sound(store)


async def test_a_redeem_ticket_is_captured_when_it_is_redeemed(ground: Ground) -> None:
    """A `redeem` ticket holds its cost, is captured by its redemption, and is redeemed once."""
    async with ground.open() as store:
        await funded(store, "amina", 3)
        ticket = await vended(store, vend("amina", 3, settle="redeem"))
        assert await numbers(store, "amina") == (0, 3, 2)
        twice = await all_at_once(store, [Redeem("amina", ticket.id, "premium")] * 2)
        assert [type(outcome) for outcome in twice] == [Changed, TicketAlreadyRedeemed]
        assert twice[0].ticket.state == "captured"
        assert await numbers(store, "amina") == (0, 0, 3)
        assert await sound(store)


async def test_an_adjustment_says_what_it_did(ground: Ground) -> None:
    """A manual change comes back as its entry, which is the newest of the history; it never goes below zero."""
    async with ground.open() as store:
        given = await store.submit(Adjust("amina", new_id(), 6, "sorry", "cli:ops"))
        taken = await store.submit(Adjust("amina", new_id(), -4, "sold twice", "cli:ops"))
        refused = await store.submit(Adjust("amina", new_id(), -3, "sold twice", "cli:ops"))
        assert isinstance(given, Adjusted) and isinstance(taken, Adjusted)
        assert isinstance(refused, InsufficientCredits)
        assert await store.entries("amina", 10, None) == [taken.entry, given.entry]
        assert (given.entry.debit, given.entry.credit, given.entry.reason) == ("adjusted", "user:amina", "sorry")
        assert (taken.entry.debit, taken.entry.credit, taken.entry.amount) == ("user:amina", "adjusted", 4)
        assert await numbers(store, "amina") == (2, 0, 2)
        assert await sound(store)


async def test_a_probe_changes_no_money(ground: Ground) -> None:
    """A probe is committed, again and again, and makes neither a wallet nor an entry."""
    async with ground.open() as store:
        for _ in range(2):
            ground.clock.move(1)
            assert await store.submit(Probe()) == Probed(ground.clock())
        assert await store.wallet("") is None
        assert await sound(store)


async def test_what_was_never_made_is_not_there(ground: Ground) -> None:
    """An unknown user has no wallet and no history, and an unknown ticket is refused by name."""
    async with ground.open() as store:
        assert await store.wallet("nobody") is None
        assert await store.entries("nobody", 10, None) == []
        assert await store.ticket(new_id()) is None
        assert isinstance(await store.submit(Redeem("nobody", new_id(), "premium")), TicketNotFound)
        assert isinstance(await store.submit(vend("nobody")), InsufficientCredits)
        assert await store.wallet("nobody") is None


async def test_users_are_told_apart_to_the_last_character(ground: Ground) -> None:
    """Ids that look alike, or that a query might take for a pattern, are different users."""
    users = ["amina", "Amina", "amina ", "aminå", "amin\u0061\u030a", "%", "_", "*", "user:amina", "'", '"', "🦊" * 200]
    async with ground.open() as store:
        for amount, user_id in enumerate(users, 1):
            await funded(store, user_id, amount)
        for amount, user_id in enumerate(users, 1):
            ticket = await vended(store, held(user_id, 1))
            assert (ticket.user_id, await numbers(store, user_id)) == (user_id, (amount - 1, 1, 2))
            assert [entry.user_id for entry in await store.entries(user_id, 10, None)] == [user_id] * 2
        assert await sound(store)


async def test_the_largest_balance_is_kept_exactly(ground: Ground) -> None:
    """2^53 - 1 credits come back to the last one; one more is refused and changes nothing."""
    async with ground.open() as store:
        await funded(store, "bank", BALANCE_MAX)
        assert isinstance(await store.submit(fund("bank", 1)), AmountTooLarge)
        await vended(store, held("bank", BALANCE_MAX))
        assert isinstance(await store.submit(fund("bank", 1)), AmountTooLarge)
        assert await numbers(store, "bank") == (0, BALANCE_MAX, 2)
        assert await sound(store)


# Claims


async def remembered(store: Store) -> list[tuple[Command, Outcome]]:
    """One command of every kind that can carry a key, with what came of it."""
    user = "amina"
    commands: list[Any] = [
        fund(user, 100, claims=(once("add", "key", "k1", 100), once_by_reference("QKJ41", user, 100))),
        Adjust(user, new_id(), 5, "sorry", "cli:ops", (once("adjust", "key", "k2", 5),)),
        vend(user, 3, "k3"),
        held(user, 8, key="k4"),
    ]
    id = commands[-1].ticket_id
    commands += [
        Redeem(user, id, "premium", (once("redeem", "key", "k5", id),)),
        Capture(user, id, 6, GRACE_SECONDS, (once("capture", "key", "k6", id),)),
        Void(user, id, GRACE_SECONDS, "refund", "key:1", (once("void", "key", "k7", id),)),
    ]
    return [(command, await done(store, command)) for command in commands]


async def done(store: Store, command: Command) -> Outcome:
    outcome = await store.submit(command)
    assert not isinstance(outcome, Refusal), outcome
    return outcome


async def test_claims_replay_after_the_store_was_opened_anew(ground: Ground) -> None:
    """A repeated command answers what its first run answered, marked as a replay, and moves nothing."""
    async with ground.open() as store:
        first = await remembered(store)
        wallet = await store.wallet("amina")
    async with ground.open() as store:
        for command, outcome in first:
            if command.claims == first[3][0].claims:  # its credits all went back, so its key is free: see below
                continue
            assert await store.submit(command) == replace(outcome, replayed=True), command
        assert await store.wallet("amina") == wallet
        assert await sound(store)


async def test_a_replayed_vend_shows_the_ticket_as_it_stands(ground: Ground) -> None:
    """A vend repeated after its ticket was redeemed answers the same ticket in its present state."""
    async with ground.open() as store:
        await funded(store, "amina", 9)
        ticket = await vended(store, held("amina", 4, key="k"))
        await done(store, Redeem("amina", ticket.id, "premium"))
        again = await store.submit(held("amina", 4, key="k"))
        assert again == Vended(ticket.id, 5, await store.ticket(ticket.id), True)
        assert again.ticket is not None and again.ticket.state == "redeemed"
        assert await numbers(store, "amina") == (5, 4, 2)


async def test_a_key_is_free_again_once_all_credits_went_back(ground: Ground) -> None:
    """After a void the same key vends anew, and from then on names the new ticket."""
    async with ground.open() as store:
        await funded(store, "amina", 9)
        first = await vended(store, vend("amina", 4, "k"))
        await done(store, Void("amina", first.id, GRACE_SECONDS, "refund"))
        second = await vended(store, vend("amina", 4, "k"))
        assert second.id != first.id
    async with ground.open() as store:
        third = await store.submit(vend("amina", 4, "k"))
        assert isinstance(third, Vended) and (third.ticket_id, third.replayed) == (second.id, True)
        assert await numbers(store, "amina") == (5, 0, 4)
        assert await sound(store)


async def test_a_key_with_another_request_is_refused(ground: Ground) -> None:
    """A used key with a changed request is a conflict, changes nothing, and leaves the first outcome remembered."""
    async with ground.open() as store:
        await funded(store, "amina", 9)
        ticket = await vended(store, vend("amina", 4, "k"))
        assert isinstance(await store.submit(vend("amina", 5, "k")), IdempotencyKeyReused)
        again = await store.submit(vend("amina", 4, "k"))
        assert isinstance(again, Vended) and again.ticket_id == ticket.id and again.replayed
        assert await numbers(store, "amina") == (5, 0, 2)


async def test_a_key_that_came_with_a_known_payment_is_used(ground: Ground) -> None:
    """A payment granted before answers under a new key too, and that key is then good for this request only."""
    payment = once_by_reference("QKJ41", "amina", 9)
    async with ground.open() as store:
        first = await done(store, fund("amina", 9, reference="QKJ41", claims=(payment,)))
        key = once("add", "mint", "k", "amina", 9)
        again = await store.submit(fund("amina", 9, reference="QKJ41", claims=(key, payment)))
        assert again == replace(first, replayed=True)
    async with ground.open() as store:
        assert await store.submit(fund("amina", 9, claims=(key,))) == again
        other = once("add", "mint", "k", "brian", 9)
        assert isinstance(await store.submit(fund("brian", 9, claims=(other,))), IdempotencyKeyReused)
        assert await numbers(store, "amina") == (9, 0, 1)
        assert await sound(store)


async def test_refusals_are_not_remembered(ground: Ground) -> None:
    """A refused command with a key runs anew when it is repeated, in this store and in the next one."""
    async with ground.open() as store:
        for _ in range(2):
            assert isinstance(await store.submit(vend("amina", 4, "k")), InsufficientCredits)
        past = fund("amina", 9, expires_at=ground.clock() - 1, claims=(once_by_reference("QKJ41", "amina", 9),))
        assert isinstance(await store.submit(past), InvalidRequest)
    async with ground.open() as store:
        granted = await store.submit(fund("amina", 9, claims=past.claims))
        assert isinstance(granted, Granted) and not granted.replayed
        assert isinstance(await store.submit(vend("amina", 4, "k")), Vended)
        assert await numbers(store, "amina") == (5, 0, 2)
        assert await sound(store)


# Many at once


async def test_a_hundred_credits_buy_a_hundred_tickets(ground: Ground) -> None:
    """300 vends at once on 100 credits: exactly 100 tickets, 200 refusals, nothing left and nothing owed."""
    async with ground.open() as store:
        await funded(store, "amina", 100)
        outcomes = await all_at_once(store, [vend("amina") for _ in range(300)])
        tickets = [outcome for outcome in outcomes if isinstance(outcome, Vended)]
        assert len({ticket.ticket_id for ticket in tickets}) == 100
        assert sorted(ticket.available_after for ticket in tickets) == list(range(100))
        assert sum(isinstance(outcome, InsufficientCredits) for outcome in outcomes) == 200
        assert await numbers(store, "amina") == (0, 0, 101)
        assert await sound(store)


async def test_two_stores_sell_a_credit_once(ground: Ground) -> None:
    """150 vends at once through each of two stores over one ledger: exactly 100 tickets for 100 credits."""
    async with ground.open() as store, ground.open(serving=False) as other:
        await funded(store, "amina", 100)
        outcomes = await asyncio.gather(
            *((store, other)[number % 2].submit(vend("amina")) for number in range(300)), return_exceptions=True
        )
        assert sum(isinstance(outcome, Vended) for outcome in outcomes) == 100
        assert sum(isinstance(outcome, InsufficientCredits) for outcome in outcomes) == 200
        assert await numbers(store, "amina") == await numbers(other, "amina") == (0, 0, 101)
        assert await sound(other)


async def test_twins_with_one_key_make_one_debit(ground: Ground) -> None:
    """32 twins with one key, over two stores: one debit, one ticket, and 31 replays of it."""
    async with ground.open() as store, ground.open(serving=False) as other:
        await funded(store, "amina", 100)
        outcomes: list[Any] = await asyncio.gather(
            *((store, other)[number % 2].submit(vend("amina", 3, "k")) for number in range(32))
        )
        assert len({outcome.ticket_id for outcome in outcomes}) == 1
        assert len({outcome.ticket for outcome in outcomes}) == 1
        assert {outcome.available_after for outcome in outcomes} == {97}
        assert sorted(outcome.replayed for outcome in outcomes) == [False] + [True] * 31
        assert await numbers(store, "amina") == (97, 0, 2)
        assert await sound(store)


async def test_a_payment_is_granted_to_one_user(ground: Ground) -> None:
    """One payment reference for two users at once, over two stores: one grant; the other users are in conflict."""
    async with ground.open() as store, ground.open(serving=False) as other:
        users = ["amina", "brian"] * 8
        commands = [
            fund(user_id, 50, reference="QKJ41", claims=(once_by_reference("QKJ41", user_id, 50),)) for user_id in users
        ]
        outcomes: list[Any] = await asyncio.gather(
            *((store, other)[number // 2 % 2].submit(command) for number, command in enumerate(commands))
        )
        granted = [outcome for outcome in outcomes if isinstance(outcome, Granted)]
        assert len(granted) == 8 and len({outcome.user_id for outcome in granted}) == 1
        assert len({outcome.grant_id for outcome in granted}) == 1
        assert sum(not outcome.replayed for outcome in granted) == 1
        assert sum(isinstance(outcome, ReferenceConflict) for outcome in outcomes) == 8
        assert sorted([await numbers(store, "amina"), await numbers(store, "brian")]) == [(0, 0, 0), (50, 0, 1)]
        assert await sound(store)


async def test_a_batch_sees_its_own_changes(ground: Ground) -> None:
    """Commands submitted together act in their order: a grant pays for the vend behind it."""
    async with ground.open() as store:
        ticket = held("amina", 2)
        outcomes = await all_at_once(
            store,
            [
                vend("amina"), fund("amina", 2), ticket, Redeem("amina", ticket.ticket_id, "premium"),
                Capture("amina", ticket.ticket_id, 1, GRACE_SECONDS), vend("amina"), vend("amina"),
            ],
        )  # fmt: skip
        assert [type(outcome) for outcome in outcomes] == [
            InsufficientCredits, Granted, Vended, Changed, Changed, Vended, InsufficientCredits,
        ]  # fmt: skip
        assert await numbers(store, "amina") == (0, 0, 5)
        assert await sound(store)


async def test_a_poisonous_command_harms_no_neighbour(ground: Ground) -> None:
    """Commands that cannot be loaded, decided or recorded fail alone, with a fault of their own and no trace."""
    not_loaded = fund("\ud800", 1)  # a lone surrogate has no bytes
    not_decided = vend("amina", 0)
    not_recorded = [fund("amina", 1, reason="\ud800"), fund("amina", 1, reference="\udfff")]
    neighbours = [fund("amina", 5), vend("amina", 2, "k"), fund("brian", 7), held("brian", 3)]
    async with ground.open() as store:
        commands = [not_loaded, neighbours[0], not_recorded[0], neighbours[1], neighbours[2], not_decided,
                    neighbours[3], not_recorded[1]]  # fmt: skip
        outcomes = dict(zip(map(id, commands), await all_at_once(store, commands), strict=True))
        assert [type(outcomes[id(command)]) for command in neighbours] == [Granted, Vended, Granted, Vended]
        faults = [outcomes[id(command)] for command in (not_loaded, not_decided, *not_recorded)]
        assert [type(fault) for fault in faults] == [Fault] * 4
        assert len(set(map(id, faults))) == 4
        assert await numbers(store, "amina") == (3, 0, 2)
        assert await numbers(store, "brian") == (4, 3, 2)
        assert await sound(store)


async def test_a_poisonous_command_keeps_its_key(ground: Ground) -> None:
    """A command that could not be recorded did not use its key up."""
    claims = (once("add", "key", "k", "amina", 1),)
    async with ground.open() as store:
        with pytest.raises(Fault):
            await store.submit(fund("amina", 1, reason="\ud800", claims=claims))
        granted = await store.submit(fund("amina", 1, claims=claims))
        assert isinstance(granted, Granted) and not granted.replayed


async def test_who_stops_waiting_disturbs_nobody(ground: Ground) -> None:
    """Cancelled waiters cost their neighbours nothing; each of their vends happened wholly or not at all."""
    async with ground.open() as store:
        await funded(store, "amina", 100)
        tasks = [asyncio.ensure_future(store.submit(vend("amina"))) for _ in range(40)]
        await asyncio.sleep(0)  # all are queued
        for task in tasks[::4]:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [
            asyncio.CancelledError if number % 4 == 0 else Vended for number in range(40)
        ]
        available, _, entries = await numbers(store, "amina")
        assert 60 <= available <= 70 and available == 101 - entries
        assert isinstance(await store.submit(vend("amina")), Vended)
        assert await sound(store)


async def test_who_stops_waiting_while_the_commit_runs_disturbs_nobody(ground: Ground) -> None:
    """A vend cancelled at any moment leaves a store that goes on, and a key that answers one ticket."""
    async with ground.open() as store:
        await funded(store, "amina", 100)
        for turns in range(12):
            task = asyncio.ensure_future(store.submit(vend("amina", 1, f"k{turns}")))
            neighbour = asyncio.ensure_future(store.submit(vend("amina", 1)))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            assert isinstance(await neighbour, Vended)
            assert isinstance(await store.submit(vend("amina", 1, f"k{turns}")), Vended)
        assert await numbers(store, "amina") == (76, 0, 25)
        assert await sound(store)


async def test_a_full_queue_answers_at_once(ground: Ground) -> None:
    """What does not fit into the queue is told so before anything queued is done; all that fitted is done."""
    async with ground.open() as store:
        await funded(store, "amina", QUEUE_MAX + 100)
        answered: list[type] = []
        tasks = [asyncio.ensure_future(done(store, vend("amina"))) for _ in range(QUEUE_MAX + 100)]
        for task in tasks:
            task.add_done_callback(lambda task: answered.append(type(task.exception() or task.result())))
        await asyncio.wait(tasks)
        await asyncio.sleep(0)
        refused = answered.count(Unavailable)
        assert 0 < refused <= 100
        assert answered == [Unavailable] * refused + [Vended] * (QUEUE_MAX + 100 - refused)
        assert await numbers(store, "amina") == (refused, 0, QUEUE_MAX + 101 - refused)
        assert isinstance(await store.submit(vend("amina")), Vended)


async def test_closing_finishes_what_is_queued_then_refuses(ground: Ground) -> None:
    """Everything submitted before `close` is answered and durable; after it the store takes nothing."""
    async with ground.open(batch_max=8) as store:
        await funded(store, "amina", 100)
        tasks = [asyncio.ensure_future(store.submit(vend("amina"))) for _ in range(60)]
        await asyncio.sleep(0)
        await store.close()
        assert all(task.done() and isinstance(task.result(), Vended) for task in tasks)
        with pytest.raises(Unavailable):
            await store.submit(vend("amina"))
    async with ground.open() as store:
        assert await numbers(store, "amina") == (40, 0, 61)
        assert await sound(store)


# Pages, sweeps, keys


async def test_history_is_read_page_by_page(ground: Ground) -> None:
    """Pages run from the newest entry to the first without a gap or an overlap, while new entries arrive."""
    async with ground.open() as store:
        await all_at_once(store, [fund("amina", amount) for amount in range(1, 24)])
        await funded(store, "brian", 1)
        seen, cursor = [], None
        while True:
            page = await store.entries("amina", 5, cursor)
            assert len(page) == min(5, 23 - len(seen))
            seen += page
            await funded(store, "amina", 1_000)
            cursor = page[-1].previous_id
            if cursor is None:
                break
        assert [entry.number for entry in seen] == list(range(23, 0, -1))
        assert [entry.amount for entry in seen] == list(range(23, 0, -1))
        assert [entry.previous_id for entry in seen] == [entry.id for entry in seen[1:]] + [None]
        assert [entry.at for entry in seen] == [ground.clock()] * 23


async def test_a_cursor_opens_one_wallet_only(ground: Ground) -> None:
    """Another user's cursor, or one that no page gave, opens an empty page."""
    async with ground.open() as store:
        await funded(store, "amina", 1)
        await funded(store, "brian", 1)
        (entry,) = await store.entries("brian", 10, None)
        assert await store.entries("amina", 10, entry.id) == []
        assert await store.entries("amina", 10, "no such entry") == []
        assert await store.entries("brian", 10, entry.id) == [entry]


async def test_a_sweep_gives_back_what_is_due(ground: Ground) -> None:
    """`due` names each user once with the holds past their time; submitting it settles them, once."""
    async with ground.open() as store:
        await funded(store, "amina", 9)
        await funded(store, "brian", 9)
        first, second = await vended(store, held("amina", 2)), await vended(store, held("amina", 3))
        redeemed = await vended(store, held("brian", 4))
        await done(store, Redeem("brian", redeemed.id, "premium"))
        ground.clock.move(59.999)
        assert await store.due(ground.clock(), GRACE_SECONDS, 10) == []
        ground.clock.move(0.001)
        (sweep,) = await store.due(ground.clock(), GRACE_SECONDS, 10)
        assert (sweep.user_id, sweep.grace_seconds, set(sweep.ticket_ids)) == (
            "amina", GRACE_SECONDS, {first.id, second.id},
        )  # fmt: skip
        assert await all_at_once(store, [sweep, sweep]) == [Expired(0, 2), Expired(0, 0)]
        assert await numbers(store, "amina") == (9, 0, 5)
        assert await store.due(ground.clock(), GRACE_SECONDS, 10) == []
        ground.clock.move(600)
        (sweep,) = await store.due(ground.clock(), GRACE_SECONDS, 10)
        assert sweep == Expire("brian", GRACE_SECONDS, (redeemed.id,))
        assert await store.submit(sweep) == Expired(0, 1)
        late = await store.submit(Capture("brian", redeemed.id, None, GRACE_SECONDS))
        assert isinstance(late, TicketAlreadySettled)
        expired = await store.ticket(redeemed.id)
        assert expired is not None and (expired.state, expired.returned) == ("expired", 4)
        assert await sound(store)


async def test_a_sweep_expires_lots(ground: Ground) -> None:
    """A lot past its time makes its user due; the sweep moves it out and leaves the other lots."""
    async with ground.open() as store:
        await done(store, fund("amina", 5, expires_at=ground.clock() + 10_000))
        await done(store, fund("amina", 6, expires_at=ground.clock() + 20_000))
        await funded(store, "amina", 7)
        assert await store.due(ground.clock() + 9_999, GRACE_SECONDS, 10) == []
        ground.clock.move(10)
        assert await store.due(ground.clock(), GRACE_SECONDS, 10) == [Expire("amina", GRACE_SECONDS)]
        assert await store.submit(Expire("amina", GRACE_SECONDS)) == Expired(5, 0)
        assert await store.due(ground.clock(), GRACE_SECONDS, 10) == []
        assert await store.due(ground.clock() + 10_000, GRACE_SECONDS, 10) == [Expire("amina", GRACE_SECONDS)]
        assert await numbers(store, "amina") == (13, 0, 4)
        assert await sound(store)


async def test_two_stores_sweep_once(ground: Ground) -> None:
    """Two stores that found the same due, and sweep it at once: each lot expires once, each hold goes back once."""
    users = [f"user {number}" for number in range(20)]
    async with ground.open() as store, ground.open(serving=False) as other:
        for user_id in users:
            await done(store, fund(user_id, 5, expires_at=ground.clock() + 100_000))
            await vended(store, held(user_id, 2))
        ground.clock.move(1_000)
        sweeps = [await each.due(ground.clock(), GRACE_SECONDS, 100) for each in (store, other)]
        assert sweeps[0] == sweeps[1] and len(sweeps[0]) == 20
        outcomes = await asyncio.gather(all_at_once(store, list(sweeps[0])), all_at_once(other, list(sweeps[1])))
        assert [sum(each.credits for each in pair) for pair in zip(*outcomes, strict=True)] == [3] * 20
        assert [sum(each.tickets for each in pair) for pair in zip(*outcomes, strict=True)] == [1] * 20
        assert [await numbers(store, user_id) for user_id in users] == [(2, 0, 4)] * 20
        assert await sound(store)


async def test_a_sweep_is_bounded_and_comes_to_an_end(ground: Ground) -> None:
    """`due` names at most `limit` users, the longest overdue first; sweep after sweep, all are done."""
    users = [f"user {number}" for number in range(7)]
    async with ground.open() as store:
        for user_id in users:
            await done(store, fund(user_id, 3, expires_at=ground.clock() + 100_000))
            await vended(store, held(user_id, 2))
            ground.clock.move(1)
        ground.clock.move(1_000)
        swept: list[str] = []
        for limit in (2, 2, 2, 2, 2, 2, 2):
            sweeps = await store.due(ground.clock(), 0, limit)
            assert len(sweeps) <= limit and len({sweep.user_id for sweep in sweeps}) == len(sweeps)
            swept += [sweep.user_id for sweep in sweeps]
            await all_at_once(store, list(sweeps))
        assert set(swept) == set(users) and swept[:2] == users[:2]
        ground.clock.move(1)  # what came back to an expired lot without grace expires with the next sweep
        await all_at_once(store, list(await store.due(ground.clock(), 0, 100)))
        assert await store.due(ground.clock(), 0, 100) == []
        assert [await numbers(store, user_id) for user_id in users] == [(0, 0, 5)] * 7
        assert await sound(store)


async def test_a_sweep_counts_holds_and_lots_together(ground: Ground) -> None:
    """`limit` bounds the users of a sweep, whether holds or lots make them due."""
    async with ground.open() as store:
        for number in range(3):
            await funded(store, f"holder {number}", 2)
            await vended(store, held(f"holder {number}", 1))
            await done(store, fund(f"owner {number}", 2, expires_at=ground.clock() + 1_000))
        ground.clock.move(100)
        for limit in range(1, 8):
            assert len(await store.due(ground.clock(), GRACE_SECONDS, limit)) == min(limit, 6)


async def test_an_api_key_is_known_by_its_secret_until_it_is_revoked(ground: Ground) -> None:
    """A key is found by the hash of its secret, listed for ever, and no longer found once it is revoked."""
    keys = [
        ApiKey(f"key_{number}", role, f"for {role}", bytes([number]) * 32, ground.clock() - number)
        for number, role in enumerate(("mint", "service", "operator"))
    ]
    async with ground.open() as store:
        for key in keys:
            await store.add_api_key(key)
        assert await store.api_keys() == keys[::-1]
        assert [await store.api_key(key.secret_hash) for key in keys] == keys
        assert await store.api_key(b"\x07" * 32) is None
        assert await store.revoke_api_key("key_9", ground.clock()) is None
        revoked = replace(keys[1], revoked_at=ground.clock())
        assert await store.revoke_api_key("key_1", ground.clock()) == revoked
        assert await store.revoke_api_key("key_1", ground.clock() + 1) == revoked
    async with ground.open() as store:
        assert await store.api_key(keys[1].secret_hash) is None
        assert await store.api_keys() == [keys[2], revoked, keys[0]]


async def test_a_check_tells_how_far_it_is(ground: Ground) -> None:
    """`check` reports each step from the first to the last, by name."""
    steps: list[tuple[str, int, int]] = []
    async with ground.open() as store:
        await store.check(lambda *step: steps.append(step))
    total = steps[0][2]
    assert total > 0 and [step[1] for step in steps] == list(range(total + 1))
    assert {step[2] for step in steps} == {total} and len({step[0] for step in steps}) == total + 1
