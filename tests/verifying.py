"""A premium backend as the tests need one: it verifies tickets offline, by a library, with the public keys it has.

It is as strict as the rules allow: it keeps the keys for as long as they may be kept, and does not ask again when a
token names another key.
"""

import json
from base64 import urlsafe_b64decode
from collections.abc import Callable
from typing import Any

from joserfc.jwk import OKPKey

from pluct.signing import CACHE_SECONDS


class NotAccepted(Exception):
    """The verifier's no."""


def header(token: str) -> dict[str, Any]:
    """A token's header, believed."""
    part = token.partition(".")[0]
    found: dict[str, Any] = json.loads(urlsafe_b64decode(part + "=="))
    return found


class Verifier:
    """One backend: its own clock, its own copy of the keys, its own moment of asking for them."""

    def __init__(self, clock: Callable[[], int], fetch: Callable[[], dict[str, Any]], leeway_seconds: int = 60) -> None:
        self._clock, self._fetch, self._leeway = clock, fetch, leeway_seconds
        self._keys: dict[str, OKPKey] = {}
        self._fetched_at: int | None = None

    def accept(self, token: str) -> dict[str, Any]:
        """What the token says, if it is good. Raises `NotAccepted`."""
        now = self._clock()
        if self._fetched_at is None or now >= self._fetched_at + CACHE_SECONDS * 1000:
            self._keys = {jwk["kid"]: OKPKey.import_key(jwk) for jwk in self._fetch()["keys"]}
            self._fetched_at = now
        said = header(token)
        if said["alg"] != "EdDSA" or said["kid"] not in self._keys:
            raise NotAccepted(f"unknown key {said.get('kid')}")
        start, _, signature = token.rpartition(".")
        key = self._keys[said["kid"]].public_key
        key.verify(urlsafe_b64decode(signature + "=="), start.encode())
        claims: dict[str, Any] = json.loads(urlsafe_b64decode(token.split(".")[1] + "=="))
        if not claims["nbf"] - self._leeway <= now / 1000 < claims["exp"] + self._leeway:
            raise NotAccepted("not now")
        return claims
