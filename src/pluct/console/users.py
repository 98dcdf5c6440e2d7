"""Users: finding one, and everything about one: what there is, where it came from and went, and how to mend it."""

from typing import Any

from starlette.responses import Response

from pluct.cashier import receipt
from pluct.commands import once, text
from pluct.console.page import Page
from pluct.engine import PAGE_MAX, Engine
from pluct.errors import InvalidRequest
from pluct.model import Category, Entry, EntryKind, Lot, Wallet

FOUND_MAX = 25
PAGE = 25
#: Checkouts and payments shown of one user.
BOUGHT_MAX = 10
#: What a history can be narrowed to.
FILTERS: dict[str, tuple[EntryKind, ...]] = {
    "credits in": ("grant", "adjust", "restore"),
    "tickets": ("vend", "hold", "capture", "return", "refund"),
    "by hand": ("adjust",),
    "lost": ("expire", "clawback", "repay"),
}


async def find(engine: Engine, page: Page) -> Response:
    """Users whose id begins with what was typed, and whose code, receipt or phone it is."""
    typed = page.query.get("q", "").strip()
    if typed:
        text(typed, "What you look for")
    found = await engine.store.find_users(typed, FOUND_MAX + 1)
    checkouts, payments = await page.cashier.search(typed) if typed else ([], [])
    return page.show(
        "users.html", typed=typed, found=found[:FOUND_MAX], more=len(found) > FOUND_MAX, payments=payments,
        checkouts=checkouts,
    )  # fmt: skip


async def show(engine: Engine, page: Page) -> Response:
    """One user."""
    user_id = text(page.query.get("id", ""), "The user id")
    checkouts, payments = await page.cashier.of_user(user_id, BOUGHT_MAX)
    wallet = await engine.balance(user_id)
    actors = {f"key:{key.id}": key.name for key in await engine.store.api_keys()}
    cursor, only = page.cursor, page.query.get("only") or None
    if only is not None and only not in FILTERS:
        raise InvalidRequest(f"A history shows everything, or only {', '.join(FILTERS)}.")
    entries, following = await _history(engine, wallet, only, cursor)
    done = next((entry for entry in entries if entry.id == page.query.get("done")), None)
    return page.show(
        "user.html", wallet=wallet, lots=sorted(wallet.lots, key=_expiry), entries=entries, following=following,
        first=cursor is None, done=done, only=only, filters=FILTERS, checkouts=checkouts, payments=payments,
        actors=actors, bought_max=BOUGHT_MAX,
    )  # fmt: skip


async def _history(
    engine: Engine, wallet: Wallet, only: str | None, cursor: str | None
) -> tuple[list[Entry], str | None]:
    """A page of entries, and where the next one begins. Of many that are not asked for, so many are gone through."""
    if not wallet.entries:
        return [], None
    if only is None:
        return await engine.history(wallet.user_id, PAGE, cursor)
    entries, following = await engine.history(wallet.user_id, PAGE_MAX, cursor)
    found = [entry for entry in entries if entry.kind in FILTERS[only]]
    return found, following


async def grant(engine: Engine, page: Page) -> Response:
    """Give credits; looked at first, then done."""
    wallet, amount, reason = await _decided(engine, page)
    if amount < 1:
        raise InvalidRequest("Amount must be at least 1.")
    category: Category = "promotional" if page.form.get("category") == "promotional" else "paid"
    typed = page.form.get("receipt", "").strip()
    reference = receipt(text(typed, "Receipt")) if typed else None
    if "confirmed" not in page.form:
        more = {"category": category, "receipt": reference or ""}
        return _preview(page, "grant", "Grant credits", wallet, amount, reason, **more)
    nonce, seen = page.field("once"), page.number("seen")
    granted = await engine.grant(
        wallet.user_id, amount, source="operator", actor=page.signed_in.actor, category=category, reason=reason,
        reference=reference, seen=seen,
        claim=once("console grant", page.signed_in.actor, nonce, wallet.user_id, amount, category, reason, reference),
    )  # fmt: skip
    entry = (await engine.history(wallet.user_id, 1, None))[0]
    assert granted.grant_id
    return page.to("/console/user", id=wallet.user_id, done=entry[0].id)


async def adjust(engine: Engine, page: Page) -> Response:
    """Give or take credits to put something right; looked at first, then done."""
    wallet, amount, reason = await _decided(engine, page)
    if "confirmed" not in page.form:
        return _preview(page, "adjust", "Adjust the balance", wallet, amount, reason)
    nonce, seen, actor = page.field("once"), page.number("seen"), page.signed_in.actor
    claim = once("console adjust", actor, nonce, wallet.user_id, amount, reason)
    adjusted = await engine.adjust(wallet.user_id, amount, reason, actor, claim, seen)
    return page.to("/console/user", id=wallet.user_id, done=adjusted.entry.id)


async def _decided(engine: Engine, page: Page) -> tuple[Wallet, int, str]:
    """The wallet, and what an operator has decided about it, and why."""
    user_id = text(page.field("user"), "The user id")
    return await engine.balance(user_id), page.number("amount"), text(page.field("reason"), "Reason")


def _preview(page: Page, verb: str, title: str, wallet: Wallet, amount: int, reason: str, **more: Any) -> Response:
    """What would be: nothing is done yet. The form carries a key of its own, so that sending it twice does it once."""
    if wallet.available + amount < 0:
        raise InvalidRequest(f"This user has {wallet.available} credits; no more than that can be taken.")
    repaid = min(wallet.debt, max(amount, 0))
    return page.show(
        "confirm.html", verb=verb, title=title, wallet=wallet, amount=amount, reason=reason, repaid=repaid,
        after=wallet.available + amount - repaid, more=more,
    )  # fmt: skip


def _expiry(lot: Lot) -> float:
    return float("inf") if lot.expires_at is None else lot.expires_at
