"""The chores process: when it starts, what it finishes, and when it ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Optional

import psutil
import pytest
from flask import Flask
from sqlalchemy import delete, update

from tests import factories
from tests.deadline import DEADLINE
from tests.worker.conftest import Fleet, Queue
from tests.worker_connection import worker_database
from webapp.config import CHECKOUT, Config
from webapp.core.settings import Settings
from webapp.core.storage.size import MIB
from webapp.core.storage.transaction import Connection
from webapp.db.engines import reading, writing
from webapp.db.models import Attempt, BulkAction, Control, Job, RetentionMark
from webapp.insight import rollups
from webapp.jobs import actions, canary
from webapp.jobs.filters import JobFilter
from webapp.lib import clock
from webapp.lib.system import logs
from worker import program
from worker.maintenance import chore_starter, chores
from worker.maintenance.chore_starter import FOLD_MIN, ChoreStarter
from worker.messages import BROKEN, DONE, OUTDATED

OLD = clock.now() - 10 * rollups.FOLD_DELAY


class _Process:
    """Replaces the process that would be started."""

    def __init__(self, task: Mapping[str, Any]) -> None:
        self.task = task
        self.returncode: Optional[int] = None
        self.stdin = None

    def poll(self) -> Optional[int]:
        return self.returncode


class _Counted(Connection):
    """A connection that records its statements."""

    def __init__(self) -> None:
        super().__init__(worker_database())
        self.statements: list[str] = []

    def query(self, statement: str, values: Mapping[str, Any] = {}) -> list[tuple[Any, ...]]:  # noqa: B006
        self.statements.append(statement)
        return super().query(statement, values)


class Starter:
    """A ChoreStarter whose time and processes the test controls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.started: list[_Process] = []
        self.fails = False
        self.connection = _Counted()
        self.settings = Settings()
        monkeypatch.setattr("worker.maintenance.chore_starter.time.monotonic", lambda: self.now)
        monkeypatch.setattr(program, "start", self._start)
        self._starter = ChoreStarter(self.connection.database)

    def _start(self, _config: Config, task: Mapping[str, Any]) -> _Process:
        if self.fails:
            raise OSError("no memory")
        self.started.append(_Process(task))
        return self.started[-1]

    def check(self, after: float = 0.0) -> bool:
        """Whether a check `after` so many seconds starts a process."""
        self.now += after
        before = len(self.started)
        self._starter.start_if_due(self.connection, self.settings)
        return len(self.started) > before

    def end(self, code: int = DONE) -> None:
        """The last process ends."""
        self.started[-1].returncode = code


@pytest.fixture
def starter(app: Flask, monkeypatch: pytest.MonkeyPatch) -> Iterator[Starter]:
    one = Starter(monkeypatch)
    yield one
    one.connection.close()


def ended_attempts(number: int, finished_at: int = OLD) -> None:
    """Add attempts of one job that ended at this time."""
    job = factories.make_job("completed")
    with writing() as session:
        session.add_all(
            Attempt(
                job_seq=job.seq,
                number=2 + each,
                state="completed",
                reason="completed",
                worker_id="w1",
                started_at=finished_at - 1,
                finished_at=finished_at,
                exit_code=0,
                output=b"",
                output_runs="",
                output_dropped=0,
                due_at=1,
            )
            for each in range(number)
        )


def abandoned_action() -> int:
    """A bulk action over one pending job whose process died."""
    factories.make_job("pending")
    action = actions.start("cancel", JobFilter(), "person:ana")
    with writing() as session:
        session.execute(update(BulkAction).where(BulkAction.id == action).values(lease_until=1))
    return action


def action_of(number: int) -> BulkAction:
    with reading() as session:
        return actions.find(session, number)


# --- when it starts ---


@pytest.mark.postgresql
def test_nothing_starts_on_an_idle_queue_and_a_check_costs_few_statements(starter: Starter) -> None:
    assert not starter.check()
    assert len(starter.connection.statements) == 7
    starter.connection.statements.clear()
    assert not any(starter.check(after=3) for _ in range(6))
    assert len(starter.connection.statements) == 12  # two each
    assert not starter.check(after=3)


@pytest.mark.postgresql
def test_an_abandoned_bulk_action_starts_it_and_a_running_one_does_not(starter: Starter) -> None:
    action = abandoned_action()
    with writing() as session:
        session.execute(update(BulkAction).values(lease_until=clock.now() + 60 * clock.SECOND))
    assert not starter.check()
    with writing() as session:
        session.execute(update(BulkAction).where(BulkAction.id == action).values(lease_until=1))
    assert starter.check()
    assert starter.started[0].task["retains"] is False


