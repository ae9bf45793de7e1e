"""`schedule`: add, list, show, edit, pause, run and remove schedules. Files are in `schedule_files.py`."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any, Optional

import click

from webapp.commands.enqueue import fields_of
from webapp.commands.exit_codes import ExitCode, Failure
from webapp.commands.schedules import schedule_files
from webapp.commands.shared.core import (
    actor,
    as_utf8,
    core,
    count_option,
    first_views,
    json_option,
    limit_option,
    parsed,
    read_session,
    with_options,
)
from webapp.commands.shared.job_options import job_options
from webapp.commands.shared.output import Column, ago, grid, local_time, present, print_json, say, show, span, tell
from webapp.core.job_spec import FieldError, SpecError, load_json
from webapp.core.states import FIRE_OUTCOMES
from webapp.lib import clock
from webapp.schedules.spec import JOB_FIELDS

if TYPE_CHECKING:
    from webapp.db.models import Fire
    from webapp.schedules.views import ScheduleView

JOB_OPTIONS = (*JOB_FIELDS, "unique_while", "on_conflict")
_timing = with_options(
    click.option("--cron", metavar="EXPRESSION", help="Five fields: minute hour day month weekday. Also @daily, H."),
    click.option("--every", metavar="DURATION", help="A fixed interval, such as 15m, instead of --cron."),
    click.option("--anchor", metavar="TIME", help="Count intervals from this time (default: now)."),
    click.option("--tz", metavar="ZONE", help="Time zone, such as Europe/Berlin (default: UTC)."),
    click.option(
        "--spread", metavar="DURATION", help="Delay all fires by a fixed time up to this, derived from the name."
    ),
    click.option("--starts-at", metavar="TIME", help="No fires before this time."),
    click.option("--ends-at", metavar="TIME", help="No fires after this time."),
    click.option("--overlap", metavar="RULE", help="skip (default), queue-one, queue-all, replace or allow."),
    click.option("--catch-up", metavar="RULE", help="Missed fires to run: last (default), all or none."),
    click.option("--catch-up-window", metavar="DURATION", help="Do not run fires that are later than this."),
    click.option(
        "--catch-up-max", type=int, help="With --catch-up all: run at most this many, the newest ones (default: 10)."
    ),
    click.option("--not-later-than", metavar="HH:MM", help="Do not run late fires after this time of day."),
    click.option(
        "--late-after", metavar="DURATION", help="Report a job that has not started after this time (default: 5min)."
    ),
    click.option(
        "--failing-after", type=int, help="Report after this many failed runs in a row (default: 1; 0: never)."
    ),
    click.option("--paused", is_flag=True, help="Add it paused."),
    click.option("--note", metavar="TEXT"),
    click.option("--owner", metavar="NAME"),
    click.option("--command", help="Shell command to run."),
)


def _object(_context: click.Context, _parameter: click.Parameter, value: Optional[str]) -> Optional[str]:
    if value and not value.lstrip().startswith("{"):
        raise click.BadParameter("expected a JSON object. To print JSON only, put --json at the end.")
    return value


def _described(command: Any) -> Any:
    """Add the options for the fields. `--json` prints JSON; with an object, it also reads the fields from there."""
    command = _timing(job_options(command, JOB_OPTIONS))
    about = "Print the schedule as JSON. With an OBJECT: read all fields from it, instead of options."
    return click.option(
        "--json", "text", metavar="[OBJECT]", is_flag=False, flag_value="", is_eager=True, callback=_object, help=about
    )(command)


@click.group(epilog="Example: manage.py schedule add nightly --cron '0 2 * * *' --command ./backup.sh")
def schedule() -> None:
    """Run jobs at set times, and see what happened each time."""


for _command in (schedule_files.import_, schedule_files.export, schedule_files.apply):
    schedule.add_command(_command)


@schedule.command(
    epilog="""\b
Examples:
  manage.py schedule add nightly --cron '0 2 * * *' --tz Europe/Berlin --command ./backup.sh
  manage.py schedule add poll --every 15m --overlap skip --catch-up none --command ./poll.sh
  manage.py schedule add nightly --json '{"cron":"0 2 * * *","job":{"command":"./backup.sh"}}'
