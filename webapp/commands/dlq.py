"""`dlq`: dead letters, the jobs that are out of retries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional, Union

import click

from webapp.commands.jobs import print_jobs
from webapp.commands.shared.core import actor, core, json_option, limit_option, read_session, tell_result, with_options
from webapp.commands.shared.output import Column, ago, present, print_json, say, see_more
from webapp.lib.text import plural

if TYPE_CHECKING:
    from webapp.jobs.filters import JobFilter


@click.group(epilog="Example: manage.py dlq retry --all")
def dlq() -> None:
    """List, retry and discard dead letters."""


@dlq.command("list", epilog="Example: manage.py dlq list --json")
@click.option("--queue", metavar="NAME", help="Only jobs of this queue.")
@click.option("--group", metavar="KEY", help="Only jobs of this group, see `dlq groups`.")
@limit_option(50)
@json_option
def list_dead(queue: Optional[str], group: Optional[str], limit: Optional[int], as_json: bool) -> None:
    """List dead letters, newest first, with the error of their last attempt."""
    from webapp.insight import failure_groups
    from webapp.jobs.filters import JobFilter

    if group is not None:
        with read_session() as session:
            failure_groups.check_current(session, group)
    columns = [
        Column("ID", lambda job: job.id),
        Column("QUEUE", lambda job: job.queue),
        Column("ATTEMPTS", lambda job: job.attempts, right=True),
        Column("FAILED", lambda job: ago(job.finished_at)),
        Column("ERROR", lambda job: job.last_error, flexible=True),
        Column("COMMAND", lambda job: job.command, flexible=True),
    ]
    print_jobs(JobFilter(state="dead", queue=queue, group=group), limit, columns, as_json, "No dead letters.")


@dlq.command("groups", epilog="Example: manage.py dlq groups --largest")
@click.option("--largest", is_flag=True, help="Sort by number of jobs. The default is the time of the last failure.")
@limit_option(25, 500)
@json_option
def list_groups(largest: bool, limit: Optional[int], as_json: bool) -> None:
    """List dead letters grouped by cause, open groups first."""
    from webapp.insight import failure_commands, failure_groups
    from webapp.web import serializers

    with read_session() as session:
        size = limit or failure_groups.MAX_GROUPS
        listing = failure_groups.listing(session, by="count" if largest else "last", size=size)
        keys = [one.key for one in listing.groups]
        commands = failure_commands.of_groups(session, keys, failure_commands.SAMPLE)
    columns = [
        Column("KEY", lambda one: one.key),
        Column("JOBS", lambda one: one.count, right=True),
        Column("STATE", lambda one: "open" if one.is_open else "acknowledged"),
        Column("LAST FAILURE", lambda one: ago(one.last_at)),
        Column("OWNER", lambda one: one.said and one.said.owner),
        Column("ERROR", lambda one: one.example.last_error, flexible=True),
        Column("COMMANDS", lambda one: commands[one.key].text, flexible=True),
    ]
    more = see_more(size, f"{listing.number:,}") if listing.more else ""
    if listing.capped:
        more = f"There are more than {failure_groups.MAX_GROUPS} groups. These have the most recent failures."
    present(listing.groups, columns, as_json, serializers.dead_group, "No dead letters.", more=more)


@dlq.command(epilog="Example: manage.py dlq note KEY 'The shop is down until noon.' --owner ana")
@click.argument("key")
@click.argument("text", required=False)
@click.option("--owner", metavar="NAME", help="Set the owner; '' removes it.")
@click.option("--acknowledge/--reopen", "acknowledged", default=None, help="Acknowledge the group, or reopen it.")
def note(key: str, text: Optional[str], owner: Optional[str], acknowledged: Optional[bool]) -> None:
    """Set the note, owner or status of the dead letter group KEY.

    They stay when the group is empty.
    """
    from webapp.insight import failure_groups

    if text is None and owner is None and acknowledged is None:
        raise click.UsageError("Give a text, --owner, --acknowledge or --reopen.")
    with core():
        try:
            changed = failure_groups.update(key, actor(), note=text, owner=owner, acknowledged=acknowledged)
        except failure_groups.GroupError as error:
            raise click.UsageError(f"The {error.field} {error}") from None
    say("Saved." if changed else "Nothing changed.")


_which = with_options(
    click.argument("job_ids", metavar="[ID]...", nargs=-1),
    click.option("--group", metavar="KEY", help="All dead letters of this group, see `dlq groups`."),
    click.option("--all", "all_", is_flag=True, help="All dead letters."),
    json_option,
)


@dlq.command(epilog="Example: manage.py dlq retry job1")
@_which
@click.option("--canary", is_flag=True, help="Retry one first, and the others only if it succeeds.")
@click.option(
    "--after",
    type=click.Choice(("1", "3", "10%")),
    help="With --canary: retry 1 job, 3 jobs or 10% of the jobs first, and the others after these have succeeded. "
    "The default is 1.",
)
def retry(
    job_ids: tuple[str, ...], all_: bool, group: Optional[str], canary: bool, after: Optional[str], as_json: bool
) -> int:
    """Requeue dead letters, with retries reset.

    --canary works with --all and --group.
    """
    from webapp.jobs import canary as canaries

    if after is not None and not canary:
        raise click.UsageError("--after works only with --canary.")
    wanted = _filter(job_ids, all_, group)
    if not canary:
        with core():
            return _apply("requeue", wanted or job_ids, "requeued", "only dead letters can be retried", as_json)
    if wanted is None:
        raise click.UsageError("--canary works only with --all or --group.")
    with core():
        action_id = canaries.start(wanted, actor(), rule=after or "1")
        started = f"Canary started; the other jobs wait for its result. Undo: manage.py activity undo {action_id}"
        return _tell(action_id, started, as_json)


@dlq.command(epilog="Example: manage.py dlq discard job1 job2")
@_which
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def discard(job_ids: tuple[str, ...], all_: bool, group: Optional[str], yes: bool, as_json: bool) -> int:
    """Delete dead letters with their attempts and output. This cannot be undone."""
    from webapp.db.engines import reading
    from webapp.jobs import queries

    wanted = _filter(job_ids, all_, group)
    with core():
        if wanted is not None and not yes:
            with reading() as session:
                count = queries.count_all(session, wanted)[0]
            question = f"Delete {count} dead letter{'s' if count.number > 1 else ''} with their output for good?"
            if count.number and not click.confirm(question, err=True):
                say("Nothing was discarded.")
                return 1
        return _apply("discard", wanted or job_ids, "discarded", "only dead letters can be discarded", as_json)


def _filter(job_ids: tuple[str, ...], all_: bool, group: Optional[str]) -> Optional[JobFilter]:
    """Return the filter for --all or --group, or None if jobs are named."""
    from webapp.insight import failure_groups
    from webapp.jobs.filters import JobFilter

    if [bool(job_ids), all_, group is not None].count(True) != 1:
        raise click.UsageError("Give one of: job IDs, --all, or --group.")
    if group is not None:
        with read_session() as session:
            failure_groups.check_current(session, group)
    return None if job_ids else JobFilter(state="dead", group=group)


def _apply(verb: str, which: Union[JobFilter, tuple[str, ...]], became: str, rule: str, as_json: bool) -> int:
    """Apply a verb to the named dead letters, or to all that match a filter. Return the exit code."""
    from webapp.jobs import actions

    result = actions.apply(verb, which, actor(), only="dead")
    if isinstance(which, tuple):
        return tell_result(result, became, rule, as_json)
    skipped = f"; {result.skipped:,} skipped" if result.skipped else ""
    undo = f" Undo: manage.py activity undo {result.undo}" if result.undo is not None else ""
    stay = "".join(f" {id_}: its key {holder.key!r} {holder.text}." for id_, holder in result.outcome.held.items())
    message = f"{plural(result.moved, 'dead letter')} {became}{skipped}.{stay}{undo}"
    return _tell(result.action_id, message if result.moved or result.skipped else "No dead letters.", as_json)


def _tell(action_id: int, message: str, as_json: bool) -> int:
    from webapp.db.engines import reading
    from webapp.web import serializers

    if as_json:
        with reading() as session:
            print_json(serializers.action(session, action_id))
    else:
        say(message)
    return 0
