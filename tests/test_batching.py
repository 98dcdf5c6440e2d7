"""Group commit by itself: what a batch takes, what bounds it, and what each waiter is told when it fails."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from pluct.commands import Command, Probe
from pluct.errors import Fault, InsufficientCredits, OutcomeUnknown, Refusal, Unavailable
from pluct.model import Outcome, Probed
from pluct.stores.batching import WAIT_SECONDS_MAX, WORTH_A_LANE, Batcher

pytestmark = pytest.mark.anyio

Answer = Callable[[Sequence[Command]], list[Outcome | Refusal]]


class Gate:
    """A `transact` that keeps each batch until it is let go, and then answers it."""

    def __init__(self, answer: Answer) -> None:
        self.batches: list[list[str]] = []  #: the batches taken so far
        self.running = 0
        self._answer = answer
        self._taken = asyncio.Condition()
        self._let_go = asyncio.Semaphore(0)

    async def __call__(self, commands: Sequence[Command]) -> list[Outcome | Refusal]:
        self.running += 1
        async with self._taken:
            self.batches.append([command.user_id for command in commands])
            self._taken.notify_all()
        try:
            await self._let_go.acquire()
            return self._answer(commands)
        finally:
            self.running -= 1

    async def taken(self, batches: int) -> None:
        """Wait until so many batches were taken."""
        async with self._taken, asyncio.timeout(10):
            await self._taken.wait_for(lambda: len(self.batches) >= batches)

    def let_go(self, batches: int = 1_000) -> None:
        for _ in range(batches):
            self._let_go.release()


def numbered(commands: Sequence[Command]) -> list[Outcome | Refusal]:
    """Each command's own number, so that an answer to the wrong waiter shows."""
    return [Probed(int(command.user_id)) for command in commands]


def probe(number: int) -> Probe:
    return Probe(str(number))


def names(*numbers: int) -> list[str]:
    return [str(number) for number in numbers]


async def answers(futures: Sequence[asyncio.Future[Outcome | Refusal]]) -> list[Any]:
    async with asyncio.timeout(10):
        return await asyncio.gather(*futures, return_exceptions=True)


async def test_a_lone_command_runs_at_once() -> None:
    """An idle batcher commits a lone command by itself, without waiting for company."""
    gate = Gate(numbered)
    batcher = Batcher(gate)
    future = batcher.submit(probe(7))
    await gate.taken(1)
    gate.let_go()
    assert await future == Probed(7)
    assert gate.batches == [["7"]]


async def test_commands_gather_while_a_batch_is_in_flight() -> None:
    """What is submitted during a batch waits for its end and then makes up one batch, in order."""
    gate = Gate(numbered)
    batcher = Batcher(gate)
    futures = [batcher.submit(probe(0))]
    await gate.taken(1)
    for number in range(1, 6):
        futures.append(batcher.submit(probe(number)))
        await asyncio.sleep(0)
    assert gate.batches == [["0"]]
    gate.let_go()
    assert await answers(futures) == [Probed(number) for number in range(6)]
    assert gate.batches == [["0"], names(1, 2, 3, 4, 5)]


async def test_a_batch_has_a_largest_size() -> None:
    """A queue longer than `batch_max` is taken in batches of that size, first come, first served."""
    gate = Gate(numbered)
    batcher = Batcher(gate, batch_max=4)
    futures = [batcher.submit(probe(number)) for number in range(10)]
    gate.let_go()
    assert await answers(futures) == [Probed(number) for number in range(10)]
    assert gate.batches == [names(0, 1, 2, 3), names(4, 5, 6, 7), names(8, 9)]


