"""M-Pesa: the adapter against a Daraja that behaves as the real one was seen to, over real HTTP both ways."""

import asyncio
import base64
import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from daraja_world import (
    CONFIRMING,
    CREDENTIAL,
    INITIATOR,
    PATH_TOKEN,
    PHONE,
    SECRETS,
    Servers,
    World,
    a_world,
    checkout,
    pushed,
    receive,
    seen,
    served,
    serving,
)
from doubles.daraja import CONSUMER_KEY, CONSUMER_SECRET, MODES, PASSKEY
from pluct.errors import InvalidRequest, Unavailable
from pluct.gateways import MPESA, Failed, Paid, Pending, Refunded
from pluct.gateways.daraja import STK
from pluct.gateways.daraja_settings import DarajaSettings

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """One loop for the module, which its servers share."""
    return "asyncio"


@pytest.fixture(scope="module")
async def servers() -> AsyncIterator[Servers]:
    async with serving() as found:
        yield found


@pytest.fixture
async def world(servers: Servers) -> AsyncIterator[World]:
    async with a_world(servers) as found:
        yield found


# Asking for money


async def test_a_push_says_what_daraja_wants(world: World) -> None:
    """Whole shillings, Nairobi time, the payment code, and a callback address with the checkout's own token."""
    world.clock.now = 1_795_332_615_000  # 2026-11-22T07:30:15Z
    begun, started = await world.push("ok", token="9f2c")
    (asked,) = world.simulator.asked("stkpush/")
    assert asked == {
        "BusinessShortCode": "174379", "Timestamp": "20261122103015", "TransactionType": "CustomerPayBillOnline",
        "Password": base64.b64encode(f"174379{PASSKEY}20261122103015".encode()).decode(), "Amount": 100,
        "PartyA": PHONE, "PartyB": "174379", "PhoneNumber": PHONE, "AccountReference": begun.payment_code,
        "CallBackURL": f"{world.desk_url}/hooks/daraja/stk/9f2c", "TransactionDesc": "Credits",
    }  # fmt: skip
    assert started.state == "pending" and started.query and list(world.simulator.pushes) == [request_id(world)]
    assert started.reference is not None and PHONE[3:] not in started.reference
    assert "PIN" in started.message and "KES 100" in started.message and begun.payment_code in started.message
    assert PHONE not in started.message and "2547*****678" in started.message


async def test_a_till_is_paid_as_a_till(world: World) -> None:
    """The store asks, the till is paid; nobody is told to type an account that a till does not take."""
    world.set(till=True, shortcode="567890", store_number="123456")
    begun, started = await world.push("ok")
    (asked,) = world.simulator.asked("stkpush/")
    assert (asked["TransactionType"], asked["BusinessShortCode"], asked["PartyB"]) == (
        "CustomerBuyGoodsOnline", "123456", "567890",
    )  # fmt: skip
    assert started.state == "pending" and begun.payment_code not in started.message


@pytest.mark.parametrize("phone", [None, "", "12345", "0612345678", "+1 555 010 0000", "2547123456789"])
async def test_without_a_phone_nothing_is_asked(world: World, phone: str | None) -> None:
    """That is the user's to mend, and a sentence says how."""
    with pytest.raises(InvalidRequest, match="phone"):
        await world.gateway.start(checkout(), "token", phone)
    assert not world.simulator.requests


@pytest.mark.parametrize(
    ("price", "currency"), [(10_050, "KES"), (50, "KES"), (0, "KES"), (25_000_100, "KES"), (10_000, "USD")]
)
async def test_a_price_that_cannot_be_pushed_is_not(world: World, price: int, currency: str) -> None:
    """Neither rounded nor converted."""
    started = await world.gateway.start(checkout(price=price, currency=currency), "token", PHONE)
    assert started.state == "failed" and "shillings" in started.message and not world.simulator.requests


def request_id(world: World) -> str:
    """Daraja's id of the last push, with the payer's number at its end."""
    return str(next(reversed(world.simulator.pushes.values()))["reference"])


