"""Decides when batches have ended, and enqueues their callbacks: each once for each generation.

The maintenance process calls `decide`. The key of `batch_callbacks` is (batch, event, generation), and a callback's job
is stored in the same transaction. Several processes may share a database.
"""

from __future__ import annotations

import logging
from typing import Optional

from webapp.core import enqueue, events, job_spec
from webapp.core.job_spec import SpecError
from webapp.core.storage.transaction import Connection, Transaction
from webapp.lib import clock

log = logging.getLogger("queuectl.maintenance")

STEP = 100  # batches of one call
LOCK_TIMEOUT = 1.0  # seconds
RULE = "rule:batches"

_HAS_UNFINISHED = """
EXISTS (SELECT 1 FROM jobs WHERE batch IS NOT NULL AND batch = batches.name
        AND state IN ('blocked', 'scheduled', 'pending', 'processing', 'failed'))
"""
_DIED = """
on_death IS NOT NULL
AND NOT EXISTS (SELECT 1 FROM batch_callbacks WHERE batch = batches.name AND event = 'death'
                AND generation = batches.generation)
AND EXISTS (SELECT 1 FROM jobs WHERE batch IS NOT NULL AND batch = batches.name AND state = 'dead')
"""
_DUE = f"""
SELECT name FROM batches WHERE ended_at IS NULL AND closed_at IS NOT NULL AND (NOT {_HAS_UNFINISHED} OR ({_DIED}))
ORDER BY name LIMIT {STEP}
"""  # noqa: S608  every part is ours
_LOCK = "SELECT 1 FROM batches WHERE name = :name FOR NO KEY UPDATE SKIP LOCKED"
_STATE = f"""
SELECT generation, on_done, on_death, {_HAS_UNFINISHED}, {_DIED} FROM batches
WHERE name = :name AND ended_at IS NULL AND closed_at IS NOT NULL
"""  # noqa: S608
_RECORD = """
INSERT INTO batch_callbacks (batch, event, generation, at) VALUES (:name, :event, :generation, :now)
ON CONFLICT (batch, event, generation) DO NOTHING
"""
_SET_JOB = (
    "UPDATE batch_callbacks SET job_id = :job WHERE batch = :name AND event = :event AND generation = :generation"
)
_END = "UPDATE batches SET ended_at = :now WHERE name = :name"


def decide(connection: Connection) -> int:
    """Decide about at most STEP batches. Returns about how many. Raises Busy, and the errors of the connection."""
    names = [row[0] for row in connection.query(_DUE)]
    for name in names:
        with connection.transaction(LOCK_TIMEOUT) as transaction:
            transaction.durable = True
            _decide_one(transaction, name)
    return len(names)


def _decide_one(transaction: Transaction, name: str) -> None:
    # A requeue of its jobs locks the batch too. The state is read after the lock, so that it shows that requeue.
    if not transaction.is_sqlite and transaction.execute(_LOCK, {"name": name}).fetchone() is None:
        return
    row = transaction.execute(_STATE, {"name": name}).fetchone()
    if row is None:
        return
    generation, on_done, on_death, has_unfinished, died = row
    if died:
        _call_back(transaction, name, "death", generation, on_death)
    if not has_unfinished:
        _call_back(transaction, name, "done", generation, on_done)
        transaction.execute(_END, {"name": name, "now": clock.now()})


def _call_back(transaction: Transaction, name: str, event: str, generation: int, job: Optional[str]) -> None:
    """Record the event and enqueue its job, once."""
    key = {"name": name, "event": event, "generation": generation}
    if transaction.execute(_RECORD, {**key, "now": clock.now()}).rowcount != 1 or job is None:
        return
    what = {"QUEUECTL_BATCH": name, "QUEUECTL_BATCH_EVENT": event, "QUEUECTL_BATCH_GENERATION": str(generation)}
    try:
        spec = job_spec.parse_json(job)
        [job_id] = enqueue.store(transaction, [spec._replace(env={**spec.env, **what})], f"batch:{name}")
    except SpecError as error:  # what it needs is gone, such as a limit; this must not delay the rest of the batch
        log.warning("batch %s: the callback for %s cannot be enqueued: %s", name, event, error)
        events.record(transaction, "callback_failed", f"batch:{name}", RULE, detail={"text": f"on_{event}: {error}"})
        return
    transaction.execute(_SET_JOB, {**key, "job": job_id})
    transaction.wakes_workers = True
    events.record(transaction, "call_back", f"batch:{name}", RULE, detail={"text": f"on_{event}: {job_id}"})
