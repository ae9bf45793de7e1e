"""Fires and their ledger on a real database: overlap, catch-up, pause, edits, several deciders, broken schedules."""

from __future__ import annotations

from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError

from tests.schedules.conftest import MINUTE, Schedules
from webapp.core.field_readers import NameTaken
from webapp.core.job_spec import SpecError
from webapp.core.statements import RULE_MOVE, RULE_RESTORE, SKIP_DUE_FIRES
from webapp.core.storage.transaction import Connection, Transaction
from webapp.db.engines import reading, writing
from webapp.db.models import Event, Fire, Schedule
from webapp.jobs.lifecycle import Conflict, NotFound
from webapp.lib import clock, time_zones
from webapp.schedules import actions, decider, health, spec
from webapp.schedules.decider import Decider, Row, decide_all, due_of


@pytest.mark.postgresql
def test_each_due_fire_has_one_row_and_its_job(schedules: Schedules) -> None:
    schedules.add(overlap="allow")
    schedules.later(1)
    schedules.later(1)
    assert schedules.ledger() == [(1, "fired"), (2, "fired")]
    jobs = schedules.jobs()
    assert [(job.state, job.created_by, job.command) for job in jobs] == [("pending", "schedule:s", "true")] * 2
    assert schedules.row().last_fire_at == schedules.time.now - 30 * clock.SECOND
    schedules.decide()
    assert len(schedules.ledger()) == 2


def test_adding_and_resuming_fire_nothing_that_was_due_before(schedules: Schedules) -> None:
    schedules.add(cron="0 * * * *")
    schedules.decide()
    assert schedules.ledger() == []
    actions.pause("s", "person:ana")
    schedules.later(120)
    actions.resume("s", "person:ana")
    schedules.decide()
    assert schedules.ledger() == [(60, "skipped paused"), (120, "skipped paused")]
    assert schedules.jobs() == []


def test_a_pause_ends_at_its_time(schedules: Schedules) -> None:
    schedules.add(overlap="allow")
    actions.pause("s", "person:ana", schedules.time.now + 2 * MINUTE)
    for _ in range(4):
        schedules.later(1)
    assert schedules.outcomes() == ["skipped paused", "skipped paused", "fired", "fired"]


def test_an_edit_skips_what_was_due_and_fires_from_now_on(schedules: Schedules) -> None:
    schedules.add(cron="* * * * *", overlap="allow")
    schedules.time.pass_(2)
    described = {"name": "s", "cron": "*/5 * * * *", "job": {"command": "false"}}
    actions.edit("s", spec.parse(described), "person:ana", seen=1)
    schedules.later(3)
    assert schedules.ledger() == [
        (1, "skipped the schedule was edited"),
        (2, "skipped the schedule was edited"),
        (5, "fired"),
    ]
    assert [job.command for job in schedules.jobs()] == ["false"]
    with pytest.raises(actions.Outdated, match="another user has changed"):
        actions.edit("s", spec.parse(described), "person:ana", seen=1)


@pytest.mark.parametrize(
    ("rule", "outcomes"),
    [
        ({"catch_up": "none"}, ["missed", "missed", "missed", "fired"]),
        ({"catch_up": "last"}, ["missed", "missed", "missed", "fired"]),
        ({"catch_up": "all"}, ["caught_up", "caught_up", "caught_up", "fired"]),
        ({"catch_up": "all", "catch_up_max": 2}, ["missed", "missed", "caught_up", "fired"]),
        ({"catch_up": "all", "catch_up_window": "150s"}, ["skipped", "caught_up", "caught_up", "fired"]),
        ({"catch_up": "all", "not_later_than": "00:02"}, ["skipped", "skipped", "caught_up", "fired"]),
    ],
)
def test_catch_up_after_downtime(schedules: Schedules, rule: dict[str, Any], outcomes: list[str]) -> None:
    """The last fire is 30 s old, which is on time. Others were due while nothing decided."""
    schedules.add(overlap="allow", **rule)
    schedules.later(4)
    found = [outcome.split()[0] for outcome in schedules.outcomes()]
    assert found == outcomes
    assert len(schedules.jobs()) == sum(outcome in {"fired", "caught_up"} for outcome in outcomes)


def test_the_last_missed_fire_runs_if_none_is_due_since(schedules: Schedules) -> None:
    schedules.add(cron="0 * * * *")
    schedules.later(3 * 60 + 20)
    assert [outcome.split()[0] for outcome in schedules.outcomes()] == ["missed", "missed", "caught_up"]


