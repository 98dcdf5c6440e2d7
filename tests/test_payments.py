"""The rules of payments, as ledger pages: what gateways tell, in which order, and what becomes of the credits."""

import itertools
from typing import Any

import pytest
from msgspec.structs import replace

from payment_page import PACKS, Page, bought
from pluct import ledger
from pluct.commands import (
    Fund,
    Note,
    OpenCheckout,
    Progress,
    TakeBack,
    WriteOff,
    once,
    once_by_event,
    once_by_reference,
    reference_key,
)
from pluct.errors import (
    CheckoutNotFound,
    InvalidRequest,
    Moved,
    PaymentAlreadySettled,
    PaymentNotFound,
    ReferenceConflict,
)
from pluct.model import (
    BALANCE_MAX,
    LOTS_MAX,
    Booked,
    CheckedOut,
    Granted,
    Noted,
    Pack,
)
from test_ledger import T0


@pytest.fixture
def page() -> Page:
    return Page()


# Checkouts


def test_a_checkout_is_paid_once_and_mints_its_credits(page: Page) -> None:
    """The entry says from which gateway, under which receipt; the reference is used up for everyone."""
    checkout = page.checkout()
    booked = page.callback(checkout, link="L1", at=T0 - 5, phone_hash=b"h", phone_mask="2547*")
    payment = page.named()
    assert booked == Booked(payment.id, 10, 0, 0, 10, payment)
    assert (payment.state, payment.amount, payment.minted, payment.at) == ("paid", 10_000, 10, T0 - 5)
    assert (payment.user_id, payment.checkout_id, payment.link) == ("u", checkout.id, "L1")
    assert (payment.phone_hash, payment.phone_mask, payment.confirmed) == (b"h", "2547*", True)
    assert page.lines() == [("grant", 10, "issued:daraja", "user:u", 10, 0)]
    (entry,) = page.journal()
    assert (entry.reference, entry.grant_id, entry.actor) == ("R1", payment.grant_id, "daraja")
    assert (page.state(checkout), page.view.checkouts[checkout.id].message) == ("paid", "Paid.")
    assert [(event.payment_id, event.checkout_id) for event in page.view.events] == [(payment.id, checkout.id)]
    assert page.ask(Fund("u", "g", 10, "api", claims=(once_by_reference("R1", "u", 10),))).replayed
    page.refused(Fund("v", "g", 10, "api", claims=(once_by_reference("R1", "v", 10),)), ReferenceConflict)


def test_a_checkout_moves_forward_only(page: Page) -> None:
    """Of failed and expired the first stands; the gateway's id and address are the first ones heard."""
    checkout = page.checkout()

    def told(state: Any, message: str, **more: Any) -> tuple[str, str]:
        outcome = page.ask(Progress("u", checkout.id, state, message, **more))
        assert outcome == CheckedOut(checkout.id, page.view.checkouts[checkout.id])
        return outcome.checkout.state, outcome.checkout.message

    assert told("pending", "look at your phone", gateway_reference="ws_1", due_at=T0 + 75, asked=0) == (
        "pending", "look at your phone",
    )  # fmt: skip
    assert told("created", "x") == ("pending", "look at your phone")
    assert told("pending", "still", due_at=T0 + 99, asked=1, event=page.event()) == ("pending", "still")
    assert told("failed", "wrong PIN", gateway_reference="ws_2", redirect_url="http://a") == ("failed", "wrong PIN")
    assert told("expired", "too late", redirect_url="http://b") == ("failed", "too late")
    assert told("pending", "x", due_at=T0 + 200, asked=2) == ("failed", "too late")
    now = page.view.checkouts[checkout.id]
    assert (now.gateway_reference, now.redirect_url, now.due_at, now.asked) == ("ws_1", "http://a", T0 + 200, 2)
    assert [event.checkout_id for event in page.view.events] == [checkout.id]


