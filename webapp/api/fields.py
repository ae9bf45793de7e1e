"""Fields of requests and responses, with descriptions for the OpenAPI document. Each schema is beside its routes.

`web/serializers.py` and `web/job_json.py` make the responses. A test checks them against the schemas.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from marshmallow import EXCLUDE, Schema, ValidationError, fields, validate

from webapp.core.job_spec import NAME, NAME_RULE
from webapp.lib import clock, durations
from webapp.lib.text import can_be_stored

LABEL_PATTERN = "[A-Za-z0-9][A-Za-z0-9._:-]{0,127}"
NAME_PATTERN = f"^{LABEL_PATTERN}$"
DURATION_PATTERN = rf"^\s*[0-9]+(\.[0-9]+)?\s*({'|'.join(durations.UNITS)})\s*$"

Field = TypeVar("Field", bound="fields.Field[Any]")


class Answer(Schema):
    """A response. Clients must accept members that they do not know."""

    class Meta:
        unknown = EXCLUDE


# Fields of responses: always present.


def _required(kind: Callable[..., Field], about: str, *, null: bool = False, **schema: Any) -> Field:
    return kind(required=True, allow_none=null, metadata={"description": about, **schema})


text = partial(_required, fields.String)
integer = partial(_required, fields.Integer)
number = partial(_required, fields.Float)
boolean = partial(_required, fields.Boolean)
time = partial(_required, fields.String, format="date-time")
strings = partial(_required, partial(fields.List, fields.String))


class Stamped(Answer):
    """What an admin has added."""

    created_at = time("when it was added")
    created_by = text("who added it")
    changed_at = time("when it was last changed")
    changed_by = text("who changed it last")


def list_of(schema: type[Schema], about: str) -> fields.List[Any]:
    return fields.List(fields.Nested(schema), required=True, metadata={"description": about})


def listing(name: str, schema: type[Schema], about: str) -> type[Schema]:
    """The schema of a response like {"queues": […]}, named "Queues"."""
    return Answer.from_dict({name.lower(): list_of(schema, about)}, name=name)


def mapping(about: str, values: fields.Field[Any]) -> fields.Dict:
    return fields.Dict(keys=fields.String(), values=values, required=True, metadata={"description": about})


# Fields of requests.


def optional(kind: type[Field], about: str, **schema: Any) -> Field:
    """A field that other code checks; `schema` only describes its bounds."""
    return kind(allow_none=True, metadata={"description": about, **schema})


def duration(about: str, highest: int, *, above_zero: bool = False) -> fields.Field[Any]:
    """Seconds, or a text such as 10m."""
    least = {"exclusiveMinimum": 0} if above_zero else {"minimum": 0}
    texts = {"type": "string", "pattern": DURATION_PATTERN, "description": durations.RULE}
    kinds = [{"type": "number", **least, "maximum": highest}, texts, {"type": "null"}]
    return fields.Raw(metadata={"description": about, "anyOf": kinds, "examples": [600, "10m"]})


def texts(about: str, item: dict[str, Any], **options: Any) -> fields.Raw:
    """A list of texts, or one text with commas between them."""
    kinds = [{"type": "array", "items": item}, {"type": "string"}, {"type": "null"}]
    return fields.Raw(metadata={"description": about, "anyOf": kinds}, **options)


def name(about: str) -> fields.String:
    return fields.String(validate=_check_name, metadata={"description": about, "pattern": NAME_PATTERN})


def free_text(about: str, longest: int) -> fields.String:
    return fields.String(validate=[validate.Length(max=longest), _check_storable], metadata={"description": about})


def choice(about: str, values: Sequence[str], **options: Any) -> fields.String:
    return fields.String(validate=validate.OneOf(values), metadata={"description": about}, **options)


def bounded(about: str, lowest: int, highest: int, **options: Any) -> fields.Integer:
    return fields.Integer(validate=validate.Range(lowest, highest), metadata={"description": about}, **options)


def flag(about: str) -> fields.Boolean:
    """Accepts true and false only, not "yes" or 1."""
    return fields.Boolean(truthy=[True], falsy=[False], metadata={"description": about})


def switch(about: str) -> fields.Boolean:
    """Of a query, where it is a text; false by default."""
    return fields.Boolean(load_default=False, truthy={"true"}, falsy={"false"}, metadata={"description": about})


def timestamp(about: str, **options: Any) -> fields.String:
    return fields.String(validate=_check_time, metadata={"description": about, "format": "date-time"}, **options)


def _check_time(value: str) -> None:
    try:
        clock.parse_iso(value)
    except ValueError:
        raise ValidationError("is not a time; expected one like 2030-01-31T09:30:00Z.") from None


def _check_name(value: str) -> None:
    if not NAME.match(value):
        raise ValidationError(f"is not allowed; expected {NAME_RULE}.")


def _check_storable(value: str) -> None:
    if not can_be_stored(value):
        raise ValidationError("contains a character that cannot be stored.")