async def test_the_number_in_an_id_is_sealed(world: World) -> None:
    """In what is kept, and alike each time; the question names the id as Daraja gave it."""
    begun, started = await world.push("none")
    kept = str(started.reference)
    assert request_id(world).endswith(PHONE[3:]) and PHONE[3:] not in kept and kept.isascii() and len(kept) < 100
    assert isinstance((await world.ask(begun)).said, Pending)
    assert world.simulator.asked("stkpushquery")[0]["CheckoutRequestID"] == request_id(world)
    sealed = {world.gateway._sealed(request_id(world)) for _ in range(3)}
    assert sealed == {kept} != {world.gateway._sealed("ws_CO_0" + request_id(world)[6:])}
    assert kept.partition("~")[2] not in world.gateway._sealed("ws_CO_0" + request_id(world)[6:])


async def test_an_id_that_is_kept_in_clear_goes_on_working(world: World) -> None:
    """From before numbers were sealed: the callback is its, names it as it is kept, and it is asked about."""
    begun, _ = await world.push("none")
    before = msgspec.structs.replace(begun, gateway_reference=request_id(world))
    assert isinstance((await world.ask(before)).said, Pending)
    assert (await world.ask(before)).key == (await world.ask(begun)).key
    body = pushed(CheckoutRequestID=request_id(world))
    (told,) = (await receive(world.gateway, STK, body, by_token=before)).notices
    assert isinstance(told.said, Paid) and told.checkout_reference == request_id(world)
    (other,) = (await receive(world.gateway, STK, pushed(), by_token=before)).notices
    assert other.said is None and "another push" in other.note


async def test_an_id_that_was_sealed_under_another_key(world: World) -> None:
    """Cannot be asked about; its callback is known by the rest of the id, and its money counts."""
    begun, _ = await world.push("none")
    kept = str(begun.gateway_reference)
    about = msgspec.structs.replace(begun, gateway_reference=f"{kept.partition('~')[0]}~{'A' * 34}")
    assert await world.gateway.ask(about) is None and not world.simulator.asked("stkpushquery")
    body = pushed(CheckoutRequestID=request_id(world))
    (told,) = (await receive(world.gateway, STK, body, by_token=about)).notices
    assert isinstance(told.said, Paid) and told.checkout_reference == about.gateway_reference
    (other,) = (await receive(world.gateway, STK, pushed(), by_token=about)).notices
    assert other.said is None


async def test_ok(world: World) -> None:
    """A push, a prompt, a callback: paid, by its receipt."""
    begun, started = await world.push("ok")
    (notice,) = await world.desk.told(1)
    receipt = world.simulator.pushes[request_id(world)]["receipt"]
    assert notice.checkout_reference == started.reference
    assert isinstance(notice.said, Paid)
    assert msgspec.structs.replace(notice.said, at=None) == Paid(
        MPESA, receipt, 10_000, "KES", checkout_id=begun.id, phone=PHONE
    )
    assert world.desk.answers == [{"ResultCode": 0, "ResultDesc": "Success"}]


@pytest.mark.parametrize(
    ("mode", "words"), [("cancelled", "cancelled"), ("wrong_pin", "PIN was wrong"), ("strange_code", "SFC_IC0003")]
)
async def test_a_negative_callback(world: World, mode: str, words: str) -> None:
    """Failed for now, in words for the user; a code need not be a number."""
    begun, _ = await world.push(mode)
    (notice,) = await world.desk.told(1)
    assert isinstance(notice.said, Failed)
    assert notice.said.checkout_id == begun.id and words in notice.said.message


async def test_a_callback_that_comes_three_times(world: World) -> None:
    """Has one key."""
    await world.push("duplicate")
    assert len({notice.key for notice in await world.desk.told(3)}) == 1


async def test_a_callback_before_the_answer(world: World) -> None:
    """Is of the checkout whose token it carries; its id is not known yet."""
    begun, started = await world.push("before_answer")
    assert started.state == "pending"
    (notice,) = world.desk.notices
    assert isinstance(notice.said, Paid) and notice.said.checkout_id == begun.id
    assert notice.checkout_reference == started.reference


async def test_no_callback(world: World) -> None:
    """The question finds out: pending looks like an error, then it is paid, without a receipt and an amount."""
    begun, _ = await world.push("none")
    first = await world.ask(begun)
    assert first.said == Pending(begun.id) and not first.note
    second = await world.ask(begun)
    assert second.said == Paid(MPESA, None, None, "KES", checkout_id=begun.id)
    assert (await world.ask(begun)).key == second.key != first.key
    assert not world.desk.notices


async def test_a_success_after_a_negative_answer(world: World) -> None:
    """Both are told as they came: the first is no end."""
    begun, _ = await world.push("late")
    assert isinstance((await world.ask(begun)).said, Failed)
    (notice,) = await world.desk.told(1)
    assert isinstance(notice.said, Paid)


