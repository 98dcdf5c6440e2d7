"""Signing keys: which signs when, who is believed and published how long, in every store.

Time is a clock that is moved; the keys are real, the stores too. A library judges what is signed.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc.jwk import OKPKey
from msgspec.structs import replace

from busy import Place
from conftest import ENGINES, Clock, opened
from pluct import signing
from pluct.errors import InvalidRequest, SetupError, Unauthorized, Unavailable
from pluct.model import SigningKey, Ticket, thumbprint
from pluct.signing import CACHE_SECONDS, LEEWAY_SECONDS, PUBLISHED_MAX, SPREAD_SECONDS, KeyRing, Seal
from pluct.stores import Store
from pluct.stores.rows import SIGNING_KEYS_MAX
from pluct.tickets import (
    EDDSA,
    HS256Signer,
    TicketClaims,
    base64url,
    ticket_claims,
    token_header,
    verified_claims,
)
from postgres import fresh_database
from verifying import header

SEAL, SHARED = Seal(["k" * 40]), HS256Signer("s" * 40)
WAIT = CACHE_SECONDS + SPREAD_SECONDS
TTL = 60


@pytest.fixture(params=ENGINES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty ledger in each engine."""
    if request.param == "sqlite":
        return tmp_path / "pluct.db"
    return fresh_database(request.getfixturevalue("server_url")(request.param))


@pytest.fixture
async def store(place: Place) -> AsyncIterator[Store]:
    """An open store in each engine."""
    async with opened(place, Clock()) as store:
        yield store


def ring(clock: Callable[[], int], seal: Seal | None = SEAL, shared: HS256Signer | None = SHARED) -> KeyRing:
    """A server's keys."""
    return KeyRing(shared, seal, TTL, clock)


def ticket(issued_at: int, ticket_id: str = "t-1") -> Ticket:
    return Ticket(ticket_id, "amina", "read", "premium", 2, "vend", 0, issued_at, issued_at + TTL * 1000, "captured")


class Keys:
    """The rules at work on a list, as a store would have them."""

    def __init__(self) -> None:
        self.keys: list[SigningKey] = []
        self.clock = Clock()

    async def signing_keys(self) -> list[SigningKey]:
        return list(self.keys)

    async def change_signing_keys(self, decide: Callable[[list[SigningKey]], list[SigningKey]]) -> list[SigningKey]:
        for key in decide(list(self.keys)):
            self.keys = [*(each for each in self.keys if each.kid != key.kid), key]
        self.keys.sort(key=lambda key: (key.signs_from, key.created_at, key.kid))
        return list(self.keys)

    def begin(self) -> str:
        """What the first server does."""
        return self.change(lambda keys: signing.needed(keys, self.clock(), SEAL, TTL))

    def rotate(self) -> str:
        return self.change(lambda keys: signing.rotated(keys, self.clock(), SEAL, TTL))

    def retire(self, kid: str) -> None:
        self.change(lambda keys: signing.retired(keys, self.clock(), kid))

    def change(self, decide: Callable[[list[SigningKey]], list[SigningKey]]) -> str:
        before = {key.kid for key in self.keys}
        asyncio.run(self.change_signing_keys(decide))
        return next((key.kid for key in self.keys if key.kid not in before), "")

    def states(self) -> list[str]:
        return [signing.state(self.keys, key, self.clock()) for key in self.keys]

    def published(self) -> list[str]:
        return [key.kid for key in signing.published(self.keys, self.clock())]

    def ring(self, seal: Seal | None = SEAL, shared: HS256Signer | None = SHARED) -> KeyRing:
        """A server that has just looked."""
        made = ring(self.clock, seal, shared)
        asyncio.run(made.open(self))
        return made


# When a key signs, and how long it is published


def test_a_new_key_signs_once_every_cache_has_it() -> None:
    """Published at once, it signs after the life of a cached key set, and not a moment before."""
    keys = Keys()
    first, second = keys.begin(), keys.rotate()
    assert keys.published() == [first, second] and keys.states() == ["signing", "pending"]
    began = keys.clock()
    before, after = ticket(began + WAIT * 1000 - 1), ticket(began + WAIT * 1000)
    assert WAIT > CACHE_SECONDS == 300
    assert [header(keys.ring().sign(each))["kid"] for each in (before, after)] == [first, second]
    keys.clock.move(WAIT)
    assert keys.states() == ["leaving", "signing"]


