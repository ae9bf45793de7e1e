"""Channels of notifications: add, list, get, change, remove; test, a new secret, the backlog.

URLs are masked in every answer. The secret of a webhook is in the answer that makes it, and nowhere else.
"""

from __future__ import annotations

from typing import Any, ClassVar

from flask import Response
from marshmallow import Schema
from marshmallow import fields as ma

from webapp.api import fields, request_body
from webapp.api.fields import NAME_PATTERN
from webapp.api.gate import actor
from webapp.api.notifications import WholeMessage, message
from webapp.api.routes import Noun
from webapp.core import job_spec
from webapp.core.notices import CHANNEL_KINDS
from webapp.db.engines import reading
from webapp.notifications import actions, channels, views


class ChannelRequest(Schema):
    """Describes a channel for the document; `notifications/channels.py` validates it."""

    example: ClassVar[Any] = {"name": "ops", "kind": "mail", "to": ["ana@example.org"]}

    name = ma.String(required=True, metadata={"description": job_spec.NAME_RULE, "pattern": NAME_PATTERN})
    kind = ma.String(required=True, metadata={"description": "cannot be changed later", "enum": list(CHANNEL_KINDS)})
    to = fields.texts("mail addresses, of a mail channel", {"type": "string"})
    url = fields.optional(ma.String, "of a webhook or for Apprise; the masked form keeps the stored URL")
    hourly_cap = fields.optional(
        ma.Integer,
        f"messages per hour; 0: no limit; default: {channels.HOURLY_CAP}",
        minimum=0,
        maximum=channels.MAX_HOURLY_CAP,
    )


class Channel(fields.Stamped):
    name = fields.text("the name")
    kind = fields.text("kind of target", enum=list(CHANNEL_KINDS))
    to = fields.strings("mail addresses")
    url = fields.text("masked; empty for mail")
    hourly_cap = fields.integer("messages per hour; 0: no limit")
    old_secret_until = fields.time("until when messages are also signed with the previous secret", null=True)
    rules = fields.strings("rules that send to it")
    waiting = fields.integer("messages that it has not sent yet")
    last_sent_at = fields.time("when it sent its last message", null=True)
    failure = fields.text("what the receiver answered, if the last message failed; null: it works", null=True)


class NewChannel(Channel):
    secret = fields.text("signs the messages of a webhook; only in this response", null=True)


class Secret(fields.Answer):
    secret = fields.text("the new secret; only in this response")


class Dropped(fields.Answer):
    dropped = fields.integer("messages")


Channels = fields.listing("Channels", Channel, "by name")

routes = Noun("Channels", "A channel is where messages go: mail addresses, a webhook or a chat.")


@routes.on("GET", "/channels", {200: Channels}, scope="read")
def list_channels() -> Any:
    """List channels by name."""
    with reading() as session:
        return {"channels": [views.channel_json(view) for view in views.channels(session)]}


@routes.on("POST", "/channels", {201: NewChannel}, scope="admin", body=ChannelRequest)
def add_channel() -> Response:
    """Add a channel. The response has the secret of a webhook, which is never shown again."""
    spec = channels.parse(request_body.raw())
    secret = actions.add_channel(spec, actor())
    return request_body.answer({**_channel(spec.name), "secret": secret}, 201)


@routes.on("GET", "/channels/<name>", {200: Channel}, scope="read")
def get_channel(name: str) -> Any:
    """Get one channel."""
    return _channel(name)


@routes.on("PUT", "/channels/<name>", {200: Channel}, scope="admin", body=ChannelRequest)
def replace_channel(name: str) -> Any:
    """Change the target and the limit of a channel. Omitted fields are unchanged."""
    with reading() as session:
        stored = views.channel(session, name).spec
    actions.edit_channel(name, channels.parse(request_body.raw(), stored), actor())
    return _channel(name)


@routes.on("DELETE", "/channels/<name>", {204: None}, scope="admin", errors=(409,))
def remove_channel(name: str) -> Response:
    """Remove a channel with its messages. 409 while rules or schedules use it."""
    actions.remove_channel(name, actor())
    return Response(status=204)


@routes.on("POST", "/channels/<name>/rotate-secret", {200: Secret}, scope="admin", errors=(409,))
def rotate_secret(name: str) -> Any:
    """Give a webhook a new secret. For a day, messages are signed with both secrets."""
    return {"secret": actions.rotate_secret(name, actor())}


@routes.on("POST", "/channels/<name>/test", {201: WholeMessage}, scope="operate", repeatable=True)
def test_channel(name: str) -> Response:
    """Send a test message. Get the message again until its `state` is not `waiting`."""
    return request_body.answer(message(actions.test_channel(name, actor())), 201)


@routes.on("POST", "/channels/<name>/drop-backlog", {200: Dropped}, scope="operate")
def drop_backlog(name: str) -> Any:
    """Drop the messages that a channel has not sent yet."""
    return {"dropped": actions.drop_backlog(name, actor())}


def _channel(name: str) -> dict[str, Any]:
    with reading() as session:
        return views.channel_json(views.channel(session, name))
