"""The effect of a new setting value, before it is saved: two retry schedules, and what the value concerns now.

`templates/config/_consequence.html` has the texts. Counts are capped by `queries.count`, so large tables cost no more.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Optional

from sqlalchemy import func, literal_column, select
from sqlalchemy.orm import Session

from webapp.core import backoff
from webapp.core.settings import Number, Settings
from webapp.db.models import Audit, Job, Worker
from webapp.jobs import queries, settings
from webapp.jobs.lifecycle import in_state
from webapp.jobs.queries import Count
from webapp.lib import clock
from webapp.lib.durations import duration

BACKOFF = frozenset({"max_retries", "backoff_base", "backoff_max", "backoff_jitter"})
SHOWN_RETRIES = 8  # listed in a schedule
COUNTED_RETRIES = 1000  # listed, or summed up
KEPT = {"keep_completed": "completed", "keep_cancelled": "cancelled", "keep_dead": "dead"}


@dataclass(frozen=True)
class Timetable:
    """Without jitter: (number, wait, time since the first failure) of each retry, and the number not listed."""

    rows: list[tuple[int, str, str]]
    more: int
    total: str
    jitter: float

    @classmethod
    def of(cls, values: Settings, retries: int) -> Timetable:
        waits = backoff.timetable(values, min(retries, COUNTED_RETRIES))
        rows, passed = [], 0.0
        for retry, wait in enumerate(waits, 1):
            passed += wait
            if retry <= SHOWN_RETRIES:
                rows.append((retry, duration(wait), duration(passed)))
        return cls(rows, max(len(waits) - SHOWN_RETRIES, 0), duration(passed), values.backoff_jitter)


@dataclass(frozen=True)
class Consequence:
    """A value, compared with the current one. If both are equal, it is about the current value.

    Attributes:
        affected: how many waiting retries, jobs, audit entries or workers the value concerns now.
        before: the schedule of retries with the current value; None if both are equal.
        after: the schedule with the new value; both only for settings of retries.
    """

    key: str
    old: Number
    new: Number
    affected: Count
    before: Optional[Timetable] = None
    after: Optional[Timetable] = None

    @property
    def changed(self) -> bool:
        return self.new != self.old


def foresee(session: Session, value: settings.Value, new: Number) -> Consequence:
    key, affected = value.definition.key, _affected(session, value.definition.key, new)
    if key not in BACKOFF:
        return Consequence(key, value.value, new, affected)
    now = settings.load(session)
    then = copy.copy(now)
    setattr(then, key, new)
    before = Timetable.of(now, now.max_retries) if new != value.value else None
    return Consequence(key, value.value, new, affected, before, Timetable.of(then, then.max_retries))


def _affected(session: Session, key: str, new: Number) -> Count:
    if key in BACKOFF:
        return queries.count(session, in_state("failed"))
    before = clock.now() - int(new) * clock.DAY
    if key in KEPT and new:
        return queries.count(session, in_state(KEPT[key]), Job.finished_at < before)
    if key == "keep_audit" and new:
        # Only the first entries: no index has the time.
        first = select(Audit.at).order_by(Audit.id).limit(queries.COUNT_CAP + 1).subquery()
        found = session.scalar(select(func.count()).select_from(first).where(first.c.at < before)) or 0
        return Count(min(found, queries.COUNT_CAP), found > queries.COUNT_CAP)
    since = clock.now() - clock.seconds(new)
    if key == "job_timeout" and new:
        return queries.count(session, in_state("processing"), Job.started_at < since, Job.timeout.is_(None))
    if key == "lease":
        running = Worker.state == literal_column("'running'")
        silent = select(func.count()).select_from(Worker).where(running, Worker.seen_at < since)
        return Count(session.scalar(silent) or 0)
    return Count(0)
