"""Paystack: signed events, each payment confirmed with Paystack before it counts, refunds counted in all."""

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cards_world import (
    CHECKOUT,
    World,
    alone,
    anything,
    at_once,
    begun,
    checkout,
    content,
    names_nobody,
    received,
    world,
)
from conftest import Clock
from doubles.cards import FAULTS, PAYSTACK_KEY
from pluct.errors import PluctError, Unauthorized, Unavailable
from pluct.gateways import Disputed, Failed, Gateway, Notice, Paid, Pending, Received, Refunded, paystack
from pluct.gateways.paystack import PaystackSettings, secret_problems

pytestmark = pytest.mark.anyio

SECRETS = {"PAYSTACK_SECRET_KEY": PAYSTACK_KEY}
LIVE = {"PAYSTACK_SECRET_KEY": "sk_live_paystack_key_of_nobody"}
ALONE = alone(paystack, SECRETS, Clock())
AT = 1_795_332_615_000  # 2026-11-22T07:30:15Z
PAID = Paid("paystack", CHECKOUT, 10_000, "KES", checkout_id=CHECKOUT, at=AT)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """One loop for the module, which its server shares."""
    return "asyncio"


@pytest.fixture(scope="module")
async def served() -> AsyncIterator[World]:
    async with world() as found:
        yield found


@pytest.fixture
def here(served: World) -> World:
    """The server as it is at first."""
    served.cards.released.set()
    return served.anew()


def signed(body: bytes, key: str = PAYSTACK_KEY) -> dict[bytes, bytes]:
    """The header that Paystack sends with this body."""
    return {b"x-paystack-signature": hmac.new(key.encode(), body, hashlib.sha512).hexdigest().encode()}


async def hears(gateway: Gateway, kind: str, data: Any, key: str = PAYSTACK_KEY) -> Received:
    """What comes of an event that Paystack signed."""
    body = content({"event": kind, "data": data})
    return await received(gateway, signed(body, key), body)


async def told(gateway: Gateway, kind: str, data: Any) -> Notice:
    """The one notice of it, which names nobody."""
    (notice,) = (await hears(gateway, kind, data)).notices
    names_nobody(notice)
    return notice


# Asking for money


async def test_a_transaction_says_what_paystack_wants(here: World) -> None:
    """Our id as its reference, hundredths, and an address, which Paystack insists on and we have none of."""
    _, started = await begun(here.make(paystack, SECRETS))
    (asked,) = here.cards.requests
    assert asked.body == {
        "email": "phk7q2m4@pay.example", "amount": "10000", "currency": "KES", "reference": CHECKOUT,
        "callback_url": f"https://pay.example?checkout={CHECKOUT}",
        "metadata": {"checkout_id": CHECKOUT, "payment_code": "PHK7Q2M4"},
    }  # fmt: skip
    assert (started.state, started.reference, started.query) == ("pending", CHECKOUT, True)
    assert started.redirect_url == "https://checkout.paystack.example/3ni8kdavz62431k"


async def test_a_reference_is_good_for_once(here: World) -> None:
    """A second transaction of the same checkout is refused by Paystack, and says so."""
    gateway = here.make(paystack, SECRETS, email_domain="shop.example", return_url="https://shop.example/back")
    await begun(gateway)
    _, again = await begun(gateway)
    assert again.state == "failed" and "Duplicate" in again.note and again.redirect_url is None
    assert here.cards.requests[0].body["email"] == "phk7q2m4@shop.example"
    assert here.cards.requests[0].body["callback_url"].startswith("https://shop.example/back?")


