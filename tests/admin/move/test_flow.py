"""The flow of jobs goes on after a move: edges, batches, limits, unique keys, retry rules."""

from __future__ import annotations

import pytest
from flask import Flask

from tests import flow_example
from tests.admin.move.moves import back, go
from tests.conftest import opened
from tests.worker_connection import worker_connection
from webapp.config import Config
from webapp.db.application import create_core


@pytest.mark.postgresql
@pytest.mark.parametrize("undone", [False, True])
def test_the_flow_of_jobs_goes_on_after_a_move_and_after_its_undo(app: Flask, target: Config, undone: bool) -> None:
    flow_example.submit()
    go(target)
    if undone:
        back(target)
        connection = worker_connection()
        flow_example.goes_on(connection)
        connection.close()
        return
    for _ in opened(create_core(target)):
        connection = worker_connection()
        flow_example.goes_on(connection)
        connection.close()
