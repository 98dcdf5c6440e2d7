"""What an engine that takes money refuses to start with, each thing in a sentence that shows no secret."""

from pathlib import Path

import pytest

from paying import SECRETS
from pluct.errors import SetupError
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
        (pack(currency='"shilling"'), "three letters"), (pack(credits="0"), "credits"),
        (pack(credits="1.5"), "credits"), (pack(credits="1000000001"), "credits"),
        (pack(id='"a b"'), "id must be"), (pack(id='""'), "id must be"),
        (pack(name='""'), "name"), (pack() + pack(), "another pack"), (pack(colour='"red"'), "colour"),
        ("packs = 1\n", "packs must be tables"), ("[packs]\nid = 1\n", "packs must be tables"),
        ('[payments]\nodd_amounts = "round"\n', "odd_amounts must be packs, pro_rata or hold"),
        ('[payments]\nclawback = "none"\n', "clawback must be debt, floor or freeze"),
        ("[payments]\npolicy = 1\n", "unknown key 'policy'"), ("payments = 3\n", "must be a table"),
        ("[http]\nproxy_hops = 11\n", "0 to 10"), ('[http]\nproxy_hops = "1"\n', "proxy_hops"),
        ("[gateways.paypal]\n", "no such gateway; known are daraja, stripe"), ("gateways = 1\n", "must be tables"),
        ("gateways.daraja = 1\n" + BASE, "must be a table"),
        (BASE + "[gateways.daraja]\nshort = 1\n", "unknown key 'short'"),
        (BASE + '[gateways.daraja]\nshortcode = "x"\n', "4 to 10 digits"),
        ("[gateways.daraja]\n", "callback_base_url must be set"),
        (BASE + '[gateways.daraja]\ndaraja_passkey = "hunter2"\n', "taken from the environment alone"),
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
        (SECRETS | {"DARAJA_PATH_TOKEN": "short"}, "DARAJA_PATH_TOKEN must be"),
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