def test_two_weeks_of_five_second_fires_run_one_job(schedules: Schedules) -> None:
    """A rival replayed all of them."""
    schedules.add(every=5)
    schedules.later(60)
    outcomes = [outcome.split()[0] for outcome in schedules.outcomes()]
    assert len(outcomes) == 60 * 12
    assert outcomes.count("fired") + outcomes.count("caught_up") == 1
    assert len(schedules.jobs()) == 1


def test_overlap_skip_names_the_job(schedules: Schedules) -> None:
    schedules.add()
    schedules.later(1)
    schedules.start()
    schedules.later(1)
    assert schedules.outcomes() == ["fired", "skipped overlap"]
    schedules.end()
    schedules.later(1)
    assert schedules.outcomes()[-1] == "fired"


def test_overlap_queue_one_lets_one_fire_wait(schedules: Schedules) -> None:
    schedules.add(overlap="queue_one")
    schedules.later(1)
    schedules.start()
    for _ in range(3):
        schedules.later(1)
    assert schedules.outcomes() == ["fired"]
    assert schedules.row().waiting_since is not None
    schedules.end()
    schedules.decide()
    assert schedules.outcomes() == ["fired", "fired", "skipped overlap", "skipped overlap"]
    assert schedules.row().waiting_since is None


def test_overlap_queue_all_runs_each_fire_in_turn(schedules: Schedules) -> None:
    schedules.add(overlap="queue_all")
    for _ in range(3):
        schedules.later(1)
    for expected in (1, 2, 3):
        assert schedules.outcomes() == ["fired"] * expected
        assert sum(job.finished_at is None for job in schedules.jobs()) == 1
        schedules.end()
        schedules.decide()
    schedules.later(1)
    assert schedules.outcomes() == ["fired"] * 4


def test_overlap_replace_cancels_and_then_runs_the_last_fire(schedules: Schedules) -> None:
    schedules.add(overlap="replace")
    schedules.later(1)
    schedules.start()
    schedules.later(1)
    (job,) = schedules.jobs()
    assert job.cancel_requested_by == "schedule:s"
    schedules.later(1)
    assert schedules.outcomes() == ["fired"], "the new job waits until the old one has ended"
    schedules.end("cancelled")
    schedules.decide()
    assert schedules.outcomes() == ["fired", "skipped overlap", "fired"]


@pytest.mark.postgresql
def test_overlap_replace_cancels_a_job_that_has_not_started(schedules: Schedules) -> None:
    schedules.add(overlap="replace")
    schedules.later(1)
    schedules.later(1)
    schedules.decide()
    assert [job.state for job in schedules.jobs()] == ["cancelled", "pending"]
    with reading() as session:
        assert session.scalars(select(Event.actor).where(Event.verb == "cancel")).all() == ["schedule:s"]


def test_run_now_follows_the_overlap_rule(schedules: Schedules) -> None:
    """A rival started one schedule three times in this way."""
    schedules.add()
    job_id = actions.run_now("s", "person:ana")
    with pytest.raises(Conflict, match=job_id):
        actions.run_now("s", "person:ana")
    schedules.later(1)
    assert schedules.outcomes() == ["fired run now by person", "skipped overlap"]
    schedules.add("free", overlap="allow")
    assert actions.run_now("free", "person:ana") != actions.run_now("free", "person:ana")


def test_a_job_that_failed_and_waits_for_its_retry_counts_as_active(schedules: Schedules) -> None:
    schedules.add()
    schedules.later(1)
    with writing() as session:
        session.execute(update(schedules.jobs()[0].__class__).values(state="failed", failures=1))
    schedules.later(1)
    assert schedules.outcomes()[-1] == "skipped overlap"


@pytest.mark.postgresql
def test_two_deciders_decide_each_fire_once(schedules: Schedules) -> None:
    """Both have read the same rows before the first one commits."""
    schedules.add(overlap="allow")
    schedules.time.pass_(1)
    rows = [Row(*row) for row in schedules.connection.query(decider._OLDEST, {"now": schedules.time.now})]
    (due,) = [due_of(row, schedules.time.now) for row in rows]
    other = Connection(schedules.connection.database)
    for connection, expected in ((schedules.connection, 1), (other, 0)):
        with connection.transaction() as transaction:
            assert decide_all(transaction, [due], schedules.time.now) == expected
    other.close()
    assert schedules.outcomes() == ["fired"]
    assert len(schedules.jobs()) == 1


