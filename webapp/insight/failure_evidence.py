"""Why a dead letter died: the last words of its output, and how they differ from those of the last run that went well.

Everything here is bounded: how far back a good run is looked for, how much of two outputs is compared, how much of the
difference is shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Optional

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from webapp.db.models import Attempt, Job, OutputTail
from webapp.jobs.lifecycle import in_state
from webapp.lib import text_diff
from webapp.lib.text import mask, plain_tail, plural

LOOK = 5_000  # of the newest completed jobs, among which a good run is looked for
LINES, BYTES = 200, 32 * 1024  # of the dead letter's output, that are compared
GOOD_LINES, GOOD_BYTES = 400, 64 * 1024  # of the good run's, which went on for longer
LONGEST_LINE = 400  # characters
LONGEST_RUN = 8  # lines on one side alone; of more, the first and last few are shown
MOST_SHOWN = 300  # lines of a difference


@dataclass(frozen=True)
class Line:
    """A line of a difference. `sign`: '-' of the good run alone, '+' of the dead letter, ' ' of both, '…' left out."""

    sign: str
    text: str


@dataclass(frozen=True)
class GoodRun:
    """A run of the same command that completed. `alike`: of a command that differs in numbers, paths or ids alone."""

    job: Job
    attempt: int
    alike: bool


@dataclass(frozen=True)
class Evidence:
    """`attempt` is the last that failed, 0 where there is none; `good` None: no good run was found."""

    job: Job
    attempt: int
    tail: str
    good: Optional[GoodRun]
    difference: list[Line]


def of(session: Session, job: Job) -> Evidence:
    """What there is to know of a dead letter's end."""
    tail = session.get(OutputTail, job.seq)
    last = session.scalar(
        select(Attempt.number).where(Attempt.job_seq == job.seq).order_by(Attempt.number.desc()).limit(1)
    )
    good = _good_run(session, job)
    lines: list[Line] = []
    if good is not None and last is not None:
        before = _lines(session, good.job.seq, good.attempt, GOOD_LINES, GOOD_BYTES)
        lines = difference(before, _lines(session, job.seq, last, LINES, BYTES))
    text = tail.text if tail is not None else "\n".join(_lines(session, job.seq, last or 0, 40, 2_000))
    return Evidence(job, last or 0, text, good, lines)


# --- the run that went well ------------------------------------------------------------------------------------------


def _good_run(session: Session, job: Job) -> Optional[GoodRun]:
    """The newest: of this very job, of another with its command, of one whose command is alike."""
    own = select(Attempt.number).where(Attempt.job_seq == job.seq, Attempt.state == "completed")
    number = session.scalar(own.order_by(Attempt.number.desc()).limit(1))
    if number is not None:
        return GoodRun(job, number, False)
    newest = (
        select(Job.seq, Job.command)
        .where(in_state("completed"))
        .order_by(Job.finished_at.desc(), Job.seq.desc())
        .limit(LOOK)
        .subquery()
    )
    seq = session.scalar(select(newest.c.seq).where(newest.c.command == job.command).limit(1))
    alike = seq is None
    if seq is None:
        seq = _one_alike(session, job)
    found = session.get(Job, seq) if seq is not None else None
    return GoodRun(found, found.attempts, alike) if found is not None else None


def _one_alike(session: Session, job: Job) -> Optional[int]:
    """Masking is ours, not the database's: only commands that begin alike are read."""
    begin = job.command.split(None, 1)[0] if job.command.strip() else ""
    newest = (
        select(Job.seq, Job.command)
        .where(in_state("completed"))
        .order_by(Job.finished_at.desc(), Job.seq.desc())
        .limit(LOOK)
        .subquery()
    )
    shape = mask(job.command[:1000])
    candidates = select(newest.c.seq, newest.c.command).where(newest.c.command.startswith(begin, autoescape=True))
    for seq, command in session.execute(candidates.limit(200)):
        if mask(command[:1000]) == shape:
            return int(seq)
    return None


def _lines(session: Session, seq: int, attempt: int, most: int, limit: int) -> list[str]:
    """The last lines of an attempt's output as plain text. Of a large one only its end leaves the database."""
    length = func.length(Attempt.output)
    start = case((length > limit, length - limit - 1), else_=0)  # a byte more, so that a line cut in two is known
    kept = session.scalar(
        select(func.substr(Attempt.output, start + 1)).where(Attempt.job_seq == seq, Attempt.number == attempt)
    )
    return [line[:LONGEST_LINE] for line in plain_tail(bytes(kept or b""), limit).split("\n")][-most - 1 :]


# --- the difference --------------------------------------------------------------------------------------------------


def difference(good: Sequence[str], bad: Sequence[str]) -> list[Line]:
    """Two outputs line by line; nothing where they are alike.

    Lines that differ in numbers, paths or ids alone, such as times, count as the same.
    """
    good, bad = _trimmed(good), _trimmed(bad)
    comparison = text_diff.compare([mask(line) for line in good], [mask(line) for line in bad])
    if comparison.same:
        return []
    lines: list[Line] = []
    for sign, rows in groupby(comparison.rows, key=lambda row: row.sign):
        texts = [
            bad[row.new - 1] if row.new is not None else good[row.old - 1] if row.old is not None else row.text
            for row in rows
        ]
        lines += _run(sign, texts) if sign in _WHOSE else [Line(sign, text) for text in texts]
    if len(lines) > MOST_SHOWN:
        return [*lines[:MOST_SHOWN], Line("…", f"{len(lines) - MOST_SHOWN:,} more lines")]
    return lines


_WHOSE = {"-": "the last success", "+": "this job"}


def _run(sign: str, lines: Sequence[str]) -> Iterator[Line]:
    """Lines of one side alone: of many, the first and the last."""
    left_out = len(lines) - LONGEST_RUN
    half = len(lines) if left_out <= 0 else LONGEST_RUN // 2
    yield from (Line(sign, text) for text in lines[:half])
    if left_out > 0:
        yield Line("…", f"{plural(left_out, 'line')} only in {_WHOSE[sign]}")
        yield from (Line(sign, text) for text in lines[-half:])


def _trimmed(lines: Sequence[str]) -> list[str]:
    """Without empty lines at the end: whether an output ends with a newline is no difference worth a look."""
    kept = list(lines)
    while kept and not kept[-1].strip():
        kept.pop()
    return kept
