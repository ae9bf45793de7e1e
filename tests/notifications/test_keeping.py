"""How long messages stay, and what a restore does to them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import select

from tests.factories import make_job, make_queue, make_worker
from tests.notifications.factories import channel_named, make_alert, make_channel, make_delivery, make_notice, make_rule
from webapp.config import Config
from webapp.core.notices import SYSTEM_QUEUE
from webapp.core.settings import Settings
from webapp.db import backup, engines
from webapp.db.application import create_core
from webapp.db.engines import reading
from webapp.db.models import Alert, Delivery, JobWatch, Notice, Queue, Worker
from webapp.lib import clock
from webapp.notifications import actions
from worker.maintenance.retention import Retention


def left() -> tuple[int, int, int]:
    with reading() as session:
        deliveries, alerts, notices = (
            len(session.scalars(select(model.id)).all()) for model in (Delivery, Alert, Notice)
        )
        return deliveries, alerts, notices


def prune(days: int) -> None:
    retention = Retention(1.0)
    while retention.resume(Settings({"keep_deliveries": str(days)})):
        pass


@pytest.mark.postgresql
def test_old_messages_alerts_and_notices_are_deleted(app: Flask) -> None:
    rule, now = make_rule(), clock.now()
    channel = channel_named("ops")
    for days in (100, 1):
        at = now - days * clock.DAY
        make_delivery(channel, "sent", ended_at=at)
        make_alert(rule, closed_at=at, last_at=at)
        make_notice(taken_at=at - clock.DAY)
    make_delivery(channel, "waiting", created_at=now - 100 * clock.DAY)
    make_alert(rule, opened_at=now - 100 * clock.DAY)
    make_notice()
    prune(0)
    assert left() == (3, 3, 1)  # a notice that was taken has served
    prune(90)
    assert left() == (2, 2, 1)
    prune(1)
    assert left() == (1, 2, 1)  # a rule about new groups asks for the alerts of 30 days


@pytest.mark.only("sqlite")
def test_nothing_is_sent_because_of_a_restore(home: Path, tmp_path: Path) -> None:
    config = Config(home=home, database_url=None, public_url=None)
    app = create_core(config)
    with app.app_context():
        rule = make_rule()
        make_channel("other")
        for state in ("sent", "waiting"):
            make_delivery(channel_named("ops"), state)
        make_alert(rule, next_at=1)
        make_notice()
        make_worker(id="w1")
        make_queue(SYSTEM_QUEUE)
        for job_id in ("ended", "open"):
            make_job("pending", id=job_id)
            actions.watch(job_id, "other", "person:ana")
        with engines.writing() as session:
            session.connection().exec_driver_sql(
                "UPDATE jobs SET state = 'completed', finished_at = 1 WHERE id = 'ended'"
            )
    backup.make(config, tmp_path / "copy.db")
    _leave(app)
    _, paused = backup.restore(config, tmp_path / "copy.db", "person:ana")
    assert paused == ["default"]
    app = create_core(config)
    with app.app_context(), reading() as session:
        found = session.execute(select(Delivery.state, Delivery.answer).order_by(Delivery.id)).tuples().all()
        assert found == [("sent", None), ("dropped", "the database was restored")]
        assert session.scalars(select(Notice.id).where(Notice.taken_at.is_(None))).all() == []
        assert session.scalars(select(Alert.id).where(Alert.closed_at.is_(None))).all() == []
        assert len(session.scalars(select(JobWatch.job_seq)).all()) == 1
        assert session.scalars(select(Worker.state)).all() == ["stopped"]
        assert session.scalars(select(Queue.name).where(Queue.paused_at.is_(None))).all() == [SYSTEM_QUEUE]
    _leave(app)


def _leave(app: Flask) -> None:
    """Be no user of the database any more, as a process that has ended."""
    with app.app_context():
        engines.disconnect()
    os.close(app.extensions["queuectl_database"].in_use)