async def test_a_payment_that_comes_twice(world: World) -> None:
    """As a push and as C2B: under one receipt."""
    await world.gateway.register_urls()
    begun, _ = await world.push("twin")
    pushed, typed = [notice.said for notice in await world.desk.told(2)]
    assert isinstance(pushed, Paid) and isinstance(typed, Paid)
    assert pushed.reference == typed.reference and pushed.amount == typed.amount
    assert (pushed.checkout_id, pushed.typed, typed.code, typed.typed) == (begun.id, False, begun.payment_code, True)


async def test_a_wrong_amount_is_told_as_it_is(world: World) -> None:
    """Whether it will do is not for the adapter."""
    await world.push("wrong_amount")
    (notice,) = await world.desk.told(1)
    assert isinstance(notice.said, Paid) and notice.said.amount == 10_100 and not notice.said.typed


async def test_a_callback_about_another_push(world: World) -> None:
    """Says nothing, whatever it says, and does not stand in the way of the real one."""
    begun, _ = await world.push("wrong_reference")
    (notice,) = await world.desk.told(1)
    assert notice.said is None and "another push" in notice.note
    real = json.loads(notice.raw)
    real["Body"]["stkCallback"]["CheckoutRequestID"] = request_id(world)
    token = world.simulator.asked("stkpush/")[0]["CallBackURL"].rpartition("/")[2]
    body = json.dumps(real).encode()
    received = await world.gateway.receive(STK, token, {}, body, "", begun)
    assert isinstance(received.notices[0].said, Paid) and received.notices[0].key != notice.key


async def test_pending_for_long(world: World) -> None:
    """Each answer is an event of its own."""
    begun, _ = await world.push("pending")
    asked = [await world.ask(msgspec.structs.replace(begun, asked=number)) for number in range(3)]
    assert [notice.said for notice in asked] == [Pending(begun.id)] * 3
    assert len({notice.key for notice in asked}) == 3


@pytest.mark.parametrize(("mode", "note"), [("strange_code", "operator"), ("forgotten", "not found")])
async def test_an_answer_that_decides_nothing(world: World, mode: str, note: str) -> None:
    """Only what is plainly the payer's doing is believed; the same error code has many meanings."""
    begun, _ = await world.push("strange_code")
    await world.desk.told(1)
    if mode == "forgotten":
        world.simulator.pushes.clear()
    asked = await world.ask(begun)
    assert asked.said == Pending(begun.id) and note in asked.note


@pytest.mark.parametrize(
    ("body", "status"),
    [(b'{"ResponseCode":"1","ResultCode":"0"}', b"200 OK"), (b'{"ResultCode":"0"}', b"200 OK"),
     (b'{"ResponseCode":"0","ResultCode":"0"}', b"500 Error"),
     (b'{"ResponseCode":"0","ResultCode":"1032"}', b"500 Error")],
)  # fmt: skip
async def test_half_a_success_is_none(world: World, body: bytes, status: bytes) -> None:
    """An answer decides only if it was an answer."""
    answers = {TOKEN_PATH: GOOD_TOKEN, QUERY_PATH: http(body, status)}
    async with peer(answers, []) as base_url:
        notice = await world.set(base_url=base_url).ask(checkout(gateway_reference="ws_CO_1"))
    assert notice is not None and isinstance(notice.said, Pending)


async def test_without_a_reference_there_is_nothing_to_ask(world: World) -> None:
    """A push whose answer was lost cannot be asked about."""
    assert await world.gateway.ask(checkout()) is None
    assert not world.simulator.requests


@pytest.mark.parametrize("mode", ["html", "half_body", "error_500", "hang"])
async def test_an_answer_that_says_nothing(world: World, mode: str) -> None:
    """The push is not sent again; the user is told what to do, and the payment counts when it comes."""
    world.set(timeout_seconds=1)
    begun, started = await world.push(mode)
    assert (started.state, started.reference, started.query) == ("pending", None, False)
    assert "may still prompt" in started.message and begun.payment_code in started.message and started.note
    world.simulator.released.set()
    (notice,) = await world.desk.told(1)
    assert isinstance(notice.said, Paid) and notice.said.checkout_id == begun.id
    assert len(world.simulator.asked("stkpush/")) == 1


