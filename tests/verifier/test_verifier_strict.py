"""The verifier and a real engine: its tokens at every level, tickets that it redeems, captures and voids."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from conftest import JWT_SECRET, Pluct, served, until
from network import Network
from pluct_verifier import SeenMemory, Settlement, StrictVerifier, TicketRefused, Verifier
from pluct_verifier.keys import ASK_SECONDS_MIN
from verifier_world import CLAIMS, Publisher, code, part, presented, signed

pytestmark = pytest.mark.anyio

TOML = """
[actions.default]
settle = "redeem"

[actions.vended]
audience = "vended"

[actions.transcribe]
cost = 5
audience = "tttranscribe"
settle = "report"
"""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pluct]:
    """A running engine, with an action of each settlement."""
    with served(tmp_path_factory.mktemp("engine"), TOML) as pluct:
        yield pluct


@pytest.fixture(scope="module")
def service_key(engine: Pluct) -> str:
    """The key of a premium backend."""
    return engine.key("service")["Authorization"].removeprefix("Bearer ")


@pytest.fixture
def strict(engine: Pluct, service_key: str) -> StrictVerifier:
    """Of the audience that reports."""
    return Verifier.strict(engine=engine.url, key=service_key, audience="tttranscribe")


def vended(engine: Pluct, action: str = "transcribe") -> tuple[str, str]:
    """A user with ten credits, and a ticket they bought."""
    user = engine.funded(10)
    return user, engine.post("/v1/vend-token", {"userId": user, "action": action}).json()["token"]


def held(engine: Pluct, user: str) -> int:
    """What open tickets of the user reserve."""
    found: int = engine.client.get("/v1/credits/balance", params={"userId": user}).json()["held"]
    return found


def is_now(engine: Pluct, ticket_id: str, key: dict[str, str], state: str) -> bool:
    """Whether a ticket is in this state."""
    return bool(engine.client.get(f"/v1/tickets/{ticket_id}", headers=key).json()["state"] == state)


@asynccontextmanager
async def hanging_up(verifier: Any) -> AsyncIterator[StrictVerifier]:
    """Closes the loop's connections at the end."""
    yield verifier
    await verifier._http._waiting.get().aclose()


# The engine's tokens


def test_the_engine_s_tickets_pass_offline(engine: Pluct) -> None:
    """Of every action, for its audience; times and cost are the engine's."""
    for action, audience, cost in (
        ("default", "premium", 1),
        ("vended", "vended", 1),
        ("transcribe", "tttranscribe", 5),
    ):
        user, token = vended(engine, action)
        ticket = Verifier.offline(audience=audience, secret=JWT_SECRET).accept(token)
        assert (ticket.user_id, ticket.action, ticket.cost, ticket.audience) == (user, action, cost, audience)
        assert ticket.expires_at - ticket.issued_at == 60 and abs(ticket.issued_at - time.time()) < 5


def test_the_engine_s_tickets_pass_once(engine: Pluct) -> None:
    """A replayed vend carries the same token, which is the same ticket."""
    user = engine.funded(10)
    tokens = [engine.post("/v1/vend-token", {"userId": user, "clientRequestId": key}).json()["token"] for key in "aab"]
    verifier = Verifier.once(audience="premium", secret=JWT_SECRET, seen=SeenMemory())
    verifier.accept(tokens[0])
    assert code(verifier, tokens[1]) == "ticket_already_redeemed"
    verifier.accept(tokens[2])


# Redeeming


def test_the_engine_redeems_a_ticket_once(engine: Pluct, strict: StrictVerifier) -> None:
    """For whoever asks first."""
    user, token = vended(engine)
    ticket = strict.accept(token)
    assert (ticket.user_id, ticket.action, ticket.cost) == (user, "transcribe", 5)
    assert code(strict, token) == "ticket_already_redeemed"
    assert engine.json("credits", "show", user)["held"] == 5


async def test_the_async_twin_redeems_too(engine: Pluct, strict: StrictVerifier) -> None:
    """And captures and voids."""
    async with hanging_up(strict):
        (user, token), (other, another) = vended(engine), vended(engine)
        ticket = await strict.accept_async(token)
        assert await strict.capture_async(ticket, 2) == Settlement("captured", 2, 3)
        with pytest.raises(TicketRefused, match="redeemed before"):
            await strict.accept_async(token)
        assert await strict.void_async(await strict.accept_async(another), "no") == Settlement("voided", 0, 5)
        assert (engine.available(user), engine.available(other)) == (8, 10)


