"""What an engine that takes money is told: packs, policies, gateways and their secrets, each problem as a sentence."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from pluct.catalog import PaymentPolicy
from pluct.errors import InvalidRequest
from pluct.gateways.configured import NAMES, described
from pluct.model import AMOUNT_MAX, Pack
from pluct.money import currency_code, minor_units

PACKS_MAX = 200
PROXY_HOPS_MAX = 10
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
    odd_amounts: str = "packs"
    clawback: str = "debt"
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
    payments = _table(_Payments, tables.get("payments", {}), f"{file}: [payments]", problems)
    for key, choices in (("odd_amounts", ("packs", "pro_rata", "hold")), ("clawback", ("debt", "floor", "freeze"))):
        if getattr(payments, key) not in choices:
            problems.append(f"{file}: [payments] {key} must be {', '.join(choices[:-1])} or {choices[-1]}.")
            setattr(payments, key, choices[0])
    hops = _table(_Http, tables.get("http", {}), f"{file}: [http]", problems).proxy_hops
    if not 0 <= hops <= PROXY_HOPS_MAX:
        problems.append(f"{file}: [http] proxy_hops must be 0 to {PROXY_HOPS_MAX}.")
    base = payments.callback_base_url.rstrip("/")
    gateways, secrets = _gateways(tables.get("gateways", {}), environ, base, production, file, problems)
    if production and gateways and base.startswith("http://"):
        problems.append(f"{file}: [payments] callback_base_url must be https:// in production.")
    return PaymentSettings(
        _packs(tables.get("packs", []), file, problems),
        msgspec.convert({"odd_amounts": payments.odd_amounts, "clawback": payments.clawback}, PaymentPolicy),
        base, gateways, secrets, _privacy_secret(environ, production and bool(gateways), problems), hops,
    )  # fmt: skip


def _packs(found: Any, file: Path, problems: list[str]) -> tuple[Pack, ...]:
    if not isinstance(found, list) or len(found) > PACKS_MAX:
        problems.append(f"{file}: packs must be tables, as in [[packs]], {PACKS_MAX} at most.")
        return ()
    packs: dict[str, Pack] = {}
    for number, table in enumerate(found, 1):
        where = f"{file}: [[packs]] number {number}"
        try:
            said = msgspec.convert(table, _Pack)
        except msgspec.ValidationError as error:
            problems.append(f"{where}: {error}.")
            continue
        try:
            currency = currency_code(said.currency)
            pack = Pack(said.id, said.name, currency, minor_units(said.price, currency), said.credits)
        except InvalidRequest as error:
            problems.append(f"{where}: {error.sentence}")
            continue
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", pack.id):
            problems.append(f"{where}: id must be 1 to 64 letters, digits, points, dashes or underscores.")
        if not 1 <= len(pack.name) <= 100:
            problems.append(f"{where}: name must be 1 to 100 characters.")
        if pack.price < 1:
            problems.append(f"{where}: price must be above zero.")
        if not 1 <= pack.credits <= AMOUNT_MAX:
            problems.append(f"{where}: credits must be 1 to {AMOUNT_MAX}.")
        if pack.id in packs:
            problems.append(f"{where}: there is another pack with the id {pack.id!r}.")
        packs[pack.id] = pack
    return tuple(packs.values())


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
            for key in [key for key in table if key.upper() in names or "secret" in key.lower()]:
                problems.append(f"{where}: {key} is a secret, and secrets are taken from the environment alone.")
                table = {other: value for other, value in table.items() if other != key}
        gateways[name] = found = _table(kind, table, where, problems)
        problems += [f"{where}: {problem}." for problem in found.problems(base)]
        given = {secret: environ[secret] for secret in names if environ.get(secret, "").strip()}
        for secret in [secret for secret, value in given.items() if not value.isprintable()]:
            problems.append(f"{secret} must be printable text.")
            given[secret] = "not-printable-and-so-not-judged-further"
        secrets |= given
        problems += [f"{problem}." for problem in module.secret_problems(given)]
        if production and getattr(found, "allowed_ips", None) == ():
            problems.append(
                f"{where}: allowed_ips must name Safaricom's addresses in production: its callbacks are not signed."
            )
    return gateways, secrets


def _privacy_secret(environ: Mapping[str, str], needed: bool, problems: list[str]) -> str:
    given = environ.get(PRIVACY_SECRET)
    if given is None:
        if needed:
            problems.append(f"{PRIVACY_SECRET} must be set in production, to at least 32 random bytes, and then kept.")
        return DEVELOPMENT_PRIVACY_SECRET
    if needed and (given == DEVELOPMENT_PRIVACY_SECRET or len(given.encode("utf-8", "surrogateescape")) < 32):
        problems.append(f"{PRIVACY_SECRET} must be at least 32 random bytes of your own.")
    return given


def _table(kind: type[Any], table: Any, where: str, problems: list[str]) -> Any:
    """A table's values, key by key, as far as they can be read; the others keep their defaults."""
    if not isinstance(table, dict):
        problems.append(f"{where} must be a table.")
        return kind()
    kinds = {field.name: field.type for field in msgspec.structs.fields(kind)}
    found: dict[str, Any] = {}
    for key, value in table.items():
        if key not in kinds:
            problems.append(f"{where}: unknown key {key!r}; known are {', '.join(kinds) or 'none'}.")
            continue
        try:
            found[key] = msgspec.convert(value, kinds[key])
        except msgspec.ValidationError as error:
            problems.append(f"{where}: {key}: {error}.")
    return kind(**found)
