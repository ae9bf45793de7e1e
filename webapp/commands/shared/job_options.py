"""The options for the fields of a job, for `enqueue`, `run`, `edit` and `schedule`."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import click

from webapp.commands.shared.core import DURATION, with_options
from webapp.core.flow import unique_keys

_JOB_OPTIONS = {
    "id": click.option("--id", metavar="ID", help="Job ID (default: generated)."),
    "queue": click.option("--queue", metavar="NAME", help="Queue (default: default)."),
    "requires": click.option(
        "--requires",
        metavar="LABEL",
        multiple=True,
        help="Run only on workers with this label, such as gpu or host:web-1. Can be repeated.",
    ),
    "priority": click.option("--priority", type=int, help="From -100 to 100, higher first (default: 0)."),
    "delay": click.option("--delay", **DURATION, help="Time to wait before the first attempt."),
    "run_at": click.option(
        "--run-at",
        metavar="TIME",
        help="Run at 08:00 (the next one) or at '2030-01-31 08:00', in this machine's time zone, or at "
        "2030-01-31T08:00:00Z.",
    ),
    "max_retries": click.option("--max-retries", type=int, help="Retries after a failed first attempt."),
    "timeout": click.option("--timeout", **DURATION, help="Time limit of each attempt."),
    "cwd": click.option("--cwd", metavar="FOLDER", help="Working directory."),
    "env": click.option("--env", metavar="NAME=VALUE", multiple=True, help="Environment variable. Can be repeated."),
    "notify": click.option(
        "--notify",
        metavar="CHANNEL",
        multiple=True,
        help="Send a message to this channel when the job ends. Can be repeated.",
    ),
    "limits": click.option(
        "--limit",
        "limits",
        metavar="KEY",
        multiple=True,
        help="Key of a limit, such as customer-7, or warehouse:exclusive. Can be repeated.",
    ),
    "unique": click.option("--unique", metavar="KEY", help="Unique key: at most one job holds it."),
    "unique_while": click.option(
        "--unique-while",
        metavar="WHILE",
        help="How long it holds the key: waiting (until it starts), unfinished, or a period such as 1h "
        "(default: unfinished).",
    ),
    "on_conflict": click.option(
        "--on-conflict",
        type=click.Choice(unique_keys.ON_CONFLICT),
        help="If another job holds the key: refuse this one, return the other one's ID, or replace it if it is waiting "
        "(default: refuse).",
    ),
    "retry": click.option(
        "--retry",
        metavar="RULE",
        multiple=True,
        help="Rule for failed attempts: 'exit 75: wait', 'signal KILL: retry', 'output PATTERN: bury', 'any: success', "
        "'backoff linear 10s cap 10m'. Can be repeated; the first rule that matches counts.",
    ),
    "after": click.option(
        "--after",
        metavar="ID[:END]",
        multiple=True,
        help="Start after this job has completed; with ID:finish, ended; with ID:failure, failed. Can be repeated.",
    ),
}


def job_options(command: Any, names: Container[str] = _JOB_OPTIONS) -> Any:
    """Add the options for the fields of a job, or for those with these names."""
    return with_options(*(option for name, option in _JOB_OPTIONS.items() if name in names))(command)
