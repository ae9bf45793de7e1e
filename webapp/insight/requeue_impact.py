"""The effect of a requeue, shown before it is confirmed: how long the jobs take, and what blocks them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Optional

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from webapp.core.labels import LabelSet
from webapp.db.models import Job
from webapp.insight import blockers, trends
from webapp.insight.blockers import Obstacle
from webapp.jobs import queries
from webapp.jobs.lifecycle import in_state
from webapp.jobs.queries import Count
from webapp.lib import clock

SAMPLE_SIZE = 2_000  # newest jobs: a sample of the queues and run times
MAX_LABEL_SETS = 20  # those with the most jobs are examined one by one


@dataclass(frozen=True)
class Part:
    """The jobs of one label set: their number in the sample, the pending jobs ahead, and what blocks them."""

    label_set: LabelSet
    jobs: int
    ahead: Count
    obstacle: Optional[Obstacle]

    @property
    def queue(self) -> str:
        return self.label_set.queue


@dataclass(frozen=True)
class Impact:
    """The effect of a requeue of `number` jobs."""

    number: Count
    parts: list[Part]  # by label set, the largest first
    partly: bool  # the sample has only the SAMPLE_SIZE newest jobs
    seconds: Optional[float]  # until the last job has run, blocked queues left out; None: unknown
    pace: str  # basis of `seconds`: 'rate' (recently ended jobs), 'slots' (run time and slots), '' for None
    per_minute: Optional[float]  # jobs that end per minute at the present rate
    slots: int  # of the workers that serve these queues
    run_time: Optional[float]  # seconds, average of the latest attempts

    @property
    def blocked(self) -> list[Part]:
        return [part for part in self.parts if part.obstacle is not None]

    @property
    def ahead(self) -> int:
        """Pending jobs in the same queues, blocked ones left out; a capped count is a minimum."""
        return sum(part.ahead.number for part in self.parts if part.obstacle is None)


def of(session: Session, which: ColumnElement[bool], number: Count) -> Impact:
    """The impact of making these jobs pending. `number` is their number."""
    by_label_set, run_time, sampled = _sample(session, which)
    parts: list[Part] = []
    takers: dict[str, int] = {}  # id of each worker that serves a moving part → its slots
    for label_set, jobs in by_label_set.most_common(MAX_LABEL_SETS):
        fleet = blockers.fleet_of(session, label_set.queue, label_set.requires)
        pending = (in_state("pending"), Job.queue == label_set.queue, Job.requires == label_set.requires)
        parts.append(Part(label_set, jobs, queries.count(session, *pending), fleet.obstacle))
        if fleet.obstacle is None:
            takers.update({view.worker.id: view.worker.slots for view in fleet.takers})
    moving = [part for part in parts if part.obstacle is None]
    rates = trends.queue_rates(session, [part.queue for part in moving])
    per_minute = sum(rates.values()) or None
    slots = sum(takers.values())
    moved = number.number * sum(part.jobs for part in moving) / max(sampled, 1)
    ahead = sum(part.ahead.number for part in moving)
    seconds, pace = None, ""
    if moving and per_minute and ahead:
        # The rate of busy workers shows their capacity; the rate of idle workers does not.
        seconds, pace = (moved + ahead) / per_minute * 60, "rate"
    elif moving and slots and run_time is not None:
        seconds, pace = max(moved / slots, 1.0) * run_time, "slots"
    return Impact(number, parts, number.capped or number.number > sampled, seconds, pace, per_minute, slots, run_time)


def _sample(session: Session, which: ColumnElement[bool]) -> tuple[Counter[LabelSet], Optional[float], int]:
    """Jobs by label set, their average run time in seconds, and the size of the sample."""
    newest = select(Job.queue, Job.requires, (Job.finished_at - Job.started_at).label("ran")).where(which)
    rows = session.execute(newest.order_by(Job.finished_at.desc(), Job.seq.desc()).limit(SAMPLE_SIZE)).all()
    by_label_set = Counter(LabelSet(*pair) for pair in sorted((row.queue, row.requires) for row in rows))
    ran = [row.ran for row in rows if row.ran is not None]
    return by_label_set, sum(ran) / len(ran) / clock.SECOND if ran else None, len(rows)
