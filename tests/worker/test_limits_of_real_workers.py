"""Many jobs under a mix of limits, run by real workers that are killed at random.

The commands write their own start and end. From these stamps alone the checks say how many jobs of a key ran at a time.
"""

from __future__ import annotations

import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Optional

import psutil
import pytest
from sqlalchemy import select

from tests.deadline import DEADLINE
from tests.worker.conftest import Fleet, Queue
from webapp.core import job_spec
from webapp.core.flow.limits import Key, split
from webapp.db.engines import reading
from webapp.db.models import Attempt, Job
from webapp.jobs import actions
from webapp.jobs.flow import limits
from webapp.lib import clock

pytestmark = pytest.mark.postgresql

MOST = {"db": 3, "warehouse": 5, **{f"customer-{number}": 1 for number in range(8)}, "queue:mail": 2}
RATE, WINDOW = 25, 2 * clock.SECOND
# Without a process of its own for the sleep, and with one write for each stamp.
COMMAND = """#!/bin/bash
echo "s $QUEUECTL_JOB_ID $EPOCHREALTIME" >> {log}
exec {{nothing}}<> <(:)
read -t 0.0{pause} -u $nothing
echo "e $QUEUECTL_JOB_ID $EPOCHREALTIME" >> {log}
"""


class Run(NamedTuple):
    """One attempt by the stamps of its command, in microseconds. A killed one has no end."""

    job: str
    start: int
    end: Optional[int]


def specs_of(number: int, log: Path, luck: random.Random) -> Iterator[dict[str, Any]]:
    for place in range(number):
        keys = {
            0: ["db"],
            1: [f"customer-{luck.randrange(8)}"],
            2: ["warehouse"],
            3: ["mails"],  # a rate
            4: ["db", f"customer-{luck.randrange(8)}"],
            5: ["mails", "warehouse"],
            6: ["warehouse:exclusive"] if place % 28 == 6 else ["db"],
        }.get(place % 8, [])
        one: dict[str, Any] = {"id": f"j{place}", "command": COMMAND.format(log=log, pause=luck.randint(10, 40))}
        one.update({"limits": keys} if keys else {})
        if place % 16 == 7:
            one["queue"] = "mail"
        if place % 10 == 3:
            one["requires"] = "gpu"
        yield one


def runs_in(log: Path) -> list[Run]:
    open_runs: dict[str, int] = {}
    found = []
    for line in log.read_text().splitlines():
        kind, job, stamp = line.split()
        at = int(stamp.replace(".", "").replace(",", ""))
        if kind == "s":
            if job in open_runs:
                found.append(Run(job, open_runs[job], None))
            open_runs[job] = at
        else:
            found.append(Run(job, open_runs.pop(job), at))
    return found + [Run(job, at, None) for job, at in open_runs.items()]


def kill_one(fleets: Iterable[Fleet], luck: random.Random) -> None:
    """Kill a worker that runs commands: a child of the supervisor that has children."""
    for one in fleets:
        children = psutil.Process(one.process.pid).children()
        busy = [child for child in children if child.children()]
        if busy:
            luck.choice(busy).kill()
            return


def keys_of(job: Job) -> list[Key]:
    own = split(job.limits)
    return [*own, Key("queue:mail")] if job.queue == "mail" else own


@pytest.mark.parametrize(
    ("number", "workers", "kills"),
    [
        pytest.param(300, 2, 2, id="some"),
        pytest.param(10_000, 7, 60, id="many", marks=pytest.mark.full),
    ],
)
def test_no_limit_is_ever_exceeded_and_no_job_starves(
    queue: Queue, fleet: Callable[..., Fleet], tmp_path: Path, number: int, workers: int, kills: int
) -> None:
    luck, log = random.Random(number), tmp_path / "stamps"
    log.touch()
    for key, most in {"db": 3, "warehouse": 5, "customer-*": 1, "queue:mail": 2}.items():
        limits.set_limit(key, most, None, None, "person:test")
    limits.set_limit("mails", None, f"{RATE}/2s", None, "person:test")
    queue.set(backoff_base=1.0)
    fleets = [fleet(count=workers, slots=4), fleet(count=1, slots=4, labels=["gpu"])]
    actions.enqueue([job_spec.parse(one) for one in specs_of(number, log, luck)], "person:test")
    began = clock.now()
    limit = time.monotonic() + DEADLINE + number * 0.1
    pause = max(0.3, number / 300 / (kills + 1))
    while left():
        assert time.monotonic() < limit, f"{left()} jobs are left"
        time.sleep(pause)
        if kills:
            kills -= 1
            kill_one(luck.sample(fleets, 2), luck)
    with reading() as session:
        jobs = {job.id: job for job in session.scalars(select(Job))}
        ended = list(session.execute(select(Attempt.job_seq, Attempt.started_at, Attempt.finished_at)).tuples())
    assert Counter(job.state for job in jobs.values()) == {"completed": number}
    runs = runs_in(log)
    assert {run.job for run in runs} == set(jobs)
    assert_none_at_once(jobs, [(jobs[one.job], one.start, one.end or one.start) for one in runs])
    of_seq = {job.seq: job for job in jobs.values()}
    assert_none_at_once(jobs, [(of_seq[seq], start, end) for seq, start, end in ended])
    assert_rate(jobs, runs)
    assert_fifo(jobs)
    assert_no_starvation(jobs, runs, began)


