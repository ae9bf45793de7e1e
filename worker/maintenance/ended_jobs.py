"""Deletes ended jobs, or only their output, from the oldest on: batches for `retention.py`.

A walk reads the ended jobs of one state in the order of their index. It passes jobs that stay: those of queues with
another value of a setting, those whose output is gone, and those that blocked jobs wait for. Jobs of batches are
deleted by `ended_batches.py`. So that the next round need not read them again, it stores a mark where it ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Callable, Optional

from sqlalchemy import ColumnElement, Row, delete, exists, func, literal, or_, select, tuple_, update
from sqlalchemy.orm import Session

from webapp.db.engines import reading, writing
from webapp.db.models import Attempt, Batch, Dependency, Job, RetentionMark
from webapp.jobs import deletion
from webapp.jobs.lifecycle import in_state
from webapp.lib import clock

WINDOW = 2000  # jobs that a batch reads at most, if some of them stay


@dataclass
class Walk:
    """One way through the ended jobs of a state.

    Attributes:
        before: jobs that ended at this time (microseconds) or later stay.
        concerns: whether jobs of a queue are deleted; None: those of all queues.
        mark: the name of its mark; None: it starts with the oldest job.
        frees_keys: whether jobs go that hold a unique key for a period, which others could then take too early.
        breaks_batches: whether jobs of ended batches are deleted one by one.
    """

    state: str
    before: int
    lock_timeout: float
    concerns: Optional[Callable[[str], bool]] = None
    mark: Optional[str] = None
    frees_keys: bool = False
    breaks_batches: bool = False
    _position: tuple[int, int] = field(default=(-1, -1), init=False)
    _start: Optional[int] = field(default=None, init=False)
    _waited_for: Optional[int] = field(
        default=None, init=False
    )  # when the first job ended that stays because of other jobs

    def delete_jobs(self, most: Optional[int] = None) -> tuple[int, bool]:
        """Delete up to `most` jobs with their attempts. Returns how many, and whether there may be more."""
        with reading() as session:
            rows, is_end = self._next(session, deletion.JOBS if self.concerns is None else WINDOW)
            found = self._unneeded(session, self._concerned(rows))
            seqs = deletion.first_that_fit(
                session, [row.seq for row in found[: min(most or deletion.JOBS, deletion.JOBS)]]
            )
        if found and not seqs:
            delete_attempts(found[0].seq, self._old(), self.lock_timeout)
            return 0, True
        gone = 0
        if seqs:
            with writing(self.lock_timeout, wakes_workers=False) as session:
                # The condition again, because a user may have requeued one of them.
                statement = delete(Job).where(Job.seq.in_(seqs), self._old()).returning(Job.seq)
                gone = len(session.execute(statement).all())
        if len(seqs) < len(found):
            self._move_to(found[len(seqs) - 1])
            return gone, True
        return gone, self._passed(rows, is_end)

    def delete_output(self, enough: Optional[int] = None) -> tuple[int, bool]:
        """Delete the output of some jobs, until that is `enough`. Returns bytes, and whether there may be more."""
        attempt, length = (Attempt.job_seq, Attempt.number), func.length(Attempt.output)
        with reading() as session:
            rows, is_end = self._next(session, deletion.JOBS)
            those = Attempt.job_seq.in_([row.seq for row in self._concerned(rows)]), length > 0
            statement = select(*attempt, length).where(*those).order_by(*attempt).limit(deletion.ATTEMPTS)
            found = session.execute(statement).all()
        sizes = [row[2] for row in found]
        number = max(1, deletion.number_that_fits(sizes))
        if enough is not None:
            number = min(number, 1 + sum(total < enough for total in accumulate(sizes)))
        if found:
            keys = tuple_(*attempt).in_([(row[0], row[1]) for row in found[:number]])
            # As if the output limit had left out all of it.
            empty = {
                "output": b"",
                "output_runs": "",
                "output_times": None,
                "output_cut": 0,
                "output_dropped": Attempt.output_dropped + length,
            }
            with writing(self.lock_timeout, wakes_workers=False) as session:
                old = exists().where(Job.seq == Attempt.job_seq, self._old())
                changed = update(Attempt).where(keys, old).values(empty)
                session.execute(changed.execution_options(synchronize_session=False))
        size = sum(sizes[:number])
        if number < len(found) or len(found) == deletion.ATTEMPTS:
            return size, True  # from the same job on
        return size, self._passed(rows, is_end)

    # --- the way ---

    def _next(self, session: Session, limit: int) -> tuple[Sequence[Row[Any]], bool]:
        """The next jobs, and whether they are the last."""
        if self._start is None:
            found = session.get(RetentionMark, self.mark) if self.mark is not None else None
            self._start = found.finished_at if found is not None else -1
            self._position = (self._start, -1)
        order = Job.finished_at, Job.seq
        behind = tuple_(*order) > tuple_(*(literal(value) for value in self._position))
        columns = Job.seq, Job.finished_at, Job.queue, Job.batch, Job.followed
        statement = select(*columns).where(self._old(), behind).order_by(*order).limit(limit)
        rows = session.execute(statement).all()
        return rows, len(rows) < limit

    def _old(self) -> ColumnElement[bool]:
        old = in_state(self.state) & (Job.finished_at < self.before)
        free = or_(Job.unique_while.is_(None), Job.unique_while != "period", Job.unique_until <= clock.now())
        return old if self.frees_keys else old & free

    def _concerned(self, rows: Sequence[Row[Any]]) -> list[Row[Any]]:
        return [row for row in rows if self.concerns is None or self.concerns(row.queue)]

    def _unneeded(self, session: Session, rows: list[Row[Any]]) -> list[Row[Any]]:
        """These jobs without those that belong to a batch or that blocked jobs wait for."""
        kept = waited_for(session, [row.seq for row in rows if row.followed is not None])
        for row in rows:
            if row.seq in kept:
                self._waited_for = min(row.finished_at, self._waited_for or row.finished_at)
        names = {row.batch for row in rows if row.batch is not None}
        if names and self.breaks_batches:
            names = set(session.scalars(select(Batch.name).where(Batch.name.in_(names), Batch.ended_at.is_(None))))
        return [row for row in rows if row.seq not in kept and row.batch not in names]

    def _passed(self, rows: Sequence[Row[Any]], is_end: bool) -> bool:
        """All of these jobs are done. Returns whether there may be more."""
        if rows:
            self._move_to(rows[-1])
        at = self._position[0] if self._waited_for is None else min(self._position[0], self._waited_for)
        if is_end and self.mark is not None and at != self._start:
            with writing(self.lock_timeout, wakes_workers=False) as session:
                session.merge(RetentionMark(name=self.mark, finished_at=at))
        return not is_end

    def _move_to(self, row: Row[Any]) -> None:
        self._position = (row.finished_at, row.seq)


def waited_for(session: Session, seqs: Sequence[int]) -> set[int]:
    """Those of these jobs that blocked jobs wait for."""
    if not seqs:
        return set()
    undecided = Dependency.parent_seq.in_(seqs), Dependency.met_at.is_(None)
    return set(session.scalars(select(Dependency.parent_seq).where(*undecided).distinct()))


def delete_attempts(seq: int, old: ColumnElement[bool], lock_timeout: float) -> None:
    """Delete the first attempts of a job that is too large for one transaction, if it is still `old`."""
    attempts = select(Attempt.number, deletion.SIZE).where(Attempt.job_seq == seq).order_by(Attempt.number)
    with reading() as session:
        rows = session.execute(attempts.limit(deletion.ATTEMPTS)).tuples().all()
    number = max(1, deletion.number_that_fits(size for _, size in rows))
    those = Attempt.job_seq == seq, Attempt.number <= rows[number - 1][0]
    with writing(lock_timeout, wakes_workers=False) as session:
        session.execute(delete(Attempt).where(*those, exists().where(Job.seq == seq, old)))