"""
)
@click.argument("name")
@_described
def add(name: str, text: Optional[str], **options: Any) -> None:
    """Add the schedule NAME. It fires from now on."""
    from webapp.schedules import actions, spec, timing

    data = _given(name, text, options, {})
    read = spec.parse(data)
    with core():
        actions.add(read, actor())
        following = read.timing.next_after(clock.now())
        when = f"next fire {local_time(following)}" if following is not None else "no fires left"
        words = f"added. {timing.in_words(read.timing)}; {'paused' if not read.enabled else when}"
        _tell(name, words, text is not None)


def _tell(name: str, words: str, as_json: bool, **more: Any) -> None:
    """Say what was done to a schedule, or print the schedule as JSON, with `more`."""
    from webapp.db.engines import reading
    from webapp.schedules import views

    if not as_json:
        click.echo(f"{name}: {words}")
        return
    with reading() as session:
        print_json({**views.schedule_json(views.find(session, name)), **more})


@schedule.command(epilog="Example: manage.py schedule edit nightly --cron '30 2 * * *'")
@click.argument("name")
@_described
@click.option("--resume", is_flag=True, help="End a pause.")
@click.option("--dry-run", is_flag=True, help="Show which fires appear, move or vanish; change nothing.")
def edit(name: str, text: Optional[str], resume: bool, dry_run: bool, **options: Any) -> None:
    """Change the given fields of the schedule NAME. Fires that were already due do not run."""
    from webapp.db.engines import reading
    from webapp.schedules import actions, preview, spec, views

    if not (text or resume or any(value not in (None, (), False) for value in options.values())):
        raise click.UsageError("Nothing to change. Give at least one field, or --resume.")
    with core():
        with reading() as session:
            row = views.find(session, name)
            before, version = views.described(row), row.version
        known = views.fields_of(row) if before is None else spec.to_json(before)
        data = _given(name, text, options, known)
        if resume:
            data["enabled"] = True
        after, as_json = spec.parse(data), text is not None
        fires = preview.preview(before, after, clock.now())
        if not as_json:
            schedule_files.tell_preview(fires)
        if not dry_run:
            actions.edit(name, after, actor(), seen=version)
        words = "would change. Nothing was changed." if dry_run else "changed"
        _tell(name, words, as_json, dry_run=dry_run, preview=schedule_files.preview_json(fires))


def _given(name: str, text: Optional[str], options: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """The description from JSON or options, on top of what is known."""
    given = {key: value for key, value in options.items() if value is not None and value is not False and value != ()}
    if text:
        if given:
            raise click.UsageError("Give either --json OBJECT or the other options.")
        data = load_json(text)
        if not isinstance(data, dict):
            raise SpecError([FieldError("", "expected a JSON object.")])
        if data.get("name", name) != name:
            raise SpecError([FieldError("name", f"differs from the argument {name}. Leave it out of the JSON.")])
        return {**known, **({"cron": None, "every": None} if {"cron", "every"} & {*data} else {}), **data, "name": name}
    if "command" in given:
        given["command"] = as_utf8(given["command"])
    job = {**known.get("job", {}), **fields_of({key: given.pop(key) for key in JOB_OPTIONS if key in given})}
    if given.pop("paused", False):
        given["enabled"] = False
    if "cron" in given or "every" in given:
        known = {**known, "cron": None, "every": None, "anchor": None}
    return {**known, **given, "name": name, "job": job}


@schedule.command("list", epilog="Example: manage.py schedule list --attention")
@click.option("--like", metavar="TEXT", default="", help="Schedules whose name contains this text.")
@click.option("--paused", "show_only", flag_value="paused", help="Paused schedules.")
@click.option("--attention", "show_only", flag_value="attention", help="Broken, late, long or failing schedules.")
@limit_option(100)
@json_option
def list_schedules(like: str, show_only: Optional[str], limit: Optional[int], as_json: bool) -> None:
    """List schedules by name, with their next and last fire."""
    from webapp.schedules import views

    with read_session() as session:
        found, is_cut = first_views(partial(views.page, session), limit, like=like, show=show_only or "")
        more = views.count(session, like, show_only or "") - len(found) if is_cut else 0
    now = clock.now()
    columns = [
        Column("SCHEDULE", lambda view: view.row.name),
        Column("WHEN", lambda view: _when(view)),
        Column("STATE", lambda view: "paused" if view.is_paused else "broken" if view.spec is None else "active"),
        Column("NEXT", lambda view: _next(view, now)),
        Column("LAST", lambda view: view.last and f"{view.last.outcome} {ago(view.last.due_at)}"),
        Column("ATTENTION", lambda view: "; ".join(view.attention(now)), flexible=True, optional=True),
    ]
    empty = "No matching schedules." if like or show_only else "No schedules yet. `manage.py schedule add --help`"
    hidden = f"{more:,} more. Use --limit or --like to see them." if more > 0 else ""
    present(found, columns, as_json, lambda view: views.schedule_json(view.row), empty, more=hidden)


def _when(view: ScheduleView) -> str:
    from webapp.schedules.timing import in_words

    return "" if view.spec is None else f"{in_words(view.spec.timing)} ({view.spec.timing.tz})"


def _next(view: ScheduleView, now: int) -> str:
    at = view.row.next_fire_at
    if at is None or view.is_paused:
        return ""
    return f"in {span(at)}" if at > now else "waits for its running job" if view.row.waiting_since else "now"


@schedule.command("show", epilog="Example: manage.py schedule show nightly")
@click.argument("name")
@json_option
def show_schedule(name: str, as_json: bool) -> None:
    """Show the schedule NAME: its fields, next fires and last fires."""
    from webapp.schedules import timing, views

    with read_session() as session:
        view = views.view_of(session, views.find(session, name))
        fires, not_run = views.fires(session, view.row, 5), views.not_run(session, view.row)
    if as_json:
        print_json({**views.schedule_json(view.row), "fires": [views.fire_json(fire) for fire in fires]})
        return
    row, spec, now = view.row, view.spec, clock.now()
    lines: list[tuple[str, str]] = [("schedule", row.name)]
    lines += [("attention", words) for words in view.attention(now)]
    if spec is not None:
        lines += [("when", f"{timing.in_words(spec.timing)}, {spec.timing.tz}"), ("command", spec.job.command)]
        lines += [("queue", spec.job.queue), ("overlap", spec.overlap), ("catch-up", spec.catch_up)]
        lines += [("next", local_time(fire)) for fire, _ in zip(spec.timing.after(now), range(3))]
    if view.is_paused:
        until = f" until {local_time(row.paused_until)}" if row.paused_until else ""
        lines.append(("paused", f"{ago(row.paused_at, row.paused_by)}{until}"))
    lines += [(name, words) for name, words in (("note", spec.note), ("owner", spec.owner)) if words] if spec else []
    lines += [("not run", not_run.words)] if not_run is not None else []
    lines += [("last", f"{local_time(fire.due_at)}  {_told(fire)}") for fire in fires]
    show(grid(lines))


@schedule.command(epilog="Example: manage.py schedule fires nightly --limit 20")
@click.argument("name")
@click.option("--outcome", type=click.Choice(FIRE_OUTCOMES), default=None)
@limit_option(50)
@json_option
def fires(name: str, outcome: Optional[str], limit: Optional[int], as_json: bool) -> None:
    """Show the ledger of the schedule NAME: each fire, whether it ran, and if not, why."""
    from webapp.schedules import views

    with read_session() as session:
        row = views.find(session, name)
        found = views.fires(session, row, limit, outcome=outcome or "")
        more = views.count_fires(session, row, outcome or "") - len(found) if len(found) == limit else 0
    columns = [
        Column("DUE", lambda fire: local_time(fire.due_at)),
        Column("OUTCOME", lambda fire: fire.outcome),
        Column("JOB", lambda fire: fire.job_id),
        Column("REASON", lambda fire: fire.reason, flexible=True),
    ]
    hidden = f"{more:,} more. Use --limit to see them." if more else ""
    present(found, columns, as_json, views.fire_json, "No fires yet.", more=hidden)


def _told(fire: Fire) -> str:
    return " ".join(word for word in (fire.outcome, fire.job_id, fire.reason) if word)


@schedule.command("next", epilog="Example: manage.py schedule next nightly -n 20")
@click.argument("name")
@count_option("-n", 10, 1000, "Number of fires.")
@json_option
def next_fires(name: str, n: int, as_json: bool) -> None:
    """Show the next fires of the schedule NAME, and how clock changes affect them."""
    from webapp.schedules import timing, views

    with read_session() as session:
        row = views.find(session, name)
    spec = views.described(row)
    if spec is None:
        raise Failure(ExitCode.REFUSED, f"schedule {name} is broken: {views.why_broken(row)}")
    now = clock.now()
    found = [fire for fire, _ in zip(spec.timing.after(now), range(n))]
    zone = timing.zone_of(spec.timing.tz)
    columns = [
        Column(
            f"IN {spec.timing.tz}", lambda fire: f"{clock.to_datetime(fire).astimezone(zone):%a %Y-%m-%d %H:%M:%S %z}"
        ),
        Column("HERE", local_time),
        Column("IN", span),
    ]
    present(found, columns, as_json, clock.to_iso, "No fires left.")
    for change in timing.clock_changes(spec.timing, now, found[-1] + clock.DAY) if found else []:
        say(f"{change.wall:%a %Y-%m-%d}: {change.words}")


@schedule.command(epilog="Example: manage.py schedule pause nightly --until 2030-01-31T08:00:00Z")
@click.argument("name")
@click.option(
    "--until",
    **parsed("TIME", clock.parse_local),
    help="Resume by itself at this time, such as 08:00 or 2030-01-31T08:00:00Z.",
)
@json_option
def pause(name: str, until: Optional[int], as_json: bool) -> None:
    """Pause the schedule NAME. The ledger records its fires as skipped."""
    from webapp.schedules import actions

    end = f" until {local_time(until)}" if until is not None else ""
    with core():
        changed = actions.pause(name, actor(), until)
        _tell(name, f"{'' if changed else 'already '}paused{end}", as_json, changed=changed)


@schedule.command(epilog="Example: manage.py schedule resume nightly")
@click.argument("name")
@json_option
def resume(name: str, as_json: bool) -> None:
    """Resume the schedule NAME. It fires from now on."""
    from webapp.db.engines import reading
    from webapp.schedules import actions, views

    with core():
        changed = actions.resume(name, actor())
        with reading() as session:
            left = views.not_run(session, views.find(session, name))
        times = [] if left is None else [clock.to_iso(due) for due in left.dues]
        _tell(name, "resumed" if changed else "not paused", as_json, changed=changed, not_run=times)
        if left is not None and not as_json:
            say(f"{left.words}. `manage.py schedule fires {name}` lists them, `run {name} --due TIME` runs one.")


def _due_time(text: str) -> int:
    """A date and a time, also as `schedule fires` shows it, with the zone after a space."""
    try:
        return clock.parse_local(re.sub(r"\s([+-]\d\d)(\d\d)\Z", r"\1:\2", text.strip()) if "-" in text else "")
    except ValueError:
        rule = "expected a date and a time such as '2030-01-31 02:00', as `schedule fires` shows them"
        raise ValueError(f"{text[:40]!r} is not a time; {rule}.") from None


@schedule.command(
    epilog="""\b
Examples:
  manage.py schedule run nightly
  manage.py schedule run nightly --due '2030-01-31 02:00'
"""
)
@click.argument("name")
@click.option(
    "--due",
    **parsed("TIME", _due_time),
    help="Run the fire that was due at this time and was skipped or missed. See `schedule fires`.",
)
@json_option
def run(name: str, due: Optional[int], as_json: bool) -> None:
    """Enqueue the job of the schedule NAME now, and print the job's ID."""
    from webapp.schedules import actions

    with core():
        job_id = actions.run_now(name, actor()) if due is None else actions.run_fires(name, actor(), [due])[0]
    fire = {} if due is None else {"due_at": clock.to_iso(due)}
    tell(job_id, {"schedule": name, "job_id": job_id, **fire}, as_json)


@schedule.command("rm", epilog="Example: manage.py schedule rm nightly")
@click.argument("name")
@json_option
def remove(name: str, as_json: bool) -> None:
    """Remove the schedule NAME with its ledger. Its jobs stay."""
    from webapp.schedules import actions

    with core():
        actions.remove(name, actor())
    tell(f"{name}: removed", {"name": name, "removed": True}, as_json)
