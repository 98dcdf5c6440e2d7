"""`pluct payments` and `pluct daraja` beside a running server, over both databases."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from conftest import Pluct
from paying import PATH_TOKEN, SECRETS, Paying, paying
from postgres import fresh_database

Make = Callable[..., Pluct]


@pytest.fixture(params=["sqlite", "postgresql"])
def world(request: pytest.FixtureRequest, make_pluct: Make) -> Iterator[Paying]:
    """An engine that takes M-Pesa, and in its suspense two payments that nobody's code was typed for."""
    place = {}
    if request.param == "postgresql":
        place = {"DATABASE_URL": fresh_database(request.getfixturevalue("postgresql_url"))}
    with paying(make_pluct, "cancelled", **place) as made:
        made.type_in("[red]WRONG", "100", "SLK4H7R2T0")
        made.type_in("", "20", "SLK4H7R2T1")
        yield made


def said(answer: Any) -> Any:
    """An answer without what differs from one request to the next."""
    return {**answer, "requestId": 0}


def test_programs_are_told_what_the_routes_answer(world: Paying) -> None:
    """The same fields and values, whichever way one asks."""
    engine = world.engine

    def route(path: str, **query: str) -> Any:
        return said(engine.client.get(path, params=query, headers=world.operator).json())

    assert said(engine.json("payments", "list")) == route("/v1/payments")
    page = engine.json("payments", "list", "--state", "unmatched", "--gateway", "daraja", "--limit", "1")
    assert said(page) == route("/v1/payments", state="unmatched", gateway="daraja", limit="1")
    rest = engine.json("payments", "list", "--limit", "1", "--cursor", page["nextCursor"])
    assert [payment["reference"] for payment in rest["payments"]] == ["SLK4H7R2T0"]
    for option, sentence in (("--cursor", "not one that a page of payments"), ("--gateway", "one of daraja, stripe")):
        assert sentence in engine.run("payments", "list", option, "zzz", exit_code=1).stderr
    first, second = rest["payments"][0]["id"], page["payments"][0]["id"]
    assert said(engine.json("payments", "show", first)) == route(f"/v1/payments/{first}")
    assigned = engine.json("payments", "assign", first, "juma", "--reason", "showed the message")
    assert said(assigned) == route(f"/v1/payments/{first}")
    assert (assigned["state"], assigned["userId"], assigned["credits"]) == ("paid", "juma", 10)
    written = engine.json("payments", "write-off", second, "--reason", "sent back by hand")
    assert said(written) == route(f"/v1/payments/{second}") and written["state"] == "written_off"
    assert said(engine.json("payments", "requests")) == route("/v1/credits/requests")
    engine.run("check")


def test_a_payment_goes_by_its_receipt_too(world: Paying) -> None:
    """Shown, assigned and written off by what the user has at hand; and a user's payments are listed."""
    engine = world.engine
    second, first = [payment["id"] for payment in world.payments()]
    assert said(engine.json("payments", "show", "slk4h7r2t0")) == said(engine.json("payments", "show", first))
    assert engine.json("payments", "assign", "SLK4H7R2T0", "juma", "--reason", "message shown")["id"] == first
    assert engine.json("payments", "write-off", "SLK4H7R2T1", "--reason", "sent back")["id"] == second
    (listed,) = engine.json("payments", "list", "--user", "juma")["payments"]
    assert listed["id"] == first and engine.json("payments", "list", "--user", "amina")["payments"] == []
    assert "leave --state" in engine.run("payments", "list", "--user", "u", "--state", "paid", exit_code=1).stderr
    assert "no such payment" in engine.run("payments", "show", "SLK4H7R2T9", exit_code=1).stderr.lower()


