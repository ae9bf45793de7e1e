"""Lists in order, pages without gap or overlap, and capped counts."""

from __future__ import annotations

import random
from typing import Optional

import pytest
from flask import Flask
from sqlalchemy import select, text, update

from tests.factories import make_job, make_jobs
from webapp.core import job_spec
from webapp.core.states import STATES
from webapp.db import engines, label_sets
from webapp.db.engines import reading, writing
from webapp.db.models import Job
from webapp.insight.queues import page_of_queues
from webapp.jobs import actions, listing, queries
from webapp.jobs.filters import FilterError, JobFilter
from webapp.lib import clock

_TERMINAL = {"completed", "dead", "cancelled"}


def fill(number: int, state: str) -> None:
    """So many jobs in one state, with times and priorities that collide and are out of order."""
    luck = random.Random(state)
    specs = [
        job_spec.parse(
            {"command": f"echo {n}", "queue": luck.choice(["a", "b", "default"]), "priority": luck.randint(-2, 2)}
        )
        for n in range(number)
    ]
    ids = actions.enqueue(specs, "person:test")
    now = clock.now()
    with writing() as session:
        for id_ in ids:
            at = now - luck.randint(0, 20) * clock.SECOND
            held = {"token": "t", "worker_id": "w", "started_at": at} if state == "processing" else {}
            ended = {"finished_at": at} if state in _TERMINAL else {}
            session.execute(update(Job).where(Job.id == id_).values(state=state, run_at=at, **held, **ended))


def walk(wanted: JobFilter, limit: int) -> tuple[list[str], list[str]]:
    """All ids page by page to the end, and again on the way back."""
    there: list[list[str]] = []
    after: Optional[str] = None
    with reading() as session:
        while True:
            page = listing.page_of_jobs(session, wanted, limit=limit, after=after)
            there.append([job.id for job in page.jobs])
            if page.older is None:
                break
            after = page.older
        back = [there[-1]]
        before = page.newer
        while before is not None:
            page = listing.page_of_jobs(session, wanted, limit=limit, before=before)
            back.insert(0, [job.id for job in page.jobs])
            before = page.newer
    return [id_ for page_ids in there for id_ in page_ids], [id_ for page_ids in back for id_ in page_ids]


@pytest.mark.postgresql
@pytest.mark.usefixtures("app")
@pytest.mark.parametrize("state", STATES)
def test_pages_of_a_state_have_no_gap_or_overlap_in_both_directions(state: str) -> None:
    fill(37, state)
    whole, _ = walk(JobFilter(state=state), 100)
    assert len(whole) == 37
    assert walk(JobFilter(state=state), 5) == (whole, whole)


@pytest.mark.postgresql
@pytest.mark.usefixtures("app")
def test_all_jobs_are_listed_newest_first() -> None:
    fill(12, "completed")
    with reading() as session:
        seqs = [job.seq for job in listing.page_of_jobs(session, JobFilter()).jobs]
    assert seqs == sorted(seqs, reverse=True)
    assert len(seqs) == 12


@pytest.mark.postgresql
@pytest.mark.usefixtures("app")
def test_pending_jobs_are_listed_in_claim_order() -> None:
    fill(30, "pending")
    with reading() as session:
        jobs = listing.page_of_jobs(session, JobFilter(state="pending")).jobs
    order = [(-job.priority, job.run_at, job.seq) for job in jobs]
    assert order == sorted(order)
    assert len({job.queue for job in jobs}) == 3


@pytest.mark.postgresql
@pytest.mark.usefixtures("app")
def test_pending_jobs_whose_worker_died_are_in_the_same_order_as_the_others() -> None:
    fill(37, "pending")
    with writing() as session:
        session.execute(update(Job).where(Job.seq % 3 == 0).values(losses=1))
        expected = session.scalars(select(Job.id).order_by(Job.priority.desc(), Job.run_at, Job.seq)).all()
    assert walk(JobFilter(state="pending"), 5) == (expected, expected)
    assert sorted(walk(JobFilter(state="pending", text="echo 1"), 5)[0]) == sorted(
        walk(JobFilter(state="pending", text="echo 1"), 100)[0]
    )


