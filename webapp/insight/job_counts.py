"""How many jobs each queue has in each state, counted in the background.

The count is exact, but reads all jobs: about a second for a million. So a thread counts, and requests take the last
result. The thread rests fifty times as long as it counted, so it takes at most 2 % of a processor. It also folds
attempts into the roll-ups (`rollups.py`), whose own round may be ten minutes away.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Optional, cast

from flask import Flask, current_app
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from webapp.core.notices import SYSTEM_QUEUE
from webapp.core.states import STATES
from webapp.core.storage.locks import Busy
from webapp.db.engines import reading
from webapp.insight import rollups
from webapp.lib import clock

log = logging.getLogger(__name__)

MOST_QUEUES = 100
OTHERS = "_other"  # the sum of all other queues; no queue can have this name
REST_FACTOR = 50  # the pause after a count, as a multiple of the time that it took
FIRST_WAIT = 5.0  # seconds that a request waits for the first count
WAIT = 0.005  # seconds that it waits for a later one; a small queue is counted by then
LOCK_TIMEOUT = 1.0  # seconds that folding waits for the write lock
_KEY = "queuectl_job_counts"

_COUNT = text(f"SELECT queue, state, count(*) FROM jobs WHERE queue <> '{SYSTEM_QUEUE}' GROUP BY queue, state")  # noqa: S608


@dataclass(frozen=True)
class JobCounts:
    """Jobs by queue and state, with every state for each queue. `at`: when they were counted (microseconds)."""

    at: int
    queues: Mapping[str, Mapping[str, int]]


class JobCounter:
    """Counts in threads, one at a time."""

    def __init__(self, app: Flask) -> None:
        self._app = app
        self._lock = threading.Lock()
        self._thread: Optional[threading.Thread] = None
        self._has_counted = threading.Event()  # the current thread
        self._counts: Optional[JobCounts] = None
        self._due_at = 0.0

    def current(self) -> Optional[JobCounts]:
        """The last count; None if there is none yet. Starts the next one if it is due."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._has_counted.clear()
                self._thread = threading.Thread(target=self._run, name="job counts", daemon=True)
                self._thread.start()
        self._has_counted.wait(FIRST_WAIT if self._counts is None else WAIT)
        return self._counts

    def join(self) -> None:
        """Wait for the end of the current thread."""
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        with self._app.app_context():
            try:
                self._count_if_due()
            except (DBAPIError, OSError) as error:
                log.warning("metrics: jobs cannot be counted: %s", str(error).partition("\n")[0])
            finally:
                self._has_counted.set()
            fold()

    def _count_if_due(self) -> None:
        began = time.monotonic()
        if began >= self._due_at:
            self._counts = count()
            self._due_at = time.monotonic() + REST_FACTOR * (time.monotonic() - began)


def count() -> JobCounts:
    """Count all jobs. Raises DBAPIError."""
    with reading() as session:
        at = clock.now()
        rows = session.execute(_COUNT).tuples().all()
    queues: dict[str, dict[str, int]] = {}
    for queue, state, number in rows:
        queues.setdefault(queue, dict.fromkeys(STATES, 0))[state] = number
    return JobCounts(at, _largest(queues))


def fold() -> None:
    """Fold attempts, if the database takes writes now."""
    try:
        rollups.fold(patience=LOCK_TIMEOUT)
    except (Busy, DBAPIError, OSError) as error:
        log.debug("metrics: attempts cannot be folded now: %s", error)


def of_app() -> JobCounter:
    """The counter of the current application."""
    extensions = current_app.extensions
    if _KEY not in extensions:
        extensions.setdefault(_KEY, JobCounter(current_app._get_current_object()))  # type: ignore[attr-defined]
    return cast(JobCounter, extensions[_KEY])


def _largest(queues: Mapping[str, Mapping[str, int]]) -> dict[str, Mapping[str, int]]:
    """The queues with the most jobs that are left to do, then with the most jobs; the sum of the others as OTHERS."""

    def rank(name: str) -> tuple[int, int, str]:
        states = queues[name]
        done = states["completed"] + states["cancelled"]
        return done - sum(states.values()), -done, name

    names = sorted(queues, key=rank)
    found = {name: queues[name] for name in names[:MOST_QUEUES]}
    if len(names) > MOST_QUEUES:
        found[OTHERS] = {state: sum(queues[name][state] for name in names[MOST_QUEUES:]) for state in STATES}
    return found
