"""Several processes at once and their end, watched jobs, and the jobs that send."""

from __future__ import annotations

import json
import threading

import pytest
from sqlalchemy import delete, update

from tests.deadline import DEADLINE
from tests.factories import make_jobs
from tests.notifications.alerts.conftest import Alerting
from tests.worker_connection import worker_database
from webapp.core.notices import SYSTEM_QUEUE
from webapp.core.storage.database import Database
from webapp.core.storage.transaction import Connection
from webapp.db.engines import reading, writing
from webapp.db.models import Delivery, Job, JobWatch
from webapp.lib import clock
from webapp.notifications import dispatcher

pytestmark = pytest.mark.postgresql


def test_a_transaction_changes_few_alerts_and_a_tick_has_little_time(
    alerting: Alerting, monkeypatch: pytest.MonkeyPatch
) -> None:
    alerting.add_rule(name="one")
    alerting.add_rule(name="two")
    for place in range(6):
        alerting.die(f"k{place}", 2)
    monkeypatch.setattr(dispatcher, "MOST_ALERTS", 4)
    monkeypatch.setattr(dispatcher, "BUDGET", 0.0)
    left = []
    for _ in range(3):
        assert alerting.dispatcher.tick()
        left.append(alerting.waiting_notices())
    assert left == [8, 4, 0]
    assert [alert.count for alert in alerting.alerts()] == [2] * 12


def test_a_process_that_ends_in_a_transaction_loses_no_notice(
    alerting: Alerting, monkeypatch: pytest.MonkeyPatch
) -> None:
    alerting.add_rule()
    alerting.die(number=3)
    with monkeypatch.context() as patch:
        patch.setattr(dispatcher, "_AMONG", {True: "IN (a fault)", False: "IN (a fault)"})
        with pytest.raises(alerting.connection.errors):
            alerting.dispatcher.tick()
    assert (alerting.waiting_notices(), alerting.kinds()) == (3, [])
    alerting.tick()
    assert alerting.told() == [("alert", "k1", 3)]


def test_dispatchers_of_several_hosts_tell_each_message_once(alerting: Alerting) -> None:
    alerting.add_rule()
    for round_ in range(4):
        for kind in range(3):
            alerting.die(f"k{kind}", 40)
        alerting.time.pass_(61)
        threads = [threading.Thread(target=_tick_alone, args=[worker_database()]) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
        assert alerting.waiting_notices() == 0, round_
    assert [alert.count for alert in alerting.alerts()] == [160, 160, 160]
    told = [(kind, key) for kind, key, _ in alerting.told()]
    assert len(told) == len(set(told)) + 3  # two updates of each
    assert len(alerting.senders()) == 1


def _tick_alone(database: Database) -> None:
    connection = Connection(database)
    one = dispatcher.Dispatcher(connection)
    try:
        while connection.scalar("SELECT 1 FROM notices WHERE taken_at IS NULL") is not None:
            one.tick()
        one.tick()
    finally:
        connection.close()


# --- jobs that people watch ---


def watch(job: Job, channel: int) -> None:
    with writing() as session:
        session.add(JobWatch(job_seq=job.seq, channel_id=channel, created_by="person:ana"))


def test_the_end_of_a_watched_job_is_told_once(alerting: Alerting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "WATCHES", 2)
    monkeypatch.setattr(dispatcher, "_WATCHES", dispatcher._WATCHES.replace("LIMIT 2000", "LIMIT 2"))
    channel = alerting.add_channel()
    jobs = make_jobs([{"state": state} for state in ("pending", "processing", "failed", "dead", "pending")])
    for job in jobs:
        watch(job, channel)
    for _ in range(6):
        alerting.tick()
    [row] = alerting.rows()
    expected = {"job": jobs[3].id, "job_seq": jobs[3].seq, "state": "dead", "by": "person:ana"}
    assert (row.kind, row.state, json.loads(row.detail)) == ("job-ended", "waiting", expected)
    with reading() as session:
        assert session.query(JobWatch).count() == 4


# --- senders ---


def test_a_channel_has_one_sender_until_it_has_ended(alerting: Alerting) -> None:
    alerting.add_rule()
    for place in range(3):
        alerting.die(f"k{place}")
        alerting.tick()
    [sender] = alerting.senders()
    assert (sender.created_by, sender.max_retries, sender.state) == ("rule:notifications", 1000, "pending")
    with writing() as session:
        session.execute(update(Job).where(Job.seq == sender.seq).values(state="completed", finished_at=clock.now()))
    alerting.tick()
    assert len(alerting.senders()) == 2  # messages are left
    with writing() as session:
        session.execute(delete(Job).where(Job.queue == SYSTEM_QUEUE))
    alerting.tick()
    assert len(alerting.senders()) == 1
    with writing() as session:
        session.execute(update(Delivery).values(state="sent", ended_at=clock.now()))
        session.execute(update(Job).where(Job.queue == SYSTEM_QUEUE).values(state="dead", finished_at=clock.now()))
    alerting.tick()
    assert len(alerting.senders()) == 1
