"""A stop reaches a worker whenever it comes, also while it is being made."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

from tests.worker.conftest import Queue
from webapp.config import CHECKOUT

# As on a machine so busy that a fork needs a second before it has handlers of its own.
_SLOW_FORKS = """
import logging, sys, time
sys.path.insert(0, sys.argv[1])
logging.basicConfig(level=logging.INFO)
from webapp.config import load
from worker import bell, supervisor
leave = bell.Bell.leave
bell.Bell.leave = lambda self: (print("forked", flush=True), time.sleep(1), leave(self))
sys.exit(supervisor.run(load()))
"""


def test_a_worker_that_is_just_being_forked_hears_of_a_stop(
    queue: Queue, tmp_path: Path, eventually: Callable[..., Any]
) -> None:
    log = tmp_path / "log"
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-c", _SLOW_FORKS, str(CHECKOUT)], stdout=file, stderr=file)
    try:
        eventually(lambda: log.read_text().count("forked") == 2)  # the keeper and the worker
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0, log.read_text()
    finally:
        process.kill()
