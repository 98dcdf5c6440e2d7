"""Where everything is wired, and the server that runs it."""

import asyncio
import errno
import gc
import logging
import os
import resource
import secrets
import select
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import TYPE_CHECKING, Protocol, cast
from urllib.parse import urlsplit

import msgspec
import uvicorn
import uvloop
from starlette.types import ASGIApp, Receive, Scope, Send

from pluct import __version__, ledger_copy
from pluct.analytics import Analytics, Ledgerwatch
from pluct.cashier import SWEEP_MAX as CHECKOUTS_MAX
from pluct.cashier import Cashier
from pluct.console.site import Console
from pluct.deliveries import SEND_SECONDS_MAX, Deliverer
from pluct.engine import SWEEP_MAX, Engine
from pluct.errors import PluctError, SetupError, Unavailable
from pluct.gate.client import Origin
from pluct.gate.protocol import GateProtocol
from pluct.gate.proxy import Gate, GateSettings
from pluct.gate.redeeming import Desk, NoAnswer
from pluct.gate.settling import Settler
from pluct.gateways import Gateway, configured
from pluct.gateways.privacy import Privacy
from pluct.identity import Identity
from pluct.issuers import Issuer
from pluct.live_log import LiveLog
from pluct.observe import LogHandler, LogWriter, Observer, SharedCounts, write_lines
from pluct.outbox import Outbox
from pluct.settings import Settings
from pluct.signing import KeyRing, Seal
from pluct.stores import Store, open_store
from pluct.tickets import HS256Signer, UserTokens, uuid7_source
from pluct.web.access import Access
from pluct.web.protocol import OneWriteProtocol
from pluct.web.routes import application
from pluct.workers import Workers

if TYPE_CHECKING:
    import httpx

log = logging.getLogger("pluct")

SWEEP_SECONDS = 1.0
SWEEPS_MAX = 20  # in a row, when much is due at once
SHARE_SECONDS = 1.0
FLUSH_SECONDS = 5.0  # of sums, as analytics show them
FOLLOW_SECONDS = 1.0  # what was changed about signing keys is known everywhere that soon
CATCH_UP_SECONDS = 600.0
COUNT_SECONDS = 15.0  # of what waits for an operator
GATEWAY_CONNECTIONS_MAX = 100
#: Of an OpenID Connect provider's key set.
ISSUER_SECONDS_MAX, ISSUER_BYTES_MAX = 5.0, 256 * 1024
KEEP_ALIVE_SECONDS = 75  # longer than a proxy keeps its own side open
GATE_IDLE_SECONDS = 1.5  # shorter than backends keep their own side open
GATE_ENGINE_CONNECTIONS_MAX = 100
FINISH_SECONDS_MAX = 30  # for what is in flight when the server stops
BACKLOG = 2048


def now_ms() -> int:
    """The wall clock."""
    return time.time_ns() // 1_000_000


def build_engine(settings: Settings, observer: Observer, *, serving: bool) -> Engine:
    """The engine over the store the settings name. The store is still to be opened. Only servers use a replica."""
    next_id = uuid7_source()
    read_url = settings.read_database if serving else None
    outbox = Outbox(settings.webhooks.subscriptions, next_id) if settings.webhooks.subscriptions else None
    watch = Ledgerwatch()
    store = open_store(
        settings.database, now_ms, next_id, serving=serving, read_url=read_url, outbox=outbox, watch=watch.committed
    )  # fmt: skip
    seal = Seal(settings.key_secrets) if settings.signing == "EdDSA" else None
    shared = HS256Signer(settings.jwt_secret) if settings.jwt_secret else None
    ring = KeyRing(shared, seal, settings.catalog.ticket_seconds_max, now_ms)
    return Engine(
        store, ring, settings.catalog, observer, now_ms, next_id,
        settings.returned_grace_seconds, settings.rates, watch,
    )  # fmt: skip


async def copy(source: Path | str, target: Path | str, progress: ledger_copy.Progress) -> ledger_copy.Report:
    """Copy one whole ledger into another database; see `ledger_copy`."""
    if source == target:
        raise SetupError("--from and --to name the same ledger.")
    if isinstance(source, Path) and not source.exists():
        raise SetupError(f"There is no ledger at {source}.")
    async with opened(source) as old, opened(target) as new:
        return await ledger_copy.run(old, new, progress)


@asynccontextmanager
async def opened(place: Path | str) -> AsyncIterator[Store]:
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


