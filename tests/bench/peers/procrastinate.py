"""Procrastinate on PostgreSQL: one process that runs one job at a time for each worker."""

from __future__ import annotations

from tests.bench.peers import POSTGRESQL, Peer

_SCRIPT = """
import os
import procrastinate
import bench_job

app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=os.environ["BENCH_POSTGRESQL"]))
PUT = {"run": app.task(name="run")(bench_job.run).defer, "clock": app.task(name="clock")(bench_job.clock).defer}
prepare = app.open
put_many = lambda number: app.tasks["run"].batch_defer(*[{}] * number)
"""
_PROCESSES = """
import os, subprocess, sys
program = os.path.join(os.path.dirname(sys.executable), "procrastinate")
command = [program, "-a", "procrastinate_postgresql.app", "worker", "-c", "1"]
for process in [subprocess.Popen(command) for _ in range(int(sys.argv[1]))]:
    process.wait()
"""
_RESET = """
import procrastinate_postgresql
with procrastinate_postgresql.app.open() as app:
    if app.check_connection():
        app.connector.get_sync_connector().execute_query("TRUNCATE procrastinate_jobs, procrastinate_workers CASCADE")
    else:
        app.schema_manager.apply_schema()
"""

PEERS = (
    Peer(
        "procrastinate_postgresql",
        "Procrastinate (PostgreSQL)",
        ("procrastinate", "psycopg[binary]"),
        _SCRIPT,
        _RESET,
        lambda count: ("procrastinate", "-a", "procrastinate_postgresql.app", "worker", "-c", str(count)),
        POSTGRESQL,
        "one process, with a thread for each job",
        lambda count: ("python", "-c", _PROCESSES, str(count)),
        "SELECT count(*) FROM procrastinate_workers",
    ),
)
