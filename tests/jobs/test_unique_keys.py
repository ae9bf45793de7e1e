"""Unique keys: one job holds a key. Who gets it in a race, who leaves it, and what people hear."""

from __future__ import annotations

import json
import multiprocessing
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import func, select, text

from tests.factories import change_job, make_job
from webapp.config import Config
from webapp.core import enqueue as core_enqueue
from webapp.core import job_spec
from webapp.core.flow.unique_keys import Holder
from webapp.core.job_spec import KeyTaken, SpecError
from webapp.core.states import HOLDS_KEY
from webapp.core.storage.database import open_database
from webapp.db.engines import is_sqlite, reading, writing
from webapp.db.models import Event, Job
from webapp.jobs import actions, canary, job_detail, lifecycle
from webapp.jobs.filters import JobFilter
from webapp.jobs.lifecycle import KeyHeld
from webapp.lib import clock

ANA = "person:ana"
K = "k"


def enqueue(*uniques: Any, held: Any = None) -> list[str]:
    specs = [job_spec.parse({"command": "true", "unique": unique}) for unique in uniques]
    return actions.enqueue(specs, ANA, held=held)


def job(job_id: str) -> Job:
    with reading() as session:
        found = job_detail.find(session, job_id)
    assert found is not None
    return found


def key(on_conflict: str = "refuse", while_: Any = "unfinished") -> dict[str, Any]:
    return {"key": K, "while": while_, "on_conflict": on_conflict}


def number_of_jobs() -> int:
    with reading() as session:
        return session.scalar(select(func.count()).select_from(Job)) or 0


# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (5, "expected a key"),
        ("", "is empty"),
        ("k" * 201, "has 201 characters"),
        (" k", "has a space at an end"),
        ("a\tb", "an invisible character"),
        ({}, "key: is missing"),
        ({"key": 5}, "key: 5 is not allowed"),
        ({"key": K, "who": 1}, "'who' is not a known key of it"),
        ({"key": K, "while": "never"}, "while: 'never' is not allowed"),
        ({"key": K, "while": 0}, "while: 0 is not allowed"),
        ({"key": K, "while": True}, "while: true is not allowed"),
        ({"key": K, "while": "400d"}, "at most 366d"),
        ({"key": K, "on_conflict": "fight"}, "on_conflict: 'fight' is not allowed"),
    ],
)
def test_a_wrong_key_is_refused_with_what_is_wrong(value: object, message: str) -> None:
    with pytest.raises(SpecError, match=message) as error:
        job_spec.parse({"command": "true", "unique": value})
    assert error.value.errors[0].field == "unique"


# --- conflicts -------------------------------------------------------------------------------------------------------


@pytest.mark.postgresql
@pytest.mark.usefixtures("app")
def test_a_taken_key_is_refused_with_the_holder_and_nothing_of_the_call_is_stored() -> None:
    [holder] = enqueue(K)
    with pytest.raises(KeyTaken, match=rf"unique: 'k' is held by {holder} \(pending\)\.") as error:
        enqueue("other", K)
    assert error.value.holders == [Holder(K, holder, "pending")]
    assert error.value.errors[0].place == 1
    assert number_of_jobs() == 1


@pytest.mark.usefixtures("app")
def test_return_gives_the_id_of_the_holder_and_stores_the_others() -> None:
    [holder] = enqueue(K)
    held: dict[int, Holder] = {}
    other, same = enqueue("other", key("return"), held=held)
    assert same == holder != other
    assert held == {1: Holder(K, holder, "pending")}
    assert number_of_jobs() == 2


@pytest.mark.postgresql
@pytest.mark.usefixtures("app")
def test_replace_cancels_a_waiting_holder_and_is_refused_by_a_running_one() -> None:
    [first] = enqueue(K)
    [second] = enqueue(key("replace"))
    assert (job(first).state, job(second).state) == ("cancelled", "pending")
    with reading() as session:
        [event] = session.scalars(select(Event).where(Event.job_seq == job(first).seq))
    assert (event.verb, json.loads(event.detail or "")) == ("cancel", {"text": f"replaced by {second}"})
    change_job(second, state="processing", token="t", worker_id="w", started_at=1, attempts=1)
    with pytest.raises(KeyTaken, match=rf"is held by {second} \(processing\)"):
        enqueue(key("replace"))


