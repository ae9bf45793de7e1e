"""A machine without room for more commands: jobs are not charged, workers run fewer, and users see the reason."""

from __future__ import annotations

import builtins
import errno
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable

import psutil
import pytest
from flask import Flask

from tests.factories import make_worker
from tests.worker.conftest import Fleet, Queue, assignment
from tests.worker_connection import worker_connection
from webapp.config import Config
from webapp.db.engines import reading
from webapp.insight import fleet as views
from webapp.jobs import actions
from worker import processes, shortage
from worker.attempt import Claim
from worker.loop import capacity
from worker.loop.capacity import Capacity
from worker.loop.dispatcher import Dispatcher

NO_MANAGER = 65534

# --- shortages and limits ---


@pytest.mark.parametrize("number", ["EMFILE", "ENFILE", "EAGAIN", "ENOMEM", "ENOSPC", "EDQUOT"])
def test_these_errors_are_a_resource_shortage(number: str) -> None:
    assert str(shortage.of(OSError(getattr(errno, number), "text")))


def test_no_memory_and_no_thread_are_a_shortage_but_other_errors_are_not() -> None:
    assert shortage.of(MemoryError())
    assert "processes or threads" in str(shortage.of(RuntimeError("can't start new thread")))
    for error in (OSError(errno.ENOENT, ""), OSError(errno.E2BIG, ""), RuntimeError("text"), OSError("text")):
        assert shortage.of(error) is None


@pytest.mark.parametrize(("limit", "fit"), [(None, 40), (119, 40), (118, 39), (64, 12), (20, 1)])
def test_open_files_limit_the_number_of_jobs(monkeypatch: pytest.MonkeyPatch, limit: Any, fit: int) -> None:
    monkeypatch.setattr(shortage, "_open_files", lambda: 19)
    monkeypatch.setattr(shortage, "soft_limit", lambda _: limit)
    found, why = shortage.files_allow(40)
    assert found == fit
    assert why == ("" if fit == 40 else f"`ulimit -n` is {limit}; 40 jobs at a time need 119")


@pytest.mark.parametrize(
    ("limit", "uid", "running", "fit"),
    [
        (None, 1, 0, 40),
        (20, 0, 0, 40),
        (100_000, 1, 0, 40),
        (196, 1, 0, 40),
        (116, 1, 0, 20),
        (20, 1, 0, 1),
        (44, 1, 9, 11),
    ],
)
def test_processes_of_the_user_limit_the_number_of_jobs_except_for_root(
    monkeypatch: pytest.MonkeyPatch, limit: Any, uid: int, running: int, fit: int
) -> None:
    monkeypatch.setattr(shortage, "processes_of_this_user", lambda: 20)
    monkeypatch.setattr(shortage, "soft_limit", lambda _: limit)
    monkeypatch.setattr(os, "getuid", lambda: uid)
    found, why = shortage.processes_allow(40, 2, running)
    assert found == fit
    assert (why == "") == (fit == 40)


def test_after_a_shortage_a_worker_takes_half_and_then_more_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    one, seen = Capacity(40), []
    assert one.shrink(20, "no memory is left")
    assert not one.shrink(20, "no memory is left"), "once is enough for the log"
    pause = 2 * capacity.FIRST_PAUSE
    assert one.describe() == "runs at most 10 of 40 jobs at a time: no memory is left"
    while one.reason:
        assert not one.grow(0)
        now += pause
        one.grow(0)
        seen.append(one.slots)
    assert seen == [15, 22, 33, 40]
    assert one.shrink(0, "no memory is left")
    assert (one.slots, one.shown) == (0, 1), "not even one could be started"


def test_it_claims_no_more_than_the_machine_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    one = Capacity(40, lambda running: running + 2)
    one.limit(30, "a limit of the process")
    one.start_with(9, "a limit of the user")
    now += capacity.FIRST_PAUSE
    one.grow(9)
    assert one.slots == 11
    monkeypatch.setattr(one, "_estimate", lambda _: 99)
    for _ in range(4):
        now += capacity.LONGEST_PAUSE
        one.grow(11)
    assert (one.slots, one.reason) == (30, "a limit of the process")


@pytest.mark.parametrize("number", ["EMFILE", "ENFILE"])
def test_no_process_counts_as_dead_because_no_file_can_be_opened(monkeypatch: pytest.MonkeyPatch, number: str) -> None:
    """Otherwise maintenance would mark all workers lost, and their jobs would run twice."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(getattr(errno, number), "Too many open files")

    monkeypatch.setattr(builtins, "open", refuse)
    with pytest.raises(OSError, match="Too many"):
        processes.is_alive(os.getpid(), None)
    with pytest.raises(OSError, match="Too many"):
        processes.token_of(os.getpid())


# --- the claims ---


class Bench:
    """A dispatcher of three slots. The test gives its claims back."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        make_worker(id="w1", slots=3)
        self.dispatcher = Dispatcher(worker_connection(), "w1", assignment(slots=3), lambda: 10.0, list)

    def claim(self, number: int) -> Sequence[Claim]:
        for _ in range(number):
            self.queue.enqueue("true")
        return self.dispatcher.turn()


@pytest.fixture
def bench(app: Flask, queue: Queue) -> Bench:
    return Bench(queue)


