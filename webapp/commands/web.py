"""`web`: the console without workers. `webapp/server/gunicorn_app.py` serves it."""

from __future__ import annotations

import socket
from typing import Optional

import click

from webapp.commands.shared import serve
from webapp.commands.shared.core import core, count_option


@click.command(epilog="Example: manage.py web --port 8080")
@serve.address_options
@count_option("--workers", 1, 64, "Number of web processes.")
@click.option("--descriptor", type=int, hidden=True, help="A socket that already listens.")
@click.option("--report-to", type=int, hidden=True, help="A pipe to the supervisor, which informs the service manager.")
@serve.log_option
@serve.parent_option
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
    from webapp import config as configuration
    from webapp.db import db_errors
    from webapp.server.listener import address_of
    from webapp.server.listener import serve as serve_on

    manager = serve.start_service(log_format, with_parent, report_to)
    if descriptor is not None:
        return serve_on(socket.socket(fileno=descriptor), workers, manager)
    listener = serve.listen(configuration.load(), host, port, insecure)
    with core() as config:
        db_errors.check_before_start(config)
        address = address_of(listener, config)
        link = serve.setup_link(address)
    click.echo(f"console   {address}")
    serve.print_setup_link(link)
    return serve_on(listener, workers, manager)
