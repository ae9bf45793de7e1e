"""`activity`: what was done to jobs in the console or to all that matched, and its undo."""

from __future__ import annotations

import click

from webapp.commands._core import actor, core, json_option
from webapp.commands._output import Column, ago, print_json, print_table, say
from webapp.lib import clock


@click.group(epilog="Example: manage.py activity undo 12")
def activity() -> None:
    """Show what was done to jobs; undo or stop it."""


@activity.command("list", epilog="Example: manage.py activity list --json")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most so many.")
@json_option
def list_acts(limit: int, as_json: bool) -> None:
    """List acts, newest first: those on all jobs that matched, those of the console, canaries, undos."""
    from webapp.db.engines import reading
    from webapp.jobs import bulk_actions
    from webapp.web import serializers

    with core(), reading() as session:
        acts = bulk_actions.newest(session, limit)
    if as_json:
        print_json([serializers.act(act) for act in acts])
    elif acts:
        now = clock.now()
        names = ("ID", "VERB", "WHAT", "STATE", "MOVED", "SKIPPED", "WHO", "WHEN")
        print_table(
            [Column(name, flexible=name == "WHAT", right=name in ("ID", "MOVED", "SKIPPED")) for name in names],
            [
                (
                    str(act.id),
                    "canary" if act.canary_seq is not None else act.verb,
                    bulk_actions.what(act),
                    act.state,
                    f"{act.moved:,}",
                    f"{act.skipped:,}",
                    act.actor,
                    ago(act.created_at, now),
                )
                for act in acts
            ],
        )
    else:
        say("Nothing was done yet.")


@activity.command(epilog="Example: manage.py activity undo 12")
@click.argument("act_id", metavar="ID", type=click.IntRange(1, 2**63 - 1))
def undo(act_id: int) -> int:
    """Put back what the act ID moved, but for what workers have claimed or others have moved since."""
    from webapp.jobs import bulk_actions

    with core():
        try:
            result = bulk_actions.carry_out(bulk_actions.undo(act_id, actor()))
        except bulk_actions.CannotUndo as error:
            say(str(error))
            return 1
    click.echo(f"{result.moved:,} job{'' if result.moved == 1 else 's'} put back")
    return 0


@activity.command(epilog="Example: manage.py activity stop 12")
@click.argument("act_id", metavar="ID", type=click.IntRange(1, 2**63 - 1))
def stop(act_id: int) -> int:
    """End the act ID, which goes on or waits for its canary. What it has moved stays moved."""
    from webapp.jobs import bulk_actions

    with core():
        stopped = bulk_actions.stop(act_id, actor())
    click.echo(f"act {act_id}: stopped" if stopped else f"act {act_id}: has ended already")
    return 0 if stopped else 1
