"""Batches in the maintenance process: callbacks once for each generation, and retention of whole batches."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any, Optional

import pytest
from flask import Flask
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from sqlalchemy import delete, select

from tests.factories import change_job, make_job, make_jobs
from tests.worker_connection import worker_connection
from webapp.core import job_spec
from webapp.core.flow import batch_callbacks
from webapp.core.flow.batches import Batch, read
from webapp.core.settings import Settings
from webapp.core.storage.transaction import Connection
from webapp.db.engines import reading, writing
from webapp.db.models import Batch as BatchRow
from webapp.db.models import BatchCallback, Dependency, Event, Job
from webapp.jobs import actions, deletion
from webapp.jobs.flow import batches
from webapp.lib import clock
from worker.maintenance import process
from worker.maintenance.ended_batches import EndedBatches
from worker.maintenance.ended_jobs import Walk

ANA = "person:ana"
CALLBACKS = {"on_done": {"command": "echo done", "env": {"WHO": "ana"}}, "on_death": {"command": "echo died"}}
KEEP = Settings({"keep_completed": "1", "keep_dead": "1", "keep_cancelled": "1"})


def submit(name: str, number: int = 1, **more: Any) -> list[str]:
    specs = [job_spec.parse({"command": "true"}) for _ in range(number)]
    return actions.enqueue(specs, ANA, batch=read({"name": name, **CALLBACKS, **more}))


def end(job_id: str, state: str = "completed") -> None:
    """End a job as a worker's settle does."""
    change_job(job_id, state=state, finished_at=clock.now())


@pytest.fixture
def connection(app: Flask) -> Iterator[Connection]:
    one = worker_connection()
    yield one
    one.close()


def called(name: str) -> list[tuple[str, int, Optional[str]]]:
    with reading() as session:
        rows = session.execute(
            select(BatchCallback.event, BatchCallback.generation, Job.command)
            .outerjoin(Job, Job.id == BatchCallback.job_id)
            .where(BatchCallback.batch == name)
        )
        return sorted((event, generation, command) for event, generation, command in rows)


@pytest.mark.postgresql
def test_callbacks_follow_the_first_death_and_the_end(connection: Connection) -> None:
    one, two = submit("b", 2)
    batch_callbacks.decide(connection)
    assert called("b") == []
    end(one, "dead")
    batch_callbacks.decide(connection)
    assert called("b") == [("death", 1, "echo died")]
    end(two)
    for _ in range(2):
        batch_callbacks.decide(connection)
    assert called("b") == [("death", 1, "echo died"), ("done", 1, "echo done")]
    with reading() as session:
        job = session.scalars(select(Job).where(Job.command == "echo done")).one()
    assert job.created_by == "batch:b"
    assert json.loads(job.env or "") == {
        "WHO": "ana", "QUEUECTL_BATCH": "b", "QUEUECTL_BATCH_EVENT": "done", "QUEUECTL_BATCH_GENERATION": "1",
    }  # fmt: skip


def test_a_requeue_after_the_end_begins_the_next_generation(connection: Connection) -> None:
    [one] = submit("b")
    end(one, "dead")
    batch_callbacks.decide(connection)
    undo = actions.apply("requeue", [one], ANA).action_id
    actions.undo(undo, ANA)
    batch_callbacks.decide(connection)
    assert [key[:2] for key in called("b")] == [("death", 1), ("death", 2), ("done", 1), ("done", 2)]


def test_nothing_is_called_before_an_open_batch_is_closed_and_an_empty_one_ends(connection: Connection) -> None:
    [one] = submit("b", open=True)
    end(one, "dead")
    batches.create(Batch("empty", is_open=True, on_done=json.dumps({"command": "echo empty"})), ANA)
    batch_callbacks.decide(connection)
    assert called("b") == called("empty") == []
    for name in ("b", "empty"):
        batches.close(name, ANA)
    batch_callbacks.decide(connection)
    assert [key[:2] for key in called("b")] == [("death", 1), ("done", 1)]
    assert called("empty") == [("done", 1, "echo empty")]


def test_a_discarded_job_counts_as_ended(connection: Connection) -> None:
    one, two = submit("b", 2)
    end(one)
    actions.apply("discard", [two], ANA)
    batch_callbacks.decide(connection)
    assert [key[:2] for key in called("b")] == [("done", 1)]


