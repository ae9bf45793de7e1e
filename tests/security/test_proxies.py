"""Runs the examples for nginx and Caddy in deploy/, with other names, ports and files."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

from tests.commands.conftest import Processes
from tests.deadline import DEADLINE
from tests.faults.rig import free_port
from tests.security.conftest import Attacker, Target
from webapp.config import CHECKOUT

NAME = "queue.example.org"
SITE = "site.conf"


Proxied = tuple[Target, Callable[..., Attacker]]
Change = tuple[str, str]  # in the configuration of the proxy: what to replace, and by what
BOTH = pytest.mark.parametrize("program", ["nginx", pytest.param("caddy", marks=pytest.mark.full)])


@pytest.fixture
def behind(
    processes: Processes, home: Path, tmp_path: Path, certificate: tuple[Path, Path], eventually: Callable[..., Any]
) -> Iterator[Callable[..., Proxied]]:
    """Start a proxy with a console behind it. Return the console, and a function that creates users behind the
    proxy."""
    started: list[subprocess.Popen[bytes]] = []

    def start(program: str, *changes: Change, path: str = "") -> Proxied:
        found = shutil.which(program) or shutil.which(program, path="/usr/sbin")
        if found is None:
            message = f"{program} is not on this machine"
            if os.environ.get("CI"):
                pytest.fail(message)
            pytest.skip(message)
        port = free_port()
        public_url = f"https://{NAME}:{port}{path}"
        console = processes.start(
            "web", "--port", "0", QUEUECTL_PUBLIC_URL=public_url, QUEUECTL_TRUSTED_PROXIES="127.0.0.1"
        )
        assert console.stdout is not None
        console.stdout.readline()
        inner = _listening_port(console.pid, eventually)
        configure = _nginx if program == "nginx" else _caddy
        command, text = configure(found, tmp_path, certificate, port, inner)
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new)
        (tmp_path / SITE).write_text(text)
        started.append(_started(command, tmp_path))

        def visitor(source: str = "127.0.0.2") -> Attacker:
            return Attacker(port, tls=True, host=f"{NAME}:{port}", source=source)

        def answers() -> bool:
            try:
                return visitor().send("GET", f"{path}/healthz").status == 200
            except OSError:
                return False

        eventually(answers)
        return Target(processes, home, inner), visitor

    yield start
    for proxy in started:
        proxy.terminate()
        print(proxy.communicate(timeout=DEADLINE)[0][-3000:])  # noqa: T201  shown where the test failed


@pytest.fixture(params=["nginx", pytest.param("caddy", marks=pytest.mark.full)])
def proxied(request: pytest.FixtureRequest, behind: Callable[..., Proxied]) -> Proxied:
    return behind(request.param)


def _nginx(program: str, folder: Path, certificate: tuple[Path, Path], port: int, inner: int) -> tuple[list[str], str]:
    site = (CHECKOUT / "deploy" / "nginx.conf").read_text()
    for pattern, to in (
        (r"listen (\[::\]:)?443 ssl;", f"listen 127.0.0.1:{port} ssl;"),
        (r"listen (\[::\]:)?80;", f"listen 127.0.0.1:{free_port()};"),
        (r"127\.0\.0\.1:8000", f"127.0.0.1:{inner}"),
        (r"/etc/ssl/queue\.example\.org\.pem", str(certificate[0])),
        (r"/etc/ssl/queue\.example\.org\.key", str(certificate[1])),
    ):
        site, number = re.subn(pattern, to, site)
        assert number, pattern
    site = re.sub(r"(listen [^;]+;\s+)\1", r"\1", site)  # two families have become one
    (folder / "nginx.conf").write_text(
        f"user root; daemon off; pid {folder}/pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;\n"
        f"fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;\n"
        f"include {folder}/{SITE}; }}\n"
    )
    return [program, "-p", str(folder), "-c", str(folder / "nginx.conf")], site


def _caddy(program: str, folder: Path, certificate: tuple[Path, Path], port: int, inner: int) -> tuple[list[str], str]:
    text = (CHECKOUT / "deploy" / "Caddyfile").read_text()
    for old, new in (
        (f"\n{NAME} {{", f"\n{NAME}:{port} {{\n\ttls {certificate[0]} {certificate[1]}\n\tbind 127.0.0.1"),
        ("127.0.0.1:8000", f"127.0.0.1:{inner}"),
    ):
        assert old in text
        text = text.replace(old, new)
    command = [program, "run", "--config", str(folder / SITE), "--adapter", "caddyfile"]
    return command, "{\n\tadmin off\n\tauto_https off\n}\n" + text


def _started(command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={"HOME": str(folder), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )


def _listening_port(pid: int, eventually: Callable[..., Any]) -> int:
    import psutil

    def port() -> int:
        connections = psutil.Process(pid).net_connections()
        return next((one.laddr.port for one in connections if one.status == psutil.CONN_LISTEN), 0)

    return int(eventually(port))


def test_users_log_in_over_https_and_cannot_forge_their_address(
    proxied: Proxied,
) -> None:
    target, visitor = proxied
    target.run("user", "add", "ana", "--role", "admin", "--password-stdin", stdin="a horse, a battery\n")
    ana = visitor()
    page = ana.send("GET", "/login")
    assert page.headers["strict-transport-security"].startswith("max-age=")
    assert page.headers["content-security-policy"].startswith("default-src 'self'")
    assert all(cookie.startswith("__Host-queuectl_") and "Secure" in cookie for cookie in page.cookies)
    assert ana.log_in("ana").status == 303
    assert ana.send("GET", "/jobs").status == 200
    liar = visitor("127.0.0.3")
    fields = {"csrf_token": liar.token(), "name": "ana", "password": "wrong wrong wrong"}
    lies = {"X-Forwarded-For": "6.6.6.6", "X-Real-IP": "6.6.6.6", "Forwarded": "for=6.6.6.6"}
    assert liar.send("POST", "/login", lies, fields=fields).status == 422
    seen = [line[-2:] for line in target.trail() if line[1] == "sign_in"]
    assert seen == [("done", "127.0.0.2"), ("refused", "127.0.0.3")]
    for claim in ({}, {"X-Forwarded-For": "127.0.0.1"}, {"X-Forwarded-For": "127.0.0.1", "Host": "localhost"}):
        assert "queuectl_" not in liar.send("GET", "/metrics", claim).text, "only this machine needs no token"
    assert Attacker(target.port, host="localhost").send("GET", "/metrics").status == 200


@pytest.mark.full
def test_forwarded_headers_without_the_proxy_are_ignored(
    proxied: Proxied,
) -> None:
    target, _ = proxied
    direct = Attacker(target.port, source="127.0.0.9", host=NAME)
    for header in ("X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Prefix", "X-Script-Name", "SCRIPT_NAME"):
        answer = direct.send("GET", "/login", {header: "https://evil.example/x"})
        assert answer.status in (200, 400), header
        assert "evil.example" not in answer.text
        assert "evil.example" not in str(answer.headers)
    fields = {"csrf_token": direct.token(), "name": "ana", "password": "wrong wrong wrong"}
    assert direct.send("POST", "/login", {"X-Forwarded-For": "6.6.6.6"}, fields=fields).status == 422
    assert [line[-1] for line in target.trail()] == ["127.0.0.9"]


@pytest.mark.full
def test_a_body_above_the_limit_and_another_host_name_are_refused(
    proxied: Proxied,
) -> None:
    target, visitor = proxied
    assert visitor().send("POST", "/login", body=b"x" * 1_100_000).status in {413, 502}
    stranger = Attacker(target.port, host="evil.example")
    assert stranger.send("GET", "/login").status == 400


@pytest.mark.full
@pytest.mark.parametrize(  # without its port, or the address of the console
    "passed", ["$host", pytest.param("$proxy_host", marks=pytest.mark.full)]
)
def test_users_can_write_behind_a_proxy_that_changes_the_host(
    behind: Callable[..., Proxied], passed: str, eventually: Callable[..., Any]
) -> None:
    target, visitor = behind("nginx", ("Host $http_host", f"Host {passed}"))
    target.run("user", "add", "ana", "--role", "admin", "--password-stdin", stdin="a horse, a battery\n")
    ana = visitor()
    own, evil = {"Origin": f"https://{ana.host}"}, {"Origin": "https://queue.example.org:1"}
    fields = {"csrf_token": ana.token(), "name": "ana", "password": "a horse, a battery"}
    assert ana.send("POST", "/login", own, fields=fields).status == 303
    assert ana.post("/logout", headers=evil).status == 403
    eventually(lambda: f"refused POST /logout with Origin '{evil['Origin']}'" in target.errors)
    assert (f"the proxy passes the header Host '127.0.0.1:{target.port}'" in target.errors) is (passed != "$host")
    assert ana.post("/logout", headers=own).status == 303


KEEPS = {
    "nginx": ("location / {", "location /queue/ {"),
    "caddy": ("reverse_proxy 127", "redir /queue /queue/\n\treverse_proxy /queue/* 127"),
}
REMOVES = {
    "nginx": ("location / {", "location /queue/ {\n        rewrite ^/queue(/.*)$ $1 break;"),
    "caddy": ("reverse_proxy 127.0.0.1", "uri /queue/* strip_prefix /queue\n\treverse_proxy 127.0.0.1"),
}


@BOTH
@pytest.mark.parametrize(
    "change", [pytest.param(KEEPS, id="keeps"), pytest.param(REMOVES, id="removes", marks=pytest.mark.full)]
)
def test_the_console_works_below_a_path_of_its_host(
    behind: Callable[..., Proxied], program: str, change: dict[str, Change]
) -> None:
    target, visitor = behind(program, change[program], path="/queue")
    target.run("user", "add", "ana", "--role", "admin", "--password-stdin", stdin="a horse, a battery\n")
    ana = visitor()
    origin = {"Origin": f"https://{ana.host}"}
    sent_away = ana.send("GET", "/queue/jobs")
    assert sent_away.headers["location"] == "/queue/login?next=/queue/jobs"
    fields = {"csrf_token": ana.token("/queue/login"), "name": "ana", "password": "a horse, a battery"}
    signed_in = ana.send("POST", "/queue/login", origin, fields={**fields, "next": "/queue/jobs"})
    assert signed_in.headers["location"] == "/queue/jobs"
    assert "/queue/" in visitor().send("GET", "/queue").headers["location"]
    assert all(name.startswith("__Secure-") for name in ana.cookies)
    page = ana.send("GET", "/queue/jobs")
    urls = re.findall(r'(?:href|src)="(/[^"]*)"', page.text)
    assert page.status == 200
    assert {ana.send("GET", url.replace("&amp;", "&")).status for url in set(urls)} == {200}
    target.job("--queue", "mail", "--command", "true")
    paused = ana.send("POST", "/queue/queue/mail/pause", origin, fields={"csrf_token": ana.token("/queue/account")})
    assert paused.headers["location"] == "/queue/queues"
