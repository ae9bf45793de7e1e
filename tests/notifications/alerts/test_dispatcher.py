"""From notices to messages: one for each failure group, later ones at growing intervals, one recovery."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import delete, func, select, update

from tests.factories import make_job
from tests.notifications.alerts.conftest import MINUTE, Alerting
from webapp.core.notices import SYSTEM_QUEUE
from webapp.db.engines import writing
from webapp.db.models import Group, Job, Rule
from webapp.lib import clock

# --- one message for each failure group ---


@pytest.mark.postgresql
def test_a_thousand_deaths_of_three_kinds_are_three_messages_and_later_three_recoveries(alerting: Alerting) -> None:
    alerting.add_rule()
    for second in range(10):
        for kind in range(3):
            alerting.die(f"k{kind}", 34 if kind else 32, command=f"job-{kind}.sh {second}")
        alerting.time.pass_(0.1)
        alerting.tick()
    assert sorted(alerting.told()) == [("alert", f"k{kind}", 34 if kind else 32) for kind in range(3)]
    assert sorted(alert.count for alert in alerting.alerts()) == [320, 340, 340]
    alerting.time.pass_(2)
    for kind in range(3):
        alerting.complete(f"job-{kind}.sh 99")
    alerting.later(1)
    recoveries = [(kind, key, count) for kind, key, count in alerting.told() if kind == "recovery"]
    assert sorted(recoveries) == [("recovery", "k0", 320), ("recovery", "k1", 340), ("recovery", "k2", 340)]
    assert (len(alerting.rows()), alerting.alerts()) == (6, [])


def test_later_deaths_are_told_at_growing_intervals(alerting: Alerting) -> None:
    alerting.add_rule()
    started = clock.now()
    for _ in range(4 * 24 * 6):  # a death every ten minutes
        alerting.die()
        alerting.tick()
        alerting.time.pass_(10)
    hours = [(row.created_at - started) / 60 / MINUTE for row in alerting.rows()]
    assert hours == [0, 1 / 6, 1 + 1 / 6, 7 + 1 / 6, 31 + 1 / 6, 55 + 1 / 6, 79 + 1 / 6]
    assert alerting.kinds() == ["alert", *["update"] * 6]


@pytest.mark.postgresql
def test_without_anything_new_there_is_no_message_and_the_next_death_is_told_at_once(alerting: Alerting) -> None:
    alerting.add_rule()
    alerting.die()
    alerting.tick()
    for _ in range(50):
        alerting.later(60)
    assert alerting.kinds() == ["alert"]
    alerting.die(number=2)
    alerting.tick()
    alerting.die()
    alerting.tick()
    assert alerting.told() == [("alert", "k1", 1), ("update", "k1", 3)]
    [_, update_] = alerting.rows()
    detail = json.loads(update_.detail)
    assert (detail["rule"], detail["event"], detail["new"], detail["subject"]) == ("rule", "job-dead", 2, "group:k1")


def test_a_requeue_of_jobs_that_fail_again_goes_on_with_the_same_alert(alerting: Alerting) -> None:
    alerting.add_rule()
    jobs = alerting.die(number=5)
    alerting.tick()
    alerting.later(1)
    with writing() as session:
        session.execute(update(Job).values(state="pending", finished_at=None))
    alerting.tick(checks=True)
    with writing() as session:
        session.execute(update(Job).values(state="dead", finished_at=clock.now()))
    for job in jobs:
        alerting.record("job-dead", "group:k1", at=clock.now(), seq=job.seq)
    alerting.tick(checks=True)
    assert [(alert.count, alert.told) for alert in alerting.alerts()] == [(10, 1)]


@pytest.mark.postgresql
def test_two_rules_have_an_alert_each(alerting: Alerting) -> None:
    alerting.add_rule(name="one", queue="mail")
    alerting.add_rule(name="two", after=3)
    alerting.die(queue="mail")
    alerting.die("k2", 3)
    alerting.tick()
    assert [json.loads(row.detail)["rule"] for row in alerting.rows()] == ["one", "two"]
    assert [(alert.key, alert.count) for alert in alerting.alerts()] == [
        ("group:k1", 1),
        ("group:k1", 1),
        ("group:k2", 3),
    ]


# --- what a rule asks for ---


@pytest.mark.parametrize(
    ("condition", "other"),
    [
        ({"queue": "mail"}, {"queue": "default"}),
        ({"schedule": "nightly"}, {"schedule": None}),
        ({"command": "*backup*"}, {"command": "report.sh\n--all"}),
        ({"command": "*report.sh*"}, {"command": "Report.sh"}),
    ],
)
def test_a_condition_lets_only_its_jobs_pass(
    alerting: Alerting, condition: dict[str, Any], other: dict[str, Any]
) -> None:
    alerting.add_rule(**condition)
    matching: dict[str, Any] = {"queue": "mail", "schedule": "nightly", "command": "sh report.sh\nbackup x"}
    alerting.die("k1", **matching)
    alerting.die("k2", **{**matching, **other})
    alerting.tick()
    assert alerting.told() == [("alert", "k1", 1)]
    assert alerting.waiting_notices() == 0


@pytest.mark.postgresql
def test_a_job_that_was_discarded_meanwhile_passes_no_condition(alerting: Alerting) -> None:
    alerting.add_rule(name="all")
    alerting.add_rule(name="mail", queue="mail")
    alerting.die(queue="mail")
    with writing() as session:
        session.execute(delete(Job))
    alerting.tick()
    assert [json.loads(row.detail)["rule"] for row in alerting.rows()] == ["all"]


def test_a_rule_tells_only_after_so_many_without_a_recovery(alerting: Alerting) -> None:
    alerting.add_rule(after=3)
    alerting.die(number=2)
    alerting.later(5)
    alerting.complete()
    alerting.later(1)
    alerting.die(number=2)
    alerting.later(5)
    assert alerting.kinds() == []
    alerting.die()
    alerting.tick()
    assert alerting.told() == [("alert", "k1", 3)]


@pytest.mark.postgresql
def test_a_rule_about_attempts_hears_of_deaths_too_but_not_the_other_way_round(alerting: Alerting) -> None:
    alerting.add_rule("attempt-failed", name="attempts")
    alerting.add_rule("job-dead", name="deaths")
    job = make_job("failed")
    alerting.record("attempt-failed", "group:k1", seq=job.seq)
    alerting.die("k2")
    alerting.tick()
    told = [(json.loads(row.detail)["rule"], json.loads(row.detail)["key"]) for row in alerting.rows()]
    assert told == [("attempts", "group:k1"), ("attempts", "group:k2"), ("deaths", "group:k2")]


def test_what_no_rule_asks_for_is_not_stored(alerting: Alerting) -> None:
    alerting.add_rule("worker-lost")
    alerting.die()
    alerting.record("canary-ended", "action:1")
    assert alerting.waiting_notices() == 0


def test_failures_of_jobs_that_send_messages_are_not_stored(alerting: Alerting) -> None:
    alerting.add_rule("job-dead,attempt-failed")
    alerting.die(queue=SYSTEM_QUEUE)
    assert alerting.waiting_notices() == 0


def test_a_rule_hears_of_nothing_that_happened_before_it_was_made(alerting: Alerting) -> None:
    alerting.add_rule(name="first", queue="mail")
    alerting.die()
    alerting.time.pass_(1)
    alerting.add_rule(name="second")
    alerting.tick()
    assert alerting.kinds() == []


def test_notices_of_a_rule_that_was_removed_are_taken_without_a_message(alerting: Alerting) -> None:
    alerting.add_rule()
    alerting.die(number=3)
    with writing() as session:
        session.execute(delete(Rule))
    alerting.tick()
    assert (alerting.waiting_notices(), alerting.kinds(), alerting.alerts()) == (0, [], [])


# --- new groups ---


def acknowledge(key: str = "k1") -> None:
    """As `failure_groups.update` does: up to the last death."""
    with writing() as session:
        last = session.scalar(select(func.max(Job.finished_at)).where(Job.error_key == key))
        values = {"note": "", "changed_at": 1, "changed_by": "person:ana", "acknowledged_by": "person:ana"}
        session.merge(Group(key=key, acknowledged_at=last, **values))


def test_a_new_group_is_told_once_and_its_recovery(alerting: Alerting) -> None:
    alerting.add_rule("group-new")
    for _ in range(5):
        alerting.die()
        alerting.later(24 * 60)
    alerting.complete()
    alerting.later(2)
    assert alerting.told() == [("alert", "k1", 1), ("recovery", "k1", 5)]


@pytest.mark.postgresql
def test_a_group_that_failed_in_the_last_month_is_not_new(alerting: Alerting) -> None:
    alerting.add_rule("group-new")
    for _ in range(4):
        alerting.die()
        alerting.later(2)
        alerting.complete()
        alerting.later(20 * 24 * 60)
    assert alerting.kinds() == ["alert", "recovery"]
    alerting.time.pass_(31 * 24 * 60)
    alerting.die()
    alerting.tick()
    assert alerting.kinds() == ["alert", "recovery", "alert"]


@pytest.mark.postgresql
@pytest.mark.parametrize("recovered", [False, True])
def test_a_group_that_comes_back_after_its_acknowledgement_is_new(alerting: Alerting, recovered: bool) -> None:
    alerting.add_rule("group-new")
    alerting.die()
    alerting.tick()
    alerting.time.pass_(2)
    if recovered:
        alerting.complete()
        alerting.later(1)
    acknowledge()
    alerting.later(10)
    alerting.die()
    alerting.tick()
    alerting.die()
    alerting.later(60)
    assert alerting.kinds() == (["alert", "recovery", "alert"] if recovered else ["alert", "alert"])
    assert [alert.count for alert in alerting.alerts()] == [2]


# --- when a message is sent ---


@pytest.mark.postgresql
def test_a_muted_rule_stores_its_messages_as_suppressed(alerting: Alerting) -> None:
    alerting.add_rule(muted_until=alerting.time.now + 60 * MINUTE)
    alerting.die()
    alerting.tick()
    [row] = alerting.rows()
    assert (row.state, row.answer, row.ended_at) == ("suppressed", "The rule is muted.", alerting.time.now)
    assert alerting.senders() == []
    alerting.time.pass_(90)
    alerting.complete()
    alerting.later(1)
    assert len(alerting.rows()) == 1  # its channel heard of no problem
    assert len(alerting.alerts(closed=True)) == 1


def test_in_quiet_hours_messages_wait_and_no_sender_starts(alerting: Alerting) -> None:
    alerting.add_rule(quiet_hours="00:00-06:00")  # it is 00:00:30
    alerting.die()
    alerting.tick()
    [row] = alerting.rows()
    six = clock.parse_iso("2026-06-01T06:00:00Z")
    assert (row.state, row.not_before) == ("waiting", six)
    assert alerting.senders() == []
    alerting.die()
    alerting.later(30)
    assert alerting.kinds() == ["alert"]  # more of the same follows after the first message
    alerting.time.now = six
    alerting.tick()
    assert len(alerting.senders()) == 1
    alerting.later(10)
    assert alerting.kinds() == ["alert", "update"]


@pytest.mark.postgresql
def test_what_opens_and_closes_again_and_again_is_told_once_as_flapping(alerting: Alerting) -> None:
    alerting.add_rule()
    for _ in range(8):
        alerting.die()
        alerting.later(2)
        alerting.complete()
        alerting.later(2)
    assert alerting.kinds() == ["alert", "recovery"] * 3 + ["flapping"]
    alerting.later(59)
    assert alerting.kinds()[-1] == "flapping"
    alerting.later(1)
    assert alerting.told()[-1] == ("recovery", "k1", 5)
    assert alerting.alerts() == []
    alerting.die()
    alerting.tick()
    assert alerting.kinds()[-1] == "alert"


# --- other events ---


@pytest.mark.postgresql
def test_an_event_and_its_recovery_among_the_same_notices_keep_their_order(alerting: Alerting) -> None:
    alerting.add_rule("schedule-late,schedule-failing", schedule="s")
    alerting.record("schedule-late", "schedule:s", detail={"reason": "its job has waited"})
    alerting.record("schedule-late", "schedule:s", detail={"recovered": True})
    alerting.record("schedule-late", "schedule:s", detail={"reason": "again"})
    alerting.record("schedule-failing", "schedule:other")
    alerting.tick()
    assert alerting.kinds() == ["alert", "recovery", "alert"]
    assert json.loads(alerting.rows()[2].detail)["notice"] == {"reason": "again"}
    assert [alert.key for alert in alerting.alerts()] == ["schedule-late schedule:s"]


def test_lost_workers_of_one_machine_are_one_message_which_closes_after_an_hour(alerting: Alerting) -> None:
    alerting.add_rule("worker-lost")
    for worker in ("w1", "w2", "w3"):
        alerting.record("worker-lost", "host:web-1", detail={"worker": worker, "host": "web-1"})
    alerting.tick()
    alerting.time.pass_(10)
    alerting.record("worker-lost", "host:web-1", detail={"worker": "w4", "host": "web-1"})
    alerting.later(49)
    assert alerting.told() == [("alert", "worker-lost host:web-1", 3), ("update", "worker-lost host:web-1", 4)]
    for _ in range(5):
        alerting.later(13)
    assert (alerting.alerts(), len(alerting.rows())) == ([], 2)
