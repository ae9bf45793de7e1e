"""`dlq`: the dead letters, jobs that cannot be saved without a person."""

from __future__ import annotations

from typing import Callable

import click

from webapp import clock
from webapp.commands._core import actor, core, json_option, tell_outcome
from webapp.commands._output import Column, ago, print_table, say


@click.group(epilog="Example: manage.py dlq retry --all")
def dlq() -> None:
    """Look at the dead letters, retry or discard them."""


@dlq.command("list", epilog="Example: manage.py dlq list --json")
@click.option("--queue", metavar="NAME", help="Only jobs of this queue.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many.")
@json_option
def list_dead(queue: str | None, limit: int, as_json: bool) -> None:
    """List the dead letters, newest first, with the error that each died of."""
    from webapp.commands.jobs import print_jobs_json, read_jobs
    from webapp.filters import JobFilter

    with core():
        settings, jobs, more = read_jobs(JobFilter(state="dead", queue=queue), limit)
    if as_json:
        print_jobs_json(jobs, settings)
    elif jobs:
        now = clock.now()
        print_table(
            [
                Column("ID"),
                Column("QUEUE"),
                Column("ATTEMPTS", right=True),
                Column("DIED"),
                Column("ERROR", flexible=True),
                Column("COMMAND", flexible=True),
            ],
            [
                (job.id, job.queue, str(job.attempts), ago(job.finished_at, now), job.last_error or "", job.command)
                for job in jobs
            ],
        )
    else:
        say("No dead letters.")
    if more:
        say(f"These are the first {limit:,}; there are more. Show them with --limit.")


def _which(command: Callable[..., int]) -> Callable[..., int]:
    command = click.option("--all", "all_", is_flag=True, help="All that are dead now.")(command)
    return click.argument("job_ids", metavar="[ID]...", nargs=-1)(command)


@dlq.command(epilog="Example: manage.py dlq retry job1")
@_which
@click.option("--canary", is_flag=True, help="With --all: one first, and the rest only if it completes.")
def retry(job_ids: tuple[str, ...], all_: bool, canary: bool) -> int:
    """Make dead letters pending again, with all their retries."""
    from webapp import canaries, operations
    from webapp.filters import JobFilter

    _one_way(job_ids, all_)
    if canary and not all_:
        raise click.UsageError("--canary goes with --all.")
    with core():
        if canary:
            act_id = canaries.start(JobFilter(state="dead"), actor())
            say(f"One is pending again; the rest waits for it. Undo: manage.py activity undo {act_id}")
            return 0
        if all_:
            return _act_on_all("requeue", "pending again")
        outcome = operations.requeue(job_ids, actor(), only="dead")
    return tell_outcome(outcome, "pending", "only dead letters are retried here")


@dlq.command(epilog="Example: manage.py dlq discard job1 job2")
@_which
@click.option("--yes", is_flag=True, help="Do not ask.")
def discard(job_ids: tuple[str, ...], all_: bool, yes: bool) -> int:
    """Delete dead letters with their attempts and output. This cannot be undone."""
    from webapp import operations, queries
    from webapp.db import reading
    from webapp.lifecycle import in_state

    _one_way(job_ids, all_)
    with core():
        if not all_:
            outcome = operations.discard(job_ids, actor(), only="dead")
            return tell_outcome(outcome, "discarded", "only dead letters are discarded here")
        with reading() as session:
            number = queries.count(session, in_state("dead"))
        if number.number and not yes:
            question = f"Delete {number} dead letter{'s' if number.number > 1 else ''} with their output for good?"
            if not click.confirm(question, err=True):
                say("Nothing was discarded.")
                return 1
        return _act_on_all("discard", "discarded")


def _one_way(job_ids: tuple[str, ...], all_: bool) -> None:
    if bool(job_ids) == all_:
        raise click.UsageError("Name jobs by their ids, or give --all.")


def _act_on_all(verb: str, became: str) -> int:
    from webapp import bulk
    from webapp.filters import JobFilter

    result = bulk.act_on_all(verb, JobFilter(state="dead"), actor())
    if not result.moved and not result.skipped:
        say("No dead letters.")
        return 0
    moved_first = f"; {result.skipped:,} had been moved by somebody else" if result.skipped else ""
    undo = f" Undo: manage.py activity undo {result.act_id}" if verb in bulk.CAN_BE_UNDONE else ""
    say(f"{result.moved:,} dead letter{'' if result.moved == 1 else 's'} {became}{moved_first}.{undo}")
    return 0
