"""A SQLite ledger's pages, copied whole into another file by SQLite's own backup."""

import sqlite3
from contextlib import closing
from pathlib import Path

from pluct.errors import SetupError
from pluct.stores import rows

BUSY_SECONDS_MAX = 10.0


def copy_file(source: Path, target: Path) -> None:
    """Make the target what the source is at one moment, in one transaction, while others read and write the source.

    One step holds one snapshot: in WAL mode no writer waits for it. Broken off, the target is what it was.
    """
    try:
        with (
            closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=rw", BUSY_SECONDS_MAX, uri=True)) as old,
            closing(sqlite3.connect(target, BUSY_SECONDS_MAX)) as new,
        ):
            new.execute("PRAGMA synchronous = FULL")
            old.backup(new, pages=-1)
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
            raise SetupError(
                f"{source} is no ledger and no backup of one: it is no SQLite file. pluct backup FILE makes one."
            ) from None
        raise SetupError(f"{source} cannot be copied to {target}: {error}.") from None


def is_empty(ledger: Path) -> bool:
    """Whether nothing was ever kept in this ledger."""
    with closing(sqlite3.connect(ledger, BUSY_SECONDS_MAX)) as connection:
        return not any(connection.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone() for table in rows.TABLES)
