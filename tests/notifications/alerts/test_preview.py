"""A preview of a rule, compared with what a dispatcher sent at that time."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import insert, select

from tests.factories import make_attempt, make_event, make_job
from tests.notifications.alerts.conftest import Alerting
from webapp.db.engines import reading, writing
from webapp.db.models import CommandHour, Fire, Schedule
from webapp.lib import clock
from webapp.notifications import preview, rules
from webapp.schedules import actions
from webapp.schedules import spec as schedule_spec


def previewed(**fields: Any) -> list[tuple[int, str, int]]:
    spec = rules.parse({"name": "r", "channel": "ops", "on": "job-dead", **fields})
    with reading() as session:
        return [(message.at, message.kind, message.count) for message in preview.preview(session, spec)]


@pytest.mark.parametrize("fields", [{}, {"after": 3}, {"on": "group-new"}, {"quiet_hours": "01:00-05:00"}])
def test_it_says_what_the_dispatcher_sends(alerting: Alerting, fields: dict[str, Any]) -> None:
    alerting.add_rule(**{"on": "job-dead", **fields})
    for place in range(100):
        if place % 40 < 15:
            alerting.die(number=1 + place % 3)
        alerting.tick()
        alerting.later(5)
        if place % 40 == 20:
            alerting.complete()
        alerting.later(2)
    sent = [(row.not_before, row.kind) for row in alerting.rows()]
    found = [(at, kind) for at, kind, _ in previewed(**fields)]
    assert [kind for _, kind in found] == [kind for _, kind in sorted(sent, key=lambda message: message[0])]
    assert all(abs(one - other) <= 10 * 60 * clock.SECOND for (one, _), (other, _) in zip(found, sorted(sent)))


def test_conditions_and_old_failures_are_left_out(alerting: Alerting) -> None:
    now = clock.now()
    make_job("dead", queue="mail", finished_at=now - clock.DAY, error_key="k1")
    make_job("dead", queue="other", finished_at=now - clock.DAY, error_key="k2")
    make_job("dead", queue="mail", finished_at=now - 8 * clock.DAY, error_key="k3")
    assert previewed(queue="mail") == [(now - clock.DAY, "alert", 1)]


@pytest.mark.postgresql
def test_a_death_before_a_requeue_counts_although_the_job_completed(alerting: Alerting) -> None:
    now = clock.now()
    job = make_job("completed", finished_at=now, command="backup.sh")
    make_attempt(job, 1, error_key="first", finished_at=now - 3 * clock.DAY)
    make_attempt(job, 2, error_key="k1", finished_at=now - 2 * clock.DAY)
    make_event("requeue", "person:ana", f"job:{job.id}", job=job)
    make_attempt(job, 3, "completed", finished_at=now)
    assert previewed() == [(now - 2 * clock.DAY, "alert", 1), (now, "recovery", 1)]
    assert [kind for _, kind, _ in previewed(on="attempt-failed")] == ["alert", "alert", "recovery", "recovery"]


@pytest.mark.postgresql
def test_schedules_workers_and_canaries(alerting: Alerting, schedules_row: int) -> None:
    for verb, subject, detail in (
        ("schedule_late", "schedule:s", {"reason": "x"}),
        ("schedule_recovered", "schedule:s", {"what": "late", "for": 60}),
        ("expire", "worker:w1", {}),
        ("canary_failed", "act:7", {"text": "x"}),
    ):
        make_event(verb, "rule:x", subject, **detail)
        alerting.time.pass_(1)
    with writing() as session:
        now = clock.now()
        values = {"schedule_id": schedules_row, "due_at": now, "decided_at": now, "outcome": "missed"}
        session.execute(insert(Fire).values(**values))
    spec = {"name": "r", "channel": "ops", "on": "schedule-late,schedule-missed,worker-lost,canary-ended"}
    with reading() as session:
        found = preview.preview(session, rules.parse(spec))
    told = [(message.kind, message.event, message.subject) for message in found]
    assert told == [
        ("alert", "schedule-late", "schedule s"),
        ("recovery", "schedule-late", "schedule s"),
        ("alert", "worker-lost", "host ?"),
        ("alert", "canary-ended", "action 7"),
        ("alert", "schedule-missed", "schedule s"),
    ]


@pytest.mark.postgresql
def test_of_a_busy_queue_the_hours_of_a_pattern_tell_when_it_recovered(
    alerting: Alerting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preview, "MOST_COMPLETED", 1)
    hour = 3600 * clock.SECOND
    now = clock.now()
    start = now // hour * hour
    make_job("dead", command="backup.sh", error_key="k1", finished_at=start - 20 * hour)
    make_job("completed", command="other.sh", finished_at=now)
    with writing() as session:
        values = {"shape": "backup.sh", "runs": 2, "failures": 1, "run_time": 1}
        session.execute(insert(CommandHour).values(at=start - 18 * hour, **values))
    assert [(at, kind) for at, kind, _ in previewed()] == [
        (start - 20 * hour, "alert"),
        (start - 17 * hour - 1, "recovery"),
    ]


@pytest.fixture
def schedules_row(alerting: Alerting) -> int:
    actions.add(schedule_spec.parse({"name": "s", "cron": "0 0 * * *", "job": {"command": "true"}}), "person:ana")
    with reading() as session:
        return int(session.scalars(select(Schedule.id)).one())