@pytest.mark.parametrize(("mode", "words"), [("busy", "still open"), ("refused", "phone number")])
async def test_a_push_that_is_refused(world: World, mode: str, words: str) -> None:
    """Failed, why, and what can be done."""
    begun, started = await world.push(mode)
    assert started.state == "failed" and words in started.message and begun.payment_code in started.message
    assert started.note.startswith(("500.001.1001 ", "400.002.02 "))


async def test_nobody_there(world: World) -> None:
    """A state and a message; the question is put later."""
    world.set(base_url="http://127.0.0.1:1")
    started = await world.gateway.start(checkout(), "token", PHONE)
    assert started.state == "failed" and "cannot be reached" in started.message
    assert await world.gateway.ask(checkout(gateway_reference="ws_CO_1")) is None
    with pytest.raises(Unavailable, match="cannot be reached"):
        await world.gateway.register_urls()


RAW_ANSWERS = {
    "nothing": b"",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "half a body": b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"ResponseCode":"0"',
    "no http": b"SSH-2.0-OpenSSH_9.6\r\n",
    "a list": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
    "a redirect": b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
    "too much": b"HTTP/1.1 200 OK\r\nContent-Length: 9000059\r\n\r\n"
    + b'{"ResponseCode":"0","ResultCode":"0","CheckoutRequestID":"x"'
    + b" " * 8_999_998
    + b"}",
    "bad gzip": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
}


@asynccontextmanager
async def peer(answers: dict[bytes, bytes], asked: list[bytes], endless: bytes = b"") -> AsyncIterator[str]:
    """A server that answers bytes by path, and goes on and on after those of one path."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].partition(b"?")[0]
        asked.append(path)
        writer.write(answers[path])
        try:
            while path == endless:
                await asyncio.sleep(0.02)
                writer.write(b" ")
                await writer.drain()
        except ConnectionError:
            asked.append(b"gone")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


TOKEN_PATH, PUSH_PATH = b"/oauth/v1/generate", b"/mpesa/stkpush/v1/processrequest"
QUERY_PATH = b"/mpesa/stkpushquery/v1/query"


def http(body: bytes, status: bytes = b"200 OK", length: int | None = None) -> bytes:
    """An answer, of which more may seem to come."""
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body) if length is None else length, body)


GOOD_TOKEN, ENDLESS = http(b'{"access_token":"t","expires_in":3599}'), http(b" ", length=10**6)


@pytest.mark.parametrize("name", list(RAW_ANSWERS))
async def test_a_broken_peer(world: World, name: str) -> None:
    """Whatever the bytes: no exception, one push, and the truth that nobody knows."""
    asked: list[bytes] = []
    answers = {TOKEN_PATH: GOOD_TOKEN, PUSH_PATH: RAW_ANSWERS[name], QUERY_PATH: RAW_ANSWERS[name]}
    async with peer(answers, asked) as base_url:
        gateway = world.set(base_url=base_url)
        started = await gateway.start(checkout(), "token", PHONE)
        assert (started.state, started.query) == ("pending", False)
        assert await gateway.ask(checkout(gateway_reference="ws_CO_1")) is None
    assert asked.count(PUSH_PATH) == 1


@pytest.mark.parametrize(
    ("answers", "state"),
    [
        ({TOKEN_PATH: GOOD_TOKEN, PUSH_PATH: ENDLESS}, "pending"),
        ({TOKEN_PATH: ENDLESS}, "failed"),
    ],
)
async def test_an_answer_without_end(world: World, answers: dict[bytes, bytes], state: str) -> None:
    """Is waited for so long and no longer; before the push was sent, nothing was done."""
    asked: list[bytes] = []
    endless = next(path for path, answer in answers.items() if answer == ENDLESS)
    async with peer(answers, asked, endless) as base_url:
        gateway = world.set(base_url=base_url, timeout_seconds=1)
        async with asyncio.timeout(10):
            started = await gateway.start(checkout(), "token", PHONE)
        assert started.state == state and "in time" in started.note
        assert asked.count(PUSH_PATH) == (state == "pending")
        await seen(lambda: asked[-1] == b"gone")


# The access token


async def test_a_token_is_shared_and_renewed_early(world: World) -> None:
    """One for all who ask at once; a minute before it ends, the next."""
    await asyncio.gather(*(world.push("pending") for _ in range(10)))
    assert world.simulator.tokens == 1
    world.clock.move(3599 - 61)
    await world.push("pending")
    assert world.simulator.tokens == 1
    world.clock.move(2)
    await asyncio.gather(*(world.push("pending") for _ in range(10)))
    assert world.simulator.tokens == 2 and len(world.simulator.asked("stkpush/")) == 21


async def test_a_token_that_somebody_else_ended(world: World) -> None:
    """Is replaced, and that request sent once more: the only one that ever is."""
    begun, _ = await world.push("pending")
    world.simulator.token = "of another process"
    _, started = await world.push("pending")
    assert started.state == "pending" and world.simulator.tokens == 2
    assert len(world.simulator.asked("stkpush/")) == 3 and len(world.simulator.pushes) == 2
    world.simulator.token = "of another process"
    assert isinstance((await world.ask(begun)).said, Pending)
    world.simulator.token = "of another process"
    assert await world.gateway.register_urls()
    assert world.simulator.tokens == 4


async def test_a_token_that_is_never_good(world: World) -> None:
    """Is not fetched for ever."""
    world.simulator.token_seconds = -1
    _, started = await world.push("ok")
    assert started.state == "failed" and "404.001.03" in started.note
    assert len(world.simulator.asked("stkpush/")) == 2 and world.simulator.tokens == 2


async def test_wrong_credentials(world: World) -> None:
    """Nothing is pushed; the operator is told, the user spared."""
    world.set(SECRETS | {"DARAJA_CONSUMER_SECRET": "wrong"})
    _, started = await world.push("ok")
    assert started.state == "failed" and "400.008.01" in started.note and "400.008.01" not in started.message
    assert not world.simulator.asked("stkpush/")


async def test_a_401_ends_the_token(world: World) -> None:
    """Daraja's outer gates have errors of their own: nothing is sent again, but the next push fetches a token."""
    asked: list[bytes] = []
    async with peer({TOKEN_PATH: GOOD_TOKEN, PUSH_PATH: http(b"<h1>No</h1>", b"401 Unauthorized")}, asked) as base_url:
        gateway = world.set(base_url=base_url)
        for _ in range(2):
            assert (await gateway.start(checkout(), "token", PHONE)).state == "failed"
    assert asked == [TOKEN_PATH, PUSH_PATH] * 2