def test_an_old_key_is_published_until_its_last_ticket_has_expired() -> None:
    """And leaves by itself, with no one doing anything."""
    keys = Keys()
    first, second = keys.begin(), keys.rotate()
    keys.clock.move(WAIT + TTL + LEEWAY_SECONDS - 0.001)
    assert keys.published() == [first, second]
    keys.clock.move(0.001)
    assert keys.published() == [second] and keys.states() == ["gone", "signing"]
    assert [jwk["kid"] for jwk in keys.ring().jwks()["keys"]] == [second]


def test_rotations_in_a_row_queue_up() -> None:
    """Each key waits its own time, and they take over in the order in which they were made."""
    keys = Keys()
    order, began = [keys.begin()], keys.clock()
    for _ in range(3):
        order.append(keys.rotate())
        keys.clock.move(20)
    assert keys.published() == order and keys.states() == ["signing", "pending", "pending", "pending"]
    taken = [header(keys.ring().sign(ticket(began + (WAIT + 20 * n) * 1000)))["kid"] for n in range(3)]
    assert taken == order[1:]


def test_only_so_many_keys_are_published_at_once() -> None:
    """More are refused with what to do, and possible again once old ones have left."""
    keys = Keys()
    keys.begin()
    for _ in range(PUBLISHED_MAX - 1):
        keys.rotate()
    with pytest.raises(InvalidRequest, match="retire"):
        keys.rotate()
    keys.clock.move(WAIT + TTL + LEEWAY_SECONDS)
    keys.rotate()
    assert len(keys.published()) == 2


def test_a_key_knows_how_long_its_tickets_live() -> None:
    """The longest of all servers that sign with it: its publication does not end early when one is restarted."""
    keys = Keys()
    keys.begin()
    long = KeyRing(SHARED, SEAL, 3_600, keys.clock)
    asyncio.run(long.open(keys))
    assert [key.ticket_seconds for key in keys.keys] == [3_600]
    keys.ring()
    keys.rotate()
    asyncio.run(long.follow(keys))
    assert [key.ticket_seconds for key in keys.keys] == [3_600, 3_600]
    keys.clock.move(WAIT + 3_600)
    assert len(keys.published()) == 2


# Retiring


def test_a_retired_key_is_believed_no_more_and_the_next_takes_over() -> None:
    """At once, however long it still had to wait; what the key had signed is signed by the next when asked again."""
    keys = Keys()
    first, second = keys.begin(), keys.rotate()
    alive = ticket(keys.clock())
    token = keys.ring().sign(alive)
    assert keys.ring().verify(token).jti == "t-1"
    keys.clock.move(5)
    keys.retire(first)
    assert keys.states() == ["retired", "signing"] and keys.published() == [second]
    with pytest.raises(Unauthorized, match="retired"):
        keys.ring().verify(token)
    again = keys.ring().sign(alive)
    assert header(again)["kid"] == second and keys.ring().verify(again).jti == "t-1"
    keys.rotate()
    keys.clock.move(WAIT)
    assert keys.ring().sign(alive) == again


def test_the_only_key_that_signs_cannot_be_retired() -> None:
    """Until another waits; nor is one retired that is not there."""
    keys = Keys()
    first = keys.begin()
    with pytest.raises(InvalidRequest, match="pluct signing-keys rotate"):
        keys.retire(first)
    with pytest.raises(InvalidRequest, match="no signing key with this id"):
        keys.retire("nobody")
    assert keys.states() == ["signing"]


def test_where_nothing_signs_with_keys_the_last_may_be_retired() -> None:
    """After the way back to HS256; should a server sign with keys all the same, it makes itself a new one."""
    keys = Keys()
    first = keys.begin()
    keys.clock.move(1)
    keys.change(lambda found: signing.retired(found, keys.clock(), first, even_last=True))
    assert keys.ring(seal=None).jwks() == {"keys": []} and keys.states() == ["retired"]
    with pytest.raises(SetupError, match="PLUCT_KEY_SECRET"):
        Seal(["o" * 40]).insist([SEAL.new_key(keys.clock(), TTL)], keys.clock())
    assert len(keys.ring(seal=Seal(["o" * 40])).jwks()["keys"]) == 1 and keys.states() == ["retired", "signing"]


def test_of_several_that_wait_the_first_takes_over() -> None:
    """The others keep their time, and retiring a key again changes nothing."""
    keys = Keys()
    first, second = keys.begin(), keys.rotate()
    keys.clock.move(1)
    third = keys.rotate()
    keys.retire(first)
    assert keys.states() == ["retired", "signing", "pending"]
    before = list(keys.keys)
    keys.clock.move(1)
    keys.retire(first)
    assert keys.keys == before
    keys.retire(third)
    assert keys.published() == [second]
    keys.clock.move(WAIT)
    assert header(keys.ring().sign(ticket(keys.clock())))["kid"] == second


