"""The seed's two routes, byte for byte: `POST /vend-token` and `POST /add-credits`."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from pluct.commands import text
from pluct.engine import Engine
from pluct.errors import InvalidRequest, PluctError, Unauthorized
from pluct.web import access
from pluct.web.endpoint import Answer, Call
from pluct.web.problems import headers

# Any, because the seed had one sentence for what is falsy in JavaScript, whatever its type: see `_is_missing`.
_UserId = Annotated[Any, Meta(extra_json_schema={"anyOf": [{"type": "string"}, {"type": "null"}]})]
_Amount = Annotated[Any, Meta(extra_json_schema={"anyOf": [{"type": "integer"}, {"type": "null"}]})]


class SeedVendBody(msgspec.Struct, rename="camel"):
    """Who spends a credit."""

    user_id: _UserId = None
    client_request_id: str | None = None


class SeedVendAnswer(msgspec.Struct):
    """The ticket."""

    token: str


class SeedAddBody(msgspec.Struct, rename="camel"):
    """Who gets how many credits, and for which payment."""

    user_id: _UserId = None
    amount: _Amount = None
    reference: str | None = None
    client_request_id: str | None = None


class SeedAddAnswer(msgspec.Struct, rename="camel"):
    """What can be spent now."""

    success: bool
    new_balance: int


async def vend_token(engine: Engine, call: Call) -> Answer:
    """Spend a credit on the default action."""
    body: SeedVendBody = call.body
    if call.caller.user_id is not None:
        if body.user_id not in (None, call.caller.user_id):
            raise Unauthorized  # not 403, which means "no credits" on this route
    elif _is_missing(body.user_id) and (body.user_id is not None or b"x-user-id" not in call.headers):
        raise InvalidRequest("User ID is required")
    user = access.user_id(call, None if body.user_id is None else _string(body.user_id))
    vending = await engine.vend(user, key=access.idempotency_key(call, body.client_request_id))
    call.ticket_id = vending.ticket.id
    return Answer(SeedVendAnswer(vending.token), replayed=vending.replayed)


async def add_credits(engine: Engine, call: Call) -> Answer:
    """Grant bought credits."""
    body: SeedAddBody = call.body
    if _is_missing(body.user_id) or _is_missing(body.amount) or (type(body.amount) is int and body.amount < 1):
        raise InvalidRequest("User ID and positive amount are required")
    call.user_id = text(_string(body.user_id), "userId")
    if type(body.amount) is not int:
        raise InvalidRequest("amount must be a whole number, written in plain digits without quotes.")
    reference = None if body.reference is None else text(body.reference, "reference")
    fingerprint = (body.user_id, body.amount, "paid", None, 50, reference, None)
    granted = await engine.grant(
        body.user_id, body.amount, source="webhook", actor=call.caller.id, reference=reference,
        claim=access.claim(call, "add", body.client_request_id, *fingerprint),
    )  # fmt: skip
    return Answer(SeedAddAnswer(True, granted.available_after), replayed=granted.replayed)


def _is_missing(value: object) -> bool:
    """Whether the first engine took this for nothing: it is falsy in JavaScript."""
    return value in (None, "", 0)  # 0 is also false, 0.0 and -0.0


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise InvalidRequest("userId must be a string.")
    return value


_SENTENCES = {
    "insufficient_credits": "Insufficient credits",
    "wallet_frozen": "Wallet frozen",
    "unauthorized": "Unauthorized",
}


def shape(error: PluctError, call: Call) -> Answer:
    """An error as the seed tells it: one sentence, and 403 where `/v1` says 402."""
    status = 403 if error.status == 402 else error.status
    return Answer({"error": _SENTENCES.get(error.code, error.sentence)}, status, headers=headers(error))
