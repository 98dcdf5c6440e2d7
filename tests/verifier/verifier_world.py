"""What the verifier is tried with: keys, tokens made by hand, a key set served over HTTP, and a Redis of its own."""

import base64
import hmac
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from conftest import until
from doubles.keys import Publisher as Publisher
from pluct_verifier import TicketRefused, Verifier

SECRET = "s" * 40
NOW = 1_800_000_000
CLAIMS = {
    "iss": "pluct-business-engine", "aud": "premium", "sub": "amina", "jti": "t-1", "iat": NOW, "nbf": NOW,
    "exp": NOW + 60, "act": "read", "cost": 2,
}  # fmt: skip
HEADER = {"alg": "HS256", "typ": "JWT"}


def part(value: Any) -> str:
    """A segment of a token: of JSON, or of bytes as they are."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(claims: Any, header: Any = HEADER, secret: str = SECRET) -> str:
    """A well-signed HS256 token of any header and any claims."""
    text = f"{part(header)}.{part(claims)}"
    return f"{text}.{part(hmac.digest(secret.encode(), text.encode(), 'sha256'))}"


class Key:
    """An Ed25519 key with an id."""

    def __init__(self, kid: str) -> None:
        self.kid, self._private = kid, Ed25519PrivateKey.generate()
        self.public = self._private.public_key().public_bytes_raw()

    @property
    def jwk(self) -> dict[str, str]:
        """As the engine publishes it."""
        x = base64.urlsafe_b64encode(self.public).rstrip(b"=").decode()
        return {"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": self.kid, "x": x}

    def sign(self, claims: Any = CLAIMS, **header: Any) -> str:
        """A token signed with it; `header` replaces fields, and None takes one away."""
        fields = {"alg": "EdDSA", "typ": "JWT", "kid": self.kid} | header
        text = f"{part({name: value for name, value in fields.items() if value is not None})}.{part(claims)}"
        return f"{text}.{part(self._private.sign(text.encode()))}"


@contextmanager
def running_redis(folder: Path) -> Iterator[str]:
    """The address of a Redis server of one's own, on a socket in this folder; nothing of it is kept."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    address = folder / "redis.sock"
    command = ["redis-server", "--port", "0", "--unixsocket", str(address), "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        with redis.Redis(unix_socket_path=str(address)) as client:
            until(lambda: address.exists() and client.ping())
        yield f"unix://{address}"
    finally:
        process.kill()
        process.wait()


def code(verifier: Verifier, token: Any) -> str:
    """Why a token is refused; an accident is no refusal."""
    with pytest.raises(TicketRefused) as refused:
        verifier.accept(token)
    assert " " in str(refused.value)
    assert refused.value.status == (503 if refused.value.code in ("unavailable", "seen_full") else 401)
    return refused.value.code


def presented(how: dict[str, Any], colour: str, token: str, processes: int = 4, times: int = 250) -> Counter[str]:
    """What comes of it when several processes present one ticket many times each, all at once."""
    command = [sys.executable, str(Path(__file__).parent / "present.py"), json.dumps(how), colour, str(times)]
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    try:
        for process in running:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
        for process in running:
            assert process.stdin is not None
            process.stdin.write(token + "\n")
            process.stdin.flush()
        found: Counter[str] = Counter()
        for process in running:
            found += Counter(json.loads(process.communicate(timeout=60)[0]))
        return found
    finally:
        for process in running:
            process.kill()
            process.communicate()
