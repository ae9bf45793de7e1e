"""`dlq`: the dead letters, jobs that cannot be saved without a person."""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable

import click

from webapp.commands.shared.core import actor, core, json_option, tell_result
from webapp.commands.shared.output import Column, ago, present, print_json, say, tell_more
from webapp.lib import clock
from webapp.lib.text import plural

if TYPE_CHECKING:
    from webapp.jobs.actions import Result
    from webapp.jobs.filters import JobFilter


@click.group(epilog="Example: manage.py dlq retry --all")
def dlq() -> None:
    """Look at the dead letters, retry or discard them."""


@dlq.command("list", epilog="Example: manage.py dlq list --json")
@click.option("--queue", metavar="NAME", help="Only jobs of this queue.")
@click.option("--group", metavar="KEY", help="Only jobs of this group, see `dlq groups`.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many.")
@json_option
def list_dead(queue: str | None, group: str | None, limit: int, as_json: bool) -> None:
    """List the dead letters, newest first, with the error that each died of."""
    from webapp.commands.jobs import read_jobs
    from webapp.jobs import job_detail
    from webapp.jobs.filters import JobFilter

    with core():
        settings, jobs, more = read_jobs(JobFilter(state="dead", queue=queue, group=group), limit)
    now = clock.now()
    columns = [
        Column("ID", lambda job: job.id),
        Column("QUEUE", lambda job: job.queue),
        Column("ATTEMPTS", lambda job: job.attempts, right=True),
        Column("DIED", lambda job: ago(job.finished_at, now)),
        Column("ERROR", lambda job: job.last_error, flexible=True),
        Column("COMMAND", lambda job: job.command, flexible=True),
    ]
    present(jobs, columns, as_json, lambda job: job_detail.job_json(job, settings), "No dead letters.")
    if more:
        tell_more(limit)


@dlq.command("groups", epilog="Example: manage.py dlq groups --largest")
@click.option("--largest", is_flag=True, help="The largest first, not those that somebody died of last.")
@click.option("--limit", type=click.IntRange(1, 500), default=25, show_default=True, help="At most so many.")
@json_option
def list_groups(largest: bool, limit: int, as_json: bool) -> None:
    """List the dead letters in groups of those that failed alike; what nobody has acknowledged stands first."""
    from webapp.db.engines import reading
    from webapp.insight import failure_groups
    from webapp.web import serializers

    with core(), reading() as session:
        listing = failure_groups.listing(session, by="count" if largest else "last", size=limit)
    now = clock.now()
    columns = [
        Column("KEY", lambda one: one.key),
        Column("JOBS", lambda one: one.count, right=True),
        Column("STATE", lambda one: "open" if one.is_open else "acknowledged"),
        Column("LAST DIED", lambda one: ago(one.last_at, now)),
        Column("OWNER", lambda one: one.said and one.said.owner),
        Column("ERROR", lambda one: one.example.last_error, flexible=True),
        Column("COMMAND", lambda one: one.example.command, flexible=True),
    ]
    present(listing.groups, columns, as_json, serializers.dead_group, "No dead letters.")
    if listing.capped:
        say(f"There are more than {failure_groups.MAX_GROUPS} groups; these are of those that somebody died of last.")
    elif listing.more:
        tell_more(limit)


@dlq.command(epilog="Example: manage.py dlq note KEY 'The shop is down until noon.' --owner ana")
@click.argument("key")
@click.argument("text", required=False)
@click.option("--owner", metavar="NAME", help="Who sees to it; '' for nobody.")
@click.option("--acknowledge/--reopen", "acknowledged", default=None, help="Somebody sees to it; or nobody any more.")
def note(key: str, text: str | None, owner: str | None, acknowledged: bool | None) -> int:
    """Say something of a group of dead letters. It stays when the group is empty."""
    from webapp.insight import failure_groups

    if text is None and owner is None and acknowledged is None:
        raise click.UsageError("Give a text, --owner, --acknowledge or --reopen.")
    with core():
        try:
            changed = failure_groups.update(key, actor(), note=text, owner=owner, acknowledged=acknowledged)
        except failure_groups.GroupError as error:
            raise click.UsageError(f"The {error.field} {error}") from None
    say("Saved." if changed else "Nothing was changed.")
    return 0


