"""Decides fires that are due: one row of the ledger each, with its job, in one transaction. Plain SQL.

Each maintenance process has a decider. They may share a database: a decider locks the schedule's row, and decides only
from the cursor that it has read. So each fire is decided once, and no decider waits for another.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Callable, Optional, Union

from webapp.core import enqueue, events, notices
from webapp.core.job_spec import JobSpec, SpecError, load_json
from webapp.core.statements import ASK_CANCEL, CANCEL, RULE_MOVE, RULE_RESTORE
from webapp.core.storage import schema
from webapp.core.storage.transaction import Connection, Transaction
from webapp.lib import clock
from webapp.schedules import policy
from webapp.schedules.policy import Decision, Pause, Plan
from webapp.schedules.spec import ScheduleSpec, parse

log = logging.getLogger("queuectl.schedules")

BATCH = 30  # schedules of one transaction: about 3 ms under the write lock
FIRES = 500  # fires of one transaction
REFRESH_BATCH = 100  # schedules
CHECKPOINT_FIRES = 500  # about 4 MiB of SQLite's log
LONGEST_WAIT = 5 * clock.SECOND  # for the write lock; after a longer wait, other fires are due

_COLUMNS = "id, name, spec, cursor, version, paused_at, paused_until, paused_by, waiting_since, next_fire_at, broken"
_DUE = f"""
SELECT {_COLUMNS} FROM schedules WHERE next_fire_at <= :now AND waiting_since IS NULL
ORDER BY next_fire_at {{order}} LIMIT {BATCH}
"""  # noqa: S608
_OLDEST, _NEWEST = _DUE.format(order="ASC"), _DUE.format(order="DESC")
_WAITING = f"""
SELECT {_COLUMNS} FROM schedules WHERE waiting_since IS NOT NULL
AND NOT EXISTS (SELECT 1 FROM jobs WHERE schedule = schedules.name AND finished_at IS NULL)
ORDER BY waiting_since LIMIT {BATCH}
"""  # noqa: S608
_NAMED = f"SELECT {_COLUMNS} FROM schedules WHERE name = :name"  # noqa: S608
_ALL = f"SELECT {_COLUMNS} FROM schedules WHERE id > :id ORDER BY id LIMIT {REFRESH_BATCH}"  # noqa: S608
NEXT = """
SELECT (SELECT min(next_fire_at) FROM schedules WHERE waiting_since IS NULL),
       (SELECT count(*) FROM schedules WHERE waiting_since IS NOT NULL)
"""
_LOCK = """
SELECT id, cursor, version, EXISTS (SELECT 1 FROM jobs WHERE schedule = schedules.name AND finished_at IS NULL)
FROM schedules WHERE id
"""
_LISTED = {True: "IN (SELECT value FROM json_each(:ids))", False: "= ANY(:ids) FOR UPDATE SKIP LOCKED"}
_ACTIVE = """
SELECT id, state FROM jobs WHERE schedule = :name AND finished_at IS NULL
ORDER BY CASE state WHEN 'processing' THEN 0 ELSE 1 END, seq LIMIT 100
"""
_MOVE = """
UPDATE schedules SET cursor = :cursor, next_fire_at = :next, waiting_since = :waiting,
                     last_fire_at = coalesce(:last, last_fire_at)
