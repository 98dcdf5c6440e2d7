"""OpenID Connect providers: their tokens name users, by keys that are fetched, cached and rotated."""

import hmac
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from joserfc import jws
from joserfc.jwk import ECKey, OKPKey, RSAKey

from conftest import JWT_SECRET, USER_TOKEN_SECRET, Pluct, refused, served, signed, until, user_token
from doubles.keys import Publisher
from paying import free_port
from pluct.tickets import EDDSA, base64url

Make = Callable[..., Pluct]
ISSUER = "https://login.example"
SECRETS = {"PLUCT_USER_AUTH": "token", "USER_TOKEN_SECRET": USER_TOKEN_SECRET, "JWT_SECRET": JWT_SECRET}
KEYS: dict[str, tuple[Any, str]] = {
    "rsa": (RSAKey.generate_key(2048, {"kid": "rsa"}), "RS256"),
    "ec": (ECKey.generate_key("P-256", {"kid": "ec"}), "ES256"),
    "okp": (OKPKey.generate_key("Ed25519", {"kid": "okp"}), "EdDSA"),
}


def toml(jwks_url: str, issuer: str = ISSUER, **more: str) -> str:
    """One provider."""
    said = {"issuer": issuer, "audience": "the-app", "jwks_url": jwks_url} | more
    return "[[identity.issuers]]\n" + "".join(f'{name} = "{value}"\n' for name, value in said.items())


def token(kid: str = "rsa", header: dict[str, Any] | None = None, key: Any = None, **more: Any) -> str:
    """What the provider signs; `more` replaces claims, and None takes one away."""
    content = {"iss": ISSUER, "aud": "the-app", "sub": "amina", "exp": int(time.time()) + 600} | more
    text = json.dumps({name: value for name, value in content.items() if value is not None})
    pair = KEYS.get(kid, KEYS["rsa"])
    head = {"alg": pair[1], "kid": kid} | (header or {})
    registry = EDDSA if head["alg"] == "EdDSA" else jws.JWSRegistry(algorithms=[head["alg"]])
    return jws.serialize_compact(
        {name: v for name, v in head.items() if v is not None}, text, key or pair[0], registry=registry
    )


def published(*kids: str) -> dict[str, Any]:
    return {"keys": [KEYS[kid][0].as_dict(private=False) for kid in kids or KEYS]}


def who(engine: Pluct, given: str) -> httpx.Response:
    return engine.client.get("/v1/credits/balance", headers={"Authorization": f"Bearer {given}"})


@pytest.fixture(scope="module")
def publisher() -> Iterator[Publisher]:
    """The provider's key set."""
    made = Publisher()
    made.answer = published()
    yield made
    made.close()


@pytest.fixture(scope="module")
def engine(publisher: Publisher, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pluct]:
    """A server that believes it."""
    with served(tmp_path_factory.mktemp("oidc"), toml(publisher.url), **SECRETS) as pluct:
        yield pluct
        assert "Traceback" not in pluct.log


@pytest.mark.parametrize("kid", KEYS)
def test_a_token_of_the_provider_names_its_user(engine: Pluct, kid: str) -> None:
    """By each kind of key; the audience may be one of several."""
    assert who(engine, token(kid)).json()["userId"] == "amina"
    assert who(engine, token(kid, aud=["x", "the-app"])).json()["userId"] == "amina"


def test_the_engine_s_own_tokens_go_on_being_good(engine: Pluct) -> None:
    """Beside it."""
    own = user_token("juma")["Authorization"].removeprefix("Bearer ")
    assert who(engine, own).json()["userId"] == "juma"


