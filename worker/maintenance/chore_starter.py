"""Starts the chores process (`chores.py`) when something is due, and ends it with the maintenance process.

The checks here are cheap. The chores use SQLAlchemy, which takes 40 MiB, so their process ends when nothing is left.
"""

from __future__ import annotations

import logging
import subprocess
import time
from typing import Optional

from webapp.core.database import Database
from webapp.core.settings import Settings
from webapp.core.transaction import Connection
from webapp.lib import clock
from worker import program

log = logging.getLogger("queuectl.maintenance")

CHECK_EVERY = 20.0  # seconds between checks for attempts to fold
FOLD_MIN = 500  # attempts that start a process at once; fewer wait for FOLD_AFTER
FOLD_AFTER = 600.0  # seconds
RETENTION_EVERY = 3600.0  # seconds between rounds of retention; a changed setting starts one at once
FIRST_RETENTION = 300.0  # seconds after the start
STOP_TIMEOUT = 5.0  # seconds that the process has to end

_ACTIONS = "SELECT 1 FROM acts WHERE state = 'running' AND lease_until < :now LIMIT 1"
_CANARIES = """
SELECT 1 FROM acts LEFT JOIN jobs ON jobs.seq = acts.canary_seq
WHERE acts.state = 'waiting'
  AND (jobs.seq IS NULL OR jobs.state IN ('completed', 'dead', 'cancelled') OR jobs.act_id <> acts.id
       OR jobs.act_id IS NULL)
LIMIT 1
"""
_UNFOLDED = """
SELECT folded_until > :now,
       (SELECT count(*) FROM (SELECT 1 FROM attempts WHERE finished_at >= folded_until LIMIT :most) AS counted)
FROM control
"""
_KEEP = ("keep_completed", "keep_cancelled", "keep_dead", "keep_audit")


class ChoreStarter:
    """Has at most one chores process."""

    def __init__(self, database: Database) -> None:
        self._config = database.config
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._check_at = self._fold_at = 0.0
        self._retain_at = time.monotonic() + FIRST_RETENTION
        self._kept: Optional[list[int]] = None  # the settings of retention when it ran

    def start_if_due(self, connection: Connection, values: Settings) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        if self._process is not None and self._process.returncode:
            log.warning("the chores process ended with exit code %d", self._process.returncode)
        self._process = None
        retains = self._retention_is_due(values)
        if retains or self._has_work(connection):
            task = {"role": "chores", "name": "chores", "retains": retains}
            self._process = program.start(self._config, task)

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

    def _has_work(self, connection: Connection) -> bool:
        now, moment = clock.now(), time.monotonic()
        if connection.scalar(_ACTIONS, {"now": now}) is not None or connection.scalar(_CANARIES) is not None:
            return True
        if moment < self._check_at:
            return False
        self._check_at = moment + CHECK_EVERY
        ((is_ahead, unfolded),) = connection.query(_UNFOLDED, {"now": now, "most": FOLD_MIN})
        if is_ahead or unfolded >= FOLD_MIN or (unfolded and moment >= self._fold_at):
            self._fold_at = moment + FOLD_AFTER
            return True
        return False

    def _retention_is_due(self, values: Settings) -> bool:
        kept = [getattr(values, key) for key in _KEEP]
        changed = self._kept is not None and kept != self._kept
        if not changed and time.monotonic() < self._retain_at:
            return False
        self._kept, self._retain_at = kept, time.monotonic() + RETENTION_EVERY
        return True
