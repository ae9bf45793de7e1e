"""The first page: what needs a person, how many jobs are in each state, who works, what failed lately."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from flask import Blueprint, current_app, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from webapp import clock, queries, settings, trouble
from webapp.console import htmx
from webapp.console.words import plural
from webapp.db import reading
from webapp.filters import JobFilter

pages = Blueprint("overview", __name__)

START_COMMAND = "python3 manage.py worker start"
LATELY = 3600  # seconds


@dataclass(frozen=True)
class Need:
    """Something that waits for a person: how bad, what, and where or how to deal with it."""

    level: str  # alarm, warn
    title: str
    text: str
    link: Optional[tuple[str, str]] = None
    command: Optional[str] = None


@pages.get("/")
def index() -> ResponseReturnValue:
    with reading() as session:
        counts = queries.count_states(session)
        fleet = queries.workers(session, settings.load(session).lease)
        now = clock.now()
        return htmx.page(
            "overview",
            session,
            needs=_needs(session, counts, fleet),
            counts=counts,
            fleet=fleet,
            failures=queries.recent_failures(session),
            minute=queries.count_finished_since(session, now - clock.seconds(60)),
            hour=queries.count_finished_since(session, now - clock.seconds(LATELY)),
            oldest=queries.oldest_pending(session),
        )


def _needs(session: Session, counts: dict[str, queries.Count], fleet: list[queries.WorkerView]) -> list[Need]:
    needs = []
    if not any(view.alive for view in fleet):
        waiting = counts["pending"]
        text = "Nothing will run until one is started."
        if waiting.number:
            text = f"{waiting} {'job waits' if waiting.number == 1 else 'jobs wait'}. " + text
        needs.append(Need("alarm", "No worker is running", text, command=START_COMMAND))
    silent = [view for view in fleet if not view.alive]
    if silent and len(silent) < len(fleet):
        needs.append(
            Need(
                "warn",
                f"{plural(len(silent), 'worker is', 'workers are')} silent",
                "No heartbeat for longer than the lease: it may be gone or stuck. Its jobs go back to their queue.",
                link=("See workers", url_for("workers.index")),
            )
        )
    log = trouble.large_log(current_app.extensions["queuectl_config"])
    if log is not None:
        needs.append(
            Need(
                "alarm",
                f"The database's log has grown to {log >> 20:,} MiB",
                "Some program keeps a transaction open, so the log cannot begin anew and takes more and more disk. "
                "Look for one that reads queue.db: a shell of sqlite3, a copy that hangs.",
            )
        )
    if counts["dead"].number:
        many = counts["dead"].number != 1
        needs.append(
            Need(
                "warn",
                f"{counts['dead']} dead {'letters' if many else 'letter'}",
                "They have no retries left. Look at the error, then requeue or discard.",
                link=("Look through them", url_for("dead_letters.index")),
            )
        )
    paused = [view.queue.name for view in queries.queues(session) if view.queue.paused_at is not None]
    if paused:
        title = f"Queue {paused[0]} is paused" if len(paused) == 1 else f"{len(paused)} queues are paused"
        needs.append(Need("warn", title, "Its jobs wait until somebody resumes it." if len(paused) == 1 else
                          "Their jobs wait until somebody resumes them.",
                          link=("See queues", url_for("queues.index"))))  # fmt: skip
    if counts["failed"].number:
        first = queries.page_of_jobs(session, _FAILED, limit=1).jobs
        if first and first[0].run_at < clock.now() - clock.seconds(120):
            needs.append(
                Need(
                    "warn",
                    "Retries are overdue",
                    "The first should have begun more than two minutes ago: workers promote them, and none does.",
                    link=("See failed jobs", url_for("jobs.index", state="failed")),
                )
            )
    return needs


_FAILED = JobFilter(state="failed")
