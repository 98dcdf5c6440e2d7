"""The console in a real browser: Debian's Chromium, pages that are watched, and an engine with life in it."""

import base64
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Dialog, Page, Request, Response, sync_playwright

from conftest import Pluct, until
from paying import PATH_TOKEN, Paying, paying

SETTINGS = {
    "PLUCT_WEBHOOK_OUT_SECRET": "whsec_" + base64.b64encode(b"a secret of the tests only").decode(),
    "PLUCT_SIGNING": "EdDSA",
}
CHROMIUM = shutil.which("chromium")
ABSENT = "Chromium is not installed (apt-get install chromium)."
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason=ABSENT)
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
DEVICES: dict[str, dict[str, Any]] = {
    "phone": {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True},
    "desktop": {"viewport": {"width": 1280, "height": 800}},
}
SECONDS_MAX = 10
AXE = files("axe_playwright_python").joinpath("axe.min.js")
GRAVE = {"moderate", "serious", "critical"}

TOML = """
[http]
proxy_hops = 1

[actions.transcribe]
cost = 2
audience = "transcriber"
settle = "report"

[[webhooks]]
url = "http://127.0.0.1:9/nobody-listens"
allow_private = true

[payments]
odd_amounts = "hold"
clawback = "freeze"
"""

#: What each page is asked for, with the names of `Life` in it.
QUERIES = {
    "/console": "",
    "/console/users": "",
    "/console/user": "?id={user}",
    "/console/statement": "?user={user}&lang=sw",
    "/console/tickets": "",
    "/console/ticket": "?id={ticket}",
    "/console/payments": "",
    "/console/payment": "?id={unmatched}",
    "/console/requests": "",
    "/console/keys": "",
    "/console/signing-keys": "",
    "/console/reconcile": "",
    "/console/log": "",
    "/console/events": "",
    "/console/health": "",
}


@cache
def axe() -> str:
    """The program that finds what some people cannot use."""
    return AXE.read_text("utf-8")


def faults(page: Page, **options: Any) -> list[str]:
    """What axe-core has against the page as it is now."""
    found = page.evaluate("options => axe.run({resultTypes: ['violations'], ...options})", options)
    return [
        f"{fault['id']}: {node['html'][:120]}: {node['failureSummary']}"
        for fault in found["violations"] if fault["impact"] in GRAVE for node in fault["nodes"]
    ]  # fmt: skip


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser. Playwright keeps an event loop running in this thread until the end: one module's tests share it."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


class Visit:
    """Somebody at a device. What no page may do is written down in `troubles`."""

    def __init__(self, browser: Browser, url: str, device: str = "desktop", scheme: Any = "light", **more: Any) -> None:
        self.origins, self.troubles = {url}, list[str]()
        self.context = browser.new_context(
            base_url=url, color_scheme=scheme, timezone_id="Africa/Nairobi", locale="en-KE", **DEVICES[device], **more
        )
        self.context.set_default_timeout(SECONDS_MAX * 1000)
        self.context.on("console", self._said)
        self.context.on("weberror", lambda error: self.troubles.append(f"script: {error.error}"))
        self.context.on("dialog", self._asked)
        self.context.on("request", self._requested)
        self.context.on("response", self._answered)
        self.page: Page = self.context.new_page()

    def _said(self, message: ConsoleMessage) -> None:
        # A refusal is a page with a status of its own; what a page loads is looked at in `_answered`.
        if message.type in ("error", "warning") and not message.text.startswith("Failed to load resource"):
            self.troubles.append(f"{message.type}: {message.text}")

    def _asked(self, dialog: Dialog) -> None:
        self.troubles.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _requested(self, request: Request) -> None:
        where = urlsplit(request.url)
        if where.scheme != "data" and f"{where.scheme}://{where.netloc}" not in self.origins:
            self.troubles.append(f"foreign: {request.url}")

    def _answered(self, response: Response) -> None:
        if response.status >= 400 and not response.request.is_navigation_request():
            self.troubles.append(f"{response.status}: {response.url}")

    def noticed(self, part: str) -> None:
        """Wait until a trouble with these words is written down."""

        def seen() -> bool:
            self.page.wait_for_timeout(10)  # events come while Playwright waits
            return any(part in trouble for trouble in self.troubles)

        until(seen)

    def provoked(self, part: str) -> None:
        """A trouble that the test itself made: it must be there, and is forgotten."""
        self.noticed(part)
        self.troubles = [trouble for trouble in self.troubles if part not in trouble]

    def sign_in(self, key: dict[str, str]) -> "Visit":
        """As an operator does."""
        self.page.goto("/console/sign-in")
        self.page.get_by_label("Operator key").fill(secret(key))
        self.page.get_by_role("button", name="Sign in").click()
        self.page.get_by_role("heading", name="Overview").wait_for()
        return self

    def close(self) -> None:
        """Go, and have done nothing that no page may do."""
        self.context.close()
        assert self.troubles == []


