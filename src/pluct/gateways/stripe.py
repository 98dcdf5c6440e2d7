"""Stripe: the user pays on a page of Stripe's (a Checkout Session), and signed events say what became of it.

A payment is known by its session, and later, by refunds and disputes, by its payment intent. Events come more than once
and in any order. The signature is read by hand: Stripe's own library accepts times that are still to come, raises five
kinds of errors for headers that are none, and takes longer to import than all of ours; it judges ours in the tests.
"""

import hashlib
import hmac
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from pluct.errors import Unavailable
from pluct.gateways import Disputed, Failed, Notice, Paid, Pending, Received, Refunded, Said, Started
from pluct.gateways.calls import SECONDS_DEFAULT, Api, address_problems, ask_after, redirect, with_query
from pluct.gateways.privacy import Privacy
from pluct.gateways.reading import (
    currency_of,
    decoded,
    header,
    must_be_now,
    must_equal,
    notice,
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

SECRETS = ("STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRET")
SECRETS_OPTIONAL = ()
NAMESPACE = "stripe"
#: Where Stripe counts in other units than everybody else: króna-like currencies with two digits that are always zero.
_DIGITS = {"UGX": 2, "MGA": 0}
_SESSIONS = {
    "checkout.session.completed", "checkout.session.async_payment_succeeded", "checkout.session.async_payment_failed",
    "checkout.session.expired",
}  # fmt: skip
_DISPUTES: dict[str, Literal["opened", "funds_withdrawn", "funds_reinstated", "closed"]] = {
    "charge.dispute.created": "opened",
    "charge.dispute.updated": "opened",  # an inquiry that became a dispute
    "charge.dispute.funds_withdrawn": "funds_withdrawn",
    "charge.dispute.funds_reinstated": "funds_reinstated",
    "charge.dispute.closed": "closed",
}
_OPEN = {"needs_response", "under_review"}
_KEPT = frozenset(
    {
        "id", "object", "type", "livemode", "created", "data", "mode", "status", "payment_status", "amount",
        "amount_total", "amount_refunded", "currency", "client_reference_id", "payment_intent", "metadata",
        "checkout_id", "charge", "reason", "refunded", "disputed", "expires_at", "api_version",
    }
)  # fmt: skip


class StripeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[gateways.stripe]`."""

    base_url: str = "https://api.stripe.com"
    return_url: str = ""  # where the user comes back to; empty: payments.callback_base_url
    timeout_seconds: int = SECONDS_DEFAULT  # for one request to Stripe

    def problems(self, callback_base_url: str) -> list[str]:
        """What is wrong with these settings, a sentence each."""
        return address_problems(self.base_url, self.return_url, callback_base_url, self.timeout_seconds)


def secret_problems(secrets: Mapping[str, str]) -> list[str]:
    """What is wrong with the secrets, a sentence each that shows none of them."""
    found = [
        f"{name} must be set to take payments by Stripe" for name in SECRETS if not secrets_in(secrets.get(name, ""))
    ]
    if secrets.get("STRIPE_SECRET_KEY", "").startswith(("rk_", "pk_")):
        found.append("STRIPE_SECRET_KEY must be a secret key (sk_live_… or sk_test_…): it says which events are ours")
    return found


def make(
    settings: StripeSettings,
    secrets: Mapping[str, str],
    callback_base_url: str,
    client: "httpx.AsyncClient",
    privacy: Privacy,
    clock: Callable[[], int],
) -> "Stripe":
    """The gateway. `secrets` holds `SECRETS`; `clock` tells milliseconds."""
    key = secrets["STRIPE_SECRET_KEY"].strip()
    api = Api("Stripe", settings.base_url, key, client, settings.timeout_seconds)
    live, back = key.startswith("sk_live_"), settings.return_url or callback_base_url
    return Stripe(api, live, secrets_in(secrets["STRIPE_WEBHOOK_SECRET"]), back, privacy, clock)


class Stripe:
    """Stripe as a `Gateway`."""

    name = "stripe"
    hooks = ("",)
    checkout_hooks = ()
    sells = True
    needs_phone = False

    def __init__(
        self,
        api: Api,
        live: bool,
        webhook_secrets: tuple[bytes, ...],
        back: str,
        privacy: Privacy,
        clock: Callable[[], int],
    ) -> None:
        self._api, self._live, self._secrets, self._back = api, live, webhook_secrets, back
        self._privacy, self._clock = privacy, clock

    def takes(self, currency: str, price: int) -> bool:
        """Whether Stripe can charge exactly this price."""
        return _to_stripe(price, currency) is not None

    async def start(self, checkout: Checkout, token: str, phone: str | None) -> Started:
        """Make a session, once: a second one for the same checkout would answer the first."""
        amount = _to_stripe(checkout.price, checkout.currency)
        if amount is None:
            return self._api.refused(f"Stripe cannot charge {checkout.price} minor units of {checkout.currency}.")
        form = {
            "mode": "payment",
            "client_reference_id": checkout.payment_code,
            "metadata[checkout_id]": checkout.id,
            "line_items[0][quantity]": "1",
            "line_items[0][price_data][currency]": checkout.currency.lower(),
            "line_items[0][price_data][unit_amount]": str(amount),
            "line_items[0][price_data][product_data][name]": f"{checkout.credits} credits",
            "success_url": with_query(self._back, checkout=checkout.id, returned="done"),
            "cancel_url": with_query(self._back, checkout=checkout.id, returned="cancelled"),
        }
        answer = await self._api.begin("/v1/checkout/sessions", {"Idempotency-Key": checkout.id}, data=form)
        if isinstance(answer, Started):
            return answer
        session, url = word(answer.get("id")), redirect(answer.get("url"))
        if session is None or url is None:
            return self._api.refused("Stripe's answer names no session or no address.")
        return Started("pending", "Pay on Stripe's page.", session, url)

    async def receive(
        self,
        hook: str,
        token: str,
        headers: Mapping[bytes, bytes],
        body: bytes,
        address: str,
        by_token: Checkout | None,
    ) -> Received:
        """Read an event. Raises `Unauthorized` unless Stripe signed it within the last five minutes."""
        self._authenticate(header(headers, b"stripe-signature"), body)
        event = table(decoded(body))
        key, kind = word(event.get("id")), word(event.get("type"))
        if key is None or kind is None:
            return Received((unreadable(body, "The body is no event of Stripe's."),))
        if event.get("livemode", False) is not self._live:
            note = "The event is of the other mode (live or test) than STRIPE_SECRET_KEY."
            return Received((notice(self._privacy, _KEPT, f"{key}:mode", kind, event, None, note),))
        said, note = _read(kind, table(table(event.get("data")).get("object")), time_ms(event.get("created")))
        told = notice(self._privacy, _KEPT, key, kind, event, said, note)
        if isinstance(said, Paid) and said.checkout_id is None and said.code is None:  # then the session says whose
            told = msgspec.structs.replace(told, checkout_reference=said.reference)
        return Received((told,))

    def _authenticate(self, signature: bytes, body: bytes) -> None:
        """`t=…,v1=…[,v1=…]`: HMAC-SHA256 of the time, a point and the body."""
        fields = [field.partition(b"=") for field in signature.split(b",")]
        at = next((value for name, _, value in fields if name == b"t"), b"")
        must_be_now(at, self._clock())
        given = [value for name, _, value in fields if name == b"v1"]
        signed = at + b"." + body
        must_equal(given, [hmac.new(each, signed, hashlib.sha256).hexdigest().encode() for each in self._secrets])

    @staticmethod
    def ask_after(asked: int) -> int | None:
        """See `calls.ask_after`."""
        return ask_after(asked)

    async def ask(self, checkout: Checkout) -> Notice | None:
        """Ask for the session, of whose end nothing was heard."""
        session = segment(checkout.gateway_reference)
        if session is None:
            return None
        try:
            found = await self._api.known(f"/v1/checkout/sessions/{session}")
        except Unavailable:
            return None
        if found is None or found.get("id") != session:
            return None
        said, note = _asked(found, checkout.id)
        state = checkout.asked if isinstance(said, Pending) else found.get("payment_status")
        key = f"asked:{session}:{word(found.get('status'))}:{state}"
        return notice(self._privacy, _KEPT, key, "checkout.session", found, said, note)

    @staticmethod
    def listed(since: int) -> None:
        """Its events are sent until they arrive; there is no list to go through."""
        return None


def _read(kind: str, found: dict[str, Any], at: int | None) -> tuple[Said | None, str]:
    """What an event says, and why it says nothing."""
    if kind in _SESSIONS:
        return _session(kind, found, at)
    if kind == "charge.refunded":
        return _refunded(found)
    if kind in _DISPUTES:
        return _disputed(kind, found)
    return None, ""


def _session(kind: str, found: dict[str, Any], at: int | None) -> tuple[Said | None, str]:
    checkout_id = word(table(found.get("metadata")).get("checkout_id"))
    if kind in ("checkout.session.completed", "checkout.session.async_payment_succeeded"):
        return _paid(found, checkout_id, at)
    if checkout_id is None:
        return None, "The session is of no checkout of ours."
    if kind == "checkout.session.expired":
        return Failed(checkout_id, "Stripe's page was not used in time.", expired=True), ""
    return Failed(checkout_id, "The payment did not succeed."), ""


def _asked(found: dict[str, Any], checkout_id: str) -> tuple[Said | None, str]:
    if found.get("status") == "complete":
        return _paid(found, checkout_id, None)
    if found.get("status") == "expired":
        return Failed(checkout_id, "Stripe's page was not used in time.", expired=True), ""
    return Pending(checkout_id), ""


def _paid(found: dict[str, Any], checkout_id: str | None, at: int | None) -> tuple[Said | None, str]:
    """Money, if the session is paid: completing it is not enough, since some ways to pay take days."""
    session, currency = word(found.get("id")), currency_of(found.get("currency"))
    if found.get("payment_status") == "unpaid" and checkout_id is not None:
        return Pending(checkout_id), "The session is complete, and its payment still to come."
    if found.get("payment_status") != "paid" or found.get("mode", "payment") != "payment":
        return None, "The session is not a paid one."
    amount = None if currency is None else _from_stripe(found.get("amount_total"), currency)
    if checkout_id is not None and word(found.get("amount_total")) == "0":
        amount = 0  # paid with nothing: not the price, so somebody looks at it
    if session is None or currency is None or amount is None:
        return None, "The session names no id, no amount above zero or no currency."
    code = word(found.get("client_reference_id")) if checkout_id is None else None
    link = word(found.get("payment_intent"))
    return Paid(NAMESPACE, session, amount, currency, link=link, checkout_id=checkout_id, code=code, at=at), ""


def _refunded(found: dict[str, Any]) -> tuple[Said | None, str]:
    """What went back so far, in all."""
    reference, currency = word(found.get("payment_intent")), currency_of(found.get("currency"))
    amount = None if currency is None else _from_stripe(found.get("amount_refunded"), currency)
    if reference is None or amount is None:
        return None, "The charge names no payment intent, or no amount that was refunded."
    return Refunded(NAMESPACE, reference, amount, currency), ""


def _disputed(kind: str, found: dict[str, Any]) -> tuple[Said | None, str]:
    """A dispute; an inquiry (`warning_…`) is none yet."""
    reference, dispute, status = (
        word(found.get("payment_intent")),
        word(found.get("id")),
        word(found.get("status")) or "",
    )
    if reference is None or dispute is None:
        return None, "The dispute names no id or no payment intent."
    if status.startswith("warning_") or (kind == "charge.dispute.updated" and status not in _OPEN):
        return None, "An inquiry is no dispute yet." if status.startswith("warning_") else ""
    currency = currency_of(found.get("currency"))
    amount = None if currency is None else _from_stripe(found.get("amount"), currency)
    return Disputed(NAMESPACE, reference, dispute, _DISPUTES[kind], amount), ""


def _to_stripe(price: int, currency: str) -> int | None:
    """Our minor units in Stripe's; None where it cannot charge exactly that."""
    scaled = _scaled(price, digits(currency), _DIGITS.get(currency, digits(currency)))
    if scaled is not None and digits(currency) == 3 and scaled % 10:  # of three digits the last must be zero
        return None
    return scaled


def _from_stripe(value: Any, currency: str) -> int | None:
    """Stripe's units in ours; None for what is no whole amount above zero."""
    amount = whole(value)
    return None if amount is None else _scaled(amount, _DIGITS.get(currency, digits(currency)), digits(currency))


def _scaled(amount: int, places: int, wanted: int) -> int | None:
    """An amount of units with so many digits behind the point in units with as many as wanted, if it is a whole one."""
    scaled, rest = divmod(amount * int(10**wanted), int(10**places))
    return scaled if scaled > 0 and not rest else None
