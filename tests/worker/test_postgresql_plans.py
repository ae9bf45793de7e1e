"""PostgreSQL's own plans on a large table: how many rows a claim, a promotion and a list read.

Other tests disable scans to check that an index is possible. Here the planner is free, and the read rows count.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import event, text
from sqlalchemy.engine import URL
from sqlalchemy.orm import Session

from tests.conftest import configuration, opened
from tests.databases import postgresql_database
from tests.worker.test_claims import statement_named
from tests.worker_connection import worker_connection
from webapp.core.statements import CLAIM_LOOKAHEAD, PROMOTE_LIMIT
from webapp.core.states import STATES
from webapp.db import engines, label_sets
from webapp.db.application import create_core
from webapp.db.engines import writing
from webapp.db.models import Queue
from webapp.jobs import listing, queries, search
from webapp.lib import clock

pytestmark = pytest.mark.postgresql

EACH = 3000  # jobs of each state in each of two queues
N = 4
FEW = 40  # rows that a turn may read for a claim of N, in two lanes
PAGE = 50


@pytest.fixture(scope="module", params=["analyzed", "never analyzed"])
def large(
    request: pytest.FixtureRequest,
    postgresql_server: URL,
    migrated_postgresql: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Flask]:
    """A queue of many jobs, with current statistics or none, as right after a move."""
    with postgresql_database(postgresql_server, migrated_postgresql) as url:
        for app in opened(create_core(configuration(tmp_path_factory.mktemp("large"), url))):
            with writing() as session:
                session.execute(text("ALTER TABLE jobs SET (autovacuum_enabled = false)"))
                for name in ("default", "mail"):
                    session.merge(Queue(name=name))
                session.flush()
                for state in STATES:
                    session.execute(text(FILL), {**how(state), "state": state, "each": EACH, "now": clock.now()})
                if request.param == "analyzed":
                    session.execute(text("ANALYZE jobs"))
            yield app


FILL = """
INSERT INTO jobs (id, command, queue, requires, priority, state, run_at, created_at, created_by, changed_at, attempts,
                  failures, losses, lone_losses, worker_id, token, started_at, finished_at, exit_code, error_key)
SELECT :state || '-' || queue || '-' || n, 'echo hello', queue, '', n % 3, :state, :now - n * 1000, :now - n * 1000,
       'person:ana', :now - n * 1000, 1, 0, 0, 0, CAST(:worker AS text), :worker || n, :now - n * 1000,
       CASE WHEN :terminal THEN :now - n * 1000 END, 0, CAST(:key AS text)
