"""`edit`: changes a failed or cancelled job and retries it, with the same id and history."""

from __future__ import annotations

from functools import partial
from typing import Any, Optional

import click

from webapp.commands.enqueue import fields_of
from webapp.commands.shared.core import actor, as_utf8, core, find_job, json_option, tell_result
from webapp.commands.shared.job_options import job_options

EDITABLE = ("queue", "requires", "priority", "max_retries", "timeout", "cwd", "env", "limits", "unique", "retry")


@click.command(
    epilog="""\b
Examples:
  manage.py edit job1 --command './report.sh --small' --timeout 10m
  manage.py edit job1 --env RETRY=1 --default timeout
  manage.py edit job1 --limit db --unique sync-7 --retry 'exit 75: wait'
""",
)
@click.argument("job_id", metavar="ID")
@click.option("--command", help="Shell command to run.")
@partial(job_options, names=(*EDITABLE, "unique_while"))
@click.option(
    "--default",
    "defaults",
    type=click.Choice(EDITABLE),
    multiple=True,
    metavar="FIELD",
    help=f"Restore the default of this field: {', '.join(EDITABLE)}. Can be repeated.",
)
@json_option
def edit(job_id: str, command: Optional[str], defaults: tuple[str, ...], as_json: bool, **options: Any) -> int:
    """Change the dead, cancelled or failed job ID and retry it, with retries reset.

    The job keeps its ID, attempts and history. Fields that you do not name are unchanged. --env sets single variables,
    and --default env removes all others. --requires, --limit and --retry replace all previous values.
    """
    from webapp.db.engines import reading
    from webapp.jobs import editing

    given = {name: value for name, value in options.items() if value not in (None, ())}
    if command is None and not given and not defaults:
        raise click.UsageError("Give at least one change, such as --command or --timeout.")
    twice = sorted(set(defaults) & set(given) - {"env"})
    if twice:
        option = "limit" if twice[0] == "limits" else twice[0].replace("_", "-")
        raise click.UsageError(f"--default {twice[0]} and --{option} cannot be combined.")
    changes: dict[str, Any] = {**dict.fromkeys(defaults), **fields_of(given)}
    if command is not None:
        changes["command"] = as_utf8(command)
    with core():
        with reading() as session:
            job = find_job(session, job_id)
        if "env" in given and "env" not in defaults:
            changes["env"] = {**(editing.fields_of(job)["env"] or {}), **changes["env"]}
        result = editing.edit(job_id, changes, actor(), seen=job.changed_at)
    return tell_result(result, "edited and requeued", "", as_json)