async def test_lanes_run_side_by_side_and_no_more_of_them() -> None:
    """As many batches are in flight as there are lanes, if enough waits; a lane that comes free takes what gathered."""
    gate = Gate(numbered)
    batcher = Batcher(gate, lanes=2)
    futures = [batcher.submit(probe(0))]
    await gate.taken(1)
    futures += [batcher.submit(probe(number)) for number in range(1, WORTH_A_LANE)]
    for _ in range(10):
        await asyncio.sleep(0)
    assert (gate.running, gate.batches) == (1, [["0"]])  # too few to be worth a lane
    futures.append(batcher.submit(probe(WORTH_A_LANE)))
    await gate.taken(2)
    assert (gate.running, gate.batches[1]) == (2, names(*range(1, WORTH_A_LANE + 1)))
    more = range(WORTH_A_LANE + 1, 3 * WORTH_A_LANE)
    futures += [batcher.submit(probe(number)) for number in more]
    for _ in range(10):
        await asyncio.sleep(0)
    assert gate.running == 2
    gate.let_go(1)
    await gate.taken(3)
    assert (gate.running, gate.batches[2]) == (2, names(*more))
    gate.let_go()
    assert await answers(futures) == [Probed(number) for number in range(3 * WORTH_A_LANE)]


async def test_the_last_lane_takes_however_little_is_left() -> None:
    """What was too little for a lane of its own is never left behind."""
    gate = Gate(numbered)
    batcher = Batcher(gate, lanes=2)
    futures = [batcher.submit(probe(0))]
    await gate.taken(1)
    futures += [batcher.submit(probe(number)) for number in range(1, WORTH_A_LANE + 1)]
    await gate.taken(2)
    futures.append(batcher.submit(probe(WORTH_A_LANE + 1)))
    gate.let_go(1)  # this lane ends: the other is still busy, and one command is not much
    for _ in range(10):
        await asyncio.sleep(0)
    assert (gate.running, len(gate.batches)) == (1, 2)
    gate.let_go(1)
    await gate.taken(3)
    gate.let_go()
    assert await answers(futures) == [Probed(number) for number in range(WORTH_A_LANE + 2)]


async def test_one_lane_runs_one_batch_at_a_time() -> None:
    """However commands arrive, with one lane two batches never overlap."""
    most = 0
    running = 0

    async def transact(commands: Sequence[Command]) -> list[Outcome | Refusal]:
        nonlocal most, running
        running += 1
        most = max(most, running)
        for _ in range(int(commands[0].user_id) % 3):
            await asyncio.sleep(0)
        running -= 1
        return numbered(commands)

    batcher = Batcher(transact, batch_max=3)
    futures = []
    for number in range(200):
        futures.append(batcher.submit(probe(number)))
        if number % 5 == 0:
            await asyncio.sleep(0)
    assert await answers(futures) == [Probed(number) for number in range(200)]
    assert most == 1


async def test_a_full_queue_refuses_at_once() -> None:
    """One command more than the queue takes is refused in the call itself; room made is room given."""
    gate = Gate(numbered)
    batcher = Batcher(gate, queue_max=3)
    futures = [batcher.submit(probe(0))]
    await gate.taken(1)
    futures += [batcher.submit(probe(number)) for number in (1, 2, 3)]
    with pytest.raises(Unavailable, match="queue is full") as caught:
        batcher.submit(probe(4))
    assert caught.value.status == 503
    gate.let_go(1)
    await gate.taken(2)
    futures.append(batcher.submit(probe(5)))
    gate.let_go()
    assert await answers(futures) == [Probed(number) for number in (0, 1, 2, 3, 5)]


async def test_a_refusal_is_an_answer() -> None:
    """A refusal is returned to its own waiter, not raised, and its neighbours have their outcomes."""
    no = InsufficientCredits()
    gate = Gate(lambda commands: [no if command.user_id == "1" else Probed(0) for command in commands])
    batcher = Batcher(gate)
    futures = [batcher.submit(probe(number)) for number in range(3)]
    gate.let_go()
    assert await answers(futures) == [Probed(0), no, Probed(0)]
    assert futures[1].exception() is None


@pytest.mark.parametrize("kind", [OutcomeUnknown, Unavailable])
async def test_each_waiter_of_a_failed_batch_is_told_by_itself(kind: type[Unavailable]) -> None:
    """A batch that fails as a whole raises for every waiter, each an exception of its own with the same sentence."""

    def fail(commands: Sequence[Command]) -> list[Outcome | Refusal]:
        raise kind("The disk is gone.")

    gate = Gate(fail)
    batcher = Batcher(gate)
    futures = [batcher.submit(probe(number)) for number in range(5)]
    gate.let_go()
    faults = await answers(futures)
    assert [(type(fault), fault.sentence) for fault in faults] == [(kind, "The disk is gone.")] * 5
    assert len({id(fault) for fault in faults}) == 5
    assert gate.batches == [names(0, 1, 2, 3, 4)], "what may have happened is not tried again"


