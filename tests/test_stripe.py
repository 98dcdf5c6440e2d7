"""Stripe: sessions are asked for once, events count once they are signed, and the official library signs them."""

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stripe import WebhookSignature

from cards_world import (
    BACK,
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
from doubles.cards import FAULTS, STRIPE_KEY
from pluct.errors import PluctError, Unauthorized
from pluct.gateways import Disputed, Failed, Gateway, Notice, Paid, Pending, Refunded, stripe
from pluct.gateways.reading import SIGNATURE_BYTES_MAX
from pluct.gateways.stripe import StripeSettings, secret_problems

pytestmark = pytest.mark.anyio

SECRET, OLDER = "whsec_test_of_the_stripe_adapter", "whsec_the_one_before_it"
SECRETS = {"STRIPE_SECRET_KEY": STRIPE_KEY, "STRIPE_WEBHOOK_SECRET": f"{SECRET},{OLDER}"}
LIVE = SECRETS | {"STRIPE_SECRET_KEY": "sk_live_51StripeKeyOfNobodyAtAll"}
CLOCK = Clock()
NOW = CLOCK.now // 1000
ALONE = alone(stripe, SECRETS, CLOCK)
SESSION = {
    "id": "cs_1", "object": "checkout.session", "mode": "payment", "payment_status": "paid", "status": "complete",
    "amount_total": 10_000, "currency": "kes", "client_reference_id": "PHK7Q2M4", "payment_intent": "pi_1",
    "metadata": {"checkout_id": CHECKOUT},
}  # fmt: skip
CHARGE = {
    "id": "ch_1", "payment_intent": "pi_1", "amount": 10_000, "amount_refunded": 4_000, "refunded": False,
    "currency": "kes",
}  # fmt: skip
DISPUTE = {
    "id": "dp_1", "charge": "ch_1", "payment_intent": "pi_1", "amount": 10_000, "currency": "kes",
    "status": "needs_response",
}  # fmt: skip


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


def event(kind: str, found: Any, **more: Any) -> dict[str, Any]:
    """An event about this object."""
    told = {"id": "evt_1", "object": "event", "type": kind, "livemode": False, "created": NOW - 1}
    return told | {"data": {"object": found}} | more


def signed(body: bytes, secret: str = SECRET, at: int = NOW) -> dict[bytes, bytes]:
    """The header that Stripe's own library makes for this body."""
    return {b"stripe-signature": WebhookSignature.generate_signature_header(body.decode(), secret, at).encode()}


async def told(value: Any, gateway: Gateway = ALONE) -> Notice:
    """The notice of an event that Stripe signed."""
    body = content(value)
    (notice,) = (await received(gateway, signed(body), body)).notices
    return notice


# Asking for money


async def test_a_session_says_what_stripe_wants(here: World) -> None:
    """The price in Stripe's units, our code and id, where to come back to, and a key that makes it once."""
    begun_, started = await begun(here.make(stripe, SECRETS, return_url="https://shop.example/paid?lang=sw"))
    (asked,) = here.cards.requests
    assert asked.body == {
        "mode": "payment", "client_reference_id": "PHK7Q2M4", "metadata[checkout_id]": CHECKOUT,
        "line_items[0][quantity]": "1", "line_items[0][price_data][currency]": "kes",
        "line_items[0][price_data][unit_amount]": "10000",
        "line_items[0][price_data][product_data][name]": "10 credits",
        "success_url": f"https://shop.example/paid?lang=sw&checkout={CHECKOUT}&returned=done",
        "cancel_url": f"https://shop.example/paid?lang=sw&checkout={CHECKOUT}&returned=cancelled",
    }  # fmt: skip
    assert asked.headers["idempotency-key"] == CHECKOUT
    assert (started.state, started.query) == ("pending", True) and started.reference in here.cards.sessions
    assert started.redirect_url == here.cards.sessions[started.reference]["url"]
    await here.make(stripe, SECRETS).start(begun_, "token", None)
    assert len(here.cards.sessions) == 1
    assert here.cards.requests[1].body["success_url"].startswith(BACK + "?checkout=")


@pytest.mark.parametrize(("currency", "price", "units"), [
    ("KES", 10_000, "10000"), ("USD", 99, "99"), ("JPY", 500, "500"), ("RWF", 1_000, "1000"), ("UGX", 500, "50000"),
    ("ISK", 50_000, "50000"), ("MGA", 500_000, "5000"), ("KWD", 5_120, "5120"),
    ("KWD", 5_124, None), ("MGA", 550_050, None), ("KES", 0, None),
])  # fmt: skip
async def test_each_currency_in_its_units(here: World, currency: str, price: int, units: str | None) -> None:
    """As Stripe counts them, with its exceptions; what it cannot charge exactly is not asked for."""
    gateway = here.make(stripe, SECRETS)
    _, started = await begun(gateway, currency=currency, price=price)
    sent = [asked.body["line_items[0][price_data][unit_amount]"] for asked in here.cards.requests]
    assert sent == ([] if units is None else [units])
    assert gateway.takes(currency, price) is (units is not None) is (started.state == "pending")
    if units is not None:
        paid = SESSION | {"currency": currency.lower(), "amount_total": int(units)}
        said = (await told(event("checkout.session.completed", paid), gateway)).said
        assert isinstance(said, Paid) and (said.amount, said.currency) == (price, currency)


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_stripe_that_does_not_answer(here: World, fault: str) -> None:
    """The user gets a sentence within the time-out, and nobody a secret."""
    here.cards.fault = fault
    async with asyncio.timeout(8):
        _, started = await begun(here.make(stripe, SECRETS, timeout_seconds=1))
    assert (started.state, started.redirect_url, started.query) == ("failed", None, False)
    assert "Stripe" in started.message and len(here.cards.requests) == 1
    words = {"hang": "in time", "drip": "in time", "endless": "too long", "busy": "429", "moved": "302"}
    assert words.get(fault, "Stripe" if fault not in ("error_500", "wrong_key") else "status") in started.note
    assert STRIPE_KEY not in started.message + started.note


async def test_a_stripe_that_is_not_there(here: World) -> None:
    """Nothing listens."""
    _, started = await begun(here.make(stripe, SECRETS, base_url="http://127.0.0.1:1"))
    assert started.state == "failed" and "cannot be reached" in started.message


async def test_a_wrong_key_is_the_operators_to_know(here: World) -> None:
    """The user reads nothing of it, and the note nothing of the key."""
    _, started = await begun(here.make(stripe, SECRETS | {"STRIPE_SECRET_KEY": "sk_test_another"}))
    assert started.state == "failed" and "401" in started.note and "sk_test" not in started.note + started.message


@pytest.mark.parametrize("url", [None, 7, "javascript:alert(1)", "data:text/html,x", "https://x y", ""])
async def test_an_address_that_is_none(here: World, url: Any) -> None:
    """Nobody is sent there."""
    await begun(here.make(stripe, SECRETS))
    (session,) = here.cards.sessions.values()
    session["url"] = url
    _, started = await begun(here.make(stripe, SECRETS))
    assert (started.state, started.redirect_url) == ("failed", None)


# What events say

PAID = Paid("stripe", "cs_1", 10_000, "KES", link="pi_1", checkout_id=CHECKOUT, at=(NOW - 1) * 1000)
SAYS: list[tuple[str, dict[str, Any], Any]] = [
    ("checkout.session.completed", SESSION, PAID),
    ("checkout.session.completed", SESSION | {"payment_status": "unpaid"}, Pending(CHECKOUT)),
    ("checkout.session.completed", SESSION | {"payment_status": "no_payment_required"}, None),
    ("checkout.session.completed", SESSION | {"mode": "subscription"}, None),
    ("checkout.session.completed", SESSION | {"payment_status": "unpaid", "metadata": {}}, None),
    ("checkout.session.async_payment_succeeded", SESSION, PAID),
    ("checkout.session.async_payment_failed", SESSION | {"payment_status": "unpaid"},
     Failed(CHECKOUT, "The payment did not succeed.")),
    ("checkout.session.expired", SESSION | {"payment_status": "unpaid", "status": "expired"},
     Failed(CHECKOUT, "Stripe's page was not used in time.", expired=True)),
    ("checkout.session.expired", SESSION | {"metadata": {}}, None),
    ("charge.refunded", CHARGE, Refunded("stripe", "pi_1", 4_000, "KES")),
    ("charge.refunded", CHARGE | {"amount_refunded": 10_000, "refunded": True},
     Refunded("stripe", "pi_1", 10_000, "KES")),
    ("charge.refunded", CHARGE | {"payment_intent": None}, None),
    ("charge.refunded", CHARGE | {"amount_refunded": 0}, None),
    ("charge.dispute.created", DISPUTE, Disputed("stripe", "pi_1", "dp_1", "opened", 10_000)),
    ("charge.dispute.created", DISPUTE | {"status": "warning_needs_response"}, None),
    ("charge.dispute.created", DISPUTE | {"payment_intent": None}, None),
    ("charge.dispute.updated", DISPUTE, Disputed("stripe", "pi_1", "dp_1", "opened", 10_000)),
    ("charge.dispute.updated", DISPUTE | {"status": "won"}, None),
    ("charge.dispute.funds_withdrawn", DISPUTE, Disputed("stripe", "pi_1", "dp_1", "funds_withdrawn", 10_000)),
    ("charge.dispute.funds_reinstated", DISPUTE | {"status": "won"},
     Disputed("stripe", "pi_1", "dp_1", "funds_reinstated", 10_000)),
    ("charge.dispute.closed", DISPUTE | {"status": "lost"}, Disputed("stripe", "pi_1", "dp_1", "closed", 10_000)),
    ("charge.dispute.closed", DISPUTE | {"status": "warning_closed"}, None),
    ("customer.created", {"id": "cus_1"}, None),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "found", "said"), SAYS)
