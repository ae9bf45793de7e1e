"""The cost of a job, counted and not timed: transactions, statements, and steps of SQLite's virtual machine.

A change that adds one must change the number here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional

import pytest
from flask import Flask
from sqlalchemy import text

from tests.factories import make_job, make_schedules, make_worker
from tests.worker.conftest import Queue, assignment
from tests.worker.test_claims import ended
from tests.worker_connection import worker_database
from webapp.core.statements import CLAIM_LOOKAHEAD
from webapp.core.storage.schema import BUMP_REVISION
from webapp.core.storage.transaction import Connection, Transaction
from webapp.db.engines import writing
from webapp.db.models import Channel, Rule
from webapp.jobs import queue_actions
from worker.attempt import Claim
from worker.loop.dispatcher import Dispatcher
from worker.runner.output import Capture
from worker.runner.report import ReportFile

pytestmark = pytest.mark.postgresql


class Counted(Connection):
    """A connection that records the start of each statement by transaction."""

    def __init__(self) -> None:
        super().__init__(worker_database())
        self.transactions: list[list[str]] = []

    @contextmanager
    def transaction(self, patience: float = -1, *, wakes_workers: bool = False) -> Iterator[Transaction]:
        with super().transaction(patience, wakes_workers=wakes_workers) as transaction:
            self.transactions.append([])
            transaction._cursor = _Cursor(transaction._cursor, self.transactions[-1])
            yield transaction

    def _notify(self) -> None:
        self.transactions[-1].append("NOTIFY queuectl")
        super()._notify()


class _Cursor:
    def __init__(self, cursor: Any, words: list[str]) -> None:
        self._cursor = cursor
        self._words = words

    def execute(self, statement: str, values: Any) -> Any:
        self._words.append(" ".join(statement.split()[: 3 if statement.lstrip().startswith("INSERT") else 2]))
        return self._cursor.execute(statement, values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)


@pytest.fixture
def connection(app: Flask) -> Iterator[Counted]:
    one = Counted()
    yield one
    one.close()


@pytest.fixture
def dispatcher(connection: Counted) -> Dispatcher:
    return make_dispatcher(connection, slots=1)


def make_dispatcher(connection: Counted, slots: int) -> Dispatcher:
    return Dispatcher(connection, "w1", assignment(slots=slots), lambda: 10.0, list)


@pytest.fixture
def worker(queue: Queue) -> None:
    make_worker(id="w1")


LOOK = "SELECT (SELECT"
NOTICE = "INSERT INTO notices"  # stores nothing unless a rule asks for it


def settle_of(connection: Counted) -> list[str]:
    """On PostgreSQL both are one round trip."""
    return ["UPDATE jobs", "INSERT INTO attempts"] if connection.is_sqlite else ["WITH settled"]


def claim_of(connection: Counted, jobs: int) -> list[str]:
    """On SQLite a SELECT of the first jobs, and an UPDATE for each."""
    return ["SELECT seq,", *["UPDATE jobs"] * jobs] if connection.is_sqlite else ["UPDATE jobs"]


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("schedules", [0, 10_000])
def test_a_short_job_costs_one_transaction_of_few_statements(
    schedules: int, queue: Queue, connection: Counted, dispatcher: Dispatcher
) -> None:
    if schedules:
        make_schedules(schedules)
    for _ in range(4):
        queue.enqueue("true")
    [claim] = dispatcher.turn()  # the first one also reads the settings
    for _ in range(3):
        dispatcher.done(ended(claim))
        [claim] = dispatcher.turn()
    assert connection.transactions[1:] == [[LOOK, *settle_of(connection), *claim_of(connection, 1)]] * 3


@pytest.mark.usefixtures("worker")
def test_a_rule_of_notifications_costs_a_job_that_does_not_fail_no_statement(
    queue: Queue, connection: Counted, dispatcher: Dispatcher
) -> None:
    stamps = {"created_at": 1, "created_by": "person:ana", "changed_at": 1, "changed_by": "person:ana"}
    with writing() as session:
        session.add(Channel(id=1, name="ops", kind="webhook", target="{}", hourly_cap=20, **stamps))
        session.flush()
        session.add(Rule(name="r", channel_id=1, events=",job-dead,attempt-failed,group-new,", spec="{}", **stamps))
    for _ in range(4):
        queue.enqueue("true")
    [claim] = dispatcher.turn()
    for kind in ("completed", "cancelled"):
        dispatcher.done(ended(claim, kind))
        [claim] = dispatcher.turn()
    assert connection.transactions[1:] == [[LOOK, *settle_of(connection), *claim_of(connection, 1)]] * 2


@pytest.mark.usefixtures("worker")
def test_each_of_several_finished_jobs_costs_two_statements_to_settle(queue: Queue, connection: Counted) -> None:
    for _ in range(8):
        queue.enqueue("true")
    dispatcher = make_dispatcher(connection, slots=4)
    for claim in dispatcher.turn():
        dispatcher.done(ended(claim))
    dispatcher.turn()
    assert connection.transactions[1:] == [[LOOK, *settle_of(connection) * 4, *claim_of(connection, 4)]]


@pytest.mark.usefixtures("worker")
def test_a_failure_costs_a_notice_and_a_dead_letter_also_its_last_output(
    queue: Queue, connection: Counted, dispatcher: Dispatcher
) -> None:
    queue.enqueue("false", max_retries=1)
    queue.enqueue("false", max_retries=0)
    [claim] = dispatcher.turn()
    for _ in range(2):
        dispatcher.done(ended(claim, "failed"))
        [claim, *_] = dispatcher.turn() or [claim]
    rings = [] if connection.is_sqlite else ["NOTIFY queuectl"]  # others may rest past the retry's time
    assert connection.transactions[1:] == [
        [LOOK, *settle_of(connection), NOTICE, *claim_of(connection, 1), *rings],
        [LOOK, *settle_of(connection), "INSERT INTO output_tails", NOTICE, *claim_of(connection, 0)],
    ]


@pytest.mark.usefixtures("worker")
def test_a_report_costs_one_statement_when_it_has_changed_and_none_if_there_is_no_report(
    queue: Queue, connection: Counted, tmp_path: Path
) -> None:
    queue.enqueue("true")
    capture = Capture(1000)
    capture.report = ReportFile(str(tmp_path / "report"))
    running: list[tuple[Claim, Capture]] = []
    dispatcher = Dispatcher(connection, "w1", assignment(), lambda: 10.0, lambda: running)
    [claim] = dispatcher.turn()
    running.append((claim, capture))
    costs = []
    for line in ("", '{"progress": 0.5}', '{"progress": 0.5}', '{"progress": 0.6}'):
        if line:
            Path(capture.report.path).write_text(f"{line}\n")
        dispatcher._live_at = 0.0
        dispatcher.turn()
        costs.append(connection.transactions[-1])
    store, message = "INSERT INTO reports", claim_of(connection, 0)  # a full worker looks for a message to send
    assert costs == [[LOOK, *message], [LOOK, store, *message], [LOOK, *message], [LOOK, store, *message]]
    running.clear()
    dispatcher.done(ended(claim)._replace(report=capture.report.finish()))
    dispatcher.turn()
    assert connection.transactions[-1] == [LOOK, *settle_of(connection), *claim_of(connection, 0)]


@pytest.mark.usefixtures("worker")
@pytest.mark.only("postgresql")
def test_a_notified_worker_reads_and_claims_in_one_round_trip(
    queue: Queue, connection: Counted, dispatcher: Dispatcher
) -> None:
    """All idle workers are notified of each job, and one of them gets it."""
    assert dispatcher.turn() == []  # the first one also reads the settings
    assert dispatcher.turn() == []
    job_id = queue.enqueue("true", id="told")
    assert [claim.id for claim in dispatcher.turn()] == [job_id]
    assert queue.job(job_id).state == "processing"
    assert len(connection.transactions) == 1


@pytest.mark.usefixtures("worker")
@pytest.mark.only("postgresql")
@pytest.mark.parametrize("what", ["paused", "due", "alone"])
def test_with_more_to_do_the_round_trip_claims_nothing_and_a_full_turn_follows(
    queue: Queue, connection: Counted, dispatcher: Dispatcher, what: str
) -> None:
    assert dispatcher.turn() == []
    queue.enqueue("true", id="last", priority=-5)
    make_job("scheduled" if what == "due" else "pending", id="first", run_at=1, losses=int(what == "alone"))
    if what == "paused":
        queue_actions.pause_queue("default", "person:test")
    assert [claim.id for claim in dispatcher.turn()] == ([] if what == "paused" else ["first"])
    assert len(connection.transactions) == 2


# --- steps of SQLite's virtual machine, which are exact ---

_FILL = """
INSERT INTO jobs (id, command, queue, requires, priority, state, run_at, created_at, created_by, changed_at, attempts,
                  failures, losses, lone_losses, finished_at)
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :number)
SELECT :kind || i, 'true', :queue, :requires, :priority, :state, :run_at, 1, 'person:test', 1, 0, 0, :losses, 0,
       CASE WHEN :state = 'completed' THEN 1 END FROM n
