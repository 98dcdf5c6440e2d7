"""What an engine that takes money is told: packs, policies, gateways and their secrets, each problem as a sentence."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from pluct import toml_tables
from pluct.catalog import PaymentPolicy
from pluct.errors import InvalidRequest
from pluct.gateways.calls import is_address
from pluct.gateways.configured import NAMES, described
from pluct.model import AMOUNT_MAX, Clawback, OddAmounts, Pack
from pluct.money import CURRENCIES, minor_units

PACKS_MAX = 200
PROXY_HOPS_MAX = 10
SECRET_BYTES_MIN = 32
#: Keys the phone numbers that are kept as hashes. Another one, and old hashes are not recognised any more.
PRIVACY_SECRET = "PRIVACY_SECRET"
DEVELOPMENT_PRIVACY_SECRET = "local-dev-privacy-secret-never-use-in-prod-11223"
_TABLES = ("packs", "payments", "gateways", "http")


class PaymentSettings(msgspec.Struct, frozen=True):
    """Everything about money. Its `repr` shows no secret."""

    packs: tuple[Pack, ...] = ()
    policy: PaymentPolicy = PaymentPolicy()
    callback_base_url: str = ""
    gateways: dict[str, Any] = {}
    secrets: dict[str, str] = {}
    privacy_secret: str = DEVELOPMENT_PRIVACY_SECRET
    proxy_hops: int = 0

    def __repr__(self) -> str:
        return f"PaymentSettings(packs={len(self.packs)}, gateways={', '.join(self.gateways) or 'none'})"


class _Pack(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    name: str
    currency: str
    price: str
    credits: int


class _Payments(msgspec.Struct, forbid_unknown_fields=True):
    odd_amounts: OddAmounts = "packs"
    clawback: Clawback = "debt"
    callback_base_url: str = ""


class _Http(msgspec.Struct, forbid_unknown_fields=True):
    proxy_hops: int = 0


def take(document: dict[str, Any]) -> dict[str, Any]:
    """Take the tables about money out of what `pluct.toml` says."""
    return {name: document.pop(name) for name in _TABLES if name in document}


def load(
    tables: dict[str, Any], environ: Mapping[str, str], production: bool, file: Path, problems: list[str]
) -> PaymentSettings:
    """The settings, as far as they can be read. `tables` is what `take` took."""
    payments = toml_tables.read(_Payments, tables.get("payments", {}), f"{file}: [payments]", problems)
    hops = toml_tables.read(_Http, tables.get("http", {}), f"{file}: [http]", problems).proxy_hops
    if not 0 <= hops <= PROXY_HOPS_MAX:
        problems.append(f"{file}: [http] proxy_hops must be 0 to {PROXY_HOPS_MAX}.")
    base = payments.callback_base_url.rstrip("/")
    gateways, secrets = _gateways(tables.get("gateways", {}), environ, base, production, file, problems)
    if production and gateways and base.startswith("http://"):
        problems.append(f"{file}: [payments] callback_base_url must be https:// in production.")
    if base and not is_address(base) and not gateways.keys() - {"standard"}:  # the others say so themselves
        problems.append(f"{file}: [payments] callback_base_url must be https://host, or http:// on this machine.")
    return PaymentSettings(
        _packs(tables.get("packs", []), file, problems), PaymentPolicy(payments.odd_amounts, payments.clawback), base,
        gateways, secrets, _privacy_secret(environ, production and bool(gateways), problems), hops,
    )  # fmt: skip


def _packs(found: Any, file: Path, problems: list[str]) -> tuple[Pack, ...]:
    if not isinstance(found, list) or len(found) > PACKS_MAX:
        problems.append(f"{file}: packs must be tables, as in [[packs]], {PACKS_MAX} at most.")
        return ()
    packs: dict[str, Pack] = {}
    for number, table in enumerate(found, 1):
        pack = _pack(table, f"{file}: [[packs]] number {number}", problems)
        if pack.id in packs:
            problems.append(f"{file}: [[packs]] number {number}: there is another pack with the id {pack.id!r}.")
        if pack.id:
            packs[pack.id] = pack
    return tuple(packs.values())


def _pack(table: Any, where: str, problems: list[str]) -> Pack:
    """A pack, as far as its keys can be read: each is judged, whatever is wrong with the others."""
    said = toml_tables.values(_Pack, table, where, problems)
    id, name, currency = said.get("id", ""), said.get("name", ""), said.get("currency", "").upper()
    price, credits = 0, said.get("credits", 0)
    if isinstance(table, dict):
        problems += [f"{where}: {key} is missing." for key in toml_tables.kinds(_Pack) if key not in table]
    if "id" in said and not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", id):
        problems.append(f"{where}: id must be 1 to 64 letters, digits, points, dashes or underscores.")
    if "name" in said and not (1 <= len(name) <= 100 and name.isprintable()):
        problems.append(f"{where}: name must be 1 to 100 printable characters.")
    if "currency" in said and currency not in CURRENCIES:
        problems.append(f"{where}: currency {currency[:40]!r} is not one of ISO 4217, such as KES, USD or EUR.")
    if "price" in said:
        try:
            price = minor_units(said["price"], currency)
        except InvalidRequest as error:
            problems.append(f"{where}: price: {error.sentence}")
        else:
            if price < 1:
                problems.append(f"{where}: price must be above zero.")
    if "credits" in said and not 1 <= credits <= AMOUNT_MAX:
        problems.append(f"{where}: credits must be 1 to {AMOUNT_MAX}.")
    return Pack(id, name, currency, price, credits)


def _gateways(
    tables: Any, environ: Mapping[str, str], base: str, production: bool, file: Path, problems: list[str]
) -> tuple[dict[str, Any], dict[str, str]]:
    gateways: dict[str, Any] = {}
    secrets: dict[str, str] = {}
    if not isinstance(tables, dict):
        problems.append(f"{file}: gateways must be tables, as in [gateways.daraja].")
        return gateways, secrets
    for name, table in tables.items():
        where = f"{file}: [gateways.{name}]"
        if name not in NAMES:
            problems.append(f"{where}: there is no such gateway; known are {', '.join(NAMES)}.")
            continue
        module, kind = described(name)
        names = (*module.SECRETS, *module.SECRETS_OPTIONAL)
        if isinstance(table, dict):
            for key in [key for key in table if _names_a_secret(key, name, names)]:
                problems.append(
                    f"{where}: {key} is a secret, and secrets are taken from the environment alone: {', '.join(names)}."
                )
                table = {other: value for other, value in table.items() if other != key}
        gateways[name] = found = toml_tables.read(kind, table, where, problems)
        problems += [f"{where}: {problem}." for problem in found.problems(base)]
        given = {secret: environ[secret] for secret in names if environ.get(secret, "").strip()}
        for secret in [secret for secret, value in given.items() if not (value.isascii() and value.isprintable())]:
            problems.append(f"{secret} must be printable ASCII: anything else cannot be sent to the gateway.")
            given[secret] = "not-printable-and-so-not-judged-further"
        secrets |= given
        problems += [f"{problem}." for problem in module.secret_problems(given)]
        if production and getattr(found, "allowed_ips", None) == ():
            problems.append(
                f"{where}: allowed_ips must name Safaricom's addresses in production: its callbacks are not signed."
            )
    return gateways, secrets


def _names_a_secret(key: str, gateway: str, names: Sequence[str]) -> bool:
    """Whether somebody meant a secret by this key: by its full name, or by what is left of it without the gateway's."""
    return {key.upper(), f"{gateway}_{key}".upper()} & set(names) != set() or "secret" in key.lower()


