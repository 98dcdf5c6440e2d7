"""The key set: fetched when needed and no oftener, used on through an outage, and followed through rotations.

The clock of the cache is moved by hand; the server that publishes keys is real.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from conftest import until
from pluct_verifier import Ticket, TicketRefused, Verifier
from pluct_verifier.keys import ASK_SECONDS_MIN, FIRST_ASK_SECONDS_MIN, FRESH_SECONDS_MAX, KEYS_MAX, STALE_SECONDS_MAX
from verifier_world import CLAIMS, NOW, Key, Publisher, code

pytestmark = pytest.mark.anyio


class Seconds:
    """The monotonic clock of the cache, moved by hand."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now

    def move(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> Seconds:
    """The clock, in the cache's hands."""
    clock = Seconds()
    monkeypatch.setattr("pluct_verifier.keys.monotonic", clock)
    return clock


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    """A server that publishes keys."""
    found = Publisher()
    yield found
    found.close()


@pytest.fixture
def verifier(publisher: Publisher, seconds: Seconds) -> Verifier:
    """A verifier of what is published."""
    return Verifier.offline(audience="premium", jwks_url=publisher.url, clock=lambda: NOW)


def test_keys_are_fetched_once_and_kept_while_they_are_fresh(
    verifier: Verifier, publisher: Publisher, seconds: Seconds
) -> None:
    """At the first ticket, not before; then again after `max-age`."""
    key = Key("k1")
    publisher.publish(key)
    assert publisher.asked == []
    for _ in range(3):
        verifier.accept(key.sign())
    seconds.move(299)
    verifier.accept(key.sign())
    assert len(publisher.asked) == 1
    seconds.move(1)
    verifier.accept(key.sign())
    assert len(publisher.asked) == 2


@pytest.mark.parametrize(("said", "fresh"), [
    ("public, max-age=20", 20), ("max-age=86400", FRESH_SECONDS_MAX), ("", FRESH_SECONDS_MAX),
    ("max-age=soon", FRESH_SECONDS_MAX), ("max-age=0", FIRST_ASK_SECONDS_MIN),
])  # fmt: skip
def test_the_answer_says_how_long_keys_are_fresh(
    verifier: Verifier, publisher: Publisher, seconds: Seconds, said: str, fresh: float
) -> None:
    """Up to 300 seconds, and never so briefly that every ticket would ask."""
    key = Key("k1")
    publisher.publish(key)
    publisher.cache_control = said
    verifier.accept(key.sign())
    for times in (1, 2, 3):
        seconds.move(fresh - 0.1)
        verifier.accept(key.sign())
        assert len(publisher.asked) == times
        seconds.move(0.1)
        verifier.accept(key.sign())
        assert len(publisher.asked) == times + 1


def test_an_unknown_kid_has_the_keys_fetched_once_an_interval(
    verifier: Verifier, publisher: Publisher, seconds: Seconds
) -> None:
    """A flood of made-up ids asks the engine once in ten seconds, and does not stop good tickets."""
    key = Key("k1")
    publisher.publish(key)
    verifier.accept(key.sign())
    seconds.move(ASK_SECONDS_MIN - 0.1)
    assert code(verifier, Key("made up").sign()) == "ticket_invalid"
    assert len(publisher.asked) == 1
    seconds.move(0.1)
    for number in range(50):
        assert code(verifier, Key(f"made up {number}").sign()) == "ticket_invalid"
        verifier.accept(key.sign())
    assert len(publisher.asked) == 2
    seconds.move(ASK_SECONDS_MIN)
    assert code(verifier, Key("made up").sign()) == "ticket_invalid"
    assert len(publisher.asked) == 3


def test_a_new_key_is_found_by_its_first_ticket(verifier: Verifier, publisher: Publisher, seconds: Seconds) -> None:
    """It need not wait for the old set's age."""
    old, new = Key("old"), Key("new")
    publisher.publish(old)
    verifier.accept(old.sign())
    publisher.publish(old, new)
    seconds.move(ASK_SECONDS_MIN)
    verifier.accept(new.sign())
    verifier.accept(old.sign())
    assert len(publisher.asked) == 2


def test_a_retired_key_is_refused_once_the_set_is_fetched_again(
    verifier: Verifier, publisher: Publisher, seconds: Seconds
) -> None:
    """After `max-age` at the latest; its remembered headers do not keep it alive."""
    old, new = Key("old"), Key("new")
    publisher.publish(old)
    verifier.accept(old.sign())
    publisher.publish(new)
    seconds.move(300)
    assert code(verifier, old.sign()) == "ticket_invalid"
    verifier.accept(new.sign())


def test_a_key_that_changes_under_its_id_is_the_new_one(
    verifier: Verifier, publisher: Publisher, seconds: Seconds
) -> None:
    """The last set that was fetched counts."""
    first, second = Key("same"), Key("same")
    publisher.publish(first)
    verifier.accept(first.sign())
    publisher.publish(second)
    seconds.move(300)
    assert code(verifier, first.sign()) == "ticket_invalid"
    verifier.accept(second.sign())


OUTAGES: dict[str, Callable[[Publisher], None]] = {
    "refused connections": lambda publisher: publisher.close(),
    "an error": lambda publisher: setattr(publisher, "status", 503),
    "a redirect": lambda publisher: setattr(publisher, "status", 302),
    "no JSON": lambda publisher: setattr(publisher, "answer", b"<html>"),
    "no key set": lambda publisher: setattr(publisher, "answer", ["keys"]),
    "keys that are no list": lambda publisher: setattr(publisher, "answer", {"keys": {"kid": "k1"}}),
    "bytes that are no text": lambda publisher: setattr(publisher, "answer", b"\xff"),
}


@pytest.mark.parametrize("outage", OUTAGES.values(), ids=OUTAGES)
def test_an_outage_of_the_engine_stops_nobody(
    publisher: Publisher, seconds: Seconds, outage: Callable[[Publisher], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Known keys are used on for a day; then tickets are neither accepted nor called bad."""
    own = Publisher()
    key = Key("k1")
    own.publish(key)
    verifier = Verifier.offline(audience="premium", jwks_url=own.url, clock=lambda: NOW)
    verifier.accept(key.sign())
    outage(own)
    for later in (300, 3_000, 80_000):
        seconds.move(later)
        assert verifier.accept(key.sign()).user_id == "amina"
        assert code(verifier, Key("unknown").sign()) == "ticket_invalid"
    assert "keys could not be fetched" in caplog.text
    seconds.move(STALE_SECONDS_MAX)
    assert code(verifier, key.sign()) == "unavailable"
    if outage is not OUTAGES["refused connections"]:
        own.status = 200
        own.publish(key)
        seconds.move(ASK_SECONDS_MIN)
        verifier.accept(key.sign())
        own.close()


def test_an_engine_that_is_away_is_asked_once_in_ten_seconds(
    verifier: Verifier, publisher: Publisher, seconds: Seconds
) -> None:
    """However many tickets come, and however old the keys are."""
    key = Key("k1")
    publisher.publish(key)
    verifier.accept(key.sign())
    publisher.status = 503
    seconds.move(300)
    for times in (2, 3, 4):
        for _ in range(10):
            verifier.accept(key.sign())
            seconds.move(ASK_SECONDS_MIN / 10)
        assert len(publisher.asked) == times


def test_without_any_key_a_ticket_is_not_called_bad(verifier: Verifier, publisher: Publisher, seconds: Seconds) -> None:
    """The engine was away when this backend started: ask again, and soon it works."""
    key = Key("k1")
    publisher.status = 503
    assert code(verifier, key.sign()) == "unavailable"
    assert code(verifier, key.sign()) == "unavailable"
    assert len(publisher.asked) == 1
    publisher.status = 200
    publisher.publish(key)
    seconds.move(FIRST_ASK_SECONDS_MIN)
    verifier.accept(key.sign())


def test_an_engine_that_shares_a_secret_publishes_no_key(verifier: Verifier, publisher: Publisher) -> None:
    """An empty set is an answer: the ticket's key is not in it."""
    assert code(verifier, Key("k1").sign()) == "ticket_invalid"


def test_a_set_may_be_long_but_not_endless(verifier: Verifier, publisher: Publisher, seconds: Seconds) -> None:
    """The first hundred keys are taken."""
    keys = [Key(f"k{number}") for number in range(KEYS_MAX + 1)]
    publisher.publish(*keys)
    verifier.accept(keys[KEYS_MAX - 1].sign())
    assert code(verifier, keys[KEYS_MAX].sign()) == "ticket_invalid"


def test_an_address_that_is_none_is_refused_at_the_start() -> None:
    """Not at the first ticket."""
    for url in ("", "engine.example/jwks.json", "file:///etc/keys.json", "https:///jwks.json", "ftp://engine/x"):
        with pytest.raises(ValueError, match="jwks_url"):
            Verifier.offline(audience="premium", jwks_url=url)


# Many at once


def test_threads_that_need_the_first_set_wait_for_one_of_them(verifier: Verifier, publisher: Publisher) -> None:
    """Thirty-two tickets at once, one request."""
    key = Key("k1")
    publisher.publish(key)
    publisher.open.clear()
    with ThreadPoolExecutor(32) as pool:
        accepted = [pool.submit(verifier.accept, key.sign()) for _ in range(32)]
        until(lambda: publisher.asked)
        publisher.open.set()
        assert {each.result().user_id for each in accepted} == {"amina"}
    assert len(publisher.asked) == 1


def test_while_one_fetches_the_set_again_the_others_go_on(
    verifier: Verifier, publisher: Publisher, seconds: Seconds
) -> None:
    """An engine that hangs holds up one request, not all."""
    key = Key("k1")
    publisher.publish(key)
    verifier.accept(key.sign())
    seconds.move(300)
    publisher.open.clear()
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(verifier.accept, key.sign())
        until(lambda: len(publisher.asked) == 2)
        for _ in range(20):
            verifier.accept(key.sign())
        assert not waits.done()
        publisher.open.set()
        assert waits.result().user_id == "amina"
    assert len(publisher.asked) == 2


async def test_tasks_wait_for_one_of_them_and_the_loop_goes_on(verifier: Verifier, publisher: Publisher) -> None:
    """The async twin blocks nobody while keys are fetched."""
    key = Key("k1")
    publisher.publish(key)
    publisher.open.clear()
    tasks = [asyncio.create_task(verifier.accept_async(key.sign())) for _ in range(32)]
    while not publisher.asked:
        await asyncio.sleep(0.01)
    publisher.open.set()
    assert {ticket.user_id for ticket in await asyncio.gather(*tasks)} == {"amina"}
    assert len(publisher.asked) == 1


async def test_who_gives_up_while_fetching_lets_the_next_one_fetch(
    verifier: Verifier, publisher: Publisher, seconds: Seconds
) -> None:
    """A cancelled request does not leave the lock behind."""
    key = Key("k1")
    publisher.publish(key)
    publisher.open.clear()
    task = asyncio.create_task(verifier.accept_async(key.sign()))
    while not publisher.asked:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    publisher.open.set()
    seconds.move(FIRST_ASK_SECONDS_MIN)
    assert (await verifier.accept_async(key.sign())).user_id == "amina"


def test_loops_and_threads_share_a_verifier(verifier: Verifier, publisher: Publisher, seconds: Seconds) -> None:
    """Each loop has connections of its own."""
    key = Key("k1")
    publisher.publish(key)
    for _ in range(3):
        assert asyncio.run(verifier.accept_async(key.sign())).user_id == "amina"
        assert verifier.accept(key.sign()).user_id == "amina"
        seconds.move(300)
    assert len(publisher.asked) == 3


# Rotation


def all_moved(now: list[int], before: list[int]) -> bool:
    """Whether every counter has gone up."""
    return all(here > there for here, there in zip(now, before, strict=True))


@pytest.mark.parametrize("skew", [-30, 0, 30])
def test_no_good_ticket_is_refused_through_rotations_and_no_bad_one_accepted(
    publisher: Publisher, seconds: Seconds, skew: int
) -> None:
    """Three rotations under load, the engine's clock half a minute before or behind this one.

    The engine publishes a key, signs with it once the set's age has passed, and takes the old one back when its last
    ticket has expired. Seven threads present tickets through all of it.
    """
    life, age = 10, 7
    wall = {"verifier": float(NOW)}
    publisher.cache_control = f"max-age={age}"
    verifier = Verifier.offline(audience="premium", jwks_url=publisher.url, clock=lambda: wall["verifier"])
    mallory, keys = Key("k1"), [Key(f"k{number}") for number in range(4)]
    stop, problems, done = threading.Event(), list[str](), [0] * 7
    vended: list[str] = []

    def present(number: int) -> None:
        while not stop.is_set():
            for token in vended[-3:]:
                try:
                    ticket: Ticket | None = verifier.accept(token)
                except TicketRefused as refused:
                    problems.append(str(refused))
                else:
                    done[number] += ticket is not None
            try:
                verifier.accept(mallory.sign(CLAIMS | {"exp": NOW + 10**6}))
                problems.append("a forged ticket was accepted")
            except TicketRefused:
                pass

    def vend(key: Key) -> None:
        engine = int(wall["verifier"]) + skew
        vended.append(key.sign(CLAIMS | {"iat": engine, "nbf": engine, "exp": engine + life}))

    publisher.publish(keys[0])
    vend(keys[0])
    threads = [threading.Thread(target=present, args=(number,)) for number in range(7)]
    for thread in threads:
        thread.start()
    try:
        published = [keys[0]]
        for new in keys[1:]:  # one rotation: publish, wait, sign, wait, take back
            published.append(new)
            publisher.publish(*published)
            for second in range(age + life + 1):
                vend(published[0] if second < age else new)
                before = list(done)
                until(partial(all_moved, done, before))
                seconds.move(1)
                wall["verifier"] += 1
            published = [new]
            publisher.publish(new)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert problems == []
    seconds.move(age)
    assert code(verifier, keys[0].sign(CLAIMS | {"exp": NOW + 10**6})) == "ticket_invalid"
