"""The queues as pages and commands show them: what waits and runs in each, and how fast it goes."""

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
    """A queue with what waits and runs in it. `oldest_run_at`: when its longest-waiting job became due.

    `per_minute`: runs that end in a minute, at the present rate; None where none does.
    """

    queue: Queue
    pending: Count
    processing: int
    oldest_run_at: Optional[int]
    per_minute: Optional[float] = None
    waiting: tuple[Waiting, ...] = ()  # what is pending, by what it requires

    @property
    def drain_seconds(self) -> Optional[float]:
        """How long what waits takes at the present rate, about; None where nothing waits or nothing ends."""
        return trends.drain_time(self.pending.number, self.per_minute)


def all_queues(session: Session, rates: Optional[Mapping[str, float]] = None) -> list[QueueView]:
    """All queues, by name. `rates` are `trends.queue_rates`, for whoever has them already."""
    if rates is None:
        rates = trends.queue_rates(session)
    running = dict(
        session.execute(select(Job.queue, func.count()).where(in_state("processing")).group_by(Job.queue))
        .tuples()
        .all()
    )
    waiting: dict[str, list[Waiting]] = {}
    for one in queries.waiting_jobs(session):
        waiting.setdefault(one.label_set.queue, []).append(one)
    views = []
    for queue in session.scalars(select(Queue).order_by(Queue.name)):
        here = waiting.get(queue.name, [])
        number = queries.total(one.number for one in here)
        views.append(
            QueueView(
                queue,
                number,
                running.get(queue.name, 0),
                queries.oldest(here),
                rates.get(queue.name),
                waiting=tuple(here),
            )
        )
    return views
