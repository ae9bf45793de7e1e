"""Queues as pages and commands show them: pending and running jobs, and the present rate. Pages by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

from sqlalchemy import ColumnElement, and_, exists, func, or_, select, true
from sqlalchemy.orm import Session

from webapp.core.notices import SYSTEM_QUEUE
from webapp.db.models import Job, Queue
from webapp.db.text_match import contains
from webapp.insight import trends
from webapp.jobs import queries
from webapp.jobs.lifecycle import in_state
from webapp.jobs.queries import Count, Waiting

SHOWN = ("busy", "paused")  # the queues of a list: with pending or running jobs; paused


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


@dataclass(frozen=True)
class QueueFilter:
    """`like`: a part of the name, in any case. `show`: one of SHOWN. SYSTEM_QUEUE matches no filter."""

    like: str = ""
    show: str = ""

    def where(self) -> ColumnElement[bool]:
        found: ColumnElement[bool] = and_(Queue.removed_at.is_(None), Queue.name != SYSTEM_QUEUE)
        if self.like:
            found &= contains(Queue.name, self.like)
        if self.show == "paused":
            found &= Queue.paused_at.is_not(None)
        elif self.show == "busy":
            running = select(Job.queue).where(in_state("processing"))
            pending = exists().where(in_state("pending"), Job.queue == Queue.name)
            found &= or_(Queue.name.in_(running), pending)
        return found


@dataclass(frozen=True)
class Page:
    """Queues by name. `older` and `newer` are names for `after` and `before`; None: there are no more queues."""

    views: list[QueueView]
    older: Optional[str]
    newer: Optional[str]


def page_of_queues(
    session: Session,
    wanted: QueueFilter = QueueFilter(),
    *,
    limit: int = 50,
    after: Optional[str] = None,
    before: Optional[str] = None,
) -> Page:
    """One page of queues by name. `after` continues after a name, `before` ends in front of it."""
    backwards, name = before is not None, Queue.name
    there = name < before if before is not None else name > after if after is not None else true()
    rows = select(Queue).where(wanted.where(), there).order_by(name.desc() if backwards else name).limit(limit + 1)
    queues = list(session.scalars(rows))
    more, queues = len(queues) > limit, queues[:limit]
    ahead = queues[-1].name if more else None
    back = queues[0].name if queues and (backwards or after is not None) else None
    if backwards:
        queues.reverse()
        return Page(_views(session, queues), back, ahead)
    return Page(_views(session, queues), ahead, back)


def count_queues(session: Session, wanted: QueueFilter = QueueFilter()) -> int:
    return session.scalar(select(func.count()).select_from(Queue).where(wanted.where())) or 0


def some_names(session: Session, limit: int, like: str = "") -> list[str]:
    """The first names that contain a text, for a form's suggestions."""
    rows = select(Queue.name).where(QueueFilter(like).where()).order_by(Queue.name).limit(limit)
    return list(session.scalars(rows))


def view_of(session: Session, name: str) -> Optional[QueueView]:
    """A queue by its name."""
    found = session.scalars(select(Queue).where(Queue.name == name, Queue.removed_at.is_(None))).all()
    return next(iter(_views(session, found)), None)


def _views(session: Session, queues: Sequence[Queue]) -> list[QueueView]:
    names = [queue.name for queue in queues]
    rates = trends.queue_rates(session, names)
    counts = select(Job.queue, func.count()).where(in_state("processing"), Job.queue.in_(names)).group_by(Job.queue)
    running = dict(session.execute(counts).tuples().all())
    waiting: dict[str, list[Waiting]] = {}
    for one in queries.waiting_jobs(session, names):
        waiting.setdefault(one.label_set.queue, []).append(one)
    views = []
    for queue in queues:
        name, here = queue.name, tuple(waiting.get(queue.name, ()))
        pending, oldest = queries.total(one.number for one in here), queries.oldest(here)
        views.append(QueueView(queue, pending, running.get(name, 0), oldest, rates.get(name), here))
    return views