@pytest.mark.parametrize(("currency", "price", "sent"), [
    ("KES", 10_000, "10000"), ("XOF", 500, "50000"), ("RWF", 1_000, "100000"), ("KWD", 5_000, None), ("KES", 0, None),
])  # fmt: skip
async def test_each_currency_in_hundredths(here: World, currency: str, price: int, sent: str | None) -> None:
    """There and back."""
    gateway = here.make(paystack, SECRETS)
    _, started = await begun(gateway, currency=currency, price=price)
    assert [asked.body["amount"] for asked in here.cards.requests] == ([] if sent is None else [sent])
    assert gateway.takes(currency, price) is (sent is not None) is (started.state == "pending")
    if sent is not None:
        notice = await told(gateway, "charge.success", here.cards.paystack_pays(CHECKOUT))
        assert isinstance(notice.said, Paid) and (notice.said.amount, notice.said.currency) == (price, currency)


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_paystack_that_does_not_answer(here: World, fault: str) -> None:
    """A sentence for the user, within the time-out."""
    here.cards.fault = fault
    async with asyncio.timeout(8):
        _, started = await begun(here.make(paystack, SECRETS, timeout_seconds=1))
    assert (started.state, started.redirect_url, len(here.cards.requests)) == ("failed", None, 1)
    assert "Paystack" in started.message and started.note and PAYSTACK_KEY not in started.message + started.note


# Money in


async def test_a_payment_is_confirmed_before_it_counts(here: World) -> None:
    """What Paystack answers counts, not what the event says."""
    gateway = here.make(paystack, SECRETS)
    await begun(gateway)
    fact = here.cards.paystack_pays(CHECKOUT)
    notice = await told(gateway, "charge.success", fact | {"amount": 99_999_999, "currency": "USD"})
    assert (notice.said, notice.key) == (PAID, f"charge.success:{fact['id']}:success")
    assert [asked.path for asked in here.cards.requests][1:] == [f"/transaction/verify/{CHECKOUT}"]
    assert await told(gateway, "charge.success", fact | {"amount": 99_999_999, "currency": "USD"}) == notice


@pytest.mark.parametrize(("status", "said"), [
    ("failed", Failed(CHECKOUT, "The payment did not succeed.")), ("abandoned", Pending(CHECKOUT)),
    ("ongoing", Pending(CHECKOUT)), ("reversed", None), ("Success", None), (None, None), (["success"], None),
])  # fmt: skip
async def test_a_payment_that_paystack_does_not_confirm(here: World, status: Any, said: Any) -> None:
    """Mints nothing, and does not stand in the way of the event when it comes again, confirmed."""
    gateway = here.make(paystack, SECRETS)
    await begun(gateway)
    here.cards.paystack_pays(CHECKOUT, status=status)
    event = {"id": 7, "reference": CHECKOUT, "domain": "test", "status": "success", "amount": 10_000, "currency": "KES"}
    notice = await told(gateway, "charge.success", event)
    assert notice.said == said
    here.cards.paystack_pays(CHECKOUT)
    later = await told(gateway, "charge.success", event)
    assert later.said == PAID and later.key != notice.key


@pytest.mark.parametrize("change", [
    {"amount": 0}, {"amount": 10.5}, {"amount": None}, {"amount": -1}, {"currency": None}, {"currency": "KE"},
    {"domain": "live"}, {"reference": "another"}, {"reference": None},
])  # fmt: skip
async def test_an_answer_that_makes_no_sense(here: World, change: dict[str, Any]) -> None:
    """Mints nothing."""
    gateway = here.make(paystack, SECRETS)
    await begun(gateway)
    here.cards.paystack_pays(CHECKOUT).update(change)
    notice = await told(gateway, "charge.success", {"id": 7, "reference": CHECKOUT, "domain": "test"})
    assert notice.said is None and notice.note


async def test_an_answer_need_not_repeat_the_question(here: World) -> None:
    """It was asked for by its reference."""
    gateway = here.make(paystack, SECRETS)
    await begun(gateway)
    del here.cards.paystack_pays(CHECKOUT)["reference"]
    event = {"id": 7, "reference": CHECKOUT, "domain": "test"}
    assert (await told(gateway, "charge.success", event)).said == PAID
    here.cards.transactions[CHECKOUT].clear()
    assert (await told(gateway, "charge.success", event)).said is None


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_payment_that_cannot_be_confirmed_now(here: World, fault: str) -> None:
    """Paystack is to send it again; nothing is lost by that."""
    gateway = here.make(paystack, SECRETS, timeout_seconds=1)
    await begun(gateway)
    fact = here.cards.paystack_pays(CHECKOUT)
    here.cards.fault = fault
    with pytest.raises(Unavailable) as refusal:
        await told(gateway, "charge.success", fact)
    assert "again" in refusal.value.sentence and PAYSTACK_KEY not in refusal.value.sentence
    here.cards.fault = None
    here.cards.released.set()
    assert (await told(gateway, "charge.success", fact)).said == PAID


