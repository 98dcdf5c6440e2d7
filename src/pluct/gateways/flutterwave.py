"""Flutterwave: the user pays on a page of Flutterwave's, and events say that something became of it.

Its older signature (`v3`) is a secret that is sent along and proves nothing about the body, so every event only names
a payment, and what counts is what Flutterwave answers when it is asked for that payment. Amounts are whole units and
parts. The reference of a payment is Flutterwave's id, since one page can be paid on twice; ours is the checkout's id.
"""

import base64
import hashlib
import hmac
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

from pluct.errors import Unavailable
from pluct.gateways import Failed, Notice, Paid, Pending, Received, Said, Started
from pluct.gateways.calls import SECONDS_DEFAULT, Api, address_problems, ask_after, email_for, redirect, with_query
from pluct.gateways.privacy import Privacy
from pluct.gateways.reading import (
    currency_of,
    decoded,
    header,
    major,
    must_equal,
    notice,
    secrets_in,
    segment,
    table,
    time_ms,
    unreadable,
    word,
)
from pluct.model import Checkout
from pluct.money import decimal_text

if TYPE_CHECKING:
    import httpx

SECRETS = ("FLUTTERWAVE_SECRET_KEY", "FLUTTERWAVE_SECRET_HASH")
SECRETS_OPTIONAL = ()
NAMESPACE = "flutterwave"
_KEPT = frozenset(
    {
        "id", "event", "type", "data", "tx_ref", "reference", "flw_ref", "amount", "charged_amount", "currency",
        "status", "payment_type", "created_at", "created_datetime", "meta", "checkout_id", "timestamp",
    }
)  # fmt: skip


class _Words(NamedTuple):
    """How one version of Flutterwave's interface says it."""

    header: bytes
    paid: frozenset[str]
    paths: tuple[str, ...]  # where a payment is asked for; the first that knows it answers


_V3_PATH = "/v3/transactions/{id}/verify"
#: Accounts that sign the newer way are seen with payments of either interface; whichever knows the id, answers.
_VERSIONS = {
    "v3": _Words(b"verif-hash", frozenset({"successful"}), (_V3_PATH,)),
    "v4": _Words(b"flutterwave-signature", frozenset({"succeeded", "successful"}), ("/charges/{id}", _V3_PATH)),
}


class FlutterwaveSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[gateways.flutterwave]`."""

    base_url: str = "https://api.flutterwave.com"
    signature: Literal["v3", "v4"] = "v3"  # v3: verif-hash, v4: flutterwave-signature; only that one is accepted
    return_url: str = ""  # where the user comes back to; empty: payments.callback_base_url
    email_domain: str = ""  # of the address that Flutterwave insists on; empty: the host of callback_base_url
    timeout_seconds: int = SECONDS_DEFAULT  # for one request to Flutterwave

    def problems(self, callback_base_url: str) -> list[str]:
        """What is wrong with these settings, a sentence each."""
        return address_problems(self.base_url, self.return_url, callback_base_url, self.timeout_seconds)


def secret_problems(secrets: Mapping[str, str]) -> list[str]:
    """What is wrong with the secrets, a sentence each that shows none of them."""
    missing = [name for name in SECRETS if not secrets_in(secrets.get(name, ""))]
    return [f"{name} must be set to take payments by Flutterwave" for name in missing]


def make(
    settings: FlutterwaveSettings,
    secrets: Mapping[str, str],
    callback_base_url: str,
    client: "httpx.AsyncClient",
    privacy: Privacy,
    clock: Callable[[], int],
) -> "Flutterwave":
    """The gateway. `FLUTTERWAVE_SECRET_HASH` may be several between commas."""
    key = secrets["FLUTTERWAVE_SECRET_KEY"].strip()
    api = Api("Flutterwave", settings.base_url, key, client, settings.timeout_seconds)
    return Flutterwave(api, secrets_in(secrets["FLUTTERWAVE_SECRET_HASH"]), settings, callback_base_url, privacy)


class Flutterwave:
    """Flutterwave as a `Gateway`."""

    name = "flutterwave"
    hooks = ("",)
    checkout_hooks = ()
    sells = True
    needs_phone = False

    def __init__(
        self,
        api: Api,
        hashes: tuple[bytes, ...],
        settings: FlutterwaveSettings,
        callback_base_url: str,
        privacy: Privacy,
    ) -> None:
        self._api, self._hashes, self._settings, self._privacy = api, hashes, settings, privacy
        self._callback_base_url = callback_base_url
        self._words = _VERSIONS[settings.signature]

    def takes(self, currency: str, price: int) -> bool:
        """Whether Flutterwave can charge this price; which currencies an account has, only Flutterwave knows."""
        return price > 0

    async def start(self, checkout: Checkout, token: str, phone: str | None) -> Started:
        """Make a payment page, once."""
        request = {
            "tx_ref": checkout.id,
            "amount": decimal_text(checkout.price, checkout.currency),
            "currency": checkout.currency,
            "redirect_url": with_query(self._settings.return_url or self._callback_base_url, checkout=checkout.id),
            "customer": {
                "email": email_for(checkout.payment_code, self._settings.email_domain, self._callback_base_url)
            },
            "customizations": {"title": f"{checkout.credits} credits"},
            "meta": {"checkout_id": checkout.id, "payment_code": checkout.payment_code},
        }
        answer = await self._api.begin("/v3/payments", json=request)
        if isinstance(answer, Started):
            return answer
        url = redirect(table(answer.get("data")).get("link"))
        if url is None or answer.get("status") != "success":
            return self._api.refused(f"Flutterwave's answer names no address: {word(answer.get('status'))}")
        return Started("pending", "Pay on Flutterwave's page.", checkout.id, url)

    async def receive(
        self,
        hook: str,
        token: str,
        headers: Mapping[bytes, bytes],
        body: bytes,
        address: str,
        by_token: Checkout | None,
    ) -> Received:
        """Read an event, and ask. Raises `Unauthorized`, and `Unavailable` if Flutterwave cannot be asked now."""
        must_equal([header(headers, self._words.header)], self._signatures(body))
        event = table(decoded(body))
        kind, data = word(event.get("event")) or word(event.get("type")), table(event.get("data"))
        payment = segment(data.get("id"))
        if kind is None:
            return Received((unreadable(body, "The body is no event of Flutterwave's."),))
        if kind != "charge.completed" or payment is None:
            key = f"{kind}:{hashlib.sha256(body).hexdigest()}"[-200:]
            return Received((self._notice(key, kind, event, None),))
        found = await self._payment(payment)
        if found is None:
            note = "Flutterwave knows no payment of this id."
            return Received((self._notice(f"{kind}:{payment}:unknown", kind, event, None, note),))
        said, note = self._outcome(found, payment)
        key = f"{kind}:{payment}:{word(found.get('status'))}"[:200]
        return Received((self._notice(key, kind, event, said, note),))

    def _signatures(self, body: bytes) -> list[bytes]:
        """What the header may be. The older one is the secret itself."""
        if self._settings.signature == "v3":
            return list(self._hashes)
        return [base64.b64encode(hmac.new(each, body, hashlib.sha256).digest()) for each in self._hashes]

    @staticmethod
    def ask_after(asked: int) -> int | None:
        """See `calls.ask_after`."""
        return ask_after(asked)

    async def ask(self, checkout: Checkout) -> Notice | None:
        """Ask for the last payment on the checkout's page, of which nothing was heard."""
        try:
            answer = await self._api.known("/v3/transactions/verify_by_reference", tx_ref=checkout.id)
        except Unavailable:
            return None
        found = table(table(answer).get("data"))
        payment = segment(found.get("id"))
        if payment is None or _reference(found) != checkout.id:
            return None
        said, note = self._outcome(found, payment)
        state = checkout.asked if isinstance(said, Pending) else word(found.get("status"))
        return self._notice(f"asked:{payment}:{state}"[:200], "transaction", found, said, note)

    @staticmethod
    def listed(since: int) -> None:
        """Its events are sent until they arrive; there is no list to go through."""
        return None

    async def _payment(self, payment: str) -> dict[str, Any] | None:
        """What Flutterwave knows of a payment. Raises `Unavailable`."""
        for path in self._words.paths:
            found = table(table(await self._api.known(path.replace("{id}", payment))).get("data"))
            if found and segment(found.get("id", payment)) == payment:
                return found
        return None

    def _outcome(self, found: dict[str, Any], payment: str) -> tuple[Said | None, str]:
        """What a payment says, as Flutterwave answers it."""
        status, checkout_id, currency = word(found.get("status")), _reference(found), currency_of(found.get("currency"))
        if status in self._words.paid:
            amount = None if currency is None else major(found.get("amount"), currency)
            if currency is None or amount is None:
                return None, "The payment names no amount above zero or no currency."
            at = time_ms(found.get("created_at")) or time_ms(found.get("created_datetime"))
            return Paid(NAMESPACE, payment, amount, currency, checkout_id=checkout_id, at=at), ""
        if checkout_id is not None and status == "failed":
            return Failed(checkout_id, "The payment did not succeed."), ""
        if checkout_id is not None and status == "pending":
            return Pending(checkout_id), ""
        return None, f"The payment is {status}."

    def _notice(self, key: str, kind: str, body: Any, said: Said | None, note: str = "") -> Notice:
        return notice(self._privacy, _KEPT, key, kind, body, said, note)


def _reference(found: dict[str, Any]) -> str | None:
    """Our id of the payment, under either of its names."""
    return segment(found.get("tx_ref")) or segment(found.get("reference"))
