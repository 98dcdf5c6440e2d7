"""The keys of `PLUCT_SIGNING=EdDSA`: which signs what, who may believe it and how long, and the signer that knows them.

A key is published before it signs, and for as long as a ticket of its may be alive. Which key signs a ticket follows
from the time of its issue, so that a retried vend gets the same token whatever was rotated since (docs/decisions/0014).
The rules are functions of all keys and of the time. The store keeps the keys and lets one process at a time change
them; every server looks at them once a second.
"""

import logging
import os
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any, Literal, Protocol

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from joserfc.jwk import OKPKey
from msgspec.structs import replace

from pluct.errors import InvalidRequest, SetupError, Unauthorized, Unavailable
from pluct.model import SigningKey, Ticket, base64url, thumbprint
from pluct.tickets import (
    EDDSA,
    TOKEN_LENGTH_MAX,
    HS256Signer,
    TicketClaims,
    own_bytes,
    own_claims,
    payload,
    ticket_claims,
    token_header,
    verified_claims,
)
from pluct.tickets import base64url as base64url_bytes

log = logging.getLogger("pluct")

#: How long whoever has the public keys may keep them without asking again; `/.well-known/jwks.json` says so.
CACHE_SECONDS = 300
#: How much longer a new key waits: until all servers publish it, and for clocks of servers that differ.
SPREAD_SECONDS = 30
#: How long after its last ticket's end a key stays published: verifiers have clocks and a leeway of their own.
LEEWAY_SECONDS = 120
#: Keys published at once.
PUBLISHED_MAX = 20
_NONCE_BYTES = 12

KeyState = Literal["pending", "signing", "leaving", "gone", "retired"]


class KeyStore(Protocol):
    """What keeps the keys."""

    async def signing_keys(self) -> list[SigningKey]:
        """See `Store.signing_keys`."""
        ...

    async def change_signing_keys(self, decide: Callable[[list[SigningKey]], list[SigningKey]]) -> list[SigningKey]:
        """See `Store.change_signing_keys`."""
        ...


class Seal:
    """Private keys at rest: AES-256-GCM under what is derived from `PLUCT_KEY_SECRET`, each bound to its key's id.

    Of several secrets the first seals, and each opens: that is how the secret itself is changed.
    """

    def __init__(self, secrets: Sequence[str]) -> None:
        derived = (HKDF(SHA256(), 32, None, b"pluct signing keys").derive(secret.encode()) for secret in secrets)
        self._ciphers = [AESGCM(key) for key in derived]

    def new_key(self, now: int, ticket_seconds: int) -> SigningKey:
        """A new key, which signs from now on."""
        kid = "-"
        while kid.startswith("-"):  # which a command line would take for an option
            private = Ed25519PrivateKey.generate()
            public = private.public_key().public_bytes_raw()
            kid = thumbprint(public)
        nonce = os.urandom(_NONCE_BYTES)
        sealed = nonce + self._ciphers[0].encrypt(nonce, private.private_bytes_raw(), kid.encode())
        return SigningKey(kid, public, sealed, now, now, ticket_seconds)

    def opened(self, key: SigningKey) -> Ed25519PrivateKey | None:
        """The private key, if it was sealed under a secret of ours, for this public key."""
        nonce, sealed = key.sealed[:_NONCE_BYTES], key.sealed[_NONCE_BYTES:]
        for cipher in self._ciphers:
            try:
                private = Ed25519PrivateKey.from_private_bytes(cipher.decrypt(nonce, sealed, key.kid.encode()))
            except (InvalidTag, ValueError):
                continue
            return private if private.public_key().public_bytes_raw() == key.public else None
        return None

    def insist(self, keys: Sequence[SigningKey], now: int) -> None:
        """Refuse to go on with another secret than the one that the keys in use were made under."""
        if any(self.opened(key) is None for key in _in_use(keys, now)):
            raise SetupError(
                "PLUCT_KEY_SECRET does not open the signing keys in this ledger: they were made under another one. "
                'Set that one (or both, "new,old", while the secret is changed).'
            )


