"""`web`: the console alone, for those who run workers elsewhere. How it is served is in `webapp/server/gunicorn_app.py`."""

from __future__ import annotations

import socket
from typing import Optional

import click

from webapp.commands.shared.core import core
from webapp.commands.shared.serve import address_options, listen, log_option, set_up_link, tell_set_up


@click.command(epilog="Example: manage.py web --port 8080")
@address_options
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes that serve.")
@click.option("--descriptor", type=int, hidden=True, help="A socket that listens already.")
@click.option("--report-to", type=int, hidden=True, help="A pipe to the supervisor, which speaks for this process.")
@log_option
@click.option("--with-parent", type=int, hidden=True, help="End when this process does.")
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
    """Start the console in the foreground, without workers."""
    from webapp import config as configuration
    from webapp.db import db_errors
    from webapp.lib import logs, sd_notify
    from webapp.server import listener as serving

    if with_parent is not None:
        from webapp.lib.process_group import end_with

        end_with(with_parent)
    manager = sd_notify.take() if report_to is None else sd_notify.Parent(report_to)
    logs.set_up(log_format)
    if descriptor is not None:
        return serving.serve(socket.socket(fileno=descriptor), workers, manager)
    listener = listen(configuration.load(), host, port, insecure)
    with core() as config:
        db_errors.check_before_start(config)
        address = serving.address_of(listener, config)
        link = set_up_link(address)
    click.echo(f"console   {address}")
    tell_set_up(link)
    return serving.serve(listener, workers, manager)
