"""The rules, as ledger pages: what is asked, what is answered, and what is written."""

from collections import Counter
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
from msgspec.structs import replace

from pluct import ledger
from pluct.commands import Adjust, Capture, Command, Expire, Fund, Probe, Redeem, Vend, Void, once, once_by_reference
from pluct.errors import (
    AmountTooLarge,
    IdempotencyKeyReused,
    InsufficientCredits,
    InvalidRequest,
    ReferenceConflict,
    Refusal,
    Stale,
    TicketAlreadyRedeemed,
    TicketAlreadySettled,
    TicketExpired,
    TicketNotFound,
    TicketNotRedeemed,
    Unauthorized,
)
from pluct.ledger import TOKEN_LEEWAY_MS
from pluct.model import (
    BALANCE_MAX,
    LOTS_MAX,
    Adjusted,
    Changed,
    Claim,
    Entry,
    Expired,
    Granted,
    Lot,
    Probed,
    Ticket,
    Vended,
    Wallet,
)

T0 = 1_800_000_000_500  # half past a second: tickets live from whole seconds
GRACE_SECONDS = 100


@dataclass
class Page:
    """One ledger in memory. Every step is checked: a refusal changes nothing, and the invariants hold."""

    now: int = T0
    numbers: "count[int]" = field(default_factory=lambda: count(1))

    def __post_init__(self) -> None:
        self.view = ledger.View(lambda: f"e{next(self.numbers)}")

    def ask(self, command: Command) -> Any:
        before, known = self.picture(), len(self.view.entries)
        outcome = ledger.decide(self.view, command, self.now)
        assert {entry.at for entry in self.view.entries[known:]} <= {self.now}
        if isinstance(outcome, Refusal):
            assert self.picture() == before, "a refusal changes nothing"
        self.check()
        return outcome

    def refused(self, command: Command, kind: type[Refusal]) -> str:
        outcome = self.ask(command)
        assert type(outcome) is kind, outcome
        return outcome.sentence

    def picture(self) -> object:
        view = self.view
        return (
            dict(view.wallets), dict(view.tickets), dict(view.claims), list(view.entries), dict(view.new_tickets),
            dict(view.changed_wallets), dict(view.changed_tickets), dict(view.changed_claims), view.probed_at,
            dict(view.payments), dict(view.checkouts), dict(view.changed_payments), dict(view.changed_checkouts),
            list(view.events),
        )  # fmt: skip

    def check(self) -> None:
        """Every invariant, computed from the journal."""
        accounts: Counter[str] = Counter()
        for entry in self.view.entries:
            accounts[entry.debit] -= entry.amount
            accounts[entry.credit] += entry.amount
        assert sum(accounts.values()) == 0
        for user, wallet in self.view.wallets.items():
            entries = self.journal(user)
            assert [entry.number for entry in entries] == list(range(1, wallet.entries + 1))
            assert [entry.previous_id for entry in entries] == [None, *(entry.id for entry in entries)][: len(entries)]
            assert wallet.last_entry_id == (entries[-1].id if entries else None)
            assert wallet.available == sum(lot.remaining for lot in wallet.lots)
            assert all(lot.remaining > 0 for lot in wallet.lots)
            if entries and not wallet.debt:
                assert (wallet.available, wallet.held) == (accounts[f"user:{user}"], accounts[f"held:{user}"])
                assert (wallet.available, wallet.held) == (entries[-1].available_after, entries[-1].held_after)
            tickets = [ticket for ticket in self.view.tickets.values() if ticket.user_id == user]
            assert wallet.held == sum(ticket.held for ticket in tickets)
            for ticket in tickets:
                assert ticket.captured + ticket.returned == (0 if ticket.due_at is not None else ticket.cost)

    def journal(self, user: str = "u") -> list[Entry]:
        return [entry for entry in self.view.entries if entry.user_id == user]

    def lines(self, user: str = "u") -> list[tuple[object, ...]]:
        return [(e.kind, e.amount, e.debit, e.credit, e.available_after, e.held_after) for e in self.journal(user)]

    def lots(self, user: str = "u") -> list[tuple[object, ...]]:
        return [(lot.grant_id, lot.remaining, lot.expires_at) for lot in self.view.wallets[user].lots]

    # What is asked most, in short

    def fund(self, amount: int, grant_id: str = "g", **more: Any) -> Any:
        return self.ask(Fund(more.pop("user", "u"), grant_id, amount, "shop", **more))

    def vend(self, ticket_id: str = "t", cost: int = 1, settle: Any = "vend", **more: Any) -> Any:
        return self.ask(self.vending(ticket_id, cost, settle, **more))

    def vending(self, ticket_id: str = "t", cost: int = 1, settle: Any = "vend", **more: Any) -> Vend:
        user = more.pop("user", "u")
        return Vend(user, ticket_id, "read", "premium", cost, 60, settle, 600 if settle == "report" else 0, **more)

    def redeem(self, ticket_id: str = "t", user: str = "u", audience: str = "premium", **more: Any) -> Any:
        return self.ask(Redeem(user, ticket_id, audience, **more))

    def capture(self, amount: int | None = None, ticket_id: str = "t", user: str = "u") -> Any:
        return self.ask(Capture(user, ticket_id, amount, GRACE_SECONDS))

    def void(self, ticket_id: str = "t", user: str = "u") -> Any:
        return self.ask(Void(user, ticket_id, GRACE_SECONDS, "because", "ops"))

    def expire(self, *ticket_ids: str, user: str = "u") -> Any:
        return self.ask(Expire(user, GRACE_SECONDS, ticket_ids))

    def adjust(self, amount: int) -> Any:
        return self.ask(Adjust("u", "a", amount, "because", "ops"))

    def ticket(self, ticket_id: str = "t") -> Ticket:
        return self.view.tickets[ticket_id]


