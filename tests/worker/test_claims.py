"""The hot path on the database, without processes: what claims and settles change, and their query plans."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text, update

from tests.factories import make_job
from tests.worker.conftest import Queue
from tests.worker_connection import worker_connection
from webapp.core import statements
from webapp.core.labels import LabelSet
from webapp.core.settings import Settings
from webapp.core.statements import PROMOTE_LIMIT, Statements
from webapp.core.states import STATES
from webapp.core.storage.transaction import Connection
from webapp.db import engines
from webapp.db.engines import writing
from webapp.db.models import Job
from webapp.jobs import actions
from webapp.lib import clock
from worker.attempt import AttemptResult, Claim
from worker.loop.claims import Claims, Served, Turn

pytestmark = pytest.mark.postgresql

SETTINGS = Settings()


@pytest.fixture
def claims(connection: Connection) -> Claims:
    return Claims(connection, "w1")


def take(claims: Claims, n: int = 1, queues: tuple[str, ...] = ("default",), lone: bool = False) -> list[Claim]:
    with claims as turn:
        return turn.claim([LabelSet(name) for name in queues], n, SETTINGS, run_exclusively=lone)


def ended(claim: Claim, kind: str = "completed", **facts: Any) -> AttemptResult:
    now = clock.now()
    return AttemptResult(claim, kind, "exit", now, now, **{"exit_code": 0 if kind == "completed" else 1, **facts})


def settle(claims: Claims, one: AttemptResult, wait: float = 60) -> str | None:
    with claims as turn:
        return turn.settle(one, SETTINGS, wait)


def test_a_claim_takes_the_requested_number_in_order_over_several_queues(queue: Queue, claims: Claims) -> None:
    for id_, name, priority in (("c", "q1", 0), ("a", "q2", 9), ("d", "q2", 0), ("b", "q1", 5), ("x", "q3", 50)):
        queue.enqueue("true", id=id_, queue=name, priority=priority)
    assert [one.id for one in take(claims, 3, ("q1", "q2"))] == ["a", "b", "c"]
    assert [one.id for one in take(claims, 3, ("q1", "q2"))] == ["d"]


def test_a_job_that_is_no_longer_pending_is_not_claimed(app: Flask, connection: Connection) -> None:
    jobs = [make_job(state) for state in STATES if state != "pending"]
    with connection.transaction() as transaction:
        for job in jobs:
            values = {"now": 1, "worker": "w1", "token": "t", "seq": job.seq}
            assert transaction.execute(statements.TAKE, values).rowcount == 0


def test_every_claim_has_a_new_token_and_a_new_number(queue: Queue, claims: Claims) -> None:
    queue.enqueue("true", id="job1")
    [first] = take(claims)
    assert settle(claims, ended(first, "released")) == "pending"
    [second] = take(claims)
    assert (first.attempt, second.attempt) == (1, 2)
    assert first.token != second.token


def test_a_settle_without_the_claim_changes_nothing(queue: Queue, claims: Claims) -> None:
    queue.enqueue("true", id="job1")
    [first] = take(claims)
    settle(claims, ended(first, "released"))
    [second] = take(claims)
    assert settle(claims, ended(first)) is None
    assert queue.job("job1").state == "processing"
    assert [one.number for one in queue.attempts("job1")] == [1]
    assert settle(claims, ended(second)) == "completed"
    assert settle(claims, ended(second)) is None


def test_output_without_the_claim_is_not_stored(queue: Queue, claims: Claims) -> None:
    from worker.runner.output import Capture

    queue.enqueue("true", id="job1")
    [claim] = take(claims)
    with writing() as session:
        session.execute(update(Job).values(token="somebody else's"))
    capture = Capture(1024)
    capture.write(0, b"late")
    with claims as turn:
        turn.store_output(claim, capture, capture.since(0))
    with engines.reading() as session:
        assert session.execute(text("SELECT count(*) FROM output_chunks")).scalar() == 0


@pytest.mark.parametrize(("max_retries", "failures", "state"), [(0, 0, "dead"), (1, 0, "failed"), (1, 1, "dead")])
def test_a_failure_is_retried_up_to_the_limit_and_then_becomes_a_dead_letter(
    queue: Queue, claims: Claims, max_retries: int, failures: int, state: str
) -> None:
    queue.enqueue("true", id="job1", max_retries=max_retries)
    with writing() as session:
        session.execute(update(Job).values(failures=failures))
    [claim] = take(claims)
    before = clock.now()
    assert settle(claims, ended(claim, "failed", error="exit code 1"), wait=60) == state
    job = queue.job("job1")
    assert (job.failures, job.last_error) == (failures + 1, "exit code 1")
    assert state == "dead" or before + 60_000_000 <= job.run_at <= clock.now() + 60_000_000


@pytest.mark.parametrize("kind", ["failed", "released"])
def test_a_cancel_request_wins_over_a_retry_and_a_release(queue: Queue, claims: Claims, kind: str) -> None:
    queue.enqueue("true", id="job1", max_retries=5)
    [claim] = take(claims)
    actions.apply("cancel", ["job1"], "person:ana")
    assert settle(claims, ended(claim, kind)) == "cancelled"


def test_a_cancel_request_loses_against_success(queue: Queue, claims: Claims) -> None:
    queue.enqueue("true", id="job1")
    [claim] = take(claims)
    actions.apply("cancel", ["job1"], "person:ana")
    assert settle(claims, ended(claim)) == "completed"


def test_the_claim_order_of_a_job_survives_a_release(queue: Queue, claims: Claims) -> None:
    queue.enqueue("true", id="first")
    queue.enqueue("true", id="second")
    [claim] = take(claims)
    settle(claims, ended(claim, "released"))
    assert [one.id for one in take(claims, 2)] == ["first", "second"]


def test_a_job_that_lost_a_worker_is_left_out_of_ordinary_claims(queue: Queue, claims: Claims) -> None:
    queue.enqueue("true", id="lost")
    queue.enqueue("true", id="fine")
    with writing() as session:
        session.execute(update(Job).where(Job.id == "lost").values(losses=1))
    with claims as turn:
        assert turn.read_state().exclusive_waiting
        assert turn.exists(statements.EXCLUSIVE_IN, [LabelSet("default")])
        assert not turn.exists(statements.EXCLUSIVE_IN, [LabelSet("other")])
    assert [one.id for one in take(claims, 9)] == ["fine"]
    [alone] = take(claims, 1, lone=True)
    assert (alone.id, alone.run_exclusively) == ("lost", True)


def test_a_promotion_takes_a_limited_number(queue: Queue, claims: Claims) -> None:
    from webapp.core import job_spec

    actions.enqueue([job_spec.parse({"command": "x", "delay": 3600})] * (PROMOTE_LIMIT + 50), "person:test")
    with writing() as session:
        session.execute(update(Job).values(run_at=clock.now() - 1))
    with claims as turn:
        assert turn.promote() == PROMOTE_LIMIT
    with claims as turn:
        assert turn.promote() == 50


def test_a_read_returns_when_the_next_job_is_due(queue: Queue, claims: Claims) -> None:
    with claims as turn:
        assert turn.read_state().next_due is None
    queue.enqueue("true", delay=500)
    job_id = queue.enqueue("true", delay=100)
    with claims as turn:
        assert turn.read_state().next_due == queue.job(job_id).run_at


# --- plans -----------------------------------------------------------------------------------------------------------


@contextmanager
def _explained(connection: Connection, statement: str, values: dict[str, Any]) -> Iterator[str]:
    sqlite = connection.is_sqlite
    with connection.transaction() as transaction:
        if not sqlite:
            transaction.execute(
                "SET LOCAL enable_seqscan = off"
            )  # the table is small: the planner must not choose a scan
        rows = transaction.execute(("EXPLAIN QUERY PLAN " if sqlite else "EXPLAIN ") + statement, values).fetchall()
        yield "\n".join(str(row[3] if sqlite else row[0]) for row in rows)


def statement_named(name: str, connection: Connection) -> str:
    """A statement by name: one that differs between the databases, or a common one."""
    differing = Statements(is_sqlite=connection.is_sqlite)
    return str(getattr(differing, name, None) or getattr(statements, name.upper()))


def _values(n: int = 4) -> dict[str, Any]:
    label_sets = {"queue": "default", "requires": "", "queues": ["default", "mail"], "requirements": ["", "gpu"]}
    return {"now": 1, "worker": "w1", "token": "t", "n": n, "paused": ["mail"], "labels": ["gpu"], **label_sets}


def _full_scans(plan: str) -> list[str]:
    return [
        line
        for line in plan.splitlines()
        if ("SCAN jobs" in line and "INDEX" not in line) or "Seq Scan on jobs" in line
    ]


def test_a_claim_uses_its_index_for_each_label_set(connection: Connection) -> None:
    with _explained(connection, Statements(is_sqlite=connection.is_sqlite).pick, _values()) as plan:
        assert "ix_jobs_claim" in plan
        assert _full_scans(plan) == []
        if connection.is_sqlite:
            assert "SEARCH jobs USING INDEX ix_jobs_claim (queue=? AND requires=? AND limits=?)" in plan


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("head", "ix_jobs_first"),
        ("busy_label_sets", "ix_jobs_claim"),
        ("exclusive_label_sets", "ix_jobs_lone"),
        ("pick_of", "ix_jobs_claim"),
        ("pick_exclusive", "ix_jobs_lone"),
        ("pick_exclusive_of", "ix_jobs_lone"),
        ("exclusive_in", "ix_jobs_lone"),
        ("look", "ix_jobs_waiting"),
        ("promote", "ix_jobs_waiting"),
        ("left_in", "ix_jobs_claim"),
    ],
)
def test_every_query_of_a_turn_uses_an_index(connection: Connection, name: str, index: str) -> None:
    with _explained(connection, statement_named(name, connection), _values()) as plan:
        assert index in plan
        assert _full_scans(plan) == []


@pytest.mark.only("postgresql")
@pytest.mark.parametrize("way", ["enable_hashjoin", "enable_mergejoin"])
@pytest.mark.parametrize("name", ["pick", "pick_of"])
def test_a_claim_of_one_takes_one_with_any_postgresql_join(
    queue: Queue, connection: Connection, way: str, name: str
) -> None:
    """With a plain IN, a nested-loop plan ran the locking select again for each row and claimed all."""
    from webapp.core import job_spec

    actions.enqueue([job_spec.parse({"command": "true"})] * 1000, "person:test")
    statement = getattr(Statements(is_sqlite=connection.is_sqlite), name)
    with connection.transaction() as transaction:
        for setting in (way, "enable_bitmapscan", "enable_indexscan", "enable_material"):
            transaction.execute(f"SET LOCAL {setting} = off")
        assert len(transaction.execute(statement, _values(n=1)).fetchall()) == 1


@pytest.mark.only("postgresql")
@pytest.mark.parametrize("way", ["turn", "glance"])
def test_a_claim_from_several_label_sets_locks_only_the_jobs_that_it_takes(queue: Queue, app: Flask, way: str) -> None:
    """Otherwise another worker at this moment would find no job and rest for ten seconds."""
    queue.enqueue("true", id="one", queue="a")
    queue.enqueue("true", id="two", queue="b")
    first, second = worker_connection(), worker_connection()
    label_sets = [LabelSet("a"), LabelSet("b")]
    with Claims(first, "w1") as turn:
        mine = turn.claim(label_sets, 1, SETTINGS)
        if way == "turn":
            with Claims(second, "w2") as other:
                theirs = other.claim(label_sets, 1, SETTINGS)
        else:
            revision = turn.read_state().revision
            found = Claims(second, "w2").claim_fast_path(label_sets, 1, SETTINGS, revision)
            assert found is not None
            theirs = found[1]
    first.close()
    second.close()
    assert [claim.id for claim in mine + theirs] == ["one", "two"]


@pytest.mark.only("postgresql")  # on SQLite claims never overlap
@pytest.mark.parametrize("serves", ["one label set", "all queues"])
def test_two_workers_that_claim_at_once_take_different_jobs(queue: Queue, app: Flask, serves: str) -> None:
    def claim(turn: Turn, n: int) -> list[str]:
        if serves == "all queues":
            found = turn.claim_first(Served(frozenset()), n, SETTINGS, crowded=False)
        else:
            found = turn.claim([LabelSet("default")], n, SETTINGS)
        return [one.id for one in found]

    queue.enqueue("true", id="one")
    queue.enqueue("true", id="two")
    first, second = worker_connection(), worker_connection()
    second.driver.execute("SET lock_timeout = '10s'")  # it must not wait at all; without this, it would wait forever
    with Claims(first, "w1") as turn:
        mine = claim(turn, 1)
        with Claims(second, "w2") as other:
            theirs = claim(other, 2)
    first.close()
    second.close()
    assert (mine, theirs) == (["one"], ["two"])


@pytest.mark.only("postgresql")  # SQLite crashes only together with the commands
def test_a_claim_survives_a_crash_of_the_server(queue: Queue, connection: Connection) -> None:
    queue.enqueue("true")
    with Claims(connection, "w1") as turn:
        assert not turn._transaction.durable
        assert turn.claim([LabelSet("default")], 1, SETTINGS)
        assert turn._transaction.durable