WHERE id = :id
"""
_REASONS = {RULE_RESTORE: "the database was restored", RULE_MOVE: "the queue was moved"}
_FIRE = ("schedule_id", "due_at", "decided_at", "outcome", "reason", "job_id")
_REFRESH = """
UPDATE schedules SET next_fire_at = :next, broken = :broken WHERE id = :id AND cursor = :cursor AND version = :version
"""


@dataclass(frozen=True)
class Row:
    """A row of `schedules`, as the decider reads it."""

    id: int
    name: str
    text: str
    cursor: int
    version: int
    paused_at: Optional[int]
    paused_until: Optional[int]
    paused_by: Optional[str]
    waiting_since: Optional[int]
    next_fire_at: Optional[int]
    broken: Optional[str]

    @property
    def pause(self) -> Optional[Pause]:
        if self.paused_at is None:
            return None
        return Pause(self.paused_until, _REASONS.get(self.paused_by or "", "paused"))


@dataclass(frozen=True)
class Due:
    """A schedule with fires that are due.

    Attributes:
        fires: the first FIRES of them, in microseconds.
        later: number of fires that are due after these, at most `catch_up_max`.
        following: the first fire after those in `fires`; None if there is none.
    """

    row: Row
    spec: ScheduleSpec
    fires: Sequence[int]
    later: int
    following: Optional[int]


@lru_cache(maxsize=2048)
def spec_of(text: str) -> ScheduleSpec:
    """The stored description of a schedule. Raises SpecError if this machine does not know its time zone."""
    return parse(load_json(text))


def named(transaction: Transaction, name: str, *, lock: bool = False) -> Optional[Row]:
    """The row of a schedule. `lock`: no decider touches it until the commit."""
    statement = _NAMED if transaction.is_sqlite or not lock else f"{_NAMED} FOR UPDATE"
    found = transaction.execute(statement, {"name": name}).fetchone()
    return None if found is None else Row(*found)


def due_of(row: Row, now: int) -> Due:
    """The fires of a schedule that are due. Raises SpecError if it is broken."""
    spec = spec_of(row.text)
    taken: list[int] = []
    following = None
    for fire in spec.timing.after(row.cursor):
        if fire > now or len(taken) == FIRES + spec.catch_up_max:
            following = fire
            break
        taken.append(fire)
    later = taken[FIRES:]
    return Due(row, spec, taken[:FIRES], len(later), later[0] if later else following)


class Decider:
    """Decides what is due in one database. For one thread."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._logged = 0  # fires since the last checkpoint

    def decide(self) -> bool:
        """Decide what is due, in a few short transactions. Returns whether anything was decided.

        Raises the connection's errors.
        """
        connection, now = self._connection, clock.now()
        rows = self._due(now)
        if not rows or connection.scalar(schema.REVISION) != schema.HEAD:
            return False  # the decider of the newer version does the work
        decided = 0
        for some in _transactions(self._readable(rows, now)):
            with connection.transaction(wakes_workers=True) as transaction:
                if clock.now() - now > LONGEST_WAIT:
                    return True  # look again: some of these fires are no longer on time
                decided += decide_all(transaction, some, now)
        self._checkpoint(decided)
        return decided > 0

    def _checkpoint(self, decided: int) -> None:
        """Move SQLite's log into the database without the write lock, before a commit does it with the lock."""
        self._logged += decided
        if self._connection.is_sqlite and self._logged >= CHECKPOINT_FIRES:
            self._logged = 0
            with suppress(*self._connection.errors):
                self._connection.query("PRAGMA wal_checkpoint(PASSIVE)")

    def _due(self, now: int) -> list[Row]:
        """Some schedules to decide. Those with a long backlog do not keep the others waiting."""
        rows = self._connection.query(_OLDEST, {"now": now})
        if len(rows) == BATCH:
            rows = self._connection.query(_NEWEST, {"now": now}) + rows
        rows += self._connection.query(_WAITING)
        return [Row(*row) for row in dict.fromkeys(rows)]

    def until_next(self) -> tuple[Optional[int], bool]:
        """The next fire of the schedules that do not wait (microseconds), and whether any fire waits for a job."""
        ((at, waiting),) = self._connection.query(NEXT)
        return at, waiting > 0

    def refresh(self, between: Callable[[], object] = lambda: None) -> None:
        """Compute all next fires again: rules of time zones change, and zones appear and vanish.

        Calls `between` every few schedules.
        """
        last = 0
        while rows := [Row(*row) for row in self._connection.query(_ALL, {"id": last})]:
            last = rows[-1].id
            changed = [values for row in rows if (values := _refreshed(row)) is not None]
            if changed:
                with self._connection.transaction() as transaction:
                    transaction.execute_many(_REFRESH, changed)
            between()

    def _readable(self, rows: Sequence[Row], now: int) -> Iterator[Due]:
        for row in rows:
            found = self._due_unless_broken(row, now)
            if found is not None:
                yield found

    def _due_unless_broken(self, row: Row, now: int) -> Optional[Due]:
        due, following, broken = None, None, None
        try:
            due = due_of(row, now)
            following = due.following
        except Exception as error:  # other schedules continue
            broken = _why_broken(row, error)
        if due is not None and due.fires:
            return due
        # It is broken, or the stored time is wrong: another host knows other rules of its time zone.
        values = _refresh_values(row, following, broken)
        if values is not None:
            with self._connection.transaction() as transaction:
                transaction.execute(_REFRESH, values)
        return None


