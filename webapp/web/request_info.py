"""Under which name and address this console is asked for, and where it may send somebody next."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Optional, cast
from urllib.parse import urlsplit

from flask import current_app, request

from webapp.config import Config, Network

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+?)\.?(?::[0-9]{1,5})?\Z")


def config() -> Config:
    return cast(Config, current_app.extensions["queuectl_config"])


def requested_host() -> str:
    """The name in the Host header, lower case, without its port or brackets; '' where it is no name and port alone:
    a user, a path or a second name in it would come along into redirects."""
    found = _HOST.match(request.environ.get("HTTP_HOST", ""))
    return found[1].strip("[]").lower() if found else ""


def public_host() -> Optional[str]:
    url = config().public_url
    return urlsplit(url).hostname if url else None


def is_public_https() -> bool:
    """True where people come by HTTPS, through a proxy: cookies and headers then say so."""
    url = config().public_url
    return bool(url and url.startswith("https:") and requested_host() == public_host())


def address() -> Optional[str]:
    """The network address of whoever asks: the peer's, or, where that is a proxy which is trusted, the last one in its
    X-Forwarded-For that is no such proxy."""
    trusted, here = config().trusted_proxies, request.remote_addr
    claimed = request.headers.get("X-Forwarded-For", "").split(",")
    while here is not None and claimed and _is_in(here, trusted):
        before = claimed.pop().strip()
        if not _is_address(before):
            break
        here = before
    return here


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_in(text: str, networks: Sequence[Network]) -> bool:
    return _is_address(text) and any(ipaddress.ip_address(text) in network for network in networks)


def requested_origin() -> str:
    """The scheme, name and port that a page of this console has in the asker's browser."""
    scheme = "https" if is_public_https() else request.scheme
    return f"{scheme}://{request.environ.get('HTTP_HOST', '')}"


def site_of(url: Optional[str]) -> str:
    """The name and port in a URL that a header brought, '' where it is none: anybody may send anything there."""
    try:
        return urlsplit(url or "").netloc
    except ValueError:
        return ""


def port() -> int:
    """The port that the browser sees: a cookie is shared by all ports of a host, its name must not be."""
    default = 443 if is_public_https() else 80
    try:
        return urlsplit("//" + request.environ.get("HTTP_HOST", "")).port or default
    except ValueError:
        return default


def local_path(target: Optional[str], default: str) -> str:
    """`target` if it is a path of this console as a browser reads it, else `default`.

    Browsers drop tabs and newlines, take a backslash for a slash, and read `//host` as another host.
    """
    if not target or not re.match(r"/(?![/\\])[^\\\x00-\x20\x7f]*\Z", target):
        return default
    parts = urlsplit(target)
    return default if parts.scheme or parts.netloc else target


def came_from(default: str) -> str:
    """The page whose button was pressed, for a plain form to return to; a page that asked in between names it."""
    if "back" in request.form:
        return local_path(request.form["back"], default)
    if site_of(request.referrer) != request.environ.get("HTTP_HOST"):
        return default
    referrer = urlsplit(request.referrer or "")
    return local_path(referrer.path + ("?" + referrer.query if referrer.query else ""), default)
