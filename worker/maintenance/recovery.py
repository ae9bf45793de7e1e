"""Recovers jobs whose worker died: seize the claim, kill the worker, end its commands, move the job on.

In this order, a worker that was only suspended resumes without a claim, and no two attempts of a job run at the same
time. If this process dies in between, the next tick finds the same jobs.
"""

from __future__ import annotations

import logging
from typing import Any, NamedTuple, Optional

from webapp.core import notices, output, statements
from webapp.core.events import record
from webapp.core.notices import SYSTEM_QUEUE
from webapp.core.states import ARROWS
from webapp.core.storage.transaction import Connection, Transaction
from webapp.lib import clock
from webapp.lib.error_key import error_key
from webapp.lib.stream_runs import encode_runs, encode_times
from worker import processes
from worker.attempt import tail

log = logging.getLogger("queuectl.maintenance")

LOCK_TIMEOUT = 2.0  # seconds to wait for the write lock; the next tick finds the same jobs
POISON_LIMIT = 3  # workers that a job may crash while it runs exclusively, before it becomes a dead letter
_SEIZED = "seized:"  # prefix of a token that maintenance took over; the rest is the old token

_ORPHANS = """
SELECT jobs.seq, jobs.token, workers.id, workers.pid, workers.pid_started, workers.host, workers.boot_id
FROM jobs LEFT JOIN workers ON workers.id = jobs.worker_id
WHERE jobs.state = 'processing' AND (workers.id IS NULL OR workers.state <> 'running')
"""
_SEIZE = "UPDATE jobs SET token = :seized WHERE seq = :seq AND token = :token AND state = 'processing'"
# On PostgreSQL a machine that lost its connection during a transaction may still lock rows: a later tick gets them.
_FREE = "SELECT 1 FROM jobs WHERE seq = :seq AND state = 'processing' FOR UPDATE SKIP LOCKED"
_COLUMNS = (
    *("id", "command", "attempts", "losses", "lone_losses", "started_at", "run_at", "worker_id", "error_key"),
    *("cancel_requested_at", "queue"),
)
_JOB = f"SELECT {', '.join(_COLUMNS)} FROM jobs WHERE seq = :seq AND token = :token AND state = 'processing'"  # noqa: S608
_CHUNKS = """
SELECT position, data, runs, times FROM output_chunks WHERE job_seq = :seq AND attempt = :attempt ORDER BY position
"""
_MOVE_ON = """
UPDATE jobs SET state = :state, changed_at = :now, finished_at = :finished_at, losses = losses + 1,
                lone_losses = :lone_losses, last_error = :error, exit_code = NULL, error_key = :error_key,
                worker_id = NULL, token = NULL, cancel_requested_at = NULL, cancel_requested_by = NULL
WHERE seq = :seq AND token = :token AND state = 'processing'
"""


class _Worker(NamedTuple):
    """The worker of an orphan."""

    id: str
    pid: int
    pid_started: float
    host: str
    boot_id: str


class Orphan(NamedTuple):
    """A job in `processing` whose worker does not run. `worker` None: its row is gone."""

    seq: int
    token: str
    worker: Optional[_Worker]

    @property
    def first_token(self) -> str:
        return self.token.removeprefix(_SEIZED)

    @property
    def seized_token(self) -> str:
        return _SEIZED + self.first_token

    @property
    def was_here(self) -> bool:
        """Whether its command can be found on this machine."""
        return self.worker is None or processes.is_here(self.worker.host, self.worker.boot_id)


def recover_orphans(connection: Connection) -> int:
    """Find jobs whose worker does not run, end their commands, and move them on. Returns how many."""
    orphans = find_orphans(connection)
    if orphans:
        orphans = seize(connection, orphans)
    if not orphans:
        return 0
    here = [one for one in orphans if one.was_here]
    for worker in {one.worker.id: one.worker for one in here if one.worker is not None}.values():
        processes.kill_exactly(worker.pid, worker.pid_started)
    ended = processes.end_tokens([one.first_token for one in here]) if here else True
    with connection.transaction(LOCK_TIMEOUT, wakes_workers=True) as transaction:
        return sum(_lose(transaction, one, verified=ended and one.was_here) for one in orphans)


def find_orphans(connection: Connection) -> list[Orphan]:
    return [
        Orphan(seq, token, _Worker(*worker) if worker[0] is not None else None)
        for seq, token, *worker in connection.query(_ORPHANS)
        if token
    ]


