"""`list`, `show`, `logs`, `cancel` and `run-now`: one job or many. `activity`: bulk actions on jobs, and their undo."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Optional

import click

from webapp.commands.exit_codes import ExitCode
from webapp.commands.shared.core import actor, core, find_job, json_option, limit_option, read_session, tell_result
from webapp.commands.shared.output import Column, ago, present, print_json, say, see_more, standing
from webapp.core import labels
from webapp.core.states import STATES
from webapp.lib.text import plural

if TYPE_CHECKING:
    from webapp.db.models import Job
    from webapp.jobs.filters import JobFilter

PAGE = 500  # jobs of one read transaction: during a long one SQLite cannot empty the WAL
MOST_ATTEMPTS = 2**31 - 1  # limit of the column

ids_argument = click.argument("job_ids", metavar="ID...", nargs=-1, required=True)
action_argument = click.argument("action_id", metavar="ID", type=click.IntRange(1, 2**63 - 1))


@click.command("list", epilog="Example: manage.py list --state failed --queue mail --limit 20")
@click.option("--state", type=click.Choice(STATES), help="Only jobs in this state.")
@click.option("--queue", metavar="NAME", help="Only jobs of this queue.")
@click.option(
    "--search",
    "text",
    default="",
    metavar="SEARCH",
    help="Only jobs with these words in their ID, command, error or last output, or with exit:127, error:TEXT, "
    "worker:ID, since:2h, on:yesterday, by:NAME, id:ID, requires:LABEL, limit:KEY. -WORD excludes.",
)
@limit_option(50)
@json_option
def list_jobs(state: Optional[str], queue: Optional[str], text: str, limit: Optional[int], as_json: bool) -> None:
    """List jobs, newest first.

    With --state, the order depends on the state: pending jobs next first, scheduled and failed jobs by time, running
    jobs longest first. --search takes the same terms as the console, such as 'state:dead -queue:mail exit:127 since:2h
    "a phrase"'. All terms must match. Days are in this machine's time zone.
    """
    from webapp.jobs import search

    try:
        wanted = search.parse(text, state=state, queue=queue, zone=None)
    except search.SearchError as error:
        raise click.BadParameter(str(error), ctx=click.get_current_context(), param_hint="'--search'") from None
    columns = [
        Column("ID", lambda job: job.id),
        Column("STATE", lambda job: job.state),
        Column("QUEUE", lambda job: job.queue),
        Column("REQUIRES", lambda job: ", ".join(labels.split(job.requires)), flexible=True, optional=True),
        Column("PRIORITY", lambda job: job.priority, right=True),
        Column("ATTEMPTS", lambda job: job.attempts, right=True),
        Column("WHEN", lambda job: standing(job)),
        Column("COMMAND", lambda job: job.command, flexible=True),
    ]
    empty = f"No {wanted.state + ' ' if wanted.state else ''}jobs{' match' if queue or text else ''}."
    print_jobs(wanted, limit, columns, as_json, empty)


def print_jobs(wanted: JobFilter, limit: Optional[int], columns: Sequence[Column], as_json: bool, empty: str) -> None:
    """Print the first `limit` jobs that match; None: all."""
    from webapp.db.engines import reading
    from webapp.jobs import job_detail, queries
    from webapp.jobs.settings import load

    with core():
        with reading() as session:
            settings = load(session)
        jobs = _Jobs(wanted, limit)
        present(jobs, columns, as_json, lambda job: job_detail.job_json(job, settings), empty)
        if limit is not None and jobs.more:
            with reading() as session:
                count, whole = queries.count_found(session, wanted)
            say(see_more(limit, count if whole else f"{max(count.number, limit):,} or more"))


class _Jobs:
    """The first `limit` jobs that match, read page by page. `more`: there are others, once these are read."""

    def __init__(self, wanted: JobFilter, limit: Optional[int]) -> None:
        self._wanted, self._limit = wanted, limit
        self.more = False

    def __iter__(self) -> Iterator[Job]:
        from webapp.db.engines import reading
        from webapp.jobs import listing

        left, after = self._limit, None
        while left is None or left > 0:
            size = PAGE if left is None else min(PAGE, left)
            with reading() as session:
                page = listing.page_of_jobs(session, self._wanted, limit=size, after=after)
            yield from page.jobs
            left, after = None if left is None else left - len(page.jobs), page.older
            if after is None:
                return
        self.more = True


@click.command(epilog="Example: manage.py show job1 --json")
@click.argument("job_id", metavar="ID")
@json_option
def show(job_id: str, as_json: bool) -> None:
    """Show the job ID with its attempts and timeline."""
    from webapp.commands.shared import output, show
    from webapp.web.job_json import whole_job

    with read_session() as session:
        job = find_job(session, job_id)
        found: Any = whole_job(session, job, with_output=True) if as_json else show.describe(session, job)
    if as_json:
        print_json(found)
    else:
        output.show(*found)


@click.command(epilog="Example: manage.py logs job1 --follow")
@click.argument("job_id", metavar="ID")
@click.option("--follow", "-f", is_flag=True, help="Print new output until the job ends.")
@click.option("--attempt", "number", type=click.IntRange(1, MOST_ATTEMPTS), help="Attempt number (default: latest).")
@click.option("--exit-code", "as_command", is_flag=True, help="With --follow: end with the exit code of the command.")
def logs(job_id: str, follow: bool, number: Optional[int], as_command: bool) -> int:
    """Print the output of the job ID: its stdout to stdout, its stderr to stderr.

    --follow waits for the job to start and continues through its retries. With --attempt it stops at the end of that
    attempt. Messages about the job go to stderr.
    """
    from webapp.commands.shared import logs as job_output

    if as_command and not follow:
        raise click.UsageError("--exit-code works only with --follow.")
    with core():
        if not follow:
            job_output.print_kept(job_id, number)
            return 0
        last = job_output.follow(job_id, number)
        if not as_command:
            return 0
        from webapp.commands.run import exit_code

        return exit_code(job_id, last)


@click.command(epilog="Example: manage.py cancel job1 job2")
@ids_argument
@json_option
@click.option(
    "--below", is_flag=True, help="Cancel the blocked jobs that depend on these, directly or indirectly, instead."
)
def cancel(job_ids: tuple[str, ...], below: bool, as_json: bool) -> int:
    """Cancel jobs. Running commands get TERM, and are killed if they do not stop."""
    from webapp.jobs import actions

    with core():
        if below:
            job_ids = _below(job_ids)
            if not job_ids:
                say("No blocked jobs depend on them. Nothing changed.")
                return ExitCode.REFUSED
        result = actions.apply("cancel", job_ids, actor())
    refused = result.outcome.refused
    for id_ in [id_ for id_, state in refused.items() if state == "processing"]:
        say(f"{id_}: is already being cancelled.")
        del refused[id_]
    rule = "only jobs that have not ended can be cancelled"
    return tell_result(result, "cancelled", rule, as_json, asked="cancel requested")


def _below(job_ids: tuple[str, ...]) -> tuple[str, ...]:
    """The blocked jobs that depend on these jobs, the last of a chain first."""
    from webapp.db.engines import reading
    from webapp.jobs.flow import chains

    with reading() as session:
        found = [chains.blocked_below(session, find_job(session, job_id)) for job_id in job_ids]
    return tuple(dict.fromkeys(job_id for one in found for job_id in one))


@click.command("run-now", epilog="Example: manage.py run-now job1")
@ids_argument
@json_option
def run_now(job_ids: tuple[str, ...], as_json: bool) -> int:
    """Run blocked and scheduled jobs, and failed jobs that wait for a retry, as soon as a worker is free."""
    from webapp.jobs import actions

    with core():
        result = actions.apply("run_now", job_ids, actor())
    return tell_result(result, "pending", "only blocked, scheduled and failed jobs can be run now", as_json)


@click.group(epilog="Example: manage.py activity undo 12")
def activity() -> None:
    """List, undo and stop bulk actions on jobs."""


@activity.command("list", epilog="Example: manage.py activity list --json")
@limit_option(20)
@json_option
def list_actions(limit: Optional[int], as_json: bool) -> None:
    """List actions, newest first: from the console, commands and the API."""
    from webapp.jobs.activity import count_all, newest, what
    from webapp.web import serializers

    with read_session() as session:
        actions = newest(session, limit)
        more = limit is not None and bool(newest(session, 1, actions[-1].id)) if actions else False
        count = count_all(session) if more else 0
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
    hidden = see_more(limit, f"{count:,}") if limit is not None and more else ""
    present(actions, columns, as_json, serializers.act, "No bulk actions yet.", more=hidden)


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
    return ExitCode.DONE if stopped else ExitCode.REFUSED
