"""Standard Webhooks: the library signs, and what it lets pass or trips over is refused all the same."""

import base64
import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from standardwebhooks import Webhook

from cards_world import alone, anything, at_once, checkout, content, received
from conftest import Clock
from pluct.errors import PluctError, Unauthorized
from pluct.gateways import Credited, Notice, standard
from pluct.gateways.standard import StandardSettings, secret_problems
from pluct.model import AMOUNT_MAX

pytestmark = pytest.mark.anyio

SECRET = "whsec_" + base64.b64encode(b"the key of the back office").decode()
OLDER = "whsec_" + base64.b64encode(b"the key that was before it").decode()
SECRETS = {"STANDARD_WEBHOOKS_SECRET": f"{SECRET},{OLDER}"}
CLOCK = Clock()
NOW = CLOCK.now // 1000
GATEWAY = alone(standard, SECRETS, CLOCK)
EVENT = {"type": "credits.add", "data": {"userId": "amina", "credits": 10}}
BODY = content(EVENT)


def signed(body: bytes, secret: str = SECRET, at: int = NOW, identity: str = "msg_1") -> dict[bytes, bytes]:
    """The headers that the library makes for this body."""
    signature = Webhook(secret).sign(identity, datetime.fromtimestamp(at, UTC), body.decode())
    said = {"webhook-id": identity, "webhook-timestamp": str(at), "webhook-signature": signature}
    return {name.encode(): value.encode() for name, value in said.items()}


def told(value: Any, identity: str = "msg_1") -> Notice:
    """The notice of an event that was signed."""
    body = content(value)
    (notice,) = at_once(received(GATEWAY, signed(body, identity=identity), body)).notices
    return notice


def test_credits_are_said() -> None:
    """To whom, how many, and the key that is good for once."""
    notice = told(EVENT)
    assert notice.said == Credited("amina", 10, "msg_1")
    assert (notice.key, notice.kind) == ("msg_1", "credits.add")
    assert told(EVENT) == notice and told(EVENT, "msg_2").key == "msg_2"


@pytest.mark.parametrize("data", [
    {"userId": "amina", "credits": 0}, {"userId": "amina", "credits": -1}, {"userId": "amina", "credits": 1.5},
    {"userId": "amina", "credits": 10.0}, {"userId": "amina", "credits": "10"}, {"userId": "amina", "credits": True},
    {"userId": "amina", "credits": AMOUNT_MAX + 1}, {"userId": "amina", "credits": None}, {"userId": "amina"},
    {"userId": "", "credits": 1}, {"userId": "x" * 201, "credits": 1}, {"userId": "a\nb", "credits": 1},
    {"userId": "a\x85b", "credits": 1}, {"userId": 7, "credits": 1}, {"credits": 1}, {}, None, [], "x",
])  # fmt: skip
def test_a_wish_that_makes_no_sense(data: Any) -> None:
    """Is kept, with what would have been right."""
    notice = told({"type": "credits.add", "data": data})
    assert notice.said is None and "userId" in notice.note


@pytest.mark.parametrize("user_id", ["a", "x" * 200, "amina@example.com", "Ж", "a b", "😀"])
def test_whoever_the_user_is(user_id: str) -> None:
    """The engine's rule for ids."""
    most = {"type": "credits.add", "data": {"userId": user_id, "credits": AMOUNT_MAX}}
    assert told(most).said == Credited(user_id, AMOUNT_MAX, "msg_1")


@pytest.mark.parametrize("value", [{"type": "user.created", "data": {}}, {"type": "x" * 300}, {"type": "a\nb"}])
def test_other_events_are_kept(value: Any) -> None:
    """They mean nothing to us."""
    notice = told(value)
    assert notice.said is None and notice.key == "msg_1" and notice.kind in ("user.created", "unknown")


@pytest.mark.parametrize("body", [b"", b"not JSON", b"[]", b"null", b"{}", b'{"type":7}', b"[" * 5_000])
def test_a_signed_body_that_is_no_event(body: bytes) -> None:
    """Is kept, under its id."""
    notice = told(body)
    assert notice.said is None and notice.key == "msg_1" and notice.note


