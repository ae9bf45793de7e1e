"""Late, long and failing schedules: one event for each breach, one for its end."""

from __future__ import annotations

import pytest
from sqlalchemy import select, update

from tests.factories import make_job
from tests.schedules.conftest import MINUTE, Schedules
from webapp.db.engines import reading, writing
from webapp.db.models import Event, Job
from webapp.lib import clock
from webapp.schedules import actions, views
from webapp.schedules.health import Health


def events(verb: str) -> int:
    with reading() as session:
        return len(session.scalars(select(Event.id).where(Event.verb == verb, Event.subject == "schedule:s")).all())


def attention(schedules: Schedules) -> list[str]:
    """What is wrong with the schedule, in words; the counts for Prometheus must say the same."""
    with reading() as session:
        found = views.view_of(session, views.find(session, "s")).attention(schedules.time.now)
        number, problems = views.count_problems(session)
    words = {word for text in found for word in problems if word in text}
    assert (number, problems) == (1, {problem: int(problem in words) for problem in problems})
    return found


def test_a_job_that_does_not_start_makes_its_schedule_late_once(schedules: Schedules) -> None:
    schedules.add(cron="0 0 * * *", late_after="10m")
    health = Health(schedules.connection)
    actions.run_now("s", "person:ana")
    for _ in range(3):
        schedules.time.pass_(6)
        health.check()
    assert events("schedule_late") == 1
    assert attention(schedules) == ["late: its job has not started"]
    schedules.start()
    health.check()
    health.check()
    assert (events("schedule_recovered"), attention(schedules)) == (1, [])


@pytest.mark.postgresql
def test_failed_runs_in_a_row_make_it_failing_until_one_completes(schedules: Schedules) -> None:
    schedules.add(failing_after=2)
    health = Health(schedules.connection)
    for state, failing in (("dead", 0), ("dead", 1), ("dead", 1), ("completed", 1)):
        schedules.later(1)
        schedules.start()
        schedules.end(state)
        health.check()
        assert events("schedule_failing") == failing
    assert events("schedule_recovered") == 1


@pytest.mark.postgresql
def test_a_run_that_takes_far_longer_than_usual_is_long(schedules: Schedules) -> None:
    schedules.add(cron="0 0 * * *")
    now = schedules.time.now
    for _ in range(5):
        make_job("completed", schedule="s", started_at=now - 2 * MINUTE, finished_at=now - MINUTE)
    make_job("processing", schedule="s", started_at=now)
    health = Health(schedules.connection)
    for minutes, long in ((2, 0), (2, 1), (60, 1)):
        schedules.time.pass_(minutes)
        health.check()
        assert events("schedule_long") == long
    with writing() as session:
        values = {"state": "completed", "finished_at": clock.now(), "token": None, "worker_id": None}
        session.execute(update(Job).where(Job.state == "processing").values(**values))
    health.check()
    assert events("schedule_recovered") == 1


def test_a_schedule_whose_runs_take_longer_than_its_interval_is_flagged(schedules: Schedules) -> None:
    now = schedules.time.now

    def flagged() -> bool:
        with reading() as session:
            return views.view_of(session, views.find(session, "s")).too_frequent(now) is not None

    schedules.add(every=120)
    for _ in range(5):
        make_job("completed", schedule="s", started_at=now - 4 * MINUTE, finished_at=now - 3 * MINUTE)
    assert not flagged()
    for _ in range(6):
        make_job("completed", schedule="s", started_at=now - 4 * MINUTE, finished_at=now - MINUTE)
    assert flagged()


def test_a_fire_that_no_supervisor_decides_needs_attention(schedules: Schedules) -> None:
    schedules.add()
    schedules.time.pass_(3)
    assert attention(schedules) == ["late: no supervisor handled its last fire"]
    with reading() as session:
        assert [row.name for row in views.needing_attention(session, 10)] == ["s"]
