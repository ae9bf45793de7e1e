"""The host, origin and client address of a request, and safe redirect targets."""

from __future__ import annotations

import ipaddress
import re
from typing import Optional, cast
from urllib.parse import urlsplit

from flask import current_app, request

from webapp.config import Config

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+?)\.?(?::[0-9]{1,5})?\Z")


def config() -> Config:
    return cast(Config, current_app.extensions["queuectl_config"])


def requested_host() -> str:
    """The host name from the Host header, lower case, without port or brackets. '' if the header has anything else,
    such as a user or a path, which would end up in redirects."""
    found = _HOST.match(request.environ.get("HTTP_HOST", ""))
    return found[1].strip("[]").lower() if found else ""


def public_host() -> Optional[str]:
    url = config().public_url
    return urlsplit(url).hostname if url else None


def is_public_https() -> bool:
    """Whether users come by HTTPS through a proxy."""
    url = config().public_url
    return bool(url and url.startswith("https:") and requested_host() == public_host())


def address() -> Optional[str]:
    """The client's address: the peer, or behind a trusted proxy the last address in X-Forwarded-For that is not a
    trusted proxy."""
    here = request.remote_addr
    for before in reversed(request.headers.get("X-Forwarded-For", "").split(",")):
        if here is None or not _is_trusted_proxy(here) or not _is_address(before.strip()):
            break
        here = before.strip()
    return here


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_trusted_proxy(text: str) -> bool:
    return _is_address(text) and any(ipaddress.ip_address(text) in network for network in config().trusted_proxies)


def requested_origin() -> str:
    """The origin of this console in the user's browser."""
    scheme = "https" if is_public_https() else request.scheme
    return f"{scheme}://{request.environ.get('HTTP_HOST', '')}"


def site_of(url: Optional[str]) -> str:
    """Host and port of a URL from a header; '' if it is invalid."""
    try:
        return urlsplit(url or "").netloc
    except ValueError:
        return ""


def port() -> int:
    """The port that the browser sees. Cookie names contain it, because cookies are shared by all ports of a host."""
    default = 443 if is_public_https() else 80
    try:
        return urlsplit("//" + request.environ.get("HTTP_HOST", "")).port or default
    except ValueError:
        return default


def local_path(target: Optional[str], default: str) -> str:
    """`target` if browsers read it as a path of this console, else `default`.

    Browsers drop tabs and newlines, take a backslash for a slash, and read `//host` as another host.
    """
    if not target or not re.match(r"/(?![/\\])[^\\\x00-\x20\x7f]*\Z", target):
        return default
    parts = urlsplit(target)
    return default if parts.scheme or parts.netloc else target


def came_from(default: str) -> str:
    """The page with the pressed button, to return to. A confirmation page sends it in `back`."""
    if "back" in request.form:
        return local_path(request.form["back"], default)
    if site_of(request.referrer) != request.environ.get("HTTP_HOST"):
        return default
    referrer = urlsplit(request.referrer or "")
    return local_path(referrer.path + ("?" + referrer.query if referrer.query else ""), default)
