"""The scheduler's thread on a clock of the test: an hour without a database, and what it does while others decide."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable

import pytest
from sqlalchemy.engine import make_url

from tests.databases import execute
from tests.schedules.conftest import MINUTE, Schedules
from webapp.config import Config
from webapp.db import engines
from webapp.lib import clock
from worker.maintenance import scheduler
from worker.maintenance.scheduler import Scheduler

Wait = Callable[..., Any]


@pytest.fixture
def thread(schedules: Schedules, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scheduler]:
    monkeypatch.setattr(scheduler, "FAILURE_PAUSE", 0.02)
    one = Scheduler(schedules.connection.database, has_signal=False)
    yield one
    one.stop()
    one._thread.join()


@contextmanager
def away(config: Config) -> Iterator[None]:
    """Nobody can use the database."""
    if config.database_url is None:
        elsewhere = config.home.with_name("elsewhere")
        config.home.rename(elsewhere)
        yield
        elsewhere.rename(config.home)
        return
    url = make_url(config.database_url)
    server, name = url.set(database="postgres"), url.database
    execute(
        server,
        f"ALTER DATABASE {name} ALLOW_CONNECTIONS false",
        f"SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = '{name}'",
    )
    yield
    execute(server, f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    engines.disconnect()


def test_after_an_hour_without_a_database_each_fire_is_decided_by_its_rule_and_the_next_ones_go_on(
    schedules: Schedules, thread: Scheduler, config: Config, eventually: Wait, caplog: pytest.LogCaptureFixture
) -> None:
    """A rival's chain of fires ended for ever with one error of the database."""
    rules: dict[str, dict[str, Any]] = {
        "none": {"catch_up": "none"},
        "last": {"catch_up": "last"},
        "all": {"catch_up": "all", "catch_up_max": 3},
        "window": {"catch_up": "all", "catch_up_window": "25min"},
        "until": {"catch_up": "all", "not_later_than": "00:45"},
    }
    for name, rule in rules.items():
        schedules.add(name, cron="*/10 * * * *", overlap="allow", **rule)

    def decided(number: int) -> None:
        eventually(lambda: all(len(schedules.ledger(name)) == number for name in rules))

    schedules.time.pass_(10)
    thread.wake()
    decided(1)
    with away(config):
        schedules.time.pass_(60)
        thread.wake()
        eventually(lambda: "the database cannot be used" in caplog.text)
    decided(7)
    schedules.time.pass_(10)
    thread.wake()
    decided(8)
    late = {
        "none": ["missed"] * 5,
        "last": ["missed"] * 5,
        "all": ["missed"] * 3 + ["caught_up"] * 2,
        "window": ["skipped"] * 3 + ["caught_up"] * 2,
        "until": ["skipped"] * 3 + ["caught_up"] * 2,
    }
    for name, outcomes in late.items():
        found = schedules.ledger(name)
        assert [minute for minute, _ in found] == list(range(10, 90, 10))
        assert [outcome.split()[0] for _, outcome in found] == ["fired", *outcomes, "fired", "fired"], name
        assert len(schedules.jobs(name)) == 3 + outcomes.count("caught_up")


def test_a_fault_of_the_program_does_not_end_the_thread(
    schedules: Schedules, thread: Scheduler, eventually: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[int] = []

    def fail(*_: object) -> None:
        failures.append(1)
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr("webapp.schedules.decider.Decider.decide", fail)
        schedules.add(overlap="allow")
        schedules.time.pass_(1)
        thread.wake()
        eventually(lambda: len(failures) > 1)
    eventually(lambda: schedules.outcomes() == ["fired"])


@pytest.mark.postgresql
def test_a_fire_that_another_process_is_deciding_keeps_no_processor_busy(schedules: Schedules) -> None:
    now = clock.now()
    assert scheduler._rest(now - MINUTE, 15) == scheduler.LOCKED_REST
    assert scheduler._rest(now + 3 * clock.SECOND, 15) == 3
    assert scheduler._rest(now + MINUTE, 15) == scheduler._rest(None, 15) == 15
