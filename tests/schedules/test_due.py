"""Which fires a decider finds, when they count as late, and what keeps it from deciding others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import select, text, update

from tests.factories import make_schedules
from tests.schedules.conftest import Schedules
from webapp.core.storage.transaction import Connection, Transaction
from webapp.db.engines import reading, writing
from webapp.db.models import Fire, Schedule
from webapp.lib import clock
from webapp.schedules import actions, decider, spec, timing
from webapp.schedules.decider import Decider


@pytest.mark.parametrize("catch_up", ["none", "last", "all"])
@pytest.mark.parametrize(("seconds", "outcome"), [(60, "fired"), (61, None)])
def test_a_fire_is_on_time_for_a_minute(schedules: Schedules, catch_up: str, seconds: int, outcome: str) -> None:
    """A rival dropped runs that were a second late."""
    schedules.add(cron="1 0 * * *", catch_up=catch_up)
    schedules.later((30 + seconds) / 60)
    assert schedules.outcomes()[0].split()[0] == (outcome or ("missed" if catch_up == "none" else "caught_up"))


def test_a_new_process_knows_the_next_fires_and_those_of_the_time_before_it(schedules: Schedules) -> None:
    """Rivals keep next fires in the memory of one process: a restart forgot them, or began to count anew."""
    schedules.add(cron="5 0 * * *")
    schedules.time.pass_(4.6)
    other = Connection(schedules.connection.database)
    new = Decider(other)
    assert new.until_next() == (schedules.time.now - 6 * clock.SECOND, False)
    assert new.decide()
    other.close()
    assert schedules.outcomes() == ["fired"]


def test_a_schedule_with_a_long_backlog_keeps_no_other_waiting(
    schedules: Schedules, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decider, "BATCH", 2)
    monkeypatch.setattr(decider, "FIRES", 5)
    for order in ("_OLDEST", "_NEWEST"):
        monkeypatch.setattr(decider, order, getattr(decider, order).replace("LIMIT 30", "LIMIT 2"))
    for name in "abc":
        schedules.add(name, every=1)
    schedules.time.pass_(60)
    schedules.add("now", cron="1 1 * * *")
    schedules.time.pass_(1)
    assert schedules.decider.decide()
    assert schedules.outcomes("now") == ["fired"]
    assert len(schedules.ledger("a")) < 3600


@pytest.mark.postgresql
def test_a_wait_for_the_lock_changes_what_is_due(schedules: Schedules, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process held the write lock for an hour: the fire that was on time is not any more."""
    schedules.add(cron="*/10 * * * *", overlap="allow", catch_up="none")
    schedules.time.pass_(10)
    whole = Connection.transaction

    def waits(connection: Connection, *args: Any, **options: Any) -> Any:
        monkeypatch.undo()
        monkeypatch.setattr(clock, "now", schedules.time)
        schedules.time.pass_(60)
        return whole(connection, *args, **options)

    monkeypatch.setattr(Connection, "transaction", waits)
    schedules.decide()
    assert [outcome.split()[0] for outcome in schedules.outcomes()] == ["missed"] * 6 + ["fired"]
    with reading() as session:
        assert set(session.scalars(select(Fire.decided_at))) == {schedules.time.now}


def test_a_fault_in_one_schedule_does_not_stop_others(schedules: Schedules, monkeypatch: pytest.MonkeyPatch) -> None:
    schedules.add("bad", overlap="allow")
    schedules.add("good", overlap="allow")
    whole = timing.Timing.after

    def fails(self: timing.Timing, moment: int) -> Any:
        if self.name == "bad":
            raise ZeroDivisionError
        return whole(self, moment)

    monkeypatch.setattr(timing.Timing, "after", fails)
    schedules.decider.refresh()
    schedules.later(1)
    assert (schedules.outcomes("good"), schedules.outcomes("bad")) == (["fired"], [])
    assert "ZeroDivisionError" in (schedules.row("bad").broken or "")
    monkeypatch.setattr(timing.Timing, "after", whole)
    schedules.decider.refresh()
    schedules.decide()
    assert (schedules.outcomes("bad"), schedules.row("bad").broken) == (["fired"], None)


def test_a_stored_time_that_is_too_early_is_corrected(schedules: Schedules) -> None:
    """Another host knows other rules of the zone. Else the decider would look again and again."""
    schedules.add(cron="0 1 * * *")
    right = schedules.row().next_fire_at
    with writing() as session:
        session.execute(update(Schedule).values(next_fire_at=schedules.time.now - 1))
    schedules.decide()
    assert (schedules.row().next_fire_at, schedules.ledger()) == (right, [])


@pytest.mark.postgresql
def test_a_transaction_decides_few_schedules_and_wakes_the_workers(
    schedules: Schedules, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = [spec.parse({"name": f"s{n}", "cron": "* * * * *", "job": {"command": "true"}}) for n in range(70)]
    actions.apply([actions.Change(one.name, one, False) for one in specs], "person:ana")
    schedules.time.pass_(1)
    sizes: list[int] = []
    whole = Connection.transaction

    @contextmanager
    def counted(connection: Connection, *args: Any, **options: Any) -> Iterator[Transaction]:
        with whole(connection, *args, **options) as transaction:
            before = transaction.execute("SELECT count(*) FROM fires").fetchone()[0]
            yield transaction
            sizes.append(transaction.execute("SELECT count(*) FROM fires").fetchone()[0] - before)

    woken: list[object] = []
    monkeypatch.setattr(Connection, "transaction", counted)
    monkeypatch.setattr(schedules.connection.database.wakeup, "notify", woken.append)
    schedules.decide()
    assert (sum(sizes), len(woken)) == (70, len(sizes))
    assert max(sizes) <= decider.BATCH


@pytest.mark.only("sqlite")
def test_many_fires_are_moved_from_the_log_without_the_write_lock(
    schedules: Schedules, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a commit does it, and holds the lock for ten times as long."""
    monkeypatch.setattr(decider, "CHECKPOINT_FIRES", 3)
    schedules.add(overlap="allow")
    whole, held = Connection.query, []

    def query(connection: Connection, statement: str, *values: Any) -> Any:
        if "wal_checkpoint" in statement:
            held.append((connection.driver.in_transaction, connection.database.lock.holder()))
        return whole(connection, statement, *values)

    monkeypatch.setattr(Connection, "query", query)
    for _ in range(7):
        schedules.later(1)
    assert held == [(False, None)] * 2


@pytest.mark.postgresql
def test_of_ten_thousand_schedules_those_that_are_due_are_found_by_an_index(schedules: Schedules) -> None:
    """The planner's own choice: nothing is forbidden."""
    make_schedules(10_000)
    connection = schedules.connection
    if not connection.is_sqlite:
        with writing() as session:
            session.execute(text("ANALYZE schedules"))
    explain = "EXPLAIN QUERY PLAN " if connection.is_sqlite else "EXPLAIN "
    values = {"now": schedules.time.now}
    for statement in (decider._OLDEST, decider._NEWEST, decider._WAITING, decider.NEXT):
        plan = str(connection.query(explain + statement, values))
        assert "ix_schedules_" in plan, plan
        assert "Seq Scan on schedules" not in plan, plan
        assert "TEMP B-TREE" not in plan, plan
        assert "SCAN schedules'" not in plan, plan
