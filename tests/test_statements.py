"""Statements: every entry in words, in the right number, and no longer than SMS allow."""

from collections.abc import Iterator
from typing import Any, get_args

import pytest

from conftest import Keys, Pluct, new_id, served
from pluct.model import Entry, EntryKind, Wallet
from pluct.statements import SMS_MESSAGES_MAX, Language, sms, statement


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pluct]:
    with served(tmp_path_factory.mktemp("statements")) as pluct:
        yield pluct


@pytest.fixture(scope="module")
def keys(engine: Pluct) -> Keys:
    return {role: engine.key(role) for role in ("service", "operator")}


def entry(kind: EntryKind, amount: int, debit: str, credit: str, **more: Any) -> Entry:
    return Entry(new_id(), "amina", 1, None, 1_800_000_000_000, kind, amount, debit, credit, 0, 0, **more)


def said(language: Language, *entries: Entry) -> list[str]:
    return [line.sentence for line in statement(Wallet("amina", entries=1), list(entries), language).lines]


def test_verbs_agree_with_the_number() -> None:
    """One credit and several take other words, in Swahili other prefixes."""
    one, two = (entry("vend", n, "user:amina", "earned:transcribe") for n in (1, 2))
    assert said("en", one, two) == ["1 credit was spent on transcribe", "2 credits were spent on transcribe"]
    assert said("sw", one, two) == ["Krediti 1 imetumika kwa transcribe", "Krediti 2 zimetumika kwa transcribe"]


def test_a_payment_is_told_from_credits_of_unsaid_origin() -> None:
    """Only a gateway's credits are called paid."""
    mpesa = entry("grant", 5, "issued:mpesa", "user:amina")
    given = entry("grant", 5, "issued:webhook", "user:amina")
    assert said("en", mpesa, given) == ["5 credits came in with a payment", "5 credits were added"]


def test_both_sides_of_adjustments_and_claw_backs() -> None:
    """The direction is in the words."""
    up, down = entry("adjust", 2, "adjusted", "user:amina"), entry("adjust", 2, "user:amina", "adjusted")
    back, owed = entry("clawback", 2, "user:amina", "issued:mpesa"), entry("clawback", 2, "debt:amina", "issued:mpesa")
    assert said("sw", up, down) == ["Krediti 2 zimeongezwa na mhudumu", "Krediti 2 zimeondolewa na mhudumu"]
    assert said("en", back, owed) == [
        "2 credits went back with their payment", "2 credits are owed for a returned payment",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", get_args(EntryKind))
@pytest.mark.parametrize("language", get_args(Language))
def test_every_kind_of_entry_has_its_words(kind: EntryKind, language: Language) -> None:
    """No kind is forgotten when one is added."""
    (sentence,) = said(language, entry(kind, 3, "earned:x", "earned:x"))
    assert "3" in sentence
    assert "{" not in sentence


def test_sms_are_few_and_in_their_alphabet() -> None:
    """Two hundred lines with markup, accents and emoji fit the bound, and what is left out is counted."""
    long = entry("vend", 2, "user:amina", "earned:caf\u00e9[x]{\U0001f600}", reference="r" * 200)
    text, messages = sms(statement(Wallet("amina", 7, entries=1), [long] * 200, "en"))
    shown = text.count("spent on")
    assert "cafe(x)(?)" in text
    assert text.isascii()
    assert not set(text) & set("[]{}|^~`\\")
    assert text.endswith(f"{200 - shown} older lines are left out.")
    assert len(text) <= SMS_MESSAGES_MAX * 153
    assert 1 < messages <= SMS_MESSAGES_MAX


def test_one_message_is_longer_than_a_part_of_several() -> None:
    """160 characters go alone; 161 take two parts of 153."""

    def of(length: int) -> int:
        found = statement(Wallet("amina", 7, entries=1), [], "en")
        return sms(type(found)("en", "x" * length, ()))[1]

    assert [of(length) for length in (160, 161, 306, 307)] == [1, 2, 2, 3]


def test_times_are_east_africa_time() -> None:
    """08:00 UTC is 11:00 in Nairobi."""
    assert "15/01 11:00 1 credit expired" in sms(
        statement(Wallet("amina", entries=1), [entry("expire", 1, "user:amina", "expired")], "en")
    )[0]  # fmt: skip


def test_a_statement_over_http(engine: Pluct, keys: Keys) -> None:
    """Newest first, in pages; unknown users have an empty one; text says how many messages it is."""
    user = engine.funded(5)
    engine.post("/vend-token", {"userId": user}).raise_for_status()
    page = engine.client.get(f"/v1/statements/{user}", params={"limit": 1}, headers=keys["operator"]).json()
    assert page["summary"] == "You have 4 credits."
    assert [line["number"] for line in page["lines"]] == [2]
    older = {"lang": "sw", "cursor": page["nextCursor"]}
    last = engine.client.get(f"/v1/statements/{user}", params=older, headers=keys["operator"]).json()
    assert last["summary"] == "Una krediti 4."
    assert [line["sentence"] for line in last["lines"]] == ["Krediti 5 zimeongezwa"]
    answer = engine.client.get("/v1/statements/nobody", params={"format": "text"}, headers=keys["operator"])
    assert answer.text == "You have 0 credits. No credits have come in or gone out yet."
    assert answer.headers["x-sms-messages"] == "1"
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize("query", [{"lang": "fr"}, {"format": "pdf"}, {"limit": 201}, {"cursor": "no-such-entry"}])
def test_what_is_not_a_statement_is_refused(engine: Pluct, keys: Keys, query: dict[str, Any]) -> None:
    """With 400 and a sentence."""
    answer = engine.client.get(f"/v1/statements/{engine.funded(1)}", params=query, headers=keys["operator"])
    assert answer.status_code == 400
    assert answer.json()["detail"]


def test_only_operators_and_the_user_see_it(engine: Pluct, keys: Keys) -> None:
    """A statement shows payment references."""
    assert engine.client.get("/v1/statements/amina").status_code == 401
    assert engine.client.get("/v1/statements/amina", headers=keys["service"]).status_code == 403


def test_a_statement_in_the_terminal(engine: Pluct) -> None:
    """The same words beside a running server."""
    user = engine.funded(2)
    assert "Una krediti 2." in engine.run("statement", user, "--lang", "sw").stdout
    assert engine.json("statement", user, "--json")["messages"] == 1
