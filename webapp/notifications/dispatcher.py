"""Turns notices into alerts, alerts into messages, and starts the jobs that send them. Plain SQL.

Each maintenance process has a dispatcher. They may share a database: one at a time works, the others continue with
their own work. A notice is taken in the transaction that counts it, so none is lost or counted twice.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

from webapp.core import enqueue
from webapp.core.storage.transaction import Connection, Transaction
from webapp.lib import clock
from webapp.lib.ids import new_job_id
from webapp.notifications import alerts, channels
from webapp.notifications.alerts import GROUP, Rule, Seen
from webapp.notifications.checks import Checks

RULE = "rule:notifications"  # the actor that enqueues senders
BATCH = 500  # notices of one transaction
MOST_ALERTS = 200  # that one transaction changes, or messages that it stores: about 15 ms under the write lock
BUDGET = 0.05  # seconds of one tick for notices
WATCHES = 2000  # watched jobs that one tick looks at
SENDERS = 100  # channels of one tick

_ANY_NOTICE = "SELECT 1 FROM notices WHERE taken_at IS NULL LIMIT 1"
_NOTICES = f"""
SELECT notices.id, at, event, subject, job_seq, detail, jobs.queue, jobs.schedule, jobs.command
FROM notices LEFT JOIN jobs ON jobs.seq = notices.job_seq WHERE taken_at IS NULL ORDER BY notices.id LIMIT {BATCH}
"""  # noqa: S608
# By their numbers: on PostgreSQL, one with a number between them may be committed meanwhile.
_TAKE = "UPDATE notices SET taken_at = :now WHERE taken_at IS NULL AND id {among}"
_AMONG = {True: "IN (SELECT value FROM json_each(:ids))", False: "= ANY(:ids)"}
_WATCHES = f"""
SELECT job_seq, channel_id, job_watches.created_by, jobs.id, jobs.state, finished_at IS NOT NULL
FROM job_watches JOIN jobs ON jobs.seq = job_seq
WHERE job_seq > :after ORDER BY job_seq, channel_id LIMIT {WATCHES}
"""  # noqa: S608
_END_WATCH = """
DELETE FROM job_watches WHERE job_seq = :seq AND channel_id = :channel
AND EXISTS (SELECT 1 FROM jobs WHERE seq = :seq AND finished_at IS NOT NULL)
"""
_WITHOUT_SENDER = f"""
SELECT id, sender_job FROM channels
WHERE EXISTS (SELECT 1 FROM deliveries
              WHERE channel_id = channels.id AND state = 'waiting' AND not_before <= :now)
  AND NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.id = channels.sender_job AND finished_at IS NULL)
ORDER BY id LIMIT {SENDERS}
"""  # noqa: S608
_SET_SENDER = "UPDATE channels SET sender_job = :job WHERE id = :id AND coalesce(sender_job, '') = :seen"


@dataclass(frozen=True)
class Notice:
    """A row of `notices` with the job that it is about, as far as it exists."""

    id: int
    at: int
    event: str
    subject: str
    job_seq: Optional[int]
    detail: Optional[str]
    queue: Optional[str]
    schedule: Optional[str]
    command: Optional[str]

    @property
    def is_recovery(self) -> bool:
        return self.detail is not None and json.loads(self.detail).get("recovered") is True


class Dispatcher:
    """Does what is due, in short transactions. For one thread."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._checks = Checks(connection)
        self._watched = 0  # number of the last watched job that was looked at

    def tick(self) -> bool:
        """Do some of what is due. Returns whether there is more of it now. Raises the connection's errors, and Busy."""
        is_left = self._take_notices()
        is_left |= self._tell_due_alerts()
        is_left |= self._checks.tick()
        self._tell_ended_jobs()
        self._start_senders()
        return is_left

    def _take_notices(self) -> bool:
        began = time.monotonic()
        while self._connection.scalar(_ANY_NOTICE) is not None:
            with alerts.exclusively(self._connection) as transaction:
                if transaction is None:
                    return False  # another process takes them
                take_notices(transaction)
            if time.monotonic() - began > BUDGET:
                return True
        return False

    def _tell_due_alerts(self) -> bool:
        now = clock.now()
        due = alerts.open_alerts(
            self._connection, "next_at IS NOT NULL AND next_at <= :now", {"now": now}, alerts.MOST_CHANGED
        )
        decided = alerts.with_rules(
            self._connection,
            [row.id for row in due],
            lambda transaction, rule, row: alerts.decide(transaction, rule, row, now),
        )
        return decided == alerts.MOST_CHANGED

    def _tell_ended_jobs(self) -> None:
        rows = self._connection.query(_WATCHES, {"after": self._watched})
        self._watched = rows[-1][0] - 1 if len(rows) == WATCHES else 0
        ended = [row for row in rows if row[5]][:MOST_ALERTS]
        if not ended:
            return
        with self._connection.transaction(alerts.LOCK_TIMEOUT) as transaction:
            for seq, channel_id, by, job_id, state, _ in ended:
                if transaction.execute(_END_WATCH, {"seq": seq, "channel": channel_id}).rowcount:
                    detail = {"job": job_id, "job_seq": seq, "state": state, "by": by}
                    alerts.add_delivery(transaction, channel_id, "job-ended", detail, now=clock.now())

    def _start_senders(self) -> None:
        if self._connection.scalar(_WITHOUT_SENDER, {"now": clock.now()}) is not None:
            with self._connection.transaction(alerts.LOCK_TIMEOUT) as transaction:
                ensure_senders(transaction)


