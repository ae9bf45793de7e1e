"""Why a dead letter died: the end of its output, compared with the last success of the same command.

All steps are bounded: the search for a success, the compared output, and the shown difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Optional

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from webapp.db.models import Attempt, Job, OutputChunk, OutputTail
from webapp.jobs.lifecycle import in_state
from webapp.lib import text_diff
from webapp.lib.text import mask, plain_tail, plural
from webapp.lib.text_diff import Row

COMPLETED_SAMPLE_SIZE = 5_000  # newest completed jobs that are searched for a success
LINES, BYTES = 200, 32 * 1024  # compared output of the dead letter
GOOD_LINES, GOOD_BYTES = 400, 64 * 1024  # compared output of the success, which ran longer
LIVE_CHUNKS, LIVE_BYTES = 8, 4 * 1024  # of a running job's output
MAX_LINE_LENGTH = 400  # characters
MAX_RUN = 8  # consecutive lines of one side; of more, only the first and last are shown
MAX_SHOWN_LINES = 300  # of a difference


@dataclass(frozen=True)
class GoodRun:
    """A completed run of the same command. `alike`: its command differs only in numbers, paths or ids."""

    job: Job
    attempt: int
    alike: bool


@dataclass(frozen=True)
class Evidence:
    """`attempt` is the last failed one, 0 if there is none; `good` is the last success, None if none was found.

    In `difference`, '-' is only in the success, '+' only in the dead letter, '…' stands for lines left out.
    """

    job: Job
    attempt: int
    tail: str
    good: Optional[GoodRun]
    difference: list[Row]


def of(session: Session, job: Job) -> Evidence:
    """The evidence for one dead letter."""
    tail = session.get(OutputTail, job.seq)
    last = session.scalar(
        select(Attempt.number).where(Attempt.job_seq == job.seq).order_by(Attempt.number.desc()).limit(1)
    )
    good = good_run(session, job)
    lines: list[Row] = []
    if good is not None and last is not None:
        before = _lines(session, good.job.seq, good.attempt, GOOD_LINES, GOOD_BYTES)
        lines = difference(before, _lines(session, job.seq, last, LINES, BYTES))
    text = tail.text if tail is not None else "\n".join(_lines(session, job.seq, last or 0, 40, 2_000))
    return Evidence(job, last or 0, text, good, lines)


def last_lines(session: Session, job: Job, number: int = 12) -> list[str]:
    """The last lines of a job's newest attempt, also while it runs. Reads a few KiB."""
    chunks = select(OutputChunk.data).where(OutputChunk.job_seq == job.seq, OutputChunk.attempt == job.attempts)
    newest = list(session.scalars(chunks.order_by(OutputChunk.position.desc()).limit(LIVE_CHUNKS)))
    if newest:
        text = plain_tail(b"".join(bytes(data) for data in reversed(newest)), LIVE_BYTES)
        lines = [line[:MAX_LINE_LENGTH] for line in text.split("\n")]
    else:
        lines = _lines(session, job.seq, job.attempts, number, LIVE_BYTES)
    return list(_trimmed(lines))[-number:]


# --- the last success ------------------------------------------------------------------------------------------------


def good_run(session: Session, job: Job) -> Optional[GoodRun]:
    """The newest success of this job, else of a job with the same command, else with a similar command."""
    own = select(Attempt.number).where(Attempt.job_seq == job.seq, Attempt.state == "completed")
    number = session.scalar(own.order_by(Attempt.number.desc()).limit(1))
    if number is not None:
        return GoodRun(job, number, False)
    newest = (
        select(Job.seq, Job.command)
        .where(in_state("completed"))
        .order_by(Job.finished_at.desc(), Job.seq.desc())
        .limit(COMPLETED_SAMPLE_SIZE)
        .subquery()
    )
    seq = session.scalar(select(newest.c.seq).where(newest.c.command == job.command).limit(1))
    alike = seq is None
    if seq is None:
        # The database cannot mask commands, so only those with the same first word are read.
        begin = job.command.split(None, 1)[0] if job.command.strip() else ""
        candidates = select(newest.c.seq, newest.c.command).where(newest.c.command.startswith(begin, autoescape=True))
        shape = mask(job.command[:1000])
        rows = session.execute(candidates.limit(200))
        seq = next((one for one, command in rows if mask(command[:1000]) == shape), None)
    found = session.get(Job, seq) if seq is not None else None
    return GoodRun(found, found.attempts, alike) if found is not None else None


def _lines(session: Session, seq: int, attempt: int, most: int, limit: int) -> list[str]:
    """The last lines of an attempt's output as plain text. Only the end of a large output is read."""
    length = func.length(Attempt.output)
    start = case((length > limit, length - limit - 1), else_=0)  # one byte more shows whether a line is cut
    kept = session.scalar(
        select(func.substr(Attempt.output, start + 1)).where(Attempt.job_seq == seq, Attempt.number == attempt)
    )
    return [line[:MAX_LINE_LENGTH] for line in plain_tail(bytes(kept or b""), limit).split("\n")][-most - 1 :]


# --- the difference --------------------------------------------------------------------------------------------------


def difference(good: Sequence[str], bad: Sequence[str]) -> list[Row]:
    """Compare two outputs line by line; empty if they are the same.

    Lines that differ only in numbers, paths or ids, such as times, count as the same.
    """
    comparison = text_diff.compare(_trimmed(good), _trimmed(bad), mask)
    if comparison.same:
        return []
    lines: list[Row] = []
    for sign, rows in groupby(comparison.rows, key=lambda row: row.sign):
        lines += _shortened(sign, list(rows))
    if len(lines) > MAX_SHOWN_LINES:
        return [*lines[:MAX_SHOWN_LINES], Row("…", f"{len(lines) - MAX_SHOWN_LINES:,} more lines")]
    return lines


_WHOSE = {"-": "the last success", "+": "this job"}


def _shortened(sign: str, lines: Sequence[Row]) -> Sequence[Row]:
    """Of many lines of one side only, the first and the last."""
    left_out = len(lines) - MAX_RUN
    if sign not in _WHOSE or left_out <= 0:
        return lines
    half = MAX_RUN // 2
    return [*lines[:half], Row("…", f"{plural(left_out, 'line')} only in {_WHOSE[sign]}"), *lines[-half:]]


def _trimmed(lines: Sequence[str]) -> list[str]:
    """Without empty lines at the end, which are no useful difference."""
    kept = list(lines)
    while kept and not kept[-1].strip():
        kept.pop()
    return kept
