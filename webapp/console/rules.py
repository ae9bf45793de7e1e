"""Rules of notifications: one rule, its form with what it would have sent, mute, removal."""

from __future__ import annotations

from typing import Any, Optional

from flask import Blueprint, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy import select
from sqlalchemy.orm import Session

from webapp.console.display import notification_text, times
from webapp.console.display.notification_forms import RuleForm, known_events, quiet_hours_example
from webapp.console.frame import htmx
from webapp.console.frame.params import after_now, checked_field
from webapp.console.frame.person import actor, needs
from webapp.console.notifications import MOST_ALERTS, history
from webapp.db.engines import reading
from webapp.db.models import Schedule
from webapp.insight.queues import some_names
from webapp.lib.durations import short
from webapp.notifications import actions, preview, rules, views
from webapp.notifications.preview import Message
from webapp.web.request_info import came_from

pages = Blueprint("rules", __name__)

PREVIEW_DAYS = 7
MOST_OFFERED = 200  # queues and schedules
MOST_PREVIEWED = 20  # messages that the form shows


@pages.get("/rule/<name>")
def show(name: str) -> ResponseReturnValue:
    with reading() as session:
        view = views.rule(session, name)
        alerts = views.alerts_open(session, MOST_ALERTS, rule=name)
        return htmx.page(
            "rule",
            session,
            view=view,
            fields={**dict.fromkeys(RuleForm.FIELDS), **views.rule_fields(view)},
            events=dict(known_events()),
            alerts=alerts,
            subjects=notification_text.subjects(session, alerts),
            **history(session, url_for("rules.show", name=name), {"rule": name}),
        )


# --- the form --------------------------------------------------------------------------------------------------------


@pages.get("/rules/new")
@needs("admin")
def new() -> ResponseReturnValue:
    """The form, with the channel in `channel`, or the only one."""
    with reading() as session:
        names = views.channel_names(session)
        asked = request.args.get("channel", "")
        return _form(session, RuleForm.empty(asked if asked in names else names[0] if len(names) == 1 else ""))


@pages.post("/rules/new")
@needs("admin")
def add() -> ResponseReturnValue:
    """Add a rule. With `preview`, only show what it would have sent: for browsers without JavaScript."""
    form = RuleForm.read(request.form)
    if form.spec is not None and "preview" not in request.form and form.saves(actions.add_rule, form.spec, actor()):
        message = f"Rule {form.spec.name} added. It applies to events from now on."
        return htmx.done(message, back=_back(form.spec.name), leave=True)
    with reading() as session:
        return _form(session, form), 422 if form.errors else 200


@pages.get("/rule/<name>/edit")
@needs("admin")
def edit(name: str) -> ResponseReturnValue:
    with reading() as session:
        return _form(session, RuleForm.of_fields(views.rule_fields(views.rule(session, name))), name)


@pages.post("/rule/<name>/edit")
@needs("admin")
def change(name: str) -> ResponseReturnValue:
    with reading() as session:
        views.rule(session, name)  # 404 before the form's errors
    form = RuleForm.read(request.form, name=name)
    asked = form.spec is not None and "preview" not in request.form
    if asked and form.saves(actions.edit_rule, name, form.spec, actor()):
        return htmx.done(f"Rule {name} saved.", back=_back(name), leave=True)
    with reading() as session:
        return _form(session, form, name), 422 if form.errors else 200


@pages.post("/rules/check")
@needs("viewer")
def check() -> ResponseReturnValue:
    """Check one field, and return what the rule would have sent."""
    field = checked_field(RuleForm.FIELDS)
    form = RuleForm.read(request.form, name=request.args.get("editing") or None)
    with reading() as session:
        return htmx.fragment("rule/_check.html", problem=form.errors.get(field, ""), **_preview(session, form))


def _form(session: Session, form: RuleForm, name: str = "") -> str:
    return htmx.form_page(
        "rule/form.html",
        session,
        form=form,
        editing=name,
        events=known_events(),
        applies_to=rules.APPLIES_TO,
        channels=views.channel_names(session),
        queues=some_names(session, MOST_OFFERED),
        schedules=session.scalars(select(Schedule.name).order_by(Schedule.name).limit(MOST_OFFERED)).all(),
        usual_age=short(rules.OLDER_THAN),
        quiet_hours_example=quiet_hours_example(),
        **_preview(session, form),
    )


def _preview(session: Session, form: RuleForm) -> dict[str, Any]:
    """Values for the preview. `previewed` is None while the events or conditions are not valid."""
    spec = form.for_preview()
    found: Optional[list[Message]] = None if spec is None else preview.preview(session, spec, days=PREVIEW_DAYS)
    return {
        "previewed": found,
        "most_previewed": MOST_PREVIEWED,
        "unknown": [event for event in preview.UNKNOWN if spec is not None and event in spec.on],
        "days": PREVIEW_DAYS,
        "kinds": notification_text.KINDS,
    }


# --- verbs -----------------------------------------------------------------------------------------------------------


@pages.post("/rule/<name>/mute")
@needs("operator")
def mute(name: str) -> ResponseReturnValue:
    """Mute for `for`, a duration such as 8h."""
    until = after_now(request.form.get("for", "").strip() or "1h")
    actions.mute(name, until, actor())
    return htmx.done(f"Rule {name} muted until {times.brief(until)}.", back=_back(name))


@pages.post("/rule/<name>/unmute")
@needs("operator")
def unmute(name: str) -> ResponseReturnValue:
    if not actions.unmute(name, actor()):
        return htmx.refused(f"Rule {name} is not muted. Nothing changed.")
    return htmx.done(f"Rule {name} unmuted. It applies to events from now on.", back=_back(name))


@pages.post("/rule/<name>/remove")
@needs("admin")
def remove(name: str) -> ResponseReturnValue:
    """Remove a rule, after confirmation. What it sent stays in the history."""
    if "confirmed" not in request.form:
        text = "Its open alerts end without a message, and its waiting messages are dropped. The history stays."
        return htmx.ask(f"Remove rule {name}?", text, "Remove rule", back=came_from(_back(name)), danger=True)
    actions.remove_rule(name, actor())
    return htmx.done(f"Rule {name} removed.", back=url_for("notifications.index"), leave=True)


def _back(name: str) -> str:
    return url_for("rules.show", name=name)
