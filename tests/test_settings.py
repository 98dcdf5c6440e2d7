"""Settings: where they come from, what is refused, and that one look at the message shows every problem."""

import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.pretty import pretty_repr

from conftest import Pluct
from pluct.catalog import REPORT_SECONDS_MAX, TTL_SECONDS_MAX, Action
from pluct.errors import SetupError
from pluct.model import AMOUNT_MAX
from pluct.settings import DEVELOPMENT_SECRETS, SECRET_BYTES_MIN, Settings, load

GOOD = {name: f"{name.lower()}-{'x' * 40}" for name in DEVELOPMENT_SECRETS}
PRODUCTION = {"PLUCT_ENV": "production", "PLUCT_USER_AUTH": "token", **GOOD}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working folder without a pluct.toml."""
    return tmp_path


def read(folder: Path, toml: str | None = None, /, **environ: str) -> Settings:
    """Load the settings with this file in the working folder and this environment."""
    if toml is not None:
        (folder / "pluct.toml").write_text(toml, "utf-8")
    return load(environ, folder)


def problems(folder: Path, toml: str | None = None, /, **environ: str) -> list[str]:
    """The sentences with which this set-up is refused."""
    with pytest.raises(SetupError) as raised:
        read(folder, toml, **environ)
    first, *rest = raised.value.sentence.splitlines()
    assert first == "The engine cannot start:"
    assert rest and all(line.startswith("- ") and line.endswith(".") for line in rest), rest
    return [line.removeprefix("- ") for line in rest]


def only_problem(folder: Path, toml: str | None = None, /, **environ: str) -> str:
    """The one sentence with which this set-up is refused."""
    found = problems(folder, toml, **environ)
    assert len(found) == 1, found
    return found[0]


# Defaults


def test_with_nothing_said_the_engine_is_a_development_engine(folder: Path) -> None:
    """No file, no environment: the documented defaults."""
    found = read(folder)
    assert found.env == "development"
    assert found.database == folder / "data" / "pluct.db"
    assert found.webhook_secrets == ("local-dev-webhook-secret-never-use-in-prod-67890",)
    assert found.user_auth == "open"
    assert (found.host, found.port) == ("127.0.0.1", 8787)
    assert found.returned_grace_seconds == 86_400
    assert found.catalog.actions == {"default": Action(1, "premium", 60, "vend", 1800, None)}


def test_development_secrets_are_fixed_long_and_all_different(folder: Path) -> None:
    """A restart in development does not spoil tickets, and no secret does another's work."""
    first, second = read(folder), read(folder)
    assert first == second
    found = [*first.webhook_secrets, first.jwt_secret, first.user_token_secret, *first.key_secrets]
    assert len(set(found)) == 4
    assert all(len(secret) >= SECRET_BYTES_MIN for secret in found)


# Where settings come from


@pytest.mark.parametrize(
    ("key", "value", "name", "other", "attribute", "from_file", "from_environment"),
    [
        ("host", '"0.0.0.0"', "PLUCT_HOST", "::1", "host", "0.0.0.0", "::1"),
        ("port", "9000", "PLUCT_PORT", "9001", "port", 9000, 9001),
        ("user_auth", '"token"', "PLUCT_USER_AUTH", "open", "user_auth", "token", "open"),
        ("jwt_secret", '"file"', "JWT_SECRET", "environment", "jwt_secret", "file", "environment"),
        ("user_token_secret", '"f"', "USER_TOKEN_SECRET", "e", "user_token_secret", "f", "e"),
        ("webhook_secret", '"f"', "WEBHOOK_SECRET", "e", "webhook_secrets", ("f",), ("e",)),
        ("webhook_secret", '["f", "g"]', "WEBHOOK_SECRET", "e", "webhook_secrets", ("f", "g"), ("e",)),
        ("returned_grace_seconds", "60", "UNRELATED", "", "returned_grace_seconds", 60, 60),
    ],
)
def test_the_environment_wins_over_the_file(
    folder: Path,
    key: str,
    value: str,
    name: str,
    other: str,
    attribute: str,
    from_file: object,
    from_environment: object,
) -> None:
    """Every setting can stand in the file, and the environment overrides it."""
    assert getattr(read(folder, f"{key} = {value}"), attribute) == from_file
    assert getattr(read(folder, f"{key} = {value}", **{name: other}), attribute) == from_environment


