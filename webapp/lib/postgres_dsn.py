"""PostgreSQL addresses with several hosts: a primary and its standbys.

People write them as for PostgreSQL's own programs, `user@h1:5432,h2:5433/queue`, or as for SQLAlchemy, with `?host=`.
This module converts both to the form that SQLAlchemy takes, IPv6 included, and back for people to read.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, quote, unquote, urlencode

_USER = re.compile(r"(?:[^:/@?]*(?::[^@]*)?@)?")  # as SQLAlchemy parses it
_PLACE = re.compile(r"(?:\[(?P<ipv6>[^\]]+)\]|(?P<host>/[^:]*|[^:/\[\]]+))(?::(?P<port>\d*))?")
_MAX_PORT = 65_535
_WRITABLE = ("target_session_attrs", "read-write")  # the queue cannot work on a standby


def spread(rest: str) -> str:
    """Convert the part of an address after `//`: several hosts become `user@/name?host=h1,h2&port=p1,p2`.

    With several hosts, the one that takes writes is used unless the address says otherwise. Raises ValueError for
    invalid hosts or ports; its message shows no password.
    """
    user, where, name, query = _split(rest)
    if "@" in where:
        raise ValueError("an @ in a user name or password must be written as %40")
    pairs = parse_qsl(query, keep_blank_values=True)
    named = [host for key, value in pairs if key == "host" for host in value.split(",")]
    ports = [port for key, value in pairs if key == "port" for port in value.split(",")]
    if len(named) < 2 and "," not in where:
        return rest
    if named and where:
        raise ValueError("it has hosts both before and after the `?`")
    places = [_place(text) for text in (named or where.split(","))]
    if ports:
        if any(port for _, port in places) or len(ports) not in {1, len(places)}:
            raise ValueError("it needs one port for each host, or one port for all")
        places = [(host, port) for (host, _), port in zip(places, ports * (len(places) // len(ports)))]
    if not all(not port or (port.isdigit() and int(port) <= _MAX_PORT) for _, port in places):
        raise ValueError(f"a port must be a number up to {_MAX_PORT}")
    kept = [(key, value) for key, value in pairs if key not in {"host", "port"}]
    if _WRITABLE[0] not in dict(kept):
        kept.append(_WRITABLE)
    hosts = [("host", ",".join(host for host, _ in places)), ("port", ",".join(port for _, port in places))]
    return f"{user}/{name}?{urlencode([*hosts, *kept], safe=',:/')}"


def together(hosts: str, ports: str) -> str:
    """The hosts and ports of `spread` as people write them: `h1:p1,h2:p2`."""
    pairs = zip(hosts.split(","), ports.split(","))
    return ",".join(_written(host) + (f":{port}" if port else "") for host, port in pairs)


def has_secret(url: str) -> bool:
    """Whether an address contains a password, or might: `user:password@`, `?password=`, `?sslpassword=` …"""
    user, where, _, query = _split(url.partition("://")[2])
    names = [unquote(pair.partition("=")[0]).lower() for pair in query.split("&")]
    return ":" in user or "@" in where or any("password" in name or "secret" in name for name in names)


def _split(rest: str) -> tuple[str, str, str, str]:
    """The user with password and `@`, the hosts, the database's name, the query."""
    match = _USER.match(rest)
    user = match[0] if match else ""
    front, _, query = rest[len(user) :].partition("?")
    where, _, name = front.partition("/")
    return user, where, name, query


def _place(text: str) -> tuple[str, str]:
    """A host without brackets, and its port, which may be empty."""
    match = _PLACE.fullmatch(unquote(text))
    if match is None:
        raise ValueError("each host must be name, name:port or [IPv6]:port")
    return match["ipv6"] or match["host"], match["port"] or ""


def _written(host: str) -> str:
    return f"[{host}]" if ":" in host else quote(host, safe="")
