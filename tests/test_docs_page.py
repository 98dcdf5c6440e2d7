"""`/docs` in a real browser, on a phone and at a desk: every route is there, opens, and can be tried."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, Route, expect

from browsing import DEVICES, Visit, axe, chromium, faults, needs_chromium
from conftest import Pluct, served
from paying import PACKS, SECRETS

pytestmark = needs_chromium

TOML = f"""
{PACKS}
[payments]
callback_base_url = "https://pay.example"

[gateways.daraja]
"""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pluct]:
    """With a gateway, so that its routes are described, too."""
    with served(tmp_path_factory.mktemp("docs"), TOML, **SECRETS) as made:
        yield made


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(params=DEVICES)
def visit(browser: Browser, engine: Pluct, request: pytest.FixtureRequest) -> Iterator[Visit]:
    """Somebody reads the page."""
    made = Visit(browser, engine.url, request.param)
    made.page.goto("/docs")
    made.page.locator(".route").first.wait_for()
    yield made
    made.context.close()
    assert made.troubles == []


def route(visit: Visit, path: str, method: str = "post") -> Locator:
    """A route's part of the page, opened."""
    found = visit.page.locator(f'.route[data-find^="{method} {path.lower()} "]')
    found.locator("summary").first.click()
    return found


def test_every_route_is_shown_and_opens(visit: Visit, engine: Pluct) -> None:
    """Each under its group, with what it takes, and a form to try it."""
    document = engine.client.get("/openapi.json").json()
    operations = [each for methods in document["paths"].values() for each in methods.values()]
    routes = visit.page.locator(".route")
    assert routes.count() == len(operations) > 30
    for each in routes.all():
        each.locator("summary").first.click()
    expect(visit.page.locator(".route[open] form")).to_have_count(len(operations))
    headings = visit.page.locator("#routes h2").all_inner_texts()
    assert headings == [tag["name"] for tag in document["tags"]] and "Gateways" in headings
    assert visit.page.evaluate("document.documentElement.scrollWidth <= screen.width")
    visit.page.evaluate(axe())
    assert faults(visit.page) == []


def test_what_is_shown_as_an_example_can_be_sent(visit: Visit, engine: Pluct) -> None:
    """With a key, from the page itself: credits are granted, spent, and the ticket's token is answered."""
    visit.page.fill("#bearer", engine.key("mint")["Authorization"].removeprefix("Bearer "))
    for path, said in (("/v1/credits/add", '"newBalance"'), ("/v1/vend-token", '"token": "eyJ')):
        form = route(visit, path).locator("form")
        form.get_by_role("button", name="Send").click()
        form.get_by_text("200 in").wait_for()
        assert said in form.locator("pre").first.inner_text()


def test_a_route_is_found_by_a_word(visit: Visit) -> None:
    """The others, and groups without any, are out of the way."""
    visit.page.fill("#filter", "batch")
    expect(visit.page.locator(".route:visible")).to_have_count(1)
    expect(visit.page.locator("#routes h2:visible")).to_have_text("Credits and tickets")
    visit.page.fill("#filter", "batch tickets ")
    expect(visit.page.locator(".route:visible")).to_have_count(1)
    visit.page.fill("#filter", "batch nonsense")
    expect(visit.page.get_by_role("status")).to_have_text("No route has these words.")
    visit.page.fill("#filter", "")
    expect(visit.page.get_by_role("status")).to_be_empty()
    assert visit.page.locator(".route:visible").count() > 30


def test_what_is_made_of_objects_is_shown_down_to_their_fields(visit: Visit) -> None:
    """Of every kind that a table names, once, also where it is named by one below."""
    batch = route(visit, "/v1/tickets/batch")
    kinds = ["RedeemOperation", "CaptureOperation", "VoidOperation", "Result", "TicketAnswer", "Problem"]
    expect(batch.locator("h4")).to_have_text(kinds)
    capture = batch.locator("h4:text-is('CaptureOperation') + .scroll tr")
    expect(capture.filter(has_text="ticketId")).to_contain_text("required")
    wallet = route(visit, "/v1/wallets/{userId}", "get")
    expect(wallet.locator("h4")).to_have_text("LotAnswer")
    expect(wallet.locator("h4 + .scroll")).to_contain_text("expiresAt")
    expect(route(visit, "/v1/tickets/redeem").locator("h4")).to_have_count(0)


