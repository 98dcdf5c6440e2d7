"""Tickets as JSON Web Tokens (RFC 7519), and their keys.

A token is a pure function of the committed ticket and the key: the same row signs to the same bytes, so a retried
vend signs again and never debits again. Whoever signs sits behind `Signer` (the keys of EdDSA are in `signing.py`);
HS256 is written out here because it is on the path of every vend (a library costs four times as much), and the library
is the judge of it in the tests. Verifying is left to the library, too, but for a token that is byte by byte as we would
have written it: of that only the signature is to be compared, and what it says is ours.
"""

import hashlib
import hmac
import json
import os
import time
from base64 import urlsafe_b64decode
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable
from typing import Any, Protocol, TypeGuard

import msgspec
from joserfc import jws
from joserfc.errors import JoseError, UnsupportedAlgorithmError
from joserfc.jwk import Key, OctKey
from joserfc.jws import JWSRegistry

from pluct.catalog import ISSUER
from pluct.errors import Unauthorized
from pluct.model import Ticket

#: No token of ours is longer; a longer one is not looked at.
TOKEN_LENGTH_MAX = 8_192
#: What a key of this kind may have signed with.
HS256 = JWSRegistry(algorithms=["HS256"])
_SECONDS_MAX = 10**12


class _EdDSA(JWSRegistry):
    """EdDSA and nothing else, for keys that are Ed25519 and nothing else (what RFC 9864 wants to be clear about)."""

    def get_alg(self, name: str) -> Any:
        if name != "EdDSA":
            raise UnsupportedAlgorithmError(f"Algorithm of '{name}' is not supported")
        return self.algorithms[name]


#: The same for these.
EDDSA = _EdDSA()


class TicketClaims(msgspec.Struct, frozen=True):
    """What a verified token says, as far as redeeming needs it. Times are whole seconds, and the ledger's to judge."""

    sub: str
    jti: str
    aud: str
    exp: int
    nbf: int = 0
    iat: int = 0


class Signer(Protocol):
    """Makes and checks tokens. A new algorithm is a new signer; nothing above it changes."""

    def sign(self, ticket: Ticket) -> str:
        """The token of this ticket: always the same bytes for the same ticket and key."""
        ...

    def verify(self, token: str) -> TicketClaims:
        """What the token says, if it is ours; the times are the ledger's to judge. Raises `Unauthorized`."""
        ...

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """The public keys, as a JWK set (RFC 7517)."""
        ...


class _Claims(msgspec.Struct):
    iss: str
    aud: str
    sub: str
    jti: str
    iat: int
    nbf: int
    exp: int
    act: str
    cost: int


class HS256Signer:
    """HMAC with SHA-256 under one shared secret (RFC 7518, section 3.2). It has no public keys."""

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()
        self._key = OctKey.import_key(self._secret)
        self._head = base64url(b'{"alg":"HS256","typ":"JWT"}') + b"."
        self.head = self._head.decode()  #: what each of its tokens begins with
        padded = (self._secret if len(self._secret) <= 64 else hashlib.sha256(self._secret).digest()).ljust(64, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded))  # HMAC's two hashes (RFC 2104), begun once
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in padded))

    def sign(self, ticket: Ticket) -> str:
        """The compact JWS of the ticket's claims."""
        signed = self._head + payload(ticket)
        return (signed + b"." + self._signature(signed)).decode("ascii")

    def verify(self, token: str) -> TicketClaims:
        """Check algorithm, signature, issuer and the claims' types."""
        own = self._own(token)
        return ticket_claims(verified_claims(token, self._key) if own is None else own)

    def _own(self, token: str) -> dict[str, Any] | None:
        """The claims of a token as we write them, signed with our secret; None for all others, good or bad."""
        if not token.startswith(self.head) or len(token) > TOKEN_LENGTH_MAX or not token.isascii():
            return None
        signed, _, signature = token.encode().rpartition(b".")
        if not hmac.compare_digest(signature, self._signature(signed)):
            return None
        return own_claims(signed[len(self._head) :])

    def _signature(self, signed: bytes) -> bytes:
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(signed)
        outer.update(inner.digest())
        return base64url(outer.digest())

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """An empty set: a shared secret is not published."""
        return {"keys": []}


class UserTokens:
    """The tokens that name a user when `PLUCT_USER_AUTH=token`: HS256 under a secret that cannot make tickets."""

    def __init__(self, secret: str) -> None:
        self._key = OctKey.import_key(secret.encode())

    def user_id(self, token: str, now: int) -> str:
        """The user a token names at the time `now` (milliseconds). Raises `Unauthorized`."""
        claims = verified_claims(token, self._key)
        if ISSUER not in audience_of(claims):
            raise Unauthorized("The user token is not meant for this engine.")
        within_times(claims, now)
        user_id = claims.get("sub")
        if not isinstance(user_id, str):
            raise Unauthorized("The user token names no user.")
        return user_id

    def make(self, user_id: str, issued: int, expires: int) -> str:
        """A token for this user; the times are in seconds. The same values make the same bytes."""
        claims = {"iss": ISSUER, "aud": ISSUER, "sub": user_id, "iat": issued, "exp": expires}
        return jws.serialize_compact({"alg": "HS256", "typ": "JWT"}, _encode(claims), self._key, registry=HS256)