def test_a_ticket_for_another_service_is_not_used_up(engine: Pluct, service_key: str, strict: StrictVerifier) -> None:
    """It is refused before the engine is asked, and stays good where it belongs."""
    user, token = vended(engine)
    for audience, action in (("premium", None), ("tttranscribe", "summarise")):
        other = Verifier.strict(engine=engine.url, key=service_key, audience=audience, action=action)
        assert code(other, token) == "ticket_invalid"
    assert strict.accept(token).user_id == user


def test_what_the_engine_does_not_believe_is_refused(engine: Pluct, strict: StrictVerifier) -> None:
    """Forged, unsigned, changed; of a ticket that never was, has ended, or went back."""
    now = int(time.time())
    claims = {
        "iss": "pluct-business-engine", "aud": "tttranscribe", "sub": "amina", "iat": now, "nbf": now, "exp": now + 60,
        "act": "transcribe", "cost": 5, "jti": "01a20d5a-c485-70fc-aabf-a4ac65fc2f8f",
    }  # fmt: skip
    assert code(strict, signed(claims, secret="o" * 40)) == "ticket_invalid"
    assert code(strict, f"{part({'alg': 'none'})}.{part(claims)}.") == "ticket_invalid"
    assert code(strict, signed(claims, secret=JWT_SECRET)) == "ticket_not_found"
    user, token = vended(engine)
    head, _, signature = token.split(".")
    ticket_id = Verifier.offline(audience="tttranscribe", secret=JWT_SECRET).accept(token).id
    assert code(strict, f"{head}.{part(claims | {'jti': ticket_id})}.{signature}") == "ticket_invalid"
    strict.void(ticket_id, "a change of mind")
    assert code(strict, token) == "ticket_already_settled"
    assert engine.available(user) == 10


def test_an_ended_ticket_is_refused(engine: Pluct, make_pluct: Any) -> None:
    """By the engine's clock alone: there is no leeway here."""
    brief = make_pluct("brief", '[actions.default]\nsettle = "redeem"\nttl_seconds = 1\n')
    brief.start()
    verifier = Verifier.strict(
        engine=brief.url, key=brief.key("service")["Authorization"].removeprefix("Bearer "), audience="premium"
    )
    token = vended(brief, "default")[1]
    until(lambda: time.time() >= Verifier.offline(audience="premium", secret=JWT_SECRET).accept(token).expires_at)
    assert code(verifier, token) == "ticket_expired"


@pytest.mark.parametrize("colour", ["threads", "async"])
def test_a_thousand_presentations_over_four_processes(engine: Pluct, service_key: str, colour: str) -> None:
    """One ticket, one acceptance, 999 refusals, and none of them for want of time."""
    user, token = vended(engine)
    how = {"kind": "strict", "engine": engine.url, "key": service_key, "audience": "tttranscribe"}
    ticket_id = Verifier.offline(audience="tttranscribe", secret=JWT_SECRET).accept(token).id
    assert presented(how, colour, token) == {ticket_id: 1, "ticket_already_redeemed": 999}
    assert held(engine, user) == 5


# Reporting


def test_work_that_was_done_is_captured_whole_or_in_part(engine: Pluct, strict: StrictVerifier) -> None:
    """The rest returns to the user. The ticket's id is enough: the process that reports may be another."""
    (user, token), (other, another) = vended(engine), vended(engine)
    assert strict.capture(strict.accept(token)) == Settlement("captured", 5, 0)
    assert strict.capture(strict.accept(another).id, 3) == Settlement("captured", 3, 2)
    assert (engine.available(user), engine.available(other)) == (5, 7)


def test_work_that_was_not_done_is_voided(engine: Pluct, strict: StrictVerifier) -> None:
    """All credits go back; also after a capture, as a refund."""
    (user, token), (other, another) = vended(engine), vended(engine)
    ticket = strict.accept(another)
    strict.capture(ticket)
    assert strict.void(ticket, "the transcript was empty") == Settlement("voided", 0, 5)
    assert strict.void(strict.accept(token), "no speech") == Settlement("voided", 0, 5)
    assert engine.available(user) == engine.available(other) == 10


def test_a_report_may_be_repeated(engine: Pluct, strict: StrictVerifier, service_key: str) -> None:
    """By any process of this backend: the same report gets the same answer, and settles once."""
    user, token = vended(engine)
    ticket = strict.accept(token)
    again = Verifier.strict(engine=engine.url + "/", key=service_key, audience="tttranscribe")
    assert strict.capture(ticket, 2) == strict.capture(ticket, 2) == again.capture(ticket.id, 2)
    assert strict.void(ticket, "refund") == again.void(ticket, "refund") == Settlement("voided", 0, 5)
    assert engine.available(user) == 10


