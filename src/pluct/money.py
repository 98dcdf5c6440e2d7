"""Money as whole minor units (cents), never as a float: what payments, packs and gateways count in."""

import re

from pluct.errors import InvalidRequest

#: The largest amount of one payment or price, in minor units.
MONEY_MAX = 10**15
#: The currencies of ISO 4217 that people pay in. A misspelt one (KSH) would otherwise be found by no payment.
CURRENCIES = frozenset(
    re.findall(
        "[A-Z]{3}",
        """
    AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CLP CNY
    COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF IDR ILS
    INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT MOP
    MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD SCR
    SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD UYU UZS VES VND VUV
    WST XAF XCD XCG XOF XPF YER ZAR ZMW ZWG""",
    )
)
#: Digits behind the point where they are not two (ISO 4217). Gateways count these currencies in the same units.
_DIGITS = {
    "BIF": 0, "CLP": 0, "DJF": 0, "GNF": 0, "JPY": 0, "KMF": 0, "KRW": 0, "PYG": 0, "RWF": 0, "UGX": 0, "VND": 0,
    "VUV": 0, "XAF": 0, "XOF": 0, "XPF": 0, "BHD": 3, "JOD": 3, "KWD": 3, "OMR": 3, "TND": 3,
}  # fmt: skip


def digits(currency: str) -> int:
    """How many digits the currency has behind the point."""
    return _DIGITS.get(currency, 2)


def currency_code(text: str) -> str:
    """A currency as ISO 4217 writes it. Raises `InvalidRequest`."""
    code = text.upper()
    if not re.fullmatch(r"[A-Z]{3}", code):
        raise InvalidRequest("A currency is three letters, such as KES.")
    return code


def minor_units(text: str, currency: str) -> int:
    """A decimal string such as `100.00` or `100` in minor units, 0 to `MONEY_MAX`. Raises `InvalidRequest`."""
    places = digits(currency)
    found = re.fullmatch(r"([0-9]{1,16})(?:\.([0-9]{1,6}))?", text)
    if found is None:
        raise InvalidRequest(f"{text[:40]!r} is not an amount of money such as 100.00.")
    whole, part = found[1], (found[2] or "").rstrip("0")
    if len(part) > places:
        raise InvalidRequest(f"{text[:40]!r} has more digits behind the point than {currency} has ({places}).")
    amount = int(whole + part.ljust(places, "0"))
    if amount > MONEY_MAX:
        raise InvalidRequest(f"{text[:40]!r} is more than one payment may be.")
    return amount


def decimal_text(minor: int, currency: str) -> str:
    """Minor units as people write them: `100.00`."""
    places = digits(currency)
    if not places:
        return str(minor)
    whole, part = divmod(abs(minor), 10**places)
    return f"{'-' if minor < 0 else ''}{whole}.{part:0{places}d}"
