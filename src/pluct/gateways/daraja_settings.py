"""What an engine that takes M-Pesa is told: `[gateways.daraja]` and its secrets, and what is wrong with them."""

import ipaddress
import re
from collections.abc import Mapping
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from pluct.errors import InvalidRequest
from pluct.gateways.daraja_api import CURRENCY
from pluct.money import minor_units

#: What an engine that takes M-Pesa must be told in secret, and what it may be.
SECRETS = ("DARAJA_CONSUMER_KEY", "DARAJA_CONSUMER_SECRET", "DARAJA_PASSKEY", "DARAJA_PATH_TOKEN")
SECRETS_OPTIONAL = ("DARAJA_INITIATOR", "DARAJA_SECURITY_CREDENTIAL")
#: Words that Daraja refuses in the address of a callback, in any case.
WORDS_REFUSED = ("mpesa", "m-pesa", "safaricom", "exe", "exec", "cmd", "sql", "query")


class DarajaSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[gateways.daraja]`."""

    base_url: str = "https://sandbox.safaricom.co.ke"
    shortcode: str = "174379"  # the pay bill or till number that people pay to
    till: bool = False  # whether it is a till (buy goods)
    allowed_ips: tuple[str, ...] = ()  # addresses or networks that callbacks come from; empty: not checked
    confirm_above: str = "5000"  # shillings; a typed payment above it waits for Daraja's own confirmation
    query_after_seconds: int = 75  # a push without a callback is asked about after so long, then backing off
    pull: bool = False  # whether to sweep the pull-transactions interface too
    # What Daraja's own pages leave open, or what differs from one organisation to the next:
    store_number: str = ""  # a till's store or head-office number; empty: the shortcode
    c2b_shortcode: str = ""  # the one that is registered for C2B and pull; empty: the shortcode
    response_type: Literal["Completed", "Cancelled"] = "Completed"  # what becomes of C2B when we cannot be asked
    pull_method: Literal["POST", "GET"] = "POST"
    pull_phone: str = ""  # the organisation's nominated number, with which `pull` is registered
    utc_offset_hours: int = 3  # of the times that Daraja writes without a zone
    timeout_seconds: int = 30  # for one request to Daraja

    def problems(self, callback_base_url: str) -> list[str]:
        """What is wrong with these settings, a sentence each."""
        found = []
        if not _is_address(self.base_url):
            found.append("base_url must be https://host, or http:// on this machine")
        for name in ("shortcode", "store_number", "c2b_shortcode"):
            if not re.fullmatch(r"[0-9]{4,10}" if name == "shortcode" else r"(?:[0-9]{4,10})?", getattr(self, name)):
                found.append(f"{name} must be a number of 4 to 10 digits, as a string")
        for address in self.allowed_ips:
            try:
                ipaddress.ip_network(address, strict=False)
            except ValueError:
                found.append(f"allowed_ips: {address!r} is not an IP address or network")
        try:
            minor_units(self.confirm_above, CURRENCY)
        except InvalidRequest:
            found.append('confirm_above must be an amount as a string, such as "5000"')
        if not 1 <= self.query_after_seconds <= 3600:
            found.append("query_after_seconds must be 1 to 3600")
        if not 1 <= self.timeout_seconds <= 120:
            found.append("timeout_seconds must be 1 to 120")
        if not -12 <= self.utc_offset_hours <= 14:
            found.append("utc_offset_hours must be -12 to 14")
        if not _is_address(callback_base_url):
            found.append("payments.callback_base_url must be set to https://host, where Daraja can reach this engine")
        words = [word for word in WORDS_REFUSED if word in callback_base_url.lower()]
        if words:
            found.append(f"payments.callback_base_url must not contain {', '.join(words)}: Daraja refuses it")
        return found


def secret_problems(secrets: Mapping[str, str]) -> list[str]:
    """What is wrong with the secrets, a sentence each that shows none of them."""
    found = [f"{name} must be set to take M-Pesa" for name in SECRETS if not secrets.get(name, "").strip(" ,")]
    for token in secrets.get("DARAJA_PATH_TOKEN", "").split(","):
        if token.strip() and not re.fullmatch(r"[A-Za-z0-9_-]{16,128}", token.strip()):
            found.append(
                "DARAJA_PATH_TOKEN must be 16 to 128 letters and digits, such as a random number in hexadecimal"
            )
        if any(word in token.lower() for word in WORDS_REFUSED):
            found.append("DARAJA_PATH_TOKEN contains a word that Daraja refuses in addresses; hexadecimal never does")
    if bool(secrets.get("DARAJA_INITIATOR")) != bool(secrets.get("DARAJA_SECURITY_CREDENTIAL")):
        found.append("DARAJA_INITIATOR and DARAJA_SECURITY_CREDENTIAL must be set together")
    return found


def next_query_at(asked: int, query_after_seconds: int) -> int | None:
    """How many seconds from now a push is asked about that was asked about `asked` times before. None: no more.

    With the usual 75 seconds: after 75 s, then 2, 5 and 15 minutes.
    """
    steps = (1, 1.6, 4, 12)
    return max(1, round(query_after_seconds * steps[asked])) if asked < len(steps) else None


def _is_address(url: str) -> bool:
    """https with a host, or http on this machine; no query and no user."""
    try:
        parts = urlsplit(url)
        local = parts.hostname in ("localhost", "127.0.0.1", "::1")
    except ValueError:
        return False
    plain = not parts.query and not parts.fragment and "@" not in parts.netloc
    return bool(parts.hostname) and plain and (parts.scheme == "https" or (parts.scheme == "http" and local))
