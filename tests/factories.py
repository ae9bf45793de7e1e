"""Rows written by hand, as the worker would leave them: for tests and pages that need a past without running one.

Each function commits and returns the row. What is not named gets a value that a real run would give, so that the
tables' checks hold.
"""

from __future__ import annotations

import itertools
import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Optional

from sqlalchemy import select, text, update

from webapp.core.states import TERMINAL
from webapp.db.engines import writing
from webapp.db.models import Attempt, Event, Job, LabelSetRow, OutputChunk, Queue, Supervisor, User, Worker
from webapp.lib import clock
from webapp.lib.ids import new_job_id

_numbers = itertools.count(1)


def make_queue(name: str = "default", *, paused_by: Optional[str] = None) -> Queue:
    """A new or existing queue; with `paused_by`, paused now."""
    with writing() as session:
        queue = session.get(Queue, name)
        if queue is None:
            queue = Queue(name=name)
            session.add(queue)
        queue.paused_at = clock.now() if paused_by else None
        queue.paused_by = paused_by
    return queue


def make_job(state: str = "pending", **values: Any) -> Job:
    """A job in any state: its worker, token and times follow from the state unless they are given."""
    return make_jobs([{"state": state, **values}])[0]


def make_jobs(many: Sequence[Mapping[str, Any]]) -> list[Job]:
    """Jobs as `make_job` makes them, in one transaction."""
    jobs = [Job(**_job_values(**values)) for values in many]
    with writing() as session:
        for name in {job.queue for job in jobs}:
            if session.get(Queue, name) is None:
                session.add(Queue(name=name))
        session.flush()
        for label_set in {(job.queue, job.requires) for job in jobs if job.requires}:
            if session.get(LabelSetRow, label_set) is None:
                session.add(LabelSetRow(queue=label_set[0], requires=label_set[1]))
        session.flush()
        session.add_all(jobs)
    return jobs


def _job_values(state: str = "pending", **values: Any) -> dict[str, Any]:
    now = clock.now()
    made: dict[str, Any] = {
        "id": new_job_id(),
        "command": "echo hello",
        "queue": "default",
        "priority": 0,
        "state": state,
        "run_at": now + clock.seconds(300) if state in {"scheduled", "failed"} else now,
        "created_at": now - clock.seconds(60),
        "created_by": "person:ana",
        "changed_at": now,
        "attempts": 0 if state in {"scheduled", "pending", "cancelled"} else 1,
        "failures": {"failed": 1, "dead": 1}.get(state, 0),
    }
    if state == "processing":
        made.update(worker_id="a-worker", token=secrets.token_hex(8), started_at=now - clock.seconds(5))
    if state in TERMINAL:
        made["finished_at"] = now
    if state in {"completed", "failed", "dead"}:
        made.update(started_at=now - clock.seconds(2), exit_code=0 if state == "completed" else 1)
    if state in {"failed", "dead"}:
        made.update(last_error="exit code 1", error_key="exit:1")
    made.update(values)
    return made


def make_attempt(job: Job, number: Optional[int] = None, state: str = "failed", **values: Any) -> Attempt:
    """An ended attempt of a job; without a number, the next one that has no row yet."""
    now = clock.now()
    with writing() as session:
        if number is None:
            taken = session.scalars(select(Attempt.number).where(Attempt.job_seq == job.seq)).all()
            number = max(taken, default=0) + 1
        made: dict[str, Any] = {
            "job_seq": job.seq,
            "number": number,
            "state": state,
            "reason": {"completed": "exit", "failed": "exit"}.get(state, state),
            "error": None if state == "completed" else "exit code 1",
            "error_key": None if state == "completed" else "exit:1",
            "worker_id": "a-worker",
            "started_at": now - clock.seconds(2),
            "finished_at": now,
            "exit_code": {"completed": 0, "failed": 1}.get(state),
            "cpu_time": clock.seconds(0.4),
            "peak_memory": 12 * 1024 * 1024,
            "output": b"",
            "output_cut": None,
            "output_dropped": 0,
        }
        made.update(values)
        made.setdefault("output_runs", str(len(made["output"])))
        attempt = Attempt(**made)
        session.add(attempt)
    return attempt


def make_chunk(job: Job, data: bytes, *, position: int = 0, runs: Optional[str] = None) -> OutputChunk:
    """Live output of the attempt that a processing job is in."""
    with writing() as session:
        chunk = OutputChunk(
            job_seq=job.seq, attempt=job.attempts, position=position, data=data, runs=runs or str(len(data))
        )
        session.add(chunk)
    return chunk


def make_event(verb: str, actor: str, subject: str, *, job: Optional[Job] = None, **detail: Any) -> Event:
    with writing() as session:
        event = Event(
            at=clock.now(),
            verb=verb,
            actor=actor,
            subject=subject,
            job_seq=job.seq if job else None,
            detail=json.dumps(detail) if detail else None,
        )
        session.add(event)
    return event


def make_worker(**values: Any) -> Worker:
    """A running worker that was seen just now."""
    now = clock.now()
    number = next(_numbers)
    made: dict[str, Any] = {
        "id": f"worker-{number}-{secrets.token_hex(3)}",
        "supervisor_id": "a-supervisor",
        "host": "a-host",
        "pid": 1000 + number,
        "pid_started": None,
        "boot_id": "a-boot",
        "version": "0.1.0",
        "slots": 1,
        "queues": None,
        "state": "running",
        "requested_state": "run",
        "started_at": now - clock.seconds(3600),
        "stopped_at": None,
        "heartbeat": 1,
        "seen_at": now,
        "jobs_completed": 0,
        "jobs_failed": 0,
    }
    made.update(values)
    with writing() as session:
        worker = Worker(**made)
        session.add(worker)
    return worker


def make_supervisor(**values: Any) -> Supervisor:
    """A supervisor that was seen just now. `make_worker(supervisor_id=…)` adds its workers."""
    now = clock.now()
    number = next(_numbers)
    made: dict[str, Any] = {
        "id": f"supervisor-{number}-{secrets.token_hex(3)}",
        "host": "a-host",
        "pid": 500 + number,
        "version": "0.1.0",
        "slots": 1,
        "queues": None,
        "wanted": 1,
        "started_at": now - clock.seconds(3600),
        "stopped_at": None,
        "seen_at": now,
    }
    made.update(values)
    with writing() as session:
        supervisor = Supervisor(**made)
        session.add(supervisor)
    return supervisor


def make_user(name: str = "ana", role: str = "admin", password_hash: str = "no password fits") -> User:
    """A user without a valid password. `users.add` creates one with a password, and is slower."""
    with writing() as session:
        user = User(
            name=name,
            role=role,
            password_hash=password_hash,
            created_at=clock.now(),
        )
        session.add(user)
    return user


def change_job(job_id: str, **values: Any) -> None:
    """Change a job as another process would."""
    with writing() as session:
        session.execute(update(Job).where(Job.id == job_id).values(**values))


_SCHEDULES = """
INSERT INTO schedules (name, spec, version, cursor, next_fire_at, created_at, created_by, changed_at, changed_by)
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :number)
SELECT 'yearly-' || i, '{"name": "yearly-' || i || '", "cron": "0 0 1 1 *", "job": {"command": "true"}}', 1, :now,
       :next, :now, 'person:test', :now, 'person:test' FROM n
"""


def make_schedules(number: int) -> None:
    """Schedules that fire once a year, none of them today."""
    now = clock.now()
    with writing() as session:
        session.execute(text(_SCHEDULES), {"number": number, "now": now, "next": now + 100 * clock.DAY})