@pytest.fixture
def page() -> Page:
    return Page()


# Granting


def test_a_grant_is_an_entry_and_a_lot(page: Page) -> None:
    """Everything about it is kept, once."""
    granted = page.fund(
        10, category="promotional", priority=7, expires_at=T0 + 1, reference="r", reason="gift", actor="ops"
    )
    assert granted == Granted("u", "g", 10, 10)
    assert page.journal() == [
        Entry("e1", "u", 1, None, T0, "grant", 10, "issued:shop", "user:u", 10, 0, None, "g", "r", "gift", "ops")
    ]
    lot = Lot(1, "g", 10, "promotional", 7, T0 + 1)
    assert page.view.wallets == page.view.changed_wallets == {"u": Wallet("u", 10, 0, 0, (lot,), 1, "e1", T0)}
    assert page.view.wallets["u"].promotional == 10 and page.view.wallets["u"].next_expiry_at == T0 + 1


def test_a_second_grant_follows_the_first(page: Page) -> None:
    """Entry n points to entry n − 1."""
    page.fund(10)
    page.now += 5
    assert page.fund(5, "h") == Granted("u", "h", 5, 15)
    first, second = page.journal()
    assert (second.number, second.previous_id, second.at) == (2, first.id, T0 + 5)
    assert page.view.wallets["u"].updated_at == T0 + 5


@pytest.mark.parametrize("late", [0, 1])
def test_credits_that_have_expired_already_are_not_granted(page: Page, late: int) -> None:
    """A time that is now is past."""
    assert "future" in page.refused(Fund("u", "g", 1, "shop", expires_at=T0 - late), InvalidRequest)


def test_a_balance_has_a_bound(page: Page) -> None:
    """2^53 − 1 is reached and not passed, and what is held counts: it may come back."""
    page.fund(BALANCE_MAX)
    page.refused(Fund("u", "h", 1, "shop"), AmountTooLarge)
    page.vend(cost=5, settle="report")
    page.refused(Fund("u", "h", 1, "shop"), AmountTooLarge)
    page.refused(Adjust("u", "a", 1, "x", "ops"), AmountTooLarge)
    page.redeem()
    page.capture(2)
    assert page.fund(2, "h") == Granted("u", "h", 2, BALANCE_MAX)


def test_a_refund_has_no_room_above_the_bound(page: Page) -> None:
    """It is refused rather than miscounted, and can be repeated once there is room."""
    page.fund(BALANCE_MAX)
    page.vend(cost=3)
    page.fund(3, "h")
    page.refused(Void("u", "t", GRACE_SECONDS, "x"), AmountTooLarge)
    page.adjust(-3)
    assert page.void().ticket.state == "voided"


# Spending


def test_credits_are_spent_until_there_are_none(page: Page) -> None:
    """Given 2: vend, vend, vend answers 1 left, 0 left, refused."""
    page.fund(2)
    assert [page.vend(t).available_after for t in ("t1", "t2")] == [1, 0]
    page.refused(page.vending("t3"), InsufficientCredits)
    assert page.lines()[1:] == [
        ("vend", 1, "user:u", "earned:read", 1, 0),
        ("vend", 1, "user:u", "earned:read", 0, 0),
    ]
    assert [entry.ticket_id for entry in page.journal()] == [None, "t1", "t2"]
    assert page.view.wallets["u"].lots == ()


def test_an_unknown_user_has_no_credits(page: Page) -> None:
    """And gets no wallet by asking."""
    page.refused(page.vending(), InsufficientCredits)
    assert page.view.wallets == {} and not page.view.changed


def test_a_ticket_says_what_was_sold(page: Page) -> None:
    """It lives from the whole second in which it was vended."""
    page.fund(5)
    vended = page.vend(cost=2)
    ticket = Ticket(
        "t", "u", "read", "premium", 2, "vend", 0, T0, 1_800_000_060_000, "captured", None, 2, 0,
        (Lot(1, "g", 2, "paid", 50, None),),
    )  # fmt: skip
    assert vended == Vended("t", 3, ticket)
    assert page.view.tickets == page.view.new_tickets == {"t": ticket}
    assert page.view.changed_tickets == {} and ticket.due_at is None and ticket.held == 0


def test_burn_down_order(page: Page) -> None:
    """Low priority first, then soonest expiry, then promotional, then oldest."""
    for name, priority, expires_at, category in (
        ("9", 60, None, "paid"), ("8", 50, None, "paid"), ("6", 50, None, "promotional"), ("4", 50, T0 + 9, "paid"),
        ("7", 50, None, "promotional"), ("3", 50, T0 + 9, "promotional"), ("2", 50, T0 + 5, "paid"),
        ("1", 10, None, "paid"), ("5", 50, T0 + 9, "paid"),
    ):  # fmt: skip
        page.fund(1, name, priority=priority, expires_at=expires_at, category=category)
    assert "".join(page.vend(f"t{n}").ticket.taken[0].grant_id for n in range(9)) == "123456789"


