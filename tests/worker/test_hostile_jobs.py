"""No job and no environment ends a worker: characters outside the locale, NUL, a missing folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

import pytest

from tests.deadline import DEADLINE
from tests.worker.conftest import Fleet, Queue
from webapp.config import CHECKOUT

pytestmark = pytest.mark.every_python

# In a separate process, because a runner installs signal handlers and reaps all children.
_RUN = """
import json, os, resource, sys, time
sys.path.insert(0, sys.argv[1])
from webapp.core.settings import Settings
from worker.attempt import Claim
from worker.runner.posix import PosixRunner
from worker.runner.threads import ThreadRunner
from worker.shortage import Shortage

parent, _ = os.pipe()
environment = {**os.environ, "QUEUECTL_HOME": "/nonexistent"}
runner = (PosixRunner if sys.argv[2] == "posix" else ThreadRunner)(parent, environment, {})

def run(command="true", cwd=None, env={}):
    runner.start(Claim(1, "job1", "token", 1, command, None, cwd, env, 0, None, False, 1.0, 0, "default"), Settings())
    until = time.monotonic() + 60
    while time.monotonic() < until:
        for one in runner.poll(20):
            return [one.kind, one.reason, one.error or one.output.data.decode()]

def descriptors():
    return len(os.listdir("/proc/self/fd"))
"""


def run(script: str, folder: Path, runner: str = "posix", **environment: str) -> Any:
    """The JSON that the script prints."""
    done = subprocess.run(
        [sys.executable, "-c", _RUN + script, str(CHECKOUT), runner],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.stderr == ""
    return json.loads(done.stdout)


@pytest.mark.parametrize("runner", ["posix", pytest.param("threads", marks=pytest.mark.full)])
def test_a_value_that_no_process_can_receive_fails_the_attempt_and_names_the_field(tmp_path: Path, runner: str) -> None:
    bad = """
odd = [run("echo \\0"), run(env={"A": "1", "B\\ud800": "2"}), run(cwd="/\\ud800"), run("exit 3 # " + "x" * 200_000)]
print(json.dumps([*odd, run()]))
"""
    nul, surrogate, folder, too_long, fine = run(bad, tmp_path, runner)
    for one, field in ((nul, "its command"), (surrogate, r"its variable B\ud800"), (folder, "its working directory")):
        assert one == ["failed", "spawn", f"could not be started: {field} has a character that cannot be passed on, "
                       "such as NUL or half of a surrogate pair"]  # fmt: skip
    assert too_long == ["failed", "spawn", "could not be started: Argument list too long"]
    assert fine == ["completed", "exit", ""]


def test_without_room_for_another_command_nothing_starts_and_nothing_leaks(tmp_path: Path) -> None:
    full = """
before = descriptors()
found = []
for free in range(7):
    resource.setrlimit(resource.RLIMIT_NOFILE, (before - 1 + free, 4096))  # the listing itself needs one
    try:
        found.append(run())
    except Shortage as short:
        found.append(str(short))
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
print(json.dumps([found, descriptors() - before, run()]))
"""
    found, leaked, later = run(full, tmp_path)
    assert "cannot open more files" in found[0]
    assert found[-1] == later == ["completed", "exit", ""]
    assert leaked == 0


def test_jobs_fail_while_the_folder_of_the_worker_is_missing(tmp_path: Path) -> None:
    home = tmp_path / "app"
    home.mkdir()
    deleted = """
folder, other = os.getcwd(), sys.argv[1]
os.rmdir(folder)
gone, elsewhere = run("pwd"), run("pwd", cwd=other)
os.mkdir(folder)
print(json.dumps([gone, elsewhere, run("pwd")]))
"""
    gone, elsewhere, again = run(deleted, home)
    assert gone[:2] == ["failed", "cwd"]
    assert f"own folder {home} was deleted" in gone[2]
    assert elsewhere == ["completed", "exit", f"{CHECKOUT}\n"]
    assert again == ["completed", "exit", f"{home}\n"]


LETTERS = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}  # Python then has ASCII


def test_text_for_the_system_is_utf8_in_any_locale(
    queue: Queue, fleet: Callable[..., Fleet], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "日本"
    folder.mkdir()
    for name, value in LETTERS.items():
        monkeypatch.setenv(name, value)
    fleet(slots=2)
    fine = queue.enqueue("echo ✅ $NAME; pwd", env={"NAME": "日本"}, cwd=str(folder))
    missing = queue.enqueue("true", cwd="/nowhere/日本", max_retries=0)
    interpreter = queue.enqueue("#!/nowhere/日本", max_retries=0)
    queue.reaches(fine, "completed")
    [attempt] = queue.attempts(fine)
    assert attempt.output.decode() == f"✅ 日本\n{folder}\n"
    assert queue.reaches(missing, "dead").last_error == "working directory /nowhere/日本 does not exist"
    assert queue.reaches(interpreter, "dead").last_error == "interpreter /nowhere/日本 does not exist"
    assert queue.workers("expired") == []
