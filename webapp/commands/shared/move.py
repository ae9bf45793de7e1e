"""`db move`: moves the queue to another database, and back. The work is done in `webapp/admin/move/`."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Optional

import click

from webapp.commands.shared.core import DURATION, actor, core
from webapp.commands.shared.output import Column, progress_bars, say, show, table
from webapp.core import relocated
from webapp.lib.text import plural, size

if TYPE_CHECKING:
    from webapp.admin.move import Report
    from webapp.admin.move.databases import Tick
    from webapp.config import Config

SHOWN_MISFITS = 20  # values that the target cannot store
PROGRESS_SECONDS = 5.0  # between progress lines where stderr is not a terminal
VARIABLE = "QUEUECTL_DATABASE_URL"


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
@click.option("--to", "url", metavar="URL", required=True, help="The target database. It must be empty.")
@click.option("--dry-run", is_flag=True, help="Count and check only; change nothing.")
@click.option("--wait", "patience", **DURATION, help="Give up if jobs still run after this time. Default: no limit.")
@click.option("--write-env", is_flag=True, help=f"Write the new address to .env, unless {VARIABLE} is set elsewhere.")
@click.option("--undo", is_flag=True, help="Undo the move. Refused if the queue has changed at the new address.")
@click.option("--force", is_flag=True, help="With --undo: discard changes made there, even if it cannot be reached.")
def move(url: str, dry_run: bool, patience: Optional[float], write_env: bool, undo: bool, force: bool) -> int:
    """Move the whole queue to the database at URL, SQLite or PostgreSQL. The way back is the same.

    Running jobs finish and workers exit. Then the queue accepts no changes until the copy is complete and verified.
    The old database stays as it is, and refuses later writes with the new address. If the move is interrupted, run it
    again to continue.
    """
    from webapp.admin import move as mover
    from webapp.config import Config, database_url
    from worker.maintenance import process as maintenance

    if (undo and (dry_run or write_env)) or (force and not undo):
        raise click.UsageError("--undo can only be combined with --force, and --force only with --undo.")
    with core(noting=False) as config:
        target_config = Config(config.home, database_url(url, "--to"), None)
        with mover.move_lock(config), mover.Side.at(target_config) as target, _progress() as progress:
            if dry_run:
                return _print(mover.examine(target, progress))
            if undo:
                mover.undo(target, actor(), progress, force=force)
                say("The queue is back here. Start its workers: manage.py worker start, or up.")
                return 0
            with _resume_hint():
                mover.move(target, actor(), progress, look_after=maintenance.without_supervisor(), patience=patience)
            _print_address(target.address, target_config, write_env)
    return 0


@contextmanager
def _resume_hint() -> Iterator[None]:
    """If the move stops halfway, say how to continue."""
    from webapp.db.engines import read_engine

    try:
        yield
    except BaseException:
        with read_engine().connect() as connection:
            if relocated.note(connection) is not None:
                say("The move is incomplete, and the queue accepts no changes. Run it again to continue, or --undo it.")
        raise


def _print(report: Report) -> int:
    """Print the report of a dry run. Return the exit code."""
    columns = [Column("TABLE", lambda row: row[0]), Column("ROWS", lambda row: f"{row[1]:,}", right=True)]
    show(table(columns, report.counts.items()))
    standing = {"nothing": "empty", "fresh": "empty", "ours": "an incomplete copy, which is started again"}
    click.echo(f"\nfrom     {report.source.kind}, {report.source.address}, about {size(report.size)}")
    click.echo(f"to       {report.target.kind}, {report.target.address}, {standing[report.target_state]}")
    running = ", ".join(report.running) or "nothing"
    wait = ". The move waits for these jobs." if report.running else ""
    click.echo(f"running  {running}; {plural(report.workers, 'worker')}{wait}")
    errors = [*report.faults, *report.misfits[:SHOWN_MISFITS]]
    if len(report.misfits) > SHOWN_MISFITS:
        errors.append(f"{len(report.misfits) - SHOWN_MISFITS:,} more values cannot be stored there")
    for error in errors:
        click.echo(f"error    {error}")
    say(f"The queue {'cannot' if errors else 'can'} be moved. Nothing was changed.")
    return 1 if errors else 0


def _print_address(address: str, target: Config, write_env: bool) -> None:
    from webapp.config import CHECKOUT
    from webapp.lib import dotenv

    click.echo(f"The queue is now at {address}. All tables are verified.")
    file = CHECKOUT / ".env"
    if VARIABLE in os.environ:
        where = "Change it where this environment sets it, also in crontabs and services. It overrides .env."
    elif write_env:
        dotenv.assign(str(file), VARIABLE, str(target.database_url).replace("postgresql+psycopg:", "postgresql:", 1))
        where = f"Written to {file}."
    else:
        where = f"Put it into {file}, or into the environment of everything that starts queuectl."
    say(f"\n{VARIABLE}={address}\n{where} A password is not shown here.")
    say("Then start `up`, `web` and `worker start` again. The old database is unchanged: --undo returns to it.")


# --- progress --------------------------------------------------------------------------------------------------------


@contextmanager
def _progress() -> Iterator[_Progress]:
    with progress_bars(transient=False) as bars:
        yield _Progress(bars)


class _Progress:
    """Shows a bar for each stage on a terminal; elsewhere prints lines."""

    def __init__(self, bars: Any) -> None:
        self._bars = bars

    def say(self, message: str) -> None:
        if self._bars is None:
            say(message)
        else:
            self._bars.console.print(message, markup=False, highlight=False, soft_wrap=True)

    def stage(self, name: str, rows: int) -> Tick:
        if self._bars is not None:
            task = self._bars.add_task(name, total=rows, note="rows")
            return lambda done: self._bars.advance(task, done)
        done, printed_at = 0, time.monotonic()
        say(f"{name}: {rows:,} rows")

        def tick(more: int) -> None:
            nonlocal done, printed_at
            done += more
            if time.monotonic() - printed_at > PROGRESS_SECONDS:
                printed_at = time.monotonic()
                say(f"{name}: {done:,} of {rows:,} rows")

        return tick
