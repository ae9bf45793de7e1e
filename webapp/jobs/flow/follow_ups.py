"""What an action on jobs does to the jobs that depend on them, and to their batches.

`jobs/lifecycle.py` calls it in the transaction of the action; `core/flow/` has the rules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Row, case, literal_column, select, text
from sqlalchemy.orm import Session

from webapp.core.flow import batches, dependencies
from webapp.db.engines import is_sqlite
from webapp.db.models import Job
from webapp.lib import clock

# When the job has ended again, its followers are decided again.
FOLLOWED_AGAIN = case((Job.followed == 0, 1), else_=Job.followed)
_UNDECIDED: ColumnElement[bool] = literal_column("followed = 1 AND finished_at IS NOT NULL")  # the text of the index


def after_reopening(session: Session, moved: Sequence[Row[Any]], act_id: int) -> None:
    """These jobs left a terminal state, or an undo restored them: they may run again."""
    followed = [row.seq for row in moved if row.followed is not None]
    if followed:
        dependencies.undecide(_executor(session), followed, act_id, is_sqlite=is_sqlite())
    names = sorted({row.batch for row in moved if row.batch is not None})
    if names:
        batches.reopen(_executor(session), names, is_sqlite=is_sqlite())


def block_again(session: Session, moved: Sequence[Row[Any]]) -> None:
    """Block requeued jobs whose parents have not ended as they want: a chain that is requeued keeps its order."""
    if moved:
        dependencies.block_again(_executor(session), [row.seq for row in moved], is_sqlite=is_sqlite())


def unblock(session: Session, blocked: Sequence[Row[Any]]) -> None:
    """Unblock restored jobs whose parents have ended in the meantime."""
    if blocked:
        seqs = [row.seq for row in blocked]
        dependencies.unblock(_executor(session), seqs, clock.now(), is_sqlite=is_sqlite())


def before_discard(session: Session, which: ColumnElement[bool]) -> None:
    """Decide about the followers of these jobs while their end is known."""
    parents = list(session.scalars(select(Job.seq).where(_UNDECIDED, which)))
    while parents and dependencies.decide(_executor(session), clock.now(), is_sqlite=is_sqlite(), parents=parents):
        pass


def _executor(session: Session) -> dependencies.Execute:
    def execute(statement: str, values: Mapping[str, Any]) -> Any:
        return session.execute(text(statement), dict(values))

    return execute
