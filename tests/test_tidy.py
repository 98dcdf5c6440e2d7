"""The repository looks at itself: who imports whom, how long things are, and what must not appear anywhere.

Each check is a function from one file to its findings. The same functions are fed bad lines below, so that a check
that has stopped biting is noticed too.
"""

import ast
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "pluct"

LINE_LENGTH_MAX = 120
FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 900

PURE = {"base64", "bisect", "collections", "hashlib", "re", "typing"}
STANDARD = set(sys.stdlib_module_names) - {"sqlite3"}


class Room(NamedTuple):
    """What a module may import: from this package (a module with all its names, or one name), and from outside."""

    inside: set[str]
    outside: set[str]


CORE = {"pluct.model", "pluct.errors"}
#: Every module belongs to the room with the longest name that it starts with.
ROOMS = {
    "pluct": Room(set(), set()),
    "pluct.model": Room(set(), PURE | {"msgspec"}),
    "pluct.errors": Room(set(), PURE),
    "pluct.commands": Room(CORE, PURE | {"msgspec"}),
    "pluct.wallet": Room(CORE, PURE | {"msgspec"}),
    "pluct.pricing": Room({"pluct.model"}, PURE | {"msgspec"}),
    "pluct.clawback": Room({*CORE, "pluct.wallet"}, PURE | {"msgspec"}),
    "pluct.payments": Room(
        {*CORE, "pluct.clawback", "pluct.commands", "pluct.pricing", "pluct.wallet"}, PURE | {"msgspec"}
    ),
    "pluct.ledger": Room({*CORE, "pluct.commands", "pluct.payments", "pluct.wallet"}, PURE | {"msgspec"}),
    "pluct.money": Room({"pluct.errors"}, PURE),
    "pluct.payment_codes": Room(set(), PURE),
    "pluct.gateways": Room(
        {*CORE, "pluct.money", "pluct.gateways"},
        STANDARD | {"cryptography", "httpx", "msgspec", "standardwebhooks", "stripe"},
    ),
    "pluct.cashier": Room(
        {
            *CORE, "pluct.catalog", "pluct.commands", "pluct.engine", "pluct.gateways", "pluct.money",
            "pluct.payment_codes",
        },
        STANDARD | {"msgspec"},
    ),
    "pluct.statements": Room({"pluct.model"}, STANDARD | {"msgspec"}),
    "pluct.ledger_backup": Room({"pluct.errors", "pluct.stores"}, STANDARD - {"sqlite3"}),
    "pluct.cli_backup": Room(
        {"pluct.app", "pluct.errors", "pluct.ledger_backup", "pluct.terminal"}, STANDARD | {"click"}
    ),
    "pluct.cli_statement": Room(
        {
            "pluct.commands.text", "pluct.engine.PAGE_MAX", "pluct.statements", "pluct.terminal",
            "pluct.web.statements",
        },
        STANDARD | {"click"},
    ),
    "pluct.catalog": Room(CORE, PURE | {"msgspec"}),
    "pluct.tickets": Room({*CORE, "pluct.catalog.ISSUER"}, STANDARD | {"msgspec", "joserfc"}),
    "pluct.signing": Room({*CORE, "pluct.tickets"}, STANDARD | {"cryptography", "joserfc", "msgspec"}),
    "pluct.observe": Room(CORE, STANDARD | {"msgspec", "prometheus_client"}),
    "pluct.mpesa_statement": Room({"pluct.errors", "pluct.money"}, STANDARD | {"msgspec"}),
    "pluct.reconcile": Room(
        {
            *CORE, "pluct.cashier", "pluct.gateways", "pluct.money", "pluct.mpesa_statement", "pluct.web.v1.rfc3339",
        },
        STANDARD | {"msgspec", "sqlite3"},
    ),
    "pluct.limits": Room({"pluct.errors"}, STANDARD | {"msgspec"}),
    "pluct.settings": Room(
        {*CORE, "pluct.catalog", "pluct.identity_settings", "pluct.limits", "pluct.payment_settings",
            "pluct.webhook_settings"},
        STANDARD | {"msgspec"},
    ),
    "pluct.payment_settings": Room(
        {
            *CORE, "pluct.catalog", "pluct.gateways.calls.is_address", "pluct.gateways.configured", "pluct.money",
            "pluct.toml_tables",
        },
        STANDARD | {"msgspec"},
    ),
    "pluct.toml_tables": Room(set(), STANDARD | {"msgspec"}),
    "pluct.identity": Room(
        {*CORE, "pluct.issuers", "pluct.stores.Store", "pluct.tickets"}, STANDARD | {"msgspec"}
    ),
    "pluct.issuers": Room({*CORE, "pluct.tickets"}, STANDARD | {"joserfc", "msgspec"}),
    "pluct.identity_settings": Room(
        {"pluct.gateways.calls.is_address", "pluct.identity", "pluct.issuers", "pluct.toml_tables"},
        STANDARD | {"msgspec"},
    ),
    "pluct.analytics": Room(
        {*CORE, "pluct.observe", "pluct.stores.Store", "pluct.wallet"}, STANDARD | {"msgspec"}
    ),
    "pluct.live_log": Room({*CORE, "pluct.observe", "pluct.stores"}, STANDARD | {"msgspec"}),
    "pluct.cli_log": Room(
        {*CORE, "pluct.commands.text", "pluct.engine.Engine", "pluct.settings.shown", "pluct.terminal"},
        STANDARD | {"click", "httpx", "msgspec"},
    ),
    "pluct.outbox": Room({"pluct.model", "pluct.wallet"}, PURE | {"datetime", "msgspec"}),
    "pluct.deliveries": Room(
        {*CORE, "pluct.outbox", "pluct.stores.Store"}, STANDARD | {"msgspec", "standardwebhooks"}
    ),
    "pluct.webhook_sending": Room({"pluct.deliveries", "pluct.outbox"}, STANDARD | {"httpx"}),
    "pluct.webhook_settings": Room(
        {"pluct.gateways.calls.is_address", "pluct.outbox", "pluct.toml_tables"}, STANDARD | {"msgspec"}
    ),
    "pluct.cli_events": Room(
        {
            "pluct.app", "pluct.commands.text", "pluct.deliveries", "pluct.engine", "pluct.errors", "pluct.model",
            "pluct.terminal", "pluct.web.events",
        },
        STANDARD | {"click"},
    ),
    "pluct.stores": Room(
        {*CORE, "pluct.commands", "pluct.ledger", "pluct.limits", "pluct.outbox", "pluct.stores", "pluct.wallet.View"},
        STANDARD | {"asyncpg", "sqlite3", "msgspec"},
    ),
    "pluct.engine": Room(
        {
            *CORE, "pluct.analytics", "pluct.catalog", "pluct.commands", "pluct.limits", "pluct.observe",
            "pluct.stores.Store", "pluct.tickets",
        },
        STANDARD | {"msgspec"},
    ),
    "pluct.web": Room(
        {
            *CORE, "pluct.__version__", "pluct.analytics", "pluct.cashier", "pluct.live_log", "pluct.money",
            "pluct.commands.Once",
            "pluct.commands.once", "pluct.commands.text", "pluct.deliveries",
            "pluct.engine", "pluct.identity", "pluct.observe.Event", "pluct.statements", "pluct.web",
        },
        STANDARD | {"msgspec", "starlette"},
    ),
    "pluct.console": Room(
        {
            *CORE, "pluct.analytics", "pluct.cashier", "pluct.commands.once", "pluct.commands.text", "pluct.console",
            "pluct.deliveries", "pluct.engine", "pluct.live_log", "pluct.money",
            "pluct.mpesa_statement.CURRENCY", "pluct.observe.Event",
            "pluct.reconcile", "pluct.signing", "pluct.statements", "pluct.web.address",
        },
        STANDARD | {"jinja2", "starlette"},
    ),
    "pluct.web.protocol": Room({*CORE, "pluct.web"}, STANDARD | {"msgspec", "starlette", "uvicorn"}),
    "pluct.kv_import": Room(
        {*CORE, "pluct.commands.once", "pluct.commands.text", "pluct.engine"}, STANDARD | {"msgspec"}
    ),
    "pluct.ledger_copy": Room({*CORE, "pluct.stores"}, STANDARD | {"msgspec"}),
    "pluct.workers": Room(CORE, STANDARD),
    "pluct.app": Room(
        {"pluct"}, STANDARD | {"httpx", "msgspec", "standardwebhooks", "starlette", "uvicorn", "uvloop"}
    ),
    "pluct.cli": Room({"pluct"}, STANDARD | {"click", "msgspec", "rich"}),
    "pluct.cli_payments": Room(
        {
            "pluct.cashier", "pluct.commands.text", "pluct.errors", "pluct.gateways", "pluct.model", "pluct.money",
            "pluct.terminal", "pluct.web.payments",
        },
        STANDARD | {"click", "msgspec", "rich"},
    ),
    "pluct.cli_reconcile": Room(
        {
            "pluct.cashier", "pluct.errors", "pluct.mpesa_statement", "pluct.reconcile", "pluct.terminal",
            "pluct.web.v1.rfc3339",
        },
        STANDARD | {"click", "msgspec", "rich"},
    ),
    "pluct.gate": Room(
        {*CORE, "pluct.gate", "pluct.web.endpoint", "pluct.web.problems", "pluct.web.protocol"},
        STANDARD | {"httptools", "msgspec", "starlette", "uvicorn"},
    ),
    "pluct.cli_gate": Room(
        {"pluct.app", "pluct.commands.text", "pluct.errors", "pluct.gate.proxy", "pluct.terminal.example"},
        STANDARD | {"click", "msgspec"},
    ),
    "pluct.terminal": Room({"pluct"}, STANDARD | {"click", "msgspec", "rich"}),
    "pluct.cli_signing": Room(
        {
            "pluct.app", "pluct.commands.text", "pluct.errors", "pluct.model", "pluct.signing", "pluct.terminal",
            "pluct.web.v1",
        },
        STANDARD | {"click", "rich"},
    ),
    "pluct.cli_tickets": Room(
        {
            "pluct.commands.text", "pluct.engine", "pluct.errors", "pluct.model.Ticket", "pluct.terminal",
            "pluct.web.v1",
        },
        STANDARD | {"click"},
    ),
    "pluct.cli_users": Room(
        {"pluct.app", "pluct.commands.text", "pluct.engine", "pluct.terminal"}, STANDARD | {"click"}
    ),
    "pluct.__main__": Room({"pluct.cli"}, set()),
}  # fmt: skip