def test_one_ticket_may_take_from_several_lots(page: Page) -> None:
    """It remembers which, and how much of each."""
    page.fund(3, "a", priority=1)
    page.fund(2, "b", priority=2)
    page.fund(4, "c", priority=3)
    assert [(lot.grant_id, lot.remaining) for lot in page.vend(cost=7).ticket.taken] == [("a", 3), ("b", 2), ("c", 2)]
    assert page.lots() == [("c", 2, None)]
    assert page.vend("t2", 2).available_after == 0


def test_expired_credits_cannot_be_spent(page: Page) -> None:
    """A lot is gone at its time, and the change that notices says where it went; a refusal leaves that to others."""
    page.fund(5, "a", expires_at=T0 + 10)
    page.fund(1, "b")
    page.now = T0 + 9
    assert page.vend("t1", 2).ticket.taken[0].grant_id == "a"
    page.now = T0 + 10
    page.refused(page.vending("t2", 2), InsufficientCredits)
    assert page.vend("t3").available_after == 0
    assert page.lines()[3:] == [
        ("expire", 3, "user:u", "expired", 1, 0),
        ("vend", 1, "user:u", "earned:read", 0, 0),
    ]
    assert page.journal()[3].grant_id == "a"


# Holding


def test_a_held_ticket_is_captured_when_it_is_redeemed(page: Page) -> None:
    """Settlement `redeem`."""
    page.fund(3)
    held = page.vend(cost=2, settle="redeem").ticket
    assert (held.state, held.held, held.captured, held.due_at) == ("issued", 2, 0, held.expires_at)
    page.now += 1
    ticket = page.redeem().ticket
    assert (ticket.state, ticket.captured, ticket.returned, ticket.redeemed_at) == ("captured", 2, 0, T0 + 1)
    assert ticket.due_at is None and ticket.report_before is None
    assert page.lines()[1:] == [
        ("hold", 2, "user:u", "held:u", 1, 2),
        ("capture", 2, "held:u", "earned:read", 1, 0),
    ]
    assert [entry.ticket_id for entry in page.journal()[1:]] == ["t", "t"]


def test_a_ticket_that_is_paid_at_once_is_redeemed_once(page: Page) -> None:
    """Settlement `vend`: redeeming moves nothing."""
    page.fund(3)
    page.vend()
    changed = page.redeem()
    assert changed == Changed(page.ticket()) and page.ticket().redeemed_at == T0 and page.ticket().state == "captured"
    assert len(page.journal()) == 2
    page.refused(Redeem("u", "t", "premium"), TicketAlreadyRedeemed)


def test_a_reported_ticket_is_held_until_it_is_captured(page: Page) -> None:
    """Settlement `report`: redeem moves nothing, capture everything."""
    page.fund(10)
    page.vend(cost=6, settle="report")
    page.now += 1000
    ticket = page.redeem().ticket
    assert (ticket.state, ticket.held, ticket.redeemed_at) == ("redeemed", 6, T0 + 1000)
    assert ticket.report_before == ticket.due_at == T0 + 601_000
    assert len(page.journal()) == 2
    ticket = page.capture().ticket
    assert (ticket.state, ticket.captured, ticket.returned) == ("captured", 6, 0)
    assert page.lines()[2:] == [("capture", 6, "held:u", "earned:read", 4, 0)]
    assert page.journal()[2].ticket_id == "t"


def test_what_is_not_captured_returns_to_where_it_came_from(page: Page) -> None:
    """The first lots taken are the ones kept."""
    page.fund(3, "a", priority=1)
    page.fund(5, "b", priority=2)
    page.vend(cost=6, settle="report")
    page.redeem()
    ticket = page.capture(2).ticket
    assert (ticket.captured, ticket.returned, ticket.state) == (2, 4, "captured")
    assert page.lines()[3:] == [
        ("capture", 2, "held:u", "earned:read", 2, 4),
        ("return", 4, "held:u", "user:u", 6, 0),
    ]
    assert page.journal()[4].ticket_id == "t"
    assert page.lots() == [("a", 1, None), ("b", 5, None)]
    assert [lot.number for lot in page.view.wallets["u"].lots] == [1, 2]


def test_a_lot_that_paid_in_full_gets_nothing_back(page: Page) -> None:
    """Two lots paid, the first of them all that was captured: only the second comes back."""
    page.fund(2, "g1")
    page.fund(3, "g2")
    page.vend(cost=4, settle="report")
    page.redeem()
    page.capture(2)
    assert page.lots() == [("g2", 3, None)]


def test_what_a_capture_or_a_time_out_leaves_of_an_expired_lot_lives_a_while_longer(page: Page) -> None:
    """Like what a void gives back."""
    page.fund(9, expires_at=T0 + 1_000)
    page.vend("a", 2, "report")
    page.vend("b", 2, "report")
    page.redeem("a")
    page.now = T0 + 2_000
    page.capture(1, "a")
    assert page.lots() == [("g", 1, T0 + 2_000 + GRACE_SECONDS * 1000)]
    page.now = T0 + 90_000
    page.expire("b")
    assert page.lots() == [("g", 1, T0 + 2_000 + GRACE_SECONDS * 1000), ("g", 2, T0 + 90_000 + GRACE_SECONDS * 1000)]


