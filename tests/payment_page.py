"""A ledger page with payments: what gateways tell, asked of the rules one by one, with every invariant checked."""

import itertools
from collections import Counter
from typing import Any

from pluct.commands import Assign, Dispute, OpenCheckout, Receive, TakeBack, WriteOff, reference_key
from pluct.model import CheckedOut, Checkout, Pack, Payment, PaymentEvent, Wallet
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

    def take_back(
        self, refunded: int | None = None, reference: str = "R1", user: str = "u", currency: str | None = None
    ) -> Any:
        return self.ask(TakeBack(user, "mpesa", reference, refunded, self.event(), self.clawback, currency))

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


def bought(page: Page, amount: int, number: int, **more: Any) -> tuple[int, str, dict[str, int]]:
    """A person types an amount: credits, state, and what the user has left."""
    booked = page.receive(f"R{number}", amount, typed=True, **more)
    wallet = page.view.wallets.get("u") or Wallet("u")
    return booked.minted, booked.payment.state, dict(wallet.remainders)
