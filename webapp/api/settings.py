"""The settings for programs: all, one, changing one, putting one back."""

from __future__ import annotations

from typing import Any, ClassVar

from marshmallow import Schema
from marshmallow import fields as ma

from webapp.api import fields, request_body
from webapp.api.routes import Noun
from webapp.api.scopes import actor, scope
from webapp.core import settings as setting_values
from webapp.db.engines import reading
from webapp.jobs import operations, settings
from webapp.web import serializers


class SettingRequest(Schema):
    example: ClassVar[Any] = {"value": 3}

    value = ma.Raw(required=True, metadata={"description": "a number within the setting's bounds", "type": "number"})


class Setting(fields.Answer):
    key = fields.text("its name")
    value = fields.number("as it stands")
    default = fields.number("as it is if nobody changes it")
    lowest = fields.number("inclusive")
    highest = fields.number("inclusive")
    unit = fields.text("seconds, days …")
    help = fields.text("what it does")
    changed_at = fields.time("null: it stands at its default", null=True)
    changed_by = fields.text("who changed it last", null=True)


class Settings(fields.Answer):
    settings = fields.many(Setting, "all of them")


routes = Noun("Config", "What can be tuned while the queue runs.")


@routes.on("GET", "/config", {200: Settings})
@scope("read")
def list_settings() -> Any:
    """List all settings: value, default, bounds, and who changed it last."""
    return {"settings": list(_settings().values())}


@routes.on("GET", "/config/<key>", {200: Setting})
@scope("read")
def get_setting(key: str) -> Any:
    """Look at a setting."""
    _check(key)
    return _settings()[key]


@routes.on("PUT", "/config/<key>", {200: Setting}, body=SettingRequest)
@scope("admin")
def set_setting(key: str) -> Any:
    """Change a setting. It holds at once, for every job that did not set its own."""
    _check(key)
    operations.set_setting(key, request_body.body(SettingRequest)["value"], actor())
    return _settings()[key]


@routes.on("DELETE", "/config/<key>", {200: Setting})
@scope("admin")
def reset_setting(key: str) -> Any:
    """Put a setting back to its default."""
    _check(key)
    operations.unset_setting(key, actor())
    return _settings()[key]


def _check(key: str) -> None:
    """A name that is none is an address where nothing is."""
    try:
        setting_values.define(key[:100])
    except setting_values.SettingError as error:
        raise operations.NotFound(str(error)) from None


def _settings() -> dict[str, dict[str, Any]]:
    with reading() as session:
        return {value.definition.key: serializers.setting(value) for value in settings.describe(session)}
