"""The effect of a requeue: by queue, its duration, and what blocks jobs."""

from __future__ import annotations

import pytest

from tests.factories import make_attempt, make_job, make_queue, make_worker
from webapp.db.engines import reading
from webapp.insight import requeue_impact
from webapp.jobs import queries
from webapp.jobs.filters import JobFilter
from webapp.lib import clock

DEAD = JobFilter(state="dead")


def of_all() -> requeue_impact.Impact:
    with reading() as session:
        return requeue_impact.of(session, DEAD.where(), queries.count(session, DEAD.where()))


def die(number: int, queue: str = "default", ran: float = 3.0) -> None:
    for _ in range(number):
        make_job("dead", queue=queue, started_at=clock.now() - clock.seconds(ran), finished_at=clock.now())


@pytest.mark.usefixtures("app")
def test_idle_workers_are_estimated_by_slots_and_run_times() -> None:
    make_worker(slots=2)
    make_worker(slots=1, queues='["default"]')
    make_worker(slots=9, queues='["other"]')
    make_worker(slots=9, requested_state="quiet")
    die(6)
    told = of_all()
    assert (told.pace, told.slots, told.blocked) == ("slots", 3, [])
    assert told.run_time == pytest.approx(3.0, abs=0.1)
    assert told.seconds == pytest.approx(6.0, abs=0.2)


@pytest.mark.usefixtures("app")
def test_busy_workers_are_estimated_by_their_rate_and_pending_jobs_go_first() -> None:
    make_worker()
    job = make_job("completed")
    for number in range(1, 11):
        make_attempt(job, number, "completed", finished_at=clock.now() - clock.seconds(60))
    make_job("pending")
    die(4)
    told = of_all()
    assert told.pace == "rate"
    assert told.per_minute is not None
    assert told.ahead == 1
    assert told.seconds == pytest.approx(5 / told.per_minute * 60)


@pytest.mark.usefixtures("app")
def test_obstacles_are_reported_by_queue() -> None:
    make_worker(queues='["default", "mail"]')
    make_queue("mail", paused_by="person:ana")
    die(3)
    die(2, "mail")
    die(1, "nobodys")
    told = of_all()
    assert [(part.queue, part.jobs, part.obstacle and part.obstacle.kind) for part in told.parts] == [
        ("default", 3, None),
        ("mail", 2, "paused"),
        ("nobodys", 1, "unserved"),
    ]
    assert told.seconds == pytest.approx(9.0, abs=0.2)  # of those that run


@pytest.mark.usefixtures("app")
def test_required_labels_decide_which_workers_and_pending_jobs_count() -> None:
    make_worker(slots=4)
    make_worker(slots=2, labels='["gpu"]')
    for requires, number in (("", 1), ("gpu", 2), ("tape", 3)):
        for _ in range(number):
            make_job("dead", requires=requires, started_at=clock.now() - clock.seconds(3), finished_at=clock.now())
    make_job("pending", requires="gpu")
    told = of_all()
    assert [(part.label_set.requires, part.jobs, part.ahead.number) for part in told.parts] == [
        ("tape", 3, 0),
        ("gpu", 2, 1),
        ("", 1, 0),
    ]
    assert [(part.label_set.requires, part.obstacle and part.obstacle.missing) for part in told.blocked] == [
        ("tape", ("tape",))
    ]
    assert told.slots == 6  # each worker once


@pytest.mark.usefixtures("app")
def test_without_workers_the_time_is_unknown() -> None:
    die(2)
    told = of_all()
    assert (told.seconds, told.pace, told.slots) == (None, "", 0)
    assert [part.obstacle.kind for part in told.blocked if part.obstacle] == ["none"]


@pytest.mark.usefixtures("app")
def test_the_newest_of_many_jobs_are_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requeue_impact, "SAMPLE_SIZE", 4)
    make_worker()
    die(6)
    told = of_all()
    assert told.partly
    assert told.parts[0].jobs == 4
    assert told.seconds == pytest.approx(18.0, abs=0.5)
