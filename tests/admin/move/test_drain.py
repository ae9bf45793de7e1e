"""A move interrupts no job, loses none, and includes open transactions."""

from __future__ import annotations

import threading
from typing import Optional

import pytest
from flask import Flask
from sqlalchemy import text, update

from tests.admin.move.moves import contents_of, go
from tests.conftest import opened
from tests.deadline import DEADLINE
from tests.factories import make_job, make_worker
from webapp.admin.move import MoveError, drain
from webapp.config import Config
from webapp.db import engines, models
from webapp.db.application import create_core
from webapp.insight import fleet
from worker import processes


def test_the_move_fails_while_a_job_runs_and_the_workers_resume(app: Flask, target: Config) -> None:
    host = processes.host_name()
    busy = make_worker(host="another-host")
    shy = make_worker(requested_state="quiet", host=host, pid=1)
    make_job("processing", id="long", worker_id=busy.id)
    with pytest.raises(MoveError, match=r"still running: long \(\d+ s, on another-host\)"):
        go(target, patience=0.0)
    with engines.reading() as session:
        wishes = {view.worker.id: view.worker.requested_state for view in fleet.workers(session, 30)}
    assert wishes == {busy.id: "run", shy.id: "quiet"}
    make_job()


def test_jobs_of_a_lost_worker_are_released_and_moved(app: Flask, target: Config) -> None:
    dead = make_worker(host=processes.host_name(), boot_id=processes.boot_id(), pid=2**22 + 5)
    make_job("processing", id="held", worker_id=dead.id)
    go(target)
    for _ in opened(create_core(target)):
        with engines.reading() as session:
            [(state, attempt)] = session.execute(
                text("SELECT jobs.state, attempts.state FROM jobs JOIN attempts ON job_seq = seq WHERE id = 'held'")
            )
    assert (state, attempt) == ("pending", "lost")


def test_a_job_that_was_claimed_at_the_last_moment_is_waited_for(
    app: Flask, target: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    late: list[str] = []
    dismiss, settle = drain.Drain.stop_workers, drain.Drain.wait_until_idle

    def claim(self: drain.Drain) -> None:
        dismiss(self)
        if not late:
            late.append(make_job("processing", id="late").id)

    def end(self: drain.Drain, patience: Optional[float]) -> None:
        if late:
            make_jobs_end()
        settle(self, patience)

    monkeypatch.setattr(drain.Drain, "stop_workers", claim)
    monkeypatch.setattr(drain.Drain, "wait_until_idle", end)
    go(target)
    state = list(models.Job.__table__.columns.keys()).index("state")
    assert {row[state] for row in contents_of(target)["jobs"]} == {"completed"}


def make_jobs_end() -> None:
    values = {"state": "completed", "finished_at": 1, "worker_id": None, "token": None}
    with engines.writing() as session:
        session.execute(update(models.Job).values(values))


def test_a_transaction_that_is_open_when_writes_are_blocked_is_moved(app: Flask, target: Config) -> None:
    """Blocking writes waits for an open transaction, which is in the copy; a later one is refused."""
    begun, end = threading.Event(), threading.Event()

    def store() -> None:
        with app.app_context(), engines.writing() as session:
            session.execute(text("UPDATE control SET pulse = pulse + 1"))
            begun.set()
            end.wait(DEADLINE)
            session.execute(text("INSERT INTO queues (name) VALUES ('told-accepted')"))

    thread = threading.Thread(target=store)
    thread.start()
    begun.wait(DEADLINE)
    timer = threading.Timer(0.7, end.set)  # longer than one try for the locks of PostgreSQL
    timer.start()
    go(target)
    thread.join()
    assert "told-accepted" in {row[0] for row in contents_of(target)["queues"]}
