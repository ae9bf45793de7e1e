"""Retention: delete what is older than the settings keep, then what makes the database too large, in small steps.

The chores process has other work too, so retention has a time budget and continues at the next call. Each transaction
deletes as much as `jobs/deletion.py` allows.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Callable

from sqlalchemy import ColumnElement, delete, exists, func, literal_column, or_, select, tuple_

from webapp.accounts import login_throttle, sessions
from webapp.core.audit_lines import Origin
from webapp.core.flow.limits import LONGEST_WINDOW
from webapp.core.settings import Settings
from webapp.core.states import TERMINAL
from webapp.core.storage.size import FREED
from webapp.db import audit, engines
from webapp.db.engines import reading, writing
from webapp.db.models import (
    Alert,
    Audit,
    BulkAction,
    Delivery,
    Event,
    Fire,
    Group,
    IdempotencyKey,
    Job,
    LimitStart,
    Notice,
    SetupLink,
    Supervisor,
    Worker,
)
from webapp.insight import rollups
from webapp.jobs import deletion
from webapp.lib import clock
from webapp.notifications.policy import NEW_AGAIN  # rules about new groups ask for alerts of this time
from worker.maintenance import free_space
from worker.maintenance.ended_batches import EndedBatches
from worker.maintenance.ended_jobs import Walk
from worker.maintenance.size_limit import SizeLimit

log = logging.getLogger("queuectl.retention")

RULE = "rule:retention"
BUDGET = 0.3  # seconds of each tick
RECORDS = 500  # rows of a table, other than jobs, that one transaction deletes
KEEP_WORKERS = clock.DAY  # workers and supervisors that ended
KEEP_SILENT = 30 * clock.DAY  # supervisors that disappeared
KEEP_IDEMPOTENCY_KEYS = clock.DAY
KEEP_NOTICES = clock.DAY  # after the rules were applied to them
KEEP_RECORDS = 400 * clock.DAY  # bulk actions, failure groups, and events without a job

# By id, because there is no index by time.
_SIZE = func.coalesce(func.length(Audit.detail), 0).label("size")
_FIRST_LINES = select(Audit.id, Audit.at, _SIZE).order_by(Audit.id).limit(2 * RECORDS)
# Not `in_state`: the index of the groups answers this.
_IS_DEAD: ColumnElement[bool] = literal_column("jobs.state = 'dead'")
_TAKEN: ColumnElement[bool] = literal_column("notices.taken_at IS NOT NULL")  # the text of the partial index


class Retention:
    """Rounds over all tables. A round takes several calls of `resume`."""

    def __init__(self, lock_timeout: float) -> None:
        """`lock_timeout`: seconds that each transaction waits for the write lock."""
        self._lock_timeout = lock_timeout
        self._values = Settings()
        self._steps: deque[Callable[[], bool]] = deque()  # of this round: each deletes a batch; True: maybe more
        self._phases: deque[Callable[[], Iterable[Callable[[], bool]]]] = deque()  # of this round, each with its steps
        self._deleted = 0  # jobs of this round, because of their age
        self._event = 0  # id of the last event that this round has read

    def resume(self, values: Settings) -> bool:
        """Delete for about BUDGET seconds. True: the round continues at the next call. Raises Busy."""
        until, self._values = time.monotonic() + BUDGET, values
        if not self._steps and not self._phases:
            self._deleted = self._event = 0
            self._phases += (self._by_age, self._by_size, self._to_disk)
        while self._steps or self._phases:
            if not self._steps:
                self._steps.extend(self._phases.popleft()())
            step = self._steps.popleft()
            if step():
                self._steps.append(step)  # in turns, so that a large table does not delay the others
            if time.monotonic() >= until:
                break
            engines.let_others_write()
        if self._steps or self._phases:
            return True
        if self._deleted:
            log.info(
                "deleted %d jobs that were older than the retention settings",
                self._deleted,
                extra={"jobs": self._deleted},
            )
        return False

    def _by_age(self) -> Iterator[Callable[[], bool]]:
        for state in TERMINAL:
            yield from (partial(self._delete_jobs, walk) for walk in self._walks(f"keep_{state}", state))
        for state in FREED:
            yield from (partial(_delete_output, walk) for walk in self._walks("keep_output", state))
        yield EndedBatches(self._values, self._lock_timeout).step
        yield from (
            self._delete_audit,
            self._delete_fires,
            self._delete_messages,
            self._delete_notices,
            self._delete_events,
            self._delete_answers,
            self._delete_groups,
            self._delete_starts,
            self._delete_others,
        )
        yield partial(rollups.prune, self._lock_timeout)

    def _by_size(self) -> Iterator[Callable[[], bool]]:
        yield SizeLimit(self._values, self._lock_timeout).step

    def _to_disk(self) -> Iterator[Callable[[], bool]]:
        yield partial(free_space.release_pages, self._lock_timeout)
        yield partial(free_space.cut_log, self._lock_timeout)

    def _delete_jobs(self, walk: Walk) -> bool:
        number, more = walk.delete_jobs()
        self._deleted += number
        return more

    def _walks(self, setting: str, state: str) -> Iterator[Walk]:
        """A walk for each number of days that the setting has for any queue."""
        values = self._values
        own = values.own[setting]
        for days in sorted({getattr(values, setting), *own.values()} - {0}):
            walk = Walk(state, clock.now() - days * clock.DAY, self._lock_timeout)
            if own:
                walk.concerns = partial(_keeps, values, setting, days)
            if own or setting == "keep_output":  # it passes jobs that stay
                walk.mark = f"{setting}/{state}/{days}"
            yield walk

    def _delete_audit(self) -> bool:
        """Delete lines of the audit trail, and add one line with their number.

        Only whole days (UTC), because otherwise each old line would cause a new line.
        """
        days = self._values.keep_audit
        before = (clock.now() - days * clock.DAY) // clock.DAY * clock.DAY
        with reading() as session:
            found = session.execute(_FIRST_LINES).all() if days else []
        if not any(row.at < before for row in found):
            return False
        with writing(self._lock_timeout, wakes_workers=False) as session:
            # Read again, because another process may delete and lock the same lines.
            found = session.execute(_FIRST_LINES.with_for_update(skip_locked=True)).all()
            old = [row for row in found if row.at < before]
            ids = [row.id for row in old[: max(1, deletion.number_that_fits(row.size for row in old))]]
            if ids:
                details = [{"lines": len(ids), "before": clock.to_iso(before)}]
                # This line first: the trigger that protects the audit trail requires it.
                audit.note(session, "prune", ["audit"], RULE, details=details, origin=Origin("worker"))
                session.execute(delete(Audit).where(Audit.id.in_(ids)))
        return bool(ids)

    def _delete_fires(self) -> bool:
        """Delete old fires from the ledgers of schedules."""
        before = clock.now() - self._values.keep_fires * clock.DAY
        key = Fire.schedule_id, Fire.due_at
        with reading() as session:
            old = select(*key).where(Fire.decided_at < before).order_by(Fire.decided_at).limit(RECORDS)
            keys = session.execute(old).tuples().all() if self._values.keep_fires else []
        if keys:
            with writing(self._lock_timeout, wakes_workers=False) as session:
                session.execute(delete(Fire).where(tuple_(*key).in_(keys)))
        return len(keys) == RECORDS

    def _delete_messages(self) -> bool:
        """Delete old messages of notifications, and alerts that ended so long ago."""
        before, days = clock.now() - self._values.keep_deliveries * clock.DAY, self._values.keep_deliveries
        # Messages by id, which is about the order of time: their texts are long, and no index has all by time.
        first = select(Delivery.id, Delivery.ended_at).order_by(Delivery.id).limit(2 * RECORDS)
        old = min(before, clock.now() - NEW_AGAIN)
        closed = select(Alert.id).where(Alert.closed_at < old, Alert.last_at < old).limit(RECORDS)
        with reading() as session:
            sent = [row.id for row in session.execute(first) if row.ended_at is not None and row.ended_at < before]
            ids = {Delivery: sent[:RECORDS], Alert: list(session.scalars(closed))} if days else {}
        return self._delete_by_id(ids)

    def _delete_notices(self) -> bool:
        """Delete notices to which the rules were applied."""
        old = select(Notice.id).where(_TAKEN, Notice.taken_at < clock.now() - KEEP_NOTICES)
        with reading() as session:
            ids = list(session.scalars(old.order_by(Notice.taken_at).limit(RECORDS)))
        return self._delete_by_id({Notice: ids})

    def _delete_by_id(self, ids: Mapping[Any, Sequence[int]]) -> bool:
        if any(ids.values()):
            with writing(self._lock_timeout, wakes_workers=False) as session:
                for model, old in ids.items():
                    session.execute(delete(model).where(model.id.in_(old)))
        return any(len(old) == RECORDS for old in ids.values())

    def _delete_events(self) -> bool:
        """Delete events without a job. Events of a job are deleted with it."""
        before = clock.now() - KEEP_RECORDS
        next_ones = select(Event.id, Event.at, Event.job_seq).where(Event.id > self._event).order_by(Event.id)
        with reading() as session:
            rows = session.execute(next_ones.limit(10 * RECORDS)).tuples().all()
        old = [(id_, job_seq) for id_, at, job_seq in rows if at < before]
        ids = [id_ for id_, job_seq in old if job_seq is None][:RECORDS]
        if ids:
            with writing(self._lock_timeout, wakes_workers=False) as session:
                session.execute(delete(Event).where(Event.id.in_(ids)))
        # Ids are in order of time: if none of these is old, no later one is.
        self._event = (ids[-1] if len(ids) == RECORDS else rows[-1][0]) if old else 0
        return bool(old)

    def _delete_answers(self) -> bool:
        """Delete idempotency keys with their answers. One answer may be as long as a batch of 1,000 jobs."""
        size = func.coalesce(func.length(IdempotencyKey.answer), 0)
        key = IdempotencyKey.token_id, IdempotencyKey.key
        old = select(*key, size).where(IdempotencyKey.at < clock.now() - KEEP_IDEMPOTENCY_KEYS)
        with reading() as session:
            rows = session.execute(old.limit(RECORDS)).all()
        number = max(1, deletion.number_that_fits(row[2] for row in rows))
        keys = [(row[0], row[1]) for row in rows[:number]]
        if keys:
            with writing(self._lock_timeout, wakes_workers=False) as session:
                session.execute(delete(IdempotencyKey).where(tuple_(*key).in_(keys)))
        return len(rows) == RECORDS or len(rows) > number

    def _delete_groups(self) -> bool:
        """Delete the history of failure groups without dead letters and without a note or an owner."""
        has_jobs = exists().where(_IS_DEAD, Job.error_key == Group.key)
        silent = Group.last_at < clock.now() - KEEP_RECORDS, Group.note == "", Group.owner.is_(None), ~has_jobs
        with reading() as session:
            keys = list(session.scalars(select(Group.key).where(*silent).order_by(Group.last_at).limit(RECORDS)))
        if keys:
            with writing(self._lock_timeout, wakes_workers=False) as session:
                session.execute(delete(Group).where(Group.key.in_(keys), *silent))
        return len(keys) == RECORDS

    def _delete_starts(self) -> bool:
        """Delete starts of limited jobs that have left every window. Of keys in use, claims keep only the last ones."""
        key = LimitStart.key, LimitStart.number
        old = select(*key).where(LimitStart.started_at < clock.now() - LONGEST_WINDOW)
        with reading() as session:
            keys = session.execute(old.order_by(LimitStart.started_at).limit(RECORDS)).tuples().all()
        if keys:
            with writing(self._lock_timeout, wakes_workers=False) as session:
                session.execute(delete(LimitStart).where(tuple_(*key).in_(keys)))
        return len(keys) == RECORDS

    def _delete_others(self) -> bool:
        """Delete from small tables."""
        now = clock.now()
        with writing(self._lock_timeout, wakes_workers=False) as session:
            session.execute(delete(Worker).where(Worker.state != "running", Worker.stopped_at < now - KEEP_WORKERS))
            gone = Supervisor.stopped_at < now - KEEP_WORKERS, Supervisor.seen_at < now - KEEP_SILENT
            session.execute(delete(Supervisor).where(or_(*gone)))
            session.execute(delete(SetupLink).where(SetupLink.expires_at < now))
            sessions.prune(session)
            login_throttle.prune(session)
            over = BulkAction.state.in_(("done", "stopped")), BulkAction.finished_at < now - KEEP_RECORDS
            session.execute(delete(BulkAction).where(*over))
        return False


def _delete_output(walk: Walk) -> bool:
    _, more = walk.delete_output()
    return more


def _keeps(values: Settings, setting: str, days: int, queue: str) -> bool:
    return values.keep(setting, queue) == days
