"""Strict parsing of requests, and JSON responses."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Optional

from flask import Response, request
from marshmallow import Schema, ValidationError

from webapp.api.gate import JSON
from webapp.api.problems import MOST_ERRORS, Problem
from webapp.core import job_spec
from webapp.core.job_spec import SpecError


def query(schema: type[Schema]) -> dict[str, Any]:
    """The query parameters. Unknown ones are refused: a mistyped filter would otherwise match everything."""
    repeated = [name for name, values in request.args.lists() if len(values) > 1]
    if repeated:
        raise _invalid({name: ["is given twice."] for name in repeated})
    return _load(schema, dict(request.args.items()))


def body(schema: type[Schema]) -> dict[str, Any]:
    """The JSON body, validated by the schema."""
    return _load(schema, raw())


def no_body() -> None:
    """Accept no body, or an empty object."""
    if request.get_data() and raw() != {}:
        raise Problem("invalid", "This request takes no body.")


def raw() -> Any:
    """The JSON body, not validated."""
    if not request.mimetype:
        raise Problem("media-type")
    try:
        return job_spec.load_json(job_spec.decode(request.get_data()))
    except UnicodeDecodeError as error:
        raise Problem("malformed", f"The body is not UTF-8: {error.reason} at byte {error.start}.") from None
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
    errors = list(_flatten(messages))[:MOST_ERRORS]
    detail = "; ".join(f"{one['field']}: {one['message']}" if one["field"] else one["message"] for one in errors[:3])
    return Problem("invalid", detail, errors=errors)


def _flatten(messages: Mapping[Any, Any], field: str = "", place: Optional[int] = None) -> Iterator[dict[str, Any]]:
    """Turn marshmallow's nested messages into a list of fields, places and messages."""
    for name, nested in messages.items():
        where = field if isinstance(name, int) or name == "_schema" else f"{field}.{name}" if field else str(name)
        at = name if isinstance(name, int) else place
        if isinstance(nested, Mapping):
            yield from _flatten(nested, where, at)
        else:
            yield from ({"field": where[:60], "place": at, "message": str(text)} for text in nested)


def answer(value: Any, status: int = 200, headers: Optional[Mapping[str, str]] = None) -> Response:
    response = Response(json.dumps(value) + "\n", status, content_type=JSON)
    response.headers.extend(headers or {})
    return response
