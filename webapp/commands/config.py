"""`config`: what people may change while the queue runs. Which settings there are, `webapp/jobs/settings.py` says."""

from __future__ import annotations

import click

from webapp.commands._core import actor, core, json_option
from webapp.commands._output import Column, ago, print_json, print_table
from webapp.core import setting_values
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
    if as_json:
        print_json([serializers.setting(value) for value in values])
        return
    now = clock.now()
    print_table(
        [
            Column("SETTING"),
            Column("VALUE", right=True),
            Column("DEFAULT", right=True),
            Column("UNIT"),
            Column("ALLOWED"),
            Column("CHANGED", flexible=True),
        ],
        [
            (
                value.definition.key,
                str(value.value),
                str(value.definition.tidy(value.definition.default)),
                value.definition.unit,
                value.definition.allowed,
                f"{ago(value.changed_at, now)} by {value.changed_by}" if value.changed_at is not None else "",
            )
            for value in values
        ],
    )


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
    from webapp.jobs import operations

    with core():
        now = operations.set_setting(key, value, actor())
    click.echo(f"{key} = {now.value}")


@config.command(epilog="Example: manage.py config unset backoff_base")
@click.argument("key")
def unset(key: str) -> None:
    """Put the setting KEY back to its default."""
    from webapp.jobs import operations

    with core():
        now = operations.unset_setting(key, actor())
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
    if as_json:
        print_json([serializers.change(change) for change in changes])
        return
    if not changes:
        click.echo(f"Nobody has changed {key}: it is {definition.tidy(definition.default)}, its default.", err=True)
        return
    now = clock.now()
    print_table(
        [Column("CHANGED"), Column("FROM", right=True), Column("TO", right=True), Column("", flexible=True)],
        [
            (
                f"{ago(change.at, now)} by {change.actor}",
                str(change.before),
                str(change.after),
                "the default" if change.after_default else "",
            )
            for change in changes
        ],
    )