"""
_ELSEWHERE = {
    "finished": {"state": "completed", "queue": "default", "priority": 0, "run_at": 1},
    "pending behind it": {"state": "pending", "queue": "default", "priority": -1, "run_at": 1},
    "scheduled ahead of it": {"state": "scheduled", "queue": "default", "priority": 100, "run_at": 2**60},
    "blocked ahead of it": {"state": "blocked", "queue": "default", "priority": 100, "run_at": 1},
    "pending in a paused queue": {"state": "pending", "queue": "paused", "priority": 100, "run_at": 1},
    "pending for another label": {
        "state": "pending",
        "queue": "default",
        "requires": "gpu",
        "priority": 100,
        "run_at": 1,
    },
    "pending to run alone, for another label": {
        "state": "pending",
        "queue": "default",
        "requires": "gpu",
        "priority": 100,
        "run_at": 1,
        "losses": 1,
    },
}


def fill(kind: str, number: int) -> None:
    with writing() as session:
        session.execute(text("INSERT OR IGNORE INTO queues (name) VALUES ('default')"))
        session.execute(text("INSERT OR IGNORE INTO queues (name, paused_at) VALUES ('paused', 1)"))
        session.execute(text("INSERT OR IGNORE INTO lanes (queue, requires) VALUES ('default', 'gpu')"))
        values = {"requires": "", "losses": 0, **_ELSEWHERE[kind]}
        session.execute(text(_FILL), {**values, "kind": f"{kind}, {number}: ", "number": number})


def steps(connection: Connection, dispatcher: Dispatcher, held: list[Claim]) -> int:
    """The steps of a turn that settles one job and claims the next."""
    count = 0

    def step() -> int:
        nonlocal count
        count += 1
        return 0

    driver: Any = connection.driver
    dispatcher.done(ended(held.pop()))
    driver.set_progress_handler(step, 1)
    try:
        held += dispatcher.turn()
    finally:
        driver.set_progress_handler(None, 1)
    assert held
    return count


@pytest.mark.usefixtures("worker")
@pytest.mark.only("sqlite")
@pytest.mark.parametrize("kind", list(_ELSEWHERE))
def test_settle_and_claim_take_the_same_steps_with_any_number_of_rows(
    kind: str, queue: Queue, connection: Counted, dispatcher: Dispatcher
) -> None:
    fill(kind, CLAIM_LOOKAHEAD + 8)  # more than a claim from all queues reads
    for _ in range(4):
        queue.enqueue("true")
    held = dispatcher.turn()
    few = steps(connection, dispatcher, held)
    assert few == steps(connection, dispatcher, held)
    fill(kind, 20_000)
    assert steps(connection, dispatcher, held) == few


@pytest.mark.usefixtures("worker")
@pytest.mark.only("sqlite")
def test_settle_and_claim_take_the_same_steps_however_many_schedules_there_are(
    queue: Queue, connection: Counted, dispatcher: Dispatcher
) -> None:
    for _ in range(4):
        queue.enqueue("true")
    held = dispatcher.turn()
    few = steps(connection, dispatcher, held)
    make_schedules(10_000)
    assert steps(connection, dispatcher, held) == few


@pytest.mark.usefixtures("worker")
@pytest.mark.only("sqlite")
@pytest.mark.parametrize("queues", [None, ["default"]])
def test_a_turn_prepares_no_statement_twice(queue: Queue, connection: Counted, queues: Optional[list[str]]) -> None:
    """SQLite does so where a value may change the plan, such as that of a LIMIT. It calls the authorizer meanwhile."""
    for _ in range(3):
        queue.enqueue("true")
    dispatcher = Dispatcher(connection, "w1", assignment(queues=queues), lambda: 10.0, list)
    prepared: list[int] = []

    def authorize(action: int, *_: object) -> int:
        prepared.append(action)
        return 0

    connection.driver.set_authorizer(authorize)
    [claim] = dispatcher.turn()
    dispatcher.done(ended(claim))
    [claim] = dispatcher.turn()  # now each statement is prepared
    assert prepared
    prepared.clear()
    dispatcher.done(ended(claim))
    assert len(dispatcher.turn()) == 1
    assert prepared == []


# --- many queues ---


def fill_queues(number: int, jobs: int, **columns: Any) -> None:
    """Create queues with pending jobs: `queue-1`, `queue-2` …"""
    values = {"number": number, "jobs": jobs, "priority": 0, "paused": None, "name": "queue", **columns}
    with writing() as session:
        session.execute(text(_QUEUES), values)
        session.execute(text(_JOBS_OF_QUEUES), values)


_NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {most})"
_QUEUES = f"""
INSERT INTO queues (name, paused_at) {_NUMBERS.format(most=":number")} SELECT :name || '-' || i, :paused FROM n
"""  # noqa: S608
_JOBS_OF_QUEUES = f"""
INSERT INTO jobs (id, command, queue, requires, priority, state, run_at, created_at, created_by, changed_at, attempts,
                  failures, losses, lone_losses)
{_NUMBERS.format(most=":number * :jobs")}
SELECT :name || ' ' || i, 'true', :name || '-' || (1 + (i - 1) % :number), '', :priority, 'pending', i, 1,
       'person:test', 1, 0, 0, 0, 0
