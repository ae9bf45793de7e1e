"""`up`: everything on one machine, the console and its workers. Who keeps them running is `webapp/lib/process_group.py`."""

from __future__ import annotations

import click

from webapp.commands._core import core
from webapp.commands._output import say
from webapp.commands._serve import address_options, listen, log_option, set_up_link, tell_set_up
from webapp.commands.worker import MOST_SLOTS, MOST_WORKERS, label_option
from webapp.lib.text import plural


@click.command(epilog="Example: manage.py up --port 8080 --workers 4")
@address_options
@click.option("--workers", type=click.IntRange(1, MOST_WORKERS), default=2, show_default=True, help="Job workers.")
@click.option(
    "--slots", type=click.IntRange(1, MOST_SLOTS), default=1, show_default=True, help="Jobs each runs at a time."
)
@label_option
@log_option
def up(host: str, port: int, insecure: bool, workers: int, slots: int, labels: list[str], log_format: str) -> int:
    """Start the console and its workers. Ctrl-C lets running jobs finish, then stops everything."""
    from webapp import config as configuration
    from webapp.db import db_errors
    from webapp.lib import process_group, sd_notify
    from webapp.lib.version import __version__
    from webapp.server import serving

    manager = sd_notify.take()
    listener = listen(configuration.load(), host, port, insecure)
    with core() as config:
        db_errors.check_before_start(config)
        address = serving.address_of(listener, config)
        link = set_up_link(address)
    database = str(config.sqlite_path) if config.is_sqlite else "PostgreSQL"

    def started() -> None:
        each = " each" if workers > 1 else ""
        click.echo(f"queuectl {__version__}")
        click.echo(f"console   {address}")
        having = f", with {', '.join(labels)}" if labels else ""
        click.echo(f"workers   {workers}, {plural(slots, 'job')} at a time{each}{having}")
        click.echo(f"database  {database}")
        tell_set_up(link)
        click.echo("Ctrl-C stops everything.")

    def draining() -> None:
        listener.close()  # the console has its own; with this one open, new connections would wait for nobody
        say("Stopping: running jobs may finish. Ctrl-C again: now.")

    socket_number = listener.fileno()
    web = ["web", "--descriptor", str(socket_number), "--log-format", log_format]
    work = ["worker", "start", "--count", str(workers), "--slots", str(slots), "--log-format", log_format]
    work += [word for label in labels for word in ("--label", label)]
    try:
        process_group.run(
            [
                process_group.Child("console", web, inherited=[socket_number]),
                process_group.Child("workers", work),
            ],
            say,
            draining,
            started,
            manager,
        )
    except process_group.Broken as broken:
        raise click.ClickException(str(broken)) from None
    say("Stopped.")
    return 0