async def test_what_an_event_says(kind: str, found: dict[str, Any], said: Any) -> None:
    """In our words, or nothing; its id is its key, and it is kept either way."""
    notice = await told(event(kind, found))
    assert (notice.said, notice.key, notice.kind) == (said, "evt_1", kind)
    names_nobody(notice)


async def test_money_for_no_checkout_of_ours_is_not_lost() -> None:
    """It is said with the code, if there is one."""
    said = (await told(event("checkout.session.completed", SESSION | {"metadata": {}}))).said
    assert isinstance(said, Paid) and (said.checkout_id, said.code, said.typed) == (None, "PHK7Q2M4", False)


async def test_money_without_code_and_id_is_known_by_its_session() -> None:
    """Only then: a session of another name that carries our id still counts for it."""
    notice = await told(event("checkout.session.completed", SESSION | {"metadata": {}, "client_reference_id": None}))
    assert isinstance(notice.said, Paid) and notice.checkout_reference == notice.said.reference == "cs_1"
    for more in ({}, {"metadata": {}}, {"client_reference_id": None}, {"payment_status": "unpaid"}):
        assert (await told(event("checkout.session.completed", SESSION | more))).checkout_reference is None


@pytest.mark.parametrize("nothing", [0, "0"])
async def test_a_session_paid_with_nothing(nothing: Any) -> None:
    """Is told for a checkout of ours, which asked for more; for no checkout it means nothing."""
    notice = await told(event("checkout.session.completed", SESSION | {"amount_total": nothing}))
    assert notice.said == msgspec.structs.replace(PAID, amount=0)
    bare = await told(event("checkout.session.completed", SESSION | {"amount_total": nothing, "metadata": {}}))
    assert bare.said is None and bare.note


