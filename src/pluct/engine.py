"""What the business can do: one method per verb. Build the command, submit it, sign, count.

Everything it needs is handed in. Refusals and faults are raised; every other answer is durable.
"""

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Callable
from typing import TypeVar

import msgspec

from pluct.analytics import Ledgerwatch
from pluct.catalog import Catalog
from pluct.commands import Adjust, Capture, Command, Fund, Once, Probe, Redeem, Vend, Void, once, once_by_reference
from pluct.errors import (
    AmountTooLarge,
    InvalidRequest,
    PluctError,
    Refusal,
    TicketNotFound,
    Unauthorized,
    Unavailable,
    WalletNotFound,
)
from pluct.limits import Limits, Rates
from pluct.model import (
    AMOUNT_MAX,
    PRIORITY_DEFAULT,
    Adjusted,
    ApiKey,
    Category,
    Changed,
    Entry,
    Granted,
    Outcome,
    Role,
    Ticket,
    Vended,
    Wallet,
)
from pluct.observe import Observer
from pluct.stores import Store
from pluct.tickets import Signer

_Outcome = TypeVar("_Outcome", bound=Outcome)

log = logging.getLogger("pluct")

PAGE_MAX = 200
SWEEP_MAX = 500
OWNERS_MAX = 10_000
NO_LIMITS = Rates()


class Vending(msgspec.Struct, frozen=True):
    """A vended ticket with its token."""

    token: str
    ticket: Ticket
    available_after: int
    replayed: bool


