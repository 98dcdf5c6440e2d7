"""The rules of payments, as ledger pages: what gateways tell, in which order, and what becomes of the credits."""

import itertools
from collections import Counter
from typing import Any

import pytest
from msgspec.structs import replace

from pluct import ledger
from pluct.commands import (
    Assign,
    Dispute,
    Fund,
    Note,
    OpenCheckout,
    Progress,
    Receive,
    TakeBack,
    WriteOff,
    once,
    once_by_event,
    once_by_reference,
    reference_key,
)
from pluct.errors import (
    AmountTooLarge,
    CheckoutNotFound,
    InvalidRequest,
    Moved,
    PaymentAlreadySettled,
    PaymentNotFound,
    ReferenceConflict,
    WalletFrozen,
)
from pluct.model import (
    BALANCE_MAX,
    LOTS_MAX,
    Booked,
    CheckedOut,
    Checkout,
    Granted,
    Noted,
    Pack,
    Payment,
    PaymentEvent,
    Wallet,
)
from test_ledger import T0
from test_ledger import Page as LedgerPage

PACKS = (
    Pack("starter", "10 credits", "KES", 10_000, 10),
    Pack("big", "60 credits", "KES", 50_000, 60),
    Pack("card", "10 credits", "USD", 100, 10),
)


class Page(LedgerPage):
    """A ledger page with payments: M-Pesa's, unless it is said otherwise."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.ids = itertools.count(1)
        self.packs, self.odd, self.clawback = PACKS, "packs", "debt"

    def check(self) -> None:
        """Every invariant of payments, computed from the journal."""
        super().check()
        back: Counter[str | None] = Counter()
        for entry in self.view.entries:
            if entry.kind in ("clawback", "restore"):
                back[entry.grant_id] += entry.amount if entry.kind == "clawback" else -entry.amount
        left: Counter[tuple[str | None, str]] = Counter()
        frozen: dict[str | None, set[str]] = {}
        for payment in self.view.payments.values():
            assert payment.clawed <= payment.minted and payment.lost <= payment.clawed
            assert back.pop(payment.grant_id, 0) == payment.clawed - payment.lost
            left[payment.user_id, payment.currency] += payment.remainder_after - payment.remainder_before
            if payment.minted and payment.reference:
                assert reference_key(payment.reference) in self.view.claims
            if payment.priced and payment.priced[0].count:
                paid = sum(line.price * line.count for line in payment.priced)
                assert paid + payment.remainder_after == payment.amount + payment.remainder_before
                assert payment.minted == sum(line.credits * line.count for line in payment.priced)
            if payment.settled:
                frozen.setdefault(payment.user_id, set()).update(
                    case.id for case in payment.disputes if case.stage == "open"
                )
            else:
                assert payment.state == "failed" or not payment.minted
        assert not back
        names = [
            (payment.namespace, name)
            for payment in self.view.payments.values()
            for name in (payment.reference, payment.link)
            if name is not None
        ]
        assert len(names) == len(set(names))
        for user, wallet in self.view.wallets.items():
            assert set(wallet.frozen) - {"debt"} == frozen.get(user, set())
            assert "debt" not in wallet.frozen or wallet.debt
            assert dict(wallet.remainders) == {
                currency: kept for (owner, currency), kept in left.items() if owner == user and kept
            }
        for checkout in self.view.checkouts.values():
            payers = [p for p in self.view.payments.values() if p.settled and p.checkout_id == checkout.id]
            assert checkout.state != "paid" or payers
        assert len({event.id for event in self.view.events}) == len(self.view.events)

    def event(self, kind: str = "told", gateway: str = "daraja") -> PaymentEvent:
        number = next(self.ids)
        return PaymentEvent(f"ev{number}", gateway, f"k{number}", kind, self.now, b"{}")

    def checkout(self, user: str = "u", code: str = "CODE1", pack: Pack = PACKS[0], **more: Any) -> Checkout:
        checkout = Checkout(
            f"c-{code}", user, "daraja", pack.id, pack.currency, pack.price, pack.credits, code, code.encode(),
            "created", self.now, self.now, **more,
        )  # fmt: skip
        assert self.ask(OpenCheckout(user, checkout)) == CheckedOut(checkout.id, checkout)
        return checkout

    def receiving(
        self, reference: str | None = "R1", amount: int | None = 10_000, user: str = "u", **more: Any
    ) -> Receive:
        number = next(self.ids)
        fields: dict[str, Any] = {"namespace": "mpesa", "currency": "KES"} | more
        return Receive(
            user, f"p{number}", f"g{number}", self.event(), reference=reference, amount=amount, packs=self.packs,
            odd_amounts=self.odd, clawback=self.clawback, **fields,
        )  # fmt: skip

    def receive(self, reference: str | None = "R1", amount: int | None = 10_000, user: str = "u", **more: Any) -> Any:
        return self.ask(self.receiving(reference, amount, user, **more))

    def callback(self, checkout: Checkout, reference: str = "R1", amount: int | None = 10_000, **more: Any) -> Any:
        """What comes by the prompt of a checkout."""
        return self.receive(reference, amount, checkout.user_id, checkout_id=checkout.id, **more)

    def typed(self, code: str, reference: str = "R1", amount: int = 10_000, user: str = "", **more: Any) -> Any:
        """What a person typed; of a known code the checkout and its user are known."""
        known = self.view.checkouts.get(f"c-{code}")
        if known is not None:
            user, more = known.user_id, {"checkout_id": known.id} | more
        return self.receive(reference, amount, user, code=code, typed=True, **more)

    def said_paid(self, checkout: Checkout) -> Any:
        """A query answers that a checkout is paid, and no more."""
        return self.receive(None, None, checkout.user_id, checkout_id=checkout.id)

    def take_back(self, refunded: int | None = None, reference: str = "R1", user: str = "u") -> Any:
        return self.ask(TakeBack(user, "mpesa", reference, refunded, self.event(), self.clawback))

    def dispute(
        self, change: Any, id: str = "d1", amount: int | None = None, user: str = "u", reference: str = "R1"
    ) -> Any:
        return self.ask(Dispute(user, "mpesa", reference, id, change, amount, self.event(), self.clawback))

    def assign(self, payment: str, user: str = "u", **more: Any) -> Any:
        return self.ask(self.assigning(payment, user, **more))

    def assigning(self, payment: str, user: str = "u", **more: Any) -> Assign:
        return Assign(
            user, payment, f"g{next(self.ids)}", "ops", "looked at it", self.packs, self.odd, self.clawback, **more
        )

    def write_off(self, payment: str) -> Any:
        return self.ask(WriteOff("", payment, "ops", "nobody's"))

    def state(self, checkout: Checkout) -> str:
        return self.view.checkouts[checkout.id].state

    def all(self) -> list[Payment]:
        return list(self.view.payments.values())

    def named(self, reference: str = "R1") -> Payment:
        (found,) = [payment for payment in self.all() if payment.reference == reference]
        return found

    def has(self, available: int, debt: int = 0, user: str = "u") -> bool:
        wallet = self.view.wallets.get(user) or Wallet(user)
        assert (wallet.available, wallet.debt) == (available, debt)
        return True


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
    assert page.has(44) and page.state(checkout) == "paid"


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


def bought(page: Page, amount: int, number: int, **more: Any) -> tuple[int, str, dict[str, int]]:
    """A person types an amount: credits, state, and what the user has left."""
    booked = page.receive(f"R{number}", amount, typed=True, **more)
    wallet = page.view.wallets.get("u") or Wallet("u")
    return booked.minted, booked.payment.state, dict(wallet.remainders)


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
