"""The demo of the console: three jobs in a batch that show what a queue does. The first run of the console offers it.

They are ordinary jobs; `clear` removes them and nothing else. `manage.py demo` shows more, in a scratch database.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from webapp.core import job_spec
from webapp.core.flow.batches import Batch
from webapp.db.engines import reading
from webapp.db.models import Job
from webapp.jobs import actions, queries
from webapp.jobs.filters import NOT_SYSTEM

PREFIX = "demo-"  # of the key of the batch
WINDOWS: bool = sys.platform == "win32"
_WAIT = "ping -n 3 127.0.0.1 >NUL" if WINDOWS else "sleep 2"
_SECOND_TIME = "if %QUEUECTL_ATTEMPT% LSS 2 exit 1" if WINDOWS else 'test "$QUEUECTL_ATTEMPT" -ge 2 || exit 1'
_AND = " & " if WINDOWS else "; "
TEST_COMMAND = _AND.join(["echo Hello from queuectl", _WAIT, "echo Done"])


@dataclass(frozen=True)
class DemoJob:
    """A job of the demo, what it shows, and the states that it passes."""

    name: str
    title: str
    note: str
    command: str
    retries: int
    path: tuple[str, ...]


JOBS = (
    DemoJob(
        "succeeds", "One succeeds", "A worker takes it. Its command ends with exit code 0, so it is completed.",
        _AND.join(["echo sending the report", _WAIT, "echo sent"]), 0, ("pending", "processing", "completed"),
    ),
    DemoJob(
        "retries", "One is retried", "Its first attempt fails. It waits a few seconds, runs again and succeeds.",
        _AND.join([_WAIT, "echo the mail server answers on the second attempt", _SECOND_TIME]), 2,
        ("pending", "processing", "failed", "processing", "completed"),
    ),
    DemoJob(
        "dies", "One fails for good", "It fails each time. When no retries are left, it becomes a dead letter. Check "
        "its output, then requeue or discard it.",
        _AND.join([_WAIT, "echo no such file: orders.csv", "exit 3"]), 1,
        ("pending", "processing", "failed", "processing", "dead"),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Stop:
    """A demo job on its way. `at`: the position in its path; None: it left the path, such as by a cancel."""

    demo: DemoJob
    job: Job
    at: Optional[int]


def start(actor: str) -> str:
    """Enqueue the demo. Returns the name of its batch."""
    suffix = secrets.token_hex(3)
    key = f"{PREFIX}{suffix}"
    specs = [
        job_spec.parse({"id": f"{PREFIX}{one.name}-{suffix}", "command": one.command, "max_retries": one.retries})
        for one in JOBS
    ]
    actions.enqueue(specs, actor, form_key=key, batch=Batch(key))
    return key


def run_test_job(actor: str) -> str:
    """Enqueue a job that ends after two seconds. Returns its id."""
    return actions.enqueue([job_spec.parse({"command": TEST_COMMAND, "max_retries": 0})], actor)[0]


def is_demo(batch: str) -> bool:
    return batch.startswith(PREFIX)


def clear(batch: str, actor: str) -> int:
    """Discard the jobs of a demo; those that wait are cancelled first. Returns how many still run: they are asked to
    stop, and stay."""
    for verb, states in (("cancel", queries.UNFINISHED), ("discard", actions.movable("discard"))):
        with reading() as session:
            ids = queries.ids_of_batch(session, batch, states)
        if ids:
            actions.apply(verb, ids, actor)
    with reading() as session:
        return len(queries.ids_of_batch(session, batch, ("processing",)))


def tour(jobs: Sequence[Job]) -> list[Stop]:
    """The demo's jobs, with where each is."""
    by_name = {job.id[len(PREFIX) :].rpartition("-")[0]: job for job in jobs}
    return [Stop(one, by_name[one.name], _position(one, by_name[one.name])) for one in JOBS if one.name in by_name]


def _position(demo: DemoJob, job: Job) -> Optional[int]:
    if job.state == demo.path[-1]:
        return len(demo.path) - 1
    # Each attempt is two steps: it runs, then waits for its retry. After the wait it is pending for a moment.
    at = {"pending": 2 * job.attempts, "processing": 2 * job.attempts - 1, "failed": 2 * job.attempts}.get(job.state)
    return at if at is not None and at < len(demo.path) - 1 else None


@dataclass(frozen=True)
class FirstRun:
    """There is no job but those of the demo, whose newest batch is `demo`."""

    demo: Optional[str]


def first_run(session: Session) -> Optional[FirstRun]:
    """None as soon as there is a job of a user or a program. Stops at the first one that it reads."""
    others = select(Job.seq).where(or_(Job.batch.is_(None), Job.batch.not_like(f"{PREFIX}%")), NOT_SYSTEM)
    if session.scalar(others.order_by(Job.seq).limit(1)) is not None:
        return None
    return FirstRun(session.scalar(select(Job.batch).where(Job.batch.is_not(None)).order_by(Job.seq.desc()).limit(1)))
