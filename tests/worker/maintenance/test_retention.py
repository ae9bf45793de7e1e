"""Old rows are deleted in small transactions at each tick, without delaying other work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from tests import factories
from webapp.accounts import tokens
from webapp.core import job_spec
from webapp.core.settings import Settings
from webapp.db import engines
from webapp.db.engines import reading, writing
from webapp.db.models import Attempt, Event, Group, IdempotencyKey, Job, LimitStart
from webapp.jobs import actions, deletion, settings
from webapp.lib import clock
from worker.maintenance import ended_jobs, retention
from worker.maintenance.chores import Chores
from worker.maintenance.retention import Retention

DAY = clock.DAY
pytestmark = pytest.mark.usefixtures("app")


def ended(state: str, days_ago: float, *outputs: bytes) -> Job:
    job = factories.make_job(state, finished_at=clock.now() - round(days_ago * DAY))
    for output in outputs or (b"",):
        factories.make_attempt(job, output=output)
    return job


def left() -> set[str]:
    with reading() as session:
        return set(session.scalars(select(Job.id)))


def keep(**values: int) -> Settings:
    kept = Settings()
    for key, value in values.items():
        setattr(kept, key, value)
    return kept


def prune(**values: int) -> None:
    """Run a whole round of retention."""
    some = Retention(5.0)
    while some.resume(keep(**values)):
        pass


@dataclass
class Stock:
    """The rows of the job tables, or the rows that one transaction deleted."""

    jobs: int
    attempts: int
    output: int

    @classmethod
    def now(cls) -> Stock:
        with reading() as session:
            jobs = session.scalar(select(func.count()).select_from(Job)) or 0
            size = func.coalesce(func.sum(func.length(Attempt.output)), 0)
            attempts, output = session.execute(select(func.count(), size).select_from(Attempt)).one()
        return cls(jobs, attempts, int(output))

    def without(self, later: Stock) -> Stock:
        return Stock(self.jobs - later.jobs, self.attempts - later.attempts, self.output - later.output)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[Stock]:
    """The rows that each write transaction of retention deleted, in order, without empty ones."""
    found: list[Stock] = []

    @contextmanager
    def watched(*args: Any, **options: Any) -> Iterator[Session]:
        before = Stock.now()
        with writing(*args, **options) as session:
            yield session
        gone = before.without(Stock.now())
        if gone != Stock(0, 0, 0):
            found.append(gone)

    monkeypatch.setattr(retention, "writing", watched)
    monkeypatch.setattr(ended_jobs, "writing", watched)
    return found


# --- deletion --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["completed", "cancelled", "dead"])
def test_ended_jobs_older_than_their_setting_are_deleted_with_their_attempts(state: str) -> None:
    old, young = ended(state, 8.1), ended(state, 6.9)
    others = {ended(other, 400).id for other in {"completed", "cancelled", "dead"} - {state}}
    nothing = {f"keep_{other}": 0 for other in ("completed", "cancelled", "dead")}
    prune(**{**nothing, f"keep_{state}": 7})
    assert left() == {young.id, *others}
    with reading() as session:
        assert session.scalar(select(func.count()).select_from(Attempt).where(Attempt.job_seq == old.seq)) == 0


def test_dead_letters_are_kept_forever_by_default() -> None:
    dead = ended("dead", 5000)
    ended("completed", 31)
    prune()
    assert left() == {dead.id}


def test_unfinished_jobs_are_kept_at_any_age() -> None:
    jobs = {
        factories.make_job(state, created_at=1, changed_at=1, run_at=1).id
        for state in ("pending", "failed", "scheduled")
    }
    prune(keep_completed=1, keep_cancelled=1, keep_dead=1)
    assert left() == jobs


def test_an_ended_job_stays_while_it_holds_a_unique_key_for_a_period() -> None:
    for name, until in (("held", clock.now() + DAY), ("over", clock.now() - 1)):
        unique = {"unique_key": name, "unique_while": "period", "unique_until": until}
        factories.make_job("completed", id=name, finished_at=clock.now() - 5 * DAY, **unique)
    prune(keep_completed=1)
    assert left() == {"held"}


def test_a_job_that_was_requeued_and_ended_again_meanwhile_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    old = ended("completed", 400)

    def requeued(session: Session, seqs: list[int]) -> list[int]:
        factories.change_job(old.id, finished_at=clock.now())
        return seqs

    monkeypatch.setattr(deletion, "first_that_fit", requeued)
    prune()
    assert left() == {old.id}


def test_old_records_are_deleted_and_those_of_existing_jobs_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "RECORDS", 2)
    actions.enqueue([job_spec.parse({"id": f"job{n}", "command": "true"}) for n in range(3)], "person:test")
    actions.apply("cancel", ["job0", "job1", "job2"], "person:test")
    for value in range(5):
        settings.set_setting("backoff_base", 3 + value, "person:test")
    with writing() as session:
        session.execute(update(Event).values(at=1))
    prune(keep_cancelled=0)
    with reading() as session:
        assert list(session.scalars(select(Event.verb))) == ["cancel"] * 3


def test_the_history_of_old_groups_is_deleted_and_what_people_said_stays() -> None:
    factories.make_job("dead", error_key="dead")
    with writing() as session:
        for key, note, last_at in (("old", "", 1), ("said", "x", 1), ("dead", "", 1), ("new", "", clock.now())):
            session.add(Group(key=key, note=note, changed_at=1, changed_by="", last_at=last_at))
    prune()
    with reading() as session:
        assert set(session.scalars(select(Group.key))) == {"said", "dead", "new"}


def test_old_records_are_found_behind_many_of_existing_jobs_and_recent_ones_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retention, "RECORDS", 1)  # a read is ten rows
    job = factories.make_job()
    for number in range(25):
        factories.make_event("cancel", "person:ana", f"job:{job.id}", job=job, number=number)
    factories.make_event("pause", "person:ana", "queue:mail")
    factories.make_event("pause", "person:ana", "queue:mail")
    with writing() as session:
        session.execute(update(Event).values(at=1))
    factories.make_event("resume", "person:ana", "queue:mail")
    prune()
    prune()
    with reading() as session:
        assert list(session.scalars(select(Event.verb).order_by(Event.id))) == ["cancel"] * 25 + ["resume"]


def test_old_stored_responses_of_the_api_are_deleted_at_any_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deletion, "BYTES", 1000)
    _, token = tokens.make("deploy", "submit", None, "person:ana")
    with writing() as session:
        for number, size in enumerate((400, 400, 400, 5000, 10)):
            row = {"token_id": token.id, "key": f"k{number}", "request_hash": "x", "status": 200, "answer": b"x" * size}
            session.add(IdempotencyKey(**row, at=clock.now() - 2 * DAY))
        session.add(IdempotencyKey(token_id=token.id, key="new", request_hash="x", at=clock.now()))
    prune()
    with reading() as session:
        assert list(session.scalars(select(IdempotencyKey.key))) == ["new"]


def test_starts_of_limited_jobs_that_left_every_window_are_deleted() -> None:
    now = clock.now()
    with writing() as session:
        for key, at in (("old", now - 2 * clock.DAY), ("new", now)):
            session.add(LimitStart(key=key, number=1, started_at=at))
    prune()
    with reading() as session:
        assert list(session.scalars(select(LimitStart.key))) == ["new"]


# --- batches ---------------------------------------------------------------------------------------------------------


def test_a_transaction_deletes_a_limited_number_of_jobs_and_bytes_of_output(
    monkeypatch: pytest.MonkeyPatch, taken: list[Stock]
) -> None:
    monkeypatch.setattr(deletion, "JOBS", 10)
    monkeypatch.setattr(deletion, "BYTES", 100_000)
    for number in range(35):
        ended("completed", 100 - number)
    for number in range(12):
        ended("completed", 50 - number, b"x" * 30_000)
    prune()
    assert left() == set()
    assert sum(one.jobs for one in taken) == 47
    assert max(one.jobs for one in taken) == 10
    assert max(one.output for one in taken) == 60_000  # a third one would exceed the limit


def test_a_job_with_more_output_than_allowed_is_deleted_attempt_by_attempt(
    monkeypatch: pytest.MonkeyPatch, taken: list[Stock]
) -> None:
    monkeypatch.setattr(deletion, "BYTES", 100_000)
    ended("completed", 40)
    ended("completed", 39, *[b"x" * 40_000] * 5, b"x" * 150_000, b"x")
    ended("completed", 38)
    prune()
    assert left() == set()
    assert [one.output for one in taken] == [0, 80_000, 80_000, 40_000, 150_000, 1]
    assert [one.jobs for one in taken] == [1, 0, 0, 0, 0, 2]


@pytest.mark.full
def test_the_number_of_attempts_is_limited_too(monkeypatch: pytest.MonkeyPatch, taken: list[Stock]) -> None:
    for number in range(4):
        ended("completed", 40 - number, *[b""] * 400)
    prune()
    assert [(one.jobs, one.attempts) for one in taken] == [(2, 800), (2, 800)]


# --- budget of a tick ------------------------------------------------------------------------------------------------


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limit a tick to one batch, and a batch to three jobs."""
    monkeypatch.setattr(retention, "BUDGET", 0.0)
    monkeypatch.setattr(deletion, "JOBS", 3)


@pytest.mark.usefixtures("slow")
def test_retention_continues_in_each_round_of_the_chores_until_nothing_is_left() -> None:
    for state in ("completed", "cancelled"):
        for _ in range(7):
            ended(state, 40)
    chores, rounds = Chores(engines.database().config, retains=True), 1
    while chores.do_some():
        rounds += 1
    assert (left(), rounds > 5) == (set(), True)
    late = ended("completed", 40)
    assert not chores.do_some()
    assert left() == {late.id}  # the next round has a process of its own
