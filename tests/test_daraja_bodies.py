"""M-Pesa: what the adapter reads in Daraja's bodies, whom it lets in, what it keeps of people, and its settings."""

import asyncio
import base64
import json
import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daraja_world import (
    CONFIRMING,
    HOOKS,
    PATH_TOKEN,
    PUSHED,
    SECRETS,
    TYPED,
    alone,
    checkout,
    pushed,
    receive,
    result,
    said,
)
from pluct.errors import RouteNotFound
from pluct.gateways import MPESA, Failed, Paid, Pending, Received, Refunded
from pluct.gateways.daraja import CONFIRMATION, RESULT, STK, VALIDATION
from pluct.gateways.daraja_api import decoded, harmless, minor, password, stamp, time_ms
from pluct.gateways.daraja_settings import DarajaSettings, next_query_at, secret_problems

pytestmark = pytest.mark.anyio


def test_the_documented_password() -> None:
    """Daraja's own page shows one that can be taken apart: shortcode, passkey, time."""
    documented = (
        "MTc0Mzc5YmZiMjc5ZjlhYTliZGJjZjE1OGU5N2RkNzFhNDY3Y2QyZTBjODkzMDU5YjEwZjc4ZTZiNzJhZGExZWQyYzkxOTIw"
        "MjEwNjI4MDkyNDA4"
    )
    passkey = base64.b64decode(documented).decode()[6:-14]
    assert len(passkey) == 64
    assert password("174379", passkey, "20210628092408") == documented


async def test_the_documented_bodies() -> None:
    """As Daraja's pages and their readers have them."""
    at = 1_795_332_615_000
    assert await said(STK, pushed()) == Paid(
        MPESA, "TKM1ABC234", 10_000, "KES", checkout_id="ctoken", phone="254700000001", at=at
    )
    assert await said(
        STK, {"Body": {"stkCallback": PUSHED | {"ResultCode": 1032, "CallbackMetadata": None}}}
    ) == Failed("ctoken", "The M-Pesa prompt was cancelled.")
    assert await said(CONFIRMATION, TYPED) == Paid(
        MPESA, "TKM1ABC234", 10_000, "KES", code="plk7q2m4 ", typed=True, phone="2547*****126", at=at
    )
    status = [
        {"Key": "TransactionStatus", "Value": "Completed"}, {"Key": "Amount", "Value": "100"},
        {"Key": "ReceiptNo", "Value": "TKM1ABC234"}, {"Key": "TransactionReason"},
    ]  # fmt: skip
    assert await said(RESULT, result(status)) == Paid(MPESA, "TKM1ABC234", 10_000, "KES", typed=True)


@pytest.mark.parametrize(
    ("more", "kind"),
    [
        ({"ResultCode": "0"}, Paid),
        ({"ResultCode": False}, None),
        ({"ResultCode": 0.0}, None),
        ({"ResultCode": None}, None),
        ({"ResultCode": "1037"}, Failed),
        ({"ResultCode": "no such code"}, Failed),
        ({"ResultCode": 4999}, Pending),
        ({"CheckoutRequestID": "ws_CO_2"}, None),
        ({"CheckoutRequestID": None}, None),
        ({"CallbackMetadata": None}, None),
        ({"CallbackMetadata": {"Item": {"Name": "Amount", "Value": 1}}}, None),
        ({"CallbackMetadata": {"Item": [*PUSHED["CallbackMetadata"]["Item"][1:]]}}, None),
    ],
)
async def test_a_push_is_paid_only_if_all_of_it_says_so(more: dict[str, Any], kind: type | None) -> None:
    """A zero, a receipt, an amount, and the push that was asked for."""
    got = await said(STK, pushed(**more))
    assert (got is None) if kind is None else isinstance(got, kind)


async def test_a_lacking_balance_and_repeated_names() -> None:
    """Items are found by their names; the first that has a value counts."""
    items = [{"Name": "Balance"}, {"Name": "Amount"}, *PUSHED["CallbackMetadata"]["Item"]]
    got = await said(STK, pushed(CallbackMetadata={"Item": [*items, {"Name": "Amount", "Value": 7}]}))
    assert isinstance(got, Paid) and got.amount == 10_000