def secret(key: dict[str, str]) -> str:
    """The key itself, from the headers that carry it."""
    return key["Authorization"].removeprefix("Bearer ")


class Life(NamedTuple):
    """What there is to be looked at: a user with a past, and what waits for an operator."""

    world: Paying
    user: str
    owing: str
    ticket: str
    receipt: str
    unmatched: str
    review: str


def address(path: str, life: Life) -> str:
    """A page with the query that makes it show something."""
    return path + QUERIES.get(path, "").format_map({name: quote(str(value)) for name, value in life._asdict().items()})


def live(world: Paying, say: Callable[[str], str] = str) -> Life:
    """Payments, tickets, keys and requests of a few users; all text from outside is what `say` makes of it."""
    engine, user, owing = world.engine, say("amina"), say("brian")
    for each in (user, owing):
        world.becomes(world.buy(each)["checkoutId"], "paid")
    receipts = {payment["userId"]: str(payment["reference"]) for payment in world.payments(state="paid")}
    gift = {"amount": 5, "category": "promotional", "expiresAt": "2031-01-31T00:00:00Z", "reason": say("a gift")}
    assert engine.post("/v1/credits/add", {"userId": user} | gift, world.operator).status_code == 200
    tickets = [_vend(engine, user) for _ in range(3)]
    assert engine.post(f"/v1/tickets/{tickets[0]}/void", {"reason": say("empty")}, world.operator).status_code == 200
    _vend(engine, user, "transcribe")
    for _ in range(7):
        _vend(engine, owing)
    reversal = [{"Key": "OriginalTransactionID", "Value": receipts[owing]}]
    result = {"ResultCode": 0, "ResultParameters": {"ResultParameter": reversal}}
    assert engine.post(f"/hooks/daraja/result/{PATH_TOKEN}", {"Result": result}).status_code == 200
    world.simulator.mode = "cancelled"
    failed = world.becomes(world.buy(say("wanjiku"))["checkoutId"], "failed")
    world.type_in(failed["paymentCode"], "147", "SLK4H7R2T1")
    world.type_in(say("KAREN SHOP"), "100", "SLK4H7R2T0")
    for reference in ("SLK4H7R2T0", say("SLK4H7R2T9 Confirmed.")):
        asked = {"userId": say("juma"), "reason": say("I have paid"), "reference": reference}
        assert engine.post("/v1/credits/request", asked).json()["state"] == "review"
    engine.key("service", say("transcriber"))
    engine.run("keys", "revoke", engine.json("keys", "create", "--role", "mint", "--name", say("till"))["id"])
    (review,), (unmatched,) = world.payments(state="review"), world.payments(state="unmatched")
    return Life(world, user, owing, tickets[1], receipts[user], unmatched["id"], review["id"])


def _vend(engine: Pluct, user: str, action: str = "default") -> str:
    answer = engine.post("/v1/vend-token", {"userId": user, "action": action})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["ticketId"])


@contextmanager
def lively(folder: Path, say: Callable[[str], str] = str) -> Iterator[Life]:
    """A running engine with life in it."""
    with ExitStack() as ended:

        def make(toml: str, **environment: str) -> Pluct:
            (folder / "pluct.toml").write_text(toml)
            return ended.enter_context(closing(Pluct(folder, **environment)))

        with paying(make, "ok", TOML, **SETTINGS) as world:
            yield live(world, say)


def summed(life: Life) -> None:
    """Wait until the sums of what has happened are written, of which the overview draws its charts."""
    client = life.world.engine.client
    until(
        lambda: any(
            step["requests"] for step in client.get("/v1/analytics", headers=life.world.operator).json()["steps"]
        )
    )