@pytest.mark.parametrize("state", ["pending", "processing", "failed", "completed", "dead", "cancelled", "changed", ""])
def test_a_canary_starts_it_when_the_canary_has_ended(starter: Starter, state: str) -> None:
    job = factories.make_job("dead")
    factories.make_job("dead")
    canary.start(JobFilter(), "person:ana", job.id)
    assert not starter.check()
    with writing() as session:
        of_job = update(Job).where(Job.seq == job.seq)
        if state == "changed":
            session.execute(of_job.values(act_id=None))
        elif not state:
            session.execute(delete(Job).where(Job.seq == job.seq))
        else:
            final = state in {"completed", "dead", "cancelled"}
            owner = {"worker_id": "w1", "token": "t", "started_at": 1} if state == "processing" else {}
            session.execute(of_job.values(state=state, finished_at=OLD if final else None, **owner))
    starts = starter.check()
    canary.check_all()
    with reading() as session:
        assert starts is not canary.any_waiting(session)  # it starts only for work that it then does


@pytest.mark.postgresql
def test_many_ended_attempts_start_it_at_once_and_fewer_after_a_while(starter: Starter) -> None:
    assert not starter.check()
    ended_attempts(FOLD_MIN)
    assert starter.check(after=chore_starter.CHECK_EVERY)
    rollups.fold()
    starter.end()
    assert not starter.check(after=chore_starter.CHECK_EVERY)
    ended_attempts(1, OLD + 1)
    assert not starter.check(after=chore_starter.CHECK_EVERY)
    assert starter.check(after=chore_starter.FOLD_AFTER)
    rollups.fold()
    starter.end()
    assert not starter.check(after=chore_starter.FOLD_AFTER)


def test_attempts_that_cannot_be_folded_start_nothing(starter: Starter) -> None:
    """Too new, as after a burst, or too old, as after a long rest: the process would start again and again."""
    assert (chore_starter.FOLD_DELAY, chore_starter.KEEP_ROLLUPS) == (rollups.FOLD_DELAY, rollups.KEEP_FOR)
    ended_attempts(FOLD_MIN, clock.now())
    assert not starter.check()
    with writing() as session:
        session.execute(update(Control).values(folded_until=0))
        session.execute(update(Attempt).values(finished_at=clock.now() - rollups.KEEP_FOR - 2 * clock.HOUR))
    assert not starter.check(after=chore_starter.CHECK_EVERY)
    assert rollups.fold() == 0


def test_a_watermark_in_the_future_starts_it_because_the_clock_was_set_back(starter: Starter) -> None:
    with writing() as session:
        session.execute(update(Control).values(folded_until=clock.now() + clock.DAY))
    assert starter.check()
    rollups.fold()
    starter.end()
    assert not starter.check(after=chore_starter.CHECK_EVERY)


def test_retention_runs_every_hour_and_when_a_setting_changes(starter: Starter) -> None:
    assert not starter.check()
    assert starter.check(after=chore_starter.FIRST_RETENTION)
    assert starter.started[0].task["retains"] is True
    assert not starter.check(after=chore_starter.RETENTION_EVERY)  # it still runs
    starter.end()
    assert starter.check()
    starter.end()
    assert not starter.check(after=60)
    starter.settings = Settings({"keep_dead": "1"})
    assert starter.check()
    assert starter.started[-1].task["retains"] is True
    starter.end()
    assert not starter.check(after=60)


def test_a_setting_that_changes_soon_after_the_start_starts_it_too(starter: Starter) -> None:
    assert not starter.check()
    starter.settings = Settings({"keep_audit": "7"})
    assert starter.check(after=3)


@pytest.mark.parametrize(
    ("state", "days", "starts"), [("completed", 31, True), ("completed", 29, False), ("dead", 99, False)]
)
def test_retention_runs_at_the_start_if_jobs_are_overdue(starter: Starter, state: str, days: int, starts: bool) -> None:
    """Workers that cron starts with --drain may never live for five minutes."""
    factories.make_job(state, finished_at=clock.now() - days * clock.DAY)
    assert starter.check() is starts
    if starts:
        assert starter.started[0].task["retains"] is True


