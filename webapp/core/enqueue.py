"""Enqueue: jobs are stored, all of one call or none, with their queues and their lines of the audit trail.

In plain statements (see `core/transaction.py`), because whoever enqueues one job waits for it, and a worker for him: through a
session the same costs five times the INSERT itself. Called as `operations.enqueue`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Callable, Optional

from sqlalchemy.exc import IntegrityError

from webapp.core import labels
from webapp.core.job_spec import FieldError, JobSpec, SpecError
from webapp.core.transaction import Plain, storing
from webapp.db import audit
from webapp.jobs import settings
from webapp.lib import clock
from webapp.lib.ids import new_job_id

BATCH = 500  # values that one statement asks for
STORE_BATCH = 10_000  # rows between two reports of how far it is
AUDITED_SINGLY = 100  # jobs of one call; of more, the audit trail has their number
AUDITED = ("command", "queue", "requires", "state")  # of each job

MOST_LANES = 1000  # of one queue: workers and pages look through them one by one

_QUEUE = "INSERT INTO queues (name) VALUES (:name) ON CONFLICT (name) DO NOTHING"
_LANE = "INSERT INTO lanes (queue, requires) VALUES (:queue, :requires) ON CONFLICT (queue, requires) DO NOTHING"


def enqueue(
    specs: Sequence[JobSpec],
    actor: str,
    *,
    form_key: Optional[str] = None,
    stored: Optional[Callable[[int], None]] = None,
) -> list[str]:
    """Store all jobs or none; return their ids in order.

    `form_key` makes the call repeatable: a second one with the same key stores nothing and returns the first one's
    ids. `stored` is told how many are in, on the way to the commit. Raises SpecError when an id is taken, here or
    earlier in the same call; each of its errors has the `place` of its job in `specs`.
    """
    now = clock.now()
    keys: list[str] = []
    if form_key is not None:
        keys = [f"{form_key}.{place}" if place else form_key for place in range(len(specs))]
    rows = [_row(spec, actor, now, keys[place] if keys else None) for place, spec in enumerate(specs)]
    given = _given_ids(specs)
    try:
        with storing() as plain:
            before = _stored_before(plain, keys)
            if before:
                return before
            _refuse_taken(plain, given)
            new = _ensure_lanes(plain, sorted({(row["queue"], row["requires"]) for row in rows}))
            for start in range(0, len(rows), STORE_BATCH):
                plain.store("jobs", rows[start : start + STORE_BATCH])
                if stored is not None:
                    stored(min(start + STORE_BATCH, len(rows)))
            _audit(plain, rows, actor)
            if new:  # said last: whoever else has something to tell the workers waits from here to the commit
                plain.run(settings.BUMP_REVISION, {})
    except IntegrityError:
        # PostgreSQL only: another transaction stored one of these ids or keys between our look and our insert.
        with storing() as plain:
            before = _stored_before(plain, keys)
            if before:
                return before
            _refuse_taken(plain, given)
        raise
    return [row["id"] for row in rows]


def _row(spec: JobSpec, actor: str, now: int, form_key: Optional[str]) -> dict[str, Any]:
    due = spec.run_at if spec.run_at is not None else now + clock.seconds(spec.delay or 0)
    return {
        "id": spec.id or new_job_id(),
        "command": spec.command,
        "queue": spec.queue,
        "requires": labels.text_of(spec.requires) if spec.requires else "",
        "priority": spec.priority,
        "state": "scheduled" if due > now else "pending",
        # A time in the past counts as now: among equals, the first to come is the first to go.
        "run_at": max(due, now),
        "max_retries": spec.max_retries,
        "timeout": spec.timeout,
        "cwd": spec.cwd,
        "env": json.dumps(dict(spec.env)) if spec.env else None,
        "created_at": now,
        "created_by": actor,
        "changed_at": now,
        "attempts": 0,
        "failures": 0,
        "losses": 0,
        "lone_losses": 0,
        "form_key": form_key,
    }


def _given_ids(specs: Sequence[JobSpec]) -> dict[str, int]:
    """The ids that people chose, with their places in `specs`."""
    places: dict[str, int] = {}
    for place, spec in enumerate(specs):
        if spec.id is None:
            continue
        if spec.id in places:
            message = f"{spec.id!r} is given to jobs {places[spec.id] + 1} and {place + 1}. Ids must differ."
            raise SpecError([FieldError("id", message, place)])
        places[spec.id] = place
    return places


def _stored_before(plain: Plain, keys: Sequence[str]) -> list[str]:
    """The jobs that an earlier call with these keys has stored, but for those that were discarded since."""
    found: dict[str, str] = {}
    for start in range(0, len(keys), BATCH):
        statement = f"SELECT form_key, id FROM jobs WHERE {plain.among('form_key', 'keys')}"  # noqa: S608
        found.update(dict(plain.rows(statement, {"keys": plain.listed(keys[start : start + BATCH])})))
    return [found[key] for key in keys if key in found]


def _refuse_taken(plain: Plain, places: Mapping[str, int]) -> None:
    ids, errors = list(places), []
    for start in range(0, len(ids), BATCH):
        statement = f"SELECT id, state FROM jobs WHERE {plain.among('id', 'ids')}"  # noqa: S608
        errors += [
            FieldError("id", f"{job_id!r} is taken by a job that is {state}. Choose another.", places[job_id])
            for job_id, state in plain.rows(statement, {"ids": plain.listed(ids[start : start + BATCH])})
        ]
    if errors:
        raise SpecError(sorted(errors, key=lambda error: error.place or 0))


def _ensure_lanes(plain: Plain, named: Sequence[tuple[str, str]]) -> bool:
    """See that the queues are there, and what their jobs require. Returns whether workers must hear of new ones."""
    queues = [
        {"name": name}
        for name in dict.fromkeys(queue for queue, _ in named)
        if not plain.rows("SELECT 1 FROM queues WHERE name = :name", {"name": name})
    ]
    known = "SELECT 1 FROM lanes WHERE queue = :queue AND requires = :requires"
    lanes = [{"queue": queue, "requires": requires} for queue, requires in named if requires]
    lanes = [lane for lane in lanes if not plain.rows(known, lane)]
    for name in {lane["queue"] for lane in lanes}:
        [(number,)] = plain.rows("SELECT count(*) FROM lanes WHERE queue = :queue", {"queue": name})
        if number + sum(lane["queue"] == name for lane in lanes) > MOST_LANES:
            message = f"jobs of the queue {name} require {MOST_LANES:,} different sets of labels already."
            raise SpecError([FieldError("requires", f"{message} Ask for one of those, or use another queue.")])
    for statement, rows in ((_QUEUE, queues), (_LANE, lanes)):
        if rows:
            plain.run_many(statement, rows)
    return bool(queues or lanes)


def _audit(plain: Plain, rows: Sequence[Mapping[str, Any]], actor: str) -> None:
    """One line for each job, or one for a crowd."""
    if not rows or not audit.is_audited(actor):
        return
    if len(rows) > AUDITED_SINGLY:
        detail = {"after": {"jobs": len(rows), "first": rows[0]["id"], "last": rows[-1]["id"]}}
        lines = audit.lines("enqueue", ["jobs"], actor, details=[detail])
    else:
        details = [{"after": {key: row[key] for key in AUDITED if row[key]}} for row in rows]
        lines = audit.lines("enqueue", [f"job:{row['id']}" for row in rows], actor, details=details)
    plain.run_many(audit.LINE, lines)