@pytest.mark.usefixtures("app")
def test_a_job_does_not_replace_the_job_whose_success_it_waits_for() -> None:
    """It would cancel that job, and then never start."""
    [first] = enqueue(K)
    follower = {"command": "true", "unique": key("replace"), "after": [first]}
    with pytest.raises(
        KeyTaken, match=rf"is held by {first} \(pending\), and this job waits until that one has completed"
    ):
        actions.enqueue([job_spec.parse(follower)], "person:test")
    assert job(first).state == "pending"
    [second] = actions.enqueue([job_spec.parse({**follower, "after": [f"{first}:finish"]})], "person:test")
    assert (job(first).state, job(second).state) == ("cancelled", "pending")


@pytest.mark.usefixtures("app")
def test_two_jobs_of_one_call_with_the_same_key_follow_the_same_rules() -> None:
    with pytest.raises(KeyTaken, match="is held by job 1 of this call"):
        enqueue(K, K)
    first, same = enqueue("a", {"key": "a", "on_conflict": "return"})
    assert first == same
    replaced, last = enqueue("b", {"key": "b", "on_conflict": "replace"})
    assert replaced == last
    assert number_of_jobs() == 2


@pytest.mark.postgresql
@pytest.mark.usefixtures("app")
def test_many_jobs_at_once_obey_the_keys_too() -> None:
    """PostgreSQL stores as many as these with COPY."""
    ids = enqueue(*(f"k{number}" for number in range(50)))
    with pytest.raises(KeyTaken) as error:
        enqueue(*(f"k{number}" for number in range(49, 99)))
    assert error.value.holders == [Holder("k49", ids[49], "pending")]
    assert len(set(enqueue(*({"key": f"k{n}", "on_conflict": "return"} for n in range(25, 75))))) == 50
    assert number_of_jobs() == 75


# --- how long --------------------------------------------------------------------------------------------------------


@pytest.mark.postgresql
@pytest.mark.usefixtures("app")
def test_a_period_ends_by_itself_and_outlives_its_job() -> None:
    [first] = enqueue(key(while_="1h"))
    change_job(first, state="completed", finished_at=clock.now())
    for on_conflict in ("refuse", "replace"):
        with pytest.raises(KeyTaken, match=r"\(completed\)"):
            enqueue(key(on_conflict))
    change_job(first, unique_until=clock.now())
    [second] = enqueue(K)
    assert (job(first).unique_while, job(second).unique_while) == ("expired", "unfinished")


@pytest.mark.usefixtures("app")
def test_a_replaced_job_leaves_its_period() -> None:
    [first] = enqueue(key(while_=3600))
    [second] = enqueue(key("replace", 3600))
    assert (job(first).state, job(second).state) == ("cancelled", "pending")


@pytest.mark.usefixtures("app")
def test_an_ended_job_leaves_its_key() -> None:
    for state in ("completed", "dead", "cancelled"):
        [holder] = enqueue(K)
        change_job(holder, state=state, finished_at=clock.now())


# --- people ----------------------------------------------------------------------------------------------------------


def dead(job_id: str, unique_key: str = K, while_: str = "unfinished") -> Job:
    now = clock.now()
    return make_job("dead", id=job_id, unique_key=unique_key, unique_while=while_, error_key="e", finished_at=now)


@pytest.mark.postgresql
@pytest.mark.usefixtures("app")
@pytest.mark.parametrize("while_", ["unfinished", "started", "expired"])
def test_a_requeue_of_a_taken_key_is_refused_and_the_others_move(while_: str) -> None:
    dead("held", while_=while_)
    dead("free", "other")
    [holder] = enqueue(K)
    result = actions.apply("requeue", ["held", "free"], ANA)
    assert result.outcome.moved == ["free"]
    assert result.outcome.refused == {"held": "dead"}
    assert result.outcome.held == {"held": Holder(K, holder, "pending")}
    said = lifecycle.refusal("requeue", "held", "dead", result.outcome)
    assert said == f"held was not changed: its unique key 'k' is held by {holder} (pending). Nothing changed."


