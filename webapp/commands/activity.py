"""`activity`: what was done to jobs, and its undo."""

from __future__ import annotations

import click

from webapp.commands.shared.core import actor, core, json_option
from webapp.commands.shared.output import Column, ago, present, say
from webapp.lib import clock
from webapp.lib.text import plural


@click.group(epilog="Example: manage.py activity undo 12")
def activity() -> None:
    """Show what was done to jobs; undo or stop it."""


@activity.command("list", epilog="Example: manage.py activity list --json")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most so many.")
@json_option
def list_acts(limit: int, as_json: bool) -> None:
    """List acts, newest first: those of the console, of commands and of programs, with canaries and undos."""
    from webapp.db.engines import reading
    from webapp.jobs.activity import newest, what
    from webapp.web import serializers

    with core(), reading() as session:
        acts = newest(session, limit)
    now = clock.now()
    columns = [
        Column("ID", lambda act: act.id, right=True),
        Column("VERB", lambda act: "canary" if act.canary_seq is not None else act.verb),
        Column("WHAT", what, flexible=True),
        Column("STATE", lambda act: act.state),
        Column("MOVED", lambda act: f"{act.moved:,}", right=True),
        Column("SKIPPED", lambda act: f"{act.skipped:,}", right=True),
        Column("WHO", lambda act: act.actor),
        Column("WHEN", lambda act: ago(act.created_at, now)),
    ]
    present(acts, columns, as_json, serializers.act, "Nothing was done yet.")


@activity.command(epilog="Example: manage.py activity undo 12")
@click.argument("act_id", metavar="ID", type=click.IntRange(1, 2**63 - 1))
def undo(act_id: int) -> int:
    """Put back what the act ID moved, but for what workers have claimed or others have moved since."""
    from webapp.jobs import actions

    with core():
        try:
            result = actions.undo(act_id, actor())
        except actions.CannotUndo as error:
            say(str(error))
            return 1
    click.echo(f"{plural(result.moved, 'job')} put back")
    return 0


@activity.command(epilog="Example: manage.py activity stop 12")
@click.argument("act_id", metavar="ID", type=click.IntRange(1, 2**63 - 1))
def stop(act_id: int) -> int:
    """End the act ID, which goes on or waits for its canary. What it has moved stays moved."""
    from webapp.jobs import actions

    with core():
        stopped = actions.stop(act_id, actor())
    click.echo(f"act {act_id}: stopped" if stopped else f"act {act_id}: has ended already")
    return 0 if stopped else 1