def ensure_senders(transaction: Transaction) -> int:
    """Enqueue a sender for each channel that has messages to send now and whose last sender has ended.

    Returns how many. Several processes may do this at once: a channel never has two senders.
    """
    started = 0
    for channel_id, seen in transaction.execute(_WITHOUT_SENDER, {"now": clock.now()}).fetchall():
        job_id = new_job_id()
        if transaction.execute(_SET_SENDER, {"job": job_id, "id": channel_id, "seen": seen or ""}).rowcount:
            enqueue.store(transaction, [channels.sender_job(channel_id)._replace(id=job_id)], RULE)
            started += 1
    if started:
        transaction.wakes_workers = True
    return started


def take_notices(transaction: Transaction) -> None:
    """Count the oldest notices in the alerts of their rules: only as many as change a few alerts."""
    now = clock.now()
    rules = alerts.read_rules(transaction)
    taken: list[Notice] = []
    changed: set[tuple[int, str]] = set()
    for row in transaction.execute(_NOTICES).fetchall():
        notice = Notice(*row)
        for rule in rules:
            event = event_of(rule, notice)
            if event is not None:
                changed.add((rule.id, key_of(event, notice.subject)))
        if taken and len(changed) > MOST_ALERTS:
            break
        taken.append(notice)
    for rule in rules:
        _apply(transaction, rule, taken, now)
    ids: Any = [notice.id for notice in taken]
    take = _TAKE.format(among=_AMONG[transaction.is_sqlite])
    transaction.execute(take, {"now": now, "ids": json.dumps(ids) if transaction.is_sqlite else ids})


def _apply(transaction: Transaction, rule: Rule, notices: Sequence[Notice], now: int) -> None:
    seen: dict[tuple[str, str], Seen] = {}
    for notice in notices:
        event = event_of(rule, notice)
        if event is None:
            continue
        key = key_of(event, notice.subject)
        if notice.is_recovery:
            before = seen.pop((event, key), None)
            if before is not None:
                alerts.count_in(transaction, rule, event, key, before, now)
            row = alerts.find_open(transaction, rule, key)
            if row is not None:
                alerts.recover(transaction, rule, row, now)
        else:
            fresh = Seen(0, notice.at, notice.at)
            seen.setdefault((event, key), fresh).add(notice.at, notice.job_seq, notice.detail)
    for (event, key), some in seen.items():
        alerts.count_in(transaction, rule, event, key, some, now)


def event_of(rule: Rule, notice: Notice) -> Optional[str]:
    """The event of the rule for which a notice counts. None: the rule is not about it, or is newer."""
    event = rule.spec.event_for(notice.event)
    since = min(rule.created_at, clock.now())  # the clock may have been set back since then
    return event if event is not None and notice.at >= since and matches(rule, event, notice) else None


def key_of(event: str, subject: str) -> str:
    """The key of an alert: the failure group, else the event and its subject."""
    return subject if subject.startswith(GROUP) else f"{event} {subject}"


def matches(rule: Rule, event: str, notice: Notice) -> bool:
    """Whether the rule's conditions let a notice pass. A discarded job matches no condition."""
    spec = rule.spec
    if notice.job_seq is None:
        return spec.matches_subject(event, notice.subject)
    if notice.queue is None or notice.command is None:
        return not spec.has_job_conditions
    return spec.matches_job(notice.queue, notice.schedule, notice.command)