def test_a_key_takes_over_after_it_was_made_whatever_the_clocks_say() -> None:
    """Made on one machine, and its predecessor retired on another that is behind."""
    keys = Keys()
    first = keys.begin()
    keys.clock.move(SPREAD_SECONDS + 1)
    second = keys.rotate()
    keys.clock.move(-SPREAD_SECONDS)
    keys.retire(first)
    assert all(key.created_at <= key.signs_from for key in keys.keys)
    assert all(key.retired_at is None or key.created_at <= key.retired_at for key in keys.keys)
    assert header(keys.ring().sign(ticket(keys.clock() + SPREAD_SECONDS * 1000)))["kid"] == second


def test_a_key_that_leaves_may_be_retired() -> None:
    """Its tickets are refused, and the one that signs goes on."""
    keys = Keys()
    first, second = keys.begin(), keys.rotate()
    token = keys.ring().sign(ticket(keys.clock()))
    keys.clock.move(WAIT)
    assert keys.ring().verify(token)
    keys.retire(first)
    assert keys.published() == [second]
    with pytest.raises(Unauthorized):
        keys.ring().verify(token)


def test_clocks_that_differ_do_not_bring_a_retired_key_back() -> None:
    """The retirement was made on a machine half a minute ahead: a server that sees it obeys at once."""
    keys = Keys()
    first, second = keys.begin(), keys.rotate()
    keys.clock.move(SPREAD_SECONDS)
    keys.retire(first)
    keys.clock.move(-SPREAD_SECONDS)
    found = keys.ring()
    assert header(found.sign(ticket(keys.clock())))["kid"] == second
    assert [jwk["kid"] for jwk in found.jwks()["keys"]] == [second] and len(keys.keys) == 2


# The same token for ever


def test_a_repeated_vend_gets_the_same_bytes_across_rotations() -> None:
    """Which key signs follows from the time of issue: whoever signs, and however many keys came since."""
    keys = Keys()
    keys.begin()
    tokens: dict[int, str] = {}
    for _ in range(6):
        keys.rotate()
        for _ in range(8):
            tokens[keys.clock()] = keys.ring().sign(ticket(keys.clock()))
            keys.clock.move(WAIT / 5)
    assert len({header(token)["kid"] for token in tokens.values()}) == 7
    late = keys.ring()
    assert {at: late.sign(ticket(at)) for at in tokens} == tokens


KEYS = Keys()
KEYS.begin()
HEAD, BODY, _ = KEYS.ring().sign(ticket(KEYS.clock())).split(".")
PRIVATE = SEAL.opened(KEYS.keys[0])


def signed(middle: str) -> str:
    """A token as we would write it, but for what is in the middle."""
    assert PRIVATE is not None
    text = f"{HEAD}.{middle}"
    return f"{text}.{base64url(PRIVATE.sign(text.encode())).decode()}"


def outcome(read: Callable[[str], TicketClaims], token: str) -> TicketClaims | str:
    try:
        return read(token)
    except Unauthorized as error:
        return error.sentence


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        st.just(BODY), st.text("aZ09-_=+/. €", max_size=40),
        st.sampled_from(
            [b"[]", b"{}{}", b'{"sub":"a","sub":"b"}', b" {} ", b"\xff", b"[" * 3000, b'{"iss":7}']
        ).map(lambda said: base64url(said).decode()),
    ),
    st.integers(0, 400), st.text(max_size=3), st.booleans(),
)  # fmt: skip
def test_what_we_read_ourselves_is_what_the_library_reads(middle: str, at: int, put: str, cut: bool) -> None:
    """Whatever is done to a token, before or after it is signed: the same claims, or the same refusal."""
    reads, key = KEYS.ring(), OKPKey.import_key(KEYS.ring().jwks()["keys"][0])

    def by_the_library(token: str) -> TicketClaims:
        kid = token_header(token).get("kid")
        if kid is None:
            return SHARED.verify(token)
        if kid != KEYS.keys[0].kid:
            raise Unauthorized("The token's key is unknown, or was retired.")
        return ticket_claims(verified_claims(token, key, EDDSA))

    token = signed(middle)
    for each in (token, signed(middle[:at] + put + middle[at + cut :]), token[:at] + put + token[at + cut :]):
        assert outcome(reads.verify, each) == outcome(by_the_library, each)
    assert isinstance(outcome(reads.verify, signed(BODY)), TicketClaims)


