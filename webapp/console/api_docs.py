"""The API docs page: the server's OpenAPI document, with an example for each endpoint."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any, NamedTuple

from flask import Blueprint, current_app
from flask.typing import ResponseReturnValue

from webapp.accounts import tokens
from webapp.console.frame import htmx
from webapp.db.models import SCOPES
from webapp.web.request_info import below_root, requested_origin

pages = Blueprint("api_docs", __name__)


class Field(NamedTuple):
    """A table row: a parameter, or a field of a body."""

    name: str
    kind: str
    about: str
    required: bool = False


@pages.get("/api-docs")
def show() -> ResponseReturnValue:
    api = current_app.extensions["queuectl_api"]
    described = api.document()
    operations = [_operation(described, path, method) for path, item in described["paths"].items() for method in item]
    groups = [(tag, [one for one in operations if tag["name"] in one["tags"]]) for tag in described["tags"]]
    return htmx.form_page(
        "api_docs/page.html",
        groups=groups,
        shapes=[(name, _members(described, one)) for name, one in sorted(described["components"]["schemas"].items())],
        kinds=api.kinds,
        scopes=[(name, tokens.MEANINGS[name]) for name in SCOPES],
        first=_curl(described, "/api/v1/jobs", "post"),
    )


def _operation(described: Mapping[str, Any], path: str, method: str) -> dict[str, Any]:
    """One request of the document, with what the page shows in its own way."""
    operation = described["paths"][path][method]
    responses = operation["responses"]
    body = operation["requestBody"]["content"]["application/json"]["schema"] if "requestBody" in operation else {}
    return {
        **operation,
        "path": path,
        "method": method.upper(),
        "parameters": [_parameter(one) for one in operation["parameters"]],
        "body": _members(described, body),
        "answers": [
            (status, one["description"], _shape_of(one)) for status, one in responses.items() if "$ref" not in one
        ],
        "refusals": [status for status, one in responses.items() if "$ref" in one],
        "curl": _curl(described, path, method),
    }


def _parameter(one: Mapping[str, Any]) -> Field:
    where = "" if one["in"] == "query" else f" ({one['in']})"
    return Field(one["name"] + where, _kind(one["schema"]), one.get("description", ""), one.get("required", False))


def _members(described: Mapping[str, Any], schema: Mapping[str, Any]) -> list[Field]:
    """The fields of a schema. Optional fields may also be null, so that is not shown."""
    if "oneOf" in schema:
        schema = schema["oneOf"][-1]
    if "$ref" in schema:
        schema = described["components"]["schemas"][_name(schema["$ref"])]
    required = schema.get("required", [])
    fields = []
    for name, one in schema.get("properties", {}).items():
        kind = _kind(one) if name in required else _kind(one).replace(" or null", "")
        fields.append(Field(name, kind, one.get("description", ""), name in required))
    return fields


def _kind(schema: Mapping[str, Any]) -> str:
    """A JSON schema as short text: 'integer, 1 to 500', 'one of run, quiet, stop', 'list of Job'."""
    if "$ref" in schema:
        return _name(schema["$ref"])
    if "enum" in schema:
        return "one of " + ", ".join(str(value) for value in schema["enum"] if value is not None)
    kinds = schema.get("type", "any")
    names = kinds if isinstance(kinds, list) else [kinds]
    text = " or ".join(f"list of {_kind(schema['items'])}" if one == "array" else one for one in names)
    low, high = schema.get("minimum"), schema.get("maximum")
    return f"{text}, {low:,} to {high:,}" if low is not None and high is not None else text


def _shape_of(response: Mapping[str, Any]) -> str:
    for kind, content in response.get("content", {}).items():
        schema = content.get("schema", {})
        either = schema.get("oneOf", [schema])
        names = [_name(one["$ref"]) for one in either if "$ref" in one]
        return " or ".join(names) or ("bytes" if kind != "application/json" else "")
    return ""


def _name(ref: str) -> str:
    return ref.rsplit("/", 1)[1]


def _curl(described: Mapping[str, Any], path: str, method: str) -> str:
    """A request that can be typed in, with the examples of the document."""
    operation = described["paths"][path][method]
    address = path.format_map({one["name"]: one.get("example") for one in operation["parameters"]})
    lines = [
        f"curl {f'-X {method.upper()} ' if method != 'get' else ''}{requested_origin()}{below_root(address)}",
        '-H "Authorization: Bearer $TOKEN"',
    ]
    if "requestBody" in operation:
        body = json.dumps(operation["requestBody"]["content"]["application/json"]["example"])
        lines += ["-H 'Content-Type: application/json'", f"-d {shlex.quote(body)}"]
    return " \\\n  ".join(lines)
