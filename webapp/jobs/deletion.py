"""How many jobs with attempts and output one transaction deletes: it holds the write lock for at most about 50 ms.

Retention and the discard of all jobs that match a filter use it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from webapp.db.models import Attempt, Job

# Measured with SQLite on a slow disk: 20 ms for 500 jobs of one short attempt, for 4 MiB of output, for 1,000 attempts.
JOBS = 500
BYTES = 4 * 1024**2
ATTEMPTS = 1000
SIZE = func.length(Attempt.output) + BYTES // ATTEMPTS  # bytes that an attempt counts for


def number_that_fits(sizes: Iterable[int]) -> int:
    """How many of the first rows one transaction may delete. `sizes` are bytes."""
    return sum(1 for total in accumulate(sizes) if total <= BYTES)


def first_that_fit(session: Session, seqs: Sequence[int]) -> list[int]:
    """As many of the first jobs as one transaction may delete; none if the first job is too large."""
    jobs = select(Job.seq, func.length(Job.command) + func.coalesce(func.length(Job.env), 0))
    attempts = select(Attempt.job_seq, func.sum(SIZE)).group_by(Attempt.job_seq)
    sizes = dict.fromkeys(seqs, 0)
    for seq, size in (
        *session.execute(jobs.where(Job.seq.in_(seqs))),
        *session.execute(attempts.where(Attempt.job_seq.in_(seqs))),
    ):
        sizes[seq] += int(size)
    return list(seqs[: number_that_fits(sizes.values())])
