"""Workers that die: their commands end first, then their jobs are requeued; poison jobs become dead letters."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Callable, Optional

import psutil
import pytest
from sqlalchemy import select

from tests.deadline import DEADLINE
from tests.factories import make_job
from tests.worker.conftest import Fleet, Queue, both_ways
from tests.worker_connection import worker_connection
from webapp.core.notices import SYSTEM_QUEUE
from webapp.db.engines import reading
from webapp.db.models import Job
from webapp.jobs import actions
from worker import processes
from worker.maintenance import recovery

Start = Callable[..., Fleet]


@pytest.mark.every_python
@pytest.mark.postgresql
@both_ways
def test_a_job_of_a_killed_worker_is_requeued_at_once_after_its_command_has_ended(
    queue: Queue, fleet: Start, tmp_path: Path, pid_in: Callable[[Path], int], alive: Callable[[int], bool]
) -> None:
    fleet()
    job_id = queue.enqueue(f"echo $$ > {tmp_path}/$QUEUECTL_ATTEMPT; [ $QUEUECTL_ATTEMPT = 2 ] || sleep 3600")
    first = pid_in(tmp_path / "1")
    [worker] = queue.workers()
    os.kill(worker.pid, signal.SIGKILL)
    job = queue.reaches(job_id, "completed")
    assert not alive(first)
    assert (job.attempts, job.failures, job.losses) == (2, 0, 1)
    assert [(one.state, one.reason) for one in queue.attempts(job_id)] == [("lost", "lost"), ("completed", "exit")]
    assert queue.verbs(job_id) == ["lose"]
    assert [event.verb for event in queue.events(f"worker:{worker.id}")] == ["start", "expire"]


@pytest.mark.postgresql
@pytest.mark.usefixtures("app")
def test_a_claim_is_seized_before_its_command_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a suspended worker could report the end of the command as a failure of the job."""
    job = make_job("processing", token="first")  # its worker's row is gone
    seen: list[Optional[str]] = []

    def end(tokens: Sequence[str]) -> bool:
        with reading() as session:
            seen.extend(session.scalars(select(Job.token).where(Job.id == job.id)))
        return tokens == ["first"]

    monkeypatch.setattr(processes, "end_tokens", end)
    with closing(worker_connection()) as connection:
        assert recovery.recover_orphans(connection) == 1
    assert seen == ["seized:first"]


@pytest.mark.full
def test_the_output_of_a_lost_attempt_is_kept(
    queue: Queue, fleet: Start, tmp_path: Path, pid_in: Callable[[Path], int], eventually: Callable[..., Any]
) -> None:
    from webapp.jobs import job_detail

    fleet()
    job_id = queue.enqueue(
        f"echo so far; echo $$ > {tmp_path}/$QUEUECTL_ATTEMPT; [ $QUEUECTL_ATTEMPT = 2 ] || sleep 3600"
    )

    def stored() -> bool:
        with reading() as session:
            output = job_detail.output(session, queue.job(job_id), 1)
        return output is not None and output.data == b"so far\n"

    eventually(stored)
    os.kill(queue.workers()[0].pid, signal.SIGKILL)
    queue.reaches(job_id, "completed")
    assert queue.attempts(job_id)[0].output == b"so far\n"


@pytest.mark.every_python
def test_a_job_that_kills_its_worker_becomes_a_dead_letter_after_three_losses_alone(queue: Queue, fleet: Start) -> None:
    fleet()
    # The first loss only makes it run alone; the three that count come after it.
    job_id = queue.enqueue("kill -9 $PPID; sleep 3600")
    job = queue.reaches(job_id, "dead")
    assert (job.attempts, job.losses, job.lone_losses, job.failures) == (4, 4, 3, 0)
    assert "Poison job" in (job.last_error or "")
    assert job.error_key
    assert [attempt.error_key for attempt in queue.attempts(job_id)] == [None, None, None, job.error_key]


@pytest.mark.usefixtures("app")
def test_a_lost_sender_of_messages_is_replaced_and_need_not_run_alone() -> None:
    """The dispatcher of notifications enqueues another one when it has ended."""
    job = make_job("processing", queue=SYSTEM_QUEUE, worker_id="gone")
    with closing(worker_connection()) as connection:
        assert recovery.recover_orphans(connection) == 1
    with reading() as session:
        after = session.get_one(Job, job.seq)
    assert (after.state, after.error_key) == ("dead", None)
    assert "Poison" not in (after.last_error or "")


@pytest.mark.full
def test_the_neighbours_of_a_poison_job_do_not_become_dead_letters(queue: Queue, fleet: Start) -> None:
    ids = [queue.enqueue("sleep 1.5") for _ in range(7)]
    poison = queue.enqueue("sleep 0.3; kill -9 $PPID; sleep 3600")
    fleet(slots=8)
    queue.reaches(poison, "dead")
    for job_id in ids:
        queue.reaches(job_id, "completed")


