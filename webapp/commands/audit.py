"""`audit`: the audit trail as a table, as JSON, and as a file of JSON lines."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

import click

from webapp.commands.exit_codes import ExitCode, Failure
from webapp.commands.shared.core import SINCE, core, json_option, limit_option, read_session, with_options
from webapp.commands.shared.output import Column, local_time, present, print_json_rows, say
from webapp.lib.text import plural

if TYPE_CHECKING:
    from webapp.db import audit as trail


_filters = with_options(
    click.option("--actor", metavar="NAME", help="Entries of this user, or of token:NAME. A prefix is enough."),
    click.option("--subject", metavar="TARGET", help="Entries of this target, or with this prefix: job:job1."),
    click.option("--verb", metavar="ACTION", help="Entries of this action, such as requeue or sign_in."),
    click.option("--outcome", type=click.Choice(("done", "refused")), help="Entries with this outcome."),
    click.option("--since", **SINCE, help="Entries since a time (yesterday, 2026-11-24T09:30), or of a period (2h)."),
)


def _wanted(filters: dict[str, Any]) -> trail.AuditFilter:
    from webapp.db import audit as trail

    given = {name: value for name, value in filters.items() if value}
    return trail.AuditFilter(**{**given, "actor": trail.actor_named(given.get("actor", ""))})


@click.group(invoke_without_command=True, epilog="Example: manage.py audit --actor ana --since 1d")
@_filters
@limit_option(50)
@json_option
@click.pass_context
def audit(ctx: click.Context, /, limit: Optional[int], as_json: bool, **filters: Any) -> None:
    """Show the audit trail, newest first: actor, action, target and changes."""
    if ctx.invoked_subcommand is not None:
        if any(filters.values()):
            raise click.UsageError("Put these options after `export`.")
        return
    from webapp.db import audit as trail

    wanted = _wanted(filters)
    if limit is None:
        with core():
            print_json_rows(trail.as_json(row) for rows in trail.export(wanted, newest_first=True) for row in rows)
        return
    with read_session() as session:
        rows = trail.page(session, wanted, limit=limit + 1)
        count = trail.count(session, wanted) if len(rows) > limit else ""
    columns = [
        Column("TIME", lambda row: local_time(row.at)),
        Column("ACTOR", lambda row: row.actor),
        Column("ACTION", lambda row: row.verb),
        Column("TARGET", lambda row: row.subject, flexible=True),
        Column("OUTCOME", lambda row: row.outcome),
        Column("SOURCE", lambda row: f"{row.face} {row.address}" if row.address else row.face),
        Column("CHANGES", lambda row: row.detail, flexible=True),
    ]
    empty = "No matching entries." if any(filters.values()) else "The audit trail is empty."
    more = f"Only the newest {limit:,} are shown, of {count}. Use --limit to see more, or `audit export` for all."
    present(rows[:limit], columns, as_json, trail.as_json, empty, more=more if len(rows) > limit else "")


@audit.command(epilog="Example: manage.py audit export /srv/audit.jsonl --since 30d")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path), default="-")
@click.option("--replace", is_flag=True, help="Replace FILE if it exists, once the new file is complete.")
@_filters
def export(file: Path, replace: bool, **filters: Any) -> None:
    """Write the audit trail to FILE as JSON lines, oldest first. The default is standard output."""
    from webapp.db import audit as trail

    rows = chain.from_iterable(trail.export(_wanted(filters)))
    lines = (json.dumps(trail.as_json(row)) + "\n" for row in rows)
    with core():
        if str(file) == "-":
            sys.stdout.writelines(lines)
            return
        number = _write_file(lines, file, replace)
    say(f"{file}: {plural(number, 'line')}")


def _write_file(lines: Iterator[str], file: Path, replace: bool) -> int:
    """Write a file that only its owner can read. It has a temporary name until it is complete."""
    if file.exists() and not replace:
        raise Failure(ExitCode.TAKEN, f"{file} exists. Choose another name, or use --replace.")
    number = 0
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8") as opened:
            for line in lines:
                opened.write(line)
                number += 1
        os.replace(draft, file)
    except OSError as error:
        raise click.ClickException(f"{file}: {error.strerror}.") from None
    finally:
        draft.unlink(missing_ok=True)
    return number
