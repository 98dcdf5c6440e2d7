"""Rate limits: how often something may be done, such that no stretch of the period, wherever it begins, has more in it.

The period is divided into slots. What was done counts until its whole slot is a period ago, so there is no border at
which one burst may follow another, and what is remembered of a key is bounded by the slots.
"""

import re
from array import array
from collections import OrderedDict
from collections.abc import Callable, MutableSequence
from hashlib import blake2b
from typing import Protocol

import msgspec

from pluct.errors import InvalidRequest, RateLimited

SLOTS = 32
COUNT_MAX = 1_000_000
#: Keys remembered in memory; beyond that the one heard of longest ago is forgotten.
KEYS_MAX = 100_000
SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}


class Rate(msgspec.Struct, frozen=True, gc=False):
    """So often in so many seconds."""

    count: int
    seconds: int

    def __str__(self) -> str:
        return f"{self.count}/{next(unit for unit, seconds in SECONDS.items() if seconds == self.seconds)}"

    @property
    def slot_ms(self) -> int:
        """The length of a slot."""
        return -(-self.seconds * 1000 // SLOTS)


def rate(written: str) -> Rate:
    """A rate as settings have it: `60/minute`. Raises `InvalidRequest`."""
    found = re.fullmatch(r"([1-9][0-9]{0,6})/(second|minute|hour|day)", written)
    if found is None or int(found[1]) > COUNT_MAX:
        raise InvalidRequest(f"must be 1 to {COUNT_MAX} per second, minute, hour or day, such as 60/minute")
    return Rate(int(found[1]), SECONDS[found[2]])


def take(marks: MutableSequence[int], rate: Rate, now: int) -> int:
    """Take a turn at `now` (ms). Returns 0, or in how many ms to try again; `marks` change only if it was taken.

    `marks` are a slot and how many turns were taken in it, again and again, oldest first.
    """
    slot = now // rate.slot_ms
    gone = 0
    while gone < len(marks) and marks[gone] < slot - SLOTS:
        gone += 2
    if sum(marks[gone + 1 :: 2]) >= rate.count:
        return free_at(marks[gone], rate) - now
    del marks[:gone]
    if marks and marks[-2] >= slot:
        marks[-1] += 1
    else:
        marks.append(slot)
        marks.append(1)
    return 0


def free_at(slot: int, rate: Rate) -> int:
    """When (ms) what was done in this slot counts no more."""
    return (slot + SLOTS + 1) * rate.slot_ms


class Turns(Protocol):
    """Where turns are counted."""

    async def take(self, key: bytes, rate: Rate) -> int:
        """See `take`."""
        ...


class LocalTurns:
    """Turns of one process, in its memory."""

    def __init__(self, clock: Callable[[], int], keys_max: int = KEYS_MAX) -> None:
        self._clock, self._keys_max = clock, keys_max
        self._marks: OrderedDict[bytes, array[int]] = OrderedDict()

    def __len__(self) -> int:
        """How many keys are remembered."""
        return len(self._marks)

    async def take(self, key: bytes, rate: Rate) -> int:
        """See `take`."""
        marks = self._marks.get(key)
        if marks is None:
            marks = self._marks[key] = array("q")
            if len(self._marks) > self._keys_max:
                self._marks.popitem(last=False)
        else:
            self._marks.move_to_end(key)
        return take(marks, rate, self._clock())


class Rates(msgspec.Struct, frozen=True):
    """The limits that are set; None: as often as one likes."""

    vend_per_user: Rate | None = None
    register_per_address: Rate | None = None
    requests_per_key: Rate | None = None
    prompts_per_phone: Rate | None = None
    claims_per_user: Rate | None = None


class Limits:
    """The limits at work. Each method takes a turn, or raises `RateLimited` with when there will be one."""

    def __init__(self, rates: Rates, turns: Turns) -> None:
        self._rates, self._turns = rates, turns

    async def vend(self, user_id: str) -> None:
        """A user asks for a ticket, whatever comes of it."""
        if self._rates.vend_per_user is not None:
            await self._take("vend_per_user", user_id, self._rates.vend_per_user, "A user vends")

    async def request(self, key_id: str) -> None:
        """Something is asked with an API key."""
        if self._rates.requests_per_key is not None:
            await self._take("requests_per_key", key_id, self._rates.requests_per_key, "An API key is used")

    async def register(self, address: str) -> None:
        """Somebody at this address registers."""
        if self._rates.register_per_address is not None:
            await self._take("register_per_address", address, self._rates.register_per_address, "An address registers")

    async def prompt(self, phone: str) -> None:
        """A phone is to be prompted for a payment; `phone` is its hash."""
        if self._rates.prompts_per_phone is not None:
            await self._take("prompts_per_phone", phone, self._rates.prompts_per_phone, "A phone is prompted")

    async def claim(self, user_id: str) -> None:
        """A user says that they have paid."""
        if self._rates.claims_per_user is not None:
            await self._take("claims_per_user", user_id, self._rates.claims_per_user, "A user asks for credits")

    async def _take(self, name: str, key: str, rate: Rate, who: str) -> None:
        digest = blake2b(f"{name} {rate.count} {rate.seconds} {key}".encode("utf-8", "surrogatepass"), digest_size=16)
        wait = await self._turns.take(digest.digest(), rate)
        if wait:
            seconds = -(-wait // 1000)
            raise RateLimited(f"{who} at most {rate}; try again in {seconds} s.", seconds)
