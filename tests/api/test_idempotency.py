"""A request that is repeated under its Idempotency-Key gets the first response and is not run again."""

from __future__ import annotations

from typing import Any

import pytest
import time_machine
from flask import Flask
from sqlalchemy import select

from tests.api.conftest import Program, make_program
from tests.api.test_jobs import refused, stored
from tests.factories import make_job
from webapp.api import idempotency
from webapp.core.storage.locks import Busy
from webapp.db.engines import reading
from webapp.db.models import IdempotencyKey
from webapp.jobs import actions
from webapp.lib import clock

pytestmark = pytest.mark.usefixtures("own_clock")

JOB = {"command": "echo hi"}


@pytest.mark.postgresql
def test_a_repeated_key_gets_the_first_response(submitter: Program) -> None:
    first = submitter("POST", "/jobs", JOB, Idempotency_Key="k1")
    again = submitter("POST", "/jobs", JOB, Idempotency_Key="k1")
    assert (again.status_code, again.data) == (first.status_code, first.data)
    assert again.headers["Location"] == first.headers["Location"]
    assert again.headers["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first.headers
    assert stored() == 1


@pytest.mark.postgresql
def test_another_request_with_the_same_key_is_refused(submitter: Program) -> None:
    submitter("POST", "/jobs", JOB, Idempotency_Key="k1")
    refused(submitter("POST", "/jobs", {"command": "other"}, Idempotency_Key="k1"), 422, "key-reused")
    refused(submitter("POST", "/jobs/batch", [JOB], Idempotency_Key="k1"), 422, "key-reused")
    assert stored() == 1


def test_each_token_has_its_own_keys(whole: Flask, submitter: Program) -> None:
    submitter("POST", "/jobs", JOB, Idempotency_Key="k1")
    assert make_program(whole, "submit", "other")("POST", "/jobs", JOB, Idempotency_Key="k1").status_code == 201
    assert stored() == 2


@pytest.mark.postgresql
def test_a_refused_request_does_not_use_up_its_key(submitter: Program) -> None:
    refused(submitter("POST", "/jobs", {"command": ""}, Idempotency_Key="k1"), 422, "invalid")
    assert submitter("POST", "/jobs", JOB, Idempotency_Key="k1").status_code == 201


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "\xe4"])
def test_an_invalid_key_is_refused(submitter: Program, key: str) -> None:
    refused(submitter("POST", "/jobs", JOB, Idempotency_Key=key), 422, "invalid")


def row() -> IdempotencyKey:
    with reading() as session:
        return session.scalars(select(IdempotencyKey)).one()


@pytest.mark.postgresql
@pytest.mark.parametrize("many", [False, True])
def test_a_crash_between_commit_and_response_stores_the_jobs_once(
    submitter: Program, monkeypatch: pytest.MonkeyPatch, many: bool
) -> None:
    path, body = ("/jobs/batch", [JOB, JOB, JOB]) if many else ("/jobs", JOB)
    with monkeypatch.context() as dying:
        dying.setattr(idempotency, "_store", lambda *_: None)  # the process ends here
        first = submitter("POST", path, body, Idempotency_Key="k1")
    assert row().status is None
    refused(submitter("POST", path, body, Idempotency_Key="k1"), 409, "in-flight")
    with time_machine.travel(clock.now() / clock.SECOND + 61):
        again = submitter("POST", path, body, Idempotency_Key="k1")
    assert again.status_code == 201
    assert again.get_json() == first.get_json()
    assert stored() == (3 if many else 1)


@pytest.mark.postgresql
def test_a_request_can_be_repeated_at_once_after_an_error(submitter: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    enqueue = actions.enqueue

    def stored_and_broken(*arguments: Any, **options: Any) -> Any:
        enqueue(*arguments, **options)
        raise Busy("after the commit")

    monkeypatch.setattr(actions, "enqueue", stored_and_broken)
    response = submitter("POST", "/jobs", JOB, Idempotency_Key="k1")
    refused(response, 503, "busy")
    assert response.headers["Retry-After"] == "5"
    monkeypatch.undo()
    assert submitter("POST", "/jobs", JOB, Idempotency_Key="k1").status_code == 201
    assert stored() == 1


@pytest.mark.postgresql
@pytest.mark.parametrize("broken", ["_store", "_end"])
def test_a_request_whose_result_was_not_recorded_can_be_repeated_at_once(
    submitter: Program, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise Busy("the database is away")

    with monkeypatch.context() as fault:
        fault.setattr(idempotency, broken, away)
        if broken == "_end":
            fault.setattr(actions, "enqueue", away)
        refused(submitter("POST", "/jobs", JOB, Idempotency_Key="k1"), 503, "busy")
        refused(submitter("POST", "/jobs", JOB, Idempotency_Key="k1"), 503, "busy")
    assert submitter("POST", "/jobs", JOB, Idempotency_Key="k1").status_code == 201
    assert stored() == 1


@pytest.mark.postgresql
def test_a_bulk_action_with_a_key_runs_once(operator: Program) -> None:
    make_job("dead", id="job1")
    for _ in range(2):
        assert operator("POST", "/jobs/job1/requeue", Idempotency_Key="k1").status_code == 200
    refused(operator("POST", "/jobs/job1/requeue"), 409, "conflict")


def test_responses_contain_neither_token_nor_key(submitter: Program) -> None:
    response = submitter("POST", "/jobs", JOB, Idempotency_Key="k1")
    assert submitter.secret.encode() not in response.data
    assert (row().answer or b"").find(submitter.secret.encode()) == -1
