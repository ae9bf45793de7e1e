"""Retention: delete what is older than the settings keep, a little at each tick of the maintenance process.

A tick also notices dead workers, so retention gets a budget of time there and goes on at the next tick. Each
transaction deletes as much as `jobs/deletion.py` allows. No row of `jobs` passes through `lifecycle.move` here.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from functools import partial
from typing import Callable

from sqlalchemy import ColumnElement, delete, exists, func, or_, select, text, tuple_

from webapp.accounts import login_throttle, sessions
from webapp.core.audit_lines import Origin
from webapp.core.settings import Settings
from webapp.core.states import TERMINAL
from webapp.db import audit, engines
from webapp.db.engines import reading, writing
from webapp.db.models import Attempt, Audit, BulkAction, Event, IdempotencyKey, Job, SetupLink, Supervisor, Worker
from webapp.insight import rollups
from webapp.jobs import deletion
from webapp.jobs.lifecycle import in_state
from webapp.lib import clock

log = logging.getLogger("queuectl.retention")

RULE = "rule:retention"
BUDGET = 0.3  # seconds of one tick
RECORDS = 500  # rows of other tables that one transaction deletes
KEEP_WORKERS = clock.DAY  # rows of workers and supervisors that ended
KEEP_SILENT = 30 * clock.DAY  # rows of supervisors whose machine was shut down for good
KEEP_REPEATS = clock.DAY  # answers to requests of programs under an Idempotency-Key
KEEP_RECORDS = 400 * clock.DAY  # bulk actions, and events that belong to no job

# By id, because no index has the time.
_SIZE = func.coalesce(func.length(Audit.detail), 0).label("size")
_FIRST_LINES = select(Audit.id, Audit.at, _SIZE).order_by(Audit.id).limit(2 * RECORDS)


class Retention:
    """Rounds over all tables. One round takes as many calls of `go_on` as it needs."""

    def __init__(self, patience: float) -> None:
        """`patience`: seconds that each transaction waits for the write lock."""
        self._patience = patience
        self._values = Settings()
        self._steps: deque[Callable[[], bool]] = deque()  # of this round; each deletes a batch, True: there may be more
        self._deleted = 0  # jobs of this round
        self._event = 0  # the last one that this round has looked at

    def resume(self, values: Settings) -> bool:
        """Delete for about BUDGET seconds. True: more is left for the next call. Raises Busy as `writing()`."""
        until, self._values = time.monotonic() + BUDGET, values
        if not self._steps:
            self._begin()
        while self._steps:
            step = self._steps.popleft()
            if step():
                self._steps.append(step)  # in turns, so that no table waits for a large one
            if time.monotonic() >= until:
                break
            engines.let_others_write()
        if self._steps:
            return True
        if self._deleted:
            log.info("deleted %d jobs older than the settings keep", self._deleted, extra={"jobs": self._deleted})
        return False

    def _begin(self) -> None:
        self._deleted = self._event = 0
        self._steps.extend(partial(self._delete_jobs, state) for state in TERMINAL)
        self._steps += (self._delete_audit, self._delete_events, self._delete_answers, self._delete_others)
        self._steps.append(partial(rollups.prune, self._patience))

    def _delete_jobs(self, state: str) -> bool:
        days: int = getattr(self._values, f"keep_{state}")
        if not days:
            return False
        old = in_state(state) & (Job.finished_at < clock.now() - days * clock.DAY)
        with reading() as session:
            oldest = select(Job.seq).where(old).order_by(Job.finished_at, Job.seq).limit(deletion.JOBS)
            found = list(session.scalars(oldest))
            seqs = deletion.first_that_fit(session, found)
        if found and not seqs:
            self._delete_attempts(found[0], old)
            return True
        if seqs:
            with writing(self._patience, wakes_workers=False) as session:
                # `old` again: a person may have requeued one of them.
                gone = session.execute(delete(Job).where(Job.seq.in_(seqs), old).returning(Job.seq)).all()
            self._deleted += len(gone)
        return len(found) == deletion.JOBS or len(seqs) < len(found)

    def _delete_attempts(self, seq: int, old: ColumnElement[bool]) -> None:
        """The first attempts of a job that is too large to go at once."""
        attempts = select(Attempt.number, deletion.SIZE).where(Attempt.job_seq == seq).order_by(Attempt.number)
        with reading() as session:
            rows = session.execute(attempts.limit(deletion.ATTEMPTS)).tuples().all()
        number = max(1, deletion.number_that_fits(size for _, size in rows))
        those = Attempt.job_seq == seq, Attempt.number <= rows[number - 1][0]
        with writing(self._patience, wakes_workers=False) as session:
            session.execute(delete(Attempt).where(*those, exists().where(Job.seq == seq, old)))

    def _delete_audit(self) -> bool:
        """Lines of the audit trail, with one line that says how many.

        Only whole days go (UTC): otherwise each line that gets old would cost a line that tells of its end.
        """
        days = self._values.keep_audit
        before = (clock.now() - days * clock.DAY) // clock.DAY * clock.DAY
        with reading() as session:
            found = session.execute(_FIRST_LINES).all() if days else []
        if not any(row.at < before for row in found):
            return False
        with writing(self._patience, wakes_workers=False) as session:
            # Again, for another process may delete the same ones; it has them locked.
            found = session.execute(_FIRST_LINES.with_for_update(skip_locked=True)).all()
            old = [row for row in found if row.at < before]
            ids = [row.id for row in old[: max(1, deletion.number_that_fits(row.size for row in old))]]
            if ids:
                details = [{"lines": len(ids), "before": clock.to_iso(before)}]
                # The line comes first: the guard of the trail looks for it.
                audit.note(session, "prune", ["audit"], RULE, details=details, origin=Origin("worker"))
                session.execute(delete(Audit).where(Audit.id.in_(ids)))
        return bool(ids)

    def _delete_events(self) -> bool:
        """Events of no job. Those of a job are deleted with it, and passed over here however old they are."""
        before = clock.now() - KEEP_RECORDS
        next_ones = select(Event.id, Event.at, Event.job_seq).where(Event.id > self._event).order_by(Event.id)
        with reading() as session:
            rows = session.execute(next_ones.limit(10 * RECORDS)).tuples().all()
        old = [(id_, job_seq) for id_, at, job_seq in rows if at < before]
        ids = [id_ for id_, job_seq in old if job_seq is None][:RECORDS]
        if ids:
            with writing(self._patience, wakes_workers=False) as session:
                session.execute(delete(Event).where(Event.id.in_(ids)))
        # By id, because no index has the time: where none of these is old, no later one is.
        self._event = (ids[-1] if len(ids) == RECORDS else rows[-1][0]) if old else 0
        return bool(old)

    def _delete_answers(self) -> bool:
        """Answers under an Idempotency-Key. One may be as long as a batch of 1,000 jobs."""
        size = func.coalesce(func.length(IdempotencyKey.answer), 0)
        old = select(IdempotencyKey.token_id, IdempotencyKey.key, size).where(
            IdempotencyKey.at < clock.now() - KEEP_REPEATS
        )
        with reading() as session:
            rows = session.execute(old.limit(RECORDS)).all()
        number = max(1, deletion.number_that_fits(row[2] for row in rows))
        keys = [(row[0], row[1]) for row in rows[:number]]
        if keys:
            with writing(self._patience, wakes_workers=False) as session:
                session.execute(
                    delete(IdempotencyKey).where(tuple_(IdempotencyKey.token_id, IdempotencyKey.key).in_(keys))
                )
        return len(rows) == RECORDS or len(rows) > number

    def _delete_others(self) -> bool:
        """Tables with few rows; and give free pages of the SQLite file back to the disk."""
        now = clock.now()
        with writing(self._patience, wakes_workers=False) as session:
            session.execute(delete(Worker).where(Worker.state != "running", Worker.stopped_at < now - KEEP_WORKERS))
            gone = Supervisor.stopped_at < now - KEEP_WORKERS, Supervisor.seen_at < now - KEEP_SILENT
            session.execute(delete(Supervisor).where(or_(*gone)))
            session.execute(delete(SetupLink).where(SetupLink.expires_at < now))
            sessions.prune(session)
            login_throttle.prune(session)
            session.execute(
                delete(BulkAction).where(
                    BulkAction.state.in_(("done", "stopped")), BulkAction.finished_at < now - KEEP_RECORDS
                )
            )
            if engines.is_sqlite():
                session.execute(text("PRAGMA incremental_vacuum(200)"))
        return False
