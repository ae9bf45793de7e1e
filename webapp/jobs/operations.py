"""What a person or a program does to the queue. The console, the CLI and the API call the same functions.

Each is one durable transaction; what is done to all that match a filter stands in `jobs/bulk_actions.py`. An `actor` is
`person:NAME`, `worker:ID` or `rule:NAME`. Jobs that somebody else moved first come back as refused, with the state
that they are in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Callable, Optional

from sqlalchemy import case, literal_column, null, select, update
from sqlalchemy.orm import Session

from webapp.core import enqueue as enqueueing
from webapp.core.job_spec import JobSpec
from webapp.db.engines import database, raising_as_sqlalchemy, writing
from webapp.db.models import Job, Queue, Supervisor, Worker
from webapp.jobs import settings
from webapp.jobs.lifecycle import in_state, move, record
from webapp.lib import clock

BATCH = 500  # jobs that one statement names
FRESH_START = {"failures": 0, "losses": 0, "lone_losses": 0, "finished_at": None}


class NotFound(LookupError):
    """There is no such thing; the message names it."""


@dataclass
class Outcome:
    """What became of each job that was named.

    Attributes:
        moved: ids of jobs that the verb moved.
        asked: ids of running jobs that were asked to stop and will follow.
        refused: id → the state that it is in and that the verb cannot leave; None: there is no such job.
    """

    moved: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    refused: dict[str, Optional[str]] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        return not self.refused


def enqueue(
    specs: Sequence[JobSpec],
    actor: str,
    *,
    form_key: Optional[str] = None,
    stored: Optional[Callable[[int], None]] = None,
) -> list[str]:
    """Store all jobs or none, see `enqueueing.enqueue`; raises also Busy, Elsewhere and DBAPIError."""
    with raising_as_sqlalchemy():
        return enqueueing.enqueue(database(), specs, actor, form_key=form_key, stored=stored)


def insert_ignore(session: Session, table: Any) -> Any:
    """An INSERT that passes over a row whose key is taken."""
    if session.get_bind().dialect.name == "sqlite":
        from sqlalchemy.dialects.sqlite import insert as sqlite_insert

        return sqlite_insert(table).on_conflict_do_nothing()
    from sqlalchemy.dialects.postgresql import insert as postgresql_insert

    return postgresql_insert(table).on_conflict_do_nothing()


# --- verbs on named jobs ---------------------------------------------------------------------------------------------


def requeue(ids: Iterable[str], actor: str, *, only: Optional[str] = None) -> Outcome:
    """Dead, cancelled and completed jobs become pending, with no failures to their name.

    `only` narrows it to one state: a person who retries a dead letter does not mean to run a completed job again.
    """
    return _by_id("requeue", ids, actor, only)


def run_now(ids: Iterable[str], actor: str) -> Outcome:
    """Scheduled and failed jobs become pending without waiting for their time."""
    return _by_id("run_now", ids, actor)


def discard(ids: Iterable[str], actor: str, *, only: Optional[str] = None) -> Outcome:
    """Delete jobs with their attempts and output, unless they are running. Cannot be undone.

    `only` narrows it to one state.
    """
    return _by_id("discard", ids, actor, only)


def cancel(ids: Iterable[str], actor: str) -> Outcome:
    """Cancel what waits; ask what runs to stop (`Outcome.asked`), which its worker does within about a second."""
    return _by_id("cancel", ids, actor)


def values_of(verb: str, now: int) -> dict[str, Any]:
    """What a verb sets on a job's row beside its state."""
    if verb == "requeue":
        return {**FRESH_START, "run_at": now}
    if verb == "run_now":
        return {"run_at": now}
    if verb == "cancel":
        return {"finished_at": now}
    return {}


def _by_id(verb: str, ids: Iterable[str], actor: str, only: Optional[str] = None) -> Outcome:
    with writing() as session:
        return move_named(session, verb, ids, actor, only=only)


def move_named(
    session: Session,
    verb: str,
    ids: Iterable[str],
    actor: str,
    *,
    only: Optional[str] = None,
    act_id: Optional[int] = None,
) -> Outcome:
    """Apply a verb to jobs by their ids, in the caller's transaction; `act_id` lets it be undone."""
    wanted, outcome = list(dict.fromkeys(ids)), Outcome()
    for start in range(0, len(wanted), BATCH):
        some = wanted[start : start + BATCH]
        which = Job.id.in_(some) if only is None else Job.id.in_(some) & in_state(only)
        values = values_of(verb, clock.now())
        moved = {job.id for job in move(session, verb, which, actor=actor, values=values, act_id=act_id)}
        asked = ask_to_stop(session, some, actor) if verb == "cancel" else set()
        left = [id_ for id_ in some if id_ not in moved and id_ not in asked]
        states: dict[str, str] = {}
        if left:
            states = {row.id: row.state for row in session.execute(select(Job.id, Job.state).where(Job.id.in_(left)))}
        outcome.moved += [id_ for id_ in some if id_ in moved]
        outcome.asked += [id_ for id_ in some if id_ in asked]
        outcome.refused.update({id_: states.get(id_) for id_ in left})
    return outcome


