"""Enqueue jobs, and actions on jobs: requeue, run now, cancel, discard. Console, CLI and API all call `apply`.

Each action has a row, so it can be shown and undone, and another process can finish it. The row names the jobs (ids or
a filter), the actor and the progress. One transaction moves at most BATCH jobs. An undo is an action too. A canary
(`jobs/canary.py`) is an action that waits for one job.

`core/states.py` says which states a verb leaves and enters. All other rules of a verb are here.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Callable, Optional, Union

from sqlalchemy import ColumnElement, and_, case, func, select, update
from sqlalchemy.orm import Session

from webapp.core import audit_lines
from webapp.core import enqueue as core_enqueue
from webapp.core.flow.batches import Batch
from webapp.core.flow.unique_keys import Holder
from webapp.core.job_spec import JobSpec
from webapp.core.states import ARROWS
from webapp.core.storage.locks import BUSY_TIMEOUT
from webapp.db import audit
from webapp.db.engines import database, let_others_write, raising_as_sqlalchemy, reading, writing
from webapp.db.models import BulkAction, Job
from webapp.jobs import deletion, filters, lifecycle, queries, settings
from webapp.jobs.filters import JobFilter
from webapp.jobs.lifecycle import NotFound, Outcome, can_be_put_back, entered, in_state, move, put_back, record
from webapp.lib import clock

BATCH = 500  # jobs in one transaction: it holds the write lock for at most about 50 ms
READS_PER_BATCH = 5  # reads of SEARCH_CAP rows each to find the jobs of one batch
LEASE = clock.seconds(30)  # without progress for so long, another process may continue the action
SHOWN_IDS = 20  # ids that the row of a finished action keeps for display
VERBS = ("requeue", "discard", "cancel", "run_now", "edit")  # edit: see jobs/editing.py


class CannotUndo(lifecycle.Conflict):
    """All its jobs have gone on, or its verb has no way back."""


@dataclass(frozen=True)
class Result:
    """The progress of an action.

    Attributes:
        action_id: 0 if jobs were named and none was moved: then there is no row.
        moved: number of jobs that were moved or asked to stop.
        skipped: number of jobs in a state that the verb cannot leave.
        done: False while the action still runs; a maintenance process continues it.
        undo: the id for an undo; None if there is nothing to undo.
        outcome: the result for each named job; for a filter, only the jobs that were asked to stop.
    """

    action_id: int
    moved: int
    skipped: int
    done: bool
    undo: Optional[int]
    outcome: Outcome


def enqueue(
    specs: Sequence[JobSpec],
    actor: str,
    *,
    form_key: Optional[str] = None,
    batch: Optional[Batch] = None,
    stored: Optional[Callable[[int], None]] = None,
    held: Optional[dict[int, Holder]] = None,
) -> list[str]:
    """Store all jobs or none, see `core/enqueue.py`. Also raises Busy, Relocated and DBAPIError."""
    more: dict[str, Any] = {"form_key": form_key, "batch": batch, "stored": stored, "held": held}
    with raising_as_sqlalchemy():
        return core_enqueue.enqueue(database(), specs, actor, **more)


# --- rules -----------------------------------------------------------------------------------------------------------


def values_of(verb: str) -> dict[str, Any]:
    """The columns that a verb sets besides the state."""
    now = clock.now()
    fresh = {"failures": 0, "losses": 0, "lone_losses": 0, "finished_at": None, "run_at": now}
    values: dict[str, dict[str, Any]] = {
        "requeue": fresh,
        "edit": fresh,
        "run_now": {"run_at": now},
        "cancel": {"finished_at": now},
        "discard": {},
    }
    return values[verb]


def can_undo(verb: str) -> bool:
    """False for an undo and for a discard, which deletes its jobs."""
    return verb in VERBS and ARROWS[verb].enters is not None


def movable(verb: str) -> tuple[str, ...]:
    """The states whose jobs a verb changes. A cancel asks running jobs to stop."""
    return ARROWS[verb].leaves + (("processing",) if verb == "cancel" else ())


# --- doing -----------------------------------------------------------------------------------------------------------


def apply(
    verb: str,
    which: Union[JobFilter, Iterable[str]],
    actor: str,
    *,
    only: Optional[str] = None,
    within: float = math.inf,
) -> Result:
    """Apply a verb to the jobs with these ids, or to all jobs that match a filter now, not to later ones.

    `actor` is `person:NAME`, `token:NAME` or `rule:NAME`. `only` limits ids to jobs in one state. After `within`
    seconds this returns, and a maintenance process continues the action. Up to BATCH ids need one transaction.
    """
    if isinstance(which, JobFilter):
        return resume(start(verb, which, actor), within)
    ids, outcome = list(dict.fromkeys(which)), Outcome()
    with writing() as session:
        action = create(session, verb, {"ids": ids, "named": len(ids), "only": only}, actor)
        _step(session, action, None, outcome)
        if action.state == "done" and not action.moved:
            session.delete(action)
            return Result(0, 0, action.skipped, True, None, outcome)
    if action.state == "done":
        return _result(action, outcome)
    let_others_write()
    return resume(action.id, within, outcome=outcome)


def start(verb: str, wanted: JobFilter, actor: str) -> int:
    """Store an action on all that match, for `resume`. Returns its id."""
    what = json.loads(wanted.to_json())
    with writing() as session:
        action = create(session, verb, what, actor)
        if audit_lines.is_audited(actor):
            audit.note(session, verb, [f"act:{action.id}"], actor, details=[{"filter": what}])
        return action.id


def create(session: Session, verb: str, what: Any, actor: str, *, state: str = "running", **more: Any) -> BulkAction:
    """Add the row of an action."""
    if verb not in VERBS and verb != "undo":
        raise ValueError(f"no action on jobs: {verb!r}")
    now = clock.now()
    action = BulkAction(
        verb=verb,
        filter=json.dumps(what),
        highest_seq=session.scalar(select(func.max(Job.seq))) or 0,
        cursor_seq=0,
        actor=actor,
        state=state,
        created_at=now,
        lease_until=now + LEASE,
        **more,
    )
    session.add(action)
    session.flush()
    return action


def resume(
    action_id: int,
    within: float = math.inf,
    patience: float = BUSY_TIMEOUT,
    *,
    outcome: Optional[Outcome] = None,
) -> Result:
    """Continue an action until it ends or `within` seconds have passed. Raises NotFound, and Busy as `writing`."""
    until, outcome = time.monotonic() + within, outcome or Outcome()
    while True:
        result = advance(action_id, patience, outcome=outcome)
        if result.done or time.monotonic() > until:
            return result
        let_others_write()


def advance(action_id: int, patience: float = BUSY_TIMEOUT, *, outcome: Optional[Outcome] = None) -> Result:
    """Move the next BATCH jobs of an action, in one transaction. Raises NotFound, and Busy as `writing`.

    The search for them runs before the transaction: it takes no lock.
    """
    outcome = outcome or Outcome()
    with reading() as session:
        action = find(session, action_id)
    begun = action.cursor_seq
    found = _find_next(action) if action.state == "running" else None
    with writing(patience) as session:
        action = find(session, action_id, lock=True)
        if action.state == "running" and action.cursor_seq == begun:  # else another process advanced or ended it
            _step(session, action, found, outcome)
        return _result(action, outcome)


def _step(
    session: Session, action: BulkAction, found: Optional[tuple[list[int], Optional[int]]], outcome: Outcome
) -> None:
    if action.verb == "undo":
        cursor = _put_back(session, action, outcome)
    elif found is None:
        cursor = _move_named(session, action, outcome)
    else:
        seqs, cursor = found
        which = Job.seq.in_(seqs) & JobFilter.from_json(action.filter).where()
        some = move_some(session, action, which, audited=False)
        outcome.asked += some.asked
        lifecycle.tell_held(session, action, some.held, outcome)
        action.skipped += len(seqs) - len(some.moved) - len(some.asked)
    action.lease_until = clock.now() + LEASE
    if cursor is not None:
        action.cursor_seq = cursor
    else:
        action.state, action.finished_at = "done", clock.now()


def _move_named(session: Session, action: BulkAction, outcome: Outcome) -> Optional[int]:
    """Move the next batch of named jobs. Returns the next position in the list; None at the end."""
    named = json.loads(action.filter)
    following = action.cursor_seq + BATCH
    ids = named["ids"][action.cursor_seq : following]
    which = Job.id.in_(ids) if named["only"] is None else Job.id.in_(ids) & in_state(named["only"])
    some = move_some(session, action, which)
    outcome.moved += [id_ for id_ in ids if id_ in some.moved]
    outcome.asked += some.asked
    outcome.held.update(some.held)
    left = [id_ for id_ in ids if id_ not in {*some.moved, *some.asked}]
    if left:
        states = dict(session.execute(select(Job.id, Job.state).where(Job.id.in_(left))).tuples().all())
        outcome.refused.update({id_: states.get(id_) for id_ in left})
        action.skipped += len(left)
    if following < len(named["ids"]):
        return following
    if len(named["ids"]) > SHOWN_IDS:
        action.filter = json.dumps({**named, "ids": named["ids"][:SHOWN_IDS]})
    return None


def move_some(session: Session, action: BulkAction, which: ColumnElement[bool], *, audited: bool = True) -> Outcome:
    """Move jobs for an action in the caller's transaction; a cancel also asks running jobs to stop."""
    held: dict[str, Holder] = {}
    asks = ("processing",) if action.verb == "cancel" else ()
    lifecycle.lock_in_order(session, and_(which, in_state(*ARROWS[action.verb].leaves, *asks)))
    moved = move(session, action, which, values_of(action.verb), audited=audited, held=held)
    asked = _ask_to_stop(session, which, action.actor) if action.verb == "cancel" else []
    action.moved += len(moved) + len(asked)
    return Outcome([job.id for job in moved], asked, held=held)


