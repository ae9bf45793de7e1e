"""A canary with real workers: its retries, and how the maintenance process continues or ends the bulk action."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import pytest

from tests.worker.conftest import Fleet, Queue
from webapp.db.engines import reading
from webapp.db.models import BulkAction
from webapp.jobs import actions, canary
from webapp.jobs.filters import JobFilter

Start = Callable[..., Fleet]


@pytest.fixture
def dead(queue: Queue, fleet: Start, tmp_path: Path) -> list[str]:
    """Three dead letters that failed because of a missing file; the workers continue."""
    fleet(count=2)
    queue.set(backoff_base=1, backoff_jitter=0)
    ids = [queue.enqueue(f"test -e {tmp_path}/fixed", max_retries=0) for _ in range(3)]
    for job_id in ids:
        queue.reaches(job_id, "dead")
    return ids


def act(act_id: int) -> BulkAction:
    with reading() as session:
        return actions.find(session, act_id)


def test_the_other_jobs_follow_a_canary_that_completes(
    dead: list[str], queue: Queue, tmp_path: Path, eventually: Callable[..., Any]
) -> None:
    (tmp_path / "fixed").touch()
    act_id = canary.start(JobFilter(), "person:ana", dead[0])
    for job_id in dead:
        queue.reaches(job_id, "completed")
    eventually(lambda: act(act_id).state == "done")
    assert act(act_id).moved == 3


@pytest.mark.full
def test_the_other_jobs_stay_dead_if_the_canary_dies_again(
    dead: list[str], queue: Queue, eventually: Callable[..., Any]
) -> None:
    act_id = canary.start(JobFilter(), "person:ana", dead[0])
    eventually(lambda: act(act_id).state == "stopped")
    assert [(queue.job(job_id).state, queue.job(job_id).attempts) for job_id in dead] == [
        ("dead", 2),
        ("dead", 1),
        ("dead", 1),
    ]
