"""What a page or a command shows: counts, some jobs, the fleet, the queues. Reads only.

Nothing here costs more because the table is large: counts stop at COUNT_CAP. Pages of jobs are in `jobs/listing.py`.
One job's story (attempts, events, output) is in `jobs/job_detail.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Optional

from sqlalchemy import (
    ColumnElement,
    Integer,
    Select,
    bindparam,
    func,
    literal,
    literal_column,
    or_,
    select,
    text,
    tuple_,
)
from sqlalchemy.orm import Session

from webapp.core import labels
from webapp.core.labels import LabelSet
from webapp.core.states import STATES
from webapp.db.label_sets import label_sets
from webapp.db.models import Event, Job, Queue, Worker
from webapp.jobs import listing
from webapp.jobs.filters import JobFilter
from webapp.jobs.lifecycle import in_state
from webapp.jobs.listing import Page as Page
from webapp.jobs.listing import page_of_jobs as page_of_jobs
from webapp.lib import clock

COUNT_CAP = 10_000


@dataclass(frozen=True)
class Count:
    """A number of rows, exact up to COUNT_CAP and 'more than that' beyond."""

    number: int
    capped: bool = False

    def __str__(self) -> str:
        return f"{COUNT_CAP:,}+" if self.capped else f"{self.number:,}"


# --- counts ----------------------------------------------------------------------------------------------------------


def count(session: Session, *conditions: ColumnElement[bool]) -> Count:
    limited = select(literal_column("1")).select_from(Job).where(*conditions).limit(COUNT_CAP + 1).subquery()
    number = session.scalar(select(func.count()).select_from(limited)) or 0
    return Count(min(number, COUNT_CAP), number > COUNT_CAP)


def count_found(session: Session, wanted: JobFilter) -> tuple[Count, bool]:
    """How many jobs match, and whether all were looked at: what no index finds is looked for as far as `lists` does."""
    parts, whole = listing.window(session, wanted)
    return total(count(session, part) for part in parts), whole


def total(counts: Iterable[Count]) -> Count:
    """Their sum, exact up to COUNT_CAP as well."""
    counts = list(counts)
    number = sum(one.number for one in counts)
    return Count(min(number, COUNT_CAP), number > COUNT_CAP or any(one.capped for one in counts))


def count_states(session: Session) -> dict[str, Count]:
    """How many jobs are in each state, in the order of a job's life."""
    numbers = session.execute(_all_states(), {"most": COUNT_CAP + 1}).one()
    return {state: Count(min(number, COUNT_CAP), number > COUNT_CAP) for state, number in zip(STATES, numbers)}


@lru_cache(maxsize=1)
def _all_states() -> Select[Any]:
    """One statement, and made once: every page that counts asks it at each refresh."""
    each = []
    for state in STATES:
        limited: Select[Any] = (
            select(literal_column("1")).select_from(Job).where(in_state(state)).limit(bindparam("most", type_=Integer))
        )
        each.append(select(func.count()).select_from(limited.subquery()).scalar_subquery().label(state))
    return select(*each)


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


# How many jobs of a lane are pending, and since when the first of them is due. The claim's index sorts by priority
# first, so that there is a first one for each: a level a step, not a row a step.
_LANE = "state = 'pending' AND queue = :queue AND requires = :requires"
_PENDING = text(f"""
WITH RECURSIVE levels(priority) AS (
  SELECT max(priority) FROM jobs WHERE {_LANE}
  UNION ALL
  SELECT (SELECT max(priority) FROM jobs WHERE {_LANE} AND priority < levels.priority)
  FROM levels WHERE levels.priority IS NOT NULL)
SELECT (SELECT count(*) FROM (SELECT 1 FROM jobs WHERE {_LANE} LIMIT :most) AS found),
       (SELECT min((SELECT min(run_at) FROM jobs WHERE {_LANE} AND priority = levels.priority)) FROM levels)
""")  # noqa: S608  every part is ours


@dataclass(frozen=True)
class Waiting:
    """The pending jobs of a lane. `oldest`: when the one that has waited longest became due; None: there is none."""

    label_set: LabelSet
    number: Count
    oldest: Optional[int]


def waiting_jobs(session: Session) -> list[Waiting]:
    """What is pending, lane by lane, those in which nothing is left out."""
    found = []
    for label_set in label_sets(session):
        values = {"queue": label_set.queue, "requires": label_set.requires, "most": COUNT_CAP + 1}
        number, oldest = session.execute(_PENDING, values).one()
        if number:
            found.append(Waiting(label_set, Count(min(number, COUNT_CAP), number > COUNT_CAP), oldest))
    return found


def oldest_pending(session: Session) -> Optional[int]:
    """When the job that has waited longest became due (microseconds), or None."""
    return oldest(waiting_jobs(session))


def oldest(waiting: Iterable[Waiting]) -> Optional[int]:
    return min((one.oldest for one in waiting if one.oldest is not None), default=None)


def waited(since: Optional[int], now: int) -> Optional[float]:
    """Seconds since a job became due, or None where none waits."""
    return None if since is None else max(0.0, (now - since) / clock.SECOND)


def paused_queues(session: Session) -> list[str]:
    """Their names, sorted."""
    return list(session.scalars(select(Queue.name).where(Queue.paused_at.is_not(None)).order_by(Queue.name)))


def count_ahead(session: Session, job: Job) -> Count:
    """How many pending jobs of its lane a worker takes before this pending one."""
    there = (in_state("pending"), Job.queue == job.queue, Job.requires == job.requires)
    higher = count(session, *there, Job.priority > job.priority)
    position, edge = tuple_(Job.run_at, Job.seq), tuple_(literal(job.run_at), literal(job.seq))
    sooner = count(session, *there, Job.priority == job.priority, position < edge)
    number = higher.number + sooner.number
    return Count(min(number, COUNT_CAP), number > COUNT_CAP or higher.capped or sooner.capped)


# --- some jobs -------------------------------------------------------------------------------------------------------


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
    def given_labels(self) -> list[str]:
        """Those that it was started with."""
        return json.loads(self.worker.labels) if self.worker.labels else []

    @property
    def labels(self) -> frozenset[str]:
        """All that it has, its host's among them."""
        return labels.of_worker(self.given_labels, self.worker.host)

    @property
    def shown_state(self) -> str:
        """running, quiet, stopping, stopped, silent (its heartbeat is late) or expired."""
        if self.worker.state != "running":
            return self.worker.state
        if not self.alive:
            return "silent"
        return {"run": "running", "quiet": "quiet", "stop": "stopping"}[self.worker.requested_state]


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


def events_of(session: Session, subject: str, limit: int = 50) -> list[Event]:
    """The newest events of one subject (`setting:backoff_base`, `queue:mail`), newest first."""
    return list(session.scalars(select(Event).where(Event.subject == subject).order_by(Event.id.desc()).limit(limit)))