def test_env_database_and_signing_can_stand_in_the_file(folder: Path) -> None:
    """The rows whose value is not kept as it is written."""
    good = "\n".join(f'{name.lower()} = "{secret}"' for name, secret in GOOD.items())
    found = read(
        folder,
        f'env = "production"\nuser_auth = "open"\nsigning = "HS256"\ndatabase_url = "sqlite:////srv/p.db"\n{good}',
    )
    assert found.env == "production"
    assert found.database == Path("/srv/p.db")
    assert found.jwt_secret == GOOD["JWT_SECRET"]
    found = read(folder, PLUCT_ENV="development", DATABASE_URL="sqlite:///here.db")
    assert found.env == "development"
    assert found.database == folder / "here.db"


def test_the_file_may_be_elsewhere(folder: Path) -> None:
    """PLUCT_CONFIG names the file, relative to the working folder or absolutely; ./pluct.toml is then not read."""
    (folder / "etc").mkdir()
    (folder / "etc" / "shop.toml").write_text("port = 9100")
    (folder / "pluct.toml").write_text("port = 1")
    assert read(folder, PLUCT_CONFIG="etc/shop.toml").port == 9100
    assert read(folder, PLUCT_CONFIG=str(folder / "etc" / "shop.toml")).port == 9100
    assert read(folder).port == 1


def test_settings_of_other_programs_are_left_alone(folder: Path) -> None:
    """The environment belongs to everybody: only our own names in it are looked at."""
    assert read(folder, PATH="/bin", PORT="junk", HOST="junk", RETURNED_GRACE_SECONDS="junk") == read(folder)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///data/pluct.db", "data/pluct.db"),
        ("sqlite:///pluct.db", "pluct.db"),
        ("sqlite:////var/lib/pluct/pluct.db", "/var/lib/pluct/pluct.db"),
    ],
)
def test_the_database_is_a_file_here_or_anywhere(folder: Path, url: str, path: str) -> None:
    """Three slashes and a relative path, or four and an absolute one."""
    assert read(folder, DATABASE_URL=url).database == folder / path


def test_a_replica_is_named_beside_its_database(folder: Path) -> None:
    """In the environment or the file; by default there is none."""
    urls = {"DATABASE_URL": "postgresql://a@primary/p", "DATABASE_READ_URL": "postgresql://a:hunter2@replica/p"}
    assert read(folder).read_database is None
    found = read(folder, **urls)
    assert (found.database, found.read_database) == tuple(urls.values())
    assert "hunter2" not in repr(found) + pretty_repr(found)
    toml = "\n".join(f'{name.lower()} = "{url}"' for name, url in urls.items())
    assert read(folder, toml) == found


