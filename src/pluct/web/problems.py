"""How `/v1` says no: problem details (RFC 9457), with the fields the mobile app reads beside them."""

import msgspec

from pluct.errors import PluctError
from pluct.web.endpoint import Answer, Call


class Problem(msgspec.Struct, rename="camel", omit_defaults=True):
    """What went wrong, for people (`detail`) and programs (`code`). `message` and `error` repeat `detail`."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    message: str
    error: str
    request_id: str
    retry_after_seconds: int | None = None


def problem(error: PluctError, call: Call) -> Answer:
    """An error as problem details."""
    content = Problem(
        f"/docs#{error.code}", error.title, error.status, error.sentence, error.code, error.sentence, error.sentence,
        call.request_id, error.retry_after_seconds,
    )  # fmt: skip
    return Answer(content, error.status, content_type=b"application/problem+json", headers=headers(error))


def headers(error: PluctError) -> tuple[tuple[bytes, bytes], ...]:
    """What some errors say in headers too."""
    if error.retry_after_seconds is not None:
        return ((b"retry-after", b"%d" % error.retry_after_seconds),)
    if error.status == 401:
        return ((b"www-authenticate", b"Bearer"),)
    return ()
