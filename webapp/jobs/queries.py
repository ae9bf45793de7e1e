"""Counts of jobs, pending jobs by label set, and other small reads. Counts of pages stop at COUNT_CAP.

Pages of jobs are in `jobs/listing.py`; one job's attempts, events and output are in `jobs/job_detail.py`.
"""

from __future__ import annotations

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
    select,
    text,
    tuple_,
)
from sqlalchemy.orm import Session

from webapp.core.labels import LabelSet
from webapp.core.notices import SYSTEM_QUEUE
from webapp.core.statements import OLDEST_IN_SET, OLDEST_PENDING
from webapp.core.states import STATES, TERMINAL
from webapp.db import label_sets
from webapp.db.models import Event, Job, OutputTail, Queue
from webapp.jobs import listing
from webapp.jobs.filters import NOT_SYSTEM, JobFilter
from webapp.jobs.lifecycle import in_state
from webapp.lib import clock

COUNT_CAP = 10_000
RECENT_COMMANDS, RECENT_JOBS = 10, 500
COUNT_SECONDS = 5.0  # that an exact count may take
MILLION = 1_000_000  # from here a number is shown as '1.2M'
_SYSTEM = text("SELECT state, count(*) FROM jobs WHERE substr(queue, 1, 1) = '_' GROUP BY state")  # as its index says
UNFINISHED = tuple(state for state in STATES if state not in TERMINAL)


@dataclass(frozen=True)
class Count:
    """A number of rows. `capped`: there are more, because a count stopped at COUNT_CAP."""

    number: int
    capped: bool = False

    @classmethod
    def up_to(cls, number: int) -> Count:
        """`number` may be larger than COUNT_CAP."""
        return cls(min(number, COUNT_CAP), number > COUNT_CAP)

    def __str__(self) -> str:
        if self.number >= MILLION:
            return f"{self.number // (MILLION // 10) / 10}M{'+' * self.capped}"  # not rounded up
        return f"{self.number:,}{'+' * self.capped}"

    def of(self, one: str, many: Optional[str] = None) -> str:
        """'1 job', '10,000+ jobs'"""
        return f"{self} {one if self.number == 1 else many or one + 's'}"


# --- counts ----------------------------------------------------------------------------------------------------------


def count(session: Session, *conditions: ColumnElement[bool]) -> Count:
    limited = select(literal_column("1")).select_from(Job).where(*conditions).limit(COUNT_CAP + 1).subquery()
    return Count.up_to(session.scalar(select(func.count()).select_from(limited)) or 0)


def count_found(session: Session, wanted: JobFilter, seconds: Optional[float] = None) -> tuple[Count, bool]:
    """How many jobs match, and whether the search read all rows: without an index it stops after `seconds`.

    None: filters.SEARCH_SECONDS, as a list. For single requests: what an index answers is counted to the end.
    """
    if not wanted.scans:
        return Count(count_exactly(session, wanted)), True
    counts, whole = [], False
    for parts, last in listing.ranges(session, wanted, seconds):
        counts += [count(session, part) for part in parts]
        whole = last
    return total(counts), whole


def count_indexed(session: Session, wanted: JobFilter) -> Count:
    """How many jobs match a filter that an index answers."""
    if wanted != JobFilter(state=wanted.state):
        return count(session, wanted.where())
    return _without(count(session, wanted.found()), _count_hidden(session, wanted))


def count_exactly(session: Session, wanted: JobFilter) -> int:
    """The same without a limit: 40 ms for a million jobs. Pages take `insight/exact_counts.py`."""
    every = select(func.count()).select_from(Job)
    if wanted != JobFilter(state=wanted.state):
        return session.scalar(every.where(wanted.where())) or 0
    return max(0, (session.scalar(every.where(wanted.found())) or 0) - _count_hidden(session, wanted))


def _count_hidden(session: Session, wanted: JobFilter) -> int:
    """How many jobs of a whole state send messages. They are subtracted: to look at each job's queue, its row must be
    read."""
    hidden = _count_system(session)
    return sum(hidden.values()) if wanted.state is None else hidden.get(wanted.state, 0)


def count_all(session: Session, wanted: JobFilter, seconds: float = COUNT_SECONDS) -> tuple[Count, bool]:
    """How many jobs match, beyond COUNT_CAP too, and whether these are all: a search stops after `seconds`."""
    if not wanted.scans:
        return Count(count_exactly(session, wanted)), True
    every, number, whole = select(func.count()).select_from(Job), 0, False
    for parts, last in listing.ranges(session, wanted, seconds):
        number += sum(session.scalar(every.where(part)) or 0 for part in parts)
        whole = last
    return Count(number), whole


