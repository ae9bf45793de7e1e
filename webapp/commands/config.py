"""`config`: what people may change while the queue runs. Which settings there are, `webapp/jobs/settings.py` says."""

from __future__ import annotations

import click

from webapp.commands.shared.core import actor, core, json_option
from webapp.commands.shared.output import Column, ago_by, present, print_json
from webapp.core import settings as setting_values
from webapp.lib import clock


@click.group(epilog="Example: manage.py config set backoff_base 3")
def config() -> None:
    """Read and change what can be tuned while it runs."""


@config.command("list", epilog="Example: manage.py config list --json")
@json_option
def list_settings(as_json: bool) -> None:
    """List all settings: value, default, what is allowed, and who changed it last."""
    from webapp.db.engines import reading
    from webapp.jobs import settings
    from webapp.web import serializers

    with core(), reading() as session:
        values = settings.describe(session)
    now = clock.now()
    columns = [
        Column("SETTING", lambda one: one.definition.key),
        Column("VALUE", lambda one: one.value, right=True),
        Column("DEFAULT", lambda one: one.definition.tidy(one.definition.default), right=True),
        Column("UNIT", lambda one: one.definition.unit),
        Column("ALLOWED", lambda one: one.definition.allowed),
        Column("CHANGED", lambda one: ago_by(one.changed_at, one.changed_by, now), flexible=True),
    ]
    present(values, columns, as_json, serializers.setting)


@config.command(epilog="Example: manage.py config get backoff_base")
@click.argument("key")
@json_option
def get(key: str, as_json: bool) -> None:
    """Print the value of the setting KEY, and nothing else."""
    from webapp.db.engines import reading
    from webapp.jobs import settings
    from webapp.web import serializers

    setting_values.define(key)  # a name that is none is told before a database is made
    with core(), reading() as session:
        value = next(value for value in settings.describe(session) if value.definition.key == key)
    if as_json:
        print_json(serializers.setting(value))
    else:
        click.echo(value.value)


# A negative number is a value that is out of bounds, not an option that is not known.
@config.command(
    "set", context_settings={"ignore_unknown_options": True}, epilog="Example: manage.py config set backoff_base 3"
)
@click.argument("key")
@click.argument("value")
def set_(key: str, value: str) -> None:
    """Set the setting KEY to VALUE. It holds at once, for every job that did not set its own."""
    from webapp.jobs import settings

    with core():
        now = settings.set_setting(key, value, actor())
    click.echo(f"{key} = {now.value}")


@config.command(epilog="Example: manage.py config unset backoff_base")
@click.argument("key")
def unset(key: str) -> None:
    """Put the setting KEY back to its default."""
    from webapp.jobs import settings

    with core():
        now = settings.unset_setting(key, actor())
    click.echo(f"{key} = {now.value} (the default)")


@config.command(epilog="Example: manage.py config history backoff_base")
@click.argument("key")
@json_option
def history(key: str, as_json: bool) -> None:
    """Show who changed the setting KEY, when, from what and to what, newest first."""
    from webapp.db.engines import reading
    from webapp.jobs import settings
    from webapp.web import serializers

    definition = setting_values.define(key)
    with core(), reading() as session:
        changes = settings.history(session, key)
    now = clock.now()
    columns = [
        Column("CHANGED", lambda change: ago_by(change.at, change.actor, now)),
        Column("FROM", lambda change: change.before, right=True),
        Column("TO", lambda change: change.after, right=True),
        Column("", lambda change: "the default" if change.after_default else None, flexible=True),
    ]
    empty = f"Nobody has changed {key}: it is {definition.tidy(definition.default)}, its default."
    present(changes, columns, as_json, serializers.change, empty)
