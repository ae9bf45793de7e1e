"""What people do to channels, rules and messages: rules of each action, and what the audit trail says of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select

from tests.factories import make_job
from tests.notifications.factories import (
    ACTOR,
    HOOK,
    channel_named,
    make_alert,
    make_channel,
    make_delivery,
    make_rule,
    rule_named,
    states,
)
from webapp.core.field_readers import NameTaken
from webapp.core.job_spec import SpecError
from webapp.core.notices import SYSTEM_QUEUE
from webapp.db.engines import reading
from webapp.db.models import Alert, Audit, Channel, Delivery, Event, JobWatch, Rule
from webapp.jobs.lifecycle import Conflict, NotFound
from webapp.lib import clock
from webapp.notifications import actions, channels, rules
from webapp.schedules import actions as schedule_actions
from webapp.schedules import spec as schedule_spec


def audited() -> list[tuple[str, str, dict[str, Any]]]:
    with reading() as session:
        lines = session.scalars(select(Audit).where(Audit.actor == ACTOR).order_by(Audit.id))
        return [(line.verb, line.subject, json.loads(line.detail or "{}")) for line in lines]


def edited_rule(name: str = "deaths", **fields: Any) -> rules.RuleSpec:
    return rules.parse({"name": name, "channel": "ops", "on": ["job-dead"], **fields})


def test_a_webhook_gets_a_secret_that_no_trail_has(app: Flask) -> None:
    spec = channels.parse({"name": "ops", "kind": "webhook", "url": HOOK})
    secret = actions.add_channel(spec, ACTOR)
    assert secret is not None
    assert secret.startswith("whsec_")
    assert channel_named("ops").secret == secret
    with pytest.raises(NameTaken, match="'ops' is taken by another channel"):
        actions.add_channel(spec, ACTOR)
    ((verb, subject, detail),) = audited()
    assert (verb, subject, detail["after"]["url"]) == ("add_channel", "channel:ops", "https://hooks.example.org/…")
    with reading() as session:
        kept = [*session.scalars(select(Audit.detail)), *session.scalars(select(Event.detail))]
    assert not [text for text in kept if text and ("s3cret" in text or secret in text)]


def test_a_mail_channel_has_no_secret(app: Flask) -> None:
    assert actions.add_channel(channels.parse({"name": "m", "kind": "mail", "to": "a@x.example"}), ACTOR) is None
    with pytest.raises(Conflict, match="Only webhooks have a secret"):
        actions.rotate_secret("m", ACTOR)


def test_while_a_secret_rotates_the_old_one_signs_too(app: Flask) -> None:
    before = make_channel().secret
    after = actions.rotate_secret("ops", ACTOR)
    row = channel_named("ops")
    assert (row.secret, row.old_secret) == (after, before)
    assert before != after
    assert row.old_secret_until is not None
    assert 0 < row.old_secret_until - clock.now() <= actions.ROTATION


def test_an_edit_keeps_name_kind_and_secret(app: Flask) -> None:
    secret = make_channel().secret
    stored = channels.parse({"name": "ops", "kind": "webhook", "url": HOOK})
    actions.edit_channel("ops", channels.parse({"hourly_cap": 5, "url": "https://hooks.example.org/…"}, stored), ACTOR)
    row = channel_named("ops")
    assert (row.hourly_cap, row.secret, json.loads(row.target)) == (5, secret, {"url": HOOK})
    for field, fields in (("kind", {"kind": "mail", "to": "a@x.example"}), ("name", {"name": "other"})):
        with pytest.raises(SpecError) as refused:
            actions.edit_channel("ops", channels.parse(fields, stored), ACTOR)
        assert [error.field for error in refused.value.errors] == [field]
    with pytest.raises(NotFound, match="no such channel: 'none'"):
        actions.edit_channel("none", stored, ACTOR)


def test_a_channel_in_use_stays(app: Flask) -> None:
    channel = make_channel()
    make_rule()
    job = {"command": "true", "notify": ["ops"]}
    schedule_actions.add(schedule_spec.parse({"name": "nightly", "every": "1h", "job": job}), ACTOR)
    with pytest.raises(Conflict, match="used by rule deaths, schedule nightly"):
        actions.remove_channel("ops", ACTOR)
    actions.remove_rule("deaths", ACTOR)
    schedule_actions.remove("nightly", ACTOR)
    make_delivery(channel)
    actions.remove_channel("ops", ACTOR)
    with reading() as session:
        assert session.scalars(select(Channel.id)).all() == session.scalars(select(Delivery.id)).all() == []


@pytest.mark.postgresql
def test_a_backlog_is_dropped_and_sent_messages_stay(app: Flask) -> None:
    channel = make_channel()
    for state in ("sent", "waiting", "waiting"):
        make_delivery(channel, state)
    assert actions.drop_backlog("ops", ACTOR) == 2
    assert actions.drop_backlog("ops", ACTOR) == 0
    assert states() == ["sent", "dropped", "dropped"]


def test_a_test_is_a_message_as_all_others(app: Flask) -> None:
    channel = make_channel()
    found = actions.test_channel("ops", ACTOR)
    with reading() as session:
        row = session.get(Delivery, found)
    assert row is not None
    assert (row.channel_id, row.kind, row.state, json.loads(row.detail)) == (
        channel.id,
        "test",
        "waiting",
        {"actor": ACTOR},
    )


@pytest.mark.postgresql
def test_a_rule_needs_its_channel_and_a_free_name(app: Flask) -> None:
    with pytest.raises(SpecError) as refused:
        actions.add_rule(edited_rule(), ACTOR)
    assert [(one.field, one.message) for one in refused.value.errors] == [
        ("channel", "no such channel: 'ops'. Add it first.")
    ]
    make_rule()
    assert rule_named("deaths").events == ",job-dead,"
    with pytest.raises(NameTaken, match="'deaths' is taken by another rule"):
        make_rule()


def test_an_edit_ends_alerts_that_the_rule_is_not_about_any_more(app: Flask) -> None:
    rule = make_rule()
    make_alert(rule)

    def is_open() -> bool:
        with reading() as session:
            return session.scalar(select(Alert.id).where(Alert.closed_at.is_(None))) is not None

    actions.edit_rule("deaths", edited_rule(quiet_hours="22:00-07:00"), ACTOR)
    assert is_open()
    actions.edit_rule("deaths", edited_rule(queue="mail"), ACTOR)
    assert not is_open()
    assert states() == []
    verb, subject, detail = audited()[-1]
    assert (verb, subject, detail["before"]["queue"], detail["after"]["queue"]) == (
        "edit_rule",
        "rule:deaths",
        None,
        "mail",
    )


@pytest.mark.postgresql
def test_what_a_removed_rule_has_not_sent_is_dropped(app: Flask) -> None:
    rule = make_rule()
    make_alert(rule)
    for state in ("sent", "waiting"):
        make_delivery(channel_named("ops"), state, rule_id=rule.id)
    actions.remove_rule("deaths", ACTOR)
    assert states() == ["sent", "dropped"]
    with reading() as session:
        assert session.scalars(select(Rule.id)).all() == session.scalars(select(Alert.id)).all() == []
    with pytest.raises(NotFound, match="no such rule: 'deaths'"):
        actions.remove_rule("deaths", ACTOR)


def test_a_rule_is_muted_until_a_time(app: Flask) -> None:
    make_rule()
    until = clock.now() + clock.DAY
    actions.mute("deaths", until, ACTOR)
    assert rule_named("deaths").muted_until == until
    assert actions.unmute("deaths", ACTOR)
    assert not actions.unmute("deaths", ACTOR)
    for wrong, words in ((clock.now() - 1, "in the past"), (actions.LATEST + 1, "year 9998")):
        with pytest.raises(SpecError, match=words):
            actions.mute("deaths", wrong, ACTOR)


def test_a_message_is_sent_again_as_a_new_one(app: Flask) -> None:
    rule = make_rule()
    old = make_delivery(channel_named("ops"), "failed", rule_id=rule.id, detail={"count": 3}, answer="HTTP 410")
    new = actions.send_again(old.id, ACTOR)
    with reading() as session:
        row = session.get(Delivery, new)
    assert row is not None
    assert (row.state, row.rule_id, row.detail, row.answer) == ("waiting", rule.id, '{"count": 3}', None)
    with pytest.raises(Conflict, match="still waiting"):
        actions.send_again(new, ACTOR)
    with pytest.raises(NotFound, match="no such message: 999"):
        actions.send_again(999, ACTOR)


def test_a_job_is_watched_until_it_has_ended(app: Flask) -> None:
    make_channel()
    make_job("pending", id="job1")
    assert actions.watch("job1", "ops", ACTOR)
    assert not actions.watch("job1", "ops", ACTOR)
    assert actions.unwatch("job1", "ops", ACTOR)
    assert not actions.unwatch("job1", "ops", ACTOR)
    make_job("completed", id="job2")
    make_job("pending", id="job3", queue=SYSTEM_QUEUE)
    for job_id, words in (("job2", "has ended: it is completed"), ("job3", "sends messages")):
        with pytest.raises(Conflict, match=words):
            actions.watch(job_id, "ops", ACTOR)
    for job_id, channel in (("none", "ops"), ("job1", "none")):
        with pytest.raises(NotFound, match="'none'"):
            actions.watch(job_id, channel, ACTOR)
    with reading() as session:
        assert session.scalars(select(JobWatch.job_seq)).all() == []
