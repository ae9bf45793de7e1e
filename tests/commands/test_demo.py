"""`demo`: it succeeds, leaves nothing behind, and touches no real queue."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any, Callable

import pytest

from tests.commands.conftest import Cli, Processes
from tests.deadline import DEADLINE
from webapp.commands.development import demo


def scratch(tmp: Path) -> list[Path]:
    return list(tmp.glob("queuectl-demo-*"))


@pytest.mark.parametrize("migrated", [False], ids=["new home"])
def test_every_job_of_the_demo_ends_as_expected(processes: Processes, home: Path, tmp_path: Path) -> None:
    result = processes.run("demo", TMPDIR=str(tmp_path))
    assert result.code == 0, result.err
    last = {line.split()[2]: line for line in result.lines if " s  " in line}
    assert len(last) == 8
    assert "dead (attempt 3)" in last.pop("hopeless")
    assert "completed (attempt 3)" in last["flaky"]
    assert all(" completed " in line for line in last.values())
    assert "failed (attempt 1): exit code 1, retry in" in result.out
    assert "manage.py up" in result.out
    assert scratch(tmp_path) == []
    assert not home.exists()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.full)]
)
def test_an_interrupted_demo_leaves_nothing_behind(
    processes: Processes, tmp_path: Path, eventually: Callable[..., Any], number: int, code: int
) -> None:
    process = processes.start("demo", TMPDIR=str(tmp_path))
    assert process.stdout is not None
    assert "pending" in process.stdout.readline()
    assert len(scratch(tmp_path)) == 1
    process.send_signal(number)
    assert process.wait(DEADLINE) == code
    assert scratch(tmp_path) == []


def test_a_job_that_ends_otherwise_is_a_failure(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(
        demo, "_demo_jobs", lambda: [demo.DemoJob({"id": "a", "command": "exit 1", "max_retries": 0}, "should succeed")]
    )
    result = cli("demo")
    assert result.code == 1
    assert "a is dead after 1 attempts; expected completed after 1." in result.err
    assert "All jobs ended" not in result.out
