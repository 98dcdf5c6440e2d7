"""The console in a real browser: an operator's work by keyboard and by thumb, and what strangers try from outside."""

import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Error, Locator, Page, StorageState, expect
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

from browsing import QUERIES, Life, Visit, address, chromium, lively, needs_chromium, secret
from conftest import Pluct
from paying import PATH_TOKEN, in_a_thread

pytestmark = needs_chromium

Come = Callable[..., Visit]
TABS_MAX = 60
MARKUP = '"><script>alert(1)</script><img class=injected src=x onerror=alert(2)>'

#: What has the focus shows it: a line around it that is there and wide enough, on the screen.
FOCUS_SEEN = """() => {
  const node = document.activeElement, look = getComputedStyle(node), box = node.getBoundingClientRect();
  const clear = look.outlineStyle === "none" || look.outlineColor === "rgba(0, 0, 0, 0)";
  const drawn = !clear && parseFloat(look.outlineWidth) >= 2;
  const there = box.width > 0 && box.height > 0 && box.left >= 0 && box.right <= innerWidth;
  return drawn && there && box.top >= 0 && box.bottom <= innerHeight ? "" : node.outerHTML.slice(0, 200);
}"""
#: Nothing on the page but what the page's own author put there.
INJECTED = """() => [...document.querySelectorAll("*")].filter((node) => node.matches(".injected, script:not([src])")
  || [...node.attributes].some((each) => each.name.startsWith("on") || /^\\s*javascript:/i.test(each.value)))
  .map((node) => node.outerHTML)"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    with lively(tmp_path_factory.mktemp("browser")) as found:
        yield found
        found.world.engine.run("check")


@pytest.fixture
def engine(life: Life) -> Pluct:
    return life.world.engine


@pytest.fixture(scope="module")
def session(browser: Browser, life: Life) -> StorageState:
    """The cookie of an operator who has signed in."""
    visit = Visit(browser, life.world.engine.url).sign_in(life.world.operator)
    found = visit.context.storage_state()
    visit.close()
    return found


@pytest.fixture
def come(browser: Browser, life: Life, session: StorageState) -> Iterator[Come]:
    """The operator, signed in at one more device. At the end no page may have done what none may do."""
    made: list[Visit] = []

    def arrive(device: str = "desktop", **more: Any) -> Visit:
        made.append(Visit(browser, life.world.engine.url, device, storage_state=session, **more))
        made[-1].page.goto("/console")
        return made[-1]

    yield arrive
    for visit in made:
        visit.close()


def wanted(page: Page, user: str, amount: str, reason: str) -> Locator:
    """Say what to grant and look at it first; the button that does it."""
    page.goto(f"/console/user?id={quote(user)}")
    form = page.locator("form[action='/console/user/grant']")
    page.get_by_text("Grant credits", exact=True).click()
    form.get_by_label("Amount").fill(amount)
    form.get_by_label("Reason").fill(reason)
    form.get_by_role("button").click()
    return page.get_by_role("button", name="Grant credits")


# With a thumb


def test_an_operator_on_a_phone(come: Come, life: Life, engine: Pluct) -> None:
    """Everything that support does in a day, by tapping: from "I have paid" to a statement in Swahili."""
    page = come("phone").page

    def look_up(typed: str) -> None:
        page.get_by_role("searchbox").first.fill(typed)
        page.keyboard.press("Enter")  # "Go" on the phone's own keyboard
        page.get_by_role("heading", name="Users").wait_for()

    def decide(fields: dict[str, str], verb: str) -> None:
        for name, value in fields.items():
            page.get_by_label(name).first.fill(value)
        page.get_by_role("button", name="Look at it first").first.tap()
        page.get_by_role("button", name=verb).tap()

    # who paid this receipt
    look_up(life.receipt.lower())
    page.get_by_role("link", name=life.user).first.tap()
    page.get_by_role("heading", name=life.user).wait_for()
    # why this payment is in suspense, and whose it is
    page.get_by_role("link", name="Overview").tap()
    page.get_by_role("link", name="of nobody known").tap()
    page.get_by_role("link", name="SLK4H7R2T0").tap()
    said = page.locator("main")
    expect(said).to_contain_text("No checkout is known")
    expect(said).to_contain_text("KAREN SHOP")
    decide({"User id": "juma", "Reason": "showed the message"}, "Assign")
    expect(page.get_by_role("status")).to_contain_text("it is paid")
    assert engine.available("juma") == 10
    # a ticket that came to nothing
    look_up(life.user)
    page.get_by_role("link", name=life.user).first.tap()
    page.locator(f"a[href*='{life.ticket}']").first.tap()
    page.get_by_text("Refund this ticket").tap()
    before = engine.available(life.user)
    decide({"Reason": "came out empty"}, "Refund")
    expect(page.get_by_role("status")).to_contain_text("1 given back")
    assert engine.available(life.user) == before + 1
    # a statement that the user can read
    page.get_by_role("link", name=life.user).tap()
    page.get_by_role("link", name="Statement").tap()
    page.get_by_role("link", name="Kiswahili").tap()
    text = page.get_by_role("textbox", name="The statement as text").input_value()
    assert f"Una krediti {before + 1}" in text and "imerejeshwa" in text
    assert (page.get_by_role("link", name="Send by SMS").get_attribute("href") or "").startswith("sms:")
    # what happens now
    page.get_by_role("link", name="Log", exact=True).tap()
    expect(page.get_by_role("status")).to_contain_text("Watching")
    assert engine.post("/v1/vend-token", {"userId": life.user}).status_code == 200
    row = page.locator("#log > *").filter(has_text="/v1/vend-token")
    expect(row).to_contain_text(life.user)


# With a keyboard


def tab_to(page: Page, wanted: Locator) -> None:
    """Go there by the Tab key alone; whatever has the focus on the way shows it."""
    wanted.wait_for()
    page.wait_for_load_state()
    for _ in range(TABS_MAX):
        page.keyboard.press("Tab")
        assert page.evaluate(FOCUS_SEEN) == ""
        if wanted.evaluate("node => node === document.activeElement"):
            return
    raise AssertionError(f"{wanted} is not reached in {TABS_MAX} steps")


def test_an_operator_with_nothing_but_a_keyboard(browser: Browser, life: Life) -> None:
    """Signs in, finds a user, grants credits with a reason, looks at it, and does it."""
    visit, engine = Visit(browser, life.world.engine.url), life.world.engine
    page, user = visit.page, engine.funded(3)
    page.goto("/console")
    expect(page.get_by_label("Operator key")).to_be_focused()
    page.keyboard.type(secret(life.world.operator))
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Overview").wait_for()
    page.wait_for_load_state()
    page.keyboard.press("Tab")
    assert page.evaluate(FOCUS_SEEN) == "" and "Skip" in page.evaluate("document.activeElement.textContent")
    tab_to(page, page.get_by_role("searchbox").first)
    page.keyboard.type(user[:20])
    page.keyboard.press("Enter")
    tab_to(page, page.get_by_role("link", name=user))
    page.keyboard.press("Enter")
    page.get_by_role("heading", name=user).wait_for()
    form = page.locator("form[action='/console/user/grant']")
    tab_to(page, page.locator("summary", has_text="Grant credits"))
    page.keyboard.press("Enter")
    tab_to(page, form.get_by_label("Amount"))
    page.keyboard.type("5")
    tab_to(page, form.get_by_label("Reason"))
    page.keyboard.type("the first one failed")
    page.keyboard.press("Enter")
    done = page.get_by_role("button", name="Grant credits")
    expect(done).to_be_focused()
    assert engine.available(user) == 3 and page.evaluate(FOCUS_SEEN) == ""
    page.keyboard.press("Enter")
    page.get_by_role("status").wait_for()
    assert engine.available(user) == 8 and "the first one failed" in page.inner_text("main")
    visit.close()


def test_the_skip_link_skips(come: Come) -> None:
    """Its next stop is in the page, not in the menu."""
    page = come().page
    page.goto("/console/users")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.querySelector('main').contains(document.activeElement)")


# Nothing is chosen for anybody


def test_a_key_is_for_what_was_chosen(come: Come, engine: Pluct) -> None:
    """None is made of a form whose role was overlooked: the first of them makes credits."""
    page, before = come().page, len(engine.json("keys", "list")["keys"])
    page.goto("/console/keys")
    page.get_by_text("Create a key").click()
    page.get_by_label("Name").fill("overlooked")
    page.get_by_role("button", name="Create").click()
    assert page.get_by_label("Role").evaluate("node => node.validity.valueMissing")
    assert len(engine.json("keys", "list")["keys"]) == before
    page.get_by_label("Role").select_option("service")
    page.get_by_role("button", name="Create").click()
    expect(page.get_by_role("status")).to_contain_text("overlooked (service)")


def test_what_a_search_takes_is_read_whole(come: Come) -> None:
    """On a phone, too: what is written in an empty field is not cut, not even in a somewhat wider font."""
    page = come("phone").page
    page.goto("/console/users")
    width = """node => {
      const look = getComputedStyle(node), pen = document.createElement("canvas").getContext("2d");
      pen.font = look.font;
      const room = node.clientWidth - parseFloat(look.paddingLeft) - parseFloat(look.paddingRight);
      return room - 1.1 * pen.measureText(node.placeholder).width;
    }"""
    for field in page.get_by_role("searchbox").all():
        assert field.evaluate(width) >= 0


# Once, and only over what is still so


@pytest.mark.parametrize("script", [True, False])
def test_a_double_click_grants_once(come: Come, engine: Pluct, script: bool) -> None:
    """With the page's script, which takes the second click away, and without it."""
    page, user = come(java_script_enabled=script).page, engine.funded(1)
    wanted(page, user, "5", "sorry").dblclick()
    page.get_by_role("status").wait_for()
    assert engine.available(user) == 6


