"""Keeps the database below `max_database_size`: batches for `retention.py`.

Deletes in this order: output of completed jobs, output of cancelled jobs, completed jobs, cancelled jobs; each from the
oldest on, in all queues, even if other settings keep them longer. Dead letters and unfinished jobs stay.
"""

from __future__ import annotations

import logging
from collections import deque
from functools import partial

from sqlalchemy import delete

from webapp.core.settings import Settings
from webapp.core.storage.size import FREED, MIB
from webapp.db.engines import reading, writing
from webapp.db.models import RetentionMark
from webapp.insight import size_limit
from webapp.insight.size_limit import STUCK
from webapp.lib import clock
from worker.maintenance.ended_jobs import Walk

log = logging.getLogger("queuectl.retention")

ENOUGH = 0.95  # of the limit: it deletes until the size is below this
JOB_SIZE = 1000  # bytes of a job without output, about
_ALL = 2**62  # a time after all ends


class SizeLimit:
    """One round. When it has deleted the excess, it measures the size again."""

    def __init__(self, values: Settings, lock_timeout: float) -> None:
        self._values = values
        self._limit = values.max_database_size * MIB
        self._lock_timeout = lock_timeout
        self._has_begun = False
        self._to_free = 0  # bytes to delete before the next measurement
        walk = partial(Walk, before=_ALL, lock_timeout=lock_timeout, frees_keys=True)
        self._output = deque(walk(state, mark=f"size/{state}") for state in FREED)
        self._jobs = deque(walk(state, breaks_batches=True) for state in FREED)

    def step(self) -> bool:
        """Delete a batch if the database is too large. Returns whether to go on."""
        if self._to_free <= 0 and not self._measure():
            return False
        if self._output:
            freed, more = self._output[0].delete_output(self._to_free)
            self._to_free -= freed
            if not more:
                self._output.popleft()
        elif self._jobs:
            _, more = self._jobs[0].delete_jobs(self._to_free // JOB_SIZE + 1)
            self._to_free = 0
            if not more:
                self._jobs.popleft()
        else:
            self._report()
            return False
        return True

    def _measure(self) -> bool:
        """Whether the database is too large."""
        if not self._limit:
            return False
        with reading() as session:
            used, is_stuck = size_limit.used(session), session.get(RetentionMark, STUCK) is not None
        wanted = self._limit * (ENOUGH if self._has_begun else 1)
        self._to_free = used - int(self._limit * ENOUGH) if used > wanted else 0
        if self._to_free and not self._has_begun:
            log.info("the database holds %d MiB, more than max_database_size (%d MiB)", used // MIB, self._limit // MIB)
        self._has_begun = True
        if is_stuck and self._to_free <= 0:
            with writing(self._lock_timeout, wakes_workers=False) as session:
                session.execute(delete(RetentionMark).where(RetentionMark.name == STUCK))
        return self._to_free > 0

    def _report(self) -> None:
        with writing(self._lock_timeout, wakes_workers=False) as session:
            session.merge(RetentionMark(name=STUCK, finished_at=clock.now()))
        with reading() as session:
            found = size_limit.overrun(session, self._values)
        if found is not None:
            log.warning("%s, and nothing more can be deleted: %s", found, found.rest)