# Refusals, one by one


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("PLUCT_ENV", "prod", "development or production, not 'prod'"),
        ("PLUCT_ENV", "Production", "development or production"),
        ("PLUCT_ENV", "", "development or production"),
        ("PLUCT_USER_AUTH", "closed", "open or token, not 'closed'"),
        ("PLUCT_USER_AUTH", "", "open or token"),
        ("PLUCT_SIGNING", "eddsa", "must be HS256 or EdDSA"),
        ("PLUCT_SIGNING", "none", "must be HS256 or EdDSA"),
        ("PLUCT_SIGNING", "", "must be HS256 or EdDSA"),
        ("PLUCT_HOST", "", "PLUCT_HOST"),
        ("DATABASE_URL", "", "sqlite:///"),
        ("DATABASE_URL", "sqlite:///", "sqlite:///relative/path.db"),
        ("DATABASE_URL", "sqlite://data/pluct.db", "sqlite:///relative/path.db"),
        ("DATABASE_URL", "sqlite:///:memory:", "sqlite:///relative/path.db"),
        ("DATABASE_URL", "sqlite:///a.db?mode=ro", "sqlite:///relative/path.db"),
        ("DATABASE_URL", "mysql://localhost/p", "sqlite:///relative/path.db"),
        ("DATABASE_URL", "pluct.db", "sqlite:///relative/path.db"),
        ("DATABASE_READ_URL", "", "must be postgresql://"),
        ("DATABASE_READ_URL", "sqlite:///replica.db", "must be postgresql://"),
        ("DATABASE_READ_URL", "postgresql://replica/p", "a file has no replica"),
        ("DATABASE_URL", "postgresql://u:hunter2@host:abc/p", "host or port"),
        ("DATABASE_URL", "postgresql://u:hunter2@host:99999/p", "host or port"),
        ("DATABASE_URL", "postgresql://u:hunter2@[::1/p", "host or port"),
        ("DATABASE_URL", "postgresql://u:hunter2@a:5432,b:x/p", "host or port"),
        ("JWT_SECRET", "", "empty"),
        ("WEBHOOK_SECRET", "", "empty"),
        ("WEBHOOK_SECRET", "one,", "empty"),
        ("WEBHOOK_SECRET", " , ", "empty"),
        ("USER_TOKEN_SECRET", "", "empty"),
    ],
)
def test_a_value_that_means_nothing_is_refused(folder: Path, name: str, value: str, says: str) -> None:
    """The sentence names the setting and says what it takes."""
    sentence = only_problem(folder, **{name: value})
    assert sentence.startswith(name) and says in sentence and "hunter2" not in sentence


@pytest.mark.parametrize("port", ["-1", "65536", "http", "", " 80", "8787.0", "1e3", "٨٧", "+80", "0x50", "9" * 5000])
def test_a_port_is_a_whole_number_up_to_65535(folder: Path, port: str) -> None:
    """Plain digits only, and nothing is guessed."""
    assert only_problem(folder, PLUCT_PORT=port).startswith("PLUCT_PORT must be a whole number from 0 to 65535")


@pytest.mark.parametrize("port", ["0", "1", "65535"])
def test_the_bounds_of_a_port_are_ports(folder: Path, port: str) -> None:
    """0 lets the machine pick one."""
    assert read(folder, PLUCT_PORT=port).port == int(port)


@pytest.mark.parametrize("seconds", ["-1", "315360001", '"soon"', "1.5"])
def test_the_grace_time_is_bounded(folder: Path, seconds: str) -> None:
    """From none at all to ten years."""
    found = only_problem(folder, f"returned_grace_seconds = {seconds}")
    assert found.startswith(f"{folder / 'pluct.toml'}: returned_grace_seconds must be a whole number")


@pytest.mark.parametrize("line", ["env = 'prod'", "user_auth = 'closed'", "port = 65536", "pluct_port = '1e3'"])
def test_a_value_in_the_file_is_named_as_it_is_there(folder: Path, line: str) -> None:
    """By file and key; the environment, which goes first, by the name it has there."""
    key = line.partition(" ")[0]
    assert only_problem(folder, line).startswith(f"{folder / 'pluct.toml'}: {key} must be ")
    name = "PLUCT_" + key.removeprefix("pluct_").upper()
    assert only_problem(folder, line, **{name: "?"}).startswith(f"{name} must be ")


