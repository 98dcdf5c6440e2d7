"""Flutterwave: two signatures of which one is accepted, and no payment counts that Flutterwave does not confirm."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from decimal import Decimal
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
from doubles.cards import FAULTS, FLUTTERWAVE_KEY
from pluct.errors import PluctError, Unauthorized, Unavailable
from pluct.gateways import Failed, Gateway, Notice, Paid, Pending, flutterwave
from pluct.gateways.flutterwave import FlutterwaveSettings, secret_problems
from pluct.gateways.reading import decoded, major

pytestmark = pytest.mark.anyio

HASH, OLDER = "a-hash-from-the-dashboard", "the-hash-before-it"
SECRETS = {"FLUTTERWAVE_SECRET_KEY": FLUTTERWAVE_KEY, "FLUTTERWAVE_SECRET_HASH": f"{HASH},{OLDER}"}
V3, V4 = (alone(flutterwave, SECRETS, Clock(), signature=version) for version in ("v3", "v4"))
AT = 1_795_332_615_000  # 2026-11-22T07:30:15Z


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


def signed(version: str, body: bytes, secret: str = HASH) -> dict[bytes, bytes]:
    """The header that Flutterwave sends with this body."""
    if version == "v3":
        return {b"verif-hash": secret.encode()}
    digest = hmac.new(secret.encode(), body, hashlib.sha256).digest()
    return {b"flutterwave-signature": base64.b64encode(digest)}


async def told(gateway: Gateway, data: Any, version: str = "v3", kind: str = "charge.completed") -> Notice:
    """The notice of an event that Flutterwave signed, which names nobody."""
    body = content({"event" if version == "v3" else "type": kind, "data": data})
    (notice,) = (await received(gateway, signed(version, body), body)).notices
    names_nobody(notice)
    return notice


# Asking for money


async def test_a_page_says_what_flutterwave_wants(here: World) -> None:
    """Whole units and parts, our id as its reference, and an address, which Flutterwave insists on."""
    _, started = await begun(here.make(flutterwave, SECRETS, return_url="https://shop.example/back"))
    (asked,) = here.cards.requests
    assert asked.body == {
        "tx_ref": CHECKOUT, "amount": "100.00", "currency": "KES",
        "redirect_url": f"https://shop.example/back?checkout={CHECKOUT}",
        "customer": {"email": "phk7q2m4@pay.example"}, "customizations": {"title": "10 credits"},
        "meta": {"checkout_id": CHECKOUT, "payment_code": "PHK7Q2M4"},
    }  # fmt: skip
    assert (started.state, started.reference, started.query) == ("pending", CHECKOUT, True)
    assert str(started.redirect_url).startswith("https://checkout.flutterwave.example/")


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_flutterwave_that_does_not_answer(here: World, fault: str) -> None:
    """A sentence for the user, within the time-out."""
    here.cards.fault = fault
    async with asyncio.timeout(8):
        _, started = await begun(here.make(flutterwave, SECRETS, timeout_seconds=1))
    assert (started.state, started.redirect_url, len(here.cards.requests)) == ("failed", None, 1)
    assert "Flutterwave" in started.message and started.note and FLUTTERWAVE_KEY not in started.message + started.note


async def test_a_page_that_is_refused(here: World) -> None:
    """The reason is the operator's to know."""
    gateway = here.make(flutterwave, SECRETS | {"FLUTTERWAVE_SECRET_KEY": "another"})
    _, started = await begun(gateway)
    assert started.state == "failed" and "401" in started.note and FLUTTERWAVE_KEY not in started.note
    assert gateway.takes("KES", 10_000) and not gateway.takes("KES", 0)


# Money in


@pytest.mark.parametrize(("version", "charges"), [("v3", False), ("v4", True), ("v4", False)])
async def test_a_payment_is_confirmed_before_it_counts(here: World, version: str, charges: bool) -> None:
    """By what Flutterwave answers; the older signature proves nothing about the body."""
    here.cards.charges_only = charges
    gateway = here.make(flutterwave, SECRETS, signature=version)
    fact = here.cards.flutterwave_pays(CHECKOUT)
    lie = fact | {"amount": 9_999, "currency": "USD", "tx_ref": "another", "reference": "another"}
    notice = await told(gateway, lie, version)
    assert notice.said == Paid("flutterwave", str(fact["id"]), 10_000, "KES", checkout_id=CHECKOUT, at=AT)
    assert await told(gateway, lie, version) == notice


