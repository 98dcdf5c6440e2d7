"""`pluct signing-keys` from a terminal, beside servers and alone, over every store; and set-ups that cannot sign."""

import secrets
from collections.abc import Callable
from typing import Any

import pytest

from busy import run
from conftest import Pluct, until
from postgres import fresh_database
from test_cli import on_a_terminal
from verifying import header

Make = Callable[..., Pluct]
FIELDS = {"kid", "state", "createdAt", "signsFrom"}


@pytest.fixture(params=["sqlite", "postgresql"])
def pluct(request: pytest.FixtureRequest, make_pluct: Make) -> Pluct:
    """A program that signs with keys, over each kind of store."""
    if request.param == "sqlite":
        return make_pluct(PLUCT_SIGNING="EdDSA")
    url = fresh_database(request.getfixturevalue("server_url")(request.param))
    return make_pluct(PLUCT_SIGNING="EdDSA", DATABASE_URL=url)


def listed(pluct: Pluct) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pluct.json("signing-keys", "list")["keys"]
    return found


def kids(pluct: Pluct) -> list[str]:
    return [jwk["kid"] for jwk in pluct.client.get("/.well-known/jwks.json").json()["keys"]]


def test_keys_are_listed_rotated_and_retired_beside_a_server(pluct: Pluct) -> None:
    """It follows within five seconds, as programs and people are told."""
    pluct.run("migrate")
    assert listed(pluct) == []
    assert "PLUCT_SIGNING=EdDSA" in pluct.run("signing-keys", "list").stdout
    pluct.start()
    (first,) = listed(pluct)
    assert set(first) == FIELDS and first["state"] == "signing" and kids(pluct) == [first["kid"]]
    second = pluct.json("signing-keys", "rotate")
    assert set(second) == FIELDS and second["state"] == "pending" and second["createdAt"] < second["signsFrom"]
    until(lambda: kids(pluct) == [first["kid"], second["kid"]], 5)
    shown = pluct.run("signing-keys", "list", COLUMNS="80").stdout
    assert all(word in shown for word in (first["kid"], second["kid"], "signing", "pending", "takes over"))
    assert listed(pluct)[0]["publishedUntil"] > second["signsFrom"]
    user = pluct.funded(1)
    token = pluct.post("/vend-token", {"userId": user, "clientRequestId": "k"}).json()["token"]
    gone = pluct.json("signing-keys", "retire", first["kid"])
    assert set(gone) == {*FIELDS, "retiredAt"} and gone["state"] == "retired"
    assert pluct.json("signing-keys", "retire", first["kid"]) == gone
    until(lambda: kids(pluct) == [second["kid"]], 5)
    assert [key["state"] for key in listed(pluct)] == ["retired", "signing"]
    again = pluct.post("/vend-token", {"userId": user, "clientRequestId": "k"}).json()["token"]
    assert (header(token)["kid"], header(again)["kid"]) == (first["kid"], second["kid"])
    assert second["kid"] in pluct.run("signing-keys", "rotate").stdout + pluct.run("signing-keys", "list").stdout
    assert "is retired" in pluct.run("signing-keys", "retire", first["kid"]).stdout
    assert pluct.json("check")["ok"]


def test_what_cannot_be_retired_is_refused_with_what_to_do(pluct: Pluct) -> None:
    """The only key that signs, and keys that are not there: a sentence, status 1, and nothing is changed."""
    (first,) = [pluct.json("signing-keys", "rotate")]
    assert first["state"] == "signing"  # the first need not wait
    for kid, says in ((first["kid"], "pluct signing-keys rotate"), ("nobody", "pluct signing-keys list"), ("", "KID")):
        problem = pluct.json("signing-keys", "retire", kid, exit_code=1)
        assert problem["code"] == "invalid_request" and says in problem["detail"]
    assert [key["state"] for key in listed(pluct)] == ["signing"]


