"""Scaling while a supervisor runs: the desired number is reached, and no job is interrupted."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any, Callable, Optional

import psutil
import pytest
from flask import Flask
from sqlalchemy import select, text

from tests.deadline import DEADLINE
from tests.worker.conftest import Fleet, Queue, both_ways
from webapp.db.engines import reading, writing
from webapp.db.models import Supervisor, Worker
from webapp.jobs import lifecycle, worker_actions
from worker.messages import RELOCATED, DesiredWorkers

Start = Callable[..., Fleet]
Eventually = Callable[..., Any]


def row() -> Supervisor:
    with reading() as session:
        return session.scalars(select(Supervisor)).one()


def scale(**how: int) -> worker_actions.Scaled:
    return worker_actions.scale(row().id, "person:ana", **how)


def maintenance_of(one: Fleet, queue: Queue, eventually: Eventually) -> psutil.Process:
    """The pid of the maintenance process, once all workers are registered."""

    def found() -> Optional[psutil.Process]:
        pids = {worker.pid for state in ("running", "stopped", "expired") for worker in queue.workers(state)}
        others = [child for child in psutil.Process(one.process.pid).children() if child.pid not in pids]
        return others[0] if len(others) == 1 else None

    maintenance: psutil.Process = eventually(found)
    return maintenance


@both_ways
def test_a_supervisor_is_scaled_up_then_to_zero_then_up_again(
    queue: Queue, fleet: Start, eventually: Eventually
) -> None:
    one = fleet(count=1, slots=2, queues=["mail"])
    first = row()
    assert (first.wanted, first.slots, first.queues, first.pid) == (1, 2, '["mail"]', one.process.pid)
    assert scale(to=3) == worker_actions.Scaled(first.id, 1, 3)
    eventually(lambda: len(queue.workers()) == 3)
    assert {(worker.slots, worker.queues) for worker in queue.workers()} == {(2, '["mail"]')}
    [event] = queue.events(f"supervisor:{first.id}")
    assert (event.verb, event.actor, event.detail) == ("scale", "person:ana", '{"from": 1, "to": 3}')
    scale(to=0)
    eventually(lambda: not queue.workers())
    assert len(queue.workers("stopped")) == 3
    job_id = queue.enqueue("true", queue="mail")
    assert scale(by=+1).after == 1
    queue.reaches(job_id, "completed")
    assert one.process.poll() is None
    assert one.stop() == 0
    assert row().stopped_at is not None
    assert queue.workers("expired") == []


@pytest.mark.full
@both_ways
def test_scaling_down_stops_idle_workers_first_and_a_busy_one_finishes_its_job(
    queue: Queue, fleet: Start, tmp_path: Path, eventually: Eventually
) -> None:
    queue.set(shutdown_grace=0)  # a signal would release the jobs at once
    fleet(count=3)
    wait = f"touch {tmp_path}/$QUEUECTL_JOB_ID; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done"
    ids = [queue.enqueue(wait) for _ in range(2)]
    eventually(lambda: all((tmp_path / job_id).exists() for job_id in ids))
    scale(to=1)
    eventually(
        lambda: sorted(worker.requested_state for worker in queue.workers()) == ["run", "stop"]
    )  # the idle one is gone
    assert [queue.job(job_id).state for job_id in ids] == ["processing", "processing"]
    (tmp_path / "go").touch()
    for job_id in ids:
        assert queue.reaches(job_id, "completed").attempts == 1
    eventually(lambda: [worker.requested_state for worker in queue.workers()] == ["run"])


@pytest.mark.full
def test_a_worker_stopped_by_a_user_is_not_replaced_until_the_next_scaling(
    queue: Queue, fleet: Start, eventually: Eventually
) -> None:
    one = fleet(count=2)
    [first, second] = queue.workers()
    worker_actions.request_state("stop", [first.id], "person:ana")
    assert row().wanted == 1
    worker_actions.request_state("stop", [first.id], "person:ben")  # already stopped: it counts once
    assert row().wanted == 1
    eventually(lambda: [worker.id for worker in queue.workers()] == [second.id])
    worker_actions.request_state("stop", [second.id], "person:ana")
    eventually(lambda: not queue.workers())
    assert (row().wanted, row().stopped_at) == (0, None)
    assert scale(by=2).after == 2
    eventually(lambda: len(queue.workers()) == 2)
    assert one.process.poll() is None


@pytest.mark.full
def test_a_stopping_worker_makes_room_before_it_exits(
    queue: Queue, fleet: Start, tmp_path: Path, eventually: Eventually
) -> None:
    fleet(count=1)
    job_id = queue.enqueue(f"touch {tmp_path}/here; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done")
    eventually((tmp_path / "here").exists)
    scale(to=0)
    eventually(lambda: [worker.requested_state for worker in queue.workers()] == ["stop"])
    scale(to=1)
    queue.reaches(queue.enqueue("true"), "completed")
    assert queue.job(job_id).state == "processing"
    (tmp_path / "go").touch()
    queue.reaches(job_id, "completed")
    eventually(lambda: [worker.requested_state for worker in queue.workers()] == ["run"])


@pytest.mark.full
def test_a_worker_ended_by_a_signal_is_replaced(queue: Queue, fleet: Start, eventually: Eventually) -> None:
    fleet(count=1)
    [worker] = queue.workers()
    os.kill(worker.pid, signal.SIGTERM)
    eventually(lambda: [one.id != worker.id for one in queue.workers()] == [True])
    assert row().wanted == 1


@pytest.mark.full
@both_ways
def test_the_desired_number_survives_the_death_of_maintenance(
    queue: Queue, fleet: Start, eventually: Eventually
) -> None:
    one = fleet(count=1)
    scale(to=2)
    maintenance_of(one, queue, eventually).kill()
    eventually(lambda: len(queue.workers()) == 2)
    scale(to=0)
    maintenance_of(one, queue, eventually).kill()
    eventually(lambda: not queue.workers())
    assert (row().wanted, one.process.poll()) == (0, None)


@pytest.mark.full
def test_stopping_all_workers_ends_the_supervisors_too(queue: Queue, fleet: Start, eventually: Eventually) -> None:
    one = fleet(count=2)
    two = fleet(count=1)
    worker_actions.scale(row_of(two).id, "person:ana", to=0)
    eventually(lambda: len(queue.workers()) == 2)
    worker_actions.request_state("stop", None, "person:ana")
    assert (one.process.wait(DEADLINE), two.process.wait(DEADLINE)) == (0, 0)
    with pytest.raises(worker_actions.Unheard, match="has stopped"):
        worker_actions.scale(row_of(one).id, "person:ana", to=1)


def row_of(one: Fleet) -> Supervisor:
    with reading() as session:
        return session.scalars(select(Supervisor).where(Supervisor.pid == one.process.pid)).one()


@pytest.mark.full
def test_a_killed_supervisor_is_recorded_as_stopped(queue: Queue, fleet: Start, eventually: Eventually) -> None:
    one = fleet(count=1)
    one.process.kill()
    eventually(lambda: row().stopped_at is not None)
    eventually(lambda: not queue.workers())


@pytest.mark.full
@both_ways
def test_a_supervisor_without_workers_exits_when_a_newer_version_owns_the_database(
    queue: Queue, fleet: Start, eventually: Eventually
) -> None:
    one = fleet(count=1)
    scale(to=0)
    eventually(lambda: not queue.workers())
    with writing() as session:
        session.execute(text("UPDATE alembic_version SET version_num = 'newer'"))
    assert one.process.wait(DEADLINE) == 1  # so that a service manager starts it again
    assert row().stopped_at is None  # nothing is written to a newer version's tables


@pytest.mark.full
def test_a_draining_supervisor_cannot_be_scaled(queue: Queue, fleet: Start, tmp_path: Path) -> None:
    queue.enqueue(f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done")
    one = fleet(count=2, drain=True)
    with reading() as session:
        assert session.scalars(select(Supervisor)).all() == []
        assert len(session.scalars(select(Worker.supervisor_id).distinct()).all()) == 1
    (tmp_path / "go").touch()
    assert one.process.wait(DEADLINE) == 0


@pytest.mark.full
def test_a_worker_records_its_resource_usage(queue: Queue, fleet: Start, eventually: Eventually) -> None:
    queue.set(lease=5)
    fleet(count=1)
    eventually(lambda: (queue.workers()[0].cpu_time or 0) > 0)
    assert 1024**2 < (queue.workers()[0].memory or 0) < 1024**3
    before = queue.workers()[0].cpu_time or 0
    # The time of a command that ended is its worker's.
    job_id = queue.enqueue("i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done")
    queue.reaches(job_id, "completed")
    used = queue.attempts(job_id)[0].cpu_time or 0
    eventually(lambda: (queue.workers()[0].cpu_time or 0) >= before + used)


# --- reports ---


def test_a_usage_report_is_read_back_and_fits_one_atomic_write() -> None:
    wanted = DesiredWorkers(256, tuple(range(2**22 - 512, 2**22)), "end")
    assert DesiredWorkers.parse(wanted.line()) == wanted
    assert len(DesiredWorkers(256, wanted.leaving[:256], RELOCATED).line()) < 4096


@pytest.mark.parametrize("line", [b"", b"hello", b"3", b"[1, 2]", b'["x", [], ""]', b"[1, 2, 3]", b"\xff", b'{"a": 1}'])
def test_other_output_of_a_process_is_ignored(line: bytes) -> None:
    assert DesiredWorkers.parse(line) is None


# --- invalid numbers ---


@pytest.mark.parametrize("number", [-1, 257])
def test_a_number_of_workers_out_of_bounds_is_refused(app: Flask, number: int) -> None:
    from tests.factories import make_supervisor

    one = make_supervisor(wanted=2)
    with pytest.raises(worker_actions.ScaleError, match="from 0 to 256"):
        worker_actions.scale(one.id, "person:ana", to=number)
    assert row().wanted == 2


def test_scaling_a_silent_supervisor_says_that_it_is_silent(app: Flask) -> None:
    from tests.factories import make_supervisor, make_worker
    from webapp.lib import clock

    one = make_supervisor(seen_at=clock.now() - clock.seconds(300))
    with pytest.raises(worker_actions.Unheard, match="has not responded"):
        worker_actions.scale(one.id, "person:ana", to=3)
    worker = make_worker(supervisor_id=one.id)  # its maintenance may be busy with something long
    assert worker_actions.scale(one.id, "person:ana", to=3).after == 3
    with pytest.raises(lifecycle.NotFound, match=f"is a worker; its supervisor is {one.id}"):
        worker_actions.scale(worker.id, "person:ana", to=3)
    with pytest.raises(lifecycle.NotFound, match="supervisor 'nobody' does not exist"):
        worker_actions.scale("nobody", "person:ana", to=3)
