"""Who users are: registering, refreshing, and tokens for apps with a login of their own."""

from typing import Any

import msgspec

from pluct.commands import text
from pluct.engine import Engine
from pluct.identity import Identity, Pair
from pluct.web import access
from pluct.web.address import client_address
from pluct.web.endpoint import Answer, Call
from pluct.web.v1 import rfc3339

_NOT_KEPT = ((b"cache-control", b"no-store"),)


class RefreshBody(msgspec.Struct, rename="camel", kw_only=True):
    """The refresh token that was given last."""

    refresh_token: str
    client_request_id: str | None = None


class PairAnswer(msgspec.Struct, rename="camel"):
    """A user with their tokens; `expiresAt` is the user token's."""

    user_id: str
    user_token: str
    refresh_token: str
    expires_at: str
    request_id: str
    ok: bool = True


class TokenAnswer(msgspec.Struct, rename="camel"):
    """A user token."""

    user_id: str
    user_token: str
    expires_at: str
    request_id: str
    ok: bool = True


class RevokedAnswer(msgspec.Struct, rename="camel"):
    """How many registrations of the user have ended."""

    user_id: str
    revoked: int
    request_id: str
    ok: bool = True


class Users:
    """The routes over identity."""

    def __init__(self, identity: Identity, proxy_hops: int) -> None:
        self._identity, self._hops = identity, proxy_hops

    async def register(self, engine: Engine, call: Call) -> Answer:
        """A new user with an id and tokens of their own. The answer is not given twice: keep it."""
        self._identity.insist()
        await engine.limits.register(client_address(call.scope, self._hops))
        return _pair(await self._identity.register(), call, 201)

    async def refresh(self, engine: Engine, call: Call) -> Answer:
        """The next pair for a refresh token, which is good once. Under the same Idempotency-Key: the same pair."""
        body: RefreshBody = call.body
        key = access.idempotency_key(call, body.client_request_id)
        return _pair(await self._identity.refresh(body.refresh_token, key), call, 200)

    async def token(self, engine: Engine, call: Call) -> Answer:
        """A user token for somebody whom the caller has recognised."""
        user_id = call.user_id = text(call.path["userId"], "userId")
        token, expires_at = self._identity.token(user_id)
        return Answer(TokenAnswer(user_id, token, rfc3339(expires_at), call.request_id), headers=_NOT_KEPT)

    async def revoke(self, engine: Engine, call: Call) -> Answer:
        """End all registrations of a user. User tokens given before are good until they expire."""
        user_id = call.user_id = text(call.path["userId"], "userId")
        return Answer(RevokedAnswer(user_id, await self._identity.revoke(user_id), call.request_id))


def _pair(pair: Pair, call: Call, status: int) -> Answer:
    call.user_id = pair.user_id
    content: Any = PairAnswer(
        pair.user_id, pair.user_token, pair.refresh_token, rfc3339(pair.expires_at), call.request_id
    )
    return Answer(content, status, pair.replayed, headers=_NOT_KEPT)
