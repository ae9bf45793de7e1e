"""Recovers jobs of dead workers: take over their claims, end their commands, then requeue them.

In this order, a worker that was only suspended resumes without a claim, and no two attempts of a job run at the same
time. If this process dies in between, the next tick finds the same jobs.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Optional

from sqlalchemy import delete, insert, literal_column, or_, select, update
from sqlalchemy.orm import Session

from webapp.core.states import ARROWS
from webapp.db.engines import reading, writing
from webapp.db.models import Attempt, Job, OutputChunk, OutputTail, Worker
from webapp.jobs import job_detail
from webapp.jobs.lifecycle import in_state, record
from webapp.lib import clock
from webapp.lib.stream_runs import encode_runs
from worker import processes
from worker.runner import failure_text

log = logging.getLogger("queuectl.maintenance")

LOCK_TIMEOUT = 2.0  # seconds to wait for the write lock; the next tick finds the same jobs
POISON_LIMIT = 3  # workers that a job may crash while it runs exclusively, before it becomes a dead letter
_SEIZED = "seized:"  # prefix of a token that maintenance took over; the rest is the old token


@dataclass(frozen=True)
class _Orphan:
    """A job in `processing` whose worker does not run. `worker` None: its row is gone."""

    seq: int
    token: str
    worker: Optional[Worker]

    @property
    def first_token(self) -> str:
        return self.token.removeprefix(_SEIZED)

    @property
    def was_here(self) -> bool:
        """Whether its command can be found on this machine."""
        return self.worker is None or processes.is_here(self.worker.host, self.worker.boot_id)


def recover_orphans() -> int:
    """Find jobs whose worker does not run, end their commands, and move them on. Returns how many."""
    with reading() as session:
        orphans = _orphans(session)
    if orphans:
        orphans = _seize(orphans)
    if not orphans:
        return 0
    here = [one for one in orphans if one.was_here]
    for worker in {one.worker.id: one.worker for one in here if one.worker is not None}.values():
        processes.kill_exactly(worker.pid, worker.pid_started)
    ended = processes.end_tokens([one.first_token for one in here]) if here else True
    with writing(LOCK_TIMEOUT) as session:
        return sum(_lose(session, one, verified=ended and one.was_here) for one in orphans)


def _orphans(session: Session) -> list[_Orphan]:
    statement = (
        select(Job.seq, Job.token, Worker)
        .outerjoin(Worker, Worker.id == Job.worker_id)
        .where(in_state("processing"), or_(Worker.id.is_(None), Worker.state != literal_column("'running'")))
    )
    return [_Orphan(seq, token, worker) for seq, token, worker in session.execute(statement).tuples() if token]


def _seize(orphans: list[_Orphan]) -> list[_Orphan]:
    """Take over their claims; return those that succeeded.

    On PostgreSQL a machine that lost its connection during a transaction may still lock rows: a later tick gets them.
    """
    with writing(LOCK_TIMEOUT) as session:
        existing = select(Job.seq).where(Job.seq.in_([one.seq for one in orphans]), in_state("processing"))
        free = set(session.scalars(existing.with_for_update(skip_locked=True)))
        orphans = [one for one in orphans if one.seq in free]
        for one in orphans:
            session.execute(
                update(Job)
                .where(Job.seq == one.seq, Job.token == one.first_token, in_state("processing"))
                .values(token=_SEIZED + one.first_token)
            )
        return orphans


def _lose(session: Session, orphan: _Orphan, verified: bool) -> bool:
    """Move one job on: to pending, to cancelled if that was requested, or to dead after too many crashes."""
    job = session.get(Job, orphan.seq, with_for_update=True)
    if job is None or job.state != "processing" or job.token != _SEIZED + orphan.first_token:
        return False  # another maintenance process was first
    now = clock.now()
    lone_losses = job.lone_losses + (job.losses > 0)  # after its first loss a job runs exclusively
    if job.cancel_requested_at is not None:
        verb = "settle_cancel"
    elif lone_losses >= POISON_LIMIT:
        verb = "bury"
    else:
        verb = "lose"
    error = _explain(orphan.worker, verified)
    if verb == "bury":
        error += f". Poison job: {job.losses + 1} workers crashed on it, {lone_losses} of them while it ran alone"
    output = job_detail.live_output(session, job.seq, job.attempts)
    attempt = {
        "job_seq": job.seq,
        "number": job.attempts,
        "state": "lost",
        "reason": "lost",
        "error": error,
        "error_key": None,
        "worker_id": job.worker_id,
        "started_at": job.started_at,
        "finished_at": now,
        "output": output.data,
        "output_runs": encode_runs(output.runs),
        "output_cut": output.cut,
        "output_dropped": output.dropped,
        "due_at": job.run_at,
    }
    session.execute(insert(Attempt).values(attempt))
    if verb == "bury":
        session.merge(OutputTail(job_seq=job.seq, text=failure_text.tail(output.data)))
    session.execute(delete(OutputChunk).where(OutputChunk.job_seq == job.seq, OutputChunk.attempt == job.attempts))
    times = {"changed_at": now, "finished_at": None if verb == "lose" else now}
    _move_on(session, job, verb, error, {**times, "lone_losses": lone_losses})
    worker_id = orphan.worker.id if orphan.worker is not None else None
    state = ARROWS[verb].enters
    facts = {"job": job.id, "attempt": job.attempts, "worker": worker_id, "state": state}
    log.warning("job %s: attempt %d was lost (%s), now %s", job.id, job.attempts, error, state, extra=facts)
    return True


def _move_on(session: Session, job: Job, verb: str, error: str, values: dict[str, Any]) -> None:
    changes: dict[str, Any] = {
        **values,
        "state": ARROWS[verb].enters,
        "losses": job.losses + 1,
        "last_error": error,
        "exit_code": None,
        "error_key": failure_text.error_key("poison", "", job.command) if verb == "bury" else job.error_key,
        "worker_id": None,
        "token": None,
        "cancel_requested_at": None,
        "cancel_requested_by": None,
    }
    detail = {"text": error, "worker": f"worker:{job.worker_id}"}
    session.execute(
        update(Job).where(Job.seq == job.seq, Job.token == job.token, in_state("processing")).values(changes)
    )
    record(session, "lose", [("job:" + job.id, job.seq)], "rule:maintenance", detail)


def _explain(worker: Optional[Worker], verified: bool) -> str:
    restarted = worker is not None and processes.was_restarted(worker.host, worker.boot_id)
    if worker is None:
        text = "worker is gone"
    elif restarted:
        text = f"worker {worker.id} stopped when {worker.host} was restarted"
    else:
        text = f"worker {worker.id} (pid {worker.pid} on {worker.host}) crashed"
    return text if verified or restarted else text + "; its command may still be running there"
