"""What a requeue would set off, told before it is confirmed: how long the jobs take, and what keeps them waiting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Optional

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from webapp.core.labels import LabelSet
from webapp.db.models import Job
from webapp.insight import blockers
from webapp.insight.blockers import Fleet, Obstacle
from webapp.jobs import queries
from webapp.jobs.lifecycle import in_state
from webapp.jobs.queries import Count
from webapp.lib import clock

LOOK = 2_000  # of the jobs, the newest ones, whose queues and run times stand for all
MOST_LABEL_SETS = 20  # that are looked at one by one; the fullest


@dataclass(frozen=True)
class Part:
    """The jobs of one lane: how many of those looked at, how many wait before them, and what keeps all waiting."""

    label_set: LabelSet
    jobs: int
    ahead: Count
    obstacle: Optional[Obstacle]

    @property
    def queue(self) -> str:
        return self.label_set.queue


@dataclass(frozen=True)
class Impact:
    """What would become of `number` jobs.

    Attributes:
        parts: by queue and what they require, the fullest first.
        partly: only the newest LOOK of the jobs were looked at.
        seconds: until the last has run, but for queues where nothing runs; None: nobody can tell.
        pace: how that was reckoned: 'rate' (jobs that ended lately), 'slots' (run time over the slots that serve
            them), '' for None.
        per_minute: jobs that end in a minute, at the present rate.
        slots: that serve these queues.
        run_time: seconds, of their latest attempts on average.
    """

    number: Count
    parts: list[Part]
    partly: bool
    seconds: Optional[float]
    pace: str
    per_minute: Optional[float]
    slots: int
    run_time: Optional[float]

    @property
    def blocked(self) -> list[Part]:
        return [part for part in self.parts if part.obstacle is not None]

    @property
    def ahead(self) -> int:
        """Jobs that wait already where these would go; capped counts count as what they are at least."""
        return sum(part.ahead.number for part in self.parts if part.obstacle is None)


def of(session: Session, which: ColumnElement[bool], number: Count) -> Impact:
    """The impact of making these jobs pending. `number` is how many they are."""
    by_lane, run_time, looked = _look(session, which)
    parts: list[Part] = []
    fleets: dict[LabelSet, Fleet] = {}
    for label_set, jobs in by_lane.most_common(MOST_LABEL_SETS):
        fleets[label_set] = fleet = blockers.fleet_of(session, label_set.queue, label_set.requires)
        there = (in_state("pending"), Job.queue == label_set.queue, Job.requires == label_set.requires)
        parts.append(Part(label_set, jobs, queries.count(session, *there), fleet.obstacle))
    moving = [part for part in parts if part.obstacle is None]
    per_minute = _rate(session, {part.queue for part in moving})
    slots = _slots([fleets[part.label_set] for part in moving])
    moved = number.number * sum(part.jobs for part in moving) / max(looked, 1)
    busy = any(part.ahead.number for part in moving)
    seconds, pace = None, ""
    if moving and per_minute and busy:
        # Workers that are busy show what they can do; idle ones do not.
        seconds, pace = (moved + sum(part.ahead.number for part in moving)) / per_minute * 60, "rate"
    elif moving and slots and run_time is not None:
        seconds, pace = max(moved / slots, 1.0) * run_time, "slots"
    return Impact(number, parts, number.capped or number.number > looked, seconds, pace, per_minute, slots, run_time)


def _look(session: Session, which: ColumnElement[bool]) -> tuple[Counter[LabelSet], Optional[float], int]:
    """Lanes with their number of jobs, how long the jobs ran on average (seconds), and how many were looked at."""
    newest = (
        select(Job.queue, Job.requires, (Job.finished_at - Job.started_at).label("ran"))
        .where(which)
        .order_by(Job.finished_at.desc(), Job.seq.desc())
        .limit(LOOK)
        .subquery()
    )
    rows = session.execute(
        select(
            newest.c.queue, newest.c.requires, func.count(), func.sum(newest.c.ran), func.count(newest.c.ran)
        ).group_by(newest.c.queue, newest.c.requires)
    ).all()
    ran, timed = sum(int(row[3] or 0) for row in rows), sum(row[4] for row in rows)
    by_lane = Counter({LabelSet(row[0], row[1]): row[2] for row in rows})
    return by_lane, ran / timed / clock.SECOND if timed else None, sum(by_lane.values())


def _rate(session: Session, names: Collection[str]) -> Optional[float]:
    """Jobs of these queues that end in a minute; None where none has ended lately."""
    rates = [60 / seconds for name in names if (seconds := blockers.seconds_for(session, name, 1))]
    return sum(rates) or None


def _slots(fleets: list[Fleet]) -> int:
    """Of all workers that serve any of these queues, each counted once."""
    takers = {
        view.worker.id: view.worker.slots
        for fleet in fleets
        for view in fleet.serving
        if view.worker.requested_state == "run"
    }
    return sum(takers.values())