async def test_a_failed_batch_does_not_end_the_next() -> None:
    """After a batch broke off, what was queued behind it runs."""

    def fail_the_first(commands: Sequence[Command]) -> list[Outcome | Refusal]:
        if commands[0].user_id == "0":
            raise OutcomeUnknown
        return numbered(commands)

    gate = Gate(fail_the_first)
    batcher = Batcher(gate, batch_max=2)
    futures = [batcher.submit(probe(number)) for number in range(5)]
    gate.let_go()
    assert [type(answer) for answer in await answers(futures)] == [OutcomeUnknown] * 2 + [Probed] * 3
    assert gate.batches == [names(0, 1), names(2, 3), names(4)]


def poisoned_by(number: str, fault: Exception) -> Answer:
    def answer(commands: Sequence[Command]) -> list[Outcome | Refusal]:
        if any(command.user_id == number for command in commands):
            raise fault
        return numbered(commands)

    return answer


async def test_a_poisonous_command_fails_alone(caplog: pytest.LogCaptureFixture) -> None:
    """When a batch cannot be recorded each command is tried by itself; only the bad one is a fault, and is logged."""
    gate = Gate(poisoned_by("2", ValueError("no such byte")))
    batcher = Batcher(gate)
    futures = [batcher.submit(probe(number)) for number in range(4)]
    gate.let_go()
    with caplog.at_level(logging.ERROR):
        got = await answers(futures)
    assert [type(answer) for answer in got] == [Probed, Probed, Fault, Probed]
    assert (got[2].status, got[2].code) == (500, "internal")
    assert gate.batches == [names(0, 1, 2, 3), ["0"], ["1"], ["2"], ["3"]]
    (record,) = caplog.records
    assert "Probe" in record.getMessage() and record.exc_info is not None


async def test_a_store_that_goes_down_among_single_tries_says_so() -> None:
    """While a poisoned batch is tried one by one, each command has its own end: done, unknown, unavailable."""
    ends: dict[str, Exception] = {"1": OutcomeUnknown(), "2": Unavailable()}

    def answer(commands: Sequence[Command]) -> list[Outcome | Refusal]:
        if len(commands) > 1:
            raise ValueError("one of these is bad")
        if (fault := ends.get(commands[0].user_id)) is not None:
            raise fault
        return numbered(commands)

    gate = Gate(answer)
    batcher = Batcher(gate)
    futures = [batcher.submit(probe(number)) for number in range(4)]
    gate.let_go()
    assert [type(answer) for answer in await answers(futures)] == [Probed, OutcomeUnknown, Unavailable, Probed]


async def test_who_gave_up_in_the_queue_is_left_out() -> None:
    """A waiter cancelled before its batch begins is not part of it, and takes no place in it."""
    gate = Gate(numbered)
    batcher = Batcher(gate, batch_max=3)
    futures = [batcher.submit(probe(0))]
    await gate.taken(1)
    futures += [batcher.submit(probe(number)) for number in range(1, 6)]
    futures[1].cancel()
    futures[3].cancel()
    gate.let_go()
    got = await answers(futures)
    assert [type(answer) for answer in got] == [
        Probed, asyncio.CancelledError, Probed, asyncio.CancelledError, Probed, Probed,
    ]  # fmt: skip
    assert gate.batches == [["0"], names(2, 4, 5)]