@pytest.mark.postgresql
@pytest.mark.usefixtures("app")
def test_of_dead_jobs_with_one_key_the_first_is_requeued_and_the_action_names_the_others() -> None:
    for name in "abc":
        dead(name)
    result = actions.apply("requeue", JobFilter(state="dead"), ANA)
    assert (result.moved, result.skipped) == (1, 2)
    assert list(result.outcome.held) == ["b", "c"]
    with reading() as session:
        events = session.scalars(select(Event).where(Event.subject == f"act:{result.action_id}")).all()
    assert [json.loads(event.detail or "")["text"] for event in events] == [
        f"{name} was not changed: its unique key 'k' is held by a (pending)." for name in "bc"
    ]


@pytest.mark.usefixtures("app")
def test_a_requeued_job_that_had_started_waits_with_its_key_again() -> None:
    dead("a", while_="started")
    actions.apply("requeue", ["a"], ANA)
    assert job("a").unique_while == "waiting"
    with pytest.raises(KeyTaken):
        enqueue(K)


@pytest.mark.postgresql
@pytest.mark.usefixtures("app")
def test_an_undo_of_a_cancel_leaves_jobs_whose_key_was_taken() -> None:
    [first, other] = enqueue(K, "other")
    cancelled = actions.apply("cancel", [first, other], ANA)
    [holder] = enqueue(K)
    result = actions.undo(cancelled.action_id, ANA)
    assert (result.moved, result.skipped) == (1, 1)
    assert result.outcome.held == {first: Holder(K, holder, "pending")}
    assert (job(first).state, job(other).state) == ("cancelled", "pending")


@pytest.mark.usefixtures("app")
def test_a_canary_whose_key_is_taken_does_not_start() -> None:
    dead("a")
    [holder] = enqueue(K)
    with pytest.raises(KeyHeld, match=rf"'k' is held by {holder} \(pending\)"):
        canary.start(JobFilter(state="dead"), ANA)
    assert job("a").state == "dead"


@pytest.mark.usefixtures("app")
def test_run_now_of_a_job_that_is_retried_needs_no_key() -> None:
    make_job("failed", id="a", unique_key=K, unique_while="started", failures=1)
    enqueue(K)
    assert actions.apply("run_now", ["a"], ANA).outcome.moved == ["a"]


# --- the index -------------------------------------------------------------------------------------------------------


@pytest.mark.postgresql
@pytest.mark.usefixtures("app")
def test_an_index_finds_the_holders() -> None:
    explain = "EXPLAIN QUERY PLAN" if is_sqlite() else "EXPLAIN"
    listed = "IN (SELECT value FROM json_each('[\"k\"]'))" if is_sqlite() else "= ANY(ARRAY['k'])"
    for statement in ("SELECT id FROM jobs", "UPDATE jobs SET unique_while = 'expired'"):
        with writing() as session:
            if not is_sqlite():
                session.execute(text("SET LOCAL enable_seqscan = off"))
            steps = session.execute(text(f"{explain} {statement} WHERE {HOLDS_KEY} AND unique_key {listed}")).all()
        assert "ix_jobs_unique" in str(steps)


def _race(config: Config, start: Any, results: Any, keys: int, *, several: bool) -> None:
    database = open_database(config)
    start.wait()
    got = []
    unique = [{"key": f"k{number}", "on_conflict": "return"} for number in range(keys)]
    calls = [unique] if several else [[one] for one in unique]
    for call in calls:
        specs = [job_spec.parse({"command": "true", "unique": one}) for one in call]
        got += core_enqueue.enqueue(database, specs, "person:racer")
    results.put(got)
    database.close()


@pytest.mark.postgresql
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize(
    ("processes", "keys"), [(4, 20), pytest.param(50, 200, marks=pytest.mark.full)], ids=["few", "many"]
)
def test_processes_that_race_for_keys_see_one_holder_each(
    app: Flask, config: Config, processes: int, keys: int, several: bool
) -> None:
    """Each job of its own, or all in one call, in opposite orders."""
    context = multiprocessing.get_context("fork")
    start, results = context.Event(), context.Queue()
    racers = [
        context.Process(target=_race, args=(config, start, results, keys), kwargs={"several": several})
        for _ in range(processes)
    ]
    for racer in racers:
        racer.start()
    start.set()
    got = [results.get(timeout=300) for _ in racers]
    for racer in racers:
        racer.join(60)
        assert racer.exitcode == 0
    assert all(ids == got[0] for ids in got)
    assert len(set(got[0])) == keys == number_of_jobs()
