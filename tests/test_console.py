"""The console over HTTP: who gets in and stays in, what a form may do and how often, and that text stays text."""

import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from html import unescape

import httpx
import pytest

from conftest import Pluct, new_id, until
from console_client import Browser
from paying import PATH_TOKEN, paying
from pluct.console import page as pages_module
from pluct.console import site
from postgres import fresh_database

Make = Callable[..., Pluct]
MARKUP = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
READ = [path.removeprefix("/console") for method, path, _ in site.PAGES if method == "GET"]
WRITE = [path.removeprefix("/console") for method, path, _ in site.PAGES if method == "POST"]
PAGES = [*READ, "/user?id=u", "/ticket?id=x", "/payment?id=x", "/statement?user=u&lang=sw", "/log?user=u", "?span=x"]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pluct]:
    """A server over either database."""
    place = {}
    if request.param == "postgresql":
        place = {"DATABASE_URL": fresh_database(request.getfixturevalue("postgresql_url"))}
    pluct = Pluct(tmp_path_factory.mktemp("console"), **place)
    pluct.start()
    yield pluct
    pluct.run("check")
    assert "Traceback" not in pluct.log
    pluct.close()


@pytest.fixture(scope="module")
def key(engine: Pluct) -> dict[str, str]:
    return engine.key("operator")


@pytest.fixture
def browser(engine: Pluct, key: dict[str, str]) -> Browser:
    """Somebody who is signed in."""
    made = Browser(engine.url)
    made.sign_in(key)
    return made


# Coming in


def test_nobody_gets_in_without_a_key(engine: Pluct) -> None:
    """Every page leads to the sign-in; a wrong key and one of another role stay there, with a sentence."""
    stranger = Browser(engine.url)
    for path in PAGES:
        assert "Operator key" in stranger.get(path)
    assert len(WRITE) > 10
    for path in WRITE:
        assert "Operator key" in stranger.post(path, user="u", amount="5", reason="r", confirmed="yes")
    assert "unknown or revoked" in stranger.sign_in({"Authorization": "Bearer pluct_operator_x"})
    assert stranger.page.status_code == 401
    assert "keys with the role operator" in stranger.sign_in(engine.key("service"))
    assert not stranger.client.cookies


def test_the_cookie_is_the_browsers_alone(engine: Pluct, key: dict[str, str]) -> None:
    """No script reads it, no other site sends it, it is for these pages; each sign-in makes a new one."""
    found = set()
    for _ in range(2):
        with httpx.Client(base_url=engine.url, cookies={"pluct_console": "set by a stranger"}) as client:
            secret = key["Authorization"].removeprefix("Bearer ")
            answer = client.post("/console/sign-in", data={"key": secret})
            cookie = answer.headers["set-cookie"]
            assert answer.status_code == 303 and "stranger" not in cookie
            for part in ("HttpOnly", "SameSite=strict", "Path=/console", "Max-Age=43200"):
                assert part in cookie
            found.add(cookie.partition(";")[0])
    assert len(found) == 2


def test_production_keeps_the_cookie_to_https(make_pluct: Make) -> None:
    """Where it may."""
    secrets = {"WEBHOOK_SECRET": "w" * 40, "JWT_SECRET": "j" * 40, "PLUCT_USER_AUTH": "open"}
    engine = make_pluct(PLUCT_ENV="production", **secrets)
    engine.start()
    secret = engine.key("operator")["Authorization"].removeprefix("Bearer ")
    assert "Secure" in engine.client.post("/console/sign-in", data={"key": secret}).headers["set-cookie"]


def test_a_session_ends(engine: Pluct) -> None:
    """By signing out, and at once when its key is revoked; the cookie is good for nothing then."""
    made = engine.key("operator")
    browser = Browser(engine.url)
    browser.sign_in(made)
    kept = dict(browser.client.cookies)
    assert "Needs attention" in browser.get("")
    browser.post("/sign-out")
    assert "Operator key" in httpx.get(f"{engine.url}/console", cookies=kept, follow_redirects=True).text
    browser.sign_in(made)
    keys = [each for each in engine.json("keys", "list")["keys"] if not each.get("revokedAt")]
    engine.run("keys", "revoke", keys[-1]["id"])
    assert "Operator key" in browser.get("")


