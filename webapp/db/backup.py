"""Copies of a SQLite database: made while it is in use, verified before they bear their name, put back when all rests.

PostgreSQL has tools of its own for this. Nothing here opens the live database but through SQLite's library, for closing
any other descriptor of it would drop this process's locks.
"""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from webapp.config import Config, ensure_home
from webapp.core.locks import hold_alone
from webapp.db.engines import sqlite
from webapp.db.revisions import known_revisions

SIDES = ("", "-wal", "-shm")  # what belongs together: the database, its log, the log's index


class BackupError(Exception):
    """A copy that cannot be made or put back; the message says why. Nothing was changed."""


def make(config: Config, target: Path, *, replace: bool = False) -> int:
    """Copy the live database to `target`, consistently, and return its size in bytes.

    The copy is written beside it, flushed to the disk, verified and then renamed: a file of that name is whole.
    Raises BackupError.
    """
    source = _sqlite_path(config)
    if not source.exists():
        raise BackupError(f"there is no database {source} yet.")
    if target.is_dir():
        raise BackupError(f"{target} is a folder. Expected the name of a file.")
    if not target.parent.is_dir():
        raise BackupError(f"there is no folder {target.parent}.")
    if target.exists() and not replace:
        raise BackupError(f"{target} exists. Choose another name, or say --replace.")
    if target.resolve() in {source.resolve().with_name(source.name + side) for side in SIDES}:
        raise BackupError(f"{target} is the database itself.")
    with _partial(target) as partial:
        _copy(source, partial)
        verify(partial)
    return target.stat().st_size


def restore(config: Config, source: Path) -> Path:
    """Put a backup in the place of the database, and return where the old one was laid aside.

    Refused while any process of this queue runs. The backup itself is left as it is. Raises BackupError.
    """
    target = _sqlite_path(config)
    if not source.is_file():
        raise BackupError(f"there is no file {source}.")
    verify(source)
    ensure_home(config)
    aside = target.with_name(f"{target.name}.before-restore-{time.strftime('%Y%m%d-%H%M%S')}")
    with hold_alone(config) as alone:
        if not alone:
            raise BackupError(
                "the queue is in use. Stop its console and workers first (Ctrl-C in `up`), then try again."
            )
        with _partial(target, aside=aside) as partial:
            _copy(source, partial)
            verify(partial)
    return aside


def verify(path: Path) -> None:
    """Raises BackupError where a file is no sound database of ours."""
    try:
        with closing(sqlite.connect(f"file:{_quoted(path)}?mode=ro", uri=True)) as connection:
            damages = [row[0] for row in connection.execute("PRAGMA integrity_check(1)") if row[0] != "ok"]
            revision = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite.Error as error:
        raise BackupError(f"{path} is no database of queuectl: {error}.") from None
    if damages:
        raise BackupError(f"{path} is damaged: {damages[0]}.")
    if revision is None or revision[0] not in known_revisions():
        raise BackupError(
            f"{path} has schema {revision and revision[0]}, which this queuectl does not know. Update it."
        )


def _sqlite_path(config: Config) -> Path:
    if not config.is_sqlite:
        raise BackupError("the database is PostgreSQL: use its own tools, pg_dump and pg_restore.")
    return config.sqlite_path


def _copy(source: Path, target: Path) -> None:
    try:
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        with closing(sqlite.connect(str(source))) as original, closing(sqlite.connect(str(target))) as copy:
            original.backup(copy)
            # A file that is to travel must not need a log beside it; and this writes all that is left to write.
            copy.execute("PRAGMA journal_mode=DELETE")
    except (sqlite.Error, OSError) as error:
        raise BackupError(f"cannot copy {source} to {target}: {error}.") from None


@contextmanager
def _partial(target: Path, aside: Path | None = None) -> Iterator[Path]:
    """A file to write; what it holds gets the name of `target` when the block ends, and vanishes when it raises.

    With `aside`, what has that name before is kept under this one, with its log.
    """
    _remove_left(target)
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        yield partial
        _flush(partial)
        if aside is not None:
            for side in SIDES:
                with contextlib.suppress(FileNotFoundError):
                    os.rename(f"{target}{side}", f"{aside}{side}")
        os.replace(partial, target)
        _flush(target.parent)
    except OSError as error:
        raise BackupError(f"cannot write {target}: {error.strerror or error}.") from None
    finally:
        for side in SIDES:
            Path(f"{partial}{side}").unlink(missing_ok=True)


def _remove_left(target: Path) -> None:
    """Remove what copies left that were killed."""
    import psutil

    for left in target.parent.glob(f".{glob.escape(target.name)}.partial-*"):
        pid = left.name.rpartition(".partial-")[2].partition("-")[0]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            left.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    if path.is_dir() and os.name != "posix":
        return  # Windows cannot open a folder
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _quoted(path: Path) -> str:
    from urllib.parse import quote

    return quote(str(path.absolute()))
