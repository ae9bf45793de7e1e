"""The addresses of the console, access from other machines, and what its log omits."""

from __future__ import annotations

import logging
import os
import re
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Optional
from urllib.parse import SplitResult, urlsplit
from urllib.request import urlopen

import pytest

from tests.deadline import DEADLINE
from webapp.config import CHECKOUT, Config, ConfigError
from webapp.lib.system import logs
from webapp.server import listener as serving

pytestmark = pytest.mark.every_python


def config(public_url: Optional[str] = None) -> Config:
    return Config(home=Path("/nonexistent"), database_url=None, public_url=public_url)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.1.2.3"])
def test_a_loopback_address_is_not_exposed(host: str) -> None:
    serving.check_exposure(host, config(), insecure=False)


def test_https_in_front_or_insecure_allows_other_machines() -> None:
    serving.check_exposure("0.0.0.0", config("https://queue.example.org"), insecure=False)
    serving.check_exposure("0.0.0.0", config(), insecure=True)
    with pytest.raises(ConfigError):
        serving.check_exposure("0.0.0.0", config("http://queue.example.org"), insecure=False)


def test_a_bound_socket_gives_its_address_and_the_public_url_precedes_it() -> None:
    with serving.bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        assert serving.address_of(listener, config()) == f"http://127.0.0.1:{port}"
        assert serving.address_of(listener, config("https://queue.example.org")) == "https://queue.example.org"
        with pytest.raises(ConfigError, match=f"port {port} of 127.0.0.1 is taken"):
            serving.bind("127.0.0.1", port)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])  # noqa: S104
def test_a_socket_on_all_addresses_shows_one_of_them(host: str) -> None:
    try:
        listener = serving.bind(host, 0)
    except ConfigError:
        pytest.skip("no IPv6")
    with listener:
        url = urlsplit(serving.address_of(listener, config()))
        assert url.hostname is not None
        with socket.create_connection((url.hostname, url.port or 80), timeout=DEADLINE) as client:
            assert client.getpeername()[0] == url.hostname
        assert url.hostname not in ("0.0.0.0", "::")  # noqa: S104


def test_an_ipv4_address_in_ipv6_form_is_shown_as_ipv4() -> None:
    try:
        listener = serving.bind("::ffff:127.0.0.1", 0)
    except ConfigError:
        pytest.skip("no IPv6")
    with listener:
        assert urlsplit(serving.address_of(listener, config())).hostname == "127.0.0.1"


@pytest.mark.parametrize("host", [pytest.param("127.0.0.2", marks=pytest.mark.full), "0.0.0.0"])  # noqa: S104
def test_the_printed_set_up_link_is_served_and_other_addresses_are_not(home: Path, host: str) -> None:
    command = [sys.executable, "-m", "webapp.commands", "web", "--host", host, "--insecure", "--port", "0"]
    console = subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True)
    try:
        assert console.stdout is not None
        link = next(line.strip() for line in console.stdout if "/setup/" in line)
        assert b"Create the first admin account" in urlopen(link, timeout=DEADLINE).read()
        url = urlsplit(link)
        assert _ask(url, "GET /login HTTP/1.0\r\nHost: 10.255.255.9").startswith(b"HTTP/1.0 400 ")
        probe = _ask(url, "GET /readyz HTTP/1.0")
        assert probe.startswith(b"HTTP/1.0 200 ")
        assert probe.endswith(b"\r\n\r\nok\n")
    finally:
        console.terminate()
        console.communicate()


@pytest.mark.full
def test_waitress_provides_the_connection_address_and_passes_on_x_forwarded_for(home: Path) -> None:
    pytest.importorskip("waitress", reason="only Windows has it")
    script = (
        "import sys; from webapp import create_app; from webapp.server import listener, waitress_app;"
        "socket = listener.bind('127.0.0.2', 0); print(socket.getsockname()[1], flush=True);"
        "from webapp.web.request_info import address; app = create_app();"
        "app.after_request(lambda answer: answer.headers.set('X-Seen', address()) or answer);"
        "waitress_app.serve(app, socket, 4)"
    )
    environment = {**os.environ, "QUEUECTL_TRUSTED_PROXIES": "127.0.0.0/8"}
    console = subprocess.Popen(
        [sys.executable, "-c", script], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert console.stdout is not None
        url = urlsplit(f"http://127.0.0.2:{int(console.stdout.readline())}")
        own = _ask(url, f"GET /login HTTP/1.0\r\nHost: {url.netloc}\r\nX-Forwarded-For: 6.6.6.6")
        assert own.startswith(b"HTTP/1.0 200 ")
        assert b"X-Seen: 6.6.6.6\r\n" in own
        assert _ask(url, "GET /login HTTP/1.0\r\nHost: 127.0.0.3").startswith(b"HTTP/1.0 400 ")
        assert _ask(url, "GET /readyz HTTP/1.0").startswith(b"HTTP/1.0 200 ")
    finally:
        console.terminate()
        console.communicate()


def _ask(url: SplitResult, request: str) -> bytes:
    with socket.create_connection((str(url.hostname), url.port or 80), timeout=DEADLINE) as client:
        client.sendall(request.encode() + b"\r\n\r\n")
        return b"".join(iter(lambda: client.recv(65536), b""))


def test_an_invalid_host_is_reported_in_one_line() -> None:
    with pytest.raises(ConfigError, match="there is no host 'no such host'"):
        serving.bind("no such host", 0)


def test_the_log_never_contains_a_set_up_token() -> None:
    record = logging.LogRecord("x", logging.ERROR, "f", 1, "Error handling request %s", ("/setup/s3cr3t-token",), None)
    assert logs.WithoutSecrets().filter(record)
    assert record.getMessage() == "Error handling request /setup/…"


def test_job_data_cannot_forge_log_lines() -> None:
    record = logging.LogRecord(
        "x", logging.INFO, "f", 1, "its folder %s", ("/a\n2026 INFO all is well\x1b]0;t\x07",), None
    )
    assert logs.OneLine("%(message)s").format(record) == r"its folder /a\n2026 INFO all is well\x1b]0;t\x07"


@pytest.mark.parametrize(
    "beginning",
    [
        b"GET / HTTP/1.1\r\nHost: local",
        pytest.param(b"POST /login HTTP/1.1\r\nContent-Length: 9\r\n", marks=pytest.mark.full),
    ],
)
def test_clients_that_stop_in_the_middle_of_a_request_do_not_block_the_console(home: Path, beginning: bytes) -> None:
    script = (
        "import sys; from webapp.server import gunicorn_app; gunicorn_app.REQUEST_SECONDS = 0.5;"
        "from webapp.commands import main; sys.exit(main(['web', '--port', '0']))"
    )
    console = subprocess.Popen([sys.executable, "-c", script], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True)
    try:
        assert console.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:(\d+)", console.stdout.readline())
        assert found is not None
        with ExitStack() as clients:
            for _ in range(serving.THREADS):
                client = clients.enter_context(socket.create_connection(("127.0.0.1", int(found[1]))))
                client.sendall(beginning)
            assert urlopen(f"{found[0]}/healthz", timeout=DEADLINE).read() == b"ok\n"
    finally:
        console.terminate()
        console.communicate()
