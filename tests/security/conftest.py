"""A real console on its own port, and a client that sends it any bytes."""

from __future__ import annotations

import http.client
import itertools
import re
import socket
import ssl
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import pytest

from tests.commands import conftest as commands
from tests.commands.conftest import Processes, Result
from tests.deadline import DEADLINE
from webapp.core.storage.sqlite import library as sqlite

PASSWORD = "a horse, a battery"
_TOKEN = re.compile(r'name="csrf_token" value="([^"]+)"')


@dataclass(frozen=True)
class Answer:
    """A response. `headers` by lower-case name, the last of each; `cookies` as they were set."""

    status: int
    headers: Mapping[str, str]
    cookies: tuple[str, ...]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode(errors="replace")


class Attacker:
    """A client that sends any header, cookie and body. It keeps cookies only on request."""

    def __init__(self, port: int, *, tls: bool = False, host: Optional[str] = None, source: str = "127.0.0.1") -> None:
        self.port = port
        self.host = host or f"127.0.0.1:{port}"
        self.cookies: dict[str, str] = {}
        self.name = ""
        self._tls = tls
        self._source = source

    def send(
        self,
        method: str,
        path: str,
        headers: Optional[Mapping[str, str]] = None,
        *,
        fields: Optional[Mapping[str, str]] = None,
        body: Optional[bytes] = None,
        keep: bool = True,
    ) -> Answer:
        """Send a request, a form where there are `fields`. `keep`: take the cookies that are set."""
        sent = {"Host": self.host, **(headers or {})}
        if self.cookies:
            sent.setdefault("Cookie", "; ".join(f"{name}={value}" for name, value in self.cookies.items()))
        if fields is not None:
            body = urllib.parse.urlencode(fields).encode()
            sent.setdefault("Content-Type", "application/x-www-form-urlencoded")
        with closing(self._connection()) as connection:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in sent.items():
                connection.putheader(name, value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            response = connection.getresponse()
            cookies = tuple(response.headers.get_all("Set-Cookie") or ())
            found = {name.lower(): value for name, value in response.headers.items()}
            answer = Answer(response.status, found, cookies, response.read())
        if keep:
            for cookie in cookies:
                name, _, value = cookie.partition(";")[0].partition("=")
                self.cookies[name] = value
        return answer

    def raw(self, data: bytes, within: float = DEADLINE) -> bytes:
        """Send bytes that are not a valid request; return the response until the connection ends."""
        with closing(socket.create_connection(("127.0.0.1", self.port), timeout=within)) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            received = b""
            while True:
                part = connection.recv(65536)
                if not part:
                    return received
                received += part

    def token(self, path: str = "/login") -> str:
        found = _TOKEN.search(self.send("GET", path).text)
        assert found, path
        return found[1]

    def log_in(self, name: str, password: str = PASSWORD, next_page: str = "") -> Answer:
        fields = {"csrf_token": self.token(), "name": name, "password": password, "next": next_page}
        return self.send("POST", "/login", fields=fields)

    def post(
        self, path: str, fields: Optional[Mapping[str, str]] = None, headers: Optional[Mapping[str, str]] = None
    ) -> Answer:
        """Send a form as the console's page does, with its CSRF token."""
        return self.send("POST", path, headers, fields={"csrf_token": self.token("/account"), **(fields or {})})

    def _connection(self) -> http.client.HTTPConnection:
        source = (self._source, 0)
        if not self._tls:
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE, source_address=source)
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        name = self.host.partition(":")[0]
        connection = http.client.HTTPSConnection(
            name, self.port, timeout=DEADLINE, source_address=source, context=context
        )
        # The name for the handshake is the proxy's, the address is here.
        connection._create_connection = (  # type: ignore[attr-defined]
            lambda _, *rest: socket.create_connection(("127.0.0.1", self.port), *rest)
        )
        return connection


@dataclass(frozen=True)
class Target:
    """A running console, with its home and port."""

    processes: Processes
    home: Path
    port: int

    def run(self, *argv: str, stdin: str = "", **environment: str) -> Result:
        """Run a command of the product as its owner."""
        return self.processes.run(*argv, stdin=stdin, cwd=None, **{"QUEUECTL_HOME": str(self.home), **environment})

    def run_here(self, *argv: str, stdin: str = "") -> Result:
        """The same without a process, to prepare an attack."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("QUEUECTL_HOME", str(self.home))
            return commands.run_here(*argv, stdin=stdin.encode())

    @property
    def errors(self) -> str:
        """The log of the console."""
        return self.processes.errors

    def stranger(self) -> Attacker:
        """A client from an address that was not used before."""
        number = next(_numbers)
        return Attacker(self.port, source=f"127.1.{number // 250}.{number % 250 + 1}")

    def add_person(self, role: str) -> str:
        """Add a user with a role; return the name."""
        name = f"{role}-{next(_numbers)}"
        made = self.run_here("user", "add", name, "--role", role, "--password-stdin", stdin=PASSWORD + "\n")
        assert made.code == 0, made.err
        return name

    def person(self, role: str) -> Attacker:
        """A client that is signed in as a new user with this role."""
        attacker = self.stranger()
        attacker.name = self.add_person(role)
        assert attacker.log_in(attacker.name).status == 303
        return attacker

    def job(self, *options: str) -> str:
        """Submit a job; return its id."""
        job_id = f"job-{next(_numbers)}"
        made = self.run_here("enqueue", "--id", job_id, *options)
        assert made.code == 0, made.err
        return job_id

    def trail(self) -> list[tuple[str, str, str, str, str]]:
        """Actor, verb, subject, outcome and address of every audit entry, oldest first."""
        with closing(sqlite.connect(f"file:{self.home}/queue.db?mode=ro", uri=True)) as connection:
            return list(connection.execute("SELECT actor, verb, subject, outcome, address FROM audit ORDER BY id"))


_numbers = itertools.count(1)
processes = commands.processes


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """One console for all tests of a module, because no attack may affect the next client."""
    folder = tmp_path_factory.mktemp("target")
    home = folder / "home"
    made = Processes(folder)
    console = made.start("web", "--port", "0", QUEUECTL_HOME=str(home))
    assert console.stdout is not None
    yield Target(made, home, port_in(console.stdout.readline()))
    assert console.poll() is None, "the console has died"
    made.end()


def port_in(line: str) -> int:
    port = urllib.parse.urlsplit(line.split()[-1]).port
    assert port, line
    return port


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A self-signed certificate for queue.example.org, and its key."""
    import subprocess

    made = tmp_path / "queue.pem", tmp_path / "queue.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=queue.example.org",
         "-addext", "subjectAltName=DNS:queue.example.org", "-out", made[0], "-keyout", made[1]],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return made
