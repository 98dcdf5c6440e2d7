"""Several identical server processes over one listening socket, and the parent that looks after them.

The parent serves nobody: it starts the workers, starts another for one that dies, and passes on the signal to stop.
All take connections from the same socket, so with a worker nothing is lost but what it had begun.
"""

import logging
import multiprocessing
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait

from pluct.errors import PluctError, SetupError

log = logging.getLogger("pluct")

#: Deaths within a minute that are too many, per worker: something is wrong that a new one does not mend.
DEATHS_MAX = 3
DEATHS_SECONDS = 60.0
#: From a death to the start of the worker that takes the place.
PAUSE_SECONDS = 1.0
_TICK_SECONDS = 0.25
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_STOPPED = (0, -signal.SIGTERM)  # how a worker ends that was told to; the latter before it has begun to serve

#: Serves as the worker of this number until it is told to stop; calls the function once it answers.
Work = Callable[[int, Callable[[], None]], None]

# Forked, not spawned: all have the same settings, whatever becomes of the file they came from.
_forked = multiprocessing.get_context("fork")


class _Worker:
    """A process at work, and what it has said."""

    def __init__(self, number: int, work: Work) -> None:
        self.number = number
        self.answers = False
        self.said = ""
        self.channel, theirs = _forked.Pipe(duplex=False)
        self.process = _forked.Process(target=_begin, args=(work, number, theirs), name=f"worker {number}")
        self.process.start()
        theirs.close()

    def hear(self) -> bool:
        """Take in what it says; False once it has died."""
        try:
            self.said = self.channel.recv()
            self.answers = not self.said
        except (EOFError, OSError):
            self.process.join()
            self.channel.close()
            return False
        return True

    @property
    def end(self) -> str:
        """How it ended, as far as it could tell."""
        code = self.process.exitcode or 0
        died = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        return self.said or f"Worker {self.number} (process {self.process.pid}) {died}."


class Workers:
    """So many workers, for as long as they are wanted."""

    def __init__(self, count: int, work: Work, stop_listening: Callable[[], None], stop_seconds_max: float) -> None:
        self._count, self._work = count, work
        self._stop_listening, self._stop_seconds_max = stop_listening, stop_seconds_max
        self._alive: list[_Worker] = []
        self._vacant = {0: 0.0}  #: by number, when to start it
        self._deaths: list[float] = []
        self._announced = False
        self._failure = ""
        self._stop_before: float | None = None  #: set once all are to stop

    def run(self, announce: Callable[[], None]) -> None:
        """Call `announce` once all answer, and return when all have stopped after SIGTERM or SIGINT.

        Raises `SetupError` when they cannot start, when they die again and again, or when one does not stop well.
        """
        for number in _SIGNALS:
            signal.signal(number, lambda *_: self._stop())
        try:
            while self._alive or self._stop_before is None:
                self._fill()
                self._listen()
                if self._stop_before is None:
                    self._welcome(announce)
                elif time.monotonic() > self._stop_before:
                    self._failure = self._failure or "Workers did not stop in time and were killed."
                    break
        finally:
            for worker in self._alive:
                worker.process.kill()
                worker.process.join()
        if self._failure:
            raise SetupError(self._failure)

    def _welcome(self, announce: Callable[[], None]) -> None:
        """Let the first begin alone: it makes the schema, or says why nobody can serve. Then the others."""
        if self._announced or self._vacant or not all(worker.answers for worker in self._alive):
            return
        if len(self._alive) < self._count:
            self._vacant = dict.fromkeys(range(1, self._count), 0.0)
        else:
            self._announced = True
            announce()

    def _fill(self) -> None:
        """Start who is to be started by now."""
        for number in [number for number, at in self._vacant.items() if at <= time.monotonic()]:
            signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # so that the signal finds all who have started
            if self._stop_before is None:
                del self._vacant[number]
                self._alive.append(_Worker(number, self._work))
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def _listen(self) -> None:
        """Take in what the workers have to say, if they do within a moment."""
        said = wait([worker.channel for worker in self._alive], _TICK_SECONDS)
        for worker in [worker for worker in self._alive if worker.channel in said]:
            if not worker.hear():
                self._alive.remove(worker)
                self._bury(worker)

    def _bury(self, worker: _Worker) -> None:
        """Have another take the place, unless that is of no use."""
        if self._stop_before is not None:
            if worker.process.exitcode not in _STOPPED:
                self._fail(worker.end)
            return
        if not self._announced:
            return self._fail(worker.end)
        now = time.monotonic()
        self._deaths = [at for at in self._deaths if at > now - DEATHS_SECONDS] + [now]
        if len(self._deaths) > DEATHS_MAX * self._count:
            died = f"{len(self._deaths)} workers died within {DEATHS_SECONDS:.0f} seconds."
            return self._fail(f"{died} The last: {worker.end}")
        log.error("%s Another takes its place.", worker.end)
        self._vacant[worker.number] = now + PAUSE_SECONDS

    def _fail(self, sentence: str) -> None:
        """Stop all, for this reason."""
        self._failure = self._failure or sentence
        self._stop()

    def _stop(self) -> None:
        if self._stop_before is None:
            self._stop_before = time.monotonic() + self._stop_seconds_max
        self._stop_listening()
        for worker in self._alive:
            worker.process.terminate()


def _begin(work: Work, number: int, parent: Connection) -> None:
    """A worker's life, in its own process."""
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    try:
        work(number, lambda: parent.send(""))
    except PluctError as error:
        parent.send(error.sentence)
        sys.exit(2)
    except Exception as error:
        parent.send(f"This is a bug in pluct: {type(error).__name__}: {error}")
        sys.exit(2)
