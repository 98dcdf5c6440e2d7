"""Who asks, and whether they may: keys, the webhook secret, user tokens, and ids as the contract takes them."""

import hmac
from contextlib import suppress

from pluct.commands import Once, once, text
from pluct.engine import Engine
from pluct.errors import Forbidden, InvalidRequest, Unauthorized, Unavailable
from pluct.identity import Identity
from pluct.web.endpoint import ANYONE, Call, Caller, Door


class Access:
    """The doors, as they are set up."""

    def __init__(self, user_auth: str, webhook_secrets: tuple[str, ...], identity: Identity) -> None:
        self._open = user_auth == "open"
        self._identity = identity
        self._webhook_secrets = tuple(secret.encode() for secret in webhook_secrets)

    def key(self, *roles: str) -> Door:
        """For API keys of these roles; the webhook secret acts as `mint`."""

        async def authorise(engine: Engine, call: Call) -> Caller:
            return await self._by_key(engine, call, roles)

        return Door(roles, authorise)

    def user(self, *roles: str) -> Door:
        """For the user themselves (in open mode: anyone), and for API keys of these roles, if any."""

        async def anyone(engine: Engine, call: Call) -> Caller:
            return ANYONE

        return Door(("anyone",), anyone) if self._open else self._user_or_key(roles)

    def own(self, *roles: str) -> Door:
        """For a user with a token, and for API keys of these roles; never for anyone."""
        return self.key(*roles) if self._open else self._user_or_key(roles)

    def _user_or_key(self, roles: tuple[str, ...]) -> Door:
        async def authorise(engine: Engine, call: Call) -> Caller:
            return await self._token_or_key(engine, call, roles)

        return Door(("user", *roles), authorise)

    async def _token_or_key(self, engine: Engine, call: Call, roles: tuple[str, ...]) -> Caller:
        bearer = _bearer(call)
        if bearer is not None and bearer.count(".") == 2:
            user_id = await self._identity.user_of(bearer)
            return Caller("user:" + user_id, "user", text(user_id, "the token's sub"))
        if not roles:
            raise Unauthorized("A user token is required: Authorization: Bearer <token>.")
        return await self._by_key(engine, call, roles)

    async def _by_key(self, engine: Engine, call: Call, roles: tuple[str, ...]) -> Caller:
        given = call.headers.get(b"x-webhook-secret")
        if given is not None:
            matches = [hmac.compare_digest(given, secret) for secret in self._webhook_secrets]
            if not any(matches):
                raise Unauthorized
            caller = Caller("webhook", "mint")
        else:
            secret = call.headers.get(b"x-api-key", b"").decode("latin-1")
            bearer = None if secret else _bearer(call)
            caller = await self._mistaken_user(bearer) or await _holder(engine, secret or bearer)
        if caller.role not in roles:
            raise Forbidden(f"This needs a key with the role {' or '.join(roles)}; this one is {caller.role}.")
        return caller

    async def _mistaken_user(self, bearer: str | None) -> Caller | None:
        """The user whose token is shown where a key is asked for; None if it is no good token, or tokens are none."""
        if self._open or bearer is None or bearer.count(".") != 2:
            return None
        with suppress(Unauthorized, Unavailable):  # nobody known: it is looked at as a key, and is none
            return Caller("user:" + await self._identity.user_of(bearer), "user")
        return None


async def _holder(engine: Engine, secret: str | None) -> Caller:
    """Whose key this is."""
    if not secret:
        raise Unauthorized("An API key is required: Authorization: Bearer <key>.")
    key = await engine.api_key(secret)
    await engine.limits.request(key.id)
    return Caller("key:" + key.id, key.role, None, key)


def _bearer(call: Call) -> str | None:
    scheme, _, credentials = call.headers.get(b"authorization", b"").partition(b" ")
    return credentials.strip().decode("latin-1") if scheme.lower() == b"bearer" else None


def user_id(call: Call, given: str | None) -> str:
    """Whose wallet it is: the token's user, then the one named, then the header's."""
    if call.caller.user_id is not None:
        if given is not None and given != call.caller.user_id:
            raise Forbidden("The user token names another user.")
        given = call.caller.user_id
    elif given is None:
        header = call.headers.get(b"x-user-id")
        if header is None:
            raise InvalidRequest("userId is required.")
        try:
            given = header.decode("utf-8")
        except UnicodeDecodeError:
            raise InvalidRequest("X-User-Id is not valid UTF-8.") from None
    call.user_id = text(given, "userId")
    return given


def idempotency_key(call: Call, given: str | None) -> str | None:
    """The request's key: the header's, or else the body's."""
    header = call.headers.get(b"idempotency-key")
    if header is not None:
        try:
            return text(header.decode("utf-8"), "Idempotency-Key")
        except UnicodeDecodeError:
            raise InvalidRequest("Idempotency-Key is not valid UTF-8.") from None
    return None if given is None else text(given, "clientRequestId")


def claim(call: Call, operation: str, given: str | None, *request: object) -> Once | None:
    """The claim of the request's key, in the caller's own scope."""
    key = idempotency_key(call, given)
    return None if key is None else once(operation, call.caller.id, key, *request)
