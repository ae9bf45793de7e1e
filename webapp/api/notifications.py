"""Notifications: rules, messages and open alerts; and the channels that get a message when a job ends."""

from __future__ import annotations

from typing import Any, ClassVar

from flask import Response
from marshmallow import Schema
from marshmallow import fields as ma

from webapp.api import fields, pagination, request_body
from webapp.api.fields import NAME_PATTERN
from webapp.api.gate import actor
from webapp.api.routes import LARGEST_ID, Noun
from webapp.core import job_spec
from webapp.core.notices import DELIVERY_KINDS, DELIVERY_STATES, EVENTS
from webapp.db.engines import reading
from webapp.jobs import job_detail
from webapp.lib import clock
from webapp.notifications import actions, preview, rules, views

LIST = "notifications"  # in cursors
MAX_PAGE = 500  # messages
MAX_DAYS = 30  # of a preview

MESSAGE = f"/notifications/<int(max={LARGEST_ID}):delivery_id>"


class RuleRequest(Schema):
    """Describes a rule for the document; `notifications/rules.py` validates it."""

    example: ClassVar[Any] = {"name": "failures", "on": ["group-new"], "channel": "ops"}

    name = ma.String(required=True, metadata={"description": job_spec.NAME_RULE, "pattern": NAME_PATTERN})
    on = fields.texts(
        "events; " + "; ".join(f"`{event}`: {about}" for event, about in EVENTS.items()),
        {"type": "string", "enum": list(EVENTS)},
        required=True,
    )
    channel = ma.String(
        required=True, metadata={"description": "channel that gets the messages", "pattern": NAME_PATTERN}
    )
    queue = fields.optional(ma.String, "only events of this queue and its jobs")
    schedule = fields.optional(ma.String, "only events of this schedule and its jobs")
    command = fields.optional(ma.String, "only jobs whose command matches, such as `*backup.sh*`")
    after = fields.optional(
        ma.Integer, "notify after this many failures of the same kind; default: 1", minimum=1, maximum=rules.MAX_AFTER
    )
    older_than = ma.Raw(
        metadata={
            "description": "for queue-old: how long the oldest job has waited; seconds, or 30m; default: 1 h",
            "anyOf": [{"type": "integer"}, {"type": "string"}, {"type": "null"}],
            "examples": [1800, "30m"],
        }
    )
    quiet_hours = fields.optional(ma.String, "in these hours messages wait, such as `22:00-07:00 Europe/Berlin`")


class Rule(fields.Stamped):
    name = fields.text("the name")
    on = fields.strings("events")
    channel = fields.text("channel that gets the messages")
    queue = fields.text("only events of this queue and its jobs", null=True)
    schedule = fields.text("only events of this schedule and its jobs", null=True)
    command = fields.text("only jobs whose command matches", null=True)
    after = fields.integer("failures of the same kind before a message is sent")
    older_than = fields.integer("for queue-old, in seconds")
    quiet_hours = fields.text("in these hours messages wait", null=True)
    muted_until = fields.time("muted until this time", null=True)
    open_alerts = fields.integer("alerts that have not ended")


class MuteRequest(Schema):
    example: ClassVar[Any] = {"until": "2030-01-31T08:00:00Z"}

    until = fields.timestamp("when the rule is unmuted", required=True)


class PreviewQuery(Schema):
    days = fields.bounded("days to look back", 1, MAX_DAYS, load_default=7)


class PreviewedMessage(fields.Answer):
    at = fields.time("when it would have been sent")
    kind = fields.text("the kind", enum=list(DELIVERY_KINDS))
    subject = fields.text("the subject")


class Preview(fields.Answer):
    messages = fields.list_of(PreviewedMessage, "oldest first")


class Message(fields.Answer):
    id = fields.integer("the id; the same when a message is sent again after an interruption")
    channel = fields.text("where it goes")
    rule = fields.text("null for a test, for the end of a job, and if the rule was removed", null=True)
    alert_id = fields.integer("the alert that it is about", null=True)
    kind = fields.text("the kind", enum=list(DELIVERY_KINDS))
    state = fields.text("waiting, or how it ended", enum=list(DELIVERY_STATES))
    subject = fields.text("null before the first attempt", null=True)
    created_at = fields.time("when it was created")
    not_before = fields.time("earliest time to send it, because of quiet hours")
    ended_at = fields.time("when it was sent or given up", null=True)
    tries = fields.integer("number of attempts")
    answer = fields.text("last answer of the receiver", null=True)


class WholeMessage(Message):
    body = fields.text("the text; null before the first attempt", null=True)
    detail = ma.Dict(required=True, metadata={"description": "the facts of the message, by kind"})


class MessageQuery(Schema):
    channel = fields.name("only messages to this channel")
    rule = fields.name("only messages of this rule")
    state = fields.choice("only messages in this state", DELIVERY_STATES)
    job = fields.name("only messages about this job or its failure group")
    limit = fields.bounded("messages per page", 1, MAX_PAGE, load_default=50)
    cursor = pagination.cursor_field()


class MessagePage(pagination.Page):
    notifications = fields.list_of(Message, "newest first")


class Alert(fields.Answer):
    id = fields.integer("the id")
    rule = fields.text("the rule that it belongs to")
    channel = fields.text("channel of the rule")
    event = fields.text("the first event", enum=list(EVENTS))
    key = fields.text("what it is about, such as group:…")
    opened_at = fields.time("when it began")
    last_at = fields.time("when it happened last")
    count = fields.integer("how often it happened")
    messages = fields.integer("messages sent so far")
    next_at = fields.time("when the next message is due, if there is news", null=True)
    flapping = fields.boolean("it failed and recovered too often, so no messages are sent until it is stable")


