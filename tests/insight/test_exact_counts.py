"""Exact numbers of jobs, counted beside the requests."""

from __future__ import annotations

import threading
from typing import Any, Callable

import pytest
from flask import Flask

from tests.factories import make_jobs
from webapp.core.notices import SYSTEM_QUEUE
from webapp.db.engines import reading
from webapp.insight import exact_counts
from webapp.jobs import queries
from webapp.jobs.filters import JobFilter
from webapp.jobs.queries import Count


@pytest.mark.postgresql
@pytest.mark.usefixtures("app")
def test_numbers_beyond_the_cap_are_exact_and_follow_changes(
    monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., Any]
) -> None:
    monkeypatch.setattr(queries, "COUNT_CAP", 3)
    monkeypatch.setattr(exact_counts, "FIRST_WAIT", 10.0)
    make_jobs([{"state": "dead"} for _ in range(5)] + [{"state": "pending", "queue": "mail"} for _ in range(6)])
    make_jobs([{"state": "dead", "queue": SYSTEM_QUEUE}, {"state": "failed"}])
    with reading() as session:
        lists = exact_counts.of_lists(session, JobFilter(state="dead"))
        some = {state: number for state, number in lists.items() if number is not None and number.number}
        assert some == {"": Count(12), "pending": Count(6), "failed": Count(1), "dead": Count(5)}
        assert exact_counts.of(session, JobFilter(state="pending", queue="mail")) == Count(6)
        assert exact_counts.of_lists(session, JobFilter(text="x"))[""] is None
    make_jobs([{"state": "dead"} for _ in range(4)])
    monkeypatch.setattr(exact_counts, "REST_FACTOR", 0)

    def number() -> bool:
        with reading() as session:
            return exact_counts.of(session, JobFilter(state="dead")) == Count(9)

    eventually(number)


def test_a_number_that_was_not_counted_in_time_says_that_there_are_more(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "COUNT_CAP", 3)
    monkeypatch.setattr(exact_counts, "FIRST_WAIT", 0.0)
    monkeypatch.setattr(threading.Thread, "start", lambda _self: None)
    make_jobs([{"state": "dead"} for _ in range(5)])
    with reading() as session:
        counted = exact_counts.of(session, JobFilter(state="dead"))
    assert (counted.number, counted.capped, str(counted)) == (3, True, "3+")
