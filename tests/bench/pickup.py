"""pickup: from the call of enqueue to the time that the command prints, on an idle machine.

This process enqueues: it runs already, like the console. The bare spawn runs the same command, so both include the
cost of printing the time.
"""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Callable

from sqlalchemy import select

from tests.bench import Bench, BenchError
from tests.bench.figures import RATIO, Figure
from tests.bench.peers.running import Running, attempt
from tests.bench.pool import ACTOR, ENDED, number, workers
from tests.bench.rounds import TAIL_TOLERANCE, TOLERANCE, Row, percentile, plain_row, ratio_row
from tests.bench.scratch import eventually, opened
from webapp.core.job_spec import JobSpec
from webapp.db.engines import reading
from webapp.db.models import Attempt, Job
from webapp.jobs.actions import enqueue

COMMAND = "date +%s%N"  # a shell has no clock of its own; this is one exec, which the shell does in its own place
SETTLING = 0.012  # seconds after which it is looked whether a job is done: nothing looks while it is under way
LONGEST_PAUSE = 0.02  # seconds, at random, that the machine is left in peace after that


@dataclass(frozen=True)
class Sizes:
    samples: int = 100  # in a round
    block: int = 10  # of one kind at a time
    peer_samples: int = 40  # in a round


QUICK = Sizes(samples=6, block=3, peer_samples=3)


@dataclass
class Samples:
    """Milliseconds, of one round. `enqueue` until it returned, `ours` until the command's clock."""

    bare: list[float]
    ours: list[float]
    enqueue: list[float]


def measure(bench: Bench, sizes: Sizes) -> Sequence[Row]:
    if not _bare(1)[0] > 0:
        bench.left_out.append(f"pickup: `{COMMAND}` does not tell nanoseconds here (GNU's does).")
        return []
    rounds: list[Samples] = []
    others: dict[Running, list[list[float]]] = {}
    with opened(bench.scratch.home()) as config, workers(bench, config.home, 1):
        picked_up(sizes.block)  # the first ones of all load and compile what later ones find
        for turn in range(bench.rounds):
            one = Samples([], [], [])
            while len(one.ours) < sizes.samples:
                one.bare += _bare(sizes.block)
                picked, calls = picked_up(sizes.block)
                one.ours += picked
                one.enqueue += calls
            rounds.append(one)
            _peers(bench, sizes, others)
            bench.say(
                f"pickup, round {turn + 1}: bare spawn {percentile(one.bare, 0.5):.2f} ms, "
                f"ours {percentile(one.ours, 0.5):.2f} ms"
            )
    return [
        *(_row(rounds, name, share) for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))),
        plain_row("pickup.enqueue", [percentile(one.enqueue, 0.5) for one in rounds]),
        *(row for peer, found in others.items() if len(found) == bench.rounds for row in _rows_of(peer, found, rounds)),
    ]


def _peers(bench: Bench, sizes: Sizes, found: dict[Running, list[list[float]]]) -> None:
    for peer in list(bench.peers):
        times = attempt(bench, peer, partial(Running.pick_up, samples=sizes.peer_samples))
        if times is not None:
            found.setdefault(peer, []).append(times)
            bench.say(f"pickup, {peer.title}: {percentile(times, 0.5):.2f} ms")


def _rows_of(peer: Running, found: list[list[float]], rounds: Sequence[Samples]) -> list[Row]:
    return [
        ratio_row(
            Figure(f"pickup.{peer.peer.name}.{name}", f"{peer.title}, pick-up, {name}, of a bare spawn", RATIO),
            [percentile(one.bare, share) for one in rounds],
            [percentile(times, share) for times in found],
            "ms",
            tolerance=tolerance,
        )
        for name, share, tolerance in (("p50", 0.5, TOLERANCE), ("p99", 0.99, TAIL_TOLERANCE))
    ]


def _row(rounds: Sequence[Samples], name: str, share: float) -> Row:
    def of(pick: Callable[[Samples], list[float]]) -> list[float]:
        return [percentile(pick(one), share) for one in rounds]

    tolerance = TOLERANCE if share <= 0.5 else TAIL_TOLERANCE
    return ratio_row(f"pickup.{name}", of(lambda one: one.bare), of(lambda one: one.ours), "ms", tolerance=tolerance)


def _pause() -> None:
    time.sleep(random.uniform(0, LONGEST_PAUSE))  # noqa: S311 - so that no clock of the machine keeps in step


def _bare(samples: int) -> list[float]:
    found = []
    for _ in range(samples):
        began = time.time_ns()
        done = subprocess.run(COMMAND, shell=True, capture_output=True, check=False)  # noqa: S602 - as the limit has it
        found.append((_nanoseconds(done.stdout) - began) / 1e6)
        time.sleep(SETTLING)
        _pause()
    return found


def picked_up(samples: int) -> tuple[list[float], list[float]]:
    """Enqueue jobs one by one; milliseconds until each command printed the time, and until its enqueue returned.

    Workers must run. Raises BenchError.
    """
    began: dict[str, int] = {}
    calls = []
    for _ in range(samples):
        wanted = number(ENDED) + 1
        now = time.time_ns()
        [id_] = enqueue([JobSpec(command=COMMAND)], ACTOR)
        calls.append((time.time_ns() - now) / 1e6)
        began[id_] = now
        time.sleep(SETTLING)
        eventually("the job is done", partial(_have_ended, wanted), every=SETTLING)
        _pause()
    told = _told(list(began))
    if len(told) != samples:
        raise BenchError(f"of {samples} jobs {len(told)} told the time.")
    return [(told[id_] - now) / 1e6 for id_, now in began.items()], calls


def _have_ended(jobs: int) -> bool:
    return number(ENDED) >= jobs


def _told(ids: Sequence[str]) -> dict[str, int]:
    with reading() as session:
        rows = session.execute(
            select(Job.id, Attempt.output).join(Attempt, Attempt.job_seq == Job.seq).where(Job.id.in_(ids))
        )
        return {row.id: _nanoseconds(row.output) for row in rows}


def _nanoseconds(output: bytes) -> int:
    """The time that the command printed; 0 if it is not a time."""
    return int(output) if output.strip().isdigit() else 0
