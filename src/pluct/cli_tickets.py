"""`pluct tickets`: what became of a ticket, and giving credits back, one by one or many after an outage."""

import sys
from collections.abc import Iterable, Sequence

import click

from pluct.commands import text
from pluct.engine import Engine
from pluct.errors import InvalidRequest, Refusal
from pluct.model import Ticket
from pluct.terminal import (
    as_json_option,
    example,
    local_actor,
    out,
    plain,
    print_fields,
    print_json,
    request_id,
    with_engine,
)
from pluct.web.v1 import rfc3339, ticket_answer

#: Tickets given back by one command.
TICKETS_MAX = 10_000


@click.group(short_help="Look up tickets, and give their credits back.", epilog="Next: pluct tickets show --help")
def tickets() -> None:
    """Tickets by their ids, which are the jti of their tokens; `pluct credits history USER --json` lists a user's."""


@tickets.command(epilog=example("pluct tickets show 0199…", "pluct tickets show 0199… --json"))
@click.argument("ticket_id", metavar="ID")
@as_json_option
def show(ticket_id: str, as_json: bool) -> None:
    """One ticket and what became of its credits."""
    ticket = with_engine(lambda engine: engine.ticket(text(ticket_id, "ID")))
    if as_json:
        print_json(ticket_answer(ticket, request_id()))
        return
    print_fields(
        {
            "ticket": ticket.id, "state": ticket.state, "user": ticket.user_id, "action": ticket.action,
            "cost": ticket.cost, "captured": ticket.captured, "given back": ticket.returned,
            "issued": rfc3339(ticket.issued_at), "expires": rfc3339(ticket.expires_at),
            "redeemed": "no" if ticket.redeemed_at is None else rfc3339(ticket.redeemed_at),
        }
    )  # fmt: skip


@tickets.command(
    epilog=example(
        'pluct tickets void 0199… --reason "the file was empty"',
        'pluct tickets void - --reason "outage of 25 November" < ids    # one id a line',
    )
)
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.option("--reason", required=True, help="Why; kept with each refund for ever.")
@as_json_option
def void(ids: tuple[str, ...], reason: str, as_json: bool) -> None:
    """Give tickets' credits back: what is held, and what was captured too. With - as ID, ids are read line by line.

    Each ticket is given back once, however often this is run: what was settled otherwise is named, and left alone.
    """
    names = _names(ids)
    why = text(reason, "--reason")
    done, refused = with_engine(lambda engine: _give_back(engine, names, why))
    if as_json:
        id = request_id()
        print_json({
            "ok": not refused, "tickets": [ticket_answer(ticket, id) for ticket in done],
            "refused": [{"ticketId": name, "code": error.code, "error": error.sentence} for name, error in refused],
        })  # fmt: skip
    else:
        for ticket in done:
            out.print(f"{ticket.id}: {ticket.returned} given back to {plain(ticket.user_id)}", soft_wrap=True)
        for name, error in refused:
            out.print(f"[red]{plain(name)}: {plain(error.sentence)}[/]", soft_wrap=True)
    sys.exit(1 if refused else 0)


def _names(ids: Sequence[str]) -> list[str]:
    """The ids that were said, or that stand on the standard input, each once."""
    said: Iterable[str] = sys.stdin if "-" in ids else ids
    names = list(dict.fromkeys(text(name, "ID") for name in map(str.strip, said) if name))
    if not names:
        raise InvalidRequest("No ids were given: one a line.")
    if len(names) > TICKETS_MAX:
        raise InvalidRequest(f"At most {TICKETS_MAX:,} tickets are given back at once.")
    return names


async def _give_back(
    engine: Engine, names: Sequence[str], reason: str
) -> tuple[list[Ticket], list[tuple[str, Refusal]]]:
    """Void each; what the rules refuse is kept with its sentence."""
    done: list[Ticket] = []
    refused: list[tuple[str, Refusal]] = []
    for name in names:
        try:
            done.append((await engine.void(name, reason, local_actor())).ticket)
        except Refusal as error:
            refused.append((name, error))
    return done, refused
