"""Which gateways there are, by their names in `pluct.toml`, and how each is made. A new one gets a line here."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pluct.gateways import Gateway
from pluct.gateways.privacy import Privacy

if TYPE_CHECKING:
    import httpx  # importing it takes as long as all of ours: only an engine with a gateway does

#: Name, the module with its settings and what is said of its secrets, and the class of the settings.
KNOWN = {
    "daraja": ("daraja_settings", "DarajaSettings"),
    "stripe": ("stripe", "StripeSettings"),
    "paystack": ("paystack", "PaystackSettings"),
    "flutterwave": ("flutterwave", "FlutterwaveSettings"),
    "standard": ("standard", "StandardSettings"),
}


def described(name: str) -> tuple[Any, type[Any]]:
    """The module that knows a gateway's secrets, and the type of its settings."""
    module = import_module(f"pluct.gateways.{KNOWN[name][0]}")
    return module, getattr(module, KNOWN[name][1])


def make(
    settings: Mapping[str, Any], secrets: Mapping[str, str], callback_base_url: str, client: "httpx.AsyncClient",
    privacy: Privacy, clock: Callable[[], int],
) -> dict[str, Gateway]:  # fmt: skip
    """The gateways whose settings these are."""
    return {
        name: import_module(f"pluct.gateways.{name}").make(found, secrets, callback_base_url, client, privacy, clock)
        for name, found in settings.items()
    }