def test_a_person_sees_a_table(pluct: Pluct) -> None:
    """With ids in one piece."""
    kid = pluct.json("signing-keys", "rotate")["kid"]
    seen = on_a_terminal(pluct, "signing-keys", "list")
    assert kid in seen and "\x1b[" in seen


def test_another_key_secret_is_a_sentence_at_the_start(pluct: Pluct) -> None:
    """For a server, for one with workers and for a rotation; nothing is changed, and no secret is shown."""
    first = pluct.json("signing-keys", "rotate")
    other = secrets.token_hex(20)
    commands = [["serve", "--port", "0"], ["signing-keys", "rotate"]]
    if "DATABASE_URL" in pluct.environment:
        commands.append(["serve", "--port", "0", "--workers", "2"])
    for command in commands:
        done = pluct.run(*command, exit_code=2, PLUCT_KEY_SECRET=other)
        assert done.stdout == "" and "PLUCT_KEY_SECRET does not open the signing keys" in done.stderr
        assert "bug" not in done.stderr and other not in done.stderr
    assert listed(pluct) == [first]
    pluct.environment["PLUCT_KEY_SECRET"] = f"{other},local-dev-key-secret-never-use-in-prod-97531"
    pluct.start()
    assert kids(pluct) == [first["kid"]]


def test_rotating_wants_a_key_secret(make_pluct: Make) -> None:
    """Also in production under HS256, where none need be set."""
    given = {name: f"{name} {'x' * 40}" for name in ("WEBHOOK_SECRET", "JWT_SECRET")}
    pluct = make_pluct(PLUCT_ENV="production", PLUCT_USER_AUTH="open", **given)
    assert "PLUCT_KEY_SECRET must be set" in pluct.run("signing-keys", "rotate", exit_code=2).stderr
    assert pluct.run("signing-keys", "rotate", PLUCT_KEY_SECRET="k" * 40).stdout.count("signs from") == 1


def test_no_private_key_is_in_the_ledger_the_log_or_an_answer(make_pluct: Make) -> None:
    """Nor the secret that they are sealed under."""
    secret = secrets.token_hex(20)
    pluct = make_pluct(PLUCT_SIGNING="EdDSA", PLUCT_KEY_SECRET=secret)
    pluct.start()
    pluct.post("/vend-token", {"userId": pluct.funded(1)})
    shown = pluct.run("signing-keys", "list").stdout + pluct.run("signing-keys", "rotate", "--json").stdout
    pages = [pluct.client.get(path).text for path in ("/metrics", "/.well-known/jwks.json", "/openapi.json")]
    assert pluct.stop() == 0
    ((sealed,), _) = run(pluct.database, "SELECT sealed FROM signing_keys")
    files = [path.read_bytes() for path in pluct.database.parent.iterdir()]
    assert not any(secret.encode() in data for data in files)
    for text in (shown, pluct.log, *pages):
        assert secret not in text and sealed.hex() not in text and '"d"' not in text


def test_a_copy_signs_on_with_the_keys_it_has(make_pluct: Make, postgresql_url: str) -> None:
    """Between databases, a ticket that was sold before it is redeemed after it, and asked for again it is the same."""
    pluct = make_pluct(PLUCT_SIGNING="EdDSA", toml="[actions.default]\nttl_seconds = 3600")
    pluct.start()
    user = pluct.funded(1)
    token = pluct.post("/vend-token", {"userId": user, "clientRequestId": "k"}).json()["token"]
    second = pluct.json("signing-keys", "rotate")["kid"]
    assert pluct.stop() == 0
    url = fresh_database(postgresql_url)
    report = pluct.json("copy", "--from", f"sqlite:///{pluct.database}", "--to", url)
    assert report["rows"]["signing_keys"] == 2 and report["violations"] == []
    pluct.environment["DATABASE_URL"] = url
    pluct.start()
    assert kids(pluct) == [header(token)["kid"], second]
    assert pluct.post("/vend-token", {"userId": user, "clientRequestId": "k"}).json()["token"] == token
    assert pluct.post("/v1/tickets/redeem", {"token": token}, pluct.key("service")).status_code == 200