#: Where a clock may be looked at, and which. Everywhere else the time is handed in.
CLOCKS = {
    "pluct.stores.sqlite": {"time.monotonic"},  # how long to wait for a guest
    "pluct.app": {"time.time_ns"},  # the one wall clock: `now_ms`
    "pluct.issuers": {"time.monotonic"},  # how old the keys are
    "pluct.console.log": {"time.monotonic"},  # how long ago it was looked who is signed in
    "pluct.console.site": {"time.perf_counter"},  # the log line: how long it took
    "pluct.console.health": {"time.perf_counter"},  # how long a commit takes
    "pluct.workers": {"time.monotonic"},  # how often workers died of late
    "pluct.tickets": {"time.time"},  # the default clock of new ids
    "pluct.web.endpoint": {"time.time_ns", "time.perf_counter"},  # the log line: when, and how long it took
    "pluct.web.batch": {"time.perf_counter"},  # the same
    "pluct.gate.proxy": {"time.time_ns", "time.perf_counter"},  # the same
}
CLOCK = re.compile(
    r"(?:^|\.)(?:datetime\.(?:now|utcnow|today)|date\.today"
    r"|time\.(?:time|time_ns|gmtime|localtime|monotonic|monotonic_ns|perf_counter|perf_counter_ns))$"
)
ENVIRONMENT_READERS = {"pluct.app", "pluct.cli", "pluct.cli_gate", "pluct.cli_log", "pluct.terminal"}
ENVIRONMENT = re.compile(
    r"(?:^|\.)(?:os\.(?:environb?|getenvb?|getlogin|getcwdb?)|getpass\.getuser|Path\.(?:cwd|home)|expanduser)$"
)
PRINTERS = {"pluct.app", "pluct.cli", "pluct.cli_reconcile", "pluct.terminal"}

