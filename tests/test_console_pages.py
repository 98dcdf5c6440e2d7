"""The console's pages that show the engine at work: figures, log, events, keys, health, statements both ways."""

import asyncio
import json
import re
import sqlite3
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from html import unescape
from typing import Any

import asyncpg
import httpx
import pytest

from conftest import Pluct, new_id, until
from console_client import Browser
from paying import PHONE, paying
from pluct.console import log as log_page
from pluct.console import page as page_module
from pluct.console.site import PAGES
from pluct.errors import Unavailable
from postgres import fresh_database
from test_events import SECRETS, Receiver
from test_reconcile import HEADER, PREAMBLE, line

Make = Callable[..., Pluct]


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest) -> dict[str, str]:
    """Either database."""
    if request.param == "sqlite":
        return {}
    return {"DATABASE_URL": fresh_database(request.getfixturevalue("postgresql_url"))}


def operator(engine: Pluct) -> Browser:
    """Somebody who is signed in."""
    made = Browser(engine.url)
    made.sign_in(engine.key("operator"))
    return made


def charts(page: str) -> dict[str, dict[str, list[float]]]:
    """What the page's charts draw, by title and by series."""
    found = [json.loads(unescape(text)) for text in re.findall(r"data-chart='(.*?)' data-step", page, re.S)]
    return {chart["title"]: {one["name"]: one["values"] for one in chart["series"]} for chart in found}


# The overview


def test_the_overview_draws_what_has_happened(make_pluct: Make, place: dict[str, str]) -> None:
    """Vends, refusals, credits and latencies of the last hour, day and month, all with one sum."""
    engine = make_pluct(**place)
    engine.start()
    browser, user = operator(engine), engine.funded(7)
    assert "Nothing has been asked of the engine in the last month" in browser.get("", span="month")
    for _ in range(3):
        engine.post("/vend-token", {"userId": user})
    for _ in range(2):
        engine.post("/v1/vend-token", {"userId": "nobody"})
    until(lambda: "data-chart" in browser.get(""), 20)
    steps = set()
    for span, count in (("hour", 60), ("day", 24), ("month", 30)):
        drawn = charts(browser.get("", span=span))
        vends = drawn["Vends"]
        assert {name: sum(values) for name, values in vends.items()} == {"sold": 3, "refused": 2, "failed": 0}
        assert {len(values) for chart in drawn.values() for values in chart.values()} == {count}
        assert sum(drawn["Credits"]["captured"]) == 3 and sum(drawn["Credits"]["granted"]) == 7
        assert max(value or 0 for value in drawn["Time to answer"]["99 of 100 are faster"]) > 0
        steps.add(browser.page.text.count("<th>From</th>"))
    assert steps == {1}
    assert "only" not in browser.get("", span="year") and browser.page.status_code == 400
    library = browser.client.get("/console/static/chart.js")
    assert "Chart.js v4" in library.text and library.headers["content-encoding"] == "gzip"


def test_money_is_shown_by_gateway_and_pack(make_pluct: Make) -> None:
    """What came in, and what it was for."""
    with paying(make_pluct, "ok") as world:
        world.becomes(world.buy("amina")["checkoutId"], "paid")
        browser = operator(world.engine)
        until(lambda: "data-chart" in browser.get(""), 20)
        assert re.search(r"<td>daraja</td><td>starter</td>.*?>1</td>.*?KES 100\.00", browser.page.text, re.S)


# The log


