"""The chores process: bulk actions that a dead process left, canaries, roll-ups and retention.

It ends when nothing was left for a while, and when the maintenance process ends. Several can work on one database.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import time

from flask import Flask
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from webapp.config import Config
from webapp.core.storage import db_errors
from webapp.core.storage.relocated import Relocated
from webapp.db import engines, failure_keys
from webapp.db.engines import reading, writing
from webapp.insight import rollups
from webapp.jobs import actions, canary, settings
from worker.maintenance.chore_starter import WITHOUT_GROUP
from worker.maintenance.dead_workers import line_of
from worker.maintenance.retention import Retention
from worker.messages import BROKEN, DONE, OUTDATED, listen

log = logging.getLogger("queuectl.maintenance")

LOCK_TIMEOUT = 1.0  # seconds that a step waits for the write lock
DEAD_LETTERS = 200  # without a fingerprint, that one transaction gives one
ACTIONS_BUDGET = 1.0  # seconds of each round for bulk actions
SHORT_PAUSE, LONG_PAUSE = 0.01, 3.0  # seconds between two rounds: while anything is left, and else
IDLE_ROUNDS = 5  # rounds without work after which the process ends


def run(app: Flask, config: Config, maintenance: int, *, retains: bool) -> int:
    """Work until nothing is left. `maintenance`: the pipe that closes when the maintenance process ends.

    Returns the exit code: BROKEN if the database could not be used, so something may be left. Raises Relocated.
    """
    gone: queue.Queue[str] = queue.Queue()
    listen(maintenance, gone.put)
    chores, idle, failed = Chores(config, retains=retains), 0, False
    with app.app_context():
        if not engines.database().is_current():
            log.warning("no chores: the database has the schema of another version. Restart the workers")
            return OUTDATED  # this program's files were replaced while its workers run
        while idle < IDLE_ROUNDS:
            is_left = False
            try:
                is_left, failed = chores.do_some(), False
            except Relocated:
                raise
            except (DBAPIError, OSError) as error:
                failed = True
                log.warning("the database cannot be used: %s", line_of(error))
            idle = 0 if is_left else idle + 1
            with contextlib.suppress(queue.Empty):
                gone.get(timeout=SHORT_PAUSE if is_left else LONG_PAUSE)
                return DONE
    return BROKEN if failed else DONE


class Chores:
    """What this process works on. `retains`: whether a round of retention is due."""

    def __init__(self, config: Config, *, retains: bool) -> None:
        self._config = config
        self._actions: list[int] = []  # bulk actions that this process continues
        self._retention = Retention(LOCK_TIMEOUT) if retains else None

    def do_some(self) -> bool:
        """Work for a few seconds at most. Returns whether anything is left. Raises DBAPIError and OSError."""
        with reading() as session:
            values = settings.load(session)
            found = actions.abandoned(session)
            canaries_wait = canary.any_waiting(session)
        found += canary.check_all(LOCK_TIMEOUT) if canaries_wait else []
        until = time.monotonic() + ACTIONS_BUDGET
        for action in dict.fromkeys([*self._actions, *found]):
            done = actions.resume(action, max(0.0, until - time.monotonic()), LOCK_TIMEOUT).done
            self._actions = [one for one in self._actions if one != action] + ([] if done else [action])
        has_unfolded = rollups.fold(patience=LOCK_TIMEOUT) >= rollups.FOLD_BATCH
        has_ungrouped = _group_dead_letters()
        if self._retention is not None and not self._retention.resume(values):
            self._retention = None
            _warn_of_large_log(self._config)
        return bool(self._actions) or has_unfolded or has_ungrouped or self._retention is not None


def _group_dead_letters() -> bool:
    """Give some dead letters without a fingerprint one, and old ones a new one. Returns whether there may be more."""
    with reading() as session:
        if session.execute(text(WITHOUT_GROUP)).first() is None:
            return False
    with writing(LOCK_TIMEOUT, wakes_workers=False) as session:
        return failure_keys.assign(session.connection(), DEAD_LETTERS) > 0


def _warn_of_large_log(config: Config) -> None:
    size = db_errors.large_log(config)
    if size is not None:
        message = "the log of the database has grown to %d MiB: a program keeps a transaction open for a long time"
        log.warning(message, size >> 20)
