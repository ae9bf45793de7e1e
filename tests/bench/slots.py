"""slots: fifty sleeping commands on two processes, and the cost of the pool."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from tests.bench import Bench
from tests.bench.pool import cpu_of, fill, number, pool_of, rate_of
from tests.bench.rounds import Row, plain_row
from tests.bench.scratch import eventually, opened

RUNNING = "SELECT count(*) FROM jobs WHERE state = 'processing'"


@dataclass(frozen=True)
class Sizes:
    processes: int = 2
    slots: int = 25
    jobs: int = 400
    command: str = "sleep 1"
    window: float = 5.0  # seconds of CPU, as many whole waves; shorter than all jobs take
    rounds: int = 3  # at the most


QUICK = Sizes(slots=4, jobs=32, command="sleep 0.2", window=0.3)


def measure(bench: Bench, sizes: Sizes) -> Sequence[Row]:
    rates, costs = [], []
    for turn in range(min(bench.rounds, sizes.rounds)):
        rate, cost = _round(bench, sizes)
        rates.append(rate)
        costs.append(cost)
        bench.say(f"slots, round {turn + 1}: {rate:.1f} jobs/s, {cost:.1f} % of a core")
    note = "of supervisor, maintenance and workers, the commands left out"
    return [plain_row("slots.rate", rates), plain_row("slots.cpu", costs, note=note)]


def _round(bench: Bench, sizes: Sizes) -> tuple[float, float]:
    """Jobs per second, and percent of one core."""
    home, full = bench.scratch.home(), sizes.processes * sizes.slots
    fill(home, sizes.command, sizes.jobs)
    options = ("--count", str(sizes.processes), "--slots", str(sizes.slots), "--drain")
    process = bench.scratch.manage(home, "worker", "start", *options)
    with opened(home):
        eventually("all slots are full", lambda: number(RUNNING) == full or process.poll() is not None, every=0.02)
        if process.poll() is not None:
            raise bench.scratch.failed("the workers ended before all slots were full")
        pids = pool_of(process).all
        before, began = sum(map(cpu_of, pids)), time.monotonic()
        time.sleep(sizes.window)
        cost = (sum(map(cpu_of, pids)) - before) / (time.monotonic() - began)
    bench.scratch.wait(process, within=120)
    return rate_of(home, sizes.jobs), cost * 100
