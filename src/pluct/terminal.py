"""What all commands share: how they open the ledger, and how they speak to people and to programs."""

import asyncio
import getpass
import json
import os
import sys
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from pluct import app, settings
from pluct.cashier import Cashier
from pluct.engine import Engine
from pluct.errors import SetupError
from pluct.observe import Observer

T = TypeVar("T")

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


def example(*lines: str) -> str:
    """Examples, as a help text ends with them."""
    return "\b\nExamples:\n" + "\n".join("  " + line for line in lines)


def current_settings() -> settings.Settings:
    """What the environment and `pluct.toml` say."""
    return settings.load(os.environ, Path.cwd())


def with_engine(work: Callable[[Engine], Awaitable[T]], *, makes: bool = False) -> T:
    """Open the ledger as a guest, do the work, and let go. A ledger that is not there is made only where that is meant.

    Raises `SetupError` where it is not: in the wrong folder, an empty ledger would be found sound.
    """
    found = current_settings()
    if not makes:
        _must_be_there(found.database)
    engine = app.build_engine(found, Observer(None), serving=False)

    async def run() -> T:
        await engine.store.open()
        try:
            async with app.analytics(engine):
                return await work(engine)
        finally:
            await engine.store.close()

    return asyncio.run(run())


def _must_be_there(ledger: Path | str) -> None:
    if isinstance(ledger, Path):
        try:
            ledger.stat()
        except (FileNotFoundError, NotADirectoryError):
            raise SetupError(
                f"There is no ledger at {ledger}. Set DATABASE_URL to where it is; pluct serve makes a new one."
            ) from None
        except OSError:  # opening it says why
            pass


def with_cashier(work: Callable[[Cashier], Awaitable[T]], *, makes: bool = False) -> T:
    """Open the ledger and the gateways as a guest, do the work, and let go."""
    found = current_settings()

    async def run(engine: Engine) -> T:
        async with app.cashier(found, engine) as cashier:
            return await work(cashier)

    return with_engine(run, makes=makes)


def local_actor() -> str:
    """Who sits at this terminal."""
    try:
        return "cli:" + getpass.getuser()
    except (KeyError, OSError):
        return "cli"


def request_id() -> str:
    """An id for an answer that no request asked for."""
    return f"cli-{uuid4()}"


def progress() -> Progress:
    """A bar on the terminal for what takes a while; silent where nobody looks."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=err, transient=True, disable=not err.is_terminal)


@contextmanager
def steps(what: str) -> Iterator[Callable[[str, int, int], None]]:
    """Progress in steps of their own names and lengths."""
    with progress() as bar:
        task = bar.add_task(what, total=None)
        yield lambda name, done, total: bar.update(task, description=name, completed=done, total=total)


def print_json(value: object) -> None:
    """An answer for programs."""
    data = json.loads(msgspec.json.encode(value))
    sys.stdout.write(json.dumps(data, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None) + "\n")


def print_fields(fields: dict[str, object]) -> None:
    """Names and values below each other."""
    table = Table(show_header=False, box=None)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in fields.items():
        table.add_row(name, plain(str(value)))
    out.print(table)


def tight_table(*names: str, whole: Collection[str]) -> Table:
    """A table for eighty columns, in which `whole` columns stay in one piece, to be read and copied."""
    columns = [Column(name, no_wrap=name in whole) for name in names]
    return Table(*columns, box=None, padding=(0, 1, 0, 0), pad_edge=False)


def print_table(table: Table, empty: str) -> None:
    """A table, or what to say if there is nothing in it."""
    for column in table.columns:
        column.overflow = "fold"
    if table.row_count:
        out.print(table)
    elif empty:
        out.print(empty)


def plain(value: str) -> str:
    """Text from outside as it is: no markup in it means anything, and what the terminal cannot show is escaped."""
    return shown(value).replace("[", "\\[")


def shown(value: str) -> str:
    """Text from outside in characters that every terminal can be sent."""
    return value.encode("utf-8", "backslashreplace").decode()
