"""`list`, `show`, `logs`, `cancel` and `run-now`: jobs, one or many.

How `logs` follows a running job is in `_logs.py`, how `show` lays out a job in `_show.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

import click

from webapp.commands.shared.core import actor, core, found, json_option, tell_result
from webapp.commands.shared.output import Column, present, print_json, say, standing, tell_more
from webapp.core import labels
from webapp.lib import clock

if TYPE_CHECKING:
    from webapp.core.settings import Settings
    from webapp.db.models import Job
    from webapp.jobs.filters import JobFilter

PAGE = 500  # jobs that one read transaction takes: a long one would keep the WAL from being emptied
MOST_ATTEMPTS = 2**31 - 1  # what the column holds
STATE_NAMES = ("scheduled", "pending", "processing", "completed", "failed", "dead", "cancelled")


@click.command("list", epilog="Example: manage.py list --state failed --queue mail --limit 20")
@click.option("--state", type=click.Choice(STATE_NAMES), help="Only jobs in this state.")
@click.option("--queue", metavar="NAME", help="Only jobs of this queue.")
@click.option(
    "--search",
    "text",
    default="",
    metavar="SEARCH",
    help="Only jobs with these words in their id or command, or exit:127, worker:ID, since:2h, by:NAME, id:ID, "
    "requires:LABEL.",
)
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many.")
@json_option
def list_jobs(state: Optional[str], queue: Optional[str], text: str, limit: int, as_json: bool) -> None:
    """List jobs, newest first.

    With --state in the order that fits it: pending as they will be taken, scheduled and failed by their time,
    processing longest first, ended ones newest first. --search reads what the console's search box does, such as
    'state:dead queue:mail exit:127 since:2h "a phrase"'.
    """
    from webapp.jobs import job_detail, search

    try:
        wanted = search.parse(text, state=state, queue=queue)
    except search.SearchError as error:
        raise click.BadParameter(str(error), ctx=click.get_current_context(), param_hint="'--search'") from None
    with core():
        settings, jobs, more = read_jobs(wanted, limit)
    now = clock.now()
    columns = [
        Column("ID", lambda job: job.id),
        Column("STATE", lambda job: job.state),
        Column("QUEUE", lambda job: job.queue),
        Column("REQUIRES", lambda job: ", ".join(labels.split(job.requires)), flexible=True, optional=True),
        Column("PRIORITY", lambda job: job.priority, right=True),
        Column("ATTEMPTS", lambda job: job.attempts, right=True),
        Column("WHEN", lambda job: standing(job, now)),
        Column("COMMAND", lambda job: job.command, flexible=True),
    ]
    empty = f"No {wanted.state + ' ' if wanted.state else ''}jobs{' match' if queue or text else ''}."
    present(jobs, columns, as_json, lambda job: job_detail.job_json(job, settings), empty)
    if more:
        tell_more(limit)


def read_jobs(wanted: JobFilter, limit: int) -> tuple[Settings, list[Job], bool]:
    """The settings, the first `limit` jobs, and whether there are more."""
    from webapp.db.engines import reading
    from webapp.jobs import listing
    from webapp.jobs import settings as tunables

    jobs: list[Job] = []
    after: Optional[str] = None
    while True:
        with reading() as session:
            settings = tunables.load(session)
            page = listing.page_of_jobs(session, wanted, limit=min(PAGE, limit - len(jobs)), after=after)
        jobs += page.jobs
        after = page.older
        if after is None or len(jobs) >= limit:
            return settings, jobs, after is not None


@click.command(epilog="Example: manage.py show job1 --json")
@click.argument("job_id", metavar="ID")
@json_option
def show(job_id: str, as_json: bool) -> None:
    """Show the job ID: its fields, its attempts, and what happened to it."""
    from webapp.db.engines import reading
    from webapp.jobs import job_detail
    from webapp.jobs import settings as tunables

    with core(), reading() as session:
        job = found(job_detail.find(session, job_id), job_id)
        settings = tunables.load(session)
        attempts = job_detail.attempts(session, job, with_output=as_json)
        events = job_detail.events(session, job)
    if as_json:
        whole = job_detail.whole_json(job, attempts, events, settings)
        for shown, one in zip(whole["attempt_history"], attempts):
            shown.update(job_detail.output_json(one))
        print_json(whole)
    else:
        from webapp.commands.shared.show import print_job

        print_job(job, attempts, events, settings)


@click.command(epilog="Example: manage.py logs job1 --follow")
@click.argument("job_id", metavar="ID")
@click.option("--follow", "-f", is_flag=True, help="Wait for what comes, until the job has ended.")
@click.option(
    "--attempt", "number", type=click.IntRange(1, MOST_ATTEMPTS), help="Of this attempt (default: the latest)."
)
def logs(job_id: str, follow: bool, number: Optional[int]) -> None:
    """Print what the job ID wrote, byte for byte: its stdout to stdout, its stderr to stderr.

    With --follow it waits for the job to start, and goes on through its retries until the last one has ended;
    with --attempt too, until that attempt has ended. What happens on the way is told on stderr.
    """
    from webapp.commands.shared import logs as _logs

    with core():
        if follow:
            _logs.follow(job_id, number)
        else:
            _logs.print_kept(job_id, number)


@click.command(epilog="Example: manage.py cancel job1 job2")
@click.argument("job_ids", metavar="ID...", nargs=-1, required=True)
@json_option
def cancel(job_ids: tuple[str, ...], as_json: bool) -> int:
    """Cancel jobs. What waits is cancelled at once, what runs is told to end."""
    from webapp.jobs import actions

    with core():
        result = actions.apply("cancel", job_ids, actor())
    refused = result.outcome.refused
    for id_ in [id_ for id_, state in refused.items() if state == "processing"]:
        say(f"{id_}: has been told to end already.")  # so it is no failure
        del refused[id_]
    rule = "only jobs that have not ended can be cancelled"
    asked = "told to end; its worker follows within about a second"
    return tell_result(result, "cancelled", rule, as_json, asked=asked)


@click.command("run-now", epilog="Example: manage.py run-now job1")
@click.argument("job_ids", metavar="ID...", nargs=-1, required=True)
@json_option
def run_now(job_ids: tuple[str, ...], as_json: bool) -> int:
    """Make scheduled jobs, and failed ones that wait for their retry, due at once."""
    from webapp.jobs import actions

    with core():
        result = actions.apply("run_now", job_ids, actor())
    return tell_result(result, "pending", "only scheduled jobs and failed ones can be made due", as_json)