def _privacy_secret(environ: Mapping[str, str], needed: bool, problems: list[str]) -> str:
    given = environ.get(PRIVACY_SECRET)
    if given is None:
        if needed:
            least = f"at least {SECRET_BYTES_MIN} random bytes"
            problems.append(f"{PRIVACY_SECRET} must be set in production, to {least}, and then kept.")
        return DEVELOPMENT_PRIVACY_SECRET
    weak = given == DEVELOPMENT_PRIVACY_SECRET or len(given.encode("utf-8", "surrogateescape")) < SECRET_BYTES_MIN
    if not given:
        problems.append(f"{PRIVACY_SECRET} is set but empty; set it to a random secret, or unset it in development.")
    elif needed and weak:
        problems.append(f"{PRIVACY_SECRET} must be at least {SECRET_BYTES_MIN} random bytes of your own.")
    return given


def equal_secrets(settings: PaymentSettings, others: Mapping[str, Sequence[str]], problems: list[str]) -> None:
    """Name the secrets about money that are also another secret: who learns one must not have learnt two."""
    names = defaultdict(set)
    ours = {PRIVACY_SECRET: [settings.privacy_secret]} if settings.gateways else {}
    for name, values in [*others.items(), *ours.items(), *((n, v.split(",")) for n, v in settings.secrets.items())]:
        for value in values:
            names[value.strip()].add(name)
    for value, found in names.items():
        if value and len(found) > 1 and not found <= others.keys():
            problems.append(f"{' and '.join(sorted(found))} must differ: each secret opens one thing.")