# The rules. All keys are handed in; the order of reigns is the order of time.


def reigns(keys: Sequence[SigningKey]) -> list[SigningKey]:
    """The keys that sign, have signed or will, in their order: each until the next begins."""
    signs = [key for key in keys if key.retired_at is None or key.retired_at > key.signs_from]
    return sorted(signs, key=lambda key: (key.signs_from, key.created_at, key.kid))


def signing(keys: Sequence[SigningKey], now: int) -> SigningKey | None:
    """The key that signs what is issued now; None before the first."""
    begun = [key for key in reigns(keys) if key.signs_from <= now]
    return begun[-1] if begun and begun[-1].retired_at is None else None


def pending(keys: Sequence[SigningKey], now: int) -> list[SigningKey]:
    """The keys that are published and wait for their turn, in its order."""
    return [key for key in reigns(keys) if key.signs_from > now and key.retired_at is None]


def published_until(keys: Sequence[SigningKey], key: SigningKey) -> int | None:
    """When a key that was not retired may be forgotten: its last ticket has expired. None: no key takes over yet."""
    order = reigns(keys)
    return _until(key, *order[order.index(key) + 1 :][:1])


def _until(key: SigningKey, following: SigningKey | None = None) -> int | None:
    return None if following is None else following.signs_from + (key.ticket_seconds + LEEWAY_SECONDS) * 1000


def published(keys: Sequence[SigningKey], now: int) -> list[SigningKey]:
    """The keys whose tickets anyone may have to believe, now or soon."""
    order = reigns(keys)
    untils = [_until(key, following) for key, following in zip_longest(order, order[1:])]
    return [
        key for key, until in zip(order, untils, strict=True)
        if key.retired_at is None and (until is None or until > now)
    ]  # fmt: skip


def state(keys: Sequence[SigningKey], key: SigningKey, now: int) -> KeyState:
    """How a key stands."""
    if key.retired_at is not None:
        return "retired"
    if key.signs_from > now:
        return "pending"
    if key == signing(keys, now):
        return "signing"
    return "leaving" if key in published(keys, now) else "gone"


def _in_use(keys: Sequence[SigningKey], now: int) -> list[SigningKey]:
    signs = signing(keys, now)
    return [*([] if signs is None else [signs]), *pending(keys, now)]


def needed(keys: Sequence[SigningKey], now: int, seal: Seal, ticket_seconds: int) -> list[SigningKey]:
    """What a server must change before it signs: there is a key, and it knows how long this server's tickets live."""
    in_use = _in_use(keys, now)
    if not in_use:
        return [seal.new_key(now, ticket_seconds)]
    return [replace(key, ticket_seconds=ticket_seconds) for key in in_use if key.ticket_seconds < ticket_seconds]


def rotated(
    keys: Sequence[SigningKey], now: int, seal: Seal, ticket_seconds: int, *, at_once: bool = False
) -> list[SigningKey]:
    """A new key, published now. It signs once nobody can have older public keys in a cache; a queue keeps its order.

    The very first key need not wait (`at_once`) where there is nothing it would take over from.
    """
    seal.insist(keys, now)
    if len(published(keys, now)) >= PUBLISHED_MAX:
        raise InvalidRequest(
            f"{PUBLISHED_MAX} keys are published already, which is as many as may be at once. Wait until old ones have "
            "left (pluct signing-keys list says when), or retire those that nobody needs."
        )
    key = seal.new_key(now, ticket_seconds)
    if at_once and not _in_use(keys, now):
        return [key]
    return [replace(key, signs_from=now + (CACHE_SECONDS + SPREAD_SECONDS) * 1000)]


