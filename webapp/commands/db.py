"""`db`: bring the database up to date, check it, copy it, put a copy back (`webapp/db/backup.py` does both).

The command that moves it elsewhere is in `_move.py`.
"""

from __future__ import annotations

from pathlib import Path

import click

from webapp.commands.shared.core import actor, core, disconnect
from webapp.commands.shared.move import move
from webapp.commands.shared.output import say
from webapp.core import schema

SHOWN = 20  # damages; the first ones tell the story


@click.group(epilog="Example: manage.py db check")
def db() -> None:
    """Bring the database up to date, check it, back it up, restore it, move it."""


db.add_command(move)


@db.command(epilog="Example: manage.py db upgrade")
def upgrade() -> None:
    """Bring the database to the schema of this version. An SQLite database is copied first."""
    from webapp import config as configuration
    from webapp.db import migrations
    from webapp.db.application import create_core

    config = configuration.load()
    with create_core(config, migrate=False).app_context():
        fresh = config.is_sqlite and not config.sqlite_path.exists()
        before = None if fresh else migrations.current_revision()
        migrations.ensure_current(config)
        disconnect()
    if before == schema.HEAD:
        click.echo(f"The database is up to date (schema {before}).")
    else:
        click.echo(f"The database was {f'at schema {before}' if before else 'empty'}, now at {schema.HEAD}.")


@db.command(epilog="Example: manage.py db check")
def check() -> int:
    """Look through the whole database for damage. Work goes on meanwhile; a large one takes its time."""
    from sqlalchemy import text

    from webapp.db.engines import is_sqlite, read_engine

    with core(), read_engine().connect() as connection:
        if not is_sqlite():
            connection.execute(text("SELECT count(*) FROM jobs"))
            say("PostgreSQL checks its own pages: this looked no further than that the tables are there.")
            return 0
        damages = [row[0] for row in connection.exec_driver_sql(f"PRAGMA integrity_check({SHOWN})") if row[0] != "ok"]
        orphans = [
            f"{table}, row {row}: refers to a row of {parent} that is not there"
            for table, row, parent, _ in connection.exec_driver_sql("PRAGMA foreign_key_check").fetchmany(SHOWN)
        ]
    for line in damages + orphans:
        click.echo(line)
    if damages or orphans:
        say("The database is damaged. Stop the workers, keep a copy of it, and put a backup in its place.")
        return 1
    click.echo("The database is sound.")
    return 0


@db.command(epilog="Example: manage.py db backup /srv/backups/queue.db --replace")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--replace", is_flag=True, help="Overwrite a file of that name, once the new copy is whole.")
def backup(file: Path, replace: bool) -> None:
    """Copy the database to FILE while it is in use. The copy is verified before it bears the name."""
    from webapp import config as configuration
    from webapp.db import backup as copies

    try:
        size = copies.make(configuration.load(), file, replace=replace)
    except copies.BackupError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{file}: {size:,} bytes, verified")


@db.command(epilog="Example: manage.py db restore /srv/backups/queue.db")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def restore(file: Path) -> None:
    """Put a backup in the place of the database; the old one is kept beside it. Refused while anything runs."""
    from webapp import config as configuration
    from webapp.db import audit
    from webapp.db import backup as copies
    from webapp.db.engines import writing

    try:
        aside = copies.restore(configuration.load(), file)
    except copies.BackupError as error:
        raise click.ClickException(str(error)) from None
    with core(), writing() as session:  # the trail that came back does not know that it did
        audit.note(session, "restore", ["database"], actor(), details=[{"after": {"file": str(file)}}])
    click.echo(f"{file} is the database now")
    if aside.exists():
        say(f"The old one is {aside}.")
