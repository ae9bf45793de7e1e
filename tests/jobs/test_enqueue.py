"""Enqueue, and pausing queues."""

from __future__ import annotations

import pytest
from flask import Flask
from sqlalchemy import select

from webapp.core import enqueue as enqueueing
from webapp.core import job_spec
from webapp.db.engines import reading
from webapp.db.models import Job
from webapp.jobs import actions, job_detail, lifecycle, queue_actions


def enqueue(*commands: str, **fields: object) -> list[str]:
    return actions.enqueue([job_spec.parse({"command": command, **fields}) for command in commands], "person:test")


def job(job_id: str) -> Job:
    with reading() as session:
        found = job_detail.find(session, job_id)
    assert found is not None
    return found


@pytest.mark.usefixtures("app")
def test_a_job_without_a_time_is_pending_and_one_with_a_delay_is_scheduled() -> None:
    [now] = enqueue("true")
    [later] = enqueue("true", delay=60)
    assert job(now).state == "pending"
    assert job(later).state == "scheduled"
    assert 59_000_000 <= job(later).run_at - job(later).created_at <= 60_000_000


@pytest.mark.usefixtures("app")
def test_a_time_in_the_past_counts_as_now() -> None:
    [past] = enqueue("true", run_at="2001-01-01T00:00:00Z")
    assert (job(past).state, job(past).run_at) == ("pending", job(past).created_at)


@pytest.mark.postgresql
@pytest.mark.usefixtures("app")
def test_a_taken_id_is_refused_with_its_state_and_no_job_of_the_call_is_stored() -> None:
    enqueue("true", id="job1")
    with pytest.raises(job_spec.SpecError, match=r"id: 'job1' is already used by a pending job\."):
        actions.enqueue([job_spec.parse({"command": "true", "id": i}) for i in ("new", "job1")], "person:test")
    with reading() as session:
        assert list(session.scalars(select(Job.id))) == ["job1"]


@pytest.mark.postgresql
@pytest.mark.usefixtures("app")
def test_a_form_sent_twice_makes_one_job() -> None:
    spec = job_spec.parse({"command": "true"})
    first = actions.enqueue([spec], "person:test", form_key="k1")
    assert actions.enqueue([spec], "person:test", form_key="k1") == first
    assert actions.enqueue([spec], "person:test", form_key="k2") != first


@pytest.mark.usefixtures("app")
def test_a_queue_that_no_job_has_named_cannot_be_paused() -> None:
    with pytest.raises(lifecycle.NotFound, match="no such queue: 'mial'"):
        queue_actions.pause_queue("mial", "person:ana")
    assert queue_actions.pause_queue("default", "person:ana") is True
    assert queue_actions.pause_queue("default", "person:ana") is False
    assert queue_actions.resume_queue("default", "person:ana") is True


@pytest.mark.postgresql
def test_a_job_row_that_breaks_the_rules_is_refused_by_the_database_itself(app: Flask) -> None:
    from sqlalchemy.exc import IntegrityError

    from webapp.db.engines import writing

    [waiting] = enqueue("true")
    with pytest.raises(IntegrityError), writing() as session:
        session.query(Job).filter_by(id=waiting).update({"state": "processing"})


def _asks(label: str, queue: str = "default") -> job_spec.JobSpec:
    return job_spec.parse({"command": "true", "requires": label, "queue": queue})


def test_the_number_of_label_sets_per_queue_is_limited(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers and pages look through them one by one."""
    monkeypatch.setattr(enqueueing, "MOST_LABEL_SETS", 2)
    actions.enqueue([*map(_asks, "ab")], "person:ana")
    actions.enqueue([_asks("a")], "person:ana")
    with pytest.raises(job_spec.SpecError, match="already require 2 different sets of labels"):
        actions.enqueue([_asks("c")], "person:ana")
    actions.enqueue([_asks("c", "other")], "person:ana")
