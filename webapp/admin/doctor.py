"""What can be wrong with the machine or the installation, and what to do about it. Reads only, and knows no command.

Nothing here opens the database's files but our SQLite library: closing any other descriptor of them would drop the
process's locks.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from webapp import config
from webapp.accounts import users
from webapp.config import Config, ConfigError
from webapp.core import labels, relocated
from webapp.db import engines as db
from webapp.db import postgresql
from webapp.db.application import create_core
from webapp.db.db_errors import LITTLE_SPACE, NO_SPACE
from webapp.db.models import Worker
from webapp.insight import blockers
from webapp.insight.queues import all_queues
from webapp.jobs import queries, settings
from webapp.lib import clock
from webapp.lib.text import size

# A race between a checkpoint and a writer can corrupt a WAL database: fixed in 3.51.3, and in these older lines.
WAL_FIXED = (3, 51, 3)
WAL_FIXED_IN_LINE: dict[tuple[int, ...], int] = {(3, 50): 7, (3, 44): 6}
OLDEST_SQLITE = (3, 35, 0)  # the first with RETURNING
NETWORK = ("nfs", "cifs", "smb", "fuse.sshfs", "fuse.s3fs", "glusterfs", "lustre", "afs", "ceph", "gpfs", "ncpfs")
SHARED_WITH_HOST = ("9p", "virtiofs", "vboxsf", "prl_fs", "fuse.grpcfuse", "fuse.osxfs")
ECHO_WITHIN = 2.0  # seconds in which a notification arrives
MOST_APART = 5.0  # seconds between two clocks


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: `ok`, `warn` or `fail`, what was seen, and what to do."""

    check: str
    result: str
    detail: str
    advice: str = ""


def examine() -> list[Finding]:
    """Look at everything. Never raises: what cannot be looked at is a finding, too."""
    findings = [python()]
    findings += _guarded("time zones", time_zones)
    try:
        loaded = config.load()
        app = create_core(loaded)
    except ConfigError as error:
        return [*findings, Finding("database", "fail", str(error))]
    with app.app_context():
        findings += _guarded("home folder", lambda: home(loaded))
        if loaded.is_sqlite:
            findings += _guarded("SQLite", lambda: sqlite_library(db.sqlite.sqlite_version))
            findings += _guarded("database", lambda: sqlite_database(loaded))
            findings += _guarded("file system", lambda: file_system(loaded.sqlite_path.parent))
        else:
            findings += _guarded("database", postgresql_database)
            findings += _guarded("notifications", notifications)
        findings += _guarded(
            "disk space", lambda: disk_space(loaded.sqlite_path.parent if loaded.is_sqlite else loaded.home)
        )
        findings += _guarded("clock", wall_clock)
        findings += _guarded("address", address)
        findings += _guarded("workers", workers)
        findings += _guarded("people", administrators)
        for engine in db.db.engines.values():
            engine.dispose()
    return findings


def _guarded(check: str, look: Callable[[], Iterator[Finding]]) -> list[Finding]:
    try:
        return list(look())
    except (OSError, SQLAlchemyError) as error:
        return [_not_looked_at(check, error)]


def _not_looked_at(check: str, error: Exception) -> Finding:
    return Finding(check, "fail", f"could not be looked at: {str(error).splitlines()[0]}.")


def python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("Python", "ok", f"{version}, {sys.executable}")


def time_zones() -> Iterator[Finding]:
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        ZoneInfo("Europe/Berlin")
    except ZoneInfoNotFoundError:
        advice = "Install the package tzdata of this system, or remove .venv and start again."
        yield Finding("time zones", "fail", "there are no time zone data.", advice)
    else:
        yield Finding("time zones", "ok", "the data are there")


def home(loaded: Config) -> Iterator[Finding]:
    mode = stat.S_IMODE(loaded.home.stat().st_mode)
    if os.name == "posix" and mode & 0o077:
        advice = f"Others can look in: chmod 700 {loaded.home}"
        yield Finding("home folder", "warn", f"{loaded.home} has mode {mode:04o}.", advice)
    else:
        yield Finding("home folder", "ok", str(loaded.home))


