"""The guarded move of a job along an arrow of `core/states.py`, and the record of it.

Besides this module, only `core/statements.py`, `core/flow/dependencies.py` and `worker/maintenance/recovery.py` change
a job's state; they take the same arrows. Retention deletes jobs by itself (`worker/maintenance/retention.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

from sqlalchemy import ColumnElement, Row, and_, case, delete, insert, literal_column, or_, select, text, update
from sqlalchemy.orm import Session

from webapp.core import audit_lines
from webapp.core.enqueue import ADD_LABEL_SET, ADD_QUEUE
from webapp.core.flow import unique_keys
from webapp.core.flow.unique_keys import Holder
from webapp.core.states import ARROWS, INDEX_CONDITIONS, STATES, TERMINAL
from webapp.core.storage.schema import BUMP_REVISION
from webapp.db import audit
from webapp.db.engines import is_sqlite
from webapp.db.models import BulkAction, Event, Job, LabelSetRow, Queue, RetentionMark
from webapp.jobs import group_history
from webapp.jobs.flow import follow_ups, key_guard
from webapp.lib import clock

_MOVED = (Job.seq, Job.id, Job.queue, Job.requires, Job.followed, Job.batch, Job.prior_state)
_OF_GROUP = (Job.error_key, Job.last_error)
MOST_NAMED = 20  # jobs that an action on all that match names
ENDED: ColumnElement[bool] = Job.state.in_(TERMINAL)


class NotFound(LookupError):
    """No such job, queue, worker, setting or action; the message names it."""


class Conflict(Exception):
    """The state does not allow this; the message says why. Nothing was changed."""


class KeyHeld(Exception):
    """A job cannot run again because another one holds its unique key. `holder`: the other one."""

    def __init__(self, job_id: str, holder: Holder) -> None:
        self.holder = holder
        super().__init__(f"{job_id} was not changed: its unique key {holder.key!r} {holder.text}.")


@dataclass
class Outcome:
    """What happened to each job or worker that was named.

    Attributes:
        moved: ids that the verb moved.
        asked: ids of running jobs that were asked to stop and will follow.
        refused: id → its state, which the verb cannot leave; None: there is no such id.
        held: id → who holds its unique key; such jobs are refused.
    """

    moved: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    refused: dict[str, Optional[str]] = field(default_factory=dict)
    held: dict[str, Holder] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        return not self.refused


def refusal(verb: str, job_id: str, state: Optional[str], outcome: Optional[Outcome] = None) -> str:
    """Why a job in this state was not moved; None: there is no such job."""
    if outcome is not None and job_id in outcome.held:
        return f"{KeyHeld(job_id, outcome.held[job_id])} Nothing changed."
    if state is None:
        return f"job {job_id[:128]!r} does not exist. It may have been discarded."
    if verb == "cancel" and state == "processing":
        return f"{job_id} is already being cancelled. Nothing changed."
    states = " or ".join(ARROWS[verb].leaves) if verb != "discard" else "all but processing"
    return f"{job_id} is {state}. {verb.replace('_', ' ').capitalize()} works for {states} jobs. Nothing changed."


def in_state(*states: str) -> ColumnElement[bool]:
    """`state = …` with the state in the SQL text: the planner needs the text to use a partial index."""
    conditions = []
    for state in states:
        if state not in STATES:
            raise ValueError(f"no such state: {state!r}")
        condition = Job.state == literal_column(f"'{state}'")
        if state in INDEX_CONDITIONS:
            condition = and_(condition, literal_column("jobs." + INDEX_CONDITIONS[state]))
        conditions.append(condition)
    return or_(*conditions)


def lock_in_order(session: Session, which: ColumnElement[bool]) -> None:
    """On PostgreSQL, lock these jobs by sequence, as a submit and a settle do, so that none waits for another."""
    if not is_sqlite():
        session.execute(select(Job.seq).where(which).order_by(Job.seq).with_for_update(key_share=True))


def move(
    session: Session,
    action: BulkAction,
    which: ColumnElement[bool],
    values: Mapping[str, Any],
    *,
    audited: bool,
    held: Optional[dict[str, Holder]] = None,
    detail: Optional[Mapping[str, Any]] = None,
) -> list[Row[Any]]:
    """Move the jobs that match `which` and that the action's verb can move; write an event for each.

    The WHERE names the states that the verb leaves: a job that another process moved first is not in the result. Each
    row gets `values`, and keeps its old ones for an undo. Returns `seq`, `id`, `queue` and `requires` of each, by
    sequence. Not `audited`: the caller writes the line of the audit trail. `detail` goes into each event.

    A job whose unique key another one holds does not move; its id and the holder go into `held`. Without `held`, this
    raises KeyHeld.
    """
    arrow = ARROWS[action.verb]
    guard = in_state(*arrow.leaves)
    before: dict[int, str] = {}
    if audited and audit_lines.is_audited(action.actor):
        before = dict(session.execute(select(Job.seq, Job.state).where(which, guard)).tuples().all())
    takers = and_(which, guard, ENDED) if _reopens(action.verb) else None
    if values.keys() & {"unique_key", "unique_while"}:  # an edit: also a job that has not ended takes another key
        takers = and_(which, guard)
    if arrow.enters is None:
        follow_ups.before_discard(session, and_(which, guard))
        statement: Any = delete(Job).where(which, guard)
    else:
        statement = update(Job).where(which, guard).values({**_moved_to(arrow.enters, action), **values})
    # After an UPDATE, the row has its old state in the columns for an undo.
    was, ended_at = (Job.state, Job.finished_at) if arrow.enters is None else (Job.prior_state, Job.prior_finished_at)
    statement = statement.returning(*_MOVED, *_OF_GROUP, was.label("was"), ended_at.label("died_at"))
    statement = statement.execution_options(synchronize_session=False)
    rows, stay = key_guard.guarded(session, takers, statement, values)
    _tell_held(stay, held)
    moved = sorted(rows, key=lambda job: job.seq)
    dead = [job for job in moved if job.was == "dead" and job.error_key is not None]
    group_history.record(session, action.id, dead)
    if _reopens(action.verb):
        restore_queues(session, {(job.queue, job.requires) for job in moved})
        ended = [job for job in moved if job.prior_state in TERMINAL]
        follow_ups.after_reopening(session, ended, action.id)
        follow_ups.block_again(session, ended)
    subjects = [("job:" + job.id, None if arrow.enters is None else job.seq) for job in moved]
    changes = [{"before": {"state": before.get(job.seq)}, "after": {"state": arrow.enters}} for job in moved]
    record(session, action.verb, subjects, action.actor, detail, action.id, changes=changes, audited=audited)
    return moved


def _moved_to(state: str, action: BulkAction) -> dict[str, Any]:
    """What a row gets when it enters this state; it keeps its old values for an undo."""
    return {
        "state": state,
        "unique_while": case((and_(ENDED, Job.unique_while == "started"), "waiting"), else_=Job.unique_while),
        "changed_at": clock.now(),
        "act_id": action.id,  # any later move sets another one, so an undo leaves the job alone
        "prior_state": Job.state,
        "prior_run_at": Job.run_at,
        "prior_failures": Job.failures,
        "prior_finished_at": Job.finished_at,
        "prior_attempts": Job.attempts,
        "followed": follow_ups.FOLLOWED_AGAIN,
    }


def _tell_held(stay: Mapping[str, Holder], held: Optional[dict[str, Holder]]) -> None:
    if held is not None:
        held.update(stay)
    elif stay:
        raise KeyHeld(*next(iter(stay.items())))


def tell_held(session: Session, action: BulkAction, held: Mapping[str, Holder], outcome: Outcome) -> None:
    """Name the first jobs that stay because of their unique keys, in the result and on the page of the action."""
    some = list(held.items())[: max(0, MOST_NAMED - len(outcome.held))]
    outcome.held.update(some)
    for job_id, holder in some:
        detail = {"text": str(KeyHeld(job_id, holder))}
        record(session, "key_held", [(f"act:{action.id}", None)], action.actor, detail, action.id, audited=False)


def entered(verb: str) -> tuple[str, ...]:
    """The states that a verb enters. A requeued job is blocked if it follows jobs that have not ended."""
    return (str(ARROWS[verb].enters), *(("blocked",) if _reopens(verb) else ()))


def _reopens(verb: str) -> bool:
    """Whether ended jobs run again."""
    leaves, enters = ARROWS[verb]
    return enters is not None and enters not in TERMINAL and bool({*leaves} & {*TERMINAL})


def can_be_put_back(verb: str, act_id: int, *states: str) -> ColumnElement[bool]:
    """Jobs that no user has moved and no worker has claimed since the action with this verb, or those in `states`."""
    there = or_(*(Job.state == literal_column(f"'{state}'") for state in states or entered(verb)))
    return and_(Job.act_id == act_id, there, Job.attempts == Job.prior_attempts)


def put_back(
    session: Session,
    undone: BulkAction,
    which: ColumnElement[bool],
    back: BulkAction,
    held: Optional[dict[str, Holder]] = None,
) -> int:
    """Put jobs back into their state before the action `undone`, for its undo `back`. Returns how many.

    `held`: as in `move`.
    """
    there = can_be_put_back(undone.verb, undone.id) & which
    # A job that had started before has left its key.
    takers = and_(there, ENDED, Job.prior_state.not_in(TERMINAL), Job.unique_while.in_(("waiting", "unfinished")))
    fields = _prior_fields(session, there) if undone.verb == "edit" else {}
    if fields.pop("takes_key", False):
        takers = there
    lock_in_order(session, there)
    statement = (
        update(Job)
        .where(there)
        .values(
            **fields,
            state=Job.prior_state,
            run_at=Job.prior_run_at,
            failures=Job.prior_failures,
            finished_at=Job.prior_finished_at,
            changed_at=clock.now(),
            act_id=None,
            followed=follow_ups.FOLLOWED_AGAIN,
        )
        .returning(*_MOVED, Job.state)
        .execution_options(synchronize_session=False)
    )
    rows, stay = key_guard.guarded(session, takers, statement, fields)
    _tell_held(stay, held)
    waiting = [row for row in rows if row.state not in TERMINAL]
    restore_queues(session, {(row.queue, row.requires) for row in waiting})
    if ARROWS[undone.verb].enters in TERMINAL:
        follow_ups.after_reopening(session, waiting, back.id)
    follow_ups.unblock(session, [row for row in rows if row.state == "blocked"])
    if any(row.state in TERMINAL for row in rows):
        session.execute(delete(RetentionMark))  # they may have ended before the marks
    record(session, "undo", [("job:" + row.id, row.seq) for row in rows], back.actor, act_id=back.id, audited=False)
    return len(rows)


def _prior_fields(session: Session, which: ColumnElement[bool]) -> dict[str, Any]:
    """The old values of the columns that an edit changed, and `takes_key`: whether the job holds its old key with them.

    An edit moves one job.
    """
    job = session.scalar(select(Job).where(which))
    fields: dict[str, Any] = json.loads(job.prior_fields or "{}") if job is not None else {}
    takes_key = False
    if job is not None and fields.keys() & {"unique_key", "unique_while"}:
        until, while_ = fields.get("unique_until", job.unique_until), fields.get("unique_while", job.unique_while)
        takes_key = unique_keys.holds(while_, until, str(job.prior_state))
    return {**fields, "prior_fields": None, "takes_key": takes_key}


def restore_queues(session: Session, label_sets: Iterable[tuple[str, str]]) -> None:
    """Create the queues and label sets, as (queue, requires), of jobs that will run, if they do not exist.

    The lock on the rows of the queues (PostgreSQL) delays a removal until the commit, so that it sees these jobs.
    """
    named = sorted(label_sets)
    names = sorted({queue for queue, _ in named})
    if not names:
        return
    there = select(Queue.name).where(Queue.name.in_(names), Queue.removed_at.is_(None)).order_by(Queue.name)
    known = set(session.scalars(there.with_for_update(read=True, key_share=True)))
    queues = [{"name": name} for name in names if name not in known]
    wanted = [{"queue": queue, "requires": requires} for queue, requires in named if requires]
    if wanted:
        rows = select(LabelSetRow.queue, LabelSetRow.requires).where(LabelSetRow.queue.in_(names))
        stored = set(session.execute(rows).tuples())
        wanted = [one for one in wanted if (one["queue"], one["requires"]) not in stored]
    for statement, missing in ((ADD_QUEUE, queues), (ADD_LABEL_SET, wanted)):
        if missing:
            session.execute(text(statement), missing)
    if queues or wanted:
        session.execute(text(BUMP_REVISION))


def record(
    session: Session,
    verb: str,
    subjects: Sequence[tuple[str, Optional[int]]],
    actor: str,
    detail: Optional[Mapping[str, Any]] = None,
    act_id: Optional[int] = None,
    *,
    changes: Optional[Sequence[Mapping[str, Any]]] = None,
    audited: bool = True,
) -> None:
    """Write one event for each subject (`'job:job1'` with its sequence, or `'queue:mail'` with None).

    Actions of users and programs also go into the audit trail, with the state of each subject before and after
    (`changes`), unless `audited` is False.
    """
    if not subjects:
        return
    if audited and audit_lines.is_audited(actor):
        audit.note(session, verb, [subject for subject, _ in subjects], actor, details=changes)
    detail_json = json.dumps(detail) if detail else None
    same = {"at": clock.now(), "verb": verb, "actor": actor, "act_id": act_id, "detail": detail_json}
    session.execute(insert(Event), [{**same, "subject": subject, "job_seq": seq} for subject, seq in subjects])
