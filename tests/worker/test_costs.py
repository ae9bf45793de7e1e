"""What a job costs its worker, counted and not timed: transactions, statements, and steps of SQLite's machine.

A change that adds one has to say so here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from tests.worker.conftest import Queue
from tests.worker.test_claims import ended
from webapp import db
from webapp.config import Config
from webapp.db import WorkerConnection, writing
from worker.claims import Claims
from worker.dispatcher import Dispatcher


class Counted(WorkerConnection):
    """A connection that keeps the first word of each statement, transaction by transaction."""

    def __init__(self) -> None:
        super().__init__(db.db.engines["worker"], db.write_lock())
        self.transactions: list[list[str]] = []

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        with super().transaction() as cursor:
            self.transactions.append([])
            yield _Cursor(cursor, self.transactions[-1])


class _Cursor:
    def __init__(self, cursor: Any, words: list[str]) -> None:
        self._cursor = cursor
        self._words = words

    def execute(self, statement: str, values: Any = None) -> Any:
        self._words.append(" ".join(statement.split()[: 3 if statement.lstrip().startswith("INSERT") else 2]))
        return self._cursor.execute(statement, values or {})

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)


@pytest.fixture
def connection(app: Flask) -> Iterator[Counted]:
    one = Counted()
    yield one
    one.close()


@pytest.fixture
def dispatcher(config: Config, connection: Counted) -> Dispatcher:
    """One whose turns are made by hand: no thread of it runs."""
    return Dispatcher(config, lambda: connection, "w1", 1, None, False, list, lambda: None)


@pytest.fixture
def worker(queue: Queue) -> None:
    from tests.factories import make_worker

    make_worker(id="w1")


LOOK, CLAIM, SETTLE, ATTEMPT = "SELECT (SELECT", "UPDATE jobs", "UPDATE jobs", "INSERT INTO attempts"


@pytest.mark.usefixtures("worker")
def test_a_short_job_costs_one_transaction_of_four_statements(
    queue: Queue, connection: Counted, dispatcher: Dispatcher
) -> None:
    for _ in range(4):
        queue.enqueue("true")
    claims = Claims(connection, "w1")
    dispatcher._turn(claims)  # the first one also reads the settings
    for _ in range(3):
        dispatcher._outbox.append(ended(dispatcher.inbox.popleft()))
        dispatcher._turn(claims)
    assert connection.transactions[1:] == [[LOOK, SETTLE, ATTEMPT, CLAIM]] * 3


@pytest.mark.usefixtures("worker")
def test_of_several_that_ended_together_each_costs_two_statements(
    queue: Queue, config: Config, connection: Counted
) -> None:
    for _ in range(8):
        queue.enqueue("true")
    dispatcher = Dispatcher(config, lambda: connection, "w1", 4, None, False, list, lambda: None)
    claims = Claims(connection, "w1")
    dispatcher._turn(claims)
    while dispatcher.inbox:
        dispatcher._outbox.append(ended(dispatcher.inbox.popleft()))
    dispatcher._turn(claims)
    assert connection.transactions[1:] == [[LOOK, *[SETTLE, ATTEMPT] * 4, CLAIM]]


@pytest.mark.usefixtures("worker")
def test_a_failure_costs_no_more_and_a_death_its_last_words(
    queue: Queue, connection: Counted, dispatcher: Dispatcher
) -> None:
    queue.enqueue("false", max_retries=1)
    queue.enqueue("false", max_retries=0)
    claims = Claims(connection, "w1")
    dispatcher._turn(claims)
    for _ in range(2):
        dispatcher._outbox.append(ended(dispatcher.inbox.popleft(), "failed"))
        dispatcher._turn(claims)
    assert connection.transactions[1:] == [
        [LOOK, SETTLE, ATTEMPT, CLAIM],
        [LOOK, SETTLE, ATTEMPT, "INSERT INTO output_tails", CLAIM],
    ]


# --- steps of SQLite's machine, which are the same for the same work on any day ---

_FILL = """
INSERT INTO jobs (id, command, queue, priority, state, run_at, created_at, created_by, changed_at, attempts, failures,
                  losses, lone_losses, finished_at)
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :number)
SELECT :kind || i, 'true', :queue, :priority, :state, :run_at, 1, 'person:test', 1, 0, 0, 0, 0,
       CASE WHEN :state = 'completed' THEN 1 END FROM n
"""
_ELSEWHERE = {
    "finished": {"state": "completed", "queue": "default", "priority": 0, "run_at": 1},
    "pending behind it": {"state": "pending", "queue": "default", "priority": -1, "run_at": 1},
    "scheduled ahead of it": {"state": "scheduled", "queue": "default", "priority": 100, "run_at": 2**60},
    "pending in a paused queue": {"state": "pending", "queue": "paused", "priority": 100, "run_at": 1},
}


def fill(kind: str, number: int) -> None:
    with writing() as session:
        session.execute(text("INSERT OR IGNORE INTO queues (name) VALUES ('default')"))
        session.execute(text("INSERT OR IGNORE INTO queues (name, paused_at) VALUES ('paused', 1)"))
        session.execute(text(_FILL), {**_ELSEWHERE[kind], "kind": f"{kind}, {number}: ", "number": number})


def steps(connection: WorkerConnection, dispatcher: Dispatcher, claims: Claims) -> int:
    """What a turn that settles one job and claims the next takes."""
    count = 0

    def step() -> int:
        nonlocal count
        count += 1
        return 0

    driver: Any = connection._pooled.driver_connection
    dispatcher._outbox.append(ended(dispatcher.inbox.popleft()))
    driver.set_progress_handler(step, 1)
    try:
        dispatcher._turn(claims)
    finally:
        driver.set_progress_handler(None, 1)
    assert dispatcher.inbox
    return count


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("config", ["sqlite"], indirect=True)
@pytest.mark.parametrize("kind", list(_ELSEWHERE))
def test_settle_and_claim_take_the_same_steps_however_many_rows_there_are(
    kind: str, queue: Queue, connection: Counted, dispatcher: Dispatcher
) -> None:
    fill(kind, 10)
    for _ in range(4):
        queue.enqueue("true")
    claims = Claims(connection, "w1")
    dispatcher._turn(claims)
    few = steps(connection, dispatcher, claims)
    assert few == steps(connection, dispatcher, claims)
    fill(kind, 5_000)
    assert steps(connection, dispatcher, claims) == few
