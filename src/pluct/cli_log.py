"""`pluct log --follow`: requests as the servers answer them."""

import hashlib
import os
import re
import signal
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

import click
import msgspec

from pluct.commands import text
from pluct.engine import Engine
from pluct.errors import InvalidRequest, SetupError, Unavailable
from pluct.model import ApiKey
from pluct.settings import shown
from pluct.terminal import current_settings, err, example, out, plain, with_engine

KEY = "PLUCT_OPERATOR_KEY"
_NAME = "pluct log, for as long as process {process} on {place} runs"
#: How long after an answer broke off the next is asked for, longer each time.
PAUSES = (1, 2, 4, 8, 15)


@click.command(
    "log", short_help="Follow what the servers answer.",
    epilog=example(
        "pluct log --follow", "pluct log --follow --user amina --outcome refused", "pluct log --follow --json | jq .ms"
    ),
)  # fmt: skip
@click.option("--follow", is_flag=True, required=True, help="Until Ctrl-C; what was before is in the server's own log.")
@click.option("--user", help="Only this user's.")
@click.option("--route", help="Only this route's, as the log has it: /v1/tickets/{id}.")
@click.option("--outcome", help="ok, refused, failed, or an error's code such as insufficient_credits.")
@click.option("--url", help="Where a server is.  [default: by PLUCT_HOST and PLUCT_PORT]")
@click.option("--json", "as_json", is_flag=True, help="A line of JSON each.")
def follow(
    follow: bool, user: str | None, route: str | None, outcome: str | None, url: str | None, as_json: bool
) -> None:
    """Show requests of all server processes as they are answered.

    It asks a running server, with the operator key in PLUCT_OPERATOR_KEY, or with one that it makes and revokes again.
    """
    settings = current_settings()
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)
    filters = (("user", user), ("route", route), ("outcome", outcome))
    asked = {name: text(value, f"--{name}") for name, value in filters if value}
    server = f"http://{host}:{settings.port}" if url is None else _server(url)
    with _key() as key:
        for event in _events(server, key, asked):
            if as_json:
                click.echo(msgspec.json.encode(event).decode())
            else:
                _show(event)


def _server(url: str) -> str:
    """The address as it was given, if it can be one."""
    import httpx

    try:
        found, host = urlsplit(url), httpx.URL(url).host
        good = found.scheme in ("http", "https") and host and found.port != 0 and not found.query + found.fragment
    except (httpx.InvalidURL, ValueError):
        good = False
    if not good:
        raise SetupError("--url must be the address of a server, such as http://127.0.0.1:8787.")
    return url.rstrip("/")


class _Signals:
    """SIGINT, SIGTERM and SIGHUP end the command in order: never while a key is being made or revoked, and once."""

    def __init__(self) -> None:
        self._held, self._come = True, 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup wants it
                signal.signal(number, self._take)

    def _take(self, number: int, frame: FrameType | None) -> None:
        self._come = self._come or number
        if not self._held:
            self._end()

    def let(self) -> None:
        """From now on a signal ends the command, and so does one that has come already."""
        self._held = False
        if self._come:
            self._end()

    def hold(self) -> None:
        """From now on none does."""
        self._held = True

    def _end(self) -> None:
        self._held = True
        raise KeyboardInterrupt if self._come == signal.SIGINT else SystemExit(128 + self._come)


@contextmanager
def _key() -> Iterator[str]:
    """The key that is set, or one that is gone afterwards."""
    given = os.environ.get(KEY)
    if given:
        if not re.fullmatch(r"[\x21-\x7e]+", given):
            raise SetupError(
                f"{KEY} is no key: it must be the whole secret that pluct keys create --role operator showed. "
                "Without it, pluct log makes one."
            )
        yield given
        return
    signals = _Signals()
    key, secret = with_engine(_made)
    try:
        signals.let()
        yield secret
    finally:
        signals.hold()
        with_engine(lambda engine: engine.revoke_key(key.id))


