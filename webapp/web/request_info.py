"""The host, origin, path and client address of a request, and safe redirect targets."""

from __future__ import annotations

import re
from typing import Optional, cast
from urllib.parse import unquote, urlsplit

from flask import current_app, request

from webapp.config import Config
from webapp.lib import ip_addresses

# In the environ of a request: a function that returns the server's own end of the connection, as `getsockname` does.
CONNECTED_TO = "queuectl.connected_to"
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
# With X-Forwarded-…: what proxies add. In lower case.
PROXY_HEADERS = frozenset({"forwarded", "via", "x-real-ip", "x-client-ip", "true-client-ip", "cf-connecting-ip"})

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+?)\.?(?::[0-9]{1,5})?\Z")


def config() -> Config:
    return cast(Config, current_app.extensions["queuectl_config"])


# --- host and origin -------------------------------------------------------------------------------------------------


def host_header() -> str:
    return cast(str, request.environ.get("HTTP_HOST", ""))


def requested_host() -> str:
    """The name or address from the Host header, without port, as browsers write it. '' if the header has anything else,
    such as a user or a path, which would end up in redirects."""
    found = _HOST.match(host_header())
    name = found[1].lower() if found else ""
    return str(ip_addresses.parse(name) or name)


def public_host() -> Optional[str]:
    url = config().public_url
    return (urlsplit(url).hostname or "") if url else None


def is_known_host() -> bool:
    """Whether the console serves this Host: localhost, the public host, or the address that the connection came to.

    Otherwise another site could point its name to this machine (DNS rebinding). An address in the Host header cannot be
    rebound, because browsers do not look it up.
    """
    host = requested_host()
    return host in LOOPBACK or (bool(host) and host in (public_host(), _connected_address()))


def _connected_address() -> Optional[str]:
    """None if the public URL has HTTPS: then passwords must not come past the proxy."""
    getsockname = request.environ.get(CONNECTED_TO)
    if getsockname is None or (config().public_url or "").startswith("https:"):
        return None
    try:
        address = ip_addresses.parse(getsockname()[0])
    except OSError:  # the client has closed the connection
        return None
    return None if address is None else str(address)


def is_public_host() -> bool:
    return requested_host() == public_host()


def is_public_https() -> bool:
    """Whether users come by HTTPS through a proxy."""
    return (config().public_url or "").startswith("https:") and is_public_host()


def requested_origin() -> str:
    """The origin of this console in the user's browser."""
    public = config().public_origin if is_public_host() else None
    return public or f"{request.scheme}://{host_header()}"


def is_own_url(url: str) -> bool:
    """Whether an Origin or a Referer is of this console: of its public URL, or of the host that was asked.

    The public URL also counts if the proxy passes another Host. A Host without its port would also match the page of
    another port, and a page without HTTPS may be forged, so neither counts for a public URL with HTTPS. Without one,
    the scheme is not compared, because a tunnel may add HTTPS.
    """
    try:
        parts = urlsplit(url)
        exact = parts.scheme == "https" and parts.port is not None
    except ValueError:
        return False
    if f"{parts.scheme}://{parts.netloc}" == config().public_origin:
        return True
    return bool(parts.netloc) and parts.netloc == host_header() and (exact or not is_public_https())


def port() -> int:
    """The port that the browser sees. Cookie names contain it, because cookies are shared by all ports of a host."""
    for url in ("//" + host_header(), requested_origin()):
        try:
            found = urlsplit(url).port
        except ValueError:
            found = None
        if found:
            return found
    return 443 if is_public_https() else 80


# --- client address --------------------------------------------------------------------------------------------------


def address() -> Optional[str]:
    """The client's address: the peer, or behind a trusted proxy the last address in X-Forwarded-For that is not a
    trusted proxy."""
    here = _plain(request.remote_addr)
    for before in reversed(request.headers.get("X-Forwarded-For", "").split(",")):
        if here is None or not _is_trusted_proxy(here) or ip_addresses.parse(before.strip()) is None:
            break
        here = _plain(before.strip())
    return here


def is_from_this_machine() -> bool:
    """Whether a program on this machine asks the console directly, without a proxy.

    A proxy may run here too, for clients from anywhere. So a request with a header of a proxy does not count, whatever
    address it names.
    """
    peer = ip_addresses.parse(request.remote_addr or "")
    if peer is None or not peer.is_loopback or requested_host() not in LOOPBACK:
        return False
    names = {name.lower() for name, _ in request.headers}
    return not any(name.startswith("x-forwarded") or name in PROXY_HEADERS for name in names)


def _plain(text: Optional[str]) -> Optional[str]:
    """An IPv4 address that came to an IPv6 socket is shown and compared as IPv4."""
    return str(ip_addresses.parse(text or "") or text) if text else None


def _is_trusted_proxy(text: str) -> bool:
    parsed = ip_addresses.parse(text)
    return parsed is not None and any(parsed in network for network in config().trusted_proxies)


# --- paths -----------------------------------------------------------------------------------------------------------


def below_root(path: str) -> str:
    """The path in the browser of a path of this application: below the path of the public URL."""
    return request.script_root + path


def requested_path() -> str:
    """The path and query of this request in the browser."""
    return below_root(request.full_path.rstrip("?"))


def cookie_path() -> str:
    """Other applications on the public host do not get our cookies."""
    return request.script_root or "/"


def local_path(target: Optional[str], default: str) -> str:
    """`target` if browsers read it as a path of this console, else `default`.

    Browsers drop tabs and newlines, take a backslash for a slash, read `//host` as another host, and resolve `..`, also
    if it is encoded. Other applications may have other paths of this host.
    """
    if not target or not re.match(r"/(?![/\\])[^\\\x00-\x20\x7f]*\Z", target):
        return default
    parts, root = urlsplit(target), request.script_root
    inside = parts.path == root or parts.path.startswith(root + "/")
    leaves = ".." in map(unquote, parts.path.split("/"))
    return default if parts.scheme or parts.netloc or leaves or not inside else target


def came_from(default: str) -> str:
    """The page with the pressed button, to return to. A confirmation page sends it in `back`."""
    if "back" in request.form:
        return local_path(request.form["back"], default)
    referrer = request.referrer or ""
    if not is_own_url(referrer):
        return default
    parts = urlsplit(referrer)
    return local_path(parts.path + ("?" + parts.query if parts.query else ""), default)