@pytest.mark.parametrize(("amount", "minor"), [
    (100, 10_000), (100.0, 10_000), (100.5, 10_050), (0.1, 10), ("100.50", 10_050), (1e2, 10_000),
    (100.001, None), (0, None), (-5, None), (1e300, None), (None, None), (True, None), ("1e2", None), ([100], None),
])  # fmt: skip
async def test_amounts_are_exact(here: World, amount: Any, minor: int | None) -> None:
    """Whole units become minor units without a float in between, or nothing."""
    fact = here.cards.flutterwave_pays(CHECKOUT, amount)
    notice = await told(here.make(flutterwave, SECRETS), fact)
    assert (notice.said.amount if isinstance(notice.said, Paid) else None) == minor
    assert bool(notice.note) is (minor is None)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 10**12))
def test_every_amount_of_cents_comes_back(cents: int) -> None:
    """As Flutterwave writes it."""
    assert major(decoded(str(Decimal(cents) / 100).encode()), "KES") == cents


@pytest.mark.parametrize(("version", "status", "said"), [
    ("v3", "failed", Failed(CHECKOUT, "The payment did not succeed.")), ("v3", "pending", Pending(CHECKOUT)),
    ("v3", "succeeded", None), ("v3", "SUCCESSFUL", None), ("v3", None, None), ("v3", ["successful"], None),
    ("v4", "failed", Failed(CHECKOUT, "The payment did not succeed.")), ("v4", "voided", None),
])  # fmt: skip
async def test_a_payment_that_flutterwave_does_not_confirm(here: World, version: str, status: Any, said: Any) -> None:
    """Mints nothing, though the event says so, and does not stand in the way of a later one."""
    gateway = here.make(flutterwave, SECRETS, signature=version)
    here.cards.charges_only = version == "v4"
    fact = here.cards.flutterwave_pays(CHECKOUT, status=status)
    event = fact | {"status": "successful" if version == "v3" else "succeeded"}
    notice = await told(gateway, event, version)
    assert notice.said == said
    fact["status"] = event["status"]
    here.cards.payments[str(fact["id"])] |= {"status": event["status"]}
    later = await told(gateway, event, version)
    assert isinstance(later.said, Paid) and later.key != notice.key


async def test_one_page_paid_twice_is_two_payments(here: World) -> None:
    """Of one checkout; the second is real money too."""
    gateway = here.make(flutterwave, SECRETS)
    said = [(await told(gateway, here.cards.flutterwave_pays(CHECKOUT))).said for _ in range(2)]
    assert [one.checkout_id for one in said if isinstance(one, Paid)] == [CHECKOUT] * 2
    assert len({one.reference for one in said if isinstance(one, Paid)}) == 2


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_payment_that_cannot_be_confirmed_now(here: World, fault: str) -> None:
    """Flutterwave is to send it again."""
    gateway = here.make(flutterwave, SECRETS, timeout_seconds=1)
    fact = here.cards.flutterwave_pays(CHECKOUT)
    here.cards.fault = fault
    with pytest.raises(Unavailable) as refusal:
        await told(gateway, fact)
    assert "again" in refusal.value.sentence and FLUTTERWAVE_KEY not in refusal.value.sentence
    here.cards.fault = None
    here.cards.released.set()
    assert isinstance((await told(gateway, fact)).said, Paid)


