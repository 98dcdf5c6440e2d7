"""The rules of money that goes back, as ledger pages: refunds, disputes, and what they take under each policy."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from payment_page import Page, bought
from pluct.commands import Dispute, TakeBack
from pluct.errors import AmountTooLarge, InvalidRequest, Moved, WalletFrozen
from pluct.model import ALL_OF_IT, BALANCE_MAX


@pytest.fixture
def page() -> Page:
    return Page()


# Money that goes back


def test_a_refund_takes_back_its_share_in_all(page: Page) -> None:
    """Cumulative, rounded down, from the payment's own lot first; told again or less, it takes nothing."""
    page.fund(5, priority=1)
    page.callback(page.checkout())
    for refunded, clawed, state in (
        (3_999, 3, "part_refunded"),
        (3_999, 0, "part_refunded"),
        (1_000, 0, "part_refunded"),
        (6_000, 3, "part_refunded"),
        (10_000, 4, "refunded"),
        (None, 0, "refunded"),
    ):
        booked = page.take_back(refunded)
        assert (booked.clawed, booked.lost, booked.payment.state) == (clawed, 0, state)
        if state == "part_refunded":
            assert [lot[0] for lot in page.lots()] == ["g", page.named().grant_id], "still in burn-down order"
    assert page.has(5) and page.lots() == [("g", 5, None)]
    assert ("clawback", 4, "user:u", "issued:daraja", 5, 0) in page.lines()
    assert (page.named().refunded, page.named().clawed) == (10_000, 10)


def test_what_was_spent_is_owed(page: Page) -> None:
    """Under `debt`: what is there is taken, the rest is repaid by what comes in next."""
    page.callback(page.checkout())
    page.vend(cost=7)
    booked = page.take_back()
    assert (booked.clawed, booked.lost, booked.available_after) == (10, 0, 0)
    assert page.has(0, 7)
    assert page.lines()[-2:] == [
        ("clawback", 3, "user:u", "issued:daraja", 0, 0),
        ("clawback", 7, "debt:u", "issued:daraja", 0, 0),
    ]
    assert page.callback(page.checkout(code="CODE2"), "R2").available_after == 3
    assert page.lines()[-1] == ("repay", 7, "user:u", "debt:u", 3, 0) and page.has(3)
    assert page.vend("t2").available_after == 2


def test_what_was_spent_is_lost(page: Page) -> None:
    """Under `floor`: it stops at zero, and the payment says what it cost."""
    page.clawback = "floor"
    page.callback(page.checkout())
    page.vend(cost=7)
    booked = page.take_back()
    assert (booked.clawed, booked.lost, page.named().lost, page.named().clawed) == (3, 7, 7, 10)
    assert page.has(0) and page.fund(2).available_after == 2


def test_who_owes_is_served_nothing(page: Page) -> None:
    """Under `freeze`: until the debt is repaid, by whatever comes in."""
    page.clawback = "freeze"
    page.callback(page.checkout())
    page.vend(cost=7)
    page.take_back()
    assert page.has(0, 7) and page.view.wallets["u"].frozen == ("debt",)
    page.refused(page.vending("t2"), WalletFrozen)
    page.fund(6)
    page.refused(page.vending("t2"), WalletFrozen)
    assert page.fund(3, "g2").available_after == 2
    assert page.view.wallets["u"].frozen == ()
    assert page.vend("t2").available_after == 1
    page.callback(page.checkout(code="CODE2"), "R2")
    page.vend("t3", 8)
    page.take_back(reference="R2")
    assert page.view.wallets["u"].frozen == ("debt",) and page.has(0, 7)


def test_credits_that_were_there_freeze_nothing(page: Page) -> None:
    """Under `freeze` too."""
    page.clawback = "freeze"
    page.callback(page.checkout())
    page.take_back()
    assert page.view.wallets["u"].frozen == () and page.has(0)


