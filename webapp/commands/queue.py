"""`queue`: list, pause and resume queues. `list --queue` lists the jobs of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

import click

from webapp.commands.shared.core import actor, core, json_option, read_session
from webapp.commands.shared.output import Column, ago, present, span, two_digits
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
    """List queues with their pending and running jobs. The first job of a queue creates it."""
    from webapp.insight.queues import all_queues
    from webapp.web import serializers

    with read_session() as session:
        views = all_queues(session)
    columns = [
        Column("QUEUE", lambda view: view.queue.name),
        Column("STATE", lambda view: "running" if view.queue.paused_at is None else "paused"),
        Column("PENDING", lambda view: view.pending, right=True),
        Column("RUNNING", lambda view: f"{view.processing:,}", right=True),
        Column("OLDEST", lambda view: view.oldest_run_at and span(view.oldest_run_at), right=True),
        Column("RUNS/MIN", lambda view: view.per_minute and two_digits(view.per_minute), right=True),
        Column("CLEARS IN", _clears_in, right=True),
        Column("PAUSED", lambda view: ago(view.queue.paused_at, view.queue.paused_by), flexible=True),
    ]
    empty = "No queues yet. The first job creates one."
    present(views, columns, as_json, lambda view: serializers.queue(view, clock.now()), empty)


def _clears_in(view: QueueView) -> Optional[str]:
    return duration(view.drain_seconds) if view.drain_seconds and not view.queue.paused_at else None


@queue.command(epilog="Example: manage.py queue pause mail")
@click.argument("name")
def pause(name: str) -> None:
    """Pause the queue NAME: no more of its jobs start. Running jobs continue."""
    from webapp.jobs import queue_actions

    with core():
        changed = queue_actions.pause_queue(name, actor())
    click.echo(f"{name}: {'' if changed else 'already '}paused")


@queue.command(epilog="Example: manage.py queue resume mail")
@click.argument("name")
def resume(name: str) -> None:
    """Resume the queue NAME."""
    from webapp.jobs import queue_actions

    with core():
        changed = queue_actions.resume_queue(name, actor())
    click.echo(f"{name}: {'resumed' if changed else 'not paused'}")
