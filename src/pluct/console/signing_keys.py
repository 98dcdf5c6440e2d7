"""The keys that sign tickets under PLUCT_SIGNING=EdDSA: seen, rotated and retired."""

from starlette.responses import Response

from pluct import signing
from pluct.commands import text
from pluct.console.page import Page
from pluct.engine import Engine
from pluct.errors import InvalidRequest
from pluct.signing import KeyRing


async def show(engine: Engine, page: Page) -> Response:
    """All keys, the newest first."""
    keys, now = await engine.store.signing_keys(), engine.now()
    shown = [
        (key, signing.state(keys, key, now), None if key.retired_at else signing.published_until(keys, key))
        for key in reversed(keys)
    ]
    return page.show("signing-keys.html", keys=shown, signs=_ring(engine).signs, done=page.query.get("done"))


async def rotate(engine: Engine, page: Page) -> Response:
    """Make a new key; asked once more first."""
    if "confirmed" not in page.form:
        keys = await engine.store.signing_keys()
        return page.show("change-signing-keys.html", kid=None, last=keys[-1].kid if keys else "")
    key = await _ring(engine).rotate(engine.store, page.form.get("last", ""))
    return page.to("/console/signing-keys", done=key.kid)


async def retire(engine: Engine, page: Page) -> Response:
    """Stop believing in a key for good; asked once more first."""
    kid = text(page.field("key"), "The key's id")
    keys = await engine.store.signing_keys()
    if kid not in {key.kid for key in keys}:
        raise InvalidRequest("There is no such signing key.")
    if "confirmed" not in page.form:
        return page.show("change-signing-keys.html", kid=kid)
    await _ring(engine).retire(engine.store, kid)
    return page.to("/console/signing-keys", done=kid)


def _ring(engine: Engine) -> KeyRing:
    assert isinstance(engine.signer, KeyRing), "servers sign with a ring"
    return engine.signer
