"""What has broken consoles of this kind before, as requests, and the answer to each.

The numbers beside the headings are requirements of OWASP's ASVS 5.0, of level 1 and 2.
"""

from __future__ import annotations

import re
import shlex
import socket
import stat
import time
from urllib.parse import quote

import psutil
import pytest

from tests.deadline import DEADLINE
from tests.security.conftest import PASSWORD, Target

HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "{{7654321*1234567}}${7654321*1234567}<%= 7654321*1234567 %>",
    "<div hx-get=/logout hx-trigger=load>",
    "\x1b]8;;https://evil.example\x1b\\click\x1b]8;;\x1b\\",
    "\x1b]0;title\x07\x9b31m\x9d8;;x\x9c",
    "safe\u202egpj.exe",
    "line\nSet-Cookie: evil=1\n\n<html>",
    '=HYPERLINK("http://evil.example")',
)


# --- open by default, one forgotten route (Flower, Airflow, Ray, Cronicle, OliveTin)  8.2.1 8.3.1 13.4.5 ---


@pytest.mark.parametrize(
    "path",
    ["/", "/jobs", "/jobs?state=dead", "/job/x", "/job/x/output", "/submit", "/dead", "/workers", "/queues", "/config",
     "/config/lease", "/account", "/people", "/tokens", "/audit", "/audit.jsonl", "/api-docs", "/reauth",
     "//jobs", "/./jobs", "/static/../jobs", "/static/%2e%2e/jobs", "/login/../jobs", "/healthz/../jobs"],
)  # fmt: skip
def test_pages_need_a_session(target: Target, path: str) -> None:
    answer = target.stranger().send("GET", path)
    assert answer.status in {303, 308, 404}, answer.status
    if answer.status == 303:
        assert answer.headers["location"].startswith("/login")
    assert b"<table" not in answer.body


def test_source_files_are_not_served(target: Target) -> None:
    stranger = target.stranger()
    for path in ("/.env", "/.git/config", "/queue.db", "/secret.key", "/static/../manage.py", "/static/..%2fmanage.py",
                 "/static//etc/passwd", "/static/%2fetc/passwd", "/console", "/debug"):  # fmt: skip
        answer = stranger.send("GET", path)
        assert answer.status in {303, 308, 404}, path
        assert "python" not in answer.headers.get("server", "").lower()
        assert not re.search(rb"SECRET|root:|import ", answer.body)


# --- loopback trusted: rebinding and forgery  3.5.1 3.5.3 4.1.3 ---


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "0x7f.1", "[::2]", "evil.example@127.0.0.1",
     "127.0.0.1/evil", "127.0.0.1?evil", "127.0.0.1#evil", "localhost:80,evil.example", "127.0.0.1:x"],
)  # fmt: skip
def test_an_unknown_host_name_is_refused(target: Target, host: str) -> None:
    stranger = target.stranger()
    for path in ("/", "/login", "/static/app.css", "/nowhere", "/api/v1/status"):
        for header in (host, f"{host}:{target.port}"):
            answer = stranger.send("GET", path, {"Host": header})
            assert (answer.status, answer.headers["content-type"].partition(";")[0]) == (400, "text/plain"), path
    assert stranger.send("GET", "/readyz", {"Host": host}).text == "ok\n"  # for probes, without details


@pytest.mark.parametrize(
    "header",
    [("Origin", "http://evil.example"), ("Origin", "null"), ("Origin", "http://127.0.0.1:1"),
     ("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Site", "same-site")],
)  # fmt: skip
def test_another_site_cannot_write_with_cookies_and_token_of_a_user(target: Target, header: tuple[str, str]) -> None:
    ana = target.person("admin")
    assert ana.post("/submit", {"command": "touch owned-by-another-site", "start": "now"}, dict([header])).status == 403
    assert "owned-by-another-site" not in ana.send("GET", "/jobs").text


def test_a_write_without_csrf_token_or_by_get_changes_nothing(target: Target) -> None:
    job = target.job("--command", "true", "--delay", "9999")
    ana = target.person("admin")
    token, url = ana.token("/account"), f"/job/{job}/cancel"
    assert ana.send("POST", url, fields={}).status == 400
    assert ana.send("POST", url, fields={"csrf_token": target.person("admin").token("/account")}).status == 400
    for header in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"):
        assert ana.send("GET", f"{url}?csrf_token={token}", {header: "POST"}).status == 405
    as_json = {"Content-Type": "application/json"}
    assert ana.send("POST", url, as_json, body=b'{"csrf_token": "' + token.encode() + b'"}').status == 400
    assert ana.send("POST", url, {"Content-Type": "text/plain"}, body=f"csrf_token={token}".encode()).status == 400
    assert "scheduled" in ana.send("GET", f"/job/{job}").text