def test_a_success_counts_however_late_and_stays(page: Page) -> None:
    """After a failure it mints; a failure after it changes nothing, and nobody is asked any more."""
    checkout = page.checkout()
    page.ask(Progress("u", checkout.id, "failed", "wrong PIN", due_at=T0 + 1))
    assert page.callback(checkout, gateway_reference="ws_1").minted == 10
    page.ask(Progress("u", checkout.id, "failed", "wrong PIN", "ws_2", due_at=T0 + 1, asked=7))
    now = page.view.checkouts[checkout.id]
    assert (now.state, now.message, now.due_at, now.gateway_reference, now.asked) == ("paid", "Paid.", None, "ws_1", 0)
    assert page.has(10)


def test_a_checkout_is_its_users_own(page: Page) -> None:
    """Nobody else's progress, nobody else's money."""
    checkout = page.checkout()
    page.refused(Progress("v", checkout.id, "failed", "x"), CheckoutNotFound)
    page.refused(Progress("u", "none", "failed", "x"), CheckoutNotFound)
    page.refused(page.receiving(user="v", checkout_id=checkout.id), Moved)
    assert page.receive(user="", checkout_id="none").payment.state == "unmatched"


def test_a_key_opens_one_checkout(page: Page) -> None:
    """Sent again it answers the checkout as it stands by then."""
    checkout = page.checkout()
    command = OpenCheckout("u", replace(checkout, id="c2", payment_code="CODE2"), (once("checkout", "u", "k", "big"),))
    assert not page.ask(command).replayed
    page.ask(Progress("u", "c2", "pending", "look"))
    again = page.ask(replace(command, checkout=replace(checkout, id="c3")))
    assert (again.checkout_id, again.checkout.state, again.replayed) == ("c2", "pending", True)


# The same money, told again


def test_an_event_is_acted_on_once(page: Page) -> None:
    """Sent again it answers what came of it, with the payment as it stands."""
    checkout = page.checkout()
    claims = (once_by_event("daraja", "k"),)
    first = page.callback(checkout, claims=claims)
    page.take_back(5_000)
    again = page.callback(checkout, "R9", 99, claims=claims)
    assert again == replace(first, payment=page.named(), replayed=True)
    assert len(page.all()) == 1 and len(page.view.events) == 2 and page.has(5)


def test_an_event_that_means_nothing_is_kept_once(page: Page) -> None:
    """So is one that found a checkout paid already."""
    note = Note("", page.event(), (once_by_event("stripe", "evt"),))
    assert page.ask(note) == Noted(note.event.id)
    assert page.ask(replace(note, event=page.event())) == Noted(note.event.id, True)
    checkout = page.checkout()
    page.callback(checkout)
    claims = (once_by_event("daraja", "q"),)
    command = page.receiving(None, None, checkout_id=checkout.id, claims=claims, gateway_reference="ws_1")
    assert page.ask(command) == Booked(None)
    assert page.ask(command) == Booked(None, replayed=True)
    assert page.view.checkouts[checkout.id].gateway_reference == "ws_1"
    assert len(page.view.events) == 3 and page.has(10)


ROUTES = ("callback", "typed", "said", "failed", "statement")


@pytest.mark.parametrize("order", list(itertools.permutations(ROUTES)))
def test_one_payment_by_many_routes_is_one_payment(page: Page, order: tuple[str, ...]) -> None:
    """In any order, each of them twice: one mint, one payment under its receipt, and the checkout is paid."""
    checkout = page.checkout()
    minted = 0
    for route in order * 2:
        match route:
            case "callback":
                minted += page.callback(checkout).minted
            case "typed":
                minted += page.typed("CODE1", at=T0 + 9).minted
            case "said":
                minted += page.said_paid(checkout).minted
            case "failed":
                page.ask(Progress("u", checkout.id, "failed", "no answer"))
            case "statement":
                minted += page.receive(user="", reference="R1").minted if page.all() else 0
    assert minted == 10 and page.has(10)
    payment = page.named()
    assert (payment.state, payment.checkout_id, payment.user_id) == ("paid", checkout.id, "u")
    assert {each.state for each in page.all() if each != payment} <= {"failed"}
    assert page.state(checkout) == "paid"
    assert reference_key("R1") in page.view.claims