def test_a_callback_that_cannot_be_enqueued_holds_up_nothing(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise job_spec.SpecError([job_spec.FieldError("requires", "has too many sets of labels.")])

    [one] = submit("b")
    end(one)
    monkeypatch.setattr("webapp.core.enqueue.store", refuse)
    batch_callbacks.decide(connection)
    with reading() as session:
        assert batches.find(session, "b").ended_at is not None
        event = session.scalars(select(Event).where(Event.verb == "callback_failed")).one()
    assert "too many sets of labels" in str(event.detail)


def test_the_maintenance_process_decides_at_its_ticks(app: Flask) -> None:
    from webapp.db import engines

    tick = process.without_supervisor(engines.database())
    [one] = submit("b")
    tick()
    end(one)
    tick()
    assert [key[:2] for key in called("b")] == [("done", 1)]


# --- any order -------------------------------------------------------------------------------------------------------

_names = (f"machine-{number}" for number in itertools.count())


class BatchMachine(RuleBasedStateMachine):
    """Jobs join, end and run again in any order, against a model of a few lines."""

    connection: Connection

    @initialize()
    def begin(self) -> None:
        self.name = next(_names)
        self.jobs: dict[str, str] = {}
        self.actions: list[int] = []
        self.forget()
        self.add()

    def forget(self) -> None:
        self.open, self.ended, self.generation = True, False, 1
        self.called: set[tuple[str, int]] = set()

    @rule()
    def add(self) -> None:
        try:
            ids = submit(self.name, 1, open=True)
        except job_spec.SpecError:
            assert not self.open
        else:
            assert self.open
            self.jobs.update(dict.fromkeys(ids, "pending"))

    @rule()
    def close(self) -> None:
        assert batches.close(self.name, ANA) == self.open
        self.open = False

    def pick(self, data: Any, *states: str) -> Optional[str]:
        found = sorted(job_id for job_id, state in self.jobs.items() if not states or state in states)
        return data.draw(st.sampled_from(found)) if found else None

    @rule(data=st.data(), state=st.sampled_from(["completed", "dead"]))
    def settle(self, data: Any, state: str) -> None:
        job_id = self.pick(data, "pending")
        if job_id is not None:
            end(job_id, state)
            self.jobs[job_id] = state

    @rule(data=st.data())
    def cancel(self, data: Any) -> None:
        job_id = self.pick(data, "pending")
        if job_id is not None:
            self.actions.append(actions.apply("cancel", [job_id], ANA).action_id)
            self.jobs[job_id] = "cancelled"

    @rule(data=st.data())
    def requeue(self, data: Any) -> None:
        job_id = self.pick(data, "completed", "dead", "cancelled")
        if job_id is not None:
            self.actions.append(actions.apply("requeue", [job_id], ANA).action_id)
            self.jobs[job_id] = "pending"
            self.reopen()

    def reopen(self) -> None:
        if any(generation == self.generation for _, generation in self.called):
            self.generation, self.ended = self.generation + 1, False

    @rule(data=st.data())
    @precondition(lambda self: self.actions)
    def undo(self, data: Any) -> None:
        try:
            actions.undo(data.draw(st.sampled_from(self.actions)), ANA)
        except actions.CannotUndo:
            return
        before = dict(self.jobs)
        with reading() as session:
            found = select(Job.id, Job.state).where(Job.id.in_(list(self.jobs)))
            self.jobs.update(dict(session.execute(found).tuples().all()))
        if any(before[job_id] == "cancelled" != state for job_id, state in self.jobs.items()):
            self.reopen()

    @rule(data=st.data())
    def discard(self, data: Any) -> None:
        job_id = self.pick(data)
        if job_id is not None:
            actions.apply("discard", [job_id], ANA)
            del self.jobs[job_id]

    @rule()
    def decide(self) -> None:
        batch_callbacks.decide(self.connection)
        if not self.open and not self.ended:
            if "dead" in self.jobs.values():
                self.called.add(("death", self.generation))
            if "pending" not in self.jobs.values():
                self.called.add(("done", self.generation))
                self.ended = True
        self.check()

    @rule()
    def prune(self) -> None:
        retain()
        if self.ended and "pending" not in self.jobs.values():
            self.jobs = {}
            self.forget()
            with writing() as session:  # its callbacks were other jobs, which stay
                session.execute(delete(Job).where(Job.created_by == f"batch:{self.name}"))
            self.add()
        self.check()

    def check(self) -> None:
        with reading() as session:
            row = session.get(BatchRow, self.name)
            assert row is not None
            assert (row.generation, row.ended_at is not None) == (self.generation, self.ended)
            jobs = session.scalars(select(Job).where(Job.created_by == f"batch:{self.name}")).all()
        assert {key[:2] for key in called(self.name)} == self.called
        made = [json.loads(job.env or "") for job in jobs]
        enqueued = [(env["QUEUECTL_BATCH_EVENT"], int(env["QUEUECTL_BATCH_GENERATION"])) for env in made]
        assert sorted(enqueued) == sorted(self.called)


def retain(days: float = 2.0) -> None:
    """A round of retention, some days later."""
    walk = EndedBatches(KEEP, 1.0)
    walk._now = clock.now() + round(days * clock.DAY)
    while walk.step():
        pass


@pytest.mark.postgresql
@pytest.mark.parametrize("examples", [8, pytest.param(150, marks=pytest.mark.full)])
def test_callbacks_happen_once_for_each_generation_whatever_people_do(connection: Connection, examples: int) -> None:
    class Machine(BatchMachine):
        pass

    Machine.connection = connection
    health = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    run_state_machine_as_test(  # type: ignore[no-untyped-call,unused-ignore]
        Machine,
        settings=settings(max_examples=examples, stateful_step_count=25, deadline=None, suppress_health_check=health),
    )


# --- retention -------------------------------------------------------------------------------------------------------


@pytest.mark.postgresql
def test_a_batch_is_deleted_as_a_whole_when_each_of_its_jobs_may_go(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deletion, "JOBS", 2)
    for name in ("old", "young"):
        for job_id in submit(name, 5):
            end(job_id)
    change_job(job_id, finished_at=clock.now() + 5 * clock.DAY)
    batch_callbacks.decide(connection)
    walk = Walk("completed", clock.now() + clock.DAY, 1.0)
    while walk.delete_jobs()[1]:
        pass
    with reading() as session:
        assert len(session.scalars(select(Job.seq).where(Job.batch.is_not(None))).all()) == 10
    retain()
    with reading() as session:
        assert set(session.scalars(select(BatchRow.name))) == {"young"}
        assert len(session.scalars(select(Job.seq).where(Job.batch == "young")).all()) == 5
        assert session.scalar(select(Job.seq).where(Job.batch == "old")) is None


def test_a_batch_that_has_not_ended_keeps_its_jobs(connection: Connection) -> None:
    one, _two = submit("b", 2)
    end(one)
    batch_callbacks.decide(connection)
    retain()
    with reading() as session:
        assert batches.progress(session, "b").total == 2


def test_a_full_database_breaks_ended_batches_only(connection: Connection) -> None:
    ended_one, running = submit("ended", 1)[0], submit("running", 2)[0]
    end(ended_one)
    end(running)
    batch_callbacks.decide(connection)
    walk = Walk("completed", 2**62, 1.0, breaks_batches=True)
    while walk.delete_jobs()[1]:
        pass
    with reading() as session:
        left = set(session.scalars(select(Job.id)))
    assert running in left
    assert ended_one not in left


@pytest.mark.postgresql
def test_retention_keeps_a_parent_while_a_blocked_job_waits_for_it(app: Flask) -> None:
    make_jobs([{"state": "dead", "id": f"p{number}", "finished_at": number + 1} for number in range(3)])
    actions.enqueue([job_spec.parse({"command": "true", "id": "child", "after": ["p1"]})], ANA)
    make_job("completed", id="told", followed=0, finished_at=1)

    def round_of(state: str) -> None:
        walk = Walk(state, clock.now(), 1.0, mark="test")
        while walk.delete_jobs()[1]:
            pass

    round_of("dead")
    with reading() as session:
        assert set(session.scalars(select(Job.id))) == {"p1", "child", "told"}
    with writing() as session:
        session.execute(delete(Dependency))
    round_of("dead")  # the mark did not pass it
    with reading() as session:
        assert set(session.scalars(select(Job.id))) == {"child", "told"}
