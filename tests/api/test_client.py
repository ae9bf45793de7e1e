"""The examples of docs/api.md for programs work: against a real server, with a worker behind it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
from flask import Flask
from werkzeug.serving import make_server

from tests.api.conftest import API
from tests.conftest import opened
from tests.console.conftest import make_app
from tests.deadline import DEADLINE
from tests.factories import make_job
from webapp.accounts import tokens
from webapp.api import document
from webapp.config import CHECKOUT, Config
from webapp.db.engines import writing
from webapp.db.models import Job

GUIDE = (CHECKOUT / "docs" / "api.md").read_text()


@pytest.fixture
def app(config: Config) -> Iterator[Flask]:
    yield from opened(make_app(config))


@pytest.fixture
def server(app: Flask) -> Iterator[str]:
    live = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=live.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{live.server_port}"
    live.shutdown()
    thread.join(DEADLINE)


def client(folder: Path) -> Path:
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    path = folder / "client.py"
    path.write_text(code)
    return path


def run(path: Path, server: str, token: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "QUEUE_URL": server, "QUEUE_TOKEN": token}
    command = [sys.executable, *(arguments or (str(path),))]
    return subprocess.run(
        command, env=environment, cwd=path.parent, capture_output=True, text=True, timeout=DEADLINE, check=False
    )


def test_the_python_client_submits_a_job_and_waits_for_its_end(
    server: str, tmp_path: Path, eventually: Callable[..., Any]
) -> None:
    token, _ = tokens.make("client", "submit", 1, "person:ana")
    ran: list[subprocess.CompletedProcess[str]] = []
    thread = threading.Thread(target=lambda: ran.append(run(client(tmp_path), server, token)))
    thread.start()

    def completed() -> bool:
        from sqlalchemy import select

        with writing() as session:
            job = session.scalar(select(Job))
            if job is not None:  # as a worker would leave it
                job.state, job.finished_at = "completed", job.created_at
            return job is not None

    eventually(completed)
    thread.join(DEADLINE)
    (done,) = ran
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"\S+ completed\n", done.stdout)


def test_the_python_client_shows_the_message_of_the_server(server: str, tmp_path: Path) -> None:
    make_job("dead", id="job1")
    token, _ = tokens.make("client", "submit", 1, "person:ana")
    client(tmp_path)
    told = run(tmp_path / "client.py", server, token, "-c",
               "from client import call; call('POST', '/jobs', {'comand': 'x'})")  # fmt: skip
    assert "RuntimeError: Invalid request: command: is missing" in told.stderr
    wrong = run(tmp_path / "client.py", server, "qctl_wrong", "-c", "from client import call; call('GET', '/status')")
    assert "RuntimeError: Invalid token" in wrong.stderr


def test_every_url_in_the_guide_exists_in_the_api(app: Flask) -> None:
    patterns = [re.sub(r"\{\w+\}", "[^/]+", path) for path in document()["paths"]]
    found = re.findall(rf"{API}(/[\w./-]*)", GUIDE)
    assert len(found) > 8
    for path in found:
        assert any(re.fullmatch(pattern, API + path) for pattern in patterns), path
