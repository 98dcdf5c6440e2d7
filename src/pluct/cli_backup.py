"""`pluct backup` and `pluct restore`: a checked copy of a SQLite ledger, and the way back."""

import asyncio
from pathlib import Path

import click

from pluct import app, ledger_backup
from pluct.errors import SetupError
from pluct.terminal import current_settings, example, out, plain, steps

FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(short_help="Copy the ledger while it is served.", epilog=example("pluct backup pluct-2026-01-31.db"))
@click.argument("file", type=FILE)
def backup(file: Path) -> None:
    """Copy the SQLite ledger into FILE, which must not exist, and check every invariant in the copy."""
    ledger = _ledger("pg_dump --format=custom --file=FILE")
    with steps("checking") as step:
        asyncio.run(ledger_backup.backup(ledger, file, app.opened, step))
    out.print(f"{plain(str(file))} is a sound copy of the ledger.")


@click.command(short_help="Bring a backup back.", epilog=example("pluct restore pluct-2026-01-31.db"))
@click.argument("file", type=FILE)
@click.option("--replace", is_flag=True, help="Even if the ledger is not empty: what is in it is lost.")
def restore(file: Path, replace: bool) -> None:
    """Make the SQLite ledger what FILE is, once every invariant in it was checked. Stop the server first."""
    ledger = _ledger("pg_restore --exit-on-error --dbname=…")
    with steps("checking") as step:
        asyncio.run(ledger_backup.restore(file, ledger, app.opened, step, replace=replace))
    out.print(f"The ledger is what {plain(str(file))} was.")


def _ledger(tool: str) -> Path:
    database = current_settings().database
    if not isinstance(database, Path):
        raise SetupError(f'In PostgreSQL, use its own tool: {tool} (docs/operations.md, "Backups and recovery").')
    return database
