"""Commands as jobs, and what the queue records: exit codes, signals, limits, output, processes left behind."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, Callable

import pytest

from tests.worker.conftest import Fleet, Queue, both_ways
from webapp.db.engines import reading
from webapp.jobs import job_detail
from webapp.lib.error_key import error_key

Start = Callable[..., Fleet]


@both_ways
def test_a_command_that_exits_with_0_completes_and_its_output_is_kept(queue: Queue, fleet: Start) -> None:
    fleet()
    job = queue.reaches(queue.enqueue("echo out; echo err >&2"), "completed")
    [attempt] = queue.attempts(job.id)
    assert (job.exit_code, job.attempts, job.last_error) == (0, 1, None)
    assert (attempt.state, attempt.exit_code, attempt.number) == ("completed", 0, 1)
    assert job_detail.output_json(attempt)["stdout"] == "out\n"
    assert job_detail.output_json(attempt)["stderr"] == "err\n"


@both_ways
def test_the_resource_usage_of_a_command_is_recorded(queue: Queue, fleet: Start) -> None:
    fleet()
    # A child of the shell works for 0.2 s. Without fork, sampling sees at least half of it.
    work = "while read -r line < /proc/$$/stat; set -- $line; [ $((${14} + ${15})) -lt 20 ]; do :; done; sleep 0.5"
    job_id = queue.enqueue(f"sh -c {shlex.quote(work)}; true")
    queue.reaches(job_id, "completed")
    [attempt] = queue.attempts(job_id)
    assert (attempt.cpu_time or 0) > 50_000


def test_peak_memory_is_recorded_only_if_it_is_known(queue: Queue, fleet: Start) -> None:
    # Every command starts as a copy of its worker, whose memory does not count.
    fleet()
    small = queue.reaches(queue.enqueue("true"), "completed")
    assert queue.attempts(small.id)[0].peak_memory is None
    large = queue.reaches(queue.enqueue("head -c 200M /dev/zero | tail -c 200M > /dev/null"), "completed")
    assert (queue.attempts(large.id)[0].peak_memory or 0) > 150_000_000


def test_a_failed_command_is_explained_in_plain_words(queue: Queue, fleet: Start) -> None:
    errors = {
        "exit 3": "exit code 3",
        "echo broken pipe >&2; exit 3": "exit code 3: broken pipe",
        "kill -9 $$": "killed by signal 9 (SIGKILL)",
        "no-such-command-here": "exit code 127 (command not found)",
        "/etc/passwd": "exit code 126 (not executable)",
        "sh -c 'kill -9 $$'; exit $?": "exit code 137 (killed by SIGKILL)",
    }
    fleet(slots=3)
    ids = {queue.enqueue(command, max_retries=0): error for command, error in errors.items()}
    jobs = [queue.reaches(job_id, "dead") for job_id in ids]
    assert all(job.error_key for job in jobs)
    # The last output of the command or its shell follows a colon.
    assert {job.id: (job.last_error or "")[: len(ids[job.id])] for job in jobs} == ids


def test_a_command_that_begins_with_a_dash_is_not_an_option_of_the_shell(
    queue: Queue, fleet: Start, tmp_path: Path
) -> None:
    fleet()
    for cwd in (None, str(tmp_path)):
        job = queue.reaches(queue.enqueue("-x", max_retries=0, cwd=cwd), "dead")
        assert job.exit_code == 127
        assert "-x: not found" in (job.last_error or "")


def test_a_missing_working_folder_is_a_failed_attempt_that_names_it(queue: Queue, fleet: Start, tmp_path: Path) -> None:
    fleet()
    gone = queue.reaches(queue.enqueue("pwd", cwd=str(tmp_path / "gone"), max_retries=0), "dead")
    assert gone.last_error == f"working directory {tmp_path}/gone does not exist"
    assert gone.error_key == queue.attempts(gone.id)[0].error_key == error_key(gone.last_error, "pwd")
    here = queue.reaches(queue.enqueue("pwd", cwd=str(tmp_path)), "completed")
    assert queue.attempts(here.id)[0].output.decode() == f"{tmp_path}\n"


@both_ways
def test_a_job_past_its_timeout_is_ended_with_its_process_tree(
    queue: Queue, fleet: Start, tmp_path: Path, pid_in: Callable[[Path], int], alive: Callable[[int], bool]
) -> None:
    fleet()
    pid_file = tmp_path / "pid"
    command = f"setsid sh -c 'echo $$ > {pid_file}; exec sleep 3600' & wait"
    job_id = queue.enqueue(command, timeout=1, max_retries=0)
    escaped = pid_in(pid_file)
    job = queue.reaches(job_id, "dead")
    assert job.last_error == "timed out after 1 s"
    assert queue.attempts(job_id)[0].reason == "timeout"
    assert not alive(escaped)


@both_ways
def test_a_command_that_ignores_the_stop_request_is_killed_after_the_grace(queue: Queue, fleet: Start) -> None:
    queue.set(kill_grace=1)
    fleet()
    job_id = queue.enqueue("trap '' TERM; while :; do sleep 0.1; done", timeout=1, max_retries=0)
    job = queue.reaches(job_id, "dead")
    [attempt] = queue.attempts(job_id)
    assert job.last_error == "timed out after 1 s"
    assert attempt.finished_at - attempt.started_at >= 2_000_000


@pytest.mark.every_python
@both_ways
def test_processes_left_by_a_shell_neither_block_the_job_nor_outlive_it(
    queue: Queue, fleet: Start, tmp_path: Path, pid_in: Callable[[Path], int], alive: Callable[[int], bool]
) -> None:
    fleet()
    pid_file = tmp_path / "pid"
    job_id = queue.enqueue(f"setsid sh -c 'echo $$ > {pid_file}; exec sleep 3600' & sleep 0.2; echo done")
    queue.reaches(job_id, "completed")
    assert not alive(pid_in(pid_file))
    assert queue.attempts(job_id)[0].output == b"done\n"
    assert queue.verbs(job_id) == ["end_left_behind"]


@pytest.mark.every_python
def test_a_daemon_without_parent_and_environment_is_ended_too(
    queue: Queue, fleet: Start, tmp_path: Path, pid_in: Callable[[Path], int], alive: Callable[[int], bool]
) -> None:
    fleet()
    pid_file = tmp_path / "pid"
    job_id = queue.enqueue(f"(env -i setsid sh -c 'echo $$ > {pid_file}; exec sleep 3600' &) ; sleep 0.3")
    queue.reaches(job_id, "completed")
    assert not alive(pid_in(pid_file))


def test_left_processes_of_one_job_are_ended_while_another_job_of_the_worker_continues(
    queue: Queue, fleet: Start, tmp_path: Path, pid_in: Callable[[Path], int], alive: Callable[[int], bool]
) -> None:
    fleet(slots=2)
    neighbour = queue.enqueue(f"echo $$ > {tmp_path}/neighbour; (sleep 3600 & echo $! > {tmp_path}/child; wait)")
    child = pid_in(tmp_path / "child")
    job_id = queue.enqueue(f"setsid sh -c 'echo $$ > {tmp_path}/left; exec sleep 3600' & sleep 0.2")
    queue.reaches(job_id, "completed")
    assert not alive(pid_in(tmp_path / "left"))
    assert alive(child)
    assert queue.job(neighbour).state == "processing"


def test_a_command_gets_its_job_variables_and_none_of_our_settings(
    queue: Queue, fleet: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUEUECTL_SECRET_OF_OURS", "hush")
    monkeypatch.setenv("A_VARIABLE_OF_THEIRS", "seen")
    fleet()
    job_id = queue.enqueue("env; echo stdin: $(cat)", env={"GREETING": "good day, 世界"})
    queue.reaches(job_id, "completed")
    lines = queue.attempts(job_id)[0].output.decode().splitlines()
    ours = {line.split("=", 1)[0] for line in lines if line.startswith("QUEUECTL_")}
    of_the_queue = {"QUEUECTL_HOME", "QUEUECTL_DATABASE_URL", "QUEUECTL_VENV"}  # tests/worker/test_job_environment.py
    assert ours - of_the_queue == {"QUEUECTL_JOB_ID", "QUEUECTL_ATTEMPT", "QUEUECTL_REPORT", "QUEUECTL_TOKEN"}
    assert {f"QUEUECTL_JOB_ID={job_id}", "QUEUECTL_ATTEMPT=1", "GREETING=good day, 世界"} <= set(lines)
    assert "A_VARIABLE_OF_THEIRS=seen" in lines
    assert "stdin:" in lines


def test_a_command_has_the_signal_handlers_of_a_shell(queue: Queue, fleet: Start) -> None:
    fleet()
    job_id = queue.enqueue("grep -E 'SigIgn|SigBlk' /proc/self/status")
    queue.reaches(job_id, "completed")
    masks = [int(line.split()[1], 16) for line in queue.attempts(job_id)[0].output.decode().splitlines()]
    assert [mask & 0x7FFFFFFF for mask in masks] == [0, 0]  # above are the C library's own, which it never lets through


def test_a_command_inherits_no_file_descriptor_of_ours(queue: Queue, fleet: Start) -> None:
    fleet()
    job_id = queue.enqueue("ls /proc/$$/fd")
    queue.reaches(job_id, "completed")
    assert queue.attempts(job_id)[0].output.decode().split() == ["0", "1", "2"]


@both_ways
def test_too_much_output_keeps_its_beginning_and_end_and_counts_the_rest(queue: Queue, fleet: Start) -> None:
    queue.set(output_limit=2048)
    fleet()
    job_id = queue.enqueue("seq 1 100000; echo the end")
    queue.reaches(job_id, "completed")
    [attempt] = queue.attempts(job_id)
    written = "".join(f"{number}\n" for number in range(1, 100001)) + "the end\n"
    assert attempt.output == (written[:1024] + written[-1024:]).encode()
    assert (attempt.output_cut, attempt.output_dropped) == (1024, len(written) - 2048)


def test_binary_output_is_kept_byte_for_byte(queue: Queue, fleet: Start) -> None:
    fleet()
    job_id = queue.enqueue(r"printf '\000\377\303'; printf '\251' >&2; head -c 5000 /dev/zero")
    queue.reaches(job_id, "completed")
    kept = queue.attempts(job_id)[0]
    output = job_detail._kept(kept)
    assert output.stream(1) == b"\x00\xff\xc3" + bytes(5000)
    assert output.stream(2) == b"\xa9"


def test_the_output_of_a_running_job_can_be_followed(
    queue: Queue, fleet: Start, eventually: Callable[..., Any]
) -> None:
    fleet()
    job_id = queue.enqueue("echo first; sleep 0.1; echo second >&2; sleep 3600")

    def live() -> bytes:
        with reading() as session:
            output = job_detail.output(session, queue.job(job_id), 1)
        return output.data if output is not None and output.live else b""

    assert eventually(lambda: live() == b"first\nsecond\n")


@both_ways
def test_the_end_of_the_output_is_kept_when_a_job_ends_right_after_a_flood(queue: Queue, fleet: Start) -> None:
    fleet()
    ids = [queue.enqueue("head -c 200000 /dev/zero | tr '\\0' x; printf end") for _ in range(20)]
    for job_id in ids:
        queue.reaches(job_id, "completed")
        assert queue.attempts(job_id)[0].output == b"x" * 200000 + b"end"


@both_ways
def test_a_worker_runs_as_many_jobs_at_once_as_it_has_slots(
    queue: Queue, fleet: Start, tmp_path: Path, eventually: Callable[..., Any]
) -> None:
    # Each waits for four: with fewer slots, none would end.
    wait = (
        f"touch {tmp_path}/$QUEUECTL_JOB_ID.here; while [ $(ls {tmp_path}/*.here | wc -l) -lt 4 ]; do sleep 0.02; done"
    )
    ids = [queue.enqueue(wait) for _ in range(4)]
    fleet(slots=4)
    for job_id in ids:
        queue.reaches(job_id, "completed")


@both_ways
def test_an_idle_worker_starts_a_new_job_before_its_next_poll(queue: Queue, fleet: Start) -> None:
    fleet(check_every=86_400)
    for _ in range(3):
        queue.reaches(queue.enqueue("true"), "completed")


def test_a_worker_notified_while_full_receives_the_next_notification(
    queue: Queue, fleet: Start, eventually: Callable[..., Any]
) -> None:
    fleet(count=1, check_every=86_400)
    first = queue.enqueue("sleep 1", delay=0.5)  # taken by the clock, and not for a ring
    eventually(lambda: queue.job(first).state == "processing")
    second = queue.enqueue("true")
    eventually(lambda: queue.job(second).state == "completed")
    third = queue.enqueue("true")
    eventually(lambda: queue.job(third).state == "completed")


def test_a_worker_stays_small_during_a_flood_of_output(
    queue: Queue, fleet: Start, eventually: Callable[..., Any]
) -> None:
    import psutil

    fleet()
    [worker] = queue.workers()
    queue.reaches(queue.enqueue("true"), "completed")
    before = psutil.Process(worker.pid).memory_info().rss
    job_id = queue.enqueue("head -c 100000000 /dev/zero | tr '\\0' '\\n'; sleep 3600")
    eventually(lambda: _dropped(queue, job_id) > 99_000_000, 60)
    assert psutil.Process(worker.pid).memory_info().rss - before < 20_000_000


def _dropped(queue: Queue, job_id: str) -> int:
    with reading() as session:
        output = job_detail.output(session, queue.job(job_id), 1)
    return output.dropped if output is not None else 0
