"""Undo of bulk actions: which jobs it puts back, and which it leaves alone."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select, text

from tests.factories import change_job, make_job
from webapp.db import audit
from webapp.db.engines import reading
from webapp.db.models import Event, Job
from webapp.jobs import actions
from webapp.jobs.filters import JobFilter
from webapp.jobs.lifecycle import can_be_put_back

ANA = "person:ana"
pytestmark = pytest.mark.usefixtures("app")


def row(job_id: str) -> Any:
    with reading() as session:
        one = session.scalar(select(Job).where(Job.id == job_id))
    assert one is not None
    return one.state, one.run_at, one.failures, one.finished_at


def undo(act_id: int) -> actions.Result:
    return actions.undo(act_id, ANA)


@pytest.mark.postgresql
@pytest.mark.parametrize(
    ("verb", "states"),
    [
        ("requeue", ("dead", "cancelled", "completed")),
        ("cancel", ("scheduled", "pending", "failed")),
        ("run_now", ("scheduled", "failed")),
    ],
)
def test_undo_puts_back_state_time_and_failures(verb: str, states: tuple[str, ...]) -> None:
    jobs = [make_job(state, failures=3) for state in states]
    before = [row(job.id) for job in jobs]
    act = actions.apply(verb, JobFilter(), ANA)
    assert act.moved == len(states)
    assert all(row(job.id)[0] not in states for job in jobs)
    assert undo(act.action_id).moved == len(states)
    assert [row(job.id) for job in jobs] == before


@pytest.mark.postgresql
def test_undo_goes_batch_by_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actions, "BATCH", 2)
    jobs = [make_job("dead") for _ in range(5)]
    act = actions.apply("requeue", JobFilter(state="dead"), ANA)
    assert undo(act.action_id).moved == 5
    assert {row(job.id)[0] for job in jobs} == {"dead"}


@pytest.mark.postgresql
def test_a_claimed_job_is_not_put_back_even_when_it_is_pending_again() -> None:
    claimed, untouched = make_job("dead"), make_job("dead")
    act = actions.apply("requeue", JobFilter(state="dead"), ANA)
    change_job(claimed.id, attempts=claimed.attempts + 1)  # claimed, and handed back by a worker that shut down
    assert undo(act.action_id).moved == 1
    assert (row(claimed.id)[0], row(untouched.id)[0]) == ("pending", "dead")


def test_a_job_that_a_user_moved_since_is_not_put_back() -> None:
    mine, theirs = make_job("dead"), make_job("dead")
    act = actions.apply("requeue", JobFilter(state="dead"), ANA)
    actions.apply("cancel", [theirs.id], "person:ben")
    actions.apply("requeue", [theirs.id], "person:ben")  # pending again, but by Ben
    assert undo(act.action_id).moved == 1
    assert (row(mine.id)[0], row(theirs.id)[0]) == ("dead", "pending")


def test_of_two_actions_on_a_job_only_the_later_one_can_be_undone() -> None:
    job = make_job("dead")
    first = actions.apply("requeue", JobFilter(state="dead"), ANA)
    second = actions.apply("cancel", JobFilter(state="pending"), ANA)
    with pytest.raises(actions.CannotUndo, match="Nothing to undo"):
        actions.undo(first.action_id, ANA)
    assert undo(second.action_id).moved == 1
    assert row(job.id)[0] == "pending"
    with pytest.raises(actions.CannotUndo):
        actions.undo(second.action_id, ANA)


def test_a_discard_and_an_undo_cannot_be_undone() -> None:
    make_job("dead")
    kept = make_job("completed")
    discarded = actions.apply("discard", JobFilter(state="dead"), ANA)
    with pytest.raises(actions.CannotUndo, match="discard"):
        actions.undo(discarded.action_id, ANA)
    requeued = actions.apply("requeue", JobFilter(state="completed"), ANA)
    back = undo(requeued.action_id)
    with pytest.raises(actions.CannotUndo, match="undo"):
        actions.undo(back.action_id, ANA)
    assert row(kept.id)[0] == "completed"


def test_the_undo_of_a_running_action_stops_it_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actions, "BATCH", 2)
    jobs = [make_job("dead") for _ in range(5)]
    act_id = actions.start("requeue", JobFilter(state="dead"), ANA)
    actions.advance(act_id)
    assert undo(act_id).moved == 2
    assert actions.resume(act_id).moved == 2  # the process that runs it finds it stopped
    assert {row(job.id)[0] for job in jobs} == {"dead"}


def test_a_stopped_action_moves_no_more_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actions, "BATCH", 2)
    for _ in range(3):
        make_job("dead")
    act_id = actions.start("requeue", JobFilter(state="dead"), ANA)
    actions.advance(act_id)
    assert actions.stop(act_id, ANA)
    assert not actions.stop(act_id, ANA)
    assert actions.resume(act_id).moved == 2


def test_each_job_has_an_event_for_the_undo_and_the_audit_trail_has_one_line() -> None:
    job = make_job("dead")
    act = actions.apply("requeue", JobFilter(state="dead"), ANA)
    undo(act.action_id)
    with reading() as session:
        assert list(session.scalars(select(Event.verb).where(Event.job_seq == job.seq))) == ["requeue", "undo"]
        whole = audit.AuditFilter(subject=f"act:{act.action_id}")
        assert [line.verb for line in audit.page(session, whole, limit=5)] == ["undo", "requeue"]


@pytest.mark.only("sqlite")  # with so few rows, PostgreSQL may read them all
def test_the_jobs_of_an_undo_are_found_by_an_index(app: Flask) -> None:
    make_job("dead")
    act = actions.apply("requeue", JobFilter(state="dead"), ANA)
    there = can_be_put_back("requeue", act.action_id, "pending")
    statement = select(Job.seq).where(there, Job.seq > 5).order_by(Job.seq).limit(actions.BATCH)
    with reading() as session:
        bound = statement.compile(session.get_bind(), compile_kwargs={"literal_binds": True})
        plan = "\n".join(str(row[-1]) for row in session.execute(text(f"EXPLAIN QUERY PLAN {bound}")))
    assert "ix_jobs_act" in plan
    assert "TEMP B-TREE" not in plan
