"""What needs attention. `templates/overview/_needs.html` says it, with the page or command that helps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

from flask import current_app
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from webapp.core.settings import Settings
from webapp.core.storage import db_errors
from webapp.db.models import Job
from webapp.insight import blockers
from webapp.insight.blockers import Obstacle
from webapp.insight.fleet import Shortage, WorkerView, shortages
from webapp.insight.size_limit import Overrun, overrun
from webapp.insight.stuck_jobs import Stuck, stuck
from webapp.jobs import queries
from webapp.jobs.lifecycle import in_state
from webapp.jobs.queries import Count, Waiting
from webapp.lib import clock
from webapp.notifications import views as notifications
from webapp.schedules import views as schedules

MOST_SCHEDULES = 20  # that are read
OVERDUE = clock.seconds(120)  # longer than a due job takes to become pending


@dataclass(frozen=True)
class Needs:
    """A field that is empty needs no attention.

    Attributes:
        disk: 'low' or 'full', if the disk of the database is.
        log: size of the database's log in bytes, if it is far too large.
        size: how much too large the database is, if retention cannot make it smaller.
        silent: number of workers that do not respond.
        overdue: states, 'failed' or 'scheduled', with jobs that no worker has picked up in time.
        paused: names of paused queues.
        unserved: queues whose pending jobs no running worker serves, with their number.
        short: workers that run fewer jobs than configured.
        schedules: names and problems of schedules that are broken, late, long or failing.
        channels: names and answers of channels whose last message failed.
        stranded: label sets with pending jobs that no running worker has.
    """

    disk: str
    log: Optional[int]
    size: Optional[Overrun]
    alive: int
    silent: int
    stuck: list[Stuck]
    short: list[Shortage]
    overdue: list[str]
    paused: list[str]
    unserved: dict[str, Count]
    stranded: list[tuple[Waiting, Obstacle]]
    schedules: list[tuple[str, str]]
    channels: list[tuple[str, str]]


def needs(session: Session, fleet: Sequence[WorkerView], values: Settings) -> Needs:
    config = current_app.extensions["queuectl_config"]
    free = db_errors.disk_nearly_full(config)
    alive = [view for view in fleet if view.alive]
    return Needs(
        disk="" if free is None else "full" if free < db_errors.NO_SPACE else "low",
        log=db_errors.large_log(config),
        size=overrun(session, values, only_stuck=True),
        alive=len(alive),
        silent=len(fleet) - len(alive),
        stuck=stuck(session, fleet, values),
        short=shortages(session),
        overdue=[state for state in ("failed", "scheduled") if _is_overdue(session, state)],
        paused=queries.paused_queues(session),
        unserved=blockers.unserved(session, alive),
        stranded=blockers.stranded(session, alive),
        schedules=[
            (row.name, "; ".join(schedules.problems(row, clock.now())))
            for row in schedules.needing_attention(session, MOST_SCHEDULES)
        ],
        channels=[
            (view.row.name, view.failure.answer or "no answer")
            for view in notifications.failing_channels(session)
            if view.failure is not None
        ],
    )


def _is_overdue(session: Session, state: str) -> bool:
    first = session.scalar(select(func.min(Job.run_at)).where(in_state(state), Job.state == state))
    return first is not None and first < clock.now() - OVERDUE
