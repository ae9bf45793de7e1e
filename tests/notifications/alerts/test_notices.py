"""Where notices come from: each is written in the transaction of what happened, if a rule asks for it."""

from __future__ import annotations

import json
from typing import Any, Optional

import pytest
from sqlalchemy import select, update

from tests.factories import make_job, make_worker
from tests.notifications.alerts.conftest import Alerting
from tests.schedules.conftest import Clock, Schedules
from tests.worker.test_claims import ended
from webapp.core import notices
from webapp.core.labels import LabelSet
from webapp.core.settings import Settings
from webapp.db.engines import reading, writing
from webapp.db.models import Job, Notice, Worker
from webapp.jobs import canary
from webapp.jobs.filters import JobFilter
from webapp.lib import clock
from webapp.notifications import policy
from webapp.schedules import actions, spec
from webapp.schedules.decider import Decider
from webapp.schedules.health import Health
from worker.loop.claims import Claims
from worker.maintenance import recovery
from worker.maintenance.dead_workers import DeadWorkers, running


def noticed() -> list[tuple[str, str, Optional[int]]]:
    with reading() as session:
        rows = session.scalars(select(Notice).order_by(Notice.id))
        return [(row.event, row.subject, row.job_seq) for row in rows]


def details() -> list[Any]:
    with reading() as session:
        return [json.loads(text) for text in session.scalars(select(Notice.detail).order_by(Notice.id)) if text]


@pytest.mark.postgresql
@pytest.mark.parametrize("asked", ["job-dead,attempt-failed", "group-new", "attempt-failed", "worker-lost"])
def test_a_failed_attempt_and_a_death_but_nothing_else_of_a_job(alerting: Alerting, asked: str) -> None:
    alerting.add_rule(asked)
    make_worker(id="w1")
    claims = Claims(alerting.connection, "w1")
    jobs = [make_job("pending", max_retries=1) for _ in range(3)]
    for kinds in (["failed", "completed", "released"], ["failed", "cancelled"]):
        with claims as turn:
            taken = turn.claim([LabelSet("default", "")], 3, Settings())
        for claim, kind in zip(taken, kinds):
            with claims as turn:
                turn.settle(ended(claim, kind, error_key="k1" if kind == "failed" else None), Settings(), 0)
        with writing() as session:
            session.execute(update(Job).where(Job.state == "failed").values(state="pending", run_at=1))
    attempt = ("attempt-failed", "group:k1", jobs[0].seq)
    death = ("job-dead", "group:k1", jobs[0].seq)
    expected = {"group-new": [death], "worker-lost": []}.get(asked, [attempt, death])
    assert noticed() == expected
    if death in expected:
        with reading() as session:
            [dead] = session.scalars(select(Job).where(Job.state == "dead"))
            assert dead.finished_at in session.scalars(select(Notice.at)).all()  # acknowledgements name this time


def test_a_job_that_crashes_its_workers(alerting: Alerting) -> None:
    alerting.add_rule()
    job = make_job("processing", losses=2, lone_losses=2)
    recovery.recover_orphans(alerting.connection)
    [(event, subject, seq)] = noticed()
    assert (event, subject.partition(":")[0], seq) == ("job-dead", "group", job.seq)
    make_job("processing")
    recovery.recover_orphans(alerting.connection)
    assert len(noticed()) == 1  # a loss is no failure


@pytest.mark.postgresql
def test_a_worker_that_is_lost(alerting: Alerting) -> None:
    alerting.add_rule("worker-lost")
    worker = make_worker(host="web-1")
    checks = DeadWorkers(alerting.connection, 3.0)
    for _ in range(12):
        checks.check(running(alerting.connection), 5.0, 3.0)
    assert noticed() == [("worker-lost", "host:web-1", None)]
    [detail] = details()
    assert (detail["worker"], detail["host"]) == (worker.id, "web-1")
    with reading() as session:
        assert session.scalars(select(Worker.state)).all() == ["expired"]


