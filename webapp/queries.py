"""What a page or a command shows: counts, filtered pages of jobs, the fleet, the queues. Reads only.

Nothing here costs more because the table is large: counts stop at COUNT_CAP, pages go by key and not by offset.
One job's story (attempts, events, output) is in `story.py`.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

from sqlalchemy import ColumnElement, and_, func, literal, literal_column, or_, select, tuple_
from sqlalchemy.orm import Session

from webapp import clock
from webapp.filters import SEARCH_CAP, JobFilter
from webapp.lifecycle import in_state
from webapp.models import STATES, Event, Job, Queue, Worker

COUNT_CAP = 10_000


@dataclass(frozen=True)
class Count:
    """A number of rows, exact up to COUNT_CAP and 'more than that' beyond."""

    number: int
    capped: bool = False

    def __str__(self) -> str:
        return f"{COUNT_CAP:,}+" if self.capped else f"{self.number:,}"


@dataclass(frozen=True)
class Page:
    """One page of jobs. `older` and `newer` are keys for `before`/`after`, None where there is no more.

    `search_capped`: a text was looked for in the newest SEARCH_CAP jobs only, and there are more.
    """

    jobs: list[Job]
    older: Optional[str]
    newer: Optional[str]
    search_capped: bool = False


# --- counts ----------------------------------------------------------------------------------------------------------


def count(session: Session, *conditions: ColumnElement[bool]) -> Count:
    limited = select(literal_column("1")).select_from(Job).where(*conditions).limit(COUNT_CAP + 1).subquery()
    number = session.scalar(select(func.count()).select_from(limited)) or 0
    return Count(min(number, COUNT_CAP), number > COUNT_CAP)


def count_states(session: Session) -> dict[str, Count]:
    """How many jobs are in each state, in the order of a job's life."""
    return {state: count(session, in_state(state)) for state in STATES}


def count_states_exactly(session: Session) -> dict[str, int]:
    """The same to the last job, for somebody who asks once; what is shown again and again uses `count_states`."""
    exact = {}
    for state, counted in count_states(session).items():
        exact[state] = counted.number
        if counted.capped:
            exact[state] = session.scalar(select(func.count()).select_from(Job).where(in_state(state))) or 0
    return exact


def count_finished_since(session: Session, since: int, states: Sequence[str] = ("completed", "dead")) -> Count:
    """How many jobs reached one of these terminal states since a time (microseconds)."""
    counts = [count(session, in_state(state), Job.finished_at >= since) for state in states]
    return Count(sum(one.number for one in counts), any(one.capped for one in counts))


def oldest_pending(session: Session) -> Optional[int]:
    """When the job that has waited longest became due (microseconds), or None."""
    times = [
        session.scalar(select(func.min(Job.run_at)).where(in_state("pending"), Job.queue == name))
        for name in session.scalars(select(Queue.name))
    ]
    return min((time for time in times if time is not None), default=None)


def waited(since: Optional[int], now: int) -> Optional[float]:
    """Seconds since a job became due, or None where none waits."""
    return None if since is None else max(0.0, (now - since) / clock.SECOND)


def paused_queues(session: Session) -> list[str]:
    """Their names, sorted."""
    return list(session.scalars(select(Queue.name).where(Queue.paused_at.is_not(None)).order_by(Queue.name)))


def count_ahead(session: Session, job: Job) -> Count:
    """How many pending jobs of its queue a worker takes before this pending one."""
    there = (in_state("pending"), Job.queue == job.queue)
    higher = count(session, *there, Job.priority > job.priority)
    position, edge = tuple_(Job.run_at, Job.seq), tuple_(literal(job.run_at), literal(job.seq))
    sooner = count(session, *there, Job.priority == job.priority, position < edge)
    number = higher.number + sooner.number
    return Count(min(number, COUNT_CAP), number > COUNT_CAP or higher.capped or sooner.capped)


# --- pages of jobs ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Order:
    """Columns that sort a list; all fall or all rise, so that one row comparison finds the next page by index."""

    columns: tuple[str, ...]
    falling: bool

    def key(self, job: Job) -> str:
        return ",".join(str(getattr(job, column)) for column in self.columns)

    def parse(self, key: str) -> tuple[Any, ...]:
        """Raises ValueError for a key that this list never made."""
        values = tuple(int(part) for part in key.split(","))
        if len(values) != len(self.columns) or any(abs(value) >= 2**63 for value in values):
            raise ValueError("not a page key of this list")
        return values


