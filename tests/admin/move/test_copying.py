"""The copy equals the source and works as before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import delete, inspect, text

from tests import full_database
from tests.admin.move.moves import contents_of, go
from tests.conftest import opened
from tests.factories import make_attempt, make_job, make_worker
from tests.worker.conftest import assignment
from tests.worker_connection import worker_connection
from webapp.admin.move import MoveError, Side, copying
from webapp.config import Config
from webapp.core import job_spec
from webapp.core.storage import relocated
from webapp.db import engines, models
from webapp.db.application import create_core
from webapp.jobs import actions
from worker.loop.dispatcher import Dispatcher


@pytest.mark.postgresql
def test_every_table_arrives_equal(app: Flask, target: Config) -> None:
    full_database.fill()
    go(target)
    here = full_database.contents()
    assert {table: len(rows) for table, rows in here.items() if not rows} == {}, "give it rows in full_database.py"
    assert contents_of(target) == here


def test_every_table_of_the_database_is_copied(app: Flask) -> None:
    with engines.read_engine().connect() as connection:
        there = set(inspect(connection).get_table_names())
    assert {table.name for table in copying.tables()} == there - {"alembic_version", relocated.TABLE}


def test_counters_continue_after_the_last_number_even_if_its_row_is_deleted(app: Flask, target: Config) -> None:
    make_job()
    gone = make_job()
    with engines.writing() as session:
        session.execute(delete(models.Job).where(models.Job.seq == gone.seq))
    go(target)
    for _ in opened(create_core(target)):
        assert make_job().seq == gone.seq + 1


def test_a_batch_is_limited_by_the_bytes_of_its_outputs(
    app: Flask, target: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "BYTES", 10_000)
    job = make_job("completed", attempts=9)
    for size in (4000, 4000, 4000, 50_000, 1, 1):
        make_attempt(job, output=bytes(size))
    sizes = [[len(row[-1]) for row in rows] for rows in _pages(app, ["job_seq", "number", "output"])]
    assert sizes == [[4000, 4000], [4000], [50_000], [1, 1]]
    before = full_database.contents()
    go(target)
    assert contents_of(target)["attempts"] == before["attempts"]


def _pages(app: Flask, names: list[str]) -> Iterator[Any]:
    table = engines.Base.metadata.tables["attempts"]
    return copying.pages(Side(app), table, [table.c[name] for name in names])


def test_required_labels_move_with_the_jobs(app: Flask, target: Config) -> None:
    actions.enqueue([job_spec.parse({"command": "true", "id": "a", "requires": "gpu, ssd"})], "person:ana")
    make_worker(id="w1", state="stopped", stopped_at=1, labels='["gpu", "ssd"]')
    names = [table.name for table in copying.tables()]
    assert names.index("queues") < names.index("lanes")  # which refer to them
    go(target)
    for _ in opened(create_core(target)):
        make_worker(id="w2")
        connection = worker_connection()
        mine = assignment(labels=["ssd", "gpu"])
        assert [claim.id for claim in Dispatcher(connection, "w2", mine, lambda: 10.0, list).turn()] == ["a"]
        connection.close()
        with engines.reading() as session:
            assert session.get_one(models.Worker, "w1").labels == '["gpu", "ssd"]'


def test_a_difference_of_one_value_is_found(app: Flask, target: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    full_database.fill(large=1000)
    stored = copying._store

    def alter(connection: Any, table: Any, rows: Any) -> None:
        stored(connection, table, rows)
        if table.name == "attempts":
            connection.execute(text("UPDATE attempts SET due_at = 1 WHERE number = 1 AND job_seq = 8"))

    monkeypatch.setattr(copying, "_store", alter)
    with pytest.raises(MoveError, match=r"the copy is not equal: attempts \(3 rows here, 3 there\)\. Undo the move"):
        go(target)