@pytest.fixture
def schedules(alerting: Alerting, time: Clock) -> Schedules:
    made = Schedules.__new__(Schedules)
    made.time, made.connection = time, alerting.connection
    made.decider = Decider(alerting.connection)
    return made


@pytest.mark.postgresql
def test_breaches_of_a_schedule_and_their_ends(alerting: Alerting, schedules: Schedules) -> None:
    alerting.add_rule("schedule-late,schedule-failing")
    schedules.add(cron="0 0 * * *", late_after="10m")
    health = Health(schedules.connection)
    actions.run_now("s", "person:ana")
    schedules.time.pass_(20)
    health.check()
    schedules.start()
    health.check()
    schedules.end("dead")
    health.check()
    subject = ("schedule:s", None)
    assert noticed() == [("schedule-late", *subject), ("schedule-late", *subject), ("schedule-failing", *subject)]
    assert details()[1:] == [{"recovered": True}, {"reason": "its last run failed"}]
    alerting.tick()
    assert alerting.kinds() == ["alert", "recovery", "alert"]


def test_an_edited_schedule_closes_its_alerts_without_a_message(alerting: Alerting, schedules: Schedules) -> None:
    alerting.add_rule("schedule-failing")
    schedules.add(cron="0 0 * * *")
    actions.run_now("s", "person:ana")
    schedules.start()
    schedules.end("dead")
    Health(schedules.connection).check()
    alerting.tick(checks=True)
    assert len(alerting.alerts()) == 1
    described = {"name": "s", "cron": "0 1 * * *", "job": {"command": "true"}}
    actions.edit("s", spec.parse(described), "person:ana")
    alerting.tick(checks=True)
    assert (alerting.alerts(), alerting.kinds()) == ([], ["alert"])


def test_missed_fires_are_one_notice_with_their_number(alerting: Alerting, schedules: Schedules) -> None:
    alerting.add_rule("schedule-missed")
    schedules.add(catch_up="none")
    schedules.later(10)
    assert noticed() == [("schedule-missed", "schedule:s", None)]
    [detail] = details()
    assert detail["number"] == 9
    assert detail["last"] - detail["first"] == 8 * 60 * clock.SECOND
    alerting.tick()
    for _ in range(10):
        alerting.later(10)
    assert (alerting.kinds(), alerting.alerts()) == (["alert"], [])  # a moment, which nothing recovers
    assert policy.MOMENTS[0] == "schedule-missed"


@pytest.mark.postgresql
@pytest.mark.parametrize("state", ["completed", "dead"])
def test_a_canary_that_has_ended(alerting: Alerting, state: str) -> None:
    alerting.add_rule("canary-ended")
    make_job("dead", error_key="k1")
    make_job("dead", error_key="k1")
    action = canary.start(JobFilter(group="k1"), "person:ana")
    canary.check_all()
    assert noticed() == []
    with writing() as session:
        session.execute(update(Job).where(Job.state == "pending").values(state=state, finished_at=clock.now()))
    canary.check_all()
    assert noticed() == [("canary-ended", f"action:{action}", None)]
    assert details()[0]["passed"] is (state == "completed")
    alerting.tick()
    assert alerting.told() == [("alert", f"canary-ended action:{action}", 1)]


def test_without_a_rule_nothing_is_stored(alerting: Alerting) -> None:
    alerting.add_channel()
    alerting.die()
    alerting.record("worker-lost", "host:web-1")
    assert noticed() == []


def test_a_notice_wakes_the_maintenance_process_on_sqlite(alerting: Alerting) -> None:
    """It watches the same file as idle workers."""
    alerting.add_rule("worker-lost")
    woken: list[bool] = []
    for event in ("worker-lost", "canary-ended"):
        with alerting.connection.transaction() as transaction:
            notices.record(transaction, event, "host:x")
            woken.append(transaction.wakes_workers)
    assert woken == [alerting.connection.is_sqlite, False]
