"""Queues as pages and commands show them: pending and running jobs, and the present rate. Pages by name or by rank.

A rank needs the numbers of all queues. Beyond MAX_RANKED queues, only those with jobs to do and paused ones are ranked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Optional

from sqlalchemy import ColumnElement, and_, exists, func, or_, select, text
from sqlalchemy.orm import Session

from webapp.core.notices import SYSTEM_QUEUE
from webapp.core.statements import OLDEST_PENDING
from webapp.db import label_sets, name_pages
from webapp.db.models import Job, Minute, Queue
from webapp.db.name_pages import Page
from webapp.db.text_match import contains
from webapp.insight import blockers, trends
from webapp.insight.fleet import WorkerView
from webapp.insight.rollups import HALF_HOUR
from webapp.insight.trends import Day
from webapp.jobs import queries, queue_actions
from webapp.jobs.lifecycle import in_state
from webapp.jobs.queries import Count, Waiting
from webapp.lib import clock
from webapp.lib.clock import HOUR

ORDERS = ("problems", "name", "pending", "oldest", "runs", "failed")
MAX_RANKED = 1_000  # queues that one rank considers
COUNT_BUDGET = 100_000  # pending jobs that it counts, shared by the label sets
MAX_HALF_HOURS = 20_000  # sums that it reads
LATE = clock.seconds(600)  # a job that waits longer than this makes its queue a problem
FAILING = 0.2  # part of the runs of a day that failed, from MIN_FAILED failures on
MIN_FAILED = 5
MOST_CAUSES = 6
LATEST_DEAD = 3_000  # dead letters in which the causes of a queue are searched
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
    day: Optional[Day] = None  # its last 24 hours, if they were asked for

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


def page_of_queues(
    session: Session,
    wanted: QueueFilter = QueueFilter(),
    *,
    limit: int = 50,
    after: Optional[str] = None,
    before: Optional[str] = None,
    with_day: bool = False,
) -> Page[QueueView]:
    """One page of queues by name. `with_day`: with their last 24 hours."""
    views = partial(_views, session, with_day=with_day)
    found = select(Queue).where(wanted.where())
    return name_pages.read(session, found, Queue.name, views, limit=limit, after=after, before=before)


def count_queues(session: Session, wanted: QueueFilter = QueueFilter()) -> int:
    return session.scalar(select(func.count()).select_from(Queue).where(wanted.where())) or 0


def some_names(session: Session, limit: int, like: str = "") -> list[str]:
    """The first names that contain a text, for a form's suggestions."""
    rows = select(Queue.name).where(QueueFilter(like).where()).order_by(Queue.name).limit(limit)
    return list(session.scalars(rows))


def view_of(session: Session, name: str, *, with_day: bool = False) -> QueueView:
    """A queue by its name. Raises NotFound."""
    return _views(session, [queue_actions.find(session, name)], with_day=with_day)[0]


def _views(session: Session, queues: Sequence[Queue], *, with_day: bool = False) -> list[QueueView]:
    names = [queue.name for queue in queues]
    days = trends.days(session, names) if with_day else {}
    rates = {name: day.per_minute for name, day in days.items()} if with_day else trends.queue_rates(session, names)
    counts = select(Job.queue, func.count()).where(in_state("processing"), Job.queue.in_(names)).group_by(Job.queue)
    running = dict(session.execute(counts).tuples().all())
    waiting: dict[str, list[Waiting]] = {}
    for one in queries.waiting_jobs(session, names):
        waiting.setdefault(one.label_set.queue, []).append(one)
    views = []
    for queue in queues:
        name, here = queue.name, tuple(waiting.get(queue.name, ()))
        pending, oldest = queries.total(one.number for one in here), queries.oldest(here)
        view = QueueView(queue, pending, running.get(name, 0), oldest, rates.get(name), here, days.get(name))
        views.append(view)
    return views


# --- by rank ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ranked:
    """One page of queues by rank; page 1 is the first. `capped`: more than MAX_RANKED queues match, see above."""

    views: list[QueueView]
    page: int
    more: bool
    capped: bool


@dataclass
class _Rank:
    """What a rank depends on. `oldest`: the due time of the job that has waited longest."""

    name: str
    paused: bool
    pending: int = 0
    oldest: Optional[int] = None
    runs: int = 0
    failed: int = 0
    requires: list[str] = field(default_factory=list)  # of the pending jobs, as label sets


_IN_FOUND = "state = 'pending' AND queue = found.queue AND requires = found.requires"
_WAITING = f"""
queue, requires, (SELECT count(*) FROM (SELECT 1 FROM jobs WHERE {_IN_FOUND} LIMIT :most) AS counted),
({OLDEST_PENDING.format(jobs=_IN_FOUND)})
"""  # noqa: S608  no part comes from a user


