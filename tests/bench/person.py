"""A user of a real console, over a persistent connection: signs in once and sends the submit form.

Plain sockets and prepared requests, because the client takes CPU time from the server beside it.
"""

from __future__ import annotations

import http.client
import re
import secrets
import socket
import time
from urllib.parse import urlencode

from tests.bench import BenchError

NAME, PASSWORD = "bench", "a horse, a battery"
_TOKEN = re.compile(r'name="csrf_token" value="([^"]+)"')


class Person:
    """A signed-in user. Each `Line` has a connection, so several can send at a time."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._cookies: dict[str, str] = {}
        token = self._token("/login")
        answer, _ = self._ask("POST", "/login", {"csrf_token": token, "name": NAME, "password": PASSWORD})
        if answer.status != 303:
            raise BenchError(f"signing in was answered with {answer.status}.")
        self.token = self._token("/submit")

    @property
    def cookie(self) -> str:
        return "; ".join(f"{name}={value}" for name, value in self._cookies.items())

    def _token(self, path: str) -> str:
        _, body = self._ask("GET", path)
        found = _TOKEN.search(body)
        if found is None:
            raise BenchError(f"{path} has no form.")
        return found[1]

    def _ask(
        self, method: str, path: str, fields: dict[str, str] | None = None
    ) -> tuple[http.client.HTTPResponse, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        headers = {"Cookie": self.cookie} if self._cookies else {}
        if fields is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        connection.request(method, path, urlencode(fields) if fields is not None else None, headers)
        answer = connection.getresponse()
        body = answer.read().decode(errors="replace")
        for cookie in answer.headers.get_all("Set-Cookie", []):
            name, _, value = cookie.partition(";")[0].partition("=")
            self._cookies[name] = value
        connection.close()
        return answer, body


class Line:
    """One connection of a person, kept open as browsers do."""

    def __init__(self, person: Person) -> None:
        self._person = person
        self._socket: socket.socket | None = None

    def submit(self, command: str) -> float:
        """Send the form of one job; milliseconds until 303 is here. Raises BenchError."""
        request = self._request(command)
        began = time.perf_counter()
        status = self._send(request)
        took = (time.perf_counter() - began) * 1000
        if status != b"303":
            raise BenchError(f"a form was answered with {status.decode(errors='replace') or 'nothing'}.")
        return took

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    def _request(self, command: str) -> bytes:
        fields = {"csrf_token": self._person.token, "form_key": secrets.token_urlsafe(18), "start": "now"}
        body = urlencode({**fields, "command": command}).encode()
        head = (
            f"POST /submit HTTP/1.1\r\nHost: 127.0.0.1:{self._person.port}\r\nCookie: {self._person.cookie}\r\n"
            f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def _send(self, request: bytes) -> bytes:
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._person.port), timeout=30)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(request)
        answer = b""
        while b"\r\n\r\n" not in answer:
            more = self._socket.recv(65536)
            if not more:
                break
            answer += more
        head, _, body = answer.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        while length is not None and len(body) < int(length[1]):
            more = self._socket.recv(65536)
            if not more:
                break
            body += more
        if length is None or re.search(rb"(?i)\r\nconnection: close", head):
            self.close()
        return head.split(b" ", 2)[1] if b" " in head else b""