FROM generate_series(1, :each) AS n, (VALUES ('default'), ('mail')) AS queues (queue)
"""


def how(state: str) -> dict[str, Any]:
    return {
        "worker": "w1" if state == "processing" else None,
        "terminal": state in {"completed", "dead", "cancelled"},
        "key": "exit:1" if state in {"failed", "dead"} else None,
    }


def rows_read(plan: dict[str, Any]) -> int:
    """Rows of `jobs` that the steps of the plan read, used or not."""
    here = 0
    if plan.get("Relation Name") == "jobs" and "Scan" in plan["Node Type"]:
        seen = sum(plan.get(name, 0) for name in ("Actual Rows", *REMOVED))
        here = round(seen * plan["Actual Loops"])
    return here + sum(rows_read(step) for step in plan.get("Plans", ()))


REMOVED = ("Rows Removed by Filter", "Rows Removed by Index Recheck")
EXPLAIN = "EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) "


def parsed(rows: Any) -> dict[str, Any]:
    found = rows[0][0]
    plan: dict[str, Any] = (json.loads(found) if isinstance(found, str) else found)[0]["Plan"]
    return plan


class _TakenBack(Exception):
    """Rolls back the effects of a plan."""


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("look", 10 + CLAIM_LOOKAHEAD),
        ("head", 4 * (N + CLAIM_LOOKAHEAD)),
        ("busy_label_sets", 10),
        ("exclusive_label_sets", 10),
        ("claim_fast_path_head", 4 * (N + CLAIM_LOOKAHEAD) + FEW),
        ("pick", FEW),
        ("pick_of", 4 * (N + CLAIM_LOOKAHEAD) + FEW),
        ("pick_exclusive", FEW),
        ("pick_exclusive_of", FEW),
        ("claim_fast_path", FEW),
        ("exclusive_in", 1),
        ("promote", 3 * PROMOTE_LIMIT),
    ],
)
def test_a_turn_reads_no_more_rows_than_it_takes(large: Flask, name: str, most: int) -> None:
    plan = plan_of(name)
    assert rows_read(plan) <= most, json.dumps(plan, indent=1)


@pytest.mark.parametrize("name", ["pick", "pick_of", "busy_label_sets"])
def test_a_claim_from_a_label_set_never_reads_the_first_jobs_of_all_queues(large: Flask, name: str) -> None:
    """With old statistics PostgreSQL did, and read all jobs of other queues that stand before them."""
    with writing() as session:
        session.execute(text("UPDATE jobs SET priority = 50 WHERE queue = 'mail' AND state = 'pending'"))
    assert "ix_jobs_first" not in json.dumps(plan_of(name))


def plan_of(name: str) -> dict[str, Any]:
    label_sets = {"queue": "default", "requires": "", "queues": ["default", "mail"], "requirements": ["", ""]}
    values = {
        "now": clock.now(),
        "worker": "w2",
        "token": "t",
        "n": N,
        "revision": 0,
        "limited_later": False,
        "paused": [],
        "labels": [],
        **label_sets,
    }
    connection = worker_connection()
    try:
        with contextlib.suppress(_TakenBack), connection.transaction() as transaction:
            plan = parsed(transaction.execute(EXPLAIN + statement_named(name, connection), values).fetchall())
            raise _TakenBack
    finally:
        connection.close()
    return plan


@contextlib.contextmanager
def planned() -> Iterator[tuple[Session, list[dict[str, Any]]]]:
    """A reader's session, and the plans of its queries on jobs."""
    plans: list[dict[str, Any]] = []
    with engines.read_engine().connect() as connection:

        def see(_c: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
            if "FROM jobs" in statement and "EXPLAIN" not in statement:
                plans.append(parsed(connection.exec_driver_sql(EXPLAIN + statement, parameters).fetchall()))

        event.listen(connection, "before_cursor_execute", see)
        yield Session(connection), plans


@pytest.mark.parametrize("typed", ["", *(f"state:{state}" for state in STATES), "state:pending queue:mail"])
@pytest.mark.parametrize("turned", [False, True])
def test_a_page_of_a_list_reads_little_more_than_it_shows(large: Flask, typed: str, turned: bool) -> None:
    wanted = search.parse(typed)
    with planned() as (session, plans):
        first = listing.page_of_jobs(session, wanted, limit=PAGE, turned=turned)
        listing.page_of_jobs(session, wanted, limit=PAGE, turned=turned, after=first.older)
    assert plans
    for plan in plans:
        assert rows_read(plan) <= 3 * PAGE, json.dumps(plan, indent=1)


def test_queue_figures_on_pages_read_few_rows(large: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "COUNT_CAP", 100)
    with planned() as (session, plans):
        queries.oldest_pending(session)
        assert not label_sets.busy_label_sets(session, labelled=True)
        assert len(queries.waiting_jobs(session, ["default", "mail"])) == 2
        assert queries.count_unfinished(session, "mail")["failed"].capped
    for plan in plans:
        assert rows_read(plan) <= 5 * EACH // 10, json.dumps(plan, indent=1)


@pytest.mark.parametrize("typed", ["state:completed", "state:pending", "state:dead"])
def test_a_count_stops_at_its_cap(large: Flask, monkeypatch: pytest.MonkeyPatch, typed: str) -> None:
    """The rows of a state are adjacent, as after an import, but the planner expects them everywhere."""
    monkeypatch.setattr(queries, "COUNT_CAP", 100)
    with planned() as (session, plans):
        assert queries.count_indexed(session, search.parse(typed)).capped
        counts = queries.count_states(session)
        assert all(one.capped for state, one in counts.items() if state != "blocked")  # there is none
    one, hidden, hidden_again, all_states = plans
    assert rows_read(hidden) == rows_read(hidden_again) == 0  # jobs that send messages, by their own index
    assert rows_read(one) <= 101
    assert rows_read(all_states) <= 101 * len(STATES), json.dumps(all_states, indent=1)
