"""drain: how fast a queue of the command `true` is emptied, compared with two bare loops that spawn it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from tests.bench import Bench
from tests.bench.figures import RATIO, Figure
from tests.bench.peers.running import Running, attempt
from tests.bench.pool import Drained, drain
from tests.bench.rounds import Row, ratio_row
from tests.bench.scratch import Used

COMMAND = "true"
SHAPES = {
    "2x1": (("--count", "2"), {}),
    "2x4": (("--count", "2", "--slots", "4"), {}),
    "2x4.durable": (("--count", "2", "--slots", "4"), {"QUEUECTL_DURABLE_SETTLES": "1"}),
}

_LIMIT = """
import os, subprocess, sys, time
number = int(sys.argv[1])
print(flush=True)
sys.stdin.read()
began = time.monotonic()
for _ in range(number):
    subprocess.run('true', shell=True, capture_output=True)
os.write(1, b"%r %r\\n" % (began, time.monotonic()))  # in one piece: several processes share the pipe
"""


@dataclass(frozen=True)
class Sizes:
    jobs: int = 10_000
    processes: int = 2  # of the limit
    peer_jobs: int = 2_000
    peer_workers: tuple[int, ...] = (2, 4)


QUICK = Sizes(jobs=60, peer_jobs=20)


def measure(bench: Bench, sizes: Sizes) -> Sequence[Row]:
    limits: list[Drained] = []
    ours: dict[str, list[Drained]] = {shape: [] for shape in SHAPES}
    others: dict[Figure, list[float]] = {}
    for turn in range(bench.rounds):
        limits.append(limit(bench, sizes.jobs, sizes.processes))
        for shape, (options, environment) in SHAPES.items():
            ours[shape].append(drain(bench, COMMAND, sizes.jobs, *options, environment=environment))
        said = ", ".join(f"{shape} {rates[-1].rate / limits[-1].rate:.2f}" for shape, rates in ours.items())
        bench.say(f"drain, round {turn + 1}: limit {limits[-1].rate:,.0f}/s, of it {said}")
        _peers(bench, sizes, others)
    bare = cpu(limits, sizes.jobs)
    rates_of_limit = [one.rate for one in limits]
    rows = [
        ratio_row(
            f"drain.{shape}",
            rates_of_limit,
            [one.rate for one in rates],
            "jobs/s",
            note=f"CPU {cpu(rates, sizes.jobs):.0f} µs a job, start and all; the limit's {bare:.0f}",
        )
        for shape, rates in ours.items()
    ]
    complete = {figure: rates for figure, rates in others.items() if len(rates) == bench.rounds}
    return rows + [ratio_row(figure, rates_of_limit, rates, "jobs/s") for figure, rates in complete.items()]


def _peers(bench: Bench, sizes: Sizes, rates: dict[Figure, list[float]]) -> None:
    for peer in list(bench.peers):
        for workers in sizes.peer_workers:
            rate = attempt(bench, peer, partial(Running.drain, workers=workers, jobs=sizes.peer_jobs))
            if rate is None:
                break
            title = f"{peer.title}, drain by {workers} workers, of the bare spawn loops"
            rates.setdefault(Figure(f"drain.{peer.peer.name}.{workers}", title, RATIO), []).append(rate)
            bench.say(f"drain, {peer.title}, {workers} workers: {rate:,.0f}/s")


def limit(bench: Bench, runs: int, processes: int) -> Drained:
    """Bare Pythons that only run the command, started at the same moment."""
    each = runs // processes
    behind_gate, gate = os.pipe()
    told, tell = os.pipe()
    loops = [bench.scratch.python(_LIMIT, str(each), stdin=behind_gate, out=tell) for _ in range(processes)]
    os.close(behind_gate)
    os.close(tell)
    with open(told) as lines:
        for _ in loops:
            lines.readline()  # one more has imported what it needs
        os.close(gate)  # which all see at once
        seconds = sum(bench.scratch.wait(loop, within=60 + runs / 20).cpu for loop in loops)
        times = [[float(word) for word in line.split()] for line in lines]
    took = max(ended for _, ended in times) - min(began for began, _ in times)
    return Drained(each * processes / took, Used(0, seconds))


def cpu(drained: Sequence[Drained], jobs: int) -> float:
    """CPU microseconds per job of all processes, with start and end; the minimum of all rounds."""
    return min(one.used.cpu for one in drained) / jobs * 1e6
