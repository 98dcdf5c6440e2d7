"""Tokens: a library judges what is signed by hand, and attackers what is verified."""

import base64
import hmac
import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import OctKey, OKPKey

from pluct.errors import Unauthorized
from pluct.model import Ticket
from pluct.tickets import (
    EDDSA,
    TOKEN_LENGTH_MAX,
    HS256Signer,
    TicketClaims,
    UserTokens,
    ticket_claims,
    uuid7_source,
    verified_claims,
)

SECRET = "s" * 40
SIGNER, KEY = HS256Signer(SECRET), OctKey.import_key(SECRET)
NOW = 1_800_000_000_500
TICKET = Ticket("t-1", "amina", "read", "premium", 2, "vend", 0, NOW, 1_800_000_060_000, "captured", None, 2)
CLAIMS = {
    "iss": "pluct-business-engine", "aud": "premium", "sub": "amina", "jti": "t-1", "iat": 1_800_000_000,
    "nbf": 1_800_000_000, "exp": 1_800_000_060, "act": "read", "cost": 2,
}  # fmt: skip


def part(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(claims: Any, header: dict[str, Any] | None = None, secret: str = SECRET) -> str:
    return jwt.encode(header or {"alg": "HS256", "typ": "JWT"}, claims, OctKey.import_key(secret))


def raw(header: dict[str, Any], body: bytes) -> str:
    """A well-signed token of whatever bytes."""
    signed = f"{part(header)}.{part(body)}"
    return f"{signed}.{part(hmac.digest(SECRET.encode(), signed.encode(), 'sha256'))}"


# Signing


def test_a_library_reads_what_we_sign() -> None:
    """Header and claims are the contract's, and no others."""
    token = jwt.decode(SIGNER.sign(TICKET), KEY, algorithms=["HS256"])
    assert token.header == {"alg": "HS256", "typ": "JWT"}
    assert token.claims == CLAIMS


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=200), st.integers(1, 10**9))
def test_whatever_the_user_is_called(user_id: str, cost: int) -> None:
    """The same ticket has the same token, which verifies and names the user."""
    ticket = Ticket("t", user_id, "read", "p", cost, "vend", 0, NOW, NOW + 60_000, "captured")
    token = SIGNER.sign(ticket)
    assert token == HS256Signer(SECRET).sign(ticket)
    assert jwt.decode(token, KEY, algorithms=["HS256"]).claims["sub"] == user_id
    issued = NOW // 1000
    assert SIGNER.verify(token) == TicketClaims(user_id, "t", "p", issued + 60, issued, issued)


def test_what_became_of_a_ticket_does_not_change_its_token() -> None:
    """It was redeemed and captured meanwhile: the retry gets the same bytes."""
    later = Ticket("t-1", "amina", "read", "premium", 2, "vend", 0, NOW, 1_800_000_060_000, "voided", NOW, 0, 2)
    assert SIGNER.sign(TICKET) == SIGNER.sign(later)


def test_a_shared_secret_is_not_published() -> None:
    """The key set is empty."""
    assert SIGNER.jwks() == {"keys": []}


# Verifying

HEAD, BODY, SIGNATURE = SIGNER.sign(TICKET).split(".")
FORGED = {
    "empty": "",
    "not a token": "token",
    "no signature": f"{HEAD}.{BODY}.",
    "two parts": f"{HEAD}.{BODY}",
    "four parts": f"{HEAD}.{BODY}.{SIGNATURE}.{SIGNATURE}",
    "five parts, as if encrypted": f"{HEAD}.{BODY}.{SIGNATURE}.{SIGNATURE}.{SIGNATURE}",
    "cut short": f"{HEAD}.{BODY}.{SIGNATURE}"[:-4],
    "no algorithm": f"{part({'alg': 'none'})}.{BODY}.",
    "no algorithm, signed": f"{part({'alg': 'none'})}.{BODY}.{SIGNATURE}",
    "another algorithm": f"{part({'alg': 'HS512'})}.{BODY}.{SIGNATURE}",
    "a public key's algorithm": f"{part({'alg': 'RS256'})}.{BODY}.{SIGNATURE}",
    "an algorithm that is none": f"{part({'alg': ['HS256']})}.{BODY}.{SIGNATURE}",
    "a header that is none": f"{part(['HS256'])}.{BODY}.{SIGNATURE}",
    "another key": signed(CLAIMS, secret="o" * 40),
    "another user": f"{HEAD}.{part(CLAIMS | {'sub': 'brian'})}.{SIGNATURE}",
    "bytes that are no text": f"{HEAD}.{part(bytes([255, 254]))}.{SIGNATURE}",
    "deeply nested": f"{HEAD}.{part(b'[' * 3000)}.{SIGNATURE}",
    "characters of no alphabet": f"{HEAD}.{BODY}.€€€",
    "a surrogate": f"{HEAD}.{BODY}.\ud800",
    "spaces": f" {HEAD}.{BODY}.{SIGNATURE}",
    "too long": signed(CLAIMS | {"sub": "x" * TOKEN_LENGTH_MAX}),
    "another issuer": signed(CLAIMS | {"iss": "someone"}),
    "no issuer": signed({name: value for name, value in CLAIMS.items() if name != "iss"}),
    "no user": signed({name: value for name, value in CLAIMS.items() if name != "sub"}),
    "no id": signed({name: value for name, value in CLAIMS.items() if name != "jti"}),
    "a user that is no text": signed(CLAIMS | {"sub": 7}),
    "half a surrogate pair": raw({"alg": "HS256"}, json.dumps(CLAIMS | {"sub": "\ud800"}).encode()),
    "claims that are none": raw({"alg": "HS256"}, b"[]"),
    "a user twice": raw({"alg": "HS256"}, b'{"sub":"brian",' + json.dumps(CLAIMS).encode()[1:]),
    "claims in UTF-16": raw({"alg": "HS256"}, json.dumps(CLAIMS).encode("utf-16")),
    "an end that is no whole second": signed(CLAIMS | {"exp": 1_800_000_060.5}),
    "no end": signed({name: value for name, value in CLAIMS.items() if name != "exp"}),
    "audiences": signed(CLAIMS | {"aud": ["premium"]}),
}


