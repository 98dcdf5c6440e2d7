"""OpenID Connect providers whose tokens name users: their keys are fetched, cached and rotated, each believed for one
algorithm.

A token chooses nothing: which provider it is from decides the address its keys come from, and a key's type decides how
it is verified (RFC 8725, section 3.1; OpenID Connect Core 1.0, section 3.1.3.7). `jku`, `x5u` and `jwk` are not read.
"""

import asyncio
import logging
import re
from base64 import urlsafe_b64decode
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any

import msgspec
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from pluct.errors import Unauthorized, Unavailable
from pluct.tickets import EDDSA, audience_of, json_object, token_header, verified_claims, within_times

KEYS_MAX = 100
RSA_BITS_MIN = 2048
#: How long keys are used without asking again, within the bounds that the provider may choose from.
FRESH_SECONDS, FRESH_SECONDS_MIN, FRESH_SECONDS_MAX = 300.0, 60.0, 3600.0
STALE_SECONDS_MAX = 86_400.0  # how long keys are used that cannot be fetched again
ASK_SECONDS_MIN = 10.0  # between two requests for the key set, whatever kids come
FIRST_ASK_SECONDS_MIN = 1.0  # the same, while there is no key at all
LEEWAY_SECONDS = 30  # between their clock and ours

log = logging.getLogger("pluct.identity")

#: Fetches a key set: what it answered, and its Cache-Control. Raises `OSError` or `ValueError`.
Fetch = Callable[[str], Awaitable[tuple[bytes, str]]]
_Trusted = tuple[Key, JWSRegistry]


class IssuerSettings(msgspec.Struct, frozen=True):
    """A provider as it is set up."""

    issuer: str
    audience: str
    jwks_url: str
    claim: str = "sub"
    prefix: str = ""


class Issuer:
    """A provider at work."""

    def __init__(self, settings: IssuerSettings, fetch: Fetch) -> None:
        self._settings, self._fetch = settings, fetch
        self.name = settings.issuer
        self._keys: dict[str | None, _Trusted] = {}
        self._fresh_until = self._known_until = self._ask_after = 0.0
        self._asking = asyncio.Lock()
        self._background: asyncio.Task[None] | None = None

    async def user_id(self, token: str, now: int) -> str:
        """The user a token of this provider names at `now` (ms). Raises `Unauthorized` or `Unavailable`."""
        settings, kid = self._settings, token_header(token).get("kid")
        if kid is not None and not isinstance(kid, str):
            raise Unauthorized("The token's kid is not a string.")
        key, registry = await self._key(kid)
        claims = verified_claims(token, key, registry)
        if claims.get("iss") != settings.issuer:
            raise Unauthorized("The token is from somebody else than it says.")
        if settings.audience not in audience_of(claims):
            raise Unauthorized("The token is not meant for this app.")
        within_times(claims, now, LEEWAY_SECONDS)
        if settings.claim == "email" and claims.get("email_verified") is not True:
            raise Unauthorized("The token's email address is not verified.")
        found = claims.get(settings.claim)
        if not isinstance(found, str) or not found:
            raise Unauthorized(f"The token names no user: it has no {settings.claim}.")
        return settings.prefix + found

    async def _key(self, kid: str | None) -> _Trusted:
        """The key of this id (of the only one, if the token names none); an unknown id has the set fetched again."""
        if self._find(kid) is None:
            async with self._asking:
                if self._find(kid) is None:
                    await self._ask()
        elif monotonic() >= self._fresh_until and not self._asking.locked():
            self._background = asyncio.create_task(self._ask_again())  # and meanwhile the keys there are will do
        if monotonic() >= self._known_until:
            raise Unavailable("The keys of the login provider cannot be fetched now; try again shortly.")
        found = self._find(kid)
        if found is None:
            raise Unauthorized("The token is signed with a key that its provider does not publish.")
        return found

    async def _ask_again(self) -> None:
        async with self._asking:
            await self._ask()

    def _find(self, kid: str | None) -> _Trusted | None:
        if kid is None:
            return next(iter(self._keys.values())) if len(self._keys) == 1 else None
        return self._keys.get(kid)

    async def _ask(self) -> None:
        """Fetch the keys, unless that was done just now. Those there are stay good through an outage."""
        now = monotonic()
        if now < self._ask_after:
            return
        self._ask_after = now + (ASK_SECONDS_MIN if now < self._known_until else FIRST_ASK_SECONDS_MIN)
        try:
            answer, cache_control = await self._fetch(self._settings.jwks_url)
            self._keys = _keys(answer)
        except (OSError, ValueError) as error:
            log.warning("the keys of %s could not be fetched: %s", self.name, error)
            return
        said = re.search(r"max-age=(\d{1,9})", cache_control)
        fresh = min(max(float(said[1]), FRESH_SECONDS_MIN), FRESH_SECONDS_MAX) if said else FRESH_SECONDS
        self._fresh_until, self._known_until = now + fresh, now + STALE_SECONDS_MAX


def issuer_of(token: str) -> str:
    """The provider that a token says it is from, to be believed in nothing; "" if it says none."""
    try:
        found = json_object(urlsafe_b64decode(token.split(".")[1] + "==")).get("iss")
    except (ValueError, TypeError, RecursionError, IndexError):
        return ""
    return found if isinstance(found, str) else ""


def _keys(answer: bytes) -> dict[str | None, _Trusted]:
    """The keys of a set (RFC 7517) by id; those of other kinds are left out (section 5). Raises `ValueError`."""
    published = json_object(answer).get("keys")
    if not isinstance(published, list):
        raise ValueError("it is no key set")
    found: dict[str | None, _Trusted] = {}
    for jwk in published[:KEYS_MAX]:
        try:
            trusted = _trusted(jwk)
        except (JoseError, ValueError, TypeError, KeyError, AttributeError) as error:
            log.warning("a published key is no key (%s)", type(error).__name__)
            continue
        if trusted is not None:
            found[jwk.get("kid")] = trusted
    return found


def _trusted(jwk: dict[str, Any]) -> _Trusted | None:
    """A key with the one algorithm it is for; None for a key that is none of ours."""
    if jwk.get("use", "sig") != "sig" or not isinstance(jwk.get("kid", ""), str):
        return None
    kind = jwk["kty"], jwk.get("crv")
    if kind == ("RSA", None) and jwk.get("alg", "RS256") == "RS256":
        if len(urlsafe_b64decode(jwk["n"] + "==")) * 8 < RSA_BITS_MIN:
            raise ValueError("too short")
        return RSAKey.import_key({name: jwk[name] for name in ("kty", "n", "e")}), _RS256
    if kind == ("EC", "P-256") and jwk.get("alg", "ES256") == "ES256":
        return ECKey.import_key({name: jwk[name] for name in ("kty", "crv", "x", "y")}), _ES256
    if kind == ("OKP", "Ed25519") and jwk.get("alg", "EdDSA") in ("EdDSA", "Ed25519"):
        return OKPKey.import_key({name: jwk[name] for name in ("kty", "crv", "x")}), EDDSA
    return None


_RS256, _ES256 = JWSRegistry(algorithms=["RS256"]), JWSRegistry(algorithms=["ES256"])
