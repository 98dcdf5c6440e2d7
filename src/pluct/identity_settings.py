"""What an engine is told about who its users are: registration, lifetimes, OpenID Connect providers."""

from pathlib import Path
from typing import Any

import msgspec

from pluct import toml_tables
from pluct.gateways.calls import is_address
from pluct.identity import Lifetimes
from pluct.issuers import IssuerSettings

TOKEN_SECONDS_MAX, REFRESH_DAYS_MAX, ISSUERS_MAX = 86_400, 3650, 20


class IdentitySettings(msgspec.Struct, frozen=True):
    """Everything about identity; none of it is secret."""

    registration: bool = False
    lifetimes: Lifetimes = Lifetimes()
    issuers: tuple[IssuerSettings, ...] = ()


class _Identity(msgspec.Struct):
    registration: bool = False
    token_seconds: int = Lifetimes().token_seconds
    refresh_days: int = Lifetimes().refresh_days


def load(table: Any, user_auth: str, production: bool, file: Path, problems: list[str]) -> IdentitySettings:
    """The settings, as far as they can be read. `table` is what the file says under `identity`."""
    where = f"{file}: [identity]"
    if not isinstance(table, dict):
        problems.append(f"{file}: identity must be a table: [identity].")
        return IdentitySettings()
    issuers = _issuers(table.pop("issuers", []), production, file, problems)
    said = toml_tables.read(_Identity, table, where, problems)
    for name, most in (("token_seconds", TOKEN_SECONDS_MAX), ("refresh_days", REFRESH_DAYS_MAX)):
        if not 1 <= getattr(said, name) <= most:
            problems.append(f"{where} {name} must be 1 to {most}.")
    if production and user_auth == "open" and (said.registration or issuers):
        problems.append(f"{where} needs PLUCT_USER_AUTH=token: with open every user id is believed, whoever names it.")
    return IdentitySettings(said.registration, Lifetimes(said.token_seconds, said.refresh_days), issuers)


def _issuers(tables: Any, production: bool, file: Path, problems: list[str]) -> tuple[IssuerSettings, ...]:
    if not isinstance(tables, list) or len(tables) > ISSUERS_MAX:
        problems.append(f"{file}: identity.issuers must be tables: [[identity.issuers]], at most {ISSUERS_MAX}.")
        return ()
    found: dict[str, IssuerSettings] = {}
    for number, table in enumerate(tables, 1):
        where = f"{file}: [[identity.issuers]] no. {number}"
        said = toml_tables.values(IssuerSettings, table, where, problems)
        missing = [name for name in ("issuer", "audience", "jwks_url") if not said.get(name)]
        problems += [f"{where}: {name} is missing." for name in missing]
        if missing:
            continue
        one = IssuerSettings(**said)
        if not is_address(one.jwks_url) or (production and not one.jwks_url.startswith("https://")):
            problems.append(
                f"{where}: jwks_url must be https://host/…{'' if production else ', or http on this machine'}."
            )
        if not one.claim:
            problems.append(f"{where}: claim must be the name of a claim, such as sub.")
        if one.issuer in found:
            problems.append(f"{where}: {one.issuer} is there twice.")
        found[one.issuer] = one
    return tuple(found.values())