@pytest.mark.parametrize(
    ("toml", "key"),
    [
        ("port = true", "port"),
        ("port = 8787.5", "port"),
        ("port = []", "port"),
        ("host = 5", "host"),
        ("host = 1979-05-27", "host"),
        ("jwt_secret = 12345678901234567890123456789012", "jwt_secret"),
        ("jwt_secret = ['a', 'b']", "jwt_secret"),
        ("webhook_secret = ['a', 5]", "webhook_secret"),
        ("webhook_secret = []", "webhook_secret"),
        ("env = {}", "env"),
        ("actions = 5", "actions"),
        ("[[actions]]\ncost = 1", "actions"),
        ("[actions]\ndefault = 5", "actions.default"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(folder: Path, toml: str, key: str) -> None:
    """A number is not a text, and a text is not a list, however well it would print."""
    assert re.search(rf"\b{key}\b", only_problem(folder, toml), re.I)


@pytest.mark.parametrize(
    ("toml", "key"),
    [
        ("prot = 8787", "prot"),
        ("[actions.default]\nprice = 1", "price"),
        ("[actions.transcribe]\nttl = 60", "ttl"),
        ("[action.default]\ncost = 1", "action"),
        ('"development" = 1', "development"),
    ],
)
def test_an_unknown_key_is_refused_by_file_and_name(folder: Path, toml: str, key: str) -> None:
    """A misspelt setting does not silently mean its default."""
    sentence = only_problem(folder, toml)
    assert str(folder / "pluct.toml") in sentence
    assert f"'{key}'" in sentence or f"`{key}`" in sentence


@pytest.mark.parametrize(
    "content",
    [b"port = ", b"port 8787", b"= 1", b"[actions", b"port = 1\nport = 2", b"host = 'caf\xe9'", b"\x00", b"a = 'b"],
)
def test_a_file_that_is_not_toml_is_refused_by_name(folder: Path, content: bytes) -> None:
    """Nothing of a file that cannot be understood is used."""
    (folder / "pluct.toml").write_bytes(content)
    assert only_problem(folder).startswith(f"{folder / 'pluct.toml'} is not valid TOML")


def test_a_file_that_cannot_be_read_is_refused_by_name(folder: Path) -> None:
    """Absent is fine; a folder in its place, or a path through a file, is not."""
    (folder / "pluct.toml").mkdir()
    assert only_problem(folder).startswith(f"{folder / 'pluct.toml'} cannot be read")
    (folder / "file").touch()
    assert only_problem(folder, PLUCT_CONFIG="file/pluct.toml").startswith(f"{folder / 'file'}")


def test_secrets_that_are_not_text_are_refused(folder: Path) -> None:
    """Bytes that are not UTF-8 reach a program as lone surrogates; no client could send them back."""
    for name in GOOD:
        secret = os.fsdecode(b"\xff" * 40)
        assert name in " ".join(problems(folder, **{name: secret}))
        assert name in " ".join(problems(folder, **PRODUCTION | {name: secret}))


# All at once


def test_everything_that_is_wrong_is_said_at_once(folder: Path) -> None:
    """Environment, file, actions and secrets: one message, one line each."""
    toml = """
        prot = 8787
        host = true
        port = 70000
        jwt_secret = ""

        [actions.default]
        cost = 0
        audience = ""

        [actions.transcribe]
        cost = "two"

        [actions.chat]
        ttl = 60
    """
    found = problems(
        folder, toml, PLUCT_ENV="prod", PLUCT_SIGNING="RS256", PLUCT_USER_AUTH="maybe", DATABASE_URL="mysql://h/d",
        USER_TOKEN_SECRET="", WEBHOOK_SECRET=",",
    )  # fmt: skip
    expected = [
        "'prot'", "host must be", "port must be", "JWT_SECRET", "[actions.default]: cost",
        "[actions.default]: audience", "[actions.transcribe]", "[actions.chat]", "PLUCT_ENV", "PLUCT_SIGNING",
        "PLUCT_USER_AUTH", "DATABASE_URL", "USER_TOKEN_SECRET", "WEBHOOK_SECRET",
    ]  # fmt: skip
    assert [word for word in expected if not any(word in line for line in found)] == []
    assert len(found) == len(expected)


def test_everything_that_is_wrong_in_one_action_is_said_at_once(folder: Path) -> None:
    """Unknown keys, wrong types and values out of range, in the same table."""
    found = problems(
        folder, "[actions.transcribe]\nprice = 1\nttl = 60\ncost = 'two'\naudience = 5\nreport_seconds = 0"
    )
    text = "\n".join(found)
    assert [
        key for key in ("price", "ttl", "cost", "audience", "report_seconds") if not re.search(rf"\b{key}\b", text)
    ] == []


def test_a_broken_file_does_not_hide_what_is_wrong_elsewhere(folder: Path) -> None:
    """The environment is judged all the same."""
    found = problems(folder, "port = ", PLUCT_ENV="prod", PLUCT_SIGNING="RS256")
    assert len(found) == 3


# Production


def test_production_with_secrets_of_its_own_starts(folder: Path) -> None:
    """Both ways to say who users are."""
    found = read(folder, **PRODUCTION)
    assert (found.env, found.user_auth) == ("production", "token")
    assert found.webhook_secrets == (GOOD["WEBHOOK_SECRET"],)
    assert (found.jwt_secret, found.user_token_secret) == (GOOD["JWT_SECRET"], GOOD["USER_TOKEN_SECRET"])


def test_production_names_every_missing_secret(folder: Path) -> None:
    """Nothing is made up in production, and the one run shows all that is to be done."""
    for signing, unneeded in (("HS256", "PLUCT_KEY_SECRET"), ("EdDSA", "JWT_SECRET")):
        found = problems(folder, PLUCT_ENV="production", PLUCT_USER_AUTH="token", PLUCT_SIGNING=signing)
        assert {line.partition(" must be set")[0] for line in found} == GOOD.keys() - {unneeded}


def test_production_wants_to_be_told_whether_users_are_believed(folder: Path) -> None:
    """`open` is a choice in production, never an accident."""
    environ = {name: value for name, value in PRODUCTION.items() if name != "PLUCT_USER_AUTH"}
    assert only_problem(folder, **environ).startswith("PLUCT_USER_AUTH must be stated")
    assert read(folder, **environ, PLUCT_USER_AUTH="open").user_auth == "open"
    assert read(folder, 'user_auth = "open"', **environ).user_auth == "open"


def test_a_user_token_secret_is_wanted_only_where_user_tokens_are(folder: Path) -> None:
    """With `open`, nobody reads user tokens."""
    environ = {name: value for name, value in PRODUCTION.items() if name != "USER_TOKEN_SECRET"}
    assert only_problem(folder, **environ).startswith("USER_TOKEN_SECRET")
    assert read(folder, **environ | {"PLUCT_USER_AUTH": "open"}).user_token_secret == ""


@pytest.mark.parametrize("name", GOOD)
def test_production_refuses_development_secrets(folder: Path, name: str) -> None:
    """Each of them, in each place, also among others."""
    for development in DEVELOPMENT_SECRETS.values():
        found = problems(folder, **PRODUCTION | {name: development})
        assert f"{name} is a development secret; production needs one of its own." in found
    if name == "WEBHOOK_SECRET":
        both = f"{GOOD[name]}, {DEVELOPMENT_SECRETS[name]}"
        assert "development secret" in only_problem(folder, **PRODUCTION | {name: both})


@pytest.mark.parametrize("name", GOOD)
def test_production_refuses_short_secrets(folder: Path, name: str) -> None:
    """31 bytes are too few, 32 are enough; it is bytes that count, not characters."""
    assert f"{name} is shorter than 32 bytes" in only_problem(folder, **PRODUCTION | {name: "s" * 31})
    read(folder, **PRODUCTION | {name: "s" * 32})
    read(folder, **PRODUCTION | {name: "é" * 16})
    assert read(folder, **{name: "s"}).env == "development"


def test_production_refuses_a_short_secret_among_several(folder: Path) -> None:
    """A rotation is no way around the rule."""
    environ = PRODUCTION | {"WEBHOOK_SECRET": f"{GOOD['WEBHOOK_SECRET']},short"}
    assert "WEBHOOK_SECRET is shorter" in only_problem(folder, **environ)


@pytest.mark.parametrize(
    ("first", "second"),
    [("JWT_SECRET", "USER_TOKEN_SECRET"), ("JWT_SECRET", "WEBHOOK_SECRET"), ("USER_TOKEN_SECRET", "WEBHOOK_SECRET")],
)
def test_production_refuses_equal_secrets(folder: Path, first: str, second: str) -> None:
    """One secret in two hands is two doors opened by one leak."""
    same = "s" * 40
    sentence = only_problem(folder, **PRODUCTION | {first: same, second: same})
    assert "must differ" in sentence and second in sentence and same not in sentence


def test_who_names_users_never_makes_tickets(folder: Path) -> None:
    """The two secrets differ in development too, and with `open`."""
    for user_auth in ("open", "token"):
        environ = {"PLUCT_USER_AUTH": user_auth, "JWT_SECRET": "same", "USER_TOKEN_SECRET": "same"}
        assert "must differ" in only_problem(folder, **environ)


def test_a_production_engine_signs_with_keys_of_its_own(folder: Path) -> None:
    """Under EdDSA no secret is shared, and only tickets of before need one; under HS256 nobody needs a key secret."""
    found = read(folder, **PRODUCTION, PLUCT_SIGNING="EdDSA")
    assert (found.signing, found.key_secrets) == ("EdDSA", (GOOD["PLUCT_KEY_SECRET"],))
    without = {name: value for name, value in PRODUCTION.items() if name != "JWT_SECRET"}
    assert read(folder, **without, PLUCT_SIGNING="EdDSA").jwt_secret == ""
    assert only_problem(folder, **without).startswith("JWT_SECRET must be set")
    without = {name: value for name, value in PRODUCTION.items() if name != "PLUCT_KEY_SECRET"}
    assert read(folder, **without).key_secrets == ()
    assert only_problem(folder, **without, PLUCT_SIGNING="EdDSA").startswith("PLUCT_KEY_SECRET must be set")


@pytest.mark.parametrize("env", [{}, PRODUCTION], ids=["development", "production"])
@pytest.mark.parametrize("name", ["JWT_SECRET", "USER_TOKEN_SECRET", "WEBHOOK_SECRET"])
def test_what_keeps_the_keys_keeps_nothing_else(folder: Path, env: dict[str, str], name: str) -> None:
    """The key secret is no other secret, not even one of several, in any environment."""
    same = "s" * 40
    several = f"{GOOD['PLUCT_KEY_SECRET']},{same}"
    sentence = only_problem(folder, **env | {name: same, "PLUCT_KEY_SECRET": several, "PLUCT_SIGNING": "EdDSA"})
    assert "must differ" in sentence and "PLUCT_KEY_SECRET" in sentence and same not in sentence


def test_what_keeps_the_keys_is_no_secret_of_payments(folder: Path) -> None:
    """Nor of a gateway."""
    same = "s" * 40
    environ = {"PLUCT_SIGNING": "EdDSA", "PLUCT_KEY_SECRET": same}
    toml = '[payments]\ncallback_base_url = "https://pay.example"\n\n[gateways.paystack]'
    assert "must differ" in only_problem(folder, **environ, PRIVACY_SECRET=same)
    assert "must differ" in only_problem(folder, toml, **environ, PAYSTACK_SECRET_KEY=same)


def test_key_secrets_rotate(folder: Path) -> None:
    """The first keeps new keys, and all open; in the file they are a list."""
    assert read(folder, PLUCT_KEY_SECRET="new, old").key_secrets == ("new", "old")
    assert read(folder, 'key_secret = ["new", "old"]').key_secrets == ("new", "old")


# Webhook secrets


def test_webhook_secrets_rotate(folder: Path) -> None:
    """Several, comma-separated; spaces around them do not count."""
    assert read(folder, WEBHOOK_SECRET="new , old").webhook_secrets == ("new", "old")
    environ = PRODUCTION | {"WEBHOOK_SECRET": "n" * 32 + "," + "o" * 32}
    assert read(folder, **environ).webhook_secrets == ("n" * 32, "o" * 32)


# Secrets stay secret


def test_no_secret_is_in_what_settings_look_like(folder: Path) -> None:
    """Printed, formatted or shown by a debugger, settings show none."""
    found = read(folder, **PRODUCTION)
    shown = f"{found!r} {found} {pretty_repr(found)}"
    assert [name for name, secret in GOOD.items() if secret in shown] == []


def test_no_secret_is_in_a_refusal(folder: Path) -> None:
    """Whatever is wrong with a secret, or beside it, the message does not repeat it."""
    canaries = {name: secrets.token_hex(6) for name in GOOD}
    password = secrets.token_hex(6)
    environ = {"PLUCT_ENV": "production", "DATABASE_URL": f"postgresql://pluct:{password}@localhost/pluct"}
    text = "\n".join(problems(folder, **environ, **canaries))
    text += "\n".join(problems(folder, **environ, **dict.fromkeys(GOOD, canaries["JWT_SECRET"] * 4)))
    for name, canary in canaries.items():
        for value in (f"'{canary}", f"['{canary}', 5]", f"{{ a = '{canary}' }}"):
            text += "\n".join(problems(folder, f"{name.lower()} = {value}"))
    assert [value for value in (*canaries.values(), password) if value in text] == []


# Actions


def test_actions_are_tables_of_what_is_sold(folder: Path) -> None:
    """What a table leaves out has its default; `default` itself can be changed, and is there anyhow."""
    toml = """
        [actions.default]
        cost = 3

        [actions.transcribe]
        cost = 2
        audience = "tttranscribe"
        ttl_seconds = 90
        settle = "report"
        report_seconds = 600
        cost_max = 20

        [actions.summarise]
        settle = "redeem"
    """
    assert read(folder, toml).catalog.actions == {
        "default": Action(3, "premium", 60, "vend", 1800, None),
        "transcribe": Action(2, "tttranscribe", 90, "report", 600, 20),
        "summarise": Action(1, "premium", 60, "redeem", 1800, None),
    }
    assert set(read(folder, "[actions.transcribe]").catalog.actions) == {"default", "transcribe"}


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("cost = 0", f"cost must be 1 to {AMOUNT_MAX}"),
        ("cost = -1", "cost must be 1 to"),
        (f"cost = {AMOUNT_MAX + 1}", "cost must be 1 to"),
        ("cost = true", "cost"),
        ("cost = 1.0", "cost"),
        ("cost = '1'", "cost"),
        ("audience = ''", "audience must not be empty"),
        ("audience = 5", "audience"),
        ("ttl_seconds = 0", f"ttl_seconds must be 1 to {TTL_SECONDS_MAX}"),
        (f"ttl_seconds = {TTL_SECONDS_MAX + 1}", "ttl_seconds must be 1 to"),
        ("settle = 'later'", "settle"),
        ("settle = 1", "settle"),
        ("report_seconds = 0", f"report_seconds must be 1 to {REPORT_SECONDS_MAX}"),
        (f"report_seconds = {REPORT_SECONDS_MAX + 1}", "report_seconds must be 1 to"),
        ("cost_max = 5", "cost_max is only for"),
        ("settle = 'redeem'\ncost_max = 5", "cost_max is only for"),
        ("settle = 'report'\ncost = 5\ncost_max = 4", "cost_max must be from cost"),
        (f"settle = 'report'\ncost_max = {AMOUNT_MAX + 1}", "cost_max must be from cost"),
    ],
)
def test_an_action_that_cannot_be_sold_is_refused(folder: Path, table: str, says: str) -> None:
    """The sentence names file, action and key."""
    sentence = only_problem(folder, f"[actions.transcribe]\n{table}")
    assert sentence.startswith(f"{folder / 'pluct.toml'}: [actions.transcribe]: ") and says in sentence


@pytest.mark.parametrize(
    "table",
    [
        f"cost = {AMOUNT_MAX}",
        "ttl_seconds = 1",
        f"ttl_seconds = {TTL_SECONDS_MAX}",
        f"settle = 'report'\nreport_seconds = {REPORT_SECONDS_MAX}",
        "settle = 'report'\ncost = 5\ncost_max = 5",
        f"settle = 'report'\ncost_max = {AMOUNT_MAX}",
        "settle = 'redeem'",
    ],
)
def test_the_bounds_of_an_action_can_be_sold(folder: Path, table: str) -> None:
    """Limits are inclusive."""
    assert "transcribe" in read(folder, f"[actions.transcribe]\n{table}").catalog.actions


# The program


def test_a_program_that_is_set_up_wrongly_says_so_and_ends(make_pluct: Callable[..., Pluct]) -> None:
    """Exit status 2; every sentence on a line of its own on stderr; no secret, nothing on stdout, no file."""
    pluct = make_pluct(
        toml="prot = 8787\n\n[actions.default]\ncost = 0", PLUCT_ENV="production", JWT_SECRET="too-short-a-secret"
    )
    expected = problems(pluct.folder, **pluct.environment)
    assert len(expected) == 5
    for arguments in (["serve"], ["serve", "--port", "0"], ["keys", "list"], ["check"], ["credits", "show", "amina"]):
        done = pluct.run(*arguments, exit_code=2)
        assert done.stdout == ""
        assert [sentence for sentence in expected if f"- {sentence}" not in done.stderr.splitlines()] == []
        assert "too-short-a-secret" not in done.stderr
    assert not pluct.database.exists()


@pytest.mark.parametrize(
    ("toml", "environ"),
    [
        ("port = ", {}),
        ("[[[", {}),
        ("port = 0x" + "f" * 5000, {}),
        ("port = " + "9" * 5000, {}),
        ("host = " + "[" * 5000, {}),
        ('database_url = "sqlite:///a\\u0000b"', {}),
        (None, {"PLUCT_CONFIG": "."}),
        (None, {"PLUCT_CONFIG": "a" * 5000}),
        (None, {"PLUCT_SIGNING": "Ed25519"}),
        (None, {"PLUCT_PORT": "70000"}),
        (None, {"PLUCT_ENV": os.fsdecode(b"\xff")}),
        (None, {"JWT_SECRET": os.fsdecode(b"\xff")}),
        (None, {"WEBHOOK_SECRET": os.fsdecode(b"\xff")}),
        (None, {"DATABASE_URL": "sqlite:////dev/null/pluct.db"}),
        (None, {"DATABASE_URL": "sqlite:////dev"}),
        (None, {"PLUCT_HOST": "no such host"}),
    ],
    ids=range(16),
)
def test_no_set_up_ends_in_a_traceback(
    make_pluct: Callable[..., Pluct], toml: str | None, environ: dict[str, str]
) -> None:
    """However wild the value, the answer is a sentence that takes none of the blame off the set-up."""
    done = make_pluct(toml=toml, **environ).run("serve", exit_code=2)
    assert done.stdout == ""
    assert done.stderr.strip() and "bug" not in done.stderr


def test_a_server_is_what_its_settings_say(make_pluct: Callable[..., Pluct]) -> None:
    """File and environment reach the process: database, webhook secrets under rotation, actions, user tokens."""
    pluct = make_pluct(
        toml='database_url = "sqlite:///elsewhere/ledger.db"\nuser_auth = "open"\n\n[actions.default]\ncost = 3',
        WEBHOOK_SECRET="the-new-secret, the-old-secret", PLUCT_USER_AUTH="token",
    )  # fmt: skip
    pluct.start()

    def add(secret: str) -> int:
        body, headers = {"userId": "amina", "amount": 1}, {"x-webhook-secret": secret}
        return pluct.client.post("/add-credits", json=body, headers=headers).status_code

    assert [add(secret) for secret in ("the-new-secret", "the-old-secret")] == [200, 200]
    assert [add(secret) for secret in ("the-new-secret, the-old-secret", "", *DEVELOPMENT_SECRETS.values())] == [
        401
    ] * (2 + len(DEVELOPMENT_SECRETS))
    assert pluct.client.post("/vend-token", json={"userId": "amina"}).status_code == 401
    assert (pluct.folder / "elsewhere" / "ledger.db").exists()
    assert not pluct.database.exists()
    assert pluct.stop() == 0


def test_host_and_port_are_where_it_listens(make_pluct: Callable[..., Pluct]) -> None:
    """The command line wins over both, which is how the other tests find a free port."""
    pluct = make_pluct(toml="port = 1", PLUCT_HOST="127.0.0.2", PLUCT_PORT="2")
    pluct.start()
    assert re.fullmatch(r"http://127\.0\.0\.2:\d+", pluct.url)
    assert pluct.client.get("/health").status_code == 200
