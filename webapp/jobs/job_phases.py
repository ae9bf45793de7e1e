"""The phases of one job: not due yet, waiting for a worker, running, or backing off before a retry.

`job_detail.timeline` has the moments, this module the time between them. There is no phase between the end of a job
and a requeue.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Optional

from webapp.core.states import TERMINAL
from webapp.db.models import Attempt, Event, Job
from webapp.lib import clock

# A requeue and the new due time come from two readings of the clock; the difference is not a wait.
MIN_WAIT = clock.seconds(0.001)
KINDS = ("not_due", "waited", "ran", "backed_off", "unclear")


@dataclass(frozen=True)
class Phase:
    """A span of time (microseconds). `end` None: it continues; the end of a wait for a due time may be in the future.

    `unclear`: backed off, then waited. Attempts of older versions do not record the due time in between.
    """

    kind: str
    start: int
    end: Optional[int]
    attempt: Optional[int] = None


@dataclass(frozen=True)
class _Block:
    """What lies between two gaps: an attempt, or a moment that ends one wait and may begin another."""

    start: int
    end: Optional[int]
    verb: str  # enqueue, requeue, run_now, cancel, undo; attempt, failed_attempt
    due: Optional[int] = None
    attempt: Optional[int] = None


def phases(job: Job, ended: Sequence[Attempt], recorded: Sequence[Event]) -> list[Phase]:
    """All phases, oldest first."""
    blocks = [_Block(job.created_at, job.created_at, "enqueue")]
    for one in ended:
        verb = "failed_attempt" if one.state == "failed" else "attempt"
        blocks.append(_Block(one.started_at, one.finished_at, verb, one.due_at, one.number))
    if job.state == "processing" and job.started_at is not None:
        blocks.append(_Block(job.started_at, None, "attempt", job.run_at, job.attempts))
    blocks += [
        _Block(event.at, event.at, _as_requeue(event) if event.verb == "edit" else event.verb)
        for event in recorded
        if event.verb in {"requeue", "run_now", "cancel", "undo", "edit"}
    ]
    blocks.sort(key=lambda block: block.start)
    found: list[Phase] = []
    for block, following in zip(blocks, [*blocks[1:], None]):
        if block.attempt is not None:
            found.append(Phase("ran", block.start, block.end, block.attempt))
        if block.end is not None:
            found += _gap(job, block, block.end, following)
    least = {"ran": 0, "waited": 0}
    return [one for one in found if one.end is None or one.end - one.start > least.get(one.kind, MIN_WAIT)]


def _as_requeue(edit: Event) -> str:
    """What an edit did besides: it requeued a job that had ended, or ended the wait for a retry."""
    return "requeue" if json.loads(edit.detail or "{}").get("from") in TERMINAL else "run_now"


def _gap(job: Job, before: _Block, start: int, following: Optional[_Block]) -> Iterator[Phase]:
    """The phases between two blocks, or after the last block."""
    early = "backed_off" if before.verb == "failed_attempt" else "not_due"
    if following is None:
        if job.state in TERMINAL:
            return
        if job.run_at > start:
            yield Phase(early, start, job.run_at)
        if job.state == "pending":
            yield Phase("waited", max(start, job.run_at), None)
    elif following.verb == "requeue":
        return  # the job had ended
    elif following.attempt is None:
        # A user ended the wait; the earlier due time is lost.
        waited = before.verb != "failed_attempt" and following.verb != "run_now"
        yield Phase("waited" if waited else early, start, following.start)
    elif following.due is None:
        yield Phase("unclear" if before.verb == "failed_attempt" else "waited", start, following.start)
    else:
        # After a lost attempt, the next one was due at once: the whole gap was waiting.
        due = min(max(following.due, start), following.start)
        yield Phase(early, start, due)
        yield Phase("waited", due, following.start)


def totals(lived: Sequence[Phase]) -> dict[str, int]:
    """Microseconds by kind, for phases that have ended; other kinds are left out."""
    sums = {kind: sum(phase.end - phase.start for phase in lived if phase.kind == kind and phase.end) for kind in KINDS}
    return {kind: total for kind, total in sums.items() if total}
