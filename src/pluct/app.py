"""Where everything is wired, and the server that runs it."""

import asyncio
import errno
import gc
import logging
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import uvicorn
import uvloop
from starlette.types import ASGIApp

from pluct import ledger_copy
from pluct.engine import SWEEP_MAX, Engine
from pluct.errors import PluctError, SetupError
from pluct.observe import LogHandler, LogWriter, Observer
from pluct.settings import Settings
from pluct.stores import Store, open_store
from pluct.tickets import HS256Signer, UserTokens, uuid7_source
from pluct.web.access import Access
from pluct.web.protocol import OneWriteProtocol
from pluct.web.routes import application

log = logging.getLogger("pluct")

SWEEP_SECONDS = 1.0
SWEEPS_MAX = 20  # in a row, when much is due at once
KEEP_ALIVE_SECONDS = 75  # longer than a proxy keeps its own side open
DRAIN_SECONDS_MAX = 30


def now_ms() -> int:
    """The wall clock."""
    return time.time_ns() // 1_000_000


def build_engine(settings: Settings, observer: Observer, *, serving: bool) -> Engine:
    """The engine over the store the settings name. The store is still to be opened. Only servers use a replica."""
    next_id = uuid7_source()
    read_url = settings.read_database if serving else None
    store = open_store(settings.database, now_ms, next_id, serving=serving, read_url=read_url)
    tokens = UserTokens(settings.user_token_secret or "unused: every user id is believed")
    return Engine(
        store, HS256Signer(settings.jwt_secret), tokens, settings.catalog, observer, now_ms, next_id,
        settings.returned_grace_seconds,
    )  # fmt: skip


async def copy(source: Path | str, target: Path | str, progress: ledger_copy.Progress) -> ledger_copy.Report:
    """Copy one whole ledger into another database; see `ledger_copy`."""
    if source == target:
        raise SetupError("--from and --to name the same ledger.")
    if isinstance(source, Path) and not source.exists():
        raise SetupError(f"There is no ledger at {source}.")
    async with _opened(source) as old, _opened(target) as new:
        return await ledger_copy.run(old, new, progress)


@asynccontextmanager
async def _opened(place: Path | str) -> AsyncIterator[Store]:
    """The store there, for this process alone where that can be had."""
    store = open_store(place, now_ms, uuid7_source(), serving=True)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def migrate(settings: Settings) -> tuple[int, int]:
    """Bring the ledger's schema up to date, or make it: the version it had (0: none), and the one it has."""
    store = open_store(settings.database, now_ms, uuid7_source(), serving=False)
    migrated = await store.open()
    await store.close()
    return migrated


def build(settings: Settings, engine: Engine) -> ASGIApp:
    """The site over an engine whose store is open; it sweeps while it runs."""

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[None]:
        sweeper = asyncio.create_task(_sweep(engine))
        gc.freeze()
        gc.set_threshold(50_000, 20, 20)
        try:
            yield
        finally:
            sweeper.cancel()
            with suppress(asyncio.CancelledError):
                await sweeper

    return application(engine, Access(settings.user_auth, settings.webhook_secrets), lifespan)


async def _sweep(engine: Engine) -> None:
    """Give back and expire what is due, every second; a store that is down is asked again the next time."""
    while True:
        try:
            for _ in range(SWEEPS_MAX):
                if await engine.sweep() < SWEEP_MAX:
                    break
        except PluctError as error:
            log.warning("the sweep was put off: %s", error.sentence)
        except Exception:
            log.exception("the sweep failed")
        await asyncio.sleep(SWEEP_SECONDS)


class _Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and sockets:
            host, port = sockets[0].getsockname()[:2]
            print(f"listening on http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; then finish what is in flight. Raises `SetupError` if it cannot start."""
    listener = _listen(settings.host, settings.port)
    writer = LogWriter(sys.stderr.fileno())
    logging.basicConfig(level=logging.WARNING, handlers=[LogHandler(writer)])
    engine = build_engine(settings, Observer(writer), serving=True)

    async def run() -> None:
        await engine.store.open()
        try:
            config = uvicorn.Config(
                build(settings, engine), loop="uvloop", http=OneWriteProtocol, ws="none", interface="asgi3",
                log_config=None, access_log=False, server_header=False, proxy_headers=False,
                timeout_graceful_shutdown=DRAIN_SECONDS_MAX, timeout_keep_alive=KEEP_ALIVE_SECONDS,
            )  # fmt: skip
            await _Server(config).serve([listener])
        finally:
            await engine.store.close()

    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises the signal again once it is done: then it is spent
        signal.signal(number, lambda *_: None)
    try:
        uvloop.run(run())
    finally:
        listener.close()
        writer.close()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:  # also what the name service says
        hint = "choose another with --port (0 picks a free one)" if error.errno == errno.EADDRINUSE else "see --host"
        raise SetupError(f"Cannot listen on {host} port {port}: {error.strerror or error}; {hint}.") from None
