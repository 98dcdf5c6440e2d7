"""`pluct payments`: what came in, and what waits for somebody to decide; `pluct daraja`: being known to M-Pesa."""

from typing import TYPE_CHECKING, Any, cast

import click
import msgspec
from rich.table import Table

from pluct.cashier import PAGE_MAX, Cashier
from pluct.commands import text
from pluct.errors import InvalidRequest, SetupError
from pluct.model import Payment, PaymentEvent
from pluct.money import decimal_text
from pluct.terminal import (
    as_json_option,
    example,
    local_actor,
    out,
    plain,
    print_fields,
    print_json,
    print_table,
    request_id,
    tight_table,
    with_cashier,
)
from pluct.web.payments import STATES, EventAnswer, PaymentsAnswer, RequestsAnswer, payment_answer, requested_answer

if TYPE_CHECKING:
    from pluct.gateways.daraja import Daraja

#: How much of a gateway's own words the table shows; `--json` has all.
SAID_LENGTH_MAX = 300
_STYLES = {"unmatched": "yellow", "review": "yellow", "disputed": "red", "failed": "red", "paid": "green"}


@click.group(short_help="Look up payments, and settle those that found no user.", epilog="Next: pluct payments list")
def payments() -> None:
    """Look up payments, and settle those that found no user.

    A payment that names no known checkout is unmatched; one that does not fit its checkout, or waits for its
    gateway's word, is in review. Both are money that has come in and has become no credits yet: assign them to a
    user, or write them off.
    """


@payments.command("list", epilog=example("pluct payments list --state unmatched", "pluct payments list --user amina"))
@click.option("--state", type=click.Choice(STATES), help="Only payments in this state.")
@click.option("--gateway", help="Only payments by this gateway.")
@click.option("--user", help="Only this user's, the newest of them.")
@click.option("--limit", type=click.IntRange(1, PAGE_MAX), default=50, show_default=True, help="Payments on a page.")
@click.option("--cursor", help="The nextCursor of an earlier page.")
@as_json_option
def list_payments(
    state: Any, gateway: str | None, user: str | None, limit: int, cursor: str | None, as_json: bool
) -> None:
    """Payments, newest first."""
    gateway = None if gateway is None else text(gateway, "--gateway")
    cursor = None if cursor is None else text(cursor, "--cursor")
    if user is not None and (state or gateway or cursor):
        raise InvalidRequest("--user shows all of a user's payments: leave --state, --gateway and --cursor out.")
    user_id = None if user is None else text(user, "--user")

    async def look(cashier: Cashier) -> tuple[list[tuple[Payment, list[PaymentEvent]]], str | None]:
        if user_id is None:
            return await cashier.payments(state, gateway, limit, cursor)
        _, theirs = await cashier.of_user(user_id, limit)
        return [await cashier.payment(payment.id) for payment in theirs], None

    found, following = with_cashier(look)
    page = [payment_answer(payment, events) for payment, events in found]
    if as_json:
        print_json(PaymentsAnswer(payments=page, request_id=request_id(), next_cursor=following))
        return
    table = tight_table(
        "when (UTC)", "receipt or id", "state", "amount", "credits", "user",
        whole=("receipt or id", "state"),
    )  # fmt: skip
    for shown in page:
        table.add_row(
            shown.at[:19].replace("T", " "), plain(shown.reference or shown.id), _state(shown.state),
            f"{shown.currency} {shown.amount}", str(shown.credits), plain(shown.user_id or "–"),
        )  # fmt: skip
    print_table(table, "There are no such payments.")
    if following is not None:
        out.print(f"Older payments: --cursor {following}", style="dim")


@payments.command(epilog=example("pluct payments requests", "pluct payments requests --json"))
@click.option("--limit", type=click.IntRange(1, PAGE_MAX), default=50, show_default=True, help="Requests on a page.")
@click.option("--cursor", help="The nextCursor of an earlier page.")
@as_json_option
def requests(limit: int, cursor: str | None, as_json: bool) -> None:
    """What users said they had paid and what was not credited at once, newest first."""
    cursor = None if cursor is None else text(cursor, "--cursor")
    found, following = with_cashier(lambda cashier: cashier.requests(limit, cursor))
    page = [requested_answer(request) for request in found]
    if as_json:
        print_json(RequestsAnswer(requests=page, request_id=request_id(), next_cursor=following))
        return
    table = Table("when (UTC)", "user", "amount", "what they sent", "why", "state", "payment")
    for shown in page:
        table.add_row(
            shown.at[:19].replace("T", " "), plain(shown.user_id), plain(shown.amount), plain(shown.reference),
            plain(shown.reason), shown.state, shown.payment_id or "none found",
        )  # fmt: skip
    print_table(table, "Nobody has asked.")
    if following is not None:
        out.print(f"Older requests: --cursor {following}", style="dim")