def ask_to_stop(session: Session, ids: Sequence[str], actor: str) -> set[str]:
    rows = session.execute(
        update(Job)
        .where(Job.id.in_(ids), in_state("processing"), Job.cancel_requested_at.is_(None))
        .values(cancel_requested_at=clock.now(), cancel_requested_by=actor)
        .returning(Job.seq, Job.id)
        .execution_options(synchronize_session=False)
    ).all()
    if rows:
        record(session, "ask_cancel", [("job:" + row.id, row.seq) for row in rows], actor)
        settings.bump_revision(session)
    return {row.id for row in rows}


# --- queues, workers -------------------------------------------------------------------------------------------------


def pause_queue(name: str, actor: str) -> bool:
    """Let no more jobs of this queue start; running ones go on. False: it was paused already. Raises NotFound."""
    return _set_pause(name, actor, clock.now())


def resume_queue(name: str, actor: str) -> bool:
    """Let the queue's jobs start again. False: it was not paused. Raises NotFound."""
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


def wish_of_workers(wish: str, ids: Optional[Sequence[str]], actor: str) -> Outcome:
    """Ask workers to be `quiet` (take no more), to `run` again, or to `stop` (finish, then end).

    `ids` None means all that are running. `Outcome.refused` names those that are not running, or not there, or
    `stopping`: a stop is final, and a worker that was told to stop would not take jobs again.

    A supervisor does not replace a worker that was stopped: it is to have one fewer from then on, which
    `fleet.scale` changes. Stopped all together, the supervisors end as well.
    """
    outcome = Outcome()
    with writing() as session:
        if wish == "stop":
            _want_fewer(session, ids)
        running = Worker.state == literal_column("'running'")
        named = running if ids is None else Worker.id.in_(ids)
        hears = running if wish == "stop" else running & (Worker.wish != "stop")
        rows = session.scalars(update(Worker).where(named, hears).values(wish=wish).returning(Worker.id)).all()
        outcome.moved = sorted(rows)
        states = {
            row.id: "stopping" if row.state == "running" else row.state
            for row in session.execute(select(Worker.id, Worker.state).where(named, Worker.id.not_in(rows)))
        }
        outcome.refused = {id_: states.get(id_) for id_ in (states if ids is None else ids) if id_ not in rows}
        if rows:
            settings.bump_revision(session)
            record(session, wish, [("worker:" + id_, None) for id_ in outcome.moved], actor)
    return outcome


def _want_fewer(session: Session, ids: Optional[Sequence[str]]) -> None:
    """Have supervisors expect the end of these workers, or of all and then their own."""
    if ids is None:
        session.execute(update(Supervisor).where(Supervisor.stopped_at.is_(None)).values(stopped_at=clock.now()))
        return
    stay = Worker.state == literal_column("'running'"), Worker.wish != "stop"
    rows = session.scalars(select(Worker.supervisor_id).where(Worker.id.in_(ids), *stay).with_for_update())
    for supervisor_id, number in Counter(rows).items():
        fewer = case((Supervisor.wanted > number, Supervisor.wanted - number), else_=0)
        session.execute(update(Supervisor).where(Supervisor.id == supervisor_id).values(wanted=fewer))


def request_stop(session: Session, worker_ids: Sequence[str], actor: str) -> list[str]:
    """Ask workers to stop that their supervisor is not to have any more. Returns those that had not been asked."""
    hears = Worker.id.in_(worker_ids), Worker.state == literal_column("'running'"), Worker.wish != "stop"
    rows = session.scalars(update(Worker).where(*hears).values(wish="stop").returning(Worker.id)).all()
    if rows:
        settings.bump_revision(session)
        record(session, "stop", [("worker:" + id_, None) for id_ in sorted(rows)], actor)
    return sorted(rows)


def record_expiry(session: Session, worker_id: str, reason: str) -> None:
    """Write down that a worker was taken for dead, and tell it so, should it live."""
    settings.bump_revision(session)
    record(session, "expire", [("worker:" + worker_id, None)], "rule:keeper", {"text": reason})


# --- settings --------------------------------------------------------------------------------------------------------


def set_setting(key: str, text: object, actor: str, *, seen: Optional[int] = None) -> settings.Value:
    """Raises SettingError, and Outdated where it was changed after `seen`."""
    with writing() as session:
        return settings.change(session, key, text, actor, seen=seen)


def unset_setting(key: str, actor: str, *, seen: Optional[int] = None) -> settings.Value:
    """Put a setting back to its default. Raises SettingError and Outdated."""
    with writing() as session:
        return settings.reset(session, key, actor, seen=seen)


def revert_setting(key: str, change_id: int, actor: str, *, seen: Optional[int] = None) -> settings.Value:
    """Put a setting back to what it was before one of its changes. Raises SettingError, Outdated and NotFound."""
    with writing() as session:
        try:
            return settings.revert(session, key, change_id, actor, seen=seen)
        except settings.UnknownChange as error:
            raise NotFound(str(error)) from None