def test_retention_runs_more_often_while_the_database_is_too_large(
    starter: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = 2 * MIB
    monkeypatch.setattr(chore_starter, "used_bytes", lambda *_, **__: used)
    starter.settings = Settings({"max_database_size": "2"})
    assert not starter.check()
    assert not starter.check(after=chore_starter.CHECK_EVERY)
    used += 1
    assert starter.check(after=chore_starter.CHECK_EVERY)
    assert starter.started[-1].task["retains"] is True
    starter.end()
    assert not starter.check(after=chore_starter.SIZE_EVERY - 1)  # it may be unable to free more
    assert starter.check(after=1)


def test_jobs_behind_a_mark_are_not_overdue(starter: Starter) -> None:
    ended_at = clock.now() - 3 * clock.DAY
    factories.make_job("completed", finished_at=ended_at)
    starter.settings = Settings({"keep_output": "2"})
    with writing() as session:
        session.add(RetentionMark(name="keep_output/completed/2", finished_at=ended_at))
    assert not starter.check()


@pytest.mark.postgresql
def test_overdue_output_starts_it(starter: Starter) -> None:
    factories.make_job("completed", finished_at=clock.now() - 3 * clock.DAY)
    starter.settings = Settings({"keep_output@default": "2"})
    assert starter.check()


@pytest.mark.postgresql
def test_a_dead_letter_without_a_group_starts_it(starter: Starter) -> None:
    factories.make_job("dead", error_key=None)
    assert starter.check()


@pytest.mark.parametrize("how", ["exit code", "start"])
def test_after_a_failure_it_waits_and_then_does_what_was_due(starter: Starter, how: str) -> None:
    starter.now += chore_starter.FIRST_RETENTION
    starter.fails = how == "start"
    assert starter.check() is not starter.fails
    starter.fails = False
    if how == "exit code":
        starter.end(BROKEN)
    assert not starter.check(after=3)
    assert not starter.check(after=chore_starter.FAILURE_PAUSE - 4)
    assert starter.check(after=5)
    assert starter.started[-1].task["retains"] is True


# --- when it ends ---


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read_end, write_end = os.pipe()
    yield read_end, write_end
    os.close(write_end)


def test_it_ends_when_nothing_is_left(
    app: Flask, config: Config, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chores, "LONG_PAUSE", 0.01)
    action = abandoned_action()
    ended_attempts(1)
    assert chores.run(app, config, pipe[0], retains=True) == DONE
    assert action_of(action).state == "done"
    assert rollups.fold() == 0


def test_it_reports_that_it_could_not_use_the_database(
    app: Flask, config: Config, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chores, "LONG_PAUSE", 0.01)

    def fail(*_: object, **__: object) -> int:
        raise OSError("the disk is full")

    monkeypatch.setattr(rollups, "fold", fail)
    assert chores.run(app, config, pipe[0], retains=False) == BROKEN


def test_it_leaves_a_database_of_another_version_alone_and_logs_like_its_parent(
    app: Flask, config: Config, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files may be newer than the running workers, because users replace them before the restart."""
    action = abandoned_action()
    with writing() as session:
        session.connection().exec_driver_sql("UPDATE alembic_version SET version_num = '0000'")
    monkeypatch.setattr(logs, "_form", "json")
    process = program.start(config, {"role": "chores", "name": "chores", "retains": False})
    assert process.wait(DEADLINE) == OUTDATED
    assert process.stdin is not None
    process.stdin.close()
    line = json.loads(capfd.readouterr().err)
    assert "another version" in line["message"]
    assert action_of(action).state == "running"


# --- in a fleet ---

# A chores process that does not end by itself.
_PATIENT = """
import runpy, sys
sys.path.insert(0, {checkout!r})
from worker.maintenance import chores
chores.IDLE_ROUNDS = 10**9
runpy.run_path({entry!r}, run_name="__main__")
"""
_DIE_IN_AN_ACTION = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from webapp.config import load
from webapp.db.application import create_core
from webapp.jobs import actions
from webapp.jobs.filters import JobFilter
actions.BATCH = 2
with create_core(load()).app_context():
    actions.advance(actions.start("cancel", JobFilter(), "person:ana"))
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def chores_of(eventually: Callable[..., Any]) -> Callable[[Fleet], psutil.Process]:
    """Wait for the chores process of a fleet."""

    def find(fleet: Fleet) -> Optional[psutil.Process]:
        for process in psutil.Process(fleet.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if '"role": "chores"' in " ".join(process.cmdline()):
                    return process
        return None

    return lambda fleet: eventually(lambda: find(fleet))


@pytest.mark.postgresql
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL here")
def test_an_action_whose_process_was_killed_is_finished_by_the_workers(
    queue: Queue, fleet: Callable[..., Fleet], eventually: Callable[..., Any]
) -> None:
    for _ in range(7):
        queue.enqueue("true", delay=3600)
    killed = subprocess.run([sys.executable, "-c", _DIE_IN_AN_ACTION, str(CHECKOUT)], check=False, timeout=DEADLINE)
    assert killed.returncode == -signal.SIGKILL
    assert action_of(1).moved == 2
    with writing() as session:
        session.execute(update(BulkAction).values(lease_until=1))  # its lease would last for a while
    fleet()
    eventually(lambda: action_of(1).state == "done")
    assert action_of(1).moved == 7


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL here")
@pytest.mark.parametrize("how", ["stops", "is killed"])
def test_it_ends_with_its_maintenance_process(
    queue: Queue,
    fleet: Callable[..., Fleet],
    chores_of: Callable[[Fleet], psutil.Process],
    eventually: Callable[..., Any],
    tmp_path: Path,
    how: str,
) -> None:
    entry = tmp_path / "patient.py"
    entry.write_text(_PATIENT.format(checkout=str(CHECKOUT), entry=str(program.ENTRY)))
    action = abandoned_action()
    one = fleet(entry=str(entry))
    process = chores_of(one)
    eventually(lambda: action_of(action).state == "done")
    assert process.is_running()
    if how == "stops":
        assert one.stop() == 0
    else:
        process.parent().kill()
    eventually(lambda: not process.is_running())
