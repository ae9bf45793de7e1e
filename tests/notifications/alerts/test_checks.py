"""States that no notice tells: old jobs, queues without a worker, the disk."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import delete, update

from tests.factories import make_job, make_queue, make_worker
from tests.notifications.alerts.conftest import MINUTE, Alerting
from webapp.core.notices import SYSTEM_QUEUE
from webapp.core.storage import db_errors
from webapp.db.engines import writing
from webapp.db.models import Alert, Job, Worker
from webapp.lib import clock
from webapp.notifications import actions, checks


def keys(alerting: Alerting) -> list[str]:
    return [alert.key for alert in alerting.alerts()]


def detail_of_last(alerting: Alerting) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(alerting.rows()[-1].detail)["notice"]
    return found


@pytest.mark.postgresql
def test_the_oldest_pending_job_of_a_queue_is_too_old_until_it_is_claimed(alerting: Alerting) -> None:
    alerting.add_rule("queue-old", older_than="10min")
    since = clock.now()
    make_job("pending", queue="mail", priority=-5, requires="gpu", limits="db")
    make_job("pending", queue="young", priority=5, run_at=since + 5 * MINUTE)
    make_job("pending", queue=SYSTEM_QUEUE)
    for _ in range(3):
        alerting.tick(checks=True)
        alerting.time.pass_(4)
    alerting.tick(checks=True)
    assert alerting.told() == [("alert", "queue-old queue:mail", 1)]
    assert detail_of_last(alerting) == {"oldest": since, "paused": False}
    with writing() as session:
        session.execute(delete(Job).where(Job.queue == "mail"))
    alerting.tick(checks=True)
    assert alerting.kinds() == ["alert", "recovery"]


@pytest.mark.parametrize("unmuted", [False, True])
def test_what_still_holds_after_a_mute_is_told_then(alerting: Alerting, unmuted: bool) -> None:
    alerting.add_rule("queue-old", older_than="10min", muted_until=clock.now() + 60 * MINUTE)
    make_job("pending", queue="mail")
    alerting.time.pass_(15)
    alerting.tick(checks=True)
    assert alerting.kinds() == []
    if unmuted:
        assert actions.unmute("rule", "person:ana")
    else:
        alerting.time.pass_(46)
    alerting.tick(checks=True)
    assert alerting.kinds() == ["alert"]


@pytest.mark.parametrize("condition", [{}, {"queue": "mail"}])
def test_each_rule_has_its_own_age_and_queue(alerting: Alerting, condition: dict[str, Any]) -> None:
    alerting.add_rule("queue-old", older_than="1h", **condition)
    make_job("pending", queue="mail")
    make_job("pending", queue="other")
    make_queue("mail", paused_by="person:ana")
    alerting.time.pass_(61)
    alerting.tick(checks=True)
    expected = ["queue-old queue:mail"] + ([] if condition else ["queue-old queue:other"])
    assert keys(alerting) == expected
    assert json.loads(alerting.rows()[0].detail)["notice"]["paused"] is True  # forgotten, perhaps


@pytest.mark.postgresql
def test_a_queue_that_no_worker_serves(alerting: Alerting) -> None:
    alerting.add_rule("queue-unserved")
    make_worker(id="w1", queues='["mail"]')
    make_job("pending", queue="mail")
    make_job("pending", queue="reports")
    make_job("pending", queue="stopped")
    make_queue("stopped", paused_by="person:ana")
    alerting.tick(checks=True)
    assert keys(alerting) == []  # a worker may be about to start
    alerting.time.pass_(1)
    alerting.tick(checks=True)
    assert keys(alerting) == ["queue-unserved queue:reports"]
    make_worker(id="w2", queues=None)
    alerting.tick(checks=True)
    assert (keys(alerting), alerting.kinds()) == ([], ["alert", "recovery"])
    with writing() as session:
        session.execute(update(Worker).values(state="stopped", stopped_at=clock.now()))
    alerting.tick(checks=True)
    assert keys(alerting) == ["queue-unserved queue:mail", "queue-unserved queue:reports"]


def test_a_disk_that_is_nearly_full(alerting: Alerting, monkeypatch: pytest.MonkeyPatch) -> None:
    alerting.add_rule("disk-low")
    free = {"bytes": 1000}
    monkeypatch.setattr(db_errors, "disk_nearly_full", lambda _: free.get("bytes"))
    for _ in range(3):
        alerting.tick(checks=True)
        alerting.later(60)
    host = alerting.dispatcher._checks._host
    assert alerting.told() == [("alert", f"disk-low host:{host}", 1)]
    assert detail_of_last(alerting) == {"free": 1000, "host": host}
    free.clear()
    alerting.tick(checks=True)
    assert alerting.kinds() == ["alert", "recovery"]


@pytest.mark.only("postgresql")
def test_a_machine_says_nothing_about_the_disk_of_another(alerting: Alerting, monkeypatch: pytest.MonkeyPatch) -> None:
    alerting.add_rule("disk-low")
    monkeypatch.setattr(db_errors, "disk_nearly_full", lambda _: 1000)
    alerting.tick(checks=True)
    monkeypatch.setattr(db_errors, "disk_nearly_full", lambda _: None)
    alerting.dispatcher._checks._host = "another"
    alerting.tick(checks=True)
    assert len(keys(alerting)) == 1


@pytest.mark.postgresql
def test_a_state_that_comes_and_goes_is_told_once_as_flapping(alerting: Alerting) -> None:
    alerting.add_rule("queue-old", older_than="1min")
    for place in range(6):
        job = make_job("pending", run_at=clock.now() - 2 * MINUTE)
        alerting.tick(checks=True)
        with writing() as session:
            session.execute(delete(Job).where(Job.seq == job.seq))
        alerting.time.pass_(1)
        alerting.tick(checks=True)
        assert len(alerting.rows()) == min(2 * (place + 1), 7)
    alerting.later(59)
    alerting.later(1)
    assert alerting.kinds() == ["alert", "recovery"] * 3 + ["flapping", "recovery"]


def test_a_look_happens_twice_a_minute_and_not_right_after_the_start(alerting: Alerting) -> None:
    alerting.add_rule("queue-old", older_than="1min")
    make_job("pending", run_at=clock.now() - 2 * MINUTE)
    alerting.tick()
    assert keys(alerting) == []
    assert checks.CHECK_EVERY == 30.0


def test_a_rule_without_its_event_looks_at_nothing(alerting: Alerting) -> None:
    alerting.add_rule("job-dead")
    make_job("pending", run_at=1)
    alerting.tick(checks=True)
    with writing() as session:
        assert session.query(Alert).count() == 0
