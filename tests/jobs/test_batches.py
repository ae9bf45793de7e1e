"""Batches: who may join, their progress, and that an index answers each question."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import event, text
from sqlalchemy.orm import Session

from tests.factories import change_job, make_job, make_jobs
from webapp.core import job_spec
from webapp.core.flow.batches import Batch, read
from webapp.core.job_spec import SpecError
from webapp.db import engines
from webapp.db.engines import reading
from webapp.jobs import actions, search
from webapp.jobs.flow import batches
from webapp.jobs.lifecycle import NotFound
from webapp.lib import clock

ANA = "person:ana"
DONE = json.dumps({"command": "echo done"})


def submit(name: str, number: int = 1, **more: Any) -> list[str]:
    specs = [job_spec.parse({"command": f"echo {place}"}) for place in range(number)]
    return actions.enqueue(specs, ANA, batch=Batch(name, **more))


def test_jobs_join_an_open_batch_until_it_is_closed(app: Flask) -> None:
    submit("b", 2, is_open=True)
    submit("b", 1, on_done=DONE)
    assert batches.close("b", ANA)
    assert not batches.close("b", ANA)
    with pytest.raises(SpecError, match="the batch 'b' was closed at") as caught:
        submit("b")
    assert caught.value.errors[0].field == "batch"
    with reading() as session:
        assert batches.progress(session, "b").counts == {"pending": 3}
        assert batches.find(session, "b").on_done == DONE
    with pytest.raises(NotFound, match="no such batch"):
        batches.close("none", ANA)


def test_a_batch_is_closed_with_its_first_call_unless_that_leaves_it_open(app: Flask) -> None:
    submit("b")
    with pytest.raises(SpecError):
        submit("b", is_open=True)


def test_an_open_batch_keeps_its_callbacks(app: Flask) -> None:
    submit("b", is_open=True, on_done=DONE)
    with pytest.raises(SpecError, match="on_done: the batch 'b' already has a different one"):
        submit("b", on_done=json.dumps({"command": "echo other"}))
    submit("b", on_done=DONE)


def test_a_call_that_is_repeated_does_not_meet_its_own_batch(app: Flask) -> None:
    specs = [job_spec.parse({"command": "true", "id": "one"})]
    for _ in range(2):
        actions.enqueue(specs, ANA, form_key="k" * 20, batch=Batch("b"))
    found: dict[str, str] = {}
    from webapp.core.enqueue import enqueue

    assert enqueue(engines.database(), specs, ANA, batch=Batch("b"), found=found) == ["one"]
    assert found == {"one": "pending"}


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (5, "batch"),
        ("no name", "batch"),
        ({"name": "b", "open": "yes"}, "open"),
        ({"name": "b", "color": 1}, "color"),
        ({"name": "b", "on_done": {"queue": "x"}}, "on_done.command"),
        ({"name": "b", "on_death": {"command": "x", "id": "same"}}, "on_death.id"),
        ({"name": "b", "on_death": "x"}, "on_death"),
    ],
)
def test_a_wrong_batch_names_the_field(data: Any, field: str) -> None:
    with pytest.raises(SpecError) as caught:
        read(data)
    assert [error.field for error in caught.value.errors] == [field]


@pytest.mark.postgresql
def test_progress_and_failures(app: Flask) -> None:
    now = clock.now()
    common = {"batch": "b", "queue": "default"}
    make_jobs([{"state": "completed", "finished_at": now - 60 * clock.SECOND, **common} for _ in range(4)])
    make_jobs([{"state": "dead", "error_key": key, "last_error": f"exit {key}", **common} for key in ("1", "2", "2")])
    make_jobs([{"state": state, **common} for state in ("blocked", "pending", "cancelled")])
    make_job()
    with reading() as session:
        progress = batches.progress(session, "b")
        groups, whole = batches.failures(session, "b")
    assert (progress.total, progress.ended, progress.failed, progress.left) == (10, 8, 3, 2)
    assert progress.rate == pytest.approx(8, rel=0.2)  # 8 jobs in the minute since its first one ended
    assert progress.seconds_left == pytest.approx(15, rel=0.2)
    assert [(group.key, group.number) for group in groups] == [("2", 2), ("1", 1)]
    assert whole


@pytest.mark.postgresql
def test_counts_of_a_large_batch_stop(app: Flask) -> None:
    submit("b", 5)
    with reading() as session:
        progress = batches.progress(session, "b", 3)
    assert (progress.total, progress.capped) == (3, True)


@pytest.mark.postgresql
def test_a_requeue_of_the_dead_finds_them_by_the_batch(app: Flask) -> None:
    one = submit("b", 2)[0]
    for job_id in (one, make_job("dead").id):
        change_job(job_id, state="dead", finished_at=5)
    result = actions.apply("requeue", search.parse("state:dead batch:b"), ANA)
    assert result.moved == 1


@pytest.mark.only("sqlite")
def test_they_are_found_by_an_index(app: Flask) -> None:
    submit("b", 60)
    plans: list[str] = []
    with engines.read_engine().connect() as connection:
        session = Session(connection)
        if not engines.is_sqlite():
            session.execute(text("SET LOCAL enable_seqscan = off"))

        def see(_c: object, _cursor: object, statement: str, parameters: object, *_: object) -> None:
            if "FROM jobs" in statement and "EXPLAIN" not in statement:
                explain = "EXPLAIN QUERY PLAN " if engines.is_sqlite() else "EXPLAIN "
                rows = connection.exec_driver_sql(explain + statement, parameters).fetchall()  # type: ignore[arg-type]
                plans.append("\n".join(str(row[-1]) for row in rows))

        event.listen(connection, "before_cursor_execute", see)
        batches.page_of_jobs(session, "b", 0, 50)
        batches.progress(session, "b")
        batches.failures(session, "b")
    assert len(plans) == 3
    for plan in plans:
        assert "ix_jobs_batch" in plan
        assert "SCAN jobs" not in plan
