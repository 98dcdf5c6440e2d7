"""All settings as one frozen value: environment first, then `pluct.toml`. All problems are reported at once.

Nothing here reads the process's environment: `load` is handed one.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from pluct import identity_settings, payment_settings, webhook_settings
from pluct.catalog import Action, Catalog
from pluct.errors import InvalidRequest, SetupError
from pluct.identity_settings import IdentitySettings
from pluct.limits import Rate, Rates, rate
from pluct.payment_settings import PaymentSettings
from pluct.webhook_settings import WebhookSettings

DEVELOPMENT_SECRETS = {
    "WEBHOOK_SECRET": "local-dev-webhook-secret-never-use-in-prod-67890",
    "JWT_SECRET": "local-dev-jwt-secret-never-use-in-prod-24680",
    "USER_TOKEN_SECRET": "local-dev-user-token-secret-never-use-in-prod-13579",
    "PLUCT_KEY_SECRET": "local-dev-key-secret-never-use-in-prod-97531",
}
DEFAULTS = {
    "PLUCT_ENV": "development",
    "DATABASE_URL": "sqlite:///data/pluct.db",
    "PLUCT_SIGNING": "HS256",
    "PLUCT_USER_AUTH": "open",
    "PLUCT_HOST": "127.0.0.1",
    "PLUCT_PORT": "8787",
    "RETURNED_GRACE_SECONDS": "86400",
}
NUMBERS = ("PLUCT_PORT", "RETURNED_GRACE_SECONDS")
OPTIONAL = ("DATABASE_READ_URL",)
NAMES = (*DEFAULTS, *DEVELOPMENT_SECRETS, *OPTIONAL)
SECRET_BYTES_MIN = 32
SEVERAL = ("WEBHOOK_SECRET", "PLUCT_KEY_SECRET")  # of which several are accepted while they are changed
_POSTGRESQL = ("postgresql:", "postgres:")


class Settings(msgspec.Struct, frozen=True):
    """What the engine was told. Its `repr` shows no secret."""

    env: str
    database: Path | str  # a SQLite file, or the address of a PostgreSQL database
    webhook_secrets: tuple[str, ...]
    jwt_secret: str
    user_token_secret: str
    user_auth: str
    host: str
    port: int
    returned_grace_seconds: int
    catalog: Catalog
    read_database: str | None = None  # a replica of the PostgreSQL database
    payments: PaymentSettings = PaymentSettings()
    signing: str = "HS256"
    key_secrets: tuple[str, ...] = ()  # what EdDSA keys are kept under
    rates: Rates = Rates()
    identity: IdentitySettings = IdentitySettings()
    webhooks: WebhookSettings = WebhookSettings()

    def __repr__(self) -> str:
        return f"Settings(env={self.env!r}, database={shown(self.database)!r}, user_auth={self.user_auth!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("env", self.env), ("database", shown(self.database)), ("user_auth", self.user_auth)]


def shown(database: Path | str) -> str:
    """A database's address without its user and password."""
    if isinstance(database, Path):
        return str(database)
    return "postgresql://" + database.partition("://")[2].rpartition("@")[2].partition("?")[0]


