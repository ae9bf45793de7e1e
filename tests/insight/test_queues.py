"""Queues by rank: problems first, or by a figure; and why their jobs died."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.factories import make_attempt, make_job, make_jobs, make_queue, make_worker
from webapp.db.engines import reading
from webapp.insight import queues, rollups
from webapp.insight.fleet import workers
from webapp.insight.queues import QueueFilter
from webapp.lib import clock
from webapp.lib.clock import HOUR

pytestmark = pytest.mark.usefixtures("app")


def ranked(by: str = "problems", like: str = "", **options: int) -> list[str]:
    with reading() as session:
        found = queues.ranked(session, QueueFilter(like), workers(session, 60), by=by, **options)
    return [view.queue.name for view in found.views]


def ended(queue: str, results: Sequence[str], ago: int = HOUR) -> None:
    at = clock.now() - ago
    for state in results:
        job = make_job("completed", queue=queue, finished_at=at)
        make_attempt(job, 1, state, started_at=at - clock.SECOND, finished_at=at)


@pytest.mark.postgresql
def test_queues_without_workers_are_first_then_paused_late_and_failing_ones() -> None:
    make_worker(queues='["late", "failing", "fine", "busy", "labels", "paused"]')
    make_job(queue="unserved")
    make_job(queue="labels", requires="gpu")
    make_queue("paused", paused_by="person:ana")
    make_job(queue="late", run_at=clock.now() - HOUR)
    ended("failing", ["failed"] * 5)
    ended("fine", ["completed"] * 9 + ["failed"])
    make_jobs([{"state": "pending", "queue": "busy", "run_at": clock.now()} for _ in range(3)])
    while rollups.fold():
        pass
    assert ranked() == ["labels", "unserved", "paused", "late", "failing", "busy", "default", "fine"]


@pytest.mark.postgresql
def test_queues_are_sorted_by_a_figure_in_pages() -> None:
    make_worker()
    for number, name in enumerate(("a", "b", "c")):
        make_jobs([{"state": "pending", "queue": name, "run_at": clock.now() - number * HOUR}] * (number + 1))
        ended(name, ["failed"] * (3 - number) + ["completed"] * number * 4)
    while rollups.fold():
        pass
    assert ranked("pending") == ["c", "b", "a", "default"]
    assert ranked("oldest") == ["c", "b", "a", "default"]
    assert ranked("failed") == ["a", "b", "c", "default"]
    assert ranked("runs") == ["c", "b", "a", "default"]
    assert ranked("pending", page=2, size=2) == ["a", "default"]
    assert ranked("pending", "B") == ["b"]
    with reading() as session:
        view = queues.view_of(session, "c", with_day=True)
    assert view is not None
    assert view.day is not None
    assert (view.day.runs, view.day.failed) == (9, 1)
    assert view.day.busy * 23.5 * 3600 == pytest.approx(9, rel=0.1), "nine seconds in 23 to 24 hours"


@pytest.mark.postgresql
def test_of_very_many_queues_those_with_something_to_do_are_ranked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "MAX_RANKED", 3)
    make_worker(id="w1")
    for number in range(6):
        make_queue(f"idle-{number}")
    make_queue("paused", paused_by="person:ana")
    make_job("processing", queue="runs", worker_id="w1")
    make_job(queue="waits")
    assert ranked() == ["paused", "waits", "runs"]
    with reading() as session:
        assert queues.ranked(session, QueueFilter(), []).capped


def test_the_causes_of_a_queue_are_those_of_its_own_dead_letters() -> None:
    for key, queue, number in (("a", "mail", 1), ("b", "mail", 3), ("c", "other", 5)):
        make_jobs([{"state": "dead", "queue": queue, "error_key": key, "finished_at": 5}] * number)
    with reading() as session:
        assert [(one.key, one.number) for one in queues.causes(session, "mail")] == [("b", 3), ("a", 1)]
