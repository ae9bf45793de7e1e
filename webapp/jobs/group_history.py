"""The history of failure groups: when their jobs died, and which actions moved their dead letters.

It stays when the jobs are requeued or deleted. A roll-up adds the deaths (`insight/rollups.py`); an action on dead
letters adds itself here, with the times of their deaths, which the roll-up may not have read yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Optional

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from webapp.core.states import STATES, TERMINAL
from webapp.db.failure_keys import ADD_DEATHS
from webapp.db.models import BulkAction, GroupAction, Job
from webapp.lib import clock

_COUNT = """
INSERT INTO group_actions (key, act_id, moved) VALUES (:key, :act_id, :moved)
ON CONFLICT (key, act_id) DO UPDATE SET moved = group_actions.moved + excluded.moved
"""
COUNTED_JOBS = 10_000  # of one action, whose states now are counted


@dataclass(frozen=True)
class Move:
    """An action on a group's dead letters.

    Attributes:
        moved: dead letters of the group that it moved.
        others: jobs of other groups that it moved.
        states: state → number of all its jobs now, up to COUNTED_JOBS; without jobs that were deleted or moved again.
        undone_by: the actor of its undo.
    """

    act: BulkAction
    moved: int
    states: dict[str, int]
    undone_by: Optional[str]

    @property
    def others(self) -> int:
        return max(0, self.act.moved - self.moved)

    @property
    def unfinished(self) -> int:
        return sum(self.states.get(state, 0) for state in STATES if state not in TERMINAL)


def record(session: Session, act_id: int, jobs: Iterable[Any]) -> None:
    """Record that an action moves these dead letters: rows with `error_key`, `died_at` and `last_error`."""
    groups: dict[str, dict[str, Any]] = {}
    for job in jobs:
        one = groups.setdefault(
            job.error_key,
            {"key": job.error_key, "act_id": act_id, "now": clock.now(), "deaths": 0, "moved": 0}
            | {"first_at": job.died_at, "last_at": job.died_at, "error": job.last_error},
        )
        one["moved"] += 1
        one["first_at"] = min(one["first_at"], job.died_at)
        if job.died_at > one["last_at"]:
            one["last_at"], one["error"] = job.died_at, job.last_error
    rows = [groups[key] for key in sorted(groups)]
    if rows:
        session.execute(text(ADD_DEATHS), rows)
        session.execute(text(_COUNT), rows)


def moves(session: Session, key: str, limit: int) -> list[Move]:
    """The newest actions on a group's dead letters, newest first."""
    found = (
        select(BulkAction, GroupAction.moved)
        .join(GroupAction, GroupAction.act_id == BulkAction.id)
        .where(GroupAction.key == key)
        .order_by(GroupAction.act_id.desc())
        .limit(limit)
    )
    rows = session.execute(found).tuples().all()
    undone = _undone(session, [act.id for act, _ in rows])
    return [Move(act, moved, _states(session, act), undone.get(act.id)) for act, moved in rows]


def _states(session: Session, act: BulkAction) -> dict[str, int]:
    """By the index of an action's jobs."""
    of_act = select(Job.state).where(Job.act_id == act.id).limit(COUNTED_JOBS).subquery()
    numbers = dict(session.execute(select(of_act.c.state, func.count()).group_by(of_act.c.state)).tuples().all())
    return {state: numbers[state] for state in STATES if state in numbers}


def _undone(session: Session, act_ids: Sequence[int]) -> dict[int, str]:
    """Action → actor of its undo. There are few actions, and an undo is newer than its action."""
    if not act_ids:
        return {}
    newer = BulkAction.id > min(act_ids), BulkAction.undoes.in_(act_ids), BulkAction.moved > 0
    rows = session.execute(select(BulkAction.undoes, BulkAction.actor).where(*newer))
    return {undone: actor for undone, actor in rows.tuples() if undone is not None}
