"""The label sets of queues.

The index for claims has a range for each, so a million jobs that a worker may not run cost its claims nothing. Lists of
pending jobs use the same index, so they read each label set too.
"""

from __future__ import annotations

from sqlalchemy import literal, select, union_all
from sqlalchemy.orm import Session

from webapp.core.labels import LabelSet
from webapp.db.models import LabelSetRow, Queue


def label_sets(session: Session, *queues: str) -> list[LabelSet]:
    """All label sets that ever had a job, of these queues or of all, sorted by queue and labels."""
    plain = select(Queue.name.label("queue"), literal("").label("requires"))
    others = select(LabelSetRow.queue, LabelSetRow.requires)
    if queues:
        plain, others = plain.where(Queue.name.in_(queues)), others.where(LabelSetRow.queue.in_(queues))
    rows = session.execute(union_all(plain, others)).tuples()
    return sorted((LabelSet(queue, requires) for queue, requires in rows), key=lambda one: (one.queue, one.requires))
