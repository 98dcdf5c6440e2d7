"""Registration and refresh tokens: each is good once, a copied one ends its family, a lost answer can be had again."""

import base64
import hashlib
import json
import re
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from conftest import USER_TOKEN_SECRET, Pluct, claims, new_id, refused
from postgres import fresh_database

Make = Callable[..., Pluct]
TOML = "[identity]\nregistration = true\n[limits]\nregister_per_address = '1000/day'\n"
SECRETS = {"PLUCT_USER_AUTH": "token", "USER_TOKEN_SECRET": USER_TOKEN_SECRET}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pluct]:
    """A server at which people register, over either database; two processes of it over PostgreSQL."""
    folder, place = tmp_path_factory.mktemp("identity"), dict[str, str]()
    if request.param == "postgresql":
        place = {"DATABASE_URL": fresh_database(request.getfixturevalue("postgresql_url"))}
    (folder / "pluct.toml").write_text(TOML)
    pluct = Pluct(folder, **SECRETS, **place)
    pluct.start(*(["--workers", "2"] if place else []))
    yield pluct
    assert "Traceback" not in pluct.log and not re.search(r"pluct_refresh_|eyJ", pluct.log)
    pluct.close()


def register(engine: Pluct) -> dict[str, Any]:
    answer = engine.post("/v1/users", {})
    assert answer.status_code == 201 and answer.headers["cache-control"] == "no-store", answer.text
    found: dict[str, Any] = answer.json()
    return found


def refresh(engine: Pluct, token: str, key: str | None = None) -> httpx.Response:
    return engine.post("/v1/users/token", {"refreshToken": token}, {"Idempotency-Key": key} if key else {})


def bearer(pair: dict[str, Any]) -> dict[str, str]:
    return {"Authorization": f"Bearer {pair['userToken']}"}


def balance(engine: Pluct, pair: dict[str, Any]) -> httpx.Response:
    return engine.client.get("/v1/credits/balance", headers=bearer(pair))


def ended(engine: Pluct, token: str) -> bool:
    """Whether a refresh token is good for nothing, with a sentence."""
    said = refused(refresh(engine, token), 401, "unauthorized")
    return "register, or sign in again" in said["detail"]


def test_whoever_registers_has_an_identity_of_their_own(engine: Pluct) -> None:
    """A random id, a token for it that spends its credits and nobody else's, and expires when it says."""
    amina, juma = register(engine), register(engine)
    assert amina["userId"] != juma["userId"] and re.fullmatch(r"u_[0-9a-f]{32}", amina["userId"])
    engine.fund(amina["userId"], 2)
    vended = engine.post("/v1/vend-token", {}, bearer(amina)).json()
    assert vended["balanceAfter"] == 1
    assert engine.post("/v1/vend-token", {"userId": amina["userId"]}, bearer(juma)).status_code == 403
    said = claims(amina["userToken"], USER_TOKEN_SECRET)
    assert said["sub"] == amina["userId"] and said["exp"] - said["iat"] == 3600
    assert amina["expiresAt"].endswith("Z") and amina["ok"] is True
    refused(
        engine.post("/v1/tickets/redeem", {"token": amina["userToken"]}, engine.key("service")), 401, "unauthorized"
    )
    ticket = {"Authorization": f"Bearer {vended['token']}"}
    refused(engine.client.get("/v1/credits/balance", headers=ticket), 401, "unauthorized")


def test_a_refresh_token_is_good_once(engine: Pluct) -> None:
    """It is traded for the next; a spent one that comes again ends everything that came of the registration."""
    first = register(engine)
    second = refresh(engine, first["refreshToken"]).json()
    third = refresh(engine, second["refreshToken"]).json()
    assert len({pair["refreshToken"] for pair in (first, second, third)}) == 3
    assert first["userId"] == second["userId"] == third["userId"]
    assert balance(engine, third).json()["userId"] == first["userId"]
    said = refused(refresh(engine, second["refreshToken"]), 401, "unauthorized")
    assert "used before" in said["detail"]
    for pair in (first, second, third):
        assert ended(engine, pair["refreshToken"])