def _refreshed(row: Row) -> Optional[dict[str, Any]]:
    """The values of _REFRESH, if they change anything."""
    try:
        return _refresh_values(row, spec_of(row.text).timing.next_after(row.cursor), None)
    except Exception as error:  # other schedules continue
        return _refresh_values(row, None, _why_broken(row, error))


def _refresh_values(row: Row, following: Optional[int], broken: Optional[str]) -> Optional[dict[str, Any]]:
    if (following, broken) == (row.next_fire_at, row.broken):
        return None
    return {"id": row.id, "cursor": row.cursor, "version": row.version, "next": following, "broken": broken}


def _why_broken(row: Row, error: Exception) -> str:
    """The message, which is also logged if it is new."""
    is_fault = not isinstance(error, SpecError)
    words = f"a fault in this program: {error!r}" if is_fault else str(error)
    if words != row.broken:
        log.error("schedule %s is broken and does nothing: %s", row.name, words, exc_info=is_fault)
    return words


def _transactions(found: Iterator[Due]) -> Iterator[list[Due]]:
    """Group schedules so that a transaction decides at most FIRES fires and BATCH schedules."""
    some: list[Due] = []
    size = 0
    for one in found:
        if some and (len(some) == BATCH or size + len(one.fires) > FIRES):
            yield some
            some, size = [], 0
        some.append(one)
        size += len(one.fires)
    if some:
        yield some


def decide_all(transaction: Transaction, some: Sequence[Due], now: int) -> int:
    """Decide fires of some schedules. Returns how many: none of a schedule that another decider or an edit has changed.

    All schedules share each statement, because on PostgreSQL trips to the server cost most.
    """
    ids = [due.row.id for due in some]
    statement = f"{_LOCK} {_LISTED[transaction.is_sqlite]}"
    found = transaction.execute(statement, {"ids": json.dumps(ids) if transaction.is_sqlite else ids}).fetchall()
    locked = {(key, cursor, version): bool(active) for key, cursor, version, active in found}
    planned = []
    for due in some:
        active = locked.get((due.row.id, due.row.cursor, due.row.version))
        if active is not None:
            planned.append((due, _plan_one(transaction, due, now, active=active)))
    _write_all(transaction, planned, now)
    return sum(len(plan.decisions) for _, plan in planned)


def _plan_one(transaction: Transaction, due: Due, now: int, *, active: bool) -> Plan:
    """The decisions for one schedule. Jobs that it replaces are cancelled. `active`: some have not ended."""
    row, jobs = due.row, []
    if active and due.spec.overlap != "allow":
        jobs = transaction.execute(_ACTIVE, {"name": row.name}).fetchall()
    plan = _plan(due, jobs, now)
    if plan.replaces and row.waiting_since is None and not _cancel(transaction, row.name, jobs):
        return _plan(due, [], now)
    return plan


def _plan(due: Due, active: Sequence[tuple[str, str]], now: int) -> Plan:
    return policy.decide(
        due.spec,
        due.fires,
        due.later,
        now,
        active=[job_id for job_id, _ in active],
        pause=due.row.pause,
        waited=due.row.waiting_since is not None,
    )


def write(transaction: Transaction, due: Due, plan: Plan, now: int) -> None:
    """Store decisions with their jobs, and move the cursor behind them."""
    _write_all(transaction, [(due, plan)], now)


