"""What wakes an idle worker: the signal for new work, but not every write."""

from __future__ import annotations

import select
from collections.abc import Iterator
from typing import Callable

import pytest
from flask import Flask

from tests.worker.conftest import Queue
from tests.worker_connection import worker_connection
from webapp.config import Config
from webapp.core.storage import wakeup_signal
from webapp.db import engines
from worker.loop import wakeup
from worker.loop.claims import Claims
from worker.loop.wakeup import Wakeup

pytestmark = pytest.mark.only("sqlite")


@pytest.fixture
def signal(app: Flask, config: Config) -> Iterator[Wakeup]:
    one = wakeup.for_sqlite(config, selects=True)
    assert one.descriptor() is not None, "these tests need the file watch of Linux"
    yield one
    one.close()


def is_signalled(signal: Wakeup) -> bool:
    """Whether there is a signal now; resets it."""
    descriptor = signal.descriptor()
    assert descriptor is not None
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    woken = bool(poll.poll(0))
    assert signal.signalled() is woken
    return woken


def test_each_stored_job_sends_a_signal(signal: Wakeup, queue: Queue) -> None:
    assert not is_signalled(signal)
    queue.enqueue("true")
    assert is_signalled(signal)
    assert not is_signalled(signal)
    queue.enqueue("true")
    assert is_signalled(signal)


def test_changes_by_users_send_a_signal(signal: Wakeup, queue: Queue) -> None:
    queue.set(max_retries=1)
    assert is_signalled(signal)


def test_maintenance_and_workers_own_writes_send_no_signal(signal: Wakeup, worker_writes: Callable[[], None]) -> None:
    with engines.writing(wakes_workers=False):
        pass
    worker_writes()
    assert not is_signalled(signal)


@pytest.fixture
def worker_writes(app: Flask) -> Iterator[Callable[[], None]]:
    connection = worker_connection()

    def write() -> None:
        with Claims(connection, "w1") as turn:
            turn.promote()

    yield write
    connection.close()


def test_a_wakeup_file_that_was_replaced_is_watched_again(signal: Wakeup, config: Config, queue: Queue) -> None:
    wakeup_signal.path_of(config).unlink()
    assert is_signalled(signal), "the waiting must end, for it waits for a file that is gone"
    assert signal.descriptor() is not None  # as before the next wait
    assert wakeup_signal.path_of(config).exists()
    signal.signalled()
    queue.enqueue("true")
    assert is_signalled(signal)


def test_enqueue_works_without_a_wakeup_signal(app: Flask, config: Config, queue: Queue) -> None:
    wakeup_signal.path_of(config).unlink(missing_ok=True)
    assert queue.job(queue.enqueue("true")).state == "pending"


def test_without_a_descriptor_the_data_version_is_read(app: Flask, config: Config, queue: Queue) -> None:
    looking = wakeup.for_sqlite(config, selects=False)
    assert looking.descriptor() is None
    assert looking.poll_every < 0.1
    assert not looking.signalled()
    queue.enqueue("true")
    assert looking.signalled()
    assert not looking.signalled()
    looking.close()