_NEWEST = _Order(("seq",), falling=True)
_ORDERS = {
    "scheduled": _Order(("run_at", "seq"), falling=False),
    "failed": _Order(("run_at", "seq"), falling=False),
    "processing": _Order(("started_at", "seq"), falling=False),
    "completed": _Order(("finished_at", "seq"), falling=True),
    "dead": _Order(("finished_at", "seq"), falling=True),
    "cancelled": _Order(("finished_at", "seq"), falling=True),
}


def page_of_jobs(
    session: Session,
    wanted: JobFilter,
    *,
    limit: int = 50,
    before: Optional[str] = None,
    after: Optional[str] = None,
) -> Page:
    """One page of a list, in the order that fits the state.

    scheduled and failed: soonest first; pending: as they will be claimed; processing: longest first; ended ones and
    all together: newest first. `after` continues behind a row's key, `before` stops in front of it; `Page.older` is
    the `after` of the next page, `Page.newer` the `before` of the previous one. Raises ValueError for a key that this
    list never made.
    """
    if wanted.state == "pending":
        return _page_of_pending(session, wanted, limit, before, after)
    order = _ORDERS.get(wanted.state or "", _NEWEST)
    columns = [getattr(Job, name) for name in order.columns]
    backwards = before is not None
    condition, capped = _searched(session, wanted, columns, order.falling)
    falling = order.falling != backwards
    statement = select(Job).where(condition)
    key = before if backwards else after
    if key is not None:
        position, at = tuple_(*columns), tuple_(*order.parse(key))
        statement = statement.where(position < at if falling else position > at)
    statement = statement.order_by(*(column.desc() if falling else column.asc() for column in columns))
    rows = list(session.scalars(statement.limit(limit + 1)))
    return _page(rows, limit, backwards, key, order.key, capped)


def _page(rows: list[Job], limit: int, backwards: bool, key: Optional[str], key_of: Any, capped: bool) -> Page:
    more = len(rows) > limit
    rows = rows[:limit]
    if backwards:
        rows.reverse()
    behind = more if not backwards else True
    ahead = more if backwards else key is not None
    return Page(
        rows, key_of(rows[-1]) if rows and behind else None, key_of(rows[0]) if rows and ahead else None, capped
    )


def _searched(
    session: Session, wanted: JobFilter, columns: Sequence[Any], falling: bool
) -> tuple[ColumnElement[bool], bool]:
    """The filter as a condition; with a text, over the first SEARCH_CAP rows that the rest of the filter leaves."""
    if not wanted.text:
        return wanted.where(), False
    narrowed = select(Job.seq).where(wanted.where(without_text=True))
    ordered = narrowed.order_by(*(column.desc() if falling else column.asc() for column in columns))
    boundary = session.scalar(ordered.offset(SEARCH_CAP).limit(1))
    if boundary is None:
        return wanted.where(), False
    return and_(wanted.where(), Job.seq.in_(ordered.limit(SEARCH_CAP))), True


def _page_of_pending(
    session: Session, wanted: JobFilter, limit: int, before: Optional[str], after: Optional[str]
) -> Page:
    """Merge the queues' own orders, as a claim does: no index sorts all queues together."""
    backwards = before is not None
    key = before if backwards else after
    at = _Order(("priority", "run_at", "seq"), falling=False).parse(key) if key is not None else None
    names = [wanted.queue] if wanted.queue else list(session.scalars(select(Queue.name)))
    base = JobFilter(state="pending", text=wanted.text).where()
    lists = [_pending_of(session, and_(base, Job.queue == name), limit + 1, at, backwards) for name in names]

    def rank(job: Job) -> tuple[int, int, int]:
        return (-job.priority, job.run_at, job.seq)

    rows = list(heapq.merge(*lists, key=rank, reverse=backwards))[: limit + 1]
    return _page(rows, limit, backwards, key, lambda job: f"{job.priority},{job.run_at},{job.seq}", False)


