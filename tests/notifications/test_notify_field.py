"""The field `notify` of a job: which channels get a message when it ends."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask
from sqlalchemy import delete, select

from tests.notifications.factories import make_channel
from webapp.core import enqueue, job_spec
from webapp.core.job_spec import JobSpec, SpecError
from webapp.db.engines import database, reading, writing
from webapp.db.models import Channel, Job, JobWatch
from webapp.schedules import actions as schedule_actions
from webapp.schedules import spec as schedule_spec

ACTOR = "person:ana"


def watched() -> list[tuple[str, str, str]]:
    with reading() as session:
        rows = select(Job.id, Channel.name, JobWatch.created_by).join(JobWatch, JobWatch.job_seq == Job.seq)
        rows = rows.join(Channel, Channel.id == JobWatch.channel_id).order_by(Job.seq, Channel.name)
        return list(session.execute(rows).tuples())


def spec(job_id: str, *notify: str) -> JobSpec:
    return job_spec.parse({"id": job_id, "command": "true", "notify": list(notify)})


@pytest.mark.parametrize(
    ("value", "names"),
    [("ops", ("ops",)), ("ops, ana", ("ops", "ana")), (["b", "a", "b"], ("b", "a")), ([], ()), (None, ()), ("", ())],
)
def test_channels_are_a_list_or_a_text(value: Any, names: tuple[str, ...]) -> None:
    assert job_spec.parse({"command": "true", "notify": value}).notify == names


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (5, "expected names of channels"),
        (["-x"], "'-x' is not a channel"),
        ([f"c{n}" for n in range(11)], "at most 10"),
    ],
)
def test_a_wrong_channel_is_refused(value: Any, words: str) -> None:
    with pytest.raises(SpecError, match=words) as refused:
        job_spec.parse({"command": "true", "notify": value})
    assert [error.field for error in refused.value.errors] == ["notify"]


@pytest.mark.postgresql
def test_channels_are_stored_with_the_jobs_or_nothing_is(app: Flask) -> None:
    for name in ("ops", "ana"):
        make_channel(name)
    enqueue.enqueue(database(), [spec("a", "ops", "ana"), spec("b"), spec("c", "ana")], ACTOR)
    assert watched() == [("a", "ana", ACTOR), ("a", "ops", ACTOR), ("c", "ana", ACTOR)]
    with pytest.raises(SpecError, match="no such channel: 'none'") as refused:
        enqueue.enqueue(database(), [spec("d", "ops"), spec("e", "none")], ACTOR)
    assert [(error.field, error.place) for error in refused.value.errors] == [("notify", 1)]
    with reading() as session:
        assert session.scalars(select(Job.id).order_by(Job.seq)).all() == ["a", "b", "c"]


def test_a_job_that_was_there_is_left_as_it_is(app: Flask) -> None:
    make_channel()
    enqueue.enqueue(database(), [spec("a")], ACTOR)
    enqueue.enqueue(database(), [spec("a", "ops"), spec("b", "ops")], ACTOR, found={})
    assert [job_id for job_id, *_ in watched()] == ["b"]
    for _ in range(2):
        enqueue.enqueue(database(), [spec("c", "ops")], ACTOR, form_key="form")
    assert [job_id for job_id, *_ in watched()] == ["b", "c"]


def test_a_schedule_runs_although_its_channel_is_gone(app: Flask) -> None:
    job = {"command": "true", "notify": ["ops"]}
    nightly = schedule_spec.parse({"name": "nightly", "every": "1h", "overlap": "allow", "job": job})
    with pytest.raises(SpecError) as refused:
        schedule_actions.add(nightly, ACTOR)
    assert [error.field for error in refused.value.errors] == ["job.notify"]
    make_channel()
    schedule_actions.add(nightly, ACTOR)
    assert schedule_spec.to_json(nightly)["job"] == job
    first = schedule_actions.run_now("nightly", ACTOR)
    with writing() as session:
        session.execute(delete(Channel))
    second = schedule_actions.run_now("nightly", ACTOR)
    make_channel()
    assert watched() == []
    with reading() as session:
        assert session.scalars(select(Job.id).order_by(Job.seq)).all() == [first, second]
