"""A Daraja to try things with: a real HTTP server that takes pushes and calls back, well or badly.

`python -m doubles.daraja --port N` (in this folder) runs it by hand. What becomes of a push is its *mode*: one for all,
set by `POST /control {"mode": "late"}`, or else by the last two digits of the amount (`BY_AMOUNT`): KES 100 is paid,
KES 101 cancelled. `GET /control` shows what was asked. It holds no money and knows any phone number.

Tests make a `Simulator`, run its `app` on a port of their own and look at what it saw.
"""

import argparse
import asyncio
import base64
import re
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

CONSUMER_KEY, CONSUMER_SECRET = "sandbox-consumer-key", "sandbox-consumer-secret"
PASSKEY = "sandbox-passkey-of-nobody"
NAIROBI = timezone(timedelta(hours=3))
REMEMBERED_MAX = 10_000
FORBIDDEN = re.compile(r"mpesa|m-pesa|safaricom|exe|cmd|sql|query", re.I)

#: What becomes of a push. The last group are faults of the answer to it.
MODES = (
    "ok", "cancelled", "wrong_pin", "duplicate", "before_answer", "none", "late", "twin", "wrong_amount",
    "wrong_reference", "strange_code", "pending",
    "hang", "busy", "html", "half_body", "error_500", "token_dropped", "refused",
)  # fmt: skip
#: By the last two digits of the amount, where no mode is set.
BY_AMOUNT = dict(enumerate(MODES[:12]))
FAILURES = {
    "cancelled": (1032, "Request cancelled by user"),
    "wrong_pin": (2001, "The initiator information is invalid."),
    "strange_code": ("SFC_IC0003", "The operator does not exist."),
}
Answer = tuple[int, dict[str, Any]]


def error(status: int, code: str, message: str) -> Answer:
    """An error as Daraja words it."""
    return status, {"requestId": secrets.token_hex(8), "errorCode": code, "errorMessage": message}


