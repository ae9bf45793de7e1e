"""Removing a queue: what stands in the way, what stays, and what creates it again."""

from __future__ import annotations

import threading
from typing import Any, Callable

import pytest
from flask import Flask
from sqlalchemy import select

from tests.factories import make_job, make_queue
from webapp.core import enqueue as enqueueing
from webapp.core import job_spec
from webapp.db import audit
from webapp.db.engines import database, reading
from webapp.db.models import Control, Event, Job, LabelSetRow, Queue
from webapp.insight.queues import page_of_queues
from webapp.jobs import actions, job_detail, lifecycle, queries, queue_actions
from webapp.jobs.filters import JobFilter

ANA = "person:ana"
pytestmark = pytest.mark.usefixtures("app")


def names() -> list[str]:
    with reading() as session:
        return [view.queue.name for view in page_of_queues(session).views]


def label_sets() -> list[tuple[str, str]]:
    with reading() as session:
        return [(row.queue, row.requires) for row in session.scalars(select(LabelSetRow))]


def revision() -> int:
    with reading() as session:
        return session.scalars(select(Control.revision)).one()


def enqueue(**fields: Any) -> str:
    return actions.enqueue([job_spec.parse({"command": "true", "queue": "mail", **fields})], ANA)[0]


@pytest.mark.postgresql
def test_a_removed_queue_is_gone_and_its_finished_jobs_stay() -> None:
    make_job("completed", id="done", queue="mail", requires="gpu")
    make_queue("mail", paused_by="person:ben")
    before = revision()
    queue_actions.remove_queue("mail", ANA)
    assert (names(), label_sets()) == (["default"], [])
    assert revision() > before
    with reading() as session:
        assert job_detail.find(session, "done") is not None
        assert queries.paused_queues(session) == []
        [event] = session.scalars(select(Event).where(Event.subject == "queue:mail"))
        [line] = audit.page(session, audit.AuditFilter(verb="remove_queue"), limit=9)
    assert (event.verb, event.actor) == ("remove_queue", ANA)
    assert (line.subject, line.outcome) == ("queue:mail", "done")


@pytest.mark.parametrize("state", queries.UNFINISHED)
def test_an_unfinished_job_stands_in_the_way_and_is_counted(state: str) -> None:
    for _ in range(2):
        make_job(state, queue="mail")
    make_job("dead", queue="mail")
    make_job(state)
    with pytest.raises(queue_actions.QueueInUse, match=f"queue mail cannot be removed: it has 2 {state} jobs"):
        queue_actions.remove_queue("mail", ANA)
    assert names() == ["default", "mail"]


def test_each_state_in_the_way_is_named() -> None:
    for state in ("pending", "failed"):
        make_job(state, queue="mail")
    with pytest.raises(queue_actions.QueueInUse, match="it has 1 pending and 1 failed jobs"):
        queue_actions.remove_queue("mail", ANA)


def test_the_default_queue_and_a_queue_that_does_not_exist_are_refused() -> None:
    with pytest.raises(queue_actions.QueueInUse, match="queue default cannot be removed"):
        queue_actions.remove_queue("default", ANA)
    make_queue("mail")
    queue_actions.remove_queue("mail", ANA)
    for action in (queue_actions.remove_queue, queue_actions.pause_queue, queue_actions.resume_queue):
        with pytest.raises(lifecycle.NotFound, match="no such queue: 'mail'"):
            action("mail", ANA)


def test_the_next_job_creates_the_queue_again_and_it_is_not_paused() -> None:
    make_queue("mail", paused_by="person:ben")
    queue_actions.remove_queue("mail", ANA)
    enqueue(requires=["gpu"])
    assert (names(), label_sets()) == (["default", "mail"], [("mail", "gpu")])
    with reading() as session:
        assert session.get_one(Queue, "mail").paused_at is None