# --- sessions  6.3.1 7.2 7.3 7.4 ---


def test_sign_in_starts_a_new_session_and_sign_out_ends_it(target: Target) -> None:
    ana, mine = target.person("admin"), target.stranger()
    mine.send("GET", "/login")
    planted = dict(mine.cookies)
    assert mine.log_in(ana.name).status == 303
    for name, value in planted.items():
        assert mine.cookies[name] != value
    thief = target.stranger()
    thief.cookies = dict(mine.cookies)
    mine.post("/logout")
    assert thief.send("GET", "/jobs").status == 303
    assert ana.send("GET", "/jobs").status == 200, "other sessions go on"


@pytest.mark.full
def test_a_new_password_a_lower_role_and_disabling_a_user_end_sessions(target: Target) -> None:
    name = target.add_person("operator")
    for command in (["passwd", name, "--password-stdin"], ["role", name, "viewer"], ["disable", name]):
        person = target.stranger()
        assert person.log_in(name).status == 303
        assert person.send("GET", "/jobs").status == 200
        done = target.run_here("user", *command, stdin=PASSWORD + "\n")
        assert done.code == 0, done.err
        assert person.send("GET", "/jobs").status == 303, command


def test_a_changed_cookie_does_not_sign_in(target: Target) -> None:
    ana = target.person("admin")
    name = f"queuectl_{target.port}"
    good = ana.cookies[name]
    for bad in (good[:-1], good + "x", "", good[::-1], "x" * 5000, "." + good, good.replace(".", "..", 1)):
        ana.cookies[name] = bad
        assert ana.send("GET", "/jobs", keep=False).status in {303, 400}, bad
    ana.cookies[name] = good
    assert ana.send("GET", "/jobs").status == 200


def test_password_guesses_slow_down_and_do_not_reveal_known_names(target: Target) -> None:
    def guesses(name: str) -> list[tuple[int, str]]:
        stranger, found = target.stranger(), []
        for _ in range(12):
            answer = stranger.log_in(name, "wrong wrong wrong")
            found.append((answer.status, re.sub(r'value="[^"]*"|Wait \d+ seconds?', "", answer.text)))
        return found

    known, unknown = guesses(target.add_person("admin")), guesses("nobody-of-this-name")
    assert [status for status, _ in known[:5]] == [422] * 5
    assert 429 in [status for status, _ in known[5:]]
    assert set(known) == set(unknown)


# --- redirects  3.7.2 ---


@pytest.mark.parametrize(
    "target_page",
    ["//evil.example", "/\\evil.example", "https://evil.example", "/\t/evil.example", "\\\\evil.example",
     "///evil.example", "http:evil.example", "javascript:alert(1)", "/\x00/evil.example", "/%0d%0aSet-Cookie:x=1",
     "@evil.example"],
)  # fmt: skip
def test_sign_in_redirects_only_to_this_console(target: Target, viewer_name: str, target_page: str) -> None:
    answer = target.stranger().log_in(viewer_name, next_page=target_page)
    assert answer.status == 303
    location = answer.headers["location"]
    assert re.match(r"/(?![/\\])", location), location
    assert not re.search(r"[\x00-\x20\\]", location)
    assert not any(cookie.startswith("x=") for cookie in answer.cookies)


@pytest.fixture(scope="module")
def viewer_name(target: Target) -> str:
    return target.add_person("viewer")


# --- names and output  1.2.1 1.3 5.4.1 ---