def load(environ: Mapping[str, str], cwd: Path) -> Settings:
    """The settings, or a `SetupError` that names every problem."""
    problems: list[str] = []
    file = cwd / environ.get("PLUCT_CONFIG", "pluct.toml")
    document = _read(file, problems)
    actions = _actions(document.pop("actions", {}), file, problems)
    rates = _rates(document.pop("limits", {}), file, problems)
    identity, told = document.pop("identity", {}), document.pop("webhooks", [])
    money = payment_settings.take(document)
    values, where, stated = _values(document, environ, file, problems)

    def one_of(name: str, *choices: str) -> str:
        if values[name] not in choices:
            problems.append(f"{where[name]} must be {' or '.join(choices)}, not {values[name]!r}.")
        return values[name]

    def whole(name: str, most: int) -> int:
        text = values[name]
        if not (text.isascii() and text.isdigit() and len(text) < 12 and int(text) <= most):
            problems.append(f"{where[name]} must be a whole number from 0 to {most}, not {text!r}.")
            return 0
        return int(text)

    production = one_of("PLUCT_ENV", "development", "production") == "production"
    if production and "PLUCT_USER_AUTH" not in stated:
        problems.append("PLUCT_USER_AUTH must be stated in production: token, or open if every user id is believed.")
    user_auth = one_of("PLUCT_USER_AUTH", "open", "token")
    if not values["PLUCT_HOST"]:
        problems.append("PLUCT_HOST must not be empty; 127.0.0.1 is this machine alone, 0.0.0.0 every address it has.")
    signing = one_of("PLUCT_SIGNING", "HS256", "EdDSA")
    unneeded = {"USER_TOKEN_SECRET": user_auth == "open", "JWT_SECRET": signing == "EdDSA"}
    unneeded["PLUCT_KEY_SECRET"] = signing != "EdDSA"
    webhook, jwt, user_token, key_secrets = _secrets(values, production, unneeded, problems)
    ledger = _database("DATABASE_URL", values["DATABASE_URL"], cwd, problems)
    payments = payment_settings.load(money, environ, production, file, problems)
    if production:
        engines = {"WEBHOOK_SECRET": webhook, "JWT_SECRET": (jwt,), "USER_TOKEN_SECRET": (user_token,)}
        payment_settings.equal_secrets(payments, engines, problems)
    if {jwt, user_token, *webhook, payments.privacy_secret, *payments.secrets.values()}.intersection(key_secrets):
        problems.append("PLUCT_KEY_SECRET must differ from all other secrets: it keeps the keys that make tickets.")
    settings = Settings(
        values["PLUCT_ENV"], ledger, webhook, jwt, user_token, user_auth,
        values["PLUCT_HOST"], whole("PLUCT_PORT", 65535), whole("RETURNED_GRACE_SECONDS", 315_360_000),
        Catalog({"default": Action()} | actions), _replica(values.get("DATABASE_READ_URL"), ledger, problems),
        payments, signing, key_secrets, rates,
        identity_settings.load(identity, user_auth, production, file, problems),
        webhook_settings.load(told, environ, production, file, problems),
    )  # fmt: skip
    if problems:
        raise SetupError("The engine cannot start:\n" + "\n".join("- " + problem for problem in problems))
    return settings


def _values(
    document: dict[str, Any], environ: Mapping[str, str], file: Path, problems: list[str]
) -> tuple[dict[str, str], dict[str, str], set[str]]:
    """The settings of `NAMES` as they are written, what each is called where it was set, and which were set at all."""
    values = {name: environ[name] for name in NAMES if name in environ and name != "RETURNED_GRACE_SECONDS"}
    where = {name: name for name in NAMES}  # how a setting is called where it was set
    for key, value in document.items():
        name = next((n for n in (key.upper(), "PLUCT_" + key.upper()) if n in NAMES), None)
        if name is None:
            problems.append(f"{file}: unknown key {key!r}; see docs/settings.md for the known ones.")
            continue
        if name not in values:
            where[name] = f"{file}: {key}"
        if isinstance(value, list) and name in SEVERAL and all(isinstance(v, str) for v in value):
            values.setdefault(name, ",".join(value))
        elif isinstance(value, str):
            values.setdefault(name, value)
        elif name in NUMBERS and type(value) is int and abs(value) < 10**12:
            values.setdefault(name, str(value))
        else:
            problems.append(f"{file}: {key} must be {'a whole number' if name in NUMBERS else 'a string'}.")
    stated = set(values)
    for name in [name for name, value in values.items() if not _is_text(value)]:
        problems.append(f"{name} is not text: it has characters that are not UTF-8, or a null character.")
        values[name] = DEFAULTS.get(name, f"{name} was not text, and so is not judged further")
    for name, default in DEFAULTS.items():
        values.setdefault(name, default)
    return values, where, stated


