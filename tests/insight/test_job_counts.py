"""Numbers of jobs are exact, bounded in length, and counted beside the requests."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from sqlalchemy.exc import OperationalError

from tests.deadline import DEADLINE
from tests.factories import make_attempt, make_job, make_jobs
from webapp.core.notices import SYSTEM_QUEUE
from webapp.core.states import STATES
from webapp.insight import job_counts, rollups
from webapp.insight.job_counts import OTHERS, JobCounter
from webapp.lib import clock


@pytest.fixture
def counter(app: Flask) -> Iterator[JobCounter]:
    made = JobCounter(app)
    yield made
    made.join()


@pytest.mark.postgresql
@pytest.mark.usefixtures("app")
def test_all_jobs_are_counted_but_those_of_the_product_itself() -> None:
    for number, state in enumerate(STATES, 1):
        make_jobs([{"state": state, "queue": "mail"}] * number)
    make_job("dead", queue="media")
    make_job("dead", queue=SYSTEM_QUEUE)
    counts = job_counts.count()
    assert counts.queues["mail"] == {state: number for number, state in enumerate(STATES, 1)}
    assert counts.queues["media"] == {**dict.fromkeys(STATES, 0), "dead": 1}
    assert set(counts.queues) == {"mail", "media"}
    assert 0 <= clock.now() - counts.at < clock.seconds(DEADLINE)


@pytest.mark.usefixtures("app")
def test_queues_beyond_the_limit_are_one_sum_and_those_with_work_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_counts, "MOST_QUEUES", 2)
    for queue, states in {
        "old": ["completed"] * 5,
        "a": ["completed", "dead"],
        "b": ["pending"] * 2,
        "c": ["dead"],
    }.items():
        make_jobs([{"state": state, "queue": queue} for state in states])
    queues = job_counts.count().queues
    assert list(queues) == ["b", "a", OTHERS]
    assert queues[OTHERS] == {**dict.fromkeys(STATES, 0), "completed": 5, "dead": 1}


def test_a_request_takes_the_last_count_while_the_next_one_goes_on(
    counter: JobCounter, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_end = threading.Event(), threading.Event()
    count = job_counts.count

    def slow() -> Any:
        begun.set()
        assert may_end.wait(DEADLINE)
        return count()

    make_job()
    first = counter.current()
    assert first is not None, "a request waits for the first count"
    assert first.queues["default"]["pending"] == 1
    counter.join()
    counter._due_at = 0.0
    monkeypatch.setattr(job_counts, "count", slow)
    make_job()
    assert counter.current() is first
    assert begun.wait(DEADLINE)
    assert counter.current() is first
    may_end.set()
    counter.join()
    second = counter.current()
    assert second is not None
    assert second.queues["default"]["pending"] == 2


def test_a_count_rests_for_a_multiple_of_the_time_that_it_took(
    counter: JobCounter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_counts, "REST_FACTOR", 1e9)
    first = counter.current()
    counter.join()
    make_job()
    assert counter.current() is first


def test_the_thread_folds_attempts_too(counter: JobCounter, monkeypatch: pytest.MonkeyPatch) -> None:
    make_attempt(make_job("completed"), state="completed", finished_at=clock.now() - 2 * rollups.FOLD_DELAY)
    counter.current()
    counter.join()
    assert rollups.fold() == 0


def test_a_count_that_fails_is_logged_and_the_next_one_is_tried(
    counter: JobCounter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails() -> Any:
        raise OperationalError("SELECT", {}, Exception("disk I/O error"))

    with monkeypatch.context() as patch:
        patch.setattr(job_counts, "count", fails)
        assert counter.current() is None
        counter.join()
    assert "jobs cannot be counted" in caplog.text
    assert caplog.records[0].levelno == logging.WARNING
    assert counter.current() is not None
