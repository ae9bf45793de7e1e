"""Channels: one channel, its form, test message, backlog, secret, removal."""

from __future__ import annotations

from flask import Blueprint, abort, current_app, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from webapp.console.display.notification_forms import ChannelForm
from webapp.console.frame import htmx
from webapp.console.frame.params import checked_field
from webapp.console.frame.person import actor, needs
from webapp.console.notifications import added, history
from webapp.core.job_spec import SpecError
from webapp.core.notices import CHANNEL_KINDS
from webapp.db.engines import reading
from webapp.lib import clock
from webapp.lib.text import plural
from webapp.notifications import actions, channels, views
from webapp.web.request_info import came_from

pages = Blueprint("channels", __name__)


@pages.get("/channel/<name>")
def show(name: str) -> ResponseReturnValue:
    with reading() as session:
        view = views.channel(session, name)
        row = view.row
        return htmx.page(
            "channel",
            session,
            view=view,
            target=channels.masked(view.spec),
            obstacle=views.obstacle(view, current_app.extensions["queuectl_config"]),
            rotating=row.old_secret is not None and (row.old_secret_until or 0) > clock.now(),
            **history(session, url_for("channels.show", name=name), {"channel": name}),
        )


# --- the form --------------------------------------------------------------------------------------------------------


@pages.get("/channels/new")
@needs("admin")
def new() -> ResponseReturnValue:
    kind = request.args.get("kind", "")
    with reading() as session:
        return _form(session, ChannelForm.empty(kind if kind in CHANNEL_KINDS else "mail"))


@pages.post("/channels/new")
@needs("admin")
def add() -> ResponseReturnValue:
    form = ChannelForm.read(request.form)
    if form.spec is not None:
        try:
            secret = actions.add_channel(form.spec, actor())
        except SpecError as error:
            form.take(error)
        else:
            return added(form.spec.name, secret, f"Channel {form.spec.name} added. Send a test message.")
    with reading() as session:
        return _form(session, form), 422


@pages.get("/channel/<name>/edit")
@needs("admin")
def edit(name: str) -> ResponseReturnValue:
    with reading() as session:
        return _form(session, ChannelForm.of_spec(views.channel(session, name).spec), name)


@pages.post("/channel/<name>/edit")
@needs("admin")
def change(name: str) -> ResponseReturnValue:
    with reading() as session:
        stored = views.channel(session, name).spec
    form = ChannelForm.read(request.form, stored)
    if form.spec is not None and form.saves(actions.edit_channel, name, form.spec, actor()):
        return htmx.done(f"Channel {name} saved.", back=_back(name), leave=True)
    with reading() as session:
        return _form(session, form, name), 422


@pages.post("/channels/check")
@needs("viewer")
def check() -> ResponseReturnValue:
    """Check one field. `editing`: the channel that the form edits."""
    field, editing = checked_field(ChannelForm.FIELDS), request.args.get("editing", "")
    stored = None
    if editing:
        with reading() as session:
            stored = views.channel(session, editing).spec
    problem = ChannelForm.read(request.form, stored).errors.get(field, "")
    return htmx.fragment("channel/_check.html", problem=problem)


def _form(session: Session, form: ChannelForm, name: str = "") -> str:
    config = current_app.extensions["queuectl_config"]
    return htmx.form_page(
        "channel/form.html",
        session,
        form=form,
        editing=name,
        smtp_url=config.smtp_url,
        mail_from=config.mail_from,
        has_apprise=views.has_apprise(),
        apprise_missing=views.APPRISE_MISSING,
        highest_cap=channels.MAX_HOURLY_CAP,
    )


# --- verbs -----------------------------------------------------------------------------------------------------------


@pages.post("/channel/<name>/test")
@needs("operator")
def test(name: str) -> ResponseReturnValue:
    """Send a test message, and go to its page, which shows the answer."""
    sent = actions.test_channel(name, actor())
    return htmx.go_to(url_for("notifications.show", delivery_id=sent))


@pages.post("/channel/<name>/drop-backlog")
@needs("operator")
def drop_backlog(name: str) -> ResponseReturnValue:
    """Drop the messages that wait, after confirmation."""
    if "confirmed" not in request.form:
        with reading() as session:
            waiting = views.channel(session, name).waiting
        text = f"{plural(waiting, 'message')} will not be sent. The history shows them as dropped."
        back = came_from(_back(name))
        return htmx.ask(f"Drop the backlog of {name}?", text, "Drop backlog", back=back, danger=True)
    dropped = actions.drop_backlog(name, actor())
    if not dropped:
        return htmx.refused(f"Channel {name} has no waiting messages. Nothing changed.")
    return htmx.done(f"{plural(dropped, 'message')} dropped.", back=_back(name))


@pages.get("/channel/<name>/rotate-secret")
@needs("admin")
def ask_to_rotate(name: str) -> ResponseReturnValue:
    with reading() as session:
        view = views.channel(session, name)
        if view.spec.kind != "webhook":
            abort(404, "Only webhooks have a secret.")
        return htmx.form_page("channel/rotate.html", session, name=name, hours=actions.ROTATION // clock.seconds(3600))


@pages.post("/channel/<name>/rotate-secret")
@needs("admin")
def rotate(name: str) -> ResponseReturnValue:
    """Show the new secret in this response: a redirect would have to carry it."""
    secret = actions.rotate_secret(name, actor())
    message = "For a day, messages are signed with both secrets."
    return htmx.form_page("channel/secret.html", name=name, secret=secret, message=message, rotated=True)


@pages.post("/channel/<name>/remove")
@needs("admin")
def remove(name: str) -> ResponseReturnValue:
    """Remove a channel with its history, after confirmation. 409 while rules or schedules use it."""
    if "confirmed" not in request.form:
        text = "Its history is deleted, and waiting messages are not sent. This cannot be undone."
        return htmx.ask(f"Remove channel {name}?", text, "Remove channel", back=came_from(_back(name)), danger=True)
    actions.remove_channel(name, actor())
    return htmx.done(f"Channel {name} removed.", back=url_for("notifications.index"), leave=True)


def _back(name: str) -> str:
    return url_for("channels.show", name=name)
