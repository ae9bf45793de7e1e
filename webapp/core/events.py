"""Writes events in plain SQL: what happened to jobs and workers. `jobs/lifecycle.py` writes those of users."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Optional

from webapp.core import audit_lines
from webapp.core.storage.transaction import Transaction
from webapp.lib import clock

SHORT = "short"  # a worker runs fewer jobs than it has slots; `detail` has the reason as `text`

_EVENT = """
INSERT INTO events (at, verb, actor, subject, job_seq, detail) VALUES (:now, :verb, :actor, :subject, :seq, :detail)
"""


def record(
    transaction: Transaction,
    verb: str,
    subject: str,
    actor: str,
    *,
    seq: Optional[int] = None,
    detail: Optional[Mapping[str, Any]] = None,
) -> None:
    """Write one event. `subject`: `job:job1`, with the job's `seq`, or such as `worker:3b289f782b0c`."""
    values = {"now": clock.now(), "verb": verb, "actor": actor, "subject": subject, "seq": seq}
    transaction.execute(_EVENT, {**values, "detail": json.dumps(detail) if detail else None})


def record_change(
    transaction: Transaction,
    verb: str,
    subject: str,
    actor: str,
    *,
    seq: Optional[int] = None,
    before: Optional[Mapping[str, Any]] = None,
    after: Optional[Mapping[str, Any]] = None,
) -> None:
    """Write an event with what changed, and a line of the audit trail if the actor is a person or a program."""
    detail = {key: dict(value) for key, value in (("before", before), ("after", after)) if value}
    record(transaction, verb, subject, actor, seq=seq, detail=detail or None)
    if audit_lines.is_audited(actor):
        transaction.execute_many(audit_lines.LINE, audit_lines.lines(verb, [subject], actor, details=[detail]))
