"""What a ticket says, and which tokens are none. No I/O, no clock, no key: text comes in, claims come out or a refusal.

A ticket is a JWT (RFC 7519) read as RFC 8725 wants it: closed lists instead of open ones, and nothing is guessed.
"""

import json
from binascii import a2b_base64, b2a_base64
from typing import Any, NamedTuple

ISSUER = "pluct-business-engine"
TOKEN_LENGTH_MAX = 8_192
TEXT_LENGTH_MAX = 200
NUMBER_MAX = 2**53 - 1

#: What the verifier says by itself; the engine's codes, which `strict` passes on, come with sentences of their own.
SENTENCES = {
    "ticket_missing": "A ticket is required: Authorization: Bearer <token>.",
    "ticket_invalid": "The token is not a ticket for this service.",
    "ticket_not_yet_valid": "The ticket is not valid yet; compare the clocks of this server and of the engine.",
    "ticket_expired": "This ticket has expired; vend a new one.",
    "ticket_already_redeemed": "This ticket was redeemed before; each ticket is good for one action.",
    "seen_full": "Too many tickets are open at once; this one was not used. Try again shortly.",
    "unavailable": "Tickets cannot be checked now; try again shortly.",
}


class TicketRefused(Exception):
    """No. `code` says why to programs, `str()` to people; `status` is HTTP's: 401, or 503 for "ask again"."""

    def __init__(self, code: str, sentence: str | None = None) -> None:
        super().__init__(sentence or SENTENCES.get(code, "The ticket is refused."))
        self.code = code
        self.status = 503 if code in ("unavailable", "seen_full") else 401


class Ticket(NamedTuple):
    """The right to one action, as its token says. Times are in seconds since 1970."""

    id: str
    user_id: str
    action: str
    cost: int
    audience: str
    issued_at: int
    starts_at: int
    expires_at: int


class Token(NamedTuple):
    """A compact JWS come apart (RFC 7515, section 7.1); nothing of it is believed yet."""

    header: bytes  # as it came
    signed: bytes
    signature: bytes
    payload: bytes


def split(token: str) -> Token:
    """The parts of a token."""
    try:
        if len(token) > TOKEN_LENGTH_MAX:
            raise ValueError
        signed, _, signature = token.encode("ascii").rpartition(b".")
        header, payload = signed.split(b".")
        return Token(header, signed, _bytes(signature), _bytes(payload))
    except (ValueError, TypeError, AttributeError):
        raise TicketRefused("ticket_invalid", "The token is not a signed JWT.") from None


def key_id(header: bytes, algorithm: str) -> str | None:
    """The `kid` of a header that names this algorithm, and nothing that would have to be followed or obeyed."""
    try:
        said = _object(_bytes(header))
    except ValueError:
        said = {}
    kid = said.get("kid")
    if said.get("alg") != algorithm or said.get("typ", "JWT") != "JWT" or said.keys() - {"alg", "typ", "kid"}:
        raise TicketRefused("ticket_invalid", f"The token's header is not that of a ticket signed with {algorithm}.")
    if kid is not None and not isinstance(kid, str):
        raise TicketRefused("ticket_invalid", "The token's kid is no text.")
    return kid


def ticket_of(payload: bytes, audience: str, action: str | None) -> Ticket:
    """What the claims say, if they are a ticket's for this audience (and action); its times are for others to judge."""
    try:
        said = _object(payload)
        issuer, meant = said["iss"], said["aud"]
        found = Ticket(
            _text(said["jti"]), _text(said["sub"]), _text(said["act"]), _number(said["cost"]), audience,
            _number(said["iat"]), _number(said["nbf"]), _number(said["exp"]),
        )  # fmt: skip
    except (ValueError, KeyError):
        raise TicketRefused("ticket_invalid", "The token's claims are not those of a ticket.") from None
    if issuer != ISSUER:
        raise TicketRefused("ticket_invalid", "The token was not issued by a Pluct Business Engine.")
    if meant != audience:
        raise TicketRefused("ticket_invalid", "The ticket is for another audience.")
    if action is not None and found.action != action:
        raise TicketRefused("ticket_invalid", "The ticket is for another action.")
    return found


def _bytes(text: bytes) -> bytes:
    """What base64 for URLs stands for (RFC 7515, section 2); of its many spellings, the one an encoder writes."""
    data = a2b_base64(text.translate(_TO_BASE64) + b"==")
    if b2a_base64(data, newline=False).translate(_TO_URL, b"=") != text:
        raise ValueError("not the base64 of anything")
    return data


_TO_BASE64, _TO_URL = bytes.maketrans(b"-_", b"+/"), bytes.maketrans(b"+/", b"-_")


def _object(data: bytes) -> dict[str, Any]:
    """A JSON object in UTF-8 that says nothing twice. Raises ValueError for anything else."""
    text = data.decode("utf-8").strip(" \t\n\r")  # which `decode` would look for twice, at the cost of the rest
    try:
        found, end = _DECODER.raw_decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if end != len(text) or not isinstance(found, dict):
        raise ValueError("not one object")
    return found


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is used twice")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_once_each, parse_constant=_no_constant)


def _text(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= TEXT_LENGTH_MAX:
        raise ValueError
    value.encode()  # half a surrogate pair names nobody
    return value


def _number(value: object) -> int:
    if type(value) is not int or not 0 <= value <= NUMBER_MAX:  # true, 1.0 and "1" are none
        raise ValueError
    return value
