"""A copy of a SQLite ledger that is known to be sound, and the way back.

Nothing is called a backup before every invariant was checked in it, and nothing is restored before that either.
"""

import os
import tempfile
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from pluct.errors import SetupError
from pluct.stores import Store
from pluct.stores.sqlite_backup import copy_file, is_empty

Opened = Callable[[Path], AbstractAsyncContextManager[Store]]
Progress = Callable[[str, int, int], None]


async def backup(ledger: Path, file: Path, opened: Opened, progress: Progress) -> None:
    """Copy the ledger, served or not, into a new file; it has its name only once it is checked and on the disk."""
    if not ledger.exists():
        raise SetupError(f"There is no ledger at {ledger}.")
    if file.exists():
        raise SetupError(f"{file} exists already; a backup overwrites nothing. Give another name.")
    if not file.absolute().parent.is_dir():
        raise SetupError(f"The folder {file.absolute().parent} does not exist.")
    with tempfile.TemporaryDirectory(prefix=".pluct-backup-", dir=file.absolute().parent) as folder:
        part = Path(folder) / "ledger.db"
        copy_file(ledger, part)
        await _sound(part, opened, progress)
        _sync(part)
        try:
            os.link(part, file)  # unlike a rename, never over what somebody else put there meanwhile
        except FileExistsError:
            raise SetupError(f"{file} was made meanwhile; a backup overwrites nothing. Give another name.") from None
        part.unlink()
    _sync(file.absolute().parent)


async def restore(file: Path, ledger: Path, opened: Opened, progress: Progress, *, replace: bool) -> None:
    """Make the ledger what the backup is. Refused while it is served, and, unless told, where anything is in it."""
    if not file.exists():
        raise SetupError(f"There is no backup at {file}.")
    if ledger.exists() and ledger.samefile(file):
        raise SetupError(f"{file} is the ledger itself.")
    with tempfile.TemporaryDirectory(prefix="pluct-restore-") as folder:
        copy = Path(folder) / "ledger.db"  # the backup itself stays as it is, whatever its schema
        copy_file(file, copy)
        await _sound(copy, opened, progress)
        async with opened(ledger):  # as a server: nobody serves it meanwhile
            if not replace and not is_empty(ledger):
                raise SetupError(f"{ledger} is not empty. Back it up, then say --replace to lose what is in it.")
            copy_file(copy, ledger)


async def _sound(copy: Path, opened: Opened, progress: Progress) -> None:
    async with opened(copy) as store:
        violations = await store.check(progress)
    if violations:
        raise SetupError("The ledger in it is broken, and nothing was kept: see pluct check.")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
