"""Reads and writes rules, alerts and deliveries for the dispatcher and its checks, in plain SQL.

Every function works in a transaction of `exclusively`: one process at a time changes alerts. So each decision is made
once, and its message is stored with it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Callable, Optional

from webapp.core.job_spec import SpecError
from webapp.core.storage.transaction import Connection, Transaction
from webapp.lib import clock
from webapp.notifications import policy, rules
from webapp.notifications.policy import Alert, Step
from webapp.notifications.rules import OF_JOBS, RuleSpec

log = logging.getLogger("queuectl.notifications")

LOCK_TIMEOUT = 1.0  # seconds to wait for the write lock; the next tick tries again
MOST_CHANGED = 100  # alerts of one transaction
GROUP = "group:"  # prefix of a failure group's key
_LOCK_NUMBER = 0x6E6F74696679  # any number that nothing else uses
_TRY_LOCK = "SELECT pg_try_advisory_xact_lock(:number)"
_RULES = """
SELECT rules.id, rules.name, rules.channel_id, channels.name, rules.spec, rules.muted_until, rules.created_at
FROM notification_rules AS rules JOIN channels ON channels.id = rules.channel_id ORDER BY rules.id
"""
_COLUMNS = "id, rule_id, key, job_seq, detail, event, opened_at, last_at, count, told, told_count, next_at, flapping"
_OPEN = f"SELECT {_COLUMNS} FROM alerts WHERE rule_id = :rule AND key = :key AND closed_at IS NULL"  # noqa: S608
_BY_ID = f"SELECT {_COLUMNS} FROM alerts WHERE id = :id AND closed_at IS NULL"  # noqa: S608
_LAST_CLOSED = """
SELECT id, last_at FROM alerts WHERE rule_id = :rule AND key = :key AND closed_at IS NOT NULL
ORDER BY closed_at DESC LIMIT 1
"""
_CLOSED_LATELY = "SELECT count(*) FROM alerts WHERE rule_id = :rule AND key = :key AND closed_at >= :since AND told > 0"
_ACKNOWLEDGED = "SELECT acknowledged_at FROM failure_groups WHERE key = :group"
_ADD = """
INSERT INTO alerts (rule_id, event, key, opened_at, last_at, count, job_seq, detail, told, told_count, flapping)
VALUES (:rule, :event, :key, :opened_at, :last_at, :count, :seq, :detail, 0, 0, :flapping) RETURNING id
"""
_COUNT = """
UPDATE alerts SET count = :count, last_at = :last_at, job_seq = :seq, detail = :detail, next_at = :next_at
WHERE id = :id
"""
_COUNT_CLOSED = "UPDATE alerts SET count = count + :number, last_at = :last_at WHERE id = :id"
_STEP = """
UPDATE alerts SET told = :told, told_count = :told_count, next_at = :next_at, closed_at = :closed_at
WHERE id = :id AND told = :seen AND closed_at IS NULL
"""
# A message that was suppressed or not accepted does not count as sent.
_HEARD = "SELECT 1 FROM deliveries WHERE alert_id = :id AND state IN ('waiting', 'sent') LIMIT 1"
_TELL_HELD = """
UPDATE alerts SET next_at = :now WHERE rule_id = :rule AND told = 0 AND next_at > :now AND closed_at IS NULL
"""
_ADD_DELIVERY = """
INSERT INTO deliveries (channel_id, rule_id, alert_id, job_seq, kind, state, created_at, not_before, tries, ended_at,
                        answer, detail)
