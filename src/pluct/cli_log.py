"""`pluct log --follow`: requests as the servers answer them."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
import msgspec

from pluct.errors import InvalidRequest, Unavailable
from pluct.terminal import current_settings, err, example, out, plain, with_engine

KEY = "PLUCT_OPERATOR_KEY"
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
    asked = {name: text for name, text in (("user", user), ("route", route), ("outcome", outcome)) if text}
    with _key() as key:
        for event in _events(url or f"http://{host}:{settings.port}", key, asked):
            if as_json:
                click.echo(msgspec.json.encode(event).decode())
            else:
                _show(event)


@contextmanager
def _key() -> Iterator[str]:
    """The key that is set, or one that is gone afterwards."""
    given = os.environ.get(KEY)
    if given:
        yield given
        return
    key, secret = with_engine(lambda engine: engine.create_key("operator", "pluct log, for as long as it runs"))
    try:
        yield secret
    finally:
        with_engine(lambda engine: engine.revoke_key(key.id))


def _events(url: str, key: str, asked: dict[str, str]) -> Iterator[dict[str, Any]]:
    """What the server shows, asked for again when it breaks off."""
    import httpx

    failed = 0
    while True:
        try:
            with httpx.stream(
                "GET", url + "/v1/log", params=asked, headers={"Authorization": f"Bearer {key}"}, trust_env=False,
                timeout=httpx.Timeout(10, read=15),
            ) as answer:  # fmt: skip
                if answer.status_code != 200:
                    said = _said(answer.read())
                    if answer.status_code < 500:
                        raise InvalidRequest(f"The server at {url} says: {said}")
                    raise httpx.ReadError(said)
                failed = 0
                for line in answer.iter_lines():
                    if line.startswith("data: "):
                        yield msgspec.json.decode(line.removeprefix("data: "), type=dict[str, Any])
        except httpx.HTTPError as error:
            if failed == len(PAUSES):
                raise Unavailable(f"There is no server at {url} ({error}); --url names another.") from None
            err.print(f"No answer from {url}; asking again in {PAUSES[failed]} s.", style="dim")
            time.sleep(PAUSES[failed])
            failed += 1


def _said(content: bytes) -> str:
    try:
        return str(msgspec.json.decode(content, type=dict[str, Any]).get("detail", ""))
    except msgspec.MsgspecError:
        return "it is no Pluct engine, or a proxy stands before it."


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
