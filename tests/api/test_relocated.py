"""After a move, writes get their own kind of problem, and reads still work."""

from __future__ import annotations

from pathlib import Path

from flask import Flask

from tests.admin.move.moves import go
from tests.api.conftest import Program
from tests.factories import make_job
from webapp.config import Config


def test_a_write_to_a_moved_queue_names_the_new_one(whole: Flask, admin: Program, home: Path, tmp_path: Path) -> None:
    make_job(id="old")
    target = Config(home, f"sqlite:///{tmp_path}/moved.db", None)
    go(target)
    for sent in (
        admin("POST", "/jobs", {"command": "true"}),
        admin("POST", "/jobs", {"command": "true"}, Idempotency_Key="once"),
        admin("POST", "/jobs/old/cancel"),
        admin("PUT", "/config/backoff_base", {"value": 3}),
    ):
        assert sent.status_code == 503
        assert sent.content_type == "application/problem+json"
        problem = sent.get_json(force=True)
        assert problem["type"] == "/api-docs#moved"
        assert problem["detail"].startswith(f"this queue was moved to {target.database_url} on ")
        assert sent.headers["Retry-After"] == "60"
    assert admin("GET", "/jobs/old").status_code == 200
