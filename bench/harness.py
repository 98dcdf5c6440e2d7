"""One run of the benchmarks: rounds, medians, targets and tables."""

import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from rich.progress import Progress

USERS = 5_000
Figures = dict[str, float]


class Bench:
    """One run: how much of it, where, and what it found."""

    def __init__(self, folder: Path, quick: bool, progress: Progress) -> None:
        self.folder, self.quick, self.progress = folder, quick, progress
        self.rounds = 2 if quick else 7
        self.targets: list[tuple[str, str, str, bool]] = []
        self.tables: list[str] = []

    def size(self, full: int) -> int:
        """How many of something to do."""
        return full // 20 if self.quick else full

    def target(self, what: str, goal: str, found: float, unit: str, met: bool) -> None:
        """A figure the project must reach."""
        self.targets.append((what, goal, f"{found:,.2f} {unit}".strip(), met))

    def place(self, name: str) -> Path:
        """A fresh folder."""
        (self.folder / name).mkdir()
        return self.folder / name

    def each_round(self, name: str, candidates: dict[str, Callable[[], Figures]]) -> dict[str, Figures]:
        """Measure every candidate once per round; medians of what each returned."""
        task = self.progress.add_task(name, total=self.rounds * len(candidates))
        found: dict[str, list[Figures]] = {candidate: [] for candidate in candidates}
        for _ in range(self.rounds):
            for candidate, measure in candidates.items():
                found[candidate].append(measure())
                self.progress.advance(task)
        return {
            candidate: {key: statistics.median(result[key] for result in results) for key in results[0]}
            for candidate, results in found.items()
        }

    def store(
        self, place: str, batch_max: int, users: int, vends: int, *, lanes: int = 2, processes: int = 1
    ) -> Figures:
        """Vends a second of the store alone, with 64 waiting in each of so many processes at once."""
        what = [place, batch_max, lanes, users, self.size(vends)]
        command = [sys.executable, "-m", "bench.store", *map(str, what)]
        running = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(processes)]
        said = [process.communicate(timeout=300)[0] for process in running]
        assert not any(process.returncode for process in running), "a store failed"
        return {"rate": sum(float(rate) for rate in said)}