def _ask_to_stop(session: Session, which: ColumnElement[bool], actor: str) -> list[str]:
    rows = session.execute(
        update(Job)
        .where(which, in_state("processing"), Job.cancel_requested_at.is_(None))
        .values(cancel_requested_at=clock.now(), cancel_requested_by=actor)
        .returning(Job.seq, Job.id)
        .execution_options(synchronize_session=False)
    ).all()
    if rows:
        record(session, "ask_cancel", [("job:" + row.id, row.seq) for row in rows], actor)
        settings.bump_revision(session)
    return [row.id for row in rows]


def _result(action: BulkAction, outcome: Outcome) -> Result:
    undo = action.id if can_undo(action.verb) and action.moved > len(outcome.asked) else None
    return Result(action.id, action.moved, action.skipped, action.state != "running", undo, outcome)


# --- finding the jobs ------------------------------------------------------------------------------------------------


def _find_next(action: BulkAction) -> Optional[tuple[list[int], Optional[int]]]:
    """The next jobs of an action with a filter, and the last row that was read; None at the end of the table.

    It stops after READS_PER_BATCH reads, even with too few jobs, because the action's lease must not run out.
    """
    if action.verb == "undo" or "ids" in json.loads(action.filter):
        return None
    seqs: list[int] = []
    cursor: Optional[int] = action.cursor_seq
    for _ in range(READS_PER_BATCH):
        with reading() as session:
            found, cursor = _find_in_rows(session, action, cursor or 0, BATCH - len(seqs))
        seqs += found
        if cursor is None or len(seqs) == BATCH:
            break
    return _limit_by_size(seqs, cursor) if action.verb == "discard" else (seqs, cursor)


