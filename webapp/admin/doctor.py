"""Checks of the machine and the installation, with advice. Reads only.

Only the SQLite library may open the database files: closing another descriptor would drop the locks of the process.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Optional

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from webapp import config
from webapp.accounts import users
from webapp.admin.limits import unmet_limits
from webapp.config import Config, ConfigError
from webapp.core import labels
from webapp.core.storage import postgresql, sqlite
from webapp.core.storage.db_errors import LITTLE_SPACE, NO_SPACE
from webapp.core.storage.size import MIB
from webapp.db import engines as db
from webapp.db.application import create_core
from webapp.db.models import Worker
from webapp.insight import blockers, fleet
from webapp.insight import size_limit as limits
from webapp.jobs import queries, settings
from webapp.jobs.flow import chains
from webapp.lib import clock
from webapp.lib.durations import duration
from webapp.lib.text import one_line, plural, size
from webapp.lib.urls import masked
from webapp.notifications import views as notifications
from webapp.notifications.views import ChannelView
from webapp.schedules import views as schedules
from worker import shortage
from worker.maintenance import outgoing_heartbeat

# A race between a checkpoint and a writer can corrupt a WAL database: fixed in 3.51.3 and in these older versions.
SHOWN_SCHEDULES = SHOWN_JOBS = 10
WAL_FIXED = (3, 51, 3)
WAL_FIXED_IN_LINE: dict[tuple[int, ...], tuple[int, ...]] = {(3, 50): (3, 50, 7), (3, 44): (3, 44, 6)}
OLDEST_SQLITE = (3, 35, 0)  # the first with RETURNING
NETWORK_SHARES = ("nfs", "cifs", "smb", "afs", "ncpfs", "fuse.sshfs", "fuse.s3fs")
CLUSTER_FILE_SYSTEMS = ("glusterfs", "lustre", "ceph", "gpfs")
HOST_FILE_SYSTEMS = ("9p", "virtiofs", "vboxsf", "prl_fs", "fuse.grpcfuse", "fuse.osxfs")
NOTIFICATION_TIMEOUT_SECONDS = 2.0
MAX_CLOCK_DIFFERENCE_SECONDS = 5.0

Result = tuple[str, str, str]  # result, detail and advice of a Finding
Check = Callable[[], Optional[Result]]


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
    findings = [
        Finding("Python", "ok", f"{version}, {sys.executable}"),
        *_run({"locale": locale, "time zones": time_zones}),
    ]
    try:
        loaded = config.load()
        app = create_core(loaded)
    except ConfigError as error:
        return [*findings, Finding("database", "fail", str(error))]
    folder = loaded.sqlite_path.parent if loaded.is_sqlite else loaded.home
    checks: dict[str, Check] = {"home folder": lambda: home(loaded)}
    if loaded.is_sqlite:
        checks["SQLite"] = lambda: sqlite_library(sqlite.library.sqlite_version)
        checks["database"] = lambda: sqlite_database(loaded)
        checks["file system"] = lambda: file_system(folder)
    else:
        checks.update({"database": postgresql_database, "wake-up": wakeup})
    checks["disk space"] = lambda: disk_space(folder)
    checks["size limit"] = size_limit
    checks.update({"machine limits": machine_limits, "clock": wall_clock, "address": address, "workers": workers})
    checks.update({"schedules": late_schedules, "limits": unmet_limits, "blocked jobs": orphaned_followers})
    checks.update({"channels": lambda: channels(loaded), "messages": unsent_messages})
    checks["heartbeat"] = lambda: heartbeat(loaded)
    checks["people"] = administrators
    with app.app_context():
        findings += _run(checks)
        db.disconnect()
    return findings


def _run(checks: Mapping[str, Check]) -> list[Finding]:
    findings = []
    for name, check in checks.items():
        try:
            result = check()
        except (OSError, SQLAlchemyError) as error:
            result = _failed_check(error)
        if result is not None:
            findings.append(Finding(name, *result))
    return findings


def _failed_check(error: Exception) -> Result:
    return "fail", f"the check failed: {str(error).splitlines()[0]}.", ""


def locale() -> Result:
    """Jobs get UTF-8 under any locale, but their programs follow the locale that they inherit from the service."""
    encoding = sys.getfilesystemencoding()
    named = next((f"{name}={os.environ[name]}" for name in ("LC_ALL", "LC_CTYPE", "LANG") if os.environ.get(name)), "")
    codeset = named.partition(".")[2].partition("@")[0].lower().replace("-", "")
    if encoding == "utf-8" and codeset in {"", "utf8"}:
        return "ok", f"UTF-8 ({named or 'no locale is set'})", ""
    detail = f"the locale is not UTF-8 ({named or 'no locale is set'})."
    return "warn", detail, "Programs in jobs may garble letters such as ü. Start the workers with LC_ALL=C.UTF-8."


def late_schedules() -> Optional[Result]:
    """Schedules that are broken, late, long or failing."""
    with db.reading() as session:
        rows = schedules.needing_attention(session, SHOWN_SCHEDULES)
        number = schedules.count(session)
    if rows:
        found = "; ".join(f"{row.name} is {', '.join(schedules.problems(row, clock.now()))}" for row in rows)
        return "warn", f"{found}.", "See: manage.py schedule list --attention"
    return ("ok", plural(number, "schedule"), "") if number else None


def orphaned_followers() -> Optional[Result]:
    """Blocked jobs that wait for a job that is gone: only a user can run or cancel them."""
    with db.reading() as session:
        found = chains.orphaned(session, SHOWN_JOBS)
    if not found:
        return None
    names = ", ".join(f"{one.id} ({one.parent_id} is gone)" for one in found)
    return "warn", f"blocked jobs wait for discarded jobs: {names}.", "Run them with run-now, or cancel them."


def channels(loaded: Config) -> Optional[Result]:
    """Channels that cannot send, or whose last message failed."""
    with db.reading() as session:
        views = notifications.channels(session)
    found = [f"{view.row.name}: {failure}" for view in views if (failure := _failure_of(view, loaded)) is not None]
    if found:
        advice = "Fix it, then test it: manage.py channel test NAME. See docs/notifications.md"
        return "warn", "; ".join(found), advice
    return ("ok", plural(len(views), "channel"), "") if views else None


def _failure_of(view: ChannelView, loaded: Config) -> Optional[str]:
    if view.failure is not None:
        at, tried = view.failure.ended_at, view.failure.state == "waiting"
        ago = duration(round((clock.now() - (at or view.failure.created_at)) / clock.SECOND))
        how = f"a message of {ago} ago is not sent yet" if tried else f"a message failed {ago} ago"
        return f"{how}: {one_line(view.failure.answer or '')}."
    return notifications.obstacle(view, loaded)


def unsent_messages() -> Optional[Result]:
    """A finding only if messages should have been sent by now."""
    with db.reading() as session:
        number = notifications.overdue(session)
    if not number:
        return None
    minutes = notifications.OVERDUE // clock.SECOND // 60
    detail = f"{plural(number, 'message')} should have been sent more than {minutes} min ago."
    return "warn", detail, "Workers send them: manage.py worker start. Their jobs: manage.py list --queue _system"


def heartbeat(loaded: Config) -> Optional[Result]:
    """Whether the last ping of the heartbeat URL worked. A finding only if there is a URL, here or at the workers."""
    last = outgoing_heartbeat.last_ping(loaded)
    age = None if last is None else outgoing_heartbeat.age(last)
    is_recent = age is not None and age <= 3 * outgoing_heartbeat.PING_EVERY
    if loaded.heartbeat_url is None and not is_recent:
        return None
    advice = "It is pinged every minute while workers take jobs. Start them with QUEUECTL_HEARTBEAT_URL."
    if last is None or age is None:
        return "warn", f"{masked(loaded.heartbeat_url or '')} was never pinged.", advice
    when = f"{last.url} {duration(round(age))} ago"
    if last.error is not None:
        return "warn", f"the ping of {when} failed: {last.error}.", "Check the URL and the network."
    return ("ok", f"pinged {when}", "") if is_recent else ("warn", f"last pinged {when}.", advice)


def machine_limits() -> Optional[Result]:
    """Workers that run fewer jobs at a time than they have slots, because of a limit of this or another machine."""
    with db.reading() as session:
        short = [f"worker {one.worker.id} on {one.worker.host} {one.text}" for one in fleet.shortages(session)]
    if short:
        advice = "Raise the limit (ulimit, or LimitNOFILE= and LimitNPROC= in a systemd unit), or start fewer slots."
        return "warn", f"{'; '.join(short)}.", advice
    found = [
        f"{shortage.soft_limit(name) or 'no limit'} {what}"
        for name, what in (("NOFILE", "open files (ulimit -n)"), ("NPROC", "processes of a user (ulimit -u)"))
    ]
    return ("ok", ", ".join(found), "") if os.name == "posix" else None


def time_zones() -> Result:
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        ZoneInfo("Europe/Berlin")
    except ZoneInfoNotFoundError:
        advice = "Install the system package tzdata, or remove .venv and start again."
        return "fail", "time zone data are missing.", advice
    return "ok", "installed", ""


def home(loaded: Config) -> Result:
    mode = stat.S_IMODE(loaded.home.stat().st_mode)
    if os.name == "posix" and mode & 0o077:
        advice = f"Other users can read it. Run: chmod 700 {loaded.home}"
        return "warn", f"{loaded.home} has mode {mode:04o}.", advice
    owner = loaded.home.stat().st_uid
    foreign = [str(one) for one in config.files(loaded) if one.exists() and one.stat().st_uid != owner]
    if foreign:
        detail = "some files do not belong to the owner of the home folder, who may not be able to open them."
        return "fail", detail, f"Run as root: chown --reference={loaded.home} {' '.join(foreign)}"
    return "ok", str(loaded.home), ""


def sqlite_library(version: str) -> Result:
    numbers = tuple(int(part) for part in version.split("."))
    found = f"SQLite {version} ({sqlite.library.__name__.split('.')[0]})"
    advice = "Use a Python whose sqlite3 has 3.51.3 or newer, or install the package pysqlite3 into .venv."
    if numbers < OLDEST_SQLITE:
        return "fail", f"{found} is too old; 3.35 or newer is required.", advice
    if numbers < WAL_FIXED_IN_LINE.get(numbers[:2], WAL_FIXED):
        detail = f"{found} can in rare cases damage a database with several writing processes (fixed in 3.51.3)."
        return "warn", detail, advice
    return "ok", found, ""


def sqlite_database(loaded: Config) -> Result:
    path = loaded.sqlite_path
    with db.read_engine().connect() as connection:
        # An older connection to a new file notices the database only after a read.
        connection.exec_driver_sql("SELECT id FROM control")
        journal = connection.exec_driver_sql("PRAGMA journal_mode").scalar()
    used = size(path.stat().st_size)
    if journal != "wal":
        advice = "Stop all its processes, then run: manage.py db upgrade. Some file systems do not support WAL."
        return "fail", f"{path} is in journal mode {journal}, not WAL.", advice
    open_files = [
        str(one)
        for one in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm")))
        if os.name == "posix" and one.exists() and stat.S_IMODE(one.stat().st_mode) & 0o077
    ]
    if open_files:
        return "warn", "other users can read the jobs and their output.", f"Run: chmod 600 {' '.join(open_files)}"
    return "ok", f"{path}, {used}, WAL", ""


def postgresql_database() -> Result:
    with db.read_engine().connect() as connection:
        version = connection.exec_driver_sql("SHOW server_version").scalar()
        is_standby = connection.exec_driver_sql("SELECT pg_is_in_recovery()").scalar()
        reached = connection.connection.driver_connection.info  # type: ignore[union-attr]
    detail = f"PostgreSQL {version} at {reached.host}:{reached.port}"
    if is_standby:
        advice = "Use the primary, or list all servers: postgresql://user@host1:5432,host2:5432/database"
        return "fail", f"{detail} is a read-only standby.", advice
    return "ok", detail, ""


def address() -> Optional[Result]:
    """A finding only if the queue was moved to another database."""
    with db.read_engine().connect() as connection:
        message = db.moved_note(connection)
    return None if message is None else ("fail", f"{message}.", "")


def file_system(folder: Path) -> Result:
    kind = file_system_of(folder)
    if kind.startswith(NETWORK_SHARES + CLUSTER_FILE_SYSTEMS):
        advice = "Move it to a local disk with QUEUECTL_HOME. For several machines use PostgreSQL."
        return "fail", f"{folder} is on a network file system ({kind}), which can damage the database.", advice
    if kind in HOST_FILE_SYSTEMS:
        advice = "Move it to a disk of this machine with QUEUECTL_HOME."
        return "warn", f"{folder} is shared with the host ({kind}); locks may not hold.", advice
    if kind in ("tmpfs", "ramfs"):
        return "warn", f"{folder} is in memory ({kind}); a restart of the machine deletes it.", ""
    return "ok", kind or "unknown type", ""


def file_system_of(folder: Path) -> str:
    """The type of the folder's file system; empty if unknown."""
    import psutil

    place, best = str(folder.resolve()), ("", "")
    for mount in psutil.disk_partitions(all=True):
        root = mount.mountpoint.rstrip(os.sep)
        if (place == root or place.startswith(root + os.sep)) and len(root) >= len(best[0]):
            best = (root, mount.fstype)
    return best[1]


