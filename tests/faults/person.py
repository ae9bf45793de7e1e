"""A user of the console over real HTTP: signs in, sends forms and records the answers."""

from __future__ import annotations

import contextlib
import http.client
import http.cookiejar
import re
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any, Optional

from tests.deadline import DEADLINE

_TOKEN = re.compile(r'name="csrf_token" value="([^"]+)"')
_KEY = re.compile(r'name="form_key" value="([^"]+)"')
NAME, PASSWORD = "ana", "a horse, a battery"


@dataclass(frozen=True)
class Page:
    """A response; status 0 means none."""

    status: int
    body: bytes = b""
    location: str = ""

    @property
    def text(self) -> str:
        return self.body.decode(errors="replace")


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


class Person:
    """A signed-in user. A restart of the console does not end the session."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._opener = urllib.request.build_opener(
            urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()), _Stay
        )

    def get(self, path: str, within: float = DEADLINE) -> Page:
        return self._open(path, None, within)

    def post(self, path: str, fields: dict[str, str], within: float = DEADLINE) -> Page:
        return self._open(path, urllib.parse.urlencode(fields).encode(), within)

    def log_in(self) -> None:
        token = _TOKEN.search(self.get("/login").text)
        assert token, "the log-in page has no form"
        page = self.post("/login", {"csrf_token": token[1], "name": NAME, "password": PASSWORD})
        assert page.status == 303, page.text

    def form(self) -> Optional[dict[str, str]]:
        """The hidden fields of a new submit form; None while the console does not answer."""
        page = self.get("/submit")
        token, key = _TOKEN.search(page.text), _KEY.search(page.text)
        return {"csrf_token": token[1], "form_key": key[1], "start": "now"} if token and key else None

    def _open(self, path: str, data: Optional[bytes], within: float) -> Page:
        try:
            with self._opener.open(self.address + path, data, within) as answer:
                return Page(answer.status, answer.read())
        except urllib.error.HTTPError as error:
            body = b""
            with contextlib.suppress(OSError, http.client.HTTPException):  # incomplete, but its status line counts
                body = error.read()
            return Page(error.code, body, error.headers.get("Location", ""))
        except (OSError, http.client.HTTPException):  # no server, or an incomplete response
            return Page(0)