@pytest.mark.parametrize(("report", "expected"), [
    (lambda strict, ticket: strict.capture(ticket, 3), "ticket_already_settled"),
    (lambda strict, ticket: strict.capture(ticket), "ticket_already_settled"),
    (lambda strict, ticket: strict.capture("01a20d5a-c485-70fc-aabf-a4ac65fc2f8f"), "ticket_not_found"),
    (lambda strict, ticket: strict.capture("../../v1/credits"), "ticket_not_found"),
    (lambda strict, ticket: strict.void(ticket, ""), "invalid_request"),
])  # fmt: skip
def test_a_report_that_does_not_fit_is_refused(
    engine: Pluct, strict: StrictVerifier, report: Any, expected: str
) -> None:
    """With the engine's own code."""
    ticket = strict.accept(vended(engine)[1])
    strict.capture(ticket, 2)
    with pytest.raises(TicketRefused) as refused:
        report(strict, ticket)
    assert refused.value.code == expected


@pytest.mark.parametrize("amount", [0, -1, 6, 10**12])
def test_an_amount_the_ticket_does_not_hold_is_refused(engine: Pluct, strict: StrictVerifier, amount: int) -> None:
    """And nothing is settled."""
    user, token = vended(engine)
    ticket = strict.accept(token)
    with pytest.raises(TicketRefused) as refused:
        strict.capture(ticket, amount)
    assert refused.value.code in {"invalid_request", "amount_too_large"}
    assert held(engine, user) == 5


def test_a_ticket_that_was_not_redeemed_is_not_captured(engine: Pluct, strict: StrictVerifier) -> None:
    """Redeem first."""
    ticket = Verifier.offline(audience="tttranscribe", secret=JWT_SECRET).accept(vended(engine)[1])
    with pytest.raises(TicketRefused) as refused:
        strict.capture(ticket)
    assert refused.value.code == "ticket_not_redeemed"


# When the engine is not there


@pytest.fixture
def network(engine: Pluct) -> Iterator[Network]:
    """The way to the engine, which can be cut."""
    with Network(int(engine.url.rpartition(":")[2])) as found:
        yield found


def test_an_answer_that_was_lost_is_asked_for_again(engine: Pluct, network: Network, service_key: str) -> None:
    """The engine redeemed the ticket, and the line broke before it could say so: this presentation still counts."""
    verifier = Verifier.strict(engine=f"http://127.0.0.1:{network.port}", key=service_key, audience="tttranscribe")
    user, token = vended(engine)
    operator = engine.key("operator")
    ticket_id = Verifier.offline(audience="tttranscribe", secret=JWT_SECRET).accept(token).id
    network.stop_after(b"}")  # the request's last byte: the body has arrived, the answer is held back
    with ThreadPoolExecutor(1) as pool:
        for step, state in (
            (lambda: verifier.accept(token), "redeemed"), (lambda: verifier.capture(ticket_id, 2), "captured"),
        ):  # fmt: skip
            answered = pool.submit(step)
            until(lambda: network.stopped)
            until(partial(is_now, engine, ticket_id, operator, state))
            network.cut()
            network.go_on()
            answered.result()
            network.stop_after(b"}")
    assert (held(engine, user), engine.available(user)) == (0, 8)


def test_an_engine_that_is_away_accepts_nothing_and_says_so(service_key: str) -> None:
    """503 for whoever asked, in a bounded time; nothing was used up."""
    with Network(1) as nowhere:
        verifier = Verifier.strict(engine=f"http://127.0.0.1:{nowhere.port}", key=service_key, audience="premium")
        now = int(time.time())
        token = signed({
            "iss": "pluct-business-engine", "aud": "premium", "sub": "amina", "iat": now, "nbf": now, "exp": now + 60,
            "act": "default", "cost": 1, "jti": "t",
        })  # fmt: skip
        assert code(verifier, token) == "unavailable"
        with pytest.raises(TicketRefused, match="cannot be reached"):
            asyncio.run(verifier.accept_async(token))
        with pytest.raises(TicketRefused, match="cannot be reached"):
            verifier.capture("t", 1)


def test_an_engine_that_stops_and_starts_again_is_found_again(make_pluct: Any) -> None:
    """No restart of the backend is needed, and no ticket is lost."""
    pluct = make_pluct("restarting", TOML)
    pluct.start()
    key = pluct.key("service")["Authorization"].removeprefix("Bearer ")
    token = vended(pluct)[1]
    with Network(int(pluct.url.rpartition(":")[2])) as network:
        verifier = Verifier.strict(engine=f"http://127.0.0.1:{network.port}", key=key, audience="tttranscribe")
        verifier.accept(vended(pluct)[1])
        pluct.stop()
        assert code(verifier, token) == "unavailable"
        pluct.start()
        network.lead_to(int(pluct.url.rpartition(":")[2]))
        ticket = verifier.accept(token)
        assert verifier.capture(ticket).state == "captured"


