"""`pluct events`: what was told to whom, and telling it again."""

from typing import get_args

import click

from pluct import app, deliveries
from pluct.commands import text
from pluct.engine import PAGE_MAX, Engine
from pluct.errors import InvalidRequest
from pluct.model import LetterState
from pluct.terminal import as_json_option, example, out, plain, print_json, print_table, tight_table, with_engine
from pluct.web.events import shown


@click.group(short_help="List and replay the events that others are told of.", epilog="Next: pluct events list --help")
def events() -> None:
    """The events that [[webhooks]] are told of: written with their cause, delivered by the servers."""


@events.command("list", epilog=example("pluct events list", "pluct events list --state dead --json"))
@click.option("--state", type=click.Choice(get_args(LetterState)), help="Only those.")
@click.option("--limit", type=click.IntRange(1, PAGE_MAX), default=50, show_default=True, help="Events on a page.")
@click.option("--cursor", help="The nextCursor of an earlier page.")
@as_json_option
def list_events(state: LetterState | None, limit: int, cursor: str | None, as_json: bool) -> None:
    """Events and what became of them, newest first."""
    cursor = None if cursor is None else text(cursor, "--cursor")
    found, following = with_engine(lambda engine: deliveries.page(engine.store, state, limit, cursor))
    if as_json:
        print_json({"events": [shown(letter) for letter in found], "nextCursor": following})
        return
    table = tight_table(
        "event, at (UTC)", "state", "tries", "user", "what came of it", whole=("event, at (UTC)", "state")
    )
    for letter in found:
        said = shown(letter)
        table.add_row(
            f"{letter.id}\n{letter.kind} {said.at[:16].replace('T', ' ')}", letter.state, str(letter.tries),
            plain(letter.user_id or "–"), plain(letter.answer or "–"),
        )  # fmt: skip
    print_table(table, "There are no such events.")
    if following is not None:
        out.print(f"Older events: --cursor {following}", style="dim", soft_wrap=True)


@events.command(
    epilog=example("pluct events discard --dead", "pluct events discard --dead --url https://old.example/hook")
)
@click.option("--dead", is_flag=True, required=True, help="Those that are dead: nothing else is ever discarded.")
@click.option("--url", help="Only those to this address.")
@as_json_option
def discard(dead: bool, url: str | None, as_json: bool) -> None:
    """Give up dead events for good: their address is gone, or knows by other means. Nothing in the ledger changes."""
    count = with_engine(lambda engine: engine.store.discard_letters(url and text(url, "--url")))
    if as_json:
        print_json({"ok": True, "discarded": count})
    else:
        out.print(f"{count} discarded.")


@events.command(epilog=example("pluct events replay 0199…", "pluct events replay --dead"))
@click.argument("event_id", metavar="ID", required=False)
@click.option("--dead", is_flag=True, help="All that are dead.")
@as_json_option
def replay(event_id: str | None, dead: bool, as_json: bool) -> None:
    """Deliver an event again, or all that are dead. A running server does it, within seconds."""
    if (event_id is None) == (not dead):
        raise InvalidRequest("Name one event, or say --dead for all that are dead.")

    async def again(engine: Engine) -> int:
        if event_id is not None:
            await deliveries.replay(engine.store, text(event_id, "ID"), app.now_ms())
            return 1
        count = 0
        while found := (await deliveries.page(engine.store, "dead", PAGE_MAX, None))[0]:
            for letter in found:
                await deliveries.replay(engine.store, letter.id, app.now_ms())
            count += len(found)
        return count

    count = with_engine(again)
    if as_json:
        print_json({"ok": True, "replayed": count})
    else:
        out.print(f"{count} to be delivered again.")