@pytest.mark.parametrize("amount", [0, 7, -1])
def test_a_capture_is_within_the_hold(page: Page, amount: int) -> None:
    """More than is held, or nothing, is refused with the bounds."""
    page.fund(10)
    page.vend(cost=6, settle="report")
    page.redeem()
    assert "6 credits" in page.refused(Capture("u", "t", amount, GRACE_SECONDS), InvalidRequest)


def test_all_of_a_hold_can_be_captured_by_amount(page: Page) -> None:
    """The bound is included; nothing returns."""
    page.fund(10)
    page.vend(cost=6, settle="report")
    page.redeem()
    assert page.capture(6).ticket.returned == 0
    assert [entry.kind for entry in page.journal()] == ["grant", "hold", "capture"]


def test_a_capture_needs_a_redeemed_ticket(page: Page) -> None:
    """Not one that was only issued, nor one that is settled."""
    page.fund(10)
    page.vend(settle="report")
    page.refused(Capture("u", "t", None, GRACE_SECONDS), TicketNotRedeemed)
    page.redeem()
    page.capture()
    page.refused(Capture("u", "t", None, GRACE_SECONDS), TicketAlreadySettled)
    page.vend("t2")
    page.refused(Capture("u", "t2", None, GRACE_SECONDS), TicketAlreadySettled)


# Giving back


@pytest.mark.parametrize("redeemed", [False, True])
def test_a_void_ticket_gives_everything_back(page: Page, redeemed: bool) -> None:
    """Issued or redeemed; with who and why."""
    page.fund(3)
    page.vend(cost=2, settle="report")
    if redeemed:
        page.redeem()
    ticket = page.void().ticket
    assert (ticket.state, ticket.captured, ticket.returned) == ("voided", 0, 2)
    entry = page.journal()[-1]
    assert page.lines()[-1] == ("return", 2, "held:u", "user:u", 3, 0)
    assert (entry.ticket_id, entry.reason, entry.actor) == ("t", "because", "ops")
    assert page.lots() == [("g", 3, None)]
    page.refused(Void("u", "t", GRACE_SECONDS, "x"), TicketAlreadySettled)
    page.refused(Capture("u", "t", None, GRACE_SECONDS), TicketAlreadySettled)


def test_a_captured_ticket_is_refunded_once(page: Page) -> None:
    """From what was earned back to the lot."""
    page.fund(3)
    page.vend(cost=2)
    ticket = page.void().ticket
    assert (ticket.state, ticket.captured, ticket.returned) == ("voided", 0, 2)
    assert page.lines()[-1] == ("refund", 2, "earned:read", "user:u", 3, 0)
    entry = page.journal()[-1]
    assert (entry.ticket_id, entry.reason, entry.actor) == ("t", "because", "ops")
    page.refused(Void("u", "t", GRACE_SECONDS, "x"), TicketAlreadySettled)


def test_a_refund_is_of_what_was_captured(page: Page) -> None:
    """What had come back already does not come back again."""
    page.fund(4, "a", priority=1)
    page.fund(6, "b", priority=2)
    page.vend(cost=8, settle="report")
    page.redeem()
    page.capture(5)
    ticket = page.void().ticket
    assert page.lines()[-1] == ("refund", 5, "earned:read", "user:u", 10, 0)
    assert (ticket.captured, ticket.returned) == (0, 8)
    assert page.lots() == [("a", 4, None), ("b", 6, None)]


@pytest.mark.parametrize(("late", "expires_at"), [(-1, T0 + 5_000), (0, T0 + 105_000), (7, T0 + 105_007)])
def test_what_returns_to_an_expired_lot_lives_a_while_longer(page: Page, late: int, expires_at: int) -> None:
    """From the moment it returns, by the grace time; before its time the lot is as it was."""
    page.fund(3, expires_at=T0 + 5_000)
    page.vend(cost=3, settle="report")
    page.now = T0 + 5_000 + late
    page.void()
    assert page.lots() == [("g", 3, expires_at)]
    assert page.view.wallets["u"].next_expiry_at == expires_at


def test_what_returns_joins_its_own_lot_only(page: Page) -> None:
    """Same grant and same expiry; another grant with the same terms stays apart, and so does another expiry."""
    page.fund(5, "a", expires_at=T0 + 5_000)
    page.fund(5, "b")
    page.vend("t1", 3, "report")
    page.vend("t2", 2, "report")
    page.vend("t3", 1, "report")
    page.void("t3")
    assert page.lots() == [("b", 5, None)]
    page.void("t1")
    page.now = T0 + 5_000
    page.void("t2")
    assert page.lots() == [("a", 2, T0 + 105_000), ("b", 5, None)]
    assert page.lines()[-2:] == [("expire", 3, "user:u", "expired", 5, 2), ("return", 2, "held:u", "user:u", 7, 0)]


