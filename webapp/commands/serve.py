"""`up` and `web`: the console, with workers or without. Their options are also those of `worker start`.

`worker/supervisor/supervisor.py` keeps the processes of `up` running. `webapp/server/` serves the console.
"""

from __future__ import annotations

import gc
import json
import os
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Optional, Union

import click

from webapp import config as configuration
from webapp.commands.shared.core import Command, core, count_option
from webapp.commands.shared.output import say
from webapp.core import labels as job_labels
from webapp.core.job_spec import NAME, NAME_RULE
from webapp.lib.text import plural
from webapp.lib.version import __version__

if TYPE_CHECKING:
    from webapp.config import Config
    from webapp.lib.system.sd_notify import Manager

MOST_WORKERS = 256
MOST_WEIGHT = 1000  # of a queue
SHOWN_OTHERS = 3  # supervisors of the same queue


def address_options(command: Command) -> Command:
    """Add --host, --port and --insecure."""
    command = click.option("--insecure", is_flag=True, help="Allow plain HTTP from other machines.")(command)
    port = click.IntRange(0, 65535)
    command = click.option("--port", type=port, default=8000, show_default=True, help="0: any free port.")(command)
    return click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")(command)


def _labels(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> list[str]:
    """Return the labels without duplicates. Raises BadParameter."""
    from worker import processes

    for name in values:
        if not NAME.match(name):
            more = " Give --label once for each label." if "," in name or " " in name else ""
            raise click.BadParameter(f"{name!r} is not a valid label; expected {NAME_RULE}.{more}")
        if name.lower().startswith(job_labels.HOST):
            host = job_labels.of_host(processes.host_name())
            raise click.BadParameter(f"{name!r} is a host label. Workers get theirs automatically, here {host!r}.")
    given = list(dict.fromkeys(values))
    if len(given) > job_labels.MOST:
        raise click.BadParameter(f"{len(given)} labels are too many; a worker has at most {job_labels.MOST}.")
    return given


label_option = click.option(
    "--label",
    "labels",
    metavar="NAME",
    multiple=True,
    callback=_labels,
    help="Label of the workers, such as gpu, for jobs that require it. Can be repeated.",
)


def queue_options(command: Command) -> Command:
    """Add --queue and --strict. `queues_of` reads them."""
    strict = "Take jobs in the order of the queues: a job starts only if the queues before have none that may start."
    command = click.option("--strict", is_flag=True, help=strict)(command)
    help_ = "Run only jobs of this queue. Can be repeated; then NAME:3 gives it three times the slots of NAME:1."
    return click.option("--queue", "queues", metavar="NAME", multiple=True, help=help_)(command)


def queues_of(given: Sequence[str], *, strict: bool) -> tuple[Optional[list[str]], Union[str, list[int], None]]:
    """The queues of workers, None for all; and their order, see `worker/messages.py`. Raises BadParameter.

    A name may contain colons: only a number behind the last one is a weight.
    """
    weights: dict[str, int] = {}
    weighted = False
    for text in given:
        name, _, number = text.rpartition(":")
        has_weight = bool(name) and number.isascii() and number.isdigit()
        name, weight = (name, int(number)) if has_weight else (text, 1)
        if not NAME.match(name):
            raise click.BadParameter(f"{name!r} is not a queue name; expected {NAME_RULE}.", param_hint="--queue")
        if not 1 <= weight <= MOST_WEIGHT:
            raise click.BadParameter(f"{text!r} has a weight outside of 1 to {MOST_WEIGHT}.", param_hint="--queue")
        if weights.setdefault(name, weight) != weight:
            raise click.BadParameter(f"{name!r} has two weights. Give one.", param_hint="--queue")
        weighted = weighted or has_weight
    if strict and weighted:
        raise click.UsageError("Give weights or --strict, not both.")
    if strict and len(weights) < 2:
        raise click.UsageError("--strict needs at least two queues.")
    return list(weights) or None, "strict" if strict else list(weights.values()) if weighted else None


slots_option = count_option("--slots", 1, 256, "Jobs that each worker runs at a time.")
log_option = click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    envvar="QUEUECTL_LOG_FORMAT",
    help="Format of the log on stderr.",
)
parent_option = click.option("--with-parent", type=int, hidden=True, help="Exit when this process exits.")


def start_service(log_format: str, parent: Optional[int] = None, report_to: Optional[int] = None) -> Manager:
    """Prepare a process that runs until it is stopped. Return the service manager that it reports to."""
    from webapp.lib.system import logs, process_group, sd_notify

    gc.set_threshold(50_000)  # less garbage than in commands that end soon
    if parent is not None:
        process_group.end_with(parent)
    manager = sd_notify.take() if report_to is None else sd_notify.Parent(report_to)
    logs.set_up(log_format)
    return manager


