"""`pluct signing-keys`: the keys that sign tickets under `PLUCT_SIGNING=EdDSA`, changed beside running servers."""

from collections.abc import Callable
from typing import Any

import click
from rich.table import Column, Table

from pluct import app, signing
from pluct.commands import text
from pluct.errors import SetupError
from pluct.model import SigningKey
from pluct.signing import Seal
from pluct.terminal import as_json_option, current_settings, example, out, print_json, print_table, with_engine
from pluct.web import v1


@click.group("signing-keys", short_help="List, rotate and retire the keys that sign tickets.",
               epilog="Next: pluct signing-keys rotate --help")  # fmt: skip
def signing_keys() -> None:
    """List, rotate and retire the Ed25519 keys that sign tickets under PLUCT_SIGNING=EdDSA.

    The servers make the first key themselves, publish all at /.well-known/jwks.json, and follow every change within
    five seconds. docs/operations.md ("Signing keys") says when to do what.
    """


@signing_keys.command("list", epilog=example("pluct signing-keys list", "pluct signing-keys list --json"))
@as_json_option
def list_keys(as_json: bool) -> None:
    """All keys, in the order in which they sign.

    pending: published, waits for its turn · signing: signs what is issued now · leaving: still published, for the
    tickets it signed · gone: no longer published, its tickets have all expired · retired: not believed any more
    """
    found, now = with_engine(lambda engine: engine.store.signing_keys()), app.now_ms()
    if as_json:
        print_json({"keys": [fields(found, key, now) for key in found]})
        return
    narrow = [Column(name, no_wrap=True) for name in ("key", "state")]  # an id in one piece, to be copied
    table = Table(*narrow, "signs from (UTC)", "published until", box=None)
    for key in found:
        shown = fields(found, key, now)
        until = "–" if key.retired_at is not None else shown.get("publishedUntil", "another takes over")
        table.add_row(key.kid, shown["state"], _time(shown["signsFrom"]), _time(until))
    print_table(table, "There are no signing keys: a server with PLUCT_SIGNING=EdDSA makes the first.")


@signing_keys.command(epilog=example("pluct signing-keys rotate", "pluct signing-keys rotate --json"))
@as_json_option
def rotate(as_json: bool) -> None:
    """Make a new key. It is published at once, and signs five and a half minutes from now.

    By then nobody has a copy of the public keys that lacks it (they may be kept for five minutes). The key before it
    stays published until its last ticket has expired, and leaves by itself. Several rotations in a row queue up: each
    key waits its own time, and they take over in the order in which they were made.
    """
    settings = current_settings()
    if not settings.key_secrets:
        raise SetupError("PLUCT_KEY_SECRET must be set: signing keys are kept under it.")
    seal, now, at_once = Seal(settings.key_secrets), app.now_ms(), settings.signing == "EdDSA"
    longest = settings.catalog.ticket_seconds_max
    found, key = _change(lambda keys: signing.rotated(keys, now, seal, longest, at_once=at_once), makes=True)
    assert key is not None
    if as_json:
        print_json(fields(found, key, now))
    elif key.signs_from > now:
        out.print(f"{key.kid} is published, and signs from {_time(v1.rfc3339(key.signs_from))} UTC on.", soft_wrap=True)
    else:
        out.print(f"{key.kid} is published, and signs from now on: it is the first.", soft_wrap=True)


@signing_keys.command(
    epilog=example("pluct signing-keys retire NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs",
                        "pluct signing-keys rotate && pluct signing-keys retire KID    # KID has leaked")
)  # fmt: skip
@click.argument("kid", metavar="KID")
@as_json_option
def retire(kid: str, as_json: bool) -> None:
    """Stop believing in a key for good, at once: for a key that has leaked. To renew keys, rotate is enough.

    Tickets alive that it signed are refused from now on (by backends that verify offline, once they fetch the public
    keys again: five minutes at most). Vends repeated with their idempotency key get a good token. If the key signs, the
    pending key that has waited longest takes over at once, even if some backends have not fetched it yet. The only key
    that can sign cannot be retired (rotate first), except under PLUCT_SIGNING=HS256, where none is needed.
    """
    kid, now, even_last = text(kid, "KID"), app.now_ms(), current_settings().signing != "EdDSA"
    found, _ = _change(lambda keys: signing.retired(keys, now, kid, even_last=even_last))
    key = next(key for key in found if key.kid == kid)
    if as_json:
        print_json(fields(found, key, now))
    else:
        out.print(f"{kid} is retired; servers follow within five seconds.", soft_wrap=True)


def _change(
    decide: Callable[[list[SigningKey]], list[SigningKey]], *, makes: bool = False
) -> tuple[list[SigningKey], SigningKey | None]:
    """All keys after the change, and the first one that was changed or made."""
    made: list[SigningKey] = []

    def once(keys: list[SigningKey]) -> list[SigningKey]:
        made[:] = decide(keys)
        return made

    found = with_engine(lambda engine: engine.store.change_signing_keys(once), makes=makes)
    return found, made[0] if made else None


def fields(keys: list[SigningKey], key: SigningKey, now: int) -> dict[str, Any]:
    """A key as programs see it."""
    shown = {
        "kid": key.kid, "state": signing.state(keys, key, now), "createdAt": v1.rfc3339(key.created_at),
        "signsFrom": v1.rfc3339(key.signs_from),
    }  # fmt: skip
    if key.retired_at is not None:
        return shown | {"retiredAt": v1.rfc3339(key.retired_at)}
    until = signing.published_until(keys, key)
    return shown if until is None else shown | {"publishedUntil": v1.rfc3339(until)}


def _time(rfc3339: str) -> str:
    return rfc3339[:19].replace("T", " ") if "T" in rfc3339 else rfc3339
