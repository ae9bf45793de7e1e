"""Jobs with real workers: order, retries, dead letters, cancellation, release, pauses, drains."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any, Callable

import pytest

from tests.deadline import DEADLINE
from tests.worker.conftest import Fleet, Queue, both_ways
from webapp.core import job_spec
from webapp.db.engines import reading
from webapp.db.models import Supervisor
from webapp.jobs import actions, queue_actions, worker_actions
from webapp.jobs.filters import JobFilter

pytestmark = pytest.mark.every_python

Start = Callable[..., Fleet]


@pytest.mark.postgresql
def test_a_failing_job_is_retried_with_growing_waits_and_then_becomes_a_dead_letter(queue: Queue, fleet: Start) -> None:
    queue.set(backoff_base=1.2, backoff_jitter=0)
    fleet()
    job_id = queue.enqueue("echo try $QUEUECTL_ATTEMPT; exit 5", max_retries=2)
    job = queue.reaches(job_id, "dead")
    attempts = queue.attempts(job_id)
    assert [(one.number, one.state, one.exit_code) for one in attempts] == [
        (1, "failed", 5),
        (2, "failed", 5),
        (3, "failed", 5),
    ]
    waits = [after.started_at - before.finished_at for before, after in zip(attempts, attempts[1:])]
    assert waits[0] >= 1_200_000
    assert waits[1] >= 1_440_000
    assert (job.attempts, job.failures, job.exit_code) == (3, 3, 5)


def test_a_job_that_recovers_completes_and_keeps_its_failed_attempts(
    queue: Queue, fleet: Start, tmp_path: Path
) -> None:
    queue.set(backoff_base=1, backoff_jitter=0)
    fleet()
    job_id = queue.enqueue(f"echo x >> {tmp_path}/tries; test $(wc -l < {tmp_path}/tries) -ge 2")
    job = queue.reaches(job_id, "completed")
    assert [one.state for one in queue.attempts(job_id)] == ["failed", "completed"]
    assert job.last_error is None


@pytest.mark.full
def test_a_changed_setting_applies_to_the_next_failure_of_jobs_without_their_own(queue: Queue, fleet: Start) -> None:
    queue.set(backoff_base=1, backoff_jitter=0, max_retries=0)
    fleet()
    own = queue.enqueue("exit 1", max_retries=1)
    first = queue.enqueue("exit 1")
    assert queue.reaches(first, "dead").attempts == 1
    queue.set(max_retries=2)
    second = queue.enqueue("exit 1")
    assert queue.reaches(second, "dead").attempts == 3
    assert queue.reaches(own, "dead").attempts == 2


def test_higher_priority_runs_first_and_equal_jobs_run_in_order_of_arrival(
    queue: Queue, fleet: Start, tmp_path: Path
) -> None:
    order = tmp_path / "order"
    for name, priority in (("c", 0), ("a", 5), ("d", 0), ("e", -5), ("b", 5)):
        queue.enqueue(f"echo {name} >> {order}", priority=priority)
    assert fleet(ready=False, drain=True).process.wait(DEADLINE) == 0
    assert order.read_text().split() == ["a", "b", "c", "d", "e"]


def test_a_scheduled_job_starts_when_it_is_due_and_not_before(queue: Queue, fleet: Start) -> None:
    fleet()
    job_id = queue.enqueue("true", delay=1.5)
    job = queue.reaches(job_id, "completed")
    assert job.started_at is not None
    assert job.started_at >= job.run_at


@pytest.mark.postgresql
def test_many_workers_run_each_of_many_jobs_once(queue: Queue, fleet: Start, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    specs = [job_spec.parse({"command": f"echo $QUEUECTL_JOB_ID >> {ledger}"}) for _ in range(2000)]
    ids = actions.enqueue(specs, "person:test")
    assert fleet(ready=False, count=8, drain=True).process.wait(DEADLINE) == 0
    assert sorted(ledger.read_text().split()) == sorted(ids)


@pytest.mark.full
@both_ways
def test_a_drain_waits_for_retries_and_leaves_scheduled_jobs(queue: Queue, fleet: Start) -> None:
    queue.set(backoff_base=1, backoff_jitter=0)
    failing = queue.enqueue("exit 1", max_retries=1)
    later = queue.enqueue("true", delay=3600)
    assert fleet(ready=False, count=2, drain=True).process.wait(DEADLINE) == 0
    assert queue.job(failing).state == "dead"
    assert queue.job(later).state == "scheduled"


@pytest.mark.full
def test_a_worker_of_one_queue_leaves_the_others_alone(queue: Queue, fleet: Start) -> None:
    other = queue.enqueue("true", queue="other")
    mail = queue.enqueue("true", queue="mail")
    assert fleet(ready=False, queues=["mail"], drain=True).process.wait(DEADLINE) == 0
    assert (queue.job(mail).state, queue.job(other).state) == ("completed", "pending")


def test_a_paused_queue_starts_no_job_until_it_is_resumed(queue: Queue, fleet: Start) -> None:
    fleet()
    queue.reaches(queue.enqueue("true", queue="mail"), "completed")
    queue_actions.pause_queue("mail", "person:test")
    waiting = queue.enqueue("true", queue="mail")
    queue.reaches(queue.enqueue("true"), "completed")  # the worker has been here since, and left it
    assert queue.job(waiting).state == "pending"
    queue_actions.resume_queue("mail", "person:test")
    queue.reaches(waiting, "completed")


@pytest.mark.postgresql
@both_ways
def test_cancelling_a_running_job_ends_its_command_at_once(
    queue: Queue, fleet: Start, tmp_path: Path, pid_in: Callable[[Path], int], alive: Callable[[int], bool]
) -> None:
    fleet()
    job_id = queue.enqueue(f"echo $$ > {tmp_path}/pid; sleep 3600")
    pid = pid_in(tmp_path / "pid")
    assert actions.apply("cancel", [job_id], "person:ana").outcome.asked == [job_id]
    assert job_id in actions.apply("cancel", [job_id], "person:bob").outcome.refused  # by now it may have ended
    queue.reaches(job_id, "cancelled")
    [attempt] = queue.attempts(job_id)
    assert (attempt.state, attempt.reason) == ("cancelled", "cancelled")
    assert not alive(pid)
    assert queue.verbs(job_id) == ["ask_cancel"]


@pytest.mark.full
def test_a_cancelled_job_is_not_retried_even_if_it_fails_by_itself_first(
    queue: Queue, fleet: Start, tmp_path: Path
) -> None:
    queue.set(kill_grace=10)
    fleet()
    command = f"trap 'exit 7' TERM; touch {tmp_path}/here; while :; do sleep 0.05; done"
    job_id = queue.enqueue(command)
    queue._eventually((tmp_path / "here").exists)
    actions.apply("cancel", [job_id], "person:ana")
    assert queue.reaches(job_id, "cancelled").exit_code == 7


def is_ending(supervisor: str) -> bool:
    with reading() as session:
        row = session.get(Supervisor, supervisor)
        return row is not None and row.stopped_at is not None


@both_ways
def test_a_graceful_stop_lets_running_jobs_finish(
    queue: Queue, fleet: Start, tmp_path: Path, eventually: Callable[..., Any]
) -> None:
    one = fleet()
    job_id = queue.enqueue(f"touch {tmp_path}/here; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done")
    eventually((tmp_path / "here").exists)
    one.process.send_signal(signal.SIGTERM)
    # The state is visible, so people and supervisors do not wait for this worker.
    eventually(lambda: [worker.requested_state for worker in queue.workers()] == ["stop"])
    supervisor = queue.workers()[0].supervisor_id
    eventually(lambda: is_ending(supervisor))
    with pytest.raises(worker_actions.Unheard, match="has stopped or is stopping"):
        worker_actions.scale(supervisor, "person:ana", to=2)
    waiting = queue.enqueue("true")
    (tmp_path / "go").touch()
    assert one.process.wait(DEADLINE) == 0
    assert (queue.job(job_id).state, queue.job(waiting).state) == ("completed", "pending")
    assert len(queue.workers("stopped")) == 1


@both_ways
def test_a_job_that_does_not_finish_in_time_is_released_without_a_failure(
    queue: Queue, fleet: Start, tmp_path: Path, pid_in: Callable[[Path], int], alive: Callable[[int], bool]
) -> None:
    queue.set(shutdown_grace=0.5)
    one = fleet()
    job_id = queue.enqueue(f"echo $$ > {tmp_path}/pid; sleep 3600")
    pid = pid_in(tmp_path / "pid")
    assert one.stop() == 0
    job = queue.job(job_id)
    assert (job.state, job.failures, job.losses, job.attempts) == ("pending", 0, 0, 1)
    assert [attempt.state for attempt in queue.attempts(job_id)] == ["released"]
    assert not alive(pid)


@both_ways
def test_a_second_signal_releases_jobs_at_once(
    queue: Queue, fleet: Start, tmp_path: Path, pid_in: Callable[[Path], int], eventually: Callable[..., Any]
) -> None:
    queue.set(shutdown_grace=86_400)
    one = fleet()
    job_id = queue.enqueue(f"trap '' TERM; echo $$ > {tmp_path}/pid; while :; do sleep 0.1; done")
    pid_in(tmp_path / "pid")
    one.process.send_signal(signal.SIGINT)
    eventually(lambda: "stopping" in one.text())
    assert one.stop(signal.SIGINT) == 0
    assert queue.job(job_id).state == "pending"


@pytest.mark.full
def test_a_draining_worker_takes_nothing_until_it_is_resumed(
    queue: Queue, fleet: Start, eventually: Callable[..., Any]
) -> None:
    one = fleet()
    one.process.send_signal(signal.SIGUSR1)
    eventually(lambda: [worker.requested_state for worker in queue.workers()] == ["quiet"])
    job_id = queue.enqueue("true")
    [worker] = queue.workers()
    beat = worker.heartbeat
    queue.set(lease=5)
    eventually(lambda: queue.workers()[0].heartbeat > beat)  # it lives, and has had time to take the job
    assert queue.job(job_id).state == "pending"
    worker_actions.request_state("run", None, "person:ana")
    queue.reaches(job_id, "completed")


def test_ctrl_z_drains_a_worker_with_a_message_and_cont_resumes_it(
    queue: Queue, fleet: Start, eventually: Callable[..., Any]
) -> None:
    one = fleet()
    [worker] = queue.workers()
    os.kill(worker.pid, signal.SIGUSR2)  # means nothing
    os.kill(worker.pid, signal.SIGTSTP)
    eventually(lambda: queue.workers()[0].requested_state == "quiet")
    assert f"drains: it takes no new jobs until SIGCONT, or `manage.py worker resume {worker.id}`" in one.text()
    job_id = queue.enqueue("true")
    os.kill(worker.pid, signal.SIGCONT)
    queue.reaches(job_id, "completed")
    assert queue.workers()[0].requested_state == "run"
    os.kill(worker.pid, signal.SIGTSTP)
    eventually(lambda: queue.workers()[0].requested_state == "quiet")
    os.kill(worker.pid, signal.SIGHUP)
    eventually(lambda: [ended.id for ended in queue.workers("stopped")] == [worker.id])


@pytest.mark.full
def test_a_requested_stop_of_a_worker_is_final(queue: Queue, fleet: Start) -> None:
    one = fleet(count=2)
    first, second = sorted(worker.id for worker in queue.workers())
    worker_actions.request_state("stop", [first], "person:ana")
    queue._eventually(lambda: [worker.id for worker in queue.workers()] == [second])
    worker_actions.request_state("stop", None, "person:ana")
    assert one.process.wait(DEADLINE) == 0


@pytest.mark.full
def test_requeued_dead_letters_run_again(queue: Queue, fleet: Start, tmp_path: Path) -> None:
    fleet()
    job_id = queue.enqueue(f"test -e {tmp_path}/fixed", max_retries=0)
    queue.reaches(job_id, "dead")
    (tmp_path / "fixed").touch()
    actions.apply("requeue", JobFilter(state="dead"), "person:ana")
    job = queue.reaches(job_id, "completed")
    assert (job.attempts, job.failures) == (2, 0)
    assert queue.verbs(job_id) == ["requeue"]


def test_a_due_job_becomes_pending_even_while_every_worker_is_busy(
    queue: Queue, fleet: Start, tmp_path: Path, eventually: Callable[..., Any]
) -> None:
    fleet()
    queue.enqueue(f"touch {tmp_path}/here; sleep 3600")
    eventually((tmp_path / "here").exists)
    queue.reaches(queue.enqueue("true", delay=0.5), "pending")
