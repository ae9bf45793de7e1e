"""The address of a mail server: `smtp://user:password@host:587` or `smtps://host:465`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional
from urllib.parse import parse_qsl, unquote, urlsplit

from webapp.lib import ip_addresses

_PORTS = {"smtp": 587, "smtps": 465}


@dataclass(frozen=True)
class SmtpServer:
    """A mail server. `security`: starttls (required), tls (from the first byte), or none."""

    host: str
    port: int
    security: str
    user: Optional[str] = None
    password: str = field(default="", repr=False)


def parse(url: str) -> SmtpServer:
    """Read the address. Raises ValueError; its message never has the URL, which may have a password.

    Without TLS only to this machine, or if `?starttls=no` asks for it.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        options = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
    except ValueError:
        raise ValueError("is not a URL. A password needs %40 for '@', %3A for ':' and %2F for '/'") from None
    if parts.scheme not in _PORTS or not host or parts.path not in ("", "/") or parts.fragment:
        raise ValueError("is not the URL of a mail server")
    if not options.keys() <= {"starttls"} or options.get("starttls", "no") not in ("yes", "no"):
        raise ValueError("has an unknown option. The only one is ?starttls=no")
    if parts.scheme == "smtps":
        security = "tls"
    else:
        wanted = options.get("starttls", "no" if _is_this_machine(host) else "yes")
        security = "starttls" if wanted == "yes" else "none"
    user = unquote(parts.username) if parts.username else None
    return SmtpServer(host, port or _PORTS[parts.scheme], security, user, unquote(parts.password or ""))


def _is_this_machine(host: str) -> bool:
    address = ip_addresses.parse(host)
    return host == "localhost" or (address is not None and address.is_loopback)