@pytest.mark.parametrize("change", [
    {"amount_total": False}, {"amount_total": -5}, {"amount_total": 10.5}, {"amount_total": "x"}, {"amount_total": []},
    {"amount_total": None}, {"amount_total": True}, {"amount_total": 10**30}, {"amount_total": 10**15 + 1},
    {"currency": "k"}, {"currency": None}, {"currency": 7},
    {"id": None}, {"id": "a b"}, {"id": ["cs_1"]}, {"currency": "ugx", "amount_total": 10_050},
])  # fmt: skip
async def test_a_payment_that_makes_no_sense(change: dict[str, Any]) -> None:
    """It is kept with a note, and mints nothing."""
    notice = await told(event("checkout.session.completed", SESSION | change))
    assert notice.said is None and notice.note


@pytest.mark.parametrize(("secrets", "mode", "counts"), [
    (SECRETS, {"livemode": False}, True), (SECRETS, {"livemode": True}, False), (LIVE, {"livemode": True}, True),
    (LIVE, {"livemode": False}, False), (LIVE, {"livemode": None}, False), (SECRETS, {"livemode": "false"}, False),
    (LIVE, {"livemode": "true"}, False), (LIVE, {"livemode": 1}, False), (SECRETS, {"livemode": 0}, False),
])  # fmt: skip
async def test_test_money_is_no_money(secrets: dict[str, str], mode: dict[str, Any], counts: bool) -> None:
    """The event's mode must be the key's; otherwise it is kept, under a key that does not stand in the way later."""
    notice = await told(event("checkout.session.completed", SESSION) | mode, alone(stripe, secrets, CLOCK))
    assert (notice.said is not None) is counts and bool(notice.note) is not counts
    assert notice.key == ("evt_1" if counts else "evt_1:mode")