def _pending_of(
    session: Session, base: ColumnElement[bool], limit: int, at: Optional[tuple[Any, ...]], backwards: bool
) -> list[Job]:
    ways = (Job.priority.asc(), Job.run_at.desc(), Job.seq.desc())
    if not backwards:
        ways = (Job.priority.desc(), Job.run_at.asc(), Job.seq.asc())
    statement = select(Job).where(base).order_by(*ways).limit(limit)
    if at is None:
        return list(session.scalars(statement))
    # Two ranges of the index, because its columns fall and rise: the same priority, then the ones behind it.
    position, edge = tuple_(Job.run_at, Job.seq), tuple_(*at[1:])
    same = Job.priority == at[0]
    rows = list(session.scalars(statement.where(same, position < edge if backwards else position > edge)))
    if len(rows) < limit:
        rest = Job.priority > at[0] if backwards else Job.priority < at[0]
        rows += session.scalars(statement.where(rest).limit(limit - len(rows)))
    return rows


def recent_failures(session: Session, limit: int = 8, look: int = 100) -> list[Job]:
    """Jobs that failed or died last, newest first.

    No index sorts those that wait for a retry by their failure: `look` of the soonest due and of the latest are seen.
    """
    dead = list(session.scalars(select(Job).where(in_state("dead")).order_by(Job.finished_at.desc()).limit(limit)))
    waiting = {
        job.seq: job
        for order in (Job.run_at.asc(), Job.run_at.desc())
        for job in session.scalars(select(Job).where(in_state("failed")).order_by(order).limit(look))
    }
    return sorted([*dead, *waiting.values()], key=lambda job: job.changed_at, reverse=True)[:limit]


def recent_commands(session: Session, actor: str, limit: int = 10, look_back: int = 500) -> list[Job]:
    """The newest job of each of this actor's last different commands, among the newest `look_back` jobs."""
    newest = select(Job.seq).order_by(Job.seq.desc()).limit(look_back)
    jobs: dict[str, Job] = {}
    for job in session.scalars(
        select(Job).where(Job.seq.in_(newest), Job.created_by == actor).order_by(Job.seq.desc())
    ):
        jobs.setdefault(job.command, job)
    return list(jobs.values())[:limit]


# --- the fleet and the queues ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WorkerView:
    """A worker with the jobs that it runs. `alive`: its last heartbeat is younger than the lease, for people only."""

    worker: Worker
    jobs: list[Job]
    alive: bool

    @property
    def queues(self) -> Optional[list[str]]:
        return json.loads(self.worker.queues) if self.worker.queues else None

    @property
    def shown_state(self) -> str:
        """running, quiet, stopping, stopped, silent (its heartbeat is late) or expired."""
        if self.worker.state != "running":
            return self.worker.state
        if not self.alive:
            return "silent"
        return {"run": "running", "quiet": "quiet", "stop": "stopping"}[self.worker.wish]


def workers(session: Session, lease: float, *, ended_since: Optional[int] = None) -> list[WorkerView]:
    """Workers that run, and those that ended since a time; oldest first. `lease` is the setting, in seconds."""
    running = Worker.state == literal_column("'running'")
    which = running if ended_since is None else or_(running, Worker.stopped_at >= ended_since)
    rows = session.scalars(select(Worker).where(which).order_by(Worker.started_at, Worker.id)).all()
    jobs: dict[str, list[Job]] = {}
    for job in session.scalars(select(Job).where(in_state("processing")).order_by(Job.started_at).limit(COUNT_CAP)):
        jobs.setdefault(job.worker_id or "", []).append(job)
    fresh = clock.now() - clock.seconds(lease)
    return [WorkerView(row, jobs.get(row.id, []), row.state == "running" and row.seen_at >= fresh) for row in rows]


@dataclass(frozen=True)
class QueueView:
    """A queue with what waits and runs in it. `oldest_run_at`: when its longest-waiting job became due."""

    queue: Queue
    pending: Count
    processing: int
    oldest_run_at: Optional[int]


def queues(session: Session) -> list[QueueView]:
    """All queues, by name."""
    running = dict(
        session.execute(select(Job.queue, func.count()).where(in_state("processing")).group_by(Job.queue))
        .tuples()
        .all()
    )
    return [
        QueueView(
            queue,
            count(session, in_state("pending"), Job.queue == queue.name),
            running.get(queue.name, 0),
            session.scalar(select(func.min(Job.run_at)).where(in_state("pending"), Job.queue == queue.name)),
        )
        for queue in session.scalars(select(Queue).order_by(Queue.name))
    ]


def events_of(session: Session, subject: str, limit: int = 50) -> list[Event]:
    """The newest events of one subject (`setting:backoff_base`, `queue:mail`), newest first."""
    return list(session.scalars(select(Event).where(Event.subject == subject).order_by(Event.id.desc()).limit(limit)))