def test_a_ticket_of_before_the_first_key_keeps_its_token() -> None:
    """Sold under HS256 and asked for again under EdDSA: the same bytes, and both kinds are believed."""
    keys = Keys()
    old = ticket(keys.clock() - 1)
    token = SHARED.sign(old)
    keys.begin()
    new = keys.ring()
    assert new.sign(old) == token and new.verify(token).jti == "t-1"
    assert header(new.sign(ticket(keys.clock())))["alg"] == "EdDSA"


def test_back_under_hs256_tickets_of_both_kinds_are_believed() -> None:
    """Their keys stay published; what is sold or asked for again is signed with the secret. It needs no key secret."""
    keys = Keys()
    keys.begin()
    sold = ticket(keys.clock())
    token = keys.ring().sign(sold)
    back = keys.ring(seal=None)
    assert back.verify(token).jti == "t-1" and len(back.jwks()["keys"]) == 1
    assert back.sign(sold) == SHARED.sign(sold)
    assert back.verify(back.sign(sold)) == keys.ring().verify(back.sign(sold))


def test_a_key_can_be_published_ahead_of_the_switch() -> None:
    """Made under HS256 it waits its time; servers that switch meanwhile go on with HS256 until then, all alike."""
    keys = Keys()
    first = keys.rotate()
    began = keys.clock()
    assert [jwk["kid"] for jwk in keys.ring(seal=None).jwks()["keys"]] == [first]
    switched = keys.ring()
    assert len(keys.keys) == 1
    assert switched.sign(ticket(began + WAIT * 1000 - 1)) == SHARED.sign(ticket(began + WAIT * 1000 - 1))
    assert header(switched.sign(ticket(began + WAIT * 1000)))["kid"] == first


def test_without_the_shared_secret_nothing_of_hs256_is_believed_or_signed() -> None:
    """Once JWT_SECRET is unset, whoever knew it can make nothing; tickets of before are signed by the first key."""
    keys = Keys()
    first = keys.begin()
    alone = keys.ring(shared=None)
    old = ticket(keys.clock() - 10**6)
    with pytest.raises(Unauthorized, match="names no key"):
        alone.verify(SHARED.sign(old))
    assert header(alone.sign(old))["kid"] == first


# At rest


def test_private_keys_are_kept_encrypted_and_bound_to_their_id() -> None:
    """Not under another secret, not for another key, not with a bit changed; the same key is never sealed alike."""
    key = SEAL.new_key(1, TTL)
    private = SEAL.opened(key)
    assert private is not None and private.private_bytes_raw() not in key.sealed
    assert Seal(["o" * 40]).opened(key) is None
    assert SEAL.opened(replace(key, kid=SEAL.new_key(1, TTL).kid)) is None
    assert SEAL.opened(replace(key, public=SEAL.new_key(1, TTL).public)) is None
    for place in range(len(key.sealed)):
        changed = bytearray(key.sealed)
        changed[place] ^= 1
        assert SEAL.opened(replace(key, sealed=bytes(changed))) is None
    assert SEAL.opened(replace(key, sealed=b"")) is None


def test_a_key_is_named_by_its_thumbprint() -> None:
    """As a library computes it (RFC 7638); and no name looks like an option."""
    for _ in range(200):
        key = SEAL.new_key(1, TTL)
        jwk = OKPKey.import_key(signing._Known(key, None).jwk)  # type: ignore[arg-type]
        assert key.kid == thumbprint(key.public) == jwk.thumbprint() and key.kid[0] != "-"


def test_the_key_secret_is_changed_with_both_for_a_while() -> None:
    """The new one keeps new keys, both open; the old one may go once its keys sign no more."""
    keys = Keys()
    keys.begin()
    new, both = Seal(["n" * 40]), Seal(["n" * 40, "k" * 40])
    with pytest.raises(SetupError, match="PLUCT_KEY_SECRET"):
        keys.ring(seal=new)
    with pytest.raises(SetupError, match="PLUCT_KEY_SECRET"):
        keys.change(lambda found: signing.rotated(found, keys.clock(), new, TTL))
    second = keys.change(lambda found: signing.rotated(found, keys.clock(), both, TTL))
    assert keys.ring(seal=both)
    keys.clock.move(WAIT)
    assert header(keys.ring(seal=new).sign(ticket(keys.clock())))["kid"] == second


