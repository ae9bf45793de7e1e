"""Jobs that send messages are not counted among people's jobs, and are found by the name of their queue."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask
from sqlalchemy import event, text

from tests.factories import make_attempt, make_job, make_jobs, make_supervisor, make_worker
from webapp.core.notices import SYSTEM_QUEUE
from webapp.core.settings import Settings
from webapp.core.states import STATES
from webapp.db import engines
from webapp.db.engines import reading
from webapp.insight import blockers, fleet, queues, rollups, stuck_jobs
from webapp.jobs import actions, activity, listing, queries, search
from webapp.jobs.filters import JobFilter
from webapp.lib import clock
from webapp.web import serializers

pytestmark = pytest.mark.usefixtures("app")


def fill() -> None:
    """In each state two jobs that send messages, the oldest ones, and one of a person."""
    old = clock.now() - clock.DAY
    for state in STATES:
        make_jobs([{"state": state, "queue": SYSTEM_QUEUE, "run_at": old, "priority": 100}] * 2)
        make_job(state, id=f"mine-{state}")


def found(words: str) -> list[str]:
    with reading() as session:
        return [job.id for job in listing.page_of_jobs(session, search.parse(words)).jobs]


@pytest.mark.postgresql
def test_counts_and_lists_leave_them_out() -> None:
    fill()
    with reading() as session:
        assert queries.count_states(session) == dict.fromkeys(STATES, queries.Count(1))
        assert queries.count_states_exactly(session) == dict.fromkeys(STATES, 1)
        assert serializers.status(session)["states"] == dict.fromkeys(STATES, 1)
        assert queries.count_finished_since(session, 0).number == 2
        assert queries.count_indexed(session, JobFilter()).number == len(STATES)
        assert (queries.oldest_pending(session) or 0) > clock.now() - clock.DAY // 2
        for state in STATES:
            assert queries.count_found(session, JobFilter(state)) == (queries.Count(1), True)
    assert len(found("")) == len(STATES)
    for state in STATES:
        assert found(f"state:{state}") == [f"mine-{state}"]
    assert found("since:2d by:ana state:dead") == ["mine-dead"]


def test_they_are_found_by_their_queue_and_by_an_id() -> None:
    fill()
    one = make_job("dead", queue=SYSTEM_QUEUE)
    assert len(found(f"queue:{SYSTEM_QUEUE}")) == 2 * len(STATES) + 1
    assert len(found(f"queue:{SYSTEM_QUEUE} state:pending")) == 2
    assert found(f"id:{one.id}") == [one.id]
    with reading() as session:
        assert queries.count_found(session, JobFilter(queue=SYSTEM_QUEUE))[0].number == 2 * len(STATES) + 1


def test_an_action_on_all_jobs_leaves_them_alone() -> None:
    fill()
    with reading() as session:
        assert activity.preview(session, "requeue", JobFilter("dead")).number.number == 1
    actions.apply("requeue", JobFilter("dead"), "person:ana")
    assert len(found(f"queue:{SYSTEM_QUEUE} state:dead")) == 2
    assert found("state:dead") == []


def test_queues_and_their_waiting_jobs_leave_them_out() -> None:
    fill()
    with reading() as session:
        assert [view.queue.name for view in queues.page_of_queues(session).views] == ["default"]
        assert queues.count_queues(session) == 1
        assert queues.some_names(session, 10) == queries.unpaused_queues(session) == ["default"]
        assert [one.label_set.queue for one in queries.waiting_jobs(session)] == ["default"]
        view = queues.view_of(session, SYSTEM_QUEUE)
        assert view is not None
        assert view.pending.number == 2


@pytest.mark.postgresql
def test_every_worker_serves_them() -> None:
    fill()
    supervisor = make_supervisor()
    make_worker(supervisor_id=supervisor.id, queues='["mail"]')
    with reading() as session:
        alive = fleet.workers(session, 60.0)
        assert set(blockers.unserved(session, alive)) == {"default"}
        assert blockers.serving(SYSTEM_QUEUE, None, alive).obstacle is None


def test_statistics_and_hints_leave_them_out() -> None:
    ours = make_job("completed", queue=SYSTEM_QUEUE)
    make_attempt(ours, state="completed", finished_at=clock.now() - 1)
    mine = make_job("completed")
    make_attempt(mine, state="completed", finished_at=clock.now() - 1)
    supervisor = make_supervisor()
    worker = make_worker(supervisor_id=supervisor.id)
    long = {"worker_id": worker.id, "started_at": clock.now() - clock.DAY, "timeout": 1.0}
    make_jobs([{"state": "processing", "queue": queue, **long} for queue in (SYSTEM_QUEUE, "default")])
    with reading() as session:
        summed = rollups.sum_up(session, 0, clock.now(), 100)
        assert {queue for _, queue in summed.minutes} == {
            "default", "*30 default", rollups.TOTAL[1], *rollups.SUMS}  # fmt: skip
        assert summed.minutes[rollups.TOTAL].completed == 1
        hints = stuck_jobs.stuck(session, fleet.workers(session, 60.0), Settings())
        assert [one.job.queue for one in hints] == ["default"]


@pytest.mark.postgresql
def test_the_count_of_them_reads_their_own_index(app: Flask) -> None:
    make_jobs([{"state": "completed"}] * 200 + [{"state": "completed", "queue": SYSTEM_QUEUE}])
    plans: list[str] = []

    def see(_: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if "substr(queue" in statement and "EXPLAIN" not in statement:
            explain = "EXPLAIN QUERY PLAN " if engines.is_sqlite() else "EXPLAIN "
            plans.append(str(cursor.connection.execute(explain + statement).fetchall()))

    with reading() as session:
        connection = session.connection()
        connection.execute(text("SELECT 1"))
        event.listen(connection, "before_cursor_execute", see)
        assert queries.count_states(session)["completed"].number == 200
    assert len(plans) == 1
    if engines.is_sqlite():  # PostgreSQL's planner prefers a scan of so few rows
        assert "ix_jobs_system" in plans[0]
