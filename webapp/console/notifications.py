"""Notifications: rules, channels, open alerts, the history of messages, one message, and the form of the first rule.

`channels.py` and `rules.py` have the pages of one channel and one rule, with their forms.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

from flask import Blueprint, abort, current_app, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from webapp.console.display import notification_text
from webapp.console.display.notification_forms import StartForm, known_events
from webapp.console.frame import htmx
from webapp.console.frame.params import id_before, with_query
from webapp.console.frame.person import actor, needs
from webapp.core.job_spec import SpecError
from webapp.core.notices import DELIVERY_STATES
from webapp.db.engines import reading
from webapp.jobs import settings
from webapp.lib.text import capitalize
from webapp.notifications import actions, channels, views

pages = Blueprint("notifications", __name__)

PAGE = 50  # messages
MOST_ALERTS = 50
LARGEST_ID = 2**63 - 1


@pages.get("/notifications")
def index() -> ResponseReturnValue:
    """`channel`, `rule` and `state` narrow the history; `before` is an id between two of its pages."""
    asked = {name: request.args.get(name, "").strip()[:128] for name in ("channel", "rule", "state")}
    if asked["state"] not in ("", *DELIVERY_STATES):
        abort(404, f"Unknown state. Expected {', '.join(DELIVERY_STATES)}.")
    with reading() as session:
        alerts = views.alerts_open(session, MOST_ALERTS + 1)
        found = views.channels(session)
        config = current_app.extensions["queuectl_config"]
        return htmx.page(
            "notifications",
            session,
            rules=views.rules(session),
            last_messages=views.last_messages(session),
            channels=found,
            obstacles={view.row.name: views.obstacle(view, config) for view in found},
            overdue=views.overdue(session),
            alerts=alerts[:MOST_ALERTS],
            more_alerts=len(alerts) > MOST_ALERTS,
            subjects=notification_text.subjects(session, alerts[:MOST_ALERTS]),
            asked=asked,
            states=DELIVERY_STATES,
            masked=channels.masked,
            **history(session, url_for("notifications.index"), asked),
            keep=settings.load(session).keep_deliveries,
        )


def history(session: Session, here: str, asked: Mapping[str, str]) -> dict[str, Any]:
    """Values for a page of the history at the URL `here`."""
    before = id_before()
    found = views.deliveries(
        session,
        channel=asked.get("channel", ""),
        rule=asked.get("rule", ""),
        state=asked.get("state", ""),
        before=before,
        limit=PAGE + 1,
    )
    last = str(found[PAGE - 1].row.id) if len(found) > PAGE else None
    return {
        "messages": found[:PAGE],
        "summaries": notification_text.summaries(session, found[:PAGE]),
        "message_states": notification_text.STATES,
        "kinds": notification_text.KINDS,
        "older": ("Older", with_query(here, {**asked, "before": last})) if last else None,
        "top": with_query(here, asked) if before else None,
    }


# --- one message -----------------------------------------------------------------------------------------------------


@pages.get(f"/notification/<int(max={LARGEST_ID}):delivery_id>")
def show(delivery_id: int) -> ResponseReturnValue:
    """One message as it was sent, with the answer. It refreshes fast until the first answer is there."""
    with reading() as session:
        view = views.delivery(session, delivery_id)
        channel = views.channel(session, view.channel)
        detail = view.detail
        return htmx.page(
            "notification",
            session,
            view=view,
            summary=notification_text.summaries(session, [view])[delivery_id],
            state=notification_text.STATES[view.row.state],
            kind=notification_text.KINDS[view.row.kind],
            subject=notification_text.subject_of(str(detail["key"])) if detail.get("key") else None,
            job=detail.get("job"),
            obstacle=views.obstacle(channel, current_app.extensions["queuectl_config"]),
            target=channels.masked(channel.spec),
        )


@pages.post(f"/notification/<int(max={LARGEST_ID}):delivery_id>/send-again")
@needs("operator")
def send_again(delivery_id: int) -> ResponseReturnValue:
    """Send a message again as a new one, and go there. 409 while it waits."""
    new = actions.send_again(delivery_id, actor())
    return htmx.done("The message will be sent again.", back=url_for("notifications.show", delivery_id=new), leave=True)


# --- the first rule --------------------------------------------------------------------------------------------------


@pages.get("/notifications/start")
@needs("admin")
def start() -> ResponseReturnValue:
    with reading() as session:
        return _start(session, StartForm.empty())


@pages.post("/notifications/start")
@needs("admin")
def begin() -> ResponseReturnValue:
    """Add a channel and a rule, both or nothing."""
    with reading() as session:
        names = views.channel_names(session), [view.row.name for view in views.rules(session)]
    form = StartForm.read(request.form, *names)
    if form.channel is not None and form.rule is not None:
        try:
            secret = actions.add_channel_and_rule(form.channel, form.rule, actor())
        except SpecError as error:  # another admin has added one with this name
            form.errors["kind"] = capitalize(str(error))
        else:
            return added(form.channel.name, secret, f"Rule {form.rule.name} added. It applies to events from now on.")
    with reading() as session:
        return _start(session, form), 422


def _start(session: Session, form: StartForm) -> str:
    config = current_app.extensions["queuectl_config"]
    return htmx.form_page(
        "notifications/start.html",
        session,
        form=form,
        events=known_events(),
        smtp_url=config.smtp_url,
        has_apprise=views.has_apprise(),
    )


def added(channel: str, secret: Optional[str], message: str) -> ResponseReturnValue:
    """After a channel was added: show the secret in this response, because a redirect would have to carry it."""
    if secret is None:
        return htmx.done(message, back=url_for("channels.show", name=channel), leave=True)
    return htmx.form_page("channel/secret.html", name=channel, secret=secret, message=message, rotated=False)
