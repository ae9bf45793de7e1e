"""Label requirements: which workers take a job, in which order, and that other jobs are not delayed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable

import pytest

from tests import factories
from tests.deadline import DEADLINE
from tests.factories import change_job
from tests.worker.conftest import Fleet, Queue, assignment, both_ways
from webapp.core.storage.transaction import Connection
from webapp.jobs import queue_actions
from worker import processes
from worker.loop.dispatcher import Dispatcher

Start = Callable[..., Fleet]
Taker = Callable[..., Dispatcher]
HERE = processes.host_name()


@pytest.fixture(params=[None, ["mail", "default"]], ids=["all-queues", "named-queues"])
def taker(connection: Connection, request: pytest.FixtureRequest) -> Taker:
    """The dispatcher of a worker with these labels. A worker of named queues claims in another way."""

    def make(*had: str, slots: int = 8) -> Dispatcher:
        worker = factories.make_worker(slots=slots)
        return Dispatcher(connection, worker.id, assignment(slots, had, request.param), lambda: 10.0, list)

    return make


def takes(dispatcher: Dispatcher) -> list[str]:
    return [claim.id for claim in dispatcher.turn()]


# --- which worker ---


@pytest.mark.parametrize(
    ("requires", "had", "fits"),
    [
        ("gpu", (), False),
        ("gpu", ("gpu",), True),
        ("gpu", ("gpu2", "gp", "GPU"), False),
        ("gpu, ssd", ("gpu",), False),
        ("gpu, ssd", ("tape", "ssd", "gpu"), True),
        (f"host:{HERE}", (), True),
        (f"host:{HERE.upper()}", (), True),
        (f"host:{HERE}, gpu", (), False),
        (f"host:{HERE}, gpu", ("gpu",), True),
        ("host:elsewhere", ("elsewhere",), False),
        ([], (), True),
        ([], ("gpu",), True),
    ],
)
def test_a_worker_takes_a_job_only_if_it_has_all_required_labels(
    queue: Queue, taker: Taker, requires: Any, had: Sequence[str], fits: bool
) -> None:
    job_id = queue.enqueue("true", requires=requires)
    assert takes(taker(*had)) == ([job_id] if fits else [])


def test_a_worker_of_other_queues_never_takes_the_job(queue: Queue, connection: Connection) -> None:
    queue.enqueue("true", queue="mail", requires="gpu")
    factories.make_worker(id="w1")
    served = assignment(labels=["gpu"])
    elsewhere = type(served)(served.supervisor_id, 1, 1, 1, ["default"], ["gpu"], False)
    assert takes(Dispatcher(connection, "w1", elsewhere, lambda: 10.0, list)) == []


def test_a_running_worker_sees_a_new_label_set(queue: Queue, taker: Taker) -> None:
    queue.enqueue("true")
    dispatcher = taker("gpu", "ssd")
    assert len(takes(dispatcher)) == 1
    for requires in ("gpu", "ssd", "gpu, ssd"):
        job_id = queue.enqueue("true", requires=requires)
        assert takes(dispatcher) == [job_id]


def test_any_worker_promotes_a_due_job_and_a_matching_one_claims_it(queue: Queue, taker: Taker) -> None:
    job_id = queue.enqueue("true", requires="gpu", delay=1000)
    change_job(job_id, run_at=1)
    assert takes(taker()) == []
    assert queue.job(job_id).state == "pending"
    assert takes(taker("gpu")) == [job_id]


@pytest.mark.parametrize("requires", ["", "gpu"])
def test_no_job_of_a_paused_queue_is_claimed_until_it_is_resumed(queue: Queue, taker: Taker, requires: str) -> None:
    dispatcher = taker("gpu")
    job_id = queue.enqueue("true", queue="mail", requires=requires or [])
    queue_actions.pause_queue("mail", "person:ana")
    assert takes(dispatcher) == []
    queue_actions.resume_queue("mail", "person:ana")
    assert takes(dispatcher) == [job_id]


# --- in which order ---


@pytest.mark.parametrize("slots", [1, 3, 8])
def test_jobs_of_all_label_sets_are_claimed_by_priority_and_age(queue: Queue, taker: Taker, slots: int) -> None:
    asked = [("", 0), ("gpu", 0), ("gpu,ssd", 5), ("", 5), ("gpu", -1), ("ssd", 5), ("tape", 100), ("", 1)]
    jobs = [
        (queue.enqueue("true", requires=requires or [], priority=priority), requires, priority)
        for requires, priority in asked
    ]
    mine = sorted((job for job in jobs if job[1] != "tape"), key=lambda job: -job[2])
    assert takes(taker("gpu", "ssd", slots=slots)) == [job_id for job_id, _, _ in mine][:slots]


def test_jobs_for_other_workers_at_the_head_of_the_queue_delay_no_job(queue: Queue, taker: Taker) -> None:
    for _ in range(50):
        queue.enqueue("true", requires="gpu", priority=100)
    job_id = queue.enqueue("true", priority=-100)
    assert takes(taker()) == [job_id]


# --- jobs that must run alone ---


def test_an_exclusive_job_waits_for_a_worker_with_its_labels_and_delays_no_other(
    queue: Queue, taker: Taker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.loop.selection.EXCLUSIVE_WAIT", -1)  # a worker that it concerns would make room at once
    lone = queue.enqueue("true", requires="gpu")
    change_job(lone, losses=1)
    others = [queue.enqueue("true") for _ in range(3)]
    plain = taker(slots=2)
    assert takes(plain) == others[:2]
    gpu = taker("gpu")
    assert takes(gpu) == [lone]
    assert takes(gpu) == []


def test_a_busy_worker_makes_room_for_an_exclusive_job_of_its_label_sets(
    queue: Queue, taker: Taker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.loop.selection.EXCLUSIVE_WAIT", -1)
    first = queue.enqueue("true")
    gpu = taker("gpu")
    assert takes(gpu) == [first]
    change_job(queue.enqueue("true", requires="gpu"), losses=1)
    queue.enqueue("true")
    assert takes(gpu) == []


# --- real processes ---


@both_ways
def test_each_worker_runs_the_jobs_that_match_its_labels(queue: Queue, fleet: Start) -> None:
    fleet()
    fleet(labels=["gpu", "ssd"])
    both = queue.enqueue("true", requires="gpu, ssd", priority=-100)
    here = queue.enqueue("true", requires=f"gpu, host:{HERE}")
    never = queue.enqueue("true", requires="gpu, tape", priority=100)
    plain = [queue.enqueue("true") for _ in range(4)]
    for job_id in (both, here, *plain):
        queue.reaches(job_id, "completed")
    gpu = [worker.id for worker in queue.workers() if worker.labels]
    assert [queue.attempts(job_id)[0].worker_id for job_id in (both, here)] == gpu * 2
    assert queue.job(never).state == "pending"


@both_ways
def test_a_drain_ends_although_jobs_wait_for_labels_of_other_workers(queue: Queue, fleet: Start) -> None:
    others = [queue.enqueue("true", requires=requires, priority=9) for requires in ("gpu", "host:elsewhere")]
    lone = queue.enqueue("true", requires="gpu")
    change_job(lone, losses=1)
    mine = [queue.enqueue("true"), queue.enqueue("true", requires="ssd")]
    drain = fleet(ready=False, drain=True, labels=["ssd"])
    assert drain.process.wait(DEADLINE) == 0
    assert [queue.job(job_id).state for job_id in mine] == ["completed"] * 2
    assert {queue.job(job_id).state for job_id in (*others, lone)} == {"pending"}


@pytest.mark.full
def test_a_job_of_a_lost_worker_returns_to_its_label_set(
    queue: Queue, fleet: Start, eventually: Callable[..., Any]
) -> None:
    queue.set(lease=5)
    fleet()
    fleet(labels=["gpu"])
    job_id = queue.enqueue("test $QUEUECTL_ATTEMPT = 2 || exec sleep 600", requires="gpu")
    running = queue.reaches(job_id, "processing")
    [gpu] = [worker for worker in queue.workers() if worker.id == running.worker_id]
    processes.kill([gpu.pid])
    queue.reaches(job_id, "completed")
    ended = queue.attempts(job_id)
    assert [one.state for one in ended] == ["lost", "completed"]
    assert queue.verbs(job_id).count("lose") == 1
    successors = [worker.id for worker in queue.workers() if worker.labels == gpu.labels]
    assert ended[1].worker_id in successors