def _limit_by_size(seqs: list[int], cursor: Optional[int]) -> tuple[list[int], Optional[int]]:
    """The first jobs to discard that fit into one transaction, at least one, and the last row of them."""
    with reading() as session:
        some = deletion.first_that_fit(session, seqs) or seqs[:1]
    return some, (cursor if len(some) == len(seqs) else some[-1])


def _find_in_rows(session: Session, action: BulkAction, cursor: int, limit: int) -> tuple[list[int], Optional[int]]:
    """One read: all rows that an index finds if they are few, else the next SEARCH_CAP rows of the table."""
    wanted, there = JobFilter.from_json(action.filter), in_state(*movable(action.verb))
    matches: ColumnElement[bool] = wanted.where() & there
    last: Optional[int] = None
    rows = select(Job.seq).where(Job.seq > cursor, Job.seq <= action.highest_seq).order_by(Job.seq)
    little = select(Job.seq).where(wanted.found(), there).offset(filters.SEARCH_CAP).limit(1)
    if session.scalar(little) is not None:
        last = session.scalar(rows.offset(filters.SEARCH_CAP - 1).limit(1))
        if last is not None:
            rows = rows.where(Job.seq <= last)
        # The CASE hides the condition from the planner, which would otherwise sort a million rows for each batch.
        matches = case((matches, 1), else_=0) == 1
    seqs = list(session.scalars(rows.where(matches).limit(limit)))
    return seqs, seqs[-1] if len(seqs) == limit else last


