"""What an engine that takes money refuses to start with, each thing in a sentence that shows no secret."""

from pathlib import Path

import pytest

from paying import SECRETS
from pluct.errors import SetupError
from pluct.gateways.configured import NAMES, described
from pluct.model import Pack
from pluct.settings import Settings, load

PACK = {"id": '"starter"', "name": '"ten"', "currency": '"KES"', "price": '"100.00"', "credits": "10"}
BASE = '[payments]\ncallback_base_url = "https://pay.example"\n'
LISTED = '[gateways.daraja]\nallowed_ips = ["10.0.0.1"]\n'
PRODUCTION = {
    "PLUCT_ENV": "production", "PLUCT_USER_AUTH": "open", "WEBHOOK_SECRET": "w" * 40, "JWT_SECRET": "j" * 40,
    "PRIVACY_SECRET": "p" * 40,
}  # fmt: skip


def read(folder: Path, toml: str, **environ: str) -> Settings:
    (folder / "pluct.toml").write_text(toml, "utf-8")
    return load(environ, folder)


def problem(folder: Path, toml: str, **environ: str) -> str:
    """The one sentence with which this is refused; it shows no secret."""
    with pytest.raises(SetupError) as raised:
        read(folder, toml, **environ)
    first, *rest = raised.value.sentence.splitlines()
    assert first == "The engine cannot start:" and len(rest) == 1, rest
    assert not [value for name, value in environ.items() if name in SECRETS and value and value in rest[0]]
    return rest[0]


def pack(**changed: str | None) -> str:
    fields = {key: value for key, value in (PACK | changed).items() if value is not None}
    return "[[packs]]\n" + "\n".join(f"{key} = {value}" for key, value in fields.items()) + "\n"


def test_what_is_said_is_read(tmp_path: Path) -> None:
    """Packs in minor units, policies, the gateway with its secrets, and the proxies."""
    toml = (
        pack() + pack(id='"yen"', currency='"jpy"', price='"500"') + BASE + 'odd_amounts = "hold"\nclawback = "floor"\n'
    )
    found = read(tmp_path, toml + "[http]\nproxy_hops = 2\n[gateways.daraja]\ntill = true\n", **SECRETS).payments
    assert found.packs == (Pack("starter", "ten", "KES", 10_000, 10), Pack("yen", "ten", "JPY", 500, 10))
    assert (found.policy.odd_amounts, found.policy.clawback, found.proxy_hops) == ("hold", "floor", 2)
    assert found.gateways["daraja"].till is True and found.secrets == SECRETS
    assert not [secret for secret in SECRETS.values() if secret in repr(found) + repr(load(SECRETS, tmp_path))]


def test_without_any_of_it_nothing_is_sold(tmp_path: Path) -> None:
    """An engine without gateways needs none of their settings."""
    found = read(tmp_path, "").payments
    assert found.packs == () and found.gateways == {} and found.proxy_hops == 0


