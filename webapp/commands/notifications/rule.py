"""`rule`: add, list, preview, edit, mute and remove rules of notifications."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from webapp.commands.shared.core import actor, core, json_option, parsed, read_session, with_options
from webapp.commands.shared.output import Column, local_time, present, print_json, say
from webapp.core.notices import EVENTS
from webapp.lib import clock, durations
from webapp.lib.durations import duration
from webapp.lib.text import plural

if TYPE_CHECKING:
    from webapp.notifications.preview import Message
    from webapp.notifications.rules import RuleSpec
    from webapp.notifications.views import RuleView

PREVIEW_DAYS = 7
_described = with_options(
    click.option("--on", metavar="EVENTS", help="Events, separated by commas; listed below."),
    click.option("--channel", metavar="NAME", help="Channel that gets the messages."),
    click.option("--queue", metavar="NAME", help="Only events of this queue and its jobs."),
    click.option("--schedule", metavar="NAME", help="Only events of this schedule and its jobs."),
    click.option("--command", metavar="PATTERN", help="Only jobs whose command matches, such as '*backup.sh*'."),
    click.option("--after", metavar="N", help="Notify after this many failures of the same kind (default: 1)."),
    click.option(
        "--older-than", metavar="DURATION", help="For queue-old: how long the oldest job has waited (default: 1h)."
    ),
    click.option(
        "--quiet-hours",
        metavar="HOURS",
        help="Send nothing in these hours, but after them: '22:00-07:00 Europe/Berlin'.",
    ),
)
_EVENTS = "\b\nEvents:\n" + "\n".join(f"  {event:<18}{about}" for event, about in EVENTS.items())


def _epilog(*examples: str) -> str:
    return "\b\nExamples:\n" + "\n".join(f"  {one}" for one in examples) + f"\n\n{_EVENTS}"


@click.group(epilog="Example: manage.py rule add failures --on group-new --channel ops")
def rule() -> None:
    """Choose which events send messages, and to which channel."""


@rule.command(
    epilog=_epilog(
        "manage.py rule add failures --on group-new --channel ops",
        "manage.py rule add backups --on job-dead,schedule-missed --schedule nightly --channel ops",
        "manage.py rule add slow --on queue-old --older-than 30m --queue mail --channel ops",
    )
)
@click.argument("name")
@_described
@json_option
def add(name: str, as_json: bool, **options: Any) -> None:
    """Add the rule NAME, and print how many messages it would have sent in the last 7 days."""
    from webapp.notifications import actions, rules

    spec = rules.parse({"name": name, **_given(options)})
    with core():
        _tell_number(_preview(spec))
        actions.add_rule(spec, actor())
    _tell(name, "added", as_json)


@rule.command(epilog=_epilog("manage.py rule edit failures --quiet-hours '22:00-07:00 Europe/Berlin'"))
@click.argument("name")
@_described
@json_option
def edit(name: str, as_json: bool, **options: Any) -> None:
    """Change the given fields of the rule NAME. An empty value removes a condition."""
    from webapp.notifications import actions

    with core():
        spec = _changed(name, options)
        _tell_number(_preview(spec))
        actions.edit_rule(name, spec, actor())
    _tell(name, "changed", as_json)


@rule.command(epilog=_epilog("manage.py rule preview failures --on group-new --channel ops"))
@click.argument("name")
@_described
@json_option
def preview(name: str, as_json: bool, **options: Any) -> None:
    """Show the messages that the rule NAME would have sent in the last 7 days.

    Options replace fields of the rule. The rule need not exist.
    """
    from webapp.jobs.lifecycle import NotFound
    from webapp.notifications import rules

    with core():
        try:
            spec = _changed(name, options)
        except NotFound:
            if not _given(options):
                raise
            spec = rules.parse({"name": name, "channel": "none", **_given(options)})
        found = _preview(spec)
    columns = [
        Column("TIME", lambda message: local_time(message.at)),
        Column("KIND", lambda message: message.kind),
        Column("SUBJECT", lambda message: message.subject, flexible=True),
    ]

    def as_dict(message: Message) -> dict[str, Any]:
        return {"at": clock.to_iso(message.at), "kind": message.kind, "subject": message.subject}

    present(found, columns, as_json, as_dict)
    _tell_number(found)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}


def _changed(name: str, options: dict[str, Any]) -> RuleSpec:
    """The stored rule with the given fields. Raises NotFound."""
    from webapp.db.engines import reading
    from webapp.notifications import rules, views

    with reading() as session:
        stored = views.rule(session, name)
    return rules.parse({**views.rule_fields(stored), **_given(options)})


def _preview(spec: RuleSpec) -> list[Message]:
    from webapp.db.engines import reading
    from webapp.notifications import preview as previews

    with reading() as session:
        return previews.preview(session, spec, days=PREVIEW_DAYS)


def _tell_number(messages: list[Message]) -> None:
    say(f"In the last {PREVIEW_DAYS} days this rule would have sent {plural(len(messages), 'message')}.")


def _tell(name: str, what: str, as_json: bool) -> None:
    """Print a changed rule as JSON, or what happened to it."""
    from webapp.notifications import views

    if not as_json:
        click.echo(f"{name}: {what}")
        return
    with read_session() as session:
        shown = views.rule_json(views.rule(session, name))
    print_json(shown)


@rule.command("list", epilog="Example: manage.py rule list")
@json_option
def list_rules(as_json: bool) -> None:
    """List rules by name."""
    from webapp.notifications import views

    with read_session() as session:
        found = views.rules(session)
    columns = [
        Column("RULE", lambda view: view.row.name),
        Column("ON", lambda view: view.row.events.strip(",").replace(",", ", "), flexible=True),
        Column("CHANNEL", lambda view: view.channel),
        Column("ONLY", _conditions, flexible=True, optional=True),
        Column("QUIET", lambda view: view.spec and view.spec.quiet_hours, optional=True),
        Column("STATE", _state),
        Column("OPEN ALERTS", lambda view: f"{view.open:,}" if view.open else None, right=True, optional=True),
    ]
    present(
        found,
        columns,
        as_json,
        views.rule_json,
        "No rules, so failures send no messages. Add one: manage.py rule add --help",
    )


def _conditions(view: RuleView) -> str:
    spec = view.spec
    if spec is None:
        return ""
    words = [f"{key} {value}" for key in ("queue", "schedule", "command") if (value := getattr(spec, key))]
    words += [f"after {spec.after}"] if spec.after > 1 else []
    words += [f"older than {duration(spec.older_than)}"] if "queue-old" in spec.on else []
    return ", ".join(words)


def _state(view: RuleView) -> str:
    if view.spec is None:
        return "broken"
    return f"muted until {local_time(view.row.muted_until)}" if view.is_muted else "active"


def _moment(text: str) -> int:
    """A time, or a duration from now. Raises ValueError."""
    with suppress(ValueError):
        return clock.now() + clock.seconds(durations.parse(text))
    return clock.parse_local(text)


@rule.command(epilog="Example: manage.py rule mute failures --until 2h")
@click.argument("name")
@click.option(
    "--until",
    required=True,
    **parsed("TIME", _moment),
    help="2h (from now), 08:00 (the next one) or '2030-01-31 08:00', in this machine's time zone, or "
    "2030-01-31T08:00:00Z.",
)
@json_option
def mute(name: str, until: int, as_json: bool) -> None:
    """Send nothing of the rule NAME until a time. `notification list` shows what was suppressed."""
    from webapp.notifications import actions

    with core():
        actions.mute(name, until, actor())
    _tell(name, f"muted until {local_time(until)}", as_json)


@rule.command(epilog="Example: manage.py rule unmute failures")
@click.argument("name")
@json_option
def unmute(name: str, as_json: bool) -> None:
    """Unmute the rule NAME. It applies to events from now on."""
    from webapp.notifications import actions

    with core():
        changed = actions.unmute(name, actor())
    _tell(name, "unmuted" if changed else "not muted", as_json)


@rule.command("rm", epilog="Example: manage.py rule rm failures")
@click.argument("name")
def remove(name: str) -> None:
    """Remove the rule NAME. Its waiting messages are dropped."""
    from webapp.notifications import actions

    with core():
        actions.remove_rule(name, actor())
    click.echo(f"{name}: removed")
