"""Channels, rules, alerts and messages, as the actions, the dispatcher and the sender leave them."""

from __future__ import annotations

import itertools
import json
from typing import Any, Optional, TypeVar

from sqlalchemy import select

from webapp.db.engines import reading, writing
from webapp.db.models import Alert, Channel, Delivery, Notice, Rule
from webapp.lib import clock
from webapp.notifications import actions, channels, rules

ACTOR = "person:ana"
HOOK = "https://hooks.example.org/T1/s3cret"
_keys = itertools.count(1)
Row = TypeVar("Row")


def make_channel(name: str = "ops", **fields: Any) -> Channel:
    """A webhook, unless `to` or `kind` says otherwise."""
    kind = fields.setdefault("kind", "mail" if "to" in fields else "webhook")
    if kind == "webhook":
        fields.setdefault("url", HOOK)
    actions.add_channel(channels.parse({"name": name, **fields}), ACTOR)
    return channel_named(name)


def channel_named(name: str) -> Channel:
    with reading() as session:
        found = session.scalar(select(Channel).where(Channel.name == name))
    assert found is not None
    return found


def make_rule(name: str = "deaths", channel: str = "ops", **fields: Any) -> Rule:
    """A rule about dead jobs, unless `on` says otherwise. Its channel is added if it is missing."""
    with reading() as session:
        is_there = session.scalar(select(Channel.id).where(Channel.name == channel)) is not None
    if not is_there:
        make_channel(channel)
    actions.add_rule(rules.parse({"name": name, "channel": channel, "on": ["job-dead"], **fields}), ACTOR)
    return rule_named(name)


def rule_named(name: str) -> Rule:
    with reading() as session:
        found = session.scalar(select(Rule).where(Rule.name == name))
    assert found is not None
    return found


def make_alert(rule: Rule, **values: Any) -> Alert:
    now = clock.now()
    made: dict[str, Any] = {"event": "job-dead", "key": f"group:{next(_keys)}", "opened_at": now, "last_at": now}
    row = Alert(rule_id=rule.id, **{**made, "count": 1, "told": 1, "told_count": 1, "flapping": 0, **values})
    return _stored(row)


def make_delivery(
    channel: Channel, state: str = "sent", *, detail: Optional[dict[str, Any]] = None, **values: Any
) -> Delivery:
    now = clock.now()
    made: dict[str, Any] = {
        "kind": "alert",
        "created_at": now,
        "not_before": now,
        "tries": int(state in ("sent", "failed")),
    }
    made["ended_at"] = None if state == "waiting" else now
    made["job_seq"] = (detail or {}).get("job_seq")
    row = Delivery(channel_id=channel.id, state=state, detail=json.dumps(detail or {}), **{**made, **values})
    return _stored(row)


def make_notice(event: str = "job-dead", **values: Any) -> Notice:
    return _stored(Notice(**{"at": clock.now(), "event": event, "subject": "group:1", **values}))


def _stored(row: Row) -> Row:
    with writing() as session:
        session.add(row)
    return row


def states() -> list[str]:
    """The states of all messages, oldest first."""
    with reading() as session:
        return list(session.scalars(select(Delivery.state).order_by(Delivery.id)))