def test_only_pages_and_their_files_are_there(browser: Browser) -> None:
    """No folder, no file beside those in the table, and no address leads elsewhere."""
    for path in ("/static/", "/static/../page.py", "/static/%2e%2e/page.py", "/static/console.css/", "/static/x.js"):
        browser.get(path)
        assert browser.page.status_code == 404, path
    for path in ("/sign-in?next=https://evil.example", "/users?q=//evil.example", "?next=https://evil.example"):
        browser.get(path)
        assert browser.page.url.host == "127.0.0.1" and browser.page.status_code == 200, path


def test_an_address_that_is_no_page_is_an_error_page(engine: Pluct, browser: Browser) -> None:
    """With the console's look and a way back, for whoever is signed in and for strangers, and it is counted."""
    for path in ["/nothere", "/static/x.js", "/users/", "//evil.example/x", "/%3Cscript%3E"]:
        for text in (browser.get(path), Browser(engine.url).get(path)):
            assert "Page not found" in text and 'href="/console">Back' in text and "console.css" in text, path
            assert "<script>" not in text
        assert browser.page.status_code == 404 and "Sign out" in browser.page.text, path
        assert browser.page.headers["content-security-policy"] == pages_module.HEADERS["content-security-policy"]
    assert "Sign out" not in Browser(engine.url).get("/nothere")
    metrics = engine.client.get("/metrics").text
    assert 'route="(none)",status="404"' in metrics and "nothere" not in metrics
    for answer in (browser.client.head("/console/nothere"), browser.client.post("/console/")):
        assert answer.status_code == 404


def test_an_address_of_a_form_is_no_page(browser: Browser) -> None:
    """Whoever opens it, or goes back to it, is told so; nothing is done, and nobody is signed out."""
    for path in [*WRITE, "/sign-out"]:
        if path not in READ:
            text = browser.get(path)
            assert browser.page.status_code == 405 and browser.page.headers["allow"] == "POST", path
            assert "Method not allowed" in text and 'href="/console">Back' in text and "Sign out" in text, path
    answer = browser.client.request("DELETE", "/console/health")
    assert answer.status_code == 405 and "This address takes GET, HEAD only." in answer.text
    assert "Needs attention" in browser.get("")


def test_a_slash_at_the_end_leads_to_the_console(browser: Browser) -> None:
    """As people type it."""
    assert "Needs attention" in browser.get("/")
    assert (browser.page.url.path, browser.page.history[0].status_code) == ("/console", 307)


def test_no_page_makes_the_browser_ask_for_an_icon(browser: Browser) -> None:
    """There is none: the log would tell of a 404 for everybody who comes. The policy allows the one that is empty."""
    assert '<link rel="icon" href="data:,">' in browser.get("") and '<link rel="icon"' in browser.get("/nothere")
    assert "img-src 'self' data:" in browser.page.headers["content-security-policy"]


def test_scripts_set_text_and_keep_nothing() -> None:
    """What comes in is never made into markup or code, and nothing is put where other scripts could find it."""
    scripts = [pages_module.static(name).decode() for name in ("console.js", "charts.js", "log.js")]
    assert all('"use strict"' in script for script in scripts)
    for word in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "new Function", "Storage"):
        assert not [script for script in scripts if word in script], word


def test_guessing_is_slowed_down(make_pluct: Make) -> None:
    """Ten wrong keys from one address, and it waits, the right key or not; others do not."""
    engine = make_pluct(toml="[http]\nproxy_hops = 1\n")
    engine.start()
    good = engine.key("operator")
    for _ in range(10):
        assert Browser(engine.url, **{"X-Forwarded-For": "10.0.0.1"}).sign_in({"Authorization": "x"})
    slow = Browser(engine.url, **{"X-Forwarded-For": "10.0.0.1"})
    assert "Too many wrong keys" in slow.sign_in(good) and slow.page.status_code == 429
    assert "Needs attention" in Browser(engine.url, **{"X-Forwarded-For": "10.0.0.2"}).sign_in(good)


