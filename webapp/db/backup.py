"""Backups of a SQLite database: made while it is in use, verified before the rename, restored when no process runs.

PostgreSQL has its own tools for this. Only SQLite's library opens the live database: closing any other descriptor of it
would release this process's locks.
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
from urllib.parse import quote

from webapp.config import Config, ensure_home
from webapp.core import notices
from webapp.core.statements import RULE_RESTORE, SKIP_DUE_FIRES
from webapp.core.storage import schema
from webapp.core.storage.locks import hold_alone
from webapp.core.storage.sqlite import library as sqlite
from webapp.lib import clock
from webapp.lib.system.private_files import give

SUFFIXES = ("", "-wal", "-shm")  # the database, its log, the log's index


class BackupError(Exception):
    """A backup that cannot be made or restored; the message says why. Nothing was changed."""


class FileTaken(BackupError):
    """The file exists."""


class QueueInUse(BackupError):
    """A process uses the queue, so it cannot be replaced."""


def make(config: Config, target: Path, *, replace: bool = False) -> int:
    """Copy the live database to `target` and return the copy's size in bytes.

    The copy is written under another name, flushed to the disk and verified, then renamed. Raises BackupError.
    """
    source = _sqlite_path(config)
    if not source.exists():
        raise BackupError(f"the database {source} does not exist yet.")
    if target.is_dir():
        raise BackupError(f"{target} is a folder. Expected a file name.")
    if not target.parent.is_dir():
        raise BackupError(f"the folder {target.parent} does not exist.")
    if target.exists() and not replace:
        raise FileTaken(f"{target} exists. Choose another name, or use --replace.")
    if target.resolve() in {source.resolve().with_name(source.name + suffix) for suffix in SUFFIXES}:
        raise BackupError(f"{target} is the database itself.")
    with _partial(target) as partial:
        _copy(source, partial, source)
        verify(partial)
    return target.stat().st_size


def restore(config: Config, source: Path, actor: str, *, run: bool = False) -> tuple[Path, list[str]]:
    """Replace the database with a backup; return the path where the old database was kept, and the queues it paused.

    What was pending in the backup may have run since, so all queues are paused, unless `run`. Refused while any process
    uses the queue. The backup stays unchanged. Raises BackupError.
    """
    paused: list[str] = []
    target = _sqlite_path(config)
    if not source.is_file():
        raise BackupError(f"the file {source} does not exist.")
    verify(source)
    ensure_home(config)
    aside = target.with_name(f"{target.name}.before-restore-{time.strftime('%Y%m%d-%H%M%S')}")
    with hold_alone(config) as alone:
        if not alone:
            raise QueueInUse("the queue is in use. Stop its console and workers (Ctrl-C in `up`), then try again.")
        with _partial(target, aside=aside) as partial:
            _copy(source, partial, target)
            _do_not_catch_up(partial)
            if not run:
                paused = _pause_queues(partial, actor)
            verify(partial)
    return aside, paused


def _pause_queues(path: Path, actor: str) -> list[str]:
    """Pause all queues of a database that no process uses, also one with an older schema; return their names.

    The queue of messages goes on: no message of the copy is left to send.
    """
    with closing(sqlite.connect(str(path), isolation_level=None)) as connection:
        columns = {row[1] for row in connection.execute("PRAGMA table_info(queues)")}
        kept = " AND removed_at IS NULL" if "removed_at" in columns else ""
        unpaused = f"paused_at IS NULL AND name <> ?{kept}"
        statement = f"UPDATE queues SET paused_at = ?, paused_by = ? WHERE {unpaused} RETURNING name"  # noqa: S608
        values = (clock.now(), actor, notices.SYSTEM_QUEUE)
        return sorted(row[0] for row in connection.execute(statement, values).fetchall())


def _do_not_catch_up(path: Path) -> None:
    """No schedule fires and no message is sent because of a restore, also of a database with an older schema."""
    with closing(sqlite.connect(str(path), isolation_level=None)) as connection:
        there = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
        if "schedules" in there:
            connection.execute(SKIP_DUE_FIRES, {"now": clock.now(), "rule": RULE_RESTORE})
        for statement in notices.FORGET if "notices" in there else ():
            connection.execute(statement, {"now": clock.now()})


def verify(path: Path) -> None:
    """Raises BackupError if a file is not an intact database of queuectl."""
    try:
        with closing(sqlite.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True)) as connection:
            damages = [row[0] for row in connection.execute("PRAGMA integrity_check(1)") if row[0] != "ok"]
            revision = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite.Error as error:
        raise BackupError(f"{path} is not a queuectl database: {error}.") from None
    if damages:
        raise BackupError(f"{path} is damaged: {damages[0]}.")
    if revision is None or revision[0] not in schema.known_revisions():
        raise BackupError(
            f"{path} has schema {revision and revision[0]}, which this queuectl does not know. Update queuectl."
        )


def _sqlite_path(config: Config) -> Path:
    if not config.is_sqlite:
        raise BackupError("the database is PostgreSQL. Use pg_dump and pg_restore.")
    return config.sqlite_path


def _copy(source: Path, target: Path, database: Path) -> None:
    """Copy a database to a new file.

    If root does that for another user, the file becomes that user's, but only in a folder of the same user: the owner
    of any other folder must not be able to read it.
    """
    try:
        descriptor = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        if target.parent.stat().st_uid == database.parent.stat().st_uid:
            give(descriptor, target.parent)
        os.close(descriptor)
        with closing(sqlite.connect(str(source))) as original, closing(sqlite.connect(str(target))) as copy:
            original.backup(copy)
            # The copy must not need a log file; this also writes all remaining data.
            copy.execute("PRAGMA journal_mode=DELETE")
    except (sqlite.Error, OSError) as error:
        raise BackupError(f"cannot copy {source} to {target}: {error}.") from None


@contextmanager
def _partial(target: Path, aside: Path | None = None) -> Iterator[Path]:
    """A file to write. It is renamed to `target` when the block ends, and deleted when the block raises.

    With `aside`, an existing `target` is first renamed to that, with its log.
    """
    _remove_left(target)
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        yield partial
        _flush(partial)
        if aside is not None:
            for suffix in SUFFIXES:
                with contextlib.suppress(FileNotFoundError):
                    os.rename(f"{target}{suffix}", f"{aside}{suffix}")
        os.replace(partial, target)
        _flush(target.parent)
    except OSError as error:
        raise BackupError(f"cannot write {target}: {error.strerror or error}.") from None
    finally:
        for suffix in SUFFIXES:
            Path(f"{partial}{suffix}").unlink(missing_ok=True)


def _remove_left(target: Path) -> None:
    """Remove partial files of killed processes."""
    import psutil

    for left in target.parent.glob(f".{glob.escape(target.name)}.partial-*"):
        pid = left.name.rpartition(".partial-")[2].partition("-")[0]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            left.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    if path.is_dir() and os.name != "posix":
        return  # Windows cannot open folders
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
