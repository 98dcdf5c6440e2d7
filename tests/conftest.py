"""What tests share: a real server process over a real file, and a store in a temporary folder."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from joserfc import jws, jwt
from joserfc.jwk import OctKey

from pluct.commands import Fund, Vend, once
from pluct.settings import DEVELOPMENT_SECRETS
from pluct.stores import Store, open_store
from pluct.tickets import uuid7_source
from postgres import SERVERS, postgres

WEBHOOK_SECRET = "local-dev-webhook-secret-never-use-in-prod-67890"
JWT_SECRET = DEVELOPMENT_SECRETS["JWT_SECRET"]
USER_TOKEN_SECRET = DEVELOPMENT_SECRETS["USER_TOKEN_SECRET"]
START_SECONDS_MAX = 20

#: What a ledger can be kept in: what holds for every store is tested on each.
ENGINES = ["sqlite", *SERVERS]

T = TypeVar("T")

Keys = dict[str, dict[str, str]]  #: by role, the headers that carry a key

new_id = uuid7_source()


def fund(user_id: str, amount: int, **more: Any) -> Fund:
    """A grant of a new id."""
    return Fund(user_id, new_id(), amount, "test", **more)


def vend(user_id: str, cost: int = 1, key: str | None = None, **more: Any) -> Vend:
    """A vend of a new ticket, with an idempotency key or without."""
    claims = () if key is None else (once("vend", user_id, key, user_id, cost),)
    return Vend(user_id, new_id(), "default", "premium", cost, 60, claims=claims, **more)


@pytest.fixture
def anyio_backend() -> str:
    """Async tests (`pytest.mark.anyio`) run on asyncio."""
    return "asyncio"


class Clock:
    """A clock that stands still until it is moved: milliseconds since 1970."""

    def __init__(self, now: int = 1_800_000_000_000) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now

    def move(self, seconds: float) -> None:
        self.now += int(seconds * 1000)


class Pluct:
    """The program as people run it: `pluct …` in a folder of its own, and its server."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8", **environment}
        self.process: subprocess.Popen[str] | None = None
        self.url = ""
        self.client = httpx.Client(timeout=30)

    @property
    def database(self) -> Path:
        return self.folder / "data" / "pluct.db"

    def run(
        self, *arguments: str, exit_code: int | None = 0, stdin: str = "", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run one command to its end."""
        done = subprocess.run(
            [sys.executable, "-m", "pluct", *arguments], cwd=self.folder, env=self.environment | environment,
            capture_output=True, text=True, timeout=120, check=False, input=stdin,
        )  # fmt: skip
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        assert exit_code is None or done.returncode == exit_code, (arguments, done.returncode, done.stdout, done.stderr)
        return done

    def json(self, *arguments: str, exit_code: int = 0) -> Any:
        """Run one command with `--json` and read its answer."""
        return json.loads(self.run(*arguments, "--json", exit_code=exit_code).stdout)

    def start(self, *arguments: str) -> None:
        """Serve on a free port, and wait until it says that it listens. Its log is in `server.log`."""
        with (self.folder / "server.log").open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pluct", "serve", "--port", "0", *arguments], cwd=self.folder,
                env=self.environment, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.fullmatch(r"listening on (http://\S+:\d+)\n", line)
        assert found, (line, self.log)
        self.url = found[1]
        self.client.base_url = httpx.URL(self.url)

    @property
    def log(self) -> str:
        return (self.folder / "server.log").read_text()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, wait for the end, and return the exit status."""
        self.signal(number)
        return self.ended()

    def signal(self, number: int) -> None:
        """Send the server's process a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def ended(self) -> int:
        """Wait for the server's end, and return its exit status."""
        assert self.process is not None
        status = self.process.wait(40)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process = None
        return status

    def close(self) -> None:
        if self.process is not None:
            self.stop(signal.SIGKILL)
        self.client.close()

    def key(self, role: str, name: str = "test") -> dict[str, str]:
        """A new API key of this role, as the headers that carry it."""
        return {"Authorization": f"Bearer {self.json('keys', 'create', '--role', role, '--name', name)['secret']}"}

    def fund(self, user_id: str, amount: int, **more: Any) -> httpx.Response:
        """Grant credits the seed's way."""
        return self.client.post(
            "/add-credits", json={"userId": user_id, "amount": amount, **more},
            headers={"x-webhook-secret": WEBHOOK_SECRET},
        )  # fmt: skip

    def post(self, path: str, body: Any, headers: Mapping[str, Any] | None = None) -> httpx.Response:
        """Send this body: as it is if it is bytes, else as JSON."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.client.post(path, content=content, headers=headers)

    def funded(self, amount: int) -> str:
        """A new user with so many credits."""
        user_id = new_id()
        assert self.fund(user_id, amount).status_code == 200
        return user_id

    def available(self, user_id: str) -> int:
        """What the user can spend, by the open balance route."""
        balance: int = self.client.get("/v1/credits/balance", params={"userId": user_id}).json()["available"]
        return balance


@pytest.fixture
def make_pluct(tmp_path: Path) -> Iterator[Callable[..., Pluct]]:
    """Programs in folders of their own; each server is killed at the end of the test."""
    made: list[Pluct] = []

    def make(folder: str = "engine", toml: str | None = None, **environment: str) -> Pluct:
        (tmp_path / folder).mkdir(exist_ok=True)
        if toml is not None:
            (tmp_path / folder / "pluct.toml").write_text(toml)
        made.append(Pluct(tmp_path / folder, **environment))
        return made[-1]

    yield make
    for pluct in made:
        pluct.close()


@pytest.fixture
def server(make_pluct: Callable[..., Pluct]) -> Pluct:
    """A running server with the default settings."""
    pluct = make_pluct()
    pluct.start()
    return pluct


@asynccontextmanager
async def opened(place: Path | str, clock: Callable[[], int], **options: Any) -> AsyncIterator[Store]:
    """An open store: SQLite's at a path, PostgreSQL's at an address."""
    store = open_store(place, clock, uuid7_source(), **{"serving": True, **options})
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture(scope="session")
def server_url() -> Iterator[Callable[[str], str]]:
    """The address of a PostgreSQL server by its name in `SERVERS`: it starts when it is first asked for."""
    with ExitStack() as running:

        @cache
        def start(name: str) -> str:
            return running.enter_context(postgres(SERVERS[name])).url

        given = os.environ.get("PLUCT_TEST_DATABASE_URL")
        yield start if given is None else lambda name: given


@pytest.fixture(scope="session")
def postgresql_url(server_url: Callable[[str], str]) -> str:
    """A PostgreSQL server: `PLUCT_TEST_DATABASE_URL`, or one of the tests' own."""
    return server_url("postgresql")


@contextmanager
def served(folder: Path, toml: str | None = None, **environment: str) -> Iterator[Pluct]:
    """A running server that all tests of a module share."""
    if toml is not None:
        (folder / "pluct.toml").write_text(toml)
    pluct = Pluct(folder, **environment)
    try:
        pluct.start()
        yield pluct
    finally:
        pluct.close()


def until(look: Callable[[], T], seconds_max: float = 7.0) -> T:
    """Look until there is something to see, and return it; it is an error if that takes too long."""
    end = time.monotonic() + seconds_max
    while not (seen := look()):
        assert time.monotonic() < end, f"not seen within {seconds_max} s"
        time.sleep(0.02)
    return seen


def claims(token: str, secret: str = JWT_SECRET) -> dict[str, Any]:
    """What a token says, once an independent library has found its signature good."""
    return jwt.decode(token, OctKey.import_key(secret), algorithms=["HS256"]).claims


def signed(content: dict[str, Any], secret: str) -> str:
    """A token with these claims, made by an independent library."""
    return jws.serialize_compact({"alg": "HS256", "typ": "JWT"}, json.dumps(content), OctKey.import_key(secret))


def user_token(user_id: str, **more: Any) -> dict[str, str]:
    """A user token for the next minute, as the header that carries it; `more` replaces claims."""
    content = {"sub": user_id, "aud": "pluct-business-engine", "exp": int(time.time()) + 60} | more
    return {"Authorization": f"Bearer {signed(content, USER_TOKEN_SECRET)}"}


PROBLEM_FIELDS = {"type", "title", "status", "detail", "code", "message", "error", "requestId"}


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The problem details of an answer that must have exactly this status, this code and these fields."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    more = {"retryAfterSeconds"} if status in (429, 503) else set()
    assert set(body) == PROBLEM_FIELDS | more, body
    assert (body["status"], body["code"]) == (status, code), body
    assert body["message"] == body["error"] == body["detail"] and " " in body["detail"].strip(), body
    assert body["title"] and body["type"] and body["requestId"] == answer.headers["x-request-id"], body
    return body