# Signatures

GOOD = signed(BODY)
SIGNATURE = GOOD[b"webhook-signature"]


@pytest.mark.parametrize("headers", [
    GOOD, signed(BODY, OLDER), signed(BODY, at=NOW - 300), signed(BODY, at=NOW + 300),
    GOOD | {b"webhook-signature": b"v1,AAAA " + SIGNATURE}, GOOD | {b"webhook-signature": b"v1a,x " + SIGNATURE},
    GOOD | {b"webhook-signature": b"nonsense " + SIGNATURE}, GOOD | {b"webhook-signature": b"v1,! v1,a,b " + SIGNATURE},
    signed(BODY, identity="msg Ж"),
])  # fmt: skip
def test_a_good_signature(headers: dict[bytes, bytes]) -> None:
    """By either secret, among others that are not, and within five minutes either way."""
    assert at_once(received(GATEWAY, headers, BODY)).notices[0].said is not None


def without(name: bytes) -> dict[bytes, bytes]:
    return {each: value for each, value in GOOD.items() if each != name}


BAD: dict[str, Mapping[bytes, bytes]] = {
    "none": {}, "no id": without(b"webhook-id"), "no time": without(b"webhook-timestamp"),
    "no signature": without(b"webhook-signature"), "another id": GOOD | {b"webhook-id": b"msg_2"},
    "another time": GOOD | {b"webhook-timestamp": str(NOW - 1).encode()},
    "another body": signed(BODY + b" "), "another secret": signed(BODY, "whsec_" + base64.b64encode(b"x").decode()),
    "too old": signed(BODY, at=NOW - 301), "from the future": signed(BODY, at=NOW + 301),
    "a time with parts": GOOD | {b"webhook-timestamp": str(NOW).encode() + b".9"},
    "a time that is none": GOOD | {b"webhook-timestamp": b"now"}, "NaN": GOOD | {b"webhook-timestamp": b"nan"},
    "infinite": GOOD | {b"webhook-timestamp": b"inf"}, "a power": GOOD | {b"webhook-timestamp": b"1e9"},
    "an empty time": GOOD | {b"webhook-timestamp": b""}, "spaces": GOOD | {b"webhook-timestamp": b" 1 "},
    "a comma too many": GOOD | {b"webhook-signature": SIGNATURE + b",x"},
    "commas instead of spaces": GOOD | {b"webhook-signature": b"v1,x," + SIGNATURE},
    "no comma": GOOD | {b"webhook-signature": b"nonsense"},
    "no base64": GOOD | {b"webhook-signature": b"v1,AAA"},
    "another version": GOOD | {b"webhook-signature": b"v2" + SIGNATURE[2:]},
    "no version": GOOD | {b"webhook-signature": SIGNATURE[3:]},
    "not ASCII": GOOD | {b"webhook-signature": "v1,é".encode()},
    "not UTF-8": GOOD | {b"webhook-signature": b"\xff"}, "an id that is not UTF-8": GOOD | {b"webhook-id": b"\xff"},
    "an id with a line": signed(BODY, identity="a\nb"), "an id that is too long": signed(BODY, identity="x" * 201),
    "too long": GOOD | {b"webhook-signature": b"v1,x " * 1_000 + SIGNATURE},
}  # fmt: skip


@pytest.mark.parametrize("headers", BAD.values(), ids=BAD)
def test_a_bad_signature(headers: dict[bytes, bytes]) -> None:
    """401, whatever is wrong with it."""
    with pytest.raises(Unauthorized):
        at_once(received(GATEWAY, headers, BODY))


def signed_bytes(body: bytes, secret: str = SECRET, identity: str = "msg_1") -> dict[bytes, bytes]:
    """The headers of a body that the library, which signs text, does not take."""
    raw = f"{identity}.{NOW}.".encode() + body
    made = hmac.new(base64.b64decode(secret.removeprefix("whsec_")), raw, hashlib.sha256).digest()
    said = {"webhook-id": identity, "webhook-timestamp": str(NOW)}
    return {name.encode(): value.encode() for name, value in said.items()} | {
        b"webhook-signature": b"v1," + base64.b64encode(made)
    }


