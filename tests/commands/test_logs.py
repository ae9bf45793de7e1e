"""`logs`: the exact output of a job, stored or live, and messages beside it."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any, Callable

import pytest
from flask import Flask

from tests.commands.conftest import Cli, Processes
from tests.deadline import DEADLINE
from tests.factories import change_job, make_attempt, make_chunk, make_job, make_worker
from webapp.commands.shared import logs as _logs
from webapp.db.engines import reading
from webapp.jobs import actions, job_detail
from webapp.lib import clock


def test_stdout_goes_to_stdout_and_stderr_to_stderr(app: Flask, cli: Cli) -> None:
    job = make_job("completed", id="a")
    make_attempt(job, state="completed", output=b"out 1\nerr 1\nout 2\nerr 2\n", output_runs="6,6,6,6")
    result = cli("logs", "a")
    assert (result.code, result.out, result.err) == (0, "out 1\nout 2\n", "err 1\nerr 2\n")


def test_output_cannot_control_the_terminal(processes: Processes, home: Path) -> None:
    osc = r"printf '\033]52;c;ZXZpbA==\007\033[2J\033[31mred\033[0m \303\244\n'"
    assert processes.run("enqueue", "--id", "a", "--command", osc).code == 0
    assert processes.run("worker", "start", "--drain").code == 0
    assert "\x1b]52;c;" in processes.run("logs", "a").out, "a file gets every byte"
    ours, theirs = os.openpty()
    shown = subprocess.run(
        processes._command(("logs", "a")), stdout=theirs, env=processes._environment({}), timeout=DEADLINE, check=False
    )
    os.close(theirs)
    assert shown.returncode == 0
    assert os.read(ours, 65536).decode() == "\\x1b]52;c;ZXZpbA==\\x07\\x1b[2J\x1b[31mred\x1b[0m ä\r\n"
    os.close(ours)


def test_an_impossible_attempt_number_is_a_usage_error(cli: Cli) -> None:
    for number in ("0", str(2**31)):
        assert cli("logs", "a", "--attempt", number).code == 2


def test_the_latest_attempt_is_shown_unless_another_is_named(app: Flask, cli: Cli) -> None:
    job = make_job("completed", id="a", attempts=2)
    make_attempt(job, output=b"first")
    make_attempt(job, state="completed", output=b"second")
    assert cli("logs", "a").out == "second"
    assert cli("logs", "a", "--attempt", "1").out == "first"


@pytest.mark.parametrize("follow", [[], ["-f"]])
def test_a_missing_attempt_is_one_line(app: Flask, cli: Cli, follow: list[str]) -> None:
    make_attempt(make_job("completed", id="a"), state="completed")
    result = cli("logs", "a", "--attempt", "3", *follow)
    assert (result.code, result.out, result.err) == (4, "", "Error: a has no attempt 3: its last is 1.\n")


def test_a_job_that_has_not_started_says_so(app: Flask, cli: Cli) -> None:
    make_job(id="a")
    result = cli("logs", "a")
    assert (result.code, result.out, result.err) == (0, "", "a has not started yet: it is pending.\n")


def test_a_line_on_stderr_counts_left_out_bytes(app: Flask, cli: Cli) -> None:
    job = make_job("completed", id="a")
    make_attempt(job, state="completed", output=b"headtail", output_runs="8", output_cut=4, output_dropped=1234)
    result = cli("logs", "a")
    assert result.out == "headtail"
    assert "1,234 bytes omitted" in result.err


def test_a_running_job_shows_its_output_so_far(app: Flask, cli: Cli) -> None:
    job = make_job("processing", id="a")
    make_chunk(job, b"one\n")
    make_chunk(job, b"oops\n", position=4, runs="0,5")
    result = cli("logs", "a")
    assert (result.out, result.err) == ("one\n", "oops\n")


# --- follow ---


def test_following_a_finished_job_shows_it_and_ends(app: Flask, cli: Cli) -> None:
    job = make_job("dead", id="a")
    make_attempt(job, output=b"no such file\n", error="exit code 1")
    result = cli("logs", "a", "-f")
    assert (result.code, result.out) == (0, "no such file\n")
    assert "exit code 1" in result.err
    assert result.err.splitlines()[-1] == "[a: dead]"


def test_following_a_job_that_never_starts_ends(app: Flask, cli: Cli) -> None:
    make_job("cancelled", id="a")
    result = cli("logs", "a", "--follow")
    assert (result.code, result.out, result.err) == (0, "", "a: cancelled, never started.\n")


def test_following_continues_from_waiting_through_a_retry_to_the_end(app: Flask, cli: Cli, monkeypatch: Any) -> None:
    """Each poll finds the worker's new output; no byte is repeated or lost."""
    job = make_job(id="a")

    def starts(number: int) -> None:
        change_job("a", state="processing", attempts=number, token="t", worker_id="w", started_at=clock.now())
        job.attempts = number

    def fails() -> None:
        make_attempt(job, 1, output=b"one\ntwo\nthree\n", error="exit code 1")
        change_job("a", state="failed", token=None, worker_id=None, run_at=clock.now() + clock.seconds(2))

    def completes() -> None:
        make_attempt(job, 2, "completed", output=b"again\n")
        change_job("a", state="completed", token=None, worker_id=None, finished_at=clock.now())

    scenes: list[Callable[[], object]] = [
        lambda: make_worker(id="w"),
        lambda: starts(1),
        lambda: make_chunk(job, b"one\n"),
        lambda: make_chunk(job, b"two\n", position=4),
        fails,
        lambda: starts(2),
        completes,
    ]
    monkeypatch.setattr(_logs, "pause", lambda _: scenes.pop(0)())
    result = cli("logs", "a", "-f")
    assert (result.code, result.out) == (0, "one\ntwo\nthree\nagain\n")
    assert scenes == []
    told = [line.strip("[]").removeprefix("a: ") for line in result.err.splitlines()]
    assert told[0] == "pending; no workers are running: manage.py worker start"
    assert told[1:3] == ["pending", "attempt 1 started"]
    assert told[3].startswith("attempt 1 failed after")
    assert told[4].startswith("failed; retry in ")
    assert told[5] == "attempt 2 started"
    assert told[6].startswith("attempt 2 completed")
    assert told[7:] == ["completed"]