VALUES (:channel, :rule, :alert, :seq, :kind, :state, :now, :not_before, 0, :ended_at, :answer, :detail) RETURNING id
"""


@dataclass(frozen=True)
class Rule:
    """A row of `notification_rules`."""

    id: int
    channel_id: int
    muted_until: Optional[int]
    created_at: int
    spec: RuleSpec


@dataclass(frozen=True)
class Row:
    """An open alert: its row, and what the policy needs of it."""

    id: int
    rule_id: int
    key: str
    job_seq: Optional[int]
    detail: Optional[str]
    alert: Alert


@dataclass
class Seen:
    """Notices about one subject: how many, the times of the first and the last, and the detail of the last one."""

    number: int
    first_at: int
    last_at: int
    job_seq: Optional[int] = None
    detail: Optional[str] = None

    def add(self, at: int, job_seq: Optional[int], detail: Optional[str]) -> None:
        self.number += 1
        self.first_at = min(self.first_at, at)
        if at >= self.last_at:
            self.last_at, self.job_seq, self.detail = at, job_seq, detail


@contextmanager
def exclusively(connection: Connection) -> Iterator[Optional[Transaction]]:
    """A transaction in which no other process changes alerts; None if another process does at this moment.

    Raises the connection's errors, and Busy after LOCK_TIMEOUT.
    """
    with connection.transaction(LOCK_TIMEOUT) as transaction:
        if not connection.is_sqlite:
            transaction.durable = True  # a message that was sent is not decided again after a crash
            if not transaction.execute(_TRY_LOCK, {"number": _LOCK_NUMBER}).fetchone()[0]:
                yield None
                return
        yield transaction


def read_rules(transaction: Transaction) -> list[Rule]:
    """All rules. Until the commit no process removes one."""
    statement = _RULES if transaction.is_sqlite else f"{_RULES} FOR KEY SHARE OF rules"
    return _rules(transaction.execute(statement).fetchall())


def peek_rules(connection: Connection) -> list[Rule]:
    """All rules, without a lock."""
    return _rules(connection.query(_RULES))


def _rules(rows: Iterable[Sequence[Any]]) -> list[Rule]:
    return [
        Rule(id_, channel_id, muted_until, created_at, spec)
        for id_, name, channel_id, channel, text, muted_until, created_at in rows
        if (spec := _spec(name, channel, text)) is not None
    ]


def _spec(name: str, channel: str, text: str) -> Optional[RuleSpec]:
    """The description of a rule; None if this machine cannot read it."""
    try:
        return rules.of_row(name, channel, text)
    except SpecError as error:
        log.warning("rule %s is applied without its quiet hours: %s", name, error)  # their time zone is unknown here
    try:
        return rules.of_row(name, channel, json.dumps({**json.loads(text), "quiet_hours": None}))
    except SpecError as error:
        log.error("rule %s is broken and does nothing: %s", name, error)
        return None


def open_alerts(connection: Connection, where: str, values: Mapping[str, Any], limit: int) -> list[Row]:
    """Open alerts that fulfil an SQL condition, without a lock."""
    statement = f"SELECT {_COLUMNS} FROM alerts WHERE closed_at IS NULL AND {where} ORDER BY id + 0 LIMIT {limit}"  # noqa: S608  + 0: else SQLite reads closed alerts too
    return [_row(row) for row in connection.query(statement, values)]


def with_rules(connection: Connection, ids: Iterable[int], do: Callable[[Transaction, Rule, Row], None]) -> int:
    """Read these alerts again and call `do` for each that is still open, in one transaction of `exclusively`.

    Returns how many there were.
    """
    wanted, done = sorted(ids)[:MOST_CHANGED], 0
    if not wanted:
        return 0
    with exclusively(connection) as transaction:
        if transaction is None:
            return 0
        rules_by_id = {rule.id: rule for rule in read_rules(transaction)}
        for id_ in wanted:
            found = transaction.execute(_BY_ID, {"id": id_}).fetchone()
            row = None if found is None else _row(found)
            rule = None if row is None else rules_by_id.get(row.rule_id)
            if row is not None and rule is not None:
                do(transaction, rule, row)
                done += 1
    return done


def find_open(transaction: Transaction, rule: Rule, key: str) -> Optional[Row]:
    found = transaction.execute(_OPEN, {"rule": rule.id, "key": key}).fetchone()
    return None if found is None else _row(found)


def _row(row: Sequence[Any]) -> Row:
    event, opened_at, last_at, count, told, told_count, next_at, flapping = row[5:]
    alert = Alert(event, opened_at, last_at, count, told, told_count, next_at, bool(flapping))
    return Row(row[0], row[1], row[2], row[3], row[4], alert)


# --- the arrows of an alert ------------------------------------------------------------------------------------------


def count_in(transaction: Transaction, rule: Rule, event: str, key: str, seen: Seen, now: int) -> None:
    """Count notices in the rule's alert about this key, and open one if there is none. May store a message."""
    row = find_open(transaction, rule, key)
    acknowledged = _acknowledged_at(transaction, key) if event == "group-new" else None
    if row is not None and policy.came_back(row.alert.last_at, acknowledged, seen.last_at):
        _take(transaction, rule, row, Step(closes=True), now)  # the next alert reports it
        row = None
    if row is None:
        row = _open(transaction, rule, event, key, seen, now, acknowledged)
        if row is None:
            return
    else:
        alert = row.alert.with_notices(seen.number, seen.last_at)
        row = Row(row.id, row.rule_id, key, seen.job_seq, seen.detail, alert)
        transaction.execute(
            _COUNT,
            {
                "id": row.id,
                "count": alert.count,
                "last_at": alert.last_at,
                "seq": seen.job_seq,
                "detail": seen.detail,
                "next_at": alert.next_at,
            },
        )
    decide(transaction, rule, row, now)


def decide(transaction: Transaction, rule: Rule, row: Row, now: int) -> None:
    """Do what the policy says about an alert."""
    after = rule.spec.after if row.alert.event in OF_JOBS else 1
    step = policy.decide(row.alert, now, after=after, quiet=rule.spec.quiet_hours, muted_until=rule.muted_until)
    if step is not None:
        _take(transaction, rule, row, step, now)


def tell_held(transaction: Transaction, rule_id: int, now: int) -> None:
    """The rule is no longer muted: send a message if the problem still exists."""
    transaction.execute(_TELL_HELD, {"rule": rule_id, "now": now})


def recover(transaction: Transaction, rule: Rule, row: Row, now: int) -> None:
    """The problem of an alert has ended."""
    step = policy.recover(row.alert, now)
    if step is not None:
        _take(transaction, rule, row, step, now)


