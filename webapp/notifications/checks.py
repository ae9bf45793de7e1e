"""Checks what no notice reports: states of queues and the disk, groups that recovered, alerts without a cause.

Plain SQL. Each look reads a bounded number of rows; without a rule that needs it, it reads only the rules.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping
from typing import Any, Optional

from webapp.core import statements
from webapp.core.notices import SYSTEM_QUEUE
from webapp.core.storage import db_errors
from webapp.core.storage.transaction import Connection
from webapp.lib import clock
from webapp.notifications import alerts
from webapp.notifications.alerts import GROUP, Rule, Seen
from webapp.notifications.group_recovery import GroupRecovery

CHECK_EVERY = 30.0  # seconds
STATES = ("queue-old", "queue-unserved", "disk-low")  # events that hold for some time
UNSERVED_AFTER = 60 * clock.SECOND  # workers are being replaced
MOST_LABEL_SETS = 2000  # that one look reads
MOST_ALERTS = 5000
ORPHANS = 500  # alerts that one look closes

_SERVED = "SELECT queues FROM workers WHERE state = 'running' AND wish = 'run'"
_OLDEST = statements.OLDEST_IN_SET.format(jobs="state = 'pending' AND queue = :queue AND requires = :requires")
_ARE_STATES = f"event IN ({', '.join(repr(event) for event in STATES)})"
_BREACHES = " OR ".join(
    f"(alerts.event = 'schedule-{one}' AND {one}_since IS NOT NULL)" for one in ("late", "long", "failing")
)
# Alerts that will never recover: the rule no longer has the event; users or retention deleted all dead jobs of the
# group; the schedule was edited or removed. Alerts that have recovered are not among them.
_ORPHANED = f"""
NOT EXISTS (SELECT 1 FROM notification_rules
            WHERE id = alerts.rule_id AND events LIKE '%,' || alerts.event || ',%')
OR (flapping = 0 OR next_at IS NULL) AND (
    key LIKE '{GROUP}%'
    AND NOT EXISTS (SELECT 1 FROM jobs
                    WHERE state = 'dead' AND error_key = substr(alerts.key, {len(GROUP) + 1}))
    AND NOT EXISTS (SELECT 1 FROM jobs
                    WHERE seq = alerts.job_seq AND (finished_at IS NULL OR state = 'completed'))
    OR event IN ('schedule-late', 'schedule-long', 'schedule-failing')
    AND NOT EXISTS (SELECT 1 FROM schedules
                    WHERE alerts.event || ' schedule:' || name = alerts.key AND ({_BREACHES}))
    AND NOT EXISTS (SELECT 1 FROM notices
                    WHERE taken_at IS NULL AND alerts.event || ' ' || subject = alerts.key))