async def test_an_event_without_a_mode_is_a_test() -> None:
    """With a live key it counts nothing."""
    bare = {name: value for name, value in event("charge.refunded", CHARGE).items() if name != "livemode"}
    assert (await told(bare)).said is not None
    assert (await told(bare, alone(stripe, LIVE, CLOCK))).said is None


async def test_what_stripe_sends_names_its_payer_and_we_do_not(here: World) -> None:
    """A whole session with a person in it becomes a payment without one."""
    _, started = await begun(here.make(stripe, SECRETS))
    paid = here.cards.stripe_pays(str(started.reference))
    notice = await told(event("checkout.session.completed", paid), here.make(stripe, SECRETS))
    assert isinstance(notice.said, Paid) and notice.said.link == f"pi_{started.reference}"
    names_nobody(notice)
    assert json.loads(notice.raw)["data"]["object"]["amount_total"] == 10_000


# Signatures

BODY = content(event("checkout.session.completed", SESSION))
GOOD = signed(BODY)[b"stripe-signature"]


@pytest.mark.parametrize("header", [
    GOOD, GOOD + b",v1=" + b"0" * 64, GOOD.replace(b",v1=", b",v1=" + b"0" * 64 + b",v1="), GOOD + b",v0=abc",
    b"scheme=x," + GOOD, signed(BODY, OLDER)[b"stripe-signature"], signed(BODY, at=NOW - 300)[b"stripe-signature"],
    signed(BODY, at=NOW + 300)[b"stripe-signature"],
])  # fmt: skip
async def test_a_good_signature(header: bytes) -> None:
    """By either secret, among others, and within five minutes either way."""
    ((notice),) = (await received(ALONE, {b"stripe-signature": header}, BODY)).notices
    assert notice.said == PAID


STAMP, _, HEX = GOOD.partition(b",v1=")
BAD = {
    "none": b"", "another secret": signed(BODY, "whsec_other")[b"stripe-signature"],
    "another body": signed(BODY + b" ")[b"stripe-signature"],
    "too old": signed(BODY, at=NOW - 301)[b"stripe-signature"],
    "from the future": signed(BODY, at=NOW + 301)[b"stripe-signature"],
    "far from the future": signed(BODY, at=10**11)[b"stripe-signature"],
    "no time": b"v1=" + HEX, "no signature": STAMP, "an empty signature": STAMP + b",v1=",
    "another scheme": STAMP + b",v0=" + HEX, "not ASCII": STAMP + ",v1=é".encode(),
    "not UTF-8": STAMP + b",v1=\xff\xfe",
    "a time that is none": b"t=now,v1=" + HEX, "a broken time": b"t=1.5,v1=" + HEX,
    "a negative time": b"t=-1,v1=" + HEX,
    "a time of other digits": "t=١٢٣,v1=".encode() + HEX,
    "a time with a sign": b"t=+" + str(NOW).encode() + b",v1=" + HEX,
    "an endless time": b"t=" + b"9" * 4000 + b",v1=" + HEX, "no fields": b"nonsense",
    "commas": b",,,,", "equals": b"====",
    "upper case": STAMP + b",v1=" + HEX.upper(), "spaces": GOOD.replace(b",", b", "), "cut short": GOOD[:-1],
    "too long": GOOD + b",v1=" + b"0" * SIGNATURE_BYTES_MAX,
    "the first of two times": b"t=" + str(NOW - 5).encode() + b"," + GOOD,
}  # fmt: skip


