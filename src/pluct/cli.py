"""The engine from a terminal: serve it, and do an operator's daily work.

Every command opens the same file a server may be serving and works beside it. `--json` prints what the matching
`/v1` route answers. Exit status: 0 done, 1 refused or found broken, 2 could not run.
"""

import asyncio
import os
import re
import sys
from pathlib import Path
from typing import Any, NoReturn

import click
from msgspec.structs import replace
from rich.table import Column, Table

from pluct import (
    __version__,
    app,
    cli_backup,
    cli_events,
    cli_gate,
    cli_log,
    cli_payments,
    cli_reconcile,
    cli_signing,
    cli_statement,
    cli_tickets,
    cli_users,
    kv_import,
    settings,
)
from pluct.cashier import receipt
from pluct.commands import text
from pluct.engine import PAGE_MAX
from pluct.errors import AmountTooLarge, InvalidRequest, PluctError, Refusal, SetupError
from pluct.model import Category, Role, user_account
from pluct.stores import Violation
from pluct.terminal import (
    as_json_option,
    current_settings,
    err,
    example,
    local_actor,
    out,
    plain,
    print_fields,
    print_json,
    print_table,
    progress,
    request_id,
    shown,
    steps,
    with_engine,
)
from pluct.web import v1
from pluct.web.endpoint import Call
from pluct.web.problems import problem

REFUSED, COULD_NOT_RUN = 1, 2
_NUMBERS = {"ignore_unknown_options": True}  # lets -5 be an amount


