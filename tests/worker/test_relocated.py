"""Workers of a moved queue: they finish and exit, also if they learn of the move from the database only."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import psutil
import pytest
from flask import Flask

from tests.admin.move.moves import go
from tests.conftest import opened
from tests.deadline import DEADLINE
from tests.worker.conftest import Fleet, Queue, both_ways
from webapp.admin.move import Side, marker
from webapp.config import Config
from webapp.core.storage import relocated
from webapp.db.application import create_core
from webapp.lib import clock

Start = Callable[..., Fleet]


@pytest.fixture
def target(home: Path, tmp_path: Path) -> Config:
    return Config(home, f"sqlite:///{tmp_path}/moved.db", None)


@pytest.mark.full
@both_ways
def test_workers_finish_running_jobs_and_exit_before_the_queue_moves(
    queue: Queue, fleet: Start, target: Config
) -> None:
    one = fleet(count=2)
    long = queue.enqueue("sleep 1.5; echo whole")
    queue.reaches(long, "processing")
    waiting = queue.enqueue("true", queue="nobody")
    go(target)
    assert one.process.wait(DEADLINE) == 0
    assert "Traceback" not in one.text()
    for _ in opened(create_core(target)):
        there = Queue(queue.app, target, queue._eventually)
        assert [attempt.output for attempt in there.attempts(long)] == [b"whole\n"]
        assert (there.job(long).state, there.job(long).attempts) == ("completed", 1)
        assert there.job(waiting).state in {"pending", "completed"}
        assert [worker.state for worker in there.workers("stopped")] == ["stopped", "stopped"]
        assert there.workers() == []


def mark(app: Flask, address: str) -> str:
    """Set only the mark in the database, for workers that missed all signals."""
    words = relocated.moved(address, clock.now())
    side = Side(app)

    def work(connection: Any) -> None:
        marker.add(connection, marker.Move("id", "from", address, marker.DONE, words, 1))
        marker.block_writes(connection, words)

    marker.run_exclusively(side, work)
    return words


@pytest.mark.full
@both_ways
def test_workers_without_a_signal_exit_at_their_next_write_and_are_not_restarted(
    queue: Queue, fleet: Start, app: Flask
) -> None:
    queue.set(lease=5)
    one = fleet(count=2)
    words = mark(app, "postgresql://ana@db/queue")
    assert one.process.wait(DEADLINE) == 1, "so that a service manager starts it again, at the new address"
    text = one.text()
    assert words in text
    assert "Traceback" not in text
    assert "starting another" not in text
    assert len(queue.workers()) == 2, "their rows are as the mark found them"


def test_a_worker_does_not_start_on_a_moved_queue(queue: Queue, fleet: Start, app: Flask) -> None:
    words = mark(app, "postgresql://ana@db/queue")
    one = fleet(ready=False)
    assert one.process.wait(DEADLINE) != 0
    assert words in one.text()


@pytest.mark.full
def test_a_worker_that_dies_after_the_move_has_no_successor(queue: Queue, fleet: Start, app: Flask) -> None:
    one = fleet(count=1)
    [worker] = queue.workers()
    words = mark(app, "postgresql://ana@db/queue")
    psutil.Process(worker.pid).kill()  # its successor could not register
    assert one.process.wait(DEADLINE) == 1
    text = one.text()
    assert words in text
    assert "Traceback" not in text
    assert text.count("starting another") <= 1
