"""The gate denies by default: by route, method and role, and by the origin of a request."""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Callable, Optional

import pytest
from flask import Flask
from flask.ctx import RequestContext
from sqlalchemy import update

from tests.console.conftest import COOKIE, PARTIAL, Browser, Client
from tests.factories import make_job, make_queue, make_worker
from webapp import create_app
from webapp.accounts import sessions, users
from webapp.api import Api
from webapp.config import Config, ConfigError
from webapp.console import Console
from webapp.console.frame.face import PUBLIC, SAFE
from webapp.core.storage.locks import Busy
from webapp.db.engines import reading, writing
from webapp.db.models import ROLES, UserSession
from webapp.jobs import actions, job_detail
from webapp.lib import clock
from webapp.web import faces
from webapp.web.gate import check_routes
from webapp.web.request_info import CONNECTED_TO, is_known_host, is_own_url, local_path
from webapp.web.secret_key import secret_key

FILLED = {"job_id": "job1", "verb_path": "requeue", "key": "max_retries", "name": "default", "worker_id": "w1",
          "supervisor_id": "s1", "wish": "quiet", "group": "exit:1", "act_id": "1", "view_id": "1",
          "token": "none", "what": "tour", "due": "1", "delivery_id": "1", "filename": "app.css",
          "pattern": "true"}  # fmt: skip
OPERATORS = {"submit.new", "submit.create", "acts.on_one", "acts.on_many", "queues.pause", "queues.resume",
             "queues.remove", "activity.undo", "activity.stop", "activity.canary", "dead_letters.describe",
             "dead_letters.acknowledge", "dead_letters.reopen", "dead_letters.on_group", "schedules.pause",
             "schedules.resume", "schedules.run", "schedules.run_fires", "notifications.send_again", "channels.test",
             "channels.drop_backlog", "rules.mute", "rules.unmute", "job.watch", "job.unwatch",
             "job.edit", "job.save", "job.reveal",
             "batches.close", "batches.requeue_dead", "batches.cancel", "acts.cancel_below",
             "submit.start_demo", "submit.clear_demo"}  # fmt: skip
ADMINS = {"config.change", "config.check", "config.revert", "workers.wish_of", "workers.scale",
          "people.index", "people.new", "people.add", "people.show", "people.set_role", "people.set_password",
          "people.disable", "people.enable", "people.end_sessions",
          "tokens.index", "tokens.new", "tokens.make", "tokens.make_first", "tokens.revoke",
          "audit.index", "audit.export",
          "schedules.new", "schedules.add", "schedules.edit", "schedules.change", "schedules.remove",
          "notifications.start", "notifications.begin", "channels.new", "channels.add", "channels.edit",
          "channels.change", "channels.ask_to_rotate", "channels.rotate", "channels.remove", "rules.new",
          "rules.add", "rules.edit", "rules.change", "rules.remove",
          "limits.new", "limits.add", "limits.edit", "limits.change", "limits.remove",
          "retry_rules.change"}  # fmt: skip