def test_following_one_attempt_ends_with_it(app: Flask, cli: Cli) -> None:
    job = make_job("failed", id="a")
    make_attempt(job, output=b"x")
    result = cli("logs", "a", "-f", "--attempt", "1")
    assert (result.code, result.out) == (0, "x")


def test_following_ends_when_the_job_is_discarded(app: Flask, cli: Cli, monkeypatch: Any) -> None:
    make_job(id="a")
    monkeypatch.setattr(_logs, "pause", lambda _: actions.apply("discard", ["a"], "person:ben"))
    result = cli("logs", "a", "-f")
    assert (result.code, result.out) == (4, "")
    assert result.err.splitlines()[-1] == "Error: a was discarded."


def test_following_a_real_worker_shows_output_before_the_job_ends(
    app: Flask, processes: Processes, eventually: Callable[..., Any]
) -> None:
    gate = processes.folder / "gate"
    command = f"echo begun; while [ ! -e {gate} ]; do sleep 0.05; done; echo ended"
    assert processes.run("enqueue", "--command", command, "--id", "a").out == "a\n"
    worker = processes.start("worker", "start", "--drain")
    follower = processes.start("logs", "a", "-f")
    seen: list[str] = []
    assert follower.stdout is not None
    threading.Thread(target=seen.extend, args=(follower.stdout,), daemon=True).start()
    eventually(lambda: seen == ["begun\n"])
    with reading() as session:
        job = job_detail.find(session, "a")
        assert job is not None
        assert job.state == "processing"
    gate.touch()
    assert follower.wait(DEADLINE) == 0
    assert worker.wait(DEADLINE) == 0
    eventually(lambda: seen == ["begun\n", "ended\n"])


def test_ctrl_c_ends_the_following_with_130(app: Flask, processes: Processes, eventually: Callable[..., Any]) -> None:
    processes.run("enqueue", "--command", "true", "--id", "a")
    follower = processes.start("logs", "a", "-f")
    eventually(lambda: "[a: pending" in processes.errors)
    follower.send_signal(signal.SIGINT)
    assert follower.wait(DEADLINE) == 130
    assert "Traceback" not in processes.errors
