"""`notification`: messages and open alerts. `notify`: a message when a job ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Optional

import click

from webapp.commands.exit_codes import ExitCode, code_of
from webapp.commands.shared.core import actor, core, find_job, json_option, limit_option, read_session
from webapp.commands.shared.output import Column, ago, grid, local_time, present, print_json, say, show, tell
from webapp.core.notices import DELIVERY_STATES
from webapp.lib.text import escape_lines, plural

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from webapp.notifications.views import DeliveryView

PAGE = 500  # messages of one read
message_argument = click.argument("delivery_id", metavar="ID", type=click.IntRange(1, 2**63 - 1))


@click.group(epilog="Example: manage.py notification list --state failed")
def notification() -> None:
    """List messages, send them again, and see open alerts."""


@notification.command("list", epilog="Example: manage.py notification list --channel ops --state failed")
@click.option("--channel", metavar="NAME", default="", help="Messages to this channel.")
@click.option("--rule", metavar="NAME", default="", help="Messages of this rule.")
@click.option("--state", type=click.Choice(DELIVERY_STATES), default=None, help="Messages in this state.")
@click.option("--job", "job_id", metavar="ID", help="Messages about this job or its failure group.")
@limit_option(50)
@json_option
def list_messages(as_json: bool, limit: Optional[int], **wanted: Any) -> None:
    """List messages, newest first, with what the receiver answered."""
    from webapp.notifications import views

    columns = [
        Column("ID", lambda view: view.row.id, right=True),
        Column("CREATED", lambda view: ago(view.row.created_at)),
        Column("CHANNEL", lambda view: view.channel),
        Column("RULE", lambda view: view.rule, optional=True),
        Column("KIND", lambda view: view.row.kind),
        Column("STATE", lambda view: view.row.state),
        Column("SUBJECT", lambda view: view.row.subject, flexible=True, optional=True),
        Column("ANSWER", lambda view: view.row.answer, flexible=True, optional=True),
    ]
    with read_session() as session:
        present(_messages(session, limit, **wanted), columns, as_json, views.delivery_json, "No messages.")


def _messages(session: Session, limit: Optional[int], job_id: Optional[str], **wanted: Any) -> Iterator[DeliveryView]:
    from webapp.notifications import views

    job = None if job_id is None else find_job(session, job_id)
    wanted = {**wanted, "state": wanted["state"] or "", "job": job}
    before: Optional[int] = None
    while limit is None or limit > 0:
        size = PAGE if limit is None else min(PAGE, limit)
        found = views.deliveries(session, **wanted, before=before, limit=size)
        yield from found
        if len(found) < size:
            return
        before, limit = found[-1].row.id, None if limit is None else limit - size


@notification.command("show", epilog="Example: manage.py notification show 12")
@message_argument
@json_option
def show_message(delivery_id: int, as_json: bool) -> None:
    """Show the message ID with its text."""
    from webapp.notifications import views

    with read_session() as session:
        view = views.delivery(session, delivery_id)
    if as_json:
        print_json(views.whole_delivery_json(view))
        return
    row = view.row
    fields = {
        "message": str(row.id),
        "channel": view.channel,
        "rule": view.rule,
        "kind": row.kind,
        "state": row.state,
        "created": f"{local_time(row.created_at)} · {ago(row.created_at)}",
        "not before": local_time(row.not_before) if row.state == "waiting" else None,
        "ended": row.ended_at and f"{local_time(row.ended_at)} · {ago(row.ended_at)}",
        "tries": str(row.tries),
        "answer": row.answer,
        "subject": row.subject,
    }
    show(grid([(name, escape_lines(value)) for name, value in fields.items() if value]))
    if row.body:
        click.echo(f"\n{escape_lines(row.body)}")


@notification.command(epilog="Example: manage.py notification send-again 12")
@message_argument
@json_option
def send_again(delivery_id: int, as_json: bool) -> None:
    """Send the message ID again, as a new message, and print its ID."""
    from webapp.notifications import actions

    with core():
        new = actions.send_again(delivery_id, actor())
    tell(new, {"id": new}, as_json)


@notification.command(epilog="Example: manage.py notification drop --channel ops")
@click.option("--channel", metavar="NAME", required=True, help="The channel whose messages to drop.")
@json_option
def drop(channel: str, as_json: bool) -> None:
    """Drop the messages that a channel has not sent yet."""
    from webapp.notifications import actions

    with core():
        number = actions.drop_backlog(channel, actor())
    tell(f"{channel}: {plural(number, 'message')} dropped", {"dropped": number}, as_json)


@notification.command(epilog="Example: manage.py notification alerts")
@limit_option(50)
@json_option
def alerts(limit: Optional[int], as_json: bool) -> None:
    """List open alerts: failures that a rule applies to and that have not recovered."""
    from webapp.notifications import views

    with read_session() as session:
        found = views.alerts_open(session, limit)
    columns = [
        Column("RULE", lambda view: view.rule),
        Column("ABOUT", lambda view: view.row.key, flexible=True),
        Column("COUNT", lambda view: f"{view.row.count:,}", right=True),
        Column("MESSAGES", lambda view: f"{view.row.told:,}", right=True),
        Column("SINCE", lambda view: ago(view.row.opened_at)),
        Column("LAST", lambda view: ago(view.row.last_at)),
    ]
    present(found, columns, as_json, views.alert_json, "No open alerts.")


@click.command(epilog="Example: manage.py notify job1 --channel ops")
@click.argument("job_ids", metavar="ID...", nargs=-1, required=True)
@click.option("--channel", metavar="NAME", required=True, help="The channel that gets the message.")
@click.option("--remove", is_flag=True, help="Send no message.")
def notify(job_ids: tuple[str, ...], channel: str, remove: bool) -> int:
    """Send a message when the jobs end. For new jobs: `enqueue --notify`."""
    with core():
        codes = [_notify(job_id, channel, remove) for job_id in dict.fromkeys(job_ids)]
    return max(codes)


def _notify(job_id: str, channel: str, remove: bool) -> int:
    from webapp.jobs.lifecycle import Conflict, NotFound
    from webapp.notifications import actions

    try:
        if remove:
            watched = actions.unwatch(job_id, channel, actor())
            words = "will not be notified when it ends" if watched else "was not to be notified"
        else:
            is_new = actions.watch(job_id, channel, actor())
            words = "will be notified when it ends" if is_new else "is already notified when it ends"
    except (NotFound, Conflict) as error:
        say(str(error))
        return code_of(error)
    click.echo(f"{job_id}: {channel} {words}")
    return ExitCode.DONE
