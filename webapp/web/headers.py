"""Security and caching headers of every response."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Response, request

from webapp.web.request_info import is_public_https

if TYPE_CHECKING:
    from flask import Flask

POLICY = "default-src 'self'; base-uri 'none'; form-action 'self'; object-src 'none'; frame-ancestors 'none'"
ALWAYS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=()",
    # Not no-referrer: browsers would send `Origin: null`, and plain forms would be refused.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def init_app(app: Flask) -> None:
    app.after_request(add)


def add(response: Response) -> Response:
    for name, value in ALWAYS.items():
        response.headers[name] = value
    if is_public_https():
        response.headers["Strict-Transport-Security"] = "max-age=31536000"
    if request.endpoint != "static" or response.status_code >= 400:  # error pages contain the user name
        response.headers["Cache-Control"] = "no-store"
    return response