NO_TEXT = [b"\xff\xfe", BODY + b"\xff", BODY.replace(b"amina", b"\xff"), BODY.replace(b"amina", b"\xed\xa0\x80")]


@pytest.mark.parametrize("body", NO_TEXT)
def test_a_signed_body_that_is_no_text(body: bytes) -> None:
    """Is kept like every signed body that is no event, by either secret; wrongly signed it is refused."""
    assert signed_bytes(BODY) == GOOD
    unpadded = alone(standard, {"STANDARD_WEBHOOKS_SECRET": SECRET.rstrip("=")}, CLOCK)
    assert SECRET.endswith("=") and at_once(received(unpadded, signed_bytes(body), body)).notices
    for secret in (SECRET, OLDER):
        good = signed_bytes(body, secret)
        among = good | {b"webhook-signature": b"v1,AAAA " + good[b"webhook-signature"]}
        for headers in (good, among):
            (notice,) = at_once(received(GATEWAY, headers, body)).notices
            assert (notice.key, notice.kind, notice.said) == ("msg_1", "unreadable", None) and notice.note
            assert hashlib.sha256(body).hexdigest().encode() in notice.raw
    good = signed_bytes(body)
    other = "whsec_" + base64.b64encode(b"x").decode()
    for headers in (
        GOOD, signed_bytes(body + b"\xff"), signed_bytes(body, other), good | {b"webhook-id": b"msg_2"},
        good | {b"webhook-timestamp": str(NOW - 1).encode()}, good | {b"webhook-signature": b"v1,"},
    ):  # fmt: skip
        with pytest.raises(Unauthorized):
            at_once(received(GATEWAY, headers, body))


NAMES = sorted(GOOD)


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(st.sampled_from(NAMES), st.binary(max_size=100), min_size=1),
    st.binary(max_size=200) | st.just(BODY),
)  # fmt: skip
def test_whatever_a_stranger_sends(headers: dict[bytes, bytes], body: bytes) -> None:
    """It is refused."""
    if body == BODY and all(GOOD[name] == value for name, value in headers.items()):
        return
    with pytest.raises(Unauthorized):
        at_once(received(GATEWAY, GOOD | headers, body))


@settings(max_examples=150, deadline=None)
@given(anything(["type", "data", "userId", "credits"]))
def test_whatever_is_signed(value: Any) -> None:
    """Becomes a notice."""
    assert told({"type": "credits.add", "data": value}).key == "msg_1"


# The rest


async def test_nothing_is_sold_here() -> None:
    """And there is nobody to ask."""
    started = await GATEWAY.start(checkout(), "token", None)
    assert started.state == "failed" and not GATEWAY.sells and not GATEWAY.takes("KES", 10_000)
    assert await GATEWAY.ask(checkout()) is None
    assert StandardSettings().problems("") == []


@pytest.mark.parametrize(("secret", "count"), [
    (SECRET, 0), (f"{SECRET}, {OLDER}", 0), (SECRET.removeprefix("whsec_"), 0), ("", 1), (" , ", 1), ("whsec_", 1),
    ("whsec_A", 1), ("whsec_é", 1), (f"{SECRET},whsec_", 1),
])  # fmt: skip
def test_secrets_are_looked_at(secret: str, count: int) -> None:
    """One that passes makes a gateway, and none is shown."""
    found = secret_problems({"STANDARD_WEBHOOKS_SECRET": secret})
    assert len(found) == count and (len(secret) < 8 or secret not in str(found))
    if not found:
        alone(standard, {"STANDARD_WEBHOOKS_SECRET": secret}, CLOCK)
    assert len(secret_problems({})) == 1


def test_no_secret_is_ever_said() -> None:
    """Not in a refusal, not by looking at the gateway."""
    shown = [repr(GATEWAY), repr(StandardSettings())]
    for headers in BAD.values():
        try:
            at_once(received(GATEWAY, dict(headers), BODY))
        except PluctError as error:
            shown += [repr(error), error.sentence]
    assert not any(secret in text for secret in (SECRET, OLDER) for text in shown)
