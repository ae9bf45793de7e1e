"""Lanes: the pending jobs of one queue that require the same labels of their worker.

The index for the claim keeps each apart, so that a million jobs that no worker here may take cost its claims nothing.
What is in the order of that index, as pages of pending jobs are, is read lane by lane too.
"""

from __future__ import annotations

from sqlalchemy import literal, select, union_all
from sqlalchemy.orm import Session

from webapp.core.labels import LabelSet
from webapp.db.models import LabelSetRow, Queue


def label_sets(session: Session, *queues: str) -> list[LabelSet]:
    """Every lane that ever had a job, by queue and then by what it requires; of these queues, or of all."""
    plain = select(Queue.name.label("queue"), literal("").label("requires"))
    others = select(LabelSetRow.queue, LabelSetRow.requires)
    if queues:
        plain, others = plain.where(Queue.name.in_(queues)), others.where(LabelSetRow.queue.in_(queues))
    rows = session.execute(union_all(plain, others)).tuples()
    return sorted((LabelSet(queue, requires) for queue, requires in rows), key=lambda one: (one.queue, one.requires))
