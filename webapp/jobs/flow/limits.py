"""Set and remove limits. Console, CLI and API call the same functions; each is one durable transaction.

`core/flow/limits.py` has the rules, `jobs/flow/limit_use.py` who holds a key and who waits for it.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, select, text
from sqlalchemy.orm import Session

from webapp.core.field_readers import read_fields, whole_number
from webapp.core.flow import limits
from webapp.core.flow.limits import OF_QUEUE
from webapp.core.job_spec import FieldError, SpecError
from webapp.db.engines import writing
from webapp.db.models import Job, Limit
from webapp.jobs import settings
from webapp.jobs.flow import limit_use
from webapp.jobs.lifecycle import Conflict, NotFound, in_state, record
from webapp.lib import clock
from webapp.lib.text import can_be_stored, plural

NOTE_LIMIT = 500  # characters


class LimitInUse(Conflict):
    """Pending or running jobs name the key; the message says which."""


def set_limit(key: str, most: object, rate: object, note: object, actor: str) -> Limit:
    """Create or replace a limit. `most`: running jobs, None for any number; `rate`: a text such as '10/min', or None.

    Raises SpecError. It applies to jobs that start from now on; running jobs continue.
    """
    values = check(key, most, rate, note)
    with writing() as session:
        row = session.get(Limit, values["key"])
        before = shown(row) if row is not None else {}
        if row is None:
            row = Limit(**values, changed_at=clock.now(), changed_by=actor)
            session.add(row)
        else:
            for name, value in values.items():
                setattr(row, name, value)
            row.changed_at, row.changed_by = clock.now(), actor
        session.flush()
        settings.bump_revision(session)
        change = {"before": before, "after": shown(row)}
        record(session, "set_limit", [(f"limit:{row.key}", None)], actor, changes=[change])
        return row


def remove_limit(key: str, actor: str, *, force: bool = False) -> None:
    """Remove a limit. Raises NotFound; and LimitInUse if pending or running jobs name a key that only it covers.

    With `force` these jobs continue without a limit on that key. Jobs that are due later are not looked at.
    """
    with writing() as session:
        row = find(session, key)
        used = "" if force else in_use(session, key)
        if used:
            raise LimitInUse(f"{used} Nothing was changed.")
        change = {"before": shown(row), "after": {}}
        session.execute(delete(Limit).where(Limit.key == key))
        settings.bump_revision(session)
        record(session, "remove_limit", [(f"limit:{key}", None)], actor, changes=[change])


def find(session: Session, key: str) -> Limit:
    """Raises NotFound."""
    row = session.get(Limit, key)
    if row is None:
        raise NotFound(f"no such limit: {key[:128]!r}.")
    return row


def every(session: Session) -> list[Limit]:
    """All limits, by key."""
    return list(session.scalars(select(Limit).order_by(Limit.key)))


def shown(row: Limit) -> dict[str, Any]:
    """The values of a limit, as the audit trail and JSON have them."""
    return {"max": row.most, "rate": limits.rate_text(row.rate, row.per), "note": row.note}


def in_use(session: Session, key: str) -> str:
    """A sentence if pending or running jobs name a key that only this limit covers; else ''."""
    if key.startswith(OF_QUEUE):
        return ""  # jobs do not name it
    others = limits.Limits(row for row in session.execute(text(limits.READ)).tuples() if row[0] != key)
    lanes = {lane.text for lane in limit_use.waiting_lanes(session)}
    running = set(session.scalars(select(Job.limits).where(in_state("processing"), Job.limits != "").distinct()))
    named = {one.name for named in lanes | running for one in limits.split(named)}
    left = sorted(name for name in named if limits.matches(key, name) and others.of(name) is None)
    if not left:
        return ""
    some = ", ".join(left[:3]) + (f" and {plural(len(left) - 3, 'more key')}" if len(left) > 3 else "")
    return f"Pending or running jobs name {some}."


def check(key: str, most: object, rate: object, note: object) -> dict[str, Any]:
    """The values of a limit. A text for `most` is read as a number; an empty text counts as not given.

    Raises SpecError with all errors.
    """
    values, errors = read_fields({"key": key or " ", "max": most, "rate": rate, "note": note}, _READERS)
    starts, per = values.get("rate", (None, None))
    found = {"key": key, "most": values.get("max"), "rate": starts, "per": per, "note": values.get("note")}
    if not errors and key.startswith(OF_QUEUE) and found["most"] is None and starts is None:
        errors.append(FieldError("max", "is missing. The limit of a queue needs a maximum or a rate."))
    if errors:
        raise SpecError(errors)
    return found


def _read_rate(value: object) -> tuple[int, int]:
    if not isinstance(value, str):
        raise ValueError(f"{ascii(value)[:60]} is not allowed; {limits.RATE_RULE}.")
    return limits.read_rate(value)


def _read_note(value: object) -> str:
    if not isinstance(value, str) or len(value) > NOTE_LIMIT or not can_be_stored(value):
        raise ValueError(f"is not allowed; expected a text of at most {NOTE_LIMIT} characters.")
    return value


_READERS = {
    "key": limits.check_key,
    "max": whole_number(0, limits.MOST_RUNNING),
    "rate": _read_rate,
    "note": _read_note,
}
