"""The examples for nginx and Caddy in deploy/, run as they stand but for names, ports and files."""

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


@pytest.fixture(params=["nginx", pytest.param("caddy", marks=pytest.mark.full)])
def proxied(
    request: pytest.FixtureRequest,
    processes: Processes,
    home: Path,
    tmp_path: Path,
    certificate: tuple[Path, Path],
    eventually: Callable[..., Any],
) -> Iterator[tuple[Target, Callable[..., Attacker]]]:
    """A console behind a proxy: the console itself, and people who come through the proxy."""
    program = shutil.which(request.param) or shutil.which(request.param, path="/usr/sbin")
    if program is None:
        message = f"{request.param} is not on this machine"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    port = free_port()
    console = processes.start(
        "web", "--port", "0", QUEUECTL_PUBLIC_URL=f"https://{NAME}:{port}", QUEUECTL_TRUSTED_PROXIES="127.0.0.1"
    )
    assert console.stdout is not None
    console.stdout.readline()
    behind = _listening_port(console.pid, eventually)
    start = _nginx if request.param == "nginx" else _caddy
    proxy = start(program, tmp_path, certificate, port, behind)
    target = Target(processes, home, behind)

    def visitor(source: str = "127.0.0.2") -> Attacker:
        return Attacker(port, tls=True, host=f"{NAME}:{port}", source=source)

    def answers() -> bool:
        try:
            return visitor().send("GET", "/healthz").status == 200
        except OSError:
            return False

    try:
        eventually(answers)
        yield target, visitor
    finally:
        proxy.terminate()
        print(proxy.communicate(timeout=DEADLINE)[0][-3000:])  # noqa: T201  shown where the test failed


def _nginx(
    program: str, folder: Path, certificate: tuple[Path, Path], port: int, behind: int
) -> subprocess.Popen[bytes]:
    site = (CHECKOUT / "deploy" / "nginx.conf").read_text()
    for pattern, to in (
        (r"listen (\[::\]:)?443 ssl;", f"listen 127.0.0.1:{port} ssl;"),
        (r"listen (\[::\]:)?80;", f"listen 127.0.0.1:{free_port()};"),
        (r"127\.0\.0\.1:8000", f"127.0.0.1:{behind}"),
        (r"/etc/ssl/queue\.example\.org\.pem", str(certificate[0])),
        (r"/etc/ssl/queue\.example\.org\.key", str(certificate[1])),
    ):
        site, number = re.subn(pattern, to, site)
        assert number, pattern
    site = re.sub(r"(listen [^;]+;\s+)\1", r"\1", site)  # two families have become one
    (folder / "site.conf").write_text(site)
    (folder / "nginx.conf").write_text(
        f"user root; daemon off; pid {folder}/pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;\n"
        f"fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;\n"
        f"include {folder}/site.conf; }}\n"
    )
    return _started([program, "-p", str(folder), "-c", str(folder / "nginx.conf")], folder)


def _caddy(
    program: str, folder: Path, certificate: tuple[Path, Path], port: int, behind: int
) -> subprocess.Popen[bytes]:
    text = (CHECKOUT / "deploy" / "Caddyfile").read_text()
    for old, new in (
        (f"{NAME} {{", f"{NAME}:{port} {{\n\ttls {certificate[0]} {certificate[1]}\n\tbind 127.0.0.1"),
        ("127.0.0.1:8000", f"127.0.0.1:{behind}"),
    ):
        assert old in text
        text = text.replace(old, new)
    file = folder / "Caddyfile"
    file.write_text("{\n\tadmin off\n\tauto_https off\n}\n" + text)
    return _started([program, "run", "--config", str(file), "--adapter", "caddyfile"], folder)


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


def test_behind_a_proxy_people_log_in_over_https_and_nobody_can_lie_about_his_address(
    proxied: tuple[Target, Callable[..., Attacker]],
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


def test_whoever_comes_past_the_proxy_is_believed_nothing(
    proxied: tuple[Target, Callable[..., Attacker]],
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


def test_a_body_beyond_the_limit_and_another_name_are_refused(
    proxied: tuple[Target, Callable[..., Attacker]],
) -> None:
    target, visitor = proxied
    assert visitor().send("POST", "/login", body=b"x" * 1_100_000).status in {413, 502}
    stranger = Attacker(target.port, host="evil.example")
    assert stranger.send("GET", "/login").status == 400
