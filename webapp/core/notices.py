"""Records notices: events for the rules of notifications. `notifications/dispatcher.py` applies the rules.

A notice is written in the transaction of what happened, and only if a rule has its event. So a job that does not
fail costs no statement.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Optional

from webapp.core.storage.transaction import Transaction
from webapp.lib import clock

EVENTS = {
    "job-dead": "a job failed for good",
    "attempt-failed": "an attempt failed, even if the job will be retried",
    "group-new": "a kind of failure is new, or came back after it was acknowledged",
    "schedule-missed": "a schedule missed a fire",
    "schedule-late": "a job of a schedule has not started in time",
    "schedule-long": "a job of a schedule runs longer than usual",
    "schedule-failing": "the last runs of a schedule failed",
    "queue-old": "the oldest pending job of a queue has waited too long",
    "queue-unserved": "no worker serves a queue with pending jobs",
    "disk-low": "the disk of the database is nearly full",
    "worker-lost": "a worker died or does not respond",
    "canary-ended": "a canary retry has ended",
}
# For what else a notice counts. The dispatcher knows whether a death is group-new as well.
COUNTS_FOR: Mapping[str, tuple[str, ...]] = {"job-dead": ("attempt-failed", "group-new")}
CHANNEL_KINDS = ("mail", "webhook", "apprise")
DELIVERY_KINDS = ("alert", "update", "recovery", "flapping", "job-ended", "test")
DELIVERY_STATES = ("waiting", "sent", "failed", "suppressed", "dropped")
SYSTEM_QUEUE = "_system"  # of the jobs that send messages; users cannot put jobs into it

RECORD = f"""
INSERT INTO notices (at, event, subject, job_seq, detail)
SELECT CAST(:at AS BIGINT), :event, :subject, CAST(:seq AS BIGINT), CAST(:detail AS TEXT)
WHERE EXISTS (SELECT 1 FROM notification_rules
              WHERE events LIKE :asked OR events LIKE :asked_too OR events LIKE :asked_as_well)
  AND NOT EXISTS (SELECT 1 FROM jobs WHERE seq = CAST(:seq AS BIGINT) AND queue = '{SYSTEM_QUEUE}')
"""  # noqa: S608

# For a restored copy: nothing is sent because of the restore. What still holds, such as a full disk, is noticed again.
FORGET = (
    "UPDATE notices SET taken_at = :now WHERE taken_at IS NULL",
    "UPDATE alerts SET closed_at = :now, next_at = NULL WHERE closed_at IS NULL",
    "UPDATE deliveries SET state = 'dropped', ended_at = :now, answer = 'the database was restored'"
    " WHERE state = 'waiting'",
    "DELETE FROM job_watches WHERE job_seq IN (SELECT seq FROM jobs WHERE finished_at IS NOT NULL)",
    # Otherwise maintenance notices that they are lost. Their jobs are recovered all the same.
    "UPDATE workers SET state = 'stopped', stopped_at = :now WHERE state = 'running'",
)


def record(
    transaction: Transaction,
    event: str,
    subject: str,
    *,
    at: Optional[int] = None,
    seq: Optional[int] = None,
    detail: Optional[Mapping[str, Any]] = None,
) -> None:
    """Store a notice if a rule has the event. Not for jobs that send messages.

    Args:
        subject: such as `group:…`, with the fingerprint of a failure.
        at: when it happened, in microseconds; for a death the job's `finished_at`. None: now.
        seq: the job that it is about.
        detail: what a message may say. With `recovered: true` it is the end of what the event began.
    """
    stored = transaction.execute(RECORD, values(event, subject, at=at, seq=seq, detail=detail)).rowcount
    if stored and transaction.is_sqlite:
        transaction.wakes_workers = True  # the signal also wakes maintenance; on PostgreSQL it looks every few seconds


def values(
    event: str,
    subject: str,
    *,
    at: Optional[int] = None,
    seq: Optional[int] = None,
    detail: Optional[Mapping[str, Any]] = None,
) -> dict[str, Any]:
    """The values for RECORD; see `record`."""
    asked = [f"%,{one},%" for one in (event, *COUNTS_FOR.get(event, (event, event)))]
    return {
        "at": clock.now() if at is None else at,
        "event": event,
        "subject": subject,
        "seq": seq,
        "detail": json.dumps(detail) if detail else None,
        **dict(zip(("asked", "asked_too", "asked_as_well"), asked)),
    }