class Engine:
    """The verbs of the business over a store."""

    def __init__(
        self, store: Store, signer: Signer, catalog: Catalog, observer: Observer,
        clock: Callable[[], int], next_id: Callable[[], str], grace_seconds: int,
        rates: Rates = NO_LIMITS, watch: Ledgerwatch | None = None,
    ) -> None:  # fmt: skip
        self.store, self.signer, self.catalog, self.observer = store, signer, catalog, observer
        self._clock, self._next_id, self._grace_seconds = clock, next_id, grace_seconds
        self.limits = Limits(rates, store.turns)
        self._audiences = catalog.audiences
        self._owners: dict[str, str] = {}  # whose the tickets are that were redeemed here of late; that never changes
        self.watch = watch or Ledgerwatch()  #: counts what the store commits
        #: Set once the process is about to stop: it still serves, and says that it will not for long.
        self.leaving = False

    def now(self) -> int:
        """The time, in ms."""
        return self._clock()

    async def vend(
        self, user_id: str, action: str = "default", cost: int | None = None, key: str | None = None
    ) -> Vending:
        """Sell one action: a ticket for the user's credits. Raises `RateLimited` too."""
        await self.limits.vend(user_id)
        sold, price = self.catalog.hold(action, cost)
        claims = () if key is None else (once("vend", user_id, key, user_id, action, cost),)
        command = Vend(
            user_id, self._next_id(), action, sold.audience, price, sold.ttl_seconds, sold.settle, sold.report_seconds,
            claims,
        )  # fmt: skip
        vended = await self.submit(command, Vended, "vend", price)
        assert vended.ticket is not None
        return Vending(self.signer.sign(vended.ticket), vended.ticket, vended.available_after, vended.replayed)

    async def grant(
        self, user_id: str, amount: int, *, source: str, actor: str, category: Category = "paid",
        priority: int = PRIORITY_DEFAULT, expires_at: int | None = None, reference: str | None = None,
        reason: str | None = None, claim: Once | None = None, seen: int | None = None,
    ) -> Granted:  # fmt: skip
        """Give credits. One reference is granted once, whoever it names. `seen`: see `adjust`."""
        claims = _claims(claim)
        if reference is not None:
            claims = (*claims, once_by_reference(reference, user_id, amount))
        command = Fund(
            user_id, self._next_id(), _amount(amount), source, category, priority, expires_at, reference, reason, actor,
            claims, seen,
        )  # fmt: skip
        return await self.submit(command, Granted, "grant", amount)

    async def adjust(
        self, user_id: str, amount: int, reason: str, actor: str, claim: Once | None = None, seen: int | None = None
    ) -> Adjusted:
        """Give or take credits by hand; `seen` is how many entries the wallet had when that was decided."""
        if amount == 0:
            raise InvalidRequest("amount must not be 0: give a positive or a negative number of credits.")
        _amount(abs(amount))
        command = Adjust(user_id, self._next_id(), amount, reason, actor, _claims(claim), seen)
        return await self.submit(command, Adjusted, "adjust")

    async def redeem(self, token: str, claim: Once | None = None) -> Changed:
        """Accept a ticket, once."""
        said = self.signer.verify(token)
        if said.aud not in self._audiences:
            raise Unauthorized("The token is for an audience this engine does not sell to.")
        command = Redeem(said.sub, said.jti, said.aud, _claims(claim), said.nbf * 1000, said.exp * 1000)
        changed = await self.submit(command, Changed, "redeem")
        self._owners[said.jti] = said.sub
        if len(self._owners) > OWNERS_MAX:
            del self._owners[next(iter(self._owners))]
        return changed

    async def capture(self, ticket_id: str, amount: int | None, claim: Once | None = None) -> Changed:
        """Keep all or part of a redeemed ticket's hold."""
        command = Capture(await self._owner(ticket_id), ticket_id, amount, self._grace_seconds, _claims(claim))
        return await self.submit(command, Changed, "capture")

    async def void(self, ticket_id: str, reason: str, actor: str, claim: Once | None = None) -> Changed:
        """Give a ticket's credits back."""
        command = Void(await self._owner(ticket_id), ticket_id, self._grace_seconds, reason, actor, _claims(claim))
        return await self.submit(command, Changed, "void")

    async def _owner(self, ticket_id: str) -> str:
        """Whose ticket it is: a command names its user. Most are settled where they were redeemed a moment ago."""
        return self._owners.get(ticket_id) or _found(await self.store.ticket(ticket_id)).user_id

    async def balance(self, user_id: str) -> Wallet:
        """The user's wallet; an unknown user's is empty."""
        return await self.store.reads.wallet(user_id) or Wallet(user_id)

    async def wallet(self, user_id: str) -> Wallet:
        """The user's wallet, which must exist."""
        wallet = await self.store.reads.wallet(user_id)
        if wallet is None:
            raise WalletNotFound
        return wallet

    async def history(self, user_id: str, limit: int, cursor: str | None) -> tuple[list[Entry], str | None]:
        """A page of entries, newest first, and the cursor of the next page."""
        wallet = await self.wallet(user_id)
        entries = await self.store.reads.entries(user_id, limit, cursor)
        if not entries and cursor is None and not wallet.entries:
            return [], None
        if not entries:
            raise InvalidRequest("cursor is not one this wallet's history gave.")
        return entries, entries[-1].previous_id

    async def statement(self, user_id: str, limit: int, cursor: str | None) -> tuple[Wallet, list[Entry], str | None]:
        """A wallet with a page of its entries and the cursor of the next page; an unknown user's is empty."""
        wallet = await self.balance(user_id)
        if not wallet.entries and cursor is None:
            return wallet, [], None
        return wallet, *await self.history(user_id, limit, cursor)

    async def ticket(self, ticket_id: str) -> Ticket:
        """One ticket."""
        return _found(await self.store.reads.ticket(ticket_id))

    async def sweep(self) -> int:
        """Expire what is due: at most `SWEEP_MAX` users' at once. Returns how many users were due."""
        due = await self.store.due(self._clock(), self._grace_seconds, SWEEP_MAX)
        ends = await asyncio.gather(*(self.store.submit(command) for command in due), return_exceptions=True)
        for command, end in zip(due, ends, strict=True):
            if isinstance(end, Unavailable):
                raise end
            if isinstance(end, BaseException):
                log.error("user %r could not be swept: %s; run pluct check", command.user_id, end)
        return len(due)

    async def overdue(self, ms: int) -> bool:
        """Whether there is anything that should have expired so long ago, and has not."""
        return bool(await self.store.due(self._clock() - ms, self._grace_seconds, 1))

    async def probe(self) -> None:
        """Have the store commit something, unless there is no use in counting on this process any more."""
        if self.leaving:
            raise Unavailable("The engine is shutting down; ask another process, or try again shortly.")
        await self._raw(Probe())

    async def create_key(self, role: Role, name: str, nonce: str | None = None) -> tuple[ApiKey, str]:
        """A new API key and its secret, which is not kept. One `nonce` makes one key, and tells its secret once."""
        secret = f"pluct_{role}_{secrets.token_urlsafe(32)}"
        unique = secrets.token_hex(8) if nonce is None else hashlib.sha256(b"key " + nonce.encode()).hexdigest()[:16]
        key = ApiKey("key_" + unique, role, name, hash_secret(secret), self._clock())
        await self.store.add_api_key(key)
        if nonce is not None and await self.store.api_key(key.secret_hash) is None:
            raise InvalidRequest(
                "This key was made already, and its secret is not shown again: revoke it, make another."
            )
        return key, secret

    async def revoke_key(self, key_id: str) -> ApiKey | None:
        """Revoke a key for good."""
        return await self.store.revoke_api_key(key_id, self._clock())

    async def api_key(self, secret: str) -> ApiKey:
        """Whose secret this is."""
        key = await self.store.api_key(hash_secret(secret))
        if key is None:
            raise Unauthorized("This API key is unknown or revoked.")
        return key

    async def _raw(self, command: Command) -> Outcome:
        outcome = await self.store.submit(command)
        if isinstance(outcome, Refusal):
            raise outcome
        return outcome

    async def submit(self, command: Command, kind: type[_Outcome], verb: str, credits: int = 0) -> _Outcome:
        """Have a command decided, and count what came of it. Raises its refusal."""
        try:
            outcome = await self._raw(command)
        except PluctError as error:
            self.observer.verb(verb, error.code)
            raise
        assert isinstance(outcome, kind)
        replayed = getattr(outcome, "replayed", False)
        self.observer.verb(verb, "replayed" if replayed else "ok", 0 if replayed else credits)
        return outcome


def hash_secret(secret: str) -> bytes:
    """What is kept of an API key's secret: it is random and long, so a plain hash does."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


def _found(ticket: Ticket | None) -> Ticket:
    if ticket is None:
        raise TicketNotFound
    return ticket


def _claims(claim: Once | None) -> tuple[Once, ...]:
    return () if claim is None else (claim,)


def _amount(amount: int) -> int:
    if amount > AMOUNT_MAX:
        raise AmountTooLarge
    if amount < 1:
        raise InvalidRequest(f"amount must be a whole number from 1 to {AMOUNT_MAX}.")
    return amount