# C2B


async def typed(world: World, amount: str, account: str) -> None:
    """Somebody pays by hand."""
    world.simulator.urls.setdefault("174379", {})
    if not world.simulator.urls["174379"]:
        del world.simulator.urls["174379"]
        await world.gateway.register_urls()
    body = {"ShortCode": "174379", "CommandID": "CustomerPayBillOnline", "Amount": amount, "Msisdn": PHONE}
    answer = await world.client.post(
        f"{world.base_url}/mpesa/c2b/v2/simulate", json=body | {"BillRefNumber": account},
        headers={"Authorization": f"Bearer {world.simulator.token}"},
    )  # fmt: skip
    assert answer.status_code == 200, answer.text


async def test_the_addresses_are_registered_once(world: World) -> None:
    """Version 2, exact words, and no token in what an operator reads."""
    world.set(pull=True, pull_phone="0722000000")
    sentences = await world.gateway.register_urls()
    (asked,) = world.simulator.asked("c2b/v2/registerurl")
    assert asked == {
        "ShortCode": "174379", "ResponseType": "Completed",
        "ConfirmationURL": f"{world.desk_url}/hooks/daraja/c2b/{PATH_TOKEN}/confirmation",
        "ValidationURL": f"{world.desk_url}/hooks/daraja/c2b/{PATH_TOKEN}/validation",
    }  # fmt: skip
    (pulling,) = world.simulator.asked("pulltransactions/v1/register")
    assert (pulling["RequestType"], pulling["NominatedNumber"]) == ("Pull", "254722000000")
    assert len(sentences) == 2 and PATH_TOKEN not in " ".join(sentences)
    with pytest.raises(InvalidRequest, match="already registered") as refused:
        await world.gateway.register_urls()
    assert PATH_TOKEN not in str(refused.value)


async def test_a_typed_payment(world: World) -> None:
    """Validation lets it come and says nothing; the confirmation is the payment, its account as it was typed."""
    await typed(world, "150.50", "plk7 q2m4 ")
    (notice,) = await world.desk.told(1)
    assert world.desk.answers == [
        {"ResultCode": "0", "ResultDesc": "Accepted"},
        {"ResultCode": 0, "ResultDesc": "Success"},
    ]
    assert isinstance(notice.said, Paid) and notice.kind == "c2b" and not notice.note
    said = notice.said
    assert (said.amount, said.code, said.typed, said.confirmed) == (15_050, "plk7 q2m4 ", True, True)
    assert said.reference in world.simulator.paid and said.phone == "2547*****678" and said.checkout_id is None


