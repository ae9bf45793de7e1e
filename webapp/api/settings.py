"""The settings: list, get, change, reset."""

from __future__ import annotations

from typing import Any, ClassVar

from marshmallow import Schema
from marshmallow import fields as ma

from webapp.api import fields, request_body
from webapp.api.gate import actor
from webapp.api.routes import Noun
from webapp.core.settings import SettingError
from webapp.db.engines import reading
from webapp.jobs import lifecycle, settings
from webapp.web import serializers

VALUE = "a number between `lowest` and `highest`; of seconds also a text such as 10m"

CONFIRM = "true: also if the new value deletes something at once, such as older jobs. Without it, that is refused (409)"


class SettingRequest(Schema):
    example: ClassVar[Any] = {"value": 3}

    value = ma.Raw(required=True, metadata={"description": VALUE, "type": ["number", "string"]})
    confirm = fields.flag(CONFIRM)


class ResetQuery(Schema):
    confirm = ma.Boolean(load_default=False, metadata={"description": CONFIRM})


class Setting(fields.Answer):
    key = fields.text("the name; `keep_completed@mail` is the value of one queue")
    queue = fields.text("the queue whose own value this is; null: of all queues", null=True)
    value = fields.number("the current value")
    default = fields.number("the default value; for a queue, the value of all queues")
    lowest = fields.number("inclusive")
    highest = fields.number("inclusive")
    unit = fields.text("seconds, days …")
    help = fields.text("what it does")
    changed_at = fields.time("when it was last changed; null: it has its default", null=True)
    changed_by = fields.text("who changed it last", null=True)


routes = Noun("Config", "Settings that can be changed while the queue runs.")


@routes.on("GET", "/config", {200: fields.listing("Settings", Setting, "all settings")}, scope="read")
def list_settings() -> Any:
    """List all settings: value, default, bounds, and who changed each last. Also the queues with their own value."""
    with reading() as session:
        return {"settings": [serializers.setting(value) for value in settings.describe(session)]}


@routes.on("GET", "/config/<key>", {200: Setting}, scope="read")
def get_setting(key: str) -> Any:
    """Get a setting."""
    return _setting(key)


@routes.on("PUT", "/config/<key>", {200: Setting}, scope="admin", body=SettingRequest, errors=[409])
def set_setting(key: str) -> Any:
    """Change a setting. The change applies at once to all jobs that do not set their own value.

    With `keep_completed@mail` as key, likewise for the other `keep_` settings of jobs, change it for one queue.
    """
    _setting(key)
    sent = request_body.body(SettingRequest)
    settings.set_setting(key, sent["value"], actor(), confirmed=sent.get("confirm", False))
    return _setting(key)


@routes.on("DELETE", "/config/<key>", {200: Setting}, scope="admin", query=ResetQuery, errors=[409])
def reset_setting(key: str) -> Any:
    """Reset a setting to its default, or a queue's own value to that of all queues."""
    _setting(key)
    settings.unset_setting(key, actor(), confirmed=request_body.query(ResetQuery)["confirm"])
    return _setting(key)


def _setting(key: str) -> dict[str, Any]:
    """Raises NotFound."""
    try:
        with reading() as session:
            return serializers.setting(settings.find(session, key[:200]))
    except SettingError as error:
        raise lifecycle.NotFound(str(error)) from None
