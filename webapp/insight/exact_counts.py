"""Exact numbers of jobs for pages, counted in the background.

Up to COUNT_CAP jobs a request counts by itself. To count a million takes 40 ms, too long for a page. So a thread
counts, and requests show its last result. The thread rests REST_FACTOR times as long as it counted: of a million jobs
the number is at most a second or two old.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, replace
from typing import Optional, cast

from flask import Flask, current_app
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from webapp.core.states import STATES
from webapp.db.engines import reading
from webapp.jobs import queries
from webapp.jobs.filters import JobFilter
from webapp.jobs.queries import Count

log = logging.getLogger(__name__)

REST_FACTOR = 20  # the pause after a round, as a multiple of its time
FIRST_WAIT = 0.2  # seconds that a request waits for a number that was never counted
WAIT = 0.005  # seconds that it waits for a new one; ten thousand jobs are counted by then
FORGET_AFTER = 60.0  # seconds without a request for a number
_KEY = "queuectl_exact_counts"


@dataclass
class _Entry:
    asked_at: float
    number: Optional[int] = None
    counted_at: float = 0.0


class ExactCounts:
    """Counts in threads, one at a time."""

    def __init__(self, app: Flask) -> None:
        self._app = app
        self._changed = threading.Condition()
        self._entries: dict[JobFilter, _Entry] = {}
        self._counts = False  # whether a thread runs
        self._due_at = 0.0

    def knows(self, wanted: JobFilter) -> bool:
        return wanted in self._entries

    def last(self, wanted: JobFilter) -> Optional[int]:
        """The last number of jobs that match; None: not counted yet. Starts the next round if it is due."""
        now = time.monotonic()
        with self._changed:
            entry = self._entries.setdefault(wanted, _Entry(now))
            entry.asked_at = now
            is_new = entry.number is None
            starts = not self._counts and (is_new or now >= self._due_at)
            if starts:
                self._counts = True
                threading.Thread(target=self._run, name="exact counts", daemon=True).start()
            if is_new or starts:
                self._changed.wait_for(lambda: entry.counted_at >= now, FIRST_WAIT if is_new else WAIT)
            return entry.number

    def _run(self) -> None:
        began = time.monotonic()
        try:
            with self._app.app_context():
                while (wanted := self._next(began)) is not None:
                    with reading() as session:
                        number = queries.count_exactly(session, wanted)
                    with self._changed:
                        self._entries[wanted].number, self._entries[wanted].counted_at = number, time.monotonic()
                        self._changed.notify_all()
        except (DBAPIError, OSError) as error:
            log.warning("jobs cannot be counted: %s", str(error).partition("\n")[0])
        finally:
            with self._changed:
                self._counts, self._due_at = False, time.monotonic() + REST_FACTOR * (time.monotonic() - began)

    def _next(self, began: float) -> Optional[JobFilter]:
        """What this round has not counted yet. Forgets what no request wants any more."""
        with self._changed:
            entries = self._entries = {
                wanted: entry for wanted, entry in self._entries.items() if began - entry.asked_at <= FORGET_AFTER
            }
            return next((wanted for wanted, entry in entries.items() if entry.counted_at < began), None)


def of(session: Session, wanted: JobFilter) -> Count:
    """How many jobs match a filter that an index answers; capped only before they were counted once."""
    return _large(wanted) or _with_exact(wanted, queries.count_indexed(session, wanted))


def of_states(session: Session) -> dict[str, Count]:
    """How many jobs are in each state, in the order of a job's life."""
    counts = {state: _large(JobFilter(state=state)) for state in STATES}
    others = queries.count_states(session, tuple(state for state, large in counts.items() if large is None))
    return {state: large or _with_exact(JobFilter(state=state), others[state]) for state, large in counts.items()}


def _large(wanted: JobFilter) -> Optional[Count]:
    """The last number if it is above the cap: then the request counts nothing."""
    counts = _of_app()
    number = counts.last(wanted) if counts.knows(wanted) else None
    return None if number is None or number <= queries.COUNT_CAP else Count(number)


def _with_exact(wanted: JobFilter, counted: Count) -> Count:
    number = _of_app().last(wanted) if counted.capped else None
    return counted if number is None else Count(number)


def of_lists(session: Session, wanted: JobFilter) -> dict[str, Optional[Count]]:
    """The numbers of this list and of the lists of each state, '' for all; None where the search has to scan rows:
    one scan for each would be too slow."""
    if replace(wanted, state=None) == JobFilter():
        counts = of_states(session)
        return {"": queries.total(counts.values()), **counts}
    lists = {state: replace(wanted, state=state or None) for state in ("", *STATES)}
    return {state: None if one.scans else of(session, one) for state, one in lists.items()}


def _of_app() -> ExactCounts:
    extensions = current_app.extensions
    if _KEY not in extensions:
        extensions.setdefault(_KEY, ExactCounts(current_app._get_current_object()))  # type: ignore[attr-defined]
    return cast(ExactCounts, extensions[_KEY])