def test_every_page_keeps_strangers_out(browser: Browser) -> None:
    """No script or style but ours, no frame around it, nothing kept by caches; what is not there is said."""
    for path in [*PAGES, "/sign-in", "/nothing", "/static/console.css"]:
        browser.get(path)
        policy = browser.page.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy, path
        assert "frame-ancestors 'none'" in policy
        assert browser.page.headers["x-frame-options"] == "DENY"
        assert browser.page.headers["cache-control"] in ("no-store", "no-cache"), path
        assert browser.page.status_code in (200, 400, 404)
        assert not {name for name in browser.page.headers if name.startswith("access-control-")}, path
        assert not re.search(r'href="[^"]*(?:form_token|pluct_operator)', browser.page.text), path
        assert not re.search(r"(?:src|href)=\"(?:https?:)?//|<style|\son\w+=|javascript:", browser.page.text), path


def test_a_form_is_only_taken_from_the_console_itself(engine: Pluct, browser: Browser) -> None:
    """Without the session's token, with another's, and from another site: nothing is done."""
    user = engine.funded(1)
    fields = {"user": user, "amount": "5", "reason": "r", "seen": "1", "once": "a", "confirmed": "yes"}
    assert browser.post("/user/grant", **fields) and browser.page.status_code == 403
    assert browser.post("/user/grant", **fields, form_token="0" * 64) and browser.page.status_code == 403
    browser.get("/user", id=user)
    fields |= browser.fields("/user/grant")
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert browser.client.post("/console/user/grant", data=fields, headers=headers).status_code == 403
        assert browser.client.post("/console/sign-in", data={"key": "x"}, headers=headers).status_code == 403
    assert engine.available(user) == 1


# Mending


def test_credits_are_given_after_a_look(engine: Pluct, browser: Browser) -> None:
    """A preview of the balance, then once, with the operator's key and the reason in the history."""
    user = engine.funded(3)
    browser.get("/user", id=user)
    shown = browser.post(
        "/user/grant", **browser.fields("/user/grant"), amount="5", reason="sorry", category="promotional"
    )
    assert "Available after" in shown and ">8<" in shown and engine.available(user) == 3
    sent = browser.fields("/user/grant") | {"confirmed": "yes"}
    with ThreadPoolExecutor(4) as pool:  # a double click, twice
        answers = list(pool.map(lambda _: browser.client.post("/console/user/grant", data=sent), range(4)))
    assert {answer.status_code for answer in answers} == {200} and engine.available(user) == 8
    page = browser.get("/user", id=user)
    assert "sorry" in page and re.search(r"soft\">test</span>", page)
    browser.post("/user/grant", **sent)  # the back button
    assert engine.available(user) == 8


def test_a_receipt_counts_once(engine: Pluct, browser: Browser) -> None:
    """A payment that is granted by hand, under its receipt, is not granted again when its callback comes."""
    user, receipt = engine.funded(1), "R" + new_id()
    browser.get("/user", id=user)
    browser.post("/user/grant", **browser.fields("/user/grant"), amount="5", reason="no callback", receipt=receipt)
    assert receipt in browser.page.text
    browser.post("/user/grant", **browser.fields("/user/grant"), confirmed="yes")
    assert engine.available(user) == 6 and receipt in browser.get("/user", id=user)
    engine.fund(user, 5, reference=receipt)
    assert engine.available(user) == 6


def test_every_page_is_logged_with_its_key(engine: Pluct, browser: Browser, key: dict[str, str]) -> None:
    """Who looked at what, who tried to come in, and what was refused; and the pages are counted."""
    browser.get("/ticket", id="none")
    id = browser.page.headers["x-request-id"]
    Browser(engine.url).sign_in({"Authorization": "Bearer wrong"})
    until(lambda: id in engine.log)
    (line,) = [json.loads(line) for line in engine.log.splitlines() if id in line]
    keys = {each["id"] for each in engine.json("keys", "list")["keys"] if each["role"] == "operator"}
    assert line["route"] == "/console/ticket" and line["code"] == "ticket_not_found" and line["caller"] in keys
    until(lambda: '"route":"/console/sign-in","status":401' in engine.log)
    assert 'route="/console/ticket",status="404"' in engine.client.get("/metrics").text


