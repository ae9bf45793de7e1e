"""Writes events in plain SQL: what happened to jobs and workers. `jobs/lifecycle.py` writes those of users."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Optional

from webapp.core.transaction import Transaction
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