def disk_space(folder: Path) -> Result:
    free = shutil.disk_usage(folder).free
    detail = f"{size(free)} free"
    if free < NO_SPACE:
        return "fail", f"{detail}; soon no job can be stored.", "Free up disk space."
    if free < LITTLE_SPACE:
        return "warn", f"{detail}.", "Free up disk space, or shorten the retention: manage.py config list"
    return "ok", detail, ""


def size_limit() -> Optional[Result]:
    """A finding only if the database has a limit."""
    with db.reading() as session:
        values = settings.load(session)
        found = limits.overrun(session, values)
        used = limits.used(session) if values.max_database_size and found is None else 0
    if found is None:
        limit = size(values.max_database_size * MIB)
        return ("ok", f"the database holds {size(used)} of {limit}", "") if values.max_database_size else None
    if not found.is_stuck:
        return "warn", f"{found}.", "Retention will delete the oldest within minutes, if workers run."
    advice = "Discard dead letters, shorten keep_audit, or raise max_database_size."
    return "warn", f"{found}, and nothing more can be deleted: {found.rest}.", advice


def wakeup() -> Result:
    database = db.database()
    try:
        arrive = postgresql.brings_notifications(database.config, NOTIFICATION_TIMEOUT_SECONDS)
    except database.driver_error as error:  # such as on a standby, which does not allow LISTEN
        return _failed_check(error)
    if arrive:
        return "ok", "idle workers notice new jobs at once", ""
    detail = "they do not arrive. A connection pooler in transaction mode (PgBouncer) does not pass them on."
    advice = "Workers look for jobs twice a second instead. For instant notifications, connect to the server directly."
    return "warn", detail, advice


