"""Starts the chores process (`chores.py`) when something is due, and ends it with the maintenance process.

The checks here are cheap. The chores use SQLAlchemy, which takes 40 MiB, so their process ends when nothing is left.
"""

from __future__ import annotations

import logging
import subprocess
import time
from typing import Any, Optional

from webapp.core.settings import PER_QUEUE, Settings
from webapp.core.states import TERMINAL
from webapp.core.storage.database import Database
from webapp.core.storage.size import FREED, MIB, used_bytes
from webapp.core.storage.transaction import Connection
from webapp.lib import clock
from webapp.lib.error_key import IS_OLD
from worker import program
from worker.messages import DONE

log = logging.getLogger("queuectl.maintenance")

CHECK_EVERY = 20.0  # seconds between checks for attempts to fold
FOLD_MIN = 500  # attempts that start a process at once; fewer wait for FOLD_AFTER
FOLD_AFTER = 600.0  # seconds
RETENTION_EVERY = 3600.0  # seconds between rounds of retention; a changed setting starts one at once
FIRST_RETENTION = 300.0  # seconds after the start; at once if jobs are overdue, as where workers only run to drain
SIZE_EVERY = 300.0  # seconds between rounds for a database that is too large
STOP_TIMEOUT = 5.0  # seconds that the process has to end
FAILURE_PAUSE = 60.0  # seconds until the next start after a process that failed
# As in insight/rollups.py, which needs SQLAlchemy; a test compares them. Later attempts cannot be folded yet, older
# ones never.
FOLD_DELAY, KEEP_ROLLUPS = 60 * clock.SECOND, 8 * clock.DAY

_ACTIONS = "SELECT 1 FROM acts WHERE state = 'running' AND lease_until < :now LIMIT 1"
# A canary job is gone, ended badly or was moved by another action; or all have completed.
_CANARIES = """
SELECT 1 FROM acts WHERE state = 'waiting' AND (
    canary_count > (SELECT count(*) FROM jobs WHERE act_id = acts.id AND jobs.state NOT IN ('dead', 'cancelled'))
    OR canary_count = (SELECT count(*) FROM jobs WHERE act_id = acts.id AND jobs.state = 'completed'))
LIMIT 1
"""
_UNFOLDED = """
SELECT count(*)
FROM (SELECT 1 FROM attempts WHERE finished_at >= :since AND finished_at < :until LIMIT :most) AS counted
"""
_OVERDUE = """
SELECT 1 FROM jobs WHERE state = :state AND finished_at < :before
  AND finished_at > coalesce((SELECT finished_at FROM retention_marks WHERE name = :mark), -1) LIMIT 1
"""
# Dead letters without a fingerprint, or with one of an earlier version; each by the index of the groups.
WITHOUT_GROUP = f"""
SELECT 1 WHERE EXISTS (SELECT 1 FROM jobs WHERE state = 'dead' AND error_key IS NULL)
            OR EXISTS (SELECT 1 FROM jobs WHERE state = 'dead' AND {IS_OLD})
"""  # noqa: S608
_KEEP = (*PER_QUEUE, "keep_audit", "keep_fires", "keep_deliveries", "max_database_size")


class ChoreStarter:
    """Has at most one chores process."""

    def __init__(self, database: Database) -> None:
        self._config = database.config
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._retains = False  # whether that process does a round of retention
        self._start_at = 0.0  # not before this time
        self._check_at = self._fold_at = self._size_at = 0.0
        self._retain_at = time.monotonic() + FIRST_RETENTION
        self._kept: Optional[list[Any]] = None  # the settings of retention when it ran, or at the start

    def start_if_due(self, connection: Connection, values: Settings) -> None:
        if self._runs() or time.monotonic() < self._start_at:
            return
        self._retains = self._retention_is_due(connection, values)
        if not self._retains and not self._has_work(connection):
            return
        try:
            self._process = program.start(self._config, {"role": "chores", "name": "chores", "retains": self._retains})
        except OSError as error:  # no memory, or the environment was replaced
            self._failed(f"could not be started: {error}")

    def stop(self) -> None:
        """End the process: it finishes its step."""
        if self._process is None:
            return
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _runs(self) -> bool:
        if self._process is None:
            return False
        code = self._process.poll()
        if code is None:
            return True
        self._process = None
        if code != DONE:
            self._failed(f"ended with exit code {code}")
        return False

    def _failed(self, how: str) -> None:
        log.warning("the chores process %s; next try in %g s", how, FAILURE_PAUSE)
        self._start_at = time.monotonic() + FAILURE_PAUSE
        if self._retains:
            self._retain_at = self._start_at

    def _has_work(self, connection: Connection) -> bool:
        now, moment = clock.now(), time.monotonic()
        if connection.scalar(_ACTIONS, {"now": now}) is not None or connection.scalar(_CANARIES) is not None:
            return True
        if moment < self._check_at:
            return False
        self._check_at = moment + CHECK_EVERY
        if connection.scalar(WITHOUT_GROUP) is not None:
            return True
        watermark = connection.scalar("SELECT folded_until FROM control")
        span = {"since": max(watermark, now - KEEP_ROLLUPS), "until": now - FOLD_DELAY}
        unfolded = connection.scalar(_UNFOLDED, {**span, "most": FOLD_MIN})
        # A watermark in the future: the clock was set back.
        if watermark > now or unfolded >= FOLD_MIN or (unfolded and moment >= self._fold_at):
            self._fold_at = moment + FOLD_AFTER
            return True
        return False

    def _retention_is_due(self, connection: Connection, values: Settings) -> bool:
        kept, moment = [*(getattr(values, key) for key in _KEEP), values.own], time.monotonic()
        if self._kept is None:
            self._kept = kept
            if _has_overdue_jobs(connection, values):
                self._retain_at = moment
        if kept == self._kept and moment < self._retain_at and not self._is_too_large(connection, values):
            return False
        self._kept, self._retain_at = kept, moment + RETENTION_EVERY
        return True

    def _is_too_large(self, connection: Connection, values: Settings) -> bool:
        """Whether the database is larger than its limit, and some time has passed since the last round for that."""
        if not values.max_database_size or time.monotonic() < self._size_at:
            return False
        self._size_at = time.monotonic() + CHECK_EVERY
        if used_bytes(connection.scalar, is_sqlite=connection.is_sqlite) <= values.max_database_size * MIB:
            return False
        self._size_at = time.monotonic() + SIZE_EVERY
        return True


def _has_overdue_jobs(connection: Connection, values: Settings) -> bool:
    """Whether jobs are older than the settings keep by more than the time between two rounds."""
    late = clock.now() - clock.seconds(RETENTION_EVERY)
    rules = [(f"keep_{state}", state) for state in TERMINAL] + [("keep_output", state) for state in FREED]
    return any(
        connection.scalar(
            _OVERDUE, {"state": state, "before": late - days * clock.DAY, "mark": f"{key}/{state}/{days}"}
        )
        is not None
        for key, state in rules
        for days in {getattr(values, key), *values.own[key].values()} - {0}
    )
