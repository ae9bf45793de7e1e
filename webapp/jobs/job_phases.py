"""The phases of one job's life: when it was not due yet, waited for a worker, ran, or backed off before a retry.

`story.timeline` tells moments; here is what lay between them. Nothing is shown for the time in which a job was over,
before somebody requeued it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Optional

from webapp.core.states import TERMINAL
from webapp.db.models import Attempt, Event, Job
from webapp.lib import clock

# A requeue and the time from which its job is due are two looks at the clock, and no wait lies between them.
SHORTEST = clock.seconds(0.001)
KINDS = ("not_due", "waited", "ran", "backed_off", "unclear")


@dataclass(frozen=True)
class Phase:
    """A stretch of time (microseconds). `end` None: it goes on; that of a wait for a time may lie ahead.

    `unclear`: backed off, then waited; an attempt of an older version does not tell when it was due in between.
    """

    kind: str
    start: int
    end: Optional[int]
    attempt: Optional[int] = None


@dataclass(frozen=True)
class _Block:
    """Something between two gaps: an attempt, or a moment that ends one wait and may begin another."""

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
        _Block(event.at, event.at, event.verb)
        for event in recorded
        if event.verb in {"requeue", "run_now", "cancel", "undo"}
    ]
    blocks.sort(key=lambda block: block.start)
    found: list[Phase] = []
    for block, following in zip(blocks, [*blocks[1:], None]):
        if block.attempt is not None:
            found.append(Phase("ran", block.start, block.end, block.attempt))
        if block.end is not None:
            found += _gap(job, block, block.end, following)
    least = {"ran": 0, "waited": 0}
    return [one for one in found if one.end is None or one.end - one.start > least.get(one.kind, SHORTEST)]


def _gap(job: Job, before: _Block, start: int, following: Optional[_Block]) -> Iterator[Phase]:
    """What lies between two blocks, or behind the last."""
    early = "backed_off" if before.verb == "failed_attempt" else "not_due"
    if following is None:
        if job.state in TERMINAL:
            return
        if job.run_at > start:
            yield Phase(early, start, job.run_at)
        if job.state == "pending":
            yield Phase("waited", max(start, job.run_at), None)
    elif following.verb == "requeue":
        return  # it was over
    elif following.attempt is None:
        # A person ended the wait; when it would have been due is not known any more.
        waited = before.verb != "failed_attempt" and following.verb != "run_now"
        yield Phase("waited" if waited else early, start, following.start)
    elif following.due is None:
        yield Phase("unclear" if before.verb == "failed_attempt" else "waited", start, following.start)
    else:
        # A lost attempt's successor was due before its own start: then all of the gap was waiting.
        due = min(max(following.due, start), following.start)
        yield Phase(early, start, due)
        yield Phase("waited", due, following.start)


def totals(lived: Sequence[Phase]) -> dict[str, int]:
    """Microseconds by kind, of the phases that have an end; kinds that did not occur are left out."""
    sums = {kind: sum(phase.end - phase.start for phase in lived if phase.kind == kind and phase.end) for kind in KINDS}
    return {kind: total for kind, total in sums.items() if total}