@payments.command(epilog=example("pluct payments show SLK4H7R2T0", "pluct payments show 01a211bb-… --json"))
@click.argument("payment_id", metavar="PAYMENT")
@as_json_option
def show(payment_id: str, as_json: bool) -> None:
    """One payment, by its id or its receipt, with all that was said of it."""
    name = text(payment_id, "PAYMENT")

    async def look(cashier: Cashier) -> tuple[Payment, list[PaymentEvent]]:
        return await cashier.payment((await cashier.named(name)).id)

    _show(*with_cashier(look), as_json)


@payments.command(epilog=example('pluct payments assign SLK4H7R2T0 amina --reason "showed the M-Pesa message"'))
@click.argument("payment_id", metavar="PAYMENT")
@click.argument("user")
@click.option("--reason", required=True, help="How you know; kept with the payment.")
@as_json_option
def assign(payment_id: str, user: str, reason: str, as_json: bool) -> None:
    """Credit an unmatched or held payment to USER, by the price list. Again for the same user changes nothing.

    PAYMENT is its id or its receipt.
    """
    name, user_id, why = text(payment_id, "PAYMENT"), text(user, "USER"), text(reason, "--reason")

    async def settle(cashier: Cashier) -> tuple[Payment, list[PaymentEvent]]:
        id = (await cashier.named(name)).id
        await cashier.assign(id, user_id, why, local_actor())
        return await cashier.payment(id)

    _show(*with_cashier(settle), as_json)


@payments.command("write-off", epilog=example('pluct payments write-off SLK4H7R2T0 --reason "sent back by hand"'))
@click.argument("payment_id", metavar="PAYMENT")
@click.option("--reason", required=True, help="Why it will be nobody's; kept with the payment.")
@as_json_option
def write_off(payment_id: str, reason: str, as_json: bool) -> None:
    """Say that an unmatched or held payment, named by its id or its receipt, will be nobody's: for good."""
    name, why = text(payment_id, "PAYMENT"), text(reason, "--reason")

    async def settle(cashier: Cashier) -> tuple[Payment, list[PaymentEvent]]:
        id = (await cashier.named(name)).id
        await cashier.write_off(id, why, local_actor())
        return await cashier.payment(id)

    _show(*with_cashier(settle), as_json)


def _show(payment: Payment, events: list[PaymentEvent], as_json: bool) -> None:
    answer = payment_answer(payment, events, request_id())
    if as_json:
        print_json(answer)
        return
    fields: dict[str, object] = {
        "receipt": answer.reference or "none yet",
        "state": answer.state,
        "amount": f"{answer.currency} {answer.amount}",
        "credits": answer.credits,
        "user": answer.user_id or "unknown",
        "gateway": answer.gateway,
        "came in": answer.at,
        "code typed": answer.code,
        "phone": answer.phone,
        "refunded": answer.refunded,
        "taken back": answer.taken_back,
        "not there to take": answer.lost,
        "why": answer.note,
    }
    if payment.remainder_after:
        fields["remainder"] = f"{payment.currency} {decimal_text(payment.remainder_after, payment.currency)}"
    print_fields({name: value for name, value in fields.items() if value not in (None, "")})
    table = Table("when (UTC)", "who", "what", "said")
    for event in answer.events:
        table.add_row(event.at[:19].replace("T", " "), plain(event.gateway), plain(event.kind), plain(_said(event)))
    print_table(table, "Nothing is kept of it.")
    if answer.state in ("unmatched", "review"):
        out.print(f"Next: pluct payments assign {answer.id} USER --reason …", style="dim")


def _said(event: EventAnswer) -> str:
    """What an event says: who decided what and why, the note that was made of it, or else the gateway's own words."""
    raw = msgspec.json.encode(event.body)
    if event.gateway == "operator":
        said = msgspec.json.decode(raw, type=dict[str, str])
        whose = f" to {said['userId']}" if said["userId"] else ""
        return f"{said['actor']}{whose}: {said['reason']}"
    return event.note or raw.decode()[:SAID_LENGTH_MAX]


def _state(state: str) -> str:
    style, words = _STYLES.get(state), state.replace("_", " ")
    return words if style is None else f"[{style}]{words}[/]"


@click.group(short_help="Set up M-Pesa's side.", epilog="Next: pluct daraja register-urls")
def daraja() -> None:
    """Set up M-Pesa's side: tell Daraja where payments that people type in (C2B) are to be reported."""


@daraja.command("register-urls", epilog=example("pluct daraja register-urls"))
@as_json_option
def register_urls(as_json: bool) -> None:
    """Register this engine's addresses for C2B payments with Daraja.

    They are made of [payments] callback_base_url and DARAJA_PATH_TOKEN. The sandbox takes them any number of times;
    in production a shortcode's addresses are registered once, and changed through Safaricom. It fetches a new access
    token, which ends the one that a running server has; the server fetches another by itself.
    """

    async def register(cashier: Cashier) -> list[str]:
        gateway = cashier.gateways.get("daraja")
        if gateway is None:
            raise SetupError("M-Pesa is not set up: pluct.toml has no [gateways.daraja] (docs/gateways.md).")
        return await cast("Daraja", gateway).register_urls()

    done = with_cashier(register, makes=True)
    if as_json:
        print_json({"ok": True, "done": done})
        return
    for sentence in done:
        out.print(plain(sentence), soft_wrap=True)
