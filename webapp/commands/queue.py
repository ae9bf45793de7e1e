"""`queue`: list, pause, resume, limit and remove queues; their retry rules. `list --queue` lists the jobs of one."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Optional

import click

from webapp.commands import limits
from webapp.commands.shared.core import actor, as_utf8, core, first_views, json_option, limit_option, read_session
from webapp.commands.shared.output import Column, ago, present, print_json, say, span, two_digits
from webapp.core.flow.limits import OF_QUEUE
from webapp.lib import clock
from webapp.lib.durations import duration
from webapp.lib.text import plural

if TYPE_CHECKING:
    from webapp.insight.queues import QueueView
    from webapp.insight.retry_preview import Preview


@click.group(epilog="Example: manage.py queue pause mail")
def queue() -> None:
    """List, pause, resume, limit and remove queues; set their retry rules."""


@queue.command("list", epilog="Example: manage.py queue list --json")
@click.option("--like", metavar="TEXT", default="", help="Queues whose name contains this text.")
@click.option("--busy", "show", flag_value="busy", help="Queues with pending or running jobs.")
@click.option("--paused", "show", flag_value="paused", help="Paused queues.")
@limit_option(100)
@json_option
def list_queues(like: str, show: Optional[str], limit: Optional[int], as_json: bool) -> None:
    """List queues by name, with their pending and running jobs. The first job of a queue creates it."""
    from webapp.insight.queues import QueueFilter, count_queues, page_of_queues
    from webapp.web import serializers

    wanted = QueueFilter(like, show or "")
    with read_session() as session:
        views, is_cut = first_views(partial(page_of_queues, session, wanted), limit)
        more = count_queues(session, wanted) - len(views) if is_cut else 0
    columns = [
        Column("QUEUE", lambda view: view.queue.name),
        Column("STATE", lambda view: "active" if view.queue.paused_at is None else "paused"),
        Column("PENDING", lambda view: view.pending, right=True),
        Column("RUNNING", lambda view: f"{view.processing:,}", right=True),
        Column("OLDEST", lambda view: view.oldest_run_at and span(view.oldest_run_at), right=True),
        Column("RUNS/MIN", lambda view: view.per_minute and two_digits(view.per_minute), right=True),
        Column("CLEARS IN", _clears_in, right=True),
        Column("PAUSED", lambda view: ago(view.queue.paused_at, view.queue.paused_by), flexible=True),
    ]
    empty = "No matching queues." if like or show else "No queues yet. The first job creates one."
    hidden = f"{more:,} more. Use --limit or --like to see them." if more else ""
    present(views, columns, as_json, lambda view: serializers.queue(view, clock.now()), empty, more=hidden)


def _clears_in(view: QueueView) -> Optional[str]:
    return duration(view.drain_seconds) if view.drain_seconds and not view.queue.paused_at else None


_names = click.argument("names", metavar="[NAME]...", nargs=-1)


@queue.command(epilog="Example: manage.py queue pause mail")
@_names
@click.option("--all", "all_", is_flag=True, help="All queues. A queue that is created later is not paused.")
def pause(names: tuple[str, ...], all_: bool) -> None:
    """Pause each queue NAME: no more of its jobs start. Running jobs continue."""
    from webapp.jobs import queue_actions

    with core():
        for name in _chosen(names, all_, paused=False):
            changed = queue_actions.pause_queue(name, actor())
            click.echo(f"{name}: {'' if changed else 'already '}paused")


@queue.command(epilog="Example: manage.py queue resume mail")
@_names
@click.option("--all", "all_", is_flag=True, help="All paused queues.")
def resume(names: tuple[str, ...], all_: bool) -> None:
    """Resume each queue NAME."""
    from webapp.jobs import queue_actions

    with core():
        for name in _chosen(names, all_, paused=True):
            changed = queue_actions.resume_queue(name, actor())
            click.echo(f"{name}: {'resumed' if changed else 'not paused'}")


def _chosen(names: tuple[str, ...], all_: bool, *, paused: bool) -> list[str]:
    """Return the named queues, or all that are paused or not."""
    from webapp.db.engines import reading
    from webapp.jobs import queries

    if bool(names) == all_:
        raise click.UsageError("Give the names of queues, or --all.")
    if names:
        return list(dict.fromkeys(names))
    with reading() as session:
        found = queries.paused_queues(session) if paused else queries.unpaused_queues(session)
    if not found:
        say("No queue is paused." if paused else "All queues are paused already.")
    return found


@queue.command(epilog="Example: manage.py queue remove mail")
@click.argument("name")
def remove(name: str) -> None:
    """Remove the queue NAME. It must have no unfinished jobs. Finished jobs stay."""
    from webapp.jobs import queue_actions

    with core():
        queue_actions.remove_queue(name, actor())
    click.echo(f"{name}: removed")


@queue.command(
    epilog="""\b
