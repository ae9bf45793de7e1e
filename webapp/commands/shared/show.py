"""How `show` lays out one job for a person: fields, attempts, what happened, the end of its output."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING, Union

from webapp.commands.shared.output import STYLES, Column, ago, ago_by, local_time, show, standing, table
from webapp.core import labels
from webapp.jobs import job_detail
from webapp.lib import clock
from webapp.lib.durations import between, duration
from webapp.lib.text import escape_lines, size

if TYPE_CHECKING:
    from webapp.core.settings import Settings
    from webapp.db.models import Attempt, Event, Job

WORDS = {
    "enqueue": "enqueued",
    "start": "started",
    "complete": "completed",
    "fail": "failed",
    "retry": "failed",
    "bury": "became a dead letter",
    "cancel": "cancelled",
    "ask_cancel": "asked to stop",
    "settle_cancel": "cancelled",
    "release": "handed back by its worker",
    "lose": "lost: its worker died",
    "requeue": "requeued",
    "run_now": "made due at once",
    "promote": "became due",
}


def print_job(job: Job, attempts: Sequence[Attempt], events: Sequence[Event], settings: Settings) -> None:
    _print_fields(job, settings)
    if attempts or job.state == "processing":
        _heading("Attempts")
        _print_attempts(job, attempts)
    _heading("What happened")
    columns = [
        Column("WHEN", lambda line: local_time(line.at)),
        Column("", _what),
        Column("BY", lambda line: line.actor),
        Column("", lambda line: line.text, flexible=True),
    ]
    show(table(columns, job_detail.timeline(job, list(attempts), list(events))))


def _what(line: job_detail.TimelineEntry) -> str:
    return WORDS.get(line.verb, line.verb) + (f" (attempt {line.attempt})" if line.attempt else "")


def _heading(text: str) -> None:
    from rich.text import Text

    show("", Text(text, style="bold"))


def _print_fields(job: Job, settings: Settings) -> None:
    from rich.table import Table
    from rich.text import Text

    now = clock.now()
    retries = settings.max_retries if job.max_retries is None else job.max_retries
    timeout = settings.job_timeout if job.timeout is None else job.timeout
    state = Text(job.state, style=STYLES[job.state]).append(f" · {standing(job, now)}", style="default")
    fields: list[tuple[str, Text]] = [
        ("id", Text(job.id)),
        ("state", state),
        ("command", Text(escape_lines(job.command))),
        ("queue", Text(f"{job.queue} · priority {job.priority}")),
        *([("requires", Text(", ".join(labels.split(job.requires))))] if job.requires else []),
        ("attempts", Text(f"{job.attempts} · {_of(job.failures, retries)}" + _source(job.max_retries is None))),
        ("timeout", Text((duration(timeout) if timeout else "none") + _source(job.timeout is None))),
    ]
    if job.cwd:
        fields.append(("folder", Text(escape_lines(job.cwd))))
    if job.env:
        pairs = json.loads(job.env).items()
        fields.append(("variables", Text("\n".join(escape_lines(f"{key}={value}") for key, value in pairs))))
    fields.append(("enqueued", Text(f"{local_time(job.created_at)} · {ago_by(job.created_at, job.created_by, now)}")))
    if job.state in ("scheduled", "failed"):
        fields.append(("due", Text(local_time(job.run_at))))
    if job.started_at is not None:
        fields.append(("started", Text(f"{local_time(job.started_at)} · {ago(job.started_at, now)}")))
    if job.finished_at is not None:
        fields.append(("finished", Text(f"{local_time(job.finished_at)} · {ago(job.finished_at, now)}")))
    if job.exit_code is not None:
        fields.append(("exit code", Text(str(job.exit_code))))
    if job.last_error and job.state != "completed":
        fields.append(("error", Text(escape_lines(job.last_error), style="red")))
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, text in fields:
        grid.add_row(name, text)
    show(grid)


def _of(failures: int, retries: int) -> str:
    return f"{failures} of {retries + 1} allowed failures"


def _source(default: bool) -> str:
    return " (the setting)" if default else ""


def _print_attempts(job: Job, attempts: Sequence[Attempt]) -> None:
    from webapp.db.models import Attempt

    rows = list(attempts)
    if job.state == "processing" and job.started_at is not None:
        running = {"started_at": job.started_at, "finished_at": clock.now(), "worker_id": job.worker_id}
        rows.append(Attempt(number=job.attempts, state=job.state, **running))
    columns = [
        Column("#", lambda one: one.number, right=True),
        Column("STATE", lambda one: one.state),
        Column("EXIT", _exit),
        Column("STARTED", lambda one: local_time(one.started_at)),
        Column("TOOK", lambda one: between(one.started_at, one.finished_at), right=True),
        Column("CPU", lambda one: one.cpu_time and duration(one.cpu_time / clock.SECOND), right=True, optional=True),
        Column("MEMORY", lambda one: one.peak_memory and size(one.peak_memory), right=True, optional=True),
        Column("WORKER", lambda one: one.worker_id),
        Column("ERROR", lambda one: one.error, flexible=True, optional=True),
    ]
    show(table(columns, rows))


def _exit(one: Attempt) -> Union[int, str, None]:
    if one.signal is None:
        return one.exit_code
    try:
        return signal.Signals(one.signal).name
    except ValueError:
        return f"signal {one.signal}"
