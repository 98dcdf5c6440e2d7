"""Random histories with payments: the ledger and its oracle agree on every answer, balance and card.

Few receipts, few checkouts and many tellings, so that they meet: twice, twins, late, wrong, unmatched, taken back,
contested, assigned, written off, granted by hand, under each policy.
"""

import itertools
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule, run_state_machine_as_test

from payment_oracle import PaymentOracle, Wish
from pluct.commands import (
    Assign,
    Command,
    Dispute,
    Fund,
    OpenCheckout,
    Progress,
    Receive,
    TakeBack,
    WriteOff,
    once_by_reference,
)
from pluct.model import Booked, CheckedOut, Checkout, Pack, Payment, PaymentEvent, Wallet
from postgres import fresh_database
from test_histories import ANY_PACE, FEWER, GRACE_SECONDS, USERS, Histories, InMemory, InStore, users

PACKS = (Pack("small", "", "KES", 100, 3), Pack("big", "", "KES", 500, 20))
RECEIPTS = ("R1", "R2", "R3", "R4", "R5", "R6")
often, rarely = st.sampled_from([True, True, True, False]), st.sampled_from([False, False, False, True])
receipts, codes = st.sampled_from(RECEIPTS), st.integers(0, 2)
amounts = st.sampled_from([100, 100, 100, 500, 130, 20])


class WithPayments(Histories):
    """What gateways and operators do."""

    def __init__(self) -> None:
        super().__init__()
        self.oracle: PaymentOracle = PaymentOracle(GRACE_SECONDS)
        self.codes: list[str] = []

    def payment(self, reference: str) -> Payment | None:
        raise NotImplementedError

    def checkout_state(self, code: str) -> str:
        raise NotImplementedError

    @initialize(
        clawback=st.sampled_from(["debt", "floor", "freeze"]), odd=st.sampled_from(["packs", "pro_rata", "hold"])
    )
    def choose(self, clawback: str, odd: str) -> None:
        self.oracle.clawback, self.oracle.odd = clawback, odd
        for user in ("amina", "amina", "brian"):
            self.open_checkout(user)

    def agree(self, command: Command, expected: object) -> None:
        if isinstance(command, Receive | TakeBack | Dispute | Assign | WriteOff | Progress | OpenCheckout):
            outcome = self.submit(command)
            match outcome:
                case Booked(payment=payment):
                    state = None if payment is None else payment.state
                    replayed = isinstance(command, Assign) and outcome.replayed
                    said: object = "booked", state, outcome.minted, 0 if replayed else outcome.clawed
                case CheckedOut(checkout=checkout):
                    assert checkout is not None
                    said = "checkout", checkout.state
                case _:
                    said = outcome.code
            assert said == expected, (command, outcome, expected)
        else:
            super().agree(command, expected)

    def event(self) -> PaymentEvent:
        id = self.name("ev")
        return PaymentEvent(id, "mpesa", id, "told", self.clock(), b"{}")

    def known(self, reference: str, credited: bool) -> str:
        """This receipt, or one that is credited."""
        ours = [card.reference for card in self.oracle.cards if card.state == "credited" and card.reference]
        return ours[RECEIPTS.index(reference) % len(ours)] if ours and credited else reference

    @rule(user=users)
    def open_checkout(self, user: str) -> None:
        code, now = self.name("C"), self.clock()
        wish = Checkout(code, user, "mpesa", "small", "KES", 100, 3, code, code.encode(), "created", now, now)
        self.oracle.wishes[code] = Wish(user, now)
        self.codes.insert(0, code)
        self.agree(OpenCheckout(user, wish), ("checkout", "created"))

    def tell(
        self, reference: str | None, amount: int | None, code: str | None, typed: bool = False, confirmed: bool = True
    ) -> None:  # fmt: skip
        wish = None if code is None else self.oracle.wishes.get(code)
        user = wish.user if wish else "" if reference is None else self.oracle.owner(reference)
        grant = self.name("p")
        expected = self.oracle.receive(grant, reference, amount, user, code, typed, confirmed)
        command = Receive(
            user, self.name("pay"), grant, self.event(), "mpesa", reference, amount, "KES", PACKS,
            self.oracle.odd, self.oracle.clawback, None, code, code if typed else None, typed, confirmed,
        )  # fmt: skip
        self.agree(command, expected)

    def code(self, which: int) -> str | None:
        return self.codes[which] if which < len(self.codes) else None

    @rule(which=codes, reference=receipts, amount=amounts)
    def callback(self, which: int, reference: str, amount: int) -> None:
        if code := self.code(which):
            self.tell(reference, amount, code)

    @rule(which=codes, reference=receipts, amount=amounts, confirmed=often, wrong=rarely)
    def type_in(self, which: int, reference: str, amount: int, confirmed: bool, wrong: bool) -> None:
        self.tell(reference, amount, "wrong" if wrong else self.code(which) or "wrong", True, confirmed)

    @rule(which=codes)
    def say_paid(self, which: int) -> None:
        if code := self.code(which):
            self.tell(None, None, code)

    @rule(reference=receipts, amount=st.one_of(amounts, st.none()), known=often)
    def state_it(self, reference: str, amount: int | None, known: bool) -> None:
        self.tell(self.known(reference, known), amount, None)

    @rule(which=codes, state=st.sampled_from(["pending", "failed"]))
    def go_on(self, which: int, state: Any) -> None:
        if code := self.code(which):
            user = self.oracle.wishes[code].user
            self.agree(Progress(user, code, state, "x"), self.oracle.progress(code, state))

    @rule(reference=receipts, amount=st.one_of(st.none(), st.integers(1, 99), st.integers(1, 600)), known=often)
    def take_back(self, reference: str, amount: int | None, known: bool) -> None:
        reference = self.known(reference, known)
        user = self.oracle.owner(reference)
        expected = self.oracle.refund(reference, float("inf") if amount is None else amount)
        self.agree(
            TakeBack(user, "mpesa", reference, amount, self.event(), self.oracle.clawback), expected
        )  # fmt: skip

    @rule(reference=receipts, name=st.sampled_from(["d1", "d2"]), known=often,
          amount=st.one_of(st.none(), st.integers(1, 200)),
          change=st.sampled_from(["opened", "funds_withdrawn", "funds_reinstated", "closed", "closed"]))  # fmt: skip
    def contest(self, reference: str, name: str, known: bool, amount: int | None, change: Any) -> None:
        reference = self.known(reference, known)
        user, name = self.oracle.owner(reference), f"{name} of {reference}"
        expected = self.oracle.dispute(reference, name, change, float("inf") if amount is None else amount)
        command = Dispute(user, "mpesa", reference, name, change, amount, self.event(), self.oracle.clawback)
        self.agree(command, expected)

    @rule(reference=receipts, user=users)
    def assign(self, reference: str, user: str) -> None:
        payment, grant = self.payment(reference), self.name("p")
        expected = self.oracle.assign(reference, user, grant)
        self.agree(
            Assign(
                user, payment.id if payment else "none", grant, "ops", "x", PACKS, self.oracle.odd,
                self.oracle.clawback,
            ),
            expected,
        )  # fmt: skip

    @rule(user=users)
    def spend(self, user: str) -> None:
        """All there is."""
        if available := len(self.oracle.live(user)):
            self.vend(user, available, "vend", None)

    @rule(reference=receipts, really=rarely)
    def write_off(self, reference: str, really: bool) -> None:
        if not really:
            return
        payment = self.payment(reference)
        expected = self.oracle.write_off(reference)
        self.agree(WriteOff("", payment.id if payment else "none", "ops", "x"), expected)

    @rule(user=users, reference=receipts, really=rarely)
    def grant_by_hand(self, user: str, reference: str, really: bool) -> None:
        if not really:
            return
        grant, claims = self.name("hand"), (once_by_reference(reference, user, 3),)
        expected = self.oracle.fund(user, grant, 3, "paid", 50, None, ("reference", reference))
        self.agree(Fund(user, grant, 3, "cli", reference=reference, claims=claims), expected)

    @invariant()
    def cards_agree(self) -> None:
        for user in USERS:
            wallet = self.wallet(user) or Wallet(user)
            assert wallet.debt == self.oracle.debts.get(user, 0)
            assert set(wallet.frozen) == self.oracle.frozen.get(user, set())
            assert dict(wallet.remainders).get("KES", 0) == self.oracle.remainders.get(user, 0)
        for reference in RECEIPTS:
            card, payment = self.oracle.card(reference), self.payment(reference)
            assert (card is None) == (payment is None)
            if card is not None and payment is not None:
                assert (payment.state, payment.minted, payment.clawed, payment.lost) == (
                    card.told(), card.minted, card.gone, card.lost,
                )  # fmt: skip
                assert (payment.user_id, payment.amount) == (card.user, card.money)
        for code in self.codes[:3]:
            assert self.checkout_state(code) == self.oracle.wishes[code].state


