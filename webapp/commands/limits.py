"""`limits`: set, list and remove limits. `queue limit` sets the one of a queue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

import click

from webapp.commands.exit_codes import ExitCode, Failure
from webapp.commands.shared.core import actor, core, json_option, read_session, with_options
from webapp.commands.shared.output import Column, ago, present, tell

if TYPE_CHECKING:
    from webapp.jobs.flow.limit_use import LimitView

bounded = with_options(  # the values of a limit
    click.option("--max", "most", metavar="N", help="Jobs that may run at a time (default: any number)."),
    click.option("--rate", metavar="RATE", help="Jobs that may start within a period: 10/min, 100/h or 5/30s."),
    click.option("--note", metavar="TEXT", help="What the limit is for."),
)


@click.group(epilog="Example: manage.py limits set db --max 2")
def limits() -> None:
    """Limit how many jobs with a key run at a time, or start within a period.

    Jobs name keys: `enqueue --limit customer-7`, or `--limit warehouse:exclusive` for a job that no other job of
    the key may run beside.
    """


@limits.command(
    "set",
    epilog="""\b
Examples:
  manage.py limits set db --max 2
  manage.py limits set 'customer-*' --max 1 --rate 10/min
  manage.py limits set warehouse --note 'for rebuilds, which run alone'
""",
)
@click.argument("key")
@bounded
@json_option
def set_(key: str, most: Optional[str], rate: Optional[str], note: Optional[str], as_json: bool) -> None:
    """Set the limit of KEY. It replaces what was set before.

    A KEY that ends with * is a pattern: its limit applies to each key separately. Running jobs continue.
    """
    store(key, most, rate, note, as_json)


def store(key: str, most: Optional[str], rate: Optional[str], note: Optional[str], as_json: bool) -> None:
    from webapp.core.flow.limits import describe
    from webapp.jobs.flow import limits as operations

    with core():
        row = operations.set_limit(key, most, rate, note, actor())
    words = f"{row.key}: {describe(row.most, row.rate, row.per)}"
    tell(words, {"key": row.key, **operations.shown(row)}, as_json)


@limits.command("list", epilog="Example: manage.py limits list --json")
@json_option
def list_limits(as_json: bool) -> None:
    """List limits, the jobs that hold them, and how many wait."""
    from webapp.jobs.flow import limit_use
    from webapp.jobs.flow import limits as operations

    with read_session() as session:
        views = limit_use.views(session, operations.every(session))
    columns = [
        Column("KEY", lambda view: view.row.key),
        Column("MAX", lambda view: view.row.most, right=True),
        Column("RATE", lambda view: view.rate),
        Column("RUNNING", lambda view: len(view.holders), right=True),
        Column("WAITING", lambda view: str(view.waiting), right=True),
        Column("HELD BY", _holders, flexible=True),
        Column("NOTE", lambda view: view.row.note, flexible=True, optional=True),
        Column("CHANGED", lambda view: ago(view.row.changed_at, view.row.changed_by)),
    ]
    present(views, columns, as_json, lambda view: view.json(), "No limits. Set one: manage.py limits set KEY --max N")


def _holders(view: LimitView) -> str:
    return ", ".join(job.id for job in view.holders[:5]) + (", …" if len(view.holders) > 5 else "")


@limits.command("rm", epilog="Example: manage.py limits rm db")
@click.argument("key")
@click.option(
    "--force", is_flag=True, help="Remove it even if jobs name it. They continue without a limit on that key."
)
def remove(key: str, force: bool) -> None:
    """Remove the limit of KEY."""
    drop(key, force=force)
    click.echo(f"{key}: removed")


def drop(key: str, *, force: bool) -> None:
    from webapp.jobs.flow import limits as operations

    try:
        with core():
            operations.remove_limit(key, actor(), force=force)
    except operations.LimitInUse as error:
        raise Failure(ExitCode.REFUSED, f"{error} Use --force to remove it anyway.") from None
