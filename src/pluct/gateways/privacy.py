"""What is kept of people who pay: a keyed hash of the phone number and a mask of it, and no name.

A number that is part of an id, which the gateway wants to hear again, is sealed.
"""

import base64
import binascii
import hashlib
import re
from typing import Any

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from pluct.errors import InvalidRequest

#: Keys of gateways' bodies whose values are phone numbers, and those that name or address a person; compared in lower
#: case without `_` and `-`.
PHONE_KEYS = frozenset({"phonenumber", "msisdn", "phone", "senderphonenumber", "partya", "customerphone", "mobile"})
PERSON_KEYS = frozenset(
    {
        "firstname", "middlename", "lastname", "name", "fullname", "email", "customeremail", "receiptemail", "address",
        "otherpartyinfo", "debitpartyname", "creditpartyname", "billingdetails", "customerdetails", "ip", "ipaddress",
        "sender", "debitpartypublicname", "creditpartypublicname", "receiverpartypublicname",
    }
)  # fmt: skip
_NOT_KEPT = "(not kept)"
DEPTH_MAX = 40
#: A number written in full, wherever it stands: people also type theirs as an account number.
_IN_TEXT = re.compile(r"(?<![0-9])(?:\+?254|0)[17][0-9]{8}(?![0-9])")
_NUMBER_LENGTH_MIN = 10  # of what that finds
_SPACING = re.compile(r"[\s().\-]")
_MOBILE = re.compile(r"(?:\+?254|0)?([17][0-9]{8})")
_MASKED = re.compile(r"([0-9]{4})[0-9]*\*+[0-9]*([0-9]{3})")


def phone_number(text: str) -> str:
    """A Kenyan mobile number as M-Pesa writes it, `2547XXXXXXXX` or `2541XXXXXXXX`. Raises `InvalidRequest`."""
    found = _MOBILE.fullmatch(_SPACING.sub("", text))
    if found is None:
        raise InvalidRequest("phone must be a Kenyan mobile number such as 0712345678 or 254712345678.")
    return "254" + found[1]


class Privacy:
    """Hashes and masks under one key, so that the same phone is recognised and cannot be looked up without the key."""

    def __init__(self, key: bytes) -> None:
        self._key = hashlib.blake2b(key, digest_size=32, person=b"pluct-phones").digest()
        self._seal = AESSIV(hashlib.blake2b(key, digest_size=64, person=b"pluct-seals").digest())

    def phone_hash(self, phone: str) -> bytes:
        """The keyed hash of a number as `phone_number` gives it."""
        return hashlib.blake2b(phone.encode(), key=self._key, digest_size=16).digest()

    def sealed(self, text: str, about: str) -> str:
        """What must be kept and be had again, encrypted: the same for the same, in ASCII that may stand in an id.

        `about` is what it belongs to: beside anything else it is sealed otherwise, and does not open.
        """
        return base64.urlsafe_b64encode(self._seal.encrypt(text.encode(), [about.encode()])).decode().rstrip("=")

    def opened(self, sealed: str, about: str) -> str | None:
        """What was sealed; None for what was not, or under another key."""
        try:
            found = base64.urlsafe_b64decode(sealed.encode() + b"=" * (-len(sealed) % 4))
            return self._seal.decrypt(found, [about.encode()]).decode()
        except (InvalidTag, binascii.Error, ValueError):
            return None

    @staticmethod
    def phone_mask(phone: str) -> str:
        """Enough to recognise one's own number: `2547*****678`."""
        return phone if "*" in phone else f"{phone[:4]}{'*' * max(len(phone) - 7, 1)}{phone[-3:]}"

    @staticmethod
    def masks(typed: str) -> list[str]:
        """How a phone may be kept that is written with asterisks, as gateways' messages and statements do; else none.

        How many asterisks there are differs from place to place: the first four digits and the last three count.
        """
        written = _SPACING.sub("", typed).removeprefix("+")
        found = _MASKED.fullmatch(written)
        return [] if found is None else list(dict.fromkeys([written, f"{found[1]}*****{found[2]}"]))

    def redacted(self, body: Any) -> bytes:
        """A gateway's body as JSON that may be kept: numbers as mask and hash, names left out.

        Also for name-value lists such as Daraja's `{"Name": "PhoneNumber", "Value": …}`.
        """
        return msgspec.json.encode(self._redacted(body, 0))

    def _redacted(self, value: Any, depth: int) -> Any:
        if depth > DEPTH_MAX:
            return _NOT_KEPT
        if isinstance(value, list):
            return [self._redacted(item, depth + 1) for item in value]
        if not isinstance(value, dict):
            written = str(value)
            if len(written) < _NUMBER_LENGTH_MIN:
                return value
            hidden = _IN_TEXT.sub(lambda found: self._recognisable(found[0]), written)
            return value if hidden == written else hidden
        value = {self._redacted(key, depth): item for key, item in value.items()}
        if "Value" in value and (pair := next((at for at in ("Name", "Key") if isinstance(value.get(at), str)), None)):
            rest = {key: self._kept(key, item, depth) for key, item in value.items() if key not in (pair, "Value")}
            return {pair: value[pair], **rest, "Value": self._kept(value[pair], value["Value"], depth)}
        return {key: self._kept(key, item, depth) for key, item in value.items()}

    def _kept(self, key: str, value: Any, depth: int) -> Any:
        plain = key.lower().replace("_", "").replace("-", "")
        if value is None or value == "":
            return value
        if plain in PERSON_KEYS:
            return _NOT_KEPT
        if plain in PHONE_KEYS:
            return _NOT_KEPT if isinstance(value, dict | list) else self._recognisable(str(value))
        return self._redacted(value, depth + 1)

    def _recognisable(self, number: str) -> str:
        try:
            phone = phone_number(number)
        except InvalidRequest:
            return self.phone_mask(number) if len(number) < 20 else _NOT_KEPT  # masked or hashed already
        return f"{self.phone_mask(phone)} {self.phone_hash(phone).hex()}"
