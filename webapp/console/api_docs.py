"""The API, for people: the OpenAPI document of this very server as a page, with an example of each request."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional

from flask import Blueprint, render_template
from flask.typing import ResponseReturnValue
from markupsafe import Markup

from webapp.accounts import tokens
from webapp.api.document import document
from webapp.api.problems import KINDS
from webapp.console.nav import nav_of
from webapp.db.engines import reading
from webapp.db.models import SCOPES
from webapp.web.request_info import requested_origin

pages = Blueprint("api_docs", __name__)

METHODS = ("get", "post", "put", "delete")
EXAMPLES: Mapping[str, Any] = {
    "JobRequest": {"command": "echo hello", "max_retries": 2},
    "batch": [{"command": "echo 1"}, {"command": "echo 2"}],
    "WhichJobs": {"ids": ["job1", "job2"]},
    "WhichDead": {"all": True},
    "GroupRequest": {"note": "The shop is down until noon.", "acknowledged": True},
    "WishRequest": {"wish": "quiet"},
    "ScaleRequest": {"workers": 3},
    "SettingRequest": {"value": 3},
}
IN_PATH = {"job_id": "job1", "name": "default", "key": "backoff_base", "group": "GROUP",
           "worker_id": "WORKER", "supervisor_id": "SUPERVISOR", "act_id": "1"}  # fmt: skip


@dataclass(frozen=True)
class Field:
    """One line of a table: a parameter, or a member of a body."""

    name: str
    kind: str
    about: str
    required: bool = False


@dataclass(frozen=True)
class Operation:
    """One request, as the page shows it. `answers` are (status, words, shape or '')."""

    id: str
    tag: str
    method: str
    path: str
    summary: str
    about: str
    scope: str
    parameters: list[Field]
    body: list[Field]
    answers: list[tuple[str, str, str]]
    refusals: list[str]
    curl: str


@pages.app_template_filter("coded")
def coded(text: str) -> Markup:
    """A text with what stands between backticks as code."""
    parts = text.split("`")
    return Markup("").join(Markup("<code>{}</code>").format(part) if i % 2 else part for i, part in enumerate(parts))


@pages.get("/api-docs")
def show() -> ResponseReturnValue:
    described = document()
    operations = _operations(described)
    groups = [(tag, [one for one in operations if one.tag == tag["name"]]) for tag in described["tags"]]
    with reading() as session:
        nav = nav_of(session)
    return render_template(
        "api_docs/page.html",
        nav=nav,
        groups=groups,
        shapes=_shapes(described),
        kinds=KINDS,
        scopes=[(name, tokens.MEANINGS[name]) for name in SCOPES],
        first=_curl("POST", "/api/v1/jobs", EXAMPLES["JobRequest"]),
    )


def _operations(described: Mapping[str, Any]) -> list[Operation]:
    return [
        _operation(described, path, method.upper(), item[method], item.get("parameters", []))
        for path, item in described["paths"].items()
        for method in METHODS
        if method in item
    ]


def _operation(
    described: Mapping[str, Any], path: str, method: str, told: Mapping[str, Any], shared: list[Any]
) -> Operation:
    body = told.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    answers = [
        (status, response["description"], _shape_of(response))
        for status, response in told["responses"].items()
        if "$ref" not in response
    ]
    return Operation(
        id=told["operationId"],
        tag=told["tags"][0],
        method=method,
        path=path,
        summary=told["summary"],
        about=told.get("description", ""),
        scope=told["security"][0]["token"][0],
        parameters=[_parameter(one) for one in [*shared, *told.get("parameters", [])]],
        body=_members(described, body) if body else [],
        answers=answers,
        refusals=[status for status, response in told["responses"].items() if "$ref" in response],
        curl=_curl(method, path, _example(body)),
    )


def _parameter(one: Mapping[str, Any]) -> Field:
    where = "" if one["in"] == "query" else f" ({one['in']})"
    return Field(one["name"] + where, _kind(one["schema"]), one.get("description", ""), one.get("required", False))


def _members(described: Mapping[str, Any], schema: Mapping[str, Any]) -> list[Field]:
    """The members of a shape. That one which may be left out may be null as well goes without saying."""
    if "oneOf" in schema:
        schema = schema["oneOf"][-1]
    if "$ref" in schema:
        schema = described["components"]["schemas"][_name(schema["$ref"])]
    required = schema.get("required", [])
    return [
        Field(
            name,
            _kind(one) if name in required else _kind(one).replace(" or null", ""),
            one.get("description", ""),
            name in required,
        )
        for name, one in schema.get("properties", {}).items()
    ]


def _shapes(described: Mapping[str, Any]) -> list[tuple[str, list[Field]]]:
    schemas = described["components"]["schemas"]
    return [(name, _members(described, schema)) for name, schema in sorted(schemas.items())]


def _kind(schema: Mapping[str, Any]) -> str:
    """A JSON schema in few words: 'integer, 1 to 500', 'one of run, quiet, stop', 'list of Job'."""
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


def _example(body: Optional[Mapping[str, Any]]) -> Any:
    if body is None:
        return None
    return EXAMPLES["batch"] if "oneOf" in body else EXAMPLES.get(_name(body.get("$ref", "/")))


def _curl(method: str, path: str, body: Any) -> str:
    for name, value in IN_PATH.items():
        path = path.replace("{" + name + "}", value)
    lines = [
        f"curl {'-X ' + method + ' ' if method != 'GET' else ''}{requested_origin()}{path}",
        '-H "Authorization: Bearer $TOKEN"',
    ]
    if body is not None:
        lines += ["-H 'Content-Type: application/json'", f"-d {shlex.quote(json.dumps(body))}"]
    return " \\\n  ".join(lines)