def test_what_returns_twice_to_an_expired_lot_lives_from_each_return(page: Page) -> None:
    """The second part is not cut short by the first, which came back earlier."""
    page.fund(5, expires_at=T0 + 5_000)
    page.vend("t1", 3, "report")
    page.vend("t2", 2, "report")
    page.now = T0 + 6_000
    page.void("t1")
    page.now = T0 + 7_000
    page.void("t2")
    assert page.lots() == [("g", 3, T0 + 106_000), ("g", 2, T0 + 107_000)]


# Expiring


def test_an_unredeemed_hold_gives_its_credits_back(page: Page) -> None:
    """At its time and not before; once."""
    page.fund(3)
    page.vend(cost=2, settle="redeem")
    page.now = page.ticket().expires_at - 1
    assert page.expire("t") == Expired(0, 0)
    page.now += 1
    assert page.expire("t") == Expired(0, 1)
    ticket = page.ticket()
    assert (ticket.state, ticket.captured, ticket.returned) == ("expired", 0, 2)
    assert page.lines()[-1] == ("return", 2, "held:u", "user:u", 3, 0)
    assert page.journal()[-1].ticket_id == "t"
    assert page.expire("t") == Expired(0, 0) and len(page.journal()) == 3


def test_an_unreported_hold_gives_its_credits_back(page: Page) -> None:
    """When its report is due, counted from redeem; a late capture is too late, swept or not."""
    page.fund(3)
    page.vend(cost=2, settle="report")
    page.redeem()
    page.now = T0 + 599_999
    assert page.expire("t") == Expired(0, 0)
    page.now += 1
    page.refused(Capture("u", "t", None, GRACE_SECONDS), TicketAlreadySettled)
    page.refused(Void("u", "t", GRACE_SECONDS, "x"), TicketAlreadySettled)
    assert page.expire("t") == Expired(0, 1)
    page.refused(Capture("u", "t", None, GRACE_SECONDS), TicketAlreadySettled)
    page.refused(Redeem("u", "t", "premium"), TicketAlreadySettled)


def test_a_sweep_takes_only_what_is_due_and_its_own(page: Page) -> None:
    """Unknown tickets, other users' and settled ones are left alone."""
    page.fund(5)
    page.fund(5, "h", user="v")
    page.vend("t1", settle="redeem")
    page.vend("t2", settle="redeem", user="v")
    page.vend("t3")
    page.now += 100_000
    assert page.expire("t1", "t2", "t3", "t4") == Expired(0, 1)
    assert (page.ticket("t2").state, page.ticket("t3").state) == ("issued", "captured")


def test_a_sweep_passes_over_what_was_settled_meanwhile(page: Page) -> None:
    """And goes on with the next."""
    page.fund(5)
    page.vend("a", 1, "redeem")
    page.vend("b", 1, "redeem")
    page.redeem("a")
    page.now += 60_000
    assert page.expire("a", "b") == Expired(0, 1)
    assert page.ticket("b").state == "expired"


def test_an_expired_ticket_stays_expired_when_the_clock_is_set_back(page: Page) -> None:
    """Its credits have gone back."""
    page.fund(1)
    page.vend(settle="redeem")
    page.now += 60_000
    page.expire("t")
    page.now = T0
    page.refused(Redeem("u", "t", "premium"), TicketExpired)


def test_a_sweep_expires_lots(page: Page) -> None:
    """The sum is told; with nothing due nothing is written."""
    page.fund(5, "a", expires_at=T0 + 10)
    page.fund(2, "b", expires_at=T0 + 10, category="promotional")
    page.fund(3, "c", expires_at=T0 + 11)
    assert page.expire() == Expired(0, 0)
    page.now = T0 + 10
    assert page.expire() == Expired(7, 0)
    assert page.lots() == [("c", 3, T0 + 11)]
    assert {(entry.grant_id, entry.amount) for entry in page.journal()[3:]} == {("a", 5), ("b", 2)}


def test_a_sweep_that_finds_nothing_changes_nothing(page: Page) -> None:
    """Not even the time of the wallet's last change."""
    page.fund(5)
    page.view.changed_wallets.clear()
    page.now += 1
    assert page.expire() == Expired(0, 0)
    assert page.view.changed_wallets == {}


# Redeeming: the order of reasons


def test_a_ticket_is_redeemed_before_its_time_is_up(page: Page) -> None:
    """The last millisecond counts; the end does not, swept or not."""
    page.fund(5)
    for ticket_id in ("t1", "t2", "t3"):
        page.vend(ticket_id, settle="redeem")
    page.now = page.ticket("t1").expires_at - 1
    assert page.redeem("t1").ticket.state == "captured"
    page.now += 1
    page.refused(Redeem("u", "t2", "premium"), TicketExpired)
    page.expire("t3")
    page.refused(Redeem("u", "t3", "premium"), TicketExpired)
    page.refused(Redeem("u", "t1", "premium"), TicketAlreadyRedeemed)


def test_a_token_may_say_less_than_its_ticket_and_never_more(page: Page) -> None:
    """Whoever shares the secret may write tokens that end sooner or begin later: those times count, too."""
    page.fund(5)
    ticket = page.vend("t1", settle="redeem").ticket
    assert ticket is not None
    page.refused(Redeem("u", "t1", "premium", expires_at=page.now), TicketExpired)
    page.refused(Redeem("u", "t1", "premium", starts_at=page.now + TOKEN_LEEWAY_MS + 1), Unauthorized)
    page.now = ticket.expires_at
    page.refused(Redeem("u", "t1", "premium", expires_at=page.now + 1), TicketExpired)
    page.now -= 1
    page.ask(Redeem("u", "t1", "premium", starts_at=page.now + TOKEN_LEEWAY_MS, expires_at=page.now + 1))


