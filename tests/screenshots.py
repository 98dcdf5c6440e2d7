"""`make screenshots`: every page of the console as a picture in docs/screenshots, of an engine with life in it.

What the pages say is made up and as good as the same each time, but for times, receipts and ids.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page

from browsing import ABSENT, CHROMIUM, QUERIES, Life, Visit, address, chromium, lively, summed

FOLDER = Path(__file__).parent.parent / "docs" / "screenshots"
#: Also taken in the dark.
DARK = ("/console", "/console/user")
HEIGHT_MAX = 1600


def main() -> None:
    """Take all of them; those of pages that are no more are removed."""
    if CHROMIUM is None:
        sys.exit(ABSENT)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for old in FOLDER.glob("*.png"):
        old.unlink()
    with (
        tempfile.TemporaryDirectory(prefix="pluct-screenshots-") as folder, chromium() as browser,
        lively(Path(folder)) as life,
    ):  # fmt: skip
        summed(life)
        for device in ("phone", "desktop"):
            for scheme in ("light", "dark"):
                _take_all(browser, life, device, scheme)
    taken = sorted(FOLDER.glob("*.png"))
    print(f"{len(taken)} pictures, {sum(path.stat().st_size for path in taken) // 1024} KiB, in {FOLDER.name}")


def _take_all(browser: Browser, life: Life, device: str, scheme: str) -> None:
    visit = Visit(browser, life.world.engine.url, device, scheme, device_scale_factor=1)
    visit.page.goto("/console/sign-in")
    if scheme == "light":
        _take(visit.page, f"sign-in-{device}")
    visit.sign_in(life.world.operator)
    for path in QUERIES if scheme == "light" else DARK:
        visit.page.goto(address(path, life))
        if path == "/console/log":
            _fill_the_log(visit.page, life)
        name = path.removeprefix("/console").strip("/") or "overview"
        _take(visit.page, f"{name}-{device}" + ("-dark" if scheme == "dark" else ""))
    visit.close()


def _fill_the_log(page: Page, life: Life) -> None:
    """Rows that have just come."""
    page.get_by_text("Watching").wait_for()
    engine = life.world.engine
    engine.client.get("/v1/credits/balance", params={"userId": life.user})
    for user in (life.user, life.owing, "nobody"):
        engine.post("/v1/vend-token", {"userId": user})
    page.locator("#log > *").nth(3).wait_for()


def _take(page: Page, name: str) -> None:
    """The whole page, or as much of it as is worth keeping."""
    size: dict[str, float] = page.evaluate("({width: innerWidth, height: document.documentElement.scrollHeight})")
    area: Any = {"x": 0.0, "y": 0.0, "width": size["width"], "height": min(size["height"], HEIGHT_MAX)}
    page.screenshot(
        path=FOLDER / f"{name}.png", full_page=True, clip=area, animations="disabled", caret="hide",
        scale="css",
    )  # fmt: skip


if __name__ == "__main__":
    main()
