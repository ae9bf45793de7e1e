"""How long a command usually runs: median and p95 of its last completed runs, for the bar of a running job.

The read is bounded, and its answer is kept for a minute, because the page of a running job refreshes every second.
"""

from __future__ import annotations

import time
from typing import NamedTuple, Optional

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from webapp.db.models import Job
from webapp.jobs.lifecycle import in_state
from webapp.lib import clock
from webapp.lib.command_patterns import COMMAND_PREFIX, command_shape

SAMPLE_SIZE = 2_000  # newest completed jobs that are searched for runs of the command
MIN_RUNS = 3
KEPT_SECONDS = 60.0
MOST_KEPT = 500  # commands


class Usual(NamedTuple):
    """Run times in seconds, and the number of runs."""

    median: float
    p95: float
    runs: int


_kept: dict[str, tuple[float, Optional[Usual]]] = {}


def usual(session: Session, command: str) -> Optional[Usual]:
    """The run times of commands with the same pattern; None if there are fewer than MIN_RUNS."""
    shape, now = command_shape(command[:COMMAND_PREFIX]), time.monotonic()
    at, known = _kept.get(shape, (-KEPT_SECONDS, None))
    if now - at < KEPT_SECONDS:
        return known
    if len(_kept) >= MOST_KEPT:
        _kept.clear()
    found = _read(session, command, shape)
    _kept[shape] = (now, found)
    return found


def _read(session: Session, command: str, shape: str) -> Optional[Usual]:
    newest = (
        select(func.substr(Job.command, 1, COMMAND_PREFIX).label("command"), Job.started_at, Job.finished_at)
        .where(in_state("completed"))
        .order_by(Job.finished_at.desc(), Job.seq.desc())
        .limit(SAMPLE_SIZE)
        .subquery()
    )
    # The database cannot make patterns, so only commands that begin alike are read.
    begin = command[:COMMAND_PREFIX].split(None, 1)[0] if command.strip() else ""
    rows = session.execute(select(newest).where(newest.c.command.startswith(begin, autoescape=True)))
    times = sorted(
        row.finished_at - row.started_at
        for row in rows
        if row.started_at is not None and command_shape(row.command) == shape
    )
    if len(times) < MIN_RUNS:
        return None
    middle, last = times[len(times) // 2], times[min(len(times) * 95 // 100, len(times) - 1)]
    return Usual(middle / clock.SECOND, last / clock.SECOND, len(times))