def test_a_paid_ticket_expires_too(page: Page) -> None:
    """Settlement `vend`: the credits are spent all the same."""
    page.fund(1)
    page.vend()
    page.now = page.ticket().expires_at
    page.refused(Redeem("u", "t", "premium"), TicketExpired)


def test_a_void_ticket_is_settled(page: Page) -> None:
    """Whatever else is wrong with it."""
    page.fund(5)
    page.vend(settle="report")
    page.redeem()
    page.void()
    page.now += 10**9
    page.refused(Redeem("u", "t", "premium"), TicketAlreadySettled)


def test_a_token_that_disagrees_with_its_ticket_is_refused(page: Page) -> None:
    """No such ticket, another user's, another audience's."""
    page.fund(5)
    page.vend()
    page.refused(Redeem("u", "x", "premium"), TicketNotFound)
    assert "user" in page.refused(Redeem("v", "t", "premium"), Unauthorized)
    assert "audience" in page.refused(Redeem("u", "t", "other"), Unauthorized)
    page.refused(Capture("u", "x", None, GRACE_SECONDS), TicketNotFound)
    page.refused(Void("u", "x", GRACE_SECONDS, "x"), TicketNotFound)


# Adjusting


def test_an_adjustment_upwards_is_a_lot(page: Page) -> None:
    """It never expires, and is as good as paid."""
    page.fund(1)
    adjusted = page.adjust(4)
    entry = Entry("e2", "u", 2, "e1", T0, "adjust", 4, "adjusted", "user:u", 5, 0, None, "a", None, "because", "ops")
    assert adjusted == Adjusted(entry)
    assert page.view.wallets["u"].lots == (Lot(1, "g", 1, "paid", 50, None), Lot(2, "a", 4, "paid", 50, None))


def test_what_a_person_decided_holds_for_the_wallet_they_saw(page: Page) -> None:
    """By the number of its entries, which is 0 for an unknown user's; what decides by itself has seen nothing."""
    page.refused(Adjust("u", "a", 1, "x", "ops", seen=1), Stale)
    page.ask(Adjust("u", "a", 5, "x", "ops", seen=0))
    page.refused(Adjust("u", "a", -1, "x", "ops", seen=0), Stale)
    page.refused(Fund("u", "g", 1, "shop", seen=2), Stale)
    page.ask(Adjust("u", "a", -1, "x", "ops", seen=1))
    page.ask(Fund("u", "g", 1, "shop", seen=2))
    page.ask(Fund("u", "h", 1, "shop"))


def test_an_adjustment_downwards_takes_in_burn_down_order(page: Page) -> None:
    """To zero and not below."""
    page.fund(1, "a", priority=1)
    page.fund(3, "b")
    entry = page.adjust(-2).entry
    assert (entry.kind, entry.amount, entry.debit, entry.credit) == ("adjust", 2, "user:u", "adjusted")
    assert (entry.grant_id, entry.reason, entry.actor, entry.available_after) == (None, "because", "ops", 2)
    assert page.lots() == [("b", 2, None)]
    page.refused(Adjust("u", "a", -3, "x", "ops"), InsufficientCredits)
    assert page.adjust(-2).entry.available_after == 0


def test_an_adjustment_has_no_room_above_the_bound(page: Page) -> None:
    """Up to the bound it has."""
    page.fund(BALANCE_MAX - 1)
    page.refused(Adjust("u", "a", 2, "x", "ops"), AmountTooLarge)
    assert page.adjust(1).entry.available_after == BALANCE_MAX


# Debts


def indebted(page: Page, debt: int, held: int = 0, **tickets: Ticket) -> None:
    page.view.wallets["u"] = Wallet("u", 0, held, debt)
    page.view.tickets.update(tickets)


def decided(page: Page, command: Command) -> Any:
    return ledger.decide(page.view, command, page.now)


@pytest.mark.parametrize(("amount", "debt", "available"), [(3, 2, 0), (5, 0, 0), (9, 0, 4)])
def test_what_comes_in_repays_a_debt_first(page: Page, amount: int, debt: int, available: int) -> None:
    """By a grant or an adjustment, as an entry of its own."""
    for command in (Fund("u", "g", amount, "shop"), Adjust("u", "g", amount, "x", "ops")):
        page = Page()
        indebted(page, 5)
        decided(page, command)
        wallet = page.view.wallets["u"]
        assert (wallet.debt, wallet.available) == (debt, available)
        assert page.lines()[1] == ("repay", min(amount, 5), "user:u", "debt:u", available, 0)
        assert sum(lot.remaining for lot in wallet.lots) == available


