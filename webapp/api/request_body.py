"""Reading what programs send, strictly, and the JSON that they get."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Optional

from flask import Response, request
from marshmallow import Schema, ValidationError

from webapp.api.gate import JSON
from webapp.api.problems import MOST_ERRORS, Problem
from webapp.core import job_spec
from webapp.core.job_spec import SpecError


def query(schema: type[Schema]) -> dict[str, Any]:
    """The parameters behind the question mark. What is not known is refused: a mistyped filter would be none."""
    twice = [name for name, values in request.args.lists() if len(values) > 1]
    if twice:
        raise _invalid({name: ["is given twice."] for name in twice})
    return _load(schema, dict(request.args.items()))


def body(schema: type[Schema]) -> dict[str, Any]:
    """A JSON object, as the schema has it."""
    return _load(schema, raw())


def no_body() -> None:
    """For acts that say everything by their address: nothing, or an empty object."""
    if request.get_data() and raw() != {}:
        raise Problem("invalid", "This takes no body.")


def raw() -> Any:
    """The JSON that was sent, whatever it is."""
    if not request.mimetype:
        raise Problem("media-type")
    try:
        text = request.get_data().decode()
    except UnicodeDecodeError as error:
        raise Problem("malformed", f"The body is not UTF-8: {error.reason} at byte {error.start}.") from None
    try:
        return job_spec.load_json(text)
    except SpecError as error:
        if error.errors[0].field:
            raise
        raise Problem("malformed", str(error)) from None


def _load(schema: type[Schema], data: Any) -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = schema().load(data)
    except ValidationError as error:
        messages = error.messages
        raise _invalid(messages if isinstance(messages, dict) else {"": messages}) from None
    return loaded


def _invalid(messages: Mapping[Any, Any]) -> Problem:
    errors = list(_flat(messages))[:MOST_ERRORS]
    detail = "; ".join(f"{one['field']}: {one['message']}" if one["field"] else one["message"] for one in errors[:3])
    return Problem("invalid", detail, errors=errors)


def _flat(messages: Mapping[Any, Any], field: str = "", place: Optional[int] = None) -> Any:
    """marshmallow's nested messages, as one list of fields, places and sentences."""
    for name, said in messages.items():
        where = field if isinstance(name, int) or name == "_schema" else f"{field}.{name}" if field else str(name)
        at = name if isinstance(name, int) else place
        if isinstance(said, Mapping):
            yield from _flat(said, where, at)
        else:
            yield from ({"field": where[:60], "place": at, "message": str(text)} for text in said)


def answer(value: Any, status: int = 200, headers: Optional[Mapping[str, str]] = None) -> Response:
    response = Response(json.dumps(value) + "\n", status, content_type=JSON)
    response.headers.extend(headers or {})
    return response
