"""Connections to a PostgreSQL database: a few that are kept, and what the driver's errors mean."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from asyncpg import Connection

from pluct.errors import Unavailable
from pluct.stores.batching import WAIT_SECONDS_MAX

CONNECT_SECONDS_MAX = 3.0
STATEMENT_SECONDS_MAX = 5.0  # more than a lock is waited for: see _BEGIN in postgresql.py
#: For a migration or a check, which may have much to read.
WORK_SECONDS_MAX = 86_400.0
#: How sessions call themselves that are no server's.
GUEST = "pluct"

#: Classes of SQLSTATE that are the environment's and not the commands': connection, resources, operator, system.
_ENVIRONMENT = ("08", "28", "3D", "53", "57", "58", "XX")
#: And single states: permission, read-only (a standby), a lock not had in time.
_ENVIRONMENT_STATES = frozenset({"42501", "25006", "55P03", "42P01"})
#: A statement that was prepared is not there, or one that was not is: another session answers than was asked.
_POOLER = frozenset({"26000", "42P05"})
#: What the driver raises. Internal errors are among them: a connection that was told to end, but has not ended yet,
#: gives one, and so does a list of hosts of which none is a primary.
DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)


class LostRace(Exception):
    """Another process inserted a row first; it can be seen now."""


class Connections:
    """At most so many connections at once, made when they are needed and kept. asyncpg's own pool costs more."""

    def __init__(self, connect: Callable[[], Awaitable["Connection[Any]"]], most: int) -> None:
        self._connect = connect
        self._free: list[Connection[Any]] = []
        #: Those in a transaction that nothing was asked of yet. They are the first to be used.
        self.begun: set[Connection[Any]] = set()
        self._turn = asyncio.Semaphore(most)

    @asynccontextmanager
    async def one(self) -> AsyncIterator["Connection[Any]"]:
        """A connection of one's own; after an error it is cut, which undoes what it had not committed."""
        try:
            async with asyncio.timeout(WAIT_SECONDS_MAX):
                await self._turn.acquire()
        except TimeoutError:
            raise Unavailable("The database is busy; this request waited too long. Try again shortly.") from None
        try:
            connection = await self._connected()
            sound = False
            try:
                yield connection
                sound = True
            except LostRace:
                sound = True
                raise
            except DRIVER_ERRORS as error:
                raise translated(error) from error
            finally:
                if sound and not connection.is_closed():
                    self._free.insert(len(self._free) if connection in self.begun else 0, connection)
                else:
                    self.begun.discard(connection)
                    connection.terminate()
        finally:
            self._turn.release()

    async def _connected(self) -> "Connection[Any]":
        while self._free:
            connection = self._free.pop()
            if not connection.is_closed():
                return connection
            self.begun.discard(connection)
        return await self._connect()

    def close(self) -> None:
        """Hang up: nothing is going on, and the server may not be there to take leave of."""
        while self._free:
            self._free.pop().terminate()


@asynccontextmanager
async def alone(url: str) -> AsyncIterator["Connection[Any]"]:
    """A connection for one long piece of work, such as a check. Whatever breaks it off undoes what is not committed."""
    connection = await connect(hosts_of(url), GUEST, WORK_SECONDS_MAX)
    try:
        yield connection
        await connection.close()
    except DRIVER_ERRORS as error:
        raise translated(error) from error
    finally:
        connection.terminate()


async def connect(hosts: list[str], name: str, seconds_max: float | None = None) -> "Connection[Any]":
    """A connection to the first host that gives one, and next time it is the first to be asked.

    Each has a time of its own, which the driver does not give: a host that lost its power says nothing at all.
    """
    failure: Exception | None = None
    for host in list(hosts):
        try:
            connection = await asyncpg.connect(
                host, timeout=CONNECT_SECONDS_MAX, command_timeout=seconds_max or STATEMENT_SECONDS_MAX,
                server_settings={"application_name": name},
            )  # fmt: skip
        except DRIVER_ERRORS as error:
            failure = error
        else:
            hosts.sort(key=host.__ne__)
            return connection
    assert failure is not None, "there is always a host"
    raise translated(failure) from failure


def hosts_of(url: str) -> list[str]:
    """An address for each host that the address lists."""
    found = re.fullmatch(r"(\w+://(?:[^/?]*@)?)([^/?]*)(.*)", url, flags=re.S)
    if found is None or "prefer-standby" in found[3]:  # which is a choice among all of them
        return [url]
    return [found[1] + host + found[3] for host in found[2].split(",")]


def translated(error: Exception) -> Exception:
    """The environment's errors as `Unavailable`; an error of ours stays what it is."""
    state = getattr(error, "sqlstate", None)
    if state in _POOLER:
        return Unavailable(
            "A connection pooler stands before the database and loses prepared statements: let it pool sessions, "
            "or use pgbouncer 1.21 or newer with max_prepared_statements (docs/operations.md)."
        )
    if state is None or state[:2] in _ENVIRONMENT or state in _ENVIRONMENT_STATES:
        return Unavailable(f"The database cannot be used now ({str(error) or 'no answer in time'}); try again shortly.")
    return error
