"""Whom the console's pages are for: everybody, on a phone and at a desk, by day and by night. Axe-core reads them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, FilePayload, Page

from browsing import DEVICES, QUERIES, Life, Visit, address, axe, chromium, faults, lively, needs_chromium, summed
from conftest import Pluct, served
from pluct.console.site import PAGES

pytestmark = needs_chromium

PATHS = [path for method, path, _ in PAGES if method == "GET"]
TARGET_MIN = 24  # CSS pixels, as WCAG 2.2 AA has it

STATEMENT = """Receipt No.,Completion Time,Details,Transaction Status,Paid In,Withdrawn,A/C No.
TKM1ABC234,25-11-2026 11:00:00,Pay Bill Online,Completed,"1,000.00",,KAREN
SLK4H7R2T0,25-11-2026 11:00:00,Pay Bill Online,Completed,90.00,,KAREN SHOP
"""

#: What is too wide, and what a finger or a pointer misses.
MEASURED = """least => {
  const name = (node) => node.outerHTML.slice(0, 120);
  const wide = document.documentElement.scrollWidth > screen.width ? ["the page"] : [];
  for (const node of document.querySelectorAll(".scroll"))
    if (screen.width < 600 && node.scrollWidth > node.clientWidth) wide.push(name(node));
  const small = [...document.querySelectorAll("button, input, select, textarea, summary, nav a")].filter((node) => {
    const box = node.getBoundingClientRect();
    return node.checkVisibility() && node.type !== "hidden" && (box.width < least || box.height < least);
  }).map(name);
  return {wide, small, headings: document.querySelectorAll("h1").length, title: document.title};
}"""


def sound(page: Page) -> None:
    """The page is for everybody, fits its screen, and says what it is; all of it unfolded, by day and by night."""
    page.wait_for_load_state()  # with its style
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    measured: dict[str, Any] = page.evaluate(MEASURED, TARGET_MIN)
    assert (measured["wide"], measured["small"], measured["headings"]) == ([], [], 1)
    assert measured["title"].endswith(" · Pluct") and measured["title"] != "Console · Pluct"
    page.evaluate(axe())
    assert faults(page, rules={"target-size": {"enabled": True}}) == []
    page.emulate_media(color_scheme="dark")
    assert page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    assert faults(page, runOnly=["color-contrast"]) == []
    page.emulate_media(color_scheme="light")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    with lively(tmp_path_factory.mktemp("looks")) as found:
        summed(found)
        yield found


@pytest.fixture(scope="module", params=list(DEVICES))
def visit(request: pytest.FixtureRequest, browser: Browser, life: Life) -> Iterator[Visit]:
    """An operator at each device."""
    made = Visit(browser, life.world.engine.url, request.param).sign_in(life.world.operator)
    yield made
    made.close()


def test_every_page_is_known() -> None:
    """A page that is added says here with which query it shows something."""
    assert set(QUERIES) == set(PATHS)


@pytest.mark.parametrize("path", PATHS)
def test_a_page_is_for_everybody(visit: Visit, life: Life, path: str) -> None:
    """Axe-core has no grave fault to find, it fits its screen, and everything on it can be touched."""
    answer = visit.page.goto(address(path, life))
    assert answer is not None and answer.status == 200
    sound(visit.page)
    assert visit.troubles == []


def test_who_owes_is_told_apart(visit: Visit, life: Life) -> None:
    """A frozen user with a debt; a payment in review; a payment that was paid, from its receipt."""
    visit.page.goto(f"/console/user?id={life.owing}")
    assert "Frozen" in visit.page.inner_text("main")
    sound(visit.page)
    visit.page.goto(f"/console/payment?id={life.review}")
    sound(visit.page)
    visit.page.goto(f"/console/users?q={life.receipt}")
    assert life.user in visit.page.inner_text("main")
    sound(visit.page)


def test_what_is_refused_looks_like_it(visit: Visit) -> None:
    """A ticket that nobody knows: a page with a sentence."""
    answer = visit.page.goto("/console/ticket?id=00000000-0000-7000-8000-000000000000")
    assert answer is not None and answer.status == 404 and visit.page.get_by_role("alert").inner_text()
    sound(visit.page)


CONFIRMED = [
    ("/console/user", "/console/user/grant", {"Amount": "5", "Reason": "sorry"}),
    ("/console/ticket", "/console/ticket/void", {"Reason": "came out empty"}),
    ("/console/payment", "/console/payment/assign", {"User id": "juma", "Reason": "seen"}),
    ("/console/payment", "/console/payment/write-off", {"Reason": "sent back"}),
    ("/console/keys", "/console/keys/revoke", {}),
    ("/console/signing-keys", "/console/signing-keys/rotate", {}),
    ("/console/signing-keys", "/console/signing-keys/retire", {}),
]


def test_every_confirmation_is_for_everybody(browser: Browser, life: Life) -> None:
    """What is looked at before it is done."""
    visit = Visit(browser, life.world.engine.url, "phone").sign_in(life.world.operator)
    page = visit.page
    for path, action, fields in CONFIRMED:
        page.goto(address(path, life))
        page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
        form = page.locator(f"form[action='{action}']").first
        for name, value in fields.items():
            form.get_by_label(name).fill(value)
        form.get_by_role("button").click()
        page.get_by_role("link", name="Leave it").wait_for()
        sound(page)
    visit.close()


def test_a_compared_statement_is_for_everybody(visit: Visit) -> None:
    """With a line that the ledger knows nothing of."""
    visit.page.goto("/console/reconcile")
    statement = FilePayload(name="statement.csv", mimeType="text/csv", buffer=STATEMENT.encode())
    visit.page.get_by_label("Organisation statement").set_input_files(statement)
    visit.page.get_by_role("button", name="Compare").click()
    visit.page.get_by_role("link", name="SLK4H7R2T0").wait_for()
    assert "TKM1ABC234" in visit.page.inner_text("main")
    sound(visit.page)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pluct]:
    with served(tmp_path_factory.mktemp("fresh")) as pluct:
        yield pluct


@pytest.mark.parametrize("device", list(DEVICES))
def test_the_sign_in_is_for_everybody(browser: Browser, fresh: Pluct, device: str) -> None:
    """Before and after a wrong key."""
    visit = Visit(browser, fresh.url, device)
    visit.page.goto("/console")
    sound(visit.page)
    visit.page.get_by_label("Operator key").fill("wrong")
    visit.page.get_by_role("button", name="Sign in").click()
    visit.page.get_by_role("alert").wait_for()
    sound(visit.page)
    visit.close()


def test_a_fresh_engine_is_for_everybody(browser: Browser, fresh: Pluct) -> None:
    """Every page that has nothing to show yet."""
    visit = Visit(browser, fresh.url, "phone").sign_in(fresh.key("operator"))
    for path in PATHS:
        if QUERIES.get(path, "") == "":
            visit.page.goto(path)
            sound(visit.page)
    visit.close()


def test_faults_are_found(browser: Browser, tmp_path: Path) -> None:
    """The checks bite: grey on grey, a picture without words, what is too wide and what is too small."""
    visit = Visit(browser, "null", "phone")
    visit.page.set_content(
        "<title>Bad</title><main><h1>One</h1><h1>Two</h1><p style='color:#aaa;background:#bbb'>grey</p>"
        "<img src='data:image/gif;base64,R0lGODlhAQABAAAAACw='><div class=scroll style='overflow:auto'>"
        "<div style='width:900px'>wide</div></div><button style='padding:0;height:9px'>x</button></main>"
    )
    measured = visit.page.evaluate(MEASURED, TARGET_MIN)
    assert (len(measured["wide"]), len(measured["small"]), measured["headings"]) == (1, 1, 2)
    visit.page.evaluate(axe())
    found = {fault.partition(":")[0] for fault in faults(visit.page)}
    assert {"color-contrast", "image-alt", "html-has-lang"} <= found
    visit.close()