def test_what_returns_repays_a_debt_first(page: Page) -> None:
    """By a void of what a ticket held."""
    lot = Lot(1, "g", 4, "paid", 50, None)
    ticket = Ticket("t", "u", "read", "premium", 4, "report", 600, T0, T0 + 60_000, "issued", None, 0, 0, (lot,))
    indebted(page, 3, 4, t=ticket)
    decided(page, Void("u", "t", GRACE_SECONDS, "x"))
    wallet = page.view.wallets["u"]
    assert (wallet.debt, wallet.available, wallet.held) == (0, 1, 0)
    assert page.lines() == [("return", 4, "held:u", "user:u", 4, 0), ("repay", 3, "user:u", "debt:u", 1, 0)]


def test_what_returns_in_parts_repays_a_debt_all_the_same(page: Page) -> None:
    """Two parts of one lot, which has expired: they come back as one, and then the debt is paid."""
    parts = Lot(1, "g", 2, "paid", 50, T0 - 2), Lot(1, "g", 2, "paid", 50, T0 - 1)
    ticket = Ticket("t", "u", "read", "premium", 4, "report", 600, T0, T0 + 60_000, "issued", None, 0, 0, parts)
    indebted(page, 3, 4, t=ticket)
    decided(page, Void("u", "t", GRACE_SECONDS, "x"))
    wallet = page.view.wallets["u"]
    assert (wallet.debt, wallet.available, wallet.held) == (0, 1, 0)
    assert page.lots() == [("g", 1, T0 + GRACE_SECONDS * 1000)]


# Keys and references

KEY = once("vend", "u", "k", "u", "read")


def test_the_same_request_is_answered_again(page: Page) -> None:
    """With the ticket as it stands now, and without another debit."""
    page.fund(3)
    first = page.vend("t1", claims=(KEY,))
    assert not first.replayed
    page.redeem("t1")
    again = page.vend("t2", claims=(KEY,))
    assert again == Vended("t1", 2, page.ticket("t1"), True) and again.ticket.redeemed_at == T0
    assert "t2" not in page.view.tickets and len(page.journal()) == 2
    assert page.view.claims[KEY.key] == Claim(KEY.key, "u", KEY.fingerprint, Vended("t1", 2), T0)


def test_another_request_with_the_same_key_is_refused(page: Page) -> None:
    """Whatever it asks."""
    page.fund(3)
    page.vend("t1", claims=(KEY,))
    page.refused(page.vending("t2", claims=(replace(KEY, fingerprint=b"other"),)), IdempotencyKeyReused)


def test_a_refusal_is_not_remembered(page: Page) -> None:
    """The same key works once there are credits."""
    page.refused(page.vending("t1", claims=(KEY,)), InsufficientCredits)
    assert page.view.claims == {}
    page.fund(1)
    assert page.vend("t1", claims=(KEY,)) == Vended("t1", 0, page.ticket("t1"))


def test_a_ticket_whose_credits_went_back_frees_its_key(page: Page) -> None:
    """The same request vends anew, and the key is that one's from then on; part of the credits is not enough."""
    page.fund(9)
    page.vend("t1", 3, "report", claims=(KEY,))
    page.redeem("t1")
    page.capture(1, "t1")
    assert page.vend("t2", 3, "report", claims=(KEY,)).ticket_id == "t1"
    page.void("t1")
    fresh = page.vend("t3", 3, "report", claims=(KEY,))
    assert fresh.ticket_id == "t3" and not fresh.replayed
    assert page.vend("t4", 3, "report", claims=(KEY,)) == Vended("t3", fresh.available_after, page.ticket("t3"), True)


def test_a_freed_key_takes_another_request(page: Page) -> None:
    """Nothing was sold under it after all."""
    page.fund(9)
    page.vend("t1", settle="redeem", claims=(KEY,))
    page.void("t1")
    assert page.vend("t2", claims=(replace(KEY, fingerprint=b"other"),)).ticket_id == "t2"


def paid(reference: str, user: str, amount: int, *more: Any) -> Fund:
    return Fund(user, f"g-{user}", amount, "shop", reference=reference,
                claims=(*more, once_by_reference(reference, user, amount)))  # fmt: skip


def test_a_payment_is_granted_once(page: Page) -> None:
    """Again for the same user and amount answers the first; for another it is refused."""
    assert page.ask(paid("r", "u", 5)) == Granted("u", "g-u", 5, 5)
    assert page.ask(paid("r", "u", 5)) == Granted("u", "g-u", 5, 5, True)
    page.refused(paid("r", "v", 5), ReferenceConflict)
    page.refused(paid("r", "u", 6), ReferenceConflict)
    assert len(page.view.entries) == 1


def test_a_key_made_known_by_a_payment_is_the_requests_own(page: Page) -> None:
    """The same request under it is a replay, and another request is refused, as with any key."""
    first, second = once("add", "shop", "k1", 5, "r"), once("add", "shop", "k2", 5, "r")
    page.ask(paid("r", "u", 5, first))
    for _ in range(2):
        assert page.ask(paid("r", "u", 5, second)) == Granted("u", "g-u", 5, 5, True)
    page.refused(paid("s", "u", 5, once("add", "shop", "k2", 5, "s")), IdempotencyKeyReused)


