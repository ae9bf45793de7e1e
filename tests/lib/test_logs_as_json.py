"""The log as JSON: one object per line, with the job and the worker as fields, and no secret."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deadline import DEADLINE
from webapp.config import CHECKOUT


def worker(*options: str) -> list[str]:
    command = [sys.executable, str(CHECKOUT / "webapp" / "commands" / "__main__.py"), "worker", "start", "--drain"]
    ran = subprocess.run([*command, *options], capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stderr.splitlines()


@pytest.fixture
def failing_job(home: Path) -> str:
    from webapp.config import Config
    from webapp.core import job_spec
    from webapp.db.application import create_core
    from webapp.jobs import actions

    with create_core(Config(home=home, database_url=None, public_url=None)).app_context():
        spec = job_spec.parse({"id": "job1", "command": "printf 'a\\nb\"c' >&2; exit 3", "max_retries": 0})
        return actions.enqueue([spec], "person:test")[0]


def test_every_line_is_an_object_with_its_job_and_worker(failing_job: str) -> None:
    lines = [json.loads(line) for line in worker("--log-format", "json")]
    assert {"level", "logger", "process", "message", "timestamp"} <= set.intersection(*(set(line) for line in lines))
    [failure] = [line for line in lines if "job" in line]
    assert (failure["job"], failure["attempt"], failure["state"], failure["level"]) == (failing_job, 1, "dead", "INFO")
    started = [line for line in lines if "worker" in line and "started" in line["message"]]
    assert len(started) == 1


def test_an_environment_variable_turns_it_on(failing_job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUECTL_LOG_FORMAT", "json")
    assert all(json.loads(line) for line in worker())
