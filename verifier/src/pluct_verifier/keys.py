"""The keys tickets are signed with, and the one algorithm each kind of key is for (RFC 8725, section 3.1).

A secret verifies HS256 and nothing else, a key set EdDSA with Ed25519 and nothing else: what a token's header says can
make a token fail, never choose how it is verified.
"""

import logging
import re
import threading
from time import monotonic
from typing import Any

from joserfc.errors import JoseError
from joserfc.jwk import OctKey, OKPKey

from pluct_verifier.calls import Http, hold
from pluct_verifier.tickets import TicketRefused

SECRET_BYTES_MIN = 32
KEYS_MAX = 100
FRESH_SECONDS_MAX = 300.0  # whatever the answer's max-age says
STALE_SECONDS_MAX = 86_400.0  # how long keys are used that cannot be fetched again
ASK_SECONDS_MIN = 10.0  # between two requests for the key set, whatever kids come
FIRST_ASK_SECONDS_MIN = 1.0  # the same, while there is no key at all, or max-age is as short

_log = logging.getLogger("pluct_verifier")


class Secret:
    """The secret shared with the engine (`JWT_SECRET`). Whoever knows it can make tickets, too."""

    algorithm = "HS256"

    def __init__(self, secret: str) -> None:
        if len(secret.encode()) < SECRET_BYTES_MIN:
            raise ValueError(f"The secret is shorter than {SECRET_BYTES_MIN} bytes: HS256 needs as many (RFC 7518).")
        self._key = OctKey.import_key(secret)

    async def find(self, kid: str | None, waiting: bool) -> OctKey:
        """The key; an id does not choose another."""
        return self._key


class KeySet:
    """The engine's published keys (RFC 7517): fetched when needed, kept while fresh, and used on through an outage."""

    algorithm = "EdDSA"

    def __init__(self, url: str) -> None:
        if not re.match(r"https?://[^/]", url):
            raise ValueError("jwks_url must be the address of a key set: https://…/.well-known/jwks.json")
        self._url, self._http, self._lock = url, Http({}), threading.Lock()
        self._keys: dict[str | None, OKPKey] = {}
        self._fresh_until = self._known_until = self._ask_after = 0.0

    async def find(self, kid: str | None, waiting: bool) -> OKPKey:
        """The key of this id. An id that is not known has the set fetched, if that was not done just now."""
        if kid not in self._keys:
            await hold(self._lock, waiting)  # all who need the new set wait for the one who fetches it
            await self._refresh_and_release(waiting)
        elif monotonic() >= self._fresh_until and self._lock.acquire(blocking=False):
            await self._refresh_and_release(waiting)  # and meanwhile the others go on with the keys there are
        if monotonic() >= self._known_until:
            raise TicketRefused("unavailable", "The engine's keys cannot be fetched now; try again shortly.")
        if (key := self._keys.get(kid)) is None:
            raise TicketRefused("ticket_invalid", "The token is signed with a key the engine does not publish.")
        return key

    async def _refresh_and_release(self, waiting: bool) -> None:
        try:
            if (now := monotonic()) >= self._ask_after:
                self._ask_after = now + (ASK_SECONDS_MIN if now < self._known_until else FIRST_ASK_SECONDS_MIN)
                answer = await self._http.send(waiting, "GET", self._url)
                self._keys = _keys(answer.raise_for_status().json())
                said = re.search(r"max-age=(\d{1,9})", answer.headers.get("cache-control", ""))
                fresh = min(
                    max(float(said[1]), FIRST_ASK_SECONDS_MIN) if said else FRESH_SECONDS_MAX, FRESH_SECONDS_MAX
                )
                self._ask_after = now + min(fresh, ASK_SECONDS_MIN)
                self._fresh_until, self._known_until = now + fresh, now + STALE_SECONDS_MAX
        except (*self._http.errors, ValueError) as error:
            _log.warning("the engine's keys could not be fetched (%s)", type(error).__name__)
        finally:
            self._lock.release()


def _keys(published: Any) -> dict[str | None, OKPKey]:
    """The keys of a set by id; those of other kinds are left out (RFC 7517, section 5)."""
    if not isinstance(published, dict) or not isinstance(published.get("keys"), list):
        raise ValueError("no key set")
    found: dict[str | None, OKPKey] = {}
    for key in published["keys"][:KEYS_MAX]:
        try:
            kind = key["kty"], key.get("crv"), key.get("alg", "EdDSA"), key.get("use", "sig")
            if kind == ("OKP", "Ed25519", "EdDSA", "sig"):
                found[str(key["kid"])] = OKPKey.import_key({name: key[name] for name in ("kty", "crv", "x")})
        except (KeyError, TypeError, AttributeError, ValueError, JoseError) as error:
            _log.warning("a published key is no key (%s)", type(error).__name__)
    return found