BANNED_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "core"}
LEFT_UNDONE = re.compile(r"\b(?:TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK)\b")
MACHINE_PATH = re.compile(r"(?<![\w.~$}-])(?:/(?:home|Users|root|work|mnt|workspace)/[\w.]|[A-Z]:\\{1,2}Users)")
WITHOUT_PROSE = {"requirements.lock", "requirements-dev.lock", "requirements-uv.lock", "LICENSE"}
TEXT = {".py", ".sql", ".md", ".toml", ".js", ".css", ".html", ".lock", ".txt", ".sh", ".json", ".yml", ".yaml", ""}


class Source(NamedTuple):
    """One Python file, read once."""

    module: str
    text: str
    tree: ast.Module


Check = Callable[[Source], Iterator[str]]


# What the repository consists of


@cache
def files() -> tuple[Path, ...]:
    """Every file that belongs to the repository: all but what .gitignore names."""
    ignored = [line for line in (ROOT / ".gitignore").read_text().split() if not line.startswith("#")] + [".git"]

    def kept(path: Path) -> bool:
        here = path.relative_to(ROOT).as_posix()
        return not any(
            here == pattern.strip("/") if "/" in pattern.rstrip("/") else fnmatch(path.name, pattern.rstrip("/"))
            for pattern in ignored
        )

    def walk(folder: Path) -> Iterator[Path]:
        for path in sorted(folder.iterdir()):
            if kept(path):
                yield from walk(path) if path.is_dir() else [path]

    return tuple(walk(ROOT))


