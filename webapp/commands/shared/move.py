"""`db move`: the queue to another database, and back. How that is done is in `webapp/admin/move/`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Optional

import click

from webapp.commands.shared.core import DURATION, actor, core
from webapp.commands.shared.output import Column, say, show, table
from webapp.lib.text import plural, size

if TYPE_CHECKING:
    from webapp.admin.move import Report, Reporter
    from webapp.admin.move.databases import Tick
    from webapp.config import Config

SHOWN = 20  # values that do not fit; the first ones tell the story
NAME = "QUEUECTL_DATABASE_URL"


@click.command(
    "move",
    short_help="Move the queue to another database, or back.",
    epilog="""\b
Examples:
  manage.py db move --to postgresql://queue@db.example.org/queue --dry-run
  manage.py db move --to postgresql://queue@db.example.org/queue
  manage.py db move --to sqlite:////srv/queuectl/queue.db
  manage.py db move --to postgresql://queue@db.example.org/queue --undo""",
)
@click.option("--to", "url", metavar="URL", required=True, help="The other database, which must be empty.")
@click.option("--dry-run", is_flag=True, help="Count and check only; change nothing.")
@click.option("--wait", "patience", type=DURATION, help="Give running jobs so long, or do not move. Default: no limit.")
@click.option("--write-env", is_flag=True, help=f"Write the new address into .env, if {NAME} is not set otherwise.")
@click.option("--undo", is_flag=True, help="Take the move back; refused once something was done at the new address.")
@click.option("--force", is_flag=True, help="With --undo: give up what was done there, and what cannot be reached.")
def move(url: str, dry_run: bool, patience: Optional[float], write_env: bool, undo: bool, force: bool) -> int:
    """Move the whole queue to the database at URL, SQLite or PostgreSQL, and back in the same way.

    Running jobs come to their end, then the workers leave and the queue takes no changes while it is copied and
    compared. The old database stays as it is and refuses every later write with the new address. If this is ended at
    any point, run it again: it goes on.
    """
    from webapp.admin import move as moving
    from webapp.config import Config, database_url
    from worker.maintenance import process as maintenance

    if (undo and (dry_run or write_env)) or (force and not undo):
        raise click.UsageError("--undo goes alone, or with --force.")
    with core(noting=False) as config:
        target_config = Config(config.home, database_url(url, "--to"), None)
        try:
            with moving.move_lock(config), moving.Side.at(target_config) as target, _teller() as teller:
                if dry_run:
                    return _print(moving.examine(target, teller))
                if undo:
                    moving.undo(target, actor(), teller, force=force)
                    say("The queue is here again. Start its workers: manage.py worker start, or up.")
                    return 0
                with _what_then():
                    moving.move(target, actor(), teller, look_after=maintenance.without_supervisor(), patience=patience)
                _tell_where(target.address, target_config, write_env)
        except moving.MoveError as error:
            raise click.ClickException(str(error)) from None
    return 0


@contextmanager
def _what_then() -> Iterator[None]:
    """Whoever is left with half a move is told that it can be gone on with."""
    from webapp.core import relocated
    from webapp.db.engines import read_engine

    try:
        yield
    except BaseException:
        with read_engine().connect() as connection:
            if relocated.note(connection) is not None:
                say("The move is not complete, and the queue takes no changes. Run it again to go on, or --undo it.")
        raise


# --- a dry run -------------------------------------------------------------------------------------------------------


def _print(report: Report) -> int:
    columns = [Column("TABLE", lambda row: row[0]), Column("ROWS", lambda row: f"{row[1]:,}", right=True)]
    show(table(columns, report.counts.items()))
    state = {"nothing": "empty", "fresh": "empty", "ours": "a copy that was begun before, and is begun anew"}
    click.echo(f"\nfrom     {report.source.kind}, {report.source.address}, about {size(report.size)}")
    click.echo(f"to       {report.target.kind}, {report.target.address}, {state[report.target_state]}")
    workers = plural(report.workers, "worker")
    if report.running:
        click.echo(f"running  {', '.join(map(str, report.running))}; {workers}. A move waits for them.")
    else:
        click.echo(f"running  nothing; {workers}")
    for fault in report.faults:
        click.echo(f"fault    {fault}")
    for misfit in report.misfits[:SHOWN]:
        click.echo(f"fault    {misfit}")
    if len(report.misfits) > SHOWN:
        click.echo(f"fault    and {len(report.misfits) - SHOWN:,} more values that do not fit")
    if report.faults or report.misfits:
        say("It cannot be moved like this. Nothing was changed.")
        return 1
    say("It can be moved. Nothing was changed.")
    return 0


# --- afterwards ------------------------------------------------------------------------------------------------------


def _tell_where(address: str, target: Config, write_env: bool) -> None:
    from webapp.config import CHECKOUT
    from webapp.lib import dotenv

    click.echo(f"The queue is at {address} now, equal to the old one in every table.")
    file = CHECKOUT / ".env"
    if NAME in os.environ:
        where = "Change it wherever this environment has it from, in crontabs and services, too; it counts before .env."
    elif write_env:
        dotenv.assign(str(file), NAME, str(target.database_url).replace("postgresql+psycopg:", "postgresql:", 1))
        where = f"{file} has it now."
    else:
        where = f"Put it into {file}, or into the environment of whatever starts queuectl, crontabs and services too."
    say(f"\n{NAME}={address}\n{where} If it has a password, that is not shown here.")
    say("Then start `up`, `web` and `worker start` again. The old database stays as it is, as the fallback (--undo).")


# --- meanwhile -------------------------------------------------------------------------------------------------------


@contextmanager
def _teller() -> Iterator[Reporter]:
    """A bar on a terminal; elsewhere a line for each stage."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:8}"), BarColumn(), MofNCompleteColumn(), TextColumn("rows"))
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as progress:
        yield _Bars(progress)


class _Bars:
    def __init__(self, progress: Any) -> None:
        self._progress = progress

    def say(self, message: str) -> None:
        self._progress.console.print(message, markup=False, highlight=False, soft_wrap=True)

    def stage(self, name: str, rows: int) -> Tick:
        task = self._progress.add_task(name, total=rows)
        return lambda done: self._progress.advance(task, done)


class _Lines:
    EVERY = 5.0  # seconds

    def say(self, message: str) -> None:
        say(message)

    def stage(self, name: str, rows: int) -> Tick:
        done, told = 0, time.monotonic()
        say(f"{name}: {rows:,} rows")

        def tick(more: int) -> None:
            nonlocal done, told
            done += more
            if time.monotonic() - told > self.EVERY:
                told = time.monotonic()
                say(f"{name}: {done:,} of {rows:,} rows")

        return tick
