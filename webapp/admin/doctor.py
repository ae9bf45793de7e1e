"""Checks of the machine and the installation, with advice. Reads only.

Only the SQLite library may open the database files: closing another descriptor would drop the locks of the process.
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
from webapp.insight import blockers, fleet
from webapp.insight.queues import all_queues
from webapp.jobs import queries, settings
from webapp.lib import clock
from webapp.lib.text import size

# A race between a checkpoint and a writer can corrupt a WAL database: fixed in 3.51.3 and in these older versions.
WAL_FIXED = (3, 51, 3)
WAL_FIXED_IN_LINE: dict[tuple[int, ...], int] = {(3, 50): 7, (3, 44): 6}
OLDEST_SQLITE = (3, 35, 0)  # the first with RETURNING
NETWORK_FILE_SYSTEMS = (
    "nfs",
    "cifs",
    "smb",
    "fuse.sshfs",
    "fuse.s3fs",
    "glusterfs",
    "lustre",
    "afs",
    "ceph",
    "gpfs",
    "ncpfs",
)
HOST_FILE_SYSTEMS = ("9p", "virtiofs", "vboxsf", "prl_fs", "fuse.grpcfuse", "fuse.osxfs")
NOTIFICATION_TIMEOUT_SECONDS = 2.0
MAX_CLOCK_DIFFERENCE_SECONDS = 5.0


@dataclass(frozen=True)
class Finding:
    """The result of one check: `ok`, `warn` or `fail`, what was found, and what to do."""

    check: str
    result: str
    detail: str
    advice: str = ""


def examine() -> list[Finding]:
    """Run all checks. Never raises: a check that fails to run is a finding, too."""
    version = ".".join(map(str, sys.version_info[:3]))
    findings = [Finding("Python", "ok", f"{version}, {sys.executable}")]
    findings += _guarded("time zones", time_zones)
    try:
        loaded = config.load()
        app = create_core(loaded)
    except ConfigError as error:
        return [*findings, Finding("database", "fail", str(error))]
    folder = loaded.sqlite_path.parent if loaded.is_sqlite else loaded.home
    checks: dict[str, Callable[[], Iterator[Finding]]] = {"home folder": lambda: home(loaded)}
    if loaded.is_sqlite:
        checks["SQLite"] = lambda: sqlite_library(db.sqlite.sqlite_version)
        checks["database"] = lambda: sqlite_database(loaded)
        checks["file system"] = lambda: file_system(folder)
    else:
        checks.update({"database": postgresql_database, "notifications": notifications})
    checks["disk space"] = lambda: disk_space(folder)
    checks.update({"clock": wall_clock, "address": address, "workers": workers, "people": administrators})
    with app.app_context():
        for name, check in checks.items():
            findings += _guarded(name, check)
        for engine in db.db.engines.values():
            engine.dispose()
    return findings


def _guarded(check: str, run: Callable[[], Iterator[Finding]]) -> list[Finding]:
    try:
        return list(run())
    except (OSError, SQLAlchemyError) as error:
        return [_failed_check(check, error)]


def _failed_check(check: str, error: Exception) -> Finding:
    return Finding(check, "fail", f"the check failed: {str(error).splitlines()[0]}.")


def time_zones() -> Iterator[Finding]:
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        ZoneInfo("Europe/Berlin")
    except ZoneInfoNotFoundError:
        advice = "Install the system package tzdata, or remove .venv and start again."
        yield Finding("time zones", "fail", "time zone data are missing.", advice)
    else:
        yield Finding("time zones", "ok", "installed")


def home(loaded: Config) -> Iterator[Finding]:
    mode = stat.S_IMODE(loaded.home.stat().st_mode)
    if os.name == "posix" and mode & 0o077:
        advice = f"Other users can read it. Run: chmod 700 {loaded.home}"
        yield Finding("home folder", "warn", f"{loaded.home} has mode {mode:04o}.", advice)
    else:
        yield Finding("home folder", "ok", str(loaded.home))


def sqlite_library(version: str) -> Iterator[Finding]:
    numbers = tuple(int(part) for part in version.split("."))
    found = f"SQLite {version} ({db.sqlite.__name__.split('.')[0]})"
    advice = "Use a Python whose sqlite3 has 3.51.3 or newer, or install the package pysqlite3 into .venv."
    if numbers < OLDEST_SQLITE:
        yield Finding("SQLite", "fail", f"{found} is too old; 3.35 or newer is required.", advice)
    elif is_affected(numbers):
        detail = f"{found} can in rare cases damage a database with several writing processes (fixed in 3.51.3)."
        yield Finding("SQLite", "warn", detail, advice)
    else:
        yield Finding("SQLite", "ok", found)


def is_affected(version: tuple[int, ...]) -> bool:
    """Whether this SQLite has the race between a checkpoint and a writer."""
    fixed_at = WAL_FIXED_IN_LINE.get(version[:2])
    return version < WAL_FIXED and (fixed_at is None or version[2] < fixed_at)


def sqlite_database(loaded: Config) -> Iterator[Finding]:
    path = loaded.sqlite_path
    with db.read_engine().connect() as connection:
        # An older connection to a new file notices the database only after a read.
        connection.exec_driver_sql("SELECT id FROM control")
        journal = connection.exec_driver_sql("PRAGMA journal_mode").scalar()
    used = size(path.stat().st_size)
    if journal != "wal":
        advice = "Stop all its processes, then run: manage.py db upgrade. Some file systems do not support WAL."
        yield Finding("database", "fail", f"{path} is in journal mode {journal}, not WAL.", advice)
        return
    open_files = [
        one
        for one in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm")))
        if os.name == "posix" and one.exists() and stat.S_IMODE(one.stat().st_mode) & 0o077
    ]
    if open_files:
        names = " ".join(map(str, open_files))
        yield Finding("database", "warn", "other users can read the jobs and their output.", f"Run: chmod 600 {names}")
    else:
        yield Finding("database", "ok", f"{path}, {used}, WAL")


def postgresql_database() -> Iterator[Finding]:
    with db.read_engine().connect() as connection:
        version = connection.exec_driver_sql("SHOW server_version").scalar()
        is_standby = connection.exec_driver_sql("SELECT pg_is_in_recovery()").scalar()
        reached = connection.connection.driver_connection.info  # type: ignore[union-attr]
    detail = f"PostgreSQL {version} at {reached.host}:{reached.port}"
    if is_standby:
        advice = "Use the primary, or list all servers: postgresql://user@host1:5432,host2:5432/database"
        yield Finding("database", "fail", f"{detail} is a read-only standby.", advice)
    else:
        yield Finding("database", "ok", detail)


def address() -> Iterator[Finding]:
    """A finding only if the queue was moved to another database."""
    with db.read_engine().connect() as connection:
        message = relocated.note(connection)
    if message is not None:
        yield Finding("address", "fail", f"{message}.")


def file_system(folder: Path) -> Iterator[Finding]:
    kind = file_system_of(folder)
    if kind.startswith(NETWORK_FILE_SYSTEMS):
        advice = "Move it to a local disk with QUEUECTL_HOME. For several machines use PostgreSQL."
        detail = f"{folder} is on a network file system ({kind}), which can damage the database."
        yield Finding("file system", "fail", detail, advice)
    elif kind in HOST_FILE_SYSTEMS:
        advice = "Move it to a disk of this machine with QUEUECTL_HOME."
        yield Finding("file system", "warn", f"{folder} is shared with the host ({kind}); locks may not hold.", advice)
    elif kind in ("tmpfs", "ramfs"):
        yield Finding("file system", "warn", f"{folder} is in memory ({kind}); a restart of the machine deletes it.")
    else:
        yield Finding("file system", "ok", kind or "unknown type")


def file_system_of(folder: Path) -> str:
    """The type of the folder's file system; empty if unknown."""
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
        yield Finding("disk space", "fail", f"{detail}; soon no job can be stored.", "Free up disk space.")
    elif free < LITTLE_SPACE:
        advice = "Free up disk space, or shorten the retention: manage.py config list"
        yield Finding("disk space", "warn", f"{detail}.", advice)
    else:
        yield Finding("disk space", "ok", detail)