def recover_all(connection: Connection, ids: Iterable[int], has_ended: Callable[[Row], bool]) -> None:
    """The problems of these alerts have ended, if `has_ended` still says so for the alert as stored now."""

    def recover_one(transaction: Transaction, rule: Rule, row: Row) -> None:
        if has_ended(row):
            recover(transaction, rule, row, clock.now())

    with_rules(connection, ids, recover_one)


def _open(
    transaction: Transaction, rule: Rule, event: str, key: str, seen: Seen, now: int, acknowledged: Optional[int]
) -> Optional[Row]:
    """Open an alert; None if the failure group is not new."""
    which = {"rule": rule.id, "key": key}
    if event == "group-new":
        last = transaction.execute(_LAST_CLOSED, which).fetchone()
        if last is not None and not policy.is_new(last[1], acknowledged, seen.last_at):
            number = {"number": seen.number, "last_at": max(last[1], seen.last_at), "id": last[0]}
            transaction.execute(_COUNT_CLOSED, number)
            return None
    closed = transaction.execute(_CLOSED_LATELY, {**which, "since": now - policy.CALM}).fetchone()[0]
    alert = Alert(event, seen.first_at, seen.last_at, seen.number, flapping=closed >= policy.FLAPS)
    added = transaction.execute(
        _ADD,
        {
            **which,
            "event": event,
            "opened_at": alert.opened_at,
            "last_at": alert.last_at,
            "count": alert.count,
            "seq": seen.job_seq,
            "detail": seen.detail,
            "flapping": int(alert.flapping),
        },
    ).fetchone()
    return Row(added[0], rule.id, key, seen.job_seq, seen.detail, alert)


def _acknowledged_at(transaction: Transaction, key: str) -> Optional[int]:
    found = transaction.execute(_ACKNOWLEDGED, {"group": key.removeprefix(GROUP)}).fetchone()
    return None if found is None else found[0]


def _take(transaction: Transaction, rule: Rule, row: Row, step: Step, now: int) -> None:
    """Change the alert as the policy decided, and store the message."""
    if step.kind == "recovery" and transaction.execute(_HEARD, {"id": row.id}).fetchone() is None:
        step = replace(step, kind=None)
    after, kind = row.alert.after_step(step), step.kind
    changes = {"told": after.told, "told_count": after.told_count, "next_at": after.next_at}
    guard = {"id": row.id, "seen": row.alert.told}
    closed = {"closed_at": now if step.closes else None}
    if not transaction.execute(_STEP, {**changes, **closed, **guard}).rowcount or kind is None:
        return
    muted = rule.muted_until is not None and rule.muted_until > now
    add_delivery(
        transaction,
        rule.channel_id,
        kind,
        _told(rule, row, kind, now),
        now=now,
        rule_id=rule.id,
        alert_id=row.id,
        not_before=policy.not_before(now, rule.spec.quiet_hours),
        suppressed="The rule is muted." if muted else None,
    )


def _told(rule: Rule, row: Row, kind: str, now: int) -> dict[str, Any]:
    """The detail of a delivery; see `add_delivery`."""
    alert = row.alert
    told = {
        "rule": rule.spec.name,
        "event": alert.event,
        "key": row.key,
        "subject": row.key.partition(" ")[2] or row.key,
        "count": alert.count,
        "new": alert.count - alert.told_count,
        "opened_at": alert.opened_at,
        "last_at": alert.last_at,
        "job_seq": row.job_seq,
        "notice": json.loads(row.detail) if row.detail else {},
    }
    return {**told, "seconds": (now - alert.opened_at) / clock.SECOND} if kind == "recovery" else told


def add_delivery(
    transaction: Transaction,
    channel_id: int,
    kind: str,
    detail: Mapping[str, Any],
    *,
    now: int,
    rule_id: Optional[int] = None,
    alert_id: Optional[int] = None,
    not_before: Optional[int] = None,
    suppressed: Optional[str] = None,
) -> int:
    """Store a message for a channel. Returns its id. `suppressed`: why it is not sent.

    The detail of an alert's message has `rule` (its name), `event`, `key` (of the alert), `subject` (`group:…`,
    `schedule:nightly`, `queue:mail`, `host:web-1`, `action:7`), `count`, `new` (not reported before),
    `opened_at` and `last_at` (microseconds), `job_seq` (of the newest notice), `notice` (its detail), and for a
    recovery `seconds`, its downtime. That of a job-ended message has `job` (its id), `job_seq`, `state` and `by`.
    """
    values = {
        "channel": channel_id,
        "rule": rule_id,
        "alert": alert_id,
        "seq": detail.get("job_seq"),
        "kind": kind,
        "state": "waiting" if suppressed is None else "suppressed",
        "now": now,
        "not_before": now if not_before is None else not_before,
        "ended_at": None if suppressed is None else now,
        "answer": suppressed,
        "detail": json.dumps(detail),
    }
    return int(transaction.execute(_ADD_DELIVERY, values).fetchone()[0])
