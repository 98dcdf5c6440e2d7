"""What a rate limit costs: a turn that is taken, and one that is refused; CPU of one core."""

import asyncio
import time

from bench.harness import Bench, Figures
from pluct.app import now_ms
from pluct.errors import RateLimited
from pluct.limits import Limits, LocalTurns, Rate, Rates


def limits(bench: Bench) -> None:
    """A user who has turns left, and one who has none."""
    count = bench.size(100_000)

    async def measured(limit: Rate) -> Figures:
        at_work = Limits(Rates(vend_per_user=limit), LocalTurns(now_ms))
        refused, spent = 0, time.process_time()
        for number in range(count):
            try:
                await at_work.vend(f"user-{number % 1000}")
            except RateLimited:
                refused += 1
        cpu = time.process_time() - spent
        assert (refused > 0) == (limit.count == 1), refused
        return {"cpu_us": cpu / count * 1e6}

    found = bench.each_round(
        "rate limits",
        {
            "taken": lambda: asyncio.run(measured(Rate(1_000_000, 60))),
            "refused": lambda: asyncio.run(measured(Rate(1, 86_400))),
        },
    )
    rows = [f"| a turn that is {name} | {figures['cpu_us']:.1f} |" for name, figures in found.items()]
    bench.tables.append("### Rate limits\n\n" + "\n".join(["| | CPU µs |\n|---|---|", *rows]))
    cost = found["refused"]["cpu_us"]
    bench.target("a refusal by a rate limit", "< 50 µs", cost, "µs", cost < 50)
