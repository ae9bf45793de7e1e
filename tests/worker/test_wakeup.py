"""What wakes an idle worker: the doorbell of those who store work, and not everything that is written."""

from __future__ import annotations

import select
from collections.abc import Iterator
from typing import Callable

import pytest
from flask import Flask

from tests.worker.conftest import Queue
from webapp.config import Config
from webapp.core import wakeup_signal
from webapp.db import engines
from worker.loop import wakeup
from worker.loop.claims import Claims
from worker.loop.wakeup import Wakeup

pytestmark = pytest.mark.only("sqlite")


@pytest.fixture
def bell(app: Flask, config: Config) -> Iterator[Wakeup]:
    one = wakeup.for_sqlite(config, selects=True)
    assert one.descriptor() is not None, "these tests are about the bell, which is heard on Linux"
    yield one
    one.close()


def rings(bell: Wakeup) -> bool:
    """Whether whoever waits is woken, now; what it has heard is forgotten."""
    descriptor = bell.descriptor()
    assert descriptor is not None
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    woken = bool(poll.poll(0))
    assert bell.rang() is woken
    return woken


def test_it_rings_for_each_job_that_is_stored(bell: Wakeup, queue: Queue) -> None:
    assert not rings(bell)
    queue.enqueue("true")
    assert rings(bell)
    assert not rings(bell)
    queue.enqueue("true")
    assert rings(bell)


def test_it_rings_when_people_change_what_workers_may_do(bell: Wakeup, queue: Queue) -> None:
    queue.set(max_retries=1)
    assert rings(bell)


def test_housekeeping_and_what_workers_write_for_themselves_ring_nobody(
    bell: Wakeup, worker_writes: Callable[[], None]
) -> None:
    with engines.writing(rings=False):
        pass
    worker_writes()
    assert not rings(bell)


@pytest.fixture
def worker_writes(app: Flask) -> Iterator[Callable[[], None]]:
    connection = engines.worker_connection()

    def write() -> None:
        with Claims(connection, "w1") as turn:
            turn.promote()

    yield write
    connection.close()


def test_a_bell_that_somebody_replaced_is_heard_again(bell: Wakeup, config: Config, queue: Queue) -> None:
    wakeup_signal.path_of(config).unlink()
    assert rings(bell), "the waiting must end, for it waits for a file that is gone"
    assert bell.descriptor() is not None  # as before the next wait
    assert wakeup_signal.path_of(config).exists()
    bell.rang()
    queue.enqueue("true")
    assert rings(bell)


def test_without_a_bell_enqueue_does_what_it_must(app: Flask, config: Config, queue: Queue) -> None:
    wakeup_signal.path_of(config).unlink(missing_ok=True)
    assert queue.job(queue.enqueue("true")).state == "pending"


def test_where_nobody_can_wait_for_a_bell_the_commits_are_looked_at(app: Flask, config: Config, queue: Queue) -> None:
    looking = wakeup.for_sqlite(config, selects=False)
    assert looking.descriptor() is None
    assert looking.look_every < 0.1
    assert not looking.rang()
    queue.enqueue("true")
    assert looking.rang()
    assert not looking.rang()
    looking.close()
