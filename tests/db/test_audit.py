"""The audit trail: every write of a user or program, in its own transaction; entries cannot be changed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError

from tests.factories import make_job, make_queue, make_worker
from webapp.accounts import users
from webapp.core import audit_lines, job_spec
from webapp.db import audit
from webapp.db.engines import reading, writing
from webapp.db.models import Audit
from webapp.jobs import actions, queue_actions, settings, worker_actions
from webapp.jobs.filters import JobFilter

pytestmark = pytest.mark.usefixtures("app")


def trail() -> list[tuple[Any, ...]]:
    with reading() as session:
        rows = session.scalars(select(Audit).order_by(Audit.id)).all()
    return [(row.actor, row.verb, row.subject, json.loads(row.detail) if row.detail else None) for row in rows]


def test_each_write_of_a_user_records_old_and_new_values() -> None:
    make_job("dead", id="job1")
    make_queue("mail")
    make_worker(id="w1")
    actions.apply("requeue", ["job1"], "person:ana")
    settings.set_setting("max_retries", 5, "person:ana")
    queue_actions.pause_queue("mail", "person:ana")
    worker_actions.request_state("quiet", ["w1"], "person:ana")
    actions.apply("discard", ["job1"], "token:deploy")
    assert trail() == [
        ("person:ana", "requeue", "job:job1", {"before": {"state": "dead"}, "after": {"state": "pending"}}),
        ("person:ana", "config", "setting:max_retries", {"before": 3, "after": 5}),
        ("person:ana", "pause", "queue:mail", {"before": {"paused": False}, "after": {"paused": True}}),
        ("person:ana", "quiet", "worker:w1", None),
        ("token:deploy", "discard", "job:job1", {"before": {"state": "pending"}, "after": {"state": None}}),
    ]


def test_an_enqueue_is_audited_per_job_and_a_large_one_by_its_number() -> None:
    actions.enqueue([job_spec.parse({"command": "true", "id": "a"})], "person:ana")
    actions.enqueue([job_spec.parse({"command": "true", "id": "c", "requires": ["gpu"]})], "person:ana")
    actions.enqueue([job_spec.parse({"command": "true", "id": f"b{n}"}) for n in range(101)], "person:ana")
    noted = {"command": "true", "queue": "default", "state": "pending"}
    assert trail() == [
        ("person:ana", "enqueue", "job:a", {"after": noted}),
        ("person:ana", "enqueue", "job:c", {"after": {**noted, "requires": "gpu"}}),
        ("person:ana", "enqueue", "jobs", {"after": {"jobs": 101, "first": "b0", "last": "b100"}}),
    ]


def test_a_bulk_action_is_one_entry_and_automatic_changes_are_none() -> None:
    for _ in range(3):
        make_job("dead")
    actions.apply("requeue", JobFilter(state="dead"), "person:ana")
    actions.apply("requeue", ["nothing"], "person:ana")
    settings.set_setting("max_retries", 5, "rule:test")
    [(actor, verb, subject, detail)] = trail()
    assert (actor, verb, subject) == ("person:ana", "requeue", "act:1")
    assert detail["filter"]["state"] == "dead"


def test_a_failed_write_leaves_no_entry() -> None:
    users.add("ana", "correct horse battery", "admin", "person:root")
    with pytest.raises(users.AccountError):
        users.set_disabled("ana", True, "person:root")
    assert [verb for _, verb, _, _ in trail()] == ["add_user"]


@pytest.mark.postgresql
@pytest.mark.parametrize("statement", ["UPDATE audit SET actor = 'person:eve'", "DELETE FROM audit"])
def test_an_entry_cannot_be_changed_or_deleted(statement: str) -> None:
    refuses(statement)


@pytest.mark.only("sqlite")
def test_an_entry_cannot_be_replaced_on_sqlite() -> None:
    columns = "id, at, verb, subject, outcome, face"
    refuses(f"INSERT OR REPLACE INTO audit (actor, {columns}) SELECT 'person:eve', {columns} FROM audit")


def refuses(statement: str) -> None:
    settings.set_setting("max_retries", 5, "person:ana")

    def tamper() -> None:
        with writing() as session:
            session.execute(text(statement))

    with pytest.raises(DBAPIError, match="append-only"):
        tamper()
    assert [actor for actor, _, _, _ in trail()] == ["person:ana"]


def test_an_entry_records_the_address_and_the_face(app: object) -> None:
    before = audit_lines._origin.get()
    audit_lines.set_origin(audit_lines.Origin("api", "192.0.2.7"))
    try:
        settings.set_setting("max_retries", 5, "person:ana")
    finally:
        audit_lines.set_origin(before)
    settings.set_setting("max_retries", 6, "person:ana")
    with reading() as session:
        rows = session.scalars(select(Audit).order_by(Audit.id)).all()
    assert [(row.face, row.address) for row in rows] == [("api", "192.0.2.7"), ("command", None)]


def test_entries_can_be_filtered_and_paged() -> None:
    for value in range(5):
        settings.set_setting("max_retries", value + 4, "person:ana")
    settings.set_setting("lease", 40, "person:anatol")
    with reading() as session:
        assert len(audit.page(session, audit.AuditFilter(actor="person:ana"), limit=10)) == 6
        assert len(audit.page(session, audit.AuditFilter(subject="setting:lease"), limit=10)) == 1
        assert audit.page(session, audit.AuditFilter(outcome="refused"), limit=10) == []
        first = audit.page(session, audit.AuditFilter(), limit=4)
        rest = audit.page(session, audit.AuditFilter(), before=first[-1].id, limit=4)
        assert [row.id for row in (*first, *rest)] == sorted((row.id for row in (*first, *rest)), reverse=True)
        exported = [row for rows in audit.export(audit.AuditFilter()) for row in rows]
    assert len(exported) == len(first) + len(rest) == 6
    assert audit.as_json(exported[0])["detail"] == {"before": 3, "after": 4}