@click.command(epilog="Example: manage.py up --port 8080 --workers 4")
@address_options
@count_option("--workers", 2, MOST_WORKERS, "Number of worker processes.")
@slots_option
@queue_options
@label_option
@log_option
def up(
    host: str,
    port: int,
    insecure: bool,
    workers: int,
    slots: int,
    queues: tuple[str, ...],
    strict: bool,
    labels: list[str],
    log_format: str,
) -> int:
    """Start the console and its workers.

    Ctrl-C waits for running jobs, then stops everything.
    """
    from webapp.insight.fleet import serves
    from worker.supervisor import supervisor
    from worker.supervisor.console import Console

    names, order = queues_of(queues, strict=strict)
    config = configuration.load()
    listener, address = _listen(config, host, port, insecure)
    manager = start_service(log_format)

    def started(prepared: str) -> None:
        link, _, others = prepared.partition("\n")
        each = " each" if workers > 1 else ""
        labelled = f", with {', '.join(labels)}" if labels else ""
        served = f", of {serves(names, json.dumps(order))}" if names else ""
        click.echo(f"queuectl {__version__}")
        click.echo(f"console   {address}")
        click.echo(f"workers   {workers}, {plural(slots, 'job')} at a time{each}{served}{labelled}")
        click.echo(f"database  {config.sqlite_path if config.is_sqlite else 'PostgreSQL'}")
        if others:
            click.echo(f"joins     {others}")
        _print_setup_link(link)
        click.echo("Ctrl-C stops everything.")

    code = supervisor.run(
        config,
        count=workers,
        slots=slots,
        labels=labels,
        queues=names,
        order=order,
        manager=manager,
        console=Console(listener, ["--log-format", log_format], manager),
        prepare=lambda: f"{_setup_link(address)}\n{_others()}",
        started=started,
    )
    say("Stopped.")
    return code


@click.command(epilog="Example: manage.py web --port 8080")
@address_options
@count_option("--workers", 1, 64, "Number of web processes.")
@click.option("--descriptor", type=int, hidden=True, help="A socket that is already listening.")
@click.option("--report-to", type=int, hidden=True, help="A pipe to the supervisor, which informs the service manager.")
@log_option
@parent_option
def web(
    host: str,
    port: int,
    insecure: bool,
    workers: int,
    descriptor: Optional[int],
    report_to: Optional[int],
    log_format: str,
    with_parent: Optional[int],
) -> int:
    """Start the console without workers, in the foreground."""
    from webapp.core.storage import db_errors
    from webapp.db import engines
    from webapp.server.listener import serve

    manager = start_service(log_format, with_parent, report_to)
    if descriptor is not None:
        return serve(socket.socket(fileno=descriptor), workers, manager)
    listener, address = _listen(configuration.load(), host, port, insecure)
    with core():
        db_errors.check_before_start(engines.database())
        link = _setup_link(address)
    click.echo(f"console   {address}")
    _print_setup_link(link)
    return serve(listener, workers, manager)


def _listen(config: Config, host: str, port: int, insecure: bool) -> tuple[socket.socket, str]:
    """Bind the port before anything else starts. Return also the address for browsers. Raises ConfigError."""
    from webapp.server import listener

    listener.check_exposure(host, config, insecure)
    bound = listener.bind(host, port)
    return bound, listener.address_of(bound, config)


def _setup_link(address: str) -> str:
    """Return a new link that creates the first admin account, or '' if there is one. Needs an application context."""
    from webapp.accounts import users

    token = users.new_setup_link()
    return f"{address}/setup/{token}" if token is not None else ""


def _others() -> str:
    """Name what already serves this queue, in case it was started twice. Needs an application context."""
    import psutil

    from webapp.db.engines import reading
    from webapp.insight import fleet
    from webapp.jobs import settings
    from worker import processes

    with reading() as session:
        views = fleet.supervisors(session, fleet.workers(session, settings.load(session).lease))
    here, us = processes.host_name(), (os.getpid(), os.getppid())  # this may be a fork of the supervisor
    running = [
        (view, view.row.pid)
        for view in views
        if view.row is not None and view.state == "running"
        # After a kill the row lives on for a while. In a container the next process may get the same number.
        if view.host != here or (psutil.pid_exists(view.row.pid) and view.row.pid not in us)
    ]
    names = [f"pid {pid} on {view.host} ({plural(len(view.workers), 'worker')})" for view, pid in running]
    more = [f"{len(names) - SHOWN_OTHERS} more"] if len(names) > SHOWN_OTHERS else []
    return f"{', '.join(names[:SHOWN_OTHERS] + more)}. All run the jobs of this queue." if names else ""


def _print_setup_link(link: str) -> None:
    """Print the link to stdout. It must not get into the log."""
    if link:
        click.echo("\nCreate the admin account with this link (valid once, for one hour, until the next start):\n")
        click.echo(f"  {link}\n")