@asynccontextmanager
async def analytics(engine: Engine) -> AsyncIterator[Analytics]:
    """The sums of what this process does; the last are written at the end."""
    made = Analytics(engine.store, engine.observer, engine.watch, now_ms, secrets.token_hex(8))
    try:
        yield made
    finally:
        with suppress(Unavailable):  # then a few seconds of sums are lost, and nothing else
            await made.flush()


@asynccontextmanager
async def deliverer(settings: Settings, engine: Engine) -> AsyncIterator[Deliverer | None]:
    """What delivers events, if the settings name anybody who is to be told of some."""
    told = settings.webhooks
    if not told.subscriptions:
        yield None
        return
    import httpx
    from standardwebhooks import Webhook

    from pluct.webhook_sending import send

    async with httpx.AsyncClient(trust_env=False, timeout=SEND_SECONDS_MAX) as client:
        made = Deliverer(
            engine.store, Outbox(told.subscriptions, uuid7_source()), [Webhook(secret) for secret in told.secrets],
            partial(send, client), now_ms, secrets.token_hex(8), engine.observer.letters,
        )  # fmt: skip
        yield made
        with suppress(Unavailable):  # then its turn ends by itself
            await made.close()


@asynccontextmanager
async def identity(settings: Settings, engine: Engine) -> AsyncIterator[Identity]:
    """Who users are, with the OpenID Connect providers that the settings name."""
    said = settings.identity
    tokens = UserTokens(settings.user_token_secret or "unused: every user id is believed")
    async with AsyncExitStack() as stack:
        issuers: list[Issuer] = []
        if said.issuers:
            import httpx

            client = await stack.enter_async_context(httpx.AsyncClient(trust_env=False, timeout=ISSUER_SECONDS_MAX))
            issuers = [Issuer(each, partial(_fetched, client)) for each in said.issuers]
        yield Identity(engine.store, tokens, issuers, said.lifetimes, now_ms, registration=said.registration)


async def _fetched(client: "httpx.AsyncClient", url: str) -> tuple[bytes, str]:
    """A provider's key set and its Cache-Control, from that very address. Raises `OSError` or `ValueError`."""
    import httpx

    try:
        async with client.stream("GET", url, headers={"accept": "application/json"}) as answer:
            if answer.status_code != 200:
                raise ValueError(f"it answered {answer.status_code}")
            content = b""
            async for part in answer.aiter_bytes():
                content += part
                if len(content) > ISSUER_BYTES_MAX:
                    raise ValueError("it answered too much")
            return content, answer.headers.get("cache-control", "")
    except httpx.HTTPError as error:
        raise OSError(type(error).__name__) from None


@asynccontextmanager
async def cashier(settings: Settings, engine: Engine) -> AsyncIterator[Cashier]:
    """The cashier over an engine, with the gateways that the settings name."""
    money = settings.payments
    gateways: dict[str, Gateway] = {}
    privacy = Privacy(money.privacy_secret.encode("utf-8", "surrogateescape"))
    async with AsyncExitStack() as stack:
        if money.gateways:
            import httpx  # which takes as long as everything else together

            limits = httpx.Limits(max_connections=GATEWAY_CONNECTIONS_MAX)
            client = await stack.enter_async_context(httpx.AsyncClient(limits=limits, trust_env=False))
            gateways = configured.make(money.gateways, money.secrets, money.callback_base_url, client, privacy, now_ms)
        made = Cashier(engine, gateways, money.packs, money.policy, privacy, now_ms, uuid7_source())
        try:
            yield made
        finally:
            await made.close()


def build(
    settings: Settings, engine: Engine, cashier: Cashier, identity: Identity, sums: Analytics,
    deliverer: Deliverer | None,
) -> ASGIApp:  # fmt: skip
    """The site over an engine whose store is open; it sweeps while it runs."""

    live = LiveLog(engine.store, engine.observer, now_ms, secrets.token_hex(8))

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[None]:
        sweeps: list[tuple[Callable[[], Awaitable[int]], int, float]] = [(engine.sweep, SWEEP_MAX, SWEEP_SECONDS)]
        if cashier.gateways:
            sweeps.append((cashier.sweep, CHECKOUTS_MAX, SWEEP_SECONDS))
            sweeps.append((cashier.catch_up, sys.maxsize, CATCH_UP_SECONDS))
        sweeps.append((cashier.count_waiting, 1, COUNT_SECONDS))
        sweeps.append((sums.flush, 1, FLUSH_SECONDS))
        if deliverer is not None:
            sweeps.append((deliverer.sweep, 1, SWEEP_SECONDS))
        work = [*(_sweep(*each) for each in sweeps), _share(engine.observer), _follow(engine)]
        tasks = [asyncio.create_task(each) for each in (*work, live.run())]
        gc.freeze()
        gc.set_threshold(50_000, 20, 20)
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    live.leaving = lambda: engine.leaving
    access = Access(settings.user_auth, settings.webhook_secrets, identity)
    hops = settings.payments.proxy_hops
    secure = settings.env == "production"
    console = Console(engine, cashier, live, now_ms, hops, _facts(settings), secure=secure).application()
    return application(engine, access, lifespan, cashier, identity, live, hops, console, now_ms)


