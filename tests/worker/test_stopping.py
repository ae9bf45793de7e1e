"""A worker receives a stop at any time, also during its start, and nothing delays it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable

import psutil
import pytest

from tests.deadline import DEADLINE
from tests.worker.conftest import Queue
from webapp.config import CHECKOUT

_SUPERVISOR = """
import logging, sys, time
sys.path.insert(0, sys.argv[1])
logging.basicConfig(level=logging.INFO)
from webapp.config import load
from worker.loop import worker
from worker.supervisor import signal_pipe
from worker.supervisor import supervisor
{so}
sys.exit(supervisor.run(load()))
"""
# As on a busy machine where a fork needs a second to install its handlers.
_SLOW_FORKS = """
detach = signal_pipe.SignalPipe.detach
signal_pipe.SignalPipe.detach = lambda self: (print("forked", flush=True), time.sleep(1), detach(self))
"""
# As with a server that has one connection left for each of them.
_NO_SECOND_CONNECTION = """
import itertools
connect, numbers = worker.connect, itertools.count()
def once(database):
    if next(numbers):
        raise OSError("no connection is left")
    return connect(database)
worker.connect = once
"""


@contextmanager
def supervisor(log: Path, so: str) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as file:
        script = _SUPERVISOR.format(so=so)
        process = subprocess.Popen([sys.executable, "-c", script, str(CHECKOUT)], stdout=file, stderr=file)
    try:
        yield process
    finally:
        process.kill()
        process.wait(DEADLINE)


@pytest.mark.full
def test_a_worker_receives_a_stop_during_its_fork(queue: Queue, tmp_path: Path, eventually: Callable[..., Any]) -> None:
    log = tmp_path / "log"
    with supervisor(log, _SLOW_FORKS) as process:
        eventually(lambda: log.read_text().count("forked") == 2)  # the maintenance process and the worker
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0, log.read_text()


def test_two_stops_in_a_row_reach_a_worker_that_was_not_ready(
    queue: Queue, tmp_path: Path, pid_in: Callable[[Path], int], eventually: Callable[..., Any]
) -> None:
    log, file = tmp_path / "log", tmp_path / "pid"
    job_id = queue.enqueue(f"trap '' TERM; echo $$ > {file}; while :; do sleep 0.1; done")
    with supervisor(log, "") as process:
        eventually(file.exists, 60)
        pid_in(file)
        [worker] = queue.workers()
        os.kill(worker.pid, signal.SIGSTOP)
        for words in ("stopping: ", "stopping now"):
            process.send_signal(signal.SIGTERM)
            eventually(lambda words=words: words in log.read_text(), 60)
        os.kill(worker.pid, signal.SIGCONT)
        assert process.wait(30) == 0, log.read_text()
        assert queue.job(job_id).state == "pending"


# On SQLite it may hold the write lock while suspended, and is then replaced before the worker can exit.
@pytest.mark.only("postgresql")
def test_a_suspended_maintenance_process_does_not_delay_a_stop(
    queue: Queue, tmp_path: Path, eventually: Callable[..., Any]
) -> None:
    log = tmp_path / "log"
    with supervisor(log, "supervisor.MAINTENANCE_GRACE, supervisor.MAINTENANCE_CHECK = 0.5, 3600.0") as process:
        [worker] = eventually(queue.workers)
        [maintenance] = [child.pid for child in psutil.Process(process.pid).children() if child.pid != worker.pid]
        os.kill(maintenance, signal.SIGSTOP)
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0, log.read_text()
        assert f"maintenance (pid {maintenance}) did not end in time and is killed" in log.read_text()
        assert not psutil.pid_exists(maintenance)


def test_a_worker_without_a_heartbeat_connection_takes_no_job(
    queue: Queue, tmp_path: Path, eventually: Callable[..., Any]
) -> None:
    log, job_id = tmp_path / "log", queue.enqueue("true")
    with supervisor(log, _NO_SECOND_CONNECTION):
        eventually(lambda: log.read_text().count("OSError: no connection is left") >= 2)  # it is retried
        assert queue.job(job_id).attempts == 0
        assert queue.workers() == []
