"""`schedule import`, `export` and `apply`: schedules from a crontab, and as a file of YAML or TOML."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from webapp.commands.shared.core import actor, core, json_option, read_session
from webapp.commands.shared.output import local_time, print_json, say
from webapp.core.job_spec import SpecError
from webapp.lib import clock
from webapp.lib.text import plural, shorten

if TYPE_CHECKING:
    from collections.abc import Sequence

    from webapp.schedules.crontab import Crontab
    from webapp.schedules.document import PlannedChange
    from webapp.schedules.preview import Preview

SHOWN_FIRES = 3


@click.command(
    "import",
    epilog="""\b
Examples:
  crontab -l | manage.py schedule import - --dry-run
  manage.py schedule import /etc/crontab --user-column
""",
)
@click.argument("crontab")
@click.option("--user-column", is_flag=True, help="Each line names a user before its command, as in /etc/crontab.")
@click.option("--prefix", default="", metavar="TEXT", help="Begin the names of the schedules with this text.")
@click.option("--enable", is_flag=True, help="Let the schedules fire. By default they are paused.")
@click.option("--dry-run", is_flag=True, help="Only report; change nothing.")
@json_option
def import_(crontab: str, user_column: bool, prefix: str, enable: bool, dry_run: bool, as_json: bool) -> None:
    """Make a schedule from each line of a CRONTAB file ('-': standard input), and report what does not carry over."""
    from webapp.schedules import actions
    from webapp.schedules.actions import Change
    from webapp.schedules.crontab import read

    found = read(_text_of(crontab), user_column=user_column, prefix=prefix, enabled=enable)
    specs = [entry.spec for entry in found.entries if entry.spec is not None]
    if as_json:
        print_json(_crontab_json(found))
    else:
        _tell_crontab(found)
    left = len(found.entries) - len(specs)
    if dry_run:
        say(f"{plural(len(specs), 'schedule')} would be added, {left} left out. Nothing was changed.")
        return
    with core():
        actions.apply([Change(spec.name, spec, known=False) for spec in specs], actor())
    state = "They fire from now on." if enable else "They are paused: `manage.py schedule resume NAME` starts one."
    say(f"{plural(len(specs), 'schedule')} added, {left} left out. {state if specs else ''}".rstrip())


def _tell_crontab(found: Crontab) -> None:
    from webapp.schedules.timing import in_words

    for line, note in found.notes:
        click.echo(f"line {line}: {note}")
    for entry in found.entries:
        click.echo(f"line {entry.line}: {shorten(entry.text, 100)}")
        if entry.spec is not None:
            timing = entry.spec.timing
            click.echo(f"  {entry.spec.name}: {in_words(timing)}, {timing.tz}")
            times = [local_time(fire) for fire, _ in zip(timing.after(clock.now()), range(SHOWN_FIRES))]
            click.echo(f"  next, as with cron: {', '.join(times)}")
        for note in entry.notes:
            click.echo(f"  {note}")


def _crontab_json(found: Crontab) -> dict[str, Any]:
    from webapp.schedules.spec import to_json

    entries = [
        {"line": one.line, "text": one.text, "schedule": to_json(one.spec) if one.spec else None, "notes": one.notes}
        for one in found.entries
    ]
    return {"entries": entries, "notes": [{"line": line, "note": note} for line, note in found.notes]}


@click.command(epilog="Example: manage.py schedule export > schedules.yaml")
@click.argument("names", nargs=-1)
@json_option
def export(names: tuple[str, ...], as_json: bool) -> None:
    """Print schedules, all or those with these NAMES, as the file that `schedule apply` reads."""
    from webapp.schedules import document, views
    from webapp.schedules.spec import to_json

    with read_session() as session:
        for name in names:
            views.find(session, name)
        stored = views.stored(session)
    specs = [spec for name, spec in stored.items() if not names or name in names]
    if as_json:
        print_json([to_json(spec) for spec in specs])
    else:
        click.echo(document.dump(specs), nl=False)


@click.command(
    epilog="""\b
Example:
  manage.py schedule apply schedules.yaml --dry-run

The file:
  schedules:
    nightly:
      cron: 0 2 * * *
      tz: Europe/Berlin
      job: {command: ./backup.sh}
"""
)
@click.argument("file")
@click.option("--prune", is_flag=True, help="Remove schedules that the file does not have.")
@click.option("--dry-run", is_flag=True, help="Show the plan; change nothing.")
@json_option
def apply(file: str, prune: bool, dry_run: bool, as_json: bool) -> None:
    """Make the schedules as a YAML or TOML FILE says, all in one transaction."""
    from webapp.db.engines import reading
    from webapp.schedules import actions, document, views

    try:
        described = document.read(_text_of(file), is_toml=file.endswith(".toml"))
    except SpecError as error:
        raise _refusal(file, error) from None
    with core():
        with reading() as session:
            stored = views.stored(session)
        planned = document.plan(stored, described, prune=prune)
        if as_json:
            print_json([_change_json(change) for change in planned.changes])
        else:
            for change in planned.changes:
                _tell_change(change)
        if not dry_run and planned.changes:
            actions.apply(planned.as_changes(), actor())
    changed = f"{plural(len(planned.changes), 'change')}, {planned.unchanged} unchanged"
    say(f"{changed}. Nothing was changed." if dry_run else f"{changed}.")


def _refusal(file: str, error: SpecError) -> click.ClickException:
    lines = [
        f"schedule {one.place + 1}: {one.field}: {one.message}" if one.place is not None else f"{one.message}"
        for one in error.errors
    ]
    return click.ClickException("\n".join([f"{file}: nothing was changed.", *lines]))


def _tell_change(change: PlannedChange) -> None:
    if change.before is None and change.after is not None:
        click.echo(f"+ {change.name}: added")
    elif change.after is None:
        click.echo(f"- {change.name}: removed")
        return
    else:
        click.echo(f"~ {change.name}: {', '.join(change.fields)}")
    if change.preview is not None:
        tell_preview(change.preview, indent="  ")


def _change_json(change: PlannedChange) -> dict[str, Any]:
    kind = "add" if change.before is None else "remove" if change.after is None else "change"
    return {"name": change.name, "kind": kind, "fields": list(change.fields)}


def tell_preview(found: Preview, indent: str = "") -> None:
    """Print which fires of the next days a change adds, removes and moves."""
    for word, times in (("new fires", found.appear), ("fires that vanish", found.vanish)):
        if times:
            click.echo(f"{indent}{word} in 7 days: {_listed([local_time(time) for time in times])}")
    if found.move:
        moves = [f"{local_time(old)} → {local_time(new)}" for old, new in found.move]
        click.echo(f"{indent}fires that move: {_listed(moves)}")


def _listed(times: Sequence[str]) -> str:
    more = f" and {len(times) - SHOWN_FIRES:,} more" if len(times) > SHOWN_FIRES else ""
    return ", ".join(times[:SHOWN_FIRES]) + more


def _text_of(path: str) -> str:
    try:
        data = sys.stdin.buffer.read() if path == "-" else Path(os.path.expanduser(path)).read_bytes()
        return data.decode("utf-8-sig")
    except OSError as error:
        raise click.ClickException(f"cannot read {path}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise click.ClickException(f"{path} is not UTF-8 text.") from None
