"""The three faces of one queue, each with the same methods."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import pytest
from flask import Flask

from tests.api.conftest import Program, make_program
from tests.commands import conftest as commands
from tests.commands.conftest import Cli
from tests.conftest import opened
from tests.console.conftest import Browser, make_app
from tests.factories import make_user
from webapp.accounts import sessions
from webapp.config import Config

cli = commands.cli
PROBLEM = re.compile(r'id="([a-z_]+)-problem">\s*([^<\s][^<]*)')
FORM_KEY = re.compile(r'name="form_key" value="([^"]+)"')


class Face(Protocol):
    """What a person or a program can ask for by any way in."""

    def submit(self, **fields: Any) -> str:
        """Try to submit a job. Returns what is said about its fields, '' when it was accepted."""

    def act(self, verb: str, job_id: str) -> bool:
        """Do something to one job. Returns whether it was done."""

    def search(self, words: str) -> list[str]:
        """The ids of the jobs found, the newest first."""


@dataclass
class ByConsole:
    browser: Browser

    def submit(self, **fields: Any) -> str:
        page = self.browser.get("/submit").get_data(as_text=True)
        found = FORM_KEY.search(page)
        assert found is not None
        form = {"form_key": found[1], **{name: typed(value) for name, value in fields.items()}}
        form["start"] = next((name for name in ("delay", "run_at") if name in fields), "now")
        answer = self.browser.post("/submit", form)
        if answer.status_code == 303:
            return ""
        assert answer.status_code == 422
        text = html.unescape(answer.get_data(as_text=True))
        return "\n".join(": ".join(problem) for problem in PROBLEM.findall(text))

    def act(self, verb: str, job_id: str) -> bool:
        answer = self.browser.post(f"/job/{job_id}/{verb}", {"confirmed": "1"}, partial=True)
        assert answer.status_code in {200, 409}
        return answer.status_code == 200

    def search(self, words: str) -> list[str]:
        text = self.browser.get("/jobs", query_string={"q": words}, follow_redirects=True).get_data(as_text=True)
        return re.findall(r'<span class="id">([^<]+)', text)


def typed(value: Any) -> str:
    """A value as a person types it into the form."""
    return "\n".join(f"{name}={text}" for name, text in value.items()) if isinstance(value, dict) else str(value)


@dataclass
class ByApi:
    program: Program

    def submit(self, **fields: Any) -> str:
        answer = self.program("POST", "/jobs", fields)
        if answer.status_code == 201:
            return ""
        assert answer.status_code == 422
        return "\n".join(f"{error['field']}: {error['message']}" for error in answer.get_json()["errors"])

    def act(self, verb: str, job_id: str) -> bool:
        if verb == "discard":
            answer = self.program("DELETE", f"/jobs/{job_id}")
        else:
            answer = self.program("POST", f"/jobs/{job_id}/{verb}")
        assert answer.status_code in {200, 202, 204, 409}
        return answer.status_code != 409

    def search(self, words: str) -> list[str]:
        answer = self.program.client.get("/api/v1/jobs", query_string={"q": words}, headers=self.program.headers)
        return [job["id"] for job in answer.get_json()["jobs"]]


@dataclass
class ByCommand:
    cli: Cli

    def submit(self, **fields: Any) -> str:
        done = self.cli("enqueue", json.dumps(fields))
        assert done.code in {0, 1, 3}
        return done.err if done.code else ""

    def act(self, verb: str, job_id: str) -> bool:
        words = {"requeue": ("dlq", "retry"), "discard": ("dlq", "discard")}.get(verb, (verb,))
        done = self.cli(*words, job_id)
        assert done.code in {0, 5}
        return done.code == 0

    def search(self, words: str) -> list[str]:
        return [job["id"] for job in self.cli("list", "--json", "--search", words).json]


@pytest.fixture
def whole(config: Config) -> Iterator[Flask]:
    yield from opened(make_app(config))


@pytest.fixture(params=["console", "api", "command"])
def face(request: pytest.FixtureRequest, whole: Flask) -> Face:
    """An operator's way in."""
    if request.param == "command":
        return ByCommand(request.getfixturevalue("cli"))
    if request.param == "api":
        return ByApi(make_program(whole, "operate"))
    client = whole.test_client()
    session_id = sessions.begin(make_user("ben", "operator"), "127.0.0.1", "a test")
    with client.session_transaction() as session:
        session["_user_id"] = session_id
        session["_fresh"] = True
    return ByConsole(Browser(client))
