"""Where the console listens, who may reach it, and what its log leaves out."""

from __future__ import annotations

import logging
import re
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Optional
from urllib.request import urlopen

import pytest

from tests.deadline import DEADLINE
from webapp.config import CHECKOUT, Config, ConfigError
from webapp.lib import logs
from webapp.server import listener as serving

pytestmark = pytest.mark.every_python


def config(public_url: Optional[str] = None) -> Config:
    return Config(home=Path("/nonexistent"), database_url=None, public_url=public_url)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.1.2.3"])
def test_this_machine_is_no_exposure(host: str) -> None:
    serving.check_exposure(host, config(), insecure=False)


def test_https_in_front_or_a_word_allows_other_machines() -> None:
    serving.check_exposure("0.0.0.0", config("https://queue.example.org"), insecure=False)
    serving.check_exposure("0.0.0.0", config(), insecure=True)
    with pytest.raises(ConfigError):
        serving.check_exposure("0.0.0.0", config("http://queue.example.org"), insecure=False)


def test_a_bound_socket_tells_its_address_and_the_public_one_goes_first() -> None:
    with serving.bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        assert serving.address_of(listener, config()) == f"http://127.0.0.1:{port}"
        assert serving.address_of(listener, config("https://queue.example.org")) == "https://queue.example.org"
        with pytest.raises(ConfigError, match=f"port {port} of 127.0.0.1 is taken"):
            serving.bind("127.0.0.1", port)


def test_a_host_that_is_none_is_one_line() -> None:
    with pytest.raises(ConfigError, match="there is no host 'no such host'"):
        serving.bind("no such host", 0)


def test_the_log_never_carries_a_set_up_token() -> None:
    record = logging.LogRecord("x", logging.ERROR, "f", 1, "Error handling request %s", ("/setup/s3cr3t-token",), None)
    assert logs.WithoutSecrets().filter(record)
    assert record.getMessage() == "Error handling request /setup/…"


def test_what_a_job_brought_forges_no_line_in_the_log() -> None:
    record = logging.LogRecord(
        "x", logging.INFO, "f", 1, "its folder %s", ("/a\n2026 INFO all is well\x1b]0;t\x07",), None
    )
    assert logs.OneLine("%(message)s").format(record) == r"its folder /a\n2026 INFO all is well\x1b]0;t\x07"


@pytest.mark.parametrize(
    "beginning", [b"GET / HTTP/1.1\r\nHost: local", b"POST /login HTTP/1.1\r\nContent-Length: 9\r\n"]
)
def test_clients_that_stop_in_the_middle_of_a_request_do_not_hold_the_console(home: Path, beginning: bytes) -> None:
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