def _which(command: Callable[..., int]) -> Callable[..., int]:
    command = json_option(command)
    command = click.option("--all", "all_", is_flag=True, help="All that are dead now.")(command)
    command = click.option("--group", metavar="KEY", help="All of this group now, see `dlq groups`.")(command)
    return click.argument("job_ids", metavar="[ID]...", nargs=-1)(command)


@dlq.command(epilog="Example: manage.py dlq retry job1")
@_which
@click.option("--canary", is_flag=True, help="With --all or --group: one first, the rest only if it completes.")
def retry(job_ids: tuple[str, ...], all_: bool, group: str | None, canary: bool, as_json: bool) -> int:
    """Make dead letters pending again, with all their retries."""
    from webapp.jobs import actions
    from webapp.jobs import canary as canaries

    wanted = _wanted(job_ids, all_, group)
    if canary and wanted is None:
        raise click.UsageError("--canary goes with --all or --group.")
    with core():
        if canary and wanted is not None:
            action_id = canaries.start(wanted, actor())
            told = f"One is pending again; the rest waits for it. Undo: manage.py activity undo {action_id}"
            return _tell(action_id, told, as_json)
        result = actions.apply("requeue", wanted or job_ids, actor(), only="dead")
        if wanted is not None:
            return _tell_all(result, "pending again", group, as_json)
    return tell_result(result, "pending", "only dead letters are retried here", as_json)


@dlq.command(epilog="Example: manage.py dlq discard job1 job2")
@_which
@click.option("--yes", is_flag=True, help="Do not ask.")
def discard(job_ids: tuple[str, ...], all_: bool, group: str | None, yes: bool, as_json: bool) -> int:
    """Delete dead letters with their attempts and output. This cannot be undone."""
    from webapp.db.engines import reading
    from webapp.jobs import actions, queries

    wanted = _wanted(job_ids, all_, group)
    with core():
        if wanted is not None and not yes:
            with reading() as session:
                number = queries.count(session, wanted.where())
            question = f"Delete {number} dead letter{'s' if number.number > 1 else ''} with their output for good?"
            if number.number and not click.confirm(question, err=True):
                say("Nothing was discarded.")
                return 1
        result = actions.apply("discard", wanted or job_ids, actor(), only="dead")
        if wanted is not None:
            return _tell_all(result, "discarded", group, as_json)
    return tell_result(result, "discarded", "only dead letters are discarded here", as_json)


def _wanted(job_ids: tuple[str, ...], all_: bool, group: str | None) -> JobFilter | None:
    """The filter for --all or --group; None: jobs are named."""
    from webapp.jobs.filters import JobFilter

    if [bool(job_ids), all_, group is not None].count(True) != 1:
        raise click.UsageError("Name jobs by their ids, or give --all, or --group.")
    return None if job_ids else JobFilter(state="dead", group=group)


def _tell_all(result: Result, became: str, group: str | None, as_json: bool) -> int:
    none = "No dead letters." if group is None else "No dead letters of this group."
    moved_first = f"; {result.skipped:,} had been moved by somebody else" if result.skipped else ""
    undo = f" Undo: manage.py activity undo {result.undo}" if result.undo is not None else ""
    told = f"{plural(result.moved, 'dead letter')} {became}{moved_first}.{undo}"
    return _tell(result.action_id, told if result.moved or result.skipped else none, as_json)


def _tell(action_id: int, told: str, as_json: bool) -> int:
    from webapp.db.engines import reading
    from webapp.web import serializers

    if not as_json:
        say(told)
        return 0
    with reading() as session:
        print_json(serializers.action(session, action_id))
    return 0
