"""The actions of users and programs on schedules. Console, CLI and API call these; each is one durable transaction.

Adding, editing and resuming start from now: fires that were due before do not run. Undecided
ones are recorded in the ledger as skipped, and `run_fires` can run them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Optional

from webapp.core import audit_lines, enqueue, events
from webapp.core.field_readers import NameTaken
from webapp.core.job_spec import FieldError, SpecError
from webapp.core.storage.transaction import Transaction
from webapp.db.engines import changing
from webapp.jobs.lifecycle import Conflict, NotFound
from webapp.lib import clock
from webapp.lib.ids import new_job_id
from webapp.schedules import decider, timing
from webapp.schedules.decider import Row
from webapp.schedules.policy import Decision, Plan, is_paused
from webapp.schedules.spec import ScheduleSpec, to_json, with_anchor

_ADD = """
INSERT INTO schedules (name, spec, version, cursor, next_fire_at, paused_at, paused_by, created_at, created_by,
                       changed_at, changed_by)
VALUES (:name, :spec, 1, :now, :next, :paused_at, :paused_by, :now, :actor, :now, :actor)
ON CONFLICT (name) DO NOTHING
"""
_EDIT = """
UPDATE schedules SET spec = :spec, version = version + 1, cursor = :now, next_fire_at = :next, waiting_since = NULL,
                     broken = NULL, paused_at = :paused_at, paused_until = :paused_until, paused_by = :paused_by,
                     late_since = NULL, long_since = NULL, failing_since = NULL,
                     changed_at = :now, changed_by = :actor
WHERE id = :id
"""
# `version` stays the same, so that an edit which a user has open can be saved. A decider that has read the row before
# still decides rightly: it locks the row, and only then reads the active jobs, so it sees the new one. With SQLite it
# holds the write lock by then. With PostgreSQL a statement sees what was committed before it (READ COMMITTED), and the
# decider skips the row while this transaction has it locked.
_RAN = "UPDATE schedules SET last_fire_at = :now WHERE id = :id"
_RUN_FIRE = """
UPDATE fires SET outcome = 'caught_up', job_id = :job, decided_at = :now,
                 reason = CAST(:ran AS text) || ' after it was ' || outcome || coalesce(': ' || reason, '')