# --- undo and stop ---------------------------------------------------------------------------------------------------


def undo(action_id: int, actor: str, within: float = math.inf) -> Result:
    """Stop an action and put back its jobs, except those that were claimed or moved since.

    The result describes the undo, which is an action itself. Raises NotFound, CannotUndo.
    """
    with writing() as session:
        action = find(session, action_id, lock=True)
        if not can_undo(action.verb):
            raise CannotUndo(f"{'An undo' if action.verb == 'undo' else 'A discard'} cannot be undone.")
        _stop(session, action, actor)
        if not can_be_undone(session, action).number:
            raise CannotUndo("Nothing to undo: all jobs were already claimed or changed.")
        back = create(session, "undo", {}, actor, undoes=action.id)
        record(session, "undo", [(f"act:{action.id}", None)], actor, act_id=back.id)
    return resume(back.id, within)


def can_be_undone(session: Session, action: BulkAction) -> queries.Count:
    """How many jobs an undo would put back now."""
    if not can_undo(action.verb):
        return queries.Count(0)
    return queries.count(session, can_be_put_back(action.verb, action.id))


def _put_back(session: Session, back: BulkAction, outcome: Outcome) -> Optional[int]:
    undone = find(session, back.undoes or 0)
    found: list[int] = []
    for state in entered(undone.verb):  # one by one: the index sorts the jobs of each
        there = can_be_put_back(undone.verb, undone.id, state), Job.seq > back.cursor_seq
        found += session.scalars(select(Job.seq).where(*there).order_by(Job.seq).limit(BATCH))
    seqs = sorted(found)[:BATCH]
    held: dict[str, Holder] = {}
    moved = put_back(session, undone, Job.seq.in_(seqs), back, held)
    lifecycle.tell_held(session, back, held, outcome)
    back.moved += moved
    back.skipped += len(seqs) - moved
    return seqs[-1] if len(seqs) == BATCH else None


def stop(action_id: int, actor: str) -> bool:
    """Stop an action; moved jobs stay moved. False: it had ended already. Raises NotFound."""
    with writing() as session:
        return _stop(session, find(session, action_id, lock=True), actor)


def _stop(session: Session, action: BulkAction, actor: str) -> bool:
    before = action.state
    if before not in ("running", "waiting"):
        return False
    action.state, action.finished_at = "stopped", clock.now()
    change = {"before": {"state": before}, "after": {"state": "stopped", "moved": action.moved}}
    record(session, "stop", [(f"act:{action.id}", None)], actor, act_id=action.id, changes=[change])
    return True


# --- rows ------------------------------------------------------------------------------------------------------------


def find(session: Session, action_id: int, *, lock: bool = False) -> BulkAction:
    """Raises NotFound."""
    action = session.get(BulkAction, action_id, with_for_update=lock)
    if action is None:
        raise NotFound(f"no such action: {action_id}")
    return action


def abandoned(session: Session) -> list[int]:
    """Running actions whose lease has expired, so that another process may continue them."""
    running = BulkAction.state == "running", BulkAction.lease_until < clock.now()
    return list(session.scalars(select(BulkAction.id).where(*running)))
