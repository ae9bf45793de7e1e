"""`activity`: bulk actions on jobs, and their undo."""

from __future__ import annotations

import click

from webapp.commands.shared.core import actor, core, json_option, limit_option, read_session
from webapp.commands.shared.output import Column, ago, present
from webapp.lib.text import plural

action_argument = click.argument("action_id", metavar="ID", type=click.IntRange(1, 2**63 - 1))


@click.group(epilog="Example: manage.py activity undo 12")
def activity() -> None:
    """List, undo and stop bulk actions on jobs."""


@activity.command("list", epilog="Example: manage.py activity list --json")
@limit_option(20)
@json_option
def list_actions(limit: int, as_json: bool) -> None:
    """List actions, newest first: from the console, commands and the API."""
    from webapp.jobs.activity import newest, what
    from webapp.web import serializers

    with read_session() as session:
        actions = newest(session, limit)
    columns = [
        Column("ID", lambda action: action.id, right=True),
        Column("ACTION", lambda action: "canary retry" if action.canary_seq is not None else action.verb),
        Column("JOBS", what, flexible=True),
        Column("STATE", lambda action: action.state),
        Column("CHANGED", lambda action: f"{action.moved:,}", right=True),
        Column("SKIPPED", lambda action: f"{action.skipped:,}", right=True),
        Column("STARTED BY", lambda action: action.actor),
        Column("STARTED", lambda action: ago(action.created_at)),
    ]
    present(actions, columns, as_json, serializers.act, "No bulk actions yet.")


@activity.command(epilog="Example: manage.py activity undo 12")
@action_argument
def undo(action_id: int) -> None:
    """Undo the action ID.

    Restores its jobs, except those that a worker has claimed or another action has changed since.
    """
    from webapp.jobs import actions

    with core():
        result = actions.undo(action_id, actor())
    click.echo(f"{plural(result.moved, 'job')} restored")


@activity.command(epilog="Example: manage.py activity stop 12")
@action_argument
def stop(action_id: int) -> int:
    """Stop the action ID while it runs or waits for its canary. Jobs that it has changed stay changed."""
    from webapp.jobs import actions

    with core():
        stopped = actions.stop(action_id, actor())
    click.echo(f"action {action_id}: {'stopped' if stopped else 'has already ended'}")
    return 0 if stopped else 1
