"""Jobs that seem stuck: on a worker that is silent, past the moment at which they should have been ended, or running
far longer than commands of their shape do. A guess for people to look at; nothing is done to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

from sqlalchemy.orm import Session

from webapp.core.settings import Settings
from webapp.db.models import Job
from webapp.insight import trends
from webapp.insight.rollups import REST
from webapp.jobs.queries import WorkerView
from webapp.lib import clock
from webapp.lib.command_patterns import COMMAND_PREFIX, command_shape

SLACK = clock.seconds(60)  # behind a time-out or a cancel, with the grace: an end that takes longer has gone wrong
LONG = clock.seconds(300)  # nothing shorter is called long
FAR = 10  # times the usual
ENOUGH = 5  # runs in a week, to know what is usual
MOST = 200  # jobs of one worker that are looked at, those that run longest


@dataclass(frozen=True)
class Stuck:
    """`why`: silent (its worker is), cancel, timeout or long; for the last, what is `usual`, in seconds."""

    job: Job
    why: str
    usual: Optional[float] = None


def stuck(session: Session, fleet: Sequence[WorkerView], values: Settings) -> list[Stuck]:
    """Those that run on these workers, the longest first."""
    now = clock.now()
    found, long = [], []
    for view in fleet:
        for job in view.jobs[:MOST]:
            why = "silent" if not view.alive else _overdue(job, values, now)
            if why is not None:
                found.append(Stuck(job, why))
            elif now - (job.started_at or now) > LONG:
                long.append(job)
    found += _unusual(session, long, now)
    return sorted(found, key=lambda one: (one.job.started_at or 0, one.job.seq))


def _overdue(job: Job, values: Settings, now: int) -> Optional[str]:
    """What should have ended it by now, its grace included."""
    late = clock.seconds(values.kill_grace) + SLACK
    timeout = values.job_timeout if job.timeout is None else job.timeout
    if job.cancel_requested_at is not None and now - job.cancel_requested_at > late:
        return "cancel"
    if timeout and job.started_at is not None and now - job.started_at > clock.seconds(timeout) + late:
        return "timeout"
    return None


def _unusual(session: Session, long: Sequence[Job], now: int) -> list[Stuck]:
    if not long:
        return []
    shapes = {job.seq: command_shape(job.command[:COMMAND_PREFIX]) for job in long}
    usual = trends.usual(session, set(shapes.values()) - {REST}, now - 7 * clock.DAY)
    found = []
    for job in long:
        known = usual.get(shapes[job.seq])
        if known is None or known.runs < ENOUGH:
            continue
        if now - (job.started_at or now) > FAR * clock.seconds(known.mean):
            found.append(Stuck(job, "long", known.mean))
    return found