def test_two_operators_do_not_do_it_twice(engine: Pluct, browser: Browser, key: dict[str, str]) -> None:
    """Who decided over a wallet that has changed since is told so."""
    user = engine.funded(3)
    other = Browser(engine.url)
    other.sign_in(key)
    for each in (browser, other):
        each.get("/user", id=user)
        each.post("/user/adjust", **each.fields("/user/adjust"), amount="-2", reason="sold twice")
    browser.post("/user/adjust", **browser.fields("/user/adjust"), confirmed="yes")
    assert engine.available(user) == 1
    late = other.post("/user/adjust", **other.fields("/user/adjust"), confirmed="yes")
    assert "has changed since you looked" in late and other.page.status_code == 409
    assert engine.available(user) == 1


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"amount": "0", "reason": "r"}, "at least 1"), ({"amount": "many", "reason": "r"}, "whole number"),
        ({"amount": "5", "reason": " "}, "must be filled in"), ({"amount": "", "reason": "r"}, "must be filled in"),
        ({"amount": "9" * 12, "reason": "r", "confirmed": "yes", "once": "x", "seen": "1"}, "at most 1000000000"),
        ({"amount": "5", "reason": "a\x00b"}, "control characters"), ({"amount": "5", "reason": "x" * 201}, "200"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said(engine: Pluct, browser: Browser, fields: dict[str, str], part: str) -> None:
    """A sentence, and nothing happens."""
    user = engine.funded(1)
    browser.get("/user", id=user)
    assert part in browser.post("/user/grant", **(browser.fields("/user/grant") | fields))
    assert browser.page.status_code == 400 and engine.available(user) == 1


def test_a_ticket_is_refunded_once(engine: Pluct, browser: Browser) -> None:
    """Found from the user's history, given back with a reason."""
    user = engine.funded(2)
    engine.post("/vend-token", {"userId": user})
    page = browser.get("/user", id=user)
    (ticket,) = set(re.findall(r"/console/ticket\?id=([0-9a-f-]{36})", page))
    browser.get("/ticket", id=ticket)
    browser.post("/ticket/void", **browser.fields("/ticket/void"), reason="came out empty")
    assert engine.available(user) == 1
    done = browser.post("/ticket/void", **browser.fields("/ticket/void"), confirmed="yes")
    assert "voided" in done and "1 given back" in done and engine.available(user) == 2


def test_keys_are_made_and_revoked(engine: Pluct, browser: Browser) -> None:
    """The secret is shown once; a revoked key is refused."""
    browser.get("/keys")
    page = browser.post("/keys/create", **browser.fields("/keys/create"), role="service", name="backend")
    (secret,) = re.findall(r"pluct_service_[\w-]+", page)
    browser.get("/keys")
    sent = browser.fields("/keys/create") | {"role": "mint", "name": "twice"}
    with ThreadPoolExecutor(4) as pool:  # a double click, twice, and then the back button
        answers = list(pool.map(lambda _: browser.client.post("/console/keys/create", data=sent), range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 400, 400, 400]
    assert "was made already" in browser.post("/keys/create", **sent)
    assert len([key for key in engine.json("keys", "list")["keys"] if key["name"] == "twice"]) == 1
    assert secret not in browser.get("/keys")
    headers = {"Authorization": f"Bearer {secret}"}
    assert engine.client.get("/v1/wallets/none", headers=headers).status_code == 404
    row = re.search(r"backend</td>.*?value=\"(key_\w+)\">Revoke", browser.page.text, re.S)
    assert row
    token = browser.fields("/keys/create")["form_token"]
    assert "cannot be undone" in browser.post("/keys/revoke", form_token=token, key=row[1])
    browser.post("/keys/revoke", **browser.fields("/keys/revoke"), confirmed="yes")
    assert engine.client.get("/v1/wallets/none", headers=headers).status_code == 401


def test_text_from_outside_stays_text(engine: Pluct, browser: Browser) -> None:
    """Markup in a user id and in a reason is shown as it was written, wherever it is shown."""
    user = MARKUP + new_id()
    assert engine.fund(user, 5).status_code == 200
    browser.get("/user", id=user)
    browser.post("/user/adjust", **browser.fields("/user/adjust"), amount="1", reason=MARKUP)
    pages = [browser.page.text, browser.post("/user/adjust", **browser.fields("/user/adjust"), confirmed="yes")]
    for typed in ("' OR 1=1 --", "%", "_", "{{ 7 * 7 }}", "${7*7}", "\u202eanima", "\u0000", "../../etc/passwd"):
        page = browser.get("/users", q=typed)  # is text, too
        assert "/console/user?id=" not in page and ">49<" not in page and browser.page.status_code in (200, 400)
    pages += [browser.get("/users", q=MARKUP), browser.get("/user", id=user), browser.get("/user", id=MARKUP)]
    for page in pages:
        assert "<script>alert" not in page and "<img" not in page
    assert unescape(pages[3]).count(MARKUP) >= 2


# Payments


def test_a_payment_finds_its_user(make_pluct: Make) -> None:
    """What came in with a wrong code is seen, assigned after a look, and is then the user's; another is written off."""
    with paying(make_pluct, "cancelled") as world:
        browser = Browser(world.engine.url)
        browser.sign_in(world.operator)
        world.type_in(MARKUP[:60], "100", "SLK4H7R2T0")
        world.type_in("WRONG", "20", "SLK4H7R2T1")
        asked = {"userId": "juma", "reason": MARKUP, "reference": "SLK4H7R2T0"}
        assert world.engine.post("/v1/credits/request", asked).json()["state"] == "review"
        assert "2 payments of nobody known" in browser.get("")
        assert "SLK4H7R2T0" in browser.get("/requests") and "<script>" not in browser.page.text
        second, first = world.payments()
        page = browser.get("/payment", id=first["id"])
        assert "No checkout is known" in page and "<script>alert" not in page
        browser.post("/payment/assign", **browser.fields("/payment/assign"), user="juma", reason="sent the message")
        assert "no wallet yet" in browser.page.text and world.engine.available("juma") == 0
        done = browser.post("/payment/assign", **browser.fields("/payment/assign"), confirmed="yes")
        assert "Done: it is paid" in done and world.engine.available("juma") == 10
        browser.get("/payment", id=second["id"])
        browser.post("/payment/write-off", **browser.fields("/payment/write-off"), reason="sent back")
        assert "Done: it is written off" in browser.post(
            "/payment/write-off", **browser.fields("/payment/write-off"), confirmed="yes"
        )
        assert "Every payment has found its user" in browser.get("") and PATH_TOKEN not in browser.page.text
        world.engine.run("check")


def test_a_user_is_found_by_what_they_have_at_hand(make_pluct: Make) -> None:
    """The receipt of a payment, the code on the screen, the phone that was asked: each as people type it."""
    with paying(make_pluct, "ok") as world:
        browser = Browser(world.engine.url)
        browser.sign_in(world.operator)
        bought = world.becomes(world.buy("amina")["checkoutId"], "paid")
        (payment,) = world.payments()
        code, receipt = bought["paymentCode"], payment["reference"]
        phones = ("0712 345678", "+254712345678", "2547*****678", "254712***678", "2547****678")
        for typed in (code, f" {code.lower()} ", receipt, receipt.lower(), *phones):
            page = browser.get("/users", q=typed)
            assert "/console/user?id=amina" in page and "Nobody&#39;s id" not in page, typed
        assert "it is no payment code, receipt or phone" in browser.get("/users", q="0712345679")
        assert "it is no payment code, receipt or phone" in browser.get("/users", q="2547*****679")


def test_a_payment_granted_by_hand_is_not_granted_again(make_pluct: Make) -> None:
    """Under its receipt, however that was typed: neither when M-Pesa tells of it after all, nor the other way round."""
    with paying(make_pluct, "cancelled") as world:
        browser = Browser(world.engine.url)
        browser.sign_in(world.operator)

        def grant(receipt: str) -> str:
            browser.get("/user", id="amina")
            browser.post("/user/grant", **browser.fields("/user/grant"), amount="10", reason="r", receipt=receipt)
            return browser.post("/user/grant", **browser.fields("/user/grant"), confirmed="yes")

        code = world.becomes(world.buy("amina")["checkoutId"], "failed")["paymentCode"]
        grant(" slk4h7r2t0 ")
        assert world.engine.available("amina") == 10
        world.type_in(code, "100", "SLK4H7R2T0")
        assert world.engine.available("amina") == 10
        world.type_in(code, "100", "SLK4H7R2T1")
        assert world.engine.available("amina") == 20
        grant("slk4h7r2t1")
        assert world.engine.available("amina") == 20
        world.engine.json("credits", "grant", "amina", "10", "--reason", "r", "--reference", "slk4h7r2t2")
        world.type_in(code, "100", "SLK4H7R2T2")
        assert world.engine.available("amina") == 30
        world.engine.run("check")
