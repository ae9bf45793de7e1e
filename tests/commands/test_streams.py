"""The output of a command is closed, full or gone: its work is kept, and one line reports the problem."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands.conftest import ENTRY, Result
from tests.deadline import DEADLINE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux's")


def run(redirection: str, *argv: str) -> Result:
    done = subprocess.run(
        ["sh", "-c", f'"$@" {redirection}', "sh", sys.executable, str(ENTRY), *argv],
        env={**os.environ, "QUEUECTL_VENV": sys.prefix},
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )
    return Result(done.returncode, done.stdout, done.stderr)


def ids() -> list[str]:
    return [line.split()[0] for line in run("", "list").lines[1:]]


def test_a_closed_output_is_no_error_and_the_exit_code_reports_what_was_stored(home: Path) -> None:
    assert run(">&-", "enqueue", "--command", "true", "--id", "a") == Result(0, "", "")
    assert run(">&- 2>&-", "list") == Result(0, "", "")
    assert run("<&-", "enqueue", "-").err == "No jobs: all lines are blank.\n"
    assert ids() == ["a"]


@pytest.mark.full
def test_a_full_disk_under_the_output_is_one_line_that_reports_what_was_stored(home: Path) -> None:
    stored = run(">/dev/full", "enqueue", "--command", "true", "--id", "a")
    said = "Error: cannot write the output: No space left on device."
    assert stored == Result(1, "", f"{said} 1 job stored.\n")
    for argv in (["list"], ["status", "--json"], ["--help"]):
        assert run(">/dev/full", *argv) == Result(1, "", f"{said}\n")
    assert ids() == ["a"]