@pytest.mark.parametrize(
    "identity", [404, "404", "..", "../payments", "a/b", "", None, "a b", "x" * 101, "é", ["x"], {}]
)
@pytest.mark.parametrize("version", ["v3", "v4"])
async def test_a_payment_that_flutterwave_does_not_know(here: World, identity: Any, version: str) -> None:
    """Is kept, and says nothing; what cannot be an id is not asked for."""
    gateway = here.make(flutterwave, SECRETS, signature=version)
    notice = await told(gateway, {"id": identity, "tx_ref": CHECKOUT, "status": "successful", "amount": 100}, version)
    assert notice.said is None
    assert len(here.cards.requests) == (len(gateway._words.paths) if identity in (404, "404") else 0)


async def test_an_answer_about_another_payment_is_none(here: World) -> None:
    """Whatever the path was."""
    gateway = here.make(flutterwave, SECRETS)
    fact = here.cards.flutterwave_pays(CHECKOUT)
    here.cards.payments["7"] = fact
    assert (await told(gateway, {"id": 7})).said is None
    here.cards.payments["7"] = {each: value for each, value in fact.items() if each != "id"}
    assert isinstance((await told(gateway, {"id": 7})).said, Paid)  # it need not repeat the question
    here.cards.payments["7"] = {}
    assert (await told(gateway, {"id": 7})).said is None


@pytest.mark.parametrize("kind", ["transfer.completed", "refund.completed", "x" * 200])
async def test_other_events_are_kept(kind: str) -> None:
    """Nobody is asked; their keys fit."""
    notice = await told(V3, {"id": 7}, kind=kind)
    assert notice.said is None and notice.kind == kind and len(notice.key) <= 200


# Signatures

BODY = content({"event": "transfer.completed", "type": "transfer.completed", "data": {"id": 7}})
GOOD_3, GOOD_4 = signed("v3", BODY), signed("v4", BODY)
B64 = GOOD_4[b"flutterwave-signature"]


@pytest.mark.parametrize(("gateway", "headers"), [
    (V3, GOOD_3), (V4, GOOD_4), (V3, signed("v3", BODY, OLDER)), (V4, signed("v4", BODY, OLDER)), (V3, GOOD_3 | GOOD_4),
])  # fmt: skip
async def test_a_good_signature(gateway: Gateway, headers: dict[bytes, bytes]) -> None:
    """Of the version that is set, by either secret."""
    assert (await received(gateway, headers, BODY)).notices


BAD: list[tuple[Any, dict[bytes, bytes]]] = [
    (V3, {}), (V3, GOOD_4), (V4, {}), (V4, GOOD_3), (V4, {b"flutterwave-signature": HASH.encode()}),
    (V3, {b"verif-hash": B64}), (V3, {b"verif-hash": b""}), (V3, {b"verif-hash": HASH.upper().encode()}),
    (V3, {b"verif-hash": f"{HASH},{OLDER}".encode()}), (V3, {b"verif-hash": HASH[:-1].encode()}),
    (V3, {b"verif-hash": "é".encode()}), (V3, {b"verif-hash": b"\xff"}), (V3, {b"verif-hash": b"x" * 5_000}),
    (V4, {b"flutterwave-signature": b""}), (V4, {b"flutterwave-signature": B64[:-1]}),
    (V4, {b"flutterwave-signature": base64.b64decode(B64).hex().encode()}), (V4, {b"flutterwave-signature": b"\xff"}),
    (V4, signed("v4", BODY + b" ")), (V4, signed("v4", BODY, "other")), (V3, signed("v3", BODY, "other")),
]  # fmt: skip


@pytest.mark.parametrize(("gateway", "headers"), BAD)
async def test_a_bad_signature(gateway: Gateway, headers: dict[bytes, bytes]) -> None:
    """401; the other version's signature is one of them."""
    with pytest.raises(Unauthorized):
        await received(gateway, headers, BODY)


@pytest.mark.parametrize("body", [
    b"", b"not JSON", b"[]", b"null", b"\xff\xfe", b"{}", b'{"event":null}', b'{"event":["x"]}', b"[" * 5_000,
])  # fmt: skip
@pytest.mark.parametrize("version", ["v3", "v4"])
async def test_a_signed_body_that_is_no_event(version: str, body: bytes) -> None:
    """Is kept, once."""
    (notice,) = (await received(V3 if version == "v3" else V4, signed(version, body), body)).notices
    assert notice.said is None and notice.key == f"unreadable:{hashlib.sha256(body).hexdigest()}"


