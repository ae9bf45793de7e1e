"""What needs attention: each item with its reason, and the page or command that helps. The worst comes first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Optional

from flask import current_app, url_for
from markupsafe import Markup
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from webapp.console.display import times
from webapp.console.display.wait_reason import START_COMMAND, place, start_command, wanting
from webapp.core import labels
from webapp.core.settings import Settings
from webapp.db import db_errors
from webapp.db.models import Job
from webapp.insight import blockers
from webapp.insight.blockers import Obstacle
from webapp.insight.fleet import WorkerView
from webapp.insight.queues import QueueView
from webapp.insight.stuck_jobs import Stuck, stuck
from webapp.jobs import queries
from webapp.jobs.lifecycle import in_state
from webapp.jobs.queries import Count, Waiting
from webapp.lib import clock, durations
from webapp.lib.text import plural

OVERDUE = clock.seconds(120)  # longer than a due job takes to become pending
SHOWN_ITEMS = 3  # jobs or queues listed by name


class Item(NamedTuple):
    """A job or a queue, with its text (safe HTML)."""

    url: str
    name: str
    text: Markup


@dataclass(frozen=True)
class Need:
    """One item that needs attention."""

    key: str
    level: str  # alarm, warn
    title: str
    text: str
    link: Optional[tuple[str, str]] = None
    command: Optional[str] = None
    items: list[Item] = field(default_factory=list)


def needs(
    session: Session,
    counts: dict[str, Count],
    fleet: Sequence[WorkerView],
    queues: Sequence[QueueView],
    values: Settings,
) -> list[Need]:
    found = [
        *_machine(),
        *_workers(counts, fleet),
        *_stuck(stuck(session, fleet, values)),
        *_overdue(session),
        *_dead(counts["dead"]),
        *_queues(queues, [view for view in fleet if view.alive]),
    ]
    return sorted(found, key=lambda need: need.level != "alarm")


def _machine() -> Iterator[Need]:
    config = current_app.extensions["queuectl_config"]
    free = db_errors.disk_nearly_full(config)
    if free is not None:
        low = free < db_errors.NO_SPACE
        title = "The disk is full" if low else "The disk is nearly full"
        # No exact figure: it would change with each refresh.
        text = f"Less than {'100 MiB' if low else '1 GiB'} is free. Free some space, or keep jobs for fewer days."
        keep = ("Retention settings", url_for("config.show", key="keep_completed"))
        yield Need("disk", "alarm" if low else "warn", title, text, link=keep)
    log = db_errors.large_log(config)
    if log is not None:
        yield Need(
            "log",
            "alarm",
            f"The database log has grown to {log >> 20:,} MiB",
            "A program keeps a transaction open, so the log cannot shrink. Find the program that reads queue.db, "
            "such as a sqlite3 shell or a copy that hangs, and close it.",
        )


def _workers(counts: dict[str, Count], fleet: Sequence[WorkerView]) -> Iterator[Need]:
    silent = [view for view in fleet if not view.alive]
    if len(silent) == len(fleet):
        pending = counts["pending"]
        text = "Jobs start when a worker is started."
        if pending.number:
            text = f"{pending} pending {'job' if pending.number == 1 else 'jobs'}. {text}"
        yield Need("workers", "alarm", "No workers running", text, command=START_COMMAND)
    elif silent:
        yield Need(
            "silent",
            "warn",
            f"{plural(len(silent), 'worker is', 'workers are')} not responding",
            "No heartbeat within the lease. Its jobs will return to their queue.",
            link=("View workers", url_for("workers.index")),
        )


def _stuck(found: list[Stuck]) -> Iterator[Need]:
    if not found:
        return
    items = [Item(url_for("job.show", job_id=one.job.id), one.job.id, _why_stuck(one)) for one in found[:SHOWN_ITEMS]]
    many = len(found) > 1
    yield Need(
        "stuck",
        "warn",
        f"{plural(len(found), 'job seems', 'jobs seem')} stuck",
        f"Check the output, and cancel {'jobs that make' if many else 'the job if it makes'} no progress.",
        link=("View running jobs", url_for("jobs.index", state="processing")),
        items=items,
    )


def _why_stuck(one: Stuck) -> Markup:
    started = times.when(one.job.started_at, "for")
    if one.why == "silent":
        return Markup("its worker {} is not responding").format(one.job.worker_id)
    if one.why == "cancel":
        return Markup("cancel requested {}, but still running").format(times.when(one.job.cancel_requested_at))
    if one.why == "timeout":
        return Markup("running for {}, past its timeout").format(started)
    return Markup("running for {}; usually takes about {}").format(started, durations.about(one.usual))


def _overdue(session: Session) -> Iterator[Need]:
    for state, title in (("failed", "Retries are overdue"), ("scheduled", "Scheduled jobs are overdue")):
        first = session.scalar(select(func.min(Job.run_at)).where(in_state(state), Job.state == state))
        if first is not None and first < clock.now() - OVERDUE:
            text = "The first was due more than 2 min ago. No worker has picked it up."
            link = (f"View {state} jobs", url_for("jobs.index", state=state))
            yield Need(f"overdue-{state}", "warn", title, text, link)


def _dead(dead: Count) -> Iterator[Need]:
    if dead.number:
        yield Need(
            "dead",
            "warn",
            f"{dead} dead {'letter' if dead.number == 1 else 'letters'}",
            "Out of retries. Check the error, then requeue or discard.",
            link=("Review failures", url_for("dead_letters.index")),
        )


def _queues(queues: Sequence[QueueView], alive: list[WorkerView]) -> Iterator[Need]:
    see = ("View queues", url_for("queues.index"))
    paused = [view.queue.name for view in queues if view.queue.paused_at is not None]
    if paused:
        many = len(paused) > 1
        title = f"{len(paused)} queues are paused" if many else f"Queue {paused[0]} is paused"
        text = f"{'Their' if many else 'Its'} jobs wait until you resume {'them' if many else 'it'}."
        yield Need("paused", "warn", title, text, link=see)
    fleets = [(view, blockers.serving(view.queue.name, view.queue, alive)) for view in queues if view.pending.number]
    lonely = [view for view, fleet in fleets if fleet.obstacle is not None and fleet.obstacle.kind == "unserved"]
    if lonely:
        names = ", ".join(view.queue.name for view in lonely[:SHOWN_ITEMS]) + (
            " …" if len(lonely) > SHOWN_ITEMS else ""
        )
        many = len(lonely) > 1
        yield Need(
            "unserved",
            "warn",
            f"No worker serves {'queues' if many else 'queue'} {names}",
            f"{queries.total(view.pending for view in lonely)} pending. The running workers serve other queues.",
            link=see,
            command=start_command(lonely[0].queue.name),
        )
    yield from _unlabelled(queues, alive)


def _unlabelled(queues: Sequence[QueueView], alive: list[WorkerView]) -> Iterator[Need]:
    """Jobs whose required labels no worker has."""
    found = blockers.stranded(queues, alive)
    if not found:
        return
    number = queries.total(one.number for one, _ in found)
    first = found[0][0].label_set.requires
    them = "it" if number.number == 1 else "them"
    there = f" on {place(first)}" if place(first) else ""
    items = [_label_set(one, why) for one, why in found[:SHOWN_ITEMS]]
    if len(found) > SHOWN_ITEMS:
        items.append(Item(url_for("queues.index"), f"and {len(found) - SHOWN_ITEMS} more", Markup()))
    yield Need(
        "unlabelled",
        "warn",
        f"{number} {'job needs' if number.number == 1 else 'jobs need'} labels that no worker has",
        f"Start a matching worker{there}, or cancel {them}.",
        link=("View queues", url_for("queues.index")),
        command=start_command(requires=first),
        items=items,
    )


def _label_set(one: Waiting, why: Obstacle) -> Item:
    """How many jobs wait with one set of labels, and for what."""
    label_set = one.label_set
    label = (why.missing or labels.split(label_set.requires))[0]
    url = url_for("jobs.index", state="pending", queue=label_set.queue, q=f"requires:{label}")
    need = "job needs" if one.number.number == 1 else "jobs need"
    return Item(url, label_set.queue, Markup("{} {} {}").format(one.number, need, wanting(why)))