def test_what_was_done_is_not_done_again(come: Come, engine: Pluct) -> None:
    """The confirmation sent twice, from a tab that was kept; the page that says so, loaded again; and the way back."""
    visit, user = come(java_script_enabled=False), engine.funded(1)
    page = visit.page
    button = wanted(page, user, "5", "sorry")
    for _ in range(2):
        with visit.context.expect_page() as opened:  # which leaves this page as it is
            button.click(modifiers=["Control"])
        opened.value.get_by_role("status").wait_for()
    opened.value.reload()
    opened.value.get_by_role("status").wait_for()
    button.click()
    page.get_by_role("status").wait_for()
    with pytest.raises(Error, match="CACHE_MISS"):  # the browser asks whether to send the form again
        page.go_back()
    page.wait_for_url(re.compile("^chrome-error:"))
    page.reload()  # yes: what it leads to is a look at the balance as it is now
    button.wait_for()
    assert "11" in page.inner_text(".figures") and engine.available(user) == 6


def test_two_operators_over_one_wallet(come: Come, engine: Pluct) -> None:
    """Who decided over what is no longer so is told, and nothing is done."""
    user = engine.funded(1)
    first, second = come(), come("phone").sign_in(engine.key("operator"))
    buttons = [wanted(visit.page, user, "5", "sorry") for visit in (first, second)]
    buttons[0].click()
    first.page.get_by_role("status").wait_for()
    buttons[1].click()
    assert "has changed since you looked" in second.page.get_by_role("alert").inner_text()
    assert engine.available(user) == 6


