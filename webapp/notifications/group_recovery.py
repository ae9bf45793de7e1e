"""Finds failure groups that have recovered: a job of theirs completes, or one whose command has the same pattern."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Optional

from webapp.core.storage.transaction import Connection
from webapp.lib import clock
from webapp.lib.command_patterns import COMMAND_PREFIX, command_shape
from webapp.notifications import alerts
from webapp.notifications.alerts import GROUP, Row

CALM = 60 * clock.SECOND  # without a failure: of jobs of one pattern, some may fail while others complete
BATCH = 2000  # completed jobs of one look
MOST_ALERTS = 5000
LOOK_BACK = 900 * clock.SECOND  # at a start; while no maintenance process ran, no worker did
# On PostgreSQL a transaction may be committed later than others of its time; the server ends it if it idles for 10 s.
LATE_COMMITS = 15 * clock.SECOND

_IS_GROUP = f"key LIKE '{GROUP}%'"
_COMPLETED = f"""
SELECT seq, finished_at, substr(command, 1, {COMMAND_PREFIX}), attempts FROM jobs
WHERE state = 'completed' AND finished_at IS NOT NULL AND (finished_at, seq) > (:at, :seq) AND finished_at <= :until
ORDER BY finished_at, seq LIMIT {BATCH}
"""  # noqa: S608
_NEWEST_JOBS = f"SELECT seq, substr(command, 1, {COMMAND_PREFIX}) FROM jobs WHERE seq {{among}}"  # noqa: S608
_FAILED_BEFORE = "SELECT job_seq, error_key FROM attempts WHERE error_key IS NOT NULL AND job_seq {among}"
# Those that completed before this process began to look.
_NEWEST_COMPLETED = f"""
SELECT alerts.id, jobs.finished_at FROM alerts JOIN jobs ON jobs.seq = alerts.job_seq
WHERE closed_at IS NULL AND {_IS_GROUP} AND jobs.state = 'completed' AND jobs.finished_at > alerts.last_at
"""  # noqa: S608


class GroupRecovery:
    """Reads on from where it stopped, only while failure groups have open alerts. For one thread."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._mark: Optional[tuple[int, int]] = None  # end and number of the last completed job that was read
        self._known: set[int] = set()  # alerts
        self._patterns: dict[int, str] = {}  # by the number of an alert's newest job
        self._completed: dict[int, int] = {}  # by alert: when a job of its group or pattern completed

    def tick(self) -> bool:
        """Close alerts of groups that have recovered. Returns whether there is more to read now."""
        rows = alerts.open_alerts(self._connection, _IS_GROUP, {}, MOST_ALERTS)
        if not rows:
            self._forget()
            return False
        is_left = self._read(rows)
        now = clock.now()
        ready = {row.id for row in rows if self._has_recovered(row, now)}
        alerts.recover_all(self._connection, ready, lambda row: self._has_recovered(row, now))
        return is_left or len(ready) > alerts.MOST_CHANGED

    def check_newest(self) -> None:
        """Look at the newest jobs of the alerts directly."""
        for alert_id, finished_at in self._connection.query(_NEWEST_COMPLETED):
            self._note(alert_id, finished_at)

    def _forget(self) -> None:
        self._mark = None
        self._known.clear()
        self._patterns.clear()
        self._completed.clear()

    def _read(self, rows: Sequence[Row]) -> bool:
        """Read some completed jobs. Returns whether there are more."""
        now = clock.now()
        fresh = [row.alert.last_at for row in rows if row.id not in self._known]
        self._known = {row.id for row in rows}
        self._completed = {key: at for key, at in self._completed.items() if key in self._known}
        start = (max(min(fresh, default=now), now - LOOK_BACK), 0)
        self._mark = start if self._mark is None else min(self._mark, start)
        until = now if self._connection.is_sqlite else now - LATE_COMMITS
        values = {"at": self._mark[0], "seq": self._mark[1], "until": until}
        completed = self._connection.query(_COMPLETED, values)
        if not completed:
            return False
        self._mark = (completed[-1][1], completed[-1][0])
        by_pattern, by_key = self._by_pattern(rows), dict[str, list[Row]]()
        for row in rows:
            by_key.setdefault(row.key.removeprefix(GROUP), []).append(row)
        again = {seq: finished_at for seq, finished_at, _, attempts in completed if attempts > 1}
        for _, finished_at, command, _ in completed:
            self._note_all(by_pattern.get(command_shape(command), ()), finished_at)
        for seq, key in self._among(_FAILED_BEFORE, again):
            self._note_all(by_key.get(key, ()), again[seq])
        return len(completed) == BATCH

    def _by_pattern(self, rows: Sequence[Row]) -> dict[str, list[Row]]:
        newest = {row.job_seq for row in rows if row.job_seq is not None}
        self._patterns = {seq: pattern for seq, pattern in self._patterns.items() if seq in newest}
        missing = newest - {*self._patterns}
        self._patterns.update({seq: command_shape(command) for seq, command in self._among(_NEWEST_JOBS, missing)})
        found: dict[str, list[Row]] = {}
        for row in rows:
            pattern = self._patterns.get(row.job_seq) if row.job_seq is not None else None
            if pattern is not None:
                found.setdefault(pattern, []).append(row)
        return found

    def _among(self, statement: str, numbers: Iterable[int]) -> list[tuple[Any, ...]]:
        listed: Any = list(numbers)
        if not listed:
            return []
        is_sqlite = self._connection.is_sqlite
        among = "IN (SELECT value FROM json_each(:numbers))" if is_sqlite else "= ANY(:numbers)"
        return self._connection.query(
            statement.format(among=among), {"numbers": json.dumps(listed) if is_sqlite else listed}
        )

    def _note_all(self, rows: Iterable[Row], finished_at: int) -> None:
        for row in rows:
            self._note(row.id, finished_at)

    def _note(self, alert_id: int, finished_at: int) -> None:
        self._completed[alert_id] = max(finished_at, self._completed.get(alert_id, 0))

    def _has_recovered(self, row: Row, now: int) -> bool:
        completed_at, last_at = self._completed.get(row.id, 0), row.alert.last_at
        is_under_way = row.alert.flapping and row.alert.next_at is not None
        return completed_at > last_at and now - last_at >= CALM and not is_under_way
