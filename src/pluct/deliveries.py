"""Delivering events out: one process at a time, each user's in order, again and again until they are taken or dead.

Signed as Standard Webhooks are (https://github.com/standard-webhooks/standard-webhooks): `webhook-id` is the same at
every try, so whoever receives one twice can tell.
"""

import asyncio
import ipaddress
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from msgspec.structs import replace

from pluct.errors import EventNotFound, InvalidRequest
from pluct.model import Letter, LetterState
from pluct.outbox import Outbox, Subscription
from pluct.stores import Store

if TYPE_CHECKING:
    from standardwebhooks import Webhook

#: How long (s) after each failed try the next one is made; after the last, the letter is dead. Two and a half days.
PAUSES = (5, 30, 120, 600, 1800, 7200, 18_000, 36_000, 57_600, 86_400)
BATCH_MAX, AT_ONCE_MAX = 32, 16  # so that a batch ends well within a turn
SEND_SECONDS_MAX = 10.0
#: How long one process delivers before it must ask again, and how often the others ask.
TURN_MS, ASK_MS = 30_000, 5_000
#: An address that failed so often in a row is left alone so long.
FAILURES_MAX, REST_MS = 5, 30_000
DELIVERED_KEPT_MS, DEAD_KEPT_MS = 7 * 86_400_000, 30 * 86_400_000
EXPIRING_EVERY_MS, COUNT_EVERY_MS = 600_000, 15_000
PAGE = 200
_DAY_MS = 86_400_000
#: Addresses within IPv6 that carry an IPv4 address which may be private.
_CARRIERS = tuple(map(ipaddress.ip_network, ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")))

log = logging.getLogger("pluct.events")

#: Sends a letter: the status of the answer. Raises `OSError` with a sentence.
Send = Callable[[Subscription, Mapping[str, str], bytes], Awaitable[int]]


class Deliverer:
    """Letters on their way."""

    def __init__(
        self, store: Store, outbox: Outbox, secrets: "Sequence[Webhook]", send: Send, clock: Callable[[], int],
        holder: str, counted: Callable[[tuple[int, int, int | None]], None],
    ) -> None:  # fmt: skip
        self._store, self._outbox, self._secrets, self._send = store, outbox, secrets, send
        self._clock, self._holder, self._counted = clock, holder, counted
        self._subscriptions = {one.url: one for one in outbox.subscriptions}
        self._mine_until = self._ask_at = self._expiring_at = self._count_at = 0
        self._failures: dict[str, int] = {}
        self._rests_until: dict[str, int] = {}

    async def sweep(self) -> int:
        """Deliver what is due, if it is this process's turn. Returns how much was tried."""
        now = self._clock()
        if now >= self._count_at:
            self._count_at = now + COUNT_EVERY_MS
            self._counted(await self._store.letter_counts())
        if not await self._is_my_turn(now):
            return 0
        if now >= self._expiring_at:
            self._expiring_at = now + EXPIRING_EVERY_MS
            await self._look_for_expiring(now)
            await self._store.sweep_letters(now - DELIVERED_KEPT_MS, now - DEAD_KEPT_MS, 10_000)
        due = await self._store.letters_due(now, BATCH_MAX)
        ready = [letter for letter in due if self._rests_until.get(letter.url, 0) <= now]
        room = asyncio.Semaphore(AT_ONCE_MAX)

        async def one(letter: Letter) -> None:
            async with room:
                await self._store.tried(await self._tried(letter))

        await asyncio.gather(*map(one, ready))
        return len(ready)

    async def close(self) -> None:
        """Let another process go on at once."""
        now = self._clock()
        if now < self._mine_until:
            self._mine_until = 0
            await self._store.take_turn("deliver", self._holder, now, now - 1)

    async def _is_my_turn(self, now: int) -> bool:
        if now < self._mine_until - TURN_MS // 2:
            return True
        if now < self._ask_at and now >= self._mine_until:
            return False
        self._ask_at = now + ASK_MS
        if await self._store.take_turn("deliver", self._holder, now, now + TURN_MS):
            self._mine_until = now + TURN_MS
        return now < self._mine_until

    async def _tried(self, letter: Letter) -> Letter:
        """Try once; the letter as it is then."""
        one = self._subscriptions.get(letter.url)
        if one is None:
            return replace(letter, state="dead", due_at=self._clock(), answer="This address is not set up any more.")
        now, content = self._clock(), letter.content.encode()
        at = datetime.fromtimestamp(now // 1000, UTC)
        signatures = " ".join(secret.sign(letter.id, at, letter.content) for secret in self._secrets)
        headers = {
            "content-type": "application/json", "user-agent": "pluct", "webhook-id": letter.id,
            "webhook-timestamp": str(now // 1000), "webhook-signature": signatures,
        }  # fmt: skip
        try:
            async with asyncio.timeout(SEND_SECONDS_MAX):
                status = await self._send(one, headers, content)
            answer = f"It answered {status}."
        except TimeoutError:
            status, answer = 0, f"It did not answer within {SEND_SECONDS_MAX:.0f} s."
        except OSError as error:
            status, answer = 0, str(error)[:300]
        now = self._clock()
        if 200 <= status < 300:
            self._failures.pop(letter.url, None)
            return replace(letter, state="delivered", tries=letter.tries + 1, due_at=now, answer=answer)
        self._failures[letter.url] = self._failures.get(letter.url, 0) + 1
        if self._failures[letter.url] >= FAILURES_MAX:
            self._rests_until[letter.url] = now + REST_MS
        if letter.tries >= len(PAUSES):
            log.error("event %s to %s is dead after %d tries: %s", letter.id, letter.url, letter.tries + 1, answer)
            return replace(letter, state="dead", tries=letter.tries + 1, due_at=now, answer=answer)
        pause = 1000 * PAUSES[letter.tries]
        return replace(letter, tries=letter.tries + 1, due_at=now + pause, answer=answer)

    async def _look_for_expiring(self, now: int) -> None:
        """Write letters about lots that end soon; those that were written before are there already."""
        for one in self._outbox.subscriptions:
            if "credits.expiring" not in one.events:
                continue
            after, until = (0, ""), now + one.expiring_days * _DAY_MS
            while wallets := await self._store.expiring(now, until, after, PAGE):
                letters = [letter for wallet in wallets for letter in self._outbox.expiring(one, wallet, now)]
                await self._store.add_letters(letters)
                after = (wallets[-1].next_expiry_at or 0, wallets[-1].user_id)


async def page(
    store: Store, state: LetterState | None, limit: int, cursor: str | None
) -> tuple[list[Letter], str | None]:
    """A page of letters, newest first, and the cursor of the next page."""
    if cursor is not None:  # the letter itself, whatever state it is in by now
        named = await store.letters(None, 1, cursor)
        if not named or named[0].id != cursor:
            raise InvalidRequest("cursor is not one that a page of events gave, or its event is not kept any more.")
    found = await store.letters(state, limit + 1, cursor)
    return found[:limit], found[limit].id if len(found) > limit else None


async def replay(store: Store, letter_id: str, now: int) -> Letter:
    """Deliver a letter again. Raises `EventNotFound`."""
    letter = await store.replay_letter(letter_id, now)
    if letter is None:
        raise EventNotFound
    return letter


def is_public(address: str) -> bool:
    """Whether this IP address is one of the internet at large: not this machine, this network, or reserved."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return ip.is_global and not ip.is_multicast and not any(ip in net for net in _CARRIERS if net.version == ip.version)
