"""Whether the database is larger than `max_database_size`, and what retention does not delete for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from sqlalchemy import text
from sqlalchemy.orm import Session

from webapp.core.settings import Settings
from webapp.core.states import STATES
from webapp.core.storage.size import FREED, MIB, used_bytes
from webapp.db import engines
from webapp.db.models import RetentionMark
from webapp.jobs import queries
from webapp.jobs.lifecycle import in_state
from webapp.jobs.queries import Count
from webapp.lib.text import size

_NOT_FREED = tuple(state for state in STATES if state not in FREED and state != "dead")
STUCK = "size/stuck"  # the mark that retention sets when nothing is left that it could delete for the limit


@dataclass(frozen=True)
class Overrun:
    """A database above its limit, in bytes.

    `is_stuck`: retention has found nothing more to delete for it.
    """

    used: int
    limit: int
    is_stuck: bool
    dead: Count
    unfinished: Count

    @property
    def rest(self) -> str:
        """What stays: '1 dead letter, 20 unfinished jobs and the records of the queue'"""
        jobs = self.unfinished.of("unfinished job")
        return f"{self.dead.of('dead letter')}, {jobs} and the records of the queue, such as the audit trail, stay"

    def __str__(self) -> str:
        return f"the database holds {size(self.used)}, more than max_database_size ({size(self.limit)})"


def used(session: Session) -> int:
    """The bytes that the database uses, see `core/size.py`."""
    return used_bytes(lambda statement: session.scalar(text(statement)), is_sqlite=engines.is_sqlite())


def overrun(session: Session, values: Settings, *, only_stuck: bool = False) -> Optional[Overrun]:
    """None: the database is within its limit, or has none. `only_stuck`: also if retention can free enough."""
    limit = values.max_database_size * MIB
    if not limit:
        return None
    is_stuck = session.get(RetentionMark, STUCK) is not None
    if only_stuck and not is_stuck:
        return None  # first, because on PostgreSQL this costs less than the size
    now = used(session)
    if now <= limit:
        return None
    unfinished = queries.total(queries.count(session, in_state(state)) for state in _NOT_FREED)
    return Overrun(now, limit, is_stuck, queries.count(session, in_state("dead")), unfinished)