def test_it_works_without_javascript(browser: Browser, life: Life) -> None:
    """Signing in, and a grant."""
    visit = Visit(browser, life.world.engine.url, "phone", java_script_enabled=False)
    visit.sign_in(life.world.operator)
    user = life.world.engine.funded(1)
    wanted(visit.page, user, "5", "sorry").click()
    assert "Available now: 6" in visit.page.get_by_role("status").inner_text()
    visit.page.get_by_role("button", name="Sign out").click()
    visit.page.get_by_label("Operator key").wait_for()
    visit.close()


# Strangers


def test_text_from_outside_stays_text(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Markup in ids, reasons, codes, references, payloads and names, on every page: shown, and nothing more."""
    with lively(tmp_path_factory.mktemp("markup"), lambda word: word + MARKUP) as life:
        engine, visit = life.world.engine, Visit(browser, life.world.engine.url)
        body = {"TransID": "SLK4H7R2T5", "TransAmount": "20", "BillRefNumber": MARKUP, "TransactionType": MARKUP}
        assert engine.post(f"/hooks/daraja/c2b/{PATH_TOKEN}/confirmation", body).status_code == 200
        visit.sign_in(life.world.operator)
        for path in QUERIES:
            visit.page.goto(address(path, life))
            assert visit.page.evaluate(INJECTED) == [], path
        found = {}
        for path in ("user", "users", "payment", "requests", "keys"):
            visit.page.goto(address(f"/console/{path}", life))
            found[path] = visit.page.evaluate("document.body.textContent").count(MARKUP)
        assert found["user"] > 2 and min(found.values()) > 0, found
        visit.page.goto(f"/console/payment?id={life.world.payments(state='unmatched')[0]['id']}")
        assert visit.page.evaluate(INJECTED) == [] and "img class=injected" in visit.page.inner_text("main")
        wanted(visit.page, life.user, "5", MARKUP).wait_for()
        assert visit.page.inner_text("main").count(MARKUP) == 2 and visit.page.evaluate(INJECTED) == []
        visit.page.goto("/console/log")
        expect(visit.page.get_by_role("status")).to_contain_text("Watching")
        engine.client.get("/v1/credits/balance", params={"userId": life.user})
        expect(visit.page.locator("#log")).to_contain_text(MARKUP)
        assert visit.page.evaluate(INJECTED) == []
        visit.page.goto(f"/console/ticket?id={MARKUP}")
        assert visit.page.evaluate(INJECTED) == []
        visit.close()


@pytest.fixture(scope="module")
def elsewhere(life: Life) -> Iterator[str]:
    """Another server on this machine, which says it is somebody's nice page."""

    async def frames(request: Request) -> HTMLResponse:
        return HTMLResponse(f'<h1>Win a phone</h1><iframe src="{life.world.engine.url}/console"></iframe>')

    async def sends(request: Request) -> HTMLResponse:
        action = life.world.engine.url + request.query_params["to"]
        fields = "".join(
            f'<input type="hidden" name="{name}" value="{value}">' for name, value in request.query_params.items()
        )
        script = "<script>document.forms[0].submit()</script>"
        return HTMLResponse(f'<form method="post" action="{action}">{fields}</form>{script}')

    async def close() -> None:
        return None

    with in_a_thread(Starlette(routes=[Route("/frames", frames), Route("/sends", sends)]), close) as url:
        yield url


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])  # of the same site as the console, and of another
def test_no_page_frames_the_console(come: Come, engine: Pluct, elsewhere: str, name: str) -> None:
    """What is in the frame is nothing to be clicked on."""
    visit, url = come(), elsewhere.replace("127.0.0.1", name)
    visit.origins.add(url)
    visit.page.goto(f"{url}/frames")
    visit.provoked("frame-ancestors")
    (frame,) = visit.page.main_frame.child_frames
    assert engine.url not in frame.url