def sqlite_library(version: str) -> Iterator[Finding]:
    numbers = tuple(int(part) for part in version.split("."))
    found = f"SQLite {version} ({db.sqlite.__name__.split('.')[0]})"
    advice = "Install a Python whose sqlite3 has 3.51.3 or newer, or the package pysqlite3 into .venv."
    if numbers < OLDEST_SQLITE:
        yield Finding("SQLite", "fail", f"{found} is too old: 3.35 is the least.", advice)
    elif is_affected(numbers):
        detail = f"{found} can, rarely, damage a database that several processes write to (fixed in 3.51.3)."
        yield Finding("SQLite", "warn", detail, advice)
    else:
        yield Finding("SQLite", "ok", found)


def is_affected(version: tuple[int, ...]) -> bool:
    """Whether this SQLite has the bug in which a checkpoint and a writer race."""
    fixed_at = WAL_FIXED_IN_LINE.get(version[:2])
    return version < WAL_FIXED and (fixed_at is None or version[2] < fixed_at)


def sqlite_database(loaded: Config) -> Iterator[Finding]:
    path = loaded.sqlite_path
    with db.read_engine().connect() as connection:
        # A connection that saw the file before the database was made in it knows only after a read what it has become.
        connection.exec_driver_sql("SELECT id FROM control")
        journal = connection.exec_driver_sql("PRAGMA journal_mode").scalar()
    used = size(path.stat().st_size)
    if journal != "wal":
        advice = "Stop everything that uses it, then: manage.py db upgrade. Some file systems cannot carry a WAL."
        yield Finding("database", "fail", f"{path} is in journal mode {journal}, not WAL.", advice)
        return
    open_files = [
        one
        for one in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm")))
        if os.name == "posix" and one.exists() and stat.S_IMODE(one.stat().st_mode) & 0o077
    ]
    if open_files:
        names = " ".join(map(str, open_files))
        yield Finding("database", "warn", "others can read the jobs and their output.", f"chmod 600 {names}")
    else:
        yield Finding("database", "ok", f"{path}, {used}, WAL")


def postgresql_database() -> Iterator[Finding]:
    with db.read_engine().connect() as connection:
        version = connection.exec_driver_sql("SHOW server_version").scalar()
        follows = connection.exec_driver_sql("SELECT pg_is_in_recovery()").scalar()
        reached = connection.connection.driver_connection.info  # type: ignore[union-attr]
    detail = f"PostgreSQL {version} at {reached.host}:{reached.port}"
    if follows:
        advice = "Name the primary, or all servers: postgresql://user@host1:5432,host2:5432/database"
        yield Finding("database", "fail", f"{detail} is a standby and takes no writes.", advice)
    else:
        yield Finding("database", "ok", detail)


def address() -> Iterator[Finding]:
    """Nothing where the queue is here, as it nearly always is."""
    with db.read_engine().connect() as connection:
        words = relocated.note(connection)
    if words is not None:
        yield Finding("address", "fail", f"{words}.")


def file_system(folder: Path) -> Iterator[Finding]:
    kind = file_system_of(folder)
    if kind.startswith(NETWORK):
        advice = "Move it to a local disk with QUEUECTL_HOME; for several machines use PostgreSQL."
        yield Finding("file system", "fail", f"{folder} lies on a network ({kind}), where a WAL gets damaged.", advice)
    elif kind in SHARED_WITH_HOST:
        advice = "Move it to a disk of this machine with QUEUECTL_HOME."
        yield Finding("file system", "warn", f"{folder} is shared with the host ({kind}); locks may not hold.", advice)
    elif kind in ("tmpfs", "ramfs"):
        yield Finding("file system", "warn", f"{folder} lies in memory ({kind}): a restart of the machine empties it.")
    else:
        yield Finding("file system", "ok", kind or "of a kind that this system does not tell")


def file_system_of(folder: Path) -> str:
    """The type of the file system that a folder lies on; empty where that cannot be told."""
    import psutil

    place, best = str(folder.resolve()), ("", "")
    for mount in psutil.disk_partitions(all=True):
        root = mount.mountpoint.rstrip(os.sep)
        if (place == root or place.startswith(root + os.sep)) and len(root) >= len(best[0]):
            best = (root, mount.fstype)
    return best[1]