FROM n WHERE :jobs > 0
"""  # noqa: S608


@pytest.mark.usefixtures("worker")
@pytest.mark.only("sqlite")
@pytest.mark.parametrize("jobs", [0, 2])
def test_a_worker_of_all_queues_takes_the_same_steps_with_any_number_of_queues(
    jobs: int, queue: Queue, connection: Counted, dispatcher: Dispatcher
) -> None:
    for _ in range(6):
        queue.enqueue("true", priority=5)
    held = dispatcher.turn()
    few = steps(connection, dispatcher, held)
    statements = len(connection.transactions[-1])
    fill_queues(2_000 if jobs else 10_000, jobs)
    changed = steps(connection, dispatcher, held)
    assert steps(connection, dispatcher, held) == few
    assert len(connection.transactions[-1]) == statements
    assert changed == few  # new names do not make workers read them


@pytest.mark.usefixtures("worker")
def test_an_empty_claim_costs_one_more_statement_with_any_number_of_queue_names(
    connection: Counted, dispatcher: Dispatcher
) -> None:
    fill_queues(10_000, 0)
    assert [dispatcher.turn(), dispatcher.turn()] == [[], []]
    if connection.is_sqlite:
        assert connection.transactions[1:] == [[LOOK, *claim_of(connection, 0)]]
    else:
        assert connection.transactions[1:] == []  # one statement of its own


@pytest.mark.usefixtures("worker")
def test_jobs_of_thousands_of_queues_are_claimed_in_order(connection: Counted) -> None:
    fill_queues(2_000, 2)
    dispatcher = make_dispatcher(connection, slots=50)
    claimed = dispatcher.turn()
    assert [claim.id for claim in claimed] == [f"queue {number}" for number in range(1, 51)]


@pytest.mark.usefixtures("worker")
def test_a_full_paused_queue_in_front_hides_no_job_and_keeps_the_order(connection: Counted) -> None:
    fill_queues(1, 5_000, name="paused", paused=1, priority=9)
    fill_queues(300, 2)
    fill_queues(3, 1, name="urgent", priority=5)
    dispatcher = make_dispatcher(connection, slots=6)
    expected = [*(f"urgent {number}" for number in (1, 2, 3)), *(f"queue {number}" for number in (1, 2, 3))]
    assert [claim.id for claim in dispatcher.turn()] == expected


@pytest.mark.usefixtures("worker")
@pytest.mark.only("sqlite")
def test_a_paused_queue_in_front_costs_the_same_with_any_number_of_jobs(
    queue: Queue, connection: Counted, dispatcher: Dispatcher
) -> None:
    fill_queues(1, 100, name="paused", paused=1, priority=9)
    fill_queues(50, 4)
    held = dispatcher.turn()
    few = steps(connection, dispatcher, held)
    fill_queues(1, 20_000, name="much", paused=1, priority=9)
    with writing() as session:
        session.execute(text(BUMP_REVISION))  # as everything that pauses a queue does
    steps(connection, dispatcher, held)  # reads the settings
    more = steps(connection, dispatcher, held)
    assert more < 1.2 * few
