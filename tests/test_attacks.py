"""The classic attacks on JSON Web Tokens, against `POST /v1/tickets/redeem`, under both algorithms.

Each attack is made of a good token and of what anybody can know, or, to be sure that it is the rule that refuses and
not a broken signature, signed with the engine's own key. Every answer is 401, and the good token passes afterwards.
The tests named after RFC 8725 (JWT Best Current Practices) are the ones that docs/security.md points to, by section.
"""

import asyncio
import base64
import hmac
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from conftest import JWT_SECRET, USER_TOKEN_SECRET, WEBHOOK_SECRET, Pluct, new_id, opened, refused, served, signed
from pluct.app import now_ms
from pluct.model import base64url, thumbprint
from pluct.settings import DEVELOPMENT_SECRETS, SECRET_BYTES_MIN
from pluct.signing import Seal
from pluct.tickets import TOKEN_LENGTH_MAX

SECURITY = (Path(__file__).parent.parent / "docs" / "security.md").read_text("utf-8")
TOML = """
[actions.default]
ttl_seconds = 3600

[actions.listen]
audience = "listener"
"""

Sign = Callable[[bytes], bytes]


def part(value: Any) -> str:
    """A part of a token: bytes as they are, anything else as JSON."""
    return base64url(value if isinstance(value, bytes) else json.dumps(value).encode())


def parts(token: str) -> list[bytes]:
    return [base64.urlsafe_b64decode(each + "==") for each in token.split(".")]


class Target:
    """A running engine, with what its attackers know, and what they do not."""

    def __init__(self, engine: Pluct, algorithm: str) -> None:
        self.engine, self.algorithm = engine, algorithm
        self.service = engine.key("service")
        self.jwks: list[dict[str, str]] = engine.client.get("/.well-known/jwks.json").json()["keys"]
        self.user = engine.funded(1_000)
        self.sign: Sign = self._eddsa() if algorithm == "EdDSA" else lambda data: mac(JWT_SECRET.encode(), data)

    def _eddsa(self) -> Sign:
        """The engine's own key, as only somebody with its secret and its database has it."""

        async def key() -> Ed25519PrivateKey | None:
            async with opened(self.engine.database, now_ms, serving=False) as store:
                (found,) = await store.signing_keys()
                return Seal([DEVELOPMENT_SECRETS["PLUCT_KEY_SECRET"]]).opened(found)

        private = asyncio.run(key())
        assert private is not None
        return private.sign

    def sell(self) -> str:
        token: str = self.engine.post("/vend-token", {"userId": self.user}).json()["token"]
        return token

    def redeem(self, token: str) -> Any:
        return self.engine.post("/v1/tickets/redeem", {"token": token}, self.service)

    def made(self, header: Any, claims: Any, sign: Sign | None = None) -> str:
        """A token of this content, signed by the engine's key or another."""
        start = f"{part(header)}.{part(claims)}"
        return f"{start}.{base64url((sign or self.sign)(start.encode()))}"

    def refuses(self, tokens: dict[str, str], good: str) -> None:
        """All of these, each with 401 and a sentence; and then it takes the good one."""
        for name, token in tokens.items():
            answer = self.redeem(token)
            assert answer.status_code == 401, (name, answer.text)
            refused(answer, 401, "unauthorized")
        assert self.redeem(good).status_code == 200


def mac(key: bytes, data: bytes, hash: str = "sha256") -> bytes:
    return hmac.digest(key, data, hash)


@pytest.fixture(scope="module", params=["HS256", "EdDSA"])
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """An engine that signs with each algorithm. Both know the development's JWT_SECRET."""
    with served(tmp_path_factory.mktemp("attacked"), TOML, PLUCT_SIGNING=request.param) as engine:
        yield Target(engine, request.param)


