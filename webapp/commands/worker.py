"""`worker`: start, list, steer and scale workers. How a worker works is in the package `worker`."""

from __future__ import annotations

import re
from typing import Any, Optional

import click

from webapp import config as configuration
from webapp.commands import serve
from webapp.commands.shared.core import actor, core, count_option, json_option, read_session, tell_outcome
from webapp.commands.shared.output import Column, ago, present, say
from webapp.lib import clock
from webapp.lib.text import plural


@click.group(epilog="Example: manage.py worker start --count 3")
def worker() -> None:
    """Start, list, drain, scale and stop workers."""


@worker.command(
    epilog="""\b
Examples:
  manage.py worker start --count 3 --queue mail --queue default
  manage.py worker start --queue mail:3 --queue default:1
  manage.py worker start --label gpu --label ssd
"""
)
@count_option("--count", 1, serve.MOST_WORKERS, "Number of worker processes.")
@serve.slots_option
@serve.queue_options
@serve.label_option
@click.option(
    "--drain",
    is_flag=True,
    help="Exit when no job that they can run is pending, running or retrying. They do not wait for blocked jobs whose "
    "parents run elsewhere.",
)
@serve.log_option
@serve.parent_option
def start(queues: tuple[str, ...], strict: bool, log_format: str, with_parent: Optional[int], **options: Any) -> int:
    """Start workers in the foreground.

    Ctrl-C waits for running jobs, then exits. A second Ctrl-C exits at once and requeues them.

    A job that requires labels runs only on a worker that has all of them. Every worker has the label of its host,
    such as host:web-1.
    """
    from worker.supervisor import supervisor

    names, order = serve.queues_of(queues, strict=strict)
    config = configuration.load()
    manager = serve.start_service(log_format, with_parent)
    # The other options are parameters of `run` too: count, slots, labels and drain.
    return supervisor.run(config, queues=names, order=order, manager=manager, **options)


@worker.command("list", epilog="Example: manage.py worker list --json")
@click.option("--all", "all_", is_flag=True, help="Include workers that ended in the last 24 hours.")
@json_option
def list_workers(all_: bool, as_json: bool) -> None:
    """List workers and the jobs that they run."""
    from webapp.insight import fleet
    from webapp.jobs import settings
    from webapp.web import serializers

    with read_session() as session:
        ended_since = clock.now() - clock.DAY if all_ else None
        views = fleet.workers(session, settings.load(session).lease, ended_since=ended_since)
    columns = [
        Column("ID", lambda view: view.worker.id),
        Column("STATE", lambda view: fleet.state_text(view.shown_state)),
        Column("HOST", lambda view: view.worker.host),
        Column("PID", lambda view: view.worker.pid, right=True),
        Column("SLOTS", lambda view: view.worker.slots, right=True),
        Column("COMPLETED", lambda view: f"{view.worker.jobs_completed:,}", right=True),
        Column("FAILED", lambda view: f"{view.worker.jobs_failed:,}", right=True),
        Column("STARTED", lambda view: ago(view.worker.started_at)),
        Column("LAST SEEN", lambda view: ago(view.worker.seen_at)),
        *_SERVES,
        Column("RUNNING", lambda view: ", ".join(job.id for job in view.jobs), flexible=True),
    ]
    present(views, columns, as_json, serializers.worker, "No workers. Start one: manage.py worker start")


_SERVES = (
    Column("QUEUES", lambda view: view.serves, flexible=True),
    Column("LABELS", lambda view: ", ".join(view.given_labels), flexible=True, optional=True),
)


@worker.command("supervisors", epilog="Example: manage.py worker supervisors --json")
@json_option
def list_supervisors(as_json: bool) -> None:
    """List supervisors: each is one `up` or `worker start`."""
    from webapp.insight import fleet
    from webapp.jobs import settings
    from webapp.web import serializers

    with read_session() as session:
        views = fleet.supervisors(session, fleet.workers(session, settings.load(session).lease))
    columns = [
        Column("ID", lambda view: view.id),
        Column("STATE", lambda view: fleet.state_text(view.state)),
        Column("HOST", lambda view: view.host),
        Column("PID", lambda view: view.row and view.row.pid, right=True),
        Column("WORKERS", lambda view: len(view.workers), right=True),
        Column("DESIRED", lambda view: view.wanted, right=True),
        Column("SLOTS", lambda view: view.slots, right=True),
        Column("STARTED", lambda view: ago(view.started_at)),
        *_SERVES,
    ]
    present(views, columns, as_json, serializers.supervisor, "No supervisors. Start one: manage.py worker start")


# A negative number is a value here, not an unknown option.
@worker.command(
    context_settings={"ignore_unknown_options": True}, epilog="Example: manage.py worker scale 4f2a9c01d3e5 +2"
)
@click.argument("supervisor_id", metavar="ID")
@click.argument("workers", metavar="N")
def scale(supervisor_id: str, workers: str) -> None:
    """Scale the supervisor ID to N workers, or by +N or -N.

    New workers start at once. To scale down, the least busy workers finish their jobs and exit. N can be 0.
    `worker supervisors` lists the IDs.
    """
    from webapp.jobs import worker_actions

    if not re.fullmatch(r"[+-]?[0-9]{1,4}", workers):
        raise click.BadParameter(f"{workers!r} is not a number of workers; expected 3, +1 or -1.", param_hint="N")
    change = {"by": int(workers)} if workers[0] in "+-" else {"to": int(workers)}
    with core():
        scaled = worker_actions.scale(supervisor_id, actor(), **change)
    before = "unchanged" if scaled.after == scaled.before else f"before: {scaled.before}"
    click.echo(f"{supervisor_id}: {plural(scaled.after, 'worker')} ({before})")


def _steering(name: str, wish: str, help_: str, done: str, *, hidden: bool = False) -> None:
    @worker.command(name, help=help_, hidden=hidden, epilog=f"Example: manage.py worker {name}")
    @click.argument("worker_ids", metavar="[ID]...", nargs=-1)
    def steer(worker_ids: tuple[str, ...]) -> int:
        from webapp.jobs import worker_actions

        with core():
            outcome = worker_actions.request_state(wish, list(worker_ids) or None, actor())
        if not worker_ids and not outcome.moved and not outcome.refused:
            say("No workers are running.")
        code = tell_outcome(outcome, done, f"{name} works only for running workers", thing="worker")
        for one in outcome.scaled:
            say(
                f"Supervisor {one.supervisor}: {one.before} → {one.after} workers. "
                f"Undo: manage.py worker scale {one.supervisor} {one.before}"
            )
        return code


_steering(
    "stop",
    "stop",
    "Stop the named workers, or all.\n\nThey finish their jobs, then exit. Without IDs, supervisors exit too.",
    "stop requested; it finishes its jobs first",
)
for _name in ("drain", "quiet"):  # its earlier name still works
    _steering(
        _name,
        "quiet",
        "Drain the named workers, or all.\n\nThey finish their jobs and take no new ones until `resume`. A worker that "
        "replaces a crashed one does take jobs: pause a queue to hold its jobs back.",
        "draining",
        hidden=_name == "quiet",
    )
_steering("resume", "run", "Let the named workers, or all, take jobs again after `drain`.", "taking jobs")