def retired(keys: Sequence[SigningKey], now: int, kid: str, *, even_last: bool = False) -> list[SigningKey]:
    """A key that is not believed any more. If it signs, the key that has waited longest takes over at once.

    Where no server signs with keys (`even_last`), none need take over.
    """
    key = next((key for key in keys if key.kid == kid), None)
    if key is None:
        raise InvalidRequest("There is no signing key with this id; see: pluct signing-keys list")
    if key.retired_at is not None:
        return []
    at, waiting = max(now, key.created_at), pending(keys, now)
    if key != signing(keys, now) or (even_last and not waiting):
        return [replace(key, retired_at=at)]
    if not waiting:
        raise InvalidRequest(
            "This key signs, and no other waits to take over. Make one first: pluct signing-keys rotate"
        )
    at = max(at, waiting[0].created_at)
    return [replace(key, retired_at=at), replace(waiting[0], signs_from=at)]


# The signer


class _Known:
    """A key at work."""

    def __init__(self, key: SigningKey, private: Ed25519PrivateKey | None) -> None:
        self.head = base64url_bytes(b'{"alg":"EdDSA","typ":"JWT","kid":"%s"}' % key.kid.encode()) + b"."
        self.private = private
        self._verify = Ed25519PublicKey.from_public_bytes(key.public).verify
        self.public = OKPKey.import_key(Ed25519PublicKey.from_public_bytes(key.public))
        x = base64url(key.public)
        self.jwk = {"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": key.kid, "x": x}

    def own(self, token: str) -> dict[str, Any] | None:
        """The claims of a token as we write them; None for those that are spelled otherwise. Raises `Unauthorized`."""
        if len(token) > TOKEN_LENGTH_MAX or not token.isascii():
            return None
        signed, _, written = token.encode().rpartition(b".")
        signature = own_bytes(written)
        if signature is None:
            return None
        try:
            self._verify(signature, signed)
        except InvalidSignature:
            raise Unauthorized("The token is not valid.") from None
        return own_claims(signed[len(self.head) :])


