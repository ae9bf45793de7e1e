"""`run`, `wait`, `logs --exit-code` and `enqueue --wait`: a script gets the results of `sh -c`."""

from __future__ import annotations

import io
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Callable

import pytest
from sqlalchemy import func, select

from tests.commands.conftest import Cli, Processes
from tests.deadline import DEADLINE
from tests.factories import make_job, make_worker
from tests.real_commands import COMMANDS
from webapp.commands import main
from webapp.db.engines import reading
from webapp.db.models import Worker
from webapp.jobs import actions, job_detail, listing
from webapp.jobs.filters import JobFilter

pytestmark = pytest.mark.only("sqlite")

ONCE = ("--max-retries", "0")
SOME = [
    "echo out; echo err >&2; exit 3",
    "printf 'a\\0b\\377\\n'",
    "kill -TERM $$",
    "kill -KILL $$",
    "sh -c 'kill -SEGV $$'",
    "seq 20000",
    "seq 3 >&2; exit 255",
    "printf 'no line end'",
    "echo ä€𝄞",
    "exit 0",
]


@pytest.fixture
def worker(app: object, processes: Processes, eventually: Callable[..., object]) -> Iterator[None]:
    process = processes.start("worker", "start", "--count", "1", "--slots", "4")
    eventually(workers)
    yield
    process.send_signal(signal.SIGINT)
    process.wait(DEADLINE)


def run(*argv: str) -> tuple[int, bytes, bytes]:
    """Run a command in this process; return its exit code and the bytes of both streams."""
    kept = io.BytesIO(), io.BytesIO()
    out, err = (io.TextIOWrapper(buffer, encoding="utf-8", write_through=True) for buffer in kept)
    with redirect_stdout(out), redirect_stderr(err):
        code = main(list(argv))
    return code, kept[0].getvalue(), kept[1].getvalue()


def under_sh(command: str) -> tuple[int, bytes, bytes]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(["/bin/sh", "-c", "--", command], capture_output=True, stdin=subprocess.DEVNULL,
                          env=environment, timeout=DEADLINE, check=False)  # fmt: skip
    return done.returncode if done.returncode >= 0 else 128 - done.returncode, done.stdout, done.stderr


def workers() -> int:
    with reading() as session:
        return session.scalar(select(func.count()).select_from(Worker).where(Worker.state == "running")) or 0


def newest() -> str:
    with reading() as session:
        (job,) = listing.page_of_jobs(session, JobFilter(), limit=1).jobs
    return job.id


@pytest.mark.usefixtures("worker")
def test_a_command_has_the_exit_code_and_the_bytes_of_sh() -> None:
    for command in SOME:
        assert run("run", *ONCE, command) == under_sh(command), command
    assert run("run", *ONCE, "--", "printf", "%s|", "a b", "$HOME")[:2] == (0, b"a b|$HOME|")


@pytest.mark.full
@pytest.mark.usefixtures("worker")
def test_real_commands_have_the_results_of_sh() -> None:
    # A worker's environment and session differ from this process's; tests/test_real_batch.py compares those.
    commands = [one for one in COMMANDS if not any(word in one for word in ("env |", "OLDPWD", "pgid"))]
    differences = [one for one in commands if run("run", *ONCE, "--", one) != under_sh(one)]
    assert differences == []


@pytest.mark.usefixtures("worker")
def test_the_last_attempt_counts_and_a_retry_is_reported(tmp_path: Path) -> None:
    counted = f"echo x >> {tmp_path}/n; test $(wc -l < {tmp_path}/n) -eq 2"
    code, _, told = run("run", "--max-retries", "1", counted)
    assert code == 0
    assert b"attempt 1 failed" in told


@pytest.mark.usefixtures("worker")
def test_it_runs_in_the_current_folder_and_continues_the_callers_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    monkeypatch.setenv("TRACEPARENT", trace)
    assert run("run", "pwd; echo $TRACEPARENT") == (0, f"{tmp_path}\n{trace}\n".encode(), b"")
    assert run("run", "--cwd", "/", "pwd") == (0, b"/\n", b"")


@pytest.mark.usefixtures("worker")
def test_a_timeout_ends_with_124() -> None:
    assert run("run", *ONCE, "--timeout", "0.2", "sleep 60")[0] == 124


def test_an_invalid_job_ends_with_125(cli: Cli) -> None:
    refused = cli("run", "--priority", "1000", "true")
    assert (refused.code, "priority" in refused.err) == (125, True)
    assert cli("run").code == 2


@pytest.mark.usefixtures("worker")
def test_ctrl_c_without_a_terminal_cancels(processes: Processes, eventually: Callable[..., object]) -> None:
    process = processes.start("run", "echo began; sleep 600")
    assert process.stdout is not None
    assert process.stdout.readline() == "began\n"
    process.send_signal(signal.SIGINT)
    more, _ = process.communicate(timeout=DEADLINE)
    assert (process.returncode, more) == (130, "")  # nothing is printed twice
    with reading() as session:
        job = job_detail.find(session, newest())
    assert job is not None
    assert job.state == "cancelled"


def test_a_discarded_job_ends_the_command(app: object, processes: Processes, eventually: Callable[..., object]) -> None:
    """It must not wait forever."""
    process = processes.start("run", "true")
    eventually(lambda: "no workers are running" in processes.errors)
    actions.apply("discard", [newest()], "person:ana")
    assert process.wait(DEADLINE) == 125
    assert "was discarded" in processes.errors


def test_it_warns_that_no_worker_serves_the_queue(
    app: object, processes: Processes, eventually: Callable[..., object]
) -> None:
    make_worker(queues='["mail"]')
    process = processes.start("run", "--queue", "backup", "true")
    eventually(lambda: "no worker serves the queue backup" in processes.errors)
    actions.apply("discard", [newest()], "person:ana")
    assert process.wait(DEADLINE) == 125


def test_wait_ends_with_1_at_the_first_job_that_did_not_complete(app: object, cli: Cli) -> None:
    for state in ("completed", "dead", "cancelled", "pending"):
        make_job(state, id=state)
    assert cli("wait", "completed").code == 0
    for state in ("dead", "cancelled"):
        failed = cli("wait", "completed", state, "pending")
        assert (failed.code, failed.err) == (1, f"{state}: {state}\n")
    assert cli("wait", "pending", "--timeout", "0").code == 124
    assert cli("wait", "nothing").code == 4


@pytest.mark.usefixtures("worker")
def test_enqueue_waits_and_logs_end_with_the_exit_code() -> None:
    assert run("enqueue", "--wait", "--command", "true")[0] == 0
    assert run("enqueue", "--wait", "--command", "exit 7", "--id", "seven", *ONCE)[0] == 1
    assert run("logs", "-f", "--exit-code", "seven")[0] == 7
    assert run("logs", "--exit-code", "seven")[0] == 2
