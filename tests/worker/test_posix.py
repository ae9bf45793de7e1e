"""The wait of the main thread on POSIX: it misses no command that ends between the check and the wait."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.deadline import DEADLINE
from webapp.config import CHECKOUT

pytestmark = pytest.mark.every_python

# In a separate process, because a runner installs signal handlers and reaps all children. The second command ends after
# the runner has checked for ended commands and before it waits again.
_END_BETWEEN = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
import psutil
from webapp.core.settings import Settings
from worker.attempt import Claim
from worker.runner.posix import PosixRunner

life, _ = os.pipe()
runner = PosixRunner(life, dict(os.environ))
gate = sys.argv[2]
def start(seq, command):
    claim = Claim(seq, f"job-{seq}", f"token-{seq}", 1, command, None, None, {}, 0, None, False, 1.0, 0)
    runner.start(claim, Settings())
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
    command = [sys.executable, "-c", _END_BETWEEN, str(CHECKOUT), str(gate)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert (ran.stdout, ran.stderr) == ("[1, 2] True True\n", "")
