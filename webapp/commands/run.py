"""`run`: submits a job, prints its output and ends with its exit code. `wait`: waits for jobs that exist."""

from __future__ import annotations

import os
import shlex
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Optional

import click

from webapp.commands.enqueue import from_options, read_start, tell_holders
from webapp.commands.exit_codes import ExitCode, Failure
from webapp.commands.shared.core import DURATION, actor, as_utf8, core
from webapp.commands.shared.job_options import job_options
from webapp.commands.shared.output import say
from webapp.core.flow.unique_keys import Holder

if TYPE_CHECKING:
    from webapp.db.models import Attempt

NOT_RUN = 125  # exit code; 128 + n for a command that signal n ended


@click.command(
    epilog="""\b
Examples:
  manage.py run './build.sh | tail -n 20'
  manage.py run --queue backup --timeout 1h -- tar czf /tmp/home.tgz /home
""",
)
@click.argument("command", nargs=-1, required=True)
@job_options
def run(command: tuple[str, ...], **options: Any) -> int:
    """Submit COMMAND, print its output while it runs, and end with its exit code.

    One word is a shell command; several words are a program and its arguments. It runs in the current folder. The
    output goes to stdout and stderr as the command wrote it; messages go to stderr. Ends with 128 + n if signal n ended
    the command, 124 after its timeout, and 125 if the job could not be submitted or run. Ctrl-C asks whether to cancel
    the job; without a terminal it cancels.
    """
    line = as_utf8(command[0] if len(command) == 1 else shlex.join(command))
    options = {name: value for name, value in options.items() if value not in (None, ())}
    if "run_at" in options:
        read_start(options)
    try:
        with core():
            return _run(from_options(line, {"cwd": ".", **options}))
    except (click.UsageError, click.Abort, BrokenPipeError):
        raise
    except Exception as error:
        from webapp.commands import message_of

        message = message_of(error)
        if message is None:
            raise
        say(f"Error: {message}")
        return NOT_RUN


def _run(spec: Any) -> int:
    from webapp.core import trace_context
    from webapp.jobs import actions

    traced = trace_context.carried_by([spec], os.environ.get(trace_context.VARIABLE))
    held: dict[int, Holder] = {}
    (job_id,) = actions.enqueue(traced, actor(), held=held)
    tell_holders(held)
    return follow_to_end(job_id)


def follow_to_end(job_id: str) -> int:
    """Print the output of a new job until it ends. Returns the exit code that its command had."""
    from webapp.commands.shared.logs import Follower

    follower = Follower(job_id, quiet=True)
    while True:
        try:
            return exit_code(job_id, follower.run())
        except KeyboardInterrupt:
            if not _wants_cancel(job_id):
                say(f"Detached. The job continues: manage.py logs -f {job_id}")
                return ExitCode.INTERRUPTED
        _cancel(job_id)


def _wants_cancel(job_id: str) -> bool:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return True
    with suppress(click.Abort, KeyboardInterrupt):  # a second Ctrl-C cancels
        answers = click.Choice(["c", "d"])
        answer: str = click.prompt(f"\n{job_id}: cancel or detach?", type=answers, default="c", err=True)
        return answer == "c"
    return True


def _cancel(job_id: str) -> None:
    from webapp.jobs import actions

    actions.apply("cancel", [job_id], actor())
    say(f"[{job_id}: cancel requested]")


def exit_code(job_id: str, last: Optional[Attempt]) -> int:
    """The exit code of a job that has ended, as a shell would give it."""
    from webapp.db.engines import reading
    from webapp.jobs import job_detail

    with reading() as session:
        job = job_detail.find(session, job_id)
    if job is None:
        raise Failure(ExitCode.NOT_FOUND, f"{job_id} was discarded.")
    if job.state == "completed":
        return 0
    if job.state == "cancelled" or last is None:
        return ExitCode.INTERRUPTED
    if last.reason == "timeout":
        return ExitCode.TIMED_OUT
    if last.signal:
        return 128 + last.signal
    return last.exit_code or NOT_RUN


@click.command(epilog="Example: manage.py wait job1 job2 --timeout 10m")
@click.argument("job_ids", metavar="ID...", nargs=-1, required=True)
@click.option("--timeout", **DURATION, help="Give up after this time, with exit code 124.")
def wait(job_ids: tuple[str, ...], timeout: Optional[float]) -> int:
    """Wait until all jobs have completed. Ends with 1 as soon as one is dead or cancelled."""
    with core():
        from webapp.commands.shared.waiting import wait_for_jobs

        return wait_for_jobs(job_ids, timeout)
