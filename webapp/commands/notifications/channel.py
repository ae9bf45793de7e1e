"""`channel`: add, list, edit, test and remove channels; the hidden `channel deliver` is what jobs of `_system` run."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Optional

import click

from webapp.commands.exit_codes import ExitCode
from webapp.commands.shared.core import DURATION, actor, core, json_option, read_session, with_options
from webapp.commands.shared.output import Column, ago, one_line, present, print_json, say, tell
from webapp.lib.durations import duration

if TYPE_CHECKING:
    from webapp.notifications.views import ChannelView, DeliveryView

TEST_TIMEOUT = 60.0  # seconds
LOOK_SECONDS = 0.2
_described = with_options(
    click.option("--mail", metavar="ADDRESSES", help="Mail addresses, separated by commas."),
    click.option("--webhook", metavar="URL", help="URL that receives signed JSON. '-' reads it from standard input."),
    click.option("--apprise", metavar="URL", help="Apprise URL, such as slack://… '-' reads it from standard input."),
    click.option("--hourly-cap", metavar="N", help="Messages per hour (default: 20; 0: no limit)."),
)


@click.group(epilog="Example: manage.py channel add ops --mail ana@example.org")
def channel() -> None:
    """Manage where messages go: mail, webhooks, chats."""


@channel.command(
    epilog="""\b
Examples:
  manage.py channel add ops --mail ana@example.org,ben@example.org
  manage.py channel add incidents --webhook https://hooks.example.org/queue
  manage.py channel add chat --apprise - < url.txt
"""
)
@click.argument("name")
@_described
@json_option
def add(name: str, as_json: bool, **target: Any) -> None:
    """Add the channel NAME. For a webhook, print its secret, which is shown only once."""
    from webapp.notifications import actions, channels

    spec = channels.parse({"name": name, **_given(target)})
    with core():
        secret = actions.add_channel(spec, actor())
    if as_json:
        print_json({**channels.masked(spec), "secret": secret})
        return
    say(f"{name}: added. Try it: manage.py channel test {name}")
    if secret is not None:
        _tell_secret(secret)


@channel.command(epilog="Example: manage.py channel edit ops --hourly-cap 60")
@click.argument("name")
@_described
@json_option
def edit(name: str, as_json: bool, **target: Any) -> None:
    """Change the given fields of the channel NAME. Its kind cannot change."""
    from webapp.db.engines import reading
    from webapp.notifications import actions, channels, views

    given = _given(target)
    with core():
        with reading() as session:
            stored = views.channel(session, name).spec
        spec = channels.parse(given, stored)
        actions.edit_channel(name, spec, actor())
    tell(f"{name}: changed", channels.masked(spec), as_json)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """The fields of a channel from options. Raises UsageError for two targets."""
    kinds = [kind for kind in ("mail", "webhook", "apprise") if options[kind] is not None]
    if len(kinds) > 1:
        raise click.UsageError("Give only one of --mail, --webhook and --apprise.")
    given = {} if options["hourly_cap"] is None else {"hourly_cap": options["hourly_cap"]}
    for kind in kinds:
        value = options[kind]
        if value == "-" and kind != "mail":
            value = sys.stdin.readline().strip()
        given = {**given, "kind": kind, "to" if kind == "mail" else "url": value}
    return given


def _tell_secret(secret: str) -> None:
    say("The secret that signs its messages. It is shown only once:")
    click.echo(secret)


@channel.command("list", epilog="Example: manage.py channel list")
@json_option
def list_channels(as_json: bool) -> None:
    """List channels by name. URLs are masked."""
    from webapp.notifications import views

    with read_session() as session:
        found = views.channels(session)
    columns = [
        Column("CHANNEL", lambda view: view.row.name),
        Column("KIND", lambda view: view.spec.kind),
        Column("TO", _target, flexible=True),
        Column("RULES", lambda view: ", ".join(view.rules), flexible=True),
        Column("LAST SENT", lambda view: view.sent and ago(view.sent.ended_at)),
        Column("WAITING", lambda view: f"{view.waiting:,}" if view.waiting else None, right=True, optional=True),
        Column("FAILURE", _failure, flexible=True, optional=True),
    ]
    present(found, columns, as_json, views.channel_json, "No channels yet. `manage.py channel add --help`")


def _target(view: ChannelView) -> str:
    from webapp.notifications.channels import masked

    shown = masked(view.spec)
    return str(shown["url"] or ", ".join(shown["to"]))


def _failure(view: ChannelView) -> Optional[str]:
    return None if view.failure is None else view.failure.answer or "failed"


@channel.command(epilog="Example: manage.py channel test ops")
@click.argument("name")
@click.option(
    "--timeout", **DURATION, default=str(TEST_TIMEOUT), help="How long to wait for the answer (default: 60s)."
)
@json_option
def test(name: str, timeout: float, as_json: bool) -> int:
    """Send a test message to the channel NAME and wait for the answer. This needs a running worker.

    The exit code is 0 only if the message was sent.
    """
    from webapp.notifications import actions, views

    with core():
        delivery_id = actions.test_channel(name, actor())
        view = _answered(delivery_id, timeout)
    row = view.row
    if as_json:
        print_json(views.delivery_json(view))
    elif row.state == "sent":
        click.echo(f"{name}: sent. Answer: {one_line(row.answer or '')}")
    elif row.state != "waiting":
        say(f"{name}: {row.state}: {one_line(row.answer or '')}")
    elif row.tries:
        say(f"{name}: not sent yet, will be retried: {one_line(row.answer or '')}")
    else:
        say(f"{name}: not sent within {duration(timeout)}. Is a worker running? See: manage.py status")
    if row.state == "waiting" and not row.tries:
        return ExitCode.TIMED_OUT
    return ExitCode.DONE if row.state == "sent" else ExitCode.ERROR


def _answered(delivery_id: int, timeout: float) -> DeliveryView:
    """A message once it has an answer, or after `timeout` seconds."""
    from webapp.db.engines import reading
    from webapp.notifications import views

    until = time.monotonic() + timeout
    while True:
        with reading() as session:
            view = views.delivery(session, delivery_id)
        if view.row.state != "waiting" or view.row.tries or time.monotonic() > until:
            return view
        time.sleep(LOOK_SECONDS)


@channel.command(epilog="Example: manage.py channel rotate-secret incidents")
@click.argument("name")
@json_option
def rotate_secret(name: str, as_json: bool) -> None:
    """Give the webhook NAME a new secret and print it. For a day, messages are signed with both secrets."""
    from webapp.notifications import actions

    with core():
        secret = actions.rotate_secret(name, actor())
    if as_json:
        print_json({"name": name, "secret": secret})
    else:
        _tell_secret(secret)


@channel.command("rm", epilog="Example: manage.py channel rm ops")
@click.argument("name")
def remove(name: str) -> None:
    """Remove the channel NAME with its messages. Refused while rules or schedules use it."""
    from webapp.notifications import actions

    with core():
        actions.remove_channel(name, actor())
    click.echo(f"{name}: removed")


@channel.command(hidden=True)
@click.argument("channel_id", type=int)
def deliver(channel_id: int) -> int:
    """Send the waiting messages of a channel. Only its sender's job does so."""
    from webapp.notifications import sender

    with core(noting=False) as config:
        return sender.deliver(channel_id, config, click.echo)
