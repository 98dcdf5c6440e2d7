"""Events out: what others are told of, made from what a batch has changed, to be written in the same transaction.

Pure: which change is which event, and for whom. Delivering them is `deliveries.py`'s.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Literal, get_args

import msgspec

from pluct.model import Entry, Letter, Payment, Wallet, user_account
from pluct.wallet import View

EventKind = Literal[
    "credits.granted", "credits.low", "credits.expiring", "ticket.captured", "ticket.returned", "payment.unmatched",
    "payment.refunded",
]  # fmt: skip
KINDS: tuple[EventKind, ...] = get_args(EventKind)
_TICKET_KINDS: dict[str, EventKind] = {
    "vend": "ticket.captured", "capture": "ticket.captured", "return": "ticket.returned", "refund": "ticket.returned"
}  # fmt: skip
_encode = msgspec.json.Encoder().encode


class Subscription(msgspec.Struct, frozen=True):
    """Who is told of what."""

    url: str
    events: tuple[EventKind, ...] = KINDS
    low_below: int = 1  # `credits.low`: the balance falls under it
    expiring_days: int = 3  # `credits.expiring`: so long before
    allow_private: bool = False


class Outbox:
    """Makes the letters of a batch."""

    def __init__(self, subscriptions: Sequence[Subscription], next_id: Callable[[], str]) -> None:
        self.subscriptions, self._next_id = tuple(subscriptions), next_id

    def letters(self, view: View, before: Mapping[str, Payment], now: int) -> list[Letter]:
        """What is to be told of these changes. `before`: the payments as they were."""
        found: list[Letter] = []
        for one in self.subscriptions:
            for entry in view.entries:
                found += self._of_entry(one, entry, now)
            for payment in view.changed_payments.values():
                found += self._of_payment(one, payment, before.get(payment.id), view, now)
        return found

    def expiring(self, one: Subscription, wallet: Wallet, now: int) -> list[Letter]:
        """What is to be told of a wallet's lots that end soon: each once, so the letter's id says which it is."""
        until = now + one.expiring_days * 86_400_000
        found = []
        for lot in wallet.lots:
            if lot.expires_at is not None and now < lot.expires_at <= until:
                name = blake2b(f"{one.url} {lot.grant_id} {lot.expires_at}".encode(), digest_size=16).hexdigest()
                data = {
                    "userId": wallet.user_id, "grantId": lot.grant_id, "amount": lot.remaining,
                    "expiresAt": _time(lot.expires_at),
                }  # fmt: skip
                found.append(self._letter(one, "credits.expiring", wallet.user_id, wallet.entries, data, now, name))
        return found

    def _of_entry(self, one: Subscription, entry: Entry, now: int) -> list[Letter]:
        wanted, user_id = one.events, entry.user_id
        found = []
        if entry.kind == "grant" and "credits.granted" in wanted:
            data = {
                "userId": user_id, "amount": entry.amount, "grantId": entry.grant_id, "reference": entry.reference,
                "source": entry.debit.partition(":")[2], "available": entry.available_after,
            }  # fmt: skip
            found.append(self._letter(one, "credits.granted", user_id, entry.number, data, now))
        kind = _TICKET_KINDS.get(entry.kind)
        if kind is not None and kind in wanted:
            data = {
                "userId": user_id, "ticketId": entry.ticket_id, "amount": entry.amount, "reason": entry.reason,
                "available": entry.available_after,
            }  # fmt: skip
            found.append(self._letter(one, kind, user_id, entry.number, data, now))
        falls = entry.available_after < one.low_below <= entry.available_after + entry.amount
        if "credits.low" in wanted and falls and entry.debit == user_account(user_id):
            data = {"userId": user_id, "available": entry.available_after, "below": one.low_below}
            found.append(self._letter(one, "credits.low", user_id, entry.number, data, now))
        return found

    def _of_payment(
        self, one: Subscription, payment: Payment, before: Payment | None, view: View, now: int
    ) -> list[Letter]:
        user_id = payment.user_id or ""
        wallet = view.wallets.get(user_id)
        number = 0 if wallet is None else wallet.entries
        data: dict[str, Any] = {
            "paymentId": payment.id, "gateway": payment.gateway, "reference": payment.reference,
            "userId": user_id or None, "amount": payment.amount, "currency": payment.currency, "state": payment.state,
        }  # fmt: skip
        was = None if before is None else before.state
        if payment.state == "unmatched" and was != "unmatched" and "payment.unmatched" in one.events:
            return [self._letter(one, "payment.unmatched", user_id, number, data | {"code": payment.code}, now)]
        if payment.refunded > (0 if before is None else before.refunded) and "payment.refunded" in one.events:
            return [self._letter(one, "payment.refunded", user_id, number, data | {"refunded": payment.refunded}, now)]
        return []

    def _letter(
        self, one: Subscription, kind: EventKind, user_id: str, number: int, data: dict[str, Any], now: int,
        id: str | None = None,
    ) -> Letter:  # fmt: skip
        said = {name: value for name, value in data.items() if value is not None}
        content = _encode({"type": kind, "timestamp": _time(now), "data": said}).decode()
        return Letter(id or self._next_id(), one.url, user_id, number, kind, content, now, now)


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