def main() -> NoReturn:
    """Run one command; whatever happens, say it in a sentence and exit with its status."""
    as_json = "--json" in sys.argv
    try:
        cli.main(standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        sys.exit(COULD_NOT_RUN)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except PluctError as error:
        if as_json:
            print_json(problem(error, Call({}, {}, request_id())).content)
        else:
            err.print(f"[bold red]{error.title}:[/] ", end="")
            err.print(shown(error.sentence), markup=False, soft_wrap=True)
        sys.exit(REFUSED if isinstance(error, Refusal) else COULD_NOT_RUN)
    except Exception as error:
        err.print(shown(f"This is a bug in pluct: {type(error).__name__}: {error}"), markup=False, soft_wrap=True)
        sys.exit(COULD_NOT_RUN)
    sys.exit(0)


@click.group(
    epilog="Start with: pluct serve. Then: pluct keys create --role service --name backend.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="pluct")
def cli() -> None:
    """Sell premium actions for prepaid credits: payments grant credits, credits buy single-use tickets.

    Settings come from the environment and from ./pluct.toml. The ledger is what DATABASE_URL names: a SQLite file
    (sqlite:///data/pluct.db if nothing is said) or a PostgreSQL database (postgresql://user@host/database). Every
    command works while servers run on the same ledger, but for restore and copy: stop the servers first.
    """


class _Credits(click.ParamType[int]):
    """A whole number written in plain digits; the ledger judges its size."""

    name = "credits"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{20,}", value):
            raise AmountTooLarge
        if isinstance(value, str) and not re.fullmatch(r"[+-]?[0-9]{1,19}", value):
            self.fail(f"{value!r} is not a whole number of credits.", param, ctx)
        return int(value)


CREDITS = _Credits()


# Serving


@cli.command(
    short_help="Serve the HTTP interface.",
    epilog=example(
        "pluct serve",
        "pluct serve --port 0",
        "PLUCT_ENV=production PLUCT_USER_AUTH=token … pluct serve --host 0.0.0.0",
        "DATABASE_URL=postgresql://… pluct serve --workers 4 --drain 10",
    ),
)
@click.option("--host", help="Address to listen on.  [default: PLUCT_HOST or 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="Port; 0 picks one.  [default: PLUCT_PORT or 8787]")
@click.option("--workers", type=click.IntRange(1, 256), default=1, help="Processes; SQLite has one.  [default: 1]")
@click.option(
    "--drain", type=click.FloatRange(0, 300), default=0.0, metavar="SECONDS",
    help="When told to stop, go on so long with /health/ready answering 503.  [default: 0]",
)  # fmt: skip
def serve(host: str | None, port: int | None, workers: int, drain: float) -> None:
    """Serve the HTTP interface until SIGTERM or Ctrl-C; then finish what is in flight.

    Several workers share one port and one PostgreSQL database. Behind a load balancer, --drain gives it time to notice
    that this server is about to stop (docs/operations.md, "Rolling restarts").
    """
    found = current_settings()
    if workers > 1 and isinstance(found.database, Path):
        raise SetupError("--workers: one SQLite file is served by one process. Leave --workers out.")
    app.serve(
        replace(found, host=host or found.host, port=found.port if port is None else port),
        workers=workers, drain_seconds=drain,
    )  # fmt: skip


# API keys


@cli.group(short_help="Make, list and revoke API keys.", epilog="Next: pluct keys create --help")
def keys() -> None:
    """Make, list and revoke API keys: mint (payment back offices), service (premium backends), operator (support)."""


@keys.command("create", epilog=example("pluct keys create --role service --name transcriber"))
@click.option("--role", required=True, type=click.Choice(["mint", "service", "operator"]), help="What it may do.")
@click.option("--name", required=True, help="Whom it is for.")
@as_json_option
def keys_create(role: Role, name: str, as_json: bool) -> None:
    """Make a key. Its secret is shown once and not kept: store it now."""
    key, secret = with_engine(lambda engine: engine.create_key(role, text(name, "--name")), makes=True)
    if as_json:
        print_json({"id": key.id, "role": key.role, "name": key.name, "secret": secret})
        return
    print_fields({"id": key.id, "role": key.role, "name": key.name, "secret": secret})
    err.print("The secret is shown this once. Send it as: Authorization: Bearer <secret>", style="yellow")


@keys.command("list")
@as_json_option
def keys_list(as_json: bool) -> None:
    """All keys, oldest first, without their secrets."""
    found = with_engine(lambda engine: engine.store.api_keys())
    if as_json:
        print_json({"keys": [_key_fields(key) for key in found]})
        return
    table = Table(Column("id", no_wrap=True), Column("role", no_wrap=True), "name", "created", "revoked")
    for key in found:  # an id in one piece, to be copied
        revoked = "" if key.revoked_at is None else v1.rfc3339(key.revoked_at)[:10]
        table.add_row(key.id, key.role, plain(key.name), v1.rfc3339(key.created_at)[:10], revoked)
    print_table(table, "There are no keys yet: pluct keys create --help")


@keys.command("revoke", epilog=example("pluct keys revoke key_0123456789abcdef"))
@click.argument("key_id", metavar="ID")
@as_json_option
def keys_revoke(key_id: str, as_json: bool) -> None:
    """Revoke a key for good; the next request with it is refused."""
    key = with_engine(lambda engine: engine.revoke_key(text(key_id, "ID")))
    if key is None:
        raise InvalidRequest("There is no key with this id; see: pluct keys list")
    if as_json:
        print_json(_key_fields(key))
    else:
        out.print(f"{key.id} is revoked.")


def _key_fields(key: Any) -> dict[str, str]:
    fields = {"id": key.id, "role": key.role, "name": key.name, "createdAt": v1.rfc3339(key.created_at)}
    return fields if key.revoked_at is None else fields | {"revokedAt": v1.rfc3339(key.revoked_at)}


# Credits


@cli.group(short_help="Give, take and look up credits.", epilog="Next: pluct credits show USER")
def credits() -> None:
    """Give, take and look up credits. Each change says who did it and why."""


@credits.command(
    context_settings=_NUMBERS,
    epilog=example(
        'pluct credits grant amina 10 --reason "paid by hand" --reference QKJ41H7XYZ',
        'pluct credits grant amina 3 --reason welcome --promotional --expires 30d',
    ),
)  # fmt: skip
@click.argument("user")
@click.argument("amount", type=CREDITS)
@click.option("--reason", required=True, help="Why; kept in the history.")
@click.option("--reference", help="The payment's id: the same one is granted once, by whatever way it comes.")
@click.option("--promotional", is_flag=True, help="Given, not bought.")
@click.option("--expires", metavar="WHEN", help="30d, 12h or a time such as 2030-01-31T00:00:00Z.")
@as_json_option
def grant(
    user: str, amount: int, reason: str, reference: str | None, promotional: bool, expires: str | None, as_json: bool
) -> None:
    """Give USER AMOUNT credits."""
    category: Category = "promotional" if promotional else "paid"
    granted = with_engine(
        lambda engine: engine.grant(
            text(user, "USER"), amount, source="operator", actor=local_actor(), category=category,
            reason=text(reason, "--reason"),
            reference=None if reference is None else receipt(text(reference, "--reference")),
            expires_at=None if expires is None else _expiry(expires),
        ),
        makes=True,
    )  # fmt: skip
    if as_json:
        print_json(v1.add_answer(granted, request_id()))
        return
    again = "Granted before, and not again:" if granted.replayed else "Granted"
    out.print(f"{again} [bold]{granted.amount}[/] credits; {plain(user)} can spend {granted.available_after}.")


@credits.command(
    context_settings=_NUMBERS,
    epilog=example(
        'pluct credits adjust amina -5 --reason "sold twice"', 'pluct credits adjust amina +2 --reason sorry'
    ),
)  # fmt: skip
@click.argument("user")
@click.argument("amount", type=CREDITS, metavar="±AMOUNT")
@click.option("--reason", required=True, help="Why; kept in the history.")
@as_json_option
def adjust(user: str, amount: int, reason: str, as_json: bool) -> None:
    """Correct USER's balance by ±AMOUNT credits. It never goes below zero."""
    adjusted = with_engine(
        lambda engine: engine.adjust(text(user, "USER"), amount, text(reason, "--reason"), local_actor())
    )
    if as_json:
        print_json(v1.entry_answer(adjusted.entry))
    else:
        out.print(f"Adjusted by {amount:+d}; {plain(user)} can spend {adjusted.entry.available_after}.")


@credits.command(epilog=example("pluct credits show amina", "pluct credits show amina --json"))
@click.argument("user")
@as_json_option
def show(user: str, as_json: bool) -> None:
    """What USER has, and in which lots, next expiry first."""
    wallet = with_engine(lambda engine: engine.wallet(text(user, "USER")))
    answer = v1.wallet_answer(wallet, request_id())
    if as_json:
        print_json(answer)
        return
    print_fields({"user": answer.user_id, "available": answer.available, "of which given": answer.bonus,
                   "held by tickets": answer.held, "owed": answer.debt, "last change": answer.updated_at,
                   **({"frozen by": ", ".join(answer.frozen)} if answer.frozen else {})})  # fmt: skip
    table = Table("grant", "left", "kind", "priority", "expires")
    for lot in answer.lots:
        table.add_row(lot.grant_id, str(lot.remaining), lot.category, str(lot.priority), lot.expires_at or "never")
    print_table(table, "Nothing is left to spend.")


@credits.command(epilog=example("pluct credits history amina", "pluct credits history amina --limit 200 --json"))
@click.argument("user")
@click.option("--limit", type=click.IntRange(1, PAGE_MAX), default=50, show_default=True, help="Entries on a page.")
@click.option("--cursor", help="The nextCursor of an earlier page.")
@as_json_option
def history(user: str, limit: int, cursor: str | None, as_json: bool) -> None:
    """Where USER's credits came from and went, newest first."""
    cursor = None if cursor is None else text(cursor, "--cursor")
    page, following = with_engine(lambda engine: engine.history(text(user, "USER"), limit, cursor))
    answer = v1.history_answer(page, following, request_id())
    if as_json:
        print_json(answer)
        return
    table = Table("#", "when (UTC)", "what", "change", "left", "held", "other side", "why")
    own = user_account(user)
    for e in answer.entries:
        sign = (e.credit == own) - (e.debit == own)
        other = e.debit if e.credit == own else e.credit
        why = " · ".join(part for part in (e.reason, e.reference, e.actor) if part)
        change = f"{sign * e.amount:+d}" if sign else f"({e.amount})"
        table.add_row(
            str(e.number), e.at[:19].replace("T", " "), e.kind, change, str(e.available_after), str(e.held_after),
            plain(other), plain(why),
        )  # fmt: skip
    print_table(table, "There are no entries.")
    if following is not None:
        out.print(f"Older entries: --cursor {following}", style="dim")


# The whole ledger


@cli.command(epilog=example("pluct check", "pluct check --json"))
@as_json_option
def check(as_json: bool) -> None:
    """Verify every invariant over the whole ledger. Exit 0: sound; 1: broken, each finding named; 2: could not run."""
    with steps("checking") as step:
        violations = with_engine(lambda engine: engine.store.check(step))
    if as_json:
        print_json({"ok": not violations, "violations": violations})
    elif violations:
        _print_violations(violations)
        err.print("The ledger is broken. Stop the server, keep a copy of the file, and see docs/operations.md.")
    else:
        out.print("[green]The ledger is sound.[/]")
    if violations:
        sys.exit(REFUSED)


@cli.command(epilog=example("pluct migrate", "DATABASE_URL=postgresql://owner@db/pluct pluct migrate --json"))
@as_json_option
def migrate(as_json: bool) -> None:
    """Make the ledger's tables, or bring them up to date after an upgrade; do nothing if they are.

    Every command does so by itself where it may. In PostgreSQL, run this as a role that may create tables, if the
    server's own role may not.
    """
    found = current_settings()
    before, now = asyncio.run(app.migrate(found))
    shown = settings.shown(found.database)
    if as_json:
        print_json({"database": shown, "from": before, "to": now})
    elif before == now:
        out.print(f"{plain(shown)} is up to date: it has schema {now}.", soft_wrap=True)
    else:
        out.print(f"{plain(shown)} has schema {now} now; it had {before or 'none'}.", soft_wrap=True)


@cli.command(
    epilog=example(
        "pluct copy --from sqlite:///data/pluct.db --to postgresql://pluct@db/pluct",
        "PGPASSWORD=… pluct copy --from postgresql://pluct@db/pluct --to sqlite:///data/pluct.db --json",
    )
)
@click.option("--from", "source", required=True, metavar="URL", help="The ledger to copy. No server may serve it.")
@click.option("--to", "target", required=True, metavar="URL", help="An empty database, or a new file.")
@as_json_option
def copy(source: str, target: str, as_json: bool) -> None:
    """Copy a whole ledger, API keys too, between SQLite and PostgreSQL, compare every row and check every invariant.

    The target has all or nothing of it: if the copy is broken off, run it again. Passwords may come from PGPASSWORD or
    ~/.pgpass. Exit 0: copied, or copied before; 1: an invariant is broken, and nothing was copied; 2: could not run.
    """
    old = settings.database(source, Path.cwd(), "--from")
    new = settings.database(target, Path.cwd(), "--to")
    with steps("copying") as step:
        report = asyncio.run(app.copy(old, new, step))
    if as_json:
        print_json(report)
    elif report.violations:
        _print_violations(report.violations)
        err.print("The ledger is broken, and nothing was copied. See docs/operations.md.")
    else:
        counts = ", ".join(f"{count} {table.replace('_', ' ')}" for table, count in report.rows.items())
        out.print(f"{'Copied before, and still the same:' if report.already else 'Copied'} {counts}.")
        out.print(
            f"Credits: {report.available} to spend, {report.held} held, {report.debt} owed; the same on both sides."
        )
        out.print("[green]The copy is sound.[/] Set DATABASE_URL to it, and serve the old ledger no more.")
    if report.violations:
        sys.exit(REFUSED)


@cli.command(
    "import-kv",
    short_help="Import the old key-value ledger.",
    epilog=example("pluct import-kv wallets.json", "pluct import-kv wallets.json --json"),
)
@click.argument("file", type=click.Path(path_type=Path))
@as_json_option
def import_kv(file: Path, as_json: bool) -> None:
    """Import the old key-value ledger: Cloudflare KV bulk JSON, [{"key": "user", "value": "12"}, …].

    Keys with the prefixes user: and credits: name the same user. Running it again imports nothing twice.
    """
    pairs = kv_import.read(file)
    with progress() as bar:
        task = bar.add_task("importing", total=len(pairs))
        report = with_engine(
            lambda engine: kv_import.run(engine, pairs, local_actor(), lambda n: bar.advance(task, n)), makes=True
        )
    if as_json:
        print_json(report)
    else:
        out.print(
            f"Users imported: {report.imported}, with {report.credits} credits. Imported before: {report.already}. "
            f"Without credits: {report.empty}. Keys refused: {len(report.refused)}."
        )
        table = Table("refused key", "why")
        for refused in report.refused:
            table.add_row(plain(refused.key), plain(refused.reason))
        print_table(table, "")
    if report.refused:
        sys.exit(REFUSED)


cli_payments.payments.add_command(cli_reconcile.reconcile)
cli.add_command(cli_payments.payments)
cli.add_command(cli_payments.daraja)
cli.add_command(cli_backup.backup)
cli.add_command(cli_backup.restore)
cli.add_command(cli_signing.signing_keys)
cli.add_command(cli_gate.gate)
cli.add_command(cli_statement.show_statement)
cli.add_command(cli_users.users)
cli.add_command(cli_tickets.tickets)
cli.add_command(cli_events.events)
cli.add_command(cli_log.follow)

# Means


def _expiry(when: str) -> int:
    """`30d` and `12h` from now, or a time of its own."""
    found = re.fullmatch(r"([1-9][0-9]{0,4})([dh])", when)
    if found is None:
        try:
            return v1.time_of(when)
        except InvalidRequest:
            raise InvalidRequest("--expires must be like 30d, 12h or 2030-01-31T00:00:00Z.") from None
    hours = int(found[1]) * (24 if found[2] == "d" else 1)
    return app.now_ms() + hours * 3_600_000


def _print_violations(violations: list[Violation]) -> None:
    table = Table("broken", "where", "found")
    for violation in violations:
        table.add_row(violation.invariant, plain(violation.subject), plain(violation.found))
    print_table(table, "")
