"""`demo`: a minute's tour on a scratch database, which is removed afterwards. Nothing here touches the real queue."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Optional

import click

from webapp.commands.shared.core import actor, core
from webapp.commands.shared.output import Column, console, say, standing, table
from webapp.lib import clock

if TYPE_CHECKING:
    from webapp.db.models import Job

WORKERS = 2
DEADLINE = 60.0  # seconds; it takes about ten
WINDOWS: bool = sys.platform == "win32"


@dataclass(frozen=True)
class Act:
    """One job of the demo, and how it must end."""

    job: dict[str, Any]
    what: str
    end: str = "completed"
    attempts: int = 1


def _acts() -> list[Act]:
    wait = "ping -n 2 127.0.0.1 >NUL" if WINDOWS else "sleep 1"
    third_time = "if %QUEUECTL_ATTEMPT% LSS 3 exit 1" if WINDOWS else 'test "$QUEUECTL_ATTEMPT" -ge 3'
    return [
        Act({"id": "greeting", "command": "echo hello"}, "succeeds"),
        Act({"id": "flaky", "command": third_time, "max_retries": 3}, "fails twice, then succeeds", attempts=3),
        Act({"id": "hopeless", "command": "exit 3", "max_retries": 2}, "fails until it is dead", "dead", 3),
        Act({"id": "report-1", "command": wait}, "succeeds after a second"),
        Act({"id": "report-2", "command": wait}, "succeeds after a second"),
        Act({"id": "report-3", "command": wait}, "waits for a free worker"),
        Act({"id": "urgent", "command": "echo first", "priority": 10}, "goes before the others"),
        Act({"id": "later", "command": "echo done", "delay": 4}, "is scheduled, runs in 4 s"),
    ]


@click.command(epilog="Example: manage.py demo")
def demo() -> int:
    """Watch jobs succeed, retry and die: two workers on a scratch database, for about ten seconds."""
    from webapp.config import Config

    acts = _acts()
    # Told to end, it leaves nothing behind; the default would end it here and now.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="queuectl-demo-") as folder:
        home = Path(folder)
        with core(Config(home=home, database_url=None, public_url=None)):
            _fill(acts)
            say(f"{len(acts)} jobs, {WORKERS} workers, a scratch database in {folder}.\n")
            with _workers(home) as log:
                jobs = _watch(acts)
        faults = _faults(acts, jobs)
        if faults:
            tail = log.read_text(errors="replace").splitlines()[-20:]
            raise click.ClickException("\n".join(["the demo did not end as it should.", *faults, *tail]))
    click.echo(FAREWELL)
    return 0


FAREWELL = """
Every job ended as it should. 'hopeless' is a dead letter now: on a real queue it would wait
for you to look at it, and for `manage.py dlq retry hopeless`. The scratch database is gone. Next:

  manage.py enqueue --command 'echo hello'   submit a job
  manage.py worker start --count 2           run what waits, in the foreground
  manage.py list                             see the jobs; show ID and logs ID for one of them
  manage.py up                               everything at once: the console and its workers
"""


def _fill(acts: Sequence[Act]) -> None:
    from webapp.core import job_spec
    from webapp.jobs import actions, settings

    # The default waits, 2 and 4 seconds, without the luck in them: the same demo each time.
    settings.set_setting("backoff_base", 2, actor())
    settings.set_setting("backoff_jitter", 0, actor())
    actions.enqueue([job_spec.parse(act.job) for act in acts], actor())


@contextmanager
def _workers(home: Path) -> Iterator[Path]:
    """Real workers on the scratch database, as `worker start` runs them. Yields their log."""
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


def _watch(acts: Sequence[Act]) -> list[Job]:
    """Show the states as they change until all have ended, or the deadline comes."""
    from webapp.core.states import TERMINAL

    until = time.monotonic() + DEADLINE
    with _stage(acts) as show:
        while True:
            jobs = _read(acts)
            show(jobs)
            if all(job.state in TERMINAL for job in jobs) or time.monotonic() > until:
                return jobs
            time.sleep(0.1)


def _read(acts: Sequence[Act]) -> list[Job]:
    from webapp.db.engines import reading
    from webapp.jobs import job_detail

    with reading() as session:
        found = [job_detail.find(session, act.job["id"]) for act in acts]
    return [job for job in found if job is not None]


@contextmanager
def _stage(acts: Sequence[Act]) -> Iterator[Callable[[list[Job]], None]]:
    """A table that stays in its place on a terminal; elsewhere a line for each change."""
    screen = console()
    if not screen.is_terminal:
        yield _Lines()
        return
    from rich.live import Live

    columns = [
        Column("JOB", lambda row: row[1].id),
        Column("STATE", lambda row: row[1].state),
        Column("ATTEMPTS", lambda row: row[1].attempts, right=True),
        Column("WHEN", lambda row: standing(row[1], clock.now())),
        Column("WHAT IT DOES", lambda row: row[0].what),
    ]
    with Live(console=screen, auto_refresh=False) as live:

        def show(jobs: list[Job]) -> None:
            live.update(table(columns, zip(acts, jobs)), refresh=True)

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
                more = f": {job.last_error}, {standing(job, now)}" if job.state == "failed" else ""
                click.echo(f"{(now - self._start) / clock.SECOND:5.1f} s  {job.id:<10} {job.state}{attempt}{more}")


def _faults(acts: Sequence[Act], jobs: Sequence[Job]) -> list[str]:
    ended: dict[str, Optional[Job]] = {job.id: job for job in jobs}
    faults = []
    for act in acts:
        job = ended.get(act.job["id"])
        if job is None:
            faults.append(f"{act.job['id']} is not there.")
        elif (job.state, job.attempts) != (act.end, act.attempts):
            faults.append(
                f"{job.id} is {job.state} after {job.attempts} attempts; expected {act.end} after {act.attempts}."
            )
    return faults