@pytest.mark.parametrize(("amount", "confirmed"), [("5000", True), ("5000.01", False)])
async def test_a_large_typed_payment_waits(world: World, amount: str, confirmed: bool) -> None:
    """Daraja is asked, and its own word confirms the payment by its receipt."""
    world.set(CONFIRMING)
    await typed(world, amount, "x")
    if confirmed:
        (notice,) = await world.desk.told(1)
        assert isinstance(notice.said, Paid) and notice.said.confirmed
        return
    told = {notice.kind: notice for notice in await world.desk.told(3)}  # the result may overtake the answer
    first, asked, result = (told[kind] for kind in ("c2b", "statusquery", "transactionstatus"))
    assert isinstance(first.said, Paid) and not first.said.confirmed and "asked to confirm" in first.note
    assert asked.said is None and first.said.reference in asked.note
    assert isinstance(result.said, Paid) and result.said.confirmed and result.said.typed
    assert (result.said.reference, result.said.amount) == (first.said.reference, 500_001)
    (body,) = world.simulator.asked("transactionstatus")
    assert (body["CommandID"], body["IdentifierType"], body["PartyA"]) == ("TransactionStatusQuery", "4", "174379")
    assert body["ResultURL"] == f"{world.desk_url}/hooks/daraja/result/{PATH_TOKEN}"


async def test_a_large_typed_payment_that_cannot_be_confirmed(world: World) -> None:
    """Waits for an operator, and says so."""
    await typed(world, "6000", "x")
    (notice,) = await world.desk.told(1)
    assert isinstance(notice.said, Paid) and not notice.said.confirmed and "operator" in notice.note
    assert not world.simulator.asked("transactionstatus")


async def test_a_question_that_cannot_be_put(world: World) -> None:
    """Is noted and raises nothing: the payment stays where it is."""
    gateway = world.set(CONFIRMING, base_url="http://127.0.0.1:1")
    notice = await gateway.confirm("TKM1ABC234")
    assert notice.said is None and "could not be asked" in notice.note


async def test_a_reversal_through_the_simulator(world: World) -> None:
    """From the operator's request to the notice."""
    world.set(CONFIRMING)
    await world.push("ok")
    (paid,) = await world.desk.told(1)
    body = {"Initiator": INITIATOR, "SecurityCredential": CREDENTIAL, "Amount": "100"}
    assert isinstance(paid.said, Paid)
    body |= {"TransactionID": paid.said.reference, "ResultURL": f"{world.desk_url}/hooks/daraja/result/{PATH_TOKEN}"}
    headers = {"Authorization": f"Bearer {world.simulator.token}"}
    await world.client.post(f"{world.base_url}/mpesa/reversal/v1/request", json=body, headers=headers)
    _, notice = await world.desk.told(2)
    assert notice.said == Refunded(MPESA, str(paid.said.reference), None)


# What Daraja lists


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_transactions_are_pulled(world: World, method: str) -> None:
    """Page after page, confirmed whatever their size, in a window of at most 48 hours."""
    world.set(pull_method=method)
    for number in range(5):
        world.simulator._pay(f"TKM{number}", "174379", 6000 + number, PHONE, f"code {number}")
    world.simulator._pay("TKM9", "999999", 1, PHONE, "another's")
    found = [notice async for notice in world.gateway.pull(0)]
    assert [notice.said.reference for notice in found if isinstance(notice.said, Paid)] == [f"TKM{n}" for n in range(5)]
    one = found[1].said
    assert isinstance(one, Paid) and (one.amount, one.code, one.typed, one.confirmed) == (600_100, "code 1", True, True)
    assert {each["method"] for each in world.simulator.requests if "pull" in each["path"]} == {method}
    assert [each["OffSetValue"] for each in world.simulator.asked("pull")] == ["0", "2", "4", "5"]
    start, end = (world.simulator.asked("pull")[0][name] for name in ("StartDate", "EndDate"))
    assert (start, end) == ("2027-01-13 11:00:00", "2027-01-15 11:00:00")
    again = [notice async for notice in world.gateway.pull(world.clock() - 1000)]
    assert [notice.key for notice in again] == [notice.key for notice in found]
    assert world.simulator.asked("pull")[-1]["StartDate"] == "2027-01-15 10:59:59"