@pytest.mark.postgresql
@pytest.mark.usefixtures("app")
@pytest.mark.parametrize("most", [1, 50])
def test_pending_jobs_with_a_label_are_found_however_many_queues_have_them(
    monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(listing, "MAX_LINES", most)
    for n in range(6):
        make_job(queue=f"q{n % 3}", requires=("gpu", "gpu,ssd", "")[n % 2], priority=n % 2, id=f"job{n}")
    make_job(queue="q1", requires="ssd")
    wanted = ["job1", "job3", "job5", "job0", "job2", "job4"]
    assert walk(JobFilter(state="pending", requires="gpu"), 2) == (wanted, wanted)
    assert walk(JobFilter(state="pending", requires="gpu", queue="q1"), 1) == (["job1", "job4"], ["job1", "job4"])


@pytest.mark.postgresql
@pytest.mark.usefixtures("app")
def test_a_text_is_found_in_ids_and_commands_in_any_case_and_with_any_characters() -> None:
    for id_, command in (("Alpha", "true"), ("b", "echo ALPHA"), ("c", "echo 100%_\\"), ("d", "echo 100xx")):
        actions.enqueue([job_spec.parse({"id": id_, "command": command})], "person:test")
    with reading() as session:
        assert {job.id for job in listing.page_of_jobs(session, JobFilter(text="alpha")).jobs} == {"Alpha", "b"}
        assert {job.id for job in listing.page_of_jobs(session, JobFilter(text="100%_\\")).jobs} == {"c"}


@pytest.mark.usefixtures("app")
@pytest.mark.parametrize("key", ["", "x", "1", "1,2,3,4", "1,x", f"{2**70},1"])
def test_an_invalid_page_key_is_refused(key: str) -> None:
    with reading() as session, pytest.raises(ValueError):
        listing.page_of_jobs(session, JobFilter(state="dead"), after=key)


@pytest.mark.postgresql
def test_a_filter_with_an_unknown_state_is_refused_with_the_known_ones() -> None:
    with pytest.raises(FilterError, match=r"no such state: 'done'\. Expected one of blocked, scheduled, pending"):
        JobFilter(state="done")


@pytest.mark.postgresql
@pytest.mark.usefixtures("app")
def test_a_count_stops_at_its_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    fill(5, "dead")
    monkeypatch.setattr(queries, "COUNT_CAP", 4)
    with reading() as session:
        counts = queries.count_states(session)
    assert (str(counts["dead"]), counts["dead"].capped) == ("4+", True)
    assert (str(counts["pending"]), counts["pending"].capped) == ("0", False)


@pytest.mark.postgresql
@pytest.mark.usefixtures("app")
def test_a_queue_shows_its_pending_jobs_and_the_oldest_due_time() -> None:
    fill(9, "pending")
    with reading() as session:
        views = {view.queue.name: view for view in page_of_queues(session).views}
        oldest = queries.oldest_pending(session)
    assert sum(view.pending.number for view in views.values()) == 9
    assert oldest == min(view.oldest_run_at or oldest for view in views.values() if oldest)


@pytest.mark.postgresql
@pytest.mark.usefixtures("app")
def test_limited_jobs_count_as_pending_and_may_be_the_oldest() -> None:
    now = clock.now()
    make_jobs(
        [
            {"queue": "a", "run_at": now - 10},
            {"queue": "a", "run_at": now - 20, "limits": "db", "priority": 5},
            {"queue": "a", "run_at": now - 90, "limits": "db", "priority": -5},
            {"queue": "b", "run_at": now - 50, "limits": "db,s", "losses": 1},
        ]
    )
    with reading() as session:
        views = {view.queue.name: view for view in page_of_queues(session).views}
        assert queries.oldest_pending(session) == now - 90
    assert [(views[name].pending.number, views[name].oldest_run_at) for name in "ab"] == [(3, now - 90), (1, now - 50)]


@pytest.mark.postgresql
@pytest.mark.parametrize("queues", [None, ["a", "b"]])
def test_pending_jobs_are_counted_by_index_label_set_by_label_set(app: Flask, queues: Optional[list[str]]) -> None:
    fill(3, "pending")
    with reading() as session:
        if not engines.is_sqlite():
            session.execute(text("SET LOCAL enable_seqscan = off"))
        explain = "EXPLAIN QUERY PLAN " if engines.is_sqlite() else "EXPLAIN "
        busy = label_sets.select_busy(queries._PENDING, queues).bindparams(most=9)
        values = busy.compile().params
        rows = session.execute(text(explain + busy.text), values).all()
        oldest = session.execute(text(explain + queries._OLDEST_OF_ALL.text)).all()
        limited = session.execute(text(explain + queries._OLDEST_LIMITED.text)).all()
        lost = session.execute(text(explain + queries._OLDEST_LOST.text)).all()
    plan, plan_of_all, plan_of_limited, plan_of_lost = (
        "\n".join(str(row[-1]) for row in each) for each in (rows, oldest, limited, lost)
    )
    assert "ix_jobs_limited_first" in plan_of_limited
    assert plan.count("ix_jobs_claim") >= 3
    assert "ix_jobs_first" in plan_of_all
    assert "ix_jobs_lone" in plan_of_lost
    for each in (plan, plan_of_all):
        assert "Seq Scan on jobs" not in each
        assert "SCAN jobs\n" not in f"{each}\n"


@pytest.mark.postgresql
@pytest.mark.parametrize("state", STATES)
def test_a_list_of_a_state_is_read_from_an_index(app: Flask, state: str) -> None:
    """The cost of a page does not depend on the table size."""
    fill(3, state)
    statements: list[str] = []
    with engines.read_engine().connect() as connection:
        from sqlalchemy.orm import Session

        session = Session(connection)
        if not engines.is_sqlite():
            session.execute(text("SET LOCAL enable_seqscan = off"))
            session.execute(text("SET LOCAL enable_sort = off"))
        from sqlalchemy import event

        def see(_c: object, _cursor: object, statement: str, parameters: object, *_: object) -> None:
            if "FROM jobs" in statement and "EXPLAIN" not in statement:
                explain = "EXPLAIN QUERY PLAN " if engines.is_sqlite() else "EXPLAIN "
                rows = connection.exec_driver_sql(explain + statement, parameters).fetchall()  # type: ignore[arg-type]
                statements.append("\n".join(str(row[-1]) for row in rows))

        event.listen(connection, "before_cursor_execute", see)
        listing.page_of_jobs(session, JobFilter(state=state), limit=2)
        queries.count(session, JobFilter(state=state).where())
    assert statements
    for plan in statements:
        assert "ix_jobs_" in plan
        assert "TEMP B-TREE" not in plan
        assert "Sort" not in plan


def test_labels_are_case_sensitive(app: Flask) -> None:
    make_job("completed", id="large", requires="GPU,ssd")
    make_job("completed", id="small", requires="gpu,ssd")
    with reading() as session:
        found = listing.page_of_jobs(session, JobFilter(requires="GPU")).jobs
    assert [job.id for job in found] == ["large"]
