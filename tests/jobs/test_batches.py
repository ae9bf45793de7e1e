"""Batches: jobs of one form in the order of its lines, found by an index."""

from __future__ import annotations

from flask import Flask
from sqlalchemy import event, text
from sqlalchemy.orm import Session

from tests.factories import make_job
from webapp.core import job_spec
from webapp.db import engines
from webapp.db.engines import reading
from webapp.jobs import actions, queries

SIZE = 60
BATCH = "a" * 32 + f"x{SIZE}"


def fill() -> None:
    specs = [job_spec.parse({"command": f"echo {number}"}) for number in range(1, SIZE + 1)]
    actions.enqueue(specs, "person:ana", form_key=BATCH, batch=BATCH)
    make_job()


def test_jobs_of_a_batch_are_counted_and_paged_with_their_lines(app: Flask) -> None:
    fill()
    with reading() as session:
        gone = queries.page_of_batch(session, BATCH, 0, 1)[0][1].id
    actions.apply("discard", [gone], "person:ana")
    with reading() as session:
        assert queries.count_states_of_batch(session, BATCH)["pending"] == SIZE - 1
        assert [line for line, _ in queries.page_of_batch(session, BATCH, 0, 4)] == [2, 3, 4, 5]
        last = [(line, job.command) for line, job in queries.page_of_batch(session, BATCH, 50, 50)]
    assert last == [(number, f"echo {number}") for number in range(52, SIZE + 1)]
    assert queries.size_of_batch(BATCH) == SIZE


def test_they_are_found_by_an_index(app: Flask) -> None:
    fill()
    plans: list[str] = []
    with engines.read_engine().connect() as connection:
        session = Session(connection)
        if not engines.is_sqlite():
            session.execute(text("SET LOCAL enable_seqscan = off"))

        def see(_c: object, _cursor: object, statement: str, parameters: object, *_: object) -> None:
            if "FROM jobs" in statement and "EXPLAIN" not in statement:
                explain = "EXPLAIN QUERY PLAN " if engines.is_sqlite() else "EXPLAIN "
                rows = connection.exec_driver_sql(explain + statement, parameters).fetchall()  # type: ignore[arg-type]
                plans.append("\n".join(str(row[-1]) for row in rows))

        event.listen(connection, "before_cursor_execute", see)
        queries.page_of_batch(session, BATCH, 50, 50)
        queries.count_states_of_batch(session, BATCH)
    assert len(plans) == 2
    for plan in plans:
        assert "ix_jobs_batch" in plan