def test_the_log_is_shown_to_whoever_is_signed_in(make_pluct: Make, place: dict[str, str]) -> None:
    """And to nobody else; filtered as the page says."""
    engine = make_pluct(**place)
    engine.start()
    browser = operator(engine)
    assert "/console/log/stream?user=amina" in browser.get("/log", user="amina")
    with httpx.Client(base_url=engine.url) as stranger:
        assert stranger.get("/console/log/stream").headers["location"] == "/console/sign-in"
    with browser.client.stream("GET", "/console/log/stream", params={"user": "amina"}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        lines = answer.iter_lines()
        assert next(lines).startswith("retry:")
        for user in ("juma", "amina"):
            engine.post("/v1/vend-token", {"userId": user})
        event = json.loads(next(line for line in lines if line.startswith("data: ")).removeprefix("data: "))
    assert (event["userId"], event["status"], event["code"]) == ("amina", 402, "insufficient_credits")


def test_watching_ends_with_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who was signed out, or whose key was revoked, sees no more."""
    monkeypatch.setattr(log_page, "LOOK_SECONDS", 0.0)
    answers = iter([True, True, False])

    async def signed_in() -> bool:
        return next(answers)

    async def events() -> AsyncGenerator[bytes, None]:
        for number in range(9):
            yield b"%d" % number

    async def main() -> list[bytes]:
        return [chunk async for chunk in log_page._while_signed_in(events(), signed_in)]

    assert asyncio.run(main()) == [b"0", b"1"]


def test_watching_ends_while_nobody_can_say_who_is_signed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that is away lets nobody look on; the browser asks again by itself."""
    monkeypatch.setattr(log_page, "LOOK_SECONDS", 0.0)

    async def signed_in() -> bool:
        raise Unavailable("away")

    async def events() -> AsyncGenerator[bytes, None]:
        yield b"secret"

    async def main() -> list[bytes]:
        return [chunk async for chunk in log_page._while_signed_in(events(), signed_in)]

    assert asyncio.run(main()) == []


# Events out


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def test_events_are_seen_and_delivered_again(make_pluct: Make, receiver: Receiver, place: dict[str, str]) -> None:
    """Each with what came of it; one that was delivered comes again under its own id, after a question."""
    engine = make_pluct(toml=f'[[webhooks]]\nurl = "{receiver.url}"\nallow_private = true\n', **SECRETS, **place)
    engine.start()
    browser, user = operator(engine), new_id()
    assert "No events" in browser.get("/events")
    engine.fund(user, 4)
    until(lambda: len(receiver.heads) == 1, 15)
    until(lambda: "credits.granted" in browser.get("/events", state="delivered"))
    page = browser.page.text
    assert user in page and "No event is dead" in browser.get("/events", state="dead")
    (event,) = re.findall(r'name="event"\s+value="([^"]+)"', page)
    browser.get("/events")
    token = browser.fields("/events/replay")["form_token"]
    assert "Deliver it again?" in browser.post("/events/replay", form_token=token, event=event)
    assert len(receiver.heads) == 1
    done = browser.post("/events/replay", **browser.fields("/events/replay"), confirmed="yes")
    assert "1 will be delivered again" in done
    until(lambda: len(receiver.heads) == 2, 15)
    ids = {head["webhook-id"] for head in receiver.heads}
    assert ids == {event}
    assert "There are no such events" in browser.get("/events", state="lost") and browser.page.status_code == 400


def test_dead_events_are_delivered_again_together(make_pluct: Make, receiver: Receiver) -> None:
    """All of them, after a question; and the overview says that there are some."""
    engine = make_pluct(toml=f'[[webhooks]]\nurl = "{receiver.url}"\nallow_private = true\n', **SECRETS)
    receiver.answer = lambda _: 500
    engine.start()
    users = [new_id() for _ in range(3)]
    for user in users:
        engine.fund(user, 4)
    until(lambda: len(engine.json("events", "list", "--json")["events"]) == 3, 15)
    engine.stop()
    _all_dead(engine)
    receiver.answer = lambda _: 204
    engine.start()
    browser = operator(engine)
    assert "3 events that could not be delivered" in browser.get("")
    browser.get("/events", state="dead")
    browser.post("/events/replay-dead", **browser.fields("/events/replay-dead"))
    assert "Deliver 3 again?" in browser.page.text
    browser.post("/events/replay-dead", **browser.fields("/events/replay-dead"), confirmed="yes")
    until(lambda: len(receiver.heads) == 3, 15)


def test_dead_events_are_discarded(make_pluct: Make, receiver: Receiver, place: dict[str, str]) -> None:
    """After a question, or from the terminal, one address or all; what is pending or delivered stays."""
    engine = make_pluct(toml=f'[[webhooks]]\nurl = "{receiver.url}"\nallow_private = true\n', **SECRETS, **place)
    receiver.answer = lambda _: 500
    engine.start()
    engine.fund(new_id(), 4)
    engine.fund(new_id(), 4)
    until(lambda: len(engine.json("events", "list")["events"]) == 2, 15)
    engine.stop()
    _all_dead(engine)
    engine.start()
    browser = operator(engine)
    assert engine.json("events", "discard", "--dead", "--url", "https://other.example/")["discarded"] == 0
    browser.get("/events", state="dead")
    assert "Discard 2 dead events?" in browser.post("/events/discard-dead", **browser.fields("/events/discard-dead"))
    browser.post("/events/discard-dead", **browser.fields("/events/discard-dead"), confirmed="yes")
    assert "No event is dead" in browser.get("/events", state="dead")
    assert "could not be delivered" not in browser.get("")
    assert engine.json("events", "list", "--state", "dead")["events"] == []
    assert engine.json("events", "discard", "--dead")["discarded"] == 0


def _all_dead(engine: Pluct) -> None:
    """As if two and a half days had gone by."""
    change = "UPDATE letters SET state = 'dead', tries = 11"
    url = engine.environment.get("DATABASE_URL", "")
    if url:
        asyncio.run(_execute(url, change))
        return
    with closing(sqlite3.connect(engine.database, isolation_level=None)) as database:
        database.execute(change)


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(statement)
    await connection.close()


# Signing keys


def test_signing_keys_are_rotated_and_retired(make_pluct: Make, place: dict[str, str]) -> None:
    """A new one waits; when the old one is retired, it signs, and the old one's tickets are refused."""
    engine = make_pluct(PLUCT_SIGNING="EdDSA", **place)
    engine.start()
    browser, user, service = operator(engine), engine.funded(5), engine.key("service")
    old = engine.post("/v1/vend-token", {"userId": user}).json()["token"]
    (first,) = _states(browser)
    assert _states(browser)[first] == "signing"
    browser.post("/signing-keys/rotate", **browser.fields("/signing-keys/rotate"))
    assert "Make a new signing key?" in browser.page.text and len(_states(browser)) == 1
    browser.post("/signing-keys/rotate", **browser.fields("/signing-keys/rotate"))
    sent = browser.fields("/signing-keys/rotate") | {"confirmed": "yes"}
    with ThreadPoolExecutor(4) as pool:  # a double click, twice
        answers = list(pool.map(lambda _: browser.client.post("/console/signing-keys/rotate", data=sent), range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 400, 400, 400]
    assert "have changed since you looked" in browser.post("/signing-keys/rotate", **sent)
    states = _states(browser)
    (second,) = states.keys() - {first}
    assert states == {first: "signing", second: "pending"}
    token = browser.fields("/signing-keys/rotate")["form_token"]
    assert "Retire this key?" in browser.post("/signing-keys/retire", form_token=token, key=first)
    browser.post("/signing-keys/retire", **browser.fields("/signing-keys/retire"), confirmed="yes")
    assert _states(browser) == {first: "retired", second: "signing"}
    assert engine.post("/v1/tickets/redeem", {"token": old}, service).status_code == 401
    new = engine.post("/v1/vend-token", {"userId": user}).json()["token"]
    assert engine.post("/v1/tickets/redeem", {"token": new}, service).status_code == 200
    assert "no other waits" in browser.post("/signing-keys/retire", form_token=token, key=second, confirmed="yes")
    assert "no such signing key" in browser.post("/signing-keys/retire", form_token=token, key="x", confirmed="yes")


def _states(browser: Browser) -> dict[str, str]:
    page = browser.get("/signing-keys")
    return dict(re.findall(r'<h2 class="id">(\S+) <span class="state (\w+)">', page))


def test_a_shared_secret_has_no_keys_to_rotate(make_pluct: Make) -> None:
    """The page says so, and what would change that."""
    engine = make_pluct()
    engine.start()
    browser = operator(engine)
    assert "PLUCT_SIGNING=EdDSA" in browser.get("/signing-keys") and "/rotate" not in browser.page.text
    browser.get("/keys")
    token = browser.fields("/keys/create")["form_token"]
    assert "signed with JWT_SECRET" in browser.post("/signing-keys/rotate", form_token=token, confirmed="yes")
    assert browser.page.status_code == 400


# Health


def test_health_is_looked_at(make_pluct: Make, place: dict[str, str]) -> None:
    """What was looked at and found; and nothing secret."""
    with paying(make_pluct, "ok", **place) as world:
        browser = operator(world.engine)
        page = browser.get("/health")
        assert "committed in" in page and "on time" in page and "none yet" in page and "daraja" in page
        assert ("PostgreSQL" if place else "SQLite, pluct.db") in page
        assert not [secret for secret in (*place.values(), "dev-only", "5f3a9c0b7d1e4862") if secret in page]
        world.becomes(world.buy("amina")["checkoutId"], "paid")
        assert "none yet" not in browser.get("/health")


# Statements


def test_a_statement_is_sent(engine_with_history: tuple[Pluct, str]) -> None:
    """In both languages, as sentences and as text for SMS."""
    engine, user = engine_with_history
    browser = operator(engine)
    browser.get("/user", id=user)
    assert f'href="/console/statement?user={user}"' in browser.page.text
    assert "1 credit was spent on default" in browser.get("/statement", user=user)
    page = unescape(browser.get("/statement", user=user, lang="sw"))
    assert "Una krediti 1." in page and "Krediti 1 imetumika kwa default" in page
    link = re.search(r'href="(sms:\?body=[^"]+)"', page)
    text = engine.client.get(
        f"/v1/statements/{user}", params={"lang": "sw", "format": "text"}, headers=engine.key("operator")
    ).text  # fmt: skip
    assert link and httpx.QueryParams(link[1].partition("?")[2])["body"] == text
    assert "Kiswahili" in browser.get("/statement", user=user, lang="fr") and browser.page.status_code == 400


@pytest.fixture
def engine_with_history(make_pluct: Make) -> tuple[Pluct, str]:
    engine = make_pluct()
    engine.start()
    user = engine.funded(2)
    engine.post("/vend-token", {"userId": user})
    return engine, user


def test_a_history_is_narrowed(engine_with_history: tuple[Pluct, str]) -> None:
    """To tickets, to credits that came in; another word is refused."""
    engine, user = engine_with_history
    browser = operator(engine)
    everything = browser.get("/user", id=user)
    assert 'state grant">' in everything and 'state vend">' in everything
    tickets = browser.get("/user", id=user, only="tickets")
    assert 'state grant">' not in tickets and 'state vend">' in tickets
    assert "nothing of that kind" in browser.get("/user", id=user, only="lost")
    assert "Everything" not in browser.get("/user", id=user, only="x") and browser.page.status_code == 400


def upload(browser: Browser, content: bytes, **fields: str) -> str:
    """Send a statement as a browser does."""
    browser.get("/reconcile")
    fields = browser.fields("/reconcile") | fields
    browser.page = browser.client.post(
        "/console/reconcile", data=fields, files={"statement": ("statement.csv", content, "text/csv")}
    )
    return browser.page.text


def test_mpesas_statement_is_compared_and_brought_in(make_pluct: Make, place: dict[str, str]) -> None:
    """First looked at, which changes nothing; then brought in, once."""
    with paying(make_pluct, "cancelled", **place) as world:
        browser = operator(world.engine)
        code = world.becomes(world.buy("amina")["checkoutId"], "failed")["paymentCode"]
        world.type_in("WRONG", "100", "SLK4H7R2T0")
        content = "\n".join(
            [PREAMBLE + HEADER, line("SLK4H7R2T0", "100.00", account="WRONG"),
             line("SLK4H7R2T1", "100.00", account=code), line("SLK4H7R2T2", "20.00", account="<b>x</b>")]
        ).encode()  # fmt: skip
        seen = upload(browser, content)
        assert "Only in the statement" in seen and "SLK4H7R2T1" in seen and "<b>x" not in seen
        assert world.engine.available("amina") == 0 and len(world.payments()) == 1
        done = upload(browser, content, apply="yes")
        assert "Done: what only the statement had" in done and world.engine.available("amina") == 10
        assert len(world.payments()) == 3
        again = upload(browser, content, apply="yes")
        assert world.engine.available("amina") == 10 and len(world.payments()) == 3
        assert re.search(r"In both, with the same amount</td><td[^>]*>3<", again)


def test_what_is_no_statement_is_said(make_pluct: Make) -> None:
    """No file, another file, one that is too long, a form of another session: a sentence, and nothing is done."""
    engine = make_pluct()
    engine.start()
    browser = operator(engine)
    assert "is no M-Pesa organisation statement" in upload(browser, b"a,b\n1,2\n")
    assert "is no M-Pesa organisation statement" in upload(browser, b"\x00\xff" * 500)
    browser.get("/reconcile")
    assert "Choose the statement" in browser.post("/reconcile", **browser.fields("/reconcile"))
    assert "earlier session" in upload(browser, b"a", form_token="0" * 64) and browser.page.status_code == 403
    big = b"x" * (page_module.UPLOAD_BYTES_MAX + 1)
    assert "pluct payments reconcile" in upload(browser, big) and browser.page.status_code == 413
    broken = browser.client.post(
        "/console/reconcile", content=b"--x\r\nnothing", headers={"content-type": "multipart/form-data; boundary=x"}
    )
    assert broken.status_code in (400, 403) and "Traceback" not in engine.log
    assert browser.get("/reconcile") and browser.page.status_code == 200


# Whose money it is


def test_money_of_nobody_known_comes_with_suggestions(make_pluct: Make, place: dict[str, str]) -> None:
    """Who sent the receipt, who has bought with the phone; and who was found so is shown with what was bought."""
    with paying(make_pluct, "ok", **place) as world:
        browser = operator(world.engine)
        code = world.becomes(world.buy("amina")["checkoutId"], "paid")["paymentCode"]
        world.type_in("WRONG", "100", "SLK4H7R2T0")
        asked = {"userId": "juma", "reason": "paid", "reference": "SLK4H7R2T0"}
        world.engine.post("/v1/credits/request", asked)
        (payment,) = world.payments(state="unmatched")
        page = re.sub(r"\s+", " ", browser.get("/payment", id=payment["id"]))
        assert "juma</a> sent this receipt" in page and "amina</a> has bought with this phone" in page
        user = browser.get("/user", id="amina")
        assert code in user and "KES 100.00" in user and "2547" in user and PHONE[1:] not in user
        assert "SLK4H7R2T0" in browser.get("/users", q=PHONE)


def test_a_form_has_each_field_once(make_pluct: Make) -> None:
    """A field that is there twice is refused: two readers of it might not see the same."""
    engine = make_pluct()
    engine.start()
    browser, user = operator(engine), engine.funded(1)
    browser.get("/user", id=user)
    fields: list[tuple[str, Any]] = [*browser.fields("/user/grant").items(), ("amount", "1"), ("amount", "500")]
    content = str(httpx.QueryParams([*fields, ("reason", "r")]))
    headers = {"content-type": "application/x-www-form-urlencoded"}
    answer = browser.client.post("/console/user/grant", content=content, headers=headers)
    assert answer.status_code == 400 and "not one of this console" in unescape(answer.text)


ODD = ["", " ", "\x00", "a\nb", "x" * 201, '"><b>', "'", "%", "\u202e", "-1", "9" * 400, "../..", "{}", "\U0001f600"]
NAMES = [
    "id", "user", "q", "cursor", "state", "span", "lang", "only", "route", "outcome", "event", "key", "payment",
    "ticket", "amount", "reason", "receipt", "role", "name", "seen", "once", "confirmed",
]  # fmt: skip


def test_whatever_is_asked_of_a_page_is_answered(make_pluct: Make, place: dict[str, str]) -> None:
    """By every page and every form, with every field odd in turn: a page or a sentence, and never an accident."""
    engine = make_pluct(**place)
    engine.start()
    browser, user = operator(engine), engine.funded(3)
    engine.post("/v1/vend-token", {"userId": user})
    browser.get("/keys")
    right = {"form_token": browser.fields("/keys/create")["form_token"], "id": user, "user": user, "amount": "1"}
    right |= {name: "x" for name in NAMES if name not in right and name != "cursor"}
    statuses = set()
    for method, path, _ in PAGES:
        for name in NAMES:
            for odd in ODD if method == "GET" else ODD[:6]:
                if method == "GET":
                    query = {"id": user, "user": user} | {name: odd}
                    answer = browser.client.get(path, params=query)
                else:
                    answer = browser.client.post(path, data=right | {"seen": "1"} | {name: odd})
                assert answer.status_code < 500, (path, name, odd)
                statuses.add(answer.status_code)
    assert statuses >= {200, 400, 404} and "Traceback" not in engine.log
    engine.run("check")
