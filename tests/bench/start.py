"""start: the time until the console of `up` answers, and its memory then."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.bench import Bench
from tests.bench.rounds import Row, plain_row
from tests.bench.scratch import eventually
from tests.bench.submit import free_port, wait_for


@dataclass(frozen=True)
class Sizes:
    workers: int = 2
    before: int = 1  # starts that are not counted: they find no bytecode after an installation


QUICK = Sizes(workers=1, before=0)


@dataclass(frozen=True)
class _Start:
    """Seconds until the console answered; MiB of its processes."""

    seconds: float
    memory: list[float]


def measure(bench: Bench, sizes: Sizes) -> Sequence[Row]:
    cold, warm = [], []
    for _ in range(sizes.before):
        _start(bench, bench.scratch.home(), sizes.workers)
    for turn in range(bench.rounds):
        home = bench.scratch.home()
        cold.append(_start(bench, home, sizes.workers))
        warm.append(_start(bench, home, sizes.workers))
        bench.say(f"start, round {turn + 1}: {cold[-1].seconds:.2f} s on a fresh home, then {warm[-1].seconds:.2f}")
    processes = " and ".join(f"{one:.0f}" for one in warm[-1].memory)
    return [
        plain_row("start.cold", [one.seconds for one in cold]),
        plain_row("start.warm", [one.seconds for one in warm]),
        plain_row("start.memory", [sum(one.memory) for one in warm], note=f"gunicorn's parent and child: {processes}"),
    ]


def _start(bench: Bench, home: Path, workers: int) -> _Start:
    port = free_port()
    began = time.monotonic()
    process = bench.scratch.manage(home, "up", "--port", str(port), "--workers", str(workers))
    wait_for(bench, process, port)
    seconds = time.monotonic() - began
    memory = [
        one.memory_info().rss / 1024**2 for one in eventually("the console is there", lambda: _console(process.pid))
    ]
    bench.scratch.stop(process)
    return _Start(seconds, memory)


def _console(pid: int) -> list[psutil.Process]:
    """The processes of the console under this `up`."""
    for child in psutil.Process(pid).children():
        if "web" in child.cmdline():
            return [child, *child.children()]
    return []
