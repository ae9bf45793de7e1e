"""When alerts end: failure groups that recover, and alerts that nothing would end."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import delete, select, update

from tests.factories import make_attempt, make_job, make_jobs
from tests.notifications.alerts.conftest import Alerting
from webapp.db.engines import writing
from webapp.db.models import Job, Rule
from webapp.lib import clock
from webapp.notifications import dispatcher, group_recovery


@pytest.mark.postgresql
def test_a_job_with_the_same_pattern_recovers_a_group_once_it_is_calm(alerting: Alerting) -> None:
    alerting.add_rule()
    alerting.die(command="fetch.sh --day 17")
    alerting.tick()
    alerting.time.pass_(0.5)
    alerting.complete("fetch.sh --day 18")
    alerting.tick()
    assert alerting.kinds() == ["alert"]  # others of its kind may still fail
    alerting.later(0.5)
    [_, recovery] = alerting.rows()
    detail = json.loads(recovery.detail)
    assert (recovery.kind, detail["seconds"], detail["count"], detail["new"]) == ("recovery", 60.0, 1, 0)


def test_a_pattern_of_which_some_fail_and_some_complete_does_not_recover(alerting: Alerting) -> None:
    alerting.add_rule()
    for page in range(40):
        alerting.die(command=f"fetch.sh {page}")
        alerting.complete(f"fetch.sh {page + 1000}")
        alerting.later(0.25)
    assert alerting.kinds() == [
        "alert",
    ]


def test_completions_before_the_last_death_and_of_other_commands_recover_nothing(alerting: Alerting) -> None:
    alerting.add_rule()
    alerting.complete("backup.sh")
    alerting.time.pass_(0.1)
    alerting.die(command="backup.sh")
    alerting.tick()
    alerting.complete("report.sh")
    alerting.later(5)
    assert alerting.kinds() == ["alert"]


@pytest.mark.postgresql
def test_a_job_of_the_group_recovers_it_whatever_its_command_is(alerting: Alerting) -> None:
    alerting.add_rule()
    [job] = alerting.die(command="first.sh")
    make_attempt(job, 1, error_key="k1")
    alerting.time.pass_(0.1)
    alerting.die(command="second.sh")
    alerting.later(1)
    alerting.complete(job=job)
    alerting.later(1)
    assert alerting.kinds() == ["alert", "recovery"]


@pytest.mark.postgresql
def test_a_completion_while_no_dispatcher_ran_is_found(alerting: Alerting) -> None:
    alerting.add_rule()
    [job] = alerting.die()
    alerting.tick()
    alerting.time.pass_(2)
    alerting.complete(job=job)
    alerting.time.pass_(24 * 60)
    alerting.dispatcher = dispatcher.Dispatcher(alerting.connection)
    alerting.tick(checks=True)
    alerting.tick()
    assert alerting.kinds() == ["alert", "recovery"]


@pytest.mark.postgresql
def test_many_completions_are_read_in_bounded_steps(alerting: Alerting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_recovery, "_COMPLETED", group_recovery._COMPLETED.replace("LIMIT 2000", "LIMIT 5"))
    monkeypatch.setattr(group_recovery, "BATCH", 5)
    alerting.add_rule()
    alerting.die()
    alerting.tick()
    alerting.time.pass_(2)
    make_jobs(
        [{"state": "completed", "command": f"echo {'x' * place}", "finished_at": clock.now()} for place in range(18)]
    )
    alerting.complete()
    alerting.time.pass_(1)
    assert [alerting.dispatcher.tick() for _ in range(5)] == [True, True, True, False, False]
    assert alerting.kinds() == ["alert", "recovery"]


@pytest.mark.parametrize("gone", [True, False])
def test_an_alert_closes_without_a_message_once_all_dead_jobs_of_its_group_are_discarded(
    alerting: Alerting, gone: bool
) -> None:
    alerting.add_rule()
    alerting.die(number=2)
    alerting.tick()
    with writing() as session:
        first = session.scalar(select(Job.seq).order_by(Job.seq).limit(1))
        session.execute(delete(Job) if gone else delete(Job).where(Job.seq != first))
    alerting.tick(checks=True)
    assert (len(alerting.alerts(closed=True)), alerting.kinds()) == (1 if gone else 0, ["alert"])


def test_an_alert_of_an_attempt_stays_open_while_its_job_will_be_retried(alerting: Alerting) -> None:
    alerting.add_rule("attempt-failed")
    job = make_job("failed", command="backup.sh")
    alerting.record("attempt-failed", "group:k1", seq=job.seq)
    alerting.tick(checks=True)
    assert len(alerting.alerts()) == 1
    alerting.time.pass_(2)
    alerting.complete(job=job)
    alerting.later(1)
    assert alerting.kinds() == ["alert", "recovery"]


def test_an_alert_about_what_its_rule_no_longer_asks_for_closes_without_a_message(alerting: Alerting) -> None:
    alerting.add_rule("job-dead")
    alerting.die()
    alerting.tick()
    with writing() as session:
        session.execute(update(Rule).values(events=",disk-low,"))
    alerting.tick(checks=True)
    assert (alerting.alerts(), alerting.kinds()) == ([], ["alert"])