def _facts(settings: Settings) -> dict[str, str]:
    """How this engine is set up, as the console says it; nothing secret."""
    place = settings.database
    return {
        "Version": __version__,
        "Environment": settings.env,
        "Ledger": f"SQLite, {place.name}" if isinstance(place, Path) else "PostgreSQL",
        "Reads": "from a replica" if settings.read_database else "from the ledger itself",
        "Tickets": f"signed with {settings.signing}",
        "Users": "whoever the app says" if settings.user_auth == "open" else "by user tokens",
        "Events out": ", ".join(str(urlsplit(one.url).hostname) for one in settings.webhooks.subscriptions)
        or "to nobody",
    }


async def _sweep(sweep: Callable[[], Awaitable[int]], most: int, seconds: float) -> None:
    """Do what is due, at most so much at once, ever again; a store that is down is asked again the next time."""
    while True:
        try:
            for _ in range(SWEEPS_MAX):
                if await sweep() < most:
                    break
        except PluctError as error:
            log.warning("the sweep was put off: %s", error.sentence)
        except Exception:
            log.exception("the sweep failed")
        await asyncio.sleep(seconds)


async def _follow(engine: Engine) -> None:
    """Take in what has become of the signing keys, every second; those that are known serve on meanwhile."""
    assert isinstance(engine.signer, KeyRing)
    while True:
        await asyncio.sleep(FOLLOW_SECONDS)
        try:
            await engine.signer.follow(engine.store)
        except PluctError as error:
            log.warning("the signing keys could not be looked at: %s", error.sentence)
        except Exception:
            log.exception("the signing keys could not be looked at")


async def _share(observer: Observer) -> None:
    """Let other workers know what this one has counted, every second."""
    while True:
        observer.share()
        await asyncio.sleep(SHARE_SECONDS)


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """What is served until there is a site."""
    raise AssertionError("the site is built before the server starts")


class _Leaves(Protocol):
    """What is told that the process is about to stop."""

    leaving: bool


class _Server(uvicorn.Server):
    """uvicorn's server; when it stops, whoever sends requests here is told first, and none is lost."""

    def __init__(self, engine: _Leaves, place: "_Place", protocol: type[OneWriteProtocol] = OneWriteProtocol) -> None:
        config = uvicorn.Config(
            _nothing, loop="uvloop", http=protocol, ws="none", interface="asgi3",
            log_config=None, access_log=False, server_header=False, proxy_headers=False,
            timeout_graceful_shutdown=FINISH_SECONDS_MAX, timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )  # fmt: skip
        super().__init__(config)
        self._engine, self._place = engine, place

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._place.answers()

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self._place.parent not in (None, os.getppid())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Say that this process leaves; go on while that gets around; take nobody new; finish what has begun."""
        seconds = self._place.drain_seconds
        self._engine.leaving = True
        self.config.timeout_keep_alive = 0
        for connection in list(self.server_state.connections):
            cast(OneWriteProtocol, connection).leave(seconds)
        for _ in range(round(seconds * 10)):
            if not self.force_exit:
                await asyncio.sleep(0.1)
        waiting = select.poll()
        for listener in sockets or []:
            waiting.register(listener, select.POLLIN)
        for _ in range(BACKLOG):  # whoever has connected already would be cut off by closing
            if not waiting.poll(0):
                break
            await asyncio.sleep(0)
        await super().shutdown(sockets)


class _Place(msgspec.Struct):
    """One process's place among those that serve: alone, or as one of several workers."""

    listener: socket.socket
    drain_seconds: float
    answers: Callable[[], None]  #: called once it does
    turn: int | None = None  #: to write to the log; see `write_lines`
    counts: SharedCounts | None = None
    parent: int | None = None  #: the process without which this one stops


