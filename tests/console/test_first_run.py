"""The first run: three steps while there is no job, a token with the lines to use it, and the demo as a tour."""

from __future__ import annotations

import json
import re

import pytest
from flask import Flask
from sqlalchemy import select

from tests.console.conftest import Browser
from tests.console.test_sessions import expire_confirmation
from tests.factories import change_job, make_job
from webapp.accounts import users
from webapp.db.engines import reading
from webapp.db.models import Job, Token
from webapp.lib import clock


def jobs() -> dict[str, Job]:
    with reading() as session:
        return {job.id.rpartition("-")[0]: job for job in session.scalars(select(Job).order_by(Job.seq))}


def test_the_steps_are_there_until_there_is_a_job(admin: Browser, viewer: Browser) -> None:
    page = admin.get("/").text
    assert "Run a test job" in page
    assert 'href="/people/new"' in page
    seen = viewer.get("/").text
    assert "Get started" in seen
    assert 'formaction="/demo' not in seen
    admin.post("/demo/tour")
    assert "Back to the demo" in admin.get("/").text
    watched = admin.post("/demo/job").headers["Location"]
    assert re.fullmatch(r"/job/[\w-]+\?watch=1#output", watched)
    assert "Get started" not in admin.get("/").text


def test_a_token_is_shown_once_with_lines_that_work(console: Flask, admin: Browser) -> None:
    page = admin.post("/tokens/first").text
    secret = re.findall(r"qctl_[\w-]+", page)
    assert len(secret) == 2
    assert len(set(secret)) == 1
    assert "curl -X POST http://localhost/api/v1/jobs" in page
    python = re.search(r'id="line-python"[^>]*>(.*?)</pre>', page, re.DOTALL)
    assert python is not None
    compile(python[1].replace("&#34;", '"'), "line", "exec")
    body = re.search(r"-d &#39;(.*?)&#39;|-d '(.*?)'", page)
    assert body is not None
    sent = json.loads(next(part for part in body.groups() if part).replace("&#34;", '"'))
    headers = {"Authorization": f"Bearer {secret[0]}"}
    assert console.test_client().post("/api/v1/jobs", json=sent, headers=headers).status_code == 201
    with reading() as session:
        token = session.scalars(select(Token)).one()
    assert (token.scope, token.expires_at is not None) == ("submit", True)
    expire_confirmation()
    assert admin.post("/tokens/first").headers["Location"].startswith("/reauth?next=")


@pytest.mark.postgresql
def test_the_tour_shows_where_each_job_is_and_clear_removes_only_the_demo(operator: Browser) -> None:
    place = operator.post("/demo/tour").headers["Location"]
    assert re.fullmatch(r"/batch/demo-\w+\?watch=1", place)
    made = jobs()
    change_job(made["demo-succeeds"].id, state="completed", attempts=1, finished_at=clock.now())
    change_job(made["demo-retries"].id, state="failed", attempts=1, failures=1)
    running = {"state": "processing", "token": "t", "worker_id": "w1", "started_at": clock.now()}
    change_job(made["demo-dies"].id, attempts=2, **running)
    page = operator.get(place).text
    current = re.findall(r'id="tour-(\w+)".*?class="now" aria-current="step"><span class="badge (\w+)', page, re.DOTALL)
    assert current == [("succeeds", "completed"), ("retries", "failed"), ("dies", "processing")]
    make_job("dead", id="mine")
    batch = place.partition("?")[0]
    asked = operator.post(f"{batch}/clear")
    assert asked.headers["Location"] == batch
    assert "1 demo job still stopping" in operator.get(batch).text
    over = {"state": "cancelled", "token": None, "worker_id": None, "cancel_requested_at": None}
    change_job(made["demo-dies"].id, finished_at=clock.now(), **over)
    assert operator.post(f"{batch}/clear").headers["Location"] == "/"
    assert list(jobs()) == [""], "only the job that is no part of the demo"
    make_job("pending", id="other", batch="0" * 32 + "x1")
    assert operator.post(f"/batch/{'0' * 32}x1/clear").status_code == 404


def test_the_set_up_page_shows_all_errors_together_and_keeps_what_was_typed(anonymous: Browser) -> None:
    token = users.new_setup_link()
    page = anonymous.get(f"/setup/{token}").text
    assert "1 to 64 characters of A-Z a-z 0-9 . _ @ -" in page
    assert 'data-show="password"' in page
    wrong = anonymous.post(f"/setup/{token}", {"name": "ana b", "password": "short", "again": "other"})
    assert wrong.status_code == 422
    assert "Fix these 3 fields:" in wrong.text
    assert 'value="ana b"' in wrong.text
    assert 'value="short"' not in wrong.text
    good = "a long enough secret"
    kept = anonymous.post(f"/setup/{token}", {"name": "ana b", "password": good, "again": good})
    assert kept.text.count(f'value="{good}"') == 2
    spent = anonymous.post("/setup/none", {"name": "ana b", "password": good, "again": good})
    assert spent.status_code == 404