@pytest.mark.parametrize("code", [0, "0"])
async def test_a_reversal_takes_everything_back(code: Any) -> None:
    """By the receipt of the payment, not its own."""
    values = [{"Key": "Amount", "Value": 100}, {"Key": "OriginalTransactionID", "Value": "tkm1abc234"}]
    assert await said(RESULT, result(values, code)) == Refunded(MPESA, "TKM1ABC234", None)


async def test_a_reversal_that_did_not_happen() -> None:
    """Says nothing, in either shape."""
    values = [{"Key": "OriginalTransactionID", "Value": "TKM1ABC234"}]
    for body in (result(values, "R000001"), result([], "R000002"), {"Result": {"ResultCode": "R000002"}}):
        (notice,) = (await receive(alone(), RESULT, body)).notices
        assert notice.said is None and notice.note


@pytest.mark.parametrize("status", ["Declined", "Pending", "Reversed", ""])
async def test_only_a_completed_transaction_is_confirmed(status: str) -> None:
    """Anything else leaves the payment where it is."""
    values = [{"Key": "TransactionStatus", "Value": status}, {"Key": "Amount", "Value": 1}]
    assert await said(RESULT, result([*values, {"Key": "ReceiptNo", "Value": "TKM1ABC234"}])) is None


@pytest.mark.parametrize(
    ("party", "ours"),
    [("174379 - Pluct", True), ("254700000001 - JANE", False), ("600000 - Other", False), ("?", True)],
)
async def test_only_a_payment_to_us_is_confirmed(party: str, ours: bool) -> None:
    """What we paid out has a receipt and is completed too."""
    values = [{"Key": "TransactionStatus", "Value": "Completed"}, {"Key": "Amount", "Value": 1}]
    values += [{"Key": "ReceiptNo", "Value": "TKM1ABC234"}, {"Key": "CreditPartyName", "Value": party}]
    assert isinstance(await said(RESULT, result(values)), Paid) == ours


@pytest.mark.parametrize(
    ("more", "answer"),
    [
        ({}, "0"),
        ({"BillRefNumber": ""}, "0"),
        ({"BusinessShortCode": "1", "MSISDN": None}, "0"),
        ({"TransAmount": "-5"}, "C2B00013"),
        ({"TransAmount": "many"}, "C2B00013"),
        ({"TransID": ""}, "C2B00016"),
    ],
)
async def test_validation_takes_what_is_well_formed(more: dict[str, str], answer: str) -> None:
    """Known account or not; and it never says anything to the ledger."""
    received = await receive(alone(), VALIDATION, TYPED | {"OrgAccountBalance": ""} | more)
    assert received.notices == () and received.answer["ResultCode"] == answer


async def test_one_key_for_the_same_facts_only() -> None:
    """Resent: the same. Another amount under the same receipt: another, so that it is looked at."""

    async def key(hook: str, body: Any) -> str:
        return (await receive(alone(), hook, body)).notices[0].key

    assert await key(CONFIRMATION, TYPED) == await key(CONFIRMATION, TYPED | {"OrgAccountBalance": "1"})
    assert await key(CONFIRMATION, TYPED) != await key(CONFIRMATION, TYPED | {"TransAmount": "101"})
    assert await key(STK, pushed(ResultCode=1)) != await key(STK, pushed()) != await key(CONFIRMATION, TYPED)


# Who is let in


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("token", ["", "x", PATH_TOKEN[:-1], PATH_TOKEN + "0", PATH_TOKEN.upper(), "é", "\ud800"])
async def test_an_unknown_token_is_nowhere(hook: str, token: str) -> None:
    """Nothing is read of what it brings."""
    with pytest.raises(RouteNotFound):
        await receive(alone(), hook, b"\xff" * 70_000, token, by_token=None)


