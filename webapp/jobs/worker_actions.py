"""Requests to workers and supervisors: drain, run, stop, and the desired number of workers.

A supervisor has no database connection. Its maintenance process reads the supervisor's row and passes the request on
within a few seconds (`worker/maintenance/scaling.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Optional

from sqlalchemy import literal_column, select, update
from sqlalchemy.orm import Session

from webapp.db.engines import writing
from webapp.db.models import Supervisor, Worker
from webapp.jobs import settings
from webapp.jobs.lifecycle import Conflict, NotFound, Outcome, record
from webapp.lib import clock

MAX_WORKERS = 256  # of one supervisor
SILENT_AFTER_SECONDS = 60.0  # a supervisor without a heartbeat for so long is silent; it sends one every 20 or 30 s
RUNNING = Worker.state == literal_column("'running'")


class ScaleError(ValueError):
    """The number of workers is not allowed; the message says which numbers are."""


class Unheard(Conflict):
    """The supervisor has ended or is silent, so it cannot change its workers."""


@dataclass(frozen=True)
class Scaled:
    """From how many workers to how many. `supervisor` is its id."""

    supervisor: str
    before: int
    after: int


@dataclass
class Requested(Outcome):
    """`scaled`: the supervisors that keep fewer workers now, because some of theirs stop."""

    scaled: list[Scaled] = field(default_factory=list)


def request_state(requested: str, ids: Optional[Sequence[str]], actor: str) -> Requested:
    """Ask workers to drain (`quiet`: take no more jobs), to `run` again, or to `stop` (finish their jobs, then exit).

    `ids` None: all running workers. `Outcome.refused` names workers that do not run, do not exist or are `stopping`: a
    stop is final.

    A supervisor does not replace a stopped worker: from then on it keeps one worker fewer, which `scale` changes. When
    all are stopped together, the supervisors exit too.
    """
    outcome = Requested()
    with writing() as session:
        if requested == "stop":
            outcome.scaled = _lower_wanted(session, ids)
        named = RUNNING if ids is None else Worker.id.in_(ids)
        asked = RUNNING if requested == "stop" else RUNNING & (Worker.requested_state != "stop")
        rows = session.scalars(
            update(Worker).where(named, asked).values(requested_state=requested).returning(Worker.id)
        ).all()
        outcome.moved = sorted(rows)
        states = {
            row.id: "stopping" if row.state == "running" else row.state
            for row in session.execute(select(Worker.id, Worker.state).where(named, Worker.id.not_in(rows)))
        }
        outcome.refused = {id_: states.get(id_) for id_ in (states if ids is None else ids) if id_ not in rows}
        _record(session, requested, outcome.moved, actor)
    return outcome


def _lower_wanted(session: Session, ids: Optional[Sequence[str]]) -> list[Scaled]:
    """Each supervisor keeps fewer workers by those that stop; without `ids`, each ends."""
    if ids is None:
        session.execute(update(Supervisor).where(Supervisor.stopped_at.is_(None)).values(stopped_at=clock.now()))
        return []
    stay = Worker.id.in_(ids), RUNNING, Worker.requested_state != "stop"
    rows = session.scalars(select(Worker.supervisor_id).where(*stay).with_for_update())
    scaled = []
    for supervisor_id, number in sorted(Counter(rows).items()):
        row = session.get(Supervisor, supervisor_id, with_for_update=True)
        if row is not None:
            before, row.wanted = row.wanted, max(0, row.wanted - number)
            scaled.append(Scaled(supervisor_id, before, row.wanted))
    session.flush()
    return scaled


def _record(session: Session, verb: str, ids: Sequence[str], actor: str) -> None:
    if ids:
        settings.bump_revision(session)
        record(session, verb, [("worker:" + id_, None) for id_ in ids], actor)


def scale(supervisor_id: str, actor: str, *, to: Optional[int] = None, by: int = 0) -> Scaled:
    """Have a supervisor keep `to` workers, or `by` more or fewer than now; 0 is allowed.

    New workers start at once. When scaling down, the least busy workers finish their jobs, then stop. Raises
    ScaleError, Unheard, NotFound.
    """
    with writing() as session:
        # PostgreSQL has no text with a NUL in it.
        row = None if "\0" in supervisor_id else session.get(Supervisor, supervisor_id, with_for_update=True)
        if row is None:
            raise NotFound(_not_found_message(session, supervisor_id))
        _require_response(session, row)
        before = row.wanted
        after = before + by if to is None else to
        if not 0 <= after <= MAX_WORKERS:
            raise ScaleError(f"{after} is not allowed; expected a whole number from 0 to {MAX_WORKERS}.")
        if after != before:
            row.wanted = after
            change = {"before": {"workers": before}, "after": {"workers": after}}
            detail = {"from": before, "to": after}
            record(session, "scale", [("supervisor:" + row.id, None)], actor, detail, changes=[change])
    return Scaled(supervisor_id, before, after)


def is_silent(seen_at: int) -> bool:
    """Whether the last heartbeat (microseconds) is older than SILENT_AFTER_SECONDS."""
    return seen_at < clock.now() - clock.seconds(SILENT_AFTER_SECONDS)


def _require_response(session: Session, row: Supervisor) -> None:
    if row.stopped_at is not None:
        raise Unheard(f"Supervisor {row.id} on {row.host} has stopped or is stopping. Nothing was changed.")
    if is_silent(row.seen_at):
        heartbeats = session.scalars(select(Worker.seen_at).where(Worker.supervisor_id == row.id, RUNNING))
        if all(is_silent(seen_at) for seen_at in heartbeats):
            silent = "has not responded for a minute, so it cannot start workers"
            raise Unheard(f"Supervisor {row.id} on {row.host} {silent}. Nothing was changed.")


def _not_found_message(session: Session, name: str) -> str:
    worker = session.get(Worker, name.replace("\0", ""))
    if worker is not None:
        return f"{name!r} is a worker; its supervisor is {worker.supervisor_id}."
    return f"supervisor {name[:128]!r} does not exist."
