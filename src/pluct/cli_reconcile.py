"""`pluct payments reconcile`: an M-Pesa organisation statement against the ledger, for a bookkeeper."""

import os
import sys
from pathlib import Path

import click
import msgspec
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from pluct.cashier import Cashier
from pluct.errors import SetupError
from pluct.mpesa_statement import CURRENCY
from pluct.reconcile import KINDS, Kind, Reconciliation, Row
from pluct.terminal import as_json_option, err, example, out, plain, print_table, tight_table, with_cashier
from pluct.web.v1 import rfc3339

#: Rows of a kind that are shown to people; programs get all.
SHOWN_MAX = 50
#: What each kind is called, and what to do about it.
_MEANING: dict[Kind, tuple[str, str]] = {
    "matched": ("in both, with the same amount", ""),
    "amountDiffers": ("in both, with another amount", "Look at each: pluct payments show ID."),
    "providerOnly": ("only in the statement", "Bring them in: the same command with --apply."),
    "oursOnly": ("only in the ledger", "Look in the M-Pesa portal: was it undone, or is this another account?"),
    "reversed": ("sent back by M-Pesa", "Credits that are still there: the same command with --apply takes them back."),
    "ignored": ("no payments: charges, withdrawals, failures", ""),
}  # fmt: skip


@click.command(
    epilog=example(
        "pluct payments reconcile ORG_4107823_November.csv",
        "pluct payments reconcile statement.csv --apply",
        "pluct payments reconcile statement.csv --json > report.json",
    )
)
@click.argument("statement", type=click.Path(path_type=Path), metavar="STATEMENT.csv")
@click.option("--apply", is_flag=True, help="Bring in what only the statement has, and take back what was reversed.")
@as_json_option
def reconcile(statement: Path, apply: bool, as_json: bool) -> None:
    """Compare an M-Pesa organisation statement (CSV, as the portal exports it) with the ledger.

    Every line ends in one of six kinds: matched, another amount, only in the statement, only in the ledger (within the
    statement's own period; without a receipt if M-Pesa said "paid" only when it was asked), reversed, ignored. Without
    --apply nothing is changed. With it, payments that only the statement has come in through the same once-only key as
    a callback: credited if their code is known, else unmatched.
    """
    with_cashier(lambda cashier: _run(cashier, statement, apply, as_json), makes=apply)


async def _run(cashier: Cashier, statement: Path, apply: bool, as_json: bool) -> None:
    work = Reconciliation(cashier, apply=apply)
    columns = (TextColumn("reading"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    try:
        with (
            statement.open("rb") as file,
            Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar,
        ):
            task = bar.add_task("reading", total=os.fstat(file.fileno()).st_size)
            await work.run(file, lambda: bar.update(task, completed=file.tell()))
    except OSError as error:
        raise SetupError(f"{statement} cannot be read: {error.strerror}.") from None
    try:
        _print_json(work) if as_json else _print(work, apply)
    finally:
        work.close()


def _print_json(work: Reconciliation) -> None:
    """One object with a list for each kind; written row by row, however many there are."""
    encode = msgspec.json.encode
    for number, kind in enumerate(KINDS):
        sys.stdout.write(f'{"," if number else "{"}"{kind}":[')
        for at, row in enumerate(work.rows(kind)):
            sys.stdout.write(("," if at else "") + "\n " + encode(row).decode())
        sys.stdout.write("]")
    sys.stdout.write("}\n")


def _print(work: Reconciliation, applied: bool) -> None:
    if work.begin is not None and work.end is not None:
        days = f"{rfc3339(work.begin)[:16]} to {rfc3339(work.end)[:16]}".replace("T", " ")
        out.print(f"{work.lines:,} lines, {days} UTC")
    table = Table("", "lines", f"{CURRENCY}", "what")
    for kind in KINDS:
        total = work.totals[kind]
        money = f"{total.cents // 100:,}.{total.cents % 100:02}" if total.cents else ""
        table.add_row(_name(kind), f"{total.rows:,}", money, _MEANING[kind][0])
    for column in (1, 2):
        table.columns[column].justify = "right"
    print_table(table, "")
    for kind in ("amountDiffers", "providerOnly", "oursOnly", "reversed"):
        if work.totals[kind].rows:
            _print_rows(work, kind, applied)
    if not any(work.totals[kind].rows for kind in KINDS if kind not in ("matched", "ignored")):
        out.print("[green]The statement and the ledger agree.[/]")


def _print_rows(work: Reconciliation, kind: Kind, applied: bool) -> None:
    out.print(f"\n[bold]{_name(kind).capitalize()}[/]")
    table = tight_table(
        "receipt", "line", "when (UTC)", "statement", "ledger", "account", "user", "note",
        whole=("receipt", "line", "statement", "ledger"),
    )  # fmt: skip
    for row in work.rows(kind, SHOWN_MAX):
        table.add_row(*_cells(row))
    print_table(table, "")
    more = work.totals[kind].rows - SHOWN_MAX
    if more > 0:
        out.print(f"… and {more:,} more; --json has them all.", style="dim")
    if _MEANING[kind][1] and not (applied and kind in ("providerOnly", "reversed")):
        out.print(_MEANING[kind][1], style="dim")


def _cells(row: Row) -> list[str]:
    return [
        plain(row.receipt or "–"), "" if row.line is None else str(row.line), (row.at or "")[:16].replace("T", " "),
        row.amount or "–", row.ours or "–", plain(row.account or ""), plain(row.user_id or ""), plain(row.note or ""),
    ]  # fmt: skip


def _name(kind: Kind) -> str:
    return {"amountDiffers": "amount differs", "providerOnly": "provider only", "oursOnly": "ours only"}.get(kind, kind)