def test_a_lot_of_other_credits_pays_last(page: Page) -> None:
    """Once the payment's own are gone, in burn-down order."""
    page.callback(page.checkout())
    page.vend(cost=6)
    page.fund(5, "late", priority=90)
    page.fund(5, "soon", priority=10)
    page.take_back(8_000)
    assert page.lots() == [("soon", 1, None), ("late", 5, None)]


@pytest.mark.parametrize("refunded", [4_000, 10_000, 20_000, None])
def test_a_refund_before_its_payment_is_kept_for_it(page: Page, refunded: int | None) -> None:
    """By the receipt or by the link; applied when the money comes, and to nobody before."""
    for name in ("R1", "L1"):
        page.__post_init__()
        parked = page.take_back(refunded, name, user="").payment
        assert (parked.state, parked.amount, parked.reference) == ("unmatched", 0, name)
        assert "assigned" in page.refused(page.assigning(parked.id), InvalidRequest)
        booked = page.callback(page.checkout(), link="L1")
        share = 4 if refunded == 4_000 else 10
        assert (booked.payment_id, booked.minted, booked.clawed) == (parked.id, 10, share)
        assert (booked.payment.reference, booked.payment.link) == ("R1", "L1")
        assert booked.payment.refunded == (4_000 if share == 4 else 10_000)
        assert page.has(10 - share) and len(page.all()) == 1


def test_a_refund_by_the_link_before_the_link_is_known(page: Page) -> None:
    """The payment is there already, under its receipt: the two are joined."""
    page.callback(page.checkout())
    parked = page.take_back(4_000, "L1", user="").payment
    page.refused(page.receiving(user="", link="L1"), Moved)
    assert page.receive(link="L1").clawed == 4
    assert page.view.payments[parked.id].state == "failed" and page.named().link == "L1"
    assert page.take_back(5_000, "L1").clawed == 1


def test_a_refund_of_everything_is_of_what_was_paid(page: Page) -> None:
    """Which is known later."""
    assert page.take_back(user="").payment.refunded == ALL_OF_IT
    assert page.receive(user="").payment.refunded == 10_000


@pytest.mark.parametrize("amount", [None, 10_000])
def test_what_is_told_under_two_names_is_of_one_payment(page: Page, amount: int | None) -> None:
    """A dispute by the link and a refund by the receipt, before the money and before its user are known."""
    page.dispute("opened", reference="L1", user="")
    page.take_back(5_000, user="")
    told = page.receive(amount=amount, user="", link="L1").payment
    assert (told.state, told.reference, told.link, told.refunded) == ("unmatched", "R1", "L1", 5_000)
    assert [case.id for case in told.disputes] == ["d1"] and len(page.all()) == 2
    booked = page.receive(link="L1")
    assert (booked.minted, booked.clawed, booked.payment.state) == (10, 5, "disputed")
    assert page.view.wallets["u"].frozen == ("d1",)


def test_a_refund_of_what_is_looked_at_is_kept_for_it(page: Page) -> None:
    """Assigned later, it mints and goes back; more than was paid does not go back."""
    checkout = page.checkout()
    page.callback(checkout, amount=20_000)
    assert page.take_back(99_999).payment.refunded == 20_000
    booked = page.assign(page.named().id)
    assert (booked.minted, booked.clawed, booked.payment.state) == (20, 20, "refunded") and page.has(0)


def test_a_refund_belongs_to_whoever_was_credited(page: Page) -> None:
    """Asked for another user, the answer is to look again."""
    page.callback(page.checkout())
    for user in ("", "v"):
        page.refused(TakeBack(user, "mpesa", "R1", None, page.event(), "debt"), Moved)
        page.refused(Dispute(user, "mpesa", "R1", "d", "opened", None, page.event(), "debt"), Moved)
    assert page.take_back(reference="R1").clawed == 10
    elsewhere = page.ask(TakeBack("", "stripe", "R1", None, page.event(), "debt"))
    assert elsewhere.payment.state == "unmatched"


