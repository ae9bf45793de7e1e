"""schedules: what many schedules cost, how long after its time a command starts, and many fires in the same second.

The CPU is that of the whole maintenance process, with its other work for a worker that runs jobs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass

from sqlalchemy import select

from tests.bench import Bench, BenchError
from tests.bench.pickup import COMMAND
from tests.bench.pool import ACTOR, cpu_of, number, pool_of, workers
from tests.bench.rounds import TAIL_TOLERANCE, Row, percentile, plain_row
from tests.bench.scratch import eventually, opened
from tests.worker_connection import worker_database
from webapp.core.storage.transaction import Connection, Transaction
from webapp.db.engines import reading
from webapp.db.models import Attempt, Fire, Job
from webapp.lib import clock
from webapp.schedules import actions, spec
from webapp.schedules.decider import Decider
from worker.maintenance.scheduler import SHORTEST_REST

FIRES = "SELECT count(*) FROM fires"
UNFINISHED = "SELECT count(*) FROM jobs WHERE finished_at IS NULL"
DAY, YEAR = 86_400, 365 * 86_400  # seconds


@dataclass(frozen=True)
class Sizes:
    schedules: int = 10_000
    each_minute: int = 100  # of them fire once a minute, one after the other
    settling: float = 10.0  # seconds
    window: float = 60.0  # seconds
    burst: int = 5_000
    rounds: int = 3  # at the most


QUICK = Sizes(schedules=100, each_minute=60, settling=0.5, window=3.0, burst=60)


def measure(bench: Bench, sizes: Sizes) -> Sequence[Row]:
    rounds = min(bench.rounds, sizes.rounds)
    steady, bursts = [], []
    with opened(bench.scratch.home()) as config:
        _add_steady(sizes)
        with workers(bench, config.home, 1, "--slots", "4") as process:
            time.sleep(sizes.settling)
            for turn in range(rounds):
                steady.append(_steady(pool_of(process).maintenance, sizes))
                bench.say(f"schedules, round {turn + 1}: {steady[-1].cpu:.2f} % of a core")
    for turn in range(rounds):
        bursts.append(_burst(bench, sizes))
        bench.say(f"schedules, round {turn + 1}: {sizes.burst:,} fires in {bursts[-1].seconds:.2f} s")
    return [
        plain_row("schedules.cpu", [one.cpu for one in steady]),
        plain_row("schedules.start.p50", [percentile(one.delays, 0.5) for one in steady]),
        plain_row("schedules.start.p99", [percentile(one.delays, 0.99) for one in steady], tolerance=TAIL_TOLERANCE),
        plain_row("schedules.burst", [one.seconds for one in bursts]),
        plain_row("schedules.lock.p50", [percentile(one.locks, 0.5) for one in bursts]),
        plain_row("schedules.lock.longest", [max(one.locks) for one in bursts], tolerance=TAIL_TOLERANCE),
    ]


def _add(names: str, count: int, every: int, first: int, spacing: float = 0) -> None:
    """Schedules of an interval in seconds; the first fire at `first` (microseconds), others `spacing` s apart."""
    changes = []
    for place in range(count):
        anchor = clock.to_iso(first + clock.seconds(int(place * spacing)) - clock.seconds(every))
        described = {"name": f"{names}-{place}", "every": every, "anchor": anchor, "overlap": "allow"}
        one = spec.parse({**described, "job": {"command": COMMAND}})
        changes.append(actions.Change(one.name, one, known=False))
    actions.apply(changes, ACTOR)


# --- a steady load ---


@dataclass(frozen=True)
class _Steady:
    """Per cent of one core; milliseconds from the due time of each fire until its command told the time."""

    cpu: float
    delays: list[float]


def _add_steady(sizes: Sizes) -> None:
    now = clock.now()
    _add("idle", sizes.schedules - sizes.each_minute, YEAR, now + 100 * clock.DAY)
    _add("busy", sizes.each_minute, 60, now, 60 / sizes.each_minute)


def _steady(maintenance: list[int], sizes: Sizes) -> _Steady:
    since, before, began = clock.now(), sum(map(cpu_of, maintenance)), time.monotonic()
    time.sleep(sizes.window)
    cpu = (sum(map(cpu_of, maintenance)) - before) / (time.monotonic() - began)
    until = clock.now()
    eventually("the jobs are done", lambda: number(f"{UNFINISHED} AND created_at <= {until}") == 0)
    with reading() as session:
        rows = session.execute(
            select(Fire.due_at, Attempt.output)
            .join(Job, Job.id == Fire.job_id)
            .join(Attempt, Attempt.job_seq == Job.seq)
            .where(Fire.due_at > since, Fire.due_at <= until - clock.SECOND)
        ).all()
    if not rows:
        raise BenchError("no schedule fired.")
    return _Steady(100 * cpu, [int(output) / 1e6 - due_at / 1e3 for due_at, output in rows])


# --- many fires in one second ---


class _Timed(Connection):
    """Keeps how long each transaction held the write lock, in milliseconds."""

    def __init__(self) -> None:
        super().__init__(worker_database())
        self.times: list[float] = []

    @contextmanager
    def transaction(self, timeout: float = -1, *, wakes_workers: bool = False) -> Iterator[Transaction]:
        with super().transaction(timeout, wakes_workers=wakes_workers) as transaction:
            began = time.perf_counter()
            yield transaction
        self.times.append((time.perf_counter() - began) * 1e3)


@dataclass(frozen=True)
class _Burst:
    """Seconds from the due time until all were decided; milliseconds of each transaction."""

    seconds: float
    locks: list[float]


def _burst(bench: Bench, sizes: Sizes) -> _Burst:
    with opened(bench.scratch.home()), closing(_Timed()) as connection:
        due = clock.now() // clock.SECOND * clock.SECOND + clock.seconds(2 + sizes.burst // 500)
        _add("burst", sizes.burst, DAY, due)
        decider = Decider(connection)
        time.sleep(max(0.0, (due - clock.now()) / clock.SECOND))
        began = time.perf_counter()
        while decider.decide():
            time.sleep(SHORTEST_REST)
        seconds = time.perf_counter() - began
        if number(FIRES) != sizes.burst:
            raise BenchError(f"of {sizes.burst:,} fires {number(FIRES):,} were decided.")
    return _Burst(seconds, connection.times)
