"""The API needs a token of sufficient scope. Cookies do not open it, and tokens do not open pages."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import time_machine
from flask import Flask
from sqlalchemy import func, select

from tests.api.conftest import API, make_program
from tests.conftest import opened
from tests.console.conftest import make_app
from tests.factories import make_job, make_user, make_worker
from webapp.accounts import sessions, tokens
from webapp.accounts.login_throttle import FREE
from webapp.api import Api, gate
from webapp.api.gate import needed_scope
from webapp.config import Config
from webapp.console import Console
from webapp.db.engines import reading
from webapp.db.models import SCOPES, Audit, Throttle
from webapp.web import faces
from webapp.web.gate import check_routes

pytestmark = pytest.mark.usefixtures("own_clock")

FILLED = {"job_id": "job1", "name": "default", "key": "max_retries", "worker_id": "w1", "supervisor_id": "s1",
          "act_id": "1", "delivery_id": "1", "group": "exit:1", "limit": "db"}  # fmt: skip
# Said once more, by name: who changes a scope changes it here as well.
SUBMIT = {
    "api-jobs.submit_job",
    "api-batches.submit_jobs",
    "api-batches.create_batch",
    "api-batches.close_batch",
}
OPERATE = {
    "api-jobs.discard_job",
    *(f"api-acts.{verb}_job{many}" for verb in ("cancel", "requeue") for many in ("", "s")),
    "api-acts.cancel_jobs_below",
    "api-batches.requeue_batch",
    "api-batches.cancel_batch",
    "api-acts.run_job_now",
    "api-acts.edit_job",
    "api-acts.run_jobs_now",
    "api-acts.discard_jobs",
    "api-acts.undo_act",
    "api-acts.stop_act",
    "api-dead-letters.requeue_dead_letters",
    "api-dead-letters.requeue_one_first",
    "api-dead-letters.discard_dead_letters",
    "api-dead-letters.describe_group",
    "api-queues.pause_queue",
    "api-queues.resume_queue",
    "api-queues.remove_queue",
    "api-schedules.pause_schedule",
    "api-schedules.resume_schedule",
    "api-schedules.run_schedule",
    "api-schedules.run_fire",
    "api-channels.test_channel",
    "api-channels.drop_backlog",
    "api-notifications.mute_rule",
    "api-notifications.unmute_rule",
    "api-notifications.send_again",
    "api-notifications.watch_job",
    "api-notifications.unwatch_job",
}
ADMIN = {
    "api-config.set_setting",
    "api-config.reset_setting",
    "api-limits.set_limit",
    "api-queues.set_retry_rules",
    "api-limits.remove_limit",
    "api-workers.wish_of_worker",
    "api-workers.scale_supervisor",
    "api-schedules.add_schedule",
    "api-schedules.replace_schedule",
    "api-schedules.remove_schedule",
    *(f"api-channels.{verb}" for verb in ("add_channel", "replace_channel", "remove_channel", "rotate_secret")),
    *(f"api-notifications.{verb}_rule" for verb in ("add", "replace", "remove")),
}


@pytest.fixture
def app(config: Config) -> Iterator[Flask]:
    yield from opened(make_app(config))


def api_routes(app: Flask) -> list[tuple[str, str, str]]:
    found = []
    for rule in app.url_map.iter_rules():
        if rule.rule.startswith("/api/"):
            url = re.sub(r"<(?:[^:<>]+:)?(\w+)>", lambda match: FILLED[str(match[1])], rule.rule)
            found += [(rule.endpoint, method, url) for method in sorted(rule.methods or ())]
    assert len(found) > 40
    return found


def scope_of(endpoint: str) -> str:
    return (
        "admin"
        if endpoint in ADMIN
        else "operate"
        if endpoint in OPERATE
        else "submit"
        if endpoint in SUBMIT
        else "read"
    )


def test_every_route_of_the_api_needs_its_listed_scope(app: Flask) -> None:
    for endpoint, _, _ in api_routes(app):
        assert needed_scope(app, endpoint) == scope_of(endpoint), endpoint


def test_every_route_needs_a_token(app: Flask) -> None:
    make_job("dead", id="job1")
    client = app.test_client()
    for _, method, url in api_routes(app):
        for header in (None, "Basic abc", "Bearer", "Bearer ", "qctl_x", "Bearer qctl_wrong"):
            response = client.open(url, method=method, headers={"Authorization": header} if header else {})
            assert response.status_code in {401, 429}, (method, url, header)
            if response.status_code == 401:
                assert response.headers["WWW-Authenticate"].startswith("Bearer")
            assert response.mimetype == "application/problem+json"
            assert response.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("scope", SCOPES)
def test_a_scope_allows_only_its_own_routes(app: Flask, scope: str) -> None:
    make_job("dead", id="job1")
    make_worker(id="w1")
    program = make_program(app, scope)
    for endpoint, method, url in api_routes(app):
        response = program(method, url)
        allowed = tokens.may(scope, scope_of(endpoint))
        if method == "OPTIONS":  # of an address with several methods, the first one's scope is asked for
            continue
        assert (response.status_code != 403) is allowed, (method, url, response.status_code)
        assert response.status_code < 500, (method, url)
        if not allowed:
            assert response.get_json(silent=True) is None or response.get_json()["type"] == "/api-docs#scope"
            assert 'error="insufficient_scope"' in response.headers["WWW-Authenticate"]


def test_the_api_ignores_session_cookies(app: Flask) -> None:
    client = app.test_client()
    session_id = sessions.begin(make_user("ana", "admin"), "127.0.0.1", "a test")
    with client.session_transaction() as session:
        session["_user_id"] = session_id
    assert client.get("/config").status_code == 200
    for _, method, url in api_routes(app):
        response = client.open(url, method=method)
        assert response.status_code == 401, (method, url)
        assert "Set-Cookie" not in response.headers
        assert "Cookie" not in response.headers.get("Vary", "")


def test_a_token_does_not_open_pages(app: Flask) -> None:
    program = make_program(app, "admin")
    for rule in app.url_map.iter_rules():
        if faces.face_of(app, rule.rule).name != "api" and not rule.arguments and "GET" in (rule.methods or ()):
            bare = app.test_client().get(rule.rule)
            shown = app.test_client().get(rule.rule, headers=program.headers)
            assert (shown.status_code, shown.headers.get("Location")) == (
                bare.status_code, bare.headers.get("Location"),
            )  # fmt: skip


def test_a_route_without_a_scope_stops_the_start() -> None:
    app = Flask(__name__)
    faces.register(app, [Api(), Console()])
    app.add_url_rule("/api/v1/open", "open", lambda: "")
    with pytest.raises(RuntimeError, match="open at /api/v1/open"):
        check_routes(app)


def test_an_unknown_host_is_refused_with_the_name_of_the_setting(app: Flask) -> None:
    response = make_program(app, "read")("GET", "/status", Host="evil.example")
    assert response.status_code == 400
    assert b"QUEUECTL_PUBLIC_URL" in response.data


def test_an_expired_token_is_refused(app: Flask) -> None:
    program = make_program(app, "read", "another")
    tokens.revoke("another", "person:ana")
    assert program("GET", "/status").get_json()["type"] == "/api-docs#bad-token"
    with time_machine.travel(1_900_000_000, tick=False) as clock:
        program = make_program(app, "read")
        assert program("GET", "/status").status_code == 200
        clock.shift(31 * 86400)
        assert program("GET", "/status").status_code == 401


@time_machine.travel(1_900_000_000, tick=False)  # else a slow machine waits out the throttle
def test_invalid_tokens_are_throttled_and_a_valid_one_from_the_same_address_is_not(app: Flask) -> None:
    program, client = make_program(app, "read"), app.test_client()
    for _ in range(FREE["token"]):
        assert client.get(f"{API}/status", headers={"Authorization": "Bearer qctl_no"}).status_code == 401
    refused = client.get(f"{API}/status", headers={"Authorization": "Bearer qctl_no"})
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) >= 1
    with reading() as session:
        counted = session.scalar(select(Throttle.failures))
    assert client.get(f"{API}/status", headers={"Authorization": "Bearer qctl_no"}).status_code == 429
    with reading() as session:
        assert session.scalar(select(Throttle.failures)) == counted
    assert program("GET", "/status").status_code == 200


def test_a_valid_token_costs_one_write_per_minute(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    program = make_program(app, "read")
    program("GET", "/status")
    monkeypatch.setattr("webapp.accounts.tokens.writing", None)
    monkeypatch.setattr("webapp.api.gate.writing", None)
    monkeypatch.setattr("webapp.accounts.login_throttle.writing", None)
    assert program("GET", "/status").status_code == 200


def test_too_many_requests_get_a_429_with_the_time_to_wait(app: Flask) -> None:
    app.extensions[gate.BUCKETS] = gate.Buckets(rate=0.01, burst=3)
    program = make_program(app, "read")
    statuses = [program("GET", "/config").status_code for _ in range(4)]
    assert statuses == [200, 200, 200, 429]
    assert 1 <= int(program("GET", "/config").headers["Retry-After"]) <= 100


def test_a_token_bucket_refills_over_time() -> None:
    buckets = gate.Buckets(rate=2, burst=2)
    assert [buckets.take(1, 0.0) for _ in range(3)] == [0, 0, 0.5]
    assert buckets.take(2, 0.0) == 0
    assert buckets.take(1, 0.5) == 0
    assert buckets.take(1, 0.5) > 0


def test_refused_scopes_and_invalid_tokens_are_in_the_audit_trail(app: Flask) -> None:
    program = make_program(app, "read")
    program("DELETE", "/jobs/job1")
    app.test_client().get(f"{API}/status", headers={"Authorization": "Bearer qctl_no"})
    with reading() as session:
        rows = session.scalars(select(Audit).where(Audit.outcome == "refused").order_by(Audit.id)).all()
    assert [(row.actor, row.verb, row.face) for row in rows] == [
        ("token:the-read", "delete", "api"),
        ("anonymous", "use_token", "api"),
    ]


def test_the_audit_trail_names_the_token_of_a_write(app: Flask) -> None:
    make_job("dead", id="job1")
    make_program(app, "operate")("POST", "/jobs/job1/requeue")
    with reading() as session:
        row = session.scalars(select(Audit).where(Audit.verb == "requeue")).one()
        count = session.scalar(select(func.count()).select_from(Audit).where(Audit.subject == "job:job1"))
    assert (row.actor, row.subject, row.face, count) == ("token:the-operate", "job:job1", "api", 1)