async def test_a_token_is_good_for_its_own_hooks() -> None:
    """The path token opens no checkout, a checkout's token no C2B, another gateway's checkout nothing."""
    for hook, token, known in (
        (STK, PATH_TOKEN, None), (CONFIRMATION, "token", checkout()), (STK, "token", checkout(gateway="stripe")),
        ("/elsewhere", PATH_TOKEN, None),
    ):  # fmt: skip
        with pytest.raises(RouteNotFound):
            await receive(alone(), hook, TYPED, token, by_token=known)


async def test_a_path_token_can_be_changed() -> None:
    """Several are good; the first is the one that is registered."""
    gateway = alone(words=SECRETS | {"DARAJA_PATH_TOKEN": f"{'ab' * 16}, {PATH_TOKEN}"})
    for token in ("ab" * 16, PATH_TOKEN):
        assert (await receive(gateway, CONFIRMATION, TYPED, token)).notices
    with pytest.raises(RouteNotFound):
        await receive(gateway, CONFIRMATION, TYPED, "")


@pytest.mark.parametrize(
    ("address", "let_in"),
    [
        ("196.201.214.200", True), ("::ffff:196.201.214.200", True), ("10.1.2.3", True), ("196.201.214.201", False),
        ("::1", False), ("", False), ("unix:", False), ("196.201.214.200, 10.0.0.1", False),
    ],
)  # fmt: skip
async def test_addresses_that_are_not_safaricoms(address: str, let_in: bool) -> None:
    """Are told so if they know the token, and are not read; without a list all are let in."""
    gateway = alone(DarajaSettings(allowed_ips=("196.201.214.200", "10.0.0.0/8")))
    for hook in HOOKS:
        assert await receive(alone(), hook, TYPED, address=address)
        if let_in:
            assert await receive(gateway, hook, TYPED, address=address)
        else:
            with pytest.raises(RouteNotFound, match="allowed_ips"):
                await receive(gateway, hook, TYPED, address=address)


# Hostile bodies, and what is kept of people

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner), max_leaves=20
)
quick = settings(deadline=None, suppress_health_check=list(HealthCheck))


def spoil(body: Any, path: list[int], value: Any) -> Any:
    """The body with one part of it replaced."""
    if not path or not isinstance(body, dict | list) or not body:
        return value
    at = path[0] % len(body)
    if isinstance(body, list):
        return [spoil(item, path[1:], value) if n == at else item for n, item in enumerate(body)]
    return {key: spoil(item, path[1:], value) if n == at else item for n, (key, item) in enumerate(body.items())}


SAMPLES: list[tuple[str, Any]] = [
    (STK, pushed()),
    (CONFIRMATION, TYPED),
    (VALIDATION, TYPED),
    (RESULT, result([{"Key": "ReceiptNo", "Value": "TKM1ABC234"}, {"Key": "TransactionStatus", "Value": "Completed"}])),
]


def sound(hook: str, received: Received) -> None:
    """An answer that Daraja understands, and notices that can be stored."""
    assert isinstance(received.answer, dict) and "ResultCode" in received.answer
    assert len(received.notices) <= 1
    for notice in received.notices:
        json.loads(notice.raw)
        assert len(notice.key) < 80 and len(notice.note) < 400 and notice.kind
        if isinstance(notice.said, Paid):
            assert notice.said.amount is not None and notice.said.amount > 0 and notice.said.reference
            assert hook != VALIDATION


@quick
@given(st.sampled_from(HOOKS), st.binary(max_size=200) | anything.map(lambda value: json.dumps(value).encode()))
def test_any_body_is_answered(hook: str, body: bytes) -> None:
    """Bytes, or JSON of any shape: no exception, and nothing is paid by it."""
    received = asyncio.run(receive(alone(), hook, body))
    sound(hook, received)
    assert not any(isinstance(notice.said, Paid | Refunded) for notice in received.notices)


