"""API keys: who may ask for what, made and revoked."""

from typing import cast, get_args

from starlette.responses import Response

from pluct.commands import text
from pluct.console.page import Page
from pluct.engine import Engine
from pluct.errors import InvalidRequest
from pluct.model import Role

ROLES: tuple[str, ...] = get_args(Role)


async def show(engine: Engine, page: Page) -> Response:
    """All keys, newest first."""
    keys = sorted(await engine.store.api_keys(), key=lambda key: (key.revoked_at is not None, -key.created_at))
    return page.show("keys.html", keys=keys, roles=ROLES, secret=None, made=None)


async def create(engine: Engine, page: Page) -> Response:
    """A new key; its secret is on this page only."""
    role, name = page.field("role"), text(page.field("name"), "Name")
    if role not in ROLES:
        raise InvalidRequest(f"Role must be one of {', '.join(ROLES)}.")
    made, secret = await engine.create_key(cast(Role, role), name, page.signed_in.actor + page.field("once"))
    keys = sorted(await engine.store.api_keys(), key=lambda key: (key.revoked_at is not None, -key.created_at))
    return page.show("keys.html", keys=keys, roles=ROLES, secret=secret, made=made)


async def revoke(engine: Engine, page: Page) -> Response:
    """End a key for good; asked once more first."""
    key_id = page.field("key")
    key = next((key for key in await engine.store.api_keys() if key.id == key_id), None)
    if key is None:
        raise InvalidRequest("There is no such key.")
    if "confirmed" not in page.form:
        return page.show("revoke.html", key=key, own=key.id == page.signed_in.key.id)
    await engine.revoke_key(key_id)
    return page.to("/console/keys")