def disk_space(folder: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(folder).free
    detail = f"{size(free)} free"
    if free < NO_SPACE:
        yield Finding("disk space", "fail", f"{detail}: soon no job can be stored.", "Make room.")
    elif free < LITTLE_SPACE:
        yield Finding("disk space", "warn", f"{detail}.", "Make room, or keep less: manage.py config list")
    else:
        yield Finding("disk space", "ok", detail)


def notifications() -> Iterator[Finding]:
    engine = db.db.engines["worker"]
    try:
        arrive = postgresql.brings_notifications(engine, ECHO_WITHIN)
    except engine.dialect.loaded_dbapi.Error as error:  # as on a standby, where nobody may listen
        yield _not_looked_at("notifications", error)
        return
    if arrive:
        yield Finding("notifications", "ok", "idle workers are told of work at once")
        return
    detail = "they do not arrive, as behind a pooler that hands out connections by the transaction (PgBouncer)."
    advice = "Workers look for work twice a second. To have them told at once, name the server itself."
    yield Finding("notifications", "warn", detail, advice)


def wall_clock() -> Iterator[Finding]:
    """By the queue's clock jobs become due. On SQLite it is this machine's: one that was set back delays them."""
    mine = time.time_ns() // 1000
    with db.reading() as session:
        newest = clock.now() if not db.is_sqlite() else session.scalar(select(func.max(Worker.seen_at))) or 0
    apart = newest - mine if db.is_sqlite() else abs(newest - mine)
    if apart <= clock.seconds(MOST_APART):
        yield Finding("clock", "ok", clock.to_iso(clock.now()) or "")
    elif db.is_sqlite():
        detail = f"this machine's clock was set back by {apart / clock.SECOND:,.0f} s."
        yield Finding("clock", "warn", detail, "Set it, and keep it by NTP: due times follow it.")
    else:
        detail = f"this machine's clock differs by {apart / clock.SECOND:,.0f} s from the database server's."
        advice = "Due times follow the server's, but commands see this one's. Set it, and keep it by NTP."
        yield Finding("clock", "warn", detail, advice)


def workers() -> Iterator[Finding]:
    with db.reading() as session:
        lease = settings.load(session).lease
        views = queries.workers(session, lease)
        oldest = queries.oldest_pending(session)
        stranded = blockers.stranded(all_queues(session), [view for view in views if view.alive])
    silent = [view for view in views if not view.alive]
    alive = len(views) - len(silent)
    if silent:
        names = ", ".join(f"{view.worker.id} (pid {view.worker.pid} on {view.worker.host})" for view in silent)
        advice = "The other workers take them for dead after that time; look at their processes."
        yield Finding("workers", "warn", f"{alive} alive; no sign of life for {lease:.0f} s from {names}.", advice)
    elif not alive and oldest is not None:
        waited = (clock.now() - oldest) / clock.SECOND
        detail = f"none is alive, and a job has been waiting for {waited:,.0f} s."
        yield Finding("workers", "warn", detail, "Start some: manage.py worker start --count 2")
    elif stranded:
        number = queries.total(one.number for one, _ in stranded)
        some = ", ".join(sorted({label for one, _ in stranded for label in labels.split(one.label_set.requires)})[:8])
        jobs = "job requires" if number.number == 1 else "jobs require"
        detail = f"{alive} alive, but none of them has what {number} {jobs}: {some}."
        advice = "Start one: manage.py worker start --label NAME; for a host: start one there."
        yield Finding("workers", "warn", detail, advice)
    else:
        yield Finding("workers", "ok", f"{alive} alive" if alive else "none alive, and nothing waits")


def administrators() -> Iterator[Finding]:
    with db.reading() as session:
        alone = users.needs_setup(session)
    if alone:
        advice = "Start manage.py up and open the link that it prints, or: manage.py user add NAME --role admin"
        yield Finding("people", "warn", "there is no administrator yet.", advice)
    else:
        yield Finding("people", "ok", "there is an administrator")