@pytest.mark.postgresql
def test_the_database_refuses_a_second_row_for_the_same_fire(schedules: Schedules) -> None:
    schedules.add()
    schedules.later(1)
    with reading() as session:
        fire = session.scalars(select(Fire)).one()
    again = {"schedule_id": fire.schedule_id, "due_at": fire.due_at, "decided_at": fire.decided_at + 1}
    with pytest.raises(IntegrityError), writing() as session:
        session.execute(insert(Fire).values(**again, outcome="skipped", reason="twice"))


@pytest.mark.postgresql
@pytest.mark.only("postgresql")
def test_a_decider_does_not_wait_for_another(schedules: Schedules) -> None:
    schedules.add("one", overlap="allow")
    schedules.add("two", overlap="allow")
    schedules.time.pass_(1)
    other = Connection(schedules.connection.database)
    with other.transaction() as transaction:
        row = decider.named(transaction, "one", lock=True)
        assert row is not None
        schedules.decide()
        assert (schedules.outcomes("one"), schedules.outcomes("two")) == ([], ["fired"])
    other.close()
    schedules.decide()
    assert schedules.outcomes("one") == ["fired"]


@pytest.mark.postgresql
def test_a_decider_that_dies_in_its_transaction_leaves_nothing(
    schedules: Schedules, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedules.add(overlap="allow")
    schedules.time.pass_(1)
    whole = Transaction.execute

    def dies(transaction: Transaction, statement: str, values: Any = None) -> Any:
        if "UPDATE schedules" in statement:
            raise KeyboardInterrupt
        return whole(transaction, statement, values or {})

    monkeypatch.setattr(Transaction, "execute", dies)
    with pytest.raises(KeyboardInterrupt):
        schedules.decide()
    monkeypatch.undo()
    assert (schedules.ledger(), schedules.jobs()) == ([], [])


@pytest.mark.postgresql
def test_one_schedule_that_cannot_enqueue_does_not_stop_others(
    schedules: Schedules, monkeypatch: pytest.MonkeyPatch
) -> None:
    from webapp.core import enqueue

    monkeypatch.setattr(enqueue, "MOST_LABEL_SETS", 0)
    schedules.add("bad", overlap="allow", job={"command": "true", "requires": "gpu"})
    schedules.add("good", overlap="allow")
    schedules.later(1)
    assert schedules.outcomes("bad") == ["skipped not enqueued"]
    assert schedules.outcomes("good") == ["fired"]


def test_a_fire_whose_unique_key_is_held_is_skipped_with_the_holder(schedules: Schedules) -> None:
    """Of several schedules in one transaction the others fire."""
    key = {"command": "true", "unique": {"key": "k", "while": "waiting", "on_conflict": "return"}}
    schedules.add("a", job=key, overlap="allow")
    schedules.add("b", job=key, overlap="allow")
    schedules.add("free")
    schedules.later()
    assert schedules.outcomes("a") + schedules.outcomes("b") == ["fired", "skipped not enqueued"]
    assert schedules.outcomes("free") == ["fired"]
    [holder] = schedules.jobs("a")
    with reading() as session:
        reason = session.scalar(select(Fire.reason).where(Fire.outcome == "skipped"))
    assert reason == f"not enqueued: unique: 'k' is held by {holder.id} (pending)."


def test_a_schedule_whose_zone_vanished_is_broken_until_it_is_back(
    schedules: Schedules, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedules.add(tz="Europe/Berlin", overlap="allow")
    schedules.add("fine", overlap="allow")

    def unknown(name: str) -> Any:
        raise KeyError(name)

    decider.spec_of.cache_clear()
    whole = ZoneInfo
    monkeypatch.setattr(time_zones, "ZoneInfo", lambda name: unknown(name) if name == "Europe/Berlin" else whole(name))
    schedules.later(1)
    row = schedules.row()
    assert row.next_fire_at is None
    assert "Europe/Berlin" in (row.broken or "")
    assert (schedules.ledger(), schedules.outcomes("fine")) == ([], ["fired"])
    monkeypatch.undo()
    monkeypatch.setattr(clock, "now", schedules.time)
    Decider(schedules.connection).refresh()
    assert schedules.row().broken is None
    schedules.later(1)
    assert schedules.outcomes()[-1] == "fired"


def test_refresh_computes_next_fires_anew(schedules: Schedules) -> None:
    """As after an update of the zones: the stored time was wrong."""
    schedules.add()
    right = schedules.row().next_fire_at or 0
    with writing() as session:
        session.execute(update(Schedule).values(next_fire_at=right + 3600 * clock.SECOND))
    schedules.decider.refresh()
    assert schedules.row().next_fire_at == right


@pytest.mark.parametrize(
    ("rule", "reason"), [(RULE_RESTORE, "the database was restored"), (RULE_MOVE, "the queue was moved")]
)
def test_after_a_restore_or_a_move_nothing_fires_that_was_due(schedules: Schedules, rule: str, reason: str) -> None:
    schedules.add(every=600, overlap="allow")
    schedules.add("waits", every=600, overlap="queue_all")
    schedules.add("paused", every=600)
    actions.pause("paused", "person:ana")
    for _ in range(3):
        schedules.later(10)
    before = len(schedules.jobs()), len(schedules.jobs("waits"))
    assert schedules.row("waits").waiting_since is not None
    schedules.time.pass_(3 * 24 * 60)
    with schedules.connection.transaction() as transaction:
        transaction.execute(SKIP_DUE_FIRES, {"now": schedules.time.now, "rule": rule})
    schedules.decide()
    assert (len(schedules.jobs()), len(schedules.jobs("waits"))) == before
    assert schedules.outcomes()[-1] == f"skipped {reason}"
    assert schedules.outcomes("paused")[-1] == "skipped paused"
    schedules.later(10)
    assert schedules.outcomes()[-1] == "fired"


def test_removing_a_schedule_keeps_its_jobs(schedules: Schedules) -> None:
    schedules.add()
    schedules.later(1)
    actions.remove("s", "person:ana")
    assert len(schedules.jobs()) == 1
    with pytest.raises(NotFound):
        actions.remove("s", "person:ana")
    schedules.add()
    assert schedules.ledger() == []


@pytest.mark.postgresql
def test_a_taken_name_is_refused(schedules: Schedules) -> None:
    schedules.add()
    with pytest.raises(SpecError, match="taken"):
        schedules.add()


@pytest.mark.postgresql
def test_due_schedules_are_found_by_an_index(schedules: Schedules) -> None:
    schedules.add()
    explain = "EXPLAIN QUERY PLAN " if schedules.connection.is_sqlite else "EXPLAIN "
    if not schedules.connection.is_sqlite:
        schedules.connection.query("SELECT set_config('enable_seqscan', 'off', false)")
    plan = str(schedules.connection.query(explain + decider._OLDEST, {"now": 1}))
    active = str(schedules.connection.query(explain + decider._ACTIVE, {"name": "s"}))
    assert "ix_schedules_due" in plan
    assert "ix_jobs_scheduled" in active


@pytest.mark.postgresql
def test_a_waiting_fire_keeps_no_lock_and_no_processor_busy(
    schedules: Schedules, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedules.add(overlap="queue_one")
    schedules.later(1)
    schedules.start()
    schedules.later(1)
    assert schedules.row().waiting_since is not None
    monkeypatch.setattr(schedules.connection, "transaction", None)  # a look opens none
    assert schedules.decider.decide() is False
    assert schedules.decider.until_next() == (None, True)


@pytest.mark.postgresql
def test_two_users_cannot_add_the_same_name_at_once(schedules: Schedules, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither sees the other's row before it stores its own."""
    schedules.add()
    monkeypatch.setattr(decider, "named", lambda *_args, **_options: None)
    with pytest.raises(NameTaken):
        schedules.add()


def test_a_pause_cannot_end_after_all_dates(schedules: Schedules) -> None:
    schedules.add()
    with pytest.raises(SpecError, match="year 9998"):
        actions.pause("s", "person:ana", schedules.time.now + 10_000 * 366 * clock.DAY)


def test_fires_do_not_wait_for_housekeeping(schedules: Schedules, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "BATCH", 1)
    monkeypatch.setattr(decider, "_ALL", decider._ALL.replace(f"LIMIT {decider.REFRESH_BATCH}", "LIMIT 1"))
    for name in "abc":
        schedules.add(name, overlap="allow")
    schedules.later(1)
    looks: list[int] = []
    schedules.decider.refresh(lambda: looks.append(0))
    health.Health(schedules.connection).check(lambda: looks.append(0))
    assert len(looks) == 6
