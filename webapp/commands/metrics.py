"""`metrics`: the metrics of the queue for Prometheus."""

from __future__ import annotations

import click

from webapp.commands.shared.core import core


@click.command(epilog="Example: manage.py metrics > /var/lib/prometheus/node-exporter/queuectl.prom.new")
def metrics() -> None:
    """Print the metrics of the queue for Prometheus, such as for node_exporter's textfile collector.

    The console serves the same at /metrics, and its request counts as well.
    """
    with core():
        from webapp.insight import job_counts
        from webapp.web.metrics import exposition

        job_counts.fold()
        text, _ = exposition(job_counts.count())
        click.echo(text, nl=False)
