"""What `up`, `web` and `worker start` share: their options, how they start, and the setup link."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Optional

import click

from webapp.commands.shared.core import Command, count_option

if TYPE_CHECKING:
    from webapp.config import Config
    from webapp.lib.sd_notify import Manager

HOST, PORT = "127.0.0.1", 8000
MOST_WORKERS = 256


def address_options(command: Command) -> Command:
    """Add --host, --port and --insecure."""
    command = click.option("--insecure", is_flag=True, help="Allow plain HTTP from other machines.")(command)
    port = click.IntRange(0, 65535)
    command = click.option("--port", type=port, default=PORT, show_default=True, help="0: any free port.")(command)
    return click.option("--host", default=HOST, show_default=True, help="Address to listen on.")(command)


def _labels(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> list[str]:
    """Return the labels without duplicates. Raises BadParameter."""
    from webapp.core import labels
    from webapp.core.job_spec import NAME, NAME_RULE
    from worker import processes

    for name in values:
        if not NAME.match(name):
            more = " Give --label once for each label." if "," in name or " " in name else ""
            raise click.BadParameter(f"{name!r} is not a valid label; expected {NAME_RULE}.{more}")
        if name.lower().startswith(labels.HOST):
            host = labels.of_host(processes.host_name())
            raise click.BadParameter(f"{name!r} is a host label. Workers get theirs automatically, here {host!r}.")
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
    help="Label of the workers, such as gpu, for jobs that require it. Can be repeated.",
)
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
    from webapp.lib import logs, sd_notify

    if parent is not None:
        from webapp.lib.process_group import end_with

        end_with(parent)
    manager = sd_notify.take() if report_to is None else sd_notify.Parent(report_to)
    logs.set_up(log_format)
    return manager


def listen(config: Config, host: str, port: int, insecure: bool) -> socket.socket:
    """Bind the port before anything else starts. Raises ConfigError."""
    from webapp.server import listener

    listener.check_exposure(host, config, insecure)
    return listener.bind(host, port)


def setup_link(address: str) -> str:
    """Return a new link that creates the first admin account, or '' if there is one. Needs an application context."""
    from webapp.accounts import users

    token = users.new_setup_link()
    return f"{address}/setup/{token}" if token is not None else ""


def print_setup_link(link: str) -> None:
    """Print the link to stdout. It must not get into the log."""
    if link:
        click.echo("\nCreate the admin account with this link (valid once, for one hour, until the next start):\n")
        click.echo(f"  {link}\n")
