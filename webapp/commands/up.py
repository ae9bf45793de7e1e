"""`up`: everything on one machine, the console and its workers. What keeps them running is `worker/supervisor/supervisor.py`."""

from __future__ import annotations

import click

from webapp.commands.shared.output import say
from webapp.commands.shared.serve import address_options, listen, log_option, set_up_link, tell_set_up
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
    from webapp.lib import logs, sd_notify
    from webapp.lib.version import __version__
    from webapp.server import listener as serving
    from worker.supervisor import supervisor
    from worker.supervisor.console import Console

    manager = sd_notify.take()
    config = configuration.load()
    listener = listen(config, host, port, insecure)
    address = serving.address_of(listener, config)

    def started(link: str) -> None:
        each = " each" if workers > 1 else ""
        click.echo(f"queuectl {__version__}")
        click.echo(f"console   {address}")
        having = f", with {', '.join(labels)}" if labels else ""
        click.echo(f"workers   {workers}, {plural(slots, 'job')} at a time{each}{having}")
        click.echo(f"database  {config.sqlite_path if config.is_sqlite else 'PostgreSQL'}")
        tell_set_up(link or None)
        click.echo("Ctrl-C stops everything.")

    logs.set_up(log_format)
    code = supervisor.run(
        config,
        count=workers,
        slots=slots,
        labels=labels,
        manager=manager,
        console=Console(listener, ["--log-format", log_format], manager),
        prepare=lambda: set_up_link(address) or "",
        started=started,
    )
    say("Stopped.")
    return code
