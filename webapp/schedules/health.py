"""Late, long and failing schedules. A breach is stored once, with an event; its end is another event.

In plain SQL, because the maintenance process runs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable, Optional

from webapp.core import events, notices
from webapp.core.job_spec import SpecError
from webapp.core.storage.transaction import Connection, Transaction
from webapp.lib import clock
from webapp.lib.durations import duration
from webapp.schedules.decider import spec_of
from webapp.schedules.policy import is_paused

BREACHES = ("late", "long", "failing")
MIN_RUNS = 5  # completed runs from which the usual duration is known
SAMPLE = 30  # of the last runs
BATCH = 50  # schedules between two looks at what is due
LONG_FACTOR, LONG_MARGIN = 3, 60.0  # a run is long after three times the median, and a minute more than it
RULE = "rule:schedules"  # the actor of these events

_FIRED = "SELECT name FROM schedules WHERE last_fire_at >= :since"
_BREACHED = "SELECT name FROM schedules WHERE late_since > 0 OR long_since > 0 OR failing_since > 0"
_ACTIVE = "SELECT schedule, state, started_at, created_at FROM jobs WHERE schedule IS NOT NULL AND finished_at IS NULL"
_ROW = """
SELECT id, spec, paused_at, paused_until, late_since, long_since, failing_since FROM schedules WHERE name = :name
"""
_ENDED = """
SELECT state, started_at, finished_at FROM jobs WHERE schedule = :name AND finished_at IS NOT NULL
ORDER BY seq DESC LIMIT :limit
"""
_SET = "UPDATE schedules SET {breach}_since = :now WHERE id = :id AND {breach}_since IS NULL"
_CLEAR = "UPDATE schedules SET {breach}_since = NULL WHERE id = :id AND {breach}_since IS NOT NULL"


class Health:
    """Checks the schedules that had something to do since the last check. For one thread."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._checked_at: Optional[int] = None  # None: check all that ever fired
        self._active: set[str] = set()  # schedules whose jobs had not ended at the last check

    def check(self, between: Callable[[], object] = lambda: None) -> None:
        """Store breaches that began or ended. Calls `between` every few schedules. Raises the connection's errors."""
        connection, now = self._connection, clock.now()
        names = {name for (name,) in connection.query(_FIRED, {"since": self._checked_at or 0})}
        active: dict[str, list[tuple[str, Optional[int], int]]] = {}
        for name, state, started_at, created_at in connection.query(_ACTIVE):
            active.setdefault(name, []).append((state, started_at, created_at))
        names |= self._active | {*active} | {name for (name,) in connection.query(_BREACHED)}
        self._checked_at, self._active = now, {*active}
        for place, name in enumerate(sorted(names), 1):
            self._check_one(name, active.get(name, []), now)
            if place % BATCH == 0:
                between()

    def _check_one(self, name: str, active: list[tuple[str, Optional[int], int]], now: int) -> None:
        found = self._connection.query(_ROW, {"name": name})
        if not found:
            return  # removed
        id_, text, paused_at, paused_until, *since = found[0]
        try:
            spec = spec_of(text)
        except SpecError:
            return
        values = {"name": name, "limit": max(SAMPLE, spec.failing_after)}
        ended = self._connection.query(_ENDED, values)
        paused = is_paused(paused_at, paused_until, now)
        reasons = {
            "late": None if paused else _late(active, clock.seconds(spec.late_after), now),
            "long": _long(active, ended, now),
            "failing": _failing([state for state, _, _ in ended], spec.failing_after),
        }
        before = dict(zip(BREACHES, since))
        if any((reasons[breach] is None) != (before[breach] is None) for breach in BREACHES):
            with self._connection.transaction() as transaction:
                _latch(transaction, {"id": id_, "name": name, "now": now}, before, reasons)


def _latch(
    transaction: Transaction,
    row: Mapping[str, Any],
    before: Mapping[str, Optional[int]],
    reasons: Mapping[str, Optional[str]],
) -> None:
    subject, now = f"schedule:{row['name']}", row["now"]
    values = {"id": row["id"]}
    for breach, reason in reasons.items():
        since = before[breach]
        if reason is not None and since is None:
            if transaction.execute(_SET.format(breach=breach), {**values, "now": now}).rowcount:
                events.record(transaction, f"schedule_{breach}", subject, RULE, detail={"reason": reason})
                notices.record(transaction, f"schedule-{breach}", subject, at=now, detail={"reason": reason})
        elif (
            reason is None and since is not None and transaction.execute(_CLEAR.format(breach=breach), values).rowcount
        ):
            detail = {"what": breach, "for": (now - since) / clock.SECOND}
            events.record(transaction, "schedule_recovered", subject, RULE, detail=detail)
            notices.record(transaction, f"schedule-{breach}", subject, at=now, detail={"recovered": True})


def _late(active: list[tuple[str, Optional[int], int]], late_after: int, now: int) -> Optional[str]:
    waits = [now - created_at for state, started_at, created_at in active if started_at is None]
    longest = max(waits, default=0)
    return f"its job has waited for {duration(longest / clock.SECOND)}" if longest > late_after else None


def _long(active: list[tuple[str, Optional[int], int]], ended: list[tuple[Any, ...]], now: int) -> Optional[str]:
    usual = usual_seconds([(state, started_at, finished_at) for state, started_at, finished_at in ended])
    runs = [now - started_at for state, started_at, _ in active if state == "processing" and started_at is not None]
    longest = max(runs, default=0) / clock.SECOND
    if usual is None or longest <= max(LONG_FACTOR * usual, usual + LONG_MARGIN):
        return None
    return f"its job has run for {duration(longest)}, usually {duration(usual)}"


def usual_seconds(ended: list[tuple[str, Optional[int], Optional[int]]]) -> Optional[float]:
    """The median duration of completed runs (state, start and end in microseconds); None if there are few."""
    runs = sorted((end - start) / clock.SECOND for state, start, end in ended if state == "completed" and start and end)
    return runs[len(runs) // 2] if len(runs) >= MIN_RUNS else None


def _failing(states: list[str], failing_after: int) -> Optional[str]:
    last = [state for state in states if state != "cancelled"][:failing_after]
    if not failing_after or len(last) < failing_after or set(last) != {"dead"}:
        return None
    return "its last run failed" if failing_after == 1 else f"its last {failing_after} runs failed"
