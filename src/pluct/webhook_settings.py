"""What an engine is told about whom to tell: `[[webhooks]]`, and the secret that events are signed with."""

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from pluct import toml_tables
from pluct.gateways.calls import is_address
from pluct.outbox import KINDS, Subscription

SECRET = "PLUCT_WEBHOOK_OUT_SECRET"
SUBSCRIPTIONS_MAX, EXPIRING_DAYS_MAX, LOW_MAX = 10, 7, 10**9
SECRET_BYTES_MIN = 24


class WebhookSettings(msgspec.Struct, frozen=True):
    """Who is told of what. Its `repr` shows no secret."""

    subscriptions: tuple[Subscription, ...] = ()
    secrets: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"WebhookSettings({len(self.subscriptions)})"


class _Webhook(msgspec.Struct):
    url: str
    events: list[str] = []
    low_below: int = 1
    expiring_days: int = 3
    allow_private: bool = False


def load(tables: Any, environ: Mapping[str, str], production: bool, file: Path, problems: list[str]) -> WebhookSettings:
    """The settings, as far as they can be read. `tables` is what the file says under `webhooks`."""
    if not isinstance(tables, list) or len(tables) > SUBSCRIPTIONS_MAX:
        problems.append(f"{file}: webhooks must be tables: [[webhooks]], at most {SUBSCRIPTIONS_MAX}.")
        return WebhookSettings()
    found: dict[str, Subscription] = {}
    for number, table in enumerate(tables, 1):
        one = _subscription(table, f"{file}: [[webhooks]] no. {number}", production, problems)
        if one is not None and one.url in found:
            problems.append(f"{file}: [[webhooks]] no. {number}: {one.url} is there twice.")
        elif one is not None:
            found[one.url] = one
    secrets = tuple(part.strip() for part in environ.get(SECRET, "").split(",") if part.strip())
    if tables and not secrets:
        problems.append(f"{SECRET} must be set to sign events: whsec_ and a key of at least 24 bytes in base64.")
    if not all(map(_is_key, secrets)):
        problems.append(f"{SECRET} must be whsec_ and a key of at least 24 bytes in base64; several between commas.")
        secrets = ()
    return WebhookSettings(tuple(found.values()), secrets)


def _subscription(table: Any, where: str, production: bool, problems: list[str]) -> Subscription | None:
    said = toml_tables.values(_Webhook, table, where, problems)
    if not said.get("url"):
        problems.append(f"{where}: url is missing.")
        return None
    one = _Webhook(**said)
    unknown = [name for name in one.events if name not in KINDS]
    problems += [f"{where}: there is no event {name!r}; there are {', '.join(KINDS)}." for name in unknown]
    if not is_address(one.url) and not (one.allow_private and one.url.startswith("http://") and one.url.isascii()):
        problems.append(f"{where}: url must be https://host/…, or http:// with allow_private = true.")
    if production and not one.url.startswith("https://") and not one.allow_private:
        problems.append(f"{where}: url must be https:// in production.")
    for name, most in (("low_below", LOW_MAX), ("expiring_days", EXPIRING_DAYS_MAX)):
        if not 1 <= getattr(one, name) <= most:
            problems.append(f"{where}: {name} must be 1 to {most}.")
    events = tuple(kind for kind in KINDS if kind in one.events or not one.events)
    return Subscription(one.url, events, one.low_below, one.expiring_days, one.allow_private)


def _is_key(secret: str) -> bool:
    try:
        return len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) >= SECRET_BYTES_MIN
    except (binascii.Error, ValueError):
        return False
