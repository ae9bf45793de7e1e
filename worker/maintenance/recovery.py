"""What becomes of jobs whose worker died: first their claim is taken over, then what still runs is ended, then they go
back to the queue.

In that order: a worker that was only stopped wakes up without a claim, and nothing of its attempt goes on beside the
next one. A keeper that dies in between leaves jobs that the next look finds again.
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

log = logging.getLogger("queuectl.keeper")

PATIENCE = 2.0  # seconds for the write lock; the next look finds the same jobs again
POISON_LIMIT = 3  # workers that a job may cost, running alone in each, before it is buried
_SEIZED = "seized:"  # stands before a token that a keeper took over, so that the old one is still known


@dataclass(frozen=True)
class _Orphan:
    """A job in `processing` whose worker does not run. `worker` None: its row is gone."""

    seq: int
    token: str
    worker: Optional[Worker]

    @property
    def first_token(self) -> str:
        return self.token.removeprefix(_SEIZED)


def recover_orphans() -> int:
    """Find jobs whose worker no longer runs, end what is left of their commands, and lose them. Returns how many."""
    with reading() as session:
        orphans = _orphans(session)
    if orphans:
        orphans = _seize(orphans)
    if not orphans:
        return 0
    here = [one for one in orphans if one.worker is None or _was_here(one.worker)]
    for worker in {one.worker.id: one.worker for one in here if one.worker is not None}.values():
        processes.kill_exactly(worker.pid, worker.pid_started)
    ended = processes.end_tokens([one.first_token for one in here]) if here else True
    with writing(PATIENCE) as session:
        return sum(_lose(session, one, verified=ended and one in here) for one in orphans)


def _orphans(session: Session) -> list[_Orphan]:
    statement = (
        select(Job.seq, Job.token, Worker)
        .outerjoin(Worker, Worker.id == Job.worker_id)
        .where(in_state("processing"), or_(Worker.id.is_(None), Worker.state != literal_column("'running'")))
    )
    return [_Orphan(seq, token, worker) for seq, token, worker in session.execute(statement).tuples() if token]


def _seize(orphans: list[_Orphan]) -> list[_Orphan]:
    """Take over their claims; return those whose claims are taken over.

    On PostgreSQL a machine that was cut off in the middle of a transaction still holds rows: a later look takes them.
    """
    with writing(PATIENCE) as session:
        there = select(Job.seq).where(Job.seq.in_([one.seq for one in orphans]), in_state("processing"))
        free = set(session.scalars(there.with_for_update(skip_locked=True)))
        orphans = [one for one in orphans if one.seq in free]
        for one in orphans:
            session.execute(
                update(Job)
                .where(Job.seq == one.seq, Job.token == one.first_token, in_state("processing"))
                .values(token=_SEIZED + one.first_token)
            )
        return orphans


def _was_here(worker: Worker) -> bool:
    return processes.is_here(worker.host, worker.boot_id)


def _lose(session: Session, orphan: _Orphan, verified: bool) -> bool:
    """Move one job on: back to pending, cancelled where that was asked, dead where it cost too many workers."""
    job = session.get(Job, orphan.seq, with_for_update=True)
    if job is None or job.state != "processing" or job.token != _SEIZED + orphan.first_token:
        return False  # another keeper was first
    now = clock.now()
    alone = job.losses > 0  # after a loss a job runs alone: then this loss is its own doing
    lone_losses = job.lone_losses + alone
    if job.cancel_requested_at is not None:
        verb = "settle_cancel"
    elif lone_losses >= POISON_LIMIT:
        verb = "bury"
    else:
        verb = "lose"
    error = _explain(orphan.worker, verified)
    if verb == "bury":
        error += f". Poison job: {job.losses + 1} workers crashed on it, {lone_losses} of them while it ran alone"
    session.execute(insert(Attempt).values(_attempt(session, job, error, now)))
    if verb == "bury":
        tail = failure_text.tail(job_detail.live_output(session, job.seq, job.attempts).data)
        session.merge(OutputTail(job_seq=job.seq, text=tail))
    session.execute(delete(OutputChunk).where(OutputChunk.job_seq == job.seq, OutputChunk.attempt == job.attempts))
    changes: dict[str, Any] = {
        "state": ARROWS[verb].enters,
        "changed_at": now,
        "finished_at": None if verb == "lose" else now,
        "losses": job.losses + 1,
        "lone_losses": lone_losses,
        "last_error": error,
        "exit_code": None,
        "error_key": failure_text.error_key("poison", "", job.command) if verb == "bury" else job.error_key,
        "worker_id": None,
        "token": None,
        "cancel_requested_at": None,
        "cancel_requested_by": None,
    }
    lost_by = f"worker:{job.worker_id}"
    session.execute(
        update(Job).where(Job.seq == job.seq, Job.token == job.token, in_state("processing")).values(changes)
    )
    record(session, "lose", [("job:" + job.id, job.seq)], "rule:keeper", {"text": error, "worker": lost_by})
    lost = orphan.worker.id if orphan.worker is not None else None
    facts = {"job": job.id, "attempt": job.attempts, "worker": lost, "state": changes["state"]}
    words = "job %s: attempt %d was lost (%s), now %s"
    log.warning(words, job.id, job.attempts, error, changes["state"], extra=facts)
    return True


def _explain(worker: Optional[Worker], verified: bool) -> str:
    if worker is None:
        text = "worker is gone"
    elif _restarted(worker):
        text = f"worker {worker.id} stopped when {worker.host} was restarted"
    else:
        text = f"worker {worker.id} (pid {worker.pid} on {worker.host}) crashed"
    if not verified and not (worker is not None and _restarted(worker)):
        text += "; its command may still be running there"
    return text


def _restarted(worker: Worker) -> bool:
    return processes.was_restarted(worker.host, worker.boot_id)


def _attempt(session: Session, job: Job, error: str, now: int) -> dict[str, Any]:
    output = job_detail.live_output(session, job.seq, job.attempts)
    return {
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
