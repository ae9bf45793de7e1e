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
from typing import TYPE_CHECKING, Any, Callable

import click

from webapp.commands.shared.core import actor, core, exit_on_signals
from webapp.commands.shared.output import Column, console, say, standing, table
from webapp.lib import clock

if TYPE_CHECKING:
    from webapp.db.models import Job

WORKERS = 2
TIMEOUT_SECONDS = 60.0  # it takes about ten
WINDOWS: bool = sys.platform == "win32"


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

    demo_jobs = _demo_jobs()
    with exit_on_signals(), tempfile.TemporaryDirectory(prefix="queuectl-demo-") as folder:
        home = Path(folder)
        with core(Config(home=home, database_url=None, public_url=None)):
            _fill(demo_jobs)
            say(f"{len(demo_jobs)} jobs, {WORKERS} workers, scratch database in {folder}\n")
            with _workers(home) as log:
                jobs = _watch(demo_jobs)
        errors = _errors(demo_jobs, jobs)
        if errors:
            tail = log.read_text(errors="replace").splitlines()[-20:]
            raise click.ClickException("\n".join(["the demo did not end as expected.", *errors, *tail]))
    click.echo(FAREWELL)
    return 0


FAREWELL = """
All jobs ended as expected. 'hopeless' is now a dead letter. In a real queue you would look at it,
then run `manage.py dlq retry hopeless`. The scratch database is deleted. Next steps:

  manage.py enqueue --command 'echo hello'   submit a job
  manage.py worker start --count 2           run pending jobs, in the foreground
  manage.py list                             list jobs; then show ID or logs ID
  manage.py up                               start the console and its workers
"""


def _fill(demo_jobs: Sequence[DemoJob]) -> None:
    from webapp.core import job_spec
    from webapp.jobs import actions, settings

    # The default waits, 2 and 4 seconds, without jitter: the same demo each time.
    settings.set_setting("backoff_base", 2, actor())
    settings.set_setting("backoff_jitter", 0, actor())
    actions.enqueue([job_spec.parse(one.spec) for one in demo_jobs], actor())


@contextmanager
def _workers(home: Path) -> Iterator[Path]:
    """Run `worker start` on the scratch database. Yields its log file."""
    from webapp.lib import process_group

    log = home / "workers.log"
    environment = {**os.environ, "QUEUECTL_HOME": str(home), "QUEUECTL_DATABASE_URL": ""}
    with log.open("wb") as output:
        command = ["worker", "start", "--count", str(WORKERS)]
        workers = process_group.start(command, environment=environment, output=output)
        try:
            yield log
        finally:
            process_group.stop(workers, within=10.0)


def _watch(demo_jobs: Sequence[DemoJob]) -> list[Job]:
    """Show the jobs until all have ended, or until the timeout."""
    from webapp.core.states import TERMINAL

    until = time.monotonic() + TIMEOUT_SECONDS
    with _view(demo_jobs) as show:
        while True:
            jobs = _read(demo_jobs)
            show(jobs)
            if all(job.state in TERMINAL for job in jobs) or time.monotonic() > until:
                return jobs
            time.sleep(0.1)


def _read(demo_jobs: Sequence[DemoJob]) -> list[Job]:
    from webapp.db.engines import reading
    from webapp.jobs import job_detail

    with reading() as session:
        found = [job_detail.find(session, one.spec["id"]) for one in demo_jobs]
    return [job for job in found if job is not None]


@contextmanager
def _view(demo_jobs: Sequence[DemoJob]) -> Iterator[Callable[[list[Job]], None]]:
    """On a terminal, show a live table; elsewhere a line for each change."""
    screen = console()
    if not screen.is_terminal:
        yield _Lines()
        return
    from rich.live import Live

    columns = [
        Column("JOB", lambda row: row[1].id),
        Column("STATE", lambda row: row[1].state),
        Column("ATTEMPTS", lambda row: row[1].attempts, right=True),
        Column("WHEN", lambda row: standing(row[1])),
        Column("EXPECTED", lambda row: row[0].what),
    ]
    with Live(console=screen, auto_refresh=False) as live:

        def show(jobs: list[Job]) -> None:
            live.update(table(columns, zip(demo_jobs, jobs)), refresh=True)

        yield show


class _Lines:
    def __init__(self) -> None:
        self._start = clock.now()
        self._seen: dict[str, tuple[str, int]] = {}

    def __call__(self, jobs: list[Job]) -> None:
        now = clock.now()
        for job in jobs:
            if self._seen.get(job.id) != (job.state, job.attempts):
                self._seen[job.id] = (job.state, job.attempts)
                attempt = f" (attempt {job.attempts})" if job.attempts else ""
                more = f": {job.last_error}, {standing(job)}" if job.state == "failed" else ""
                click.echo(f"{(now - self._start) / clock.SECOND:5.1f} s  {job.id:<10} {job.state}{attempt}{more}")


def _errors(demo_jobs: Sequence[DemoJob], jobs: Sequence[Job]) -> list[str]:
    """Compare the jobs with their expected end."""
    ended = {job.id: (job.state, job.attempts) for job in jobs}
    return [
        f"{one.spec['id']} is {state} after {attempts} attempts; expected {one.end} after {one.attempts}."
        for one in demo_jobs
        for state, attempts in [ended.get(one.spec["id"], ("missing", 0))]
        if (state, attempts) != (one.end, one.attempts)
    ]