def routes(app: Flask) -> list[tuple[str, str, str]]:
    """Every page endpoint with each of its methods and a URL that reaches it. tests/api covers the API."""
    found = []
    for rule in app.url_map.iter_rules():
        if faces.face_of(app, rule.rule).name != "console":
            continue
        url = re.sub(r"<(?:[^:<>]+:)?(\w+)>", lambda match: FILLED[str(match[1])], rule.rule)
        found += [(rule.endpoint, method, url) for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"})]
    return found


def test_without_sign_in_only_public_routes_are_reachable(console: Flask, anonymous: Browser) -> None:
    make_job("dead", id="job1")
    anonymous.get("/login")
    for endpoint, method, url in routes(console):
        response = anonymous.client.open(url, method=method, data={"csrf_token": anonymous.token})
        if endpoint in PUBLIC:
            assert response.status_code in {200, 404, 422}, (method, url)
        elif method in SAFE:
            assert response.status_code == 303, (method, url)
            assert response.headers["Location"].startswith("/login"), (method, url)
        else:
            assert response.status_code == 401, (method, url)


@pytest.mark.parametrize("role", ["viewer", "operator", "admin"])
def test_each_role_reaches_only_its_own_routes(console: Flask, sign_in: Callable[[str], Browser], role: str) -> None:
    make_job("dead", id="job1")
    make_worker(id="w1")
    browser = sign_in(role)
    browser.get("/account")
    for endpoint, method, url in routes(console):
        if endpoint == "sessions.log_out":
            continue
        needed = "admin" if endpoint in ADMINS else "operator" if endpoint in OPERATORS else "viewer"
        allowed = ROLES.index(role) >= ROLES.index(needed)
        response = browser.client.open(url, method=method, data={"csrf_token": browser.token})
        assert (response.status_code != 403) is allowed, (method, url, response.status_code)
        if not allowed:
            told = f"This needs the role {needed}. Your role is {role}. An admin can change it"
            assert told in response.text, (method, url)


def test_pages_hide_what_the_role_does_not_allow(viewer: Browser) -> None:
    make_job("dead", id="job1")
    make_worker(id="w1")
    make_queue("mail")
    for url in (
        "/",
        "/jobs",
        "/dead",
        "/dead/exit:1",
        "/jobs?q=job1",
        "/job/job1",
        "/workers",
        "/queues",
        "/limits",
        "/config/max_retries",
    ):
        text = viewer.get(url).get_data(as_text=True)
        assert re.findall(r'formaction="([^"]*)"', text) == ["/account", "/logout"], url
        assert 'type="checkbox" form="bulk"' not in text, url
        assert 'href="/submit' not in text, url


def test_a_writing_route_without_a_role_stops_the_start(console: Flask) -> None:
    app = Flask(__name__)
    faces.register(app, [Api(), Console()])
    app.add_url_rule("/open", "open", lambda: "", methods=["POST"])
    with pytest.raises(RuntimeError, match="open takes POST but names no role"):
        check_routes(app)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "localhost.", "[::2]", "a b", "[::1"])
def test_an_unknown_host_is_refused_with_the_name_of_the_setting(anonymous: Browser, host: str) -> None:
    response = anonymous.client.get("/login", headers={"Host": host})
    allowed = host == "localhost."
    assert (response.status_code == 400) is not allowed
    if not allowed:
        assert b"QUEUECTL_PUBLIC_URL" in response.data
        assert response.mimetype == "text/plain"


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:9", "LOCALHOST:1"])
def test_the_local_host_is_accepted_on_any_port(anonymous: Browser, host: str) -> None:
    assert anonymous.client.get("/login", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    ("connected_to", "host", "served"),
    [
        ("10.0.0.5", "10.0.0.5:8000", True),
        ("10.0.0.5", "10.0.0.5", True),
        ("::ffff:10.0.0.5", "10.0.0.5:8000", True),
        ("10.0.0.5", "[::ffff:10.0.0.5]", True),
        ("10.0.0.5", "[::ffff:a00:5]", True),
        ("2001:db8::5", "[2001:DB8:0:0::5]:8000", True),
        ("fe80::5%eth0", "[fe80::5]:8000", True),
        ("10.0.0.5", "10.0.0.6:8000", False),
        ("10.0.0.5", "10.0.0.5.evil.example", False),
        ("10.0.0.5", "evil.example:8000", False),
        ("10.0.0.5", "10.0.0.5@evil.example", False),
        ("10.0.0.5", "evil@10.0.0.5", False),
        ("10.0.0.5", "010.0.0.5", False),
        ("10.0.0.5", "10.0.0.5,evil.example", False),
        ("2001:db8::5", "2001:db8::5", False),
        ("", "none", False),
    ],
)
def test_the_address_of_the_connection_is_a_known_host(home: Path, connected_to: str, host: str, served: bool) -> None:
    with bare_request(home, {"HTTP_HOST": host, CONNECTED_TO: lambda: (connected_to, 8000)}):
        assert is_known_host() is served


@pytest.mark.parametrize(("public_url", "served"), [("https://q.example", False), ("http://q.example", True)])
def test_a_host_address_does_not_bypass_https(home: Path, public_url: str, served: bool) -> None:
    environ: dict[str, object] = {"HTTP_HOST": "10.0.0.5:8000", CONNECTED_TO: lambda: ("10.0.0.5", 8000)}
    with bare_request(home, environ, public_url):
        assert is_known_host() is served


