"""Bring a database to the schema of this checkout, or say why that cannot be.

One Alembic history serves both databases. A start reads one row and imports Alembic only on a difference.
`db/migrations/env.py` takes the locks, so that any number of processes may start at once.

Processes of the version before may run on meanwhile. A migration bumps the control row's revision, by which workers
notice it: they take no more, finish what they run, and end; consoles answer 503 and end. Until then their statements
must keep working, so a migration only adds; what nothing uses any more goes one version later.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Optional

from sqlalchemy import text
from sqlalchemy.exc import DatabaseError, OperationalError, ProgrammingError

from webapp.config import Config, ConfigError
from webapp.core import relocated
from webapp.core.schema import HEAD, REVISION
from webapp.db import backup, engines
from webapp.db.revisions import known_revisions

_FOLDER = Path(__file__).resolve().parent


def ensure_current(config: Config) -> None:
    """Make or upgrade the database. Raises ConfigError: it is damaged, out of reach, newer than this or half a copy."""
    if config.is_sqlite:
        _create_private(config.sqlite_path)
    found = current_revision()
    if found == relocated.UNFINISHED:
        with engines.read_engine().connect() as connection:
            raise ConfigError(f"{relocated.unfinished(connection)}.")
    if found != HEAD:
        upgrade(config, found)
        with engines.writing():
            pass  # which rings


def current_revision() -> Optional[str]:
    """The revision that the database is at; None for an empty one. Raises ConfigError where it cannot be read."""
    try:
        with engines.read_engine().connect() as connection:
            return connection.execute(text(REVISION)).scalar()
    except (OperationalError, ProgrammingError) as error:
        if "no such table" in str(error.orig) or "does not exist" in str(error.orig):
            return None
        raise ConfigError(f"cannot open the database: {_reason(error)}") from None
    except DatabaseError as error:
        raise ConfigError(
            f"cannot read the database: {_reason(error)}. It is left as it is. "
            "Put a backup in its place: manage.py db restore FILE"
        ) from None


def upgrade(config: Config, found: Optional[str]) -> None:
    """Run the migrations that are missing; an existing SQLite database is copied first."""
    from alembic import command
    from alembic.config import Config as AlembicConfig

    alembic = AlembicConfig()
    alembic.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    if found is not None and found not in known_revisions():
        raise ConfigError(
            f"the database has schema {found}, made by a newer queuectl than this one ({HEAD}). Update it."
        )
    try:
        if found is not None and config.is_sqlite:
            backup.make(config, config.sqlite_path.with_name(f"queue.db.before-{HEAD}"), replace=True)
        command.upgrade(alembic, "head")
    except backup.BackupError as error:
        raise ConfigError(f"cannot copy the database before its upgrade: {error}") from None
    except DatabaseError as error:
        raise ConfigError(f"cannot upgrade the database: {_reason(error)}. It is unchanged.") from error


def _create_private(path: Path) -> None:
    # SQLite would make the file with the umask's mode; its -wal and -shm take the mode of the file. Closing a
    # descriptor of an open database drops this process's locks, so only a file that is not there is touched.
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return
    except OSError as error:
        raise ConfigError(f"cannot create the database {path}: {error.strerror}.") from None


def _reason(error: DatabaseError) -> str:
    return str(error.orig).strip().splitlines()[0]
