"""A canary: the other dead letters are requeued only if the first one completes."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from tests.factories import change_job, make_job
from webapp.db.engines import reading
from webapp.db.models import BulkAction, Event, Job
from webapp.jobs import actions, canary, lifecycle
from webapp.jobs.filters import JobFilter
from webapp.lib import clock

ANA = "person:ana"
DEAD = JobFilter(state="dead")
pytestmark = pytest.mark.usefixtures("app")


def state(job: Job) -> str:
    with reading() as session:
        return session.scalar(select(Job.state).where(Job.seq == job.seq)) or "gone"


def act(act_id: int) -> BulkAction:
    with reading() as session:
        return actions.find(session, act_id)


def settle(job: Job, state: str) -> None:
    """Settle the job as a worker does."""
    change_job(job.id, state=state, attempts=job.attempts + 1, finished_at=clock.now())


def look() -> None:
    for act_id in canary.check_all():
        actions.resume(act_id)


@pytest.fixture
def three() -> list[Job]:
    """Oldest first."""
    return [make_job("dead", finished_at=clock.now() - clock.seconds(age)) for age in (30, 20, 10)]


@pytest.mark.postgresql
def test_the_others_wait_for_the_newest_job_and_follow_when_it_completes(three: list[Job]) -> None:
    act_id = canary.start(DEAD, ANA)
    assert [state(job) for job in three] == ["dead", "dead", "pending"]
    look()
    assert (act(act_id).state, act(act_id).moved) == ("waiting", 1)
    with reading() as session:
        assert canary.held_back(session, act(act_id)).number == 2
    settle(three[2], "completed")
    look()
    assert (act(act_id).state, act(act_id).moved) == ("done", 3)
    assert [state(job) for job in three] == ["pending", "pending", "completed"]


def test_a_named_job_can_be_the_canary(three: list[Job]) -> None:
    canary.start(DEAD, ANA, three[0].id)
    assert [state(job) for job in three] == ["pending", "dead", "dead"]


def test_the_action_waits_during_the_retries_of_the_canary(three: list[Job]) -> None:
    act_id = canary.start(DEAD, ANA)
    change_job(three[2].id, state="failed", attempts=2, failures=1)
    look()
    assert act(act_id).state == "waiting"


@pytest.mark.parametrize("end", ["dies", "is cancelled", "is discarded", "is moved by somebody"])
def test_the_action_stops_and_moves_no_other_job_when_the_canary(end: str, three: list[Job]) -> None:
    act_id = canary.start(DEAD, ANA)
    if end == "dies":
        settle(three[2], "dead")
    elif end == "is cancelled":
        actions.apply("cancel", [three[2].id], "person:ben")
    elif end == "is discarded":
        actions.apply("discard", [three[2].id], "person:ben")
    else:
        settle(three[2], "dead")
        actions.apply("requeue", [three[2].id], "person:ben")
    look()
    assert (act(act_id).state, act(act_id).moved) == ("stopped", 1)
    assert [state(job) for job in three[:2]] == ["dead", "dead"]
    with reading() as session:
        why = session.scalar(select(Event.detail).where(Event.subject == f"act:{act_id}"))
    assert "canary" in (why or "")


@pytest.mark.postgresql
def test_the_jobs_are_fixed_at_the_click(three: list[Job]) -> None:
    old_but_alive = make_job("failed")
    act_id = canary.start(DEAD, ANA)
    late: list[Any] = [make_job("dead")]
    settle(old_but_alive, "dead")
    settle(three[2], "completed")
    look()
    assert act(act_id).moved == 3
    assert [state(job) for job in (*late, old_but_alive)] == ["dead", "dead"]


def test_a_canary_without_dead_letters_is_refused() -> None:
    with pytest.raises(lifecycle.NotFound):
        canary.start(DEAD, ANA)


@pytest.mark.postgresql
def test_a_waiting_canary_can_be_undone(three: list[Job]) -> None:
    act_id = canary.start(DEAD, ANA)
    assert actions.undo(act_id, ANA).moved == 1
    assert [state(job) for job in three] == ["dead"] * 3
    look()
    assert act(act_id).state == "stopped"


@pytest.mark.parametrize(
    ("rule", "number", "size"), [("1", 25, 1), ("3", 25, 3), ("3", 2, 2), ("10%", 25, 3), ("10%", 10, 1), ("10%", 1, 1)]
)
def test_the_pass_rule_says_how_many_jobs_must_succeed(rule: str, number: int, size: int) -> None:
    assert canary.size(rule, number) == size
    assert canary.size("10%", 10**6) == actions.BATCH


def test_the_others_wait_until_all_canary_jobs_have_completed(three: list[Job]) -> None:
    four = [make_job("dead", finished_at=clock.now() - clock.seconds(40)), *three]
    act_id = canary.start(DEAD, ANA, four[0].id, "3")
    assert [state(job) for job in four] == ["pending", "dead", "pending", "pending"]
    assert (act(act_id).canary_count, act(act_id).canary_rule) == (3, "3")
    for job in (four[0], four[3]):
        settle(job, "completed")
    look()
    assert act(act_id).state == "waiting"
    with reading() as session:
        assert [job.id for job in canary.jobs(session, act(act_id), 2)] == [four[2].id, four[3].id]
        assert canary.completed(session, act(act_id)) == 2
    settle(four[2], "completed")
    look()
    assert (act(act_id).state, act(act_id).moved) == ("done", 4)


@pytest.mark.parametrize("end", ["dead", "cancelled", "discarded"])
def test_one_bad_canary_job_is_enough_to_leave_the_others_alone(end: str, three: list[Job]) -> None:
    four = [make_job("dead", finished_at=clock.now() - clock.seconds(40)), *three]
    act_id = canary.start(DEAD, ANA, rule="3")
    settle(four[1], "completed")
    if end == "discarded":
        actions.apply("discard", [four[2].id], ANA)
    else:
        settle(four[2], end)
    look()
    assert (act(act_id).state, act(act_id).moved, state(four[0])) == ("stopped", 3, "dead")


def test_an_unknown_pass_rule_is_refused(three: list[Job]) -> None:
    with pytest.raises(canary.RuleError, match=r"'2'\. Expected one of 1, 3, 10%"):
        canary.start(DEAD, ANA, rule="2")
    assert [state(job) for job in three] == ["dead"] * 3