Examples:
  manage.py queue limit mail --rate 100/min
  manage.py queue limit 'customer-*' --max 1
  manage.py queue limit mail --off
"""
)
@click.argument("name")
@limits.bounded
@click.option("--off", is_flag=True, help="Remove the limit.")
@json_option
def limit(name: str, off: bool, as_json: bool, **bounds: Optional[str]) -> None:
    """Set the limit of the queue NAME, for all its jobs. A NAME that ends with * limits each queue separately."""
    if not off:
        limits.store(OF_QUEUE + name, as_json=as_json, **bounds)
        return
    if any(value is not None for value in bounds.values()):
        raise click.UsageError("Give --off alone.")
    limits.drop(OF_QUEUE + name, force=False)
    click.echo(f"{name}: no limit")


@queue.command(
    epilog="""\b
Examples:
  manage.py queue retry mail 'exit 75: wait' 'exit 64-78: bury' 'backoff linear 10s cap 10m'
  manage.py queue retry mail 'output connection refused: retry' 'any: bury' --dry-run
"""
)
@click.argument("name")
@click.argument("rules", metavar="[RULE]...", nargs=-1)
@click.option("--clear", is_flag=True, help="Remove all rules.")
@click.option(
    "--dry-run", is_flag=True, help="Show what the rules would have done with the last failed attempts; save nothing."
)
@json_option
def retry(name: str, rules: tuple[str, ...], clear: bool, dry_run: bool, as_json: bool) -> None:
    """Show or set the retry rules of the queue NAME. They apply to jobs without their own rules.

    A RULE is 'exit CODES: ACTION', 'signal NAMES: ACTION', 'output PATTERN: ACTION' or 'any: ACTION'. The first
    matching rule applies. ACTION is retry, wait (for the time that the command reports), bury (no retry) or success.
    'backoff exponential|linear|fixed BASE [cap TIME] [jitter PART]' sets the wait. A single RULE can be a JSON object.
    """
    from webapp.db.engines import reading
    from webapp.insight import retry_preview
    from webapp.jobs import queue_actions

    if (clear and (rules or dry_run)) or (dry_run and not rules):
        raise click.UsageError("Give rules, with or without --dry-run, or --clear.")
    texts = list(map(as_utf8, rules))
    with core():
        given = queue_actions.read_rules(texts[0] if len(texts) == 1 and texts[0].lstrip().startswith("{") else texts)
        if dry_run:
            with reading() as session:
                queue_actions.retry_rules_of(session, name)
                found = retry_preview.of(session, given, name)
            return _print_preview(found, as_json)
        if rules or clear:
            changed = queue_actions.set_retry_rules(name, given, actor())
            say("Saved." if changed else "Nothing changed.")
        with reading() as session:
            now = queue_actions.retry_rules_of(session, name)
    if as_json:
        print_json(now.as_json)
    elif now.lines:
        click.echo("\n".join(now.lines))
    else:
        say("No retry rules: the settings apply.")
    return None


def _print_preview(found: Preview, as_json: bool) -> None:
    if as_json:
        print_json(found.as_json)
        return
    columns = [
        Column("ATTEMPTS", lambda line: f"{line.number:,}", right=True),
        Column("ENDED", lambda line: line.ended),
        Column("THEN", lambda line: line.then),
        Column("WITH RULES", lambda line: line.now if line.differs else "the same"),
        Column("RULE", lambda line: line.rule, flexible=True),
        Column("EXAMPLE", lambda line: line.example),
    ]
    present(found.lines, columns, False, vars, "No failed attempts to preview the rules on.")
    if found.failed:
        say(
            f"{found.changed:,} of the last {plural(found.failed, 'failed attempt')} would have had a different result."
        )
