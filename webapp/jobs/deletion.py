"""How much of many jobs one transaction deletes, so that it holds the write lock for about 50 ms at most.

A job goes with its attempts and their output, so a number of jobs alone is no bound. Retention and the discard of all
jobs that match a filter both ask here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from webapp.db.models import Attempt, Job

# Measured with SQLite on a slow disk: 20 ms for 500 jobs of one short attempt, for 4 MiB of output, for 1,000 attempts.
JOBS = 500
BYTES = 4 * 1024**2
ATTEMPTS = 1000
SIZE = func.length(Attempt.output) + BYTES // ATTEMPTS  # what an attempt counts for


def number_that_fits(sizes: Iterable[int]) -> int:
    """How many rows, from the first on, one transaction may delete. `sizes` are bytes."""
    number = total = 0
    for size in sizes:
        total += size
        if total > BYTES:
            break
        number += 1
    return number


def first_that_fit(session: Session, seqs: Sequence[int]) -> list[int]:
    """The first of these jobs, as many as one transaction may delete; none where the first alone is too large."""
    jobs = select(Job.seq, func.length(Job.command) + func.coalesce(func.length(Job.env), 0))
    attempts = select(Attempt.job_seq, func.sum(SIZE)).group_by(Attempt.job_seq)
    sizes = dict.fromkeys(seqs, 0)
    for seq, size in (
        *session.execute(jobs.where(Job.seq.in_(seqs))),
        *session.execute(attempts.where(Attempt.job_seq.in_(seqs))),
    ):
        sizes[seq] += int(size)
    return list(seqs[: number_that_fits(sizes.values())])