def test_an_older_one_ends_it_as_well(engine: Pluct) -> None:
    """However long ago it was spent."""
    tokens = [register(engine)["refreshToken"]]
    for _ in range(4):
        tokens.append(refresh(engine, tokens[-1]).json()["refreshToken"])
    refused(refresh(engine, tokens[0]), 401, "unauthorized")
    assert ended(engine, tokens[-1])


def test_a_lost_answer_can_be_had_again(engine: Pluct) -> None:
    """Under the same idempotency key: the same pair, as often as one likes, until that pair is used."""
    first, key = register(engine), new_id()
    second, again = (refresh(engine, first["refreshToken"], key) for _ in range(2))
    assert "idempotency-replayed" not in second.headers and again.headers["idempotency-replayed"] == "true"
    fields = ("userId", "userToken", "refreshToken", "expiresAt")
    assert [again.json()[name] for name in fields] == [second.json()[name] for name in fields]
    third = refresh(engine, second.json()["refreshToken"], new_id())
    assert third.status_code == 200
    refused(refresh(engine, first["refreshToken"], key), 401, "unauthorized")  # by now only a thief needs it
    assert ended(engine, third.json()["refreshToken"])


def test_another_key_is_no_repetition(engine: Pluct) -> None:
    """Who has copied the token does not know the key."""
    first = register(engine)
    second = refresh(engine, first["refreshToken"], "mine").json()
    refused(refresh(engine, first["refreshToken"], "a thief's"), 401, "unauthorized")
    assert ended(engine, second["refreshToken"])


def test_of_many_at_once_one_wins(engine: Pluct) -> None:
    """Over all processes; under one key, all are the same request."""
    with ThreadPoolExecutor(8) as pool:
        token = register(engine)["refreshToken"]
        answers = list(pool.map(lambda _: refresh(engine, token), range(8)))
        assert sorted(answer.status_code for answer in answers) == [200] + [401] * 7
        token = register(engine)["refreshToken"]
        answers = list(pool.map(lambda _: refresh(engine, token, "k"), range(8)))
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.json()["refreshToken"] for answer in answers}) == 1


@pytest.mark.parametrize(
    "token",
    ["", "x", "pluct_refresh_", f"pluct_refresh_{'0' * 32}_{'A' * 43}", f"pluct_refresh_{'g' * 32}_{'A' * 43}",
     f"pluct_refresh_{'0' * 32}_{'A' * 60_000}", "\ud800", "pluct_refresh_\0"],
    ids=["empty", "short", "head", "unknown", "no hex", "long", "half a pair", "null"],
)  # fmt: skip
def test_what_is_no_refresh_token_is_refused(engine: Pluct, token: str) -> None:
    """401, or 400 where it cannot even be read."""
    answer = engine.client.post(
        "/v1/users/token", content=json.dumps({"refreshToken": token}), headers={"content-type": "application/json"}
    )
    assert (answer.status_code, answer.json()["code"]) in ((401, "unauthorized"), (400, "invalid_request"))


def test_a_user_token_is_no_refresh_token(engine: Pluct) -> None:
    """Nor the other way round."""
    pair = register(engine)
    refused(refresh(engine, pair["userToken"]), 401, "unauthorized")
    refused(balance(engine, {"userToken": pair["refreshToken"]}), 401, "unauthorized")


def test_an_app_with_its_own_login_asks_for_tokens(engine: Pluct) -> None:
    """With a service key, for any user id; nobody else may."""
    user, service = engine.funded(1), engine.key("service")
    answer = engine.post(f"/v1/users/{user}/token", {}, service)
    assert answer.status_code == 200 and answer.json()["userId"] == user
    assert "refreshToken" not in answer.json() and answer.headers["cache-control"] == "no-store"
    assert engine.post("/v1/vend-token", {}, bearer(answer.json())).status_code == 200
    for headers, status in (({}, 401), (engine.key("mint"), 403), (bearer(answer.json()), 403)):
        assert engine.post(f"/v1/users/{user}/token", {}, headers).status_code == status
    odd = engine.post("/v1/users/a%20%2Fb%C3%A9/token", {}, service).json()
    assert odd["userId"] == "a /bé" and balance(engine, odd).json()["userId"] == "a /bé"
    refused(engine.post("/v1/users/%00/token", {}, service), 400, "invalid_request")


