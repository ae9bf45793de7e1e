"""The actions of users and programs on channels, rules and messages. Console, CLI and API call these.

Each is one durable transaction with a line in the audit trail, which never has a secret or a whole URL.
"""

from __future__ import annotations

import base64
import secrets
from typing import Any, Optional

from webapp.core import events
from webapp.core.field_readers import NameTaken
from webapp.core.job_spec import FieldError, SpecError, load_json
from webapp.core.notices import SYSTEM_QUEUE
from webapp.core.storage.transaction import Transaction
from webapp.db.engines import changing
from webapp.jobs.lifecycle import Conflict, NotFound
from webapp.lib import clock
from webapp.lib.text import shorten
from webapp.notifications import alerts, channels, rules
from webapp.notifications.channels import ChannelSpec
from webapp.notifications.rules import RuleSpec

ROTATION = clock.DAY  # so long the old secret of a webhook signs, too
LATEST = clock.parse_iso("9998-12-31T23:59:59Z")  # of a mute: dates end a year later
MOST_NAMED = 5  # names in a message

_CHANNEL = "SELECT id, kind, target, secret, hourly_cap FROM channels WHERE name = :name"
_ADD_CHANNEL = """
INSERT INTO channels (name, kind, target, secret, hourly_cap, created_at, created_by, changed_at, changed_by)
VALUES (:name, :kind, :target, :secret, :cap, :now, :actor, :now, :actor)
ON CONFLICT (name) DO NOTHING
"""
_EDIT_CHANNEL = """
UPDATE channels SET target = :target, hourly_cap = :cap, changed_at = :now, changed_by = :actor WHERE id = :id
"""
_ROTATE = """
UPDATE channels SET old_secret = secret, old_secret_until = :until, secret = :secret, changed_at = :now,
                    changed_by = :actor
WHERE id = :id
"""
_RULE = """
SELECT id, (SELECT name FROM channels WHERE id = channel_id), spec, muted_until FROM notification_rules
WHERE name = :name
"""
_ADD_RULE = """
INSERT INTO notification_rules (name, channel_id, events, spec, created_at, created_by, changed_at, changed_by)
VALUES (:name, :channel, :events, :spec, :now, :actor, :now, :actor)
ON CONFLICT (name) DO NOTHING
"""
_JOB = "SELECT seq, state, queue, finished_at FROM jobs WHERE id = :name"
_EDIT_RULE = """
UPDATE notification_rules SET channel_id = :channel, events = :events, spec = :spec, changed_at = :now,
                              changed_by = :actor
WHERE id = :id
"""
_MUTE = "UPDATE notification_rules SET muted_until = :until, changed_at = :now, changed_by = :actor WHERE id = :id"
# Without a message: what they were about is not the rule's subject any more.
_CLOSE_ALERTS = "UPDATE alerts SET closed_at = :now, next_at = NULL WHERE rule_id = :id AND closed_at IS NULL"
_DELIVERY = "SELECT channel_id, rule_id, alert_id, kind, state, detail FROM deliveries WHERE id = :id"
_DROP = """
UPDATE deliveries SET state = 'dropped', ended_at = :now, answer = coalesce(answer, :why)
WHERE state = 'waiting' AND {} = :id
"""
_DROP_OF_CHANNEL, _DROP_OF_RULE = _DROP.format("channel_id"), _DROP.format("rule_id")
_WATCH = """
INSERT INTO job_watches (job_seq, channel_id, created_by) VALUES (:seq, :channel, :actor)
ON CONFLICT (job_seq, channel_id) DO NOTHING
"""
_UNWATCH = "DELETE FROM job_watches WHERE job_seq = :seq AND channel_id = :channel"


# --- channels --------------------------------------------------------------------------------------------------------


def add_channel(spec: ChannelSpec, actor: str) -> Optional[str]:
    """Add a channel. Returns the secret that signs the messages of a webhook; it is never shown again.

    Raises NameTaken.
    """
    with changing() as transaction:
        return _add_channel(transaction, spec, actor)


def add_channel_and_rule(channel: ChannelSpec, rule: RuleSpec, actor: str) -> Optional[str]:
    """Add both or nothing. Returns and raises as `add_channel` and `add_rule` do."""
    with changing() as transaction:
        secret = _add_channel(transaction, channel, actor)
        _add_rule(transaction, rule, actor)
        return secret


