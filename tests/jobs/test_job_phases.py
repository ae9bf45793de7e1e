"""The phases of a job."""

from __future__ import annotations

from typing import Any, Optional

import pytest
from flask import Flask

from tests.factories import make_attempt, make_event, make_job, make_queue, make_worker
from webapp.db.engines import reading, writing
from webapp.db.models import Event, Job
from webapp.insight import blockers
from webapp.jobs import job_detail
from webapp.jobs.job_phases import phases, totals
from webapp.lib import clock

Seen = tuple[str, float, Optional[float], Optional[int]]
BEGAN = clock.now() - clock.seconds(10_000)


def at(seconds: float) -> int:
    return BEGAN + clock.seconds(seconds)


def lived(job: Job) -> list[Seen]:
    with reading() as session:
        row = session.get(Job, job.seq)
        assert row is not None
        found = phases(row, job_detail.attempts(session, row), job_detail.events(session, row))

    def since(moment: Optional[int]) -> Optional[float]:
        return None if moment is None else (moment - BEGAN) / clock.SECOND

    return [(one.kind, since(one.start) or 0.0, since(one.end), one.attempt) for one in found]


def event(job: Job, verb: str, seconds: float) -> None:
    one = make_event(verb, "person:ana", f"job:{job.id}", job=job)
    with writing() as session:
        session.query(Event).filter(Event.id == one.id).update({"at": at(seconds)})


def test_a_retried_job_has_waiting_running_and_backoff_phases(app: Flask) -> None:
    job = make_job("failed", created_at=at(0), attempts=2, run_at=at(60))
    make_attempt(job, 1, due_at=at(5), started_at=at(7), finished_at=at(10))
    make_attempt(job, 2, due_at=at(14), started_at=at(14.5), finished_at=at(20))
    assert lived(job) == [
        ("not_due", 0, 5, None),
        ("waited", 5, 7, None),
        ("ran", 7, 10, 1),
        ("backed_off", 10, 14, None),
        ("waited", 14, 14.5, None),
        ("ran", 14.5, 20, 2),
        ("backed_off", 20, 60, None),
    ]


def test_there_is_no_phase_while_a_job_is_dead(app: Flask) -> None:
    job = make_job("pending", created_at=at(0), attempts=1, run_at=at(5000))
    make_attempt(job, 1, due_at=at(0), started_at=at(0), finished_at=at(4))
    event(job, "requeue", 5000)
    assert lived(job) == [("ran", 0, 4, 1), ("waited", 5000, None, None)]


def test_a_lost_job_waits_from_its_loss(app: Flask) -> None:
    job = make_job("processing", created_at=at(0), attempts=2, run_at=at(0), started_at=at(50))
    make_attempt(job, 1, "lost", due_at=at(0), started_at=at(1), finished_at=at(40))
    assert lived(job) == [
        ("waited", 0, 1, None), ("ran", 1, 40, 1), ("waited", 40, 50, None), ("ran", 50, None, 2)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("verb", "state", "kind"), [("run_now", "pending", "not_due"), ("cancel", "cancelled", "waited")]
)
def test_a_user_ends_a_wait(app: Flask, verb: str, state: str, kind: str) -> None:
    times: dict[str, Any] = {"finished_at": at(30)} if state == "cancelled" else {}
    job = make_job(state, created_at=at(0), run_at=at(30), attempts=0, **times)
    event(job, verb, 30)
    assert lived(job)[0] == (kind, 0, 30, None)
    assert len(lived(job)) == (1 if state == "cancelled" else 2)


def test_attempts_of_an_older_version_have_no_due_time(app: Flask) -> None:
    job = make_job("dead", created_at=at(0), attempts=2, finished_at=at(9))
    make_attempt(job, 1, started_at=at(1), finished_at=at(3))
    make_attempt(job, 2, started_at=at(7), finished_at=at(9))
    assert lived(job) == [("waited", 0, 1, None), ("ran", 1, 3, 1), ("unclear", 3, 7, None), ("ran", 7, 9, 2)]
    with reading() as session:
        found = phases(job, job_detail.attempts(session, job), [])
    assert totals(found) == {"waited": clock.SECOND, "ran": 4 * clock.SECOND, "unclear": 4 * clock.SECOND}


# --- what keeps workers from a queue ---------------------------------------------------------------------------------


def obstacle(queue: str = "mail") -> Optional[str]:
    with reading() as session:
        found = blockers.fleet_of(session, queue).obstacle
        return found.kind if found else None


def test_the_obstacle_of_a_queue_is_the_first_that_applies(app: Flask) -> None:
    make_queue("mail")
    assert obstacle() == "none"
    make_worker(id="other", queues='["default"]')
    assert obstacle() == "unserved"
    make_worker(id="w1", queues='["mail"]', requested_state="quiet")
    assert obstacle() == "quiet"
    make_worker(id="w2")
    assert obstacle() is None
    make_queue("mail", paused_by="person:ana")
    assert obstacle() == "paused"


def test_the_time_for_a_queue_follows_its_recent_rate(app: Flask) -> None:
    now = clock.now()
    for number in range(30):
        one = make_job("completed", queue="mail")
        make_attempt(one, 1, "completed", finished_at=now - clock.seconds(60) + clock.seconds(number))
    with reading() as session:
        assert blockers.seconds_for(session, "quiet", 100) is None
        needed = blockers.seconds_for(session, "mail", 100)
    assert needed is not None
    assert 150 < needed < 450  # 30 in a minute or two
