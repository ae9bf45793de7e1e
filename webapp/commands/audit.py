"""`audit`: the trail of what people and programs did, as a table, as JSON, and as a file of JSON lines."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Optional

import click

from webapp.commands.shared.core import SINCE, core, json_option
from webapp.commands.shared.output import Column, local_time, present, say
from webapp.lib.text import plural

if TYPE_CHECKING:
    from webapp.db import audit as trail
    from webapp.db.models import Audit

PAGE = 500  # rows that one read takes


def _filters(command: Callable[..., Any]) -> Callable[..., Any]:
    """--actor, --subject, --verb, --outcome and --since: the same for the table and for the file."""
    for option in (
        click.option("--since", type=SINCE, help="Not before this time (2026-11-24T09:30:00Z), or so long ago (2h)."),
        click.option("--outcome", type=click.Choice(("done", "refused")), help="Only what was done, or was refused."),
        click.option("--verb", metavar="VERB", help="Only this act, such as requeue or sign_in."),
        click.option("--subject", metavar="TEXT", help="Only acts on this: job:job1; a beginning is enough: setting:"),
        click.option("--actor", metavar="NAME", help="Only acts of this person, or token:NAME; a beginning is enough."),
    ):
        command = option(command)
    return command


def _wanted(
    actor: Optional[str], subject: Optional[str], verb: Optional[str], outcome: Optional[str], since: Optional[int]
) -> trail.AuditFilter:
    from webapp.db import audit as trail

    return trail.AuditFilter(
        actor=trail.actor_named(actor or ""),
        verb=verb or "",
        subject=subject or "",
        outcome=outcome or "",
        since=since,
    )


@click.group(invoke_without_command=True, epilog="Example: manage.py audit --actor ana --since 1d")
@_filters
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many.")
@json_option
@click.pass_context
def audit(ctx: click.Context, /, limit: int, as_json: bool, **filters: Any) -> None:
    """Show who did what, from where, and what changed: the newest lines first."""
    if ctx.invoked_subcommand is not None:
        if any(filters.values()):
            raise click.UsageError("Give these options behind `export`.")
        return
    from webapp.db import audit as trail

    wanted = _wanted(**filters)
    with core():
        rows, more = _newest(wanted, limit)
    columns = [
        Column("WHEN", lambda row: local_time(row.at)),
        Column("WHO", lambda row: row.actor),
        Column("DID", lambda row: row.verb),
        Column("TO", lambda row: row.subject, flexible=True),
        Column("OUTCOME", lambda row: row.outcome),
        Column("FROM", lambda row: f"{row.face} {row.address}" if row.address else row.face),
        Column("CHANGED", lambda row: row.detail, flexible=True),
    ]
    narrowed = any(value is not None for value in filters.values())
    empty = "Nothing in the trail is like this." if narrowed else "Nothing was done yet."
    present(rows, columns, as_json, trail.as_json, empty)
    if more:
        say(f"These are the newest {limit:,}; there are more. Show them with --limit, or all with `audit export`.")


def _newest(wanted: trail.AuditFilter, limit: int) -> tuple[list[Audit], bool]:
    """The newest rows, and whether there are more; a read transaction takes PAGE at the most."""
    from webapp.db import audit as trail
    from webapp.db.engines import reading

    rows: list[Audit] = []
    while len(rows) <= limit:
        with reading() as session:
            before = rows[-1].id if rows else None
            page = trail.page(session, wanted, before=before, limit=min(PAGE, limit + 1 - len(rows)))
        if not page:
            break
        rows += page
    return rows[:limit], len(rows) > limit


@audit.command(epilog="Example: manage.py audit export /srv/audit.jsonl --since 30d")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path), default="-")
@click.option("--replace", is_flag=True, help="Overwrite a file of that name, once the new one is whole.")
@_filters
def export(file: Path, replace: bool, **filters: Any) -> None:
    """Write the trail to FILE (default: -, standard output), a JSON object a line, the oldest first."""
    wanted = _wanted(**filters)
    with core():
        if str(file) == "-":
            _write(wanted, sys.stdout.write)
            return
        number = _to_file(wanted, file, replace)
    say(f"{file}: {plural(number, 'line')}")


def _to_file(wanted: trail.AuditFilter, file: Path, replace: bool) -> int:
    """Under another name until it is whole, readable by its owner alone."""
    if file.exists() and not replace:
        raise click.ClickException(f"{file} exists. Choose another name, or say --replace.")
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8") as opened:
            number = _write(wanted, opened.write)
        os.replace(draft, file)
    except OSError as error:
        raise click.ClickException(f"{file}: {error.strerror}.") from None
    finally:
        draft.unlink(missing_ok=True)
    return number


def _write(wanted: trail.AuditFilter, write: Callable[[str], object]) -> int:
    from webapp.db import audit as trail

    number = 0
    for rows in trail.export(wanted):
        write("".join(json.dumps(trail.as_json(row)) + "\n" for row in rows))
        number += len(rows)
    return number