def edit_channel(name: str, spec: ChannelSpec, actor: str) -> None:
    """Replace the target and the limit of a channel. Its waiting messages go to the new target.

    Raises NotFound, and SpecError if the name or the kind differs.
    """
    with changing() as transaction:
        id_, kind, target, _, cap = _find_channel(transaction, name)
        for field, new, old in (("name", spec.name, name), ("kind", spec.kind, kind)):
            if new != old:
                raise SpecError([FieldError(field, f"cannot change; it is {old}. Add another channel instead.")])
        before = channels.masked(channels.of_row(name, kind, target, cap))
        values = {"target": channels.target_text(spec), "cap": spec.hourly_cap, "now": clock.now(), "actor": actor}
        transaction.execute(_EDIT_CHANNEL, {**values, "id": id_})
        events.record_change(
            transaction, "edit_channel", f"channel:{name}", actor, before=before, after=channels.masked(spec)
        )


def remove_channel(name: str, actor: str) -> None:
    """Remove a channel with its messages. Raises NotFound, and Conflict while rules or schedules use it."""
    with changing() as transaction:
        id_, kind, target, _, cap = _find_channel(transaction, name)
        users = _users_of(transaction, id_, name)
        if users:
            some = ", ".join(users[:MOST_NAMED]) + (f" and {len(users) - MOST_NAMED} more" * (len(users) > MOST_NAMED))
            raise Conflict(f"channel {name} is used by {some}. Remove it there first.")
        transaction.execute("DELETE FROM channels WHERE id = :id", {"id": id_})
        before = channels.masked(channels.of_row(name, kind, target, cap))
        events.record_change(transaction, "remove_channel", f"channel:{name}", actor, before=before)


def rotate_secret(name: str, actor: str) -> str:
    """Give a webhook a new secret and return it. For ROTATION, messages are signed with the old one too.

    Raises NotFound, and Conflict if the channel is no webhook.
    """
    with changing() as transaction:
        id_, kind, *_ = _find_channel(transaction, name)
        if kind != "webhook":
            raise Conflict(f"channel {name} is of the kind {kind}. Only webhooks have a secret.")
        secret, now = _new_secret(), clock.now()
        values = {"id": id_, "secret": secret, "until": now + ROTATION, "now": now, "actor": actor}
        transaction.execute(_ROTATE, values)
        after = {"old_secret_until": clock.to_iso(now + ROTATION)}
        events.record_change(transaction, "rotate_secret", f"channel:{name}", actor, after=after)
    return secret


def test_channel(name: str, actor: str) -> int:
    """Store a test message for a channel; it is sent like all others. Returns its id. Raises NotFound."""
    with changing() as transaction:
        id_, *_ = _find_channel(transaction, name)
        found = alerts.add_delivery(transaction, id_, "test", {"actor": actor}, now=clock.now())
        events.record_change(transaction, "test_channel", f"channel:{name}", actor, after={"delivery": found})
        return found


def drop_backlog(name: str, actor: str) -> int:
    """Drop the messages that a channel has not sent yet. Returns how many. Raises NotFound."""
    with changing() as transaction:
        id_, *_ = _find_channel(transaction, name)
        values = {"id": id_, "now": clock.now(), "why": f"dropped by {actor}"}
        number: int = transaction.execute(_DROP_OF_CHANNEL, values).rowcount
        if number:
            events.record_change(transaction, "drop_backlog", f"channel:{name}", actor, after={"dropped": number})
        return number


# --- rules -----------------------------------------------------------------------------------------------------------


def add_rule(spec: RuleSpec, actor: str) -> None:
    """Add a rule. It applies to events from now on. Raises NameTaken, and SpecError if its channel is missing."""
    with changing() as transaction:
        _add_rule(transaction, spec, actor)


