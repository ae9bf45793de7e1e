"""A thread of the maintenance process that decides fires of schedules on time, however busy that process is."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Optional

from webapp.core.storage import schema
from webapp.core.storage.database import Database
from webapp.core.storage.relocated import Relocated
from webapp.core.storage.transaction import Connection
from webapp.lib import clock
from worker.maintenance.dead_workers import line_of

if TYPE_CHECKING:
    from webapp.schedules.decider import Decider
    from webapp.schedules.health import Health

    _Parts = tuple[Decider, Health]

log = logging.getLogger("queuectl.schedules")

LONGEST_REST = 15.0  # seconds between two looks, if a signal tells about new schedules; else TICK
TICK = 3.0
CHECK_WAITING = 1.0  # seconds between two looks at jobs that a fire waits for
FAILURE_PAUSE = 3.0  # seconds after an error of the database
REFRESH_EVERY = 3600.0  # seconds
HEALTH_EVERY = 30.0  # seconds
SHORTEST_REST = 0.005  # seconds: other writers get the lock in between
LOCKED_REST = 0.05  # seconds, if a fire is due that another process is deciding


class Scheduler:
    """The thread. `has_signal`: the owner calls `wake` when jobs or schedules were stored."""

    def __init__(self, database: Database, *, has_signal: bool) -> None:
        self._connection = Connection(database)
        self._parts: Optional[_Parts] = None
        self._longest_rest = LONGEST_REST if has_signal else TICK
        self._woken = threading.Event()
        self._ends = False
        self._refresh_at = self._health_at = 0.0
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Look again: a schedule may have changed."""
        self._woken.set()

    def stop(self) -> None:
        """Finish the current transaction, and end."""
        self._ends = True
        self._woken.set()
        self._thread.join(FAILURE_PAUSE)

    def _run(self) -> None:
        while not self._ends:
            self._woken.clear()
            self._woken.wait(self._decide())
        self._connection.close()

    def _decide(self) -> float:
        """Decide what is due. Returns the seconds until the next look."""
        connection = self._connection
        try:
            connection.follow_clock()
            if not self._has_schedules():
                return self._longest_rest
            return self._decide_with(self._load())
        except Relocated:
            return self._longest_rest  # the main thread of this process reports it
        except connection.errors as error:
            log.warning("schedules: the database cannot be used: %s", line_of(error))
            connection.close()
            return FAILURE_PAUSE
        except Exception:  # without this thread, no schedule would ever fire again
            log.exception("schedules: internal error")
            connection.close()
            return FAILURE_PAUSE

    def _has_schedules(self) -> bool:
        """Whether this version has anything to decide. The maintenance process of a newer version decides for it."""
        at_head = self._connection.scalar(schema.REVISION) == schema.HEAD
        return at_head and self._connection.scalar("SELECT 1 FROM schedules LIMIT 1") is not None

    def _load(self) -> _Parts:
        """Import what only queues with schedules need."""
        if self._parts is None:
            from webapp.schedules.decider import Decider
            from webapp.schedules.health import Health

            self._parts = Decider(self._connection), Health(self._connection)
        return self._parts

    def _decide_with(self, parts: _Parts) -> float:
        decider, health = parts
        now = time.monotonic()
        if now >= self._refresh_at:
            decider.refresh(decider.decide)  # fires do not wait for housekeeping
            self._refresh_at = now + REFRESH_EVERY
        if decider.decide():
            return SHORTEST_REST
        if now >= self._health_at:
            health.check(decider.decide)
            self._health_at = now + HEALTH_EVERY
        following, waits = decider.until_next()
        return _rest(following, CHECK_WAITING if waits else self._longest_rest)


def _rest(following: Optional[int], longest: float) -> float:
    if following is None:
        return longest
    left = (following - clock.now()) / clock.SECOND
    return min(max(left, SHORTEST_REST) if left > 0 else LOCKED_REST, longest)
