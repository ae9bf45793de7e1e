"""How `show` prints one job: fields, attempts and timeline."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from typing import Optional, Union

from rich.text import Text
from sqlalchemy.orm import Session

from webapp.commands.shared.output import STYLES, Column, ago, grid, local_time, standing, table
from webapp.core import labels
from webapp.core.flow import limits, retry_rules, unique_keys
from webapp.db.models import Attempt, Job, Report
from webapp.jobs import job_detail
from webapp.jobs.flow import chains, limit_use
from webapp.jobs.settings import load
from webapp.lib import clock
from webapp.lib.durations import between, duration
from webapp.lib.text import escape_lines, size
from webapp.notifications import views


def describe(session: Session, job: Job) -> list[object]:
    """What `show` prints, as rich objects."""
    attempts, events = job_detail.attempts(session, job), job_detail.events(session, job)
    parts: list[object] = [grid(_fields(session, job))]
    waiting = chains.waiting(session, job)
    if waiting is not None:
        parts += ["", Text(waiting.text)]
    if attempts or job.state == "processing":
        parts += ["", Text("Attempts", style="bold"), _attempts(job, attempts)]
    columns = [
        Column("TIME", lambda line: local_time(line.at)),
        Column("EVENT", lambda line: line.happened),
        Column("ACTOR", lambda line: line.actor),
        Column("DETAIL", lambda line: line.remark, flexible=True),
    ]
    return [*parts, "", Text("Timeline", style="bold"), table(columns, job_detail.timeline(job, attempts, events))]


def _fields(session: Session, job: Job) -> list[tuple[str, Text]]:
    settings, block, report = load(session), limit_use.block(session, job), job_detail.report(session, job)
    after = [one.id if one.wants == "success" else f"{one.id}:{one.wants}" for one in chains.followed(session, job)]
    retries = settings.max_retries if job.max_retries is None else job.max_retries
    timeout = settings.job_timeout if job.timeout is None else job.timeout
    failures = f"{job.failures} of {retries + 1} allowed failures" + _default(job.max_retries)
    fields = {
        "command": job.command,
        "queue": f"{job.queue} · priority {job.priority}",
        "requires": ", ".join(labels.split(job.requires)),
        "limits": ", ".join(map(str, limits.split(job.limits))),
        "waits": block and (block.text + (f", next start {local_time(block.opens_at)}" if block.opens_at else "")),
        "attempts": f"{job.attempts} · {failures}",
        "timeout": (duration(timeout) if timeout else "none") + _default(job.timeout),
        "folder": job.cwd,
        "variables": "\n".join(f"{key}={value}" for key, value in json.loads(job.env or "{}").items()),
        "notifies": ", ".join(views.watches(session, job.seq)),
        "after": ", ".join(after),
        "batch": job.batch,
        "unique key": _key(job),
        "retry rules": "\n".join(retry_rules.stored(job.retry).lines),
        "submitted": f"{local_time(job.created_at)} · {ago(job.created_at, job.created_by)}",
        "due": local_time(job.run_at) if job.state in ("scheduled", "failed") else None,
        "started": job.started_at and f"{local_time(job.started_at)} · {ago(job.started_at)}",
        "finished": job.finished_at and f"{local_time(job.finished_at)} · {ago(job.finished_at)}",
        "exit code": None if job.exit_code is None else str(job.exit_code),
        "error": None if job.state == "completed" else job.last_error,
        **(_reported(report) if report is not None else {}),
    }
    state = Text(job.state, style=STYLES[job.state]).append(f" · {standing(job)}", style="default")
    return [
        ("id", Text(job.id)),
        ("state", state),
        *((name, Text(escape_lines(str(value)), STYLES.get(name, ""))) for name, value in fields.items() if value),
    ]


def _key(job: Job) -> Optional[str]:
    held = unique_keys.holds(job.unique_while, job.unique_until, job.state)
    return f"{job.unique_key}{' (held)' if held else ''}" if job.unique_key else None


def _reported(report: Report) -> dict[str, Optional[str]]:
    return {
        "progress": None if report.progress is None else f"{report.progress:.0%}",
        "note": report.note,
        "result": report.result,
        "report fault": report.fault,
    }


def _default(value: Optional[float]) -> str:
    return " (default)" if value is None else ""


def _attempts(job: Job, attempts: Sequence[Attempt]) -> object:
    rows = list(attempts)
    if job.state == "processing" and job.started_at is not None:
        running = {"started_at": job.started_at, "finished_at": clock.now(), "worker_id": job.worker_id}
        rows.append(Attempt(number=job.attempts, state=job.state, **running))
    columns = [
        Column("#", lambda one: one.number, right=True),
        Column("STATE", lambda one: "interrupted" if one.state == "released" else one.state),
        Column("EXIT", _exit),
        Column("STARTED", lambda one: local_time(one.started_at)),
        Column("DURATION", lambda one: between(one.started_at, one.finished_at), right=True),
        Column("CPU", lambda one: one.cpu_time and duration(one.cpu_time / clock.SECOND), right=True, optional=True),
        Column("MEMORY", lambda one: one.peak_memory and size(one.peak_memory), right=True, optional=True),
        Column("WORKER", lambda one: one.worker_id),
        Column("ERROR", lambda one: one.error, flexible=True, optional=True),
    ]
    return table(columns, rows)


def _exit(one: Attempt) -> Union[int, str, None]:
    if one.signal is None:
        return one.exit_code
    try:
        return signal.Signals(one.signal).name
    except ValueError:
        return f"signal {one.signal}"
