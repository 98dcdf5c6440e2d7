"""Standard Webhooks: a back office of one's own says who is to have how many credits, and signs it.

The one gateway that names credits and no money. `webhook-id` is the key that is good for once. The library makes the
signature that a body must have, and it is compared here: the library's own check has a clock of its own, raises five
kinds of errors for malformed headers, and takes parts of seconds for seconds. It signs text only; the signature of
other bytes is made here.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
from standardwebhooks import Webhook

from pluct.errors import Unauthorized
from pluct.gateways import Credited, Notice, Received, Started
from pluct.gateways.privacy import Privacy
from pluct.gateways.reading import decoded, header, must_be_now, must_equal, notice, secrets_in, table, unreadable
from pluct.model import AMOUNT_MAX, Checkout

if TYPE_CHECKING:
    import httpx

SECRETS = ("STANDARD_WEBHOOKS_SECRET",)
SECRETS_OPTIONAL = ()
_KEPT = frozenset({"type", "timestamp", "data", "userId", "credits"})


class StandardSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[gateways.standard]`: there is nothing to set but the secret."""

    def problems(self, callback_base_url: str) -> list[str]:
        """What is wrong with these settings, a sentence each."""
        return []


def secret_problems(secrets: Mapping[str, str]) -> list[str]:
    """What is wrong with the secrets, a sentence each that shows none of them."""
    found = secrets_in(secrets.get("STANDARD_WEBHOOKS_SECRET", ""))
    if not found:
        return ["STANDARD_WEBHOOKS_SECRET must be set to take Standard Webhooks"]
    if not all(_is_key(secret) for secret in found):
        return ["STANDARD_WEBHOOKS_SECRET must be whsec_ and a key in base64"]
    return []


def make(
    settings: StandardSettings,
    secrets: Mapping[str, str],
    callback_base_url: str,
    client: "httpx.AsyncClient",
    privacy: Privacy,
    clock: Callable[[], int],
) -> "Standard":
    """The gateway. `STANDARD_WEBHOOKS_SECRET` may be several between commas; `clock` tells milliseconds."""
    return Standard(secrets_in(secrets["STANDARD_WEBHOOKS_SECRET"]), privacy, clock)


class Standard:
    """Standard Webhooks as a `Gateway` that sells nothing."""

    name = "standard"
    hooks = ("",)
    checkout_hooks = ()
    sells = False
    needs_phone = False

    def __init__(self, secrets: tuple[bytes, ...], privacy: Privacy, clock: Callable[[], int]) -> None:
        self._webhooks = [Webhook(each.decode()) for each in secrets]
        self._keys = [base64.b64decode(each.removeprefix(b"whsec_") + b"==") for each in secrets]
        self._privacy, self._clock = privacy, clock

    def takes(self, currency: str, price: int) -> bool:
        """Nothing is sold here."""
        return False

    async def start(self, checkout: Checkout, token: str, phone: str | None) -> Started:
        """Nothing is sold here."""
        return Started("failed", "Nothing is sold here; choose another way to pay.", query=False)

    async def receive(
        self,
        hook: str,
        token: str,
        headers: Mapping[bytes, bytes],
        body: bytes,
        address: str,
        by_token: Checkout | None,
    ) -> Received:
        """Read a wish for credits. Raises `Unauthorized` unless it was signed within five minutes of now."""
        key = self._authenticate(headers, body)
        event = table(decoded(body))
        kind, data = event.get("type"), table(event.get("data"))
        if not isinstance(kind, str):
            return Received((msgspec.structs.replace(unreadable(body, "The body is no event."), key=key),))
        said, note = None, ""
        if kind == "credits.add":
            said = _credited(data.get("userId"), data.get("credits"), key)
            note = "" if said else f"userId must be 1 to 200 characters, credits a whole number from 1 to {AMOUNT_MAX}."
        shown = kind if kind.isprintable() and len(kind) <= 100 else "unknown"
        return Received((notice(self._privacy, _KEPT, key, shown, event, said, note),))

    def _authenticate(self, headers: Mapping[bytes, bytes], body: bytes) -> str:
        """The id of the event, which is signed with its time and its body. Raises `Unauthorized`."""
        identity = _identity(header(headers, b"webhook-id"))
        at = must_be_now(header(headers, b"webhook-timestamp"), self._clock())
        given = header(headers, b"webhook-signature").split(b" ")
        try:
            signed = identity, datetime.fromtimestamp(at, UTC), body.decode()
        except UnicodeDecodeError:
            raw = b"%s.%d.%s" % (identity.encode(), at, body)
            wanted = [b"v1," + base64.b64encode(hmac.digest(key, raw, hashlib.sha256)) for key in self._keys]
        else:
            wanted = [webhook.sign(*signed).encode() for webhook in self._webhooks]
        must_equal(given, wanted)
        return identity

    @staticmethod
    def ask_after(asked: int) -> int | None:
        """There is nobody to ask."""
        return None

    async def ask(self, checkout: Checkout) -> Notice | None:
        """There is nobody to ask."""
        return None

    @staticmethod
    def listed(since: int) -> None:
        """Its events are sent until they arrive; there is no list to go through."""
        return None


def _identity(value: bytes) -> str:
    try:
        identity = value.decode()
    except UnicodeDecodeError:
        identity = ""
    if not (1 <= len(identity) <= 200 and identity.isprintable()):
        raise Unauthorized("The header webhook-id must be 1 to 200 printable characters.")
    return identity


def _credited(user_id: object, credits: object, reference: str) -> Credited | None:
    if not isinstance(user_id, str) or not 1 <= len(user_id) <= 200 or not _is_text(user_id):
        return None
    if not isinstance(credits, int) or isinstance(credits, bool) or not 1 <= credits <= AMOUNT_MAX:
        return None
    return Credited(user_id, credits, reference)


def _is_text(value: str) -> bool:
    """No control characters (Cc)."""
    return not any(character < " " or "\x7f" <= character <= "\x9f" for character in value)


def _is_key(secret: bytes) -> bool:
    try:
        return bool(base64.b64decode(secret.removeprefix(b"whsec_") + b"==", validate=False)) and secret.isascii()
    except binascii.Error:
        return False