def source(path: Path) -> Source:
    """One Python file, with the name it is imported by."""
    relative = path.relative_to(ROOT / "src" if path.is_relative_to(PACKAGE) else ROOT).with_suffix("")
    module = ".".join(relative.parts).removesuffix(".__init__")
    text = path.read_text("utf-8")
    return Source(module, text, ast.parse(text))


def snippet(module: str, text: str) -> Source:
    """A piece of code as if it stood in this module."""
    return Source(module, text, ast.parse(text))


SOURCES = [source(path) for path in files() if path.suffix == ".py"]
OURS = [each for each in SOURCES if each.module.split(".")[0] == "pluct"]
PACKAGES = {source(path).module for path in PACKAGE.rglob("__init__.py")}


# Checks of one file


def imports(found: Source) -> Iterator[tuple[int, str]]:
    """Every name a module imports, in full, wherever in the file it does so."""
    package = found.module if found.module in PACKAGES else found.module.rpartition(".")[0]
    for node in ast.walk(found.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{start}.{alias.name}") for alias in node.names)


def room(module: str) -> Room:
    """The room a module belongs to."""
    return ROOMS[max((name for name in ROOMS if f"{module}.".startswith(f"{name}.")), key=len)]


def strange_imports(found: Source) -> Iterator[str]:
    """Imports of what the room does not let in."""
    inside, outside = room(found.module)
    for line, name in imports(found):
        top = name.partition(".")[0]
        allowed = any(f"{name}.".startswith(f"{each}.") for each in inside) if top == "pluct" else top in outside
        if not allowed:
            yield f"{line}: imports {name}"
    for line, name in uses(found):
        if name.rpartition(".")[2] in {"__import__", "import_module"}:
            yield f"{line}: imports behind the table's back"


def uses(found: Source) -> Iterator[tuple[int, str]]:
    """Every dotted name a module uses, with what `from x import y` stands for written out."""
    meant = {}
    for node in ast.walk(found.tree):
        if isinstance(node, ast.ImportFrom) and not node.level:
            meant |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            meant |= {alias.asname: alias.name for alias in node.names if alias.asname}
    for node in ast.walk(found.tree):
        if isinstance(node, ast.Name | ast.Attribute):
            first, dot, rest = ast.unparse(node).partition(".")
            if first.isidentifier():
                yield node.lineno, meant.get(first, first) + dot + rest
            elif isinstance(node, ast.Attribute):
                yield node.lineno, f"….{node.attr}"


def strange_clocks(found: Source) -> Iterator[str]:
    """Looks at a clock where the time ought to be handed in."""
    for line, name in uses(found):
        if CLOCK.search(name) and ".".join(name.split(".")[-2:]) not in CLOCKS.get(found.module, set()):
            yield f"{line}: looks at the clock: {name}"


def strange_environment(found: Source) -> Iterator[str]:
    """Reads what only the two entrances may read: the environment, the working folder, who is logged in."""
    if found.module not in ENVIRONMENT_READERS:
        yield from (f"{line}: reads the environment: {name}" for line, name in uses(found) if ENVIRONMENT.search(name))


def strange_prints(found: Source) -> Iterator[str]:
    """Talks to the terminal, which belongs to the entrances."""
    if found.module not in PRINTERS:
        yield from (f"{line}: prints" for line, name in uses(found) if name in {"print", "sys.stdout", "sys.stderr"})


def swallowed(found: Source) -> Iterator[str]:
    """Catches everything and says nothing."""
    for node in ast.walk(found.tree):
        if isinstance(node, ast.ExceptHandler):
            everything = node.type is None or ast.unparse(node.type) in {"Exception", "BaseException"}
            silent = all(isinstance(each, ast.Pass | ast.Continue | ast.Expr) for each in node.body)
            spoken = any(isinstance(each, ast.Expr) and isinstance(each.value, ast.Call) for each in node.body)
            if node.type is None or (everything and silent and not spoken):
                yield f"{node.lineno}: swallows every error"
    for line, name in ((n.lineno, ast.unparse(n)) for n in ast.walk(found.tree) if isinstance(n, ast.Call)):
        if re.match(r"(?:contextlib\.)?suppress\((?:Base)?Exception\)", name):
            yield f"{line}: swallows every error"


def long_functions(found: Source) -> Iterator[str]:
    """Functions that do not fit one screen."""
    for node in ast.walk(found.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                yield f"{node.lineno}: {node.name} has {lines} lines"


def long_files(found: Source) -> Iterator[str]:
    """Files nobody reads to the end."""
    lines = found.text.count("\n")
    if lines > FILE_LINES_MAX:
        yield f"{lines} lines"


def long_lines(text: str) -> Iterator[str]:
    """Lines wider than the page."""
    for number, line in enumerate(text.splitlines(), 1):
        if len(line) > LINE_LENGTH_MAX:
            yield f"{number}: {len(line)} characters"


def missing_promise(found: Source) -> Iterator[str]:
    """Modules that do not open with what they are for."""
    if not ast.get_docstring(found.tree):
        yield "1: the module has no docstring"


POWER = re.compile(
    r"^(?:builtins\.)?(?:eval|exec|compile)$|^subprocess\b|^os\.(?:system|popen|exec\w*|spawn\w*|posix_spawn\w*)$"
)


def strange_powers(found: Source) -> Iterator[str]:
    """Code made at run time, and programs started: nothing that comes in may ever reach either."""
    yield from (f"{line}: uses {name}" for line, name in uses(found) if POWER.search(name))
    yield from (f"{line}: imports {name}" for line, name in imports(found) if POWER.search(name))


def undocumented(found: Source) -> Iterator[str]:
    """Public classes, functions and methods without a docstring."""

    def look(body: list[ast.stmt]) -> Iterator[str]:
        for node in body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name[0] != "_":
                if not ast.get_docstring(node):
                    yield f"{node.lineno}: {node.name} has no docstring"
                if isinstance(node, ast.ClassDef):
                    yield from look(node.body)

    yield from look(found.tree.body)


def vague_names(found: Source) -> Iterator[str]:
    """Modules named after nothing in the business."""
    if found.module.rpartition(".")[2] in BANNED_NAMES:
        yield f"{found.module} says nothing about what is in it"


def unspoken_tests(found: Source) -> Iterator[str]:
    """Tests that do not say which fact they establish."""
    for node in found.tree.body:
        test = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
        if test and not ast.get_docstring(node):
            yield f"{node.lineno}: {node.name} has no docstring"


EVERYWHERE: list[Check] = [unspoken_tests, missing_promise, long_functions, long_files, swallowed, vague_names]
IN_THE_PACKAGE: list[Check] = [
    strange_imports, strange_clocks, strange_environment, strange_powers, strange_prints, undocumented,
]  # fmt: skip


def findings(check: Check, sources: list[Source]) -> list[str]:
    """What a check says about all of these."""
    return [f"{each.module}:{finding}" for each in sources for finding in check(each)]


@pytest.mark.parametrize("check", EVERYWHERE)
def test_every_file_is_tidy(check: Check) -> None:
    """Sources, tests and tools alike."""
    assert findings(check, SOURCES) == []


@pytest.mark.parametrize("check", IN_THE_PACKAGE)
def test_the_package_is_tidy(check: Check) -> None:
    """What is held to more: the program itself."""
    assert findings(check, OURS) == []


BITES: list[tuple[Check, str, str]] = [
    (strange_powers, "pluct.app", "eval('1')"),
    (strange_powers, "pluct.app", "import subprocess"),
    (strange_powers, "pluct.app", "from os import system"),
    (strange_powers, "pluct.app", "import os\nos.popen('ls')"),
    (strange_imports, "pluct.model", "from pluct.errors import Refusal"),
    (strange_imports, "pluct.model", "import datetime"),
    (strange_imports, "pluct.errors", "import msgspec"),
    (strange_imports, "pluct.commands", "import random"),
    (strange_imports, "pluct.commands", "from pluct import ledger"),
    (strange_imports, "pluct.ledger", "import pluct.stores"),
    (strange_imports, "pluct.payments", "from pluct import ledger"),
    (strange_imports, "pluct.payments", "from pluct.gateways import Paid"),
    (strange_imports, "pluct.wallet", "from pluct.commands import Fund"),
    (strange_imports, "pluct.ledger", "def decide():\n    import time"),
    (strange_imports, "pluct.tickets", "from pluct.catalog import Catalog"),
    (strange_imports, "pluct.tickets", "from pluct import catalog"),
    (strange_imports, "pluct.observe", "from pluct.engine import Engine"),
    (strange_imports, "pluct.catalog", "from pluct.settings import Settings"),
    (strange_imports, "pluct.stores.sqlite", "from pluct.web import routes"),
    (strange_imports, "pluct.stores.sqlite", "from pluct.engine import Engine"),
    (strange_imports, "pluct.stores.sqlite", "from ..web import routes"),
    (strange_imports, "pluct.stores", "from .. import engine"),
    (strange_imports, "pluct.engine", "from pluct.stores.sqlite import SqliteStore"),
    (strange_imports, "pluct.engine", "from pluct.stores import open_store"),
    (strange_imports, "pluct.engine", "import sqlite3"),
    (strange_imports, "pluct.engine", "from .web import routes"),
    (strange_imports, "pluct.web.v1", "from pluct.tickets import UserTokens"),
    (strange_imports, "pluct.web.v1", "from pluct.commands import Vend"),
    (strange_imports, "pluct.web.v1", "from pluct.observe import Observer"),
    (strange_imports, "pluct.web.v1", "import pluct.stores"),
    (strange_imports, "pluct.web.v1", "import fastapi"),
    (strange_imports, "pluct.web.v1", "from pluct import app"),
    (strange_imports, "pluct.web.v1", "import importlib\nimportlib.import_module('pluct.stores')"),
    (strange_imports, "pluct.app", "import requests"),
    (strange_imports, "pluct.__main__", "from pluct import app"),
    (strange_clocks, "pluct.ledger", "import datetime\ndatetime.datetime.now()"),
    (strange_clocks, "pluct.engine", "from datetime import datetime as d\nd.now()"),
    (strange_clocks, "pluct.engine", "from time import time\nt = time()"),
    (strange_clocks, "pluct.engine", "import time\nclock = time.time_ns"),
    (strange_clocks, "pluct.stores.batching", "import time\ntime.monotonic()"),
    (strange_clocks, "pluct.tickets", "import time\ntime.time_ns()"),
    (strange_clocks, "pluct.app", "from datetime import date\ndate.today()"),
    (strange_environment, "pluct.settings", "import os\nos.environ['X']"),
    (strange_environment, "pluct.engine", "from os import environ\nenviron.get('X')"),
    (strange_environment, "pluct.engine", "import os as system\nsystem.getenv('X')"),
    (strange_environment, "pluct.stores.sqlite", "from pathlib import Path\nPath.cwd()"),
    (strange_environment, "pluct.tickets", "from pathlib import Path\nPath('~/key').expanduser()"),
    (strange_environment, "pluct.engine", "import getpass\ngetpass.getuser()"),
    (strange_prints, "pluct.engine", "print('here')"),
    (strange_prints, "pluct.web.v1", "import sys\nsys.stderr.write('here')"),
    (swallowed, "pluct.engine", "try:\n    f()\nexcept Exception:\n    pass"),
    (swallowed, "pluct.engine", "try:\n    f()\nexcept:\n    g()"),
    (swallowed, "pluct.engine", "for x in y:\n    try:\n        f()\n    except BaseException as e:\n        continue"),
    (swallowed, "pluct.engine", "with suppress(Exception):\n    f()"),
    (long_functions, "bench.load", "def f():\n" + "    f()\n" * FUNCTION_LINES_MAX),
    (long_functions, "pluct.engine", "class A:\n  async def f():\n" + "    f()\n" * FUNCTION_LINES_MAX),
    (long_files, "pluct.engine", "x = 1\n" * (FILE_LINES_MAX + 1)),
    (missing_promise, "tests.test_x", "import os"),
    (undocumented, "pluct.engine", "def f():\n    return 1"),
    (undocumented, "pluct.engine", "class A:\n    '''A.'''\n    async def f(self):\n        return 1"),
    (undocumented, "pluct.engine", "class A:\n    x: int"),
    (unspoken_tests, "tests.test_x", "async def test_x():\n    assert f()"),
    (vague_names, "pluct.web.helpers", "'''Helpers.'''"),
    (vague_names, "tests.utils", "'''Utilities.'''"),
]


@pytest.mark.parametrize(("check", "module", "text"), BITES)
def test_a_check_bites(check: Check, module: str, text: str) -> None:
    """One bad line is one finding."""
    assert len(list(check(snippet(module, text)))) == 1


CLEAN: list[tuple[Check, str, str]] = [
    (strange_imports, "pluct.stores", "from . import schema\nfrom pluct.ledger import decide"),
    (strange_imports, "pluct.stores.sqlite", "from .batching import Batcher\nimport sqlite3"),
    (strange_imports, "pluct.engine", "from pluct.stores import Store"),
    (strange_imports, "pluct.web.v1", "from pluct.web import access\nfrom pluct.commands import Once, once"),
    (strange_imports, "pluct.web", "from .routes import table"),
    (strange_imports, "pluct.tickets", "from pluct.catalog import ISSUER"),
    (strange_clocks, "pluct.app", "import time\ntime.time_ns()"),
    (strange_clocks, "pluct.engine", "now = self._clock()\nlater = wallet.time.now\nself.now()"),
    (strange_environment, "pluct.app", "import os\nos.environ"),
    (strange_environment, "pluct.settings", "environ.get('X')\nos.urandom(3)"),
    (strange_prints, "pluct.app", "print('listening')"),
    (strange_prints, "pluct.engine", "self.print()\nsys.stdlib_module_names"),
    (swallowed, "pluct.app", "try:\n    f()\nexcept Exception:\n    log.exception('f failed')"),
    (swallowed, "pluct.app", "try:\n    f()\nexcept KeyError:\n    pass"),
    (swallowed, "pluct.app", "try:\n    f()\nexcept Exception:\n    raise"),
    (long_functions, "pluct.engine", "def f():\n" + "    f()\n" * (FUNCTION_LINES_MAX - 1)),
    (long_files, "pluct.engine", "x = 1\n" * FILE_LINES_MAX),
    (undocumented, "pluct.engine", "def _f():\n    return 1\n\ndef f():\n    '''F.'''\n    def g():\n        return 1"),
]


@pytest.mark.parametrize(("check", "module", "text"), CLEAN)
def test_a_check_does_not_bite_the_innocent(check: Check, module: str, text: str) -> None:
    """What is allowed is not found."""
    assert list(check(snippet(module, text))) == []


def test_every_allowance_is_made_use_of() -> None:
    """A room, a clock or an import that nothing needs any more is taken off its list."""
    modules = {each.module for each in OURS}
    assert {name for name in ROOMS if name not in modules} == set()
    assert {"pluct." + path.name.removesuffix(".py") for path in PACKAGE.iterdir() if path.suffix == ".py"} <= {
        *ROOMS, "pluct.__init__",
    }  # fmt: skip
    used = {each.module: {".".join(name.split(".")[-2:]) for _, name in uses(each)} for each in OURS}
    assert {module: clocks - used[module] for module, clocks in CLOCKS.items() if clocks - used[module]} == {}
    taken: dict[str, set[str]] = {}
    for each in OURS:
        name = max((name for name in ROOMS if f"{each.module}.".startswith(f"{name}.")), key=len)
        taken.setdefault(name, set()).update(name for _, name in imports(each))
    idle = {
        (name, allowed)
        for name, (inside, _) in ROOMS.items()
        for allowed in inside - CORE
        if not any(f"{each}.".startswith(f"{allowed}.") for each in taken.get(name, ()))
    }
    assert idle == set()


# Checks of all files together


def unreached(sources: list[Source], entries: set[str]) -> set[str]:
    """Modules that no entry point leads to."""
    named = {each.module: {name for _, name in imports(each)} for each in sources}
    reached: set[str] = set()
    waiting = [name for name in entries if name in named]
    while waiting:
        module = waiting.pop()
        if module not in reached:
            reached.add(module)
            names = {module, *named[module]}
            waiting += [other for other in named if any(f"{name}.".startswith(f"{other}.") for name in names)]
    return set(named) - reached


def test_no_module_is_dead() -> None:
    """Each is imported, step by step, by the program's entry points."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    entries = {script.partition(":")[0] for script in scripts.values()} | {"pluct.__main__"}
    assert unreached(OURS, entries) == set()


def test_a_dead_module_is_found() -> None:
    """Two that import only each other are as dead as one alone."""
    sources = [
        snippet("pluct.cli", "from pluct import app"),
        snippet("pluct.app", ""),
        snippet("pluct.old", "import pluct.older"),
        snippet("pluct.older", "from pluct import old"),
    ]
    assert unreached(sources, {"pluct.cli"}) == {"pluct.old", "pluct.older"}


def loose_requirements(text: str) -> Iterator[str]:
    """Requirements of a lock that are not one exact version with hashes, from whatever index the machine uses."""
    pinned = re.compile(
        r"[A-Za-z0-9][\w.-]*(?:\[[\w,-]+\])?==[\w.!+]+(?:\s*;[^\\]+?)?(?:\s+--hash=sha256:[0-9a-f]{64})+"
    )
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for requirement in "\n".join(lines).replace("\\\n", " ").splitlines():
        if requirement.strip() and not pinned.fullmatch(requirement.strip()):
            yield f"not pinned by hash: {requirement.strip()[:60]}"
    if "://" in text or "index" in text.replace("--no-emit-index-url", ""):
        yield "names an index or a host"


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock", "requirements-uv.lock"])
def test_locks_are_exact_and_name_no_index(name: str) -> None:
    """The same bytes everywhere, from any index."""
    text = (ROOT / name).read_text()
    assert list(loose_requirements(text)) == []
    assert "--hash=sha256:" in text


def test_locks_hold_what_the_project_asks_for() -> None:
    """A dependency added without locking it again is noticed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = {"requirements.lock": project["project"]["dependencies"]}
    asked["requirements-dev.lock"] = asked["requirements.lock"] + project["dependency-groups"]["dev"]
    for lock, requirements in asked.items():
        text = (ROOT / lock).read_text().lower()
        names = [re.match(r"[\w.-]+", requirement)[0] for requirement in requirements]  # type: ignore[index]
        assert [name for name in names if f"\n{name.lower()}==" not in f"\n{text}"] == []


HASHED = f"six==1.17.0 \\\n    --hash=sha256:{'0' * 64}\n    # via x\n"


@pytest.mark.parametrize(
    "text",
    [
        "six==1.17.0",
        HASHED.replace("==", ">="),
        HASHED.replace("0" * 64, "0" * 63),
        "six @ git+ssh:host/six",
        "-e .",
        HASHED + "--extra-" + "index-url simple",
        HASHED + "# from " + "https:" + "//pypi.example/simple",
    ],
)
def test_a_loose_lock_is_found(text: str) -> None:
    """Unhashed, ranged, editable, or bound to a host."""
    assert list(loose_requirements(HASHED)) == []
    assert list(loose_requirements(text)) != []


def texts() -> list[tuple[str, str]]:
    """Every text file of the repository."""
    return [
        (path.relative_to(ROOT).as_posix(), path.read_text("utf-8")) for path in files() if path.suffix in TEXT
    ]  # fmt: skip


def test_lines_fit_the_page() -> None:
    """Code of every language; prose and locks are wrapped by whoever shows them."""
    code = [(name, text) for name, text in texts() if name.endswith((".py", ".sql", ".js", ".css", ".html"))]
    assert [f"{name}:{finding}" for name, text in code for finding in long_lines(text)] == []
    assert list(long_lines("x" * LINE_LENGTH_MAX + "\n" + "x" * (LINE_LENGTH_MAX + 1))) == ["2: 121 characters"]


@pytest.mark.parametrize("banned", [LEFT_UNDONE, MACHINE_PATH])
def test_no_text_says_what_only_its_author_knows(banned: re.Pattern[str]) -> None:
    """Nothing left undone, and no path of somebody's machine."""
    prose = [(name, text) for name, text in texts() if name not in WITHOUT_PROSE]
    assert len(prose) > 30
    assert [f"{name}: {hit[0]}" for name, text in prose for hit in banned.finditer(text)] == []


@pytest.mark.parametrize(
    ("banned", "text", "count"),
    [
        (LEFT_UNDONE, "# TO" + "DO: later", 1),
        (LEFT_UNDONE, "FIX" + "ME XX" + "X", 2),
        (LEFT_UNDONE, "todo lists and XXXL shirts", 0),
        (MACHINE_PATH, "see /ho" + "me/amina/pluct", 1),
        (MACHINE_PATH, "'/ro" + "ot/.cache' and (/wo" + "rk/main)", 2),
        (MACHINE_PATH, "C:" + "\\Users", 1),
        (MACHINE_PATH, "/srv/pluct, /var/lib/pluct, /v1/work/home, ./home/x, https://pluct.example/home/x", 0),
    ],
)
def test_a_banned_word_is_found(banned: re.Pattern[str], text: str, count: int) -> None:
    """And only that."""
    assert len(banned.findall(text)) == count


def test_the_repository_is_looked_at_and_nothing_else() -> None:
    """The walk sees every room and none of what is ignored."""
    names = {path.relative_to(ROOT).as_posix() for path in files()}
    assert {"Makefile", ".ci/run", "src/pluct/ledger.py", "tests/test_tidy.py", "docs/architecture.md"} <= names
    assert not [name for name in names if re.search(r"(^|/)(\.venv|\.git|__pycache__|data)/", name)]
