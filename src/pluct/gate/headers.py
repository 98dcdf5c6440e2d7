"""What passes through the gate: which requests at all, and of requests and answers which headers.

Functions of their arguments alone. Whatever two servers might read differently is refused, not mended: a request that
says its length twice, or in two ways, ends here.
"""

import re
from base64 import urlsafe_b64decode
from urllib.parse import quote

import msgspec

from pluct.errors import BodyTooLarge, InvalidRequest, MethodNotAllowed, Unauthorized

Headers = list[tuple[bytes, bytes]]

TOKEN_BYTES_MAX = 8 * 1024
#: They are for the next server only, or are said anew.
_HOP_BY_HOP = frozenset({
    b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization", b"te", b"trailer",
    b"transfer-encoding", b"upgrade", b"http2-settings", b"content-length",
})  # fmt: skip
_REQUEST_ONLY = frozenset({b"authorization", b"expect", b"host", b"x-request-id"})
_FORWARDED_FOR, _FORWARDED_PROTO, _FORWARDED_HOST = b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"
_FORWARDED = frozenset({b"forwarded", b"x-real-ip", _FORWARDED_PROTO, _FORWARDED_HOST})
#: What the gate says to the backend, and the backend to the gate.
OURS = b"x-pluct-"
USED = b"x-pluct-used"
_TARGET = re.compile(rb"/[\x21\x22\x24-\x7e]*")
_HOST = re.compile(rb"[A-Za-z0-9._~!$&'()*+;=%:\[\]-]{1,255}")
_TOKEN = re.compile(rb"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_METHOD_NOT_PASSED = ("CONNECT", "TRACE")


class Asked(msgspec.Struct, frozen=True):
    """A request as the gate understands it, before anybody has looked at its ticket."""

    method: bytes
    target: bytes
    host: bytes | None
    headers: Headers
    length: int | None  # of the body; None if it comes in chunks
    token: str


def asked(method: str, version: str, target: bytes, headers: Headers, body_bytes_max: int) -> Asked:
    """The request, if it is one that can pass with a good ticket. Raises what is wrong with it."""
    said: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        said.setdefault(name, []).append(value)
    if method in _METHOD_NOT_PASSED:
        raise MethodNotAllowed(f"The gate passes no {method} on.")
    if b"upgrade" in said:
        raise InvalidRequest("The gate passes no WebSocket and no other upgrade on: ask by ordinary requests.")
    if not _TARGET.fullmatch(target):
        raise InvalidRequest("The address must begin with a slash and have no spaces, control characters or # in it.")
    hosts = said.get(b"host", [])
    if len(hosts) > 1 or (version == "1.1" and not hosts) or (hosts and not _HOST.fullmatch(hosts[0])):
        raise InvalidRequest("One Host header is required.")
    length = _length(version, said)
    if length is not None and length > body_bytes_max:
        raise BodyTooLarge(f"The body is larger than {body_bytes_max} bytes.")
    return Asked(
        method.encode(), target, hosts[0] if hosts else None, headers, length, _token(said.get(b"authorization", []))
    )


def _length(version: str, said: dict[bytes, list[bytes]]) -> int | None:
    """How long the body is; None if that shows in its chunks."""
    codings, lengths = said.get(b"transfer-encoding"), said.get(b"content-length")
    if codings is not None:
        if lengths is not None or version != "1.1" or [coding.lower() for coding in codings] != [b"chunked"]:
            raise InvalidRequest("Transfer-Encoding must be chunked, once, and without a Content-Length.")
        return None
    if lengths is None:
        return 0
    if len(lengths) > 1 or not lengths[0].isdigit() or len(lengths[0]) > 18:
        raise InvalidRequest("Content-Length must be one whole number.")
    return int(lengths[0])


def _token(given: list[bytes]) -> str:
    """The ticket's token."""
    if len(given) > 1:
        raise Unauthorized("There are several Authorization headers; send the ticket in one.")
    scheme, _, token = (given[0] if given else b"").partition(b" ")
    token = token.strip()
    if scheme.lower() != b"bearer":
        raise Unauthorized("A ticket is required: Authorization: Bearer <token>.")
    if len(token) > TOKEN_BYTES_MAX or not _TOKEN.fullmatch(token):
        raise Unauthorized("The token is not a ticket.")
    return token.decode()


def request_head(request: Asked, prefix: bytes, authority: bytes, more: Headers, *, believed: bool) -> bytes:
    """The head that the backend gets. What the client said of its own forwarding passes only if it is `believed`."""
    named = _named(request.headers)
    parts = [request.method, b" ", prefix, request.target, b" HTTP/1.1\r\nhost: ", request.host or authority, b"\r\n"]
    for name, value in request.headers:
        plain = name.replace(b"_", b"-")  # which is what CGI and WSGI make of it
        if plain in _HOP_BY_HOP or plain in _REQUEST_ONLY or name in named or plain.startswith(OURS):
            continue
        if plain == _FORWARDED_FOR or (plain in _FORWARDED and not believed):
            continue
        parts += (name, b": ", value, b"\r\n")
    if request.length is None:
        parts.append(b"transfer-encoding: chunked\r\n")
    elif request.length or request.method in (b"POST", b"PUT", b"PATCH"):
        parts.append(b"content-length: %d\r\n" % request.length)
    for name, value in more:
        parts += (name, b": ", value, b"\r\n")
    parts.append(b"\r\n")
    return b"".join(parts)


def forwarding(request: Asked, client: str, *, believed: bool) -> Headers:
    """Who asked, how and for which host. A proxy in front that is `believed` has said so; the gate adds the proxy."""
    names = {name for name, _ in request.headers} if believed else set()
    before = [value for name, value in request.headers if name == _FORWARDED_FOR] if believed else []
    found = [(_FORWARDED_FOR, b", ".join([*before, client.encode()]))] if client else []
    if _FORWARDED_PROTO not in names:
        found.append((_FORWARDED_PROTO, b"http"))
    if _FORWARDED_HOST not in names and request.host is not None:
        found.append((_FORWARDED_HOST, request.host))
    return [*found, (b"via", b"1.1 pluct-gate")]


def answer_headers(headers: Headers) -> Headers:
    """Of the backend's headers those that are for the client."""
    named = _named(headers)
    return [
        (name, value)
        for name, value in headers
        if name not in _HOP_BY_HOP and name not in named and not name.startswith(OURS)
    ]


def _named(headers: Headers) -> set[bytes]:
    """The headers that Connection says are for the next server only."""
    values = [value for name, value in headers if name == b"connection"]
    return {token.strip().lower() for token in b",".join(values).split(b",")} if values else set()


def header_text(value: str) -> bytes:
    """A user id as a header carries it: visible ASCII as it is, all else and % as percent-encoded UTF-8."""
    return quote(value, safe="!\"#$&'()*+,/:;<=>?@[\\]^`{|}").encode()


def used(headers: Headers) -> bytes | None:
    """What the backend says it used of the ticket's credits."""
    return next((value for name, value in headers if name == USED), None)


class _Claims(msgspec.Struct):
    act: str


_decode_claims = msgspec.json.Decoder(_Claims).decode


def peeked_action(token: str) -> str:
    """The action that a token names. Nobody believes it: it is only good for saying no. Raises that it is no ticket."""
    payload = token.split(".")[1]
    try:
        return _decode_claims(urlsafe_b64decode(payload + "=" * (-len(payload) % 4))).act
    except (ValueError, RecursionError, msgspec.MsgspecError):
        raise Unauthorized("The token is not a ticket.") from None