"""  # noqa: S608
_CLOSE = f"UPDATE alerts SET closed_at = :now, next_at = NULL WHERE id = :id AND closed_at IS NULL AND ({_ORPHANED})"  # noqa: S608

Found = dict[tuple[int, str], dict[str, Any]]  # by rule and key: what a message may say


class Checks:
    """See the module. For one thread."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._groups = GroupRecovery(connection)
        self._check_at = time.monotonic() + CHECK_EVERY  # workers may have just been started, too
        self._host = socket.gethostname()

    def tick(self) -> bool:
        """Look, if it is time. Returns whether there is more to do now. Raises the connection's errors, and Busy."""
        if time.monotonic() >= self._check_at:
            self._check_at = time.monotonic() + CHECK_EVERY
            self.check_states()
            self._close_orphans()
            self._groups.check_newest()
        return self._groups.tick()

    def check_states(self) -> None:
        """Open and close alerts about states that hold now, or no longer."""
        rules = {rule.id: rule for rule in alerts.peek_rules(self._connection) if {*STATES} & {*rule.spec.on}}
        if not rules:
            return
        rows = alerts.open_alerts(self._connection, _ARE_STATES, {}, MOST_ALERTS)
        found = self._found(rules)
        told = {(row.rule_id, row.key): row for row in rows}
        new = {
            place: detail
            for place, detail in found.items()
            if place not in told or (told[place].alert.flapping and told[place].alert.next_at is not None)
        }
        over = {row.id for place, row in told.items() if place not in found and self._may_end(row)}
        if new:
            self._count_in(new)
        alerts.recover_all(self._connection, over, lambda _: True)

    def _count_in(self, new: Found) -> None:
        now = clock.now()
        with alerts.exclusively(self._connection) as transaction:
            if transaction is None:
                return
            rules = {rule.id: rule for rule in alerts.read_rules(transaction)}
            for (rule_id, key), detail in sorted(new.items(), key=lambda pair: pair[0])[: alerts.MOST_CHANGED]:
                rule, event = rules.get(rule_id), key.partition(" ")[0]
                if rule is not None and event in rule.spec.on:
                    row = alerts.find_open(transaction, rule, key)
                    if row is None or row.alert.flapping:
                        alerts.count_in(transaction, rule, event, key, Seen(1, now, now, None, json.dumps(detail)), now)

    def _may_end(self, row: alerts.Row) -> bool:
        """On PostgreSQL each machine only knows its own disk."""
        ours = self._connection.is_sqlite or row.key == f"disk-low host:{self._host}"
        return row.alert.event != "disk-low" or ours

    def _found(self, rules: Mapping[int, Rule]) -> Found:
        """The problems that exist now."""
        found: Found = {}
        asked = {event for rule in rules.values() for event in rule.spec.on}
        oldest = self._oldest() if {"queue-old", "queue-unserved"} & asked else {}
        paused = {name for (name,) in self._connection.query(statements.PAUSED)} if oldest else set()
        served = self._served() if oldest and "queue-unserved" in asked else None
        free = db_errors.disk_nearly_full(self._connection.database.config) if "disk-low" in asked else None
        now = clock.now()
        for rule in rules.values():
            spec = rule.spec
            for queue, since in oldest.items():
                if spec.queue not in (None, queue):
                    continue
                detail = {"oldest": since, "paused": queue in paused}
                if "queue-old" in spec.on and now - since >= clock.seconds(spec.older_than):
                    found[rule.id, f"queue-old queue:{queue}"] = detail
                is_unserved = served is not None and queue not in served and queue not in paused
                if "queue-unserved" in spec.on and is_unserved and now - since >= UNSERVED_AFTER:
                    found[rule.id, f"queue-unserved queue:{queue}"] = detail
            if "disk-low" in spec.on and free is not None:
                found[rule.id, f"disk-low host:{self._host}"] = {"free": free, "host": self._host}
        return found

    def _oldest(self) -> dict[str, int]:
        """By queue: when its pending job that has waited longest became due."""
        query = self._connection.query
        label_sets = query(statements.ALL_LABEL_SETS)
        found: dict[str, int] = {}
        for queue, requires in sorted(label_sets)[:MOST_LABEL_SETS]:
            since = self._connection.scalar(_OLDEST, {"queue": queue, "requires": requires})
            if since is not None and queue != SYSTEM_QUEUE:
                found[queue] = min(since, found.get(queue, since))
        return found

    def _served(self) -> Optional[set[str]]:
        """The queues that running workers serve; None: all."""
        served: set[str] = set()
        for (queues,) in self._connection.query(_SERVED):
            if queues is None:
                return None
            served.update(json.loads(queues))
        return served

    def _close_orphans(self) -> None:
        """Close alerts that nothing would close, without a message."""
        rows = alerts.open_alerts(self._connection, f"({_ORPHANED})", {}, ORPHANS)
        if not rows:
            return
        with alerts.exclusively(self._connection) as transaction:
            if transaction is not None:
                for row in rows:
                    transaction.execute(_CLOSE, {"id": row.id, "now": clock.now()})