def edit_rule(name: str, spec: RuleSpec, actor: str) -> None:
    """Replace a rule. If its events or conditions change, its open alerts end without a message.

    Raises NotFound, and SpecError if the name differs or its channel is missing.
    """
    if spec.name != name:
        raise SpecError([FieldError("name", f"cannot change; this rule is {name}. Add another rule instead.")])
    with changing() as transaction:
        values = _rule_values(transaction, spec)
        id_, channel, text, _ = _find_rule(transaction, name)
        before, after, now = _rule_json(name, channel, text), rules.to_json(spec), clock.now()
        transaction.execute(_EDIT_RULE, {**values, "id": id_, "now": now, "actor": actor})
        if any(before.get(key) != after.get(key) for key in ("on", "queue", "schedule", "command")):
            transaction.execute(_CLOSE_ALERTS, {"id": id_, "now": now})
        events.record_change(transaction, "edit_rule", f"rule:{name}", actor, before=before, after=after)


def remove_rule(name: str, actor: str) -> None:
    """Remove a rule. Its waiting messages are dropped; sent ones stay in the history. Raises NotFound."""
    with changing() as transaction:
        id_, channel, text, _ = _find_rule(transaction, name)
        transaction.execute(_DROP_OF_RULE, {"id": id_, "now": clock.now(), "why": f"{actor} removed the rule"})
        transaction.execute("DELETE FROM notification_rules WHERE id = :id", {"id": id_})
        events.record_change(transaction, "remove_rule", f"rule:{name}", actor, before=_rule_json(name, channel, text))


def mute(name: str, until: int, actor: str) -> None:
    """Send nothing of a rule until a time (microseconds). The history shows it as suppressed.

    Raises NotFound, and SpecError for a time in the past or after the year 9998.
    """
    if until <= clock.now():
        raise SpecError([FieldError("until", f"{clock.to_iso(until)} is in the past.")])
    if until > LATEST:
        raise SpecError([FieldError("until", "is after the year 9998.")])
    with changing() as transaction:
        id_, *_ = _find_rule(transaction, name)
        transaction.execute(_MUTE, {"id": id_, "until": until, "now": clock.now(), "actor": actor})
        events.record_change(
            transaction, "mute_rule", f"rule:{name}", actor, after={"muted_until": clock.to_iso(until)}
        )


def unmute(name: str, actor: str) -> bool:
    """Unmute a rule: it applies to events from now on. Returns whether it was muted. Raises NotFound."""
    with changing() as transaction:
        id_, _, _, until = _find_rule(transaction, name)
        if until is None or until <= (now := clock.now()):
            return False
        transaction.execute(_MUTE, {"id": id_, "until": None, "now": now, "actor": actor})
        alerts.tell_held(transaction, id_, now)
        events.record_change(
            transaction, "unmute_rule", f"rule:{name}", actor, before={"muted_until": clock.to_iso(until)}
        )
        return True


# --- messages and jobs -----------------------------------------------------------------------------------------------


def send_again(delivery_id: int, actor: str) -> int:
    """Store a message again, to be sent now. Returns the id of the new one.

    Raises NotFound, and Conflict if it still waits.
    """
    with changing() as transaction:
        found = transaction.execute(_DELIVERY, {"id": delivery_id}).fetchone()
        if found is None:
            raise NotFound(f"no such message: {delivery_id}.")
        channel, rule, alert, kind, state, detail = found
        if state == "waiting":
            raise Conflict(f"message {delivery_id} is still waiting to be sent.")
        told = load_json(detail)
        new = alerts.add_delivery(transaction, channel, kind, told, now=clock.now(), rule_id=rule, alert_id=alert)
        events.record_change(transaction, "send_again", f"delivery:{delivery_id}", actor, after={"delivery": new})
        return new


def watch(job_id: str, channel: str, actor: str) -> bool:
    """Send a message when a job ends. Returns False if the channel watches it already.

    Raises NotFound for the job or the channel, and Conflict if the job has ended or sends messages itself.
    """
    with changing() as transaction:
        channel_id, *_ = _find_channel(transaction, channel, "KEY SHARE")
        seq, state, queue, finished_at = _find(transaction, "job", _JOB, job_id, "KEY SHARE")
        if queue == SYSTEM_QUEUE:
            raise Conflict(f"job {job_id} sends messages, so it cannot be watched.")
        if finished_at is not None:
            raise Conflict(f"job {job_id} has ended: it is {state}.")
        if not transaction.execute(_WATCH, {"seq": seq, "channel": channel_id, "actor": actor}).rowcount:
            return False
        events.record_change(transaction, "watch", f"job:{job_id}", actor, after={"channel": channel}, seq=seq)
        return True


