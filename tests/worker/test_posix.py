"""The wait of the main thread on POSIX: it misses no command that ends and no output."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Callable

import pytest

from tests.deadline import DEADLINE
from tests.worker.conftest import Fleet, Queue
from webapp.config import CHECKOUT

pytestmark = pytest.mark.every_python

# In a separate process, because a runner installs signal handlers and reaps all children.
_RUNNER = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
import psutil
from webapp.core.settings import Settings
from worker.attempt import Claim
from worker.runner import posix

life, _ = os.pipe()
runner = posix.PosixRunner(life, dict(os.environ), {})
def start(seq, command):
    claim = Claim(seq, f"job-{seq}", f"token-{seq}", 1, command, None, None, {}, 0, None, False, 1.0, 0, "default")
    runner.start(claim, Settings())
"""

# The second command ends after the runner has checked for ended commands and before it waits again.
_END_BETWEEN = """
gate = sys.argv[2]
start(1, "exit 1")
start(2, f"read line < {gate}; exit 2")
[second] = [pid for pid, running in runner._running.items() if running.claim.seq == 2]

real, opened = os.wait4, []
def wait4(pid, options):
    answer = real(pid, options)
    if answer[0] == 0 and not opened and len(runner) == 2 and any(one.ended_at for one in runner._running.values()):
        opened.append(True)
        with open(gate, "w") as file:
            file.write("go\\n")
        while psutil.Process(second).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.005)
    return answer
os.wait4 = wait4

ended, until = [], time.monotonic() + 60
while len(runner) and time.monotonic() < until:
    ended += runner.poll(20)
print([one.exit_code for one in ended], bool(opened), time.monotonic() < until)
"""


def test_a_command_that_ends_just_after_the_check_is_not_missed(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    subprocess.run(["mkfifo", str(gate)], check=True)
    assert printed_by(_END_BETWEEN, str(gate)) == "[1, 2] True True\n"


# The second command writes more than a pipe holds, so it waits until its output is read.
_OUTPUT = """
class Counted:
    waits = 0
    def __init__(self, poll):
        self.register, self.unregister, self._poll = poll.register, poll.unregister, poll
    def poll(self, timeout):
        self.waits += 1
        return self._poll.poll(timeout)

def run(command):
    runner._poll = Counted(runner._poll)
    start(1, command)
    ended = []
    while not ended:
        ended = runner.poll(20)
    return runner._poll.waits, len(ended[0].output.data), runner._watch_pipes()

posix.WATCH_AFTER = 60
print(*run("echo so much; sleep 0.1"))
posix.WATCH_AFTER = 0.01
print(*run("head -c 200000 /dev/zero; echo and more >&2")[1:])
"""


def test_output_of_a_short_command_is_read_at_its_end_and_other_output_at_once() -> None:
    assert printed_by(_OUTPUT) == "1 8 inf\n200009 inf\n"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="signal masks are read from /proc")
def test_only_the_main_thread_of_a_worker_receives_signals(queue: Queue, fleet: Callable[..., Fleet]) -> None:
    """Else each end of a command could wake another thread, which takes the interpreter from the main thread."""
    fleet()
    queue.reaches(queue.enqueue("true"), "completed")
    [worker] = queue.workers()
    threads = {int(task.name): task for task in Path(f"/proc/{worker.pid}/task").iterdir()}
    ignored = [number for number, task in threads.items() if blocked(task) >> (signal.SIGCHLD - 1) & 1]
    assert len(threads) >= 3
    assert set(ignored) == threads.keys() - {worker.pid}


def blocked(task: Path) -> int:
    [mask] = re.findall(r"^SigBlk:\s*(\w+)$", (task / "status").read_text(), re.MULTILINE)
    return int(mask, 16)


def printed_by(script: str, *arguments: str) -> str:
    command = [sys.executable, "-c", _RUNNER + script, str(CHECKOUT), *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert ran.stderr == ""
    return ran.stdout
