"""The PostgreSQL section, with a peer made for the test in the place of procrastinate."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL

from tests import bench
from tests.bench import Bench, BenchError
from tests.bench.figures import FIGURES
from tests.bench.peers import Peer, running
from tests.bench.peers.running import ADDRESS, Place, Running
from tests.bench.postgresql import QUICK, pools, server, tables
from tests.bench.postgresql.doors import Ours, Theirs
from tests.bench.postgresql.found import OURS, THEIRS, Found
from tests.bench.scratch import scratch

pytestmark = pytest.mark.full

# What the benchmark uses of procrastinate: its tables, its statements, its workers.
_SCHEMA = """
CREATE TYPE procrastinate_job_status AS ENUM ('todo', 'doing', 'succeeded');
CREATE TYPE procrastinate_job_event_type AS ENUM ('deferred', 'started', 'succeeded');
CREATE TABLE procrastinate_workers (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, at timestamptz DEFAULT now());
CREATE TABLE procrastinate_jobs (id bigserial PRIMARY KEY, queue_name text, task_name text, attempts int,
                                 status procrastinate_job_status DEFAULT 'todo');
CREATE TABLE procrastinate_events (job_id bigint REFERENCES procrastinate_jobs ON DELETE CASCADE,
                                   type procrastinate_job_event_type);
"""
_FETCH = """
UPDATE procrastinate_jobs SET status = 'doing' WHERE id = (
  SELECT id FROM procrastinate_jobs WHERE status = 'todo' AND %(queues)s::text IS NULL AND %(worker_id)s > 0
  ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING id, task_name
"""
_FINISH = "UPDATE procrastinate_jobs SET status = %(status)s WHERE id = %(job_id)s AND NOT %(delete_job)s"
_SCRIPT = """
import os, psycopg
connection = None
def prepare():
    global connection
    connection = psycopg.connect(os.environ["BENCH_POSTGRESQL"], autocommit=True)
def put_many(number, kind="run"):
    connection.execute("INSERT INTO procrastinate_jobs (task_name) SELECT %s FROM generate_series(1, %s)",
                       (kind, number))
PUT = {"run": lambda: put_many(1), "clock": lambda: put_many(1, "clock")}
"""
_RESET = f"""
import stand_in
stand_in.prepare()
if stand_in.connection.execute("SELECT to_regclass('procrastinate_jobs')").fetchone()[0] is None:
    stand_in.connection.execute('''{_SCHEMA}''')
stand_in.connection.execute("TRUNCATE procrastinate_jobs, procrastinate_workers CASCADE")
"""
_WORKER = """
import os, sys, time
import bench_job, stand_in
from procrastinate.sql import queries
for _ in range(int(sys.argv[1]) - 1):
    if os.fork() == 0:
        break
stand_in.prepare()
me = stand_in.connection.execute("INSERT INTO procrastinate_workers DEFAULT VALUES RETURNING id").fetchone()[0]
while True:
    job = stand_in.connection.execute(queries["fetch_job"], {"queues": None, "worker_id": me}).fetchone()
    if job is None:
        time.sleep(0.005)
        continue
    getattr(bench_job, job[1])()
    stand_in.connection.execute(queries["finish_job"], {"job_id": job[0], "status": "succeeded", "delete_job": False})
"""
SMALL = replace(QUICK, workers=(2,), jobs=10, finished=100, many=200, most=400, read=30)


@pytest.fixture
def address(postgresql_server: URL, monkeypatch: pytest.MonkeyPatch) -> URL:
    """The server, named as a person names it."""
    shown = postgresql_server.set(drivername="postgresql").render_as_string(hide_password=False)
    monkeypatch.setenv(ADDRESS, shown)
    return postgresql_server


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: URL) -> Iterator[Bench]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with scratch() as made:
        yield Bench(1, made, lambda _: None)
    assert left_in(address) == []


@pytest.fixture
def peer(run: Bench) -> Iterator[Running]:
    """A queue in procrastinate's place, with a database of its own, beside ours."""
    folder = run.scratch.kept("peers")
    programs = folder / "venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (programs / "python").chmod(0o755)
    (folder / "procrastinate").mkdir()
    queries = {"fetch_job": _FETCH, "finish_job": _FINISH}
    (folder / "procrastinate" / "sql.py").write_text(f"queries = {queries!r}\n")
    (folder / "bench_job.py").write_text(running._JOB)
    (folder / "stand_in.py").write_text(_SCRIPT)
    (folder / "worker.py").write_text(_WORKER)

    def workers(count: int) -> tuple[str, ...]:
        return ("python", "worker.py", str(count))

    there = "SELECT count(*) FROM procrastinate_workers"
    made = Peer("stand_in", "a stand-in", ("stand-in",), _SCRIPT, _RESET, workers, "postgresql", "", workers, there)
    with ExitStack() as stack:
        database = server.make(stack)
        run.peers.append(Running(made, Place(run, folder, postgresql=database.url)))
        yield run.peers[0]


def left_in(address: URL) -> list[str]:
    """Databases of the benchmark in that server."""
    with create_engine(address).connect() as connection:
        like = "SELECT datname FROM pg_database WHERE datname LIKE 'queuectl\\_bench\\_%'"
        return list(connection.scalars(text(like)))


def keys(*, most: bool) -> set[str]:
    """Of the figures that SMALL has."""
    pools_of_two = {key for key in FIGURES if key.startswith(("postgresql.drain.2.", "postgresql.pickup.2."))}
    others = ("postgresql.enqueue.", "postgresql.reader.", "postgresql.bytes", "postgresql.claim.", "postgresql.turn.")
    return pools_of_two | {key for key in FIGURES if key.startswith(others) and (most or not key.endswith(".most"))}


def test_our_queue_is_measured_alone_if_procrastinate_is_missing(run: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.bench.postgresql.QUICK", SMALL)
    rows = bench.measure(run, "postgresql", quick=True)
    assert {row.figure.key for row in rows} == keys(most=False)
    assert all(row.limit is None and row.value.median > 0 for row in rows)
    assert not any("of procrastinate" in row.figure.title for row in rows)
    assert run.left_out == ["postgresql: procrastinate beside it; --peers installs it in a scratch environment."]


def test_each_figure_is_a_ratio_to_procrastinate(run: Bench, peer: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.bench.postgresql.QUICK", replace(SMALL, read_long=40))
    run.large = True
    rows = bench.measure(run, "postgresql", quick=True)
    assert {row.figure.key for row in rows} == keys(most=True)
    assert all(row.limit and row.ours and row.value.median == pytest.approx(row.ours / row.limit) for row in rows)
    assert run.left_out == []


def test_a_failing_pool_of_procrastinate_is_left_out_and_not_retried(run: Bench, peer: Running) -> None:
    (peer.place.folder / "worker.py").write_text("raise SystemExit('too many clients')")
    found = Found()
    found.failed.add((2, pools.SLOTS))
    with ExitStack() as stack:
        database = server.make(stack)
        home = run.scratch.home()
        with bench.scratch.opened(home, database.for_us), pytest.MonkeyPatch.context() as patched:
            patched.setattr(pools, "PATIENCE", 1.0)
            pools.pools(run, home, database, peer, (2,), 2, 5, found)
    assert [sentence.partition(": ")[0] for sentence in run.left_out] == ["a stand-in, 2 processes"]
    assert found.failed == {(2, pools.SLOTS), (2, pools.PROCESSES)}
    assert all(row.limit is None for row in found.rows())


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "name a PostgreSQL in which databases may be made in QUEUECTL_BENCH_POSTGRES"),
        ("sqlite:////tmp/queue.db", "QUEUECTL_BENCH_POSTGRES names no PostgreSQL. Expected postgresql://"),
        ("mysql://somewhere/bench", "QUEUECTL_BENCH_POSTGRES is not a valid database address (mysql://"),
    ],
)
def test_an_invalid_database_url_is_reported_in_one_line(
    value: str | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is not None:
        monkeypatch.setenv(ADDRESS, value)
    reason = bench.missing("postgresql")
    assert words in reason
    assert "\n" not in reason


def test_a_missing_driver_is_reported_with_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ADDRESS, "postgresql://db/bench")
    monkeypatch.setattr(server, "find_spec", lambda _: None)
    assert "psycopg is not installed" in bench.missing("postgresql")


