"""Times for users: absolute, in the zone of the `tz` cookie or in UTC. `app.js` makes them relative.

The server never writes '3 min ago', because then every refresh of a page would differ.
"""

from __future__ import annotations

import re
from datetime import datetime, timezone, tzinfo
from functools import lru_cache
from typing import Optional
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from flask import has_request_context, request
from markupsafe import Markup

from webapp.lib import clock

ZONE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){0,2}\Z")
COUNTING = ("for", "span")  # modes of a duration that goes on
_KNOWN = "queuectl.zone"  # of the request, in its environ
_WHEN = Markup('<time datetime="{iso}" title="{exact}"{mode}>{text}</time>')


@lru_cache(maxsize=128)
def _zone(name: str) -> tzinfo:
    if not ZONE_NAME.match(name):
        return timezone.utc
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return timezone.utc


def zone() -> tzinfo:
    """The user's time zone from the cookie, else UTC; UTC if the user wants that."""
    if not has_request_context():
        return timezone.utc
    known: Optional[tzinfo] = request.environ.get(_KNOWN)  # a page shows thousands of times
    if known is None:
        wants_utc = request.cookies.get("zone") == "utc"
        known = timezone.utc if wants_utc else _zone(request.cookies.get("tz", "UTC")[:64])
        request.environ[_KNOWN] = known
    return known


def local(micros: int) -> datetime:
    return clock.to_datetime(micros).astimezone(zone())


def exact(micros: int) -> str:
    """'24 Nov 2026, 04:37:12 UTC'"""
    moment = local(micros)
    return f"{moment.day} {moment:%b %Y, %H:%M:%S} {moment.tzname()}"


def brief(micros: int) -> str:
    """'24 Nov 04:37 UTC', with the year if it is another year"""
    moment = local(micros)
    year = "" if moment.year == local(clock.now()).year else f" {moment.year}"
    return f"{moment.day} {moment:%b}{year} {moment:%H:%M} {moment.tzname()}"


def when(micros: Optional[int], mode: str = "ago") -> str:
    """A time element. `mode`, with the text that app.js makes of it:

    `ago` '3 min ago', 'in 5 s'; `due` the same, but 'any moment now' when it is reached; `for` '3 min', still counting,
    for cells; `span` 'for 3 min', for sentences; `exact` stays absolute. Before app.js has run, and without JavaScript,
    the text of `for` and `span` is 'since 29 Nov 06:42 CET', so that a sentence reads right: 'Running since …'.
    """
    if micros is None:
        return Markup('<span class="muted">\N{EN DASH}</span>')
    attribute = Markup("") if mode == "exact" else Markup(' data-when="{}"').format(mode)
    text = exact(micros) if mode == "exact" else f"since {brief(micros)}" if mode in COUNTING else brief(micros)
    return _WHEN.format(iso=iso(micros), exact=exact(micros), mode=attribute, text=text)


def iso(micros: int) -> str:
    return clock.to_datetime(micros).strftime("%Y-%m-%dT%H:%M:%S.") + f"{micros % clock.SECOND // 1000:03d}Z"


def parse_form(text: str) -> str:
    """The value of a datetime-local field as ISO 8601 with the user's time zone. Raises ValueError with its message."""
    return str(clock.to_iso(clock.parse_local(text, zone())))


def zone_name() -> str:
    """'Europe/Berlin' or 'UTC', for forms with a time."""
    return str(zone())