@pytest.mark.parametrize("reference", ["nobodys", "..", "../refund", "a/b", "", None, 7, "a b", "x" * 101, "é", ["x"]])
async def test_a_payment_that_paystack_does_not_know(here: World, reference: Any) -> None:
    """Is kept, and says nothing; what cannot be a reference is not asked for."""
    gateway = here.make(paystack, SECRETS)
    notice = await told(gateway, "charge.success", {"id": 7, "reference": reference, "domain": "test"})
    assert notice.said is None and notice.note
    assert len(here.cards.requests) == (reference in ("nobodys", 7))


@pytest.mark.parametrize(("secrets", "domain", "counts"), [
    (SECRETS, "test", True), (SECRETS, "live", False), (LIVE, "live", True), (LIVE, "test", False), (LIVE, None, False),
    (SECRETS, None, True), (LIVE, "LIVE", False), (LIVE, ["live"], False), (SECRETS, 7, True),
])  # fmt: skip
async def test_test_money_is_no_money(secrets: dict[str, str], domain: Any, counts: bool) -> None:
    """`live` exactly for a live key; otherwise it is kept, under a key that does not stand in the way later."""
    event, key = DISPUTE | {"domain": domain}, secrets["PAYSTACK_SECRET_KEY"]
    (notice,) = (await hears(alone(paystack, secrets, Clock()), "charge.dispute.create", event, key)).notices
    assert (notice.said is not None) is counts and bool(notice.note) is not counts
    assert notice.key.endswith(":domain") is not counts


@pytest.mark.parametrize("kind", ["charge.success", "refund.processed"])
async def test_nobody_is_asked_about_test_money(here: World, kind: str) -> None:
    """Of the other domain: Paystack would not know it."""
    event = {"id": 7, "domain": "live", "reference": CHECKOUT, "transaction_reference": CHECKOUT, "amount": 5}
    assert (await told(here.make(paystack, SECRETS), kind, event)).said is None and not here.cards.requests


# Money out


async def test_refunds_are_counted_in_all(here: World) -> None:
    """Paystack tells of each alone; those that are not done, or of other payments, do not count."""
    gateway = here.make(paystack, SECRETS)
    await begun(gateway)
    await begun(gateway, id="another")
    here.cards.paystack_pays(CHECKOUT), here.cards.paystack_pays("another")
    here.cards.paystack_gives_back("another", 9_000)
    here.cards.paystack_gives_back(CHECKOUT, 2_000, "pending")
    first = here.cards.paystack_gives_back(CHECKOUT, 3_000)
    assert (await told(gateway, "refund.processed", first)).said == Refunded("paystack", CHECKOUT, 3_000, "KES")
    second = here.cards.paystack_gives_back(CHECKOUT, 1_000)
    notice = await told(gateway, "refund.processed", second)
    assert notice.said == Refunded("paystack", CHECKOUT, 4_000, "KES")
    assert notice.key == f"refund.processed:{second['refund_reference']}"
    here.cards.paystack_gives_back(CHECKOUT, 9_000)
    here.cards.refunds[-1]["currency"] = "NGN"
    assert (await told(gateway, "refund.processed", second)).said == Refunded("paystack", CHECKOUT, 4_000, "KES")


async def test_a_refund_that_paystack_does_not_list_counts_alone(here: World) -> None:
    """The event is signed: what it says went back is the least that did."""
    gateway = here.make(paystack, SECRETS)
    data = {"transaction_reference": "unknown-1", "amount": "4000", "currency": "KES", "domain": "test"}
    assert (await told(gateway, "refund.processed", data)).said == Refunded("paystack", "unknown-1", 4_000, "KES")


