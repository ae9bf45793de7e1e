"""The jobs of one form are found again by its key, in the order of its lines, and by an index."""

from __future__ import annotations

from typing import Optional

import pytest
from flask import Flask
from sqlalchemy import event, text
from sqlalchemy.orm import Session

from tests.factories import make_job
from webapp.core import job_spec
from webapp.db import engines
from webapp.db.engines import reading
from webapp.jobs import batches, operations

SIZE = 600
KEY = batches.key_of("a" * 32, SIZE)


def fill() -> None:
    specs = [job_spec.parse({"command": f"echo {number}"}) for number in range(SIZE)]
    operations.enqueue(specs, "person:ana", form_key=KEY)
    make_job()


def test_jobs_of_a_batch_are_counted_and_paged_in_the_order_of_the_lines(app: Flask) -> None:
    fill()
    with reading() as session:
        gone = batches.page(session, KEY, 0, 1)[0][1].id
    operations.discard([gone], "person:ana")
    with reading() as session:
        assert batches.count_states(session, KEY)["pending"] == SIZE - 1
        assert [place for place, _ in batches.page(session, KEY, 0, 5)] == [1, 2, 3, 4]
        last = [(place, job.command) for place, job in batches.page(session, KEY, 590, 50)]
    assert last == [(number, f"echo {number}") for number in range(590, SIZE)]


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
        batches.page(session, KEY, 50, 50)
        batches.count_states(session, KEY)
    assert len(plans) == 3
    for plan in plans:
        assert "ix_jobs_form_key" in plan


@pytest.mark.parametrize(
    ("key", "size"),
    [(KEY, SIZE), (f"{KEY}.17", SIZE), ("a" * 32, None), (None, None), ("a" * 32 + "x0", None), ("A" * 32 + "x2", None),
     ("a" * 32 + "x2\n", None), ("a" * 32 + "x999999", None)],
)  # fmt: skip
def test_a_key_says_how_many_there_are(key: Optional[str], size: Optional[int]) -> None:
    assert batches.size_of(key) == size


def test_a_single_jobs_key_says_nothing() -> None:
    assert batches.key_of("a" * 32, 1) == "a" * 32
