"""Behaviour of platforms without fork. Tests of common behaviour run there too, see `both_ways`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

import psutil
import pytest

from tests.worker.conftest import Fleet, Queue
from webapp.config import CHECKOUT

Start = Callable[..., Fleet]

pytestmark = [
    pytest.mark.only("sqlite"),
    pytest.mark.parametrize("way", ["no fork"], indirect=True, ids=["no-fork"]),
    pytest.mark.every_python,
]


def test_workers_and_maintenance_are_programs_of_this_checkout_in_any_folder(
    queue: Queue, fleet: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one = fleet(count=2, slots=3, queues=["mail", "default"])
    children = psutil.Process(one.process.pid).children()
    assert [child.cmdline()[1] for child in children] == [str(CHECKOUT / "worker" / "__main__.py")] * 3
    assert {worker.pid for worker in queue.workers()} < {child.pid for child in children}
    assert {(worker.slots, worker.queues) for worker in queue.workers()} == {(3, '["mail", "default"]')}


@pytest.mark.full
def test_a_foreign_process_that_holds_the_pipes_of_a_job_does_not_block_it(
    queue: Queue, fleet: Start, tmp_path: Path, pid_in: Callable[[Path], int]
) -> None:
    fleet()
    # It has neither parent nor environment: without subreapers it cannot be found.
    hide = f"(env -i setsid sh -c 'echo $$ > {tmp_path}/pid; exec sleep 3600' &)"
    job_id = queue.enqueue(f"{hide}; while [ ! -s {tmp_path}/pid ]; do sleep 0.02; done; echo done")
    stranger = pid_in(tmp_path / "pid")
    try:
        queue.reaches(job_id, "completed")
        assert queue.attempts(job_id)[0].output == b"done\n"
    finally:
        os.kill(stranger, signal.SIGKILL)


def test_a_killed_process_is_replaced_and_its_successor_receives_signals(
    queue: Queue, fleet: Start, eventually: Callable[..., Any]
) -> None:
    one = fleet()
    [worker] = queue.workers()
    for child in psutil.Process(one.process.pid).children():  # the maintenance process, too
        child.kill()
    eventually(lambda: {one.id for one in queue.workers()} - {worker.id})
    assert one.text().count("(signal 9); starting another") == 2
    queue.reaches(queue.enqueue("true"), "completed")
    assert one.stop() == 0
    assert worker.id in {ended.id for ended in queue.workers("expired")}


_WITH_CONSOLE = """
import logging, socket, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
logging.basicConfig(level=logging.INFO)
from webapp.config import load
from webapp.lib.system import process_group
from worker.supervisor import supervisor
from worker.supervisor.console import Console
process_group.ENTRY = Path(sys.argv[2])
listener = socket.create_server(("127.0.0.1", 0))
sys.exit(supervisor.run(load(), console=Console(listener)))
"""


@pytest.mark.full
def test_a_console_is_restarted_and_stopped_there_too(
    queue: Queue, way: str, tmp_path: Path, eventually: Callable[..., Any]
) -> None:
    entry, log = tmp_path / "entry.py", tmp_path / "log"
    said = "print('the console has', *sys.argv[1:3], flush=True)"
    entry.write_text(f"import sys, time\n{said}\nwhile True: time.sleep(0.05)")
    with log.open("wb") as file:
        command = [sys.executable, "-c", _WITH_CONSOLE, str(CHECKOUT), str(entry)]
        process = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        eventually(lambda: "the console has web --descriptor" in log.read_text(), 60)
        for child in psutil.Process(process.pid).children():
            if str(entry) in child.cmdline():
                child.kill()
        eventually(lambda: log.read_text().count("the console has web") == 2, 60)
        assert "console ended (signal 9); starting another in " in log.read_text()
        eventually(queue.workers, 60)
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