def test_a_closed_connection_has_no_address(home: Path) -> None:
    def getsockname() -> None:
        raise OSError(9, "Bad file descriptor")

    with bare_request(home, {"HTTP_HOST": "10.0.0.5", CONNECTED_TO: getsockname}):
        assert not is_known_host()


def test_the_gate_reads_the_address_of_the_connection(anonymous: Browser) -> None:
    environ = {"HTTP_HOST": "10.0.0.5:8000", CONNECTED_TO: lambda: ("10.0.0.5", 8000)}
    assert anonymous.client.get("/login", environ_overrides=environ).status_code == 200


def bare_request(home: Path, environ: dict[str, object], public_url: Optional[str] = None) -> RequestContext:
    app = Flask(__name__)
    app.extensions["queuectl_config"] = Config(home=home, database_url=None, public_url=public_url)
    return app.test_request_context(environ_overrides=environ)


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:9999"},
        {"Origin": "http://["},
    ],
)
def test_a_write_from_another_site_is_refused_even_with_a_valid_token(
    operator: Browser, headers: dict[str, str]
) -> None:
    make_job("dead", id="job1")
    assert operator.post("/job/job1/requeue", headers=headers).status_code == 403
    assert state_of("job1") == "dead"


@pytest.mark.parametrize(
    ("public_url", "host", "url", "own"),
    [
        (
            "https://q.example:8443/queue",
            "q.example",
            "https://q.example:8443",
            True,
        ),  # a proxy passes Host without the port
        ("https://q.example:8443/queue", "127.0.0.1:8000", "https://q.example:8443", True),  # or its own Host
        ("https://q.example:8443/queue", "127.0.0.1:8000", "https://q.example:8443/queue/jobs", True),  # a Referer
        ("https://q.example:8443", "q.example", "https://q.example", False),
        ("https://q.example", "q.example:8443", "https://q.example:8443", True),
        ("https://q.example", "q.example", "http://q.example", False),
        ("https://q.example", "127.0.0.1:8000", "http://q.example", False),
        ("https://q.example", "127.0.0.1:8000", "http://127.0.0.1:8000", True),
        ("https://q.example", "127.0.0.1:8000", "https://q.example.evil.example", False),
        ("https://q.example", "127.0.0.1:8000", "https://q.example@evil.example", False),
        (None, "localhost:8443", "https://localhost:8443", True),  # HTTPS through a tunnel
        (None, "localhost:8000", "http://localhost", False),
        (None, "localhost", "null", False),
        (None, "localhost", "http://[", False),
        (None, "", "http://", False),
        (None, "", "", False),
    ],
)
def test_an_origin_is_compared_with_the_public_url_or_the_host(
    home: Path, public_url: Optional[str], host: str, url: str, own: bool
) -> None:
    with bare_request(home, {"HTTP_HOST": host}, public_url):
        assert is_own_url(url) is own


