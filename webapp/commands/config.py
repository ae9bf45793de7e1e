"""`config`: the settings of the queue. `webapp/core/settings.py` defines them."""

from __future__ import annotations

import click

from webapp.commands.shared.core import actor, core, json_option, read_session
from webapp.commands.shared.output import Column, ago, present, print_json
from webapp.core.settings import define


@click.group(epilog="Example: manage.py config set backoff_base 3")
def config() -> None:
    """Show and change settings. Changes apply while the queue runs."""


@config.command("list", epilog="Example: manage.py config list --json")
@json_option
def list_settings(as_json: bool) -> None:
    """List all settings with their values, defaults and allowed values."""
    from webapp.jobs import settings
    from webapp.web import serializers

    with read_session() as session:
        values = settings.describe(session)
    columns = [
        Column("SETTING", lambda one: one.definition.key),
        Column("VALUE", lambda one: one.value, right=True),
        Column("DEFAULT", lambda one: one.definition.tidy(one.definition.default), right=True),
        Column("UNIT", lambda one: one.definition.unit),
        Column("ALLOWED", lambda one: one.definition.allowed),
        Column("LAST CHANGED", lambda one: ago(one.changed_at, one.changed_by), flexible=True),
    ]
    present(values, columns, as_json, serializers.setting)


@config.command(epilog="Example: manage.py config get backoff_base")
@click.argument("key")
@json_option
def get(key: str, as_json: bool) -> None:
    """Print the value of the setting KEY."""
    from webapp.jobs import settings
    from webapp.web import serializers

    define(key)  # an unknown name is refused before a database is created
    with read_session() as session:
        value = next(value for value in settings.describe(session) if value.definition.key == key)
    if as_json:
        print_json(serializers.setting(value))
    else:
        click.echo(value.value)


# A negative number is a value here, not an unknown option.
@config.command(
    "set", context_settings={"ignore_unknown_options": True}, epilog="Example: manage.py config set backoff_base 3"
)
@click.argument("key")
@click.argument("value")
def set_(key: str, value: str) -> None:
    """Set the setting KEY to VALUE.

    This applies at once, to every job without a value of its own.
    """
    from webapp.jobs import settings

    with core():
        now = settings.set_setting(key, value, actor())
    click.echo(f"{key} = {now.value}")


@config.command(epilog="Example: manage.py config unset backoff_base")
@click.argument("key")
def unset(key: str) -> None:
    """Reset the setting KEY to its default."""
    from webapp.jobs import settings

    with core():
        now = settings.unset_setting(key, actor())
    click.echo(f"{key} = {now.value} (default)")


@config.command(epilog="Example: manage.py config history backoff_base")
@click.argument("key")
@json_option
def history(key: str, as_json: bool) -> None:
    """Show the changes of the setting KEY, newest first."""
    from webapp.jobs import settings
    from webapp.web import serializers

    definition = define(key)
    with read_session() as session:
        changes = settings.history(session, key)
    columns = [
        Column("CHANGED", lambda change: ago(change.at, change.actor)),
        Column("FROM", lambda change: change.before, right=True),
        Column("TO", lambda change: change.after, right=True),
        Column("", lambda change: "default" if change.after_default else None, flexible=True),
    ]
    empty = f"{key} has never been changed. It has its default, {definition.tidy(definition.default)}."
    present(changes, columns, as_json, serializers.change, empty)
