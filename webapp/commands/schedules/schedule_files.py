"""`schedule import`, `export` and `apply`: schedules from a crontab, and as a file of YAML or TOML."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from webapp.commands.exit_codes import ExitCode, Failure
from webapp.commands.shared.core import actor, core, json_option, read_session
from webapp.commands.shared.output import local_time, print_json, say
from webapp.core.job_spec import SpecError
from webapp.lib import clock
from webapp.lib.text import listed, plural, shorten
from webapp.schedules.preview import MOST

if TYPE_CHECKING:
    from collections.abc import Sequence

    from webapp.schedules.crontab import Crontab
    from webapp.schedules.document import PlannedChange
    from webapp.schedules.preview import Preview
    from webapp.schedules.spec import ScheduleSpec

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
@click.option("--prefix", default="", metavar="TEXT", help="Prefix for the names of the schedules.")
@click.option("--enable", is_flag=True, help="Start the schedules. By default they are paused.")
@click.option("--dry-run", is_flag=True, help="Only report; change nothing.")
@json_option
def import_(crontab: str, user_column: bool, prefix: str, enable: bool, dry_run: bool, as_json: bool) -> None:
    """Add a schedule for each line of a CRONTAB file ('-': standard input), and report what cannot be imported."""
    from webapp.schedules import actions
    from webapp.schedules.actions import Change
    from webapp.schedules.crontab import read

    found = read(_text_of(crontab), user_column=user_column, prefix=prefix, enabled=enable)
    specs = [entry.spec for entry in found.entries if entry.spec is not None]
    left = len(found.entries) - len(specs)
    if not as_json:
        _tell_crontab(found)
    with core():
        _refuse_taken([spec.name for spec in specs])
        if not dry_run:
            actions.apply([Change(spec.name, spec, known=False) for spec in specs], actor())
    if as_json:
        print_json(_crontab_json(found, applied=not dry_run))
    if dry_run:
        say(f"{plural(len(specs), 'schedule')} would be added, {left} left out. Nothing was changed.")
        return
    state = "They fire from now on." if enable else "They are paused: `manage.py schedule resume NAME` starts one."
    say(f"{plural(len(specs), 'schedule')} added, {left} left out. {state if specs else ''}".rstrip())


def _refuse_taken(names: Sequence[str]) -> None:
    from webapp.db.engines import reading
    from webapp.schedules import views

    with reading() as session:
        taken = sorted({*names} & {*views.stored(session)})
    if taken:
        words = f"names of other schedules: {listed(taken)}. Nothing was changed. Use --prefix, or remove them."
        raise Failure(ExitCode.TAKEN, words)


def _tell_crontab(found: Crontab) -> None:
    from webapp.schedules.timing import in_words

    click.echo(f"time zone: {found.zone} (from {found.zone_from})")
    for line, note in found.notes:
        click.echo(f"line {line}: {note}")
    for entry in found.entries:
        click.echo(f"line {entry.line}: {shorten(entry.text, 100)}")
        if entry.spec is not None:
            timing = entry.spec.timing
            click.echo(f"  {entry.spec.name}: {in_words(timing)}, {timing.tz}")
            click.echo(f"  next, as with cron: {', '.join(local_time(fire) for fire in _next_of(entry.spec))}")
        for note in entry.notes:
            click.echo(f"  {note}")


def _crontab_json(found: Crontab, *, applied: bool) -> dict[str, Any]:
    from webapp.schedules.spec import to_json

    entries = []
    for one in found.entries:
        entry = {"line": one.line, "text": one.text, "schedule": None, "next": [], "notes": one.notes}
        if one.spec is not None:
            entry.update(schedule=to_json(one.spec), next=[clock.to_iso(fire) for fire in _next_of(one.spec)])
        entries.append(entry)
    notes = [{"line": line, "note": note} for line, note in found.notes]
    return {"tz": found.zone, "tz_from": found.zone_from, "applied": applied, "entries": entries, "notes": notes}


def _next_of(spec: ScheduleSpec) -> list[int]:
    return [fire for fire, _ in zip(spec.timing.after(clock.now()), range(SHOWN_FIRES))]


@click.command(epilog="Example: manage.py schedule export > schedules.yaml")
@click.argument("names", nargs=-1)
@json_option
def export(names: tuple[str, ...], as_json: bool) -> None:
    """Print all schedules, or the named ones, as a file that `schedule apply` reads."""
    from webapp.schedules import document, views
    from webapp.schedules.spec import to_json

    with read_session() as session:
        for name in names:
            views.find(session, name)
        wanted = {name: spec for name, spec in views.stored(session).items() if not names or name in names}
    specs = [spec for spec in wanted.values() if spec is not None]
    if len(specs) < len(wanted):
        broken = listed([name for name, spec in wanted.items() if spec is None])
        say(f"Left out, because this machine cannot read them: {broken}. `manage.py schedule show NAME` says why.")
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
@click.option("--prune", is_flag=True, help="Remove schedules that are not in the file.")
@click.option("--dry-run", is_flag=True, help="Show the plan; change nothing.")
@json_option
def apply(file: str, prune: bool, dry_run: bool, as_json: bool) -> None:
    """Add and change schedules to match a YAML or TOML FILE, in one transaction."""
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
        if not as_json:
            for change in planned.changes:
                _tell_change(change)
        if not dry_run and planned.changes:
            actions.apply(planned.as_changes(), actor())
        if as_json:
            changes = [_change_json(change) for change in planned.changes]
            print_json({"applied": not dry_run, "changes": changes, "unchanged": planned.unchanged})
    changed = f"{plural(len(planned.changes), 'change')}, {planned.unchanged} unchanged"
    say(f"{changed}. Nothing was changed." if dry_run else f"{changed}.")


def _refusal(file: str, error: SpecError) -> click.ClickException:
    lines = [
        f"schedule {one.place + 1}: {one.field}: {one.message}" if one.place is not None else f"{one.message}"
        for one in error.errors
    ]
    return click.ClickException("\n".join([f"{file}: nothing was changed.", *lines]))


def _tell_change(change: PlannedChange) -> None:
    told = {"add": "+ {}: added", "remove": "- {}: removed", "change": "~ {}: {}"}[change.kind]
    click.echo(told.format(change.name, ", ".join(change.fields)))
    if change.preview is not None:
        tell_preview(change.preview, indent="  ")


def _change_json(change: PlannedChange) -> dict[str, Any]:
    fires = None if change.preview is None else preview_json(change.preview)
    return {"name": change.name, "kind": change.kind, "fields": list(change.fields), "preview": fires}


def preview_json(found: Preview) -> dict[str, Any]:
    """Which fires of the next days a change adds, removes and moves. `is_cut`: not all were compared."""
    return {
        "appear": [clock.to_iso(time) for time in found.appear],
        "vanish": [clock.to_iso(time) for time in found.vanish],
        "move": [{"from": clock.to_iso(old), "to": clock.to_iso(new)} for old, new in found.move],
        "is_cut": found.is_cut,
    }


def tell_preview(found: Preview, indent: str = "") -> None:
    """Print which fires of the next days a change adds, removes and moves."""
    for word, times in (("new fires", found.appear), ("fires that vanish", found.vanish)):
        if times:
            click.echo(f"{indent}{word} in 7 days: {_listed([local_time(time) for time in times])}")
    if found.move:
        moves = [f"{local_time(old)} → {local_time(new)}" for old, new in found.move]
        click.echo(f"{indent}fires that move: {_listed(moves)}")
    if found.is_cut:
        click.echo(f"{indent}only the first {MOST} fires are compared")


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