def _count_system(session: Session) -> dict[str, int]:
    """How many jobs that send messages are in each state, by their own index."""
    return dict(session.execute(_SYSTEM).tuples().all())


def _without(counted: Count, number: int) -> Count:
    """A count without so many jobs. A capped one stays."""
    return counted if counted.capped else Count(max(0, counted.number - number))


def total(counts: Iterable[Count]) -> Count:
    counts = list(counts)
    return Count(sum(one.number for one in counts), any(one.capped for one in counts))


def count_states(session: Session, states: tuple[str, ...] = STATES) -> dict[str, Count]:
    """How many jobs are in each of these states."""
    if not states:
        return {}
    hidden, numbers = _count_system(session), session.execute(_count_whole(states), {"most": COUNT_CAP + 1}).one()
    return {state: _without(Count.up_to(number), hidden.get(state, 0)) for state, number in zip(states, numbers)}


def count_unfinished(session: Session, queue: str) -> dict[str, Count]:
    """How many jobs of this queue are in each state that is not terminal, without states that have none.

    One statement: with several, PostgreSQL could miss a job that changes its state between them.
    """
    numbers = session.execute(_count_each(UNFINISHED, Job.queue == queue), {"most": COUNT_CAP + 1}).one()
    return {state: Count.up_to(number) for state, number in zip(UNFINISHED, numbers) if number}


@lru_cache(maxsize=50)
def _count_whole(states: tuple[str, ...]) -> Select[Any]:
    """Built once, because every page refresh runs it."""
    return _count_each(states)


def _count_each(states: Sequence[str], *conditions: ColumnElement[bool]) -> Select[Any]:
    each = []
    for state in states:
        jobs: Select[Any] = select(literal_column("1")).select_from(Job).where(in_state(state), *conditions)
        limited = jobs.limit(bindparam("most", type_=Integer)).subquery()
        each.append(select(func.count()).select_from(limited).scalar_subquery().label(state))
    return select(*each)


def count_states_exactly(session: Session) -> dict[str, int]:
    """Exact numbers, for single requests; pages take `insight/exact_counts.py`."""
    return {
        state: count_exactly(session, JobFilter(state=state)) if counted.capped else counted.number
        for state, counted in count_states(session).items()
    }


def count_finished_since(session: Session, since: int) -> Count:
    """How many jobs completed or died since a time (microseconds)."""
    return total(
        count(session, in_state(state), Job.finished_at >= since, NOT_SYSTEM) for state in ("completed", "dead")
    )


_FIRST = "state = 'pending' AND losses = 0 AND limits = ''"  # as the index has it
_OLDEST_OF_ALL = text(OLDEST_PENDING.format(jobs=f"{_FIRST} AND queue <> '{SYSTEM_QUEUE}'"))
_OLDEST_LIMITED = text(OLDEST_PENDING.format(jobs=f"state = 'pending' AND limits <> '' AND queue <> '{SYSTEM_QUEUE}'"))
# Jobs whose worker died are usually few.
_OLDEST_LOST = text(
    f"SELECT min(run_at) FROM jobs WHERE state = 'pending' AND losses > 0 AND queue <> '{SYSTEM_QUEUE}'"  # noqa: S608
)
_IN_FOUND = "state = 'pending' AND queue = found.queue AND requires = found.requires"
# Columns for `label_sets.select_busy`: the number of pending jobs and the earliest due time.
_PENDING = f"""
queue, requires, (SELECT count(*) FROM (SELECT 1 FROM jobs WHERE {_IN_FOUND} LIMIT :most) AS counted),
({OLDEST_IN_SET.format(jobs=_IN_FOUND)})
"""  # noqa: S608  no part comes from a user


@dataclass(frozen=True)
class Waiting:
    """The pending jobs of a label set. `oldest`: the earliest due time (microseconds); None: no job is pending."""

    label_set: LabelSet
    number: Count
    oldest: Optional[int]


