"""Transactions and the write lock: waiting, the busy error, and forks."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable

import pytest
from flask import Flask
from sqlalchemy import text

from tests.deadline import DEADLINE
from webapp.config import CHECKOUT
from webapp.core.storage.locks import Busy, WriteLock
from webapp.db import engines
from webapp.db.engines import reading, writing

pytestmark = pytest.mark.postgresql

_HOLD = """
import fcntl, os, sys
descriptor = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(descriptor, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def held_by_another(path: Path) -> Iterator[subprocess.Popen[str]]:
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", _HOLD, str(path)], **pipes) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield holder
        if holder.poll() is None:
            holder.communicate("")


def test_a_writer_waits_for_another_process_and_then_continues(tmp_path: Path) -> None:
    lock, done = WriteLock(tmp_path / "lock"), threading.Event()
    with held_by_another(tmp_path / "lock") as holder:

        def write() -> None:
            lock.acquire(20)
            done.set()
            lock.release()

        writer = threading.Thread(target=write)
        writer.start()
        assert not done.wait(0.2)
        holder.communicate("")
        assert done.wait(DEADLINE)
        writer.join()


def test_a_writer_gives_up_after_the_timeout_and_the_next_one_gets_the_lock(tmp_path: Path) -> None:
    lock = WriteLock(tmp_path / "lock")
    with held_by_another(tmp_path / "lock"):
        for _ in range(2):
            with pytest.raises(Busy, match="Try again"):
                lock.acquire(0.1)
    # The two that gave up do not keep the lock: their threads release it at once.
    for _ in range(3):
        lock.acquire(10)
        with pytest.raises(Busy):
            lock.acquire(0.05)
        lock.release()


def test_a_writer_that_gave_up_does_not_release_the_lock_of_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = WriteLock(path)
    with held_by_another(path) as holder:
        with pytest.raises(Busy):
            lock.acquire(0.05)
        threading.Timer(0.1, lambda: holder.communicate("")).start()
        lock.acquire(10)
        for waiter in [one for one in threading.enumerate() if one.name == "flock"]:
            waiter.join(DEADLINE)
        with pytest.raises(Busy):
            WriteLock(path).acquire(0.05)
        lock.release()


def test_threads_of_one_process_exclude_each_other(tmp_path: Path) -> None:
    lock, inside, most = WriteLock(tmp_path / "lock"), [], []

    def work() -> None:
        for _ in range(200):
            lock.acquire(20)
            inside.append(1)
            most.append(len(inside))
            inside.pop()
            lock.release()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 800


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_does_not_share_the_lock_of_its_parent(tmp_path: Path) -> None:
    lock = WriteLock(tmp_path / "lock")
    lock.acquire()
    child = os.fork()
    if child == 0:
        try:
            lock.acquire(0.1)
        except Busy:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    lock.release()


def test_a_busy_database_is_reported_to_the_caller(sqlite_app: Flask, home: Path) -> None:
    with held_by_another(home / "queue.lock"), pytest.raises(Busy), writing(timeout=0.1):
        pytest.fail("the lock was not ours")  # pragma: no cover


def test_a_writer_without_our_lock_is_waited_for_too(sqlite_app: Flask, home: Path) -> None:
    """Another program in the database (a backup, a shell) does not use our lock."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from webapp.core.storage.sqlite import library as sqlite\n"
        "c = sqlite.connect(sys.argv[2], isolation_level=None); c.execute('BEGIN IMMEDIATE')\n"
        "print('held', flush=True); sys.stdin.readline(); c.execute('COMMIT')"
    )
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code, str(CHECKOUT), str(home / "queue.db")], **pipes) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == "held\n"
        release = threading.Timer(0.3, lambda: (other.stdin.write("\n"), other.stdin.flush()))  # type: ignore[union-attr]
        release.start()
        with writing() as session:
            session.execute(text("UPDATE control SET revision = 5"))
        release.join()
    with engines.reading() as session:
        assert session.execute(text("SELECT revision FROM control")).scalar() == 5


def mark_stays_while_reading() -> bool:
    """On PostgreSQL, commits in other databases of the server, such as those of other tests, change the mark too."""
    before = engines.change_mark()
    with reading() as session:
        session.execute(text("SELECT count(*) FROM jobs")).all()
    return before is not None and engines.change_mark() == before


def test_a_change_mark_is_stable_without_commits_and_differs_after_each_commit(
    app: Flask, eventually: Callable[..., Any]
) -> None:
    marks = [eventually(engines.change_mark)]
    for _ in range(3):
        eventually(mark_stays_while_reading)
        with writing() as session:
            session.execute(text("UPDATE control SET pulse = pulse + 1"))
        marks.append(eventually(engines.change_mark))
    assert len(set(marks)) == len(marks)


def test_a_change_mark_shows_commits_of_other_processes_only_once_they_are_readable(
    sqlite_app: Flask, home: Path
) -> None:
    begun = engines.change_mark()
    with writing() as session:
        session.execute(text("UPDATE control SET pulse = pulse + 1"))
        session.flush()
        assert engines.change_mark() == begun
    other = "import sys; from webapp.core.storage.sqlite import library as sqlite; c = sqlite.connect(sys.argv[1]); "
    other += "c.execute('UPDATE control SET pulse = pulse + 1'); c.commit()"
    marks = [begun, engines.change_mark()]
    subprocess.run([sys.executable, "-c", other, str(home / "queue.db")], check=True, cwd=CHECKOUT)
    marks.append(engines.change_mark())
    assert len(set(marks)) == 3


def test_all_threads_of_a_process_have_the_same_change_mark(sqlite_app: Flask) -> None:
    marks = [engines.change_mark()]

    def look() -> None:
        with sqlite_app.app_context():
            marks.append(engines.change_mark())

    thread = threading.Thread(target=look)
    thread.start()
    thread.join(DEADLINE)
    assert marks == [marks[0]] * 2
    assert marks[0] is not None


def test_an_unknown_change_mark_is_none_and_the_next_one_differs(sqlite_app: Flask) -> None:
    begun = engines.change_mark()
    watch = sqlite_app.extensions["queuectl_changes"]
    watch._connection.close()
    assert engines.change_mark() is None
    assert engines.change_mark() not in (None, begun)