WHERE schedule_id = :id AND due_at = :due AND outcome IN ('skipped', 'missed')
"""
_FIRE = "SELECT job_id FROM fires WHERE schedule_id = :id AND due_at = :due"
_LATEST = "SELECT max(due_at) FROM fires WHERE schedule_id = :id AND due_at >= :now"
_ACTIVE = "SELECT id FROM jobs WHERE schedule = :name AND finished_at IS NULL ORDER BY seq LIMIT 1"
MOST_RUN = 100  # fires of one call of `run_fires`


class Outdated(Conflict):
    """Another user changed the schedule since the caller read it."""


@dataclass(frozen=True)
class Change:
    """A change of several in one transaction. `spec` None: remove the schedule. `known`: it exists."""

    name: str
    spec: Optional[ScheduleSpec]
    known: bool


@dataclass(frozen=True)
class _Pause:
    """The columns `paused_at`, `paused_until` and `paused_by`. Empty: not paused."""

    at: Optional[int] = None
    until: Optional[int] = None
    by: Optional[str] = None


def add(spec: ScheduleSpec, actor: str) -> None:
    """Add a schedule. Raises SpecError if its name is taken."""
    with changing() as transaction:
        _add(transaction, spec, actor)


def edit(name: str, spec: ScheduleSpec, actor: str, *, seen: Optional[int] = None) -> None:
    """Replace the description of a schedule. Its name stays.

    `seen` is the version that the caller read. Raises NotFound, Outdated, and SpecError if the name differs.
    """
    if spec.name != name:
        raise SpecError([FieldError("name", f"cannot change; this schedule is {name}. Duplicate it instead.")])
    with changing() as transaction:
        _edit(transaction, _find(transaction, name, seen), spec, actor)


def remove(name: str, actor: str) -> None:
    """Remove a schedule with its ledger. Its jobs stay. Raises NotFound."""
    with changing() as transaction:
        _remove(transaction, _find(transaction, name), actor)


def apply(changes: Sequence[Change], actor: str) -> None:
    """Add, edit and remove schedules in one transaction.

    Raises Outdated if a schedule was added or removed since the changes were planned.
    """
    with changing() as transaction:
        for change in sorted(changes, key=lambda change: change.name):  # one order of locks
            row = decider.named(transaction, change.name, lock=True)
            if (row is not None) != change.known:
                what = "added" if row is not None else "removed"
                raise Outdated(f"schedule {change.name} has been {what}. Nothing was changed. Try again.")
            if row is None and change.spec is not None:
                _add(transaction, change.spec, actor)
            elif row is not None and change.spec is None:
                _remove(transaction, row, actor)
            elif row is not None and change.spec is not None:
                _edit(transaction, row, change.spec, actor)


def pause(name: str, actor: str, until: Optional[int] = None) -> bool:
    """Skip fires until a time (microseconds; None: until it is resumed). Returns whether anything changed.

    Raises NotFound, SpecError for a time in the past or after the year 9998, and Conflict if it is broken.
    """
    now = clock.now()
    if until is not None and until <= now:
        raise SpecError([FieldError("until", f"{clock.to_iso(until)} is in the past.")])
    if until is not None and until > timing.LATEST:
        raise SpecError([FieldError("until", "is after the year 9998. Pause without an end instead.")])
    with changing() as transaction:
        row = _find(transaction, name)
        if is_paused(row.paused_at, row.paused_until, now) and row.paused_until == until:
            return False
        _set_pause(transaction, row, actor, now, _Pause(now, until, actor))
        detail = {"until": clock.to_iso(until)} if until is not None else None
        events.record_change(transaction, "pause", f"schedule:{name}", actor, after={"paused": True, **(detail or {})})
        return True


def resume(name: str, actor: str) -> bool:
    """Let a schedule fire again, from now on. Returns whether anything changed.

    Raises NotFound, and Conflict if it is broken.
    """
    now = clock.now()
    with changing() as transaction:
        row = _find(transaction, name)
        if row.paused_at is None:
            return False
        was_paused = is_paused(row.paused_at, row.paused_until, now)
        _set_pause(transaction, row, actor, now, _Pause())
        if was_paused:
            events.record_change(transaction, "resume", f"schedule:{name}", actor, after={"paused": False})
        return was_paused


def run_now(name: str, actor: str) -> str:
    """Enqueue the schedule's job now, as a fire of its own. Returns the job's id.

    Raises NotFound, and Conflict if it is broken, or a job of it has not ended and its overlap is not `allow`.
    """
    with changing() as transaction:
        row = _find(transaction, name)
        spec, now = _readable(row), clock.now()
        _obey_overlap(transaction, spec)
        (job_id,) = enqueue.store(transaction, [spec.job], actor, schedule=name)
        due = (transaction.execute(_LATEST, {"id": row.id, "now": now}).fetchone()[0] or now) + 1
        due += due % clock.SECOND == 0  # other fires are due at whole seconds
        decider.add_fires(transaction, row.id, [Decision(due, "fired", f"run now by {actor}")], [job_id], now)
        transaction.execute(_RAN, {"id": row.id, "now": now})
        events.record_change(transaction, "run_schedule", f"schedule:{name}", actor, after={"job": job_id})
        return job_id


def run_fires(name: str, actor: str, dues: Sequence[int]) -> list[str]:
    """Enqueue the schedule's job for fires of its ledger that were skipped or missed: all of them, or none.

    `dues`: 1 to MOST_RUN due times in microseconds. Returns the ids of the jobs, in their order. Each fire runs at most
    once. Raises NotFound for a schedule or fire that does not exist, and Conflict if a fire has run, or as `run_now`
    does.
    """
    if not 1 <= len(dues) <= MOST_RUN:
        raise Conflict(f"{len(dues):,} fires cannot run at once; choose 1 to {MOST_RUN}.")
    with changing() as transaction:
        row = _find(transaction, name)
        spec, now = _readable(row), clock.now()
        ids = [new_job_id() for _ in dues]
        values = {"id": row.id, "now": now, "ran": f"run by {actor}"}
        for due, job_id in zip(dues, ids):
            if not transaction.execute(_RUN_FIRE, {**values, "due": due, "job": job_id}).rowcount:
                raise _why_not(transaction, row, due)
        _obey_overlap(transaction, spec, len(ids))
        enqueue.store(transaction, [spec.job._replace(id=job_id) for job_id in ids], actor, schedule=name)
        transaction.execute(_RAN, {"id": row.id, "now": now})
        ran: dict[str, Any] = {"job": ids[0], "due": clock.to_iso(dues[0])}
        if len(ids) > 1:
            ran = {"jobs": len(ids), "first_due": clock.to_iso(min(dues)), "last_due": clock.to_iso(max(dues))}
        events.record_change(transaction, "run_schedule", f"schedule:{name}", actor, after=ran)
        return ids


# --- in the caller's transaction -------------------------------------------------------------------------------------


def _add(transaction: Transaction, spec: ScheduleSpec, actor: str) -> None:
    _check_names(transaction, spec)
    now = clock.now()
    spec = with_anchor(spec, now)
    paused = None if spec.enabled else now
    values = {"name": spec.name, "spec": _text(spec), "now": now, "next": spec.timing.next_after(now), "actor": actor}
    values = {**values, "paused_at": paused, "paused_by": None if spec.enabled else actor}
    if not transaction.execute(_ADD, values).rowcount:
        raise NameTaken([FieldError("name", f"{spec.name!r} is taken by another schedule.")])
    events.record_change(transaction, "add_schedule", f"schedule:{spec.name}", actor, after=_brief(spec))


def _edit(transaction: Transaction, row: Row, spec: ScheduleSpec, actor: str) -> None:
    _check_names(transaction, spec)
    now = clock.now()
    spec = with_anchor(spec, now)
    pause = _Pause() if spec.enabled else _Pause(now, None, actor)
    if not spec.enabled and is_paused(row.paused_at, row.paused_until, now):
        pause = _Pause(row.paused_at, row.paused_until, row.paused_by)
    _skip(transaction, row, now, "the schedule was edited")
    _write(transaction, row, spec, actor, now, pause)
    events.record_change(
        transaction, "edit_schedule", f"schedule:{row.name}", actor, before=_stored_in_brief(row), after=_brief(spec)
    )


def _check_names(transaction: Transaction, spec: ScheduleSpec) -> None:
    try:
        enqueue.check_names(transaction, [spec.job])
    except SpecError as error:
        raise SpecError([FieldError(f"job.{one.field}", one.message) for one in error.errors]) from None


def _set_pause(transaction: Transaction, row: Row, actor: str, now: int, pause: _Pause) -> None:
    spec = _readable(row)
    _skip(transaction, row, now, "paused")
    _write(transaction, row, replace(spec, enabled=pause.at is None), actor, now, pause)


def _write(transaction: Transaction, row: Row, spec: ScheduleSpec, actor: str, now: int, pause: _Pause) -> None:
    values = {"id": row.id, "spec": _text(spec), "now": now, "next": spec.timing.next_after(now), "actor": actor}
    paused = {"paused_at": pause.at, "paused_until": pause.until, "paused_by": pause.by}
    transaction.execute(_EDIT, {**values, **paused})


def _remove(transaction: Transaction, row: Row, actor: str) -> None:
    transaction.execute("DELETE FROM schedules WHERE id = :id", {"id": row.id})
    events.record_change(transaction, "remove_schedule", f"schedule:{row.name}", actor, before=_stored_in_brief(row))


def _obey_overlap(transaction: Transaction, spec: ScheduleSpec, number: int = 1) -> None:
    """Raise Conflict if this number of jobs must not start now."""
    if spec.overlap == "allow":
        return
    active = transaction.execute(_ACTIVE, {"name": spec.name}).fetchone()
    if active is not None:
        raise Conflict(
            f"schedule {spec.name} did not run: its job {active[0]} has not ended, and its overlap is {spec.overlap}. "
            "Wait for the job, or cancel it."
        )
    if number > 1:
        raise Conflict(f"schedule {spec.name} did not run: its overlap is {spec.overlap}. Run one fire at a time.")


def _why_not(transaction: Transaction, row: Row, due: int) -> Exception:
    found = transaction.execute(_FIRE, {"id": row.id, "due": due}).fetchone()
    if found is None:
        return NotFound(f"schedule {row.name} has no fire at {clock.to_iso(due)} in its ledger.")
    return Conflict(f"the fire of {clock.to_iso(due)} has run already, as {found[0]}. Each fire runs at most once.")


def _skip(transaction: Transaction, row: Optional[Row], now: int, reason: str) -> None:
    """Record fires that are due as skipped, and move the cursor behind them."""
    while row is not None:
        try:
            due = decider.due_of(row, now)
        except SpecError:  # broken: it has no fires
            break
        if not due.fires:
            break
        decider.write(transaction, due, Plan([Decision(fire, "skipped", reason) for fire in due.fires]), now)
        row = decider.named(transaction, row.name)


def _find(transaction: Transaction, name: str, seen: Optional[int] = None) -> Row:
    row = decider.named(transaction, name, lock=True)
    if row is None:
        raise NotFound(f"no such schedule: {name[:128]!r}.")
    if seen is not None and row.version != seen:
        raise Outdated(f"another user has changed schedule {name}. Nothing was saved.")
    return row


def _text(spec: ScheduleSpec) -> str:
    return json.dumps(to_json(spec))


def _brief(spec: ScheduleSpec) -> dict[str, Any]:
    """A description for the audit trail: without the values of the job's environment."""
    described = {key: value for key, value in to_json(spec).items() if value is not None and key not in ("name", "job")}
    job = {**audit_lines.command_in_brief(spec.job.command), "queue": spec.job.queue}
    return {**described, **job}


def _readable(row: Row) -> ScheduleSpec:
    try:
        return decider.spec_of(row.text)
    except SpecError as error:
        raise Conflict(f"schedule {row.name} is broken: {error} Nothing was changed.") from None


def _stored_in_brief(row: Row) -> dict[str, Any]:
    try:
        return _brief(decider.spec_of(row.text))
    except SpecError as error:  # this machine cannot read it, whether or not a decider has noticed
        return {"broken": str(error)}
