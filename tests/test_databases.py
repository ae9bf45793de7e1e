"""The databases of `databases.py`: no test sees data of the test before."""

from __future__ import annotations

import pytest
from flask import Flask

from tests.databases import MigratedDatabase, execute
from tests.factories import make_job, make_queue
from webapp.db import engines as db
from webapp.db.engines import reading
from webapp.db.models import Job, Queue

pytestmark = pytest.mark.postgresql


@pytest.mark.parametrize("statement", ["SELECT 1", "CREATE TABLE another (id bigint)"], ids=["rows", "tables"])
def test_the_test_database_loses_all_rows_and_extra_tables(
    app: Flask, postgresql_of_process: MigratedDatabase, statement: str
) -> None:
    for _ in range(2):
        make_queue("mail")
        assert make_job().seq == 1
        db.disconnect()
        url = postgresql_of_process.emptied()
        execute(url, statement)
        postgresql_of_process.emptied()
        with reading() as session:
            assert session.query(Job).count() == 0
            assert [queue.name for queue in session.query(Queue)] == ["default"]
    execute(url, "CREATE TABLE another (id bigint)")
