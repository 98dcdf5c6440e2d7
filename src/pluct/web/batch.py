"""`POST /v1/tickets/batch`: many operations on tickets in one request, for a backend that has many at once.

Each operation is what a request of its own would be: decided by itself, with its own idempotency key, counted by the
key's rate limit and told of in the log as that. Only HTTP is shared, which costs more than the rest together.
"""

import asyncio
import time
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from pluct.engine import Engine
from pluct.errors import InvalidRequest
from pluct.web import access, v1
from pluct.web.endpoint import Answer, Call, Handler, answered, event
from pluct.web.problems import Problem, problem

OPERATIONS_MAX = 100


class RedeemOperation(v1.RedeemBody, rename="camel", tag_field="op", tag="redeem", kw_only=True):
    """See `POST /v1/tickets/redeem`."""


class CaptureOperation(v1.CaptureBody, rename="camel", tag_field="op", tag="capture", kw_only=True):
    """See `POST /v1/tickets/{id}/capture`."""

    ticket_id: str


class VoidOperation(v1.VoidBody, rename="camel", tag_field="op", tag="void", kw_only=True):
    """See `POST /v1/tickets/{id}/void`."""

    ticket_id: str


Operation = RedeemOperation | CaptureOperation | VoidOperation


class BatchBody(msgspec.Struct, rename="camel"):
    """What to do, at most 100 operations, in no order: one that needs another's answer belongs in a later request."""

    operations: Annotated[list[Operation], Meta(min_length=1, max_length=OPERATIONS_MAX)]
    client_request_id: str | None = None


class Result(msgspec.Struct, rename="camel", omit_defaults=True):
    """What an operation would have been answered by itself: a status with a ticket, or with a problem."""

    status: int
    ticket: v1.TicketAnswer | UnsetType = UNSET
    problem: Problem | UnsetType = UNSET
    replayed: bool = False


class BatchAnswer(msgspec.Struct, rename="camel"):
    """The results, in the operations' order."""

    results: list[Result]
    request_id: str


_VERBS: dict[type, tuple[str, Handler]] = {
    RedeemOperation: ("/v1/tickets/redeem", v1.redeem),
    CaptureOperation: ("/v1/tickets/{id}/capture", v1.capture),
    VoidOperation: ("/v1/tickets/{id}/void", v1.void),
}


async def batch(engine: Engine, call: Call) -> Answer:
    """Redeem, capture and void many tickets at once, each by itself.

    Each operation is what a request of its own would be, with its own `clientRequestId` as its idempotency key. There
    is no order among them, and one that is refused spoils no other. A request in which one is not of the shape that is
    described is refused whole, and nothing of it is done.
    """
    body: BatchBody = call.body
    if access.idempotency_key(call, body.client_request_id) is not None:
        raise InvalidRequest("An idempotency key is for one operation: give each a clientRequestId of its own.")
    work = [_result(engine, call, operation, first=n == 0) for n, operation in enumerate(body.operations)]
    return Answer(BatchAnswer(await asyncio.gather(*work), call.request_id))


async def _result(engine: Engine, call: Call, operation: Operation, *, first: bool) -> Result:
    started = time.perf_counter()
    route, handle = _VERBS[type(operation)]
    one = Call(call.scope, {}, call.request_id)
    one.caller, one.body = call.caller, operation
    if not isinstance(operation, RedeemOperation):
        one.path = {"id": operation.ticket_id}

    async def decided() -> Answer:
        if not first and call.caller.key is not None:  # the first has had its turn at the door
            await engine.limits.request(call.caller.key.id)
        return await handle(engine, one)

    answer, code = await answered(decided(), problem, one)
    engine.observer.tell(event(one, route, answer, code, started))
    if code is None:
        return Result(answer.status, ticket=answer.content, replayed=answer.replayed)
    return Result(answer.status, problem=answer.content)