# Disputes


@pytest.mark.parametrize("policy", ["debt", "floor", "freeze"])
def test_a_dispute_freezes_and_its_end_unfreezes(page: Page, policy: str) -> None:
    """Under every policy; nothing is taken as long as the money is here."""
    page.clawback = policy
    page.callback(page.checkout())
    assert page.dispute("opened").payment.state == "disputed"
    page.refused(page.vending(), WalletFrozen)
    page.dispute("opened", "d2")
    page.dispute("closed")
    assert page.view.wallets["u"].frozen == ("d2",)
    page.dispute("closed", "d2")
    assert page.vend().available_after == 9 and page.named().state == "disputed"


CHANGES = ("opened", "funds_withdrawn", "funds_reinstated", "closed")


@pytest.mark.parametrize("order", list(itertools.permutations((*CHANGES, "paid"))))
def test_a_dispute_ends_the_same_in_any_order(page: Page, order: tuple[Any, ...]) -> None:
    """Each twice, the money itself among them: in the end all is as if nothing had been taken."""
    checkout = page.checkout()
    for change in order * 2:
        known = any(each.settled for each in page.all())
        if change == "paid":
            page.callback(checkout)
        else:
            page.dispute(change, user="u" if known else "")
    assert page.has(10) and page.view.wallets["u"].frozen == ()
    payment = page.named()
    assert (payment.state, payment.clawed, payment.lost) == ("disputed", 0, 0)
    assert [(case.stage, case.funds) for case in payment.disputes] == [("closed", "reinstated")]


@pytest.mark.parametrize("order", list(itertools.permutations(("refund", "lose", "win", "paid")))[::2])
def test_refunds_and_disputes_overlap_and_take_no_more_than_was_minted(page: Page, order: tuple[str, ...]) -> None:
    """Half is refunded, one dispute of all is lost, one is won: in any order all is gone, once."""
    checkout = page.checkout()
    for step in order:
        user = "u" if any(each.settled for each in page.all()) else ""
        match step:
            case "paid":
                page.callback(checkout)
            case "refund":
                page.take_back(5_000, user=user)
            case "lose":
                for change in ("opened", "funds_withdrawn", "closed"):
                    page.dispute(change, user=user)
            case "win":
                for change in CHANGES:
                    page.dispute(change, "d2", 7_000, user=user)
    assert page.has(0) and (page.named().clawed, page.named().lost) == (10, 0)


def test_money_withdrawn_in_part_takes_its_share(page: Page) -> None:
    """What this payment has left; what is reinstated is what that dispute took, a debt first."""
    page.callback(page.checkout())
    page.take_back(3_000)
    assert page.dispute("funds_withdrawn", amount=5_000).clawed == 5
    assert page.dispute("funds_withdrawn", amount=9_000).clawed == 0, "told again"
    page.vend(cost=2)
    assert page.dispute("funds_withdrawn", "d2").clawed == 2 and page.has(0, 2)
    assert page.dispute("funds_reinstated").clawed == 0, "the other dispute has it all"
    booked = page.dispute("funds_reinstated", "d2")
    assert (booked.clawed, booked.available_after) == (-7, 5) and page.has(5)
    assert page.lines()[-2:] == [
        ("restore", 7, "issued:daraja", "user:u", 7, 0),
        ("repay", 2, "user:u", "debt:u", 5, 0),
    ]
    assert page.lots() == [(page.named().grant_id, 5, None)]


def test_what_a_dispute_took_in_vain_it_does_not_give_back(page: Page) -> None:
    """Under `floor`; what a refund lost stays lost."""
    page.clawback = "floor"
    page.callback(page.checkout())
    page.vend(cost=9)
    page.take_back(2_000)
    assert (page.named().clawed, page.named().lost) == (2, 1)
    page.fund(3)
    assert page.dispute("funds_withdrawn").lost == 5 and page.has(0)
    booked = page.dispute("funds_reinstated")
    assert (booked.clawed, booked.lost) == (-3, -5) and page.has(3)
    assert (page.named().clawed, page.named().lost) == (2, 1)


