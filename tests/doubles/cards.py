"""Stripe, Paystack and Flutterwave to try things with: one real HTTP server that plays the interfaces of all three.

It checks what the real ones check of a request (the key, the fields that must be there, a reference used twice), knows
what was paid and gave back, and answers badly where `fault` says so. It sends nothing by itself: the events that a
gateway would send are made by its methods, as fat as the real ones, with the payer's name, address and phone in them.
"""

import asyncio
import itertools
import json
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

STRIPE_KEY, PAYSTACK_KEY = "sk_test_51StripeKeyOfNobodyAtAll", "sk_test_paystack_key_of_nobody"
FLUTTERWAVE_KEY = "FLWSECK_TEST-flutterwave-key-of-nobody-X"
#: What a payer tells a gateway, and what must never reach the ledger.
PERSON = {
    "name": "Jane Wanjiku Doe", "email": "jane.doe@example.com", "phone": "+254712345678", "ip": "41.90.64.1",
    "line": "12 Moi Avenue", "last4": "4242", "token": "AUTH_reusable_72btv547",
}  # fmt: skip
FAULTS = ("hang", "drip", "error_500", "html", "half_body", "not_json", "endless", "wrong_key", "busy", "moved")
REMEMBERED_MAX = 1_000


class Asked(NamedTuple):
    """A request that came."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: dict[str, Any]


class Cards:
    """What the three know of payments, and what they answer."""

    def __init__(self) -> None:
        self.fault: str | None = None
        self.requests: deque[Asked] = deque(maxlen=REMEMBERED_MAX)
        self.released = asyncio.Event()  # ends every hang
        self.sessions: dict[str, dict[str, Any]] = {}  # of Stripe, by id
        self.keys: dict[str, str] = {}  # Stripe's idempotency keys, and the session each made
        self.transactions: dict[str, dict[str, Any]] = {}  # of Paystack, by reference
        self.refunds: list[dict[str, Any]] = []  # of Paystack
        self.payments: dict[str, dict[str, Any]] = {}  # of Flutterwave, by id
        self.pages: dict[str, dict[str, Any]] = {}  # of Flutterwave, by tx_ref
        self.careless = False  # Flutterwave answers about another payment than it was asked for
        self.charges_only = False  # Flutterwave's newer interface, which knows nothing of the older one's paths
        self._counter = itertools.count(1001)

    @property
    def app(self) -> Starlette:
        """The server."""
        routes: list[tuple[str, str, str, Callable[[Request, Asked], Awaitable[Response]]]] = [
            ("POST", "/v1/checkout/sessions", STRIPE_KEY, self._stripe_session),
            ("GET", "/v1/checkout/sessions/{id}", STRIPE_KEY, self._stripe_retrieve),
            ("POST", "/transaction/initialize", PAYSTACK_KEY, self._paystack_initialize),
            ("GET", "/transaction/verify/{reference}", PAYSTACK_KEY, self._paystack_verify),
            ("GET", "/refund", PAYSTACK_KEY, self._paystack_refunds),
            ("POST", "/v3/payments", FLUTTERWAVE_KEY, self._flutterwave_page),
            ("GET", "/v3/transactions/verify_by_reference", FLUTTERWAVE_KEY, self._flutterwave_by_reference),
            ("GET", "/v3/transactions/{id}/verify", FLUTTERWAVE_KEY, self._flutterwave_verify),
            ("GET", "/charges/{id}", FLUTTERWAVE_KEY, self._flutterwave_charge),
            ("GET", "/elsewhere", "", self._elsewhere),
        ]
        return Starlette(
            routes=[Route(path, self._taken(key, act), methods=[method]) for method, path, key, act in routes]
        )

    def _taken(
        self, key: str, act: Callable[[Request, Asked], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """A route for requests that carry the right key."""

        async def take(request: Request) -> Response:
            form = request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded")
            sent = await request.body()
            body = dict(parse_qsl(sent.decode())) if form else json.loads(sent or b"{}")
            asked = Asked(
                request.method, request.url.path, dict(request.query_params), dict(request.headers), body
            )  # fmt: skip
            self.requests.append(asked)
            if self.fault is not None:
                return await self._broken(self.fault)
            if request.headers.get("authorization") != f"Bearer {key}":
                return JSONResponse({"status": False, "message": f"Invalid key {key}"}, 401)
            return await act(request, asked)

        return take

    async def _broken(self, fault: str) -> Response:
        if fault == "hang":
            await self.released.wait()
        if fault in ("drip", "endless"):
            return StreamingResponse(self._dripping(b"x" if fault == "drip" else b"x" * 65_536))
        answers: dict[str, Response] = {
            "error_500": JSONResponse({"message": "Internal error"}, 500),
            "html": HTMLResponse("<h1>502 Bad Gateway</h1>", 502),
            "half_body": Response(b'{"status":true,"data":{"status":"succ', 200),
            "not_json": HTMLResponse("<h1>Welcome</h1>", 200),
            "wrong_key": JSONResponse({"message": f"Invalid key: {STRIPE_KEY}"}, 401),
            "busy": JSONResponse({"message": "Too many requests"}, 429),
            "moved": Response(b"{}", 302, {"location": "/elsewhere"}),
        }
        return answers.get(fault, JSONResponse({}, 504))

    async def _dripping(self, part: bytes) -> Any:
        while not self.released.is_set():
            yield part
            await asyncio.sleep(0.001)

    async def _elsewhere(self, request: Request, asked: Asked) -> Response:
        return JSONResponse({"status": "success"})

    # Stripe

    async def _stripe_session(self, request: Request, asked: Asked) -> Response:
        body, key = asked.body, asked.headers.get("idempotency-key", "")
        if key in self.keys:
            return JSONResponse(self.sessions[self.keys[key]])
        needed = {"mode", "success_url", "line_items[0][price_data][currency]", "line_items[0][quantity]"}
        if not needed <= set(body) or not str(body["line_items[0][price_data][unit_amount]"]).isdigit():
            return JSONResponse({"error": {"message": "Missing required param.", "type": "invalid_request_error"}}, 400)
        identity = f"cs_test_{next(self._counter)}"
        session = {
            "id": identity, "object": "checkout.session", "mode": body["mode"], "livemode": False, "status": "open",
            "payment_status": "unpaid", "amount_total": int(body["line_items[0][price_data][unit_amount]"]),
            "currency": body["line_items[0][price_data][currency]"], "payment_intent": None, "created": 1795385000,
            "client_reference_id": body.get("client_reference_id"),
            "metadata": {"checkout_id": body.get("metadata[checkout_id]")},
            "success_url": body["success_url"], "url": f"https://checkout.stripe.example/c/pay/{identity}#fid",
        }  # fmt: skip
        self.sessions[identity], self.keys[key] = session, identity
        return JSONResponse(session)

    async def _stripe_retrieve(self, request: Request, asked: Asked) -> Response:
        session = self.sessions.get(request.path_params["id"])
        missing = {"error": {"message": "No such checkout.session", "type": "invalid_request_error"}}
        return JSONResponse(missing, 404) if session is None else JSONResponse(session)

    def stripe_pays(self, session: str, **more: Any) -> dict[str, Any]:
        """The payer pays on the page."""
        person = {"name": PERSON["name"], "email": PERSON["email"], "phone": PERSON["phone"]}
        self.sessions[session] |= {
            "status": "complete", "payment_status": "paid", "payment_intent": f"pi_{session}", "url": None,
            "customer_email": PERSON["email"],
            "customer_details": person | {"address": {"line1": PERSON["line"], "country": "KE"}},
            "collected_information": {"shipping_details": {"name": PERSON["name"]}},
        } | more  # fmt: skip
        return self.sessions[session]

    # Paystack

    async def _paystack_initialize(self, request: Request, asked: Asked) -> Response:
        body = asked.body
        if "@" not in body.get("email", "") or not str(body.get("amount", "")).isdigit():
            return JSONResponse({"status": False, "message": "Invalid Email Address Passed"}, 400)
        if body["reference"] in self.transactions:
            return JSONResponse({"status": False, "message": "Duplicate Transaction Reference"}, 400)
        self.transactions[body["reference"]] = {
            "id": next(self._counter), "domain": "test", "status": "abandoned", "reference": body["reference"],
            "amount": int(body["amount"]), "currency": body["currency"], "metadata": body["metadata"],
        }  # fmt: skip
        page = {"authorization_url": "https://checkout.paystack.example/3ni8kdavz62431k", "access_code": "3ni8kd"}
        return JSONResponse({"status": True, "message": "Created", "data": page | {"reference": body["reference"]}})

    async def _paystack_verify(self, request: Request, asked: Asked) -> Response:
        found = self.transactions.get(request.path_params["reference"])
        if found is None:
            return JSONResponse({"status": False, "message": "Transaction reference not found."}, 404)
        return JSONResponse({"status": True, "message": "Verification successful", "data": found})

    async def _paystack_refunds(self, request: Request, asked: Asked) -> Response:
        return JSONResponse({"status": True, "data": self.refunds})  # the filter is not everywhere obeyed

    def paystack_pays(self, reference: str, **more: Any) -> dict[str, Any]:
        """The payer pays on the page."""
        first, _, last = PERSON["name"].partition(" ")
        self.transactions[reference] |= {
            "status": "success", "gateway_response": f"Approved by {first}'s bank", "channel": "card",
            "paid_at": "2026-11-22T07:30:15.000Z", "ip_address": PERSON["ip"],
            "customer": {
                "first_name": first, "last_name": last, "email": PERSON["email"], "phone": PERSON["phone"],
                "customer_code": "CUS_1",
            },
            "authorization": {"authorization_code": PERSON["token"], "last4": PERSON["last4"], "account_name": first},
            "metadata": f'{{"phone": "{PERSON["phone"]}", "name": "{first}"}}',
        } | more  # fmt: skip
        return self.transactions[reference]

    def paystack_gives_back(self, reference: str, amount: int, status: str = "processed") -> dict[str, Any]:
        """A refund, as Paystack tells of it."""
        transaction = self.transactions[reference]
        number = next(self._counter)
        self.refunds.append(
            {"id": number, "transaction": transaction["id"], "amount": amount, "currency": "KES", "status": status}
        )
        return {
            "status": status, "transaction_reference": reference, "refund_reference": str(number), "domain": "test",
            "amount": str(amount), "currency": transaction["currency"], "processor": "instant-transfer",
            "customer": {"first_name": PERSON["name"], "email": PERSON["email"]},
        }  # fmt: skip

    # Flutterwave

    async def _flutterwave_page(self, request: Request, asked: Asked) -> Response:
        body = asked.body
        if not {"tx_ref", "amount", "currency", "redirect_url"} <= set(body) or "@" not in body["customer"]["email"]:
            return JSONResponse({"status": "error", "message": "customer email is required", "data": None}, 400)
        self.pages[body["tx_ref"]] = body
        page = {"link": f"https://checkout.flutterwave.example/v3/hosted/pay/{next(self._counter)}"}
        return JSONResponse({"status": "success", "message": "Hosted Link", "data": page})

    async def _flutterwave_verify(self, request: Request, asked: Asked) -> Response:
        return self._payment(None if self.charges_only else self.payments.get(request.path_params["id"]))

    async def _flutterwave_charge(self, request: Request, asked: Asked) -> Response:
        return self._payment(self.payments.get(request.path_params["id"]) if self.charges_only else None)

    async def _flutterwave_by_reference(self, request: Request, asked: Asked) -> Response:
        wanted = asked.query["tx_ref"]
        of = [each for each in self.payments.values() if self.careless or each.get("tx_ref") == wanted]
        return self._payment(of[-1] if of else None)

    def _payment(self, found: dict[str, Any] | None) -> Response:
        if found is None:
            return JSONResponse({"status": "error", "message": "No transaction was found for this id"}, 400)
        return JSONResponse({"status": "success", "message": "Transaction fetched successfully", "data": found})

    def flutterwave_pays(self, reference: str, amount: Any = 100, **more: Any) -> dict[str, Any]:
        """The payer pays on the page."""
        person = {"id": 7, "email": PERSON["email"], "phone_number": PERSON["phone"], "name": PERSON["name"]}
        identity: Any = f"chg_{next(self._counter)}" if self.charges_only else next(self._counter)
        told: dict[str, Any] = {
            "id": identity, "amount": amount, "currency": "KES", "customer": person, "ip": PERSON["ip"],
            "card": {"last_4digits": PERSON["last4"], "token": PERSON["token"]}, "narration": PERSON["name"],
            "created_at": "2026-11-22T07:30:15.000Z",
        }  # fmt: skip
        newer = {"reference": reference, "status": "succeeded"}
        older = {"tx_ref": reference, "flw_ref": "FLW-1", "status": "successful", "payment_type": "mpesa"}
        self.payments[str(identity)] = told | (newer if self.charges_only else older) | more
        return self.payments[str(identity)]