def wall_clock() -> Result:
    """Due times follow the queue's clock. On SQLite this is the machine's clock; jobs are late if it was set back."""
    mine = time.time_ns() // 1000
    with db.reading() as session:
        newest = clock.now() if not db.is_sqlite() else session.scalar(select(func.max(Worker.seen_at))) or 0
    apart = newest - mine if db.is_sqlite() else abs(newest - mine)
    if apart <= clock.seconds(MAX_CLOCK_DIFFERENCE_SECONDS):
        return "ok", clock.to_iso(clock.now()) or "", ""
    if db.is_sqlite():
        detail = f"this machine's clock was set back by {apart / clock.SECOND:,.0f} s."
        return "warn", detail, "Set it, and use NTP. Due times follow this clock."
    detail = f"this machine's clock differs by {apart / clock.SECOND:,.0f} s from the database server's."
    return "warn", detail, "Due times follow the server's clock, but commands use this one. Set it, and use NTP."


def workers() -> Result:
    with db.reading() as session:
        lease = settings.load(session).lease
        views = fleet.workers(session, lease)
        oldest = queries.oldest_pending(session)
        stranded = blockers.stranded(session, [view for view in views if view.alive])
    silent = [view for view in views if not view.alive]
    running = f"{len(views) - len(silent)} running"
    if silent:
        names = ", ".join(f"{view.worker.id} (pid {view.worker.pid} on {view.worker.host})" for view in silent)
        advice = "They will be marked lost. Check their processes."
        return "warn", f"{running}; no heartbeat for {lease:.0f} s from {names}.", advice
    if not views and oldest is not None:
        waited = (clock.now() - oldest) / clock.SECOND
        detail = f"no worker is running, and a job has waited for {waited:,.0f} s."
        return "warn", detail, "Start workers: manage.py worker start --count 2"
    if stranded:
        number = queries.total(one.number for one, _ in stranded)
        some = ", ".join(sorted({label for one, _ in stranded for label in labels.split(one.label_set.requires)})[:8])
        jobs = "job requires" if number.number == 1 else "jobs require"
        detail = f"{running}, but none has the labels that {number} {jobs}: {some}."
        advice = (
            "Start a matching worker: manage.py worker start --label NAME. For a host label, start it on that host."
        )
        return "warn", detail, advice
    return "ok", running if views else "none running, no jobs waiting", ""


def administrators() -> Result:
    with db.reading() as session:
        needs_setup = users.needs_setup(session)
    if needs_setup:
        advice = "Run manage.py up and open the printed link, or: manage.py user add NAME --role admin"
        return "warn", "no admin account exists yet.", advice
    return "ok", "an admin account exists", ""