def serve(settings: Settings, *, workers: int = 1, drain_seconds: float = 0) -> None:
    """Serve until SIGTERM or SIGINT; then finish what is in flight. Raises `SetupError` if it cannot start.

    When it is to stop, the server goes on for `drain_seconds` with `/health/ready` answering 503, so that a load
    balancer turns away before connections are refused.
    """
    with closing(_listen(settings.host, settings.port)) as listener:
        announce = partial(_announce, listener)
        if workers == 1:
            _serve(settings, _Place(listener, drain_seconds, announce))
        else:
            _supervise(settings, listener, workers, drain_seconds, announce)


def _announce(listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    print(f"listening on http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)


def _supervise(
    settings: Settings, listener: socket.socket, count: int, drain_seconds: float, announce: Callable[[], None]
) -> None:
    """Have several workers serve; this process only looks after them."""
    parent = os.getpid()
    with TemporaryDirectory(prefix="pluct-") as folder, TemporaryFile() as turn:
        _log_to(lambda line: write_lines(sys.stderr.fileno(), line, turn.fileno()))

        def work(number: int, answers: Callable[[], None]) -> None:
            counts = SharedCounts(Path(folder), number, count)
            _serve(settings, _Place(listener, drain_seconds, answers, turn.fileno(), counts, parent))

        Workers(count, work, listener.close, drain_seconds + FINISH_SECONDS_MAX + 5).run(announce)


def _serve(settings: Settings, place: _Place) -> None:
    writer = LogWriter(sys.stderr.fileno(), place.turn)
    _log_to(writer.write)
    engine = build_engine(settings, Observer(writer, place.counts), serving=True)
    server = _Server(engine, place)

    async def run() -> None:
        await engine.store.open()
        try:
            assert isinstance(engine.signer, KeyRing)
            await engine.signer.open(engine.store)
            async with (
                cashier(settings, engine) as cashing, identity(settings, engine) as identifying,
                deliverer(settings, engine) as delivering, analytics(engine) as sums,
            ):  # fmt: skip
                server.config.app = build(settings, engine, cashing, identifying, sums, delivering)
                await server.serve([place.listener])
        finally:
            await engine.store.close()

    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn does that too, but only once the store is open
        signal.signal(number, server.handle_exit)
    try:
        uvloop.run(run())
    finally:
        writer.close()


def serve_gate(settings: GateSettings) -> None:
    """Serve as a gate until SIGTERM or SIGINT; then finish what is in flight, and settle it."""
    writer = LogWriter(sys.stderr.fileno())
    _log_to(writer.write)
    limits = settings.limits
    upstream = Origin(
        settings.upstream, "--upstream", connect_seconds=limits.connect_seconds, idle_seconds=GATE_IDLE_SECONDS,
        connections_max=limits.requests_max,
    )  # fmt: skip
    origin = Origin(
        settings.engine, "--engine", connect_seconds=limits.connect_seconds, idle_seconds=KEEP_ALIVE_SECONDS / 3,
        connections_max=GATE_ENGINE_CONNECTIONS_MAX,
    )  # fmt: skip
    desk = Desk(origin, settings.key, limits.engine_seconds, uuid7_source())
    settler = Settler(desk, limits.settle_seconds)
    gate = Gate(settings.action, upstream, desk, settler, limits, writer.write, behind_proxy=settings.behind_proxy)
    files_max = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files_max, files_max))  # two connections for each request
    with closing(_listen(settings.host, settings.port, "--listen", "--listen")) as listener:
        server = _Server(gate, _Place(listener, settings.drain_seconds, partial(_announce, listener)), GateProtocol)
        server.config.app = gate

        async def run() -> None:
            try:
                await desk.introduce()
            except NoAnswer as error:
                log.warning("the engine cannot be asked yet: %s", error)
            await server.serve([listener])
            await settler.finish(FINISH_SECONDS_MAX)
            for each in (upstream, origin):
                each.close()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, server.handle_exit)
        try:
            uvloop.run(run())
        finally:
            writer.close()


def _log_to(write: Callable[[bytes], object]) -> None:
    logging.basicConfig(level=logging.WARNING, handlers=[LogHandler(write)], force=True)


def _listen(host: str, port: int, by_host: str = "--host", by_port: str = "--port") -> socket.socket:
    """A socket that listens there. The options by which the place is chosen are named if it cannot be had."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:  # also what the name service says
        taken = error.errno == errno.EADDRINUSE
        hint = f"choose another with {by_port} (port 0 picks a free one)" if taken else f"see {by_host}"
        reason = (error.strerror or str(error)).partition(" (while attempting")[0]  # to bind on this same address
        raise SetupError(f"Cannot listen on {host} port {port}: {reason}; {hint}.") from None