NOW = int(time.time())
REFUSED = {
    "another issuer": {"iss": "https://evil.example"}, "no issuer": {"iss": None}, "another audience": {"aud": "other"},
    "no audience": {"aud": None}, "an audience that is no text": {"aud": 3}, "expired": {"exp": NOW - 60},
    "no expiry": {"exp": None}, "expiry as text": {"exp": str(NOW + 600)}, "not yet": {"nbf": NOW + 600},
    "no user": {"sub": None}, "an empty user": {"sub": ""}, "a user that is no text": {"sub": 5},
    "a user with a control character": {"sub": "a\nb"}, "a user that is too long": {"sub": "a" * 201},
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_the_provider_did_not_say_of_this_app_is_refused(engine: Pluct, what: str) -> None:
    """401, or 400 for an id that cannot be one."""
    answer = who(engine, token(**REFUSED[what]))
    assert answer.status_code in (400, 401) and "detail" in answer.json()


def test_nobody_else_s_signature_counts(engine: Pluct) -> None:
    """None at all, another key, the public key as a secret, the engine's secrets, a key that the token brings along."""
    own = RSAKey.generate_key(2048, {"kid": "rsa"})
    public = KEYS["rsa"][0].as_pem(private=False)
    head = base64url(b'{"alg":"HS256","kid":"rsa"}') + b"." + token().split(".")[1].encode()
    content = {"iss": ISSUER, "aud": "the-app", "sub": "amina", "exp": NOW + 600}
    forged = [
        token(key=own), token(key=own, header={"jwk": own.as_dict(private=False)}),
        token(key=own, header={"jku": "http://127.0.0.1:1/", "x5u": "http://127.0.0.1:1/"}),
        f"{head.decode()}.{base64url(hmac.digest(public, head, 'sha256')).decode()}",
        signed(content, USER_TOKEN_SECRET),
        signed(content, JWT_SECRET), token("ec", header={"kid": "rsa"}), token(header={"kid": "../rsa"}),
        token(header={"kid": None}), token(key=KEYS["rsa"][0], header={"alg": "RS512"}),
        token().rpartition(".")[0] + ".", "eyJhbGciOiJub25lIn0." + token().split(".")[1] + ".",
    ]  # fmt: skip
    for each in forged:
        refused(who(engine, each), 401, "unauthorized")


def test_keys_are_rotated_and_asked_for_seldom(make_pluct: Make) -> None:
    """An unknown id has the set fetched once; a flood of unknown ids does not; a key that is gone is not believed."""
    made = Publisher()
    made.answer = published("ec")
    engine = make_pluct(toml=toml(made.url), **SECRETS)
    engine.start()
    assert who(engine, token("ec")).status_code == 200
    for _ in range(20):
        refused(who(engine, token("rsa")), 401, "unauthorized")
    assert len(made.asked) == 1
    made.answer = published("rsa")
    assert until(lambda: who(engine, token("rsa")).status_code == 200, 15)
    refused(who(engine, token("ec")), 401, "unauthorized")
    assert len(made.asked) == 2
    made.close()  # an outage
    assert who(engine, token("rsa")).status_code == 200


RSA = published("rsa")["keys"][0]
ODD: dict[str, tuple[Any, int]] = {
    "not JSON": (b"<html>", 503), "no set": ({"key": 1}, 503), "no list": ({"keys": {}}, 503), "a redirect": (302, 503),
    "too much": (b" " * 300_000 + b'{"keys": []}', 503), "an error": (500, 503),
    "a short key": ({"keys": [RSA | {"n": RSA["n"][:171]}]}, 401), "junk": ({"keys": [1, None, {}, {"kty": 5}]}, 401),
    "a secret": ({"keys": [{"kty": "oct", "k": "AAAA", "kid": "rsa"}]}, 401),
    "another use": ({"keys": [RSA | {"use": "enc"}]}, 401),
    "another algorithm": ({"keys": [RSA | {"alg": "PS512"}]}, 401),
}  # fmt: skip


@pytest.mark.parametrize("what", ODD)
def test_a_provider_that_publishes_no_good_key(make_pluct: Make, what: str) -> None:
    """Nobody is believed, and the caller is told whether to try again."""
    made = Publisher()
    said, status = ODD[what]
    if isinstance(said, int):
        made.status = said
    else:
        made.answer = said
    engine = make_pluct(toml=toml(made.url), **SECRETS)
    engine.start()
    refused(who(engine, token()), status, "unavailable" if status == 503 else "unauthorized")
    own = user_token("juma")["Authorization"].removeprefix("Bearer ")
    assert who(engine, own).status_code == 200
    made.close()


def test_another_claim_and_a_prefix(make_pluct: Make) -> None:
    """An email address counts once the provider has verified it; the prefix keeps providers apart."""
    made = Publisher()
    made.answer = published("ec")
    engine = make_pluct(toml=toml(made.url, claim="email", prefix="acme:"), **SECRETS)
    engine.start()
    known = {"email": "a@example.com", "email_verified": True}
    assert who(engine, token("ec", **known)).json()["userId"] == "acme:a@example.com"
    refused(who(engine, token("ec", email="a@example.com")), 401, "unauthorized")
    refused(who(engine, token("ec", email="a@example.com", email_verified="true")), 401, "unauthorized")
    assert who(engine, token("ec", header={"kid": None}, **known)).status_code == 200  # there is only one key
    made.close()


def test_a_real_provider(make_pluct: Make) -> None:
    """Somebody else's implementation of OpenID Connect: sign in there, and spend here."""
    port = free_port()
    base = f"http://localhost:{port}"
    with subprocess.Popen(
        [sys.executable, "-m", "oidc_provider_mock", "--port", str(port)], stderr=subprocess.DEVNULL
    ) as provider:
        try:
            found = until(lambda: _discovered(base), 20)
            engine = make_pluct(toml=toml(found["jwks_uri"], found["issuer"]), **SECRETS)
            engine.start()
            engine.fund("amina", 1)
            back = "http://localhost/back"
            asked = {"client_id": "the-app", "redirect_uri": back, "response_type": "code", "scope": "openid"}
            with httpx.Client() as browser:
                sent = browser.post(found["authorization_endpoint"], params=asked, data={"sub": "amina"})
                code = parse_qs(urlsplit(sent.headers["location"]).query)["code"][0]
                said = browser.post(
                    found["token_endpoint"],
                    data={"grant_type": "authorization_code", "code": code, "redirect_uri": back},
                    auth=("the-app", "a secret"),
                ).json()
            headers = {"Authorization": f"Bearer {said['id_token']}"}
            assert engine.post("/v1/vend-token", {}, headers).json()["balanceAfter"] == 0
            assert engine.post("/v1/vend-token", {"userId": "juma"}, headers).status_code == 403
        finally:
            provider.kill()


def _discovered(base: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = httpx.get(f"{base}/.well-known/openid-configuration").json()
    except httpx.TransportError:
        return None
    return found


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('[[identity.issuers]]\nissuer = "a"\n', "audience is missing"), (toml("ftp://x"), "jwks_url must be https://"),
        (toml("http://keys.example/"), "jwks_url must be https://"), (toml("https://x/") * 2, "is there twice"),
        (toml("https://x/", claim=""), "claim must be the name"), (toml("https://x/", jwk="x"), "unknown key 'jwk'"),
        ("[identity]\nissuers = 3\n", "must be tables"), ('[identity]\nissuers = ["x"]\n', "must be a table"),
    ],
)  # fmt: skip
def test_wrong_settings_are_named(make_pluct: Make, text: str, part: str) -> None:
    """With the file and which provider."""
    said = make_pluct(toml=text).run("check", exit_code=2).stderr
    assert part in said and re.search(r"pluct\.toml: \S*identity", said)