def left() -> int:
    with reading() as session:
        return session.query(Job).where(Job.finished_at.is_(None)).count()


def assert_none_at_once(jobs: Mapping[str, Job], spans: Iterable[tuple[Job, int, int]]) -> None:
    """No moment has more jobs of a key than its limit, or another job beside an exclusive one."""
    edges: dict[str, list[tuple[int, int, bool, str]]] = defaultdict(list)
    for job, start, end in spans:
        for key in keys_of(job):
            edges[key.name] += [(start, 1, key.exclusive, job.id), (end, 0, key.exclusive, job.id)]
    for name, changes in edges.items():
        running: Counter[bool] = Counter()
        for _, begins, exclusive, job_id in sorted(changes):  # an end comes before a start at the same time
            running[exclusive] += 1 if begins else -1
            if begins:
                assert running[False] + running[True] <= MOST.get(name, 10**9), (name, job_id)
                assert not running[True] or (running[False], running[True]) == (0, 1), (name, job_id)


def assert_rate(jobs: Mapping[str, Job], runs: Iterable[Run]) -> None:
    """No window has more starts of `mails` than its rate."""
    limited = {job.id: job for job in jobs.values() if "mails" in {key.name for key in keys_of(job)}}
    claimed = sorted(job.started_at or 0 for job in limited.values())  # of the last attempt of each
    windows = [later - first for first, later in zip(claimed, claimed[RATE:])]
    assert min(windows, default=WINDOW) >= WINDOW
    # The commands start a little after their claims.
    started = sorted((run.start, run.start - (limited[run.job].started_at or 0)) for run in runs if run.job in limited)
    late = max(max(delay for _, delay in started), 0)
    stamps = [stamp for stamp, _ in started]
    assert min((later - first for first, later in zip(stamps, stamps[RATE:])), default=WINDOW) >= WINDOW - late


def assert_fifo(jobs: Mapping[str, Job]) -> None:
    """Jobs with the same single key and labels start in the order in which they were submitted."""
    lanes = defaultdict(list)
    for job in sorted(jobs.values(), key=lambda job: (job.run_at, job.seq)):
        if job.attempts == 1 and len(keys_of(job)) == 1:  # a job whose worker was killed runs again later
            lanes[job.limits, job.queue, job.requires].append(job.started_at or 0)
    assert len(lanes) > 10
    for lane, started in lanes.items():
        assert started == sorted(started), lane


def lanes_of(job: Job) -> list[str]:
    return [*(key.name for key in keys_of(job)), *([f"label {job.requires}"] if job.requires else [])]


def assert_no_starvation(jobs: Mapping[str, Job], runs: Iterable[Run], began: int) -> None:
    """Each job waits at most twice as long as its place in its keys says, by the pace of each key.

    The one worker with a label counts as a key too. Some time is added, because killed workers are away for a while.
    """
    first_start: dict[str, int] = {}
    for run in runs:
        first_start[run.job] = min(run.start, first_start.get(run.job, run.start))
    order = sorted(jobs.values(), key=lambda job: (job.run_at, job.seq))
    places: dict[str, dict[str, int]] = defaultdict(dict)
    for job in order:
        for name in lanes_of(job):
            places[name][job.id] = len(places[name])
    longest = max(first_start.values()) - began
    for job in order:
        waited = first_start[job.id] - began
        fair = [
            (max(first_start[one] for one in inside) - began) * (inside[job.id] + 1) / len(inside)
            for inside in (places[name] for name in lanes_of(job))
        ]
        if fair:
            assert waited <= 2 * max(fair) + 0.3 * longest, (job.id, job.limits, waited, fair)
