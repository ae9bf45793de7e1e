"""Decides fires that are due: one row of the ledger each, with its job, in one transaction. Plain SQL.

Each maintenance process has a decider. They may share a database: a decider locks the schedule's row, and decides only
from the cursor that it has read. So each fire is decided once, and no decider waits for another.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Callable, Optional

from webapp.core import enqueue, events, schema
from webapp.core.job_spec import SpecError, load_json
from webapp.core.statements import ASK_CANCEL, CANCEL, RULE_MOVE, RULE_RESTORE
from webapp.core.transaction import Connection, Transaction
from webapp.lib import clock
from webapp.schedules import policy
from webapp.schedules.policy import Decision, Pause, Plan
from webapp.schedules.spec import ScheduleSpec, parse

log = logging.getLogger("queuectl.schedules")

BATCH = 30  # schedules of one transaction: about 15 ms under the write lock
FIRES = 500  # fires of one transaction
REFRESH_BATCH = 100  # schedules

_COLUMNS = "id, name, spec, cursor, version, paused_at, paused_until, paused_by, waiting_since, next_fire_at, broken"
_DUE = f"""
SELECT {_COLUMNS} FROM schedules WHERE next_fire_at <= :now AND waiting_since IS NULL
ORDER BY next_fire_at LIMIT {BATCH}
"""  # noqa: S608
_WAITING = f"""
SELECT {_COLUMNS} FROM schedules WHERE waiting_since IS NOT NULL
AND NOT EXISTS (SELECT 1 FROM jobs WHERE schedule = schedules.name AND finished_at IS NULL) ORDER BY waiting_since
"""  # noqa: S608
_NAMED = f"SELECT {_COLUMNS} FROM schedules WHERE name = :name"  # noqa: S608
_ALL = f"SELECT {_COLUMNS} FROM schedules WHERE id > :id ORDER BY id LIMIT {REFRESH_BATCH}"  # noqa: S608
NEXT = """
SELECT (SELECT min(next_fire_at) FROM schedules WHERE waiting_since IS NULL),
       (SELECT count(*) FROM schedules WHERE waiting_since IS NOT NULL)
"""
_LOCK = "SELECT 1 FROM schedules WHERE id = :id AND cursor = :cursor AND version = :version"
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

    def decide(self) -> bool:
        """Decide what is due, in a few short transactions. Returns whether anything was decided.

        Raises the connection's errors.
        """
        connection, now = self._connection, clock.now()
        rows = [Row(*row) for row in connection.query(_DUE, {"now": now})]
        rows += [Row(*row) for row in connection.query(_WAITING)]
        if not rows or connection.scalar(schema.REVISION) != schema.HEAD:
            return False  # the decider of the newer version does the work
        decided = 0
        for some in _transactions(self._readable(rows, now)):
            with connection.transaction(wakes_workers=True) as transaction:
                decided += sum(decide_one(transaction, one, now) for one in some)
        return decided > 0

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
        try:
            return due_of(row, now)
        except SpecError as error:
            words = str(error)
        log.error("schedule %s is broken and does nothing: %s", row.name, words)
        values = {"id": row.id, "cursor": row.cursor, "version": row.version, "next": None, "broken": words}
        with self._connection.transaction() as transaction:
            transaction.execute(_REFRESH, values)
        return None


def _refreshed(row: Row) -> Optional[dict[str, Any]]:
    """The values of _REFRESH, if they change anything."""
    broken: Optional[str] = None
    following = None
    try:
        following = spec_of(row.text).timing.next_after(row.cursor)
    except SpecError as error:
        broken = str(error)
    if (following, broken) == (row.next_fire_at, row.broken):
        return None
    return {"id": row.id, "cursor": row.cursor, "version": row.version, "next": following, "broken": broken}


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


def decide_one(transaction: Transaction, due: Due, now: int) -> int:
    """Decide fires of one schedule. Returns how many; 0 if another decider or an edit was first."""
    row = due.row
    guard = {"id": row.id, "cursor": row.cursor, "version": row.version}
    lock = _LOCK if transaction.is_sqlite else f"{_LOCK} FOR UPDATE SKIP LOCKED"
    if not due.fires or transaction.execute(lock, guard).fetchone() is None:
        return 0
    active = transaction.execute(_ACTIVE, {"name": row.name}).fetchall()
    plan = _plan(due, active, now)
    if plan.replaces and row.waiting_since is None:
        running = _cancel(transaction, row.name, active)
        plan = plan if running else _plan(due, [], now)
    write(transaction, due, plan, now)
    return len(plan.decisions)


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
    row, decisions = due.row, list(plan.decisions)
    jobs: list[Optional[str]] = [None] * len(decisions)
    for place, decision in enumerate(decisions):
        if decision.runs:
            try:
                (jobs[place],) = enqueue.store(transaction, [due.spec.job], actor_of(row.name), schedule=row.name)
            except SpecError as error:
                decisions[place] = Decision(decision.due, "skipped", f"not enqueued: {error}")
    add_fires(transaction, row.id, decisions, jobs, now)
    undecided = due.fires[len(decisions) :]
    following = undecided[0] if undecided else due.following
    waiting = (row.waiting_since or following) if plan.waits else None
    if not decisions and waiting == row.waiting_since:
        return
    last = max((decision.due for decision in decisions if decision.runs), default=None)
    cursor = decisions[-1].due if decisions else row.cursor
    values = {"id": row.id, "cursor": cursor, "next": following, "waiting": waiting, "last": last}
    transaction.execute(_MOVE, values)


def add_fires(
    transaction: Transaction, schedule_id: int, decisions: Sequence[Decision], jobs: Sequence[Optional[str]], now: int
) -> None:
    """Add rows to the ledger. `jobs`: the id of the job that each fire made."""
    rows = [
        (schedule_id, decision.due, now, decision.outcome, decision.reason or None, job_id)
        for decision, job_id in zip(decisions, jobs)
    ]
    if rows:
        transaction.insert("fires", _FIRE, rows)


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
