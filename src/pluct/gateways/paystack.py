"""Paystack: the user pays on a page of Paystack's, and signed events say what became of it.

The reference of a payment is ours: the checkout's id. An event about money in is confirmed with Paystack before it
counts. Events have no id of their own, so what an event is about and what Paystack knows of it are its key. Paystack
tells of each refund alone; how much went back in all is asked.
"""

import hashlib
import hmac
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from pluct.errors import Unavailable
from pluct.gateways import Disputed, Failed, Notice, Paid, Pending, Received, Refunded, Said, Started
from pluct.gateways.calls import SECONDS_DEFAULT, Api, address_problems, ask_after, email_for, redirect, with_query
from pluct.gateways.privacy import Privacy
from pluct.gateways.reading import (
    currency_of,
    decoded,
    header,
    must_equal,
    notice,
    rows,
    secrets_in,
    segment,
    table,
    time_ms,
    unreadable,
    whole,
    word,
)
from pluct.model import Checkout
from pluct.money import digits

if TYPE_CHECKING:
    import httpx

SECRETS = ("PAYSTACK_SECRET_KEY",)
SECRETS_OPTIONAL = ()
NAMESPACE = "paystack"
REFUNDS_MAX = 100  # of one payment, as many as Paystack lists at once
_STILL_PENDING = frozenset({"abandoned", "ongoing", "pending", "processing", "queued"})
_KEPT = frozenset(
    {
        "id", "event", "data", "domain", "status", "reference", "amount", "currency", "channel", "paid_at",
        "created_at", "metadata", "checkout_id", "transaction", "transaction_reference", "refund_reference",
        "refund_amount", "resolution", "category", "processor", "fees",
    }
)  # fmt: skip


class PaystackSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[gateways.paystack]`."""

    base_url: str = "https://api.paystack.co"
    return_url: str = ""  # where the user comes back to; empty: payments.callback_base_url
    email_domain: str = ""  # of the address that Paystack insists on; empty: the host of payments.callback_base_url
    timeout_seconds: int = SECONDS_DEFAULT  # for one request to Paystack

    def problems(self, callback_base_url: str) -> list[str]:
        """What is wrong with these settings, a sentence each."""
        return address_problems(self.base_url, self.return_url, callback_base_url, self.timeout_seconds)


def secret_problems(secrets: Mapping[str, str]) -> list[str]:
    """What is wrong with the secrets, a sentence each that shows none of them."""
    key = secrets.get("PAYSTACK_SECRET_KEY", "")
    if not secrets_in(key):
        return ["PAYSTACK_SECRET_KEY must be set to take payments by Paystack"]
    if key.startswith("pk_"):
        return ["PAYSTACK_SECRET_KEY must be the secret key (sk_live_… or sk_test_…), not the public one"]
    return []


def make(
    settings: PaystackSettings,
    secrets: Mapping[str, str],
    callback_base_url: str,
    client: "httpx.AsyncClient",
    privacy: Privacy,
    clock: Callable[[], int],
) -> "Paystack":
    """The gateway. Of several secrets between commas the first asks, and all of them sign."""
    keys = secrets_in(secrets["PAYSTACK_SECRET_KEY"])
    api = Api("Paystack", settings.base_url, keys[0].decode(), client, settings.timeout_seconds)
    return Paystack(api, keys, settings, callback_base_url, privacy)


class Paystack:
    """Paystack as a `Gateway`."""

    name = "paystack"
    hooks = ("",)
    checkout_hooks = ()
    sells = True
    needs_phone = False

    def __init__(
        self, api: Api, keys: tuple[bytes, ...], settings: PaystackSettings, callback_base_url: str, privacy: Privacy
    ) -> None:
        self._api, self._keys, self._settings, self._privacy = api, keys, settings, privacy
        self._callback_base_url = callback_base_url
        self._live = keys[0].startswith(b"sk_live_")

    def takes(self, currency: str, price: int) -> bool:
        """Whether Paystack can charge this price: it counts every currency in hundredths."""
        return price > 0 and digits(currency) <= 2

    async def start(self, checkout: Checkout, token: str, phone: str | None) -> Started:
        """Open a transaction, once: Paystack takes a reference only once, too."""
        if not self.takes(checkout.currency, checkout.price):
            return self._api.refused(f"Paystack cannot charge in {checkout.currency}.")
        back = self._settings.return_url or self._callback_base_url
        request = {
            "email": email_for(checkout.payment_code, self._settings.email_domain, self._callback_base_url),
            "amount": str(checkout.price * _hundredths(checkout.currency)),
            "currency": checkout.currency,
            "reference": checkout.id,
            "callback_url": with_query(back, checkout=checkout.id),
            "metadata": {"checkout_id": checkout.id, "payment_code": checkout.payment_code},
        }
        answer = await self._api.begin("/transaction/initialize", json=request)
        if isinstance(answer, Started):
            return answer
        url = redirect(table(answer.get("data")).get("authorization_url"))
        if url is None or answer.get("status") is not True:
            return self._api.refused(f"Paystack's answer names no address: {word(answer.get('status'))}")
        return Started("pending", "Pay on Paystack's page.", checkout.id, url)

    async def receive(
        self,
        hook: str,
        token: str,
        headers: Mapping[bytes, bytes],
        body: bytes,
        address: str,
        by_token: Checkout | None,
    ) -> Received:
        """Read an event, and confirm it. Raises `Unauthorized`, and `Unavailable` if it cannot be confirmed now."""
        signature = header(headers, b"x-paystack-signature")
        must_equal([signature], [hmac.new(key, body, hashlib.sha512).hexdigest().encode() for key in self._keys])
        event = table(decoded(body))
        kind, data = word(event.get("event")), table(event.get("data"))
        if kind is None:
            return Received((unreadable(body, "The body is no event of Paystack's."),))
        about = word(data.get("id")) or word(data.get("refund_reference")) or hashlib.sha256(body).hexdigest()
        key = f"{kind}:{about}"[:190]
        if (data.get("domain") == "live") is not self._live:
            note = "The event is of the other domain (live or test) than PAYSTACK_SECRET_KEY."
            return Received((self._notice(f"{key}:domain", kind, event, None, note),))
        if kind == "charge.success":
            return Received((await self._charged(key, kind, event),))
        if kind == "refund.processed":
            said, note = await self._refunded(data)
            return Received((self._notice(key, kind, event, said, note),))
        if kind in ("charge.dispute.create", "charge.dispute.resolve"):
            return Received(self._disputed(key, kind, event))
        return Received((self._notice(key, kind, event, None),))

    @staticmethod
    def ask_after(asked: int) -> int | None:
        """See `calls.ask_after`."""
        return ask_after(asked)

    async def ask(self, checkout: Checkout) -> Notice | None:
        """Ask for the transaction, of which nothing was heard."""
        try:
            found = await self._transaction(checkout.id)
        except Unavailable:
            return None
        if found is None:
            return None
        said, note = self._outcome(found, checkout.id)
        state = checkout.asked if isinstance(said, Pending) else word(found.get("status"))
        return self._notice(f"asked:{checkout.id}:{state}", "transaction", found, said, note)

    @staticmethod
    def listed(since: int) -> None:
        """Its events are sent until they arrive; there is no list to go through."""
        return None

    async def _transaction(self, reference: str) -> dict[str, Any] | None:
        """What Paystack knows of a payment. Raises `Unavailable`."""
        found = await self._api.known(f"/transaction/verify/{reference}")
        data = table(table(found).get("data"))
        return data if data and data.get("reference", reference) == reference else None

    async def _charged(self, key: str, kind: str, event: dict[str, Any]) -> Notice:
        """Money, if Paystack still says so when it is asked."""
        reference = segment(table(event.get("data")).get("reference"))
        found = None if reference is None else await self._transaction(reference)
        if reference is None or found is None:
            return self._notice(f"{key}:unknown", kind, event, None, "Paystack knows no payment of this reference.")
        said, note = self._outcome(found, reference)
        return self._notice(f"{key}:{word(found.get('status'))}"[:200], kind, event, said, note)

    def _outcome(self, found: dict[str, Any], reference: str) -> tuple[Said | None, str]:
        """What a transaction says, as Paystack answers it."""
        if "domain" in found and (found["domain"] == "live") is not self._live:
            return None, "The payment is of the other domain (live or test) than PAYSTACK_SECRET_KEY."
        status, currency = word(found.get("status")), currency_of(found.get("currency"))
        if status == "failed":
            return Failed(reference, "The payment did not succeed."), ""
        if status in _STILL_PENDING:
            return Pending(reference), ""
        if status != "success":
            return None, f"The payment is {status}."
        amount = _amount(found.get("amount"), currency)
        if currency is None or amount is None:
            return None, "The payment names no amount above zero or no currency."
        return Paid(NAMESPACE, reference, amount, currency, checkout_id=reference, at=time_ms(found.get("paid_at"))), ""

    async def _refunded(self, data: dict[str, Any]) -> tuple[Said | None, str]:
        """What went back of a payment so far, in all."""
        reference = segment(data.get("transaction_reference")) or _transaction_of(data)
        currency = currency_of(data.get("currency"))
        if reference is None:
            return None, "The refund names no payment."
        found = table(await self._transaction(reference))
        listed = await self._listed(word(found.get("id")), reference)
        currency = currency or currency_of(found.get("currency"))
        listed = [row for row in listed if row.get("currency") is None or currency_of(row["currency"]) == currency]
        all_listed = sum(_amount(row.get("amount"), currency) or 0 for row in listed)
        amount = max(_amount(data.get("amount"), currency) or 0, all_listed)
        if amount:
            return Refunded(NAMESPACE, reference, amount, currency), ""
        if found.get("status") == "reversed":
            return Refunded(NAMESPACE, reference, None, currency), ""
        return None, "The refund names no amount, and Paystack lists none."

    async def _listed(self, transaction: str | None, reference: str) -> list[dict[str, Any]]:
        """The refunds of a payment that are done; only those that name it."""
        if transaction is None:
            return []
        found = await self._api.known("/refund", transaction=transaction, perPage=str(REFUNDS_MAX))
        return [
            row
            for row in rows(table(found).get("data"))
            if row.get("status") == "processed"
            and (word(row.get("transaction")) == transaction or _transaction_of(row) == reference)
        ]

    def _disputed(self, key: str, kind: str, event: dict[str, Any]) -> tuple[Notice, ...]:
        """A dispute begins, or ends: accepted (by us or by silence), the payer has the money back."""
        data = table(event.get("data"))
        reference = _transaction_of(data) or segment(data.get("transaction_reference"))
        dispute = word(data.get("id"))
        if reference is None or dispute is None:
            return (self._notice(key, kind, event, None, "The dispute names no id or no payment."),)
        if kind == "charge.dispute.create":
            return (self._notice(key, kind, event, Disputed(NAMESPACE, reference, dispute, "opened")),)
        closed = self._notice(key, kind, event, Disputed(NAMESPACE, reference, dispute, "closed"))
        if "accepted" not in (word(data.get("resolution")) or ""):
            return (closed,)
        currency = currency_of(data.get("currency"))
        lost = Disputed(NAMESPACE, reference, dispute, "funds_withdrawn", _amount(data.get("refund_amount"), currency))
        return (self._notice(f"{key}:lost", kind, event, lost), closed)

    def _notice(self, key: str, kind: str, body: Any, said: Said | None, note: str = "") -> Notice:
        return notice(self._privacy, _KEPT, key, kind, body, said, note)


def _transaction_of(data: dict[str, Any]) -> str | None:
    return segment(table(data.get("transaction")).get("reference"))


def _hundredths(currency: str) -> int:
    """How many of Paystack's units are one of ours: it counts in hundredths where a currency has no parts, too."""
    return int(10 ** (2 - digits(currency)))


def _amount(value: Any, currency: str | None) -> int | None:
    """Paystack's units in ours."""
    amount = whole(value)
    if amount is None or currency is None or digits(currency) > 2:
        return None
    scaled, rest = divmod(amount, _hundredths(currency))
    return scaled if scaled and not rest else None
