"""Who a user is: tokens that the engine makes itself, the tokens of a login server, and those of OpenID providers.

Whoever registers gets a user id, a user token for an hour, and a refresh token, which is good once: it is traded for
the next pair. A refresh token that comes a second time has been copied, so its whole family ends. An app that lost the
answer repeats the request under its idempotency key, and has the same pair again.
"""

import hashlib
import hmac
import re
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Callable, Sequence

import msgspec

from pluct.errors import RouteNotFound, Unauthorized
from pluct.issuers import Issuer, issuer_of
from pluct.model import Family
from pluct.stores import Store
from pluct.tickets import UserTokens

_REFRESH = re.compile(r"pluct_refresh_([0-9a-f]{32})_([A-Za-z0-9_-]{43})")
_DAY_MS = 86_400_000


class Lifetimes(msgspec.Struct, frozen=True):
    """How long tokens are good."""

    token_seconds: int = 3600
    refresh_days: int = 365


class Pair(msgspec.Struct, frozen=True):
    """A user with their tokens."""

    user_id: str
    user_token: str
    expires_at: int  # of the user token, ms
    refresh_token: str
    replayed: bool = False


class Identity:
    """The verbs of identity over a store."""

    def __init__(
        self, store: Store, tokens: UserTokens, issuers: Sequence[Issuer], lifetimes: Lifetimes,
        clock: Callable[[], int], *, registration: bool,
    ) -> None:  # fmt: skip
        self._store, self._tokens, self._lifetimes, self._clock = store, tokens, lifetimes, clock
        self._issuers = {issuer.name: issuer for issuer in issuers}
        self._registration = registration

    async def user_of(self, token: str) -> str:
        """Whom a token names. Raises `Unauthorized`, or `Unavailable` if a provider's keys cannot be had."""
        issuer = self._issuers.get(issuer_of(token)) if self._issuers else None
        if issuer is not None:
            return await issuer.user_id(token, self._clock())
        return self._tokens.user_id(token, self._clock())

    def token(self, user_id: str) -> tuple[str, int]:
        """A user token for somebody whom a backend has recognised, and when (ms) it expires."""
        return self._token(user_id, self._clock())

    async def register(self) -> Pair:
        """A new user."""
        self.insist()
        now, secret = self._clock(), _secret(secrets.token_bytes(32))
        family = Family(
            secrets.token_hex(16), "u_" + secrets.token_hex(16), secrets.token_bytes(32), _hash(secret), None, None,
            now, now, self._good_until(now), None,
        )  # fmt: skip
        await self._store.add_family(family)
        return self._pair(family, secret)

    async def refresh(self, token: str, key: str | None) -> Pair:
        """Trade a refresh token for the next pair. `key` is what the request can be repeated under."""
        self.insist()
        found = _REFRESH.fullmatch(token)
        if found is None:
            raise Unauthorized("This is no refresh token.")
        family_id, secret = found.groups()
        marked = None if key is None else _hash(key)
        family = await self._living(family_id)
        if hmac.compare_digest(family.current, _hash(secret)):
            now = self._clock()
            following = _secret(_next(family, secret, key or secrets.token_hex(16)))
            changed = msgspec.structs.replace(
                family, current=_hash(following), spent=family.current, spent_key=marked, refreshed_at=now,
                expires_at=self._good_until(now),
            )  # fmt: skip
            if await self._store.rotate_family(family.current, changed):
                return self._pair(changed, following)
            family = await self._living(family_id)  # somebody was faster with the same token
        if marked is not None and key is not None and (family.spent, family.spent_key) == (_hash(secret), marked):
            pair = self._pair(family, _secret(_next(family, secret, key)))
            return msgspec.structs.replace(pair, replayed=True)
        await self._store.revoke_families(self._clock(), family_id=family_id)
        raise Unauthorized(
            "This refresh token was used before, so all that came from the same registration are revoked."
        )

    async def revoke(self, user_id: str) -> int:
        """End all families of a user; how many there were. User tokens made before are good until they expire."""
        return await self._store.revoke_families(self._clock(), user_id=user_id)

    def insist(self) -> None:
        """Raise `RouteNotFound` unless there is registration here."""
        if not self._registration:
            raise RouteNotFound("There is no registration here: it is set up by registration = true under [identity].")

    async def _living(self, family_id: str) -> Family:
        family = await self._store.family(family_id)
        if family is None or family.revoked_at is not None or family.expires_at <= self._clock():
            raise Unauthorized("This refresh token is unknown, expired or revoked; register, or sign in again.")
        return family

    def _good_until(self, now: int) -> int:
        return now + self._lifetimes.refresh_days * _DAY_MS

    def _token(self, user_id: str, now: int) -> tuple[str, int]:
        expires = now // 1000 + self._lifetimes.token_seconds
        return self._tokens.make(user_id, now // 1000, expires), expires * 1000

    def _pair(self, family: Family, secret: str) -> Pair:
        token, expires_at = self._token(family.user_id, family.refreshed_at)
        return Pair(family.user_id, token, expires_at, f"pluct_refresh_{family.id}_{secret}")


def _next(family: Family, secret: str, key: str) -> bytes:
    """What the next secret is made from: the one before it, the request, and what only the database knows."""
    return hmac.digest(family.seed, f"{secret} {key}".encode("utf-8", "surrogatepass"), "sha256")


def _secret(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
