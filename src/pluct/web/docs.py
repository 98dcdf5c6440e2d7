"""The interface for people and machines: `/docs` and `/openapi.json`. The page works offline."""

from importlib.resources import files
from typing import Any

import msgspec
from starlette.types import Scope

from pluct.engine import Engine
from pluct.web.endpoint import Answer, Call, Handler, Route
from pluct.web.problems import problem

_PAGES = {
    "/docs": ("docs.html", b"text/html; charset=utf-8"),
    "/docs/docs.css": ("docs.css", b"text/css; charset=utf-8"),
    "/docs/docs.js": ("docs.js", b"text/javascript; charset=utf-8"),
}
_HEADERS = (
    (b"content-security-policy", b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'"),
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-cache"),
)


def routes(described: dict[str, Any]) -> list[Route]:
    """The page's routes, and the document it reads."""
    document = msgspec.json.encode(described)

    async def describe(engine: Engine, call: Call) -> Answer:
        """This interface as OpenAPI 3.1."""
        return Answer(document)

    found = [Route("GET", "/openapi.json", describe, None, problem)]
    folder = files("pluct.web").joinpath("pages")
    for path, (name, content_type) in _PAGES.items():
        found.append(Route("GET", path, _page(folder.joinpath(name).read_bytes(), content_type), None, problem))
    return found


def is_browser(scope: Scope) -> bool:
    """Whether somebody looks for a page, and not a program for an answer."""
    return any(name == b"accept" and b"text/html" in value.lower() for name, value in scope["headers"])


async def lead(engine: Engine, call: Call) -> Answer:
    """Show the page to who typed no more than the server's name."""
    return Answer(b"", 307, content_type=b"text/plain", headers=((b"location", b"/docs"), (b"vary", b"accept")))


def _page(content: bytes, content_type: bytes) -> Handler:
    async def page(engine: Engine, call: Call) -> Answer:
        """A page to read the interface and try it."""
        return Answer(content, content_type=content_type, headers=_HEADERS)

    return page