def test_a_payment_is_settled_once_from_the_terminal(world: Paying) -> None:
    """Again for the same user changes nothing; for another, or after a write-off, it is refused in a sentence."""
    engine = world.engine
    second, first = [payment["id"] for payment in world.payments()]
    for _ in range(2):
        shown = engine.run("payments", "assign", first, "juma", "--reason", "showed the message").stdout
        assert "paid" in shown and "juma" in shown and engine.available("juma") == 10
    told = " ".join(engine.run("payments", "show", first, COLUMNS="200").stdout.split())
    assert (
        "to juma: showed the message" in told and '"BillRefNumber":' in told
    )  # who decided why, and the gateway's words
    engine.run("payments", "write-off", second, "--reason", "sent back by hand")
    for refused in (
        ["assign", first, "amina"], ["write-off", first], ["assign", second, "juma"],
    ):  # fmt: skip
        done = engine.run("payments", *refused, "--reason", "no", exit_code=1)
        assert "already" in done.stderr and done.stdout == ""
        answer = engine.json("payments", *refused, "--reason", "no", exit_code=1)
        assert (answer["status"], answer["code"]) == (409, "payment_already_settled")
    assert engine.json("payments", "show", "no-such", exit_code=1)["code"] == "payment_not_found"
    assert engine.available("juma") == 10 and engine.available("amina") == 0
    (event,) = [e for e in engine.json("payments", "show", first)["events"] if e["kind"] == "assigned"]
    assert event["body"]["actor"].startswith("cli")


def test_people_are_shown_tables(world: Paying) -> None:
    """What a payer typed is shown as it is, and no secret and no phone number is."""
    engine = world.engine
    table = engine.run("payments", "list", COLUMNS="200").stdout
    assert "SLK4H7R2T0" in table and "unmatched" in table and "KES 100.00" in table
    shown = engine.run("payments", "list", COLUMNS="80").stdout
    for payment in world.payments():
        (row,) = [line for line in shown.splitlines() if payment.get("reference", payment["id"]) in line]
        assert payment["state"].replace("_", " ") in row
    first = world.payments()[1]["id"]
    shown = engine.run("payments", "show", first, COLUMNS="200").stdout
    assert "[red]WRONG" in shown and "2547*****678" in shown and f"pluct payments assign {first}" in shown
    assert not [hidden for hidden in ("254712345678", *SECRETS.values()) if hidden in table + shown]
    assert "no such payments" in engine.run("payments", "list", "--state", "disputed").stdout


@pytest.mark.parametrize(
    "wrong",
    [
        ["list", "--state", "lost"], ["list", "--limit", "0"], ["list", "--gateway", "\udcff"], ["show"],
        ["assign", "x", "u"], ["write-off", "x"], ["assign", "x", "", "--reason", "y"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_is_wrong_is_said(make_pluct: Make, wrong: list[str]) -> None:
    """In a sentence, without a traceback."""
    done = make_pluct().run("payments", *wrong, exit_code=None)
    assert done.returncode in (1, 2) and done.stderr.strip()


def test_addresses_are_registered_with_daraja(make_pluct: Make) -> None:
    """Once; a second time Daraja's own refusal is a sentence, and the path token is never shown."""
    with paying(make_pluct) as world:
        engine = world.engine
        done = engine.json("daraja", "register-urls")
        assert done["ok"] is True and "174379" in done["done"][0]
        registered = world.simulator.urls["174379"]["confirmation"]
        assert registered.endswith(f"/hooks/daraja/c2b/{PATH_TOKEN}/confirmation")
        again = engine.run("daraja", "register-urls", exit_code=1)
        assert "already registered" in again.stderr
        assert PATH_TOKEN not in str(done) + again.stdout + again.stderr


def test_without_mpesa_there_is_nothing_to_register(make_pluct: Make) -> None:
    """The sentence says what is missing; a Daraja that cannot be reached is one, too."""
    engine = make_pluct()
    assert "[gateways.daraja]" in engine.run("daraja", "register-urls", exit_code=2).stderr
    toml = '[payments]\ncallback_base_url = "http://127.0.0.1:1"\n[gateways.daraja]\nbase_url = "http://127.0.0.1:1"\n'
    (engine.folder / "pluct.toml").write_text(toml)
    done = engine.run("daraja", "register-urls", exit_code=2, **SECRETS)
    assert "cannot be reached" in done.stderr and not [s for s in SECRETS.values() if s in done.stderr]
