"""`worker`: start workers, see, steer and scale the fleet. How a worker works is in the package `worker`."""

from __future__ import annotations

from typing import Optional

import click

from webapp.commands.shared.core import actor, core, json_option, tell_outcome
from webapp.commands.shared.output import Column, ago, present, say
from webapp.commands.shared.serve import log_option
from webapp.lib import clock
from webapp.lib.text import plural

MOST_WORKERS = 256
MOST_SLOTS = 256


def _labels(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> list[str]:
    """What workers are to have beside their host's label, each once."""
    from webapp.core import labels
    from webapp.core.job_spec import NAME, NAME_RULE
    from worker import processes

    for name in values:
        if not NAME.match(name):
            more = " Give --label once for each." if "," in name or " " in name else ""
            raise click.BadParameter(f"{name!r} is not a valid label; expected {NAME_RULE}.{more}")
        if name.lower().startswith(labels.HOST):
            mine = labels.of_host(processes.host_name())
            raise click.BadParameter(
                f"{name!r} is not to be given: every worker has its host's label by itself, here {mine!r}."
            )
    given = list(dict.fromkeys(values))
    if len(given) > labels.MOST:
        raise click.BadParameter(f"{len(given)} labels are too many; a worker has at most {labels.MOST}.")
    return given


label_option = click.option(
    "--label",
    "labels",
    metavar="NAME",
    multiple=True,
    callback=_labels,
    help="What they have, such as gpu, for jobs that require it; may be repeated.",
)


_SERVES = (
    Column("QUEUES", lambda view: ", ".join(view.queues or ["all"]), flexible=True),
    Column("LABELS", lambda view: ", ".join(view.given_labels), flexible=True, optional=True),
)


@click.group(epilog="Example: manage.py worker start --count 3")
def worker() -> None:
    """Start, list, quiet, scale and stop workers."""


@worker.command(
    epilog="""\b
Examples:
  manage.py worker start --count 3 --queue mail --queue default
  manage.py worker start --label gpu --label ssd
"""
)
@click.option("--count", type=click.IntRange(1, MOST_WORKERS), default=1, show_default=True, help="Worker processes.")
@click.option(
    "--slots", type=click.IntRange(1, MOST_SLOTS), default=1, show_default=True, help="Jobs each runs at a time."
)
@click.option("--queue", "queues", metavar="NAME", multiple=True, help="Only this queue; may be repeated.")
@label_option
@click.option(
    "--drain", is_flag=True, help="End when nothing that they may run is pending, processing or waiting for a retry."
)
@log_option
@click.option("--with-parent", type=int, hidden=True, help="End when this process does.")
def start(
    count: int,
    slots: int,
    queues: tuple[str, ...],
    labels: list[str],
    drain: bool,
    log_format: str,
    with_parent: Optional[int],
) -> int:
    """Run workers in the foreground until Ctrl-C, which lets running jobs finish; a second Ctrl-C does not.

    A job that requires labels is taken by a worker only that has all of them. Each has its host's, such as host:web-1,
    by itself.
    """
    from webapp import config as configuration
    from webapp.core.job_spec import NAME, NAME_RULE
    from webapp.lib import logs, sd_notify
    from worker.supervisor import supervisor

    for name in queues:
        if not NAME.match(name):
            raise click.BadParameter(f"{name!r} is no name of a queue; expected {NAME_RULE}.", param_hint="--queue")
    if with_parent is not None:
        from webapp.lib.process_group import end_with

        end_with(with_parent)
    manager = sd_notify.take()
    logs.set_up(log_format)
    return supervisor.run(
        configuration.load(),
        count=count,
        slots=slots,
        queues=list(dict.fromkeys(queues)) or None,
        labels=labels,
        drain=drain,
        manager=manager,
    )


@worker.command("list", epilog="Example: manage.py worker list --json")
@click.option("--all", "all_", is_flag=True, help="Those that ended in the last day, too.")
@json_option
def list_workers(all_: bool, as_json: bool) -> None:
    """List the workers, what they run and what they have done."""
    from webapp.db.engines import reading
    from webapp.insight import fleet
    from webapp.jobs import settings as tunables
    from webapp.web import serializers

    now = clock.now()
    with core(), reading() as session:
        views = fleet.workers(session, tunables.load(session).lease, ended_since=now - clock.DAY if all_ else None)
    columns = [
        Column("ID", lambda view: view.worker.id),
        Column("STATE", lambda view: view.shown_state),
        Column("HOST", lambda view: view.worker.host),
        Column("PID", lambda view: view.worker.pid, right=True),
        Column("SLOTS", lambda view: view.worker.slots, right=True),
        Column("COMPLETED", lambda view: f"{view.worker.jobs_completed:,}", right=True),
        Column("FAILED", lambda view: f"{view.worker.jobs_failed:,}", right=True),
        Column("STARTED", lambda view: ago(view.worker.started_at, now)),
        Column("SEEN", lambda view: ago(view.worker.seen_at, now)),
        *_SERVES,
        Column("RUNS", lambda view: ", ".join(job.id for job in view.jobs), flexible=True),
    ]
    present(views, columns, as_json, serializers.worker, "No workers. Start one: manage.py worker start")


def _steering(name: str, wish: str, help_: str, done: str) -> None:
    @worker.command(name, help=help_, epilog=f"Example: manage.py worker {name}")
    @click.argument("worker_ids", metavar="[ID]...", nargs=-1)
    def steer(worker_ids: tuple[str, ...]) -> int:
        from webapp.jobs import worker_actions

        with core():
            outcome = worker_actions.request_state(wish, list(worker_ids) or None, actor())
        if not worker_ids and not outcome.moved and not outcome.refused:
            say("No workers are running.")
        return tell_outcome(outcome, done, "only running workers can be told anything", thing="worker")


@worker.command(
    "supervisors", epilog="Example: manage.py worker supervisors --json", short_help="List who starts the workers."
)
@json_option
def list_supervisors(as_json: bool) -> None:
    """List the supervisors, each a `worker start` or `up`: how many workers it has and is to have."""
    from webapp.db.engines import reading
    from webapp.insight import fleet
    from webapp.jobs import settings as tunables
    from webapp.web import serializers

    with core(), reading() as session:
        views = fleet.supervisors(session, fleet.workers(session, tunables.load(session).lease))
    now = clock.now()
    columns = [
        Column("ID", lambda view: view.id),
        Column("STATE", lambda view: view.state),
        Column("HOST", lambda view: view.host),
        Column("PID", lambda view: view.row and view.row.pid, right=True),
        Column("WORKERS", lambda view: len(view.workers), right=True),
        Column("WANTED", lambda view: view.wanted, right=True),
        Column("SLOTS", lambda view: view.slots, right=True),
        Column("STARTED", lambda view: ago(view.started_at, now)),
        *_SERVES,
    ]
    present(views, columns, as_json, serializers.supervisor, "No supervisors. Start one: manage.py worker start")


# A number below zero is a number of workers fewer, not an option that is not known.
@worker.command(
    context_settings={"ignore_unknown_options": True}, epilog="Example: manage.py worker scale 4f2a9c01d3e5 +2"
)
@click.argument("supervisor_id", metavar="ID")
@click.argument("workers", metavar="N")
def scale(supervisor_id: str, workers: str) -> None:
    """Have the supervisor ID keep N workers, or with +N or -N so many more or fewer. None is allowed.

    More start at once. Of fewer, those that run least are asked to stop, and finish what they run. `worker supervisors`
    shows the IDs.
    """
    import re

    from webapp.jobs import worker_actions

    if not re.fullmatch(r"[+-]?[0-9]{1,4}", workers):
        raise click.BadParameter(
            f"{workers!r} is no number of workers; expected 3, +1 or -1, for example.", param_hint="N"
        )
    relative = workers[0] in "+-"
    with core():
        try:
            scaled = worker_actions.scale(
                supervisor_id, actor(), to=None if relative else int(workers), by=int(workers) if relative else 0
            )
        except (worker_actions.ScaleError, worker_actions.Unheard) as error:
            raise click.ClickException(str(error)) from None
    before = "as before" if scaled.after == scaled.before else f"before {scaled.before}"
    click.echo(f"{supervisor_id}: {plural(scaled.after, 'worker')}, {before}")


_steering(
    "stop",
    "stop",
    "Let workers finish what they run, then end: those named, or all with their supervisors.",
    "stops when its jobs are done",
)
_steering(
    "quiet",
    "quiet",
    "Let workers take no more jobs, and stay: those named, or all. One that crashes is replaced by one that takes "
    "jobs: to keep a queue's jobs from all, pause it.",
    "takes no more jobs",
)
_steering("resume", "run", "Let quiet workers take jobs again: those named, or all.", "takes jobs")
