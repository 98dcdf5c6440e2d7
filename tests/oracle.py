"""A second ledger, slow and plain, written from the words of the contract: what the real one must agree with.

It keeps every credit by itself. A wallet is a list of credits, each with the terms of its grant; nothing is summed
until somebody asks. It knows no journal, no batches and no SQL.
"""

from dataclasses import dataclass, field, replace

from pluct.model import BALANCE_MAX


@dataclass(frozen=True)
class Credit:
    """One credit of one grant."""

    grant: str
    age: int
    category: str
    priority: int
    expires_at: float  # never: infinity

    def burns_before(self) -> tuple[object, ...]:
        return self.priority, self.expires_at, self.category == "paid", self.age


@dataclass
class Ticket:
    user: str
    settle: str
    credits: list[Credit]
    expires_at: int
    report_seconds: int
    state: str = "issued"
    redeemed_at: int | None = None
    kept: list[Credit] = field(default_factory=list)
    held: bool = True

    def due(self, now: int) -> bool:
        if self.state == "issued":
            return now >= self.expires_at
        return self.state == "redeemed" and now >= (self.redeemed_at or 0) + self.report_seconds * 1000


@dataclass
class Oracle:
    """Every method answers what the ledger must answer: a refusal's code, or a tuple that says what came of it."""

    grace_seconds: int
    now: int = 0
    wallets: dict[str, list[Credit]] = field(default_factory=dict)
    tickets: dict[str, Ticket] = field(default_factory=dict)
    keys: dict[object, tuple[object, tuple[object, ...]]] = field(default_factory=dict)
    grants: int = 0
    debts: dict[str, int] = field(default_factory=dict)
    frozen: dict[str, set[str]] = field(default_factory=dict)

    def remembered(self, key: object, request: object) -> "str | tuple[object, ...] | None":
        """What this key answers, if it was used: a vend whose credits all went back has never been."""
        if key is None or key not in self.keys:
            return None
        known, answer = self.keys[key]
        if answer[0] == "vended":
            ticket = self.tickets[str(answer[1])]
            if ticket.state in ("voided", "expired"):
                return None
        if known != request:
            return (
                "reference_conflict" if isinstance(key, tuple) and key[0] == "reference" else "idempotency_key_reused"
            )
        return answer

    def remember(self, key: object, request: object, answer: tuple[object, ...]) -> tuple[object, ...]:
        if key is not None:
            self.keys[key] = (request, answer)
        return answer

    def live(self, user: str) -> list[Credit]:
        return [credit for credit in self.wallets.get(user, []) if credit.expires_at > self.now]

    def put_back(self, user: str, credits: list[Credit]) -> None:
        late = self.now + self.grace_seconds * 1000
        self.wallets[user] = self.live(user) + [
            credit if credit.expires_at > self.now else replace(credit, expires_at=late) for credit in credits
        ]
        self.repay(user)

    def repay(self, user: str) -> None:
        """What has come in pays a debt first; who owes nothing is not frozen for it."""
        credits = sorted(self.live(user), key=Credit.burns_before)
        paid = min(self.debts.get(user, 0), len(credits))
        if paid:
            self.wallets[user] = credits[paid:]
            self.debts[user] -= paid
        if not self.debts.get(user):
            self.frozen.setdefault(user, set()).discard("debt")

    def held(self, user: str) -> int:
        return sum(
            len(t.credits) for t in self.tickets.values() if t.user == user and t.state in ("issued", "redeemed")
        )

    def fund(
        self, user: str, grant: str, amount: int, category: str, priority: int, expires_at: int | None, key: object
    ) -> "str | tuple[object, ...]":
        known = self.remembered(key, (user, amount))
        if known is not None:
            return known
        if expires_at is not None and expires_at <= self.now:
            return "invalid_request"
        assert len(self.live(user)) + self.held(user) + amount <= BALANCE_MAX
        self.grants += 1
        credit = Credit(grant, self.grants, category, priority, float("inf") if expires_at is None else expires_at)
        self.wallets[user] = self.live(user) + [credit] * amount
        self.repay(user)
        return self.remember(key, (user, amount), ("granted", grant, amount, len(self.live(user))))

    def vend(
        self, user: str, ticket: str, cost: int, settle: str, ttl: int, report: int, key: object
    ) -> "str | tuple[object, ...]":
        known = self.remembered(key, (user, cost, settle))
        if known is not None:
            return known
        if self.frozen.get(user):
            return "wallet_frozen"
        credits = sorted(self.live(user), key=Credit.burns_before)
        if len(credits) < cost:
            return "insufficient_credits"
        self.wallets[user] = credits[cost:]
        until = (self.now // 1000 + ttl) * 1000
        self.tickets[ticket] = sold = Ticket(user, settle, credits[:cost], until, report)
        if settle == "vend":
            sold.state, sold.kept = "captured", sold.credits
        return self.remember(key, (user, cost, settle), ("vended", ticket, len(self.wallets[user])))

    def redeem(self, user: str, name: str) -> "str | tuple[object, ...]":
        ticket = self.tickets.get(name)
        if ticket is None:
            return "ticket_not_found"
        if ticket.user != user:
            return "unauthorized"
        if ticket.state == "voided" or (ticket.state == "expired" and ticket.redeemed_at is not None):
            return "ticket_already_settled"
        if ticket.redeemed_at is not None:
            return "ticket_already_redeemed"
        if self.now >= ticket.expires_at:
            return "ticket_expired"
        ticket.redeemed_at = self.now
        if ticket.settle == "redeem":
            ticket.state, ticket.kept = "captured", ticket.credits
            self.wallets[user] = self.live(user)
        elif ticket.settle == "report":
            ticket.state = "redeemed"
        return self.told(ticket)

    def capture(self, user: str, name: str, amount: int | None) -> "str | tuple[object, ...]":
        ticket = self.tickets.get(name)
        if ticket is None:
            return "ticket_not_found"
        if ticket.user != user:
            return "unauthorized"
        if ticket.state not in ("issued", "redeemed") or ticket.due(self.now):
            return "ticket_already_settled"
        if ticket.state == "issued":
            return "ticket_not_redeemed"
        if amount is None:
            amount = len(ticket.credits)
        if not 1 <= amount <= len(ticket.credits):
            return "invalid_request"
        ticket.state, ticket.kept = "captured", ticket.credits[:amount]
        self.put_back(user, ticket.credits[amount:])
        return self.told(ticket)

    def void(self, user: str, name: str) -> "str | tuple[object, ...]":
        ticket = self.tickets.get(name)
        if ticket is None:
            return "ticket_not_found"
        if ticket.user != user:
            return "unauthorized"
        if ticket.state in ("voided", "expired") or ticket.due(self.now):
            return "ticket_already_settled"
        self.put_back(user, ticket.kept if ticket.state == "captured" else ticket.credits)
        ticket.state, ticket.kept = "voided", []
        return self.told(ticket)

    def adjust(self, user: str, grant: str, amount: int) -> "str | tuple[object, ...]":
        credits = sorted(self.live(user), key=Credit.burns_before)
        if amount < 0:
            if len(credits) < -amount:
                return "insufficient_credits"
            self.wallets[user] = credits[-amount:]
        else:
            self.grants += 1
            self.wallets[user] = credits + [Credit(grant, self.grants, "paid", 50, float("inf"))] * amount
        answer = "adjusted", amount, len(self.wallets[user])
        self.repay(user)
        return answer

    def sweep(self) -> None:
        """Everything that is due, for everyone."""
        for user in self.wallets:
            self.wallets[user] = self.live(user)
        for ticket in self.tickets.values():
            if ticket.due(self.now):
                ticket.state = "expired"
                self.put_back(ticket.user, ticket.credits)

    def told(self, ticket: Ticket) -> tuple[object, ...]:
        settled = ticket.state in ("captured", "voided", "expired")
        kept = len(ticket.kept)
        return ticket.state, ticket.redeemed_at, kept, len(ticket.credits) - kept if settled else 0

    def lots(self, user: str) -> list[tuple[object, ...]]:
        """The credits heaped up by grant and expiry, in burn-down order."""
        heaps: dict[Credit, int] = {}
        for credit in sorted(self.wallets.get(user, []), key=Credit.burns_before):
            heaps[credit] = heaps.get(credit, 0) + 1
        return [(c.grant, n, c.category, c.priority, c.expires_at) for c, n in heaps.items()]