class Simulator:
    """What Daraja knows, and what it does when it is asked."""

    def __init__(self, mode: str | None = None, delay_seconds: float = 0.0, token_seconds: int = 3599) -> None:
        self.mode = mode
        self.delay_seconds = delay_seconds
        self.token_seconds = token_seconds
        self.clock: Callable[[], float] = time.time
        self.token, self.token_until = "", 0.0
        self.tokens = 0  # how many were given out
        self.requests: deque[dict[str, Any]] = deque(maxlen=REMEMBERED_MAX)
        self.callbacks: deque[tuple[str, int]] = deque(
            maxlen=REMEMBERED_MAX
        )  # address and status of each that was sent
        self.pushes: dict[str, dict[str, Any]] = {}
        self.paid: dict[str, dict[str, Any]] = {}  # transactions by receipt, as pull lists them
        self.urls: dict[str, dict[str, str]] = {}  # C2B addresses by shortcode
        self.pull_page = 2
        self.released = asyncio.Event()  # ends every hang
        self.calls_back = asyncio.Event()  # clear: callbacks wait, but for those that come before the answer
        self.calls_back.set()
        self._client: httpx.AsyncClient | None = None
        self._counter = 0
        self._owed = 0  # callbacks still to be sent

    @property
    def app(self) -> Starlette:
        """The server."""
        return Starlette(
            routes=[
                Route("/oauth/v1/generate", self._oauth),
                Route("/mpesa/stkpush/v1/processrequest", self._taken(self._push), methods=["POST"]),
                Route("/mpesa/stkpushquery/v1/query", self._taken(self._query), methods=["POST"]),
                Route("/mpesa/c2b/v2/registerurl", self._taken(self._register), methods=["POST"]),
                Route("/mpesa/c2b/v2/simulate", self._taken(self._c2b), methods=["POST"]),
                Route("/mpesa/transactionstatus/v1/query", self._taken(self._status), methods=["POST"]),
                Route("/mpesa/reversal/v1/request", self._taken(self._reverse), methods=["POST"]),
                Route("/pulltransactions/v1/register", self._taken(self._pull_register), methods=["POST"]),
                Route("/pulltransactions/v1/query", self._taken(self._pull), methods=["GET", "POST"]),
                Route("/control", self._control, methods=["GET", "POST"]),
            ]
        )

    def asked(self, part: str) -> list[dict[str, Any]]:
        """The bodies of the requests whose path contains this."""
        return [each["body"] for each in self.requests if part in each["path"]]

    # Requests

    async def _oauth(self, request: Request) -> Response:
        self.requests.append({"path": request.url.path, "body": {}})
        given = base64.b64encode(f"{CONSUMER_KEY}:{CONSUMER_SECRET}".encode()).decode()
        if request.headers.get("authorization") != f"Basic {given}":
            return _json(error(400, "400.008.01", "Invalid Authentication passed"))
        if request.query_params.get("grant_type") != "client_credentials":
            return _json(error(400, "400.008.02", "Invalid grant type passed"))
        self.token = secrets.token_urlsafe(21)  # the one before it is good for nothing any more
        self.token_until = self.clock() + self.token_seconds
        self.tokens += 1
        return JSONResponse({"access_token": self.token, "expires_in": str(self.token_seconds)})

    def _taken(self, act: Callable[[dict[str, Any]], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        """A route for requests with a good access token and a JSON body."""

        async def take(request: Request) -> Response:
            body = await request.json()
            self.requests.append({"path": request.url.path, "method": request.method, "body": body})
            good = self.token and request.headers.get("authorization") == f"Bearer {self.token}"
            if not good or self.clock() >= self.token_until:
                code = "404.001.03" if "stkpush" in request.url.path else "400.003.01"
                return _json(error(int(code[:3]), code, "Invalid Access Token"))
            return await act(body)

        return take

    async def _push(self, body: dict[str, Any]) -> Response:
        wrong = _wrong_push(body)
        if wrong is not None:
            return _json(wrong)
        mode = self.mode or BY_AMOUNT.get(body["Amount"] % 100, "ok")
        if mode == "busy":
            busy = "Unable to lock subscriber, a transaction is already in process for the current subscriber"
            return _json(error(500, "500.001.1001", busy))
        if mode == "refused":
            return _json(error(400, "400.002.02", "Bad Request - Invalid PhoneNumber"))
        self._counter += 1
        reference = f"ws_CO_{_stamp()}{self._counter:03d}{body['PhoneNumber'][3:]}"
        push = {"body": body, "mode": mode, "reference": reference, "receipt": self._receipt(), "queries": 0}
        self.pushes[reference] = push
        if mode in ("hang", "html", "half_body", "error_500"):
            return await self._broken(mode, push)
        if mode == "token_dropped":
            self.token = ""
        accepted = {
            "MerchantRequestID": f"29115-{self._counter}-1",
            "CheckoutRequestID": reference,
            "ResponseCode": "0",
            "ResponseDescription": "Success. Request accepted for processing",
            "CustomerMessage": "Success. Request accepted for processing",
        }
        if mode == "before_answer":
            await self._call_back(push)
            return JSONResponse(accepted)
        return JSONResponse(accepted, background=self._then(self._outcome, push))

    async def _broken(self, mode: str, push: dict[str, Any]) -> Response:
        """An answer that says nothing, though the phone was prompted: the payer pays all the same."""
        later = self._then(self._outcome, push | {"mode": "ok"})
        if mode == "hang":
            await self.released.wait()
        if mode == "half_body":
            return Response(b'{"MerchantRequestID":"29115-1-1","CheckoutReq', 200, background=later)
        if mode == "error_500":
            return _json(error(500, "500.003.1001", "Internal Server Error"), later)
        return HTMLResponse("<h1>502 Bad Gateway</h1>", 502, background=later)

    async def _outcome(self, push: dict[str, Any]) -> None:
        """What happens once the push was answered."""
        await asyncio.sleep(self.delay_seconds)
        await self.calls_back.wait()
        mode = push["mode"]
        if mode in ("none", "late", "pending"):
            if mode == "none":
                self._settle(push)
            return
        for _ in range(3 if mode == "duplicate" else 1):
            await self._call_back(push)
        if mode == "twin":
            await self._confirm(push["receipt"])

    async def _call_back(self, push: dict[str, Any]) -> None:
        """The callback of a push, as its mode wants it."""
        mode, body = push["mode"], push["body"]
        reference = "ws_CO_of_somebody_else" if mode == "wrong_reference" else push["reference"]
        said: dict[str, Any] = {"MerchantRequestID": "29115-1-1", "CheckoutRequestID": reference}
        if mode in FAILURES:
            said |= {"ResultCode": FAILURES[mode][0], "ResultDesc": FAILURES[mode][1]}
        else:
            self._settle(push)
            amount = body["Amount"] + (1 if mode == "wrong_amount" else 0)
            items = [
                {"Name": "Amount", "Value": float(amount)},
                {"Name": "MpesaReceiptNumber", "Value": push["receipt"]},
                {"Name": "Balance"},
                {"Name": "TransactionDate", "Value": int(_stamp())},
                {"Name": "PhoneNumber", "Value": int(body["PhoneNumber"])},
            ]
            said |= {
                "ResultCode": 0,
                "ResultDesc": "The service request is processed successfully.",
                "CallbackMetadata": {"Item": items},
            }
        await self._send(body["CallBackURL"], {"Body": {"stkCallback": said}})

    def _settle(self, push: dict[str, Any]) -> None:
        body = push["body"]
        self._pay(push["receipt"], body["PartyB"], body["Amount"], body["PhoneNumber"], body["AccountReference"])

    def _pay(self, receipt: str, shortcode: str, amount: Any, phone: str, account: str) -> None:
        at = datetime.now(NAIROBI).isoformat(timespec="seconds")
        self.paid.setdefault(
            receipt,
            {
                "transactionId": receipt, "trxDate": at, "msisdn": int(phone), "sender": "JANE DOE",
                "transactiontype": "c2b-pay-bill-debit", "billreference": account, "amount": f"{amount:.2f}",
                "organizationname": "Pluct", "shortcode": shortcode,
            },
        )  # fmt: skip

    async def _query(self, body: dict[str, Any]) -> Response:
        push = self.pushes.get(body.get("CheckoutRequestID", ""))
        if push is None:
            return _json(error(500, "500.001.1001", "The transaction is not found"))
        push["queries"] += 1
        mode, first = push["mode"], push["queries"] == 1
        if mode == "pending" or (mode == "none" and first):
            return _json(error(500, "500.001.1001", "The transaction is being processed"))
        code, words = FAILURES.get(mode, (0, "The service request is processed successfully."))
        later = None
        if mode == "late":
            code, words = (1037, "DS timeout user cannot be reached.") if first else (0, words)
            later = self._then(self._call_back, push) if first else None
        return _json((200, {"ResponseCode": "0", "ResultCode": str(code), "ResultDesc": words, **_ids(push)}), later)

    async def _register(self, body: dict[str, Any]) -> Response:
        addresses = [body.get("ConfirmationURL", ""), body.get("ValidationURL", "")]
        if body.get("ResponseType") not in ("Completed", "Cancelled") or any(map(FORBIDDEN.search, addresses)):
            return _json(error(400, "400.002.02", "Bad Request - Invalid URL or ResponseType"))
        if body["ShortCode"] in self.urls:
            return _json(error(500, "500.003.1001", "Urls are already registered."))
        self.urls[body["ShortCode"]] = {"confirmation": addresses[0], "validation": addresses[1]}
        said = {"OriginatorCoversationID": "7619-1", "ResponseCode": "0", "ResponseDescription": "success"}
        return JSONResponse(said)

    async def _c2b(self, body: dict[str, Any]) -> Response:
        """A payment that somebody types, as the sandbox lets one simulate it."""
        if body["ShortCode"] not in self.urls:
            return _json(error(400, "400.003.02", "Bad Request - no addresses registered"))
        receipt = self._receipt()
        self._pay(receipt, body["ShortCode"], float(body["Amount"]), str(body["Msisdn"]), body["BillRefNumber"])
        said = {"OriginatorCoversationID": "53e3-1", "ResponseCode": "0", "ResponseDescription": "Accepted"}
        return JSONResponse(said | {"receipt": receipt}, background=self._then(self._validate, receipt))

    async def _validate(self, receipt: str) -> None:
        await asyncio.sleep(self.delay_seconds)
        urls = self.urls[self.paid[receipt]["shortcode"]]
        answer = await self._send(urls["validation"], self._typed(receipt) | {"OrgAccountBalance": ""})
        if answer.get("ResultCode") in ("0", 0):
            await self._confirm(receipt)
        else:
            del self.paid[receipt]

    async def _confirm(self, receipt: str) -> None:
        urls = self.urls.get(self.paid[receipt]["shortcode"])
        if urls is not None:
            await self._send(urls["confirmation"], self._typed(receipt))

    def _typed(self, receipt: str) -> dict[str, Any]:
        """The body that validation and confirmation share."""
        paid = self.paid[receipt]
        phone = str(paid["msisdn"])
        return {
            "TransactionType": "Pay Bill", "TransID": receipt, "TransTime": _stamp(), "TransAmount": paid["amount"],
            "BusinessShortCode": paid["shortcode"], "BillRefNumber": paid["billreference"], "InvoiceNumber": "",
            "OrgAccountBalance": "25100.00", "ThirdPartyTransID": "", "MSISDN": f"{phone[:4]} ***** {phone[-3:]}",
            "FirstName": "JANE", "MiddleName": "", "LastName": "DOE",
        }  # fmt: skip

    async def _status(self, body: dict[str, Any]) -> Response:
        paid = self.paid.get(body["TransactionID"])
        values: list[dict[str, Any]] = [
            {"Key": "DebitPartyName", "Value": "254700000001 - JANE DOE"},
            {"Key": "DebitPartyName", "Value": "254700000001 - JANE DOE"},
            {"Key": "TransactionReason"},
            {"Key": "ReceiptNo", "Value": body["TransactionID"]},
        ]
        if paid is not None:
            values += [{"Key": "CreditPartyName", "Value": f"{paid['shortcode']} - Pluct"}]
            values += [{"Key": "TransactionStatus", "Value": "Completed"}, {"Key": "Amount", "Value": paid["amount"]}]
            values += [{"Key": "FinalisedTime", "Value": int(_stamp())}]
        return self._later(body, 0 if paid else 2032, values if paid else [])

    async def _reverse(self, body: dict[str, Any]) -> Response:
        paid = self.paid.get(body["TransactionID"])
        values: list[dict[str, Any]] = [
            {"Key": "Amount", "Value": body.get("Amount")},
            {"Key": "OriginalTransactionID", "Value": body["TransactionID"]},
            {"Key": "CreditPartyPublicName", "Value": "254700000001 - JANE DOE"},
        ]
        return self._later(body, 0 if paid else "R000002", values if paid else [])

    def _later(self, body: dict[str, Any], code: int | str, values: list[dict[str, Any]]) -> Response:
        """Accept a question, and send its result to where it wants it."""
        if not body.get("Initiator") or not body.get("SecurityCredential"):
            return _json(error(400, "400.002.02", "Bad Request - Invalid Initiator"))
        ids = {"OriginatorConversationID": secrets.token_hex(8), "ConversationID": f"AG_{secrets.token_hex(8)}"}
        words = "The service request is processed successfully." if code == 0 else "Nothing of the kind."
        result = {"ResultType": 0, "ResultCode": code, "ResultDesc": words, **ids, "TransactionID": "TKM0000000"}
        if values:
            result["ResultParameters"] = {"ResultParameter": values}
        later = self._then(self._send, body["ResultURL"], {"Result": result})
        return JSONResponse({**ids, "ResponseCode": "0", "ResponseDescription": "Accepted"}, background=later)

    async def _pull_register(self, body: dict[str, Any]) -> Response:
        return JSONResponse({"ResponseRefID": "1", "ResponseStatus": "1000", "ShortCode": body["ShortCode"]})

    async def _pull(self, body: dict[str, Any]) -> Response:
        start, end = body["StartDate"], body["EndDate"]
        shaped = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
        if not (shaped.fullmatch(start) and shaped.fullmatch(end) and start <= end):
            return _json(error(400, "400.001", "Invalid date"))
        offset = int(body["OffSetValue"])
        rows = [row for row in self.paid.values() if row["shortcode"] == body["ShortCode"]]
        page = rows[offset : offset + self.pull_page]
        code, words = ("1000", "Success") if page or offset else ("1001", "No transactions")
        return JSONResponse({"ResponseCode": code, "ResponseMessage": words, "Response": [page]})

    async def _control(self, request: Request) -> Response:
        if request.method == "POST":
            wanted = (await request.json()).get("mode")
            if wanted is not None and wanted not in MODES:
                return JSONResponse({"error": f"mode must be one of {', '.join(MODES)}, or null"}, 400)
            self.mode = wanted
        return JSONResponse(
            {"mode": self.mode, "byAmount": BY_AMOUNT, "requests": list(self.requests)[-50:],
             "callbacks": list(self.callbacks)[-50:]}
        )  # fmt: skip

    # What it sends

    async def _send(self, url: str, body: dict[str, Any]) -> dict[str, Any]:
        """One callback, never repeated; an answer that is none is noted as status 0."""
        if self._client is None:
            self._client = httpx.AsyncClient(timeout=10, trust_env=False)
        try:
            answer = await self._client.post(url, json=body)
            self.callbacks.append((url, answer.status_code))
            said = answer.json() if answer.status_code == 200 else {}
        except (httpx.HTTPError, ValueError):
            self.callbacks.append((url, 0))
            return {}
        return said if isinstance(said, dict) else {}

    def _then(self, act: Callable[..., Awaitable[Any]], *arguments: Any) -> BackgroundTask:
        """Something to do once the answer is sent."""
        self._owed += 1

        async def run() -> None:
            try:
                await act(*arguments)
            finally:
                self._owed -= 1

        return BackgroundTask(run)

    async def close(self) -> None:
        """Let go of whoever hangs, send what is still to be sent, and let go of connections."""
        self.released.set()
        self.calls_back.set()
        async with asyncio.timeout(10):
            while self._owed:
                await asyncio.sleep(0.005)
        if self._client is not None:
            await self._client.aclose()

    def _receipt(self) -> str:
        return "T" + "".join(secrets.choice("ABCDEFGHJKLMNPQRSTUVWXYZ0123456789") for _ in range(9))


def _wrong_push(body: dict[str, Any]) -> Answer | None:
    """What Daraja would not take of this push."""
    signed = f"{body.get('BusinessShortCode')}{PASSKEY}{body.get('Timestamp')}"
    if body.get("Password") != base64.b64encode(signed.encode()).decode():
        return error(500, "500.001.1001", "Wrong credentials")
    fine = {
        "Amount": type(body.get("Amount")) is int and 1 <= body["Amount"] <= 250_000,
        "PhoneNumber": re.fullmatch(r"254[17]\d{8}", str(body.get("PhoneNumber"))),
        "Timestamp": re.fullmatch(r"\d{14}", str(body.get("Timestamp"))),
        "TransactionType": body.get("TransactionType") in ("CustomerPayBillOnline", "CustomerBuyGoodsOnline"),
        "AccountReference": 1 <= len(str(body.get("AccountReference", ""))) <= 12,
        "TransactionDesc": 1 <= len(str(body.get("TransactionDesc", ""))) <= 13,
        "CallBackURL": not FORBIDDEN.search(str(body.get("CallBackURL", ""))),
        "PartyB": re.fullmatch(r"\d{4,10}", str(body.get("PartyB"))),
    }
    wrong = next((name for name, good in fine.items() if not good), None)
    return None if wrong is None else error(400, "400.002.02", f"Bad Request - Invalid {wrong}")


def _ids(push: dict[str, Any]) -> dict[str, str]:
    return {"MerchantRequestID": "29115-1-1", "CheckoutRequestID": push["reference"]}


def _stamp() -> str:
    return datetime.now(NAIROBI).strftime("%Y%m%d%H%M%S")


def _json(answer: Answer, later: BackgroundTask | None = None) -> Response:
    return JSONResponse(answer[1], answer[0], background=later)


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m doubles.daraja", description=__doc__.split("\n\n")[0])
    parser.add_argument("--port", type=int, default=8790, help="0 picks one (default: 8790)")
    parser.add_argument("--mode", choices=MODES, help="what becomes of every push (default: by its amount)")
    parser.add_argument("--delay", type=float, default=2.0, help="seconds until it calls back (default: 2)")
    options = parser.parse_args()
    simulator = Simulator(options.mode, options.delay)
    server = uvicorn.Server(
        uvicorn.Config(simulator.app, port=options.port, log_level="warning", timeout_graceful_shutdown=3)
    )

    async def serve() -> None:
        socket = server.config.bind_socket()
        print(f"listening on http://127.0.0.1:{socket.getsockname()[1]}", flush=True)
        try:
            await server.serve([socket])
        finally:
            await simulator.close()

    asyncio.run(serve())


if __name__ == "__main__":
    main()