def test_an_object_that_holds_its_like_has_an_end(visit: Visit) -> None:
    """Two that name each other are shown once each."""

    def answer(asked: Route) -> None:
        document = asked.fetch().json()
        schemas = document["components"]["schemas"]
        schemas["LotAnswer"]["properties"]["wallet"] = {"$ref": "#/components/schemas/WalletAnswer"}
        schemas["LotAnswer"]["properties"]["lots"] = schemas["WalletAnswer"]["properties"]["lots"]
        asked.fulfill(json=document)

    visit.page.route("**/openapi.json", answer)
    visit.page.reload()
    expect(route(visit, "/v1/wallets/{userId}", "get").locator("h4")).to_have_text("LotAnswer")


def test_no_table_is_cut(visit: Visit) -> None:
    """The errors' sentences fit the screen, and so does what routes take and answer."""
    visit.page.evaluate("for (const each of document.querySelectorAll('.route')) each.open = true")
    visit.page.locator(".route[open] form").last.wait_for()
    cut = "[...document.querySelectorAll('.scroll')].filter((node) => node.scrollWidth > node.clientWidth).length"
    assert visit.page.evaluate(cut) == 0
    assert visit.page.locator("#errors tbody tr").count() > 20


def test_a_stream_is_shown_as_it_comes(visit: Visit, engine: Pluct) -> None:
    """Line by line, for as long as somebody wants to see it; sent over and over, it takes one connection."""
    visit.page.fill("#bearer", engine.key("operator")["Authorization"].removeprefix("Bearer "))
    form = route(visit, "/v1/log", "get").locator("form")
    for _ in range(8):  # a browser has six connections to a server
        form.get_by_role("button", name="Send").click()
        form.get_by_text("200 in").wait_for()
    lines = form.locator("pre.stream")
    for name in ("first", "second"):
        engine.client.get("/v1/credits/balance", params={"userId": f"{name}-watched"})
        expect(lines).to_contain_text(f"{name}-watched")
    form.get_by_role("button", name="Stop").click()
    form.get_by_text("Stopped.", exact=True).wait_for()
    expect(form.get_by_role("button", name="Stop")).to_be_hidden()
    expect(lines).to_contain_text("first-watched")


def test_of_a_stream_the_last_lines_are_kept(visit: Visit) -> None:
    """However long somebody watches."""
    body = "".join(f"data: line {number}\n\n" for number in range(1000)) + "data: not whole"
    visit.page.route("**/v1/log", lambda asked: asked.fulfill(body=body, content_type="text/event-stream"))
    form = route(visit, "/v1/log", "get").locator("form")
    form.get_by_role("button", name="Send").click()
    form.get_by_text("The stream has ended.").wait_for()
    expect(form.locator("pre.stream")).to_have_text("\n".join(f"data: line {number}" for number in range(800, 1000)))


def test_what_does_not_come_is_waited_for_no_longer(visit: Visit) -> None:
    """Stopped before the answer, the page does not say that nothing was done."""
    visit.page.route("**/health", lambda asked: None)
    form = route(visit, "/health", "get").locator("form")
    form.get_by_role("button", name="Send").click()
    form.get_by_text("Sending…").wait_for()
    form.get_by_role("button", name="Stop").click()
    form.get_by_text("Stopped. What was asked may have been done.").wait_for()


def test_a_key_that_none_is_is_told(visit: Visit) -> None:
    """One with an example's dots in it, and a user id that no header can have."""
    form = route(visit, "/vend-token").locator("form")
    visit.page.fill("#bearer", "pluct_service_…")
    form.get_by_role("button", name="Send").click()
    form.get_by_text("The key has characters that no key has: “…”.").wait_for()
    visit.page.fill("#bearer", "")
    form.get_by_label("X-User-Id").fill("amina 🙂")
    form.get_by_role("button", name="Send").click()
    form.get_by_text("X-User-Id has characters that no header can have: “🙂”.").wait_for()