async def test_a_reversed_payment_went_back_whole(here: World) -> None:
    """Also where no amount is named; without even that, nothing is said."""
    gateway = here.make(paystack, SECRETS)
    await begun(gateway)
    data = {"transaction_reference": CHECKOUT, "domain": "test"}
    assert (await told(gateway, "refund.processed", data)).said is None
    here.cards.paystack_pays(CHECKOUT, status="reversed")
    assert (await told(gateway, "refund.processed", data)).said == Refunded("paystack", CHECKOUT, None, "KES")


async def test_a_refund_that_cannot_be_looked_up_now(here: World) -> None:
    """Comes again."""
    gateway = here.make(paystack, SECRETS)
    here.cards.fault = "error_500"
    with pytest.raises(Unavailable):
        await told(gateway, "refund.processed", {"transaction_reference": CHECKOUT, "amount": 5, "domain": "test"})


DISPUTE = {
    "id": 358950, "refund_amount": 5_800, "currency": "KES", "status": "awaiting-merchant-feedback", "domain": "test",
    "transaction": {"id": 1, "reference": CHECKOUT, "amount": 10_000, "customer": {"email": "jane.doe@example.com"}},
    "customer": {"first_name": "Jane", "phone": "254712345678"}, "last4": "4242",
}  # fmt: skip


async def test_a_dispute_begins_and_ends() -> None:
    """Won, it only ends; accepted, by us or by silence, the money goes back first."""
    one = Disputed("paystack", CHECKOUT, "358950", "opened")
    assert (await told(ALONE, "charge.dispute.create", DISPUTE)).said == one
    ended = Disputed("paystack", CHECKOUT, "358950", "closed")
    won = await hears(ALONE, "charge.dispute.resolve", DISPUTE | {"resolution": "declined"})
    assert [notice.said for notice in won.notices] == [ended]
    for resolution in ("merchant-accepted", "auto-accepted"):
        lost = await hears(ALONE, "charge.dispute.resolve", DISPUTE | {"resolution": resolution})
        taken = Disputed("paystack", CHECKOUT, "358950", "funds_withdrawn", 5_800)
        assert [notice.said for notice in lost.notices] == [taken, ended]
        assert len({notice.key for notice in lost.notices}) == 2
        for notice in lost.notices:
            names_nobody(notice)


@pytest.mark.parametrize("change", [{"id": None}, {"transaction": None}, {"transaction": {"reference": "a b"}}])
@pytest.mark.parametrize("kind", ["charge.dispute.create", "charge.dispute.resolve"])
async def test_a_dispute_about_nothing(change: dict[str, Any], kind: str) -> None:
    """Is kept with a note."""
    notice = await told(ALONE, kind, DISPUTE | change)
    assert notice.said is None and notice.note


@pytest.mark.parametrize("kind", ["charge.dispute.remind", "transfer.success", "refund.pending", "x" * 200])
async def test_other_events_are_kept(kind: str) -> None:
    """They mean nothing to us; their keys fit."""
    notice = await told(ALONE, kind, {"id": 7, "domain": "test"})
    assert notice.said is None and notice.kind == kind and len(notice.key) <= 200


# Signatures

BODY = content({"event": "charge.dispute.create", "data": DISPUTE})
GOOD = signed(BODY)[b"x-paystack-signature"]
BAD = {
    "none": b"", "another key": signed(BODY, "sk_test_other")[b"x-paystack-signature"], "upper case": GOOD.upper(),
    "another body": signed(BODY + b" ")[b"x-paystack-signature"], "spaces": b" " + GOOD, "cut short": GOOD[:-1],
    "not ASCII": "é".encode(), "not UTF-8": b"\xff", "longer": GOOD + b"0", "too long": b"0" * 5_000,
    "SHA-256": hmac.new(PAYSTACK_KEY.encode(), BODY, hashlib.sha256).hexdigest().encode(), "the key": b"sk_test",
}  # fmt: skip


@pytest.mark.parametrize("header", BAD.values(), ids=BAD)
async def test_a_bad_signature(header: bytes) -> None:
    """401, whatever is wrong with it."""
    with pytest.raises(Unauthorized):
        await received(ALONE, {b"x-paystack-signature": header} if header else {}, BODY)


