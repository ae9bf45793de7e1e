"""`queue`: the queues, and whether their jobs may start. What waits in one is `list --queue`'s."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

import click

from webapp.commands.shared.core import actor, core, json_option
from webapp.commands.shared.output import Column, ago_by, present, span, two_digits
from webapp.lib import clock
from webapp.lib.durations import duration

if TYPE_CHECKING:
    from webapp.insight.queues import QueueView


@click.group(epilog="Example: manage.py queue pause mail")
def queue() -> None:
    """List, pause and resume queues."""


@queue.command("list", epilog="Example: manage.py queue list --json")
@json_option
def list_queues(as_json: bool) -> None:
    """List the queues with what waits and runs in each. A queue exists once a job has named it."""
    from webapp.db.engines import reading
    from webapp.insight.queues import all_queues
    from webapp.web import serializers

    with core(), reading() as session:
        views = all_queues(session)
    now = clock.now()
    columns = [
        Column("QUEUE", lambda view: view.queue.name),
        Column("STATE", lambda view: "paused" if view.queue.paused_at is not None else "running"),
        Column("PENDING", lambda view: view.pending, right=True),
        Column("PROCESSING", lambda view: f"{view.processing:,}", right=True),
        Column("OLDEST WAITS", lambda view: view.oldest_run_at and span(view.oldest_run_at, now), right=True),
        Column("A MINUTE", lambda view: two_digits(view.per_minute) if view.per_minute else None, right=True),
        Column("DRAINED IN", _drained_in, right=True),
        Column("PAUSED", lambda view: ago_by(view.queue.paused_at, view.queue.paused_by, now), flexible=True),
    ]
    empty = "No queues yet: the first job makes one."
    present(views, columns, as_json, lambda view: serializers.queue(view, now), empty)


def _drained_in(view: QueueView) -> Optional[str]:
    return duration(view.drain_seconds) if view.drain_seconds and not view.queue.paused_at else None


@queue.command(epilog="Example: manage.py queue pause mail")
@click.argument("name")
def pause(name: str) -> None:
    """Let no more jobs of the queue NAME start. Those that run go on."""
    from webapp.jobs import queue_actions

    with core():
        changed = queue_actions.pause_queue(name, actor())
    click.echo(f"{name}: paused" if changed else f"{name}: is paused already")


@queue.command(epilog="Example: manage.py queue resume mail")
@click.argument("name")
def resume(name: str) -> None:
    """Let the jobs of the queue NAME start again."""
    from webapp.jobs import queue_actions

    with core():
        changed = queue_actions.resume_queue(name, actor())
    click.echo(f"{name}: running" if changed else f"{name}: is not paused")
