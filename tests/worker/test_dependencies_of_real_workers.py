"""Many jobs that follow each other, run by real workers that are killed at random.

The commands write their own start and end. From these stamps the checks say that no job starts before its parents end.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import select

from tests.deadline import DEADLINE
from tests.worker.conftest import Fleet, Queue
from tests.worker.test_dependencies import chain, diamond, fan
from tests.worker.test_limits_of_real_workers import kill_one, left, runs_in
from webapp.core import job_spec
from webapp.db.engines import reading
from webapp.db.models import Attempt, Job
from webapp.jobs import actions

pytestmark = [pytest.mark.postgresql, pytest.mark.full]

COMMAND = """#!/bin/bash
echo "s $QUEUECTL_JOB_ID $EPOCHREALTIME" >> {log}
echo "e $QUEUECTL_JOB_ID $EPOCHREALTIME" >> {log}
"""
KILLS = 8


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param(diamond(1000), id="diamond"),
        pytest.param(chain(1000), id="chain"),
        pytest.param(fan(10_000), id="fan"),
    ],
)
def test_each_job_starts_once_and_after_its_parents_although_workers_are_killed(
    queue: Queue,
    fleet: Callable[..., Fleet],
    tmp_path: Path,
    eventually: Callable[..., Any],
    shape: list[dict[str, Any]],
) -> None:
    luck, log = random.Random(time.time()), tmp_path / "stamps"
    log.touch()
    command = COMMAND.format(log=log)
    queue.set(backoff_base=1.0)
    actions.enqueue([job_spec.parse({"command": command, **one}) for one in shape], "person:test")
    workers = fleet(count=2, slots=4)
    within = DEADLINE + len(shape) * 0.5
    for _ in range(KILLS):
        goal = left() - luck.randint(1, len(shape) // (2 * KILLS))  # the next kill comes after so many jobs
        eventually(lambda goal=goal: left() <= goal, within)
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended meanwhile
            kill_one([workers], luck)
    eventually(lambda: not left(), within)
    with reading() as session:
        jobs = {job.id: job for job in session.scalars(select(Job))}
        completed = Counter(session.scalars(select(Attempt.job_seq).where(Attempt.state == "completed")))
    assert Counter(job.state for job in jobs.values()) == {"completed": len(shape)}
    assert completed == {job.seq: 1 for job in jobs.values()}
    starts: dict[str, list[int]] = defaultdict(list)
    ends: dict[str, list[int]] = defaultdict(list)
    for run in runs_in(log):
        starts[run.job].append(run.start)
        ends[run.job] += [] if run.end is None else [run.end]
    for job in jobs.values():  # an attempt whose worker was killed may have written nothing
        assert 1 <= len(starts[job.id]) <= job.attempts, job.id
    assert sum(job.attempts > 1 for job in jobs.values()) <= KILLS * 4
    for one in shape:
        for parent in one.get("after", ()):
            assert min(starts[one["id"]]) >= max(ends[parent]), (one["id"], parent)