def waiting_jobs(
    session: Session,
    queues: Optional[Sequence[str]] = None,
    *,
    labelled: bool = False,
    not_in: Sequence[str] = (),
    limit: Optional[int] = None,
) -> list[Waiting]:
    """Pending jobs by label set, sorted; label sets without pending jobs are left out.

    One statement. For the arguments see `label_sets.select_busy`.
    """
    busy = label_sets.select_busy(_PENDING, queues, labelled=labelled, not_in=not_in, limit=limit)
    rows = session.execute(busy.bindparams(most=COUNT_CAP + 1))
    waiting = [Waiting(LabelSet(queue, requires), Count.up_to(number), due) for queue, requires, number, due in rows]
    return sorted(waiting, key=lambda one: (one.label_set.queue, one.label_set.requires))


def oldest_pending(session: Session) -> Optional[int]:
    """When the job that has waited longest became due (microseconds), or None. Without SYSTEM_QUEUE."""
    times = [session.scalar(one) for one in (_OLDEST_OF_ALL, _OLDEST_LIMITED, _OLDEST_LOST)]
    return min((at for at in times if at is not None), default=None)


def oldest(waiting: Iterable[Waiting]) -> Optional[int]:
    return min((one.oldest for one in waiting if one.oldest is not None), default=None)


def waited(since: Optional[int], now: int) -> Optional[float]:
    """Seconds since a due time; None without one."""
    return None if since is None else max(0.0, (now - since) / clock.SECOND)


def paused_queues(session: Session) -> list[str]:
    """Names of paused queues, sorted."""
    return list(session.scalars(select(Queue.name).where(Queue.paused_at.is_not(None)).order_by(Queue.name)))


def unpaused_queues(session: Session) -> list[str]:
    """Names of queues that are neither paused nor removed, sorted. Not the queue of the jobs that send messages."""
    kept = Queue.paused_at.is_(None), Queue.removed_at.is_(None), Queue.name != SYSTEM_QUEUE
    return list(session.scalars(select(Queue.name).where(*kept).order_by(Queue.name)))


def count_ahead(session: Session, job: Job) -> Count:
    """How many pending jobs of the same label set a worker takes before this pending job."""
    there = (in_state("pending"), Job.queue == job.queue, Job.requires == job.requires, Job.limits == job.limits)
    higher = count(session, *there, Job.priority > job.priority)
    position, edge = tuple_(Job.run_at, Job.seq), tuple_(literal(job.run_at), literal(job.seq))
    sooner = count(session, *there, Job.priority == job.priority, position < edge)
    return total([higher, sooner])


def ids_of_batch(session: Session, batch: str, states: Sequence[str]) -> list[str]:
    """The jobs of a batch that are in one of these states, in line order."""
    return list(session.scalars(select(Job.id).where(Job.batch == batch, in_state(*states)).order_by(Job.seq)))


# --- some jobs -------------------------------------------------------------------------------------------------------


def recent_commands(session: Session, actor: str) -> list[Job]:
    """The newest job for each of the actor's last RECENT_COMMANDS commands, among the newest RECENT_JOBS jobs."""
    newest = select(Job.seq).order_by(Job.seq.desc()).limit(RECENT_JOBS)
    jobs: dict[str, Job] = {}
    for job in session.scalars(
        select(Job).where(Job.seq.in_(newest), Job.created_by == actor).order_by(Job.seq.desc())
    ):
        jobs.setdefault(job.command, job)
    return list(jobs.values())[:RECENT_COMMANDS]


def lines_found(session: Session, jobs: Sequence[Job], searched: Sequence[str]) -> dict[int, str]:
    """The line of a dead letter's last output with a word that the search found nowhere else, by `seq`."""
    dead = [job for job in jobs if job.state == "dead"] if searched else []
    if not dead:
        return {}
    rows = session.scalars(select(OutputTail).where(OutputTail.job_seq.in_([job.seq for job in dead])))
    tails = {one.job_seq: one.text for one in rows}
    found: dict[int, str] = {}
    for job in dead:
        shown = " ".join((job.id, job.command, job.last_error or "")).casefold()
        hidden = [word.casefold() for word in searched if word.casefold() not in shown]
        lines = tails.get(job.seq, "").splitlines() if hidden else []
        line = next((line for line in lines if hidden[0] in line.casefold()), None)
        if line is not None:
            found[job.seq] = line.strip()
    return found


def events_of(session: Session, subject: str, limit: Optional[int] = 50) -> list[Event]:
    """The newest events of one subject (`setting:backoff_base`, `queue:mail`), newest first."""
    return list(session.scalars(select(Event).where(Event.subject == subject).order_by(Event.id.desc()).limit(limit)))
