"""The effect of a new setting value, before it is saved: two retry schedules, and what the value concerns now.

`templates/config/_consequence.html` has the texts. Counts are capped by `queries.count`, so large tables cost no more.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Optional

from sqlalchemy import func, literal_column, select
from sqlalchemy.orm import Session

from webapp.core.flow import retry_rules
from webapp.core.flow.retry_rules import Backoff
from webapp.core.settings import Definition, Number, Settings
from webapp.db.models import Audit, Delivery, Fire, Job, Worker
from webapp.insight import size_limit
from webapp.jobs import filters, queries, settings
from webapp.jobs.lifecycle import in_state
from webapp.jobs.queries import Count
from webapp.jobs.setting_deletions import STATES, keeps_less
from webapp.lib import clock
from webapp.lib.durations import duration

BACKOFF = frozenset({"max_retries", "backoff_base", "backoff_max", "backoff_jitter"})
SHOWN_RETRIES = 8  # listed in a schedule
COUNTED_RETRIES = 1000  # listed, or summed up


@dataclass(frozen=True)
class Timetable:
    """Without jitter: (number, wait, time since the first failure) of each retry, and the number not listed."""

    rows: list[tuple[int, str, str]]
    more: int
    total: str
    jitter: float

    @classmethod
    def of(cls, values: Settings, retries: int, own: Optional[Backoff] = None) -> Timetable:
        """`own`: the backoff of the job's retry rules."""
        number, jitter = min(retries, COUNTED_RETRIES), values.backoff_jitter
        if own is None:
            waits = retry_rules.timetable(values, number)
        else:
            waits = [own.delay(failures, values, 0.0) for failures in range(1, number + 1)]
            jitter = jitter if own.jitter is None else own.jitter
        rows, passed = [], 0.0
        for retry, wait in enumerate(waits, 1):
            passed += wait
            if retry <= SHOWN_RETRIES:
                rows.append((retry, duration(wait), duration(passed)))
        return cls(rows, max(len(waits) - SHOWN_RETRIES, 0), duration(passed), jitter)


@dataclass(frozen=True)
class Consequence:
    """A value, compared with the current one. If both are equal, it is about the current value.

    Attributes:
        affected: how many waiting retries, jobs, audit entries or workers the value concerns now.
        at_least: there may be more, because only the oldest jobs were read.
        used: bytes that the database uses; only for its limit.
        before: the schedule of retries with the current value; None if both are equal.
        after: the schedule with the new value; both only for settings of retries.
    """

    definition: Definition
    old: Number
    new: Number
    affected: Count
    at_least: bool = False
    used: int = 0
    before: Optional[Timetable] = None
    after: Optional[Timetable] = None

    @property
    def key(self) -> str:
        """The setting, without a queue."""
        return self.definition.base

    @property
    def queue(self) -> Optional[str]:
        """The queue whose own value this is."""
        return self.definition.queue

    @property
    def changed(self) -> bool:
        return self.new != self.old

    @property
    def deletes(self) -> bool:
        """For settings of retention: whether the new value keeps less than the current one."""
        return keeps_less(self.old, self.new)


def foresee(session: Session, value: settings.Value, new: Number) -> Consequence:
    definition, now = value.definition, settings.load(session)
    if definition.base in STATES:
        return Consequence(definition, value.value, new, *_old_jobs(session, definition, now, new))
    affected = _affected(session, definition.key, new)
    if definition.key == "max_database_size":
        return Consequence(definition, value.value, new, affected, used=size_limit.used(session))
    if definition.key not in BACKOFF:
        return Consequence(definition, value.value, new, affected)
    then = copy.copy(now)
    setattr(then, definition.key, new)
    before = Timetable.of(now, now.max_retries) if new != value.value else None
    after = Timetable.of(then, then.max_retries)
    return Consequence(definition, value.value, new, affected, before=before, after=after)


def _old_jobs(session: Session, definition: Definition, values: Settings, new: Number) -> tuple[Count, bool]:
    """The jobs that are older than a setting keeps, or whose output is, and whether there may be more of them."""
    if not new:
        return Count(0), False
    before, own = clock.now() - int(new) * clock.DAY, values.own[definition.base]
    old = [in_state(state) & (Job.finished_at < before) for state in STATES[definition.base]]
    if definition.queue is None and not own:
        return queries.total(queries.count(session, one) for one in old), False
    number, read = 0, 0
    for one in old:  # no index has the queue
        first = select(Job.queue).where(one).order_by(Job.finished_at, Job.seq).limit(filters.SEARCH_CAP).subquery()
        for queue, jobs in session.execute(select(first.c.queue, func.count()).group_by(first.c.queue)):
            read += jobs
            number += jobs if (queue == definition.queue if definition.queue else queue not in own) else 0
    return Count.up_to(number), number <= queries.COUNT_CAP and read >= filters.SEARCH_CAP


def _affected(session: Session, key: str, new: Number) -> Count:
    if key in BACKOFF:
        return queries.count(session, in_state("failed"))
    before = clock.now() - int(new) * clock.DAY
    if key == "keep_audit" and new:
        # Only the first entries: no index has the time.
        first = select(Audit.at).order_by(Audit.id).limit(queries.COUNT_CAP + 1).subquery()
        found = session.scalar(select(func.count()).select_from(first).where(first.c.at < before)) or 0
        return Count.up_to(found)
    if key in ("keep_fires", "keep_deliveries") and new:
        at = Fire.decided_at if key == "keep_fires" else Delivery.ended_at
        old = select(literal_column("1")).where(at < before).limit(queries.COUNT_CAP + 1).subquery()
        return Count.up_to(session.scalar(select(func.count()).select_from(old)) or 0)
    since = clock.now() - clock.seconds(new)
    if key == "job_timeout" and new:
        return queries.count(session, in_state("processing"), Job.started_at < since, Job.timeout.is_(None))
    if key == "lease":
        running = Worker.state == literal_column("'running'")
        silent = select(func.count()).select_from(Worker).where(running, Worker.seen_at < since)
        return Count(session.scalar(silent) or 0)
    return Count(0)
