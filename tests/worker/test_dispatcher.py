"""The dispatcher turn by turn, without a worker: what it claims, skips and recovers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Callable

import pytest
from flask import Flask
from sqlalchemy import select, text, update

from tests import factories
from tests.worker.conftest import Queue, assignment
from tests.worker_connection import worker_connection
from webapp.core.labels import LabelSet
from webapp.core.statements import CLAIM_LOOKAHEAD
from webapp.core.storage.schema import BUMP_REVISION
from webapp.db import engines
from webapp.db.engines import reading, writing
from webapp.db.models import Job, OutputChunk, Worker
from webapp.jobs import actions, queue_actions, worker_actions
from webapp.lib import clock
from worker.attempt import AttemptResult
from worker.loop.claims import Claims
from worker.loop.dispatcher import CLAIM_AGAIN_AFTER, HELD_BY_OTHERS, Dispatcher
from worker.maintenance import recovery
from worker.runner.output import Capture


class Bench:
    """A dispatcher of two slots and its claims."""

    def __init__(self) -> None:
        self.worker = factories.make_worker(id="w1", slots=2)
        self.connection = worker_connection()
        self.claims = Claims(self.connection, "w1")
        self.dispatcher = Dispatcher(self.connection, "w1", assignment(slots=2), lambda: 10.0, list)

    def turn(self) -> list[str]:
        """The ids that one turn claims."""
        return [claim.id for claim in self.dispatcher.turn()]


@pytest.fixture
def bench(app: Flask) -> Iterator[Bench]:
    one = Bench()
    yield one
    one.connection.close()


@pytest.fixture
def jobs(queue: Queue) -> Callable[[int], list[str]]:
    return lambda number: [queue.enqueue("true") for _ in range(number)]


def test_it_claims_what_fits_and_no_more(bench: Bench, jobs: Callable[[int], list[str]]) -> None:
    ids = jobs(3)
    assert bench.turn() == ids[:2]
    assert bench.turn() == []


def test_an_expired_worker_claims_nothing_in_the_turn_that_detects_it(
    bench: Bench, jobs: Callable[[int], list[str]]
) -> None:
    jobs(1)
    with writing() as session:
        session.execute(update(Worker).values(state="expired"))
    assert bench.turn() == []
    assert bench.dispatcher.expired


def test_a_worker_with_a_stop_request_claims_nothing_more(bench: Bench, jobs: Callable[[int], list[str]]) -> None:
    jobs(1)
    worker_actions.request_state("stop", ["w1"], "person:ana")
    assert bench.turn() == []
    assert bench.dispatcher.stop_requested


def test_a_worker_stops_when_a_newer_version_has_upgraded_the_database(
    bench: Bench, jobs: Callable[[int], list[str]]
) -> None:
    jobs(1)
    with writing() as session:
        session.execute(text("UPDATE alembic_version SET version_num = 'newer'"))
        session.execute(text(BUMP_REVISION))
    assert bench.turn() == []
    assert (bench.dispatcher.outdated, bench.dispatcher.stop_requested) == (True, True)


def test_claims_of_a_commit_without_an_answer_are_recovered_and_count_as_held(
    bench: Bench, jobs: Callable[[int], list[str]]
) -> None:
    ids = jobs(4)
    with bench.claims as turn:
        turn.claim([LabelSet("default")], 2, bench.dispatcher.settings)
    bench.dispatcher._unsure = True
    assert bench.turn() == ids[:2]
    assert bench.turn() == []


def test_a_commit_that_succeeds_after_a_reconnect_is_recovered_too(
    bench: Bench, jobs: Callable[[int], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    [job_id] = jobs(1)
    queue_actions.pause_queue("default", "person:ana")
    with monkeypatch.context() as away:
        away.setattr(bench.dispatcher, "_turn", lambda: bench.connection.query("no statement at all"))
        away.setattr(bench.dispatcher, "_claim_fast_path", lambda: None)
        assert bench.turn() == []
    assert bench.turn() == []
    with bench.claims as turn:
        turn.claim([LabelSet("default")], 1, bench.dispatcher.settings)
    assert bench.turn() == [job_id]


def test_it_does_not_recover_a_claim_that_maintenance_has_seized(
    bench: Bench, jobs: Callable[[int], list[str]]
) -> None:
    ids = jobs(1)
    assert bench.turn() == ids
    with writing() as session:
        session.execute(update(Worker).values(state="expired"))
        session.execute(text(BUMP_REVISION))
    assert len(recovery.seize(bench.connection, recovery.find_orphans(bench.connection))) == 1
    bench.dispatcher._unsure = True
    assert bench.turn() == []
    assert bench.dispatcher.expired


def test_live_output_of_a_commit_without_an_answer_is_stored_once_and_dropped_at_the_end(
    bench: Bench, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = queue.enqueue("echo")
    [claim] = bench.dispatcher.turn()
    capture = Capture(1000)
    monkeypatch.setattr(bench.dispatcher, "_captures", lambda: [(claim, capture)])
    committed = bench.connection.transaction

    @contextmanager
    def unanswered() -> Iterator[Any]:
        with committed() as cursor:
            yield cursor
        raise OSError("the server closed the connection")

    def live(words: bytes) -> bytes:
        capture.write(0, words)
        bench.dispatcher._live_at = 0.0
        bench.turn()
        with reading() as session:
            return b"".join(session.scalars(select(OutputChunk.data).order_by(OutputChunk.position)))

    with monkeypatch.context() as away:
        away.setattr(bench.connection, "transaction", unanswered)
        assert live(b"one ") == b"one "
    assert live(b"two ") == b"one two "
    assert live(b"three") == b"one two three"
    with monkeypatch.context() as away:
        away.setattr(bench.connection, "transaction", unanswered)
        live(b" four")
    bench.dispatcher.done(AttemptResult(claim, "completed", "exit", clock.now(), clock.now(), 0, output=capture.kept()))
    assert bench.turn() == []
    assert queue.job(job_id).state == "completed"
    with reading() as session:
        assert session.scalars(select(OutputChunk.data)).all() == []


def test_a_recovered_claim_that_was_cancelled_meanwhile_is_ended(
    bench: Bench, jobs: Callable[[int], list[str]]
) -> None:
    [job_id] = jobs(1)
    with bench.claims as turn:
        [claim] = turn.claim([LabelSet("default")], 1, bench.dispatcher.settings)
    actions.apply("cancel", [job_id], "person:ana")
    bench.dispatcher._unsure = True
    assert bench.turn() == [job_id]
    assert bench.dispatcher.to_stop[-1] == claim.token


def test_it_claims_nothing_while_an_exclusive_job_runs(bench: Bench, jobs: Callable[[int], list[str]]) -> None:
    ids = jobs(2)
    with writing() as session:
        session.execute(update(Job).where(Job.id == ids[1]).values(losses=1))
    assert bench.turn() == [ids[1]]
    assert bench.turn() == []


@pytest.mark.only("postgresql")
@pytest.mark.parametrize("serves", ["named queues", "all queues"])
def test_after_an_empty_claim_that_may_miss_jobs_it_looks_again_soon_and_then_rests(
    bench: Bench, queue: Queue, serves: str
) -> None:
    queue.enqueue("true", id="other", queue="other")
    if serves == "named queues":
        named = replace(assignment(slots=2), queues=["default", "other"])
        bench.dispatcher = Dispatcher(bench.connection, "w1", named, lambda: 10.0, list)
    else:  # more jobs in front than a claim reads
        factories.make_jobs([{"queue": "paused", "priority": -1}] * (CLAIM_LOOKAHEAD + 1))
        queue_actions.pause_queue("paused", "person:ana")
    assert bench.turn() == ["other"]
    assert bench.turn() == []
    assert bench.dispatcher.due_in() <= CLAIM_AGAIN_AFTER
    assert bench.turn() == []
    assert bench.dispatcher.due_in() > CLAIM_AGAIN_AFTER


@pytest.mark.only("postgresql")
def test_it_does_not_spin_while_another_transaction_holds_a_due_job(bench: Bench) -> None:
    job = factories.make_job("scheduled", run_at=1)
    with engines.write_engine().begin() as holder:
        holder.execute(select(Job.seq).where(Job.seq == job.seq).with_for_update())
        assert bench.turn() == []
        assert bench.dispatcher.due_in() > HELD_BY_OTHERS / 2
    assert bench.turn() == [job.id]


def test_claims_that_the_database_has_lost_after_a_failure_are_ended(bench: Bench, queue: Queue) -> None:
    """A crashed server may have lost a claim, so another worker may have the job."""
    queue.enqueue("true", id="forgotten")
    [claim] = bench.dispatcher.turn()
    factories.change_job("forgotten", state="pending", worker_id=None, token=None)
    bench.dispatcher._unsure = True
    bench.dispatcher.turn()
    assert list(bench.dispatcher.to_stop) == [claim.token]