@pytest.mark.postgresql
def test_a_claim_that_cannot_be_started_is_undone_without_a_charge(bench: Bench) -> None:
    claims = bench.claim(3)
    bench.dispatcher.give_back(claims[1:], "no memory is left", 1)
    assert bench.dispatcher.turn() == [], "it would only fail again"
    for claim in claims[1:]:
        job = bench.queue.job(claim.id)
        assert (job.state, job.attempts, job.failures, job.last_error) == ("pending", 0, 0, None)
        assert bench.queue.attempts(claim.id) == []
        assert bench.queue.verbs(claim.id) == ["unclaim"]
    assert bench.queue.job(claims[0].id).state == "processing"
    [worker] = bench.queue.workers()
    assert worker.slots == 1
    [event] = bench.queue.events("worker:w1")
    assert (event.verb, "no memory is left" in str(event.detail)) == ("short", True)


@pytest.mark.postgresql
def test_the_next_attempt_of_such_a_job_is_its_first(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    [claim] = bench.claim(1)
    bench.dispatcher.give_back([claim], "no memory is left", 0)
    assert bench.dispatcher.turn() == []
    assert not bench.dispatcher.has_room
    monkeypatch.setattr("time.monotonic", lambda: 1e9)
    [again] = bench.dispatcher.turn()
    assert (again.id, again.attempt) == (claim.id, 1)
    assert again.token != claim.token


def test_a_job_that_was_cancelled_meanwhile_is_cancelled(bench: Bench) -> None:
    [claim] = bench.claim(1)
    actions.apply("cancel", [claim.id], "person:ana")
    bench.dispatcher.give_back([claim], "no memory is left", 0)
    bench.dispatcher.turn()
    assert bench.queue.job(claim.id).state == "cancelled"


# --- real limits ---


def all_complete(queue: Queue, ids: Sequence[str], eventually: Callable[..., Any]) -> None:
    eventually(lambda: all(queue.job(one).state == "completed" for one in ids))
    assert {(queue.job(one).attempts, queue.job(one).failures) for one in ids} == {(1, 0)}


def test_a_hundred_jobs_complete_with_64_open_files_and_40_slots(
    queue: Queue, fleet: Callable[..., Fleet], eventually: Callable[..., Any]
) -> None:
    ids = [queue.enqueue("sleep 0.05; true") for _ in range(100)]
    one = fleet(slots=40, limits={"RLIMIT_NOFILE": 64})

    def explained() -> bool:
        with reading() as session:
            found = views.shortages(session)
        return [(1 <= one.worker.slots < 40 == one.wanted, "`ulimit -n` is 64" in one.text) for one in found] == [
            (True, True)
        ]

    eventually(explained)
    all_complete(queue, ids, eventually)
    assert one.text().count("`ulimit -n` is 64") == 1, "the log says it once"


@pytest.mark.skipif(sys.platform != "linux", reason="prlimit is Linux's")
def test_a_worker_that_runs_out_of_files_releases_jobs_and_continues_with_fewer(
    queue: Queue, fleet: Callable[..., Fleet], eventually: Callable[..., Any]
) -> None:
    fleet(slots=40)
    [worker] = queue.workers()
    process = psutil.Process(worker.pid)
    fewest = process.num_fds() + 12
    process.rlimit(psutil.RLIMIT_NOFILE, (fewest, fewest))
    ids = [queue.enqueue("sleep 0.1; true") for _ in range(60)]
    all_complete(queue, ids, eventually)
    assert any(queue.verbs(one) == ["unclaim"] for one in ids)
    assert [event.verb for event in queue.events(f"worker:{worker.id}")] == ["start", "short"]


@pytest.fixture
def as_nobody(tmp_path: Path, config: Config) -> Iterator[list[str]]:
    """A command prefix for a user to whom process limits apply.

    They do not apply to root, so another user gets the home and may read the program.
    """
    setpriv = shutil.which("setpriv")
    if os.getuid() != 0:
        yield []
        return
    if setpriv is None:
        pytest.skip("root has no limit of processes, and there is no setpriv")
    closed = [one for one in tmp_path.parents if one.stat().st_mode & 0o001 == 0]
    modes = [one.stat().st_mode for one in closed]
    for folder in closed:
        folder.chmod(0o711)
    tmp_path.chmod(0o711)
    for one in (config.home, *config.home.iterdir()):
        os.chown(one, NO_MANAGER, NO_MANAGER)
    read = "+dac_override"
    yield [setpriv, f"--reuid={NO_MANAGER}", "--clear-groups", f"--inh-caps={read}", f"--ambient-caps={read}"]
    for folder, mode in zip(closed, modes):
        folder.chmod(mode)


@pytest.mark.full
@pytest.mark.only("sqlite")
@pytest.mark.skipif(sys.platform != "linux", reason="how processes are counted is Linux's")
def test_a_hundred_jobs_complete_for_a_user_with_few_processes(
    queue: Queue,
    fleet: Callable[..., Fleet],
    eventually: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    as_nobody: list[str],
) -> None:
    """Their shells fork too, so jobs at the limit would fail."""
    ids = [queue.enqueue("sleep 0.05; true", max_retries=0) for _ in range(100)]
    if as_nobody:
        monkeypatch.setattr(os, "getuid", lambda: NO_MANAGER)
    most = shortage.processes_of_this_user() + 30
    one = fleet(slots=40, limits={"RLIMIT_NPROC": most}, prefix=as_nobody)
    all_complete(queue, ids, eventually)
    assert f"`ulimit -u` is {most}" in one.text()