async def test_two_keys_while_one_is_changed() -> None:
    """Both sign."""
    gateway = alone(paystack, {"PAYSTACK_SECRET_KEY": f"sk_test_new, {PAYSTACK_KEY}"}, Clock())
    assert (await told(gateway, "charge.dispute.create", DISPUTE)).said is not None


@pytest.mark.parametrize("body", [
    b"", b"not JSON", b"[]", b"null", b"\xff\xfe", b"{}", b'{"event":""}', b'{"event":["x"]}', b"[" * 5_000,
])  # fmt: skip
async def test_a_signed_body_that_is_no_event(body: bytes) -> None:
    """Is kept, once."""
    (notice,) = (await received(ALONE, signed(body), body)).notices
    assert notice.said is None and notice.key == f"unreadable:{hashlib.sha256(body).hexdigest()}"


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200) | st.sampled_from(sorted(BAD.values())), st.binary(max_size=300) | st.just(BODY))
def test_whatever_a_stranger_sends(header: bytes, body: bytes) -> None:
    """It is refused."""
    with pytest.raises(Unauthorized):
        at_once(received(ALONE, {b"x-paystack-signature": header}, body))


FIELDS = sorted({*DISPUTE, "reference", "amount", "transaction_reference", "resolution"})
KINDS = ["charge.dispute.create", "charge.dispute.resolve", "charge.success", "refund.processed", "x"]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(KINDS), st.dictionaries(st.sampled_from(FIELDS), anything(FIELDS)))
def test_whatever_is_signed(kind: str, found: dict[str, Any]) -> None:
    """Becomes notices, or is to come again: here nobody can be asked."""
    body = content({"event": kind, "data": found})
    nobody = alone(paystack, SECRETS, Clock(), base_url="http://127.0.0.1:1")
    try:
        notices = asyncio.run(received(nobody, signed(body), body)).notices
    except Unavailable:
        assert kind in ("charge.success", "refund.processed")
        return
    assert notices and all(len(notice.key) <= 200 and json.loads(notice.raw) for notice in notices)


# Asking what became of it


async def test_a_lost_event_is_found_by_asking(here: World) -> None:
    """The same payment by the same reference."""
    gateway = here.make(paystack, SECRETS)
    about, _ = await begun(gateway)
    asked = [await gateway.ask(msg) for msg in (about, checkout(asked=1))]
    assert [notice.said for notice in asked if notice] == [Pending(CHECKOUT)] * 2
    assert len({notice.key for notice in asked if notice}) == 2
    here.cards.paystack_pays(CHECKOUT)
    notice = await gateway.ask(about)
    assert notice is not None and notice.said == PAID
    names_nobody(notice)


@pytest.mark.parametrize("fault", [*FAULTS, None])
async def test_asking_in_vain(here: World, fault: str | None) -> None:
    """Nothing is known, and nothing raised."""
    here.cards.fault = fault
    assert await here.make(paystack, SECRETS, timeout_seconds=1).ask(checkout()) is None


# Settings


@pytest.mark.parametrize(("secrets", "count"), [
    (SECRETS, 0), (LIVE, 0), ({}, 1), ({"PAYSTACK_SECRET_KEY": " , "}, 1), ({"PAYSTACK_SECRET_KEY": "pk_live_x"}, 1),
])  # fmt: skip
def test_secrets_are_looked_at(secrets: dict[str, str], count: int) -> None:
    """And never shown."""
    found = secret_problems(secrets)
    assert len(found) == count and not any(value.strip(" ,") and value in str(found) for value in secrets.values())


async def test_no_secret_is_ever_said() -> None:
    """Not in a refusal, not by looking at the gateway."""
    shown = [repr(ALONE), repr(ALONE._api), repr(PaystackSettings())]
    for header in BAD.values():
        try:
            await received(ALONE, {b"x-paystack-signature": header}, BODY)
        except PluctError as error:
            shown += [repr(error), error.sentence]
    assert not any(PAYSTACK_KEY in text for text in shown)
