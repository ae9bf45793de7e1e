"""`db` and `doctor`: care of a whole installation. The checks and the move are in `webapp/admin/`."""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

import click

from webapp import config as configuration
from webapp.commands.shared.core import DURATION, actor, core, json_option, relocation
from webapp.commands.shared.output import STYLES, Column, grid, print_json, progress_bars, say, show, table
from webapp.config import Config
from webapp.core.storage import schema
from webapp.lib import dotenv
from webapp.lib.text import plural, size

if TYPE_CHECKING:
    from webapp.admin.move import Report
    from webapp.admin.move.databases import Tick

SHOWN_ERRORS = 20
SHOWN_QUEUES = 10
PROGRESS_SECONDS = 5.0  # between progress lines where stderr is not a terminal
VARIABLE = "QUEUECTL_DATABASE_URL"
RESUME_HINT = "The move is incomplete, and the queue accepts no changes. Run it again to continue, or --undo it."


@click.command(epilog="Example: manage.py doctor --json")
@json_option
def doctor(as_json: bool) -> int:
    """Check this machine and this installation. The exit code is 1 if a check fails."""
    from webapp.admin.doctor import Finding, examine
    from worker.runner import limits

    findings = [Finding("job limits", "ok", f"set here: {limits.describe()}"), *examine()]
    if as_json:
        print_json([{**asdict(one), "advice": one.advice or None} for one in findings])
    else:
        from rich.text import Text

        rows = [(Text(one.result, STYLES[one.result]), one.check, f"{one.detail} {one.advice}") for one in findings]
        show(grid(rows, 3, ""))
    return 1 if any(one.result == "fail" for one in findings) else 0


@click.group(epilog="Example: manage.py db check")
def db() -> None:
    """Upgrade, check, back up, restore and move the database."""


@db.command(epilog="Example: manage.py db upgrade")
def upgrade() -> None:
    """Upgrade the database to the schema of this version. An SQLite database is copied first."""
    from webapp.db import engines, migrations
    from webapp.db.application import create_core

    config = configuration.load()
    with create_core(config, migrate=False).app_context():
        new = config.is_sqlite and not config.sqlite_path.exists()
        before = None if new else migrations.current_revision()
        migrations.ensure_current(config)
        engines.disconnect()
    if before == schema.HEAD:
        click.echo(f"The database is up to date (schema {before}).")
    else:
        click.echo(f"Database upgraded from {f'schema {before}' if before else 'empty'} to schema {schema.HEAD}.")


@db.command(epilog="Example: manage.py db check")
def check() -> int:
    """Check the whole database for damage while it is in use. This can take minutes."""
    from sqlalchemy import text

    from webapp.db.engines import is_sqlite, read_engine

    with core(), read_engine().connect() as connection:
        if not is_sqlite():
            connection.execute(text("SELECT count(*) FROM jobs"))
            say("The tables can be read. PostgreSQL checks its pages itself.")
            return 0
        errors = [row[0] for row in connection.exec_driver_sql(f"PRAGMA integrity_check({SHOWN_ERRORS})")]
        errors = [error for error in errors if error != "ok"] + [
            f"{table}, row {row}: refers to a missing row of {parent}"
            for table, row, parent, _ in connection.exec_driver_sql("PRAGMA foreign_key_check").fetchmany(SHOWN_ERRORS)
        ]
    for line in errors:
        click.echo(line)
    if errors:
        say("The database is damaged. Stop the workers, keep a copy of it, and restore a backup.")
        return 1
    click.echo("No damage found.")
    return 0


@db.command(epilog="Example: manage.py db backup /srv/backups/queue.db --replace")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--replace", is_flag=True, help="Replace FILE if it exists, once the new copy is complete.")
def backup(file: Path, replace: bool) -> None:
    """Copy the database to FILE while it is in use, and verify the copy."""
    from webapp.db import backup as backups

    written = backups.make(configuration.load(), file, replace=replace)
    click.echo(f"{file}: {written:,} bytes, verified")