def opened_token(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    header, claims, _ = parts(token)
    return json.loads(header), json.loads(claims)


# What the algorithm is


def test_rfc8725_3_1_the_algorithm_is_the_keys_and_not_the_tokens(target: Target) -> None:
    """None, in any spelling, another one, or one that is no name: refused, even with a signature that would fit."""
    good = target.sell()
    header, claims = opened_token(good)
    head, body, signature = good.split(".")
    tokens = {}
    for name in ("none", "None", "NONE", "nOnE", "", "HS256 ", "hs256", "eddsa", "HS384", "HS512", "RS256", "ES256",
                 "PS256", "Ed25519", "Ed448", "dir", "A128KW"):  # fmt: skip
        for sign in ("", signature, base64url(target.sign(f"{part(header | {'alg': name})}.{body}".encode()))):
            tokens[f"{name!r}, signed {sign[:5]!r}"] = f"{part(header | {'alg': name})}.{body}.{sign}"
    for alg in (None, 7, True, [], ["none"], {}, {"alg": target.algorithm}):
        tokens[f"{alg!r}"] = target.made(header | {"alg": alg}, claims)
    tokens["no algorithm"] = target.made({key: value for key, value in header.items() if key != "alg"}, claims)
    tokens["no signature"] = f"{head}.{body}."
    target.refuses(tokens, good)


def test_rfc8725_3_2_a_public_key_is_no_shared_secret(target: Target) -> None:
    """Key confusion: HS256 with whatever is published for a secret, with or without the key's id; and the reverse."""
    good = target.sell()
    header, claims = opened_token(good)
    tokens = {}
    for jwk in [*target.jwks, {"kid": "", "x": base64url(bytes(32))}]:
        public = base64.urlsafe_b64decode(jwk["x"] + "==")
        spellings = {
            "raw": public, "base64": jwk["x"].encode(), "jwk": json.dumps(jwk).encode(),
            "compact jwk": json.dumps(jwk, separators=(",", ":")).encode(), "pem": pem(public), "empty": b"",
            "key id": jwk["kid"].encode(), "spki": bytes.fromhex("302a300506032b6570032100") + public,
        }  # fmt: skip
        for name, secret in spellings.items():
            for head in ({"alg": "HS256", "typ": "JWT"}, {"alg": "HS256", "typ": "JWT", "kid": jwk["kid"]}):
                tokens[f"{name} {head}"] = target.made(head, claims, lambda data, secret=secret: mac(secret, data))
        secret = JWT_SECRET.encode()  # and the real secret under a key's id
        tokens["kid, secret"] = target.made(header | {"alg": "HS256", "kid": jwk["kid"]}, claims,
                                            lambda data, secret=secret: mac(secret, data))  # fmt: skip
    own = Ed25519PrivateKey.generate()
    tokens["a key of one's own"] = target.made({"alg": "EdDSA", "typ": "JWT"}, claims, own.sign)
    tokens["without its id"] = target.made({"alg": "EdDSA", "typ": "JWT"}, claims)
    target.refuses(tokens, good)


def pem(public: bytes) -> bytes:
    body = base64.b64encode(bytes.fromhex("302a300506032b6570032100") + public).decode()
    return f"-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n".encode()


# What is signed


def test_rfc8725_3_3_every_part_is_under_the_signature(target: Target) -> None:
    """A bit changed anywhere, parts of two tokens mixed, cut, doubled, encrypted over: refused."""
    good, other = target.sell(), target.sell()
    tokens = {}
    for at, raw in enumerate(parts(good)):
        for place in range(0, len(raw), 7):
            changed = bytearray(raw)
            changed[place] ^= 1
            spelled = good.split(".")
            spelled[at] = base64url(bytes(changed))
            tokens[f"part {at}, byte {place}"] = ".".join(spelled)
    a, b = good.split("."), other.split(".")
    tokens |= {
        "another's claims": f"{a[0]}.{b[1]}.{a[2]}", "another's signature": f"{a[0]}.{a[1]}.{b[2]}",
        "five parts": f"{good}.{a[1]}.{a[2]}", "four parts": f"{good}.", "two parts": f"{a[0]}.{a[1]}",
        "one part": a[1], "empty": "", "dots": "..", "signed over the claims alone": f"{a[0]}.{a[1]}." + base64url(
            target.sign(a[1].encode())),
        "an empty signature of the right length": f"{a[0]}.{a[1]}." + base64url(bytes(len(parts(good)[2]))),
        "as JSON": json.dumps({"protected": a[0], "payload": a[1], "signature": a[2]}),
    }  # fmt: skip
    target.refuses(tokens, good)


def test_rfc8725_3_4_what_goes_into_the_mathematics_is_looked_at(target: Target) -> None:
    """Signatures of another length, of small order, above the group's order, or spelled in another way."""
    good = target.sell()
    head, body, signature = good.split(".")
    raw = parts(good)[2]
    order = 2**252 + 27742317777372353535851937790883648493
    small = [
        bytes(32),
        b"\x01" + bytes(31),
        bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    ]
    signatures = [
        raw[:-1],
        raw + b"\0",
        raw * 2,
        raw[:32],
        bytes(64),
        b"\xff" * 64,
        *(point + bytes(32) for point in small),
    ]
    if target.algorithm == "EdDSA":
        scalar = int.from_bytes(raw[32:], "little") + order  # the same point, were it not looked at
        signatures.append(raw[:32] + scalar.to_bytes(32, "little"))
    tokens = {
        f"signature {number}": f"{head}.{body}.{base64url(each)}"
        for number, each in enumerate(signatures) if each != raw
    }  # fmt: skip
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = alphabet.index(signature[-1])
    for spelling in (signature[:-1] + alphabet[last ^ 1], signature + "=", signature + "==", signature + "A",
                     signature[:8] + "\n" + signature[8:], signature + "\n", signature + "!", signature + "é",
                     signature.replace(signature[0], signature[0] + " ", 1)):  # fmt: skip
        tokens[f"spelled {spelling!r}"] = f"{head}.{body}.{spelling}"
    target.refuses(tokens, good)


def test_rfc8725_3_5_keys_are_random_and_long(target: Target, make_pluct: Callable[..., Pluct]) -> None:
    """A secret that could be guessed does not start in production, nor does a weak one that keeps random keys."""
    weak = "x" * (SECRET_BYTES_MIN - 1)
    strong = {name: f"{name} {'x' * 40}" for name in DEVELOPMENT_SECRETS}
    environment = strong | {"PLUCT_ENV": "production", "PLUCT_USER_AUTH": "token", "PLUCT_SIGNING": target.algorithm}
    name = "PLUCT_KEY_SECRET" if target.algorithm == "EdDSA" else "JWT_SECRET"
    done = make_pluct().run("serve", "--port", "0", exit_code=2, **environment | {name: weak})
    assert f"{name} is shorter than {SECRET_BYTES_MIN} bytes" in done.stderr and weak not in done.stderr
    good = target.sell()
    claims = opened_token(good)[1]
    guesses = ["secret", "", "changeme", "password", "your-256-bit-secret", "pluct", "pluct-business-engine"]
    target.refuses(
        {
            guess: target.made(
                {"alg": "HS256", "typ": "JWT"}, claims, lambda data, guess=guess: mac(guess.encode(), data)
            )
            for guess in guesses
        },
        good,
    )


def test_rfc8725_3_6_nothing_is_compressed_or_encrypted(target: Target) -> None:
    """A token that claims to be is not unpacked: no bomb, and no oracle."""
    good = target.sell()
    header, claims = opened_token(good)
    tokens = {
        "zip": target.made(header | {"zip": "DEF"}, claims), "enc": target.made(header | {"enc": "A256GCM"}, claims),
        "JWE": ".".join([part({"alg": "dir", "enc": "A256GCM", "zip": "DEF"}), "", *good.split(".")]),
        "nested": target.made(header | {"cty": "JWT"}, good.encode()),
        "unencoded": target.made(header | {"b64": False, "crit": ["b64"]}, claims),
        "detached": "..".join([good.split(".")[0], good.split(".")[2]]),
    }  # fmt: skip
    target.refuses(tokens, good)


def test_rfc8725_3_7_only_utf8_and_only_plain_letters(target: Target) -> None:
    """Other encodings, look-alikes, invisible characters, half characters: refused, wherever they are."""
    good = target.sell()
    header, claims = opened_token(good)
    head, body, signature = good.split(".")
    text = json.dumps(claims)
    tokens = {
        "UTF-16": target.made(header, text.encode("utf-16")), "UTF-32": target.made(header, text.encode("utf-32")),
        "a byte order mark": target.made(header, b"\xef\xbb\xbf" + text.encode()),
        "Latin-1": target.made(header, text.replace("pluct", "plücť", 1).encode("latin-1", "replace")),
        "an overlong letter": target.made(header, text.encode().replace(b"iss", b"i\xc1\xb3s")),
        "half a surrogate pair": target.made(header, json.dumps(claims | {"sub": "\ud800"}).encode()),
        "a null after the user": target.made(header, claims | {"sub": claims["sub"] + "\0"}),
        "another user's look-alike": target.made(header, claims | {"sub": claims["sub"].replace("a", "а")}),
        "an invisible letter": target.made(header, claims | {"sub": claims["sub"] + "\u200b"}),
        "a look-alike issuer": target.made(header, claims | {"iss": "pluct-busіness-engine"}),
        "a full-width audience": target.made(header, claims | {"aud": "ｐremium"}),
        "an audience in capitals": target.made(header, claims | {"aud": "PREMIUM"}),
        "a claim in capitals": target.made(header, {key.upper(): value for key, value in claims.items()}),
        "full-width dots": "．".join([head, body, signature]), "a space": f"{head} .{body}.{signature}",
        "a line break": f"{head}.{body}.{signature}\n", "a zero-width space": f"{head}.{body}\u200b.{signature}",
        "right to left": f"\u202e{head}.{body}.{signature}", "an accent": f"{head}.{body}é.{signature}",
        "percent-encoded": good.replace(".", "%2E"), "Bearer": f"Bearer {good}",
    }  # fmt: skip
    if not re.search("a", claims["sub"]):
        del tokens["another user's look-alike"]
    target.refuses(tokens, good)


# What is claimed


def test_rfc8725_3_8_issuer_and_subject_are_checked(target: Target) -> None:
    """Another's token, nobody's, or for another user than its ticket: refused, though the key is ours."""
    good = target.sell()
    header, claims = opened_token(good)
    tokens = {}
    for name in ("iss", "sub", "jti"):
        tokens[f"no {name}"] = target.made(header, {key: value for key, value in claims.items() if key != name})
        for value in (None, 7, True, [claims[name]], {"0": claims[name]}, 1.5):
            tokens[f"{name} {value!r}"] = target.made(header, claims | {name: value})
    tokens["another issuer"] = target.made(header, claims | {"iss": "pluct-business-engine "})
    tokens["another user"] = target.made(header, claims | {"sub": "mallory"})
    for body in (b"", b"{}", b"[]", b"null", b"7", b'"x"', b"{", b"[" * 5_000, b'{"iss":' * 900):
        tokens[f"no claims {body[:9]!r}"] = target.made(header, body)
    target.refuses(tokens, good)


def test_rfc8725_3_9_the_audience_is_checked(target: Target) -> None:
    """It must be the ticket's own, one string, and one that is sold to."""
    good = target.sell()
    header, claims = opened_token(good)
    tokens = {
        f"{value!r}": target.made(header, claims | {"aud": value})
        for value in ("listener", "nobody", "", "*", None, 7, ["premium"], ["premium", "listener"], {"premium": 1})
    }
    tokens["none"] = target.made(header, {key: value for key, value in claims.items() if key != "aud"})
    target.refuses(tokens, good)


KIDS = [
    "", ".", "/dev/null", "../../../../../../dev/null", "..\\..\\secret", "file:///etc/hostname", "'", "' OR '1'='1",
    "x' UNION SELECT 'AA", "x'; DROP TABLE signing_keys; --", "$(id)", "`id`", "|id", "%00", "\0", "a\nb",
    "http://127.0.0.1/key", "x" * 300, "é", "\U0001f600", "__proto__", "constructor", "null", "0", "-1", "*", "kid",
]  # fmt: skip


def test_rfc8725_3_10_what_a_token_says_of_keys_is_not_believed(target: Target) -> None:
    """A name to look up and nothing else: no path, no query, no address, no key that the token brings along."""
    good = target.sell()
    header, claims = opened_token(good)
    own = Ed25519PrivateKey.generate()
    public = own.public_key().public_bytes_raw()
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": base64url(public), "kid": thumbprint(public), "alg": "EdDSA"}
    octet = {"kty": "oct", "k": base64url(b"known" * 8)}
    url = f"{target.engine.url}/.well-known/jwks.json"
    tokens = {}
    for kid in (*KIDS, jwk["kid"]):
        for name, sign in {"empty": lambda data: mac(b"", data), "own": own.sign, "ours": target.sign}.items():
            tokens[f"kid {kid!r}, {name}"] = target.made({**header, "kid": kid}, claims, sign)
    for kid in (7, True, [], {}, [header.get("kid")], 1.5):
        tokens[f"kid {kid!r}"] = target.made(header | {"kid": kid}, claims)
    for brought in (
        {"jwk": jwk}, {"jwk": octet}, {"jku": url}, {"jku": "http://127.0.0.1:1/jwks.json"}, {"x5u": url},
        {"x5c": ["MIIB"]}, {"x5t": "AAAA"}, {"jwk": jwk, "kid": jwk["kid"]}, {"jku": url, "kid": jwk["kid"]},
    ):  # fmt: skip
        for alg, sign in {"EdDSA": own.sign, "HS256": lambda data: mac(b"known" * 8, data)}.items():
            tokens[f"{brought}, {alg}"] = target.made({"alg": alg, "typ": "JWT", **brought}, claims, sign)
            tokens[f"{brought}, {alg}, our kid"] = target.made({**header, "alg": alg, **brought}, claims, sign)
    target.refuses(tokens, good)


def test_rfc8725_3_10_times_that_are_none_are_refused(target: Target) -> None:
    """Whole seconds, or nothing: signed by our own key, and refused all the same."""
    good = target.sell()
    header, claims = opened_token(good)
    tokens = {}
    for name in ("exp", "iat", "nbf"):
        for value in (str(claims[name]), claims[name] + 0.5, float(claims[name]), None, True, [claims[name]], {},
                      float("nan"), float("inf"), "never", ""):  # fmt: skip
            tokens[f"{name} {value!r}"] = target.made(header, claims | {name: value})
    tokens["exp absent"] = target.made(header, {key: value for key, value in claims.items() if key != "exp"})
    tokens["exp 1e99"] = target.made(header, json.dumps(claims).replace(str(claims["exp"]), "1e99").encode())
    target.refuses(tokens, good)


def test_rfc8725_3_10_one_name_is_there_once(target: Target) -> None:
    """Duplicated claims: whichever a reader took, it would be somebody's choice. Also inside what nobody reads."""
    good = target.sell()
    header, claims = opened_token(good)
    text = json.dumps(claims)
    tokens = {
        f"{name} twice": target.made(header, f'{{"{name}": {json.dumps(value)}, {text[1:]}'.encode())
        for name, value in {**claims, "sub": "mallory", "exp": 99999999999}.items()
    }
    tokens["the same twice"] = target.made(header, f'{text[:-1]}, "jti": {json.dumps(claims["jti"])}}}'.encode())
    tokens["further in"] = target.made(header, f'{text[:-1]}, "more": {{"a": 1, "a": 1}}}}'.encode())
    for name, value in {"alg": "none", "kid": "nobody", "typ": "JWT"}.items():
        tokens[f"{name} twice"] = target.made(
            json.dumps({name: value, **header}).replace("{", f'{{"{name}": "{value}", ', 1).encode(), claims
        )
    tokens["escaped"] = target.made(header, f'{text[:-1]}, "su\\u0062": "mallory"}}'.encode())
    target.refuses(tokens, good)


def test_a_huge_token_is_refused_before_it_is_read(target: Target) -> None:
    """Whatever it is made of, and quickly; just under the limit of a body nothing breaks either."""
    good = target.sell()
    header, claims = opened_token(good)
    tokens = {
        "claims": target.made(header, claims | {"x": "y" * TOKEN_LENGTH_MAX}), "dots": "." * 60_000,
        "header": target.made(header | {"kid": "k" * TOKEN_LENGTH_MAX}, claims), "letters": "A" * 60_000,
        "digits": target.made(header, json.dumps(claims).replace(str(claims["exp"]), "9" * 5_000).encode()),
        "depth": target.made(header, b'{"a":' * 1_000 + b"1" + b"}" * 1_000),
        "names": target.made(header, {str(number): 0 for number in range(600)}),
        "a long head": target.made(header | {"typ": "J" * 600}, claims),
    }  # fmt: skip
    started = time.monotonic()
    target.refuses(tokens, good)
    assert time.monotonic() - started < 10
    refused(target.redeem("A" * 70_000), 413, "body_too_large")


# Kinds of tokens


def test_rfc8725_3_11_a_token_is_of_one_kind(target: Target) -> None:
    """What must be understood and is not is refused (crit), and so is a header of another shape."""
    good = target.sell()
    header, claims = opened_token(good)
    tokens = {
        f"{more!r}": target.made(header | more, claims)
        for more in (
            {"crit": ["exp"]},
            {"crit": []},
            {"crit": "exp"},
            {"crit": ["x"], "x": 1},
            {"x": 1},
            {"typ": 5},
            {"typ": ["JWT"]},
            {"cty": 7},
        )
    }
    for odd in (b"[]", b"null", b"7", b'"x"', b"{", b"", b"\xff", b"[" * 3_000, b"{}"):
        tokens[f"header {odd[:9]!r}"] = target.made(odd, claims)
    target.refuses(tokens, good)


def test_rfc8725_3_12_kinds_never_pass_for_one_another(target: Target) -> None:
    """User tokens, API keys and secrets are no tickets; tickets open no other door."""
    good = target.sell()
    claims = opened_token(good)[1]
    user = {"sub": target.user, "aud": "pluct-business-engine", "exp": int(time.time()) + 60}
    tokens = {
        "user token": signed(user, USER_TOKEN_SECRET), "a ticket under its secret": signed(claims, USER_TOKEN_SECRET),
        "a user token under ours": signed(user, JWT_SECRET), "the webhook secret": signed(claims, WEBHOOK_SECRET),
        "the key secret": signed(claims, DEVELOPMENT_SECRETS["PLUCT_KEY_SECRET"]),
        "an API key": target.service["Authorization"].removeprefix("Bearer "), "the secret itself": JWT_SECRET,
    }  # fmt: skip
    for headers in ({"Authorization": f"Bearer {good}"}, {"X-API-Key": good}, {"x-webhook-secret": good}):
        assert target.engine.post("/v1/tickets/redeem", {"token": good}, headers).status_code == 401
    target.refuses(tokens, good)


def test_a_ticket_that_was_never_sold_is_not_found(target: Target) -> None:
    """Even our own key makes no ticket: what is redeemed is in the ledger, under its user and its times."""
    header, claims = opened_token(target.sell())
    refused(target.redeem(target.made(header, claims | {"jti": new_id()})), 404, "ticket_not_found")
    short = target.engine.post("/v1/vend-token", {"userId": target.user, "action": "listen"}).json()["token"]
    listening = opened_token(short)[1]
    assert target.redeem(target.made(header, listening | {"exp": 99_999_999_999})).status_code == 200
    shown = target.engine.client.get(f"/v1/tickets/{listening['jti']}", headers=target.service).json()
    assert shown["expiresAt"] < "2100"


# The documentation


def test_every_point_of_rfc_8725_is_in_the_documentation_with_its_test() -> None:
    """docs/security.md has a row for each of its sections, and each names tests that are here."""
    section = SECURITY.partition("## RFC 8725, point by point: the engine")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (3\.\d+) [^|]*\|[^|]+\|([^|]+)\|$", section, flags=re.M)
    assert [number for number, _ in rows] == [f"3.{number}" for number in range(1, 13)]
    for number, cell in rows:
        named = re.findall(r"`(test_\w+)`", cell)
        assert named and all(name in globals() for name in named), number
        assert any(name.startswith(f"test_rfc8725_{number.replace('.', '_')}_") for name in named), number


def test_the_tokens_own_times_count(target: Target) -> None:
    """Signed well, and past its own end: 410, as for a ticket of that age; before its own beginning: 401."""
    good = target.sell()
    header, claims = opened_token(good)
    now = int(time.time())
    for end in (now, now - 1_000):
        refused(target.redeem(target.made(header, claims | {"exp": end})), 410, "ticket_expired")
    refused(target.redeem(target.made(header, claims | {"nbf": now + 500})), 401, "unauthorized")
    assert target.redeem(good).status_code == 200
