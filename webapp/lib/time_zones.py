"""Time zones by name."""

from __future__ import annotations

import re
from zoneinfo import ZoneInfo

from webapp.lib.text import shorten

# They mean another zone on each machine, or count leap seconds.
_NOT_ZONES = re.compile(r"localtime\Z|posixrules\Z|right/", re.IGNORECASE)


def zone_of(name: str) -> ZoneInfo:
    """Raises ValueError for an unknown zone; its message needs the field's name in front."""
    try:
        if _NOT_ZONES.match(name):
            raise KeyError(name)
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # OSError: the name of a folder such as 'Europe'
        message = f"{shorten(ascii(name), 60)} is unknown on this machine; expected a time zone such as Europe/Berlin."
        raise ValueError(message) from None
