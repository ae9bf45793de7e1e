"""How an act on all finds its jobs: all of them and no others, in reads that end, without a lock and without a sort."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask
from sqlalchemy import event, select

from tests.factories import change_job, make_jobs
from webapp.db import engines
from webapp.db.engines import reading
from webapp.db.models import Event, Job
from webapp.jobs import bulk_actions, filters, search

ANA = "person:ana"


def in_state(state: str) -> list[str]:
    with reading() as session:
        return list(session.scalars(select(Job.id).where(Job.state == state).order_by(Job.seq)))


def fill() -> list[str]:
    """Dead and completed jobs by turns; every seventh is a needle."""
    states = ("dead", "completed", "dead")
    many = [{"state": states[n % 3], "id": f"j{n:03}", "command": "needle" if n % 7 == 0 else "hay"} for n in range(90)]
    make_jobs(many)
    return [str(one["id"]) for one in many if one["state"] == "dead" and one["command"] == "needle"]


@pytest.mark.usefixtures("app")
@pytest.mark.parametrize("cap", [4, 100])  # less than an index leaves, and more
@pytest.mark.parametrize("batch", [3, 500])
def test_every_job_that_matches_is_moved_and_no_other(monkeypatch: pytest.MonkeyPatch, cap: int, batch: int) -> None:
    wanted = fill()
    monkeypatch.setattr(filters, "SEARCH_CAP", cap)
    monkeypatch.setattr(bulk_actions, "BATCH", batch)
    monkeypatch.setattr(bulk_actions, "LOOKS", 2)
    result = bulk_actions.act_on_all("requeue", search.parse("state:dead needle"), ANA)
    assert (result.moved, result.skipped, result.done) == (len(wanted), 0, True)
    assert in_state("pending") == wanted


@pytest.mark.usefixtures("app")
def test_what_changes_between_the_look_and_the_move_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = fill()
    look = bulk_actions._next_of

    def slow(act: Any) -> Any:
        found = look(act)
        change_job(wanted[0], command="hay")
        change_job(wanted[1], state="pending", finished_at=None)
        return found

    monkeypatch.setattr(bulk_actions, "_next_of", slow)
    result = bulk_actions.act_on_all("discard", search.parse("state:dead needle"), ANA)
    assert (result.moved, result.skipped) == (len(wanted) - 2, 2)
    assert set(wanted[:2]) <= {*in_state("dead"), *in_state("pending")}


@pytest.mark.usefixtures("app")
def test_two_who_carry_on_the_same_act_move_nothing_twice_and_miss_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = fill()
    monkeypatch.setattr(bulk_actions, "BATCH", 3)
    act_id = bulk_actions.start("requeue", search.parse("state:dead needle"), ANA)
    look = bulk_actions._next_of
    turns: list[int] = []

    def overtaken(act: Any) -> Any:
        found = look(act)
        if len(turns) < 3:
            turns.append(1)
            bulk_actions.advance(act_id)  # somebody else, between this one's look and its move
        return found

    monkeypatch.setattr(bulk_actions, "_next_of", overtaken)
    result = bulk_actions.carry_out(act_id)
    assert (result.moved, result.skipped, result.done) == (len(wanted), 0, True)
    assert in_state("pending") == wanted
    with reading() as session:
        assert len(session.scalars(select(Event).where(Event.verb == "requeue")).all()) == len(wanted)


@pytest.mark.parametrize("typed", ["state:dead", "state:dead needle", "", "queue:default"])
def test_many_jobs_are_walked_as_they_lie_and_not_sorted_for_each_batch(
    app: Flask, monkeypatch: pytest.MonkeyPatch, typed: str
) -> None:
    fill()
    monkeypatch.setattr(filters, "SEARCH_CAP", 5)
    plans: list[str] = []

    def see(connection: Any, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        if statement.startswith("SELECT jobs.seq") and "EXPLAIN" not in statement:
            if not engines.is_sqlite():
                for setting in ("enable_seqscan", "enable_bitmapscan", "enable_sort"):  # the table is small
                    connection.exec_driver_sql(f"SET LOCAL {setting} = off")
            explain = "EXPLAIN QUERY PLAN " if engines.is_sqlite() else "EXPLAIN "
            rows = connection.exec_driver_sql(explain + statement, parameters).fetchall()
            plans.append("\n".join(str(row[-1]) for row in rows))

    event.listen(engines.read_engine(), "before_cursor_execute", see)
    bulk_actions.advance(bulk_actions.start("requeue", search.parse(typed), ANA))
    assert plans
    assert not [plan for plan in plans if "TEMP B-TREE" in plan or "Sort" in plan]