def test_an_operator_revokes_a_user(engine: Pluct) -> None:
    """All registrations of theirs; the route and the command count them."""
    one, two = register(engine), register(engine)
    answer = engine.post(f"/v1/users/{one['userId']}/revoke", {}, engine.key("operator"))
    assert answer.json()["revoked"] == 1 and ended(engine, one["refreshToken"])
    assert engine.post(f"/v1/users/{one['userId']}/revoke", {}, engine.key("service")).json()["revoked"] == 0
    refused(engine.post(f"/v1/users/{two['userId']}/revoke", {}, engine.key("mint")), 403, "forbidden")
    assert engine.json("users", "revoke", two["userId"], "--json")["revoked"] == 1
    assert ended(engine, two["refreshToken"])
    assert "no registration" in engine.run("users", "revoke", "nobody").stdout


def test_the_database_does_not_know_the_tokens(engine: Pluct) -> None:
    """Nor anything from which they could be made."""
    pair = register(engine)
    secret = pair["refreshToken"][-43:]
    if "DATABASE_URL" in engine.environment:
        return
    data = b"".join(file.read_bytes() for file in engine.database.parent.glob("pluct.db*"))
    assert secret.encode() not in data and base64.urlsafe_b64decode(secret + "=") not in data
    assert hashlib.sha256(secret.encode()).digest() in data


# How it is set up


def test_a_refresh_token_expires(make_pluct: Make) -> None:
    """With its registration; the user token says the shorter life that was set."""
    engine = make_pluct(toml="[identity]\nregistration = true\ntoken_seconds = 60\nrefresh_days = 1\n", **SECRETS)
    engine.start()
    pair = register(engine)
    said = claims(pair["userToken"], USER_TOKEN_SECRET)
    assert said["exp"] - said["iat"] == 60
    engine.stop()
    with sqlite3.connect(engine.database) as connection:
        assert connection.execute("UPDATE families SET expires_at = expires_at - 86400000").rowcount == 1
    connection.close()
    engine.start()
    assert ended(engine, pair["refreshToken"])


def test_without_registration_there_is_none(make_pluct: Make) -> None:
    """404, with what to set; apps with a login of their own are served all the same."""
    engine = make_pluct(**SECRETS)
    engine.start()
    for path, body in (("/v1/users", {}), ("/v1/users/token", {"refreshToken": "x"})):
        said = refused(engine.post(path, body), 404, "route_not_found")
        assert "registration = true" in said["detail"]
    assert engine.post("/v1/users/amina/token", {}, engine.key("service")).status_code == 200


def test_an_address_registers_so_often(make_pluct: Make) -> None:
    """As the proxy in front tells it."""
    toml = "[identity]\nregistration = true\n[limits]\nregister_per_address = '2/day'\n[http]\nproxy_hops = 1\n"
    engine = make_pluct(toml=toml, **SECRETS)
    engine.start()
    found = [
        engine.post("/v1/users", {}, {"X-Forwarded-For": f"6.6.6.{number}, 10.0.0.{number // 3}"}).status_code
        for number in range(6)
    ]
    assert found == [201, 201, 429, 201, 201, 429]


def test_wrong_settings_are_named(make_pluct: Make) -> None:
    """Each, with the file and the key."""
    engine = make_pluct(toml="[identity]\nregistration = 'yes'\ntoken_seconds = 0\nrefresh_day = 1\n")
    said = engine.run("check", exit_code=2).stderr
    for part in ("registration must be true or false", "token_seconds must be 1 to 86400", "unknown key 'refresh_day'"):
        assert part in said
    assert "identity must be a table" in make_pluct(toml="identity = 3\n").run("check", exit_code=2).stderr
    secrets = {name: name * 5 for name in ("WEBHOOK_SECRET", "JWT_SECRET")}
    engine = make_pluct(
        toml="[identity]\nregistration = true\n", PLUCT_ENV="production", PLUCT_USER_AUTH="open", **secrets
    )
    assert "needs PLUCT_USER_AUTH=token" in engine.run("check", exit_code=2).stderr
