"""Where a request came from, behind as many proxies as were stated and no more."""

from starlette.types import Scope


def client_address(scope: Scope, hops: int) -> str:
    """The address that the outermost of `hops` trusted proxies saw; with none, the connection's own.

    Each proxy adds the address it was asked from to the end of `X-Forwarded-For`; whatever stands further left was
    written by the caller, and is not believed. A request with too few of them came past the proxies.
    """
    client = scope.get("client")
    peer: str = client[0] if client else ""
    if hops == 0:
        return peer
    given = b",".join(value for name, value in scope["headers"] if name == b"x-forwarded-for")
    seen = [part.strip() for part in given.decode("latin-1").split(",") if part.strip()]
    return seen[-hops] if len(seen) >= hops else peer