def test_an_unreachable_server_is_reported(run: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ADDRESS, f"postgresql:///bench?host={run.scratch.folder}")
    with pytest.raises(BenchError, match=r"QUEUECTL_BENCH_POSTGRES cannot be used: .*"):
        bench.measure(run, "postgresql", quick=True)


def test_a_database_is_dropped_despite_an_open_connection(run: Bench, address: URL) -> None:
    with ExitStack() as stack:
        database = server.make(stack)
        still_there = database.connect()
        assert len(left_in(address)) == 1
    assert left_in(address) == []
    still_there.close()


def test_both_enqueue_paths_leave_two_dead_rows_per_job_under_a_snapshot(run: Bench, peer: Running) -> None:
    found = Found()
    tables.beside_a_reader(run, peer, 40, found)
    assert found.values["reader.dead"] == {OURS: [2.0], THEIRS: [2.0]}


def test_a_claim_path_without_a_job_is_not_measured(run: Bench, peer: Running) -> None:
    with ExitStack() as stack:
        for door in (Ours(stack, run.scratch, server.make(stack)), Theirs(stack, peer, server.make(stack))):
            door.fill(3, 1)
            door.claim()
            with pytest.raises(BenchError, match="job"):
                door.turn()


def test_our_queue_is_reported_alone_if_a_round_of_procrastinate_is_missing() -> None:
    found = Found()
    for value in (100.0, 110.0):
        found.add("enqueue.one", OURS, value)
        found.add("enqueue.many", OURS, value)
        found.add("enqueue.many", THEIRS, value / 2)
    found.add("enqueue.one", THEIRS, 50.0)
    alone, beside = found.rows()
    assert (alone.figure.unit, alone.value.median, alone.figure.goal) == ("jobs/s", 105, None)
    assert (beside.figure.unit, beside.value.median, beside.limit) == ("x", 2, 52.5)