def test_a_known_payment_under_a_new_key_makes_the_key_known(page: Page) -> None:
    """And a known key under a new payment makes the payment known; nothing is granted twice."""
    key = once("add", "webhook", "k", "u", 5)
    page.ask(paid("r", "u", 5))
    assert page.ask(paid("r", "u", 5, key)) == Granted("u", "g-u", 5, 5, True)
    assert page.ask(Fund("u", "g2", 5, "shop", claims=(key,))) == Granted("u", "g-u", 5, 5, True)
    assert page.view.claims[key.key] == Claim(key.key, "u", key.fingerprint, Granted("u", "g-u", 5, 5), T0)
    page.refused(paid("r", "v", 5, replace(key, fingerprint=b"other")), IdempotencyKeyReused)
    assert len(page.view.entries) == 1


def test_of_two_known_claims_the_first_answers(page: Page) -> None:
    """Both are the same request's, or else it is refused."""
    one, two = once("add", "w", "1", 5), once("add", "w", "2", 5)
    page.ask(Fund("u", "g1", 5, "shop", claims=(one,)))
    page.ask(Fund("u", "g2", 5, "shop", claims=(two,)))
    assert page.ask(Fund("u", "g3", 5, "shop", claims=(one, two))).grant_id == "g1"


@pytest.mark.parametrize("command", [
    lambda claims: Redeem("u", "t", "premium", claims),
    lambda claims: Adjust("u", "a", 1, "x", "ops", claims),
])  # fmt: skip
def test_other_outcomes_are_remembered_whole(page: Page, command: Any) -> None:
    """As they were, with the mark of a replay."""
    page.fund(3)
    page.vend()
    first = page.ask(command((KEY,)))
    page.now += 10**9
    assert page.ask(command((KEY,))) == replace(first, replayed=True)


# The view


def test_a_probe_has_the_store_write(page: Page) -> None:
    """And changes no credits."""
    assert not page.view.changed
    assert page.ask(Probe()) == Probed(T0)
    assert page.view.changed and page.view.probed_at == T0 and page.view.entries == []


def test_a_ticket_is_new_in_the_batch_that_vends_it(page: Page) -> None:
    """Later in the same batch it is still new; in the next it is changed."""
    page.fund(3)
    page.vend()
    page.redeem()
    assert page.view.new_tickets["t"].redeemed_at == T0 and page.view.changed_tickets == {}
    later = ledger.View(lambda: "x")
    later.wallets |= page.view.wallets
    later.tickets |= page.view.tickets
    assert not later.changed
    ledger.decide(later, Void("u", "t", GRACE_SECONDS, "x"), T0)
    assert later.new_tickets == {} and later.changed_tickets == later.tickets and later.changed


# Many lots


def crowded() -> Page:
    page = Page()
    for number in range(LOTS_MAX):
        ledger.decide(page.view, Fund("u", f"g{number}", 1, "shop", expires_at=T0 + 10_000 + number), T0)
    return page


def test_a_wallet_keeps_so_many_lots_apart() -> None:
    """At the limit a grant joins a lot of the same terms, and one of other terms is refused."""
    page = crowded()
    assert len(page.lots()) == LOTS_MAX
    assert "1000 grants" in page.refused(Fund("u", "x", 5, "shop", expires_at=T0 + 9_999), InvalidRequest)
    page.refused(Fund("u", "x", 5, "shop", expires_at=T0 + 10_000, category="promotional"), InvalidRequest)
    page.refused(Fund("u", "x", 5, "shop", expires_at=T0 + 10_000, priority=49), InvalidRequest)
    assert page.fund(5, "x", expires_at=T0 + 10_003).available_after == LOTS_MAX + 5
    assert page.lots()[3] == ("g3", 6, T0 + 10_003) and len(page.lots()) == LOTS_MAX


def test_what_returns_is_never_refused() -> None:
    """Even if that makes one lot more."""
    page = crowded()
    page.vend(settle="report")
    page.fund(1, "x")
    assert page.void().ticket.state == "voided" and len(page.lots()) == LOTS_MAX + 1


# Our own mistakes are caught before they are written


@pytest.mark.parametrize(("wallet", "command", "says"), [
    (Wallet("u", 5, 0, 0, (Lot(1, "g", 4, "paid", 50, None),), 1, "e0"), Fund("u", "h", 1, "shop"), "lots sum"),
    (Wallet("u", 5, 0, 3, (Lot(1, "g", 5, "paid", 50, None),), 1, "e0"), Vend("u", "t", "a", "p", 1, 60), "debt"),
    (Wallet("u", 0, -3, 0, (), 1, "e0"), Fund("u", "h", 1, "shop"), "negative"),
    (Wallet("u", 0, 0, -3, (), 1, "e0"), Fund("u", "h", 1, "shop"), "moves something|debt"),
    (Wallet("u", 5, 0, 0, (Lot(1, "g", 5, "paid", 50, None),), 1, "e0"), Vend("u", "t", "a", "p", 0, 60), "costs"),
    (None, Fund("u", "h", 0, "shop"), "moves something"),
    (None, Expire("u", 1, (), (KEY,)), "claim nothing"),
])  # fmt: skip
def test_a_broken_ledger_stops(page: Page, wallet: Wallet | None, command: Command, says: str) -> None:
    """A balance that does not add up is an assertion of ours, not a refusal of the caller's."""
    if wallet is not None:
        page.view.wallets["u"] = wallet
    with pytest.raises(AssertionError, match=says):
        ledger.decide(page.view, command, T0)
    assert page.view.entries == [] and page.view.changed_wallets == {}