def notifications() -> Iterator[Finding]:
    engine = db.db.engines["worker"]
    try:
        arrive = postgresql.brings_notifications(engine, NOTIFICATION_TIMEOUT_SECONDS)
    except engine.dialect.loaded_dbapi.Error as error:  # such as on a standby, which does not allow LISTEN
        yield _failed_check("notifications", error)
        return
    if arrive:
        yield Finding("notifications", "ok", "idle workers notice new jobs at once")
        return
    detail = "they do not arrive. A connection pooler in transaction mode (PgBouncer) does not pass them on."
    advice = "Workers look for jobs twice a second instead. For instant notifications, connect to the server directly."
    yield Finding("notifications", "warn", detail, advice)


def wall_clock() -> Iterator[Finding]:
    """Due times follow the queue's clock. On SQLite this is the machine's clock; jobs are late if it was set back."""
    mine = time.time_ns() // 1000
    with db.reading() as session:
        newest = clock.now() if not db.is_sqlite() else session.scalar(select(func.max(Worker.seen_at))) or 0
    apart = newest - mine if db.is_sqlite() else abs(newest - mine)
    if apart <= clock.seconds(MAX_CLOCK_DIFFERENCE_SECONDS):
        yield Finding("clock", "ok", clock.to_iso(clock.now()) or "")
    elif db.is_sqlite():
        detail = f"this machine's clock was set back by {apart / clock.SECOND:,.0f} s."
        yield Finding("clock", "warn", detail, "Set it, and use NTP. Due times follow this clock.")
    else:
        detail = f"this machine's clock differs by {apart / clock.SECOND:,.0f} s from the database server's."
        advice = "Due times follow the server's clock, but commands use this one. Set it, and use NTP."
        yield Finding("clock", "warn", detail, advice)


