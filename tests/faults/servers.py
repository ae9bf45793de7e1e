"""Faults of a PostgreSQL server: restart, ended sessions, no free connection, absence, failover."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial

from tests.faults.cluster import Server
from tests.faults.person import Person
from tests.faults.rig import Rig, dies, eventually, free_port, wait_until
from tests.faults.served import Client, ServedRig, load
from tests.faults.stops import LEASE

LIMIT = 4  # timeout of a job that reaches it while the server is away
ENOUGH = 6  # jobs that must end until the queue counts as working
BACK_WITHIN = 20.0  # seconds for that once the server is back


@dataclass
class House:
    """All processes of `up`, on the servers of a rig."""

    process: subprocess.Popen[bytes]
    port: int
    token: str


def start(rig: ServedRig) -> House:
    """Start the console, two workers of two slots each, and maintenance."""
    token, port = rig.token(), free_port()
    process = rig.start("up", "--port", str(port), "--workers", "2", "--slots", "2")
    someone = Person(f"http://127.0.0.1:{port}")
    eventually("the console serves", lambda: someone.get("/readyz?workers").status == 200, 30)
    eventually("the workers are there", lambda: len(rig.worker_pids()) == 2, 30)
    return House(process, port, token)


@contextmanager
def under_load(rig: ServedRig, *, commands: bool = True) -> Iterator[tuple[House, list[Client]]]:
    """Run everything with submitting clients. At the end of the block, wait for all jobs and stop cleanly."""
    house = start(rig)
    with load(rig, house.port, house.token, commands=commands) as clients:
        goes_on(rig, clients)
        yield house, clients
        goes_on(rig, clients)
    rig.rest()
    assert house.process.poll() is None
    rig.stop(house.process)
    nobody_died(rig)


def nobody_died(rig: Rig) -> None:
    """No process of the product ended by the fault, and the logs stayed short."""
    assert "Traceback" not in rig.said()
    nobody_is_replaced(rig)


def nobody_is_replaced(rig: Rig) -> None:
    assert "starting another" not in rig.said()


def goes_on(rig: Rig, clients: Sequence[Client] = ()) -> None:
    """Wait until each client has stored another job and some more jobs have ended."""
    stored = {client: client.told["stored"] for client in clients}
    ended = _ended(rig)
    eventually(f"{ENOUGH} jobs run", lambda: _ended(rig) >= ended + ENOUGH, BACK_WITHIN)
    for client, before in stored.items():
        eventually(f"{client} has a job stored", partial(client.was_told, "stored", before + 1), BACK_WITHIN)


def _ended(rig: Rig) -> int:
    return sum(line.word == "end" for line in rig.ledger.lines())


def restart(rig: ServedRig, rounds: int, *, mode: str) -> None:
    """Restart the server; `fast`: cleanly, `immediate`: by a crash."""
    with under_load(rig) as (_, clients):
        for _ in range(rounds):
            rig.servers[0].restart(mode)
            goes_on(rig, clients)


def terminate_everybody(rig: ServedRig, rounds: int) -> None:
    """End all sessions of the queue, as an administrator of the server would."""
    with under_load(rig) as (_, clients):
        for _ in range(rounds):
            time.sleep(rig.random.uniform(0, 0.3))  # a random moment, not a wait for a condition
            ended = rig.servers[0].terminate_all()
            assert ended > 3, "nobody was there"
            goes_on(rig, clients)


def crash_after_a_claim(rig: ServedRig, rounds: int) -> None:
    """Crash the server when a command has just started: the claim must be durable."""
    _write_late(rig.servers[0])
    supervisor = rig.workers(3)
    for _ in range(rounds):
        [job_id] = rig.submit(seconds=2)
        rig.started(job_id)
        rig.servers[0].restart("immediate")
        rig.reaches(job_id, "completed")
    rig.rest()
    rig.stop(supervisor)
    nobody_is_replaced(rig)


def crash_after_an_end(rig: ServedRig, rounds: int) -> None:
    """Crash the server when a job has just completed: the completion may be lost."""
    _write_late(rig.servers[0])
    supervisor = rig.workers(3)
    for _ in range(rounds):
        [job_id] = rig.submit()
        rig.reaches(job_id, "completed")
        rig.servers[0].restart("immediate")
        rig.rest()
    rig.stop(supervisor)
    nobody_is_replaced(rig)


def _write_late(server: Server) -> None:
    """Delay asynchronous commits as long as possible, the worst case for a crash."""
    server.say("ALTER SYSTEM SET wal_writer_delay = '10s'")
    server.say("SELECT pg_reload_conf()")


def leave_a_reader_idle(rig: ServedRig, rounds: int) -> None:
    """Read all tables in a transaction and leave it open: it blocks no process and keeps its snapshot."""
    server = rig.servers[0]
    with under_load(rig) as (_, clients), closing(server.connect()) as reader:
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        for (table,) in server.say("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"):
            reader.execute(f'SELECT count(*) FROM "{table}"')
        count = "SELECT count(*) FROM jobs WHERE state = 'completed'"
        seen = reader.execute(count).fetchall()
        blocked = "SELECT query FROM pg_stat_activity WHERE %s = ANY (pg_blocking_pids(pid))"
        for _ in range(rounds):
            goes_on(rig, clients)
            assert server.say(blocked, (reader.info.backend_pid,)) == []
        assert reader.execute(count).fetchall() == seen, "it was not in one transaction"
        assert server.say(count) > seen


def take_all_connections(rig: ServedRig, rounds: int) -> None:
    """Take all connections of the server: commands continue and settle later, and the console reports it."""
    with under_load(rig, commands=False) as (house, clients):
        console = Person(f"http://127.0.0.1:{house.port}")
        for _ in range(rounds):
            [job_id] = rig.submit(seconds=3)
            rig.started(job_id)
            with ExitStack() as held:
                with rig.paused():  # otherwise the process that lost a connection would take it again first
                    one = rig.servers[0].take_all_connections(held)
                page = console.get("/login")
                assert page.status == 503
                assert "no connection left" in page.text
                answer = rig.run("status")
                assert (answer.code, answer.err.count("\n")) == (6, 1), answer.err
                assert "no connection left" in answer.err
                eventually("its command ends", partial(_has_ended, rig, job_id))
                assert one.execute("SELECT state FROM jobs WHERE id = %s", (job_id,)).fetchall() == [("processing",)]
                for client in clients:
                    eventually(f"{client} is told", partial(client.was_told, "no connection left"))
            rig.reaches(job_id, "completed")
            goes_on(rig, clients)


def _has_ended(rig: Rig, job_id: str) -> bool:
    return any(line.word == "end" and line.job_id == job_id for line in rig.ledger.lines())


def stay_away_past_the_lease(rig: ServedRig, rounds: int, *, seconds: float = LEASE + 3) -> None:
    """Stop the server for longer than the lease: time limits work meanwhile, and no worker is marked lost."""
    rig.run("config", "set", "lease", str(LEASE))
    rig.run("config", "set", "kill_grace", "1")
    supervisor = rig.workers(2, "--slots", "2")
    workers = set(rig.worker_pids())
    for _ in range(rounds):
        [limited] = rig.submit(seconds=600, timeout=LIMIT, max_retries=0)
        [longer] = rig.submit(seconds=round(seconds + 2))
        shell = rig.started(limited)
        rig.started(longer)
        rig.servers[0].stop()
        began = time.monotonic()
        dies(shell)
        wait_until(began + seconds)
        rig.servers[0].start()
        rig.reaches(limited, "dead")
        rig.reaches(longer, "completed")
        goes_on_alone(rig)
    assert set(rig.worker_pids()) == workers
    rig.stop(supervisor)
    nobody_died(rig)


def goes_on_alone(rig: Rig) -> None:
    [fresh] = rig.submit()
    rig.reaches(fresh, "completed")


def fail_over(rig: ServedRig, rounds: int = 1) -> None:
    """Kill the primary and promote its standby; the queue finds it by itself."""
    assert rounds == 1, "there is one standby"
    primary, standby = rig.servers
    with under_load(rig) as (_, clients):
        primary.kill()
        time.sleep(rig.random.uniform(0, 0.5))  # until a process notices
        standby.promote()
        goes_on(rig, clients)