@db.command(epilog="Example: manage.py db restore /srv/backups/queue.db")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--run", is_flag=True, help="Do not pause the queues: run what was pending in the backup.")
def restore(file: Path, run: bool) -> None:
    """Replace the database with the backup FILE, and keep the old one beside it. Refused while anything runs.

    Jobs that were pending in the backup may have run since, or may still run in the original of a copied queue. So all
    queues are paused, until `queue resume`.
    """
    from webapp.db import audit
    from webapp.db import backup as backups
    from webapp.db.engines import writing

    old, paused = backups.restore(configuration.load(), file, actor(), run=run)
    with core(), writing() as session:  # the restored audit trail does not contain the restore
        details = {"file": str(file), "paused_queues": len(paused)}
        audit.note(session, "restore", ["database"], actor(), details=[{"after": details}])
    click.echo(f"Database restored from {file}")
    if old.exists():
        say(f"The old database is now {old}.")
    if paused:
        names = " ".join(paused) if len(paused) <= SHOWN_QUEUES else "--all"
        say(f"{plural(len(paused), 'queue')} paused: the jobs in the backup may have run since.")
        say("Look at them:     manage.py list --state pending")
        say(f"Then start them:  manage.py queue resume {names}")
    elif not run:
        say("All queues are paused, as they were in the backup. To start them: manage.py queue resume --all")


# --- move -------------------------------------------------------------------------------------------------------------


@db.command(
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
    """Move the whole queue to the database at URL, SQLite or PostgreSQL. It works in both directions.

    Running jobs finish and workers exit. Then the queue accepts no changes until the copy is complete and verified.
    The old database is kept, and refuses later writes with the new address. If the move is interrupted, run it
    again to continue.
    """
    from webapp.admin import move as mover
    from webapp.db import engines
    from worker.maintenance import process as maintenance

    if (undo and (dry_run or write_env)) or (force and not undo):
        raise click.UsageError("--undo can only be combined with --force, and --force only with --undo.")
    with core(noting=False) as config:
        look_after = maintenance.without_supervisor(engines.database())
        target_config = Config(config.home, configuration.database_url(url, "--to"), None)
        with mover.move_lock(config), mover.Side.at(target_config) as target, progress_bars(transient=False) as bars:
            progress = _Progress(bars)
            if dry_run:
                return _print(mover.examine(target, progress))
            if undo:
                mover.undo(target, actor(), progress, force=force)
                say("The queue is back here. Start its workers: manage.py worker start, or up.")
                return 0
            try:
                mover.move(target, actor(), progress, look_after=look_after, patience=patience)
            except BaseException:
                if relocation() is not None:
                    say(RESUME_HINT)
                raise
            _print_address(target.address, target_config, write_env)
    return 0


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
    errors = [*report.faults, *report.misfits[:SHOWN_ERRORS]]
    if len(report.misfits) > SHOWN_ERRORS:
        errors.append(f"{len(report.misfits) - SHOWN_ERRORS:,} more values cannot be stored there")
    for error in errors:
        click.echo(f"error    {error}")
    say(f"The queue {'cannot' if errors else 'can'} be moved. Nothing was changed.")
    return 1 if errors else 0


def _print_address(address: str, target: Config, write_env: bool) -> None:
    click.echo(f"The queue is now at {address}. All tables are verified.")
    file = configuration.CHECKOUT / ".env"
    if VARIABLE in os.environ:
        where = "Change it where this environment sets it, also in crontabs and services. It overrides .env."
    elif write_env:
        url = str(target.database_url).replace("postgresql+psycopg:", "postgresql:", 1)
        dotenv.assign(str(file), VARIABLE, url, owner=str(target.home))
        where = f"Written to {file}."
    else:
        where = f"Put it into {file}, or into the environment of everything that starts queuectl."
    say(f"\n{VARIABLE}={address}\n{where} A password is not shown here.")
    say("Then start `up`, `web` and `worker start` again. The old database is unchanged: --undo returns to it.")


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
