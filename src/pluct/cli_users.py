"""`pluct users`: what operators do about identities."""

import click

from pluct import app
from pluct.commands import text
from pluct.engine import Engine
from pluct.terminal import as_json_option, current_settings, example, out, plain, print_json, with_engine


@click.group(short_help="End what users have registered.", epilog="Next: pluct users revoke --help")
def users() -> None:
    """What can be done about users' identities."""


@users.command(epilog=example("pluct users revoke u_6f1c…", "pluct users revoke u_6f1c… --json"))
@click.argument("user")
@as_json_option
def revoke(user: str, as_json: bool) -> None:
    """End all registrations of a user: their refresh tokens are good for nothing from now on.

    User tokens they have already are good until they expire, within an hour by default. The credits stay.
    """
    user_id, settings = text(user, "USER"), current_settings()

    async def end(engine: Engine) -> int:
        async with app.identity(settings, engine) as identity:
            return await identity.revoke(user_id)

    count = with_engine(end)
    if as_json:
        print_json({"ok": True, "userId": user_id, "revoked": count})
    elif count:
        seconds = settings.identity.lifetimes.token_seconds
        out.print(f"{plain(user_id)}: {count} ended. User tokens are good for {seconds} s more.")
    else:
        out.print(f"{plain(user_id)} has no registration that had not ended already.")