_URL_SAFE, _FROM_URL_SAFE = bytes.maketrans(b"+/", b"-_"), bytes.maketrans(b"-_", b"+/")
_encode = msgspec.json.Encoder().encode


def payload(ticket: Ticket) -> bytes:
    """The ticket's claims as the middle part of its token."""
    issued = ticket.issued_at // 1000
    claims = _Claims(
        ISSUER, ticket.audience, ticket.user_id, ticket.id, issued, issued, ticket.expires_at // 1000, ticket.action,
        ticket.cost,
    )  # fmt: skip
    return b2a_base64(_encode(claims), newline=False).translate(_URL_SAFE, b"=")


def own_claims(part: bytes) -> dict[str, Any] | None:
    """What a token's middle part says, if it is written as `payload` writes it; None if it is not."""
    said = own_bytes(part)
    try:
        return None if said is None else json_object(said)
    except (ValueError, RecursionError):
        return None


def own_bytes(part: bytes) -> bytes | None:
    """What a part of a token stands for, if it is spelled as `base64url` spells it."""
    try:
        said = a2b_base64(part.translate(_FROM_URL_SAFE) + b"==")
    except ValueError:
        return None
    return said if base64url(said) == part else None


def base64url(data: bytes) -> bytes:
    """Base64 for URLs, without padding (RFC 7515, section 2)."""
    return b2a_base64(data, newline=False).translate(_URL_SAFE, b"=")


def ticket_claims(claims: dict[str, Any]) -> TicketClaims:
    """What a verified token says, if it is a ticket of ours."""
    if claims.get("iss") != ISSUER:
        raise Unauthorized("The token was not issued by this engine.")
    try:
        said = msgspec.convert(claims, TicketClaims)
        f"{said.sub}{said.jti}{said.aud}".encode()  # half a surrogate pair names nobody
        return said
    except (msgspec.ValidationError, UnicodeEncodeError):
        raise Unauthorized("The token is not a ticket.") from None


def verified_claims(token: str, key: Key, registry: JWSRegistry = HS256) -> dict[str, Any]:
    """The claims of a token that this key has signed, by the one algorithm that is the key's, whatever the token says.

    Raises `Unauthorized` for anything else.
    """
    token_header(token)
    try:
        return json_object(jws.deserialize_compact(token, key, registry=registry).payload)
    except (JoseError, ValueError, TypeError, RecursionError):
        raise Unauthorized("The token is not valid.") from None


def token_header(token: str) -> dict[str, Any]:
    """What a token says of itself, to be believed in nothing. Raises `Unauthorized` if it is no token at all."""
    if len(token) > TOKEN_LENGTH_MAX:
        raise Unauthorized("The token is too long.")
    try:
        header = json_object(urlsafe_b64decode(token.partition(".")[0] + "=="))
        if "crit" in header:
            raise ValueError("it wants something understood that we do not know (RFC 7515, section 4.1.11)")
        return header
    except (ValueError, TypeError, RecursionError):
        raise Unauthorized("The token is not valid.") from None


def json_object(data: bytes | None) -> dict[str, Any]:
    """An object in UTF-8 and nothing else, in which no name is there twice (RFC 7519, section 4). Or `ValueError`."""
    text = (data or b"").decode().strip(" \t\n\r")
    found, end = _DECODER.raw_decode(text)
    if end != len(text) or not isinstance(found, dict):
        raise ValueError("not one object")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice: which counts is for nobody to choose")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_once)


def audience_of(claims: dict[str, Any]) -> list[Any]:
    """Whom a token is meant for."""
    audience = claims.get("aud")
    return audience if isinstance(audience, list) else [audience]


def within_times(claims: dict[str, Any], now: int, leeway_seconds: int = 0) -> None:
    """Whether a user's token is good at `now` (ms). Raises `Unauthorized`."""
    expires, starts = claims.get("exp"), claims.get("nbf", 0)
    if not _is_number(expires) or (expires + leeway_seconds) * 1000 <= now:
        raise Unauthorized("The user token has expired, or does not say when it will; sign in again.")
    if not _is_number(starts) or (starts - leeway_seconds) * 1000 > now:
        raise Unauthorized("The user token is not valid yet.")


def _is_number(value: object) -> TypeGuard[int | float]:
    """A time in seconds that can be compared: not a boolean, NaN or infinite."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _SECONDS_MAX


def uuid7_source(clock: Callable[[], float] = time.time) -> Callable[[], str]:
    """A maker of UUIDv7 in text form (RFC 9562, section 5.7), each larger than the one before it.

    Each millisecond starts at random and counts up in the last 48 bits (section 6.2, method 1), of which it leaves the
    first free, so that rows of one process land at the end of their trees; a clock that steps back is waited out by
    counting on. The ids are unique, not secret.
    """
    stamp, prefix, counter = 0, "", 0

    def make() -> str:
        nonlocal stamp, prefix, counter
        now = int(clock() * 1000)
        if now > stamp:
            stamp = now
            chance = int.from_bytes(os.urandom(10), "big")
            high, low, counter = chance >> 68, chance >> 48 & 0x3FFF | 0x8000, chance & 0x7FFF_FFFF_FFFF
            prefix = f"{now >> 16:08x}-{now & 0xFFFF:04x}-7{high:03x}-{low:04x}-"
        else:
            counter += 1
        return f"{prefix}{counter:012x}"

    return make
