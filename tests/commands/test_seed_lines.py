"""The command lines of the project's seed document, word for word, by real processes, from another folder."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any, Callable

import pytest

from tests.commands.conftest import Cli, Processes
from tests.deadline import DEADLINE

NEW_HOME = pytest.mark.parametrize("migrated", [False], ids=["new home"])
SUBMIT = ("enqueue", '{"id":"job1","command":"echo hello","max_retries":2}')


@NEW_HOME
def test_enqueue_stores_a_job_and_creates_a_private_home(processes: Processes, home: Path) -> None:
    result = processes.run(*SUBMIT)
    assert (result.code, result.out, result.err) == (0, "job1\n", "")
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert stat.S_IMODE((home / "queue.db").stat().st_mode) == 0o600
    assert (home / "queue.db").read_bytes()[18:20] == b"\x02\x02"  # WAL, as the file's header says


def test_the_default_home_is_queuectl_in_the_users_home_folder(processes: Processes, tmp_path: Path) -> None:
    assert processes.run(*SUBMIT, HOME=str(tmp_path), QUEUECTL_HOME="").code == 0
    assert (tmp_path / ".queuectl" / "queue.db").is_file()


@pytest.mark.full
@pytest.mark.every_python
@pytest.mark.parametrize("count", ["1", "3"])
def test_worker_start_runs_pending_jobs_until_it_is_stopped(
    processes: Processes, eventually: Callable[..., Any], count: str
) -> None:
    processes.run(*SUBMIT)
    worker = processes.start("worker", "start", "--count", count)
    eventually(lambda: len(processes.run("status", "--json").json["workers"]) == int(count))
    eventually(lambda: processes.run("show", "job1", "--json").json["state"] == "completed")
    assert processes.run("logs", "job1").out == "hello\n"
    worker.terminate()
    assert worker.wait(DEADLINE) == 0


@pytest.mark.every_python
def test_list_list_state_pending_and_status(processes: Processes) -> None:
    processes.run(*SUBMIT)
    for line in (("list",), ("list", "--state", "pending")):
        result = processes.run(*line)
        assert (result.code, result.err) == (0, "")
        assert result.lines[1].split()[:2] == ["job1", "pending"]
    result = processes.run("status")
    assert result.code == 0
    assert ["pending", "1"] in [line.split() for line in result.lines]


@pytest.mark.every_python
def test_dlq_list_and_dlq_retry_job1(processes: Processes) -> None:
    processes.run("enqueue", '{"id":"job1","command":"exit 7","max_retries":0}')
    assert processes.run("worker", "start", "--count", "1", "--drain").code == 0
    result = processes.run("dlq", "list")
    assert result.code == 0
    assert result.lines[1].split()[0] == "job1"
    assert "exit code 7" in result.lines[1]
    assert processes.run("dlq", "retry", "job1").out == "job1: requeued\n"
    assert processes.run("dlq", "list").out == ""
    assert processes.run("show", "job1", "--json").json["state"] == "pending"


def test_config_set_and_get(processes: Processes) -> None:
    assert processes.run("config", "get", "backoff_base").out == "2\n"
    assert processes.run("config", "set", "backoff_base", "3").code == 0
    assert processes.run("config", "get", "backoff_base").out == "3\n"


@pytest.mark.full
def test_jobs_outlive_their_processes_and_use_a_changed_backoff(processes: Processes) -> None:
    processes.run("enqueue", '{"id":"job1","command":"exit 1","max_retries":1}')
    processes.run("config", "set", "backoff_base", "1")
    processes.run("config", "set", "backoff_jitter", "0")
    assert processes.run("worker", "start", "--drain").code == 0
    shown = processes.run("show", "job1", "--json").json
    first, second = shown["attempt_history"]
    assert shown["state"] == "dead"
    wait = json.dumps([first["finished_at"], second["started_at"]])
    assert first["finished_at"] < second["started_at"], wait


@pytest.mark.parametrize(
    "argv",
    [
        ("list", "--json"),
        ("status", "--json"),
        ("dlq", "list", "--json"),
        ("queue", "list", "--json"),
        ("worker", "list", "--json"),
        ("config", "list", "--json"),
        ("user", "list", "--json"),
        ("doctor", "--json"),
    ],
    ids=lambda argv: " ".join(argv),
)
def test_every_read_prints_json_on_an_empty_queue(cli: Cli, argv: tuple[str, ...]) -> None:
    result = cli(*argv)
    assert (result.code, result.err) == (0, "")
    assert isinstance(result.json, (list, dict))


@NEW_HOME
def test_a_read_creates_a_new_home(processes: Processes, home: Path) -> None:
    result = processes.run("status", "--json")
    assert (result.code, result.err, result.json["workers"]) == (0, "", [])
    assert (home / "queue.db").is_file()


@pytest.mark.full
def test_no_color_removes_every_colour_even_if_forced(processes: Processes) -> None:
    processes.run(*SUBMIT)
    assert "\x1b[33m" in processes.run("list", FORCE_COLOR="1").out
    assert "\x1b[3" not in processes.run("list", FORCE_COLOR="1", NO_COLOR="1").out


def test_an_unusable_home_is_one_line(processes: Processes, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = processes.run("status", QUEUECTL_HOME=str(tmp_path / "file"))
    assert (result.code, result.out, result.err.count("\n")) == (6, "", 1)
    assert "QUEUECTL_HOME" in result.err


def test_an_unreachable_database_is_one_line(processes: Processes) -> None:
    result = processes.run("list", QUEUECTL_DATABASE_URL="postgresql://nobody@127.0.0.1:1/nowhere")
    assert (result.code, result.out, result.err.count("\n")) == (6, "", 1)
    assert result.err.startswith("Error: cannot open the database")
