"""Numbered SQL files, applied once each, in order, under a lock, before anything else is done."""

import fcntl
import os
import sqlite3
from importlib.resources import files
from pathlib import Path

from pluct.errors import SetupError

#: Marks a file as ours: "PLCT".
APPLICATION_ID = 0x504C4354
_LOCK_SECONDS_MAX = 30.0


def migrate_sqlite(path: Path) -> tuple[int, int]:
    """Bring the file to the newest schema, or make it. A newer or a foreign file is refused with `SetupError`.

    Returns the version it had and the one it has.
    """
    scripts = migrations("sqlite")
    newest = len(scripts)
    connection = sqlite3.connect(path, timeout=_LOCK_SECONDS_MAX, isolation_level=None)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        if _version(connection, path, newest) == newest:
            return newest, newest
        fcntl.flock(folder, fcntl.LOCK_EX)  # SQLite's own lock does not cover the change to a write-ahead log
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN IMMEDIATE")
        before = _version(connection, path, newest)
        for number in range(before + 1, newest + 1):
            for statement in _statements(scripts[number - 1]):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number}")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("COMMIT")
        return before, newest
    finally:
        connection.close()
        os.close(folder)


def _version(connection: sqlite3.Connection, path: Path, newest: int) -> int:
    """How many migrations the file has had."""
    found: tuple[int, int, int] = connection.execute(
        "SELECT user_version, application_id, (SELECT count(*) FROM sqlite_master)"
        " FROM pragma_user_version, pragma_application_id"
    ).fetchone()
    version, application_id, tables = found
    if tables and application_id != APPLICATION_ID:
        raise SetupError(f"{path} is another program's SQLite database; name a new file in DATABASE_URL.")
    if version > newest:
        raise SetupError(
            f"{path} has schema {version}, and this program knows {newest}: it was written by a newer version. "
            "Run that version, or restore a backup made before the upgrade."
        )
    return version


def migrations(engine: str) -> list[str]:
    """The files of one engine, in order."""
    folder = files(__name__).joinpath(engine)
    return [file.read_text("utf-8") for file in sorted(folder.iterdir(), key=lambda file: file.name)]


def _statements(script: str) -> list[str]:
    """The script's statements one by one (a trigger's body has semicolons of its own)."""
    statements, statement = [], ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            statements.append(statement)
            statement = ""
    assert not statement.strip(), "a migration ends with a semicolon"
    return statements