@settings(max_examples=100, deadline=None)
@given(st.booleans(), st.binary(max_size=100), st.binary(max_size=200) | st.just(BODY))
def test_whatever_a_stranger_sends(newer: bool, header: bytes, body: bytes) -> None:
    """It is refused."""
    headers = {b"verif-hash": header, b"flutterwave-signature": header}
    with pytest.raises(Unauthorized):
        at_once(received(V4 if newer else V3, headers, body))


FIELDS = ["id", "tx_ref", "reference", "amount", "currency", "status", "data", "created_at", "meta"]


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["charge.completed", "x"]), anything(FIELDS), st.booleans())
def test_whatever_is_signed(kind: str, found: Any, newer: bool) -> None:
    """Becomes a notice, or is to come again: here nobody can be asked."""
    version = "v4" if newer else "v3"
    body = content({"event": kind, "data": found})
    nobody = alone(flutterwave, SECRETS, Clock(), base_url="http://127.0.0.1:1", signature=version)
    try:
        (notice,) = asyncio.run(received(nobody, signed(version, body), body)).notices
    except Unavailable:
        assert kind == "charge.completed"
        return
    assert len(notice.key) <= 200 and json.loads(notice.raw)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), anything(FIELDS)))
def test_whatever_flutterwave_answers(found: dict[str, Any]) -> None:
    """It says money only with an amount, and never raises."""
    said, note = V3._outcome(decoded(content(found)), "7")
    assert said is not None or note
    assert not isinstance(said, Paid) or (said.amount is not None and said.amount > 0)


# Asking what became of it


async def test_a_lost_event_is_found_by_asking(here: World) -> None:
    """The same payment by the same reference."""
    gateway = here.make(flutterwave, SECRETS)
    about, _ = await begun(gateway)
    assert await gateway.ask(about) is None
    fact = here.cards.flutterwave_pays(CHECKOUT, status="pending")
    asked = [await gateway.ask(each) for each in (about, checkout(asked=1))]
    assert [notice.said for notice in asked if notice] == [Pending(CHECKOUT)] * 2
    assert len({notice.key for notice in asked if notice}) == 2
    fact["status"] = "successful"
    here.cards.payments[str(fact["id"])] = fact
    notice = await gateway.ask(about)
    assert notice is not None and notice.said == (await told(gateway, fact)).said
    names_nobody(notice)


@pytest.mark.parametrize("fault", FAULTS)
async def test_asking_a_flutterwave_that_does_not_answer(here: World, fault: str) -> None:
    """Nothing is known, and nothing raised."""
    here.cards.flutterwave_pays(CHECKOUT)
    here.cards.fault = fault
    assert await here.make(flutterwave, SECRETS, timeout_seconds=1).ask(checkout()) is None


async def test_an_answer_about_another_checkout_is_none(here: World) -> None:
    """Flutterwave was asked for ours."""
    here.cards.careless = True
    here.cards.flutterwave_pays("another")
    assert await here.make(flutterwave, SECRETS).ask(checkout()) is None


# Settings


@pytest.mark.parametrize(("secrets", "count"), [
    (SECRETS, 0), ({}, 2), ({"FLUTTERWAVE_SECRET_KEY": "x", "FLUTTERWAVE_SECRET_HASH": " , "}, 1),
])  # fmt: skip
def test_secrets_are_looked_at(secrets: dict[str, str], count: int) -> None:
    """An empty one would equal an empty header."""
    assert len(secret_problems(secrets)) == count


async def test_no_secret_is_ever_said() -> None:
    """Not in a refusal, not by looking at the gateway."""
    shown = [repr(V3), repr(V4._api), repr(FlutterwaveSettings())]
    for gateway, headers in BAD:
        try:
            await received(gateway, headers, BODY)
        except PluctError as error:
            shown += [repr(error), error.sentence]
    assert not any(secret in text for secret in (HASH, OLDER, FLUTTERWAVE_KEY) for text in shown)