@pytest.mark.parametrize(
    ("toml", "part"),
    [
        (pack(price="100.0"), "price"), (pack(price='"100.001"'), "more digits"), (pack(price='"0.00"'), "above zero"),
        (pack(price='"-1"'), "not an amount"), (pack(price='"1e3"'), "not an amount"), (pack(price=None), "price"),
        (pack(price="100"), 'decimal string such as "100.00"'), (pack(currency='"shilling"'), "ISO 4217"),
        (pack(currency='"KSH"'), "'KSH' is not one of ISO 4217"), (pack(name='"a\\u0000b"'), "printable"),
        (pack(credits="true"), "a whole number"), (pack(id=None), "id is missing"),
        ("packs = [1]\n", "must be a table"),
        (pack(credits="0"), "credits"),
        (pack(credits="1.5"), "credits"), (pack(credits="1000000001"), "credits"),
        (pack(id='"a b"'), "id must be"), (pack(id='""'), "id must be"),
        (pack(name='""'), "name"), (pack() + pack(), "another pack"), (pack(colour='"red"'), "colour"),
        ("packs = 1\n", "packs must be tables"), ("[packs]\nid = 1\n", "packs must be tables"),
        ('[payments]\nodd_amounts = "round"\n', 'odd_amounts must be "packs", "pro_rata" or "hold"'),
        ('[payments]\nclawback = "none"\n', 'clawback must be "debt", "floor" or "freeze"'),
        ('[payments]\ncallback_base_url = "pay.example"\n', "callback_base_url must be https://host"),
        ('[payments]\ncallback_base_url = "https://pay.example?x=1"\n', "callback_base_url must be https://host"),
        ("[payments]\npolicy = 1\n", "unknown key 'policy'"), ("payments = 3\n", "must be a table"),
        ("[http]\nproxy_hops = 11\n", "0 to 10"), ('[http]\nproxy_hops = "1"\n', "proxy_hops"),
        ("[gateways.paypal]\n", "no such gateway; known are daraja, stripe"), ("gateways = 1\n", "must be tables"),
        ("gateways.daraja = 1\n" + BASE, "must be a table"),
        (BASE + "[gateways.daraja]\nshort = 1\n", "unknown key 'short'"),
        (BASE + '[gateways.daraja]\nshortcode = "x"\n', "4 to 10 digits"),
        ("[gateways.daraja]\n", "callback_base_url must be set"),
        (BASE + '[gateways.daraja]\ndaraja_passkey = "hunter2"\n', "taken from the environment alone"),
        (BASE + '[gateways.daraja]\nresponse_type = "hunter2"\n', 'must be "Completed" or "Cancelled"'),
        (BASE + '[gateways.daraja]\ntill = "hunter2"\n', "till must be true or false"),
        (BASE + '[gateways.daraja]\nallowed_ips = "hunter2"\n', "a list of strings"),
        ('daraja_passkey = "hunter2"\n', "unknown key 'daraja_passkey'"),
        ('privacy_secret = "hunter2"\n', "unknown key 'privacy_secret'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path: Path, toml: str, part: str) -> None:
    """One sentence for each mistake, with the file and the place in it."""
    sentence = problem(tmp_path, toml, **SECRETS)
    assert part in sentence and "pluct.toml" in sentence and "hunter2" not in sentence


@pytest.mark.parametrize(
    ("environ", "part"),
    [
        (SECRETS | {"DARAJA_PASSKEY": ""}, "DARAJA_PASSKEY must be set"),
        (SECRETS | {"DARAJA_PASSKEY": "with\x07bell"}, "DARAJA_PASSKEY must be printable"),
        (SECRETS | {"DARAJA_PASSKEY": "\udcff"}, "DARAJA_PASSKEY must be printable"),
        (SECRETS | {"DARAJA_PASSKEY": "clé-de-personne"}, "DARAJA_PASSKEY must be printable ASCII"),
        (SECRETS | {"DARAJA_PATH_TOKEN": "short"}, "DARAJA_PATH_TOKEN must be"),
        (SECRETS | {"DARAJA_PATH_TOKEN": " , "}, "DARAJA_PATH_TOKEN must be set"),
        (SECRETS | {"PRIVACY_SECRET": ""}, "PRIVACY_SECRET is set but empty"),
        (SECRETS | {"DARAJA_INITIATOR": "pluct"}, "must be set together"),
    ],
)
def test_secrets_are_judged_and_not_shown(tmp_path: Path, environ: dict[str, str], part: str) -> None:
    """By name alone."""
    assert part in problem(tmp_path, BASE + "[gateways.daraja]\n", **environ)


@pytest.mark.parametrize(
    ("toml", "environ", "part"),
    [
        (BASE + "[gateways.daraja]\n", {}, "allowed_ips must name"),
        (BASE.replace("https", "http").replace("pay.example", "127.0.0.1") + LISTED, {}, "https:// in production"),
        (BASE + LISTED, {"PRIVACY_SECRET": "short"}, "PRIVACY_SECRET"),
        (BASE + LISTED, {"PRIVACY_SECRET": "j" * 40}, "JWT_SECRET and PRIVACY_SECRET must differ"),
        (BASE + LISTED, {"DARAJA_PATH_TOKEN": f"{'5a' * 16}, {'w' * 40}"}, "DARAJA_PATH_TOKEN and WEBHOOK_SECRET must"),
        (BASE + LISTED, {"DARAJA_PASSKEY": SECRETS["DARAJA_CONSUMER_SECRET"]}, "DARAJA_PASSKEY must differ"),
    ],
)  # fmt: skip
def test_production_wants_more(tmp_path: Path, toml: str, environ: dict[str, str], part: str) -> None:
    """What only a developer's own machine may do without."""
    assert part in problem(tmp_path, toml, **(PRODUCTION | SECRETS | environ))


def test_production_without_a_privacy_secret(tmp_path: Path) -> None:
    """It has no default there, once somebody pays."""
    toml = BASE + LISTED
    environ = {name: value for name, value in PRODUCTION.items() if name != "PRIVACY_SECRET"} | SECRETS
    assert "PRIVACY_SECRET must be set" in problem(tmp_path, toml, **environ)
    assert read(tmp_path, toml, **(PRODUCTION | SECRETS)).payments.privacy_secret == "p" * 40


def test_every_problem_is_named_at_once(tmp_path: Path) -> None:
    """Of every pack and table, whatever is wrong with those before it."""
    toml = pack(price="100.0", currency='"KSH"', credits="0") + pack(name=None, price='"0"')
    toml += "[payments]\nodd_amounts = 1\nclawback = 1\n[http]\nproxy_hops = -1\n[gateways.daraja]\ntill = 1\n"
    with pytest.raises(SetupError) as raised:
        read(tmp_path, toml, **(SECRETS | {"DARAJA_PASSKEY": ""}))
    wrong = [
        "1: price", "1: currency", "1: credits", "2: name is missing", "2: price", "2: there is another", "odd_amounts",
        "clawback", "proxy_hops", "till", "callback_base_url", "DARAJA_PASSKEY",
    ]  # fmt: skip
    lines = raised.value.sentence.splitlines()[1:]
    assert len(lines) == len(wrong) and not [part for part in wrong if sum(part in line for line in lines) != 1], lines


@pytest.mark.parametrize("name", NAMES)
def test_no_secret_is_taken_from_the_file(tmp_path: Path, name: str) -> None:
    """By its whole name or without the gateway's: refused by a sentence that names where it belongs."""
    module, _ = described(name)
    environ = {
        secret: "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz" if name == "standard" else f"{number}" * 32
        for number, secret in enumerate(module.SECRETS)
    }
    assert read(tmp_path, BASE + f"[gateways.{name}]\n", **environ).payments.secrets == environ
    for secret in (*module.SECRETS, *module.SECRETS_OPTIONAL):
        for key in {secret.lower(), secret.lower().removeprefix(f"{name}_")}:
            sentence = problem(tmp_path, BASE + f'[gateways.{name}]\n{key} = "hunter2"\n', **environ)
            assert f"{key} is a secret" in sentence and secret in sentence and "hunter2" not in sentence


def test_equal_secrets_are_for_development_alone(tmp_path: Path) -> None:
    """There they may be whatever is handy; and secrets that are missing are not equal."""
    same = SECRETS | {"DARAJA_PASSKEY": SECRETS["DARAJA_CONSUMER_SECRET"]}
    assert read(tmp_path, BASE + LISTED, **same).payments.secrets == same
    missing = {name: value for name, value in (PRODUCTION | SECRETS).items() if name != "JWT_SECRET"}
    with pytest.raises(SetupError) as raised:
        read(tmp_path, BASE + LISTED, **missing | {"PRIVACY_SECRET": ""})
    assert [line.split()[1] for line in raised.value.sentence.splitlines()[1:]] == ["JWT_SECRET", "PRIVACY_SECRET"]
