"""`up`: the console and its workers on one machine. `worker/supervisor/supervisor.py` keeps them running."""

from __future__ import annotations

import click

from webapp.commands.shared import serve
from webapp.commands.shared.core import count_option
from webapp.commands.shared.output import say
from webapp.lib.text import plural


@click.command(epilog="Example: manage.py up --port 8080 --workers 4")
@serve.address_options
@count_option("--workers", 2, serve.MOST_WORKERS, "Number of worker processes.")
@serve.slots_option
@serve.label_option
@serve.log_option
def up(host: str, port: int, insecure: bool, workers: int, slots: int, labels: list[str], log_format: str) -> int:
    """Start the console and its workers.

    Ctrl-C waits for running jobs, then stops everything.
    """
    from webapp import config as configuration
    from webapp.lib.version import __version__
    from webapp.server.listener import address_of
    from worker.supervisor import supervisor
    from worker.supervisor.console import Console

    config = configuration.load()
    listener = serve.listen(config, host, port, insecure)
    address = address_of(listener, config)
    manager = serve.start_service(log_format)

    def started(link: str) -> None:
        each = " each" if workers > 1 else ""
        labelled = f", with {', '.join(labels)}" if labels else ""
        click.echo(f"queuectl {__version__}")
        click.echo(f"console   {address}")
        click.echo(f"workers   {workers}, {plural(slots, 'job')} at a time{each}{labelled}")
        click.echo(f"database  {config.sqlite_path if config.is_sqlite else 'PostgreSQL'}")
        serve.print_setup_link(link)
        click.echo("Ctrl-C stops everything.")

    code = supervisor.run(
        config,
        count=workers,
        slots=slots,
        labels=labels,
        manager=manager,
        console=Console(listener, ["--log-format", log_format], manager),
        prepare=lambda: serve.setup_link(address),
        started=started,
    )
    say("Stopped.")
    return code
