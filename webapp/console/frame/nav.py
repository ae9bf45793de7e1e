"""The badges of the navigation, and the warning bar."""

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
    """`workers`: workers with a heartbeat within the lease. `moved`: where the queue is, if it was moved."""

    dead: queries.Count
    workers: int
    paused: int
    moved: Optional[str] = None

    @property
    def worst(self) -> str:
        """The badge class of the closed menu: alarm, warn or ''."""
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
        moved=None if workers else relocated.note(session.connection()),  # a moved queue has no workers
    )
