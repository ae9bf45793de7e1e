"""`demo`: a short tour in a scratch database, which is deleted at the end. It does not touch the real queue."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from webapp.commands.shared.core import actor, core, exit_on_signals
from webapp.commands.shared.output import Column, console, say, standing, table
from webapp.lib import clock

if TYPE_CHECKING:
    from webapp.db.models import Job

WORKERS = 2
TIMEOUT_SECONDS = 60.0  # it takes about ten
WINDOWS: bool = sys.platform == "win32"
FAREWELL = """
All jobs ended as expected. 'hopeless' is now a dead letter. In a real queue you would look at it,
then run `manage.py dlq retry hopeless`. The scratch database is deleted. Next steps:

  manage.py enqueue --command 'echo hello'   submit a job
  manage.py worker start --count 2           run pending jobs, in the foreground
  manage.py list                             list jobs; then show ID or logs ID
  manage.py up                               start the console and its workers
"""


@dataclass(frozen=True)
class DemoJob:
    """One job of the demo, and its expected end."""

    spec: dict[str, Any]
    what: str
    end: str = "completed"
    attempts: int = 1


def _demo_jobs() -> list[DemoJob]:
    wait = "ping -n 2 127.0.0.1 >NUL" if WINDOWS else "sleep 1"
    third_time = "if %QUEUECTL_ATTEMPT% LSS 3 exit 1" if WINDOWS else 'test "$QUEUECTL_ATTEMPT" -ge 3'
    return [
        DemoJob({"id": "greeting", "command": "echo hello"}, "succeeds"),
        DemoJob({"id": "flaky", "command": third_time, "max_retries": 3}, "fails twice, then succeeds", attempts=3),
        DemoJob({"id": "hopeless", "command": "exit 3", "max_retries": 2}, "runs out of retries", "dead", 3),
        DemoJob({"id": "report-1", "command": wait}, "succeeds after a second"),
        DemoJob({"id": "report-2", "command": wait}, "succeeds after a second"),
        DemoJob({"id": "report-3", "command": wait}, "waits for a free worker"),
        DemoJob({"id": "urgent", "command": "echo first", "priority": 10}, "runs before the others"),
        DemoJob({"id": "later", "command": "echo done", "delay": 4}, "is scheduled, runs in 4 s"),
    ]


@click.command(epilog="Example: manage.py demo")
def demo() -> int:
    """Watch jobs succeed, retry and fail: two workers, a scratch database, about ten seconds."""
    from webapp.config import Config
    from webapp.core import job_spec
    from webapp.jobs import actions, settings

    demo_jobs = _demo_jobs()
    with exit_on_signals(), tempfile.TemporaryDirectory(prefix="queuectl-demo-") as folder:
        home = Path(folder)
        with core(Config(home=home, database_url=None, public_url=None)):
            # The default waits, 2 and 4 seconds, without jitter: the same demo each time.
            settings.set_setting("backoff_base", 2, actor())
            settings.set_setting("backoff_jitter", 0, actor())
            actions.enqueue([job_spec.parse(one.spec) for one in demo_jobs], actor())
            say(f"{len(demo_jobs)} jobs, {WORKERS} workers, scratch database in {folder}\n")
            with _workers(home) as log:
                jobs = _show(demo_jobs)
        errors = [
            f"{job.id} is {job.state} after {job.attempts} attempts; expected {one.end} after {one.attempts}."
            for one, job in zip(demo_jobs, jobs)
            if (job.state, job.attempts) != (one.end, one.attempts)
        ]
        if errors:
            tail = log.read_text(errors="replace").splitlines()[-20:]
            raise click.ClickException("\n".join(["the demo did not end as expected.", *errors, *tail]))
    click.echo(FAREWELL)
    return 0


@contextmanager
def _workers(home: Path) -> Iterator[Path]:
    """Run `worker start` on the scratch database. Yields its log file."""
    from webapp.lib.system import process_group

    log = home / "workers.log"
    environment = {**os.environ, "QUEUECTL_HOME": str(home), "QUEUECTL_DATABASE_URL": ""}
    with log.open("wb") as output:
        command = ["worker", "start", "--count", str(WORKERS)]
        workers = process_group.start(command, environment=environment, output=output)
        try:
            yield log
        finally:
            process_group.stop(workers, within=10.0)


def _show(demo_jobs: Sequence[DemoJob]) -> list[Job]:
    """Show the jobs until they end, and return them: on a terminal a live table, elsewhere a line for each change."""
    jobs: list[Job] = []
    screen = console()
    if screen.is_terminal:
        from rich.live import Live

        columns = [
            Column("JOB", lambda row: row[1].id),
            Column("STATE", lambda row: row[1].state),
            Column("ATTEMPTS", lambda row: row[1].attempts, right=True),
            Column("WHEN", lambda row: standing(row[1])),
            Column("EXPECTED", lambda row: row[0].what),
        ]
        with Live(console=screen, auto_refresh=False) as live:
            for jobs in _follow():
                live.update(table(columns, zip(demo_jobs, jobs)), refresh=True)
        return jobs
    start = clock.now()
    seen: dict[str, tuple[str, int]] = {}
    for jobs in _follow():
        seconds = (clock.now() - start) / clock.SECOND
        for job in jobs:
            if seen.get(job.id) != (job.state, job.attempts):
                seen[job.id] = (job.state, job.attempts)
                attempt = f" (attempt {job.attempts})" if job.attempts else ""
                more = f": {job.last_error}, {standing(job)}" if job.state == "failed" else ""
                click.echo(f"{seconds:5.1f} s  {job.id:<10} {job.state}{attempt}{more}")
    return jobs


def _follow() -> Iterator[list[Job]]:
    """Yield all jobs in their order, ten times a second, until they end or until the timeout."""
    from sqlalchemy import select

    from webapp.core.states import TERMINAL
    from webapp.db.engines import reading
    from webapp.db.models import Job

    until = time.monotonic() + TIMEOUT_SECONDS
    while True:
        with reading() as session:
            jobs = list(session.scalars(select(Job).order_by(Job.seq)))
        yield jobs
        if all(job.state in TERMINAL for job in jobs) or time.monotonic() > until:
            return
        time.sleep(0.1)
