"""Edit and retry: a job that failed or was cancelled gets another command or other fields, and runs again.

It keeps its id, attempts and history. The old values stay in `Job.prior_fields` for an undo, and in the job's event for
its page. The values of environment variables are in neither the event nor the audit trail.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Optional

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from webapp.core import audit_lines, labels
from webapp.core import enqueue as core_enqueue
from webapp.core.flow import limits, retry_rules
from webapp.core.flow.unique_keys import Unique
from webapp.core.job_spec import FieldError, JobSpec, SpecError, parse
from webapp.core.states import ARROWS
from webapp.db import audit
from webapp.db.engines import writing
from webapp.db.models import Job, LabelSetRow
from webapp.jobs import actions, lifecycle
from webapp.jobs.actions import Result
from webapp.jobs.flow import limit_use
from webapp.jobs.lifecycle import NotFound, Outcome, move, restore_queues
from webapp.lib import clock

FIELDS = (
    "command", "queue", "requires", "priority", "max_retries", "timeout", "cwd", "env", "limits", "unique", "retry"
)  # fmt: skip
UNIQUE = ("unique_key", "unique_while", "unique_until")
COLUMNS = (*(name for name in FIELDS if name != "unique"), *UNIQUE)
FIXED = ("id", "run_at", "delay", "notify", "after")


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
        "limits": [str(key) for key in limits.split(job.limits)] or None,
        "retry": json.loads(job.retry) if job.retry else None,
        "unique": unique.as_json if (unique := _unique_of(job)) else None,
    }


def edit(job_id: str, changes: Mapping[str, Any], actor: str, *, seen: Optional[int] = None) -> Result:
    """Change fields of a dead, cancelled or failed job and requeue it, with retries reset.

    `changes` is a mapping for `job_spec.parse`; fields that it does not name stay, null restores the default. `seen` is
    the `changed_at` that the user saw. A period of a unique key begins anew if it is changed.

    Raises NotFound, SpecError, Conflict if the job was moved or changed, and KeyHeld if another job holds its unique
    key.
    """
    with writing() as session:
        job = session.scalar(select(Job).where(Job.id == job_id).with_for_update())
        if job is None:
            raise NotFound(lifecycle.refusal("edit", job_id, None))
        if job.state not in ARROWS["edit"].leaves:
            raise Conflict(lifecycle.refusal("edit", job_id, job.state), job.state)
        if seen is not None and seen != job.changed_at:
            raise Conflict(f"{job_id} has changed since you opened this form. Nothing changed.", job.state)
        spec = _changed(job, changes)
        return _edit(session, job, {**_columns(spec), **_flow_columns(session, job, spec, changes)}, actor)


def _changed(job: Job, changes: Mapping[str, Any]) -> JobSpec:
    """The job with these changes. Raises SpecError."""
    fixed = [name for name in FIXED if name in changes]
    if fixed:
        words = f"cannot be edited. Fields that can: {', '.join(FIELDS)}."
        raise SpecError([FieldError(name, words) for name in fixed])
    spec = parse({**fields_of(job), **changes})
    if spec.unique is not None and spec.unique.on_conflict != "refuse":
        words = "on_conflict: not allowed in an edit, which refuses a key that another job holds. Leave it out."
        raise SpecError([FieldError("unique", words)])
    return spec


def _columns(spec: JobSpec) -> dict[str, Any]:
    names = ("command", "queue", "priority", "max_retries", "timeout", "cwd")
    return {
        **{name: getattr(spec, name) for name in names},
        "requires": labels.text_of(spec.requires) if spec.requires else "",
        "env": json.dumps(dict(spec.env)) if spec.env else None,
    }


def _flow_columns(session: Session, job: Job, spec: JobSpec, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of limits, unique key and retry rules; those that `changes` does not name stay. Raises SpecError."""
    columns: dict[str, Any] = {name: getattr(job, name) for name in ("limits", "retry", *UNIQUE)}
    if "limits" in changes:
        columns["limits"] = limits.text_of(spec.limits)
    if columns["limits"] != job.limits:
        unknown = limit_use.read(session).unknown(spec.limits)
        if unknown:
            raise SpecError([FieldError("limits", limits.no_limit(name)) for name in unknown])
    if "retry" in changes and retry_rules.stored(job.retry) != retry_rules.stored(spec.retry):
        columns["retry"] = spec.retry
    if "unique" in changes and spec.unique != _unique_of(job):
        unique = spec.unique
        until = clock.now() + clock.seconds(unique.seconds) if unique and unique.seconds else None
        columns.update(zip(UNIQUE, (unique.key, unique.while_, until) if unique else (None, None, None)))
    return columns


def _unique_of(job: Job) -> Optional[Unique]:
    if job.unique_key is None:
        return None
    if job.unique_until is not None:
        return Unique(job.unique_key, "period", (job.unique_until - job.created_at) / clock.SECOND)
    return Unique(job.unique_key, "waiting" if job.unique_while == "started" else str(job.unique_while))


def _shown(columns: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Fields by name, as people read them in the history. The values of variables are left out."""
    shown = {name: columns[name] for name in names if name not in ("env", "retry", "unique")}
    if "retry" in names:
        shown["retry"] = "; ".join(retry_rules.stored(columns["retry"]).lines) or None
    if "unique" in names:
        scope = clock.to_iso(columns["unique_until"]) or columns["unique_while"]
        shown["unique"] = columns["unique_key"] and f"{columns['unique_key']} ({scope})"
    return shown


def _edit(session: Session, job: Job, wanted: dict[str, Any], actor: str) -> Result:
    state, old_env = job.state, _variables(job.env)
    old = {name: getattr(job, name) for name in COLUMNS}
    if _variables(wanted["env"]) == old_env:
        wanted["env"] = old["env"]
    new = {name: wanted[name] for name in COLUMNS if wanted[name] != old[name]}
    names = [name for name in FIELDS if name in new or (name == "unique" and new.keys() & {*UNIQUE})]
    if {"queue", "requires"} & new.keys():
        _check_label_sets(session, wanted["queue"], wanted["requires"])
    restore_queues(session, [(wanted["queue"], wanted["requires"])])
    action = actions.create(session, "edit", {"ids": [job.id], "named": 1, "only": None}, actor, state="done")
    action.moved, action.finished_at = 1, clock.now()
    before, after = _shown(old, names), _shown(wanted, names)
    variables = _renamed(old_env, _variables(wanted["env"]))
    detail = {"from": state, "text": ", ".join(names), "before": before,
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
