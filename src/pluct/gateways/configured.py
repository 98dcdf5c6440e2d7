"""Which gateways there are, by their names in `pluct.toml`, and how each is made. A new one gets a line here.

Adapters are loaded only by an engine that has one: what they speak HTTP with takes as long as all of ours together.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pluct.gateways import Gateway
from pluct.gateways.privacy import Privacy

if TYPE_CHECKING:
    import httpx

NAMES = ("daraja", "stripe", "paystack", "flutterwave", "standard")


def described(name: str) -> tuple[Any, type[Any]]:
    """The module that knows a gateway's secrets (`SECRETS` and what is wrong with them), and its settings."""
    from pluct.gateways import daraja_settings, flutterwave, paystack, standard, stripe

    found: dict[str, tuple[Any, type[Any]]] = {
        "daraja": (daraja_settings, daraja_settings.DarajaSettings),
        "stripe": (stripe, stripe.StripeSettings),
        "paystack": (paystack, paystack.PaystackSettings),
        "flutterwave": (flutterwave, flutterwave.FlutterwaveSettings),
        "standard": (standard, standard.StandardSettings),
    }
    return found[name]


def make(
    settings: Mapping[str, Any], secrets: Mapping[str, str], callback_base_url: str, client: "httpx.AsyncClient",
    privacy: Privacy, clock: Callable[[], int],
) -> dict[str, Gateway]:  # fmt: skip
    """The gateways whose settings these are."""
    from pluct.gateways import daraja, flutterwave, paystack, standard, stripe

    makers: dict[str, Callable[..., Gateway]] = {
        "daraja": daraja.make, "stripe": stripe.make, "paystack": paystack.make, "flutterwave": flutterwave.make,
        "standard": standard.make,
    }  # fmt: skip
    return {
        name: makers[name](found, secrets, callback_base_url, client, privacy, clock)
        for name, found in settings.items()
    }
