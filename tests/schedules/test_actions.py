"""Runs by people: now, and of fires that were skipped or missed. And which schedules a search finds."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, Optional

import pytest
from flask import Flask
from sqlalchemy import select

from tests.schedules.conftest import MINUTE, START, Schedules
from webapp.db.engines import reading
from webapp.db.models import Audit, Fire
from webapp.jobs.lifecycle import Conflict, NotFound
from webapp.schedules import actions, decider, spec, views
from webapp.schedules.decider import decide_all, due_of

FIRST = START - 30 * 1_000_000 + MINUTE  # when a schedule of each minute is first due


def paused(schedules: Schedules, minutes: int, **fields: Any) -> list[int]:
    """A schedule that was paused for some minutes. Returns the due times of its skipped fires."""
    schedules.add(**fields)
    actions.pause("s", "person:ana")
    schedules.later(minutes)
    actions.resume("s", "person:ana")
    return [FIRST + number * MINUTE for number in range(minutes)]


def fires() -> list[Fire]:
    with reading() as session:
        return list(session.scalars(select(Fire).order_by(Fire.due_at)))


def test_a_skipped_fire_runs_once_and_says_who_ran_it_and_why_it_was_skipped(schedules: Schedules) -> None:
    first, second = paused(schedules, 2)
    (job_id,) = actions.run_fires("s", "person:ben", [first])
    ran, other = fires()
    assert (ran.outcome, ran.job_id, ran.reason) == (
        "caught_up", job_id, "run by person:ben after it was skipped: paused")  # fmt: skip
    assert ran.decided_at == schedules.row().last_fire_at == schedules.time.now
    assert (other.due_at, other.outcome) == (second, "skipped")
    assert [(job.id, job.created_by, job.schedule) for job in schedules.jobs()] == [(job_id, "person:ben", "s")]
    schedules.end()
    with pytest.raises(Conflict, match=f"as {job_id}"):
        actions.run_fires("s", "person:ben", [first])
    assert len(schedules.jobs()) == 1
    with reading() as session:
        line = session.scalars(select(Audit).where(Audit.verb == "run_schedule")).one()
    assert (line.actor, line.subject) == ("person:ben", "schedule:s")
    assert job_id in (line.detail or "")


def test_a_missed_fire_runs_too(schedules: Schedules) -> None:
    schedules.add(catch_up="none", overlap="allow")
    schedules.later(4)
    (_,) = actions.run_fires("s", "person:ana", [FIRST])
    assert [outcome.split()[0] for outcome in schedules.outcomes()] == ["caught_up", "missed", "missed", "fired"]
    assert (fires()[0].reason or "").startswith("run by person:ana after it was missed: 3 min 30 s late")


def test_running_fires_obeys_the_overlap(schedules: Schedules) -> None:
    dues = paused(schedules, 3)
    with pytest.raises(Conflict, match="one fire at a time"):
        actions.run_fires("s", "person:ana", dues)
    (job_id,) = actions.run_fires("s", "person:ana", dues[-1:])
    with pytest.raises(Conflict, match=f"{job_id} has not ended"):
        actions.run_fires("s", "person:ana", dues[:1])
    assert schedules.outcomes() == ["skipped paused", "skipped paused", "caught_up run by person"]
    assert len(schedules.jobs()) == 1


def test_several_fires_run_together_or_none_of_them(schedules: Schedules) -> None:
    dues = paused(schedules, 3, overlap="allow")
    actions.run_fires("s", "person:ana", dues[1:2])
    with pytest.raises(Conflict, match="has run already"):
        actions.run_fires("s", "person:ana", dues)
    with pytest.raises(NotFound, match="no fire at"):
        actions.run_fires("s", "person:ana", [dues[0], dues[2] + 1])
    with pytest.raises(Conflict, match="choose 1 to 100"):
        actions.run_fires("s", "person:ana", range(101))
    assert len(schedules.jobs()) == 1
    assert len(actions.run_fires("s", "person:ana", [dues[0], dues[2]])) == 2
    assert {fire.job_id for fire in fires()} == {job.id for job in schedules.jobs()}


@pytest.mark.postgresql
def test_two_users_run_a_fire_once(app: Flask, schedules: Schedules) -> None:
    (due,) = paused(schedules, 1, overlap="allow")

    def run(actor: str) -> int:
        with app.app_context():
            try:
                return len(actions.run_fires("s", actor, [due]))
            except Conflict:
                return 0

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(run, [f"person:{name}" for name in "abcd"])) == 1
    assert len(schedules.jobs()) == 1


def test_a_run_leaves_an_open_edit_valid(schedules: Schedules) -> None:
    (due,) = paused(schedules, 1, overlap="allow")
    seen = schedules.row().version
    actions.run_now("s", "person:ana")
    actions.run_fires("s", "person:ana", [due])
    described = {"name": "s", "cron": "0 * * * *", "job": {"command": "false"}}
    actions.edit("s", spec.parse(described), "person:ben", seen=seen)
    assert schedules.row().version == seen + 1


@pytest.mark.postgresql
def test_a_decider_that_read_the_schedule_before_a_run_sees_its_job(schedules: Schedules) -> None:
    """It has the row of before, and its guard passes."""
    schedules.add()
    schedules.time.pass_(1)
    with schedules.connection.transaction() as transaction:
        row = decider.named(transaction, "s")
    assert row is not None
    job_id = actions.run_now("s", "person:ana")
    with schedules.connection.transaction() as transaction:
        assert decide_all(transaction, [due_of(row, schedules.time.now)], schedules.time.now) == 1
    assert [(fire.outcome, fire.job_id or fire.reason) for fire in fires()] == [
        ("skipped", f"overlap: {job_id} has not ended"), ("fired", job_id)]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "minutes", "words"),
    [
        ({"enabled": False}, 3, "3 fires were skipped while it was paused"),
        ({"enabled": False}, 1, "1 fire was skipped while it was paused"),
        ({"cron": "0 * * * *", "catch_up": "none"}, 150, "2 fires were missed while no supervisor ran"),
        ({"cron": "0 * * * *", "catch_up_window": 60}, 90, "1 fire was missed while no supervisor ran"),
        ({"cron": "0 * * * *"}, 150, None),  # the last one was caught up
        ({"overlap": "skip"}, 1, None),  # it fired
    ],
)
def test_the_newest_fires_that_did_not_run_are_told(
    schedules: Schedules, fields: dict[str, Any], minutes: int, words: Optional[str]
) -> None:
    schedules.add(**fields)
    schedules.later(minutes)
    with reading() as session:
        found = views.not_run(session, schedules.row())
    assert (found and found.words) == words


def test_fires_that_an_overlap_skipped_are_not_offered(schedules: Schedules) -> None:
    schedules.add()
    schedules.later(1)
    schedules.later(1)
    assert schedules.outcomes() == ["fired", "skipped overlap"]
    with reading() as session:
        assert views.not_run(session, schedules.row()) is None


@pytest.mark.postgresql
def test_a_search_finds_names_in_any_case(schedules: Schedules) -> None:
    for name in ("Nightly_backup", "poll", "nightly-2"):
        schedules.add(name)

    def found(like: str) -> list[str]:
        with reading() as session:
            names = [view.row.name for view in views.page(session, like=like, limit=10).views]
            assert views.count(session, like) == len(names)
        return names

    assert found("NIGHT") == found("night") == ["Nightly_backup", "nightly-2"]
    assert found("y_b") == ["Nightly_backup"], "_ is a letter, not a pattern"
    assert found("%") == found("ü") == found("Ü") == found("bac\u212aup") == []