@quick
@given(st.sampled_from(SAMPLES), st.lists(st.integers(0, 20), max_size=6), anything)
def test_a_spoilt_body_is_answered(sample: tuple[str, Any], path: list[int], value: Any) -> None:
    """A documented one with any part of it replaced by anything."""
    hook, body = sample
    sound(hook, asyncio.run(receive(alone(), hook, spoil(body, path, value))))


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 60_000, b'{"a":' * 10_000, b'{"TransAmount":1e999999999,"TransID":"A"}', b"9" * 60_000,
        b'{"TransAmount":1e-999999999,"TransID":"A"}', b'{"TransAmount":1e99999999999999999999}',
        b'{"TransID":"\\ud800"}',
        b'{"TransAmount":NaN,"TransID":"A"}', b"\x00", b"", b"null", b'{"Body":{"stkCallback":[]}}', b"\xef\xbb\xbf{}",
        b'{"Result":{"ResultParameters":{"ResultParameter":"x"},"ResultCode":[]}}', b'{"Result":' + b"9" * 5000 + b"}",
    ],
)  # fmt: skip
async def test_poison(body: bytes) -> None:
    """Depth, size, exponents, halves of surrogates."""
    for hook in HOOKS:
        received = await receive(alone(), hook, body)
        sound(hook, received)
        assert all(notice.said is None for notice in received.notices)


@pytest.mark.parametrize(
    ("value", "amount"),
    [
        (b"100", 10_000), (b"100.0", 10_000), (b'"100.00"', 10_000), (b"0.1", 10), (b"100.05", 10_005),
        (b"1e2", 10_000),
        (b'"1,000.00"', None), (b"0", None), (b"-1", None), (b"0.001", None), (b"true", None), (b"1e30", None),
        (b'""', None), (b"[]", None), (b"1E-999999999", None),
    ],
)  # fmt: skip
def test_amounts_are_exact(value: bytes, amount: int | None) -> None:
    """Decimal, never a float; what is no amount is none."""
    assert minor(decoded(value)) == amount


def test_an_amount_of_many_digits_takes_no_room() -> None:
    """A number that is short to write may be long to write out."""
    tracemalloc.start()
    try:
        assert minor(decoded(b"1E-90000000")) is minor(decoded(b"1E+90000000")) is None
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_others_words_are_made_harmless() -> None:
    """No phone number, nothing that looks like a secret, and not too much."""
    said = f"Invalid PhoneNumber 254712345678 or 0712345678 for {PATH_TOKEN}" + "!" * 300
    assert (
        harmless(said).startswith("Invalid PhoneNumber (phone) or (phone) for (hidden)!") and len(harmless(said)) == 200
    )


phones = st.from_regex(r"254[17][0-9]{8}", fullmatch=True)


@quick
@given(phones, st.sampled_from(["", "+", "0"]), st.sampled_from(["WANJIKU", "Otieno Ouma"]))
def test_nobody_is_named_in_what_is_kept(phone: str, prefix: str, name: str) -> None:
    """Neither number nor name, wherever Daraja puts them or people type them."""
    typed_phone = {"": phone, "+": "+" + phone, "0": "0" + phone[3:]}[prefix]
    people = {"FirstName": name, "MiddleName": name, "LastName": name, "MSISDN": phone, "BillRefNumber": typed_phone}
    items = [*PUSHED["CallbackMetadata"]["Item"][:4], {"Name": "PhoneNumber", "Value": int(phone)}]
    reference = f"ws_CO_22112026103015123{phone[3:]}"
    values = [
        {"Key": "DebitPartyName", "Value": f"{phone} - {name}"},
        {"Key": "CreditPartyPublicName", "Value": name},
        {"Key": "ReceiptNo", "Value": "TKM1ABC234"},
        {"Key": "Remarks", "Value": f"from {typed_phone}."},
    ]  # fmt: skip
    for hook, body in (
        (CONFIRMATION, TYPED | people),
        (CONFIRMATION, TYPED | people | {"BillRefNumber": phone[3:], "TransAmount": "x"}),
        (STK, pushed(CheckoutRequestID=reference, CallbackMetadata={"Item": items})),
        (STK, pushed(CheckoutRequestID=reference, ResultCode=1032, CallbackMetadata=None)),
        (RESULT, result(values)),
    ):
        (notice,) = asyncio.run(receive(alone(), hook, body)).notices
        kept = notice.raw + notice.note.encode() + notice.key.encode()
        assert phone[3:].encode() not in kept and name.encode() not in kept, kept
        if isinstance(notice.said, Paid) and notice.said.code is not None:
            assert phone[3:] not in notice.said.code


