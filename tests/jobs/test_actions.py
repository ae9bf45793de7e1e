"""Actions on jobs: each verb, named jobs and all that match, and what an action leaves behind for its undo.

What an undo puts back is in `test_undo.py`.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import event, select

from tests.factories import change_job, make_job, make_jobs
from webapp.core.states import STATES
from webapp.db import audit, engines
from webapp.db.engines import reading, writing
from webapp.db.models import BulkAction, Event, Job
from webapp.jobs import actions, activity, filters, search
from webapp.jobs.filters import JobFilter

ANA = "person:ana"


def state_of(job_id: str) -> str:
    with reading() as session:
        return session.scalar(select(Job.state).where(Job.id == job_id)) or "gone"


def row(action_id: int) -> BulkAction:
    with reading() as session:
        return actions.find(session, action_id)


def number_of_actions() -> int:
    with reading() as session:
        return len(session.scalars(select(BulkAction.id)).all())


# --- verbs -----------------------------------------------------------------------------------------------------------

MOVES = {
    "requeue": (("dead", "cancelled", "completed"), "pending"),
    "run_now": (("blocked", "scheduled", "failed"), "pending"),
    "cancel": (("blocked", "scheduled", "pending", "failed"), "cancelled"),
    "discard": (tuple(state for state in STATES if state != "processing"), "gone"),
}


@pytest.mark.postgresql
@pytest.mark.usefixtures("app")
@pytest.mark.parametrize("verb", MOVES)
def test_a_verb_moves_allowed_jobs_and_reports_the_state_of_the_others(verb: str) -> None:
    leaves, enters = MOVES[verb]
    for state in STATES:
        make_job(state, id=state, failures=2)
    result = actions.apply(verb, [*STATES, "none"], ANA)
    asked = ["processing"] if verb == "cancel" else []
    assert result.outcome.moved == [state for state in STATES if state in leaves]
    assert result.outcome.asked == asked
    assert result.outcome.refused == {s: s for s in STATES if s not in (*leaves, *asked)} | {"none": None}
    assert (result.moved, result.skipped) == (len(leaves) + len(asked), len(STATES) + 1 - len(leaves) - len(asked))
    assert {state_of(state) for state in leaves} == {enters}


@pytest.mark.postgresql
@pytest.mark.usefixtures("app")
def test_requeue_forgets_failures_and_losses_and_cancel_has_a_time() -> None:
    make_job("dead", id="a", failures=3, losses=2, lone_losses=1, run_at=1)
    actions.apply("requeue", ["a"], ANA)
    with reading() as session:
        job = session.scalars(select(Job)).one()
        assert (job.failures, job.losses, job.lone_losses, job.finished_at) == (0, 0, 0, None)
        assert job.run_at > 1
    actions.apply("cancel", ["a"], ANA)
    with reading() as session:
        assert session.scalars(select(Job)).one().finished_at is not None


@pytest.mark.usefixtures("app")
def test_a_running_job_is_asked_to_stop_once() -> None:
    make_job("processing", id="a")
    first, second = (actions.apply("cancel", ["a"], actor) for actor in (ANA, "person:ben"))
    assert (first.outcome.asked, first.undo) == (["a"], None)  # an undo cannot take that back
    assert (second.outcome.refused, second.action_id) == ({"a": "processing"}, 0)
    with reading() as session:
        assert session.scalars(select(Job.cancel_requested_by)).one() == ANA


@pytest.mark.usefixtures("app")
def test_only_limits_named_jobs_to_one_state() -> None:
    make_job("dead", id="a")
    make_job("completed", id="b")
    assert actions.apply("requeue", ["a", "b"], ANA, only="dead").outcome.refused == {"b": "completed"}
    assert (state_of("a"), state_of("b")) == ("pending", "completed")


@pytest.mark.usefixtures("app")
@pytest.mark.parametrize("verb", ["claim", "undo!", ""])
def test_a_verb_that_users_cannot_use_is_refused(verb: str) -> None:
    for which in (["a"], JobFilter()):
        with pytest.raises(ValueError, match="no action on jobs"):
            actions.apply(verb, which, ANA)


# --- the row ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("app")
@pytest.mark.parametrize("verb", MOVES)
@pytest.mark.parametrize("all_", [True, False])
def test_every_action_has_a_row_and_all_but_discards_can_be_undone(verb: str, all_: bool) -> None:
    make_job("failed" if verb != "requeue" else "dead", id="a")
    result = actions.apply(verb, JobFilter() if all_ else ["a"], ANA)
    one = row(result.action_id)
    assert (one.verb, one.actor, one.state, one.moved, one.skipped) == (verb, ANA, "done", 1, 0)
    assert activity.what(one) == ("all jobs" if all_ else "a")
    assert result.undo == (None if verb == "discard" else result.action_id)


@pytest.mark.postgresql
@pytest.mark.usefixtures("app")
def test_an_action_that_moves_no_named_job_leaves_no_row() -> None:
    make_job("processing", id="a")
    result = actions.apply("requeue", ["a"], ANA)
    assert (result.action_id, result.undo, result.skipped, number_of_actions()) == (0, None, 1, 0)


@pytest.mark.postgresql
@pytest.mark.usefixtures("app")
def test_named_jobs_are_audited_one_by_one_and_a_filter_as_one() -> None:
    make_job("dead", id="a")
    make_job("dead", id="b")
    actions.apply("requeue", ["a"], ANA)
    actions.apply("requeue", JobFilter(state="dead"), ANA)
    with reading() as session:
        lines = [(line.verb, line.subject) for line in audit.page(session, audit.AuditFilter(), limit=9)]
    assert lines == [("requeue", "act:2"), ("requeue", "job:a")]


@pytest.mark.postgresql
def test_an_action_on_a_few_named_jobs_is_one_transaction(app: Flask) -> None:
    for name in ("a", "b"):
        make_job("dead", id=name)
    commits: list[int] = []
    event.listen(engines.write_engine(), "commit", lambda _: commits.append(1))
    actions.apply("requeue", ["a", "b"], ANA)
    assert len(commits) == 1


@pytest.mark.postgresql
@pytest.mark.usefixtures("app")
def test_many_named_jobs_need_several_transactions_and_the_outcome_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actions, "BATCH", 10)
    make_jobs([{"state": "dead", "id": f"j{n:02}"} for n in range(25)])
    ids = [f"j{n:02}" for n in range(25)]
    result = actions.apply("requeue", [*ids, "none", ids[0]], ANA)
    assert (result.outcome.moved, result.outcome.refused, result.done) == (ids, {"none": None}, True)
    assert json.loads(row(result.action_id).filter)["ids"] == ids[: actions.SHOWN_IDS]
    assert activity.what(row(result.action_id)) == "26 jobs: j00, j01, j02 …"
    assert actions.undo(result.action_id, ANA).moved == 25


@pytest.mark.postgresql
@pytest.mark.usefixtures("app")
def test_an_action_on_named_jobs_continues_after_its_process_died(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actions, "BATCH", 10)
    make_jobs([{"state": "dead" if n else "completed", "id": f"j{n:02}"} for n in range(25)])
    result = actions.apply("requeue", [f"j{n:02}" for n in range(25)], ANA, only="dead", within=-1.0)
    assert (result.moved, result.done) == (19, False)
    with writing() as session:
        session.get_one(BulkAction, result.action_id).lease_until = 1
    with reading() as session:
        (abandoned,) = actions.abandoned(session)
    assert actions.resume(abandoned).moved == 24
    assert (state_of("j00"), state_of("j24"), row(abandoned).state) == ("completed", "pending", "done")


# --- all that match --------------------------------------------------------------------------------------------------


@pytest.mark.postgresql
@pytest.mark.usefixtures("app")
def test_matching_jobs_move_in_several_transactions_and_the_others_stay() -> None:
    make_jobs([{"id": f"j{n}"} for n in range(actions.BATCH + 3)])
    make_job(id="kept", queue="other")
    result = actions.apply("cancel", JobFilter(queue="default"), ANA)
    assert (result.moved, result.skipped, result.done) == (actions.BATCH + 3, 0, True)
    assert state_of("kept") == "pending"


@pytest.mark.postgresql
@pytest.mark.usefixtures("app")
def test_jobs_that_are_newer_than_the_request_are_left_alone() -> None:
    make_job(id="before")
    action_id = actions.start("cancel", JobFilter(), ANA)
    make_job(id="after")
    assert actions.advance(action_id).moved == 1
    assert (state_of("before"), state_of("after")) == ("cancelled", "pending")


def ids_in(state: str) -> list[str]:
    with reading() as session:
        return list(session.scalars(select(Job.id).where(Job.state == state).order_by(Job.seq)))


def fill() -> list[str]:
    """Dead and completed jobs by turns; every seventh is a needle."""
    states = ("dead", "completed", "dead")
    many = [{"state": states[n % 3], "id": f"j{n:03}", "command": "needle" if n % 7 == 0 else "hay"} for n in range(90)]
    make_jobs(many)
    return [str(one["id"]) for one in many if one["state"] == "dead" and one["command"] == "needle"]


@pytest.mark.postgresql
@pytest.mark.usefixtures("app")
@pytest.mark.parametrize("cap", [4, 100])  # less than an index leaves, and more
@pytest.mark.parametrize("batch", [3, 500])
def test_every_matching_job_is_moved_and_no_other(monkeypatch: pytest.MonkeyPatch, cap: int, batch: int) -> None:
    wanted = fill()
    monkeypatch.setattr(filters, "SEARCH_CAP", cap)
    monkeypatch.setattr(actions, "BATCH", batch)
    monkeypatch.setattr(actions, "READS_PER_BATCH", 2)
    result = actions.apply("requeue", search.parse("state:dead needle"), ANA)
    assert (result.moved, result.skipped, result.done) == (len(wanted), 0, True)
    assert ids_in("pending") == wanted


@pytest.mark.postgresql
@pytest.mark.usefixtures("app")
def test_a_job_that_changes_between_search_and_move_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = fill()
    look = actions._find_next

    def slow(act: Any) -> Any:
        found = look(act)
        change_job(wanted[0], command="hay")
        change_job(wanted[1], state="pending", finished_at=None)
        return found

    monkeypatch.setattr(actions, "_find_next", slow)
    result = actions.apply("discard", search.parse("state:dead needle"), ANA)
    assert (result.moved, result.skipped) == (len(wanted) - 2, 2)
    assert set(wanted[:2]) <= {*ids_in("dead"), *ids_in("pending")}


@pytest.mark.postgresql
@pytest.mark.usefixtures("app")
def test_two_processes_that_continue_the_same_action_move_each_job_once(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = fill()
    monkeypatch.setattr(actions, "BATCH", 3)
    act_id = actions.start("requeue", search.parse("state:dead needle"), ANA)
    look = actions._find_next
    turns: list[int] = []

    def overtaken(act: Any) -> Any:
        found = look(act)
        if len(turns) < 3:
            turns.append(1)
            actions.advance(act_id)  # another process, between the search and the move
        return found

    monkeypatch.setattr(actions, "_find_next", overtaken)
    result = actions.resume(act_id)
    assert (result.moved, result.skipped, result.done) == (len(wanted), 0, True)
    assert ids_in("pending") == wanted
    with reading() as session:
        assert len(session.scalars(select(Event).where(Event.verb == "requeue")).all()) == len(wanted)


@pytest.mark.postgresql
@pytest.mark.parametrize("typed", ["state:dead", "state:dead needle", "", "queue:default"])
def test_many_jobs_are_read_in_table_order_and_not_sorted_for_each_batch(
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
    actions.advance(actions.start("requeue", search.parse(typed), ANA))
    assert plans
    assert not [plan for plan in plans if "TEMP B-TREE" in plan or "Sort" in plan]