def test_a_requeued_job_creates_its_queue_and_its_label_set_again() -> None:
    make_job("dead", id="one", queue="mail", requires="gpu")
    queue_actions.remove_queue("mail", ANA)
    before = revision()
    done = actions.apply("requeue", ["one"], ANA)
    assert (names(), label_sets()) == (["default", "mail"], [("mail", "gpu")])
    assert revision() > before
    actions.undo(done.action_id, ANA)
    queue_actions.remove_queue("mail", ANA)
    assert names() == ["default"]
    actions.apply("requeue", JobFilter(state="dead"), ANA)
    assert names() == ["default", "mail"]


def test_a_requeue_restores_a_label_set_of_a_queue_that_exists_again() -> None:
    make_job("dead", id="one", queue="mail", requires="gpu")
    queue_actions.remove_queue("mail", ANA)
    enqueue()
    assert label_sets() == []
    actions.apply("requeue", ["one"], ANA)
    assert label_sets() == [("mail", "gpu")]


def test_an_undo_that_makes_jobs_pending_creates_their_queue_again() -> None:
    make_job("pending", id="one", queue="mail", requires="gpu")
    done = actions.apply("cancel", ["one"], ANA)
    queue_actions.remove_queue("mail", ANA)
    actions.undo(done.action_id, ANA)
    assert (names(), label_sets()) == (["default", "mail"], [("mail", "gpu")])


# --- at the same moment ----------------------------------------------------------------------------------------------


class Meanwhile:
    """A call in another thread. `begin` starts it inside a transaction, for whose commit it must wait."""

    def __init__(self, app: Flask, call: Callable[[], object]) -> None:
        self.raised: list[BaseException] = []
        self._app, self._call = app, call
        self._thread = threading.Thread(target=self._run, daemon=True)

    def begin(self, *_: object, **__: object) -> None:
        self._thread.start()
        self._thread.join(0.3)
        assert self._thread.is_alive()

    def end(self) -> list[BaseException]:
        """What the call raised."""
        self._thread.join(20)
        assert not self._thread.is_alive()
        return self.raised

    def _run(self) -> None:
        with self._app.app_context():
            try:
                self._call()
            except Exception as error:
                self.raised.append(error)


def remove_mail() -> None:
    queue_actions.remove_queue("mail", ANA)


@pytest.mark.postgresql
def test_a_removal_waits_for_an_enqueue_and_is_then_refused(app: Flask) -> None:
    make_queue("mail")
    other = Meanwhile(app, remove_mail)
    spec = job_spec.parse({"command": "true", "queue": "mail"})
    enqueueing.enqueue(database(), [spec], ANA, stored=other.begin)
    assert "it has 1 pending job" in str(other.end()[0])
    assert names() == ["default", "mail"]


@pytest.mark.postgresql
def test_an_enqueue_waits_for_a_removal_and_creates_the_queue_again(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_job("completed", queue="mail")
    other = Meanwhile(app, enqueue)
    monkeypatch.setattr(queue_actions, "record", other.begin)
    remove_mail()
    assert other.end() == []
    assert names() == ["default", "mail"]


@pytest.mark.postgresql
def test_a_removal_waits_for_a_requeue_and_is_then_refused(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    make_job("dead", id="one", queue="mail")
    other = Meanwhile(app, remove_mail)
    monkeypatch.setattr(lifecycle, "record", other.begin)
    actions.apply("requeue", ["one"], ANA)
    assert "it has 1 pending job" in str(other.end()[0])


@pytest.mark.postgresql
def test_a_requeue_waits_for_a_removal_and_creates_the_queue_again(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    make_job("dead", id="one", queue="mail", requires="gpu")
    other = Meanwhile(app, lambda: actions.apply("requeue", ["one"], ANA))
    monkeypatch.setattr(queue_actions, "record", other.begin)
    remove_mail()
    assert other.end() == []
    assert (names(), label_sets()) == (["default", "mail"], [("mail", "gpu")])
    with reading() as session:
        assert session.scalars(select(Job.state)).all() == ["pending"]
