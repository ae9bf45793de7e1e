"""Pause and resume a queue. Console, CLI and API call the same functions; each is one durable transaction."""

from __future__ import annotations

from typing import Optional

from sqlalchemy import null, update

from webapp.db.engines import writing
from webapp.db.models import Queue
from webapp.jobs import settings
from webapp.jobs.lifecycle import NotFound, record
from webapp.lib import clock


def pause_queue(name: str, actor: str) -> bool:
    """Start no more jobs of this queue; running jobs continue. False: it was paused already. Raises NotFound."""
    return _set_pause(name, actor, clock.now())


def resume_queue(name: str, actor: str) -> bool:
    """Start the queue's jobs again. False: it was not paused. Raises NotFound."""
    return _set_pause(name, actor, None)


def _set_pause(name: str, actor: str, at: Optional[int]) -> bool:
    with writing() as session:
        before = Queue.paused_at.is_(None) if at is not None else Queue.paused_at.is_not(None)
        changed = session.execute(
            update(Queue)
            .where(Queue.name == name, before)
            .values(paused_at=at, paused_by=actor if at is not None else null())
            .returning(Queue.name)
        ).first()
        if changed is None:
            if session.get(Queue, name) is None:
                raise NotFound(f"no such queue: {name!r}. A queue exists once a job has named it.")
            return False
        settings.bump_revision(session)
        paused = at is not None
        change = {"before": {"paused": not paused}, "after": {"paused": paused}}
        record(session, "pause" if paused else "resume", [("queue:" + name, None)], actor, changes=[change])
        return True
