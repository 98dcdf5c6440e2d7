"""The second ledger with payments: cards, one for each sum of money, on which is written what was told of it.

Like the ledger's oracle it keeps every credit by itself, and is written from the words of the contract.
"""

from dataclasses import dataclass, field
from math import inf

from oracle import Credit, Oracle

#: What is sold: 3 credits for 100, 20 for 500. The second is the better rate.
SMALL, BIG = (100, 3), (500, 20)
TWIN_MS_MAX = 180_000


@dataclass
class Wish:
    """A checkout for the small pack."""

    user: str
    at: int
    state: str = "created"


@dataclass
class Contest:
    """A dispute."""

    opened: bool = False
    closed: bool = False
    withdrawn: bool = False
    reinstated: bool = False
    money: float = inf
    lost: int = 0


@dataclass
class Card:
    """A sum of money."""

    at: int
    reference: str | None = None
    wish: str | None = None
    user: str | None = None
    money: int = 0
    typed: bool = False
    confirmed: bool = False
    state: str = "unmatched"  # unmatched, review, credited, written_off, failed
    minted: int = 0
    grant: str = ""
    refunded: float = 0
    contests: dict[str, Contest] = field(default_factory=dict)
    gone: int = 0
    lost: int = 0

    def told(self) -> str:
        """The state as it is called."""
        if self.state != "credited":
            return self.state
        if self.contests:
            return "disputed"
        return "paid" if not self.refunded else "refunded" if self.refunded >= self.money else "part_refunded"

    def fits(self) -> bool:
        return self.money == SMALL[0]


