"""Sending an event to an address that an operator has set up, and to nowhere else (SSRF).

The name is resolved once, every address it has is looked at, and the connection is made to an address that was looked
at: a name that changes its mind in between leads nowhere. No redirect is followed, and the answer is not read.
"""

import asyncio
import socket
from collections.abc import Mapping
from urllib.parse import urlsplit

import httpx

from pluct.deliveries import is_public
from pluct.outbox import Subscription


async def send(client: httpx.AsyncClient, one: Subscription, headers: Mapping[str, str], content: bytes) -> int:
    """The status of the answer. Raises `OSError` with a sentence."""
    parts = urlsplit(one.url)
    host = str(parts.hostname)
    address = await _address(host, parts.port or (443 if parts.scheme == "https" else 80), one)
    place = f"[{address}]" if ":" in address else address
    there = parts._replace(netloc=place if parts.port is None else f"{place}:{parts.port}")
    try:
        async with client.stream(
            "POST", there.geturl(), headers={**headers, "host": parts.netloc}, content=content,
            extensions={"sni_hostname": host},
        ) as answer:  # fmt: skip
            return answer.status_code
    except httpx.HTTPError as error:
        raise OSError(f"It could not be reached ({type(error).__name__}).") from None


async def _address(host: str, port: int, one: Subscription) -> str:
    """An address of this host that may be spoken to."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise OSError(f"{host} has no address.") from None
    addresses = [str(each[4][0]) for each in found]
    if not one.allow_private and not all(map(is_public, addresses)):
        raise OSError(f"{host} is a private address: set allow_private = true if that is meant.")
    return addresses[0]