@pytest.mark.parametrize("token", FORGED.values(), ids=FORGED)
def test_a_forged_ticket_is_refused(token: str) -> None:
    """Always with the same kind of no, never with an accident."""
    with pytest.raises(Unauthorized):
        SIGNER.verify(token)


def own(middle: str) -> str:
    """A token with our header and good signature, and this in the middle: good enough not to be read by the library."""
    text = f"{HEAD}.{middle}"
    return f"{text}.{part(hmac.digest(SECRET.encode(), text.encode(), 'sha256'))}"


@pytest.mark.parametrize(
    "middle",
    [
        part(b'{"sub":"brian",' + json.dumps(CLAIMS).encode()[1:]), part(b"[]"), part(b""), part(b"{}{}"), "", "*",
        part(json.dumps(CLAIMS).encode("utf-16")), part(b"[" * 3000), part(b'{"a":' * 1000), part(bytes([255, 254])),
        part(json.dumps(CLAIMS | {"sub": "\ud800"}).encode()), part(CLAIMS | {"iss": "someone"}), BODY + "." + BODY,
        part(CLAIMS | {"exp": "1800000060"}), part(CLAIMS | {"exp": 1_800_000_060.5}), BODY[:-1] + "€",
    ],
)  # fmt: skip
def test_a_good_signature_is_not_enough(middle: str) -> None:
    """What is signed with our secret under our header, but is no ticket, is refused like anything else."""
    with pytest.raises(Unauthorized):
        SIGNER.verify(own(middle))


def outcome(read: Callable[[str], TicketClaims], token: str) -> TicketClaims | str:
    try:
        return read(token)
    except Unauthorized as error:
        return error.sentence


@settings(max_examples=400, deadline=None)
@given(
    st.one_of(
        st.just(BODY), st.just(part(b" " + json.dumps(CLAIMS).encode() + b"\n")), st.text("aZ09-_=+/. ", max_size=40),
        st.dictionaries(st.sampled_from(list(CLAIMS)), st.none() | st.integers() | st.text(max_size=3)).map(part),
    ),
    st.integers(0, 400), st.text(max_size=3), st.booleans(),
)  # fmt: skip
def test_what_we_read_ourselves_is_what_the_library_reads(middle: str, at: int, put: str, cut: bool) -> None:
    """Whatever is done to a token, before or after it is signed: the same claims, or the same refusal."""

    def by_the_library(token: str) -> TicketClaims:
        return ticket_claims(verified_claims(token, KEY))

    spoilt = middle[:at] + put + middle[at + cut :]
    token = own(middle)
    for each in (token, own(spoilt), token[:at] + put + token[at + cut :], token + put):
        assert outcome(SIGNER.verify, each) == outcome(by_the_library, each)


def test_a_critical_extension_is_refused() -> None:
    """Of a header we do not understand (RFC 7515, section 4.1.11)."""
    with pytest.raises(Unauthorized):
        SIGNER.verify(raw({"alg": "HS256", "crit": ["x"], "x": 1}, json.dumps(CLAIMS).encode()))


