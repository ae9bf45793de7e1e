"""Workers on three hosts: what each sees of the others, and the jobs of a host that is cut off or dies."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
from sqlalchemy import delete, select, text
from sqlalchemy.engine import URL

from tests.conftest import configuration, opened
from tests.databases import postgresql_database
from tests.faults import schedules
from tests.faults.hosts import Host, Network, can_have_hosts
from tests.faults.ledger import Ledger
from webapp.core import job_spec
from webapp.db import engines
from webapp.db.application import create_core
from webapp.db.engines import reading
from webapp.db.models import Attempt, Event, Fire, Job, OutputChunk, Schedule, Supervisor, Worker
from webapp.insight import fleet
from webapp.jobs import actions, job_detail, settings, worker_actions
from webapp.lib import clock

pytestmark = pytest.mark.full

LEASE = 5.0  # seconds, the shortest that is allowed
NAMES = ("alpha", "beta", "gamma")
Hosts = dict[str, Host]
Wait = Callable[..., Any]


@pytest.fixture(scope="module")
def machines(
    postgresql_server: URL, migrated_postgresql: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Hosts]:
    """Three hosts, repaired after each test, with a database that this process shares."""
    hindrance = can_have_hosts()
    if hindrance is not None:
        pytest.fail(hindrance) if os.environ.get("CI") else pytest.skip(hindrance)
    folder = tmp_path_factory.mktemp("hosts")
    with postgresql_database(postgresql_server, migrated_postgresql) as url:
        network = Network(url)
        try:
            for _ in opened(create_core(configuration(folder / "home", url))):
                settings.set_setting("lease", LEASE, "person:test")
                yield {name: network.host(name, folder) for name in NAMES}
        finally:
            network.close()


@pytest.fixture
def hosts(machines: Hosts, eventually: Wait) -> Iterator[Hosts]:
    """The hosts, each with a worker."""
    for host in machines.values():
        host.heal()
        host.start("worker", "start", "--slots", "2")
    eventually(lambda: sorted(worker.host for worker in workers()) == sorted(NAMES))
    yield machines
    _end(machines)


def _end(machines: Hosts) -> None:
    """Stop all hosts, and forget what they did."""
    for host in machines.values():
        sys.stdout.write(f"{host.name}: {host.said()[-5000:]}")  # shown where the test failed
        host.stop()
    with engines.writing() as session:
        for table in (Attempt, Event, OutputChunk, Job, Worker, Supervisor, Fire, Schedule):
            session.execute(delete(table))


def workers(state: str = "running") -> list[Worker]:
    with reading() as session:
        return list(session.scalars(select(Worker).where(Worker.state == state)))


def worker_on(host: str) -> Worker:
    [one] = [worker for worker in workers() if worker.host == host]
    return one


def submit(command: str, **fields: Any) -> str:
    return actions.enqueue([job_spec.parse({"command": command, **fields})], "person:test")[0]


def job(job_id: str) -> Job:
    with reading() as session:
        return session.scalars(select(Job).where(Job.id == job_id)).one()


def attempts(job_id: str) -> list[Attempt]:
    with reading() as session:
        return list(
            session.scalars(
                select(Attempt).join(Job, Job.seq == Attempt.job_seq).where(Job.id == job_id).order_by(Attempt.number)
            )
        )


def completes(job_id: str) -> bool:
    return job(job_id).state == "completed"


def test_a_job_runs_on_its_required_host(hosts: Hosts, eventually: Wait) -> None:
    asked = {submit("hostname", requires=f"host:{name}"): name for name in NAMES for _ in range(3)}
    eventually(lambda: all(map(completes, asked)))
    for job_id, name in asked.items():
        [attempt] = attempts(job_id)
        assert attempt.output.decode().strip() == name


def test_the_output_of_a_job_on_another_host_is_live_and_it_can_be_cancelled(hosts: Hosts, eventually: Wait) -> None:
    job_id = submit("echo from afar; sleep 100", requires="host:beta")

    def live() -> bytes:
        with reading() as session:
            kept = job_detail.output(session, job(job_id), 1)
        return b"" if kept is None else kept.data

    eventually(lambda: live() == b"from afar\n")
    actions.apply("cancel", [job_id], "person:test")
    eventually(lambda: job(job_id).state == "cancelled")


def test_supervisors_of_every_host_are_visible_and_controlled_from_any(hosts: Hosts, eventually: Wait) -> None:
    with reading() as session:
        views = fleet.supervisors(session, fleet.workers(session, LEASE))
    assert {view.host: view.wanted for view in views} == dict.fromkeys(NAMES, 1)
    beta = next(view.id for view in views if view.host == "beta")
    hosts["gamma"].run("worker", "scale", beta, "3")
    eventually(lambda: sum(worker.host == "beta" for worker in workers()) == 3)
    worker_actions.scale(beta, "person:test", to=0)
    eventually(lambda: {worker.host for worker in workers()} == {"alpha", "gamma"})


def test_a_host_that_is_cut_off_for_longer_than_a_lease_and_returns_breaks_nothing(
    hosts: Hosts, eventually: Wait, tmp_path: Path
) -> None:
    """The invariant: every acknowledged job ends, and no unrecorded attempt overlaps another."""
    ledger = Ledger(tmp_path / "ledger")
    cut = worker_on("beta")
    held = submit(ledger.command(60), id="held", requires="host:beta")
    long = submit(ledger.command(60), id="long", requires="host:alpha")
    eventually(lambda: job(held).state == job(long).state == "processing")
    others = [submit(ledger.command(0), id=f"short-{number}") for number in range(30)]
    hosts["beta"].cut()
    eventually(lambda: any(worker.id == cut.id for worker in workers("expired")))
    eventually(lambda: job(held).state == "pending")
    eventually(lambda: all(map(completes, others)))
    [lost] = attempts(held)
    assert lost.state == "lost"
    assert "its command may still be running there" in (lost.error or "")
    with reading() as session:
        told = session.scalars(select(Event.detail).where(Event.verb == "lose", Event.subject == f"job:{held}")).one()
    assert "may still be running there" in (told or "")
    # Only the other hosts were reported, and they lost nothing.
    assert {worker.host for worker in workers("expired")} == {"beta"}
    assert job(long).losses == 0

    hosts["beta"].heal()
    eventually(lambda: "marked lost" in hosts["beta"].said())
    eventually(lambda: any(worker.host == "beta" for worker in workers()))
    eventually(lambda: job(held).state == "processing" and job(held).attempts == 2)
    eventually(lambda: [line.attempt for line in ledger.started(held)] == [1, 2])
    actions.apply("cancel", [held, long], "person:test")
    eventually(lambda: {job(held).state, job(long).state} == {"cancelled"})
    for one in others:
        assert len(attempts(one)) == 1 or attempts(one)[0].state == "lost"


def test_two_containers_with_one_name_leave_each_other_alone(hosts: Hosts, eventually: Wait) -> None:
    """Each container has its own pids, so a worker of the other one would seem dead."""
    hosts["beta"].start("worker", "start")
    eventually(lambda: len(workers()) == 4)
    jobs = [submit("sleep 0.5", requires="host:beta") for _ in range(6)]
    eventually(lambda: all(map(completes, jobs)))
    assert workers("expired") == []


def test_jobs_of_a_dead_host_return_after_a_lease_and_not_before(hosts: Hosts, eventually: Wait) -> None:
    submit("sleep 100", id="first", requires="host:gamma")
    eventually(lambda: job("first").state == "processing")
    died_at = clock.now()
    hosts["gamma"].die()
    eventually(lambda: job("first").state == "pending")
    [lost] = attempts("first")
    assert (lost.finished_at - died_at) / clock.SECOND > LEASE / 2
    assert "may still be running there" in (lost.error or "")


def clock_ahead(folder: Path, seconds: int) -> dict[str, str]:
    """The environment of processes whose clock is wrong by so much."""
    orders = folder / f"clock-{seconds}"
    orders.mkdir()
    (orders / "offset").write_text(str(seconds))
    return {"FAULTS_SHIM": str(orders), "PYTHONPATH": str(Path(__file__).with_name("shim"))}


def test_a_host_whose_clock_is_an_hour_ahead_runs_nothing_early_and_marks_no_worker_lost(
    hosts: Hosts, eventually: Wait, tmp_path: Path
) -> None:
    hosts["beta"].start("worker", "start", "--label", "wrong", **clock_ahead(tmp_path, 3600))
    eventually(lambda: len(workers()) == 4)
    later = submit("date", delay=1800)
    now = submit("date", requires="wrong")
    eventually(lambda: completes(now))
    [attempt] = attempts(now)
    assert abs(attempt.started_at - clock.now()) < clock.seconds(30), "its times are the server's as well"
    soon = submit("true", delay=2, requires="wrong")
    eventually(lambda: completes(soon))
    assert attempts(soon)[0].started_at >= job(soon).run_at
    started = clock.now()
    eventually(lambda: clock.now() - started > clock.seconds(2 * LEASE))
    assert job(later).state == "scheduled"
    assert workers("expired") == []


@pytest.fixture
def idle(machines: Hosts) -> Iterator[Hosts]:
    """Hosts without a worker."""
    for host in machines.values():
        host.heal()
    yield machines
    _end(machines)


def test_hosts_with_clocks_ten_minutes_apart_decide_each_fire_once_at_its_time(
    idle: Hosts, eventually: Wait, tmp_path: Path
) -> None:
    """Each host alone, then all together. The time is the server's, asked by this test itself."""
    clocks = {"alpha": 0, "beta": 600, "gamma": -600}
    wrong = {name: clock_ahead(tmp_path, seconds) for name, seconds in clocks.items()}
    schedules.add()

    def fires_on_time() -> None:
        began, _ = server_time_and_last_fire()

        def some_more() -> bool:
            now, last = server_time_and_last_fire()
            assert last <= now, "a fire was decided before its time"
            return last > began + 3 * clock.SECOND

        eventually(some_more)

    for name, host in idle.items():
        host.start("worker", "start", "--slots", "8", **wrong[name])
        fires_on_time()
        host.stop()
    for name, host in idle.items():
        host.start("worker", "start", "--slots", "8", **wrong[name])
    fires_on_time()
    schedules.come_to_rest()
    for host in idle.values():
        host.stop()
    assert schedules.violations() == []


def server_time_and_last_fire() -> tuple[int, int]:
    """Microseconds. The server looks at its clock when it has read the fires."""
    asked = """
        SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, last
        FROM (SELECT coalesce(max(due_at), 0) AS last FROM fires) AS found
    """
    with reading() as session:
        return tuple(session.execute(text(asked)).one())