@pytest.mark.parametrize("fault", [None, OutcomeUnknown()])
async def test_who_gives_up_in_flight_disturbs_nobody(fault: Exception | None) -> None:
    """A waiter cancelled while its batch runs changes nothing for the others, whether it succeeds or fails."""

    def answer(commands: Sequence[Command]) -> list[Outcome | Refusal]:
        if fault is not None:
            raise fault
        return numbered(commands)

    gate = Gate(answer)
    batcher = Batcher(gate)
    futures = [batcher.submit(probe(number)) for number in range(3)]
    await gate.taken(1)
    futures[1].cancel()
    gate.let_go()
    expected = Probed if fault is None else OutcomeUnknown
    assert [type(answer) for answer in await answers(futures)] == [expected, asyncio.CancelledError, expected]
    assert [type(answer) for answer in await answers([batcher.submit(probe(9))])] == [expected]


async def test_a_queue_nobody_waits_for_ends_quietly() -> None:
    """When everyone in the queue gave up, no empty batch is run, and the lane is free for the next."""
    gate = Gate(numbered)
    batcher = Batcher(gate)
    first = batcher.submit(probe(0))
    await gate.taken(1)
    for future in [batcher.submit(probe(number)) for number in (1, 2)]:
        future.cancel()
    gate.let_go()
    assert await first == Probed(0)
    await asyncio.sleep(0)
    assert await answers([batcher.submit(probe(3))]) == [Probed(3)]
    assert gate.batches == [["0"], ["3"]]


async def test_closing_finishes_the_queue_and_takes_no_more() -> None:
    """`close` returns when everything queued is answered, in however many batches; `submit` refuses from its start."""
    gate = Gate(numbered)
    batcher = Batcher(gate, batch_max=2, lanes=2)
    futures = [batcher.submit(probe(number)) for number in range(9)]
    closing = asyncio.ensure_future(batcher.close())
    await gate.taken(2)
    assert not closing.done()
    with pytest.raises(Unavailable, match="shutting down"):
        batcher.submit(probe(9))
    gate.let_go()
    async with asyncio.timeout(10):
        await closing
    assert [future.result() for future in futures] == [Probed(number) for number in range(9)]
    assert gate.running == 0
    await batcher.close()  # once more does no harm


async def test_closing_an_idle_batcher_is_at_once() -> None:
    """`close` with nothing queued has nothing to wait for."""
    gate = Gate(numbered)
    batcher = Batcher(gate)
    await batcher.close()
    with pytest.raises(Unavailable):
        batcher.submit(probe(0))
    assert gate.batches == []


class _Loop(asyncio.SelectorEventLoop):
    """A real event loop whose clock can be set forward."""

    ahead = 0.0

    def time(self) -> float:
        return super().time() + self.ahead


def _run(main: Callable[[_Loop], Coroutine[Any, Any, None]]) -> None:
    loop = _Loop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main(loop))


async def _wait_behind_a_slow_batch(loop: _Loop, seconds: float) -> tuple[Gate, list[Any]]:
    """Two commands wait `seconds` for a slow batch; a third comes right before its end."""
    gate = Gate(numbered)
    batcher = Batcher(gate)
    futures = [batcher.submit(probe(0))]
    await gate.taken(1)
    futures += [batcher.submit(probe(1)), batcher.submit(probe(2))]
    loop.ahead += seconds
    futures.append(batcher.submit(probe(3)))
    gate.let_go()
    return gate, list(await asyncio.gather(*futures, return_exceptions=True))


def test_waiting_has_an_end() -> None:
    """What waited longer than the limit is told so and is never run; what came later is, and so is what was running."""

    async def main(loop: _Loop) -> None:
        gate, got = await _wait_behind_a_slow_batch(loop, WAIT_SECONDS_MAX + 1)
        assert [type(answer) for answer in got] == [Probed, Unavailable, Unavailable, Probed]
        assert "waited too long" in got[1].sentence and got[1] is not got[2]
        assert gate.batches == [["0"], ["3"]]

    _run(main)


def test_waiting_less_than_the_limit_is_served() -> None:
    """What waited a little less than the limit runs."""

    async def main(loop: _Loop) -> None:
        gate, got = await _wait_behind_a_slow_batch(loop, WAIT_SECONDS_MAX - 1)
        assert got == [Probed(number) for number in range(4)]
        assert gate.batches == [["0"], names(1, 2, 3)]

    _run(main)
