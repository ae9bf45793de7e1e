"""Waits for the end of jobs, for `wait` and `enqueue --wait`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Optional

from sqlalchemy import select

from webapp.commands.exit_codes import ExitCode, Failure
from webapp.commands.shared.output import progress_bars, say, two_digits
from webapp.core.states import TERMINAL
from webapp.db.engines import reading
from webapp.db.models import Job
from webapp.lib.durations import duration

if TYPE_CHECKING:
    from rich.progress import Progress

WAIT_SECONDS = 0.5  # between two looks
MOST_IDS = 500  # of one read


def wait_for_jobs(job_ids: Sequence[str], timeout: Optional[float]) -> int:
    """Wait for jobs of the current application, at most `timeout` seconds.

    Returns 0 if all completed, 1 at the first that did not, 124 after the time.
    """
    left = list(dict.fromkeys(job_ids))
    until = None if timeout is None else time.monotonic() + timeout
    with progress_bars(transient=True) as bars:
        task = None if bars is None else bars.add_task("done", total=len(left), note="")
        return _wait(left, len(job_ids), until, bars, task)


def _wait(left: list[str], total: int, until: Optional[float], bars: Optional[Progress], task: Any) -> int:
    started = time.monotonic()
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
        if bars is not None:
            done, passed = total - len(left), time.monotonic() - started
            bars.update(task, completed=done, note=progress_note(0, len(left), done / passed * 60 if passed > 1 else 0))
        if until is not None and time.monotonic() >= until:
            say(f"Timed out: {len(left):,} of {total:,} jobs have not ended.")
            return ExitCode.TIMED_OUT
        rest = WAIT_SECONDS if until is None else min(WAIT_SECONDS, max(until - time.monotonic(), 0))
        time.sleep(rest)


def wait_for_batch(name: str, timeout: Optional[float]) -> int:
    """Wait until a batch has ended. Returns 0 if all its jobs completed, 1 if some did not, 124 after the time."""
    from webapp.jobs.flow import batches

    until = None if timeout is None else time.monotonic() + timeout
    with progress_bars(transient=True) as bars:
        task = None if bars is None else bars.add_task("done", total=None, note="")
        while True:
            with reading() as session:
                batch, progress = batches.find(session, name), batches.progress(session, name)
            if bars is not None and task is not None:
                note = progress_note(progress.failed, progress.left, progress.rate)
                bars.update(task, total=progress.total, completed=progress.ended, note=note)
            if batch.closed_at is not None and not progress.left:
                return 0 if progress.completed == progress.total else 1
            if until is not None and time.monotonic() >= until:
                say(f"Timed out: {progress.left:,} of {progress.total:,} jobs have not ended.")
                return ExitCode.TIMED_OUT
            time.sleep(WAIT_SECONDS)


def progress_note(failed: int, left: int, rate: float) -> str:
    """The text beside a progress bar: '2 failed, 30 left, 12 per minute, 2min 30s remaining'"""
    words = [f"{failed:,} failed"] if failed else []
    words.append(f"{left:,} left")
    if rate and left:
        words += [f"{two_digits(rate)} per minute", f"{duration(round(left / rate * 60))} remaining"]
    return ", ".join(words)


def _states(job_ids: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for start in range(0, len(job_ids), MOST_IDS):
        some = job_ids[start : start + MOST_IDS]
        with reading() as session:
            found.update(session.execute(select(Job.id, Job.state).where(Job.id.in_(some))).tuples().all())
    return found
