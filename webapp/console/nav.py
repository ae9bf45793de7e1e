"""What stands above every page: badges that call for a person, and the bar that warns when nothing will run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from sqlalchemy import func, literal_column, select
from sqlalchemy.orm import Session

from webapp.core import relocated
from webapp.db.models import Queue, Worker
from webapp.jobs import queries, settings
from webapp.jobs.lifecycle import in_state
from webapp.lib import clock


@dataclass(frozen=True)
class Nav:
    """`workers`: those whose heartbeat is younger than the lease. `moved`: where the queue is, if not here any more."""

    dead: queries.Count
    workers: int
    paused: int
    moved: Optional[str] = None

    @property
    def worst(self) -> str:
        """The class of the badge that a closed menu wears: alarm, warn or none."""
        if self.workers == 0:
            return "alarm"
        return "warn" if self.dead.number or self.paused else ""


def nav_of(session: Session) -> Nav:
    lease = settings.load(session).lease
    running = Worker.state == literal_column("'running'")
    alive = (
        select(func.count()).select_from(Worker).where(running, Worker.seen_at >= clock.now() - clock.seconds(lease))
    )
    paused = select(func.count()).select_from(Queue).where(Queue.paused_at.is_not(None))
    workers = session.scalar(alive) or 0
    return Nav(
        dead=queries.count(session, in_state("dead")),
        workers=workers,
        paused=session.scalar(paused) or 0,
        moved=None if workers else relocated.note(session.connection()),  # none runs in a queue that was moved
    )
