"""`db`: upgrade, check, back up and restore the database. `db move` is in `shared/move.py`."""

from __future__ import annotations

from pathlib import Path

import click

from webapp.commands.shared.core import actor, core, disconnect
from webapp.commands.shared.move import move
from webapp.commands.shared.output import say
from webapp.core import schema

SHOWN_ERRORS = 20


@click.group(epilog="Example: manage.py db check")
def db() -> None:
    """Upgrade, check, back up, restore and move the database."""


db.add_command(move)


@db.command(epilog="Example: manage.py db upgrade")
def upgrade() -> None:
    """Upgrade the database to the schema of this version. An SQLite database is copied first."""
    from webapp import config as configuration
    from webapp.db import migrations
    from webapp.db.application import create_core

    config = configuration.load()
    with create_core(config, migrate=False).app_context():
        new = config.is_sqlite and not config.sqlite_path.exists()
        before = None if new else migrations.current_revision()
        migrations.ensure_current(config)
        disconnect()
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
    from webapp import config as configuration
    from webapp.db import backup as backups

    size = backups.make(configuration.load(), file, replace=replace)
    click.echo(f"{file}: {size:,} bytes, verified")


@db.command(epilog="Example: manage.py db restore /srv/backups/queue.db")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def restore(file: Path) -> None:
    """Replace the database with the backup FILE, and keep the old one beside it. Refused while anything runs."""
    from webapp import config as configuration
    from webapp.db import audit
    from webapp.db import backup as backups
    from webapp.db.engines import writing

    old = backups.restore(configuration.load(), file)
    with core(), writing() as session:  # the restored audit trail does not contain the restore
        audit.note(session, "restore", ["database"], actor(), details=[{"after": {"file": str(file)}}])
    click.echo(f"Database restored from {file}")
    if old.exists():
        say(f"The old database is now {old}.")
