"""Every verb in any order against a model: the database must match a few lines of plain Python."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Callable, Optional
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select, update
from sqlalchemy.engine import make_url

from tests.databases import execute
from tests.worker_connection import worker_connection
from webapp.config import Config
from webapp.core import job_spec
from webapp.core.labels import LabelSet
from webapp.core.settings import Settings
from webapp.core.storage import postgresql, schema
from webapp.db import engines as db
from webapp.db.application import create_core
from webapp.db.engines import reading, writing
from webapp.db.models import Attempt, Job, Worker
from webapp.jobs import actions
from webapp.lib import clock
from worker.attempt import AttemptResult, Claim
from worker.loop.claims import Claims
from worker.maintenance import recovery

START = clock.parse_iso("2030-01-01T00:00:00Z")
_CLOCK = (
    "CREATE SCHEMA machine",
    "CREATE TABLE machine.clock (now bigint)",
    "INSERT INTO machine.clock VALUES (0)",
)
WAIT = 60.0  # seconds of every backoff here
SETTINGS = Settings()
_ENDS = st.sampled_from(["completed", "failed", "failed", "released", "cancelled"])


@dataclass
class Model:
    """The expected state of one job."""

    seq: int
    id: str
    priority: int
    max_retries: int
    state: str
    run_at: int
    attempts: int = 0
    failures: int = 0
    losses: int = 0
    lone_losses: int = 0
    holder: Optional[str] = None
    token: Optional[str] = None
    asked: bool = False
    ended: list[str] = field(default_factory=list)

    def end(self, how: str, state: str, *, run_at: Optional[int] = None) -> None:
        self.ended.append(how)
        self.state, self.holder, self.token, self.asked = state, None, None, False
        if run_at is not None:
            self.run_at = run_at


class Lifecycle(RuleBasedStateMachine):
    jobs = Bundle("jobs")

    fresh_config: Callable[[], Config]  # makes an empty database

    def __init__(self) -> None:
        super().__init__()
        config = self.fresh_config()
        self.server = None if config.is_sqlite else make_url(config.database_url or "")
        self.context = create_core(config).app_context()
        self.context.push()
        self.patches = ExitStack()
        self.patches.enter_context(mock.patch.object(clock, "now", side_effect=lambda: self.time))
        if self.server is not None:  # its own clock decides what is due
            for module in (schema, postgresql):
                self.patches.enter_context(mock.patch.object(module, "SERVER_TIME", "SELECT now FROM machine.clock"))
            execute(self.server, *_CLOCK)
        self.set_time(START)
        self.model: dict[str, Model] = {}
        self.workers: dict[str, Claims] = {}
        self.connections = [worker_connection() for _ in range(2)]
        self.number = 0
        self.submitted = 0
        self.taken: list[tuple[str, Claim]] = []

    def teardown(self) -> None:
        self.patches.close()
        for connection in self.connections:
            connection.close()
        db.disconnect()
        self.context.pop()
        if self.server is not None:
            execute(self.server, "DROP SCHEMA machine CASCADE")

    def set_time(self, time: int) -> None:
        self.time = time
        if self.server is not None:
            execute(self.server, f"UPDATE machine.clock SET now = {time}")

    # --- clock and processes ---

    @initialize()
    def two_workers(self) -> None:
        for place in range(2):
            self._start(place)

    def _start(self, place: int) -> None:
        self.number += 1
        worker_id = f"{place}-{self.number}"
        with writing() as session:
            session.add(
                Worker(
                    id=worker_id, supervisor_id="s", host="elsewhere", pid=1, boot_id="b", version="0", slots=9,
                    state="running", requested_state="run", started_at=self.time, heartbeat=0, seen_at=self.time,
                    jobs_completed=0, jobs_failed=0,
                )
            )  # fmt: skip
        self.workers[worker_id] = Claims(self.connections[place], worker_id)

    @rule(seconds=st.integers(1, 200))
    def time_passes(self, seconds: int) -> None:
        self.set_time(self.time + clock.seconds(seconds))

    # --- users ---

    @rule(
        target=jobs, priority=st.integers(-2, 2), max_retries=st.integers(0, 2), delay=st.sampled_from([0, 0, 30, 90])
    )
    def enqueue(self, priority: int, max_retries: int, delay: int) -> str:
        self.submitted += 1
        spec = {
            "id": f"job{self.submitted}",
            "command": "true",
            "priority": priority,
            "max_retries": max_retries,
            "delay": delay,
        }
        [job_id] = actions.enqueue([job_spec.parse(spec)], "person:test")
        state = "scheduled" if delay else "pending"
        run_at = self.time + clock.seconds(delay)
        self.model[job_id] = Model(self.submitted, job_id, priority, max_retries, state, run_at)
        return job_id

    @rule(job_id=jobs)
    def cancel(self, job_id: str) -> None:
        self.cancel_job(job_id)

    def cancel_job(self, job_id: str) -> None:
        one = self.model.get(job_id)
        outcome = actions.apply("cancel", [job_id], "person:test").outcome
        if one is not None and one.state in {"scheduled", "pending", "failed"}:
            one.state = "cancelled"
            assert outcome.moved == [job_id]
        elif one is not None and one.state == "processing" and not one.asked:
            one.asked = True
            assert outcome.asked == [job_id]
        else:
            assert outcome.refused == {job_id: one.state if one else None}

    @precondition(lambda self: self.running())
    @rule(pick=st.integers(0, 8))
    def cancel_what_runs(self, pick: int) -> None:
        running = self.running()
        self.cancel_job(running[pick % len(running)][1].id)

    @rule(job_id=jobs)
    def requeue(self, job_id: str) -> None:
        one = self.model.get(job_id)
        outcome = actions.apply("requeue", [job_id], "person:test").outcome
        if one is not None and one.state in {"dead", "cancelled", "completed"}:
            one.state, one.run_at, one.failures, one.losses, one.lone_losses = "pending", self.time, 0, 0, 0
            assert outcome.moved == [job_id]
        else:
            assert outcome.refused == {job_id: one.state if one else None}

    @rule(job_id=jobs)
    def run_now(self, job_id: str) -> None:
        one = self.model.get(job_id)
        outcome = actions.apply("run_now", [job_id], "person:test").outcome
        if one is not None and one.state in {"scheduled", "failed"}:
            one.state, one.run_at = "pending", self.time
            assert outcome.moved == [job_id]
        else:
            assert outcome.refused == {job_id: one.state if one else None}

    @rule(job_id=jobs)
    def discard(self, job_id: str) -> None:
        one = self.model.get(job_id)
        outcome = actions.apply("discard", [job_id], "person:test").outcome
        if one is not None and one.state != "processing":
            del self.model[job_id]
            assert outcome.moved == [job_id]
        else:
            assert outcome.refused == {job_id: one.state if one else None}

    # --- workers ---

    @rule(place=st.integers(0, 1), n=st.integers(1, 3), lone=st.booleans())
    def claim(self, place: int, n: int, lone: bool) -> None:
        worker_id = [key for key in self.workers if key.startswith(f"{place}-")][-1]
        with self.workers[worker_id] as turn:
            turn.promote()
            taken = turn.claim([LabelSet("default")], n, SETTINGS, run_exclusively=lone)
        for one in self.model.values():
            if one.state in {"scheduled", "failed"} and one.run_at <= self.time:
                one.state = "pending"
        waiting = [one for one in self.model.values() if one.state == "pending" and (one.losses > 0) == lone]
        expected = sorted(waiting, key=lambda one: (-one.priority, one.run_at, one.seq))[:n]
        assert [claim.id for claim in taken] == [one.id for one in expected]
        for one, claim in zip(expected, taken):
            one.state, one.holder, one.token = "processing", worker_id, claim.token
            one.attempts += 1
            assert claim.attempt == one.attempts
            assert claim.run_exclusively == lone
            self.taken.append((worker_id, claim))

    def running(self) -> list[tuple[str, Claim]]:
        """The claims that their workers still hold."""
        tokens = {one.token for one in self.model.values()}
        return [held for held in self.taken if held[1].token in tokens]

    @precondition(lambda self: self.running())
    @rule(pick=st.integers(0, 8), kind=_ENDS)
    def settle_what_runs(self, pick: int, kind: str) -> None:
        running = self.running()
        self.settle(running[pick % len(running)], kind)

    @precondition(lambda self: self.taken)
    @rule(pick=st.integers(0, 99), kind=_ENDS)
    def settle_any_claim_old_or_new(self, pick: int, kind: str) -> None:
        self.settle(self.taken[pick % len(self.taken)], kind)

    def settle(self, held: tuple[str, Claim], kind: str) -> None:
        worker_id, claim = held
        one = self.model.get(claim.id)
        exit_code = 0 if kind == "completed" else 1
        ended = AttemptResult(claim, kind, "exit", self.time, self.time, exit_code=exit_code, error=None)
        with self.workers[worker_id] as turn:
            state = turn.settle(ended, SETTINGS, WAIT)
        if one is None or one.token != claim.token:
            assert state is None
            return
        if kind == "completed":
            one.end(kind, "completed")
        elif kind == "cancelled" or (kind == "released" and one.asked):
            one.end(kind, "cancelled")
        elif kind == "released":
            one.end(kind, "pending")
        elif claim.failures >= one.max_retries:
            one.failures += 1
            one.end(kind, "dead")
        elif one.asked:
            one.end(kind, "cancelled")
        else:
            one.failures += 1
            one.end(kind, "failed", run_at=self.time + clock.seconds(WAIT))
        assert state == one.state

    @rule(place=st.integers(0, 1))
    def worker_dies(self, place: int) -> None:
        worker_id = [key for key in self.workers if key.startswith(f"{place}-")][-1]
        with writing() as session:
            session.execute(update(Worker).where(Worker.id == worker_id).values(state="expired", stopped_at=self.time))
        held = [one for one in self.model.values() if one.holder == worker_id]
        assert recovery.recover_orphans(self.connections[place]) == len(held)
        for one in held:
            one.lone_losses += one.losses > 0
            one.losses += 1
            poison = one.lone_losses >= recovery.POISON_LIMIT
            one.end("lost", "cancelled" if one.asked else "dead" if poison else "pending")
        self._start(place)

    # --- what must always hold ---

    @invariant()
    def the_database_says_what_the_model_says(self) -> None:
        with reading() as session:
            rows = {job.id: job for job in session.scalars(select(Job))}
            ended = session.execute(
                select(Job.id, Attempt.state).join(Job, Job.seq == Attempt.job_seq).order_by(Attempt.number)
            ).all()
        assert rows.keys() == self.model.keys()
        for job_id, one in self.model.items():
            row = rows[job_id]
            assert (row.state, row.attempts, row.failures, row.losses, row.lone_losses) == (
                one.state, one.attempts, one.failures, one.losses, one.lone_losses,
            )  # fmt: skip
            assert (row.worker_id, row.token, row.cancel_requested_at is not None) == (one.holder, one.token, one.asked)
            assert row.state not in {"scheduled", "pending", "failed"} or row.run_at == one.run_at
            assert [attempt.state for attempt in ended if attempt.id == job_id] == one.ended
            assert len(one.ended) == one.attempts - (one.state == "processing")


@pytest.mark.postgresql
@pytest.mark.parametrize("examples", [8, pytest.param(25, marks=pytest.mark.full)])
def test_the_database_matches_the_model(
    fresh_config: Callable[[], Config], monkeypatch: pytest.MonkeyPatch, examples: int
) -> None:
    monkeypatch.setattr(Lifecycle, "fresh_config", staticmethod(fresh_config), raising=False)
    run_state_machine_as_test(  # type: ignore[no-untyped-call,unused-ignore]
        Lifecycle,
        settings=settings(
            max_examples=examples, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