def test_a_refused_origin_is_explained_and_logged_once_a_minute(
    operator: Browser, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        answer = operator.post("/queues/default/pause", headers={"Origin": "https://q.example:8443"})
        assert answer.status_code == 403
        assert "headers are Origin &#39;https://q.example:8443&#39; and Host &#39;localhost&#39;" in answer.text
        assert "QUEUECTL_PUBLIC_URL" in answer.text
    (line,) = [one.getMessage() for one in caplog.records if "Origin" in one.getMessage()]
    assert "refused POST /queues/default/pause with Origin 'https://q.example:8443' and Host 'localhost'" in line


def test_a_refused_host_is_logged_once_a_minute_without_control_characters(
    anonymous: Browser, caplog: pytest.LogCaptureFixture
) -> None:
    for host in ("evil\x1b[31m.example", "another.example"):
        assert anonymous.client.get("/login", environ_overrides={"HTTP_HOST": host}).status_code == 400
    (line,) = [one.getMessage() for one in caplog.records if "Host" in one.getMessage()]
    assert r"the header Host 'evil\x1b[31m.example'" in line


def test_a_write_without_its_own_csrf_token_is_refused(sign_in: Callable[[str], Browser]) -> None:
    make_job("dead", id="job1")
    first = sign_in("operator")
    first.token = "made up"
    assert first.post("/job/job1/requeue").status_code == 400
    other = sign_in("admin")
    other.get("/account")
    first.token = other.token
    assert first.post("/job/job1/requeue").status_code == 400
    assert state_of("job1") == "dead"


def state_of(job_id: str) -> str:
    with reading() as session:
        job = job_detail.find(session, job_id)
        assert job is not None
        return job.state


@pytest.mark.parametrize("url", ["/login", "/", "/nowhere", "/static/app.css", "/static/none.css", "/healthz"])
def test_every_response_has_the_security_headers(anonymous: Browser, url: str) -> None:
    headers = anonymous.client.get(url).headers
    policy = headers["Content-Security-Policy"].split("; ")
    assert policy[0] == "default-src 'self'"
    assert {"base-uri 'none'", "form-action 'self'", "object-src 'none'", "frame-ancestors 'none'"} == set(policy[1:])
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"
    if "/static/" not in url:
        assert headers["Cache-Control"] == "no-store"


def test_no_template_contains_an_inline_style_or_script() -> None:
    for path in Path(__file__, "../../../templates").resolve().rglob("*.html"):
        text = path.read_text()
        assert not re.search(r'\sstyle=|<style|<script(?! src=)|\son\w+="|hx-on|javascript:|\|safe', text), path


def test_the_session_cookie_is_hidden_from_scripts_and_named_by_port(anonymous: Browser) -> None:
    cookie = anonymous.client.get("/login", base_url="http://localhost:8123").headers["Set-Cookie"]
    assert cookie.startswith("queuectl_8123=")
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert "Secure" not in cookie


def test_behind_https_the_cookie_is_secure_and_bound_to_its_host(home: Path) -> None:
    app = create_app(Config(home=home, database_url=None, public_url="https://queue.example.org"))
    app.test_client_class = Client
    response = app.test_client().get("/login", headers={"Host": "queue.example.org"})
    cookie = response.headers["Set-Cookie"]
    assert cookie.startswith("__Host-queuectl_443=")
    assert "; Secure" in cookie
    assert "max-age" in response.headers["Strict-Transport-Security"]


def test_a_new_password_ends_a_session_and_a_refresh_does_not_extend_it(operator: Browser) -> None:
    response = operator.get("/jobs", partial=True)
    assert "Set-Cookie" not in response.headers
    users.set_password("the-operator", "a new and longer secret", "rule:test")
    assert operator.get("/jobs", partial=True).status_code == 401
    assert operator.get("/jobs").headers["Location"] == "/login?next=/jobs"


@pytest.mark.parametrize(("column", "age"), [("created_at", sessions.LIFE), ("seen_at", sessions.IDLE)])
def test_a_session_ends_two_weeks_after_sign_in_and_a_day_after_its_last_use(
    operator: Browser, column: str, age: int
) -> None:
    assert operator.get("/jobs").status_code == 200
    with writing() as session:
        session.execute(update(UserSession).values({column: clock.now() - age - 1}))
    assert operator.get("/jobs").status_code == 303


def test_sign_out_ends_the_session_and_clears_the_browser_storage(operator: Browser) -> None:
    response = operator.post("/logout")
    assert response.headers["Clear-Site-Data"] == '"cache", "storage"'
    assert f"{COOKIE}=;" in response.headers["Set-Cookie"]
    assert operator.get("/jobs").status_code == 303


def test_sign_in_has_the_same_response_for_a_wrong_name_and_a_wrong_password(anonymous: Browser) -> None:
    users.add("ana", "a long enough secret", "viewer", "rule:test")
    anonymous.get("/login")
    answers = [anonymous.post("/login", {"name": name, "password": "wrong wrong wrong"}) for name in ("ana", "nobody")]
    texts = [
        re.sub(r'(name="csrf_token"|id="name" name="name") value="[^"]*"', r"\1", a.get_data(as_text=True))
        for a in answers
    ]
    assert [answer.status_code for answer in answers] == [422, 422]
    assert texts[0] == texts[1]


def test_sign_in_starts_a_new_session_and_redirects_to_a_local_page(anonymous: Browser) -> None:
    users.add("ana", "a long enough secret", "viewer", "rule:test")
    anonymous.get("/login")
    old = anonymous.token
    response = anonymous.post("/login", {"name": "ana", "password": "a long enough secret", "next": "//evil.example"})
    assert response.headers["Location"] == "/"
    anonymous.get("/account")
    assert anonymous.token != old


@pytest.mark.parametrize(
    "target",
    ["//evil.example", "/\\evil.example", "https://evil.example", "/\t/evil.example", "\\/x", "javascript:x",
     "/a\nb", "", "jobs", "/a\\b"],
)  # fmt: skip
def test_redirects_never_leave_the_console(target: str) -> None:
    with Flask(__name__).test_request_context():
        assert local_path(target, "/home") == "/home"


@pytest.mark.parametrize("target", ["/", "/jobs?state=dead&q=a%20b", "/job/a:b", "/job/a..b"])
def test_a_local_path_is_kept(target: str) -> None:
    with Flask(__name__).test_request_context():
        assert local_path(target, "/home") == target


@pytest.mark.parametrize(
    "target",
    ["/jobs", "/queueevil", "/queue/../other", "/queue/a/%2E%2e/../other", "/queue/.%2e/other", "//queue/jobs",
     "/queue/\\evil.example", "https://queue/queue/"],
)  # fmt: skip
def test_redirects_never_leave_the_path_of_the_public_url(target: str) -> None:
    with Flask(__name__).test_request_context(environ_overrides={"SCRIPT_NAME": "/queue"}):
        assert local_path(target, "/queue/") == "/queue/"
        assert local_path("/queue/jobs?q=..", "/queue/") == "/queue/jobs?q=.."


def test_only_a_post_uses_up_the_set_up_link(anonymous: Browser) -> None:
    token = users.new_setup_link()
    for _ in range(2):
        assert anonymous.get(f"/setup/{token}").status_code == 200
    assert anonymous.get("/setup/another").status_code == 404
    form = {"name": "ana", "password": "a long enough secret", "again": "a long enough secret"}
    assert anonymous.post(f"/setup/{token}", {**form, "again": "another"}).status_code == 422
    assert anonymous.post(f"/setup/{token}", form).status_code == 303
    assert anonymous.get("/config").status_code == 200
    assert anonymous.get(f"/setup/{token}").status_code == 404


def test_head_requests_to_sign_in_and_set_up_behave_like_get(anonymous: Browser) -> None:
    users.add("ana", "a long enough secret", "viewer", "person:test")
    token = users.new_setup_link()
    form = {"name": "ana", "password": "a long enough secret", "again": "a long enough secret"}
    for url in ("/login", f"/setup/{token}"):
        assert anonymous.client.head(url, data=form).status_code == 200
    assert anonymous.client.get("/jobs").status_code == 303


def test_the_secret_key_is_created_once_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "secret.key"
    key = secret_key(path)
    assert len(key) == 32
    assert secret_key(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_an_invalid_secret_key_is_refused_with_its_file_name(tmp_path: Path) -> None:
    path = tmp_path / "secret.key"
    path.write_bytes(b"short")
    with pytest.raises(ConfigError, match=r"secret\.key holds 5 bytes"):
        secret_key(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(ConfigError, match=r"cannot use the key .*secret\.key: Is a directory"):
        secret_key(path)


def test_a_fragment_without_a_session_gets_a_toast_and_no_redirect(anonymous: Browser) -> None:
    response = anonymous.client.get("/jobs", headers=PARTIAL)
    assert response.status_code == 401
    assert b'href="/login"' in response.data


def test_a_too_large_body_is_a_413_and_a_wrong_method_a_405(operator: Browser) -> None:
    assert operator.post("/submit", {"command": "x" * 1_100_000}).status_code == 413
    response = operator.client.get("/logout")
    assert response.status_code == 405
    assert "POST" in response.headers["Allow"]


def test_a_busy_database_is_a_503_with_advice_to_retry(operator: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*_: object) -> None:
        raise Busy("the database is busy")

    make_job("dead", id="job1")
    monkeypatch.setattr(actions, "apply", busy)
    response = operator.post("/job/job1/requeue")
    assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
    assert b"Try again in a moment" in response.data


def test_an_unexpected_error_is_logged_and_its_page_reveals_nothing(
    console: Flask, operator: Browser, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a secret detail")

    console.testing = False
    make_job("dead", id="job1")
    monkeypatch.setattr(actions, "apply", broken)
    response = operator.post("/job/job1/requeue")
    assert response.status_code == 500
    assert b"a secret detail" not in response.data
    assert "a secret detail" in caplog.text
