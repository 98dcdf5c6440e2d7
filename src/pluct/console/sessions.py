"""Who is signed in: an operator's key is shown once, and a random cookie stands for it from then on.

Only the cookie's hash is kept (in the ledger's database, so every process knows it). A session ends when the operator
signs out, when it was not used for half an hour, after twelve hours, and at once when its key is revoked.
"""

import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Callable

from pluct.engine import Engine
from pluct.errors import Forbidden, RateLimited, Unauthorized
from pluct.model import ApiKey, Session

IDLE_SECONDS_MAX = 30 * 60
SECONDS_MAX = 12 * 3600
#: How often at most a session's use is written down.
SEEN_EVERY_SECONDS = 60
#: Wrong keys from one address within `WRONG_SECONDS`, before it has to wait.
WRONG_MAX, WRONG_SECONDS = 10, 300
#: Addresses remembered; beyond that the one heard of longest ago is forgotten.
ADDRESSES_MAX = 10_000
ROLE = "operator"


class SignedIn:
    """A session at work: whose it is, and the token that its forms carry."""

    def __init__(self, cookie: str, key: ApiKey) -> None:
        self.cookie, self.key = cookie, key
        self.actor = "key:" + key.id
        self.form_token = hashlib.sha256(b"form " + cookie.encode()).hexdigest()

    def sent(self, form_token: str) -> bool:
        """Whether a form with this token is one that we gave to this session."""
        return hmac.compare_digest(form_token.encode("utf-8", "replace"), self.form_token.encode())


class Sessions:
    """Signing in and out."""

    def __init__(self, engine: Engine, clock: Callable[[], int]) -> None:
        self._engine, self._store, self._clock = engine, engine.store, clock
        self._wrong: OrderedDict[str, list[int]] = OrderedDict()

    async def sign_in(self, secret: str, address: str) -> SignedIn:
        """A new session for an operator's key. Raises `Unauthorized`, `Forbidden` or `RateLimited`."""
        now = self._clock()
        tries = [at for at in self._wrong.get(address, []) if at > now - WRONG_SECONDS * 1000]
        if len(tries) >= WRONG_MAX:
            raise RateLimited("Too many wrong keys came from this address; try again in five minutes.")
        try:
            key = await self._engine.api_key(secret.strip())
        except Unauthorized:
            self._wrong[address] = [*tries, now]
            self._wrong.move_to_end(address)
            if len(self._wrong) > ADDRESSES_MAX:
                self._wrong.popitem(last=False)
            raise
        if key.role != ROLE:
            raise Forbidden(f"The console is for keys with the role {ROLE}; this one is {key.role}.")
        cookie = secrets.token_urlsafe(32)
        await self._store.add_session(Session(_hash(cookie), key.id, now, now))
        return SignedIn(cookie, key)

    async def of(self, cookie: str | None) -> SignedIn | None:
        """The session that this cookie stands for, if it is still one."""
        if not cookie:
            return None
        session, now = await self._store.session(_hash(cookie)), self._clock()
        if session is None:
            return None
        key = next((key for key in await self._store.api_keys() if key.id == session.key_id), None)
        over = now > min(session.seen_at + IDLE_SECONDS_MAX * 1000, session.created_at + SECONDS_MAX * 1000)
        if over or key is None or key.revoked_at is not None:
            await self._store.end_session(session.hash)
            return None
        if now > session.seen_at + SEEN_EVERY_SECONDS * 1000:
            await self._store.see_session(session.hash, now)
        return SignedIn(cookie, key)

    async def sign_out(self, signed_in: SignedIn) -> None:
        """End the session for good."""
        await self._store.end_session(_hash(signed_in.cookie))


def _hash(cookie: str) -> bytes:
    return hashlib.sha256(cookie.encode("utf-8", "surrogateescape")).digest()