@pytest.mark.parametrize(("name", "said"), [("127.0.0.1", "came from another site"), ("localhost", "Operator key")])
@pytest.mark.parametrize("knows", [False, True])
def test_no_other_site_sends_a_form(
    come: Come, engine: Pluct, elsewhere: str, name: str, said: str, knows: bool
) -> None:
    """Signed in as the operator is, and even if the page knew the form's token."""
    visit, url, user = come(), elsewhere.replace("127.0.0.1", name), engine.funded(1)
    visit.origins.add(url)
    page = visit.page
    button = wanted(page, user, "5", "sorry")
    fields = {
        "to": "/console/user/grant", "user": user, "amount": "5", "reason": "mine", "category": "paid", "seen": "1",
        "once": "elsewhere", "confirmed": "yes",
    }  # fmt: skip
    if knows:
        fields["form_token"] = page.locator("input[name=form_token]").first.get_attribute("value") or ""
    with visit.context.expect_page() as opened:
        page.evaluate("address => { window.open(address) }", f"{url}/sends?" + "&".join(map("=".join, fields.items())))
    other = opened.value
    other.wait_for_url(f"{engine.url}/**")
    other.wait_for_load_state()
    assert said in other.inner_text("main")
    assert engine.available(user) == 1
    button.click()  # nothing is the matter with the operator's own page
    page.get_by_role("status").wait_for()
    assert engine.available(user) == 6


def test_a_planted_cookie_is_good_for_nothing(browser: Browser, life: Life) -> None:
    """It is replaced at the sign-in, and no script reads what replaces it."""
    visit = Visit(browser, life.world.engine.url)
    cookie = {"name": "pluct_console", "value": "planted", "domain": "127.0.0.1", "path": "/console"}
    visit.context.add_cookies([cookie])  # type: ignore[list-item]
    visit.page.goto("/console")
    assert visit.page.url.endswith("/console/sign-in")
    visit.sign_in(life.world.operator)
    (kept,) = visit.context.cookies(f"{life.world.engine.url}/console")
    assert kept["value"] != "planted" and len(kept["value"]) > 40
    assert kept["httpOnly"] and kept["sameSite"] == "Strict"
    assert visit.page.evaluate("document.cookie") == ""
    visit.close()


def test_guessing_a_key_is_answered_with_a_sentence(browser: Browser, life: Life) -> None:
    """The page says to wait, and lets nobody in who guesses on."""
    visit = Visit(browser, life.world.engine.url, extra_http_headers={"X-Forwarded-For": "10.9.8.7"})
    visit.page.goto("/console/sign-in")
    for wrong in [f"pluct_operator_{number}" for number in range(10)] + [secret(life.world.operator)]:
        visit.page.get_by_label("Operator key").fill(wrong)
        visit.page.get_by_role("button", name="Sign in").click()
    assert "Too many wrong keys" in visit.page.get_by_role("alert").inner_text()
    assert visit.context.cookies() == []
    visit.close()


def test_a_trouble_is_noticed(browser: Browser, elsewhere: str) -> None:
    """The watch bites: an error, an exception, a dialog, a stranger's host and a policy that was broken."""
    visit = Visit(browser, elsewhere)
    policy = {"content-security-policy": "img-src 'none'", "content-type": "text/html"}
    script = "console.error('oh'); alert('ah'); new Image().src = '/x'; fetch('http://localhost:9/'); null.f()"
    visit.page.route("**/bad", lambda route: route.fulfill(body=f"<script>{script}</script>", headers=policy))
    visit.page.goto("/bad")
    for part in ("error: oh", "dialog: ah", "img-src", "foreign: http://localhost:9/", "script: "):
        visit.noticed(part)
    with pytest.raises(AssertionError):
        visit.close()
