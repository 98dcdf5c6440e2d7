"""A busy ledger in any engine, and copies of it for tests to do with as they like."""

import asyncio
import itertools
import shutil
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any

import asyncpg

from conftest import Clock, fund, new_id, opened, vend
from pluct.commands import Adjust, Capture, Redeem, Void, once_by_reference
from pluct.errors import Refusal
from postgres import fresh_database

GRACE_SECONDS = 3_600

Place = Path | str

UNGUARDED = {
    "sqlite": """
        PRAGMA ignore_check_constraints = 1;
        DROP TRIGGER entries_are_never_changed; DROP TRIGGER entries_are_never_deleted;""",
    "postgresql": """
        DROP TRIGGER entries_are_for_ever ON entries;
        DO $$ DECLARE c record; BEGIN
          FOR c IN SELECT conrelid::regclass AS t, conname FROM pg_constraint WHERE contype = 'c' AND conrelid <> 0 LOOP
            EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', c.t, c.conname);
          END LOOP;
        END $$;
        CREATE FUNCTION path(text) RETURNS text[] LANGUAGE sql AS
          $$ SELECT string_to_array(trim('.' FROM regexp_replace($1, '[][$.]+', '.', 'g')), '.') $$;
        CREATE FUNCTION json_extract(text, text) RETURNS jsonb LANGUAGE sql AS $$ SELECT $1::jsonb #> path($2) $$;
        CREATE FUNCTION json_remove(text, text) RETURNS jsonb LANGUAGE sql AS $$ SELECT $1::jsonb #- path($2) $$;
        CREATE FUNCTION json_insert(text, text, jsonb) RETURNS jsonb LANGUAGE sql AS  -- at $[#]: the end
          $$ SELECT $1::jsonb || jsonb_build_array($3) $$;
        CREATE FUNCTION json_set(jsonb, text, bigint) RETURNS jsonb LANGUAGE sql AS
          $$ SELECT jsonb_set($1, path($2), to_jsonb($3)) $$;
        CREATE FUNCTION json_set(text, text, bigint) RETURNS jsonb LANGUAGE sql AS
          $$ SELECT jsonb_set($1::jsonb, path($2), to_jsonb($3)) $$;
        CREATE FUNCTION json_set(text, text, text) RETURNS jsonb LANGUAGE sql AS
          $$ SELECT jsonb_set($1::jsonb, path($2), to_jsonb($3)) $$;
        CREATE FUNCTION json_set(text, text, jsonb) RETURNS jsonb LANGUAGE sql AS
          $$ SELECT jsonb_set($1::jsonb, path($2), $3) $$;""",
}


def address(place: Place) -> str:
    """The ledger's DATABASE_URL."""
    return f"sqlite:///{place}" if isinstance(place, Path) else place


def run(place: Place, script: str) -> list[Any]:
    """Run a script on one connection; the rows of a single query."""
    if isinstance(place, Path):
        with closing(sqlite3.connect(place, isolation_level=None)) as connection:
            if script.startswith("SELECT"):
                return connection.execute(script).fetchall()
            connection.executescript(script)
            return []

    async def run() -> list[Any]:
        connection = await asyncpg.connect(place)
        try:
            if script.startswith("SELECT"):
                return await connection.fetch(script)
            await connection.execute(script)
            return []
        finally:
            await connection.close()

    return asyncio.run(run())


async def busy(place: Path | str) -> None:
    """Every kind of entry but `repay`, every state of a ticket, and users who have little to do with each other."""
    clock = Clock()
    async with opened(place, clock) as store:

        async def done(command: Any) -> Any:
            outcome = await store.submit(command)
            assert not isinstance(outcome, Refusal), outcome
            clock.move(1)
            return outcome

        async def hold(user_id: str, cost: int, redeem: bool) -> str:
            ticket: str = (
                await done(vend(user_id, cost, settle="report", report_seconds=60, key=f"hold {cost}"))
            ).ticket_id
            if redeem:
                await done(Redeem(user_id, ticket, "premium"))
            return ticket

        await done(fund("amina", 100, reference="R1", claims=(once_by_reference("R1", "amina", 100),)))
        await done(fund("amina", 10, category="promotional", priority=90, expires_at=clock() + 10**9))
        await done(fund("amina", 2, priority=90, expires_at=clock() + 30_000))
        await done(vend("amina", 1))
        await done(vend("amina", 3, "vended"))
        await done(Capture("amina", await hold("amina", 8, True), 5, GRACE_SECONDS))
        await done(Void("amina", await hold("amina", 6, True), GRACE_SECONDS, "no work done"))
        await done(Void("amina", (await done(vend("amina", 7))).ticket_id, GRACE_SECONDS, "refund"))
        await done(Adjust("amina", new_id(), 9, "sorry", "cli:ops"))
        await done(Adjust("amina", new_id(), -4, "sold twice", "cli:ops"))
        await done(fund("brian", 20, reference="R2", claims=(once_by_reference("R2", "brian", 20),)))
        await done(vend("brian", 2))
        await done(fund("chipo", 30))
        await hold("chipo", 11, True)
        clock.move(100)
        for sweep in await store.due(clock(), GRACE_SECONDS, 10):
            await done(sweep)
        await hold("amina", 12, False)
        await hold("chipo", 13, True)


class Ledgers:
    """The busy ledger of one engine, at rest, and copies of it to do damage to."""

    def __init__(
        self, engine: str, folder: Path, server: str | None, busy: Callable[[Place], Awaitable[None]] = busy
    ) -> None:
        self.engine, self._folder, self._server = engine.partition("-")[0], folder, server
        self._numbers = itertools.count(1)
        self.busy: Place = folder / "busy.db" if server is None else fresh_database(server)
        asyncio.run(busy(self.busy))
        if server is None:
            run(self.busy, "PRAGMA wal_checkpoint(TRUNCATE)")

    def copy(self) -> Place:
        """A ledger just as busy."""
        if self._server is None:
            return Path(shutil.copy(self.busy, self._folder / f"{next(self._numbers)}.db"))
        return fresh_database(self._server, template=str(self.busy))

    def damaged(self, script: str) -> Place:
        """A copy after a script that no trigger and no constraint keeps from doing damage."""
        place = self.copy()
        run(place, UNGUARDED[self.engine] + script)
        return place

    @cached_property
    def unguarded(self) -> Place:
        """A copy to damage in a transaction that is undone: quicker than a copy for each damage."""
        return self.damaged("")