# Settings and times


def test_the_documented_table_is_sound() -> None:
    """The defaults, and a table as people write it."""
    assert DarajaSettings().problems("https://pay.example") == []
    table = {
        "base_url": "https://api.safaricom.co.ke", "shortcode": "174379", "till": True,
        "allowed_ips": ["196.201.214.200"],
        "confirm_above": "5000", "query_after_seconds": 75, "pull": False,
    }  # fmt: skip
    assert msgspec.convert(table, DarajaSettings).problems("http://localhost:8787") == []
    assert secret_problems(CONFIRMING) == []


@pytest.mark.parametrize(
    ("wrong", "url"),
    [
        ({"base_url": "http://api.example"}, "https://pay.example"),
        ({"base_url": "https://user:word@api.example"}, "https://pay.example"),
        ({"base_url": "https://[bad"}, "https://pay.example"),
        ({"shortcode": ""}, "https://pay.example"),
        ({"store_number": "x"}, "https://pay.example"),
        ({"allowed_ips": ("300.1.1.1",)}, "https://pay.example"),
        ({"confirm_above": "lots"}, "https://pay.example"),
        ({"query_after_seconds": 0}, "https://pay.example"),
        ({"timeout_seconds": 0}, "https://pay.example"),
        ({"utc_offset_hours": 99}, "https://pay.example"),
        ({}, ""),
        ({}, "http://pay.example"),
        ({}, "https://Mpesa.example"),
    ],
)
def test_each_wrong_setting_has_a_sentence(wrong: dict[str, Any], url: str) -> None:
    """One each."""
    assert len(DarajaSettings(**wrong).problems(url)) == 1


@pytest.mark.parametrize(
    ("wrong", "count"),
    [
        (dict.fromkeys(SECRETS, ""), 4),
        ({"DARAJA_PATH_TOKEN": "short"}, 1),
        ({"DARAJA_PATH_TOKEN": "0123456789abcdef/0123"}, 1),
        ({"DARAJA_PATH_TOKEN": "0123456789abcdefSQL"}, 1),
        ({"DARAJA_INITIATOR": "alone"}, 1),
    ],
)
def test_each_wrong_secret_has_a_sentence(wrong: dict[str, str], count: int) -> None:
    """Which does not repeat it."""
    found = secret_problems(SECRETS | wrong)
    assert len(found) == count and not any(value and value in " ".join(found) for value in wrong.values())


def test_questions_back_off() -> None:
    """75 seconds, then 2, 5 and 15 minutes; in proportion when the first is another; then no more."""
    assert [next_query_at(asked, 75) for asked in range(5)] == [75, 120, 300, 900, None]
    assert [next_query_at(asked, 1) for asked in range(5)] == [1, 2, 4, 12, None]


@pytest.mark.parametrize(
    ("written", "ms"),
    [
        (20261122103015, 1_795_332_615_000), ("20261122103015", 1_795_332_615_000),
        ("2026-11-22 10:30:15", 1_795_332_615_000), ("2026-11-22T07:30:15Z", 1_795_332_615_000),
        ("22.11.2026 10:30:15", 1_795_332_615_000), ("20261399999999", None), ("", None), (None, None), ("soon", None),
    ],
)  # fmt: skip
def test_times_are_nairobis_unless_they_say_otherwise(written: Any, ms: int | None) -> None:
    """In every spelling that was seen."""
    assert time_ms(written, 3) == ms
    if ms is not None:
        assert time_ms(stamp(ms, 3), 3) == ms