def test_job_output_and_names_are_shown_as_text(target: Target) -> None:
    ids = [target.job("--max-retries", "0", "--command", _that_says(text)) for text in HOSTILE]
    assert target.run("worker", "start", "--drain").code == 0
    ana = target.person("admin")
    for job_id, text in zip(ids, HOSTILE):
        pages = ["/", "/jobs", f"/job/{job_id}", "/dead", f"/jobs?q={quote(text, safe='')}", f"/submit?from={job_id}"]
        for path in pages:
            answer = ana.send("GET", path)
            # An invalid search, such as one with an open quote, is reported on its page.
            assert answer.status == 200 or (answer.status == 422 and path.startswith("/jobs?q=")), path
            for markup in ("<script>alert", "<img src=x", "<svg onload", "<div hx-get=/logout"):
                assert markup not in answer.text, path
            hidden = re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", _without_fields(answer.text))
            assert not hidden, (path, hidden)
            assert str(7654321 * 1234567) not in answer.text
        output = ana.send("GET", f"/job/{job_id}/download?attempt=1")
        assert output.status == 200
        assert text.encode() in output.body, "byte for byte"
        assert output.headers["content-disposition"].startswith("attachment")
        assert output.headers["x-content-type-options"] == "nosniff"
        assert output.headers["content-type"].partition(";")[0] in {"text/plain", "application/octet-stream"}


def _that_says(text: str) -> str:
    """A failing command with the text in itself, in its output and in its last line."""
    quoted = shlex.quote(text)
    return f"printf '%s\\n' {quoted}; printf '%s\\n' {quoted} >&2; exit 1"


def _without_fields(page: str) -> str:
    """A page without the contents of its fields, which keep any typed text."""
    return re.sub(r'<textarea[^>]*>[^<]*</textarea>|\bvalue="[^"]*"', "", page)


def test_input_cannot_forge_headers_or_log_lines(target: Target) -> None:
    ana = target.person("admin")
    answer = ana.send("GET", "/jobs?q=x%0d%0aSet-Cookie:%20evil=1&state=%0d%0aX-Evil:%201")
    assert "x-evil" not in answer.headers
    assert not any(cookie.startswith("evil") for cookie in answer.cookies)
    ana.send("GET", "/nowhere%0d%0a2026-01-01%20forged%20line", {"User-Agent": "x\tforged"})
    ana.send("GET", "/job/%1b%5b31mred")
    assert "\x1b" not in target.errors
    assert not any(line.startswith("2026-01-01 forged") for line in target.errors.splitlines())


# --- headers on every answer  3.4 ---


def test_every_response_has_the_security_headers(target: Target) -> None:
    for client in (target.person("admin"), target.stranger()):
        for method, path in (("GET", "/"), ("GET", "/login"), ("GET", "/nowhere"), ("POST", "/submit"),
                             ("GET", "/static/app.css"), ("GET", "/static/none"), ("GET", "/healthz"), ("PUT", "/jobs"),
                             ("GET", "/api/v1/nowhere"), ("GET", "/" + "a" * 9000), ("get", "/")):  # fmt: skip
            headers = client.send(method, path).headers
            policy = headers["content-security-policy"]
            assert policy.startswith("default-src 'self'"), (method, path)
            assert "unsafe" not in policy
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "same-origin"
            if path != "/static/app.css":
                assert headers["cache-control"] == "no-store", (method, path)


# --- limits  4.3 5.2.1 15.2.2 ---

HALVES = (
    b"",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ",
    b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\nx",
)


@pytest.mark.full
def test_half_open_and_slow_connections_do_not_stop_the_console(target: Target) -> None:
    held = [socket.create_connection(("127.0.0.1", target.port)) for _ in range(40)]
    try:
        for number, one in enumerate(held):
            one.sendall(HALVES[number % len(HALVES)])
        until = time.monotonic() + DEADLINE
        while True:
            try:
                assert target.stranger().send("GET", "/healthz").status == 200
                break
            except OSError:
                assert time.monotonic() < until
    finally:
        for one in held:
            one.close()


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"0\r\n\r\nGET /jobs HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nSCRIPT_NAME: /x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nSCRIPT-NAME: /x\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: " + b"a=b; " * 3000 + b"\r\n\r\n",
        b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
        b"GET /%00 HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
        b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    ],
)
def test_an_invalid_request_is_refused_and_the_console_keeps_running(target: Target, data: bytes) -> None:
    answer = target.stranger().raw(data)
    assert not answer or re.match(rb"HTTP/1\.[01] (200|400|303|404|413|414|431|501|505)\b", answer), answer[:200]
    if answer.startswith(b"HTTP/1.1 200"):
        raise AssertionError(answer[:500])
    assert b"Traceback" not in answer
    assert "Traceback" not in target.errors
    assert target.stranger().send("GET", "/healthz").status == 200