def _read(file: Path, problems: list[str]) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_bytes().decode("utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        problems.append(f"{file} cannot be read: {error.strerror}.")
    except (ValueError, RecursionError) as error:
        problems.append(f"{file} is not valid TOML: {error}.")
    return {}


def _is_text(value: str) -> bool:
    try:
        return b"\0" not in value.encode()
    except UnicodeEncodeError:
        return False


def _actions(tables: Any, file: Path, problems: list[str]) -> dict[str, Action]:
    actions: dict[str, Action] = {}
    if not isinstance(tables, dict):
        problems.append(f"{file}: actions must be tables, as in [actions.default].")
        return actions
    for name, table in tables.items():
        where = f"{file}: [actions.{name}]"
        if not isinstance(table, dict):
            problems.append(f"{where} must be a table.")
            continue
        actions[name] = action = _action(table, where, problems)
        problems += [f"{where}: {problem}." for problem in action.problems()]
    return actions


def _action(table: dict[str, Any], where: str, problems: list[str]) -> Action:
    """The action, as far as its keys can be read."""
    kinds = {field.name: field.type for field in msgspec.structs.fields(Action)}
    found: dict[str, Any] = {}
    for key, value in table.items():
        if key not in kinds:
            problems.append(f"{where}: unknown key {key!r}; known are {', '.join(kinds)}.")
            continue
        try:
            found[key] = msgspec.convert(value, kinds[key])
        except msgspec.ValidationError as error:
            problems.append(f"{where}: {key}: {error}.")
    return Action(**found)


def _rates(table: Any, file: Path, problems: list[str]) -> Rates:
    if not isinstance(table, dict):
        problems.append(f"{file}: limits must be a table: [limits].")
        return Rates()
    found: dict[str, Rate] = {}
    for key, value in table.items():
        where = f"{file}: [limits] {key}"
        if key not in Rates.__struct_fields__:
            problems.append(f"{where} is not known; known are {', '.join(Rates.__struct_fields__)}.")
            continue
        try:
            found[key] = rate(value if isinstance(value, str) else "")
        except InvalidRequest as error:
            problems.append(f"{where} {error.sentence}.")
    return Rates(**found)


def _secrets(
    values: dict[str, str], production: bool, unneeded: dict[str, bool], problems: list[str]
) -> tuple[tuple[str, ...], str, str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for name, development in DEVELOPMENT_SECRETS.items():
        if production and not unneeded.get(name) and name not in values:
            problems.append(f"{name} must be set in production, to at least {SECRET_BYTES_MIN} random bytes.")
        text = values.get(name, "" if production else development)
        secrets = tuple(part.strip() for part in text.split(",")) if name in SEVERAL else (text,)
        if name in values and not all(secrets):
            problems.append(f"{name} is set but empty; set it to a random secret, or unset it in development.")
        if production and name in values:
            if any(secret in DEVELOPMENT_SECRETS.values() for secret in secrets):
                problems.append(f"{name} is a development secret; production needs one of its own.")
            elif any(len(secret.encode()) < SECRET_BYTES_MIN for secret in secrets):
                problems.append(f"{name} is shorter than {SECRET_BYTES_MIN} bytes; use a longer random secret.")
        found[name] = secrets
    jwt, user_token = found["JWT_SECRET"][0], found["USER_TOKEN_SECRET"][0]
    if jwt and jwt == user_token:
        problems.append("JWT_SECRET and USER_TOKEN_SECRET must differ: who names users must not make tickets.")
    if production and ({jwt, user_token} - {""}) & set(found["WEBHOOK_SECRET"]):
        problems.append("WEBHOOK_SECRET must differ from JWT_SECRET and from USER_TOKEN_SECRET.")
    return found["WEBHOOK_SECRET"], jwt, user_token, tuple(secret for secret in found["PLUCT_KEY_SECRET"] if secret)


def _replica(url: str | None, ledger: Path | str, problems: list[str]) -> str | None:
    if url is not None and not url.startswith(_POSTGRESQL):
        problems.append("DATABASE_READ_URL must be postgresql://user@host/database.")
    elif url is not None and isinstance(ledger, Path):
        problems.append("DATABASE_READ_URL needs a DATABASE_URL that is postgresql:// too: a file has no replica.")
    return url


def database(url: str, cwd: Path, name: str) -> Path | str:
    """What a database's address names; `name` says where it was given. Raises `SetupError`."""
    problems: list[str] = []
    found = _database(name, url, cwd, problems)
    if problems:
        raise SetupError(problems[0])
    return found


def _database(name: str, url: str, cwd: Path, problems: list[str]) -> Path | str:
    prefix = "sqlite:///"
    if url.startswith(_POSTGRESQL):
        if not _has_ports(url):
            problems.append(f"{name} has a host or port that is none; write postgresql://user@host:5432/database.")
        return url
    if not url.startswith(prefix) or not url[len(prefix) :] or "?" in url or ":memory:" in url:
        problems.append(
            f"{name} must be sqlite:///relative/path.db, sqlite:////absolute/path.db "
            "or postgresql://user@host/database."
        )
    return cwd / url.removeprefix(prefix)


def _has_ports(url: str) -> bool:
    """Whether each host of the address has a port that can be one, or none. The driver takes that for granted."""
    try:
        hosts = urlsplit(url).netloc.rpartition("@")[2]
        return all(urlsplit("//" + host).port != 0 for host in hosts.split(","))
    except ValueError:
        return False
