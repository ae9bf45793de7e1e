"""Jobs that seem stuck: their worker is silent, their time limit has passed, or they run far longer than usual.

A hint for users; nothing is done to the jobs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Optional

from sqlalchemy.orm import Session

from webapp.core.notices import SYSTEM_QUEUE
from webapp.core.settings import Settings
from webapp.db.models import Job
from webapp.insight import trends
from webapp.insight.fleet import WorkerView
from webapp.insight.rollups import REST
from webapp.lib import clock
from webapp.lib.command_patterns import COMMAND_PREFIX, command_shape

OVERDUE_AFTER = clock.seconds(60)  # past a time-out or a cancel and its grace period
MIN_RUN_TIME = clock.seconds(300)  # no shorter run counts as long
UNUSUAL_FACTOR = 10  # times the usual run time
MIN_RUNS = 5  # in a week, to know the usual run time
MAX_JOBS_PER_WORKER = 200  # the longest running ones


@dataclass(frozen=True)
class Stuck:
    """`why`: silent (its worker is), cancel, timeout or long. `usual`: for long, the usual run time in seconds."""

    job: Job
    why: str
    usual: Optional[float] = None


def stuck(session: Session, fleet: Sequence[WorkerView], values: Settings) -> list[Stuck]:
    """The stuck jobs of these workers, the longest running first."""
    now = clock.now()
    found, long = [], []
    for view in fleet:
        for job in view.jobs[:MAX_JOBS_PER_WORKER]:
            if job.queue == SYSTEM_QUEUE:
                continue
            why = "silent" if not view.alive else _overdue(job, values, now)
            if why is not None:
                found.append(Stuck(job, why))
            elif now - (job.started_at or now) > MIN_RUN_TIME:
                long.append(job)
    found += _unusual(session, long, now) if long else ()
    return sorted(found, key=lambda one: (one.job.started_at or 0, one.job.seq))


def _overdue(job: Job, values: Settings, now: int) -> Optional[str]:
    """The limit that should have ended the job by now; None: no limit has passed."""
    late = clock.seconds(values.kill_grace) + OVERDUE_AFTER
    timeout = values.job_timeout if job.timeout is None else job.timeout
    if job.cancel_requested_at is not None and now - job.cancel_requested_at > late:
        return "cancel"
    if timeout and job.started_at is not None and now - job.started_at > clock.seconds(timeout) + late:
        return "timeout"
    return None


def _unusual(session: Session, long: Sequence[Job], now: int) -> Iterator[Stuck]:
    shapes = {job.seq: command_shape(job.command[:COMMAND_PREFIX]) for job in long}
    usual = trends.usual(session, set(shapes.values()) - {REST}, now - 7 * clock.DAY)
    for job in long:
        known = usual.get(shapes[job.seq])
        if known is None or known.runs < MIN_RUNS:
            continue
        if now - (job.started_at or now) > UNUSUAL_FACTOR * clock.seconds(known.mean):
            yield Stuck(job, "long", known.mean)
