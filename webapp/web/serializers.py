"""Workers, queues, settings, bulk actions and the status as JSON, the same in `--json` and in the API.

Times are ISO 8601 in UTC with a `Z`, durations are seconds. A job is in `job_json.py`.
"""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy.orm import Session

from webapp.core import labels
from webapp.db.models import BulkAction
from webapp.insight import fleet, trends, windows
from webapp.insight.failure_groups import DeadGroup, fingerprint
from webapp.insight.fleet import SupervisorView, WorkerView
from webapp.insight.queues import QueueView
from webapp.insight.rollups import Commands
from webapp.insight.trends import Trend
from webapp.jobs import actions, activity, queries, settings
from webapp.jobs.queries import Waiting
from webapp.jobs.settings import Change, Value
from webapp.lib import clock, histograms
from webapp.lib.clock import columns
from webapp.lib.histograms import Histogram


def worker(view: WorkerView) -> dict[str, Any]:
    one = view.worker
    return {
        **columns(one, "id", "host", "pid", "slots", "jobs_completed", "jobs_failed", "version", "memory"),
        **columns(one, "started_at", "seen_at", "stopped_at"),
        "state": view.shown_state,
        "alive": view.alive,
        "queues": view.queues,
        "queue_order": json.loads(view.worker.queue_order) if view.worker.queue_order else None,
        "labels": sorted(view.labels),
        "jobs": [job.id for job in view.jobs],
        "supervisor": one.supervisor_id,
        "cpu_seconds": None if one.cpu_time is None else one.cpu_time / clock.SECOND,
    }


def supervisor(view: SupervisorView) -> dict[str, Any]:
    """`wanted` is null if it cannot be scaled, because it is ending or draining."""
    return {
        **columns(view, "id", "state", "host", "wanted", "slots", "queues", "started_at", "version"),
        "pid": None if view.row is None else view.row.pid,
        "workers": [one.worker.id for one in view.workers],
        "labels": sorted(view.labels),
    }


def queue(view: QueueView, now: int) -> dict[str, Any]:
    """`pending` is exact up to `queries.COUNT_CAP`; beyond that `pending_is_more` is true."""
    return {
        **columns(view.queue, "name", "paused_at", "paused_by"),
        "paused": view.queue.paused_at is not None,
        "pending": view.pending.number,
        "pending_is_more": view.pending.capped,
        "processing": view.processing,
        "oldest_pending_seconds": queries.waited(view.oldest_run_at, now),
        "runs_per_minute": view.per_minute or 0.0,
        "drain_seconds": view.drain_seconds,
        "waiting": [_label_set(one, now) for one in view.waiting],
    }


def _label_set(one: Waiting, now: int) -> dict[str, Any]:
    return {
        "requires": labels.split(one.label_set.requires),
        "pending": one.number.number,
        "pending_is_more": one.number.capped,
        "oldest_pending_seconds": queries.waited(one.oldest, now),
    }


def setting(value: Value) -> dict[str, Any]:
    definition = value.definition
    return {
        **columns(definition, "key", "queue", "unit", "help"),
        **{name: definition.tidy(getattr(definition, name)) for name in ("default", "lowest", "highest")},
        **columns(value, "value", "changed_at", "changed_by"),
    }


def change(one: Change) -> dict[str, Any]:
    """A line of a setting's history."""
    return {
        **columns(one, "id", "at", "actor", "reverted"),
        "from": one.before,
        "to": one.after,
        "from_default": one.before_default,
        "to_default": one.after_default,
    }


def act(row: BulkAction) -> dict[str, Any]:
    """The progress of a bulk action."""
    names = ("id", "verb", "state", "undoes", "moved", "skipped", "actor", "created_at", "finished_at")
    return {**columns(row, *names), "what": activity.what(row)}


def action(session: Session, action_id: int) -> dict[str, Any]:
    """The response to an action on all jobs that match, and to an undo."""
    return {"act": act(actions.find(session, action_id)), "action": action_id}


def outcome(result: actions.Result) -> dict[str, Any]:
    """The response to an action on jobs by id. `action` is null if no job changed."""
    found = result.outcome
    holders = {id_: holder.id for id_, holder in found.held.items()}
    refused = [{"id": id_, "state": state, "holder": holders.get(id_)} for id_, state in found.refused.items()]
    return {"moved": found.moved, "asked": found.asked, "refused": refused, "action": result.action_id or None}


def dead_group(group: DeadGroup) -> dict[str, Any]:
    """A group of dead letters with its note and owner."""
    said = group.said
    return {
        "key": group.key,
        "count": group.count.number,
        "count_is_more": group.count.capped,
        "first_death": clock.to_iso(group.first_at),
        "last_death": clock.to_iso(group.last_at),
        "example": group.example.id,
        "command": group.example.command,
        "error": group.example.last_error,
        "open": group.is_open,
        "acknowledged_by": said.acknowledged_by if said and not group.is_open else None,
        "note": said.note if said else "",
        "owner": said.owner if said else None,
        "version": fingerprint(said),
    }


def status(session: Session) -> dict[str, Any]:
    """The status of the queue, with exact numbers of jobs."""
    now = clock.now()
    hour = trends.trend(session, windows.RANGES["1h"])
    return {
        "states": queries.count_states_exactly(session),
        "workers": [worker(view) for view in fleet.workers(session, settings.load(session).lease)],
        "oldest_pending_seconds": queries.waited(queries.oldest_pending(session), now),
        "finished_last_minute": queries.count_finished_since(session, now - clock.MINUTE).number,
        "finished_last_hour": queries.count_finished_since(session, now - clock.HOUR).number,
        "runs_per_minute": hour.rate,
        "last_hour": trend(hour),
        "paused_queues": queries.paused_queues(session),
    }


def trend(shown: Trend) -> dict[str, Any]:
    """Ended attempts in a range. Quantiles are accurate to 5 %, null without attempts."""
    total = shown.total
    return {
        "completed": total.completed,
        "failed": total.failed,
        "died": total.dead,
        "lost": total.lost,
        "wait_seconds": _quantiles(total.waits),
        "run_seconds": _quantiles(total.runs),
    }


def command(one: Commands) -> dict[str, Any]:
    """The runs of one command pattern, '…' for all rarer ones. Quantiles are accurate to 5 %."""
    return {
        "command": one.shape,
        "runs": one.runs,
        "failures": one.failures,
        "mean_seconds": one.mean,
        "run_seconds": _quantiles(one.durations),
    }


def _quantiles(histogram: Histogram) -> dict[str, Any]:
    return {name: histograms.quantile(histogram, part) for name, part in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))}