class AlertQuery(Schema):
    limit = fields.bounded("alerts", 1, MAX_PAGE, load_default=100)


Rules = fields.listing("Rules", Rule, "by name")
Alerts = fields.listing("Alerts", Alert, "newest first")

routes = Noun("Notifications", "Rules choose which events send messages. Also the messages and the open alerts.")


# --- rules -----------------------------------------------------------------------------------------------------------


@routes.on("GET", "/rules", {200: Rules}, scope="read")
def list_rules() -> Any:
    """List rules by name."""
    with reading() as session:
        return {"rules": [views.rule_json(view) for view in views.rules(session)]}


@routes.on("POST", "/rules", {201: Rule}, scope="admin", repeatable=True, body=RuleRequest)
def add_rule() -> Response:
    """Add a rule. It applies to events from now on."""
    spec = rules.parse(request_body.raw())
    actions.add_rule(spec, actor())
    return request_body.answer(_rule(spec.name), 201)


@routes.on("POST", "/rules/preview", {200: Preview}, scope="read", query=PreviewQuery, body=RuleRequest)
def preview_rule() -> Any:
    """List the messages that a rule would have sent in the last days. Nothing is stored."""
    days = request_body.query(PreviewQuery)["days"]
    spec = rules.parse(request_body.raw())
    with reading() as session:
        found = preview.preview(session, spec, days=days)
    return {"messages": [{"at": clock.to_iso(one.at), "kind": one.kind, "subject": one.subject} for one in found]}


@routes.on("GET", "/rules/<name>", {200: Rule}, scope="read")
def get_rule(name: str) -> Any:
    """Get one rule."""
    return _rule(name)


@routes.on("PUT", "/rules/<name>", {200: Rule}, scope="admin", body=RuleRequest)
def replace_rule(name: str) -> Any:
    """Replace a rule. If its events or conditions change, its open alerts end without a message."""
    data = request_body.raw()
    spec = rules.parse({"name": name, **data} if isinstance(data, dict) else data)
    actions.edit_rule(name, spec, actor())
    return _rule(name)


@routes.on("DELETE", "/rules/<name>", {204: None}, scope="admin")
def remove_rule(name: str) -> Response:
    """Remove a rule. Its waiting messages are dropped."""
    actions.remove_rule(name, actor())
    return Response(status=204)


@routes.on("POST", "/rules/<name>/mute", {200: Rule}, scope="operate", body=MuteRequest)
def mute_rule(name: str) -> Any:
    """Mute a rule until a time. Its messages are suppressed."""
    actions.mute(name, clock.parse_iso(request_body.body(MuteRequest)["until"]), actor())
    return _rule(name)


@routes.on("POST", "/rules/<name>/unmute", {200: Rule}, scope="operate")
def unmute_rule(name: str) -> Any:
    """Unmute a rule. It applies to events from now on."""
    actions.unmute(name, actor())
    return _rule(name)


# --- messages, alerts and jobs ---------------------------------------------------------------------------------------


@routes.on(
    "GET",
    "/notifications",
    {200: MessagePage},
    scope="read",
    query=MessageQuery,
    errors=(404,),
    headers=pagination.LINKS,
)
def list_notifications() -> Response:
    """List messages, newest first, with what the receiver answered. 404 if there is no such job."""
    asked = request_body.query(MessageQuery)
    limit, wanted = asked["limit"], {key: asked.get(key, "") for key in ("channel", "rule", "state")}
    with reading() as session:
        job = job_detail.existing(session, asked["job"]) if "job" in asked else None
        before = pagination.number_before(asked.get("cursor"), LIST)
        found = views.deliveries(session, **wanted, job=job, before=before, limit=limit + 1)
    shown = found[:limit]
    older = str(shown[-1].row.id) if len(found) > limit else None
    return pagination.answer({"notifications": [views.delivery_json(view) for view in shown]}, LIST, older, None)


@routes.on("GET", MESSAGE, {200: WholeMessage}, scope="read")
def get_notification(delivery_id: int) -> Any:
    """Get one message with its text."""
    return message(delivery_id)


@routes.on(
    "POST",
    f"{MESSAGE}/send-again",
    {201: WholeMessage},
    scope="operate",
    repeatable=True,
    errors=(409,),
)
def send_again(delivery_id: int) -> Response:
    """Send a message again, as a new one. 409 while it waits."""
    return request_body.answer(message(actions.send_again(delivery_id, actor())), 201)


@routes.on("GET", "/alerts", {200: Alerts}, scope="read", query=AlertQuery)
def list_alerts() -> Any:
    """List open alerts: failures that a rule applies to and that have not recovered."""
    limit = request_body.query(AlertQuery)["limit"]
    with reading() as session:
        return {"alerts": [views.alert_json(view) for view in views.alerts_open(session, limit)]}


@routes.on("PUT", "/jobs/<job_id>/notify/<name>", {204: None}, scope="operate", errors=(409,))
def watch_job(job_id: str, name: str) -> Response:
    """Send a message to the channel `name` when a job ends. 409 if it has ended."""
    actions.watch(job_id, name, actor())
    return Response(status=204)


@routes.on("DELETE", "/jobs/<job_id>/notify/<name>", {204: None}, scope="operate")
def unwatch_job(job_id: str, name: str) -> Response:
    """No longer send a message to the channel `name` when a job ends."""
    actions.unwatch(job_id, name, actor())
    return Response(status=204)


def _rule(name: str) -> dict[str, Any]:
    with reading() as session:
        return views.rule_json(views.rule(session, name))


def message(delivery_id: int) -> dict[str, Any]:
    with reading() as session:
        return views.whole_delivery_json(views.delivery(session, delivery_id))