def test_many_fields_and_long_fields_are_refused_in_time(target: Target) -> None:
    ana = target.person("admin")
    many = "&".join(f"f{n}=1" for n in range(50_000))
    body = f"csrf_token={ana.token('/account')}&{many}".encode()
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert ana.send("POST", "/submit", form, body=body).status in {400, 413, 422}
    key = re.search(r'name="form_key" value="([^"]+)"', ana.send("GET", "/submit").text)
    assert key
    assert ana.post("/submit", {"form_key": key[1], "command": "x" * 70_000, "start": "now"}).status == 422
    for path in ("/jobs?q=" + "x" * 4000, "/jobs?before=" + "9" * 400, "/jobs?sort=" + "x" * 100, "/job/" + "x" * 200):
        assert ana.send("GET", path).status in {200, 400, 404, 414, 422}, path


# --- our own secrets  13.3 14.2 16.2.5 ---


def test_our_secrets_are_in_no_process_list_file_page_or_log(target: Target) -> None:
    ana = target.person("admin")
    key = (target.home / "secret.key").read_bytes()
    for path in target.home.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    assert stat.S_IMODE(target.home.stat().st_mode) == 0o700
    lines = " ".join(str(process.info["cmdline"]) for process in psutil.process_iter(["cmdline"]))
    pages = "".join(ana.send("GET", path).text for path in ("/", "/account", "/config", "/workers", "/nowhere"))
    for secret in (PASSWORD, key.hex(), ana.cookies[f"queuectl_{target.port}"]):
        for place in (lines, pages, target.errors):
            assert secret not in place


def test_our_secrets_are_not_in_the_environment_of_a_job(target: Target) -> None:
    job_id = target.job("--command", "env")
    assert target.run("worker", "start", "--drain", QUEUECTL_PUBLIC_URL="http://127.0.0.1:1").code == 0
    names = {line.partition("=")[0] for line in target.run_here("logs", job_id).out.splitlines()}
    ours = {name for name in names if name.startswith("QUEUECTL_")}
    of_claim = {"QUEUECTL_JOB_ID", "QUEUECTL_ATTEMPT", "QUEUECTL_REPORT", "QUEUECTL_TOKEN"}
    assert ours == of_claim | {"QUEUECTL_HOME", "QUEUECTL_DATABASE_URL", "QUEUECTL_VENV"}  # for a nested manage.py


# --- authorization  8.2.2 16.3 ---


def test_refusals_are_in_the_audit_trail(target: Target) -> None:
    job = target.job("--command", "true", "--delay", "9999")
    viewer = target.person("viewer")
    assert viewer.post(f"/job/{job}/cancel").status == 403
    assert viewer.post("/config/lease", {"value": "60"}).status == 403
    refused = [line[1:3] for line in target.trail() if line[3] == "refused" and line[0] == f"person:{viewer.name}"]
    assert refused == [("post", "route:acts.on_one"), ("post", "route:config.change")]


def test_a_forged_request_is_in_the_audit_trail_under_its_user(target: Target) -> None:
    ana = target.person("admin")
    assert ana.post("/submit", {"command": "true"}, {"Sec-Fetch-Site": "cross-site"}).status == 403
    assert ana.send("POST", "/submit", fields={"csrf_token": "made up"}).status == 400
    assert target.stranger().send("POST", "/login", fields={"name": ana.name}).status == 400
    refused = [line[:3] for line in target.trail() if line[3] == "refused" and line[0] == f"person:{ana.name}"]
    assert refused == [(f"person:{ana.name}", "post", "route:submit.create")] * 2


def test_environment_values_are_hidden_from_viewers(target: Target) -> None:
    spec = '{"id": "with-env", "command": "true", "env": {"API_KEY": "hush-hush"}, "delay": 9999}'
    assert target.run_here("enqueue", spec).code == 0
    viewer, operator = target.person("viewer"), target.person("operator")
    for person in (viewer, operator):
        assert "hush-hush" not in person.send("GET", "/job/with-env").text
    assert viewer.post("/job/with-env/env").status == 403
    assert "hush-hush" in operator.post("/job/with-env/env").text


def test_plain_http_for_other_machines_needs_insecure_and_the_error_says_why(target: Target) -> None:
    answer = target.run("web", "--host", "0.0.0.0", "--port", "0")
    assert answer.code == 1
    assert "--insecure" in answer.err
    assert "HTTPS" in answer.err
