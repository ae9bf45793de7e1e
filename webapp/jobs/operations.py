"""What people and programs do to queues, workers and settings. Console, CLI and API call the same functions.

Each is one durable transaction. An `actor` is `person:NAME`, `worker:ID` or `rule:NAME`. What is done to jobs is in
`jobs/actions.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Callable, Optional

from sqlalchemy import case, literal_column, null, select, update
from sqlalchemy.orm import Session

from webapp.core import enqueue as enqueueing
from webapp.core.job_spec import JobSpec
from webapp.db.engines import database, raising_as_sqlalchemy, writing
from webapp.db.models import Queue, Supervisor, Worker
from webapp.jobs import settings
from webapp.jobs.lifecycle import record
from webapp.lib import clock


class NotFound(LookupError):
    """There is no such thing; the message names it."""


@dataclass
class Outcome:
    """What became of each job or worker that was named.

    Attributes:
        moved: ids of those that the verb moved.
        asked: ids of running jobs that were asked to stop and will follow.
        refused: id → the state that it is in and that the verb cannot leave; None: there is no such id.
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
    batch: Optional[str] = None,
    stored: Optional[Callable[[int], None]] = None,
) -> list[str]:
    """Store all jobs or none, see `core/enqueue.py`; raises also Busy, Relocated and DBAPIError."""
    with raising_as_sqlalchemy():
        return enqueueing.enqueue(database(), specs, actor, form_key=form_key, batch=batch, stored=stored)


def insert_ignore(session: Session, table: Any) -> Any:
    """An INSERT that passes over a row whose key is taken."""
    if session.get_bind().dialect.name == "sqlite":
        from sqlalchemy.dialects.sqlite import insert as sqlite_insert

        return sqlite_insert(table).on_conflict_do_nothing()
    from sqlalchemy.dialects.postgresql import insert as postgresql_insert

    return postgresql_insert(table).on_conflict_do_nothing()


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
        hears = running if wish == "stop" else running & (Worker.requested_state != "stop")
        rows = session.scalars(
            update(Worker).where(named, hears).values(requested_state=wish).returning(Worker.id)
        ).all()
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
    stay = Worker.state == literal_column("'running'"), Worker.requested_state != "stop"
    rows = session.scalars(select(Worker.supervisor_id).where(Worker.id.in_(ids), *stay).with_for_update())
    for supervisor_id, number in Counter(rows).items():
        fewer = case((Supervisor.wanted > number, Supervisor.wanted - number), else_=0)
        session.execute(update(Supervisor).where(Supervisor.id == supervisor_id).values(wanted=fewer))


def request_stop(session: Session, worker_ids: Sequence[str], actor: str) -> list[str]:
    """Ask workers to stop that their supervisor is not to have any more. Returns those that had not been asked."""
    hears = Worker.id.in_(worker_ids), Worker.state == literal_column("'running'"), Worker.requested_state != "stop"
    rows = session.scalars(update(Worker).where(*hears).values(requested_state="stop").returning(Worker.id)).all()
    if rows:
        settings.bump_revision(session)
        record(session, "stop", [("worker:" + id_, None) for id_ in sorted(rows)], actor)
    return sorted(rows)


def record_expiry(session: Session, worker_id: str, reason: str) -> None:
    """Write down that a worker was taken for dead, and tell it so, should it live."""
    settings.bump_revision(session)
    record(session, "expire", [("worker:" + worker_id, None)], "rule:maintenance", {"text": reason})


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