async def test_nothing_to_pull(world: World) -> None:
    """Is a code of its own, and no error; any other is one."""
    assert [notice async for notice in world.gateway.pull(0)] == []
    world.set(SECRETS | {"DARAJA_CONSUMER_KEY": "wrong"})
    with pytest.raises(Unavailable):
        [notice async for notice in world.gateway.pull(0)]


async def test_a_list_without_end(world: World) -> None:
    """A Daraja that ignores the offset is not asked for ever."""
    world.simulator._pay("TKM1", "174379", 100, PHONE, "code")
    world.simulator._pay("TKM2", "174379", 100, PHONE, "code")
    original = world.simulator._pull

    async def ignoring(body: dict[str, Any]) -> Response:
        return await original(body | {"OffSetValue": "0"})

    world.simulator._pull = ignoring
    async with served(world.simulator.app) as base_url:
        world.set(base_url=base_url)
        assert len([notice async for notice in world.gateway.pull(0)]) == 2
    assert len(world.simulator.asked("pull")) == 2


async def test_pulled_and_asked_transactions_name_nobody(world: World) -> None:
    """Nor do Daraja's answers."""
    world.simulator._pay("TKM1", "174379", 100, PHONE, PHONE)
    begun, _ = await world.push("none")
    notices = [notice async for notice in world.gateway.pull(0)]
    notices += [await world.ask(begun), await world.ask(begun)]
    for notice in notices:
        assert b"JANE" not in notice.raw and PHONE[3:].encode() not in notice.raw, notice.raw


async def test_no_secret_is_repeated(world: World) -> None:
    """Not even by a Daraja that repeats everything it was told in its refusal."""
    heads: list[str] = []

    async def mirror(request: Request) -> Response:
        if request.url.path.startswith("/oauth/"):
            return JSONResponse({"access_token": "an-access-token-of-the-mirror", "expires_in": 3599})
        echo = f"{dict(request.headers)} {(await request.body()).decode()}"
        heads.append(echo)
        return JSONResponse({"errorCode": "400.002.02", "errorMessage": echo[:60] + echo[-400:]}, 400)

    methods = ["GET", "POST"]
    async with served(Starlette(routes=[Route("/{path:path}", mirror, methods=methods)])) as base_url:
        gateway = world.set(CONFIRMING, base_url=base_url)
        token = secrets.token_hex(16)
        started = await gateway.start(checkout(token), token, PHONE)
        asked = await gateway.ask(checkout(gateway_reference="ws_CO_1"))
        confirmed = await gateway.confirm("TKM1ABC234")
        with pytest.raises(InvalidRequest) as refused:
            await gateway.register_urls()
        assert asked is not None
        said = f"{started} {asked.note} {confirmed.note} {refused.value} {gateway!r} {DarajaSettings()!r}"
    hidden = [*CONFIRMING.values(), token, "an-access-token-of-the-mirror", PHONE[3:]]
    assert len(heads) == 4 and [secret for secret in hidden if secret in said] == []


# The simulator by hand


def test_the_simulator_runs_by_hand() -> None:
    """A push to it is paid by its amount, or as the control route says."""
    folder = Path(__file__).parent
    process = subprocess.Popen(
        [sys.executable, "-m", "doubles.daraja", "--port", "0", "--delay", "0"],
        cwd=folder, env={"PATH": os.environ["PATH"]}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        found = re.fullmatch(r"listening on (http://\S+)\n", process.stdout.readline())
        assert found
        with httpx.Client(base_url=found[1], trust_env=False) as client:
            shown = client.get("/control").json()
            assert shown["mode"] is None and set(shown["byAmount"].values()) <= set(MODES)
            assert client.post("/control", json={"mode": "late"}).json()["mode"] == "late"
            assert client.post("/control", json={"mode": "no such"}).status_code == 400
            login = (CONSUMER_KEY, CONSUMER_SECRET)
            query = {"grant_type": "client_credentials"}
            assert client.get("/oauth/v1/generate", params=query, auth=login).json()["expires_in"] == "3599"
            assert client.post("/mpesa/stkpush/v1/processrequest", json={}).json()["errorCode"] == "404.001.03"
    finally:
        process.terminate()
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()
