"""Every gateway is put together alike, is documented, and costs nothing until it is used."""

import importlib
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

import pluct.gateways
from pluct.gateways import configured
from pluct.gateways.calls import email_for, harmless, is_address, redirect
from pluct.gateways.configured import described

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "gateways.md").read_text("utf-8")
NAMES = ("flutterwave", "paystack", "standard", "stripe")
MODULES = {name: importlib.import_module(f"pluct.gateways.{name}") for name in NAMES}


def settings_of(module: Any) -> Any:
    (kind,) = (kind for name, kind in vars(module).items() if name.endswith("Settings"))
    return kind


@pytest.mark.parametrize("name", NAMES)
def test_a_gateway_is_put_together_like_the_others(name: str) -> None:
    """The same arguments, the same names, a class that is a `Gateway`."""
    module = MODULES[name]
    wanted = ["settings", "secrets", "callback_base_url", "client", "privacy", "clock"]
    assert list(inspect.signature(module.make).parameters) == wanted
    assert module.SECRETS and isinstance(module.SECRETS_OPTIONAL, tuple)
    gateway = getattr(module, name.capitalize())
    assert (gateway.name, gateway.hooks) == (name, ("",))
    for method in ("takes", "start", "receive", "ask"):
        ours, theirs = (inspect.signature(getattr(kind, method)) for kind in (gateway, pluct.gateways.Gateway))
        assert list(ours.parameters) == list(theirs.parameters)


@pytest.mark.parametrize("name", NAMES)
def test_a_table_with_an_unknown_key_is_refused(name: str) -> None:
    """An empty one is fine."""
    kind = settings_of(MODULES[name])
    assert msgspec.convert({}, kind).problems("https://pay.example") == []
    with pytest.raises(msgspec.ValidationError, match="unknown"):
        msgspec.convert({"key": "x"}, kind)


def test_every_key_and_every_secret_is_documented_and_no_other() -> None:
    """With its default."""
    told = {
        (key, gateway.strip(), default)
        for key, gateways, default in re.findall(r"^\| `(\w+)` \| ([\w, ]+) \| `(.+?)` \|", PAGE, flags=re.M)
        for gateway in gateways.split(",")
    }
    fields = {
        (field.name, name, json.dumps(field.default))
        for name, module in MODULES.items()
        for field in msgspec.structs.fields(settings_of(module))
    }
    assert told == fields
    modules = [described(name)[0] for name in configured.NAMES]
    secrets = {secret for module in modules for secret in (*module.SECRETS, *module.SECRETS_OPTIONAL)}
    assert set(re.findall(r"`([A-Z_]{8,})`", PAGE)) == secrets


def test_every_key_of_mpesa_is_documented_and_no_other() -> None:
    """With its default; two that belong together share a row."""
    (section,) = re.findall(r"^## M-Pesa\n(.*?)^## ", PAGE, flags=re.M | re.S)
    told: dict[str, str] = {}
    for keys, defaults in re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| (`.+?`(?:, `.+?`)*) \|", section, flags=re.M):
        told |= dict(zip(re.findall(r"`(\w+)`", keys), re.findall(r"`(.+?)`", defaults), strict=True))
    fields = msgspec.structs.fields(described("daraja")[1])
    assert told == {field.name: json.dumps(field.default) for field in fields}


def test_importing_the_gateways_is_cheap() -> None:
    """What is slow to import waits until a gateway is asked; Stripe's library is for the tests alone."""
    names = ", ".join(f"pluct.gateways.{name}" for name in NAMES)
    code = f"import sys, {names}; print([m for m in ('httpx', 'stripe', 'requests') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_engine_that_takes_no_money_does_not_pay_for_it(tmp_path: Path) -> None:
    """Neither at its start nor for a command: what speaks HTTP takes as long to load as all of ours."""
    code = (
        "import sys, pathlib, pluct.cli, pluct.settings; pluct.settings.load({}, pathlib.Path());"
        "print([m for m in ('httpx', 'standardwebhooks', 'pluct.gateways.stripe') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("url", "good"), [
    ("https://pay.example", True), ("https://pay.example:8443/base", True), ("http://127.0.0.1:8787", True),
    ("http://localhost", True), ("http://[::1]:9", True), ("http://pay.example", False), ("pay.example", False),
    ("", False), ("https://", False), ("https://user@pay.example", False), ("https://pay.example?x=1", False),
    ("https://pay.example#x", False), ("https://pay.example:port", False), ("https://[::1", False),
    ("https://é", False),
])  # fmt: skip
def test_what_an_address_is(url: str, good: bool) -> None:
    """https, or this machine."""
    assert is_address(url) is good


def test_where_a_user_may_be_sent() -> None:
    """To an address of the web, on one line, and not an endless one."""
    assert redirect("https://x/y#z") == "https://x/y#z" and redirect("http://127.0.0.1/x")
    assert not any(map(redirect, ["ftp://x", "https://x\ny", "https://" + "x" * 2_001, "HTTPS", b"https://x", None]))


def test_other_peoples_words_are_made_harmless() -> None:
    """Whatever a gateway repeats of what it was sent."""
    said = harmless("Invalid API Key provided: sk_test_********************yAll, jane@example.com +254712345678 no")
    assert said == "Invalid API Key provided: (hidden), (hidden) (hidden) no"
    assert len(harmless("no " * 1_000)) == 200


def test_an_address_for_those_who_insist() -> None:
    """At our own domain, so that it is nobody else's."""
    assert email_for("PHK7Q2M4", "", "https://pay.example:8443/x") == "phk7q2m4@pay.example"
    assert email_for("PHK7Q2M4", "shop.example", "https://pay.example") == "phk7q2m4@shop.example"