@pytest.mark.parametrize(
    ("seconds", "amount", "same"),
    [(0, 10_000, True), (180, 10_000, True), (-180, 10_000, True), (181, 10_000, False), (-181, 10_000, False),
     (0, 20_000, False)],
)  # fmt: skip
def test_what_was_typed_is_the_prompt_money_only_if_it_fits(page: Page, seconds: int, amount: int, same: bool) -> None:
    """The same amount at about that time; otherwise it is another payment of the user."""
    checkout = page.checkout()
    page.said_paid(checkout)
    booked = page.typed("CODE1", amount=amount, at=T0 + seconds * 1000)
    assert booked.minted == (0 if same else amount // 1_000)
    assert len(page.all()) == (1 if same else 2)
    assert page.callback(checkout, "R2").minted == (10 if same else 0), "the receipt that the prompt really has"


def test_a_checkout_said_to_be_paid_under_a_link_is_one_payment(page: Page) -> None:
    """Found by both, it is not its own double."""
    checkout = page.checkout()
    page.receive(None, None, checkout_id=checkout.id, link="L1")
    assert page.callback(checkout, link="L1").minted == 0
    assert [payment.state for payment in page.all()] == ["paid"] and page.has(10)


def test_of_payments_that_wait_a_query_confirms_the_first(page: Page) -> None:
    """One, as the gateway said; and none where another payment has paid for the checkout or does not fit it."""
    checkout = page.checkout()
    for reference, at in (("R1", T0 + 2), ("R2", T0 + 1), ("R3", T0 + 3)):
        page.typed("CODE1", reference, at=at, confirmed=False)
    assert page.said_paid(checkout).payment.reference == "R2"
    assert page.said_paid(checkout) == Booked(None) and page.has(10)
    other = page.checkout(code="CODE2")
    page.callback(other, "R4", 9_999)
    page.typed("CODE2", "R5", confirmed=False)
    assert page.said_paid(other) == Booked(None) and page.has(10)


def test_a_payment_that_waits_apart_is_not_the_prompts(page: Page) -> None:
    """It was typed too late to be the same money; told again that the checkout is paid, it goes on waiting."""
    checkout = page.checkout()
    page.said_paid(checkout)
    page.typed("CODE1", at=T0 + 200_000, confirmed=False)
    page.said_paid(checkout)
    assert page.named().state == "review" and page.has(10)


def test_what_was_typed_without_a_time_is_of_now(page: Page) -> None:
    """A checkout prompted a while ago, and both tellings late."""
    checkout = page.checkout()
    page.now += 600_000
    page.said_paid(checkout)
    assert page.typed("CODE1").minted == 0
    page.now += 200_000
    assert page.typed("CODE1", "R2").minted == 10


def test_two_receipts_for_one_checkout_are_two_payments(page: Page) -> None:
    """The second is priced by the list, whichever way it came."""
    checkout = page.checkout()
    page.callback(checkout)
    assert page.typed("CODE1", "R2").minted == 10
    assert page.callback(checkout, "R3").minted == 10
    page.packs = (Pack("starter", "", "KES", 10_000, 7),)
    assert page.typed("CODE1", "R4", 20_000).minted == 14
    assert page.callback(checkout, "R5", 20_000).payment.state == "review"
    assert page.callback(checkout, "R6").minted == 7
    assert page.has(51) and page.state(checkout) == "paid"


def test_a_receipt_told_differently_moves_nothing(page: Page) -> None:
    """Another amount, currency or user: the payment says so, once, and stays what it is."""
    checkout = page.checkout()
    page.callback(checkout)
    for _ in range(2):
        assert page.callback(checkout, amount=20_000).minted == 0
    assert page.receive(currency="USD").payment.note.count("told as") == 2
    assert "payment of v" in page.receive(user="v").payment.note
    assert page.named().note.count("20000 KES") == 1
    assert (page.named().state, page.named().amount, page.named().user_id) == ("paid", 10_000, "u")
    assert page.has(10) and page.has(0, user="v") and len(page.view.events) == 5


def test_a_receipt_pays_for_one_checkout(page: Page) -> None:
    """Told of another one of the same user, nothing moves."""
    page.callback(page.checkout())
    other = page.checkout(code="CODE2")
    assert "checkout c-CODE2" in page.callback(other).payment.note
    assert page.state(other) == "created" and page.has(10)


def test_notes_are_bounded(page: Page) -> None:
    """However often a receipt is told differently."""
    page.callback(page.checkout())
    for amount in range(1, 40):
        page.receive(amount=amount)
    assert len(page.named().note) == 500


def test_a_prompt_paid_with_another_amount_than_was_assumed_is_told_of(page: Page) -> None:
    """The query said only paid; the receipt says how much. Nothing moves, and the receipt mints nothing more."""
    checkout = page.checkout()
    page.said_paid(checkout)
    page.callback(checkout, amount=5_000)
    assert (page.named().amount, page.named().state) == (10_000, "paid") and "5000 KES" in page.named().note
    assert page.typed("CODE1", amount=5_000).minted == 0 and page.has(10)


@pytest.mark.parametrize("refund", [False, True])
def test_an_unmatched_payment_turns_out_to_be_the_prompts(page: Page, refund: bool) -> None:
    """Typed with a wrong code, and meanwhile the checkout is said to be paid: one of the two comes to nothing."""
    checkout = page.checkout()
    unmatched = page.typed("WRONG").payment
    if refund:
        assert page.take_back(4_000, user="").payment.state == "unmatched"
    assert page.said_paid(checkout).minted == 10
    joined = page.callback(checkout)
    assert (joined.minted, joined.clawed) == (0, 4 if refund else 0)
    assert page.named().state == ("part_refunded" if refund else "paid")
    assert (page.named().code, page.named().priced[0].pack_id) == ("WRONG", "starter")
    gone = page.view.payments[unmatched.id]
    assert (gone.state, gone.reference) == ("failed", None) and page.named().id in gone.note
    assert page.has(6 if refund else 10)
    page.refused(page.assigning(unmatched.id), PaymentAlreadySettled)


def test_a_payment_credited_twice_before_it_is_known_as_one_is_put_right(page: Page) -> None:
    """Assigned by a person under its receipt, and minted because its checkout was said to be paid."""
    checkout = page.checkout()
    page.assign(page.typed("WRONG").payment.id)
    page.said_paid(checkout)
    assert page.has(20)
    joined = page.callback(checkout)
    assert (joined.payment.reference, joined.minted, joined.clawed) == ("R1", 0, 10)
    assert page.has(10) and page.state(checkout) == "paid"
    assert sorted(each.state for each in page.all()) == ["failed", "paid"]
    assert page.said_paid(checkout) == Booked(None)


def test_a_payment_assigned_before_its_checkout_is_known_pays_for_it(page: Page) -> None:
    """And is not credited again."""
    checkout = page.checkout()
    page.assign(page.typed("WRONG").payment.id)
    assert page.callback(checkout).minted == 0
    assert page.state(checkout) == "paid" and page.has(10)


def test_two_receipts_are_never_one_payment(page: Page) -> None:
    """Even where one link names both: nothing moves, and it is told of."""
    page.receive("R1", user="", link="L1")
    page.receive("R2", user="")
    odd = page.receive("R2", link="L1")
    assert "may be the same money" in odd.payment.note and odd.minted == 0
    assert [each.state for each in page.all()] == ["unmatched", "unmatched"]


def test_credits_of_another_user_are_not_taken_back_as_a_double(page: Page) -> None:
    """The checkout's money was given to somebody else by hand, the receipt's to the checkout's user."""
    checkout = page.checkout()
    page.fund(BALANCE_MAX - 5)
    given = page.said_paid(checkout).payment
    assert given.state == "review" and page.assign(given.id, "v").minted == 10
    page.adjust(-1_000)
    page.assign(page.typed("WRONG").payment.id)
    odd = page.callback(checkout)
    assert (odd.clawed, odd.payment.reference) == (0, "R1") and "may be the same money" in odd.payment.note
    assert page.has(10, user="v") and page.callback(checkout, "R2").payment.user_id == "v"


def test_a_prompts_receipt_of_another_amount_is_not_joined(page: Page) -> None:
    """What is unmatched stays for a person to look at."""
    checkout = page.checkout()
    page.typed("WRONG", amount=5_000)
    page.said_paid(checkout)
    odd = page.callback(checkout, amount=None)
    assert "may be the same money" in odd.payment.note and odd.payment.reference is None
    assert page.named().state == "unmatched" and page.has(10)


# What does not fit


def test_money_for_nobody_is_kept(page: Page) -> None:
    """Without a user no wallet is touched; once the user is known, it is credited."""
    booked = page.typed("WRONG")
    assert booked == Booked(booked.payment_id, payment=page.named())
    assert (page.named().state, page.named().code) == ("unmatched", "WRONG") and page.named().note
    assert not page.view.wallets
    checkout = page.checkout()
    assert page.callback(checkout).minted == 10
    assert (page.named().state, page.named().note) == ("paid", "")


@pytest.mark.parametrize("more", [{"amount": 9_999}, {"amount": 10_001}, {"currency": "USD"}])
def test_a_prompts_money_that_does_not_fit_is_looked_at(page: Page, more: dict[str, Any]) -> None:
    """It mints nothing; the checkout waits, and no query can make more of it."""
    checkout = page.checkout()
    assert page.callback(checkout, **more).payment.state == "review"
    assert (page.state(checkout), page.named().note) == ("review", "Its checkout asks for 10000 KES in minor units.")
    assert page.said_paid(checkout) == Booked(None)
    page.ask(Progress("u", checkout.id, "expired", "x", due_at=T0))
    assert page.state(checkout) == "review" and not page.view.wallets
    assert page.callback(checkout, "R2").minted == 10
    assert page.state(checkout) == "paid"


def test_a_typed_amount_tells_of_a_prompts_money(page: Page) -> None:
    """The same receipt comes as typed: then it is priced, whichever came first."""
    checkout = page.checkout()
    page.callback(checkout, amount=20_000)
    assert page.typed("CODE1", amount=20_000).minted == 20
    other = Page()
    checkout = other.checkout()
    assert other.typed("CODE1", amount=20_000).minted == 20
    assert other.callback(checkout, amount=20_000).minted == 0


@pytest.mark.parametrize("confirmed_by", ["status", "callback", "query"])
def test_money_that_is_not_confirmed_waits(page: Page, confirmed_by: str) -> None:
    """Until the gateway confirms it: by a status, a prompt's callback, or a query of the checkout."""
    checkout = page.checkout()
    assert page.typed("CODE1", confirmed=False).payment.state == "review"
    assert page.typed("CODE1", confirmed=False).minted == 0
    assert page.state(checkout) == "created"
    page.refused(page.receiving(user="", confirmed=True), Moved)
    match confirmed_by:
        case "status":
            assert page.receive().minted == 10
        case "callback":
            assert page.callback(checkout).minted == 10
        case _:
            assert page.said_paid(checkout).minted == 10
    assert page.state(checkout) == "paid" and len(page.all()) == 1
    assert page.typed("CODE1", confirmed=False).payment.confirmed


def test_a_payment_of_no_known_amount_is_looked_at(page: Page) -> None:
    """Until it is told how much it was."""
    assert page.receive(amount=None).payment.state == "review"
    assert page.receive(amount=None, user="", reference="R2").payment.state == "unmatched"
    assert page.receive(amount=10_000).minted == 10
    assert page.receive(reference="R2").minted == 10


def test_a_reference_granted_by_hand_is_not_minted_again(page: Page) -> None:
    """To the same user the payment is that grant, refunds included; to another it is looked at."""
    for user in ("u", "v"):
        page.ask(Fund(user, f"by-hand-{user}", 12, "cli", claims=(once_by_reference(f"R-{user}", user, 12),)))
    checkout = page.checkout()
    booked = page.callback(checkout, "R-u")
    assert (booked.minted, booked.payment.minted, booked.payment.grant_id) == (0, 12, "by-hand-u")
    assert page.state(checkout) == "paid" and page.has(12)
    assert page.take_back(5_000, "R-u").clawed == 6
    other = page.checkout(code="CODE2")
    assert page.callback(other, "R-v").payment.state == "review"
    page.refused(page.assigning(page.named("R-v").id), PaymentAlreadySettled)
    assert page.assign(page.named("R-v").id, "v").minted == 0
    assert page.has(12, user="v")


def test_a_receipt_granted_by_hand_before_it_is_known_is_told_of(page: Page) -> None:
    """The checkout was said to be paid, and a person granted the receipt meanwhile."""
    checkout = page.checkout()
    page.said_paid(checkout)
    page.ask(Fund("u", "by-hand", 10, "cli", claims=(once_by_reference("R1", "u", 10),)))
    assert page.callback(checkout).minted == 0
    assert "by hand as well" in page.named().note


def test_a_balance_that_would_grow_too_large_is_looked_at(page: Page) -> None:
    """Money is never refused: it waits for a person, who is told too."""
    page.ask(Fund("u", "g", BALANCE_MAX - 5, "api"))
    checkout = page.checkout()
    assert page.callback(checkout).payment.state == "review" and page.state(checkout) == "review"
    assert "too large" in page.refused(page.assigning(page.named().id), InvalidRequest)
    assert page.assign(page.named().id, "v").minted == 10


def test_a_wallet_full_of_lots_takes_what_is_paid(page: Page) -> None:
    """One more than others may make."""
    for number in range(LOTS_MAX):
        ledger.decide(page.view, Fund("u", f"g{number}", 1, "shop", expires_at=T0 + 10 + number), T0)
    page.refused(Fund("u", "g", 1, "shop"), InvalidRequest)
    assert page.callback(page.checkout()).minted == 10
    assert len(page.view.wallets["u"].lots) == LOTS_MAX + 1


# Odd amounts


def test_the_largest_packs_that_fit_and_the_rest_is_kept(page: Page) -> None:
    """What is left joins the next payment in that currency, of a user without any credits too."""
    assert bought(page, 9_999, 1) == (0, "paid", {"KES": 9_999})
    assert page.view.wallets["u"].entries == 0 and page.named().grant_id is None
    assert bought(page, 1, 2) == (10, "paid", {})
    assert bought(page, 123_456, 3) == (140, "paid", {"KES": 3_456})
    assert bought(page, 150, 4, currency="USD") == (10, "paid", {"KES": 3_456, "USD": 50})
    assert bought(page, 6_544, 5) == (10, "paid", {"USD": 50})
    assert [line.count for line in page.named("R3").priced] == [2, 2]
    assert (page.named("R5").remainder_before, page.named("R5").remainder_after) == (3_456, 0)
    assert page.has(170)


def test_a_remainder_is_not_touched_by_a_checkout_that_fits(page: Page) -> None:
    """The pack that was asked for is what is bought."""
    bought(page, 1_000, 1)
    page.callback(page.checkout(), "R2")
    assert dict(page.view.wallets["u"].remainders) == {"KES": 1_000}
    assert (page.named("R2").remainder_before, page.named("R2").remainder_after) == (1_000, 1_000)


def test_credits_by_the_best_packs_rate(page: Page) -> None:
    """Rounded down; a pack's own price buys that pack."""
    page.odd = "pro_rata"
    assert bought(page, 25_000, 1) == (30, "paid", {})
    assert bought(page, 834, 2) == (1, "paid", {})
    assert bought(page, 833, 3) == (0, "review", {})
    assert bought(page, 10_000, 4) == (10, "paid", {})
    assert page.assign(page.named("R3").id).minted == 0
    assert dict(page.view.wallets["u"].remainders) == {"KES": 833}
    assert [(line.pack_id, line.count) for line in page.named("R1").priced] == [("big", 0)]
    page.packs = (PACKS[1], Pack("sale", "10 credits", "KES", 5_000, 10))
    assert bought(page, 25_000, 5)[0] == 50, "the best rate may be the smaller pack's"


def test_odd_amounts_are_held_for_a_person(page: Page) -> None:
    """A pack's price is not odd."""
    page.odd = "hold"
    assert bought(page, 25_000, 1) == (0, "review", {})
    assert page.named().note == "The amount is no pack's price."
    assert bought(page, 50_000, 2) == (60, "paid", {})
    assert page.assign(page.named().id).minted == 20
    assert dict(page.view.wallets["u"].remainders) == {"KES": 5_000}


def test_a_currency_in_which_nothing_is_sold_is_looked_at(page: Page) -> None:
    """By a person, who cannot make credits of it either."""
    for page.odd in ("packs", "pro_rata", "hold"):
        assert bought(page, 100, 1, currency="EUR")[1] == "review"
        assert "No pack is sold in EUR." in page.refused(page.assigning(page.named().id), InvalidRequest)


# What people decide


def test_a_person_says_whose_a_payment_is(page: Page) -> None:
    """Through the same claim; the entry says who and why. Once, and then it answers the same."""
    payment = page.typed("WRONG", confirmed=False).payment
    booked = page.assign(payment.id)
    assert (booked.minted, booked.available_after, booked.payment.state) == (10, 10, "paid")
    (entry,) = page.journal()
    assert (entry.reference, entry.reason, entry.actor) == ("R1", "looked at it", "ops")
    event = page.view.events[-1]
    assert (event.gateway, event.kind, event.payment_id) == ("operator", "assigned", payment.id)
    assert event.raw == b'{"userId":"u","actor":"ops","reason":"looked at it"}'
    again = page.assign(payment.id)
    assert (again.payment_id, again.minted, again.replayed) == (payment.id, 10, True)
    page.refused(page.assigning(payment.id, "v"), PaymentAlreadySettled)
    page.refused(WriteOff("", payment.id, "ops", "x"), PaymentAlreadySettled)
    page.refused(page.assigning("none"), PaymentNotFound)
    assert page.has(10)
    assert page.callback(page.checkout()).minted == 0


def test_a_person_settles_a_checkout_that_waits(page: Page) -> None:
    """By the amount that came; for its own user it is then paid, for another it goes on waiting."""
    for user, state in (("u", "paid"), ("v", "review")):
        page.__post_init__()
        checkout = page.checkout()
        page.callback(checkout, amount=50_000)
        assert page.assign(page.named().id, user).minted == 60
        assert page.state(checkout) == state and page.has(60, user=user)


def test_a_person_writes_a_payment_off(page: Page) -> None:
    """Then nothing makes credits of it, and it says why."""
    payment = page.typed("WRONG").payment
    assert page.write_off(payment.id).payment.note == "nobody's"
    assert page.write_off(payment.id).replayed
    page.refused(page.assigning(payment.id), PaymentAlreadySettled)
    page.refused(WriteOff("", "none", "ops", "x"), PaymentNotFound)
    assert page.callback(page.checkout()).minted == 0
    assert (page.named().state, page.view.events[1].kind) == ("written_off", "written_off")
    assert page.ask(TakeBack("", "mpesa", "R1", None, page.event(), "debt")).clawed == 0


def test_an_assignment_has_a_key(page: Page) -> None:
    """Like every request of a person."""
    payment = page.typed("WRONG").payment
    claims = (once("assign", "key", "k", payment.id),)
    first = page.assign(payment.id, claims=claims)
    assert page.assign(payment.id, claims=claims) == replace(first, replayed=True)


def test_a_payments_claim_is_a_grants(page: Page) -> None:
    """What asks for its reference by hand afterwards is answered like any grant."""
    page.callback(page.checkout())
    claim = page.view.claims[reference_key("R1")]
    assert claim.outcome == Granted("u", page.named().grant_id or "", 10, 10)
