"""One request to the console, from who is asking to the page that goes back."""

import gzip
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any, BinaryIO
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import jinja2
from starlette.datastructures import QueryParams, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from pluct.cashier import Cashier
from pluct.commands import text
from pluct.console.sessions import SignedIn
from pluct.errors import BodyTooLarge, Forbidden, InvalidRequest
from pluct.live_log import LiveLog
from pluct.money import decimal_text

FORM_BYTES_MAX = 64 * 1024
#: Of a form with a file.
UPLOAD_BYTES_MAX = 20 * 1024 * 1024
FIELDS_MAX = 50
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}

_NOT_OURS = "The form is not one of this console's; reload the page and try again."
_folder = files("pluct.console")


class _Templates(jinja2.BaseLoader):
    """The package's own templates, wherever the package lies."""

    def get_source(self, environment: jinja2.Environment, template: str) -> tuple[str, None, Callable[[], bool]]:
        return _folder.joinpath("templates", template).read_text("utf-8"), None, lambda: True


def _time(at: int | None) -> str:
    """Milliseconds as people read them; the page's script turns them into the reader's own time."""
    return "" if at is None else datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def iso(at: int) -> str:
    """Milliseconds as programs read them (RFC 3339)."""
    return datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _link(path: str, **query: object) -> str:
    return path + "?" + urlencode({name: value for name, value in query.items() if value is not None})


_environment = jinja2.Environment(
    loader=_Templates(), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_environment.filters |= {
    "time": _time, "iso": iso, "credits": lambda number: f"{number:,}",
    "money": lambda minor, currency: f"{currency} {decimal_text(minor, currency)}" if currency else "",
}  # fmt: skip
_environment.globals |= {"link": _link, "sms_link": lambda text: "sms:?" + urlencode({"body": text}, quote_via=quote)}


class Page:
    """A request of somebody who is signed in."""

    def __init__(
        self, request: Request, signed_in: SignedIn, form: dict[str, str], file: BinaryIO | None, cashier: Cashier,
        live: LiveLog, facts: Mapping[str, str], still_signed_in: Callable[[], Awaitable[bool]],
    ) -> None:  # fmt: skip
        self.cashier, self.live, self.facts, self.still_signed_in = cashier, live, facts, still_signed_in
        self.query: QueryParams = request.query_params
        self.path = request.url.path
        self.signed_in, self.form, self.file = signed_in, form, file

    def show(self, template: str, status: int = 200, **values: Any) -> Response:
        """A page made of a template."""
        return render(template, status, signed_in=self.signed_in, path=self.path, once=secrets.token_hex(8), **values)

    def to(self, path: str, **query: object) -> Response:
        """Look there next: what a form has done is never done again by looking at it again."""
        return RedirectResponse(_link(path, **query) if query else path, 303, headers=HEADERS)

    @property
    def cursor(self) -> str | None:
        """Where in a list this page begins; None: with the newest."""
        value = self.query.get("cursor")
        return None if value is None else text(value, "cursor")

    def field(self, name: str) -> str:
        """A field of the form that must be filled in."""
        value = self.form.get(name, "").strip()
        if not value:
            raise InvalidRequest(f"{name.capitalize()} must be filled in.")
        return value

    def number(self, name: str) -> int:
        """A whole number from the form."""
        value = self.field(name).replace(",", "").replace(" ", "")
        digits = value.removeprefix("-").removeprefix("+")
        if not (digits.isascii() and digits.isdigit() and len(digits) <= 12):
            raise InvalidRequest(f"{name.capitalize()} must be a whole number.")
        return int(value)


Handler = Callable[[Any, Page], Awaitable[Response]]


def render(template: str, status: int = 200, **values: Any) -> Response:
    """A page made of a template, with the headers that every page has."""
    text = _environment.get_template(template).render(values)
    return Response(text, status, HEADERS, "text/html; charset=utf-8")


def static(name: str) -> bytes:
    """One of the files that pages need."""
    return _folder.joinpath("static", name).read_bytes()


def chart_library() -> bytes:
    """Chart.js, as the chartkick package brings it along; compressed, since it goes to phones."""
    return gzip.compress(files("chartkick").joinpath("django/static/chartkick/Chart.bundle.js").read_bytes(), 9)


async def read_form(request: Request) -> tuple[dict[str, str], BinaryIO | None]:
    """The fields of a form, each once, and its file. Raises `BodyTooLarge` or `InvalidRequest`."""
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        return await _read_upload(request)
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > FORM_BYTES_MAX:
            raise BodyTooLarge
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=FIELDS_MAX)
    except ValueError:
        raise InvalidRequest(_NOT_OURS) from None
    return _each_once(pairs), None


async def _read_upload(request: Request) -> tuple[dict[str, str], BinaryIO | None]:
    """A form with a file; the file waits on the disk."""

    async def bounded() -> AsyncGenerator[bytes, None]:
        taken = 0
        async for part in request.stream():
            taken += len(part)
            if taken > UPLOAD_BYTES_MAX:
                raise BodyTooLarge(f"More than {UPLOAD_BYTES_MAX // 1024**2} MB is for `pluct payments reconcile`.")
            yield part

    parser = MultiPartParser(
        request.headers, bounded(), max_files=1, max_fields=FIELDS_MAX, max_part_size=FORM_BYTES_MAX
    )
    try:
        form = await parser.parse()
    except (MultiPartException, HTTPException, ValueError):
        raise InvalidRequest(_NOT_OURS) from None
    pairs = form.multi_items()
    files = [value.file for _, value in pairs if isinstance(value, UploadFile) and value.filename]
    return _each_once([(name, value) for name, value in pairs if isinstance(value, str)]), files[0] if files else None


def _each_once(pairs: list[tuple[str, str]]) -> dict[str, str]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise InvalidRequest(_NOT_OURS)
    return fields


def require_same_site(request: Request) -> None:
    """Refuse a form that another site made the browser send. Raises `Forbidden`."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    ours = origin is None or urlsplit(origin).netloc == request.headers.get("host")
    if site not in (None, "same-origin", "none") or not ours:
        raise Forbidden("This form came from another site; open the console itself.")
