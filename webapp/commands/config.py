"""`config`: the settings of the queue. `webapp/core/settings.py` defines them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Callable, Optional

import click

from webapp.commands.shared.core import actor, core, json_option, limit_option, read_session
from webapp.commands.shared.output import Column, ago, present, print_json, say, see_more
from webapp.core.settings import define

if TYPE_CHECKING:
    from webapp.jobs.settings import Value

queue_option = click.option(
    "--queue", metavar="NAME", help="The value for this queue. Only for settings such as keep_completed."
)


def _key(key: str, queue: Optional[str]) -> str:
    """The key of a queue's own value. Refuses an unknown one before a database is created."""
    whole = key if queue is None else f"{key}@{queue}"
    define(whole)
    return whole


@click.group(epilog="Example: manage.py config set backoff_base 3")
def config() -> None:
    """Show and change settings. Changes apply while the queue runs."""


@config.command("list", epilog="Example: manage.py config list --json")
@json_option
def list_settings(as_json: bool) -> None:
    """List all settings with their values, defaults and allowed values.

    KEY@QUEUE is the value of one queue; its default is the value of all queues.
    """
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
@queue_option
@json_option
def get(key: str, queue: Optional[str], as_json: bool) -> None:
    """Print the value of the setting KEY."""
    from webapp.jobs import settings

    key = _key(key, queue)
    with read_session() as session:
        value = settings.find(session, key)
    if as_json:
        from webapp.web import serializers

        print_json(serializers.setting(value))
    else:
        click.echo(value.value)


yes_option = click.option("--yes", is_flag=True, help="Do not ask for confirmation, even if this deletes something.")


def _save(save: Callable[..., Value], confirmed: bool) -> Optional[Value]:
    """Change a setting; ask first if that deletes something. None: the answer was no."""
    from webapp.jobs.settings import NeedsConfirmation

    try:
        return save(confirmed=confirmed)
    except NeedsConfirmation as error:
        if not click.confirm(f"{error} Save?", err=True):
            say("Nothing was saved.")
            return None
    return save(confirmed=True)


# A negative number is a value here, not an unknown option.
@config.command(
    "set", context_settings={"ignore_unknown_options": True}, epilog="Example: manage.py config set backoff_base 3"
)
@click.argument("key")
@click.argument("value")
@queue_option
@yes_option
def set_(key: str, value: str, queue: Optional[str], yes: bool) -> int:
    """Set the setting KEY to VALUE.

    This applies at once, to every job without a value of its own. If it deletes something, it asks first.
    """
    from webapp.jobs import settings

    key = _key(key, queue)
    with core():
        now = _save(partial(settings.set_setting, key, value, actor()), yes)
    if now is None:
        return 1
    click.echo(f"{key} = {now.value}")
    return 0


@config.command(epilog="Example: manage.py config unset backoff_base")
@click.argument("key")
@queue_option
@yes_option
def unset(key: str, queue: Optional[str], yes: bool) -> int:
    """Reset the setting KEY to its default. With --queue, to the value of all queues."""
    from webapp.jobs import settings

    key = _key(key, queue)
    with core():
        now = _save(partial(settings.unset_setting, key, actor()), yes)
    if now is None:
        return 1
    click.echo(f"{key} = {now.value} (default)")
    return 0


@config.command(epilog="Example: manage.py config history backoff_base")
@click.argument("key")
@queue_option
@limit_option(50)
@json_option
def history(key: str, queue: Optional[str], limit: Optional[int], as_json: bool) -> None:
    """Show the changes of the setting KEY, newest first."""
    from webapp.jobs import settings
    from webapp.web import serializers

    key = _key(key, queue)
    with read_session() as session:
        changes, definition = settings.history(session, key, None), settings.find(session, key).definition
    columns = [
        Column("CHANGED", lambda change: ago(change.at, change.actor)),
        Column("FROM", lambda change: change.before, right=True),
        Column("TO", lambda change: change.after, right=True),
        Column("", lambda change: "default" if change.after_default else None, flexible=True),
    ]
    empty = f"{key} has never been changed. It has its default, {definition.tidy(definition.default)}."
    more = see_more(limit, f"{len(changes):,}") if limit is not None and limit < len(changes) else ""
    present(changes[:limit], columns, as_json, serializers.change, empty, more=more)