def seize(connection: Connection, orphans: list[Orphan]) -> list[Orphan]:
    """Take over their claims; return those that can be taken over now."""
    with connection.transaction(LOCK_TIMEOUT) as transaction:
        if not connection.is_sqlite:
            orphans = [one for one in orphans if transaction.execute(_FREE, {"seq": one.seq}).fetchone() is not None]
        for one in orphans:
            transaction.execute(_SEIZE, {"seq": one.seq, "token": one.first_token, "seized": one.seized_token})
    return orphans


def _lose(transaction: Transaction, orphan: Orphan, verified: bool) -> bool:
    """Move one job on: to pending, to cancelled if that was requested, or to dead after too many crashes."""
    mine = {"seq": orphan.seq, "token": orphan.seized_token}
    row = transaction.execute(_JOB if transaction.is_sqlite else f"{_JOB} FOR UPDATE", mine).fetchone()
    if row is None:
        return False  # another maintenance process was first
    job = dict(zip(_COLUMNS, row))
    lone_losses = job["lone_losses"] + (job["losses"] > 0)  # after its first loss a job runs exclusively
    if job["cancel_requested_at"] is not None:
        verb = "settle_cancel"
    elif lone_losses >= POISON_LIMIT or job["queue"] == SYSTEM_QUEUE:  # messages get a new job, not an exclusive one
        verb = "bury"
    else:
        verb = "lose"
    now, state, error = clock.now(), ARROWS[verb].enters, _explain(orphan.worker, verified)
    is_grouped = verb == "bury" and job["queue"] != SYSTEM_QUEUE
    if is_grouped:
        error += f". Poison job: {job['losses'] + 1} workers crashed on it, {lone_losses} of them while it ran alone"
    poison = error_key(error, job["command"]) if is_grouped else None
    output = _keep_output(transaction, orphan.seq, job, error, poison, now)
    if verb == "bury":
        transaction.execute(statements.TAIL, {"seq": orphan.seq, "text": tail(output)})
    changes = {
        "state": state,
        "now": now,
        "finished_at": None if verb == "lose" else now,
        "lone_losses": lone_losses,
        "error": error,
        "error_key": poison or job["error_key"],
    }
    transaction.execute(_MOVE_ON, {**mine, **changes})
    detail = {"text": error, "worker": f"worker:{job['worker_id']}"}
    record(transaction, "lose", f"job:{job['id']}", "rule:maintenance", seq=orphan.seq, detail=detail)
    if poison is not None:
        notices.record(transaction, "job-dead", f"group:{poison}", at=now, seq=orphan.seq)
    worker_id = orphan.worker.id if orphan.worker is not None else None
    facts = {"job": job["id"], "attempt": job["attempts"], "worker": worker_id, "state": state}
    log.warning("job %s: attempt %d was lost (%s), now %s", job["id"], job["attempts"], error, state, extra=facts)
    return True


def _keep_output(
    transaction: Transaction, seq: int, job: dict[str, Any], error: str, key: Optional[str], now: int
) -> bytes:
    """Store the lost attempt with the output that the worker had sent. Returns this output."""
    place = {"seq": seq, "attempt": job["attempts"]}
    kept = output.join(transaction.execute(_CHUNKS, place).fetchall())
    attempt = {
        "seq": seq,
        "number": job["attempts"],
        "kind": "lost",
        "reason": "lost",
        "error": error,
        "error_key": key,
        "worker": job["worker_id"],
        "started_at": job["started_at"],
        "ended_at": now,
        "exit_code": None,
        "signal": None,
        "cpu_time": None,
        "peak_memory": None,
        "output": kept.data,
        "runs": encode_runs(kept.runs),
        "times": encode_times(kept.times),
        "cut": kept.cut,
        "dropped": kept.dropped,
        "due_at": job["run_at"],
    }
    transaction.execute(statements.ATTEMPT, attempt)
    transaction.execute(statements.DROP_CHUNKS, {**place, "first": 0, "behind": 2**62})
    return kept.data


def _explain(worker: Optional[_Worker], verified: bool) -> str:
    restarted = worker is not None and processes.was_restarted(worker.host, worker.boot_id)
    if worker is None:
        text = "worker is gone"
    elif restarted:
        text = f"worker {worker.id} stopped when {worker.host} was restarted"
    else:
        text = f"worker {worker.id} (pid {worker.pid} on {worker.host}) crashed"
    return text if verified or restarted else text + "; its command may still be running there"