@pytest.mark.parametrize("header", BAD.values(), ids=BAD)
async def test_a_bad_signature(header: bytes) -> None:
    """401, whatever is wrong with it."""
    with pytest.raises(Unauthorized):
        await received(ALONE, {b"stripe-signature": header} if header else {}, BODY)


@pytest.mark.parametrize("body", [
    b"", b"not JSON", b"[]", b"[1]", b'"event"', b"null", b"7", b"\xff\xfe", b"{}", b'{"id":7}', b'{"id":"evt_1"}',
    b'{"type":"charge.refunded"}', b'{"id":"","type":"x"}', b'{"id":"evt 1","type":"x"}', b"[" * 5_000,
    b'{"id":"\\ud800","type":"x"}', b'{"id":"evt_1","type":["x"]}', b'{"a":1e999999999}',
])  # fmt: skip
async def test_a_signed_body_that_is_no_event(body: bytes) -> None:
    """It is authentic, so it is kept: once, by its digest."""
    digest = hmac.new(SECRET.encode(), f"{NOW}.".encode() + body, hashlib.sha256).hexdigest()  # also of what is no text
    header = {b"stripe-signature": f"t={NOW},v1={digest}".encode()}
    ((notice),) = (await received(ALONE, header, body)).notices
    assert notice.said is None and notice.key == f"unreadable:{hashlib.sha256(body).hexdigest()}" and notice.note


@pytest.mark.parametrize("data", [None, 7, [], {}, {"object": None}, {"object": [1]}, {"object": "x"}, {"object": {}}])
@pytest.mark.parametrize("kind", sorted({kind for kind, _, _ in SAYS}))
async def test_an_event_without_its_object(kind: str, data: Any) -> None:
    """It says nothing."""
    assert (await told(event(kind, None) | {"data": data})).said is None


@pytest.mark.parametrize("depth", [30, 300, 600, 900, 3_000])
@pytest.mark.parametrize(("opens", "closes"), [('{"data":', "}"), ("[", "]")])
async def test_an_event_of_any_depth(depth: int, opens: str, closes: str) -> None:
    """It is kept as far down as it makes sense, or by its digest."""
    body = f'{{"id":"evt_1","type":"x","data":{opens * depth}1{closes * depth}}}'.encode()
    notice = await told(body)
    assert notice.said is None and len(notice.raw) < 1_000


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200) | st.sampled_from(sorted(BAD.values())), st.binary(max_size=300) | st.just(BODY))
def test_whatever_a_stranger_sends(header: bytes, body: bytes) -> None:
    """It is refused, and nothing else happens."""
    try:
        at_once(received(ALONE, {b"stripe-signature": header}, body))
    except Unauthorized:
        return
    raise AssertionError("a stranger was let in")


FIELDS = sorted({*SESSION, *CHARGE, *DISPUTE})


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(sorted({kind for kind, _, _ in SAYS})),
    st.dictionaries(st.sampled_from(FIELDS), anything(FIELDS)),
)
def test_whatever_is_signed(kind: str, found: dict[str, Any]) -> None:
    """It becomes a notice with a key that fits, whatever its values are."""
    notice = at_once(told(event(kind, SESSION | found)))
    assert notice.key == "evt_1" and len(notice.raw) < 70_000 and json.loads(notice.raw)


# Asking what became of it