@pytest.mark.parametrize(("role", "expected", "says"), [
    ("operator", "unavailable", "needs a key with the role service"), ("none", "ticket_invalid", "key"),
])  # fmt: skip
def test_a_wrong_key_accepts_nothing(engine: Pluct, role: str, expected: str, says: str) -> None:
    """The engine's sentence says what is wrong."""
    key = engine.key(role)["Authorization"].removeprefix("Bearer ") if role != "none" else "pluct_service_none"
    verifier = Verifier.strict(engine=engine.url, key=key, audience="tttranscribe")
    with pytest.raises(TicketRefused, match=says) as refused:
        verifier.accept(vended(engine)[1])
    assert refused.value.code == expected
    assert key not in str(refused.value) + repr(verifier)


def test_an_address_that_is_not_the_engine_s_accepts_nothing(engine: Pluct, service_key: str) -> None:
    """Whatever it answers: 404 is not taken for a ticket's."""
    verifier = Verifier.strict(engine=engine.url + "/health?", key=service_key, audience="tttranscribe")
    assert code(verifier, vended(engine)[1]) == "unavailable"
    with pytest.raises(ValueError, match="engine"):
        Verifier.strict(engine="engine.example", key=service_key, audience="premium")


@pytest.mark.parametrize(("answer", "expected"), [
    ({"ticketId": "t", "userId": "amina", "action": "read"}, None),
    ({"ticketId": "u", "userId": "amina", "action": "read"}, "ticket_invalid"),
    ({"ticketId": "t", "userId": "brian", "action": "read"}, "ticket_invalid"),
    ({"ticketId": "t", "userId": "amina", "action": "write"}, "ticket_invalid"),
    ({}, "unavailable"), ([], "unavailable"), ("yes", "unavailable"), (None, "unavailable"), (b"<html>", "unavailable"),
    (b"", "unavailable"), (b"\xff", "unavailable"),
])  # fmt: skip
def test_a_yes_is_for_this_ticket_and_no_other(answer: Any, expected: str | None) -> None:
    """Whoever sits at the engine's address and says yes to everything is not believed."""
    somebody = Publisher()
    try:
        somebody.answer = answer
        verifier = Verifier.strict(engine=somebody.url.removesuffix("/jwks.json"), key="k", audience="premium")
        token = signed(CLAIMS | {"jti": "t"})
        if expected is None:
            assert verifier.accept(token).user_id == "amina"
        else:
            assert code(verifier, token) == expected
        assert set(somebody.asked) == {"/v1/tickets/redeem"}
    finally:
        somebody.close()


def test_a_ticket_is_redeemed_in_one_round_trip(engine: Pluct, strict: StrictVerifier, tmp_path: Path) -> None:
    """One request each, over one connection."""
    for _ in range(3):
        strict.accept(vended(engine)[1])
    pool: Any = strict._http._blocking._transport._pool  # type: ignore[attr-defined]
    assert len(pool.connections) == 1
    assert engine.log.count('"/v1/tickets/redeem"') >= 3


# The engine's published keys


def test_the_engine_s_keys_are_followed_when_one_is_retired(make_pluct: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tickets signed with EdDSA pass by the published set; those of a retired key no more."""
    pytest.importorskip("pluct.signing")
    moved = [0.0]
    monkeypatch.setattr("pluct_verifier.keys.monotonic", lambda: time.monotonic() + moved[0])
    pluct = make_pluct("eddsa", PLUCT_SIGNING="EdDSA")
    pluct.start()
    url = f"{pluct.url}/.well-known/jwks.json"
    verifier = Verifier.offline(audience="premium", jwks_url=url)
    user, token = vended(pluct, "default")
    assert verifier.accept(token).user_id == user
    kid = pluct.client.get(url).json()["keys"][0]["kid"]
    pluct.run("signing-keys", "rotate")
    assert verifier.accept(vended(pluct, "default")[1]).action == "default"
    pluct.run("signing-keys", "retire", kid)
    until(lambda: kid not in [key["kid"] for key in pluct.client.get(url).json()["keys"]], 10)
    moved[0] = ASK_SECONDS_MIN
    user, new = vended(pluct, "default")
    assert verifier.accept(new).user_id == user
    assert code(verifier, token) == "ticket_invalid"
