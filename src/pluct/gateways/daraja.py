"""M-Pesa through Daraja: a prompt on the payer's phone (STK push), and payments that people type in (C2B).

Daraja signs nothing. What makes a callback ours is the token in its address: one of the checkout's own for a push, the
path token for everything else; the list of Safaricom's addresses narrows it further. Callbacks come once, several
times, late, before the answer to the push, or never, and one payment may come as a push and as C2B. So a payment is
known by its receipt alone, a push is never sent again on a time-out, and a push of which nothing is heard is asked
about. No single answer to that question ends a checkout: it stays payable, and money that comes later still counts.

Daraja ends newer CheckoutRequestIDs with the payer's number. It is sealed in the reference that is kept, and opened
only to ask; in what is kept of bodies it is masked.
"""

import hashlib
import hmac
import ipaddress
import re
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import httpx
import msgspec

from pluct.errors import InvalidRequest, RouteNotFound, Unavailable
from pluct.gateways import MPESA, Failed, Notice, Paid, Pending, Received, Refunded, Said, Started
from pluct.gateways.daraja_api import (
    CURRENCY,
    Answer,
    DarajaApi,
    NotAnswered,
    NotSent,
    decoded,
    minor,
    named,
    password,
    phone_of,
    receipt_of,
    rows_of,
    stamp,
    table,
    text,
    time_ms,
    written,
)
from pluct.gateways.daraja_settings import DarajaSettings, next_query_at
from pluct.gateways.privacy import Privacy, phone_number
from pluct.model import Checkout
from pluct.money import decimal_text, minor_units

STK, VALIDATION, CONFIRMATION, RESULT = (
    "/stk/{token}", "/c2b/{token}/validation", "/c2b/{token}/confirmation", "/result/{token}",
)  # fmt: skip
SHILLINGS_MAX = 250_000
#: How far back transactions can be pulled, and how many answers one sweep reads.
PULL_HOURS_MAX = 48
PULL_PAGES_MAX = 200

_ACCEPTED = {"ResultCode": "0", "ResultDesc": "Accepted"}
_REJECTED = {"amount": "C2B00013", "other": "C2B00016"}
_STORED = {"ResultCode": 0, "ResultDesc": "Success"}
_PROCESSING = re.compile(r"being processed|under processing|still processing", re.I)
_CHECKOUT_REQUEST = re.compile(rb"(ws_CO_[0-9]{14,40})[17][0-9]{5}([0-9]{3})(?![0-9])")
#: The same in parts, the number apart; and what is kept of it, the number sealed.
_WITH_PHONE = re.compile(r"(ws_CO_[0-9]{14,40})([17][0-9]{8})")
_SEALED = re.compile(r"(ws_CO_[0-9]{14,40})~([A-Za-z0-9_-]+)")

#: Result codes that say what went wrong on the payer's side.
_FAILED = {
    "1": "There was not enough money in the M-Pesa account.",
    "2": "The amount is below what M-Pesa moves.",
    "3": "The amount is above what M-Pesa moves at once.",
    "4": "The payment would exceed the daily M-Pesa limit.",
    "8": "The payment cannot be received now.",
    "17": "The same amount was paid a moment ago; M-Pesa wants two minutes in between.",
    "1019": "The M-Pesa prompt expired before it was answered.",
    "1032": "The M-Pesa prompt was cancelled.",
    "1037": "The phone could not be reached, or the M-Pesa prompt was not answered.",
    "2001": "The M-Pesa PIN was wrong.",
}
#: Those that are believed when the answer to a query names them; Daraja has answered others about paid pushes.
_FAILED_BY_QUERY = frozenset({"1", "4", "1019", "1032", "1037", "2001"})
_STILL_PENDING = frozenset({"4999"})


def make(
    settings: DarajaSettings,
    secrets: Mapping[str, str],
    callback_base_url: str,
    client: httpx.AsyncClient,
    privacy: Privacy,
    clock: Callable[[], int],
) -> "Daraja":
    """The gateway. `secrets` holds `SECRETS` and may hold `SECRETS_OPTIONAL`; `clock` tells milliseconds."""
    api = DarajaApi(
        settings.base_url, secrets["DARAJA_CONSUMER_KEY"], secrets["DARAJA_CONSUMER_SECRET"], client, clock,
        settings.timeout_seconds,
    )  # fmt: skip
    return Daraja(settings, secrets, callback_base_url, api, privacy, clock)