@dataclass
class PaymentOracle(Oracle):
    """Answers `("booked", state, minted, taken back)`, or a refusal's code."""

    clawback: str = "debt"
    odd: str = "packs"
    wishes: dict[str, Wish] = field(default_factory=dict)
    cards: list[Card] = field(default_factory=list)
    remainders: dict[str, int] = field(default_factory=dict)

    def card(self, reference: str) -> Card | None:
        return next((card for card in self.cards if card.reference == reference), None)

    def owner(self, reference: str) -> str:
        """Whose the payment is, as far as is known."""
        card = self.card(reference)
        return "" if card is None or card.user is None else card.user

    def progress(self, code: str, state: str) -> tuple[object, ...]:
        order = ["created", "pending", "failed", "review", "paid"]
        wish = self.wishes[code]
        wish.state = max(wish.state, state, key=order.index)
        return "checkout", wish.state

    # Money in

    def receive(
        self, grant: str, reference: str | None, money: int | None, user: str, code: str | None,
        typed: bool = False, confirmed: bool = True,
    ) -> tuple[object, ...]:  # fmt: skip
        wish = None if code is None else self.wishes.get(code)
        if wish is not None:
            user = wish.user
        same = [] if reference is None else [card for card in self.cards if card.reference == reference]
        if wish is not None:
            same += [card for card in self.twins(reference, money, code, wish, typed) if card not in same]
        if not same and reference is None and wish is not None and wish.state in ("paid", "review"):
            return "booked", None, 0, 0
        same.sort(key=lambda card: (card.state != "credited", not card.money, card.reference is None))
        new = not same
        card, others = (Card(self.now), []) if new else (same[0], same[1:])
        if new:
            self.cards.append(card)
        before = self.standing()
        if not new and self.disagrees(card, others, money, user, code, wish):
            if card.reference is None and not others:
                card.reference = reference
        else:
            if not card.money:
                card.at, card.confirmed = self.now, False
                card.money = money if money is not None else SMALL[0] if wish else 0
                card.refunded = min(card.refunded, card.money or inf)
            card.reference = card.reference or reference
            card.user = card.user or user or None
            card.wish = card.wish or (code if wish else None)
            card.confirmed |= confirmed
            card.typed |= typed
            for other in others:
                self.join(card, other)
            if card.state in ("unmatched", "review") and user:
                self.decide(card, user, grant)
            self.affect(card)
        self.claim(card, user)
        return self.answer(card, before, user)

    def twins(self, reference: str | None, money: int | None, code: str | None, wish: Wish, typed: bool) -> list[Card]:
        of_it = [card for card in self.cards if card.wish == code]
        unnamed = [card for card in of_it if card.reference is None]
        if reference is not None:
            soon = wish.at - TWIN_MS_MAX <= self.now
            return [
                card for card in unnamed
                if not typed or (money == card.money and soon and self.now <= card.at + TWIN_MS_MAX)
            ]  # fmt: skip
        if unnamed or wish.state in ("paid", "review"):
            return unnamed
        waiting = [card for card in of_it if card.state == "review" and not card.confirmed and card.fits()]
        return sorted(waiting, key=lambda card: card.at)[:1]

    @staticmethod
    def disagrees(
        card: Card, others: list[Card], money: int | None, user: str, code: str | None, wish: Wish | None
    ) -> bool:  # fmt: skip
        if not card.money:
            return False
        return (
            money not in (None, card.money)
            or bool(user and card.user and user != card.user)
            or (wish is not None and card.wish not in (None, code))
            or any(
                other.money
                and (
                    other.money != card.money
                    or (other.reference is not None and card.reference is not None)
                    or (other.state == "credited" and other.user != user)
                )
                for other in others
            )
        )

    def join(self, card: Card, other: Card) -> None:
        """Both are the same money."""
        if other.state == "credited":
            other.refunded = other.money
            self.bring_in_line(other)
        elif card.state == "credited":
            self.catch_up(card, other.refunded, other.contests)
        else:
            card.refunded = max(card.refunded, min(other.refunded, card.money or inf))
            card.contests |= other.contests
        card.reference = card.reference or other.reference
        card.wish = card.wish or other.wish
        card.typed |= other.typed
        card.confirmed |= other.confirmed and other.money > 0
        other.state, other.reference, other.wish = "failed", None, None

    def decide(self, card: Card, user: str, grant: str) -> None:
        card.state = "review"
        if not card.money or not card.confirmed:
            return
        if card.wish is not None and not card.typed and not card.fits():
            return
        self.credit(card, user, grant, self.odd)

    def credit(self, card: Card, user: str, grant: str, odd: str) -> None:
        known = self.keys.get(("reference", card.reference))
        if known is not None:
            (owner, amount), answer = known[0], known[1]  # type: ignore[misc]
            if owner != user:
                return
            card.minted, card.grant = amount, str(answer[1])
        else:
            bought = self.price(card, user, odd)
            if bought is None:
                return
            card.minted, self.remainders[user] = bought
            card.grant = grant
            self.give(user, grant, card.minted)
        refunded, contests = card.refunded, card.contests
        card.state, card.user, card.refunded, card.contests = "credited", user, 0, {}
        self.catch_up(card, refunded, contests)

    def price(self, card: Card, user: str, odd: str) -> tuple[int, int] | None:
        """Credits, and what the user has left."""
        left = self.remainders.get(user, 0)
        wish = None if card.wish is None else self.wishes[card.wish]
        if wish is not None and wish.user == user and wish.state != "paid" and card.fits():
            return SMALL[1], left
        if odd == "packs":
            big, rest = divmod(left + card.money, BIG[0])
            small, rest = divmod(rest, SMALL[0])
            return big * BIG[1] + small * SMALL[1], rest
        if card.money in (SMALL[0], BIG[0]):
            return dict([SMALL, BIG])[card.money], left
        credits = card.money * BIG[1] // BIG[0]
        return (credits, left) if odd == "pro_rata" and credits else None

    def affect(self, card: Card) -> None:
        """What a card does to its wish."""
        wish = None if card.wish is None else self.wishes[card.wish]
        if wish is None or wish.state == "paid" or wish.user != card.user:
            return
        if card.state == "credited" and (not card.typed or card.fits()):
            wish.state = "paid"
        elif card.state == "review" and not card.typed and card.confirmed:
            wish.state = "review"

    def give(self, user: str, grant: str, credits: int) -> None:
        if credits:
            self.grants += 1
            self.wallets[user] = self.live(user) + [Credit(grant, self.grants, "paid", 50, inf)] * credits
            self.repay(user)

    def claim(self, card: Card, user: str) -> None:
        """A receipt that minted is used up."""
        if card.reference is not None and card.minted and ("reference", card.reference) not in self.keys:
            available = len(self.wallets.get(user, []))
            self.keys["reference", card.reference] = (
                (card.user, card.minted), ("granted", card.grant, card.minted, available)
            )  # fmt: skip

    # Money back

    def refund(self, reference: str, money: float) -> tuple[object, ...]:
        card, before = self.named(reference), self.standing()
        user = card.user or ""
        card.refunded = max(card.refunded, min(money, card.money or inf))
        if card.state == "credited":
            self.bring_in_line(card)
        return self.answer(card, before, user)

    def dispute(self, reference: str, name: str, change: str, money: float) -> tuple[object, ...]:
        card, before = self.named(reference), self.standing()
        user = card.user or ""
        contest = card.contests.setdefault(name, Contest())
        match change:
            case "opened":
                contest.opened = True
            case "closed":
                contest.closed = True
            case "funds_withdrawn":
                if not contest.withdrawn and not contest.reinstated:
                    contest.money = money
                contest.withdrawn = True
            case "funds_reinstated":
                contest.reinstated = True
        if card.state == "credited":
            self.heard(card, name)
        return self.answer(card, before, user)

    def named(self, reference: str) -> Card:
        card = self.card(reference)
        if card is None:
            card = Card(self.now, reference)
            self.cards.append(card)
        return card

    def catch_up(self, card: Card, refunded: float, contests: dict[str, Contest]) -> None:
        card.refunded = max(card.refunded, min(refunded, card.money))
        self.bring_in_line(card)
        for name in sorted(contests):
            card.contests[name] = contests[name]
            self.heard(card, name)

    def heard(self, card: Card, name: str) -> None:
        contest = card.contests[name]
        self.bring_in_line(card, contest)
        assert card.user is not None
        reasons = self.frozen.setdefault(card.user, set())
        if contest.opened and not contest.closed:
            reasons.add(name)
        else:
            reasons.discard(name)

    def bring_in_line(self, card: Card, contest: Contest | None = None) -> None:
        """Take, or give back, until what is gone of the credits is what is gone of the money."""
        user, away = card.user or "", card.refunded
        away += sum(min(c.money, card.money) for c in card.contests.values() if c.withdrawn and not c.reinstated)
        target = card.minted if away >= card.money else int(card.minted * away // card.money)
        while card.gone < target:
            card.gone += 1
            credits = sorted(self.live(user), key=lambda c: (c.grant != card.grant, c.burns_before()))
            if credits:
                self.wallets[user] = credits[1:]
            elif self.clawback == "floor":
                card.lost += 1
                if contest is not None:
                    contest.lost += 1
            else:
                self.debts[user] = self.debts.get(user, 0) + 1
            if self.clawback == "freeze" and self.debts.get(user):
                self.frozen.setdefault(user, set()).add("debt")
        back = 0
        in_vain = 0 if contest is None else contest.lost
        while card.gone > target:
            if (in_vain and card.lost) or card.gone == card.lost:
                in_vain -= 1
                card.lost -= 1
            else:
                back += 1
            card.gone -= 1
        self.give(user, card.grant, back)

    # What people decide

    def assign(self, reference: str, user: str, grant: str) -> "str | tuple[object, ...]":
        card = self.card(reference)
        if card is None:
            return "payment_not_found"
        if card.state == "credited" and card.user == user:
            return "booked", card.told(), card.minted, 0
        if card.state not in ("unmatched", "review"):
            return "payment_already_settled"
        if not card.money:
            return "invalid_request"
        known = self.keys.get(("reference", card.reference))
        if known is not None and known[0][0] != user:  # type: ignore[index]
            return "payment_already_settled"
        before = self.standing()
        self.credit(card, user, grant, "pro_rata" if self.odd == "pro_rata" else "packs")
        if card.state != "credited":
            self.credit(card, user, grant, "packs")
        self.affect(card)
        self.claim(card, user)
        return self.answer(card, before, user)

    def write_off(self, reference: str) -> "str | tuple[object, ...]":
        card = self.card(reference)
        if card is None:
            return "payment_not_found"
        if card.state not in ("unmatched", "review", "written_off"):
            return "payment_already_settled"
        card.state = "written_off"
        return "booked", "written_off", 0, 0

    def standing(self) -> tuple[int, int]:
        """Credits minted by cards so far, and gone from them for good or owed."""
        minted = sum(card.minted for card in self.cards if not self.by_hand(card))
        return minted, sum(card.gone - card.lost for card in self.cards)

    def by_hand(self, card: Card) -> bool:
        return card.grant.startswith("hand")

    def answer(self, card: Card, before: tuple[int, int], user: str) -> tuple[object, ...]:
        if user in self.wallets:
            self.wallets[user] = self.live(user)  # what is past its time goes with any change
        minted, gone = self.standing()
        return "booked", card.told(), minted - before[0], gone - before[1]
