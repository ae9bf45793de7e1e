"""Edit and retry: a job that failed or was cancelled gets another command or other fields, and runs again.

It keeps its id, attempts and history. The old values stay in `Job.prior_fields` for an undo, and in the job's event for
its page. The values of environment variables are in neither the event nor the audit trail.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Optional

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from webapp.core import audit_lines, labels
from webapp.core import enqueue as core_enqueue
from webapp.core.job_spec import FieldError, JobSpec, SpecError, parse
from webapp.core.states import ARROWS
from webapp.db import audit
from webapp.db.engines import writing
from webapp.db.models import Job, LabelSetRow
from webapp.jobs import actions, lifecycle
from webapp.jobs.actions import Result
from webapp.jobs.lifecycle import NotFound, Outcome, move, restore_queues
from webapp.lib import clock

FIELDS = ("command", "queue", "requires", "priority", "max_retries", "timeout", "cwd", "env")


class Conflict(Exception):
    """The job is in a `state` that allows no edit, or has changed. The message says which."""

    def __init__(self, message: str, state: str) -> None:
        self.state = state
        super().__init__(message)


def fields_of(job: Job) -> dict[str, Any]:
    """The fields that an edit can change, as `job_spec.parse` reads them."""
    return {
        "command": job.command,
        "queue": job.queue,
        "requires": labels.split(job.requires) or None,
        "priority": job.priority,
        "max_retries": job.max_retries,
        "timeout": job.timeout,
        "cwd": job.cwd,
        "env": json.loads(job.env) if job.env else None,
    }


def edit(job_id: str, changes: Mapping[str, Any], actor: str, *, seen: Optional[int] = None) -> Result:
    """Change fields of a dead, cancelled or failed job and requeue it, with retries reset.

    `changes` is a mapping for `job_spec.parse`; fields that it does not name stay, null restores the default. `seen` is
    the `changed_at` that the user saw. Raises NotFound, SpecError, and Conflict if the job was moved or changed.
    """
    with writing() as session:
        job = session.scalar(select(Job).where(Job.id == job_id).with_for_update())
        if job is None:
            raise NotFound(lifecycle.refusal("edit", job_id, None))
        if job.state not in ARROWS["edit"].leaves:
            raise Conflict(lifecycle.refusal("edit", job_id, job.state), job.state)
        if seen is not None and seen != job.changed_at:
            raise Conflict(f"{job_id} has changed since you opened this form. Nothing changed.", job.state)
        return _edit(session, job, _columns(_changed(job, changes)), actor)


def _changed(job: Job, changes: Mapping[str, Any]) -> JobSpec:
    """The job with these changes. Raises SpecError."""
    fixed = [name for name in ("id", "run_at", "delay", "notify") if name in changes]
    if fixed:
        words = f"cannot be edited. Fields that can: {', '.join(FIELDS)}."
        raise SpecError([FieldError(name, words) for name in fixed])
    return parse({**fields_of(job), **changes})


def _columns(spec: JobSpec) -> dict[str, Any]:
    names = ("command", "queue", "priority", "max_retries", "timeout", "cwd")
    return {
        **{name: getattr(spec, name) for name in names},
        "requires": labels.text_of(spec.requires) if spec.requires else "",
        "env": json.dumps(dict(spec.env)) if spec.env else None,
    }


def _edit(session: Session, job: Job, wanted: dict[str, Any], actor: str) -> Result:
    state, old_env = job.state, _variables(job.env)
    old = {name: getattr(job, name) for name in FIELDS}
    if _variables(wanted["env"]) == old_env:
        wanted["env"] = old["env"]
    new = {name: wanted[name] for name in FIELDS if wanted[name] != old[name]}
    if {"queue", "requires"} & new.keys():
        _check_label_sets(session, wanted["queue"], wanted["requires"])
    restore_queues(session, [(wanted["queue"], wanted["requires"])])
    action = actions.create(session, "edit", {"ids": [job.id], "named": 1, "only": None}, actor, state="done")
    action.moved, action.finished_at = 1, clock.now()
    before = {name: old[name] for name in FIELDS if name in new and name != "env"}
    after = {name: new[name] for name in FIELDS if name in new and name != "env"}
    variables = _renamed(old_env, _variables(wanted["env"]))
    detail = {"from": state, "text": ", ".join(name for name in FIELDS if name in new), "before": before,
              "after": after, "env": variables}  # fmt: skip
    values = {**actions.values_of("edit"), **new, "prior_fields": json.dumps({name: old[name] for name in new})}
    move(session, action, Job.seq == job.seq, values, audited=False, detail={k: v for k, v in detail.items() if v})
    if audit_lines.is_audited(actor):
        change = {"before": {"state": state, **_brief(before)}, "after": {"state": "pending", **_brief(after)}}
        if variables:
            change["after"]["env"] = ", ".join(f"{name} {what}" for name, what in variables.items())
        audit.note(session, "edit", [f"job:{job.id}"], actor, details=[change])
    return Result(action.id, 1, 0, True, action.id, Outcome(moved=[job.id]))


def _variables(env: Optional[str]) -> dict[str, str]:
    found: dict[str, str] = json.loads(env) if env else {}
    return found


def _renamed(old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, str]:
    """The variables that differ, with 'added', 'changed' or 'removed'. Their values may be secrets."""
    names = [*old, *(name for name in new if name not in old)]
    words = {name: "added" if name not in old else "removed" if name not in new else "changed" for name in names}
    return {name: words[name] for name in names if old.get(name) != new.get(name)}


def _brief(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values for the audit trail, which keeps only the start of a long command."""
    return {**values, **audit_lines.command_in_brief(values["command"])} if "command" in values else dict(values)


def _check_label_sets(session: Session, queue: str, requires: str) -> None:
    """Raises SpecError, as an enqueue does."""
    if not requires or session.get(LabelSetRow, (queue, requires)) is not None:
        return
    known = session.scalar(select(func.count()).select_from(LabelSetRow).where(LabelSetRow.queue == queue)) or 0
    if known >= core_enqueue.MOST_LABEL_SETS:
        raise core_enqueue.too_many_label_sets(queue)
