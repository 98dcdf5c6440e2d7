"""Moving house: a whole ledger from one database into another, every row compared and every invariant checked.

Nobody writes to the source meanwhile, and the target keeps all or nothing: its one transaction is committed when all
is verified. So a copy that was broken off can be run again, and one that had just ended says that it had.
"""

from collections.abc import AsyncIterator, Callable

import msgspec

from pluct.errors import Fault, SetupError
from pluct.stores import Contents, Row, Store, Violation
from pluct.stores.rows import TABLES

Progress = Callable[[str, int, int], None]


class Report(msgspec.Struct):
    """What was copied, or why it was not: a ledger in which something was found broken is not copied."""

    rows: dict[str, int]
    already: bool = False  # in an earlier run
    available: int = 0  # credits, over all wallets of both ledgers
    held: int = 0
    debt: int = 0
    violations: list[Violation] = []


async def run(source: Store, target: Store, progress: Progress) -> Report:
    """Copy everything into an empty ledger. Both stores are open, as a server opens them."""
    async with source.held() as old, target.filled() as new:
        report = Report(await _counts(old))
        if not any(report.rows.values()):
            raise SetupError("There is nothing to copy: the ledger that --from names is empty.")
        report.already = await _must_be_empty(new, report, old, progress)
        report.violations = await old.check(_naming("checking the source", progress))
        if report.violations:
            return report
        if not report.already:
            for table in TABLES:
                await _fill(new, table, old, report, progress)
            if not await _same(old, new, report, progress):
                raise Fault("What was written is not what was read; nothing was kept.")
        report.violations = await new.check(_naming("checking the copy", progress))
        if not report.violations:
            await new.commit()
        return report


async def _counts(contents: Contents) -> dict[str, int]:
    return {table: await contents.count(table) for table in TABLES}


async def _must_be_empty(new: Contents, report: Report, old: Contents, progress: Progress) -> bool:
    """Refuse a target that has something in it, unless that is this very ledger: then say so."""
    there = await _counts(new)
    if not any(there.values()):
        return False
    if there == report.rows and await _same(old, new, report, progress):
        return True
    found = ", ".join(f"{count} {table.replace('_', ' ')}" for table, count in there.items())
    raise SetupError(f"The ledger that --to names is not empty: it has {found}. Name a new one.")


async def _fill(new: Contents, table: str, old: Contents, report: Report, progress: Progress) -> None:
    done = 0
    async for page in old.pages(table):
        await new.add(table, page)
        done += len(page)
        progress(f"copying {table}", done, report.rows[table])


async def _same(old: Contents, new: Contents, report: Report, progress: Progress) -> bool:
    """Whether both have the same rows, all of them; the balances are summed on the way."""
    report.available = report.held = report.debt = 0
    for table in TABLES:
        theirs, done = new.pages(table), 0
        async for page in old.pages(table):
            if await _next(theirs) != page:
                return False
            done += len(page)
            progress(f"comparing {table}", done, report.rows[table])
            if table == "wallets":
                _, available, held, debt = zip(*(row[:4] for row in page), strict=True)
                report.available += sum(available)
                report.held += sum(held)
                report.debt += sum(debt)
        if await _next(theirs):
            return False
    return True


async def _next(pages: AsyncIterator[list[Row]]) -> list[Row]:
    return await anext(pages, [])


def _naming(what: str, progress: Progress) -> Progress:
    return lambda step, done, total: progress(f"{what}: {step}", done, total)
