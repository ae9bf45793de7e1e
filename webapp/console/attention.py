"""What needs a person: each thing with why, and the page or command that helps. The worst comes first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Optional

from flask import current_app, url_for
from markupsafe import Markup
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from webapp.console import times
from webapp.console.wait_reason import START_COMMAND, place, start_command, wanting
from webapp.core import labels
from webapp.core.setting_values import Settings
from webapp.db import db_errors
from webapp.db.models import Job
from webapp.insight import blockers
from webapp.insight.blockers import Obstacle
from webapp.insight.queues import QueueView
from webapp.insight.stuck_jobs import Stuck, stuck
from webapp.jobs import queries
from webapp.jobs.lifecycle import in_state
from webapp.jobs.queries import Count, Waiting, WorkerView
from webapp.lib import clock, durations
from webapp.lib.text import plural

OVERDUE = clock.seconds(120)  # a job that is due for longer should have become pending
MOST = 3  # jobs or queues that are named


@dataclass(frozen=True)
class Item:
    """One of several things: a job or a queue, and what about it (safe HTML)."""

    url: str
    name: str
    text: Markup


@dataclass(frozen=True)
class Need:
    """Something that waits for a person: how bad, what, and where or how to deal with it."""

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
        # No exact figure, which would differ at each look.
        text = f"Less than {'100 MiB' if low else '1 GiB'} is free: soon no job can be stored. Make room, or keep less."
        keep = ("See what is kept", url_for("config.show", key="keep_completed"))
        yield Need("disk", "alarm" if low else "warn", title, text, link=keep)
    log = db_errors.large_log(config)
    if log is not None:
        yield Need(
            "log",
            "alarm",
            f"The database's log has grown to {log >> 20:,} MiB",
            "Some program keeps a transaction open, so the log cannot begin anew and takes more and more disk. "
            "Look for one that reads queue.db: a shell of sqlite3, a copy that hangs.",
        )


def _workers(counts: dict[str, Count], fleet: Sequence[WorkerView]) -> Iterator[Need]:
    silent = [view for view in fleet if not view.alive]
    if len(silent) == len(fleet):
        waiting_jobs = counts["pending"]
        text = "Nothing will run until one is started."
        if waiting_jobs.number:
            text = f"{waiting_jobs} {'job waits' if waiting_jobs.number == 1 else 'jobs wait'}. " + text
        yield Need("workers", "alarm", "No worker is running", text, command=START_COMMAND)
    elif silent:
        yield Need(
            "silent",
            "warn",
            f"{plural(len(silent), 'worker is', 'workers are')} silent",
            "No heartbeat for longer than the lease: it may be gone or stuck. Its jobs go back to their queue.",
            link=("See workers", url_for("workers.index")),
        )


def _stuck(found: list[Stuck]) -> Iterator[Need]:
    if not found:
        return
    items = [Item(url_for("job.show", job_id=one.job.id), one.job.id, _why_stuck(one)) for one in found[:MOST]]
    many = len(found) > 1
    yield Need(
        "stuck",
        "warn",
        f"{plural(len(found), 'job seems', 'jobs seem')} stuck",
        f"Look at {'their' if many else 'its'} output, and cancel {'those' if many else 'it'} if nothing moves.",
        link=("See what runs", url_for("jobs.index", state="processing")),
        items=items,
    )


def _why_stuck(one: Stuck) -> Markup:
    started = times.when(one.job.started_at, "for")
    if one.why == "silent":
        return Markup("its worker {} is silent").format(one.job.worker_id)
    if one.why == "cancel":
        return Markup("was told to end {}, and has not").format(times.when(one.job.cancel_requested_at))
    if one.why == "timeout":
        return Markup("has run for {}, past its time-out").format(started)
    return Markup("has run for {}; usual is about {}").format(started, durations.about(one.usual))


def _overdue(session: Session) -> Iterator[Need]:
    for state, title in (("failed", "Retries are overdue"), ("scheduled", "Scheduled jobs are overdue")):
        first = session.scalar(select(func.min(Job.run_at)).where(in_state(state), Job.state == state))
        if first is not None and first < clock.now() - OVERDUE:
            text = "The first should have begun more than two minutes ago: workers promote them, and none does."
            yield Need(
                "overdue-" + state, "warn", title, text, (f"See {state} jobs", url_for("jobs.index", state=state))
            )


def _dead(dead: Count) -> Iterator[Need]:
    if dead.number:
        yield Need(
            "dead",
            "warn",
            f"{dead} dead {'letter' if dead.number == 1 else 'letters'}",
            "No retries are left. Look at the error, then requeue or discard.",
            link=("Look through them", url_for("dead_letters.index")),
        )


def _queues(queues: Sequence[QueueView], alive: list[WorkerView]) -> Iterator[Need]:
    see = ("See queues", url_for("queues.index"))
    paused = [view.queue.name for view in queues if view.queue.paused_at is not None]
    if paused:
        many = len(paused) > 1
        title = f"{len(paused)} queues are paused" if many else f"Queue {paused[0]} is paused"
        text = f"{'Their' if many else 'Its'} jobs wait until somebody resumes {'them' if many else 'it'}."
        yield Need("paused", "warn", title, text, link=see)
    fleets = [(view, blockers.serving(view.queue.name, view.queue, alive)) for view in queues if view.pending.number]
    lonely = [view for view, fleet in fleets if fleet.obstacle is not None and fleet.obstacle.kind == "unserved"]
    if lonely:
        names = ", ".join(view.queue.name for view in lonely[:MOST]) + (" …" if len(lonely) > MOST else "")
        many = len(lonely) > 1
        yield Need(
            "unserved",
            "warn",
            f"No worker serves {'the queues' if many else 'the queue'} {names}",
            f"{queries.total(view.pending for view in lonely)} pending there. Workers run, but for other queues.",
            link=see,
            command=start_command(lonely[0].queue.name),
        )
    yield from _unlabelled(queues, alive)


def _unlabelled(queues: Sequence[QueueView], alive: list[WorkerView]) -> Iterator[Need]:
    """Jobs that no worker may take, for none has what they require."""
    found = blockers.stranded(queues, alive)
    if not found:
        return
    number = queries.total(one.number for one, _ in found)
    first = found[0][0].lane.requires
    them, these = ("it", "it") if number.number == 1 else ("them", "these")
    start = "start one that may, as below" if len(found) == 1 else "start workers that may, the first of them as below"
    there = f", on the host {place(first)}" if place(first) else ""
    items = [_lane(one, why) for one, why in found[:MOST]]
    if len(found) > MOST:
        items.append(Item(url_for("queues.index"), f"and {len(found) - MOST} more", Markup()))
    yield Need(
        "unlabelled",
        "warn",
        f"No worker has what {number} {'job requires' if number.number == 1 else 'jobs require'}",
        f"Workers run, but none of them may take {these}. Cancel {them}, or {start}{there}.",
        link=("See queues", url_for("queues.index")),
        command=start_command(requires=first),
        items=items,
    )


def _lane(one: Waiting, why: Obstacle) -> Item:
    """What waits in a lane, and for what."""
    lane = one.lane
    label = (why.missing or labels.split(lane.requires))[0]
    url = url_for("jobs.index", state="pending", queue=lane.queue, q=f"requires:{label}")
    asks = "job asks" if one.number.number == 1 else "jobs ask"
    return Item(url, lane.queue, Markup("{} {} for {}").format(one.number, asks, wanting(why)))