async def _made(engine: Engine) -> tuple[ApiKey, str]:
    """A key for this process; those of processes that were killed before they could revoke theirs are revoked."""
    place = _place()
    for key in await engine.store.api_keys():
        if key.revoked_at is None and is_left_behind(key.name, place):
            await engine.revoke_key(key.id)
    return await engine.create_key("operator", _NAME.format(process=os.getpid(), place=place))


def is_left_behind(name: str, place: str) -> bool:
    """Whether a key has the name that this command gives, and was made here by a process that is no more."""
    pattern = re.escape(_NAME).replace(r"\{process\}", "([1-9][0-9]{0,8})").replace(r"\{place\}", re.escape(place))
    found = re.fullmatch(pattern, name)
    if found is None:
        return False
    if int(found[1]) == os.getpid():  # of an earlier process: this one has made none yet
        return True
    try:
        os.kill(int(found[1]), 0)
    except ProcessLookupError:
        return True
    except OSError:  # it is somebody else's
        return False
    return False


def _place() -> str:
    """Where a process id means one process: this machine since it was started, and this container in it."""
    try:
        this = Path("/proc/sys/kernel/random/boot_id").read_text() + os.readlink("/proc/self/ns/pid")
    except OSError:  # no Linux
        this = str(uuid.getnode())
    return f"{socket.gethostname()}/{hashlib.sha256(this.encode()).hexdigest()[:12]}"


def _events(url: str, key: str, asked: dict[str, str]) -> Iterator[dict[str, Any]]:
    """What the server shows, asked for again when it breaks off."""
    import httpx

    failed, known = 0, bool(os.environ.get(KEY))
    while True:
        try:
            with httpx.stream(
                "GET", url + "/v1/log", params=asked, headers={"Authorization": f"Bearer {key}"}, trust_env=False,
                timeout=httpx.Timeout(10, read=15),
            ) as answer:  # fmt: skip
                if answer.status_code != 200:
                    code, said = _said(answer.read())
                    if code == "unauthorized" and not known:
                        raise SetupError(_elsewhere(url))
                    if answer.status_code < 500:
                        raise InvalidRequest(f"The server at {url} says: {said}")
                    raise httpx.ReadError(said)
                failed, known = 0, True
                for line in answer.iter_lines():
                    if line.startswith("data: "):
                        yield msgspec.json.decode(line.removeprefix("data: "), type=dict[str, Any])
        except httpx.HTTPError as error:
            if failed == len(PAUSES):
                raise Unavailable(f"There is no server at {url} ({error}); --url names another.") from None
            err.print(f"No answer from {url}; asking again in {PAUSES[failed]} s.", style="dim")
            time.sleep(PAUSES[failed])
            failed += 1


def _elsewhere(url: str) -> str:
    ours = shown(current_settings().database)
    return (
        f"The server at {url} is on another ledger than {ours}, where the key was made. "
        f"Run this where the server's settings are, or set {KEY} to an operator key of its ledger."
    )


def _said(content: bytes) -> tuple[str, str]:
    """The code and the sentence of a refusal."""
    try:
        said = msgspec.json.decode(content, type=dict[str, Any])
    except msgspec.MsgspecError:
        return "", "it is no Pluct engine, or a proxy stands before it."
    return str(said.get("code", "")), str(said.get("detail", ""))


def _show(event: dict[str, Any]) -> None:
    """One line for people."""
    if "lost" in event:
        out.print(f"… and {event['lost']} more", style="dim")
        return
    status = event["status"]
    style = "green" if status < 400 else "yellow" if status < 500 else "red"
    words = [event["at"][11:23], event["method"], event["route"], str(status), f"{event['ms']:.0f} ms"]
    words += [plain(event[name]) for name in ("code", "userId", "ticketId") if event.get(name)]
    out.print("  ".join(words), style=style, soft_wrap=True)
