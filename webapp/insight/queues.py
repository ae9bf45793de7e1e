"""Queues as pages and commands show them: pending and running jobs, and the present rate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Optional

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from webapp.db.models import Job, Queue
from webapp.insight import trends
from webapp.jobs import queries
from webapp.jobs.lifecycle import in_state
from webapp.jobs.queries import Count, Waiting


@dataclass(frozen=True)
class QueueView:
    """A queue with its jobs."""

    queue: Queue
    pending: Count
    processing: int
    oldest_run_at: Optional[int]  # due time of the job that has waited longest
    per_minute: Optional[float]  # runs that end per minute at the present rate; None: no run ended
    waiting: tuple[Waiting, ...]  # pending jobs by label set

    @property
    def drain_seconds(self) -> Optional[float]:
        """Estimated time for the pending jobs at the present rate; None: none are pending or no run ended."""
        return trends.drain_time(self.pending.number, self.per_minute)


def all_queues(session: Session, rates: Optional[Mapping[str, float]] = None) -> list[QueueView]:
    """All queues by name. `rates` is the result of `trends.queue_rates`, if the caller has it."""
    if rates is None:
        rates = trends.queue_rates(session)
    counts = select(Job.queue, func.count()).where(in_state("processing")).group_by(Job.queue)
    running = dict(session.execute(counts).tuples().all())
    waiting: dict[str, list[Waiting]] = {}
    for one in queries.waiting_jobs(session):
        waiting.setdefault(one.label_set.queue, []).append(one)
    views = []
    for queue in session.scalars(select(Queue).order_by(Queue.name)):
        name, here = queue.name, tuple(waiting.get(queue.name, ()))
        pending, oldest = queries.total(one.number for one in here), queries.oldest(here)
        views.append(QueueView(queue, pending, running.get(name, 0), oldest, rates.get(name), here))
    return views
