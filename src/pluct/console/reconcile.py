"""An M-Pesa organisation statement against the ledger: upload, report, and bringing in what no callback told of."""

import asyncio
from contextlib import closing

from starlette.responses import Response

from pluct.console.page import Page
from pluct.engine import Engine
from pluct.errors import InvalidRequest, Unavailable
from pluct.mpesa_statement import CURRENCY
from pluct.reconcile import KINDS, Kind, Reconciliation

#: Rows shown of each kind; the totals are of all.
SHOWN_MAX = 50
#: What each kind is called, and what to do about it.
MEANING: dict[Kind, tuple[str, str]] = {
    "matched": ("In both, with the same amount", ""),
    "amountDiffers": ("In both, with another amount", "Open each and compare it with the M-Pesa portal."),
    "providerOnly": ("Only in the statement", "Bring them in below: credited if their code is known, else unmatched."),
    "oursOnly": ("Only in the ledger", "Look in the M-Pesa portal: was it undone, or is this another account?"),
    "reversed": ("Sent back by M-Pesa", "Credits that are still there are taken back when you bring the lines in."),
    "ignored": ("No payments: charges, withdrawals, failures", ""),
}
_turn = asyncio.Lock()


async def ask(engine: Engine, page: Page) -> Response:
    """Ask for a statement."""
    return page.show("reconcile.html", report=None)


async def compare(engine: Engine, page: Page) -> Response:
    """Compare a statement, and if `apply` was chosen bring in what only it has. One at a time."""
    if page.file is None:
        raise InvalidRequest("Choose the statement's file: CSV, as the M-Pesa portal exports it.")
    if _turn.locked():
        raise Unavailable("Another statement is being compared; try again when that is done.")
    apply = page.form.get("apply") == "yes"
    async with _turn:
        with closing(Reconciliation(page.cashier, apply=apply)) as work:
            await work.run(page.file)
            report = [(MEANING[kind], work.totals[kind], list(work.rows(kind, SHOWN_MAX))) for kind in KINDS]
    return page.show(
        "reconcile.html", report=report, lines=work.lines, applied=apply, currency=CURRENCY, shown_max=SHOWN_MAX,
        open=work.totals["providerOnly"].rows + work.totals["reversed"].rows,
    )  # fmt: skip
