"""Waits for the end of jobs, for `wait` and `enqueue --wait`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Optional

from sqlalchemy import select

from webapp.commands.exit_codes import ExitCode, Failure
from webapp.commands.shared.output import say
from webapp.core.states import TERMINAL
from webapp.db.engines import reading
from webapp.db.models import Job

WAIT_SECONDS = 0.5  # between two looks
MOST_IDS = 500  # of one read


def wait_for_jobs(job_ids: Sequence[str], timeout: Optional[float]) -> int:
    """Wait for jobs of the current application, at most `timeout` seconds.

    Returns 0 if all completed, 1 at the first that did not, 124 after the time.
    """
    left = list(dict.fromkeys(job_ids))
    until = None if timeout is None else time.monotonic() + timeout
    while True:
        states = _states(left)
        for job_id in left:
            state = states.get(job_id)
            if state is None:
                raise Failure(ExitCode.NOT_FOUND, f"no such job: {job_id!r}. It may have been discarded.")
            if state in TERMINAL and state != "completed":
                say(f"{job_id}: {state}")
                return 1
        left = [job_id for job_id in left if states[job_id] != "completed"]
        if not left:
            return 0
        if until is not None and time.monotonic() >= until:
            say(f"Timed out: {len(left):,} of {len(job_ids):,} jobs have not ended.")
            return ExitCode.TIMED_OUT
        rest = WAIT_SECONDS if until is None else min(WAIT_SECONDS, max(until - time.monotonic(), 0))
        time.sleep(rest)


def _states(job_ids: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for start in range(0, len(job_ids), MOST_IDS):
        some = job_ids[start : start + MOST_IDS]
        with reading() as session:
            found.update(session.execute(select(Job.id, Job.state).where(Job.id.in_(some))).tuples().all())
    return found