@pytest.mark.parametrize("algorithm", ["EdDSA", "HS256", "Ed448", "none", "ES256"])
def test_a_key_of_ed25519_takes_one_algorithm(algorithm: str) -> None:
    """Its own, whatever the token's header says (RFC 8725, section 3.1)."""
    private = Ed25519PrivateKey.generate()
    text = f"{part({'alg': algorithm, 'typ': 'JWT'})}.{part(CLAIMS)}"
    token = f"{text}.{part(private.sign(text.encode()))}"
    key = OKPKey.import_key(private.public_key())
    if algorithm == "EdDSA":
        assert verified_claims(token, key, EDDSA) == CLAIMS
    else:
        with pytest.raises(Unauthorized):
            verified_claims(token, key, EDDSA)


# User tokens

USERS = UserTokens(SECRET)
USER = {"sub": "amina", "aud": "pluct-business-engine", "exp": NOW // 1000 + 60}


def test_a_user_token_we_make_is_one_we_take() -> None:
    """Until its end, and the same values make the same bytes."""
    token = USERS.make("amina", NOW // 1000, NOW // 1000 + 60)
    assert token == USERS.make("amina", NOW // 1000, NOW // 1000 + 60)
    assert USERS.user_id(token, NOW) == "amina"
    with pytest.raises(Unauthorized):
        USERS.user_id(token, NOW + 60_000)


@pytest.mark.parametrize("claims", [
    USER, USER | {"aud": ["other", "pluct-business-engine"]}, USER | {"exp": NOW / 1000 + 0.001},
    USER | {"nbf": NOW // 1000}, USER | {"scope": "user", "iat": 1},
])  # fmt: skip
def test_a_user_token_names_its_user(claims: dict[str, Any]) -> None:
    """Until it expires."""
    assert USERS.user_id(signed(claims), NOW) == "amina"


@pytest.mark.parametrize(("claims", "says"), [
    (USER | {"exp": NOW // 1000}, "expired"), (USER | {"exp": NOW / 1000}, "expired"),
    (USER | {"exp": None}, "expired"),
    ({"sub": "amina", "aud": "pluct-business-engine"}, "expired"), (USER | {"exp": "1900000000"}, "expired|valid"),
    (USER | {"exp": True}, "expired|valid"), (USER | {"nbf": NOW // 1000 + 1}, "not valid yet"),
    (USER | {"nbf": "0"}, "not valid"), (USER | {"aud": "premium"}, "not meant"),
    (USER | {"aud": ["premium"]}, "meant"),
    (USER | {"aud": None}, "meant"), (USER | {"aud": {"pluct-business-engine": 1}}, "meant|valid"),
    (USER | {"sub": 7}, "names no user"), ({**USER, "sub": None}, "names no user"),
])  # fmt: skip
def test_other_user_tokens_are_refused(claims: dict[str, Any], says: str) -> None:
    """With the reason."""
    with pytest.raises(Unauthorized, match=says):
        USERS.user_id(signed(claims), NOW)


def test_not_a_number_is_no_time() -> None:
    """JSON as Python reads it knows NaN; no comparison with it may let a token live for ever."""
    token = raw({"alg": "HS256"}, b'{"sub":"amina","aud":"pluct-business-engine","exp":NaN}')
    with pytest.raises(Unauthorized):
        USERS.user_id(token, NOW)


def test_tickets_and_user_tokens_never_pass_for_one_another() -> None:
    """Not even under one secret: the audience differs, and the issuer."""
    with pytest.raises(Unauthorized):
        USERS.user_id(SIGNER.sign(TICKET), NOW)
    with pytest.raises(Unauthorized):
        SIGNER.verify(signed(USER))


# Ids


def test_an_id_is_a_uuid_of_version_7() -> None:
    """Its first 48 bits are the time in milliseconds (RFC 9562, section 5.7)."""
    made = uuid.UUID(uuid7_source(lambda: 1_800_000_000.25)())
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert made.int >> 80 == 1_800_000_000_250


def test_ids_grow_whatever_the_clock_does() -> None:
    """Within a millisecond, after it, and when the clock steps back."""
    times = iter([5.0] * 1000 + [5.001] * 1000 + [3.0] * 1000 + [5.002] * 1000)
    make = uuid7_source(lambda: next(times))
    made = [make() for _ in range(4000)]
    assert made == sorted(set(made))
    assert {uuid.UUID(one).version for one in made} == {7}
    assert {uuid.UUID(one).variant for one in made} == {uuid.RFC_4122}


def test_ids_of_two_processes_differ() -> None:
    """In the same millisecond."""
    one, two = uuid7_source(lambda: 5.0), uuid7_source(lambda: 5.0)
    assert not {one() for _ in range(100)} & {two() for _ in range(100)}


def test_a_millisecond_has_room_to_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even from the largest random start, ids of one millisecond stay in it."""
    monkeypatch.setattr("os.urandom", lambda size: b"\xff" * size)
    make = uuid7_source(lambda: 5.0)
    made = [make() for _ in range(1000)]
    assert made == sorted(set(made)) and {uuid.UUID(one).int >> 80 for one in made} == {5000}