class Daraja:
    """M-Pesa as a `Gateway`."""

    name = "daraja"
    hooks = (STK, VALIDATION, CONFIRMATION, RESULT)
    checkout_hooks = (STK,)
    sells = True
    needs_phone = True

    def __init__(
        self,
        settings: DarajaSettings,
        secrets: Mapping[str, str],
        callback_base_url: str,
        api: DarajaApi,
        privacy: Privacy,
        clock: Callable[[], int],
    ) -> None:
        self._settings = settings
        self._passkey = secrets["DARAJA_PASSKEY"]
        self._path_tokens = [token.strip() for token in secrets["DARAJA_PATH_TOKEN"].split(",") if token.strip()]
        self._initiator = secrets.get("DARAJA_INITIATOR", "")
        self._credential = secrets.get("DARAJA_SECURITY_CREDENTIAL", "")
        self._hooks_url = callback_base_url.rstrip("/") + "/hooks/daraja"
        self._api = api
        self._privacy = privacy
        self._clock = clock
        self._business = settings.store_number or settings.shortcode if settings.till else settings.shortcode
        self._c2b = settings.c2b_shortcode or settings.shortcode
        self._ours = {settings.shortcode, self._business, self._c2b}
        self._networks = [ipaddress.ip_network(address, strict=False) for address in settings.allowed_ips]
        self._confirm_above = minor_units(settings.confirm_above, CURRENCY)

    # Asking for money

    @staticmethod
    def takes(currency: str, price: int) -> bool:
        """Whether a push can ask for this price: whole shillings, 1 to 250,000."""
        return currency == CURRENCY and price % 100 == 0 and 100 <= price <= SHILLINGS_MAX * 100

    async def start(self, checkout: Checkout, token: str, phone: str | None) -> Started:
        """Prompt the payer's phone, once. Raises `InvalidRequest` if there is no phone number to prompt."""
        if phone is None:
            raise InvalidRequest("phone is required: M-Pesa prompts it for the payment.")
        phone = phone_number(phone)
        if not self.takes(checkout.currency, checkout.price):
            return Started("failed", "M-Pesa takes whole Kenyan shillings, 1 to 250,000; choose another way to pay.")
        mask = self._privacy.phone_mask(phone)
        price = f"{CURRENCY} {checkout.price // 100}"
        at = stamp(self._clock(), self._settings.utc_offset_hours)
        request = {
            "BusinessShortCode": self._business,
            "Password": password(self._business, self._passkey, at),
            "Timestamp": at,
            "TransactionType": "CustomerBuyGoodsOnline" if self._settings.till else "CustomerPayBillOnline",
            "Amount": checkout.price // 100,
            "PartyA": phone,
            "PartyB": self._settings.shortcode,
            "PhoneNumber": phone,
            "CallBackURL": self._hooks_url + STK.replace("{token}", token),
            "AccountReference": checkout.payment_code,
            "TransactionDesc": "Credits",
        }
        try:
            answer = await self._api.call("/mpesa/stkpush/v1/processrequest", request)
        except NotSent as error:
            return Started("failed", f"M-Pesa cannot be reached now. {self._otherwise(checkout)}", note=str(error))
        except NotAnswered as error:
            return self._unknown(checkout, mask, str(error))
        reference = self._sealed(text(answer.body.get("CheckoutRequestID"))) or None
        code = text(answer.body.get("ResponseCode"))
        said_no = bool(code or answer.error_code not in ("", "500.003.1001") or 400 <= answer.status < 500)
        if not said_no:
            return self._unknown(checkout, mask, answer.words)
        if code != "0" or answer.status >= 400:
            message = f"{_push_refused(answer)} {self._otherwise(checkout)}"
            return Started("failed", message, reference, note=answer.words)
        message = f"Enter your M-Pesa PIN on {mask} to pay {price}. If no prompt comes: {self._by_hand(checkout)}"
        return Started("pending", message, reference, query=reference is not None)

    def _unknown(self, checkout: Checkout, mask: str, note: str) -> Started:
        """What to say when nobody knows whether the phone was prompted. Sending again might prompt it twice."""
        message = (
            f"M-Pesa has not answered, and may still prompt {mask}. If it does, enter your PIN: the payment counts. "
            f"If nothing comes within two minutes: {self._by_hand(checkout)}"
        )
        return Started("pending", message, query=False, note=note)

    def _by_hand(self, checkout: Checkout) -> str:
        """What the user can do without a prompt. A till asks for no account, so paying to it names nobody."""
        if self._settings.till:
            return "start again."
        price = decimal_text(checkout.price, CURRENCY).removesuffix(".00")
        return (
            f"pay {CURRENCY} {price} to pay bill {self._settings.shortcode}, account {checkout.payment_code}, "
            "or start again."
        )

    def _otherwise(self, checkout: Checkout) -> str:
        return f"To pay without the prompt: {self._by_hand(checkout)}" if not self._settings.till else "Start again."

    # Being told

    async def receive(
        self,
        hook: str,
        token: str,
        headers: Mapping[bytes, bytes],
        body: bytes,
        address: str,
        by_token: Checkout | None,
    ) -> Received:
        """Read a callback. Raises `RouteNotFound` for an unknown token, and for an address that is not Safaricom's."""
        if hook == STK:
            known = by_token is not None and by_token.gateway == self.name
        else:
            known = any(hmac.compare_digest(_bytes(token), _bytes(ours)) for ours in self._path_tokens)
        if not known or hook not in self.hooks:
            raise RouteNotFound
        if not self._is_allowed(address):
            raise RouteNotFound(
                f"Callbacks are not taken from {address[:60]!r}: see allowed_ips under [gateways.daraja], and whether "
                "it is the address of a proxy in between."
            )
        said = decoded(body)
        if not isinstance(said, dict):
            shape = {"unreadable": hashlib.sha256(body).hexdigest(), "bytes": len(body)}
            notice = self._notice("unreadable", shape, None, (hook, shape["unreadable"]), "The body is no JSON object.")
            return Received((notice,), _answer_to(hook, "other"))
        if by_token is not None and hook == STK:
            return Received((self._pushed(said, by_token),), _STORED)
        if hook == VALIDATION:
            return self._validated(said)
        return self._confirmed(said) if hook == CONFIRMATION else Received((self._resulted(said),), _STORED)

    def _is_allowed(self, address: str) -> bool:
        if not self._networks:
            return True
        try:
            found = ipaddress.ip_address(address)
        except ValueError:
            return False
        found = getattr(found, "ipv4_mapped", None) or found
        return any(found in network for network in self._networks)

    def _pushed(self, body: dict[str, Any], checkout: Checkout) -> Notice:
        """What the callback of a push says of the checkout whose token its address carries."""
        said = table(table(body.get("Body")).get("stkCallback"))
        request, code = text(said.get("CheckoutRequestID")), text(said.get("ResultCode"))
        items = named(table(said.get("CallbackMetadata")).get("Item"), "Name")
        receipt, amount = receipt_of(items.get("MpesaReceiptNumber")), minor(items.get("Amount"))
        phone = phone_of(items.get("PhoneNumber"))
        key = (checkout.id, self._sealed(request), code, receipt, amount)
        reference = checkout.gateway_reference or self._sealed(request)

        def notice(kind: str, said: Said | None, note: str = "") -> Notice:
            found = self._notice(kind, body, said, key, note)
            return msgspec.structs.replace(found, checkout_reference=reference if said is not None else None)

        if not request or not code:
            return notice("stk.unreadable", None, "The callback names no CheckoutRequestID or no ResultCode.")
        if not self._is_of(request, checkout.gateway_reference):
            return notice("stk.stranger", None, "The callback is about another push than its address.")
        if code in _STILL_PENDING:
            return notice("stk", Pending(checkout.id))
        if code != "0":
            failed = _FAILED.get(
                code, f"M-Pesa did not take the payment (code {re.sub(r'[^A-Za-z0-9_.]', '', code)[:20]})."
            )
            return notice("stk", Failed(checkout.id, failed, expired=code == "1019"))
        if receipt is None or amount is None:
            return notice(
                "stk.unreadable", None, "The callback says paid, but no receipt or no amount; it will be asked."
            )
        at = time_ms(items.get("TransactionDate"), self._settings.utc_offset_hours)
        return notice("stk", Paid(MPESA, receipt, amount, CURRENCY, checkout_id=checkout.id, phone=phone, at=at))

    def _sealed(self, request: str) -> str:
        """A CheckoutRequestID as it is kept: the same for the same, and without the number in it."""
        found = _WITH_PHONE.fullmatch(request)
        return request if found is None else f"{found[1]}~{self._privacy.sealed(found[2], found[1])}"

    def _opened(self, reference: str) -> str | None:
        """The CheckoutRequestID that was kept so, or as it is; None if it was sealed under another key."""
        found = _SEALED.fullmatch(reference)
        if found is None:
            return reference
        phone = self._privacy.opened(found[2], found[1])
        return None if phone is None else found[1] + phone

    def _is_of(self, request: str, reference: str | None) -> bool:
        """Whether a callback names the push that is kept so. What another key sealed is known by the rest of the id."""
        if reference is None:
            return True
        opened, named = self._opened(reference), _WITH_PHONE.fullmatch(request)
        if opened is None:
            return named is not None and named[1] == reference.partition("~")[0]
        return opened == request

    def _validated(self, body: dict[str, Any]) -> Received:
        """Let every well-formed payment come: an unknown account ends in suspense, and money is never turned away."""
        if minor(body.get("TransAmount")) is None:
            return Received((), _answer_to(VALIDATION, "amount"))
        return Received((), _ACCEPTED if receipt_of(body.get("TransID")) else _answer_to(VALIDATION, "other"))

    def _confirmed(self, body: dict[str, Any]) -> Received:
        """A payment that somebody typed, and what is to be asked about it."""
        receipt, amount = receipt_of(body.get("TransID")), minor(body.get("TransAmount"))
        code, phone = self._kept_code(body.get("BillRefNumber")), phone_of(body.get("MSISDN"))
        body = body | {"BillRefNumber": code}
        key = (receipt, amount, code)
        if receipt is None or amount is None:
            note = "The confirmation names no receipt or no amount."
            unreadable = (*key, hashlib.sha256(msgspec.json.encode(body)).hexdigest())
            return Received((self._notice("c2b.unreadable", body, None, unreadable, note),), _STORED)
        sure, able = amount <= self._confirm_above, bool(self._initiator and self._credential)
        note = "" if sure else "It is above confirm_above: Daraja is asked to confirm it."
        if not sure and not able:
            note = (
                "It is above confirm_above, and without DARAJA_INITIATOR Daraja cannot be asked: an operator decides."
            )
        at = time_ms(body.get("TransTime"), self._settings.utc_offset_hours)
        paid = Paid(MPESA, receipt, amount, CURRENCY, code=code, typed=True, confirmed=sure, phone=phone, at=at)
        then = None if sure or not able else lambda: self.confirm(receipt)
        return Received((self._notice("c2b", body, paid, key, note),), _STORED, then)

    def _kept_code(self, typed: Any) -> str:
        """The account as typed; people also type phone numbers, and those are kept as a mask only."""
        code = typed[:100] if isinstance(typed, str) else text(typed)
        try:
            return self._privacy.phone_mask(phone_number(code))
        except InvalidRequest:
            return code

    def _resulted(self, body: dict[str, Any]) -> Notice:
        """What came of a question about a transaction, or of a reversal."""
        result = table(body.get("Result"))
        code = text(result.get("ResultCode"))
        values = named(table(result.get("ResultParameters")).get("ResultParameter"), "Key")
        reversed_receipt = receipt_of(values.get("OriginalTransactionID"))
        receipt, amount = receipt_of(values.get("ReceiptNo")), minor(values.get("Amount"))
        status = text(values.get("TransactionStatus"))
        conversation = text(result.get("ConversationID")) or text(result.get("OriginatorConversationID"))
        key: tuple[Any, ...] = (code, reversed_receipt, receipt, amount, status, conversation)
        if reversed_receipt is not None:
            said = Refunded(MPESA, reversed_receipt, None) if code == "0" else None
            note = "" if said else f"The reversal did not happen: {_words(result)}"
            return self._notice("reversal", body, said, (code, reversed_receipt), note)
        to = re.match(r"[0-9]{4,}", text(values.get("CreditPartyName")))  # money we paid out has receipts too
        if to is not None and to[0] not in self._ours:
            return self._notice("result", body, None, key, "The transaction is no payment to us.")
        if code == "0" and receipt is not None and amount is not None and status.lower() == "completed":
            at = time_ms(values.get("FinalisedTime"), self._settings.utc_offset_hours)
            paid = Paid(MPESA, receipt, amount, CURRENCY, typed=True, at=at)
            return self._notice("transactionstatus", body, paid, (receipt, amount))
        if not result:
            key = (*key, hashlib.sha256(msgspec.json.encode(body)).hexdigest())
        return self._notice("result", body, None, key, f"Daraja confirms nothing: {status or _words(result)}"[:300])

    def _notice(self, kind: str, body: Any, said: Said | None, key: tuple[Any, ...], note: str = "") -> Notice:
        """A notice whose key is the same for the same facts, and whose body names nobody."""
        raw = _CHECKOUT_REQUEST.sub(rb"\1******\2", self._privacy.redacted(body))
        digest = hashlib.blake2b(msgspec.json.encode(key), digest_size=16).hexdigest()
        return Notice(f"{kind}:{digest}", kind, raw, said, note)

    # Asking what became of it

    def ask_after(self, asked: int) -> int | None:
        """See `next_query_at`."""
        return next_query_at(asked, self._settings.query_after_seconds)

    async def ask(self, checkout: Checkout) -> Notice | None:
        """Ask about a push. Daraja says neither amount nor receipt: a success is the checkout's price, once."""
        reference = checkout.gateway_reference
        request_id = None if reference is None else self._opened(reference)
        if request_id is None:
            return None
        at = stamp(self._clock(), self._settings.utc_offset_hours)
        request = {
            "BusinessShortCode": self._business,
            "Password": password(self._business, self._passkey, at),
            "Timestamp": at,
            "CheckoutRequestID": request_id,
        }
        try:
            answer = await self._api.call("/mpesa/stkpushquery/v1/query", request)
        except (NotSent, NotAnswered):
            return None
        code = text(answer.body.get("ResultCode"))
        said: Said = Pending(checkout.id)
        note = ""
        if answer.status < 400 and text(answer.body.get("ResponseCode")) == "0" and code == "0":
            said = Paid(MPESA, None, None, CURRENCY, checkout_id=checkout.id)
        elif answer.status < 400 and code in _FAILED_BY_QUERY:
            said = Failed(checkout.id, _FAILED[code], expired=code == "1019")
        elif code not in _STILL_PENDING and not _PROCESSING.search(text(answer.body.get("errorMessage"))):
            note = f"That decides nothing: {code} {answer.words}".replace("  ", " ")
        key = (checkout.id, self._sealed(request_id), code, checkout.asked if isinstance(said, Pending) else None)
        return self._notice("stkquery", answer.body, said, key, note)

    async def confirm(self, receipt: str) -> Notice:
        """Ask Daraja whether a payment is real; its answer comes later, to the result hook."""
        address = self._hooks_url + RESULT.replace("{token}", self._path_tokens[0])
        request = {
            "Initiator": self._initiator,
            "SecurityCredential": self._credential,
            "CommandID": "TransactionStatusQuery",
            "TransactionID": receipt,
            "PartyA": self._c2b,
            "IdentifierType": "4",
            "ResultURL": address,
            "QueueTimeOutURL": address,
            "Remarks": "Confirm",
            "Occasion": "Confirm",
        }
        try:
            answer = await self._api.call("/mpesa/transactionstatus/v1/query", request)
        except (NotSent, NotAnswered) as error:
            body, note = {"error": str(error)}, f"Daraja could not be asked to confirm {receipt}: {error}"
        else:
            body = answer.body
            asked = text(body.get("ResponseCode")) == "0"
            note = f"Daraja was asked to confirm {receipt}." if asked else f"Daraja does not confirm: {answer.words}"
        return self._notice("statusquery", body, None, (receipt, self._clock()), note)

    def listed(self, since: int) -> AsyncIterator[Notice] | None:
        """See `pull`, where that is set up."""
        return self.pull(since) if self._settings.pull else None

    async def pull(self, since: int) -> AsyncIterator[Notice]:
        """Every C2B payment since then (milliseconds; at most 48 hours back), as Daraja itself lists them.

        Raises `Unavailable` if the list cannot be had.
        """
        now, offset, seen = self._clock(), 0, set[str]()
        hours = self._settings.utc_offset_hours
        window = {
            "ShortCode": self._c2b,
            "StartDate": written(stamp(max(since, now - PULL_HOURS_MAX * 3_600_000), hours)),
            "EndDate": written(stamp(now, hours)),
        }
        for _ in range(PULL_PAGES_MAX):
            answer = await self._called(
                "/pulltransactions/v1/query", window | {"OffSetValue": str(offset)}, self._settings.pull_method
            )
            code = text(answer.body.get("ResponseCode"))
            if code == "1001":  # none in this time
                return
            if code != "1000":
                raise Unavailable(f"Daraja does not list its transactions: {answer.words}")
            rows = rows_of(answer.body.get("Response"))
            new = [row for row in rows if text(row.get("transactionId")) not in seen]
            seen |= {text(row.get("transactionId")) for row in new}
            for row in new:
                yield self._pulled(row)
            if not new:
                return
            offset += len(rows)
        raise Unavailable("Daraja's list of transactions did not end; sweep a shorter time.")

    def _pulled(self, row: dict[str, Any]) -> Notice:
        receipt, amount = receipt_of(row.get("transactionId")), minor(row.get("amount"))
        code, phone, kind = (
            text(row.get("billreference")),
            phone_of(row.get("msisdn")),
            text(row.get("transactiontype")),
        )
        at = time_ms(row.get("trxDate"), self._settings.utc_offset_hours)
        key = (receipt, amount, code, kind)
        if receipt is None or amount is None or (kind and not kind.lower().startswith("c2b")):
            return self._notice("pull", row, None, key, "The transaction is no payment to us.")
        paid = Paid(MPESA, receipt, amount, CURRENCY, code=code, typed=True, phone=phone, at=at)
        return self._notice("pull", row, paid, key)

    # Being known to Daraja

    async def register_urls(self) -> list[str]:
        """Tell Daraja where C2B payments are to be told (production takes it once), and what came of it, in sentences.

        Raises `InvalidRequest` if Daraja refuses, `Unavailable` if it does not answer.
        """
        token = self._path_tokens[0]
        request = {
            "ShortCode": self._c2b,
            "ResponseType": self._settings.response_type,
            "ConfirmationURL": self._hooks_url + CONFIRMATION.replace("{token}", token),
            "ValidationURL": self._hooks_url + VALIDATION.replace("{token}", token),
        }
        answer = await self._called("/mpesa/c2b/v2/registerurl", request)
        if answer.status >= 400 or text(answer.body.get("ResponseCode")) not in ("0", "00000000"):
            raise InvalidRequest(f"Daraja did not register the addresses: {answer.words}")
        done = [f"Payments to {self._c2b} will be told to {self._hooks_url}/c2b/(path token)/confirmation."]
        if self._settings.pull and self._settings.pull_phone:
            request = {
                "ShortCode": self._c2b,
                "RequestType": "Pull",
                "NominatedNumber": phone_number(self._settings.pull_phone),
                "CallBackURL": self._hooks_url + RESULT.replace("{token}", token),
            }
            answer = await self._called("/pulltransactions/v1/register", request)
            if text(answer.body.get("ResponseStatus")) not in ("1000", "1001"):
                raise InvalidRequest(f"Daraja did not register {self._c2b} for pull transactions: {answer.words}")
            done.append(f"The transactions of {self._c2b} can be pulled.")
        return done

    async def _called(self, path: str, request: dict[str, Any], method: str = "POST") -> Answer:
        try:
            return await self._api.call(path, request, method)
        except (NotSent, NotAnswered) as error:
            raise Unavailable(str(error)) from None


def _push_refused(answer: Answer) -> str:
    """Why a push was not accepted, for the user."""
    said = text(answer.body.get("errorMessage")).lower()
    if "lock subscriber" in said or "in process" in said:
        return "Another M-Pesa prompt is still open on this phone: answer it, wait a minute and start again."
    if answer.error_code in ("500.003.02", "500.003.03"):
        return "M-Pesa is busy; start again in a few minutes."
    if "phonenumber" in said or "partya" in said:
        return "M-Pesa does not know this phone number."
    return "M-Pesa did not accept the request."


def _answer_to(hook: str, wrong: str) -> dict[str, Any]:
    return {"ResultCode": _REJECTED[wrong], "ResultDesc": "Rejected"} if hook == VALIDATION else _STORED


def _words(result: dict[str, Any]) -> str:
    return Answer(0, {"errorMessage": text(result.get("ResultDesc")) or "no reason given"}).words


def _bytes(token: str) -> bytes:
    return token.encode("utf-8", "replace")
