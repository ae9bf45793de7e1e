"""Fields of requests and answers, each with its description for the document. The shapes stand beside their views.

`shapes` and `story` make the answers; a test holds that their members are those that the shapes here declare.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from marshmallow import EXCLUDE, Schema, ValidationError, fields, validate

from webapp.core.job_spec import NAME, NAME_RULE
from webapp.lib import clock
from webapp.lib.text import can_be_stored

LABEL_PATTERN = "[A-Za-z0-9][A-Za-z0-9._:-]{0,127}"
NAME_PATTERN = f"^{LABEL_PATTERN}$"

Field = TypeVar("Field", bound="fields.Field[Any]")


class Answer(Schema):
    """An answer: a program must bear members that it does not know."""

    class Meta:
        unknown = EXCLUDE


# --- what an answer always has ---------------------------------------------------------------------------------------


def text(about: str, *, null: bool = False, **metadata: Any) -> fields.String:
    return fields.String(required=True, allow_none=null, metadata={"description": about, **metadata})


def whole(about: str, *, null: bool = False) -> fields.Integer:
    return fields.Integer(required=True, allow_none=null, metadata={"description": about})


def number(about: str, *, null: bool = False) -> fields.Float:
    return fields.Float(required=True, allow_none=null, metadata={"description": about})


def truth(about: str) -> fields.Boolean:
    return fields.Boolean(required=True, metadata={"description": about})


def time(about: str, *, null: bool = False) -> fields.String:
    return text(about, null=null, format="date-time")


def texts(about: str, *, null: bool = False) -> fields.List[Any]:
    return fields.List(fields.String(), required=True, allow_none=null, metadata={"description": about})


def many(shape: type[Schema], about: str) -> fields.List[Any]:
    return fields.List(fields.Nested(shape), required=True, metadata={"description": about})


def mapping(about: str, values: fields.Field[Any]) -> fields.Dict:
    return fields.Dict(keys=fields.String(), values=values, required=True, metadata={"description": about})


# --- what a request may have -----------------------------------------------------------------------------------------


def optional(kind: type[Field], about: str, **schema: Any) -> Field:
    """A field that something else checks; `schema` only describes its bounds."""
    return kind(allow_none=True, metadata={"description": about, **schema})


def name(about: str) -> fields.String:
    return fields.String(validate=_named, metadata={"description": about, "pattern": NAME_PATTERN})


def typed(about: str, longest: int) -> fields.String:
    """A text that a person has typed."""
    return fields.String(validate=[validate.Length(max=longest), _plain], metadata={"description": about})


def choice(about: str, values: Sequence[str], **options: Any) -> fields.String:
    return fields.String(validate=validate.OneOf(values), metadata={"description": about}, **options)


def integer(about: str, lowest: int, highest: int, **options: Any) -> fields.Integer:
    return fields.Integer(validate=validate.Range(lowest, highest), metadata={"description": about}, **options)


def flag(about: str) -> fields.Boolean:
    """true or false, as JSON has them."""
    return fields.Boolean(truthy=[True], falsy=[False], metadata={"description": about})


def moment(about: str) -> fields.String:
    return fields.String(validate=_moment, metadata={"description": about, "format": "date-time"})


def _moment(value: str) -> None:
    try:
        clock.parse_iso(value)
    except ValueError:
        raise ValidationError("is no time. Expected one like 2030-01-31T09:30:00Z.") from None


def _named(value: str) -> None:
    if not NAME.match(value):
        raise ValidationError(f"is not allowed; expected {NAME_RULE}.")


def _plain(value: str) -> None:
    if not can_be_stored(value):
        raise ValidationError("contains a character that no text has.")
