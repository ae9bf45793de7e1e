"""The memory of an idle `worker start`: no framework, and little more than Python itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

import psutil
import pytest

from tests.commands.conftest import Processes
from tests.deadline import DEADLINE
from tests.worker.conftest import Queue
from webapp.config import Config

pytestmark = [
    pytest.mark.only("sqlite"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc"),
]

WORKERS = 4
# Files that a process maps when it loads these packages; Python modules leave no such trace.
LIBRARIES = ("sqlalchemy", "markupsafe", "argon2")
# Measured: 11.4 times an empty process, for six processes; 19 with SQLAlchemy in all of them.
MOST_TIMES = 13.0

_EMPTY = """
import importlib, sys
try:
    importlib.import_module("pysqlite3.dbapi2")
except ImportError:
    importlib.import_module("sqlite3")
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def fleet(
    processes: Processes, sqlite_config: Config, app: Any, eventually: Callable[..., Any]
) -> list[psutil.Process]:
    """A supervisor, its maintenance process and its workers, all idle."""
    queue = Queue(app, sqlite_config, eventually)
    supervisor = psutil.Process(processes.start("worker", "start", "--count", str(WORKERS)).pid)
    eventually(lambda: len(queue.workers()) == WORKERS)
    found = [supervisor, *supervisor.children(recursive=True)]
    assert len(found) == WORKERS + 2
    return found


def mapped_libraries(pid: object) -> set[str]:
    text = Path(f"/proc/{pid}/maps").read_text()
    return {name for name in LIBRARIES if f"/{name}/" in text}


def memory(pid: int) -> int:
    """The anonymous part of the proportional set size, in KiB: each page divided by the processes that share it.

    The rest are files, such as Python itself. It depends on how many other Pythons run on this machine.
    """
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    found = next((int(line.split()[1]) for line in lines if line.startswith("Pss_Anon:")), None)
    if found is None:
        pytest.skip("this kernel does not report Pss_Anon")
    return found


def test_no_process_of_an_idle_fleet_has_loaded_a_framework(fleet: list[psutil.Process]) -> None:
    if not mapped_libraries("self"):
        pytest.skip("these packages are installed without compiled modules")
    assert {process.pid: mapped_libraries(process.pid) for process in fleet} == {
        process.pid: set() for process in fleet
    }


def test_an_idle_fleet_needs_a_few_times_the_memory_of_an_empty_python(fleet: list[psutil.Process]) -> None:
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", _EMPTY], **pipes) as empty:
        assert empty.stdout is not None
        assert empty.stdout.readline() == "ready\n"
        times = sum(memory(process.pid) for process in fleet) / memory(empty.pid)
        empty.communicate("", timeout=DEADLINE)
    assert times <= MOST_TIMES