@pytest.mark.full
def test_a_cancelled_job_whose_worker_dies_is_cancelled_and_not_run_again(
    queue: Queue, fleet: Start, tmp_path: Path, pid_in: Callable[[Path], int]
) -> None:
    queue.set(kill_grace=60)
    fleet()
    job_id = queue.enqueue(f"trap '' TERM; echo $$ > {tmp_path}/pid; while :; do sleep 0.1; done")
    pid_in(tmp_path / "pid")
    actions.apply("cancel", [job_id], "person:ana")
    os.kill(queue.workers()[0].pid, signal.SIGKILL)
    job = queue.reaches(job_id, "cancelled")
    assert job.attempts == 1


def test_a_worker_marked_lost_ends_its_commands_and_is_replaced(
    queue: Queue, fleet: Start, tmp_path: Path, pid_in: Callable[[Path], int], alive: Callable[[int], bool]
) -> None:
    queue.set(lease=5)
    fleet()
    job_id = queue.enqueue(f"echo $$ > {tmp_path}/$QUEUECTL_ATTEMPT; [ $QUEUECTL_ATTEMPT = 2 ] || sleep 3600")
    first = pid_in(tmp_path / "1")
    [worker] = queue.workers()
    os.kill(worker.pid, signal.SIGSTOP)  # its heartbeat stands still, but its process is there
    queue.reaches(job_id, "completed")
    assert not alive(first)
    assert not alive(worker.pid)
    assert queue.job(job_id).losses == 1


@both_ways
def test_workers_of_a_killed_supervisor_finish_their_jobs_and_exit(
    queue: Queue, fleet: Start, tmp_path: Path, eventually: Callable[..., Any], alive: Callable[[int], bool]
) -> None:
    one = fleet(count=2)
    job_id = queue.enqueue(f"touch {tmp_path}/here; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done")
    eventually((tmp_path / "here").exists)
    family = [child.pid for child in psutil.Process(one.process.pid).children()]
    assert len(family) == 3
    os.kill(one.process.pid, signal.SIGKILL)
    (tmp_path / "go").touch()
    queue.reaches(job_id, "completed")
    eventually(lambda: not any(alive(pid) for pid in family))


@pytest.mark.full
def test_after_everything_was_killed_a_new_start_recovers_the_jobs(
    queue: Queue, fleet: Start, tmp_path: Path, pid_in: Callable[[Path], int], alive: Callable[[int], bool]
) -> None:
    one = fleet()
    job_id = queue.enqueue(f"echo $$ > {tmp_path}/$QUEUECTL_ATTEMPT; [ $QUEUECTL_ATTEMPT = 2 ] || sleep 3600")
    first = pid_in(tmp_path / "1")
    workers = [child.pid for child in psutil.Process(one.process.pid).children()]
    for pid in (one.process.pid, *workers):
        os.kill(pid, signal.SIGKILL)
    assert alive(first)
    fleet(ready=False)
    queue.reaches(job_id, "completed")
    assert not alive(first)
    assert queue.job(job_id).losses == 1


@pytest.mark.full
def test_a_dead_maintenance_process_is_replaced(queue: Queue, fleet: Start, eventually: Callable[..., Any]) -> None:
    one = fleet()
    [worker] = queue.workers()
    [maintenance] = [child.pid for child in psutil.Process(one.process.pid).children() if child.pid != worker.pid]
    os.kill(maintenance, signal.SIGKILL)
    eventually(lambda: "maintenance ended (signal 9); starting another" in one.text())
    os.kill(worker.pid, signal.SIGKILL)
    eventually(lambda: worker.id in {one.id for one in queue.workers("expired")})


@pytest.mark.full
def test_a_suspended_maintenance_process_is_replaced(
    queue: Queue, fleet: Start, eventually: Callable[..., Any]
) -> None:
    one = fleet()
    [worker] = queue.workers()
    [maintenance] = [child.pid for child in psutil.Process(one.process.pid).children() if child.pid != worker.pid]
    os.kill(maintenance, signal.SIGSTOP)
    eventually(lambda: "maintenance ended (signal 9); starting another" in one.text(), 30)


def test_a_command_is_identified_by_its_token_alone(eventually: Callable[..., Any]) -> None:
    for others in ({}, {"X_QUEUECTL_TOKEN": "mine"}, {"NOTE": "see QUEUECTL_TOKEN=theirs"}):
        with subprocess.Popen(["sleep", "60"], env={**os.environ, **others, "QUEUECTL_TOKEN": "a-token"}) as process:
            eventually(lambda: processes.token_of(process.pid) == "a-token")
            assert processes.end_tokens(["a-token"])
            assert process.wait(DEADLINE) == -signal.SIGKILL
    with subprocess.Popen(["sleep", "60"], env={"NOTE": "see QUEUECTL_TOKEN=a-token"}) as process:
        eventually(lambda: b"NOTE" in Path(f"/proc/{process.pid}/environ").read_bytes())
        assert processes.token_of(process.pid) is None
        process.kill()