@pytest.mark.parametrize(("change", "said"), [
    ({}, Pending(CHECKOUT)), ({"status": "expired"}, Failed(CHECKOUT, "Stripe's page was not used in time.", True)),
    ({"status": "complete", "payment_status": "unpaid"}, Pending(CHECKOUT)),
])  # fmt: skip
async def test_ask(here: World, change: dict[str, Any], said: Any) -> None:
    """A session that is open, expired, or waits for its money."""
    gateway = here.make(stripe, SECRETS)
    about, started = await begun(gateway)
    here.cards.sessions[str(started.reference)] |= change
    notice = await gateway.ask(about)
    assert notice is not None and notice.said == said


async def test_a_lost_event_is_found_by_asking(here: World) -> None:
    """The same payment by the same reference, so that it counts once."""
    gateway = here.make(stripe, SECRETS)
    about, started = await begun(gateway)
    paid = here.cards.stripe_pays(str(started.reference))
    notice = await gateway.ask(about)
    assert notice is not None and isinstance(notice.said, Paid)
    heard = (await told(event("checkout.session.completed", paid), gateway)).said
    assert isinstance(heard, Paid) and (heard.reference, heard.link) == (notice.said.reference, notice.said.link)
    names_nobody(notice)
    again = await gateway.ask(about)
    assert again == notice


async def test_each_answer_that_it_is_pending_is_another(here: World) -> None:
    """Otherwise the next question would be put off by the memory of the first."""
    gateway = here.make(stripe, SECRETS)
    about, _ = await begun(gateway)
    keys = {(await gateway.ask(checkout(gateway_reference=about.gateway_reference, asked=n))).key for n in range(3)}
    assert len(keys) == 3


async def test_an_answer_about_another_session_is_none(here: World) -> None:
    """Whatever it says."""
    gateway = here.make(stripe, SECRETS)
    about, started = await begun(gateway)
    here.cards.stripe_pays(str(started.reference), id="cs_another")
    assert await gateway.ask(about) is None


@pytest.mark.parametrize("fault", FAULTS)
async def test_asking_a_stripe_that_does_not_answer(here: World, fault: str) -> None:
    """Nothing is known, and nothing is raised."""
    gateway = here.make(stripe, SECRETS, timeout_seconds=1)
    about, _ = await begun(gateway)
    here.cards.fault = fault
    assert await gateway.ask(about) is None


@pytest.mark.parametrize("reference", [None, "", "cs_nobody", "../x", "cs_1/../..", "a b", "é", "cs_1?x=1", "cs_1#x"])
async def test_asking_about_what_is_not_there(here: World, reference: str | None) -> None:
    """No session, or nothing that could be one's id."""
    assert await here.make(stripe, SECRETS).ask(checkout(gateway_reference=reference)) is None
    assert len(here.cards.requests) == (reference == "cs_nobody")


# Settings


def test_settings_have_their_limits() -> None:
    """Each wrong one gets a sentence."""
    bad = StripeSettings("ftp://x", return_url="shop", timeout_seconds=0)
    assert len(bad.problems("http://pay.example")) == 4
    assert StripeSettings().problems("https://pay.example") == []
    assert StripeSettings("http://127.0.0.1:9", return_url="shop://paid").problems("http://localhost:8787") == []


@pytest.mark.parametrize(("secrets", "count"), [
    (SECRETS, 0), ({}, 2), ({"STRIPE_SECRET_KEY": " ", "STRIPE_WEBHOOK_SECRET": ","}, 2),
    (SECRETS | {"STRIPE_SECRET_KEY": "rk_live_restricted"}, 1), (SECRETS | {"STRIPE_SECRET_KEY": "pk_live_x"}, 1),
])  # fmt: skip
def test_secrets_are_looked_at(secrets: dict[str, str], count: int) -> None:
    """And never shown."""
    found = secret_problems(secrets)
    assert len(found) == count and not any(value.strip(" ,") and value in str(found) for value in secrets.values())


async def test_no_secret_is_ever_said() -> None:
    """Not in a refusal, not by looking at the gateway."""
    shown = [repr(ALONE), str(ALONE), repr(ALONE._api), repr(StripeSettings())]
    for header in BAD.values():
        try:
            await received(ALONE, {b"stripe-signature": header}, BODY)
        except PluctError as error:
            shown += [repr(error), error.sentence]
    for secret in (SECRET, OLDER, STRIPE_KEY):
        assert not any(secret in text for text in shown)
