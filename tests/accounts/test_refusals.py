"""Repeated refusals are in the audit trail once a minute, with a count, for users and programs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select

from tests.api.conftest import make_program
from tests.conftest import opened
from tests.console.conftest import Browser, make_app
from tests.factories import make_user
from webapp.accounts import refusals, sessions
from webapp.accounts.refusals import Refusals
from webapp.config import Config
from webapp.core.storage.locks import BUSY, Busy
from webapp.db.engines import reading
from webapp.db.models import Audit


@pytest.fixture
def whole(config: Config) -> Iterator[Flask]:
    """The whole application with both faces."""
    yield from opened(make_app(config))


def refused() -> list[tuple[str, str, str, Any]]:
    with reading() as session:
        rows = session.scalars(select(Audit).where(Audit.outcome == "refused").order_by(Audit.id)).all()
    return [(row.actor, row.verb, row.subject, json.loads(row.detail or "{}")) for row in rows]


def viewer(app: Flask) -> Browser:
    client = app.test_client()
    session_id = sessions.begin(make_user("vera", "viewer"), "127.0.0.1", "a test")
    with client.session_transaction() as session:
        session["_user_id"], session["_fresh"] = session_id, True
    return Browser(client)


# --- the count -------------------------------------------------------------------------------------------------------


def test_the_next_entry_after_a_minute_has_the_number_of_omitted_refusals() -> None:
    seen = Refusals()
    numbers = [seen.admit("token:a", "get", "route:x", now=at) for at in (0.0, 1.0, 59.9, 60.0, 61.0, 120.0, 500.0)]
    assert numbers == [0, None, None, 2, None, 1, 0]


def test_each_actor_and_each_route_has_its_own_count() -> None:
    seen = Refusals()
    kinds = [("token:a", "route:x"), ("token:b", "route:x"), ("token:a", "route:y")]
    assert [seen.admit(*kind, now=1.0) for kind in kinds] == [0, 0, 0]
    assert [seen.admit(*kind, now=2.0) for kind in kinds] == [None] * 3


def test_the_memory_is_limited_and_the_oldest_actors_are_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "MAX_REMEMBERED", 3)
    seen = Refusals()
    for number in range(4):
        assert seen.admit(str(number), now=float(number)) == 0
    assert len(seen._seen) == 3
    assert seen.admit("3", now=5.0) is None
    assert seen.admit("0", now=5.0) == 0


def test_a_refusal_that_could_not_be_written_is_counted_in_the_next_entry() -> None:
    seen = Refusals()
    assert seen.admit("a", now=0.0) == 0
    assert seen.admit("a", now=1.0) is None
    assert seen.admit("a", now=60.0) == 1
    assert seen.admit("a", now=61.0) is None
    seen.put_back("a", left_out=1)
    assert seen.admit("a", now=62.0) == 3


# --- both faces ------------------------------------------------------------------------------------------------------


def test_repeated_refusals_of_a_token_leave_one_entry_with_a_count(
    whole: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = make_program(whole, "read")
    assert [program("DELETE", "/jobs/job1").status_code for _ in range(30)] == [403] * 30
    assert program("POST", "/jobs/job1/requeue").status_code == 403
    assert make_program(whole, "read", "another")("DELETE", "/jobs/job1").status_code == 403
    needs = {"needs": "operate", "scope": "read"}
    lines = [
        ("token:the-read", "delete", "route:api-jobs.discard_job", needs),
        ("token:the-read", "post", "route:api-acts.requeue_job", needs),
        ("token:another", "delete", "route:api-jobs.discard_job", needs),
    ]
    assert refused() == lines
    monkeypatch.setattr(refusals, "INTERVAL_SECONDS", 0.0)
    program("DELETE", "/jobs/job1")
    assert refused()[3:] == [(*lines[0][:3], {**needs, "left_out": 29})]


def test_repeated_refusals_of_a_user_leave_one_entry(whole: Flask) -> None:
    browser = viewer(whole)
    assert [browser.post("/queue/mail/pause").status_code for _ in range(5)] == [403] * 5
    assert refused() == [("person:vera", "post", "route:queues.pause", {"needs": "operator", "role": "viewer"})]


def test_a_forged_request_is_not_hidden_by_other_refusals_of_the_route(whole: Flask) -> None:
    browser = viewer(whole)
    for _ in range(3):
        assert browser.post("/queue/mail/pause").status_code == 403
        assert browser.post("/queue/mail/pause", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert [detail for _, _, _, detail in refused()] == [
        {"needs": "operator", "role": "viewer"},
        {"reason": "a page of another site"},
    ]


def test_no_refusal_is_lost_while_the_database_is_busy(whole: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*_: object, **__: object) -> None:
        raise Busy(BUSY)

    program = make_program(whole, "read")
    with monkeypatch.context() as patch:
        patch.setattr(refusals, "writing", busy)
        assert program("DELETE", "/jobs/job1").status_code == 503
    assert program("DELETE", "/jobs/job1").status_code == 403
    assert [detail for _, _, _, detail in refused()] == [{"needs": "operate", "scope": "read", "left_out": 1}]