class PaymentsInMemory(WithPayments, InMemory):
    """Over `decide` alone."""

    def payment(self, reference: str) -> Payment | None:
        return next((each for each in self.view.payments.values() if each.reference == reference), None)

    def checkout_state(self, code: str) -> str:
        return self.view.checkouts[code].state


class PaymentsInStore(WithPayments, InStore):
    """Over a real store; at the end `check` finds nothing."""

    def __init__(self, place: Path | str) -> None:
        InStore.__init__(self, place)
        self.oracle, self.codes = PaymentOracle(GRACE_SECONDS), []

    def payment(self, reference: str) -> Payment | None:
        found: Payment | None = self.runner.run(self.store.find_payment("mpesa", reference))
        return found

    def checkout_state(self, code: str) -> str:
        found: Checkout = self.runner.run(self.store.checkout(code))
        return found.state


TestPaymentsInMemory = PaymentsInMemory.TestCase
TestPaymentsInMemory.settings = settings(
    max_examples=300, stateful_step_count=60, deadline=None, derandomize=True, suppress_health_check=ANY_PACE
)


def test_payments_in_sqlite(tmp_path: Path) -> None:
    """A new file for each history."""
    files = (tmp_path / f"{number}.db" for number in itertools.count())
    run_state_machine_as_test(lambda: PaymentsInStore(next(files)), settings=FEWER)


def test_payments_in_postgresql(postgresql_url: str) -> None:
    """A new database for each history."""
    run_state_machine_as_test(lambda: PaymentsInStore(fresh_database(postgresql_url)), settings=FEWER)
