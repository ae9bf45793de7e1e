"""`batch`: batches of jobs. `enqueue --batch` puts jobs into one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional

import click

from webapp.commands.enqueue import read_batch
from webapp.commands.exit_codes import ExitCode
from webapp.commands.shared.core import DURATION, actor, core, json_option, limit_option, read_session
from webapp.commands.shared.output import STYLES, Column, ago, grid, local_time, present, print_json, say, show, table
from webapp.lib.text import plural

if TYPE_CHECKING:
    from webapp.db.models import Batch
    from webapp.jobs.flow.batches import Progress

MOST = 500  # batches of one list


@click.group(epilog="Example: manage.py batch show nightly-7")
def batch() -> None:
    """List, show, close, cancel and retry batches of jobs."""


@batch.command("list", epilog="Example: manage.py batch list --active")
@click.option("--active", is_flag=True, help="Only batches that have not ended.")
@limit_option(50, MOST)
@json_option
def list_batches(active: bool, limit: Optional[int], as_json: bool) -> None:
    """List batches, newest first."""
    from webapp.jobs.flow import batches

    with read_session() as session:
        found, more = batches.page(session, limit or MOST, active=active)
        rows = [(one, batches.progress(session, one.name, rated=False)) for one in found]
    columns = [
        Column("NAME", lambda row: row[0].name),
        Column("STATE", lambda row: batches.state_of(row[0])),
        Column("JOBS", lambda row: f"{row[1].total:,}", right=True),
        Column("ENDED", lambda row: f"{row[1].ended:,}", right=True),
        Column("FAILED", lambda row: f"{row[1].failed:,}", right=True),
        Column("CREATED", lambda row: ago(row[0].created_at)),
        Column("CREATED BY", lambda row: row[0].created_by),
    ]
    hidden = "There are more. Use --limit to see them." if more else ""
    present(rows, columns, as_json, lambda row: batches.as_json(*row), "No batches.", more=hidden)


@batch.command("show", epilog="Example: manage.py batch show nightly-7")
@click.argument("name")
@json_option
def show_batch(name: str, as_json: bool) -> None:
    """Show a batch: its progress, its failures by cause, and its callbacks."""
    from webapp.jobs.flow import batches

    with read_session() as session:
        found, progress = batches.find(session, name), batches.progress(session, name)
        groups, _ = batches.failures(session, name)
        decided = batches.callbacks(session, name)
    if as_json:
        print_json(batches.as_json(found, progress, decided))
        return
    show(grid(_fields(found, progress)))
    if groups:
        columns = [
            Column("JOBS", lambda one: one.number, right=True),
            Column("NEWEST", lambda one: one.example.id),
            Column("ERROR", lambda one: one.example.last_error, flexible=True),
        ]
        show("", "Failures", table(columns, groups))
    for one in decided:
        words = one.job_id or "no callback"
        say(f"{local_time(one.at)}  {one.event}, generation {one.generation}: {words}")


def _fields(found: Batch, progress: Progress) -> list[tuple[str, Any]]:
    from rich.text import Text

    from webapp.commands.shared.waiting import progress_note
    from webapp.jobs.flow import batches

    counts = ", ".join(f"{number:,} {state}" for state, number in progress.counts.items())
    state = batches.state_of(found)
    fields = {
        "state": f"{state}{', generation ' + str(found.generation) if found.generation > 1 else ''}",
        "jobs": counts or "none",
        "progress": f"{progress.ended:,} of {progress.total:,} ended, "
        + progress_note(progress.failed, progress.left, progress.rate),
        "created": f"{local_time(found.created_at)} by {found.created_by}",
        "closed": local_time(found.closed_at),
        "ended": local_time(found.ended_at),
        "on done": found.on_done,
        "on death": found.on_death,
    }
    rows = [(name, Text(str(value), STYLES.get(name, ""))) for name, value in fields.items() if value]
    return [("name", Text(found.name)), *rows]


@batch.command(epilog="Example: manage.py batch create nightly-7 --on-done mail.json")
@click.argument("name")
@click.option(
    "--on-done", metavar="FILE", help="Enqueue the job in this JSON file when all jobs of the batch have ended."
)
@click.option("--on-death", metavar="FILE", help="Enqueue the job in this JSON file when the first of them is dead.")
def create(name: str, on_done: Optional[str], on_death: Optional[str]) -> None:
    """Create the open batch NAME, or set the callbacks of an open one."""
    from webapp.jobs.flow import batches

    wanted = read_batch(name, True, on_done, on_death)
    with core():
        batches.create(wanted, actor())
    click.echo(f"{name}: open")


@batch.command(epilog="Example: manage.py batch close nightly-7")
@click.argument("name")
def close(name: str) -> int:
    """Close the batch NAME: no more jobs can join. Its callbacks run when all its jobs have ended."""
    from webapp.jobs.flow import batches

    with core():
        closed = batches.close(name, actor())
    click.echo(f"{name}: {'closed' if closed else 'already closed'}")
    return ExitCode.DONE if closed else ExitCode.REFUSED


@batch.command(epilog="Example: manage.py batch wait nightly-7 --timeout 1h")
@click.argument("name")
@click.option("--timeout", **DURATION, help="Give up after this time, with exit code 124.")
def wait(name: str, timeout: Optional[float]) -> int:
    """Wait until the batch is closed and all its jobs have ended. 0 if all completed, else 1."""
    from webapp.commands.shared.waiting import wait_for_batch

    with core():
        return wait_for_batch(name, timeout)


@batch.command(epilog="Example: manage.py batch retry nightly-7")
@click.argument("name")
def retry(name: str) -> None:
    """Requeue all dead jobs of the batch. If it had ended, its callbacks run again."""
    _apply("requeue", name, "dead", "requeued")


@batch.command(epilog="Example: manage.py batch cancel nightly-7")
@click.argument("name")
def cancel(name: str) -> None:
    """Cancel all jobs of the batch that have not ended."""
    _apply("cancel", name, None, "cancelled")


def _apply(verb: str, name: str, state: Optional[str], became: str) -> None:
    from webapp.db.engines import reading
    from webapp.jobs import actions
    from webapp.jobs.filters import JobFilter
    from webapp.jobs.flow import batches

    with core():
        with reading() as session:
            batches.find(session, name)
        result = actions.apply(verb, JobFilter(state=state, batch=name), actor())
    undo = f" Undo: manage.py activity undo {result.undo}" if result.undo is not None else ""
    say(f"{plural(result.moved, 'job')} {became}.{undo}" if result.moved else "Nothing changed.")