class KeyRing:
    """The `Signer` that knows all keys: it believes both kinds of tickets, and signs as `PLUCT_SIGNING` says.

    With a `seal` it signs with EdDSA, and `shared` is for tickets issued before the first key; without, with HS256.
    """

    def __init__(
        self, shared: HS256Signer | None, seal: Seal | None, ticket_seconds: int, clock: Callable[[], int]
    ) -> None:
        self._shared, self._seal, self._ticket_seconds, self._clock = shared, seal, ticket_seconds, clock
        self._keys: list[SigningKey] = []
        self._usable: list[SigningKey] = []  # those that can be opened
        self._known: dict[str, _Known | None] = {}  # None: it cannot be opened
        self._begins: list[int] = []
        self._signs: list[_Known | None] = [None]  # what is issued before the first of `_begins`, from then on, …
        self._believed: dict[str, _Known] = {}
        self._by_head: dict[str, _Known] = {}  # the same by what their tokens begin with
        self._jwks: list[dict[str, str]] = []
        self.sign: Callable[[Ticket], str] = self._sign  #: see `Signer.sign`
        if seal is None:
            assert shared is not None, "something signs"
            self.sign = shared.sign  # itself: it is on the path of every vend

    async def open(self, store: KeyStore) -> None:
        """Learn the keys, and make the first if need be. Raises `SetupError` if they cannot be used."""
        if self._seal is not None:
            self._seal.insist(await store.signing_keys(), self._clock())
        await self.follow(store)

    async def follow(self, store: KeyStore) -> None:
        """Take in what has become of the keys."""
        keys, now, seal = await store.signing_keys(), self._clock(), self._seal
        if seal is not None and needed(keys, now, seal, self._ticket_seconds):
            keys = await store.change_signing_keys(lambda found: needed(found, now, seal, self._ticket_seconds))
        if keys != self._keys:
            for key in keys:
                if key.kid not in self._known:
                    self._known[key.kid] = self._learn(key)
            self._keys = keys
            self._usable = [key for key in keys if self._known[key.kid] is not None]
            self._arrange(self._usable)
        self._jwks = [self._believed[key.kid].jwk for key in published(self._usable, now)]

    @property
    def signs(self) -> bool:
        """Whether tickets are signed with these keys, and not with the shared secret."""
        return self._seal is not None

    async def rotate(self, store: KeyStore, last: str) -> SigningKey:
        """See `rotated`; `last` is the key that was last when that was decided ("": none), so that it is done once.

        Raises `InvalidRequest` where tickets are signed with the shared secret, or another key is last by now.
        """
        seal, now = self._seal, self._clock()
        if seal is None:
            raise InvalidRequest("Tickets are signed with JWT_SECRET here; PLUCT_SIGNING=EdDSA makes keys.")

        def once(found: list[SigningKey]) -> list[SigningKey]:
            if last != (found[-1].kid if found else ""):
                raise InvalidRequest("The keys have changed since you looked; look again, then decide.")
            return rotated(found, now, seal, self._ticket_seconds, at_once=True)

        keys = await store.change_signing_keys(once)
        await self.follow(store)
        return keys[-1]

    async def retire(self, store: KeyStore, kid: str) -> None:
        """See `retired`."""
        now = self._clock()
        await store.change_signing_keys(lambda found: retired(found, now, kid, even_last=self._seal is None))
        await self.follow(store)

    def verify(self, token: str) -> TicketClaims:
        """See `Signer.verify`. The token says which key it claims; the key says by which algorithm."""
        if self._shared is not None and token.startswith(self._shared.head):
            return self._shared.verify(token)
        known = self._by_head.get(token.partition(".")[0])
        if known is not None and (own := known.own(token)) is not None:
            return ticket_claims(own)
        kid = token_header(token).get("kid")
        if kid is not None:
            key = self._believed.get(kid) if isinstance(kid, str) else None
            if key is None:
                raise Unauthorized("The token's key is unknown, or was retired.")
            return ticket_claims(verified_claims(token, key.public, EDDSA))
        if self._shared is None:
            raise Unauthorized("The token names no key.")
        return self._shared.verify(token)

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """See `Signer.jwks`."""
        return {"keys": self._jwks}

    def _sign(self, ticket: Ticket) -> str:
        key = self._signs[bisect_right(self._begins, ticket.issued_at)]
        if key is None:
            if self._shared is None:
                raise Unavailable("No signing key can be used here: PLUCT_KEY_SECRET is not what it is elsewhere.")
            return self._shared.sign(ticket)
        assert key.private is not None, "what cannot be opened is not known"
        signed = key.head + payload(ticket)
        return (signed + b"." + base64url_bytes(key.private.sign(signed))).decode("ascii")

    def _learn(self, key: SigningKey) -> _Known | None:
        """A key as it is used. One that is not what it says, or not ours, is left alone: nobody shall plant one."""
        private = None if self._seal is None else self._seal.opened(key)
        if key.kid != thumbprint(key.public) or (self._seal is not None and private is None):
            if key.retired_at is None:
                log.warning("signing key %s is left alone: PLUCT_KEY_SECRET does not open it", key.kid)
            return None
        return _Known(key, private)

    def _arrange(self, keys: list[SigningKey]) -> None:
        """Who signs when, and who is believed. What a key had signed that was retired, the next one signs."""
        order = reigns(keys)

        def heir(place: int) -> _Known | None:
            return next((self._known[key.kid] for key in order[place:] if key.retired_at is None), None)

        self._begins = [key.signs_from for key in order]
        self._signs = [None if self._shared is not None else heir(0), *map(heir, range(len(order)))]
        self._believed = {
            key.kid: known for key in keys if key.retired_at is None and (known := self._known[key.kid]) is not None
        }
        self._by_head = {known.head[:-1].decode(): known for known in self._believed.values()}