def workers() -> Iterator[Finding]:
    with db.reading() as session:
        lease = settings.load(session).lease
        views = fleet.workers(session, lease)
        oldest = queries.oldest_pending(session)
        stranded = blockers.stranded(all_queues(session), [view for view in views if view.alive])
    silent = [view for view in views if not view.alive]
    running = f"{len(views) - len(silent)} running"
    if silent:
        names = ", ".join(f"{view.worker.id} (pid {view.worker.pid} on {view.worker.host})" for view in silent)
        advice = "They will be marked lost. Check their processes."
        yield Finding("workers", "warn", f"{running}; no heartbeat for {lease:.0f} s from {names}.", advice)
    elif not views and oldest is not None:
        waited = (clock.now() - oldest) / clock.SECOND
        detail = f"no worker is running, and a job has waited for {waited:,.0f} s."
        yield Finding("workers", "warn", detail, "Start workers: manage.py worker start --count 2")
    elif stranded:
        number = queries.total(one.number for one, _ in stranded)
        some = ", ".join(sorted({label for one, _ in stranded for label in labels.split(one.label_set.requires)})[:8])
        jobs = "job requires" if number.number == 1 else "jobs require"
        detail = f"{running}, but none has the labels that {number} {jobs}: {some}."
        advice = (
            "Start a matching worker: manage.py worker start --label NAME. For a host label, start it on that host."
        )
        yield Finding("workers", "warn", detail, advice)
    else:
        yield Finding("workers", "ok", running if views else "none running, no jobs waiting")


def administrators() -> Iterator[Finding]:
    with db.reading() as session:
        needs_setup = users.needs_setup(session)
    if needs_setup:
        advice = "Run manage.py up and open the printed link, or: manage.py user add NAME --role admin"
        yield Finding("people", "warn", "no admin account exists yet.", advice)
    else:
        yield Finding("people", "ok", "an admin account exists")
