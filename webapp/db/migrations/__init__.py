"""Migrates a database to the schema of this checkout, or says why that is impossible.

Both databases use the same Alembic history. A start reads one row, and imports Alembic only if the revision differs.
`env.py` takes the locks, so any number of processes may start at once.

Processes of the previous version may still run. A migration increases the control row's revision. Workers then claim
no more jobs, finish the running ones and exit; consoles answer 503 and exit. Until then their statements must work, so
a migration only adds things. Unused ones are removed one version later.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Optional

from sqlalchemy import text
from sqlalchemy.exc import DatabaseError, OperationalError, ProgrammingError

from webapp.config import Config, ConfigError, Unavailable
from webapp.core.storage import db_errors, relocated
from webapp.core.storage.schema import HEAD, REVISION, known_revisions
from webapp.db import backup, engines
from webapp.lib.system.private_files import create_private

_FOLDER = Path(__file__).resolve().parent


def ensure_current(config: Config) -> None:
    """Create or upgrade the database. Raises ConfigError: it is damaged, unavailable, newer, or an unfinished copy."""
    if config.is_sqlite:
        _create_private(config.sqlite_path)
    found = current_revision()
    if found == relocated.UNFINISHED:
        with engines.read_engine().connect() as connection:
            raise Unavailable(f"{engines.unfinished_note(connection)}.")
    if found != HEAD:
        upgrade(config, found)
        with engines.writing():
            pass  # its commit wakes workers, which then see the new schema


def current_revision() -> Optional[str]:
    """The revision of the database; None if it is empty. Raises ConfigError if it cannot be read."""
    try:
        with engines.read_engine().connect() as connection:
            return connection.execute(text(REVISION)).scalar()
    except (OperationalError, ProgrammingError) as error:
        reason = db_errors.explain(error, engines.database().config)
        if reason is None and ("no such table" in str(error.orig) or "does not exist" in str(error.orig)):
            return None
        raise Unavailable(f"cannot open the database: {reason or _reason(error)}.") from None
    except DatabaseError as error:
        raise Unavailable(
            f"cannot read the database: {_reason(error)}. It was not changed. "
            "Restore a backup: manage.py db restore FILE"
        ) from None


def upgrade(config: Config, found: Optional[str]) -> None:
    """Run the missing migrations. An existing SQLite database is backed up first."""
    from alembic import command
    from alembic.config import Config as AlembicConfig

    alembic = AlembicConfig()
    alembic.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    if found is not None and found not in known_revisions():
        raise ConfigError(
            f"the database has schema {found}, made by a newer queuectl than this one ({HEAD}). Update queuectl."
        )
    try:
        if found is not None and config.is_sqlite:
            backup.make(config, config.sqlite_path.with_name(f"queue.db.before-{HEAD}"), replace=True)
        command.upgrade(alembic, "head")
    except backup.BackupError as error:
        raise ConfigError(f"cannot copy the database before its upgrade: {error}") from None
    except DatabaseError as error:
        reason = db_errors.explain(error, config) or _reason(error)
        raise Unavailable(f"cannot upgrade the database: {reason}. It was not changed.") from error


def _create_private(path: Path) -> None:
    # SQLite would create the file with the umask's mode; -wal and -shm get the mode of the file. Closing a descriptor
    # of an open database releases this process's locks, so an existing file is not opened.
    try:
        os.close(create_private(path))
    except FileExistsError:
        return
    except OSError as error:
        raise Unavailable(f"cannot create the database {path}: {error.strerror}.") from None


def _reason(error: DatabaseError) -> str:
    return str(error.orig).strip().splitlines()[0]
