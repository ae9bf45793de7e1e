"""`queue`: the queues, and whether their jobs may start. What waits in one is `list --queue`'s."""

from __future__ import annotations

import click

from webapp.commands._core import actor, core, json_option
from webapp.commands._output import Column, ago, print_json, print_table, say, span
from webapp.insight.queues import all_queues
from webapp.lib import clock


@click.group(epilog="Example: manage.py queue pause mail")
def queue() -> None:
    """List, pause and resume queues."""


@queue.command("list", epilog="Example: manage.py queue list --json")
@json_option
def list_queues(as_json: bool) -> None:
    """List the queues with what waits and runs in each. A queue exists once a job has named it."""
    from webapp.db.engines import reading
    from webapp.jobs import queries
    from webapp.web import serializers

    with core(), reading() as session:
        views = all_queues(session)
    now = clock.now()
    if as_json:
        print_json([serializers.queue(view, now) for view in views])
        return
    if not views:
        say("No queues yet: the first job makes one.")
        return
    rows = []
    for view in views:
        waited = queries.waited(view.oldest_run_at, now)
        paused = f"{ago(view.queue.paused_at, now)} by {view.queue.paused_by}" if view.queue.paused_at else ""
        rows.append(
            (
                view.queue.name,
                "paused" if view.queue.paused_at is not None else "running",
                str(view.pending),
                f"{view.processing:,}",
                span(waited) if waited is not None else "",
                f"{float(f'{view.per_minute:.2g}'):g}" if view.per_minute else "",
                span(view.drain_seconds) if view.drain_seconds and not paused else "",
                paused,
            )
        )
    names = ("QUEUE", "STATE", "PENDING", "PROCESSING", "OLDEST WAITS", "A MINUTE", "DRAINED IN", "PAUSED")
    print_table([Column(name, name == "PAUSED", name in names[2:7]) for name in names], rows)


@queue.command(epilog="Example: manage.py queue pause mail")
@click.argument("name")
def pause(name: str) -> None:
    """Let no more jobs of the queue NAME start. Those that run go on."""
    from webapp.jobs import operations

    with core():
        changed = operations.pause_queue(name, actor())
    click.echo(f"{name}: paused" if changed else f"{name}: is paused already")


@queue.command(epilog="Example: manage.py queue resume mail")
@click.argument("name")
def resume(name: str) -> None:
    """Let the jobs of the queue NAME start again."""
    from webapp.jobs import operations

    with core():
        changed = operations.resume_queue(name, actor())
    click.echo(f"{name}: running" if changed else f"{name}: is not paused")
