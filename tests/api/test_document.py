"""The OpenAPI document: valid, complete, true to the responses, and shown to users."""

from __future__ import annotations

import contextvars
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Callable

import pytest
from flask import Flask
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable

from tests.api.conftest import API, make_program
from tests.conftest import opened
from tests.console.conftest import Browser, make_app
from tests.factories import make_attempt, make_job, make_queue, make_supervisor, make_worker
from webapp.accounts.tokens import may
from webapp.api import document, gate
from webapp.api.problems import KINDS
from webapp.config import CHECKOUT, Config
from webapp.db.models import SCOPES
from webapp.jobs.flow import limits

KNOWN = {
    "job_id": "a-dead",
    "name": "mail",
    "key": "max_retries",
    "worker_id": "w1",
    "supervisor_id": "s1",
    "act_id": 1,
    "delivery_id": 1,
    "group": "exit:1",
    "limit": "db",
}


@pytest.fixture
def app(config: Config) -> Iterator[Flask]:
    app = make_app(config)
    app.extensions[gate.BUCKETS] = gate.Buckets(burst=1_000_000)
    yield from opened(app)


def operations(described: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in described["paths"].items():
        for method, operation in item.items():
            if method in {"get", "post", "put", "delete"}:
                yield path, method, operation


def test_the_openapi_document_is_valid_and_readable_with_any_token(app: Flask) -> None:
    from openapi_spec_validator import OpenAPIV31SpecValidator

    response = make_program(app, "read")("GET", "/openapi.json")
    described = response.get_json()
    assert described["openapi"] == "3.1.0"
    OpenAPIV31SpecValidator(described).validate()
    assert app.test_client().get(f"{API}/openapi.json").status_code == 401


def test_every_operation_is_fully_described(app: Flask) -> None:
    found = list(operations(document()))
    routed = {
        (rule.endpoint, method)
        for rule in app.url_map.iter_rules()
        if rule.rule.startswith(API)
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert len(found) == len(routed) > 25
    assert len({operation["operationId"] for _, _, operation in found}) == len(found)
    for path, method, operation in found:
        assert operation["summary"].endswith("."), path
        assert len(operation["tags"]) == 1
        assert operation["security"][0]["token"][0] in SCOPES
        parameters = operation["parameters"]
        assert len({(one["in"], one["name"]) for one in parameters}) == len(parameters)
        assert {one["name"] for one in parameters if one["in"] == "path"} == set(re.findall(r"{(\w+)}", path))
        assert all(one["description"] for one in parameters)
        if "requestBody" in operation:
            assert operation["requestBody"]["content"]["application/json"]["example"]
        answers = set(operation["responses"])
        assert {"400", "401", "403", "406", "429", "500", "503"} <= answers, path
        assert "404" in answers or "{" not in path
        assert ({"413", "415", "422"} <= answers) == (method in {"post", "put"})


def test_every_refusal_is_a_problem(app: Flask) -> None:
    responses = document()["components"]["responses"]
    assert {int(name[len("Problem") :]) for name in responses} == {kind.status for kind in KINDS.values()}
    for response in responses.values():
        assert list(response["content"]) == ["application/problem+json"]


def test_the_page_shows_every_request_shape_and_problem_to_any_role(
    app: Flask, sign_in_to: Callable[[Flask, str], Browser]
) -> None:
    assert app.test_client().get("/api-docs").status_code == 303
    page = sign_in_to(app, "viewer").get("/api-docs")
    text = page.get_data(as_text=True)
    assert page.status_code == 200
    for path, _, operation in operations(document()):
        assert f'id="{operation["operationId"]}"' in text
        assert path in text
    for name in KINDS:
        assert f'<tr id="{name}">' in text
    assert "curl -X POST http://localhost/api/v1/jobs" in text


def test_workers_and_commands_do_not_import_the_api_description() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from worker.supervisor import supervisor\n"
        "from worker.maintenance import process\n"
        "from webapp.commands import enqueue, status, queue, config, worker, dlq, accounts, admin\n"
        "from webapp.web import serializers\n"
        "no = ('webapp.api', 'marshmallow', 'apispec')\n"
        "print([name for name in sys.modules if name.startswith(no)])"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(CHECKOUT)], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


@pytest.mark.parametrize(
    ("scope", "most"), [("admin", 1), *(pytest.param(scope, 4, marks=pytest.mark.full) for scope in SCOPES)]
)
def test_generated_requests_get_responses_that_match_the_document(app: Flask, scope: str, most: int) -> None:
    """schemathesis makes requests that fit the document and such that do not: none breaks us, none is taken amiss."""
    from schemathesis.checks import not_a_server_error
    from schemathesis.openapi import from_wsgi
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        negative_data_rejection,
        response_headers_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

    for state in ("dead", "processing", "scheduled", "completed"):
        make_attempt(make_job(state, id=f"a-{state}"), output=b"some output\n")
    make_queue("mail")
    limits.set_limit("db", 2, None, None, "person:ana")
    make_supervisor(id="s1")
    make_worker(id="w1", supervisor_id="s1")
    program = make_program(app, scope)
    schema: Any = from_wsgi(f"{API}/openapi.json", app, headers=program.headers)
    checks = [
        not_a_server_error,
        content_type_conformance,
        negative_data_rejection,
        response_headers_conformance,
        response_schema_conformance,
        status_code_conformance,
    ]
    headers = {**program.headers, "Accept-Encoding": "identity"}  # its client asks for more than it can read
    schema.config.generation.update(with_security_parameters=False)  # the token that is shown is a good one
    seen = set()
    for result in schema.get_all_operations():
        operation = result.ok()
        allowed = may(scope, operation.definition.raw["security"][0]["token"][0])
        for case in cases(operation, most if allowed else 2):
            # In a context of its own: inside the pushed one Flask would share `g` between requests.
            response = contextvars.Context().run(case.call, headers=headers)
            seen.add(response.status_code)
            no_route = response.status_code == 404 and {"act_id", "delivery_id"} & {*case.path_parameters}  # no number
            assert allowed or no_route or response.status_code == 403
            case.validate_response(response, checks=checks)
    assert 200 in seen
    assert 422 in seen


def cases(operation: Any, most: int) -> list[Any]:
    """Requests for one operation: that fit its description, half of them about what is there, and that do not fit."""
    from schemathesis import GenerationMode

    found = drawn(operation.as_strategy(generation_mode=GenerationMode.POSITIVE), most)
    for case in found[::2]:
        case.path_parameters = {name: KNOWN[name] for name in case.path_parameters}
    if operation.body or operation.query or operation.path_parameters:
        with suppress(Unsatisfiable):  # where a setting's name stands, any text fits
            found += drawn(operation.as_strategy(generation_mode=GenerationMode.NEGATIVE), most)
    return found


def drawn(strategy: Any, most: int) -> list[Any]:
    found = []

    @settings(
        max_examples=most, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(case=strategy)
    def draw(case: Any) -> None:
        found.append(case)

    draw()
    return found
