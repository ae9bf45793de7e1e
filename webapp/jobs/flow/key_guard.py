"""Unique keys in actions on jobs: a job whose key another one holds is skipped, and the others are changed.

The index refuses conflicts that this module has not seen. Then the whole set of jobs is checked again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Optional

from sqlalchemy import ColumnElement, Row, String, literal, select, text, true
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from webapp.core.flow.unique_keys import TRIES, Holder, holders
from webapp.db.engines import is_sqlite
from webapp.db.models import Job


def guarded(
    session: Session,
    takers: Optional[ColumnElement[bool]],
    statement: Any,
    given: Mapping[str, Any],
) -> tuple[Sequence[Row[Any]], dict[str, Holder]]:
    """Execute an UPDATE or DELETE of jobs, but not of those whose keys are held.

    `takers`: the jobs that take their key with it; None: none. `given`: the columns `unique_key` and `unique_while`
    that it gives them. Returns its rows, and who holds the key of each job that stays, by its id.
    """

    def execute(free: ColumnElement[bool]) -> Sequence[Row[Any]]:
        return session.execute(statement.where(free)).all()

    if takers is None:
        return execute(true()), {}
    key, while_ = (
        literal(given[name], String).label(name) if name in given else getattr(Job, name)
        for name in ("unique_key", "unique_while")
    )
    for tries_left in reversed(range(TRIES)):
        found = select(Job.seq, Job.id, key, while_).where(key.is_not(None), takers).order_by(Job.seq)
        jobs = session.execute(found).all()
        if not jobs:
            return execute(true()), {}
        held = _held(session, jobs)
        stay = [job.seq for job in jobs if job.id in held]
        try:
            with session.begin_nested():
                return execute(Job.seq.not_in(stay) if stay else true()), held
        except IntegrityError:  # PostgreSQL: another transaction was faster
            if not tries_left:
                raise
    raise AssertionError("unreachable")


def _held(session: Session, jobs: Sequence[Any]) -> dict[str, Holder]:
    """The first of several jobs with a key takes it."""
    keys = {job.unique_key for job in jobs}
    now_held = holders(
        lambda statement, values: session.execute(text(statement), dict(values)),
        keys,
        is_sqlite=is_sqlite(),
        lock=len(keys) > 1,
    )
    held: dict[str, Holder] = {}
    for job in jobs:
        holder = now_held.get(job.unique_key)
        if holder is not None and holder.id != job.id:
            held[job.id] = holder
        elif job.unique_while not in ("period", "expired"):  # a period does not begin again
            now_held[job.unique_key] = Holder(job.unique_key, job.id, "pending")
    return held
