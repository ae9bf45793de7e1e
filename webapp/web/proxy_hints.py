"""Explains requests that are refused because of their Host or Origin. Often a proxy in front changes these headers.

Each is also logged, because the administrator cannot see the user's page. Strangers can cause any number of such
requests, so each kind is logged once a minute. What the console expects is only in the log.
"""

from __future__ import annotations

import logging
from typing import cast

from flask import Flask, current_app, request

from webapp.accounts.refusals import Refusals
from webapp.lib.text import plural
from webapp.web.request_info import config, host_header, public_host

log = logging.getLogger(__name__)

REMEDY = "Let the proxy pass the header Host of the browser, with its port (nginx: proxy_set_header Host $http_host)"
SET_PUBLIC_URL = "set QUEUECTL_PUBLIC_URL to the address in the browser"
_KEY = "queuectl_proxy_hints"


def init_app(app: Flask) -> None:
    app.extensions[_KEY] = Refusals()


def unknown_host() -> str:
    """Log a request with a Host that the console does not serve. Return a text for its sender."""
    shown = _shown(host_header())
    remedy = f"expected {public_host()}. {REMEDY}" if public_host() else SET_PUBLIC_URL
    _warn("host", f"refused a request with the header Host {shown}: {remedy}")
    return (
        f"This console does not serve the host name {shown}.\n"
        "Open http://127.0.0.1 or http://localhost with its port, "
        "or set QUEUECTL_PUBLIC_URL to the public address and restart.\n"
        "If it is set, a proxy changes the header Host. The console's log says what it expects.\n"
    )


def foreign_origin() -> str:
    """Log a write with the Origin of another site. Return a text for the user."""
    seen = f"Origin {_shown(request.headers.get('Origin', ''))} and Host {_shown(host_header())}"
    public = config().public_origin
    remedy = f"expected Origin {public}. {REMEDY}" if public else f"they differ. {REMEDY}, or {SET_PUBLIC_URL}"
    _warn("origin", f"refused {request.method} {request.path} with {seen}: {remedy}")
    return (
        f"This request came from another site: its headers are {seen}. Nothing changed. "
        "If it came from a page of this console, the proxy in front changes the header Host: "
        f"let it pass Host with its port, or {SET_PUBLIC_URL}."
    )


def public_origin_with_other_host() -> None:
    """Log that a page of the public URL arrived with another Host. It is served, but less protected."""
    _warn(
        "other host",
        f"the proxy passes the header Host {_shown(host_header())} for the public URL {config().public_url}. "
        f"Cookies get no HTTPS protection, and several consoles on one host share them. {REMEDY}",
    )


def _shown(header: str) -> str:
    return ascii(header[:100])


def _warn(kind: str, text: str) -> None:
    left_out = cast(Refusals, current_app.extensions[_KEY]).admit(kind)
    if left_out is not None:
        more = f" ({plural(left_out, 'more such request')} since the last line)" if left_out else ""
        log.warning("%s%s", text, more)