def _write_all(transaction: Transaction, planned: Sequence[tuple[Due, Plan]], now: int) -> None:
    stored, fires, moves = iter(_store_jobs(transaction, planned)), [], []
    for due, plan in planned:
        decisions = []
        for decision in plan.decisions:
            job_id = next(stored) if decision.runs else None
            if isinstance(job_id, SpecError):
                decision, job_id = Decision(decision.due, "skipped", f"not enqueued: {job_id}"), None
            decisions.append(decision)
            fires.append(_fire_row(due.row.id, decision, job_id, now))
        moves += _move(due, plan, decisions)
        _record_missed(transaction, due.row, decisions, now)
    if fires:
        transaction.insert("fires", _FIRE, fires)
    if moves:
        transaction.execute_many(_MOVE, moves)


def _record_missed(transaction: Transaction, row: Row, decisions: Sequence[Decision], now: int) -> None:
    missed = [decision for decision in decisions if decision.outcome == "missed"]
    if missed:
        detail = {"number": len(missed), "first": missed[0].due, "last": missed[-1].due, "reason": missed[-1].reason}
        notices.record(transaction, "schedule-missed", f"schedule:{row.name}", at=now, detail=detail)


def _store_jobs(transaction: Transaction, planned: Sequence[tuple[Due, Plan]]) -> list[Union[str, SpecError]]:
    """The id of the job of each fire that runs, or why there is none."""
    jobs = [
        (due.spec.job, actor_of(due.row.name), due.row.name)
        for due, plan in planned
        for decision in plan.decisions
        if decision.runs
    ]
    try:
        return [*enqueue.store_fires(transaction, jobs)]
    except SpecError:
        return [_store_job(transaction, job) for job in jobs]


def _store_job(transaction: Transaction, job: tuple[JobSpec, str, str]) -> Union[str, SpecError]:
    try:
        return enqueue.store_fires(transaction, [job])[0]
    except SpecError as error:
        return error


def _move(due: Due, plan: Plan, decisions: Sequence[Decision]) -> list[dict[str, Any]]:
    """The values of _MOVE, if anything changes."""
    row = due.row
    undecided = due.fires[len(decisions) :]
    following = undecided[0] if undecided else due.following
    waiting = (row.waiting_since or following) if plan.waits else None
    if not decisions and waiting == row.waiting_since:
        return []
    last = max((decision.due for decision in decisions if decision.runs), default=None)
    cursor = decisions[-1].due if decisions else row.cursor
    return [{"id": row.id, "cursor": cursor, "next": following, "waiting": waiting, "last": last}]


def add_fires(
    transaction: Transaction, schedule_id: int, decisions: Sequence[Decision], jobs: Sequence[Optional[str]], now: int
) -> None:
    """Add rows to the ledger. `jobs`: the id of the job that each fire made."""
    rows = [_fire_row(schedule_id, decision, job_id, now) for decision, job_id in zip(decisions, jobs)]
    if rows:
        transaction.insert("fires", _FIRE, rows)


def _fire_row(schedule_id: int, decision: Decision, job_id: Optional[str], now: int) -> tuple[Any, ...]:
    return schedule_id, decision.due, now, decision.outcome, decision.reason or None, job_id


def actor_of(name: str) -> str:
    """Who enqueues and cancels for a schedule, in jobs and events."""
    return f"schedule:{name}"


def _cancel(transaction: Transaction, name: str, active: Sequence[tuple[str, str]]) -> bool:
    """Cancel the schedule's jobs that wait, and ask the running ones to stop. Returns whether any runs."""
    now, actor = clock.now(), actor_of(name)
    running = [job_id for job_id, state in active if state == "processing"]
    for job_id, _ in active:
        asks = job_id in running
        values = {"id": job_id, "now": now, **({"actor": actor} if asks else {})}
        found = transaction.execute(ASK_CANCEL if asks else CANCEL, values).fetchone()
        if found is not None:
            events.record(transaction, "ask_cancel" if asks else "cancel", f"job:{job_id}", actor, seq=found[0])
    if running:
        transaction.execute(schema.BUMP_REVISION)
    return bool(running)