def unwatch(job_id: str, channel: str, actor: str) -> bool:
    """Send no message when a job ends. Returns whether the channel watched it. Raises as `watch` does, but Conflict."""
    with changing() as transaction:
        channel_id, *_ = _find_channel(transaction, channel, "KEY SHARE")
        seq, *_ = _find(transaction, "job", _JOB, job_id, "KEY SHARE")
        gone = transaction.execute(_UNWATCH, {"seq": seq, "channel": channel_id})
        if not gone.rowcount:
            return False
        events.record_change(transaction, "unwatch", f"job:{job_id}", actor, before={"channel": channel}, seq=seq)
        return True


# --- in the caller's transaction -------------------------------------------------------------------------------------


def _add_channel(transaction: Transaction, spec: ChannelSpec, actor: str) -> Optional[str]:
    secret = _new_secret() if spec.kind == "webhook" else None
    described = {"name": spec.name, "kind": spec.kind, "target": channels.target_text(spec), "secret": secret}
    values = {**described, "cap": spec.hourly_cap, "now": clock.now(), "actor": actor}
    if not transaction.execute(_ADD_CHANNEL, values).rowcount:
        raise NameTaken([FieldError("name", f"{spec.name!r} is taken by another channel.")])
    events.record_change(transaction, "add_channel", f"channel:{spec.name}", actor, after=channels.masked(spec))
    return secret


def _add_rule(transaction: Transaction, spec: RuleSpec, actor: str) -> None:
    values = {**_rule_values(transaction, spec), "name": spec.name, "now": clock.now(), "actor": actor}
    if not transaction.execute(_ADD_RULE, values).rowcount:
        raise NameTaken([FieldError("name", f"{spec.name!r} is taken by another rule.")])
    events.record_change(transaction, "add_rule", f"rule:{spec.name}", actor, after=rules.to_json(spec))


def _new_secret() -> str:
    """A secret as Standard Webhooks writes it."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def _find_channel(transaction: Transaction, name: str, lock: str = "UPDATE") -> Any:
    return _find(transaction, "channel", _CHANNEL, name, lock)


def _find_rule(transaction: Transaction, name: str) -> Any:
    return _find(transaction, "rule", _RULE, name, "UPDATE")


def _find(transaction: Transaction, what: str, statement: str, name: str, lock: str) -> Any:
    """The row with this name, locked until the commit."""
    locking = statement if transaction.is_sqlite else f"{statement} FOR {lock}"
    found = transaction.execute(locking, {"name": name}).fetchone()
    if found is None:
        raise NotFound(f"no such {what}: {shorten(ascii(name), 128)}.")
    return found


def _users_of(transaction: Transaction, channel_id: int, name: str) -> list[str]:
    """The rules that send to a channel, and the schedules whose jobs name it."""
    ruled = "SELECT name FROM notification_rules WHERE channel_id = :id ORDER BY name"
    found = [f"rule {row[0]}" for row in transaction.execute(ruled, {"id": channel_id}).fetchall()]
    scheduled = "SELECT name, spec FROM schedules WHERE spec LIKE :notify ORDER BY name"
    for schedule, text in transaction.execute(scheduled, {"notify": '%"notify"%'}).fetchall():
        if name in (load_json(text).get("job") or {}).get("notify", ()):
            found.append(f"schedule {schedule}")
    return found


def _rule_values(transaction: Transaction, spec: RuleSpec) -> dict[str, Any]:
    """The columns of a rule. Raises SpecError if its channel is missing."""
    try:
        channel, *_ = _find_channel(transaction, spec.channel, "KEY SHARE")
    except NotFound as error:
        raise SpecError([FieldError("channel", f"{error} Add it first.")]) from None
    return {"channel": channel, "events": rules.events_text(spec), "spec": rules.stored_text(spec)}


def _rule_json(name: str, channel: str, text: str) -> dict[str, Any]:
    """A stored rule, even if this machine does not know its time zone."""
    return {**load_json(text), "name": name, "channel": channel}