def test_a_dispute_that_took_nothing_gives_nothing_back(page: Page) -> None:
    """Under `floor`, with everything spent: no entry, and nothing lost in the end."""
    page.clawback = "floor"
    page.callback(page.checkout())
    page.vend(cost=10)
    page.dispute("funds_withdrawn")
    booked = page.dispute("funds_reinstated")
    assert (booked.clawed, booked.lost) == (0, -10) and page.has(0)
    assert [entry.kind for entry in page.journal()] == ["grant", "vend"]


def test_two_lost_disputes_of_all_give_back_only_what_there_is(page: Page) -> None:
    """Under `floor`, both won in the end: 4 were taken, 4 come back."""
    for last in ("d1", "d2"):
        page.__post_init__()
        page.clawback = "floor"
        page.callback(page.checkout())
        page.vend(cost=6)
        page.dispute("funds_withdrawn", "d1")
        page.dispute("funds_withdrawn", "d2")
        page.dispute("funds_reinstated", "d2" if last == "d1" else "d1")
        assert page.has(0)
        assert page.dispute("funds_reinstated", last).clawed == -4
        assert page.has(4) and (page.named().clawed, page.named().lost) == (0, 0)


def test_a_restored_balance_keeps_its_bound(page: Page) -> None:
    """What cannot be given back now is refused, to be told again."""
    page.callback(page.checkout())
    page.dispute("funds_withdrawn")
    page.fund(BALANCE_MAX - 5)
    event = page.event()
    page.refused(Dispute("u", "mpesa", "R1", "d1", "funds_reinstated", None, event, "debt"), AmountTooLarge)


def test_a_payment_without_credits_is_disputed_too(page: Page) -> None:
    """Its user is frozen, though there is nothing to take."""
    bought(page, 5_000, 1)
    page.dispute("opened")
    assert page.dispute("funds_withdrawn").clawed == 0
    assert page.view.wallets["u"].frozen == ("d1",)
    assert page.take_back().payment.state == "disputed"


# Currencies


@pytest.mark.parametrize("order", ["paid foreign ours", "paid ours foreign", "foreign paid ours", "ours paid foreign"])
def test_a_refund_in_another_currency_takes_nothing_back(page: Page, order: str) -> None:
    """Before its payment or after it: the payment says so; a refund in its own currency counts as ever."""
    checkout = page.checkout()
    tell: dict[str, Callable[[], Any]] = {
        "paid": lambda: page.callback(checkout), "foreign": lambda: page.take_back(10_000, currency="UGX"),
        "ours": lambda: page.take_back(4_000, currency="KES"),
    }  # fmt: skip
    for name in order.split():
        tell[name]()
    payment = page.named()
    assert (payment.state, payment.currency, payment.refunded, payment.clawed) == ("part_refunded", "KES", 4_000, 4)
    assert "A refund was told as 10000 UGX in minor units" in payment.note and page.has(6)


def test_a_refund_in_another_currency_under_a_link(page: Page) -> None:
    """It was told before the link was known to be the payment's."""
    checkout = page.checkout()
    page.callback(checkout)
    page.take_back(10_000, "L1", currency="UGX")
    page.callback(checkout, link="L1")
    payment = page.named()
    assert (payment.state, payment.refunded, payment.link) == ("paid", 0, "L1") and page.has(10)
    assert "UGX" in payment.note


def test_all_of_a_payment_in_another_currency(page: Page) -> None:
    """Has no amount to show."""
    page.callback(page.checkout())
    page.take_back(None, currency="UGX")
    assert page.has(10) and "A refund was told as UGX in minor units" in page.named().note