def test_a_key_that_somebody_planted_is_neither_believed_nor_published(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever can write to the database and does not know the secret cannot add a key of their own."""
    keys = Keys()
    first = keys.begin()
    theirs = Seal(["a" * 40])
    planted = replace(theirs.new_key(keys.clock(), TTL), signs_from=keys.clock() + 10**9)
    working = keys.ring()
    keys.keys.append(planted)
    asyncio.run(working.follow(keys))
    assert [jwk["kid"] for jwk in working.jwks()["keys"]] == [first]
    forger = KeyRing(None, theirs, TTL, keys.clock)
    other = Keys()
    other.keys = [replace(planted, signs_from=keys.clock())]
    asyncio.run(forger.open(other))
    with pytest.raises(Unauthorized, match="unknown"):
        working.verify(forger.sign(ticket(keys.clock())))
    assert planted.kid in caplog.text and "PLUCT_KEY_SECRET" in caplog.text
    keys.keys[1] = replace(planted, signs_from=planted.created_at)
    keys.clock.move(10_000)
    asyncio.run(working.follow(keys))
    assert [jwk["kid"] for jwk in working.jwks()["keys"]] == [first]
    assert header(working.sign(ticket(keys.clock())))["kid"] == first
    keys.keys = [replace(keys.keys[0], public=planted.public)]
    assert keys.ring(seal=None).jwks() == {"keys": []}


def test_a_server_with_another_secret_than_the_rest_says_that_it_cannot_sign() -> None:
    """It had the old one alone, and the key that took over is under the new one: 503, and nothing is made up."""
    keys = Keys()
    first = keys.begin()
    behind = keys.ring(shared=None)
    keys.change(lambda found: signing.rotated(found, keys.clock(), Seal(["n" * 40, "k" * 40]), TTL))
    asyncio.run(behind.follow(keys))
    assert header(behind.sign(ticket(keys.clock() + WAIT * 1000)))["kid"] == first
    keys.retire(first)
    asyncio.run(behind.follow(keys))
    with pytest.raises(Unavailable, match="PLUCT_KEY_SECRET"):
        behind.sign(ticket(keys.clock()))


# In the stores


@pytest.mark.anyio
async def test_keys_are_kept_in_order_and_changed_under_a_lock(store: Store) -> None:
    """What was decided is what is there; whoever refuses changes nothing."""
    key = SEAL.new_key(5, TTL)
    later = replace(SEAL.new_key(5, TTL), signs_from=9)
    assert await store.change_signing_keys(lambda found: [later, key]) == [key, later]
    gone = replace(key, retired_at=7, ticket_seconds=90)
    assert await store.change_signing_keys(lambda found: [gone] if found == [key, later] else []) == [gone, later]

    def refuse(found: list[SigningKey]) -> list[SigningKey]:
        raise InvalidRequest("no")

    with pytest.raises(InvalidRequest):
        await store.change_signing_keys(refuse)
    assert await store.signing_keys() == [gone, later]
    assert await store.check(lambda *_: None) == []


@pytest.mark.anyio
async def test_of_very_many_keys_the_newest_are_looked_at(store: Store) -> None:
    """However often keys were rotated, a server's work is bounded."""
    made = [replace(SEAL.new_key(1, TTL), signs_from=number + 1) for number in range(SIGNING_KEYS_MAX + 5)]
    found = await store.change_signing_keys(lambda found: made)
    assert found == made[5:]


@pytest.mark.anyio
async def test_servers_that_start_at_once_make_one_key(place: Place) -> None:
    """Each over a store of its own; all sign with the same."""
    clock = Clock()

    async def start(serving: bool) -> str:
        async with opened(place, clock, serving=serving) as store:
            made = ring(clock)
            await made.open(store)
            return made.sign(ticket(clock()))

    async with opened(place, clock):
        tokens = await asyncio.gather(*(start(False) for _ in range(8)))
    assert len(set(tokens)) == 1


@pytest.mark.anyio
async def test_a_store_that_is_away_stops_nobody_from_signing(store: Store) -> None:
    """What is known serves on."""
    clock = Clock()
    working = ring(clock)
    await working.open(store)
    before = working.sign(ticket(clock()))

    class Away:
        async def signing_keys(self) -> list[SigningKey]:
            raise OSError

        change_signing_keys: Any = None

    with pytest.raises(OSError):
        await working.follow(Away())
    assert working.sign(ticket(clock())) == before and len(working.jwks()["keys"]) == 1