def ranked(
    session: Session,
    wanted: QueueFilter,
    alive: Sequence[WorkerView],
    *,
    by: str = "problems",
    page: int = 1,
    size: int = 50,
) -> Ranked:
    """Queues by one of ORDERS, the most urgent or the largest first, with their last 24 hours."""
    ranks, capped = _ranks(session, wanted)
    now = clock.now()
    served = {name for view in alive for name in view.queues or ()}
    serves_all = any(view.queues is None for view in alive)

    def key(one: _Rank) -> tuple[float, ...]:
        if by == "problems":
            is_served = serves_all or one.name in served
            return -_severity(one, alive, now, is_served=is_served), -one.pending
        if by == "oldest":
            return (one.oldest or now,)
        return (-{"pending": one.pending, "runs": one.runs, "failed": one.failed}.get(by, 0),)

    ordered = sorted(ranks, key=lambda one: (key(one), one.name))
    start = (page - 1) * size
    names = [one.name for one in ordered[start : start + size]]
    rows = {row.name: row for row in session.scalars(select(Queue).where(Queue.name.in_(names)))}
    views = _views(session, [rows[name] for name in names if name in rows], with_day=True)
    return Ranked(views, page, len(ordered) > start + size, capped)


def _ranks(session: Session, wanted: QueueFilter) -> tuple[list[_Rank], bool]:
    matches = select(Queue.name, Queue.paused_at).where(wanted.where()).order_by(Queue.name)
    queues = session.execute(matches.limit(MAX_RANKED + 1)).tuples().all()
    capped = len(queues) > MAX_RANKED
    if capped:
        busy, most = label_sets.select_busy(_WAITING, limit=MAX_RANKED), COUNT_BUDGET // MAX_RANKED
    else:
        busy, most = label_sets.select_busy(_WAITING, [name for name, _ in queues]), COUNT_BUDGET // max(len(queues), 1)
    waiting = session.execute(busy.bindparams(most=most)).tuples().all()
    if capped:
        names = {row[0] for row in waiting} | set(session.scalars(select(Job.queue).where(in_state("processing"))))
        these = matches.where(or_(Queue.name.in_(names), Queue.paused_at.is_not(None)))
        queues = session.execute(these.limit(MAX_RANKED)).tuples().all()
    ranks = {name: _Rank(name, paused_at is not None) for name, paused_at in queues}
    for name, requires, number, oldest in waiting:
        if name in ranks and number:
            one = ranks[name]
            one.pending += number
            one.oldest = min(one.oldest or oldest, oldest)
            one.requires.append(requires)
    for name, runs, failed in _half_hours(session):
        if name in ranks:
            ranks[name].runs, ranks[name].failed = runs, failed
    return list(ranks.values()), capped


def _half_hours(session: Session) -> list[tuple[str, int, int]]:
    """Name, ended runs and failed runs of queues in the last 24 hours, by the newest MAX_HALF_HOURS sums."""
    now = clock.now()
    newest = (
        select(Minute.queue, (Minute.completed + Minute.failed).label("ended"), Minute.failed)
        .where(Minute.at.in_(range((now - clock.DAY) // HOUR * HOUR, now + 1, HALF_HOUR)), Minute.queue.like("*30 %"))
        .order_by(Minute.at.desc())
        .limit(MAX_HALF_HOURS)
        .subquery()
    )
    rows = select(newest.c.queue, func.sum(newest.c.ended), func.sum(newest.c.failed)).group_by(newest.c.queue)
    return [(name.partition(" ")[2], int(runs), int(failed)) for name, runs, failed in session.execute(rows).tuples()]


def _severity(one: _Rank, alive: Sequence[WorkerView], now: int, *, is_served: bool) -> int:
    """3: no worker takes some of its pending jobs. 2: it is paused. 1: jobs wait for long, or many runs fail."""
    if one.paused:
        return 2
    if one.pending and not is_served:
        return 3
    for requires in filter(None, one.requires):
        if blockers.serving(one.name, None, list(alive), requires).obstacle is not None:
            return 3
    is_late = one.oldest is not None and now - one.oldest > LATE
    is_failing = one.failed >= MIN_FAILED and one.failed >= FAILING * one.runs
    return int(is_late or is_failing)


# --- one queue -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cause:
    """Dead letters of a queue that failed alike. `key`: of the group; `example`: the newest of these jobs."""

    key: str
    number: int
    last_at: int
    example: Job


_CAUSES = text("""
SELECT error_key AS key, count(*) AS number, max(finished_at) AS last_at, max(seq) AS example
FROM (SELECT queue, error_key, finished_at, seq FROM jobs WHERE state = 'dead' AND finished_at IS NOT NULL
      ORDER BY finished_at DESC LIMIT :look) AS newest
WHERE queue = :queue AND error_key IS NOT NULL GROUP BY error_key ORDER BY number DESC, last_at DESC LIMIT :most
""")


def causes(session: Session, name: str) -> list[Cause]:
    """Why jobs of this queue died, the most frequent first, among the newest LATEST_DEAD dead letters of all queues."""
    rows = session.execute(_CAUSES, {"look": LATEST_DEAD, "queue": name, "most": MOST_CAUSES}).all()
    jobs = {job.seq: job for job in session.scalars(select(Job).where(Job.seq.in_([row.example for row in rows])))}
    return [Cause(row.key, row.number, row.last_at, jobs[row.example]) for row in rows if row.example in jobs]
